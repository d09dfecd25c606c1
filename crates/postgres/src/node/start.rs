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

impl Postgres {
    /// Starts the server. Returns when it accepts connections, or when a standby replays WAL and cannot be connected
    /// to yet; an error when the process ended, `timeout` passed or the task was cancelled. After a timeout the process
    /// goes on starting; after a cancellation a standby does, and a primary is stopped at once, for it may be writable
    /// only with permission.
    ///
    /// Refused on a data directory with unfinished work, except for the bootstrap this object is in the middle of.
    pub async fn start(&self, mode: StartAs, timeout: Duration, task: &TaskHandle) -> Result<(), String> {
        let deadline = Instant::now() + timeout;
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
        self.supervisor.clear_remains().await?;
        preflight::before_start(&self.config(), self.version()?)?;
        let following = phase == BootstrapPhase::Restored { recovery: true };
        let tracked = self.spawn_postmaster(&mode, following, task).await?;
        task.report(Progress::Starting);
        let standby = !following && self.recovery_configured();
        tokio::select! {
            biased;
            () = tracked.exit() => Err("PostgreSQL ended while it was starting; its log says why".to_owned()),
            () = task.until_cancelled() => {
                if !standby {
                    tracked.signal(Signal::QUIT);
                }
                Err("the start of PostgreSQL was cancelled".to_owned())
            }
            ready = self.until_ready(&tracked, standby, deadline, timeout) => ready,
        }?;
        files::save_backups(&self.config());
        self.supervisor.notify();
        Ok(())
    }

    async fn spawn_postmaster(&self, mode: &StartAs, following: bool, task: &TaskHandle) -> Result<Tracked, String> {
        let (role, plan) = match mode {
            _ if following => (Role::Primary, Plan::Untouched),
            StartAs::Primary => (Role::Primary, Plan::None),
            StartAs::Standby(upstream) => (self.standby_role(), Plan::Standby(upstream.clone())),
            StartAs::AsConfigured if self.recovery_configured() => (self.standby_role(), Plan::Keep),
            StartAs::AsConfigured => (Role::Primary, Plan::Keep),
        };
        let config = self.config();
        let (_, mut effective) = self.write_config(role, plan).await?;
        if role != Role::Primary || following {
            let control = control::read(&config.binaries, &self.data_dir).await?;
            effective.raise_to(&control, self.version()?);
        }
        if following {
            // Nobody may read a cluster that is on its way to its target.
            effective.set("hot_standby", "off");
        }
        let mut command = process::command(&config.binaries.path("postgres"));
        command.arg("-D").arg(&self.data_dir);
        command.arg(format!("--config-file={}", config.conf_file("").display()));
        command.args(effective.arguments());
        if let Some(service) = &config.krbsrvname {
            command.env("PGKRBSRVNAME", service);
        }
        self.drop_heartbeat().await;
        if role == Role::Primary && !following && !(task.may_be_writable)() {
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

fn describe(work: Unfinished) -> &'static str {
    match work {
        Unfinished::Clone => "a copy",
        Unfinished::Rewind => "pg_rewind",
        Unfinished::Bootstrap => "a bootstrap",
    }
}
