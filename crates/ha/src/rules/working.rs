//! A task runs beside the loop: keep the lease while it should be kept, cancel what must not go on.

use std::time::Duration;

use model::settings::SynchronousMode;
use model::{ClusterView, Lsn, Role};

use super::cycle::Cycle;
use super::failsafe::Consent;
use super::{End, Ruling, table::*};
use crate::facts::Need;
use crate::step::{Effect, Outcome, StopMode, StopPurpose, Task};
use crate::view::{Progress, RunningTask};

/// The least a fast stop is given: `primary_start_timeout: 0` means to fail over at once, not to give up stopping.
const STOP_LEAST: Duration = Duration::from_secs(60);

impl Cycle<'_> {
    pub fn task_running(&mut self, cluster: &ClusterView) -> Ruling {
        let Some(running) = &self.view.task else {
            return Ok(End::new(TASK_RUNNING, "the task has ended").wake_in_ms(1));
        };
        if let Task::Stop { purpose: StopPurpose::Switchover | StopPurpose::Shutdown, .. } = running.task
            && self.mine(cluster)
        {
            return self.stopping_to_hand_over(cluster, running);
        }
        if let Some(end) = self.stop_takes_too_long(running)? {
            return Ok(end);
        }
        let name = task_name(&running.task);
        if !self.mine(cluster) {
            self.let_go_when_nobody_writes()?;
            let writable = matches!(running.task, Task::Promote { .. } | Task::StartPrimary { .. });
            if writable && !self.paused() {
                self.act(Effect::CancelTask)?;
                return Ok(End::new(TASK_LOST_LEASE, format!("lost the leader lock during {name}, cancelled it"))
                    .wake_in_ms(200));
            }
            let copied = match running.progress {
                Some(Progress::Copied(copied)) => format!(": {copied}"),
                _ => String::new(),
            };
            return Ok(End::new(TASK_RUNNING, format!("{name} in progress{copied}")).wake_in_ms(1000));
        }
        self.stand_guard();
        let kept = match self.act(Effect::RenewLeader)? {
            Outcome::Unfenced(why) if self.leads_or_will() => return self.unfenced(cluster, Some(why)),
            Outcome::Rejected(_) => false,
            Outcome::Unreachable(why) => match self.ask_for_consent(why)? {
                Consent::Given(_) => true,
                _ => !self.lease_is_ending(),
            },
            outcome => outcome.succeeded() || !self.lease_is_ending(),
        };
        if !kept && !self.paused() && self.view.pg.is_primary() {
            self.stop(StopMode::Immediate, StopPurpose::Demote)?;
            return Ok(End::new(LEAD_LOST, format!("failed to update leader lock during {name}, stopping PostgreSQL"))
                .wake_in_ms(200));
        }
        if !kept && !self.paused() {
            self.act(Effect::CancelTask)?;
            return Ok(End::new(TASK_LOST_LEASE, format!("failed to update leader lock during {name}, cancelled it"))
                .wake_in_ms(200));
        }
        if running.task == Task::Checkpoint && self.view.pg.is_primary() && kept && self.facts.lease_proof().is_some() {
            // A checkpoint can take minutes: until synchronous standbys are named, nobody can take over.
            self.manage_sync(cluster)?;
        }
        self.watch_start_timeout(cluster, running, name)
    }

    /// PostgreSQL is a primary, or the running task makes it one.
    fn leads_or_will(&self) -> bool {
        let task = self.view.task.as_ref().map(|running| &running.task);
        let stopping = matches!(task, Some(Task::Stop { .. }));
        let will = matches!(task, Some(Task::Promote { .. } | Task::StartPrimary { .. }));
        !self.paused() && !stopping && (will || self.view.pg.is_primary())
    }

    /// A primary that takes too long to start gives way, if there is somebody to give way to.
    fn watch_start_timeout(&mut self, cluster: &ClusterView, running: &RunningTask, name: &str) -> Ruling {
        let bound = match running.task {
            Task::StartPrimary { timeout, .. } => Some(timeout),
            Task::CrashRecovery => Some(self.view.settings.primary_start_timeout),
            _ => None,
        };
        if bound.is_some() {
            // The wait goes on after the task, where the server is still starting then.
            self.memory.starting_since.get_or_insert(running.since);
        }
        let late = bound.is_some_and(|bound| self.view.now.since(running.since) > bound);
        if late && !self.paused() && self.someone_can_take_over(cluster)? {
            self.act(Effect::CancelTask)?;
            return Ok(End::new(
                RECOVER_GIVE_UP,
                format!("{name} takes too long, cancelled it in favour of another node"),
            )
            .wake_in_ms(200));
        }
        Ok(End::new(TASK_RUNNING, format!("updated leader lock during {name}")).wake_in_ms(1000))
    }

    /// The old primary stops; as soon as a standby has everything, the lock is given away.
    fn stopping_to_hand_over(&mut self, cluster: &ClusterView, running: &RunningTask) -> Ruling {
        self.stand_guard();
        let Some(Progress::ShutDown(checkpoint)) = running.progress else {
            let rejected = matches!(self.act(Effect::RenewLeader)?, Outcome::Rejected(_));
            if rejected {
                self.stop(StopMode::Immediate, StopPurpose::Demote)?;
                let text = "stopping PostgreSQL at once instead of handing over: the leader lock is lost";
                return Ok(End::new(LEAD_LOST, text).wake_in_ms(200));
            }
            if self.view.now.since(running.since) > self.stop_bound() {
                // The agent that stops gives the lock away anyhow; a switchover does as soon as somebody can take over.
                let text = "stopping PostgreSQL at once instead of handing over: it takes too long";
                return self.stop_to_give_way(STOP_LATE, text).map(|end| end.wake_in_ms(200));
            }
            return Ok(End::new(HAND_OVER, "stopping PostgreSQL to hand the leader lock over").wake_in_ms(1000));
        };
        if self.hand_over(cluster, checkpoint)? {
            return Ok(End::new(
                HAND_OVER,
                format!("released the leader lock: a standby has the shutdown checkpoint {checkpoint}"),
            ));
        }
        self.act(Effect::RenewLeader)?;
        Ok(End::new(HAND_OVER, format!("waiting for a standby to receive the shutdown checkpoint {checkpoint}"))
            .wake_in_ms(20))
    }

    /// A stop that waits for a client that does not go away, or for a backend that hangs, ends at once after a while:
    /// as long as it lasts there is no primary, and nobody else can become one.
    fn stop_takes_too_long(&mut self, running: &RunningTask) -> Need<Option<End>> {
        let Task::Stop { mode: StopMode::Fast, purpose, .. } = running.task else {
            return Ok(None);
        };
        let bound = match self.memory.restarting {
            Some(restarting) if purpose == StopPurpose::Restart => {
                restarting.timeout.max(STOP_LEAST).min(self.stop_bound())
            }
            _ => self.stop_bound(),
        };
        if running.progress.is_some() || self.view.now.since(running.since) <= bound {
            return Ok(None);
        }
        self.stop(StopMode::Immediate, purpose)?;
        let text = "PostgreSQL has not stopped in time, stopping it at once";
        Ok(Some(End::new(STOP_LATE, text).wake_in_ms(200)))
    }

    /// How long a fast stop may take: `primary_stop_timeout` where synchronous standbys have every commit, so that
    /// nothing is lost, else as long as a start may.
    fn stop_bound(&self) -> Duration {
        let settings = &self.view.settings;
        let synchronous = settings.synchronous() != SynchronousMode::Off;
        match settings.primary_stop_timeout {
            timeout if synchronous && !timeout.is_zero() && self.memory.role.public() == Role::Primary => timeout,
            _ => settings.primary_start_timeout.max(STOP_LEAST),
        }
    }

    /// Releases the lock if a candidate has received `checkpoint`. PostgreSQL is shut down: nothing is written after it.
    pub fn hand_over(&mut self, cluster: &ClusterView, checkpoint: Lsn) -> Need<bool> {
        if !self.candidate_has(cluster, checkpoint)? {
            return Ok(false);
        }
        self.write_final_position(checkpoint)?;
        let released = self.act(Effect::ReleaseLeader)?.succeeded();
        if released {
            self.memory.handed_over_at = Some(self.view.now);
            self.let_go_of_fence()?;
        }
        Ok(released)
    }
}

/// What a task is called in sentences and in answers (`<name> already in progress`).
pub fn task_name(task: &Task) -> &'static str {
    match task {
        Task::Bootstrap => "bootstrap",
        Task::Clone { .. } => "creating replica",
        Task::StartPrimary { .. } => "starting primary after failure",
        Task::StartStandby { .. } => "starting as a secondary",
        Task::Repoint { .. } => "following a new leader",
        Task::Rewind { .. } => "running pg_rewind",
        Task::CrashRecovery => "doing crash recovery in a single user mode",
        Task::RemoveDataDir => "removing the data directory",
        Task::Stop { purpose: StopPurpose::Restart, .. } => "restart",
        Task::Stop { .. } => "stopping PostgreSQL",
        Task::Promote { .. } => "promote",
        Task::CopySlots { .. } => "copying logical replication slots",
        Task::Checkpoint => "checkpoint after promote",
    }
}
