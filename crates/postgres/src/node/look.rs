//! Observing: the disk, the process, the server.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use model::pg::{DataDir, PgSnapshot, Postmaster, ServerStatus, Upstream};
use model::{BootTime, Timeline};

use super::{BootstrapPhase, Postgres, Replayed, blocking};
use crate::client::Failure;
use crate::control::{self, ControlFile};
use crate::files;
use crate::guc;
use crate::layout;
use crate::observe::{self, Answer};
use crate::postmaster::{Found, Status};

/// The longest a look at the disk, and one at the server, may take.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// What a look at the disk and the process table found.
struct Disk {
    data_dir: DataDir,
    version: Option<u32>,
    found: Found,
}

impl Postgres {
    /// One look: data directory, process, control file, and what the server says. Each part is bounded to two
    /// seconds; a part that could not be had is unknown, which is not the same as absent.
    pub async fn observe(&self) -> PgSnapshot {
        let taken_at = boot_time();
        let supervisor = Arc::clone(&self.supervisor);
        let dir = self.data_dir.clone();
        let turn = Arc::clone(&self.disk).lock_owned();
        let look = async move {
            let turn = turn.await;
            let look = move || {
                let disk = Disk {
                    data_dir: layout::data_dir_state(&dir),
                    version: layout::major_version(&dir),
                    found: supervisor.find(),
                };
                drop(turn);
                disk
            };
            blocking(look).await
        };
        let disk = match tokio::time::timeout(LOOK_MAX, look).await {
            Ok(Ok(disk)) => disk,
            Ok(Err(error)) => unreadable(error),
            Err(_) => unreadable(format!("looking into {} takes too long", self.data_dir.display())),
        };
        if matches!(disk.data_dir, DataDir::Unreadable(_)) {
            return self.snapshot(taken_at, disk, None, None).await;
        }
        let control = match disk.data_dir {
            DataDir::Present => control::read(&self.config().binaries, &self.data_dir).await,
            _ => Err("absent".to_owned()),
        };
        if let (Err(error), DataDir::Present) = (&control, &disk.data_dir) {
            tracing::warn!("{error}");
        }
        let mut answer = match (&disk.found, disk.version) {
            (Found::Alive(tracked, file), Some(version)) => {
                let status = file.as_ref().and_then(|file| file.status);
                let stopping = self.stopping.load(Ordering::SeqCst) == tracked.pid;
                let silent = stopping || matches!(status, Some(Status::Starting | Status::Stopping | Status::Standby));
                if silent { None } else { Some(self.ask(version).await) }
            }
            _ => None,
        };
        if let (Found::Alive(tracked, _), Some(Ok(answer))) = (&disk.found, &mut answer) {
            self.correct_timeline(tracked.pid, &mut answer.status).await;
        }
        self.snapshot(taken_at, disk, control.ok(), answer).await
    }

    /// Without a WAL receiver a standby tells in SQL only the timeline of its last restartpoint. In a leader race an old
    /// number would be taken for an old branch: it is asked over a replication connection, once per position.
    async fn correct_timeline(&self, pid: i32, status: &mut ServerStatus) {
        if !status.in_recovery {
            return;
        }
        let lsn = status.replay_lsn;
        let known = *self.replayed.lock().unwrap_or_else(PoisonError::into_inner);
        let timeline = match (status.receiver_status.is_some(), known) {
            (true, _) => status.timeline,
            (false, Some(known)) if known.pid == pid && known.lsn == lsn => Some(known.timeline),
            _ => self.own_timeline().await.max(status.timeline),
        };
        status.timeline = timeline;
        let replayed = timeline.map(|timeline| Replayed { pid, lsn, timeline });
        *self.replayed.lock().unwrap_or_else(PoisonError::into_inner) = replayed;
    }

    async fn snapshot(
        &self,
        taken_at: BootTime,
        disk: Disk,
        control: Option<ControlFile>,
        answer: Option<Result<Answer, Failure>>,
    ) -> PgSnapshot {
        let postmaster = self.postmaster_state(&disk.found, answer.as_ref());
        if let (Some(Err(failure)), Postmaster::Running) = (&answer, &postmaster) {
            tracing::warn!("{}", failure.clone().into_text());
        }
        let answer = answer.and_then(Result::ok);
        let configured = disk.version.map(|version| guc::effective(&self.config(), version, self.standby_role()).file);
        let pending_restart = match (&answer, configured) {
            (Some(answer), Some(configured)) => observe::pending_restart(&answer.settings, &configured),
            _ => Default::default(),
        };
        let readable = !matches!(disk.data_dir, DataDir::Unreadable(_));
        let recovery_stale = match (&answer, disk.version) {
            (Some(answer), Some(version)) if answer.status.in_recovery => {
                observe::recovery_waits_for_restart(&answer.settings) || self.recovery_is_stale(&disk.found, version)
            }
            _ => false,
        };
        PgSnapshot {
            taken_at,
            major_version: disk.version,
            postmaster,
            control: control.map(|control| control.data),
            server: answer.map(|answer| answer.status),
            recovery_configured: readable && self.recovery_configured(),
            recovery_stale,
            // In an empty directory there is nothing that must not be started.
            unfinished: if readable && disk.data_dir != DataDir::Empty { self.marker.read() } else { None },
            unstarted_copy: readable && layout::is_unstarted_copy(&self.data_dir),
            pending_restart,
            data_dir: disk.data_dir,
        }
    }

    /// Files that a running standby does not follow, or that it would not be a standby with at its next start.
    fn recovery_is_stale(&self, found: &Found, version: u32) -> bool {
        if self.phase() != BootstrapPhase::Idle {
            return false;
        }
        if version >= 120_000 {
            return !self.data_dir.join("standby.signal").exists() || files::has_recovery_in_auto_conf(&self.data_dir);
        }
        // Read at the start only: newer than the server, it is not what the server follows.
        let Found::Alive(_, Some(file)) = found else { return false };
        let written = std::fs::metadata(self.data_dir.join("recovery.conf")).and_then(|meta| meta.modified()).ok();
        let since_epoch = written.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        since_epoch.is_none_or(|at| i64::try_from(at.as_secs()).is_ok_and(|at| at > file.start_time))
    }

    fn postmaster_state(&self, found: &Found, answer: Option<&Result<Answer, Failure>>) -> Postmaster {
        let (tracked, file) = match found {
            Found::Unknown(_) => return Postmaster::Unknown,
            Found::Absent => return Postmaster::Absent,
            Found::Alive(tracked, file) => (tracked, file),
        };
        let status = file.as_ref().map(|file| file.status);
        if self.stopping.load(Ordering::SeqCst) == tracked.pid || status == Some(Some(Status::Stopping)) {
            return Postmaster::Stopping;
        }
        match answer {
            Some(Ok(_)) => Postmaster::Running,
            Some(Err(Failure::NotAccepting(_))) => Postmaster::Starting,
            // It is there and does not answer: busy, out of connections, or the password is wrong.
            Some(Err(Failure::Failed(_))) if file.is_some() => Postmaster::Running,
            _ => Postmaster::Starting,
        }
    }

    /// The one statement over the heartbeat connection, which is kept. A connection that broke meanwhile is replaced
    /// once.
    async fn ask(&self, version: u32) -> Result<Answer, Failure> {
        let timeout = format!("PostgreSQL does not answer within {} seconds", LOOK_MAX.as_secs());
        let mut asked = Err(Failure::Failed(timeout));
        let asking = async {
            let mut heartbeat = self.heartbeat.lock().await;
            for _ in 0..2 {
                // Taken out while it is used: a query that does not end takes its connection along.
                let known = heartbeat.take().filter(|session| !session.is_closed());
                let reused = known.is_some();
                let session = match known {
                    Some(session) => session,
                    None => match self.connect().await {
                        Ok(session) => session,
                        Err(failure) => return Err(failure),
                    },
                };
                match session.query("read the state of PostgreSQL", &observe::statement(version)).await {
                    Ok(rows) => {
                        *heartbeat = Some(session);
                        let on_disk =
                            if version < 120_000 { files::upstream_on_disk(&self.config(), version) } else { None };
                        let answer = rows.first().and_then(|row| observe::read_row(row, on_disk));
                        let unusable = || Failure::Failed("cannot understand the state of PostgreSQL".to_owned());
                        return answer.ok_or_else(unusable);
                    }
                    Err(failure) if !reused => return Err(failure),
                    Err(_) => {}
                }
            }
            Err(Failure::Failed("the connection to PostgreSQL broke twice".to_owned()))
        };
        if let Ok(result) = tokio::time::timeout(LOOK_MAX, asking).await {
            asked = result;
        }
        asked
    }

    /// What the running server says it follows, and whether recovery parameters of it wait for a restart; `None` when
    /// it does not answer.
    pub(crate) async fn server_recovery(&self) -> Option<(Option<Upstream>, bool)> {
        let answer = self.ask(self.version().ok()?).await.ok()?;
        Some((answer.status.upstream, observe::recovery_waits_for_restart(&answer.settings)))
    }

    /// The running server has stopped replaying at the target of its recovery and waits.
    pub(crate) async fn is_paused_now(&self) -> bool {
        let Ok(version) = self.version() else { return false };
        self.ask(version).await.is_ok_and(|answer| answer.status.in_recovery && answer.status.replay_paused)
    }

    /// Timeline of the running server.
    pub(crate) async fn server_timeline(&self) -> Option<Timeline> {
        matches!(self.supervisor.find(), Found::Alive(..)).then_some(())?;
        self.ask(self.version().ok()?).await.ok()?.status.timeline
    }

    /// The running server says that it is not in recovery.
    pub(crate) async fn is_primary_now(&self) -> bool {
        let Ok(version) = self.version() else { return false };
        self.ask(version).await.is_ok_and(|answer| !answer.status.in_recovery)
    }

    /// Closes the heartbeat connection, so that it does not stand in the way of a shutdown.
    pub(crate) async fn drop_heartbeat(&self) {
        if let Ok(mut heartbeat) = self.heartbeat.try_lock() {
            heartbeat.take();
        }
    }
}

fn unreadable(error: String) -> Disk {
    Disk { data_dir: DataDir::Unreadable(error.clone()), version: None, found: Found::Unknown(error) }
}

fn boot_time() -> BootTime {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    BootTime(now.tv_sec.cast_unsigned() * 1000 + now.tv_nsec.cast_unsigned() / 1_000_000)
}
