//! The postmaster process: found, started, watched and signalled.
//!
//! A process is identified once, when it is started or found through `postmaster.pid`, and from then on held by a
//! pidfd: signals cannot reach another process that got its number, and its exit is noticed at once, even when it
//! becomes a zombie that nobody reaps.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::layout;
use crate::proc_fs;

/// Polling interval where the kernel has no pidfd.
const FALLBACK_POLL: Duration = Duration::from_millis(100);
/// Upstream's tolerance when a process is recognised by its start time.
const START_TIME_TOLERANCE_S: i64 = 3;

/// `postmaster.pid` (PostgreSQL's `src/include/utils/pidfile.h`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PidFile {
    pub pid: i32,
    /// Seconds since the epoch.
    pub start_time: i64,
    /// TCP port.
    pub port: Option<u16>,
    pub socket_dir: Option<PathBuf>,
    /// The first listen address; empty where the server listens on sockets alone.
    pub listen: Option<String>,
    /// Line 8, from version 10 on.
    pub status: Option<Status>,
}

/// Status in `postmaster.pid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// `starting`: also a hot standby that has not reached consistency.
    Starting,
    /// `stopping`
    Stopping,
    /// `ready`: accepts connections.
    Ready,
    /// `standby`: a standby that will accept none.
    Standby,
}

impl PidFile {
    pub fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("postmaster.pid")
    }

    /// Reads the file; `Ok(None)` when absent or half-written.
    pub fn read(data_dir: &Path) -> Result<Option<PidFile>, String> {
        let path = PidFile::path(data_dir);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(PidFile::parse(&text)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(format!("cannot read {}: {error}", path.display())),
        }
    }

    fn parse(text: &str) -> Option<PidFile> {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        // A negative number is a single-user server.
        let pid: i32 = lines.first()?.parse().ok().filter(|pid| *pid != 0 && *pid != i32::MIN)?;
        Some(PidFile {
            pid: pid.abs(),
            start_time: lines.get(2).and_then(|line| line.parse().ok()).unwrap_or(0),
            port: lines.get(3).and_then(|line| line.parse().ok()),
            listen: lines.get(5).map(|line| (*line).to_owned()),
            socket_dir: lines.get(4).filter(|line| line.starts_with('/')).map(PathBuf::from),
            status: match lines.get(7).copied() {
                Some("starting") => Some(Status::Starting),
                Some("stopping") => Some(Status::Stopping),
                Some("ready") => Some(Status::Ready),
                Some("standby") => Some(Status::Standby),
                _ => None,
            },
        })
    }

    /// Whether the process with this number is the server of this directory. Where another user's process cannot be
    /// looked into, its start time decides.
    fn is_postmaster(&self, data_dir: &Path) -> bool {
        if !proc_fs::is_alive(self.pid) {
            return false;
        }
        proc_fs::works_in(self.pid, data_dir).unwrap_or_else(|| {
            let started = proc_fs::start_time(self.pid);
            started.is_some_and(|started| started.abs_diff(self.start_time).cast_signed() <= START_TIME_TOLERANCE_S)
        })
    }
}

/// A postmaster that is or was watched.
#[derive(Clone)]
pub(crate) struct Tracked {
    pub pid: i32,
    pidfd: Option<Arc<OwnedFd>>,
    exited: watch::Receiver<bool>,
}

impl Tracked {
    pub fn has_exited(&self) -> bool {
        *self.exited.borrow() || !proc_fs::is_alive(self.pid)
    }

    /// Returns when the process is gone.
    pub async fn exit(&self) {
        let mut exited = self.exited.clone();
        // A closed channel means that the watcher ended, which it does only at the exit.
        let _ = exited.wait_for(|exited| *exited).await;
    }

    /// Sends a signal; to a process that is gone it does nothing.
    pub fn signal(&self, signal: Signal) {
        let sent = match (&self.pidfd, Pid::from_raw(self.pid)) {
            (Some(pidfd), _) => pidfd_send_signal(pidfd, signal),
            (None, Some(pid)) => kill_process(pid, signal),
            (None, None) => Ok(()),
        };
        if let Err(error) = sent.or_else(|error| if error == rustix::io::Errno::SRCH { Ok(()) } else { Err(error) }) {
            tracing::warn!("cannot send {signal:?} to postmaster {}: {error}", self.pid);
        }
    }
}

/// What is known of the process.
pub(crate) enum Found {
    /// Cannot be determined; why.
    Unknown(String),
    /// No process.
    Absent,
    /// This one, and what its file says.
    Alive(Tracked, Option<PidFile>),
}

/// Finds and watches the postmaster of one data directory.
pub(crate) struct Supervisor {
    data_dir: PathBuf,
    current: Mutex<Option<Tracked>>,
    events: Arc<watch::Sender<u64>>,
}

impl Supervisor {
    pub fn new(data_dir: &Path) -> Supervisor {
        Supervisor { data_dir: data_dir.to_owned(), current: Mutex::new(None), events: Arc::new(watch::Sender::new(0)) }
    }

    /// Counts exits, starts and other changes somebody should look at.
    pub fn events(&self) -> watch::Receiver<u64> {
        self.events.subscribe()
    }

    /// Says that something changed.
    pub fn notify(&self) {
        self.events.send_modify(|count| *count += 1);
    }

    /// Looks for the postmaster; one that was started by somebody else is watched from now on.
    pub fn find(&self) -> Found {
        let file = match PidFile::read(&self.data_dir) {
            Ok(file) => file,
            Err(error) => return self.tracked().map_or(Found::Unknown(error), |known| Found::Alive(known, None)),
        };
        if let Some(known) = self.tracked() {
            let own = file.filter(|file| file.pid == known.pid);
            return Found::Alive(known, own);
        }
        match file {
            Some(file) if file.is_postmaster(&self.data_dir) => {
                let tracked = self.track(file.pid, None);
                Found::Alive(tracked, Some(file))
            }
            _ => Found::Absent,
        }
    }

    /// The watched process, while it lives; does not touch the disk, which may hang.
    pub fn tracked(&self) -> Option<Tracked> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().filter(|tracked| !tracked.has_exited()).cloned()
    }

    /// Starts a postmaster. Its output goes where the agent's goes, unless it collects its own log.
    pub fn spawn(&self, mut command: Command) -> Result<Tracked, String> {
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
        let child = command.spawn().map_err(|error| format!("cannot run {program}: {error}"))?;
        let pid = child.id().ok_or_else(|| format!("{program} ended at once"))?;
        Ok(self.track(pid.cast_signed(), Some(child)))
    }

    fn track(&self, pid: i32, child: Option<Child>) -> Tracked {
        let pidfd = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::NONBLOCK).ok()).map(Arc::new);
        let (sender, exited) = watch::channel(false);
        let tracked = Tracked { pid, pidfd: pidfd.clone(), exited };
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(tracked.clone());
        self.notify();
        let events = Arc::clone(&self.events);
        tokio::spawn(async move {
            match child {
                // Waiting also reaps it.
                Some(mut child) => drop(child.wait().await),
                None => until_exit(pid, pidfd).await,
            }
            sender.send_replace(true);
            tracing::debug!("postmaster {pid} has ended");
            events.send_modify(|count| *count += 1);
        });
        tracked
    }

    /// Makes way for a start. PostgreSQL takes a `postmaster.pid` for valid while *some* process has its number, even
    /// a zombie or a stranger; such a file is removed. Server processes that outlived their postmaster are killed:
    /// they could still write.
    pub async fn clear_remains(&self) -> Result<(), String> {
        if let Found::Alive(tracked, _) = self.find() {
            return Err(format!("PostgreSQL runs already on {} (process {})", self.data_dir.display(), tracked.pid));
        }
        self.kill_servers().await?;
        if let Some(file) = PidFile::read(&self.data_dir)?
            && proc_fs::state(file.pid).is_some()
        {
            tracing::info!("removing a stale postmaster.pid: process {} is not this server", file.pid);
            layout::remove_file(&PidFile::path(&self.data_dir))?;
        }
        Ok(())
    }

    /// Kills every server process that works in the data directory, and waits until they are gone.
    pub async fn kill_servers(&self) -> Result<(), String> {
        self.kill_all(proc_fs::servers_in).await
    }

    /// Kills every program that an agent set to work on the data directory, and waits until they are gone.
    pub async fn end_programs(&self) -> Result<(), String> {
        self.kill_all(proc_fs::programs_on).await
    }

    async fn kill_all(&self, find: fn(&Path) -> Vec<i32>) -> Result<(), String> {
        const GONE_MAX: Duration = Duration::from_secs(10);
        let deadline = tokio::time::Instant::now() + GONE_MAX;
        loop {
            let left = find(&self.data_dir);
            if left.is_empty() {
                return Ok(());
            }
            if tokio::time::Instant::now() > deadline {
                return Err(format!(
                    "processes {left:?} at work on {} were killed and have not ended within {} seconds",
                    self.data_dir.display(),
                    GONE_MAX.as_secs()
                ));
            }
            for pid in left.into_iter().filter_map(Pid::from_raw) {
                // It may have ended meanwhile.
                let _ = kill_process(pid, Signal::KILL);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn until_exit(pid: i32, pidfd: Option<Arc<OwnedFd>>) {
    // The replacement is `unsafe` because a type's `as_raw_fd` may lie or close early; an owned descriptor does neither.
    #[allow(deprecated)]
    let readable = pidfd.and_then(|fd| AsyncFd::with_interest(fd, Interest::READABLE).ok());
    if let Some(fd) = readable
        && fd.readable().await.is_ok()
    {
        return;
    }
    while proc_fs::is_alive(pid) {
        tokio::time::sleep(FALLBACK_POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_file_lines() {
        let text = "4711\n/data\n1700000000\n5433\n/run/postgresql\n127.0.0.1\n  5433001     65537\nready   \n";
        let file = PidFile::parse(text).expect("complete");
        assert_eq!((file.pid, file.start_time, file.status), (4711, 1_700_000_000, Some(Status::Ready)));
        assert_eq!(file.socket_dir, Some(PathBuf::from("/run/postgresql")));
        assert_eq!((file.port, file.listen.as_deref()), (Some(5433), Some("127.0.0.1")));
        assert_eq!(PidFile::parse("4711\n").and_then(|file| file.status), None);
        for text in ["", "x\n", "0\n", "99999999999\n", "-2147483648"] {
            assert_eq!(PidFile::parse(text), None, "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_pid_file_of_a_zombie_or_a_stranger_does_not_count_and_is_removed() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let supervisor = Supervisor::new(dir.path());
        let mut zombie = std::process::Command::new("true").spawn().expect("true");
        for pid in [zombie.id(), std::process::id()] {
            let deadline = std::time::Instant::now() + Duration::from_secs(10);
            while pid == zombie.id() && proc_fs::state(zombie.id().cast_signed()) != Some('Z') {
                assert!(std::time::Instant::now() < deadline, "never became a zombie");
                tokio::task::yield_now().await;
            }
            fs::write(PidFile::path(dir.path()), format!("{pid}\n{}\n1\n", dir.path().display())).expect("write");
            assert!(matches!(supervisor.find(), Found::Absent));
            supervisor.clear_remains().await.expect("cleared");
            assert!(!PidFile::path(dir.path()).exists());
        }
        zombie.wait().expect("reap");
    }
}
