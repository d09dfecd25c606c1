//! Stopping.

use std::sync::atomic::Ordering;
use std::time::Duration;

use model::pg::ControlState;
use rustix::process::Signal;

use super::{Postgres, StopMode, poll_pause};
use crate::control;
use crate::postmaster::{Found, Tracked};
use crate::task::{Progress, TaskHandle};

/// What PostgreSQL gets to end by itself after SIGQUIT; it kills its own children after five seconds.
const IMMEDIATE_GRACE: Duration = Duration::from_secs(3);

impl Postgres {
    /// Stops the server; success when no process is left. Reports [`Progress::ShutDown`] as soon as the control file
    /// holds the shutdown checkpoint. Stopping a server that does not run succeeds.
    ///
    /// A fast stop waits for the standbys to receive everything, for as long as the caller does not cancel: then the
    /// server goes on stopping, and an immediate stop may follow.
    pub async fn stop(&self, mode: StopMode, task: &TaskHandle) -> Result<(), String> {
        let found = match self.supervisor.tracked() {
            Some(tracked) => Found::Alive(tracked, None),
            None => self.supervisor.find(),
        };
        let tracked = match found {
            Found::Alive(tracked, _) => tracked,
            Found::Absent => return self.supervisor.kill_servers().await,
            Found::Unknown(error) => return Err(format!("cannot stop PostgreSQL: {error}")),
        };
        if mode == StopMode::Fast
            && let Some(words) = &self.config().before_stop
            && let Err(error) = self.run_hook(words, "before_stop", task).await
        {
            tracing::warn!("{error}");
        }
        self.drop_heartbeat().await;
        self.stopping.store(tracked.pid, Ordering::SeqCst);
        let stopped = match mode {
            StopMode::Fast => self.stop_fast(&tracked, task).await,
            StopMode::Immediate => self.stop_immediately(&tracked).await,
        };
        if tracked.has_exited() {
            self.stopping.store(0, Ordering::SeqCst);
        }
        stopped
    }

    async fn stop_fast(&self, tracked: &Tracked, task: &TaskHandle) -> Result<(), String> {
        tracked.signal(Signal::INT);
        let mut reported = false;
        let ended = tokio::select! {
            biased;
            () = tracked.exit() => true,
            () = task.until_cancelled() => false,
            () = self.report_shutdown(task, &mut reported) => true,
        };
        if !ended {
            return Err("waiting for PostgreSQL to stop was cancelled; it goes on stopping".to_owned());
        }
        tokio::select! {
            biased;
            () = tracked.exit() => {}
            () = task.until_cancelled() => {
                return Err("waiting for PostgreSQL to stop was cancelled; it goes on stopping".to_owned());
            }
        }
        if !reported {
            self.look_for_shutdown(task).await;
        }
        // Nothing of it should be left; what a crash during the stop left behind could still write.
        self.supervisor.kill_servers().await
    }

    async fn report_shutdown(&self, task: &TaskHandle, reported: &mut bool) {
        while !self.look_for_shutdown(task).await {
            poll_pause().await;
        }
        *reported = true;
    }

    async fn look_for_shutdown(&self, task: &TaskHandle) -> bool {
        match control::read(&self.config().binaries, &self.data_dir).await {
            Ok(control) if control.data.state == ControlState::ShutDown => {
                task.report(Progress::ShutDown(control.data.checkpoint));
                true
            }
            _ => false,
        }
    }

    async fn stop_immediately(&self, tracked: &Tracked) -> Result<(), String> {
        tracked.signal(Signal::QUIT);
        if tokio::time::timeout(IMMEDIATE_GRACE, tracked.exit()).await.is_err() {
            tracing::warn!("PostgreSQL has not ended {} seconds after SIGQUIT: killing it", IMMEDIATE_GRACE.as_secs());
            tracked.signal(Signal::KILL);
        }
        self.supervisor.kill_servers().await?;
        tokio::time::timeout(IMMEDIATE_GRACE, tracked.exit())
            .await
            .map_err(|_| format!("PostgreSQL (process {}) was killed and has not ended", tracked.pid))
    }
}
