//! What `/proc` says about processes. Everything here is a look that may be stale a moment later.

use std::fs;
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
    let canonical = fs::canonicalize(data_dir).ok()?;
    Some(postgres && cwd == canonical)
}

/// All server processes that work in `data_dir`: postmaster, backends, and what a killed postmaster left behind.
pub(crate) fn servers_in(data_dir: &Path) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| is_alive(*pid) && works_in(*pid, data_dir) == Some(true))
        .collect()
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
