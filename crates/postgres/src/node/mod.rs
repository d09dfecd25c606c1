//! [`Postgres`]: the local server as one object.

mod aside;
mod configure;
mod look;
mod promote;
mod standby_names;
mod start;
mod stop;

pub(crate) use configure::Plan;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicI32;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use model::lsn::{TimelineSwitch, parse_history_file};
use model::pg::{DataDir, Upstream};
use model::{Lsn, Role, Timeline};
use tokio::sync::watch;

use crate::client::{self, Failure, Session};
use crate::config::PgConfig;
use crate::layout;
use crate::marker::Marker;
use crate::postmaster::{Found, PidFile, Supervisor};

/// How a server is started.
#[derive(Clone, Debug, PartialEq)]
pub enum StartAs {
    /// Without recovery configuration.
    Primary,
    /// As a standby of this server, or of nobody.
    Standby(Option<Upstream>),
    /// With the recovery configuration that is there: a restart.
    AsConfigured,
}

/// How a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// `SIGINT`: disconnects clients, writes the shutdown checkpoint, waits for the standbys to have it.
    Fast,
    /// `SIGQUIT`, then `SIGKILL` of what is left after a short grace: no checkpoint.
    Immediate,
}

/// Where a bootstrap of this process is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum BootstrapPhase {
    /// None is under way.
    #[default]
    Idle,
    /// Made by initdb; roles are missing.
    Fresh,
    /// Restored by a custom method.
    Restored {
        /// It has recovery configuration, which must be followed to its end.
        recovery: bool,
        /// Recovery may stop at its target and wait for somebody who looks at the data.
        readable: bool,
    },
}

/// One local PostgreSQL. Methods may be called at the same time; those that change the data directory are for one
/// caller at a time.
pub struct Postgres {
    config: RwLock<Arc<PgConfig>>,
    /// Role for which files were written last.
    role: Mutex<Role>,
    /// Whose `synchronous_standby_names` is written.
    standby_names: Mutex<standby_names::StandbyNames>,
    pub(crate) data_dir: PathBuf,
    pub(crate) supervisor: Arc<Supervisor>,
    pub(crate) marker: Marker,
    heartbeat: tokio::sync::Mutex<Option<Session>>,
    /// One look at the disk at a time: on one that hangs they would pile up.
    disk: Arc<tokio::sync::Mutex<()>>,
    /// Process that was told to stop; 0 for none.
    stopping: AtomicI32,
    phase: Mutex<BootstrapPhase>,
    /// Where the WAL directory was, outside the data directory, when that was last removed or copied into.
    pub(crate) wal_elsewhere: Mutex<Option<PathBuf>>,
    /// Whether `hot_standby_feedback` is forced on; `None`: as the files say.
    pub(crate) feedback: Mutex<Option<bool>>,
    /// Work on logical slots beside the loop.
    pub(crate) slot_work: Mutex<Option<tokio::task::JoinHandle<()>>>,
    /// Timeline of a standby as last known for certain.
    replayed: Mutex<Option<Replayed>>,
}

/// The timeline that a standby replays, as its WAL receiver or `IDENTIFY_SYSTEM` said at this position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Replayed {
    pid: i32,
    lsn: Option<Lsn>,
    timeline: Timeline,
}

impl Postgres {
    /// Looks at nothing yet. Must be used inside a tokio runtime.
    pub fn new(config: PgConfig) -> Postgres {
        Postgres {
            role: Mutex::new(Role::Uninitialized),
            standby_names: Mutex::default(),
            data_dir: config.data_dir.clone(),
            supervisor: Arc::new(Supervisor::new(&config.data_dir)),
            marker: Marker::of(&config.data_dir),
            heartbeat: tokio::sync::Mutex::new(None),
            disk: Arc::default(),
            stopping: AtomicI32::new(0),
            phase: Mutex::default(),
            wal_elsewhere: Mutex::default(),
            feedback: Mutex::default(),
            slot_work: Mutex::default(),
            replayed: Mutex::default(),
            config: RwLock::new(Arc::new(config)),
        }
    }

    /// The configuration in use.
    pub fn config(&self) -> Arc<PgConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts exits, starts, and other changes of the postmaster that somebody should look at.
    pub fn events(&self) -> watch::Receiver<u64> {
        self.supervisor.events()
    }

    /// Process number of the postmaster, while it is known to run.
    pub fn postmaster_pid(&self) -> Option<i32> {
        match self.supervisor.find() {
            Found::Alive(tracked, _) => Some(tracked.pid),
            _ => None,
        }
    }

    /// An error when another program listens where this server is to listen; checked while it does not run.
    pub fn ensure_ports_are_free(&self) -> Result<(), String> {
        match self.supervisor.find() {
            Found::Absent => crate::preflight::ports(&self.config()),
            Found::Alive(..) | Found::Unknown(_) => Ok(()),
        }
    }

    /// The version of the data directory as `server_version_num` of its first release.
    pub(crate) fn version(&self) -> Result<u32, String> {
        layout::major_version(&self.data_dir).ok_or_else(|| {
            format!("cannot read the PostgreSQL version from {}", self.data_dir.join("PG_VERSION").display())
        })
    }

    pub(crate) fn phase(&self) -> BootstrapPhase {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_phase(&self, phase: BootstrapPhase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// An error while a server runs on the data directory, or while that cannot be excluded.
    pub(crate) fn ensure_stopped(&self, purpose: &str) -> Result<(), String> {
        match self.supervisor.find() {
            Found::Absent => Ok(()),
            Found::Alive(tracked, _) => Err(format!(
                "cannot {purpose}: PostgreSQL runs on {} (process {})",
                self.data_dir.display(),
                tracked.pid
            )),
            Found::Unknown(error) => Err(format!("cannot {purpose}: whether PostgreSQL runs is unknown: {error}")),
        }
    }

    /// Makes way for work on the data directory: ends the programs that an agent which was killed has left at work on it
    /// (initdb runs servers of its own), and what outlived a server. An error while a server runs.
    pub(crate) async fn make_way(&self, purpose: &str) -> Result<(), String> {
        self.supervisor.end_programs().await?;
        self.ensure_stopped(purpose)?;
        self.supervisor.kill_servers().await
    }

    /// An error unless there is a whole data directory.
    pub(crate) fn ensure_present(&self, purpose: &str) -> Result<(), String> {
        match layout::data_dir_state(&self.data_dir) {
            DataDir::Present => Ok(()),
            DataDir::Empty => Err(format!("cannot {purpose}: {} is empty", self.data_dir.display())),
            DataDir::Incomplete => {
                Err(format!("cannot {purpose}: {} has no global/pg_control", self.data_dir.display()))
            }
            DataDir::Unreadable(error) => Err(format!("cannot {purpose}: {error}")),
        }
    }

    /// A new connection to the local server.
    pub(crate) async fn connect(&self) -> Result<Session, Failure> {
        client::connect(&self.config(), self.pid_file().as_ref()).await
    }

    /// What the running server says of itself.
    pub(crate) fn pid_file(&self) -> Option<PidFile> {
        PidFile::read(&self.data_dir).ok().flatten()
    }

    /// `CHECKPOINT`. Takes as long as it takes; dropping the future ends the wait, not the checkpoint.
    pub async fn checkpoint(&self) -> Result<(), String> {
        let session = self.connect().await.map_err(Failure::into_text)?;
        session.query("lift the statement timeout", "SET statement_timeout = 0").await.map_err(Failure::into_text)?;
        session.query("run a checkpoint", "CHECKPOINT").await.map(|_| ()).map_err(Failure::into_text)
    }

    /// Removes the contents of the data directory, and of the directories its WAL and tablespace links point to.
    pub async fn remove_data_dir(&self) -> Result<(), String> {
        self.make_way("remove the data directory").await?;
        // From here on it is not whole: what an interrupted removal leaves must not be taken for a data directory.
        self.marker.set(model::pg::Unfinished::Clone)?;
        // Remembered for the copy that follows.
        self.wal_target();
        let data_dir = self.data_dir.clone();
        blocking(move || layout::clear(&data_dir)).await??;
        self.set_phase(BootstrapPhase::Idle);
        self.marker.clear()
    }

    /// The history file of the local timeline; `None` on timeline 1 or when unreadable.
    pub async fn own_history(&self) -> Option<Vec<TimelineSwitch>> {
        let timeline = match self.server_timeline().await {
            Some(timeline) => timeline,
            None => {
                let control = crate::control::read(&self.config().binaries, &self.data_dir).await.ok()?;
                control.data.timeline.max(control.data.min_recovery_timeline)
            }
        };
        let path = layout::wal_dir(&self.data_dir).join(format!("{:08X}.history", timeline.0));
        if timeline.0 <= 1 {
            return None;
        }
        blocking(move || std::fs::read_to_string(path)).await.ok()?.ok().map(|text| parse_history_file(&text))
    }

    pub(crate) async fn run_hook(&self, words: &[String], what: &str, task: &crate::TaskHandle) -> Result<(), String> {
        let Some((program, arguments)) = words.split_first() else { return Ok(()) };
        let mut command = crate::process::command(Path::new(program));
        command.args(arguments);
        crate::process::run(command, what, task).await?.success(what).map(|_| ())
    }
}

/// Work that may hang on a disk, away from the runtime's own threads.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| format!("work on the disk failed: {error}"))
}

/// Sleeps between two looks at something that PostgreSQL does not announce.
pub(crate) async fn poll_pause() {
    const POLL: Duration = Duration::from_millis(5);
    tokio::time::sleep(POLL).await;
}
