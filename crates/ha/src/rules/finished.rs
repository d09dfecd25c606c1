//! What the end of a task means for the carry-over, the callbacks and whoever asked for it.

use model::pg::Postmaster;
use model::{MemberState, Role};

use super::cycle::Cycle;
use crate::facts::Need;
use crate::memory::{AfterPromote, Divergence};
use crate::step::{Answered, CallbackAction, Effect, StopPurpose, Task};
use crate::view::{FinishedTask, Progress};

impl Cycle<'_> {
    /// Takes in the task that ended since the last cycle.
    pub fn absorb_finished(&mut self) -> Need<()> {
        let Some(FinishedTask { task, outcome, progress, .. }) = &self.view.finished else {
            return Ok(());
        };
        match outcome {
            Ok(()) => {
                self.memory.retry = Default::default();
                self.absorb_success(task)?;
            }
            Err(why) => self.absorb_failure(task, *progress, why)?,
        }
        Ok(())
    }

    fn absorb_success(&mut self, task: &Task) -> Need<()> {
        match task {
            Task::Promote { .. } => {
                self.memory.pre_promote_failed_at = None;
                self.renew_slot_retention();
                self.memory.promoted = AfterPromote::CheckpointPending;
                self.memory.divergence = Divergence::Fits;
                self.change_role(Role::Primary)?;
            }
            Task::StartPrimary { .. } => self.started(Role::Primary)?,
            Task::StartStandby { .. } => self.started(Role::Replica)?,
            Task::Stop { purpose: StopPurpose::Restart, .. } => {
                self.memory.expected_up = false;
                self.memory.owes_start = true;
                self.memory.state = MemberState::Restarting;
            }
            Task::Stop { purpose, .. } => {
                self.memory.owes_start = matches!(purpose, StopPurpose::Switchover | StopPurpose::Rebuild);
                self.memory.handing_over_since = (*purpose == StopPurpose::Switchover).then_some(self.view.now);
                self.memory.expected_up = false;
                self.memory.state = MemberState::Stopped;
                if *purpose == StopPurpose::Demote {
                    // What it wrote as a primary was not there when the histories were compared.
                    self.memory.divergence = Divergence::Unchecked;
                }
                self.memory.promoted = AfterPromote::NotPromoted;
                let mut told = self.memory.role.public();
                if told == Role::Primary {
                    self.memory.role = Role::Demoted;
                    // Scripts are told so where the cluster goes on with another primary.
                    if matches!(purpose, StopPurpose::Switchover | StopPurpose::Demote) {
                        told = Role::Demoted;
                    }
                }
                self.callback(CallbackAction::OnStop, told)?;
            }
            Task::Rewind { .. } => {
                // Compared once more: "no rewind required" is also what pg_rewind says of a source that it takes for one
                // that was never promoted.
                self.memory.divergence = Divergence::Unchecked;
                self.memory.rewind_failures = 0;
                self.memory.rewinds = self.memory.rewinds.saturating_add(1);
            }
            Task::Clone { .. } => {
                self.memory.divergence = Divergence::Fits;
                (self.memory.rewinds, self.memory.rewind_failures) = (0, 0);
                self.memory.reinit = None;
                // Also while paused: whoever asked for a copy asked for its start.
                self.memory.owes_start = true;
                self.memory.state = MemberState::Stopped;
            }
            Task::RemoveDataDir => self.memory.divergence = Divergence::Unchecked,
            Task::Checkpoint => self.memory.promoted = AfterPromote::CheckpointDone,
            Task::CopySlots { slots, .. } => self.slots_copied(slots),
            Task::CrashRecovery => self.memory.divergence = Divergence::Unchecked,
            Task::Bootstrap => self.memory.bootstrap_ended = Some(Ok(())),
            Task::Repoint { upstream } => {
                self.memory.kept_upstream =
                    self.view.pg.is_standby().then(|| self.follows(upstream.as_ref())).flatten();
                // Before version 13 whom to follow is read at the start only.
                let reloads = self.view.pg.major_version.is_none_or(|version| version >= 130_000);
                let action = if reloads { CallbackAction::OnReload } else { CallbackAction::OnRestart };
                self.callback(action, self.memory.role.public())?;
            }
        }
        Ok(())
    }

    fn absorb_failure(&mut self, task: &Task, progress: Option<Progress>, why: &str) -> Need<()> {
        match task {
            Task::Bootstrap => {
                let custom = matches!(progress, Some(Progress::CustomBootstrap | Progress::Restored));
                self.memory.state = if custom { MemberState::CustomBootstrapFailed } else { MemberState::InitdbFailed };
                self.memory.bootstrap_ended = Some(Err(why.to_owned()));
            }
            Task::Promote { .. } if progress == Some(Progress::PrePromote) => {
                self.memory.pre_promote_failed_at = Some(self.view.now);
                self.memory.role = Role::Replica;
                return Ok(());
            }
            Task::StartPrimary { .. } | Task::StartStandby { .. } if self.memory.restarting.is_some() => {
                self.memory.state = MemberState::RestartFailed;
                self.answer_restart(503, "restart failed")?;
            }
            Task::StartPrimary { .. } | Task::StartStandby { .. } => self.memory.state = MemberState::StartFailed,
            Task::Stop { .. } => {
                self.memory.state = MemberState::StopFailed;
                self.answer_restart(503, "restart failed")?;
            }
            // Tried again in its own time; says nothing of this server.
            Task::CopySlots { .. } => return Ok(()),
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
            self.memory.divergence = Divergence::Diverged;
            self.memory.rewind_error = Some(why.to_owned());
        }
        Ok(())
    }

    /// The server was started: after a restart, a crash, a change of role, or for the first time.
    fn started(&mut self, role: Role) -> Need<()> {
        let before = self.memory.role;
        self.memory.owes_start = false;
        self.memory.state = MemberState::Running;
        self.memory.expected_up = true;
        self.memory.role = role;
        if let Some(restarting) = self.memory.restarting {
            if restarting.primary == (role == Role::Primary) {
                self.callback(CallbackAction::OnRestart, role)?;
                return self.answer_restart(200, "restarted successfully");
            }
            self.answer_restart(503, "restart failed: the leader lock was lost meanwhile")?;
            return self.change_role(role);
        }
        match (before, role) {
            (Role::Primary | Role::Promoted | Role::Demoted, Role::Replica) => self.change_role(role),
            (Role::Primary | Role::Uninitialized, Role::Primary) => self.callback(CallbackAction::OnStart, role),
            (_, Role::Primary) => self.change_role(role),
            _ => self.callback(CallbackAction::OnStart, role),
        }
    }

    fn answer_restart(&mut self, code: u16, text: &str) -> Need<()> {
        if let Some(id) = self.memory.restarting.take().and_then(|restarting| restarting.request) {
            self.answered = Some(id);
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

    /// Tells scripts that the server reads its configuration again; not before they know of the server.
    pub fn tell_of_reload(&mut self) -> Need<()> {
        let known = self.memory.expected_up && self.memory.role != Role::Uninitialized;
        if self.view.reloaded && known && self.view.pg.postmaster == Postmaster::Running {
            self.callback(CallbackAction::OnReload, self.memory.role.public())?;
        }
        Ok(())
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
        if self.memory.role == Role::Promoted && server.in_recovery {
            return Ok(());
        }
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
        self.memory.role = role;
        Ok(())
    }
}
