//! Starting.

use std::time::Duration;

use model::Role;
use model::pg::{ControlState, Unfinished};
use rustix::process::Signal;
use tokio::time::Instant;

use super::configure::Plan;
use super::{BootstrapPhase, Postgres, StartAs, poll_pause};
use crate::control;
use crate::files;
use crate::postmaster::{PidFile, Status, Tracked};
use crate::preflight;
use crate::process;
use crate::task::{Progress, TaskHandle};

/// A standby that replays for this long without accepting connections is left to it.
const REPLAY_GRACE: Duration = Duration::from_secs(2);
/// How often a restored cluster is asked whether it has recovered; that may take hours.
const RECOVERY_POLL: Duration = Duration::from_millis(100);

impl Postgres {
    /// Starts the server. Returns when it accepts connections, or when a standby replays WAL and cannot be connected
    /// to yet; an error when the process ended, `timeout` passed or the task was cancelled. After a timeout the process
    /// goes on starting; after a cancellation a standby does, and a primary is stopped at once, for it may be writable
    /// only with permission.
    ///
    /// During a bootstrap `pg_ctl_timeout` counts instead of `timeout`; and a restored cluster with recovery
    /// configuration has as long as its recovery takes: the start ends when it has been promoted.
    ///
    /// Refused on a data directory with unfinished work, except for the bootstrap this object is in the middle of.
    pub async fn start(&self, mode: StartAs, timeout: Duration, task: &TaskHandle) -> Result<(), String> {
        self.ensure_present("start PostgreSQL")?;
        let phase = self.phase();
        match self.marker.read() {
            None => {}
            Some(Unfinished::Bootstrap) if phase != BootstrapPhase::Idle => {}
            Some(work) => {
                return Err(format!(
                    "cannot start PostgreSQL: {} on {} was begun and not finished",
                    describe(work),
                    self.data_dir.display()
                ));
            }
        }
        let timeout = if phase == BootstrapPhase::Idle { timeout } else { self.config().pg_ctl_timeout };
        let deadline = Instant::now() + timeout;
        self.supervisor.clear_remains().await?;
        preflight::before_start(&self.config(), self.version()?)?;
        let following = Following::of(phase);
        let tracked = self.spawn_postmaster(&mode, following, task).await?;
        let restored = matches!(phase, BootstrapPhase::Restored { .. });
        task.report(if restored { Progress::Restored } else { Progress::Starting });
        let standby = following == Following::Nothing && self.recovery_configured();
        let ready = async {
            match following {
                Following::Nothing => self.until_ready(&tracked, standby, deadline, timeout).await,
                Following::Unread | Following::Readable => self.until_recovered().await,
            }
        };
        tokio::select! {
            biased;
            () = tracked.exit() => Err("PostgreSQL ended while it was starting; its log says why".to_owned()),
            () = task.until_cancelled() => {
                if !standby {
                    tracked.signal(Signal::QUIT);
                }
                Err("the start of PostgreSQL was cancelled".to_owned())
            }
            ready = ready => ready,
        }?;
        files::save_backups(&self.config());
        self.supervisor.notify();
        Ok(())
    }

    /// Returns when a restored cluster has recovered and is a primary. Says once where it waits for somebody.
    async fn until_recovered(&self) -> Result<(), String> {
        let mut said = false;
        loop {
            let control = control::read(&self.config().binaries, &self.data_dir).await;
            if control.is_ok_and(|control| control.data.state == ControlState::InProduction) {
                break;
            }
            if !said && self.is_paused_now().await {
                said = true;
                tracing::warn!(
                    "recovery has reached its target and is paused: look at the data, then let it be promoted with \
                     SELECT pg_wal_replay_resume(); recovery_target_action: promote goes on without asking"
                );
            }
            tokio::time::sleep(RECOVERY_POLL).await;
        }
        // The end of recovery is in the control file a moment before the server says so. One that does not let this
        // program in says why to whoever asks next.
        let deadline = Instant::now() + self.config().pg_ctl_timeout;
        while !self.is_primary_now().await && Instant::now() < deadline {
            poll_pause().await;
        }
        Ok(())
    }

    async fn spawn_postmaster(
        &self,
        mode: &StartAs,
        following: Following,
        task: &TaskHandle,
    ) -> Result<Tracked, String> {
        let recovers = following != Following::Nothing;
        let (role, plan) = match mode {
            _ if recovers => (Role::Primary, Plan::Untouched),
            StartAs::Primary => (Role::Primary, Plan::None),
            StartAs::Standby(upstream) => (self.standby_role(), Plan::Standby(upstream.clone())),
            StartAs::AsConfigured if self.recovery_configured() => (self.standby_role(), Plan::Keep),
            StartAs::AsConfigured => (Role::Primary, Plan::Keep),
        };
        let config = self.config();
        let (_, mut effective) = self.write_config(role, plan).await?;
        if role != Role::Primary || recovers {
            let control = control::read(&config.binaries, &self.data_dir).await?;
            effective.raise_to(&control, self.version()?);
        }
        if following == Following::Unread {
            // Nobody may read a cluster that is on its way to its target.
            effective.set("hot_standby", "off");
        }
        let mut command = process::postmaster(&config.binaries.path("postgres"));
        command.arg("-D").arg(&self.data_dir);
        command.arg(format!("--config-file={}", config.conf_file("").display()));
        command.args(effective.arguments());
        if let Some(service) = &config.krbsrvname {
            command.env("PGKRBSRVNAME", service);
        }
        self.drop_heartbeat().await;
        if role == Role::Primary && !recovers && !(task.may_be_writable)() {
            return Err("PostgreSQL may not be started as a primary any more: the lease has ended".to_owned());
        }
        self.supervisor.spawn(command)
    }

    async fn until_ready(
        &self,
        tracked: &Tracked,
        standby: bool,
        deadline: Instant,
        timeout: Duration,
    ) -> Result<(), String> {
        let started = Instant::now();
        loop {
            let file = PidFile::read(&self.data_dir).ok().flatten().filter(|file| file.pid == tracked.pid);
            match file.as_ref().map(|file| file.status) {
                Some(Some(Status::Ready)) => return Ok(()),
                Some(Some(Status::Standby)) if standby => return Ok(()),
                // Before version 10 the file does not say.
                Some(None) if self.version()? < 100_000 && self.connect().await.is_ok() => return Ok(()),
                _ => {}
            }
            if standby && started.elapsed() > REPLAY_GRACE && self.replays().await {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(format!("PostgreSQL does not accept connections after {} seconds", timeout.as_secs()));
            }
            poll_pause().await;
        }
    }

    async fn replays(&self) -> bool {
        let control = control::read(&self.config().binaries, &self.data_dir).await;
        control.is_ok_and(|control| control.data.state == ControlState::InArchiveRecovery)
    }
}

/// Whether a restored cluster is to recover as it was told, and may be read meanwhile.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Following {
    /// No recovery of somebody else's making.
    Nothing,
    /// Nobody may read it before it is promoted.
    Unread,
    /// It may stop at its target for somebody to look.
    Readable,
}

impl Following {
    fn of(phase: BootstrapPhase) -> Following {
        match phase {
            BootstrapPhase::Restored { recovery: true, readable: false } => Following::Unread,
            BootstrapPhase::Restored { recovery: true, readable: true } => Following::Readable,
            _ => Following::Nothing,
        }
    }
}

fn describe(work: Unfinished) -> &'static str {
    match work {
        Unfinished::Clone => "a copy",
        Unfinished::Rewind => "pg_rewind",
        Unfinished::Bootstrap => "a bootstrap",
    }
}
