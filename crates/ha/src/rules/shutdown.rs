//! The agent was told to stop (compatibility.md, 7.16).

use model::pg::{ControlState, Postmaster};
use model::{ClusterView, MemberState};

use super::cycle::Cycle;
use super::{End, Ruling, table::*};
use crate::step::{Effect, StopMode, StopPurpose, Task};

impl Cycle<'_> {
    pub fn shut_down(&mut self) -> Ruling {
        let cluster = self.view.cluster().cloned().unwrap_or_default();
        self.decline_requests("the agent is stopping")?;
        if let Some(running) = &self.view.task {
            if matches!(running.task, Task::Stop { .. }) {
                return self.task_running(&cluster);
            }
            self.act(Effect::CancelTask)?;
            return Ok(End::new(SHUTDOWN, "stopping: waiting for the running task to end").wake_in_ms(200));
        }
        if self.paused() {
            self.let_go_of_fence()?;
            return Ok(End::new(SHUTDOWN_PAUSED, "PAUSE: leaving PostgreSQL running").exit(0));
        }
        match self.view.pg.postmaster {
            Postmaster::Absent => self.stopped(&cluster),
            _ if !self.may_retry() => {
                Ok(End::new(SHUTDOWN, "stopping PostgreSQL failed, trying again").wake_in_ms(500))
            }
            _ => {
                if !self.leave_sync_first() {
                    let text = "stopping: waiting to be released from the synchronous standbys";
                    return Ok(End::new(SHUTDOWN, text));
                }
                let checkpoint = self.mine(&cluster) && self.view.pg.is_primary();
                self.start(Task::Stop { mode: StopMode::Fast, checkpoint, purpose: StopPurpose::Shutdown })?;
                Ok(End::new(SHUTDOWN, "stopping PostgreSQL because the agent stops"))
            }
        }
    }

    fn stopped(&mut self, cluster: &ClusterView) -> Ruling {
        self.memory.state = MemberState::Stopped;
        // Without the store's answer the lease says whose the lock is: giving it away is tried, and not waited for.
        if self.view.cluster().is_none() && self.view.holds_lease() {
            self.act(Effect::ReleaseLeader)?;
        }
        if self.mine(cluster) {
            let clean = self.view.pg.control.as_ref().filter(|control| control.state == ControlState::ShutDown);
            let handed_over = match clean {
                Some(control) => self.hand_over(cluster, control.checkpoint)?,
                None => false,
            };
            if !handed_over {
                if let Some(control) = clean {
                    self.write_final_position(control.checkpoint)?;
                }
                self.act(Effect::ReleaseLeader)?;
            }
        }
        self.let_go_of_fence()?;
        Ok(End::new(SHUTDOWN, "PostgreSQL is stopped").exit(0))
    }
}
