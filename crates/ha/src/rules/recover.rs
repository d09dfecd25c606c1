//! PostgreSQL is down and has data: start it as what it should be now.

use model::pg::{ControlState, Unfinished, Upstream};
use model::{ClusterView, MemberState, Role};

use super::cycle::Cycle;
use super::follow::Target;
use super::{End, Ruling, table::*};
use crate::facts::{Answer, Need};
use crate::memory::Divergence;
use crate::step::{Effect, Outcome, Probe, StopPurpose, Task};

/// How long a stopped primary waits for a candidate to receive the shutdown checkpoint before it starts again, and how
/// long a node that handed its lock over waits for the new leader before it starts as a standby of nobody.
const HAND_OVER_WAIT_MS: u128 = 5_000;
/// pg_rewind failures in a row, with the leader there, before an operator or a policy has to decide.
const REWIND_FAILURES_MAX: u32 = 3;

impl Cycle<'_> {
    pub fn recover(&mut self, cluster: &ClusterView) -> Ruling {
        if self.memory.expected_up {
            self.memory.state = MemberState::Crashed;
            self.memory.expected_up = false;
        }
        self.memory.starting_since = None;
        if self.paused() && !self.memory.owes_start {
            self.let_go_of_fence()?;
            if self.mine(cluster) {
                self.act(Effect::ReleaseLeader)?;
                return Ok(End::new(PAUSED_DOWN, "PAUSE: removed leader lock because PostgreSQL is not running"));
            }
            return Ok(End::new(PAUSED_DOWN, "PAUSE: PostgreSQL is not running"));
        }
        if self.mine(cluster) { self.recover_with_lock(cluster) } else { self.recover_as_standby(cluster) }
    }

    fn recover_with_lock(&mut self, cluster: &ClusterView) -> Ruling {
        if let Some(end) = self.stopped_to_hand_over(cluster)? {
            return Ok(end);
        }
        let give_way = self.view.settings.primary_start_timeout.is_zero() && self.memory.restarting.is_none();
        if self.memory.retry.failures > 0 || self.memory.giving_way || give_way {
            if self.someone_can_take_over(cluster)? {
                self.act(Effect::ReleaseLeader)?;
                self.let_go_of_fence()?;
                return Ok(End::new(
                    RECOVER_GIVE_UP,
                    "released leader key after PostgreSQL went down, another node can take over",
                )
                .wake_in_ms(1000));
            }
            if !self.may_retry() {
                return self.keep_waiting(
                    cluster,
                    RECOVER_BACKOFF,
                    "PostgreSQL did not start, waiting before the next attempt",
                );
            }
        }
        if self.view.fence.failed || self.view.pg.unfinished.is_some() {
            let (rule, why) = match self.view.fence.failed {
                true => (LEAD_UNFENCED, "fencing is required and does not work"),
                false => (RECOVER_GIVE_UP, "the data directory is in the middle of a rewind"),
            };
            self.act(Effect::ReleaseLeader)?;
            self.let_go_of_fence()?;
            return Ok(End::new(rule, format!("released leader key: {why}")).wake_in_ms(1000));
        }
        self.stand_guard();
        let renewed = self.act(Effect::RenewLeader)?;
        let Some(proof) = self.facts.lease_proof() else {
            if let Outcome::Unfenced(why) = renewed {
                return self.unfenced(cluster, Some(why));
            }
            return Ok(match renewed {
                Outcome::Rejected(_) => {
                    End::new(LEAD_LOST, "lost the leader lock while PostgreSQL is down").wake_in_ms(50)
                }
                _ => End::new(LEAD_UNSURE, "failed to update leader lock while PostgreSQL is down").wake_in_ms(500),
            });
        };
        if self.view.pg.recovery_configured {
            self.start(Task::StartStandby { upstream: None })?;
            return Ok(End::new(RECOVER_READONLY, "starting as readonly because i had the session lock"));
        }
        self.memory.role = Role::Primary;
        if let Some(restarting) = self.memory.restarting {
            self.start(Task::StartPrimary { timeout: restarting.timeout, proof })?;
            return Ok(End::new(RESTART, "restart in progress"));
        }
        self.start(Task::StartPrimary { timeout: self.view.settings.primary_start_timeout, proof })?;
        Ok(End::new(RECOVER_PRIMARY, "starting primary after failure"))
    }

    /// The stop of a switchover has ended and the lock is still held: hand over as soon as a candidate has everything,
    /// or call it off.
    fn stopped_to_hand_over(&mut self, cluster: &ClusterView) -> Need<Option<End>> {
        let clean = self.view.pg.control.as_ref().filter(|control| control.state == ControlState::ShutDown);
        let (Some(since), Some(control)) = (self.memory.handing_over_since, clean) else {
            return Ok(None);
        };
        let checkpoint = control.checkpoint;
        if self.hand_over(cluster, checkpoint)? {
            self.memory.handing_over_since = None;
            let text = format!("released the leader lock: a standby has the shutdown checkpoint {checkpoint}");
            return Ok(Some(End::new(HAND_OVER, text)));
        }
        if self.view.now.since(since).as_millis() < HAND_OVER_WAIT_MS {
            self.act(Effect::RenewLeader)?;
            let text = format!("waiting for a standby to receive the shutdown checkpoint {checkpoint}");
            return Ok(Some(End::new(HAND_OVER, text).wake_in_ms(20)));
        }
        self.memory.handing_over_since = None;
        self.clear_failover_request(cluster)?;
        Ok(None)
    }

    fn recover_as_standby(&mut self, cluster: &ClusterView) -> Ruling {
        self.memory.giving_way = false;
        self.let_go_of_fence()?;
        if !self.may_retry() {
            return Ok(End::new(RECOVER_BACKOFF, "the last attempt failed, waiting before the next").wake_in_ms(500));
        }
        let Some(leader) = cluster.leader_name() else {
            return self.recover_without_leader();
        };
        let target = self.target_in(cluster);
        if matches!(target, Target::Unpublished) {
            return Ok(
                End::new(FOLLOW_WAIT, format!("waiting for leader '{leader}' to publish its address")).wake_in_ms(1000)
            );
        }
        // A copy that was never started is compared when it runs: until then its control file says where its source was.
        let unstarted = self.view.pg.unstarted_copy && self.view.pg.unfinished.is_none();
        let source = cluster.leader_member().and_then(|member| member.pg_address()).filter(|_| !unstarted);
        if !unstarted && let Some(end) = self.crash_recovery_first()? {
            return Ok(end);
        }
        if let Some(address) = source {
            let leader = Upstream { address, slot: None };
            if let Some(end) = self.check_divergence(cluster, &leader)? {
                return Ok(end);
            }
            if let Some(end) = self.resolve_divergence(cluster, &leader)? {
                return Ok(end);
            }
        }
        self.start(Task::StartStandby { upstream: target.upstream() })?;
        Ok(End::new(RECOVER_STANDBY, "starting as a secondary"))
    }

    fn recover_without_leader(&mut self) -> Ruling {
        if let Some(at) = self.memory.handed_over_at
            && self.view.now.since(at).as_millis() < HAND_OVER_WAIT_MS
        {
            return Ok(
                End::new(RECOVER_HANDED_OVER, "waiting for the new leader after handing the lock over").wake_in_ms(500)
            );
        }
        if self.view.pg.unfinished == Some(Unfinished::Rewind) {
            return Ok(End::new(REWIND_WAIT, "the data directory is in the middle of a rewind, waiting for a leader")
                .wake_in_ms(1000));
        }
        self.start(Task::StartStandby { upstream: None })?;
        Ok(End::new(RECOVER_STANDBY, "starting as a secondary"))
    }

    pub fn may_retry(&self) -> bool {
        self.memory.retry.not_before.is_none_or(|at| at <= self.view.now)
    }

    fn stopped_cleanly(&self) -> bool {
        let state = self.view.pg.control.as_ref().map(|control| control.state);
        matches!(state, Some(ControlState::ShutDown | ControlState::ShutDownInRecovery))
    }

    /// A server that was promoted, crashed before its first checkpoint and came back as a standby: its control file still
    /// names the timeline before, and pg_rewind (up to 15) believes it and finds nothing to do. The end of a recovery in
    /// single-user mode writes the timeline that the data is on.
    fn control_file_is_behind(&self) -> bool {
        self.view.pg.control.as_ref().is_some_and(|control| {
            control.state == ControlState::ShutDownInRecovery && control.min_recovery_timeline > control.timeline
        })
    }

    fn can_rewind(&self) -> bool {
        self.view.settings.use_pg_rewind && self.view.pg.control.as_ref().is_some_and(|control| control.rewindable)
    }

    /// pg_rewind needs a server that stopped cleanly, and a control file that names the last timeline. A crashed primary
    /// replays its own WAL first; also where the leader is on the timeline that the control file names, for a primary
    /// that was stopped soon after a promotion has left that timeline without a checkpoint on the next.
    fn crash_recovery_first(&mut self) -> Need<Option<End>> {
        let Some(control) = &self.view.pg.control else {
            return Ok(None);
        };
        let unclean = matches!(
            control.state,
            ControlState::InProduction
                | ControlState::ShuttingDown
                | ControlState::InCrashRecovery
                | ControlState::StartingUp
        );
        let interrupted = self.view.pg.unfinished == Some(Unfinished::Rewind);
        if !unclean || interrupted || !self.can_rewind() {
            return Ok(None);
        }
        self.start(Task::CrashRecovery)?;
        Ok(Some(End::new(CRASH_RECOVERY, "doing crash recovery in a single user mode")))
    }

    /// Acts on a divergence that was found. `None`: there is none, or nothing can be done about it and the server may
    /// as well run.
    pub fn resolve_divergence(&mut self, cluster: &ClusterView, leader: &Upstream) -> Need<Option<End>> {
        let policy = &self.view.settings;
        let running = self.view.pg.postmaster != model::pg::Postmaster::Absent;
        match self.memory.divergence.clone() {
            Divergence::Unchecked | Divergence::Fits => Ok(None),
            Divergence::Diverged if self.can_rewind() => self.rewind(cluster, leader),
            Divergence::Diverged if policy.remove_data_directory_on_diverged_timelines => {
                self.rebuild(cluster, "reinitializing due to diverged timelines")
            }
            Divergence::Failed(_) | Divergence::Diverged if self.view.pg.unfinished.is_some() => {
                // pg_rewind truncates and removes the local WAL that it would need for another attempt. What it leaves is
                // no database any more (PostgreSQL documentation, pg_rewind, "Notes"): nothing is lost with it.
                self.rebuild(cluster, "taking a new copy: pg_rewind was interrupted and cannot be repeated")
            }
            Divergence::Failed(_)
                if policy.remove_data_directory_on_rewind_failure
                    || policy.remove_data_directory_on_diverged_timelines =>
            {
                self.rebuild(cluster, "reinitializing because pg_rewind failed")
            }
            Divergence::Failed(why) => {
                self.needs_an_operator(&format!("pg_rewind failed and will not be tried again ({why})"))
            }
            Divergence::Diverged if running => self.needs_an_operator(
                "the local history diverged from the leader's and cannot be rewound (use_pg_rewind, and wal_log_hints or checksums, are needed)",
            ),
            Divergence::Diverged => Ok(None),
        }
    }

    /// Nothing more can be done here: the sentence stays visible until somebody acts.
    fn needs_an_operator(&mut self, what: &str) -> Need<Option<End>> {
        let text = format!("{what}; run patronictl reinit for {}", self.me());
        self.memory.problem = Some(text.clone());
        Ok(Some(End::new(DIVERGED, text)))
    }

    /// The way to a rewind: the leader's checkpoint, a clean stop, and pg_rewind itself.
    fn rewind(&mut self, cluster: &ClusterView, leader: &Upstream) -> Need<Option<End>> {
        let name = cluster.leader_name().unwrap_or_default();
        // The record of a leader whose promotion has just ended says so and not yet that the checkpoint is owed.
        let ready = cluster.leader_member().is_some_and(|member| {
            member.role() == Some(Role::Primary) && member.checkpoint_after_promote != Some(false)
        });
        if !ready {
            let text = format!("waiting for checkpoint on {name} before rewind");
            return Ok(Some(End::new(REWIND_WAIT, text).wake_in_ms(500)));
        }
        if self.view.pg.postmaster != model::pg::Postmaster::Absent {
            self.stop(crate::step::StopMode::Fast, StopPurpose::Rebuild)?;
            return Ok(Some(End::new(REWIND, "stopping PostgreSQL to run pg_rewind")));
        }
        if self.view.pg.unfinished.is_none() && (!self.stopped_cleanly() || self.control_file_is_behind()) {
            self.start(Task::CrashRecovery)?;
            let text = "doing crash recovery in a single user mode before pg_rewind";
            return Ok(Some(End::new(CRASH_RECOVERY, text)));
        }
        if let Some(end) = self.judge_failed_rewind(cluster, leader)? {
            return Ok(Some(end));
        }
        self.start(Task::Rewind { source: leader.clone() })?;
        Ok(Some(End::new(REWIND, format!("running pg_rewind from {name}"))))
    }

    /// After a pg_rewind that failed: where the leader was not there it says nothing of this data directory and is tried
    /// again when it is; where the leader was there it counts, and the last of several is final.
    fn judge_failed_rewind(&mut self, cluster: &ClusterView, leader: &Upstream) -> Need<Option<End>> {
        let Some(why) = self.memory.rewind_error.clone() else {
            return Ok(None);
        };
        let source = Upstream { address: leader.address.clone(), slot: None };
        let there = matches!(
            self.facts.ask(Probe::Server(source))?,
            Answer::Server(Ok(position)) if !position.in_recovery
        );
        if !there {
            let text = format!("pg_rewind failed, and the leader does not answer: waiting for it ({why})");
            return Ok(Some(End::new(REWIND_WAIT, text).wake_in_ms(1000)));
        }
        self.memory.rewind_error = None;
        self.memory.rewind_failures = self.memory.rewind_failures.saturating_add(1);
        if self.memory.rewind_failures < REWIND_FAILURES_MAX {
            return Ok(None);
        }
        self.memory.divergence = Divergence::Failed(why);
        self.resolve_divergence(cluster, leader)
    }

    fn rebuild(&mut self, cluster: &ClusterView, text: &str) -> Need<Option<End>> {
        self.memory.reinit = Some(true);
        let mut end = self.reinitialize(cluster)?;
        end.reason = format!("{text}: {}", end.reason);
        Ok(Some(end))
    }

    /// Replaces the data directory by a new copy: stop, remove, clone; each with fresh facts.
    pub fn reinitialize(&mut self, cluster: &ClusterView) -> Ruling {
        let Some(leader) = cluster.leader_name().map(str::to_owned) else {
            return Ok(End::new(REINIT, "reinitialize: waiting for a leader to copy").wake_in_ms(1000));
        };
        if !self.may_retry() {
            return Ok(End::new(RECOVER_BACKOFF, "reinitialize: the last attempt failed, waiting before the next")
                .wake_in_ms(500));
        }
        self.let_go_of_fence()?;
        if self.is_listed(cluster) {
            // Whoever is named there may be promoted: with what a copy of somebody else would bring.
            self.memory.leaving_sync_since = Some(self.leaving_since.unwrap_or(self.view.now));
            let text = "reinitialize: waiting to be released from the synchronous standbys";
            return Ok(End::new(REINIT, text).wake_in_ms(500));
        }
        if self.view.pg.postmaster != model::pg::Postmaster::Absent {
            self.stop(crate::step::StopMode::Immediate, StopPurpose::Rebuild)?;
            return Ok(End::new(REINIT, "reinitialize: stopping PostgreSQL"));
        }
        // A method that goes on from the data that is there removes itself what it does not want, and so do the others.
        let over_data = self.view.node.clones_over_data && self.memory.reinit == Some(false);
        if !self.must_clone() && !over_data {
            self.start(Task::RemoveDataDir)?;
            return Ok(End::new(REINIT, "reinitialize: removing the data directory"));
        }
        self.memory.role = Role::Uninitialized;
        self.clone_member(cluster, &leader)
    }
}
