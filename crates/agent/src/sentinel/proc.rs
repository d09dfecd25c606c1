//! Processes as `/proc` shows them. Nothing here touches the disk of a data directory: reading `/proc/PID/cwd` and
//! `/proc/PID/exe` names a directory entry that the kernel keeps in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use rustix::process::{Pid, PidfdFlags, Signal};

/// One process, not merely one number: a reused pid has another start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProcId {
    /// Process id.
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`: clock ticks between boot and the start of the process.
    pub start_ticks: u64,
}

/// What `/proc/PID/stat` says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Which process.
    pub id: ProcId,
    /// Its parent's pid.
    pub parent: i32,
    /// State letter: `R`, `S`, `D` (uninterruptible), `T` (stopped), `Z` (zombie), ...
    pub state: u8,
}

impl Stat {
    /// False for zombies: they run no code and hold no files.
    pub fn is_alive(&self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x')
    }
}

impl ProcId {
    /// The process that has this pid now; `None` when there is none, or only a zombie.
    pub fn of(pid: i32) -> Option<ProcId> {
        stat(pid).filter(Stat::is_alive).map(|stat| stat.id)
    }

    /// This very process, as it is now; `None` when it is gone or a zombie.
    pub fn alive(self) -> Option<Stat> {
        stat(self.pid).filter(|stat| stat.id == self && stat.is_alive())
    }

    /// Sends `signal` to this very process; does nothing when it is gone. Failures show as a process that stays alive.
    pub fn signal(self, signal: Signal) {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return;
        };
        // The descriptor is opened before the start time is compared, so that the number cannot change hands between.
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(descriptor) => {
                if self.alive().is_some() {
                    let _ = rustix::process::pidfd_send_signal(descriptor, signal);
                }
            }
            // Old kernels and strict seccomp profiles have no pidfd.
            Err(_) => {
                if self.alive().is_some() {
                    let _ = rustix::process::kill_process(pid, signal);
                }
            }
        }
    }
}

/// Reads `/proc/PID/stat`.
pub fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The second field is the command in parentheses, and may itself contain parentheses and spaces.
fn parse_stat(line: &str) -> Option<Stat> {
    let pid = line.split(' ').next()?.parse().ok()?;
    let mut fields = line.get(line.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let parent = fields.next()?.parse().ok()?;
    let start_ticks = fields.nth(17)?.parse().ok()?;
    Some(Stat { id: ProcId { pid, start_ticks }, parent, state })
}

/// All processes that can be seen.
pub fn all() -> Vec<Stat> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries.filter_map(|entry| stat(entry.ok()?.file_name().to_str()?.parse().ok()?)).collect()
}

/// Children of `roots`, their children, and so on; without the roots themselves.
pub fn descendants(processes: &[Stat], roots: &BTreeSet<i32>) -> Vec<Stat> {
    let mut children: BTreeMap<i32, Vec<Stat>> = BTreeMap::new();
    for stat in processes {
        children.entry(stat.parent).or_default().push(*stat);
    }
    let mut seen = roots.clone();
    let mut queue: Vec<i32> = roots.iter().copied().collect();
    let mut found = Vec::new();
    while let Some(pid) = queue.pop() {
        for child in children.get(&pid).into_iter().flatten() {
            if seen.insert(child.id.pid) {
                found.push(*child);
                queue.push(child.id.pid);
            }
        }
    }
    found
}

/// Working directory, as a path; `None` when it may not be seen.
pub fn cwd(pid: i32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

/// Whether the program's file name says that it is PostgreSQL's server (`postgres`, `edb-postgres`, also when the file
/// was replaced since).
pub fn is_postgres(pid: i32) -> bool {
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    exe.as_deref().and_then(|path| path.file_name()).is_some_and(|name| name.to_string_lossy().contains("postgres"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_may_contain_parentheses_and_spaces() {
        let line = "42 (a) S 7 (b) Z 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 0 0";
        let stat = parse_stat(line).expect("a line");
        assert_eq!(stat.id, ProcId { pid: 42, start_ticks: 987654 });
        assert_eq!((stat.parent, stat.state, stat.is_alive()), (1, b'Z', false));
        for bad in ["", "1", "1 (", "1 (x)", "1 (x) S", "x (x) S 1 2", "1 (x) S 1 2 3"] {
            assert_eq!(parse_stat(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn descendants_are_found_at_any_depth_and_loops_end() {
        let stat = |pid, parent| Stat { id: ProcId { pid, start_ticks: 1 }, parent, state: b'S' };
        let table = [stat(1, 0), stat(2, 1), stat(3, 2), stat(4, 3), stat(5, 1), stat(6, 7), stat(7, 6)];
        let pids = |roots: &[i32]| {
            let found = descendants(&table, &roots.iter().copied().collect());
            found.iter().map(|stat| stat.id.pid).collect::<BTreeSet<_>>()
        };
        assert_eq!(pids(&[2]), BTreeSet::from([3, 4]));
        assert_eq!(pids(&[6]), BTreeSet::from([7]));
        assert_eq!(pids(&[9]), BTreeSet::new());
    }

    #[test]
    fn a_zombie_is_not_alive_and_a_reused_pid_is_another_process() {
        let mut child = std::process::Command::new("true").spawn().expect("spawn true");
        let pid = child.id() as i32;
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while stat(pid).is_some_and(|stat| stat.is_alive()) {
            assert!(std::time::Instant::now() < deadline, "`true` does not end");
            std::thread::yield_now();
        }
        assert_eq!(stat(pid).expect("a zombie").state, b'Z');
        assert_eq!(ProcId::of(pid), None);
        child.wait().expect("reap");
        let me = ProcId::of(std::process::id() as i32).expect("this process");
        assert!(me.alive().is_some());
        assert_eq!(ProcId { start_ticks: me.start_ticks + 1, ..me }.alive(), None);
    }
}
