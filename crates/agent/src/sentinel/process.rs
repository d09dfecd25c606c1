//! What sets the sentinel's process apart: it must keep running when others do not.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::mm::MlockAllFlags;
use rustix::process::Resource;
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM};

/// Leaves the agent's session and working directory, and asks for what helps a process to run on a machine in trouble.
/// All of it is best effort: an unprivileged user may be refused any of it.
///
/// Returns the flag that SIGTERM, SIGINT and SIGHUP set. None of them ends an armed sentinel: a service manager that
/// signals a whole group must not disarm it.
pub fn harden() -> Arc<AtomicBool> {
    let told_to_end = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        let _ = signal_hook::flag::register(signal, told_to_end.clone());
    }
    let _ = rustix::process::setsid();
    // No file system is kept busy by us.
    let _ = std::env::set_current_dir("/");
    let _ = std::fs::write("/proc/self/comm", "pg-sentinel");
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    raise_priority();
    // Only where nothing limits it: a limit that is reached later would make an allocation fail.
    let unlimited = rustix::process::getrlimit(Resource::Memlock).current.is_none();
    if unlimited || rustix::process::geteuid().is_root() {
        let _ = rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE);
    }
    told_to_end
}

/// As high as this user may go: `RLIMIT_NICE` (getrlimit(2)) is 20 less the lowest nice value.
fn raise_priority() {
    let ceiling = rustix::process::getrlimit(Resource::Nice).current.map_or(40, |limit| limit.min(40));
    let lowest = 20 - i32::try_from(ceiling).unwrap_or(0);
    for nice in [-20, lowest] {
        let current = rustix::process::getpriority_process(None).unwrap_or(-20);
        if nice < current && rustix::process::setpriority_process(None, nice).is_ok() {
            return;
        }
    }
}
