//! Leaving recovery.

use std::fs;

use model::pg::ControlState;
use rustix::process::Signal;

use super::{Postgres, poll_pause};
use crate::control;
use crate::layout;
use crate::postmaster::Found;
use crate::task::{Progress, TaskHandle};

impl Postgres {
    /// Leaves recovery; returns when the control file says `in production`. `may_proceed` is asked immediately before
    /// the point of no return; after `false` nothing was done. A `pre_promote` that fails is an error reported after
    /// [`Progress::PrePromote`] and before [`Progress::Promoting`]; nothing was done then either. Takes as long as replaying what was received takes: a
    /// cancelled task stops the server at once, for it could become writable any moment.
    ///
    /// Does what `pg_ctl promote` does: the file `promote` and SIGUSR1 (PostgreSQL's `src/bin/pg_ctl/pg_ctl.c`).
    pub async fn promote(
        &self,
        may_proceed: &(dyn Fn() -> bool + Send + Sync),
        task: &TaskHandle,
    ) -> Result<(), String> {
        let config = self.config();
        let Found::Alive(tracked, _) = self.supervisor.find() else {
            return Err("cannot promote PostgreSQL: it does not run".to_owned());
        };
        let state = control::read(&config.binaries, &self.data_dir).await?.data.state;
        if state == ControlState::InProduction {
            return Ok(());
        }
        if state != ControlState::InArchiveRecovery {
            return Err(format!("cannot promote PostgreSQL: the control file says {state:?}, not in archive recovery"));
        }
        if let Some(words) = &config.pre_promote {
            task.report(Progress::PrePromote);
            self.run_hook(words, "pre_promote", task).await?;
        }
        task.report(Progress::Promoting);
        if task.is_cancelled() {
            return Err("the promotion was cancelled before it began".to_owned());
        }
        self.abandon_slot_work();
        // The postmaster looks for the file at any SIGUSR1, also of its own children: its appearance is the point of
        // no return. Only the renaming is left to do then.
        let (signal_file, prepared) = (self.data_dir.join("promote"), self.data_dir.join("promote.prepared"));
        layout::write_file(&prepared, "", &self.data_dir)?;
        if !may_proceed() {
            layout::remove_file(&prepared)?;
            return Err("the promotion is not allowed any more; nothing was done".to_owned());
        }
        fs::rename(&prepared, &signal_file)
            .map_err(|error| format!("cannot promote PostgreSQL: cannot create {}: {error}", signal_file.display()))?;
        tracked.signal(Signal::USR1);
        tokio::select! {
            biased;
            () = tracked.exit() => {
                // Left behind, it would promote the next standby that starts here.
                let _ = fs::remove_file(&signal_file);
                Err("PostgreSQL ended while it was promoted; its log says why".to_owned())
            }
            () = task.until_cancelled() => {
                tracked.signal(Signal::QUIT);
                Err("the promotion was cancelled after it had begun: PostgreSQL is stopped".to_owned())
            }
            () = self.until_in_production() => {
                self.supervisor.notify();
                Ok(())
            }
        }
    }

    async fn until_in_production(&self) {
        let config = self.config();
        loop {
            let control = control::read(&config.binaries, &self.data_dir).await;
            if control.is_ok_and(|control| control.data.state == ControlState::InProduction) {
                return;
            }
            poll_pause().await;
        }
    }
}
