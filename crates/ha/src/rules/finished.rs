//! What the end of a task means for the carry-over, the callbacks and whoever asked for it.

use model::{MemberState, Role};

use super::cycle::Cycle;
use crate::facts::Need;
use crate::memory::{AfterPromote, Divergence};
use crate::step::{Answered, CallbackAction, Effect, StopPurpose, Task};
use crate::view::FinishedTask;

impl Cycle<'_> {
    /// Takes in the task that ended since the last cycle.
    pub fn absorb_finished(&mut self) -> Need<()> {
        let Some(FinishedTask { task, outcome, .. }) = &self.view.finished else {
            return Ok(());
        };
        match outcome {
            Ok(()) => {
                self.memory.retry = Default::default();
                self.absorb_success(task)?;
            }
            Err(why) => self.absorb_failure(task, why)?,
        }
        Ok(())
    }

    fn absorb_success(&mut self, task: &Task) -> Need<()> {
        match task {
            Task::Promote { .. } => {
                self.memory.promoted = AfterPromote::CheckpointPending;
                self.memory.divergence = Divergence::Fits;
                self.change_role(Role::Primary)?;
            }
            Task::StartPrimary { .. } => {
                self.memory.state = MemberState::Running;
                self.memory.expected_up = true;
                if self.memory.role.public() == Role::Primary {
                    self.callback(CallbackAction::OnStart, Role::Primary)?;
                } else {
                    self.change_role(Role::Primary)?;
                }
            }
            Task::StartStandby { .. } => {
                self.memory.state = MemberState::Running;
                self.memory.expected_up = true;
                if matches!(self.memory.role, Role::Primary | Role::Promoted | Role::Demoted) {
                    self.change_role(Role::Replica)?;
                } else {
                    self.memory.role = Role::Replica;
                    self.callback(CallbackAction::OnStart, Role::Replica)?;
                }
            }
            Task::Restart { .. } => {
                self.memory.state = MemberState::Running;
                self.callback(CallbackAction::OnRestart, self.memory.role.public())?;
                self.answer_restart(200, "restarted successfully")?;
            }
            Task::Stop { purpose, .. } => {
                self.memory.handing_over_since = (*purpose == StopPurpose::Switchover).then_some(self.view.now);
                self.memory.expected_up = false;
                self.memory.state = MemberState::Stopped;
                self.memory.promoted = AfterPromote::NotPromoted;
                let role = self.memory.role.public();
                if self.memory.role.public() == Role::Primary {
                    self.memory.role = Role::Demoted;
                }
                self.callback(CallbackAction::OnStop, role)?;
            }
            Task::Rewind { .. } => self.memory.divergence = Divergence::Fits,
            Task::Clone { .. } => {
                self.memory.divergence = Divergence::Fits;
                self.memory.reinit = None;
                self.memory.state = MemberState::Stopped;
            }
            Task::RemoveDataDir => self.memory.divergence = Divergence::Unchecked,
            Task::Checkpoint => self.memory.promoted = AfterPromote::CheckpointDone,
            Task::CrashRecovery => self.memory.divergence = Divergence::Unchecked,
            Task::Bootstrap | Task::Repoint { .. } => {}
        }
        Ok(())
    }

    fn absorb_failure(&mut self, task: &Task, why: &str) -> Need<()> {
        match task {
            Task::StartPrimary { .. } | Task::StartStandby { .. } => self.memory.state = MemberState::StartFailed,
            Task::Restart { .. } => {
                self.memory.state = MemberState::RestartFailed;
                self.answer_restart(503, "restart failed")?;
            }
            Task::Stop { .. } => self.memory.state = MemberState::StopFailed,
            Task::Checkpoint => {
                self.memory.retry.not_before = Some(self.view.now.plus(std::time::Duration::from_secs(2)));
                return Ok(());
            }
            _ => {}
        }
        self.memory.retry.failures = self.memory.retry.failures.saturating_add(1);
        let wait_ms = 500u64 << self.memory.retry.failures.min(5);
        self.memory.retry.not_before = Some(self.view.now.plus(std::time::Duration::from_millis(wait_ms)));
        if matches!(task, Task::Rewind { .. }) {
            self.memory.divergence = match self.memory.retry.failures {
                0..3 => Divergence::Diverged,
                _ => Divergence::Failed(why.to_owned()),
            };
        }
        Ok(())
    }

    fn answer_restart(&mut self, code: u16, text: &str) -> Need<()> {
        if let Some(id) = self.memory.restart_request.take() {
            self.act(Effect::Answer(id, Answered { code, text: text.to_owned() }))?;
        }
        Ok(())
    }

    /// Tells the world of a new role.
    pub fn change_role(&mut self, role: Role) -> Need<()> {
        self.memory.role = role;
        self.memory.state = MemberState::Running;
        self.memory.expected_up = true;
        self.callback(CallbackAction::OnRoleChange, role)
    }

    fn callback(&mut self, action: CallbackAction, role: Role) -> Need<()> {
        self.act(Effect::Callback(action, role))?;
        Ok(())
    }

    /// PostgreSQL runs: where this agent has not noticed it before, it found it running.
    pub fn announce_start(&mut self) -> Need<()> {
        let Some(server) = &self.view.pg.server else {
            return Ok(());
        };
        let role = if server.in_recovery { Role::Replica } else { Role::Primary };
        self.memory.state = MemberState::Running;
        self.memory.handing_over_since = None;
        if !self.memory.expected_up {
            self.memory.expected_up = true;
            if self.memory.role == Role::Uninitialized {
                self.memory.role = role;
                self.callback(CallbackAction::OnStart, role)?;
            }
        }
        if self.memory.role.public() != role {
            self.change_role(role)?;
        }
        Ok(())
    }
}
