//! The store cannot be reached: nothing is known about who leads, only how long the own lease is good for.

use model::pg::{DataDir, Postmaster};

use super::cycle::Cycle;
use super::{End, Ruling, table::*};
use crate::step::{Effect, StopMode, StopPurpose, Task};
use crate::view::LeaseView;

impl Cycle<'_> {
    pub fn store_lost(&mut self, why: &str) -> Ruling {
        if let Some(end) = self.writable_without_lease()? {
            return Ok(end);
        }
        self.decline_requests("the store cannot be reached")?;
        if self.memory.bootstrap_ended.is_some() {
            return Ok(End::new(
                STORE_LOST,
                format!("DCS is not accessible, waiting to record the new cluster ({why})"),
            )
            .wake_in_ms(1000));
        }
        if let Some(running) = &self.view.task {
            self.let_go_when_nobody_writes()?;
            let writable = matches!(running.task, Task::Promote { .. } | Task::StartPrimary { .. });
            if writable && self.lease_is_ending() && !self.paused() {
                self.act(Effect::CancelTask)?;
                return Ok(End::new(TASK_LOST_LEASE, "store unreachable and the lease is ending: task cancelled")
                    .wake_in_ms(200));
            }
            if !matches!(running.task, Task::Stop { .. }) && self.view.pg.is_primary() && !self.paused() {
                return self.primary_without_store(why);
            }
            return Ok(
                End::new(STORE_LOST, format!("DCS is not accessible, a task is running ({why})")).wake_in_ms(500)
            );
        }
        if self.paused() {
            return Ok(End::new(STORE_LOST, format!("PAUSE: DCS is not accessible ({why})")).wake_in_ms(1000));
        }
        match self.view.pg.postmaster {
            Postmaster::Absent => self.start_without_store(why),
            _ if self.view.pg.is_primary() || (self.view.pg.server.is_none() && self.leads_by_memory()) => {
                self.primary_without_store(why)
            }
            _ => {
                self.sync_slots_by_promise()?;
                Ok(End::new(STORE_LOST, format!("DCS is not accessible ({why})")).wake_in_ms(1000))
            }
        }
    }

    fn leads_by_memory(&self) -> bool {
        self.memory.role.public() == model::Role::Primary
    }

    /// Every kind of failure of the store ends here for a primary: in failsafe mode it asks the other members, and without
    /// their consent it stops when the lease is about to end.
    fn primary_without_store(&mut self, why: &str) -> Ruling {
        let missing = match self.ask_for_consent(why)?.given() {
            Ok(end) => return Ok(end),
            Err(missing) => missing,
        };
        if !self.lease_is_ending() {
            let LeaseView::Held(deadline) = self.view.lease else {
                return Ok(End::new(STORE_LOST_LEADING, why));
            };
            let left_ms = deadline.minus(self.demote_margin()).since(self.view.now).as_millis() as u64;
            let text = format!(
                "DCS is not accessible ({why}){missing}; the lease is good for another {:.1} s, demoting in {:.1} s unless it comes back",
                deadline.since(self.view.now).as_secs_f64(),
                left_ms as f64 / 1000.0
            );
            return Ok(End::new(STORE_LOST_LEADING, text).wake_in_ms(left_ms.clamp(1, 1000)));
        }
        // What is left of the lease is for a fast stop; the sentinel ends what has not stopped by the deadline. A task that
        // runs gives way to an immediate stop only.
        let fast = self.view.holds_lease() && self.view.task.is_none();
        let mode = if fast { StopMode::Fast } else { StopMode::Immediate };
        self.stop(mode, StopPurpose::Demote)?;
        let text = format!("demoting self because DCS is not accessible and I was a leader ({why}){missing}");
        Ok(End::new(STORE_LOST_DEMOTE, text).wake_in_ms(200))
    }

    /// A server that is down comes back read-only, to serve readers and to be ready when the store returns.
    fn start_without_store(&mut self, why: &str) -> Ruling {
        let usable = self.view.pg.data_dir == DataDir::Present && self.view.pg.unfinished.is_none();
        if !usable || !self.may_retry() || self.memory.reinit.is_some() {
            return Ok(End::new(STORE_LOST, format!("DCS is not accessible ({why})")).wake_in_ms(1000));
        }
        let known = self.memory.healthy_cluster.clone();
        let local = self.view.pg.system_id();
        let ours =
            known.as_deref().is_some_and(|cluster| cluster.system_id().is_some() && cluster.system_id() == local);
        if !ours {
            // A start writes into the data directory, which may be another cluster's.
            let text = format!(
                "DCS is not accessible ({why}); this agent has not seen the cluster yet and does not start PostgreSQL \
                 before it knows that the data directory belongs to it"
            );
            return Ok(End::new(STORE_LOST, text).wake_in_ms(1000));
        }
        let upstream = known.as_deref().and_then(|cluster| self.target_in(cluster).upstream());
        self.let_go_of_fence()?;
        self.start(Task::StartStandby { upstream })?;
        Ok(End::new(STORE_LOST_RESTART, format!("DCS is not accessible, starting PostgreSQL read-only ({why})")))
    }
}
