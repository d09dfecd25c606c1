//! Ending PostgreSQL for certain: nothing that belongs to the data directory may be left to write.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::proc::{self, ProcId, Stat};

/// A sweep ends when it finds nothing new; a fork storm that outruns this many passes ends when its parent dies.
const PASSES_MAX: usize = 20;

/// How long the pid file may take to be read: it may be on a disk that hangs.
const PID_FILE_WAIT: Duration = Duration::from_millis(100);

/// The postmaster as known when the deadline was set. The descriptor keeps its identity without any file.
pub struct Known {
    /// Which process.
    pub id: ProcId,
    descriptor: Option<OwnedFd>,
}

impl Known {
    /// Opens the process; `None` when it is not alive.
    pub fn open(id: ProcId) -> Option<Known> {
        let pid = Pid::from_raw(id.pid)?;
        let descriptor = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok();
        id.alive().map(|_| Known { id, descriptor })
    }

    fn signal(&self, signal: Signal) {
        if !self.signal_without_allocating(signal) {
            self.id.signal(signal);
        }
    }

    /// Sends `signal`, where the kernel knows the process by a descriptor; says whether it does.
    pub fn signal_without_allocating(&self, signal: Signal) -> bool {
        if let Some(descriptor) = &self.descriptor {
            // Failure means that it is gone.
            let _ = rustix::process::pidfd_send_signal(descriptor, signal);
        }
        self.descriptor.is_some()
    }
}

/// What a sweep killed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Killed {
    /// Servers: normally one.
    pub postmasters: BTreeSet<ProcId>,
    /// Their descendants, and what was left of earlier servers.
    pub others: BTreeSet<ProcId>,
}

impl Killed {
    /// Every process, in no particular order.
    pub fn all(&self) -> impl Iterator<Item = ProcId> + '_ {
        self.postmasters.iter().chain(&self.others).copied()
    }

    fn contains(&self, id: &ProcId) -> bool {
        self.postmasters.contains(id) || self.others.contains(id)
    }
}

/// The postmaster that works in `data_dir` (canonical), found without touching its disk: PostgreSQL's processes have the data
/// directory as working directory, and the postmaster is the one whose parent is none of them.
pub fn find_postmaster(data_dir: &Path) -> Option<ProcId> {
    let table = proc::all();
    let servers = working_in(data_dir, &table);
    roots(&table, &servers).into_iter().next()
}

/// Kills everything that belongs to `data_dir`: stops the postmaster so that it cannot fork, kills its descendants,
/// then itself; repeats until nothing new is found. Returns what was killed; it may take a moment to die.
pub fn sweep(data_dir: &Path, known: Option<&Known>) -> Killed {
    let pid_file = read_pid_file(data_dir.to_owned());
    let mut extra: BTreeSet<ProcId> = BTreeSet::new();
    if let Some(known) = known {
        known.signal(Signal::STOP);
        extra.insert(known.id);
    }
    let mut killed = pass_until_quiet(data_dir, &extra);
    if let Ok(Some(id)) = pid_file.recv_timeout(PID_FILE_WAIT)
        && extra.insert(id)
    {
        let late = pass_until_quiet(data_dir, &extra);
        killed.postmasters.extend(late.postmasters);
        killed.others.extend(late.others);
    }
    if let Some(known) = known {
        known.signal(Signal::KILL);
    }
    killed
}

/// Passes over the process table until one finds nothing new after the postmasters were killed.
fn pass_until_quiet(data_dir: &Path, extra: &BTreeSet<ProcId>) -> Killed {
    let mut killed = Killed::default();
    let mut roots_killed = false;
    for _ in 0..PASSES_MAX {
        let (mut roots, mut below) = look(data_dir, extra);
        roots.retain(|id| !killed.contains(id));
        below.retain(|id| !killed.contains(id));
        roots.iter().for_each(|id| id.signal(Signal::STOP));
        below.iter().for_each(|id| id.signal(Signal::KILL));
        // A stopped postmaster forks no more, but a fork that was under way shows only in the next pass.
        let quiet = roots.is_empty() && below.is_empty();
        killed.postmasters.extend(roots);
        killed.others.extend(below);
        if quiet {
            killed.postmasters.iter().for_each(|id| id.signal(Signal::KILL));
            if roots_killed {
                return killed;
            }
        }
        roots_killed = quiet;
    }
    killed.postmasters.iter().for_each(|id| id.signal(Signal::KILL));
    killed
}

/// Live processes that belong to the data directory: postmasters, and everything below them.
fn look(data_dir: &Path, extra: &BTreeSet<ProcId>) -> (BTreeSet<ProcId>, BTreeSet<ProcId>) {
    let table = proc::all();
    let mut servers = working_in(data_dir, &table);
    servers.extend(table.iter().filter(|stat| extra.contains(&stat.id) && stat.is_alive()).map(|stat| stat.id));
    let roots = roots(&table, &servers);
    let pids = servers.iter().map(|id| id.pid).collect();
    let descendants = proc::descendants(&table, &pids).into_iter().filter(Stat::is_alive).map(|stat| stat.id);
    let me = std::process::id() as i32;
    let below =
        descendants.chain(servers.difference(&roots).copied()).filter(|id| id.pid > 1 && id.pid != me).collect();
    (roots, below)
}

/// Live PostgreSQL processes whose working directory is `data_dir`.
fn working_in(data_dir: &Path, table: &[Stat]) -> BTreeSet<ProcId> {
    let here = |stat: &&Stat| {
        stat.is_alive() && proc::cwd(stat.id.pid).is_some_and(|cwd| cwd == data_dir) && proc::is_postgres(stat.id.pid)
    };
    table.iter().filter(here).map(|stat| stat.id).collect()
}

/// Those of `servers` whose parent is none of them.
fn roots(table: &[Stat], servers: &BTreeSet<ProcId>) -> BTreeSet<ProcId> {
    let pids: BTreeSet<i32> = servers.iter().map(|id| id.pid).collect();
    let is_root = |stat: &&Stat| servers.contains(&stat.id) && !pids.contains(&stat.parent);
    table.iter().filter(is_root).map(|stat| stat.id).collect()
}

/// Looks up `postmaster.pid` in a thread of its own: it finds a server that sees its data directory under another
/// path, and must not stand in the way when the disk hangs.
fn read_pid_file(data_dir: PathBuf) -> Receiver<Option<ProcId>> {
    let (sender, receiver) = sync_channel(1);
    let read = move || {
        let _ = sender.send(pid_file_process(&data_dir));
    };
    // Without a thread there is no answer: the caller's wait ends at once.
    let _ = std::thread::Builder::new().name("pid-file".to_owned()).stack_size(128 * 1024).spawn(read);
    receiver
}

/// The server that `postmaster.pid` names, if it is a PostgreSQL whose working directory is the data directory itself
/// (same device and inode), whatever its path is called. A stale file names a pid that fails this.
fn pid_file_process(data_dir: &Path) -> Option<ProcId> {
    use std::os::unix::fs::MetadataExt;
    let text = std::fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
    let id = ProcId::of(text.lines().next()?.trim().parse().ok()?)?;
    let wanted = std::fs::metadata(data_dir).ok()?;
    let actual = std::fs::metadata(format!("/proc/{}/cwd", id.pid)).ok()?;
    let same = (wanted.dev(), wanted.ino()) == (actual.dev(), actual.ino());
    (same && proc::is_postgres(id.pid) && id.alive().is_some()).then_some(id)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    use std::time::Instant;

    use super::*;

    /// What a hung disk or a renamed data directory comes to: no file, and no working directory, tells where the server is.
    #[test]
    fn a_known_postmaster_is_killed_with_its_children_without_the_data_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut bystander = Command::new("sleep").arg("600").current_dir(dir.path()).spawn().expect("sleep");
        let script = "sleep 600 & echo $!; wait";
        let mut server = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().expect("sh");
        let mut line = String::new();
        BufReader::new(server.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let child = ProcId::of(line.trim().parse().expect("a pid")).expect("a child");
        let postmaster = ProcId::of(server.id() as i32).expect("a server");

        let known = Known::open(postmaster).expect("a live process");
        let killed = sweep(&dir.path().join("gone"), Some(&known));
        assert_eq!(killed, Killed { postmasters: [postmaster].into(), others: [child].into() });
        let deadline = Instant::now() + Duration::from_secs(10);
        while killed.all().any(|id| id.alive().is_some()) {
            assert!(Instant::now() < deadline, "still alive");
            std::thread::yield_now();
        }
        assert!(!server.wait().expect("reap").success());
        assert!(Known::open(postmaster).is_none());

        // Not PostgreSQL, though it works in the data directory.
        assert_eq!(sweep(dir.path(), None), Killed::default());
        assert!(bystander.try_wait().expect("a child").is_none());
        bystander.kill().and_then(|()| bystander.wait()).expect("reap");
    }
}
