//! The first blow: the postmaster and its children are stopped before anything else is looked at. A machine that swaps
//! or is out of memory may take long to give the sweep ([`super::kill::sweep`]) what it needs; until then nothing writes.
//!
//! **Invariant**: nothing here allocates memory; `tests/strike.rs` counts.

use std::ffi::CStr;
use std::io::{Cursor, Write};
use std::mem::MaybeUninit;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, RawDir, SeekFrom};
use rustix::process::{Pid, Signal};

use super::kill::Known;

/// Room for the entries of `/proc` that are read at a time.
const ENTRIES_BYTES: usize = 8192;

/// A line of `/proc/PID/stat`: fifty numbers and a name of sixteen bytes.
const STAT_BYTES: usize = 1024;

/// What is opened beforehand.
pub struct Strike {
    proc: Option<OwnedFd>,
}

impl Strike {
    /// Opens `/proc`. Without it only the postmaster itself can be stopped.
    pub fn prepare() -> Strike {
        Strike {
            proc: rustix::fs::open("/proc", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok(),
        }
    }

    /// Stops the postmaster, which forks no more, and its children.
    pub fn stop(&self, postmaster: &Known) {
        // Without a descriptor the number alone does not say who has it, and finding out takes memory.
        if !postmaster.signal_without_allocating(Signal::STOP) {
            return;
        }
        let Some(proc) = self.proc.as_ref().map(AsFd::as_fd) else {
            return;
        };
        if rustix::fs::seek(proc, SeekFrom::Start(0)).is_err() {
            return;
        }
        let mut room = [MaybeUninit::<u8>::uninit(); ENTRIES_BYTES];
        let mut entries = RawDir::new(proc, &mut room);
        while let Some(Ok(entry)) = entries.next() {
            let pid = entry.file_name().to_str().ok().and_then(|name| name.parse().ok());
            if let Some(pid) = pid.filter(|pid| parent_of(proc, *pid) == Some(postmaster.id.pid))
                && let Some(pid) = Pid::from_raw(pid)
            {
                // Its parent is stopped and reaps nobody: the number cannot have changed hands.
                let _ = rustix::process::kill_process(pid, Signal::STOP);
            }
        }
    }
}

fn parent_of(proc: BorrowedFd<'_>, pid: i32) -> Option<i32> {
    let mut path = [0; 32];
    write!(Cursor::new(&mut path[..]), "{pid}/stat").ok()?;
    let path = CStr::from_bytes_until_nul(&path).ok()?;
    let file = rustix::fs::openat(proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut line = [0; STAT_BYTES];
    let count = rustix::io::read(&file, &mut line).ok()?;
    // A name may hold any bytes; what follows it is ASCII.
    let after_name = line[..count].iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(line.get(after_name..count)?).ok()?;
    rest.split_ascii_whitespace().nth(2)?.parse().ok()
}
