//! What `/proc` says about processes. Everything here is a look that may be stale a moment later.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A process that runs; a zombie does not.
pub(crate) fn is_alive(pid: i32) -> bool {
    !matches!(state(pid), None | Some('Z' | 'X'))
}

/// The state letter of a process; `None` when there is none.
pub(crate) fn state(pid: i32) -> Option<char> {
    stat_fields(pid)?.first()?.chars().next()
}

/// Fields of `/proc/<pid>/stat` from the third (state) on; the second, the name, may hold anything.
fn stat_fields(pid: i32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// When a process started, in seconds since the epoch.
pub(crate) fn start_time(pid: i32) -> Option<i64> {
    // Field 22 of stat, in the 1/100 seconds that Linux fixed as USER_HZ on every architecture we run on.
    const TICKS_PER_SECOND: i64 = 100;
    let ticks: i64 = stat_fields(pid)?.get(19)?.parse().ok()?;
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let boot: i64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot + ticks / TICKS_PER_SECOND)
}

/// Whether the process is a PostgreSQL server process that works in `data_dir`; `None` when that cannot be seen.
pub(crate) fn works_in(pid: i32, data_dir: &Path) -> Option<bool> {
    let cwd = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    // An upgraded binary shows as "postgres (deleted)".
    let name = exe.file_name()?.to_string_lossy().into_owned();
    let postgres = name.starts_with("postgres") || name.starts_with("postmaster");
    if !postgres || cwd == data_dir {
        return Some(postgres);
    }
    // Only now: it asks the disk, which may hang when it matters most that servers can be killed.
    Some(cwd == fs::canonicalize(data_dir).ok()?)
}

/// Environment variable that names the data directory a program works on.
pub(crate) const WORKS_ON: &str = "PATRONI_WORKS_ON";

/// Programs, with all they have started, that an agent set to work on `data_dir`.
pub(crate) fn programs_on(data_dir: &Path) -> Vec<i32> {
    let wanted = [WORKS_ON.as_bytes(), b"=", data_dir.as_os_str().as_bytes()].concat();
    let carries = |pid: &i32| {
        // Another user's process cannot be read, and is none of ours.
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted)
    };
    processes().filter(|pid| is_alive(*pid) && carries(pid)).collect()
}

fn processes() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// All server processes that work in `data_dir`: postmaster, backends, and what a killed postmaster left behind.
pub(crate) fn servers_in(data_dir: &Path) -> Vec<i32> {
    processes().filter(|pid| is_alive(*pid) && works_in(*pid, data_dir) == Some(true)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_started_in_the_past() {
        let pid = std::process::id().cast_signed();
        let now = jiff::Timestamp::now().as_second();
        assert!(is_alive(pid));
        assert!(start_time(pid).is_some_and(|start| start <= now + 1 && start > now - 86_400));
        assert_eq!(works_in(pid, Path::new("/")), Some(false));
    }

    #[test]
    fn programs_are_found_by_the_directory_they_work_on() {
        let dir = Path::new("/nonexistent/of this test");
        let mut child = std::process::Command::new("sleep").arg("60").env(WORKS_ON, dir).spawn().expect("sleep");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while programs_on(dir) != [child.id().cast_signed()] {
            assert!(std::time::Instant::now() < deadline, "{:?}", programs_on(dir));
            std::thread::yield_now();
        }
        assert!(programs_on(Path::new("/nonexistent/of")).is_empty());
        child.kill().and_then(|()| child.wait()).expect("killed");
    }

    #[test]
    fn a_zombie_is_not_alive() {
        let mut child = std::process::Command::new("true").spawn().expect("true");
        let pid = child.id().cast_signed();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while state(pid) != Some('Z') {
            assert!(std::time::Instant::now() < deadline, "never became a zombie");
            std::thread::yield_now();
        }
        assert!(!is_alive(pid));
        child.wait().expect("reap");
        assert_eq!(state(pid), None);
    }
}
