//! The fence: when it stands, when it is let go, and what happens where it is required and missing.

use model::ClusterView;
use model::pg::{ControlState, Postmaster};

use super::cycle::Cycle;
use super::{End, Ruling, table::*};
use crate::facts::Need;
use crate::step::{Effect, Task};

impl Cycle<'_> {
    /// Nothing of ours is writable: the fence must not kill a standby.
    pub fn let_go_of_fence(&mut self) -> Need<()> {
        if !self.memory.disarmed {
            self.act(Effect::Disarm)?;
            self.memory.disarmed = true;
        }
        Ok(())
    }

    /// The lease is about to be acquired or renewed, which arms the fence, except while paused.
    pub fn stand_guard(&mut self) {
        self.memory.disarmed = self.paused();
    }

    /// Pitfall 1. PostgreSQL is stopping and its control file says that the shutdown checkpoint has begun, which happens
    /// only when no client's process is left: nothing will be acknowledged any more, however long the rest takes. Where
    /// nobody renews the lease, the machine must not be reset over that.
    pub fn let_go_when_nobody_writes(&mut self) -> Need<()> {
        let stopping = self.view.pg.postmaster == Postmaster::Stopping
            && self.view.task.as_ref().is_some_and(|running| matches!(running.task, Task::Stop { .. }));
        let state = self.view.pg.control.as_ref().map(|control| control.state);
        if stopping && matches!(state, Some(ControlState::ShuttingDown | ControlState::ShutDown)) {
            self.let_go_of_fence()?;
        }
        Ok(())
    }

    /// The lock is held and a guard that is required is missing: do not lead. A running primary is stopped first.
    pub fn unfenced(&mut self, cluster: &ClusterView, why: Option<&str>) -> Ruling {
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        if self.view.pg.is_primary() {
            let text = format!("fencing is required and does not work, stopping PostgreSQL{why}");
            return self.stop_to_give_way(LEAD_UNFENCED, text);
        }
        if let Some(Task::Promote { .. } | Task::StartPrimary { .. }) = self.view.task.as_ref().map(|task| &task.task) {
            self.act(Effect::CancelTask)?;
            let text = format!("fencing is required and does not work, cancelled the task{why}");
            return Ok(End::new(LEAD_UNFENCED, text).wake_in_ms(200));
        }
        self.act(Effect::ReleaseLeader)?;
        self.let_go_of_fence()?;
        // Others first: the lock must not be won and given away again every second.
        let retry_at = self.view.now.plus(self.view.settings.loop_wait);
        self.memory.retry.not_before = self.memory.retry.not_before.max(Some(retry_at));
        let held = if self.mine(cluster) { "released the leader lock" } else { "gave the leader lock back" };
        Ok(End::new(LEAD_UNFENCED, format!("fencing is required and does not work, {held}{why}")).wake_in_ms(1000))
    }
}
