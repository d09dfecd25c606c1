//! This node holds the lock: keep it, promote, and do what only a leader does.

use model::wire::{encode_history, encode_status};
use model::{ClusterView, HistoryEntry, Key, Lsn, Role, Status, Timeline};

use super::cycle::Cycle;
use super::{End, Ruling, table::*};
use crate::facts::{Answer, Need};
use crate::memory::{AfterPromote, Divergence};
use crate::step::{Effect, Outcome, Probe, StopMode, StopPurpose, Task, WriteGuard};

impl Cycle<'_> {
    pub fn lead(&mut self, cluster: &ClusterView) -> Ruling {
        if self.paused() && !self.view.pg.is_primary() && !self.candidate_of(cluster) {
            self.act(Effect::ReleaseLeader)?;
            self.let_go_of_fence()?;
            return Ok(End::new(PAUSED, "PAUSE: released leader lock because PostgreSQL is not running as primary"));
        }
        if !self.view.pg.is_primary() && self.pre_promote_has_failed() {
            self.act(Effect::ReleaseLeader)?;
            self.let_go_of_fence()?;
            return Ok(End::new(LEAD_PRE_PROMOTE, "released leader key because pre_promote failed").wake_in_ms(1000));
        }
        self.stand_guard();
        match self.act(Effect::RenewLeader)? {
            Outcome::Leased(_) => self.lead_with_lease(cluster, ""),
            Outcome::Unfenced(why) => self.unfenced(cluster, Some(why)),
            Outcome::Rejected(_) => self.lost_lock("lost the leader lock"),
            Outcome::Unreachable(why) | Outcome::Failed(why) => {
                let missing = match self.ask_for_consent(why)?.given() {
                    Ok(end) => return Ok(end),
                    Err(missing) => missing,
                };
                if self.lease_is_ending() {
                    return self
                        .lost_lock(&format!("failed to update leader lock in DCS and the lease is ending{missing}"));
                }
                let text = format!("failed to update leader lock, the lease is still good: {why}{missing}");
                Ok(End::new(LEAD_UNSURE, text).wake_in_ms(1000))
            }
            _ => Ok(End::new(LEAD_UNSURE, "failed to update leader lock, the lease is still good").wake_in_ms(1000)),
        }
    }

    fn candidate_of(&self, cluster: &ClusterView) -> bool {
        cluster.failover.as_ref().is_some_and(|failover| failover.value.candidate.as_deref() == Some(self.me()))
    }

    /// `pre_promote` failed, and the others have not had a ttl yet to take over.
    pub fn pre_promote_has_failed(&self) -> bool {
        self.memory.pre_promote_failed_at.is_some_and(|at| self.view.now.since(at) < self.view.settings.ttl)
    }

    fn lost_lock(&mut self, why: &str) -> Ruling {
        if self.paused() {
            return Ok(End::new(PAUSED, format!("PAUSE: continue to run as {}: {why}", self.memory.role.public()))
                .wake_in_ms(1000));
        }
        if self.view.pg.is_primary() {
            self.stop(StopMode::Immediate, StopPurpose::Demote)?;
            return Ok(End::new(LEAD_LOST, format!("demoted self because {why}")));
        }
        Ok(End::new(LEAD_LOST, format!("not promoting because {why}")).wake_in_ms(50))
    }

    /// The lease was acquired or renewed in this cycle. `opening` starts the sentence where there is something to say.
    pub fn lead_with_lease(&mut self, cluster: &ClusterView, opening: &str) -> Ruling {
        if self.view.fence.failed && !self.paused() {
            return self.unfenced(cluster, None);
        }
        if !self.view.pg.is_primary() {
            return self.promote(cluster, opening);
        }
        self.memory.divergence = Divergence::Fits;
        self.memory.leads_by_promise = None;
        self.write_status()?;
        self.write_failsafe_members(cluster)?;
        self.restore_config(cluster)?;
        self.write_history(cluster)?;
        let synchronized = self.manage_sync(cluster)?;
        // A request that is still in this view was taken up when the lock was won.
        if opening.is_empty()
            && let Some(end) = self.consider_switchover(cluster)?
        {
            return Ok(end);
        }
        if let Some(end) = self.scheduled_restart()? {
            return Ok(end);
        }
        if self.checkpoint_is_owed() && self.may_retry() {
            self.start(Task::Checkpoint)?;
            return Ok(End::new(LEAD_CHECKPOINT, "promoted self to leader, running the checkpoint after promotion"));
        }
        let pause = if self.paused() { "PAUSE: " } else { "" };
        if !opening.is_empty() {
            return Ok(End::new(RACE_WON, format!("{pause}{opening}")).wake_in_ms(1));
        }
        if let Some(said) = synchronized {
            return Ok(End::new(LEAD_SYNC, format!("{pause}{said}")));
        }
        Ok(End::new(LEAD, format!("{pause}no action. I am ({}), the leader with the lock", self.me())))
    }

    /// A server whose control file is still on the timeline before is not done with its promotion: pg_rewind would take
    /// it for one that was never promoted. This holds also where another life of the agent promoted it.
    fn checkpoint_is_owed(&mut self) -> bool {
        let recorded = self.view.pg.control.as_ref().map(|control| control.timeline);
        self.memory.promoted = match self.memory.promoted {
            AfterPromote::CheckpointPending | AfterPromote::NotPromoted if recorded < self.own_timeline() => {
                AfterPromote::CheckpointPending
            }
            AfterPromote::CheckpointPending => AfterPromote::CheckpointDone,
            other => other,
        };
        self.memory.promoted == AfterPromote::CheckpointPending
    }

    fn promote(&mut self, cluster: &ClusterView, opening: &str) -> Ruling {
        if !self.may_retry() {
            if self.memory.retry.failures > 1 && self.someone_can_take_over(cluster)? {
                self.memory.retry.not_before = Some(self.view.now.plus(self.view.settings.ttl));
                self.act(Effect::ReleaseLeader)?;
                self.let_go_of_fence()?;
                return Ok(End::new(
                    RECOVER_GIVE_UP,
                    "released leader key: the promotion failed and another node can take over",
                )
                .wake_in_ms(2000));
            }
            return Ok(
                End::new(RECOVER_BACKOFF, "the promotion failed, waiting before the next attempt").wake_in_ms(500)
            );
        }
        if let Some(end) = self.settle_doubts(cluster)? {
            return Ok(end);
        }
        if let Some(end) = self.prepare_sync(cluster)? {
            return Ok(end);
        }
        let Some(proof) = self.facts.lease_proof() else {
            return Ok(End::new(LEAD_UNSURE, "not promoting without a fresh lease").wake_in_ms(200));
        };
        self.warn_of_unready_slots()?;
        self.memory.role = Role::Promoted;
        self.start(Task::Promote { proof })?;
        let text = if opening.is_empty() {
            "promoting self because I hold the leader lock"
        } else {
            "promoted self to leader by acquiring session lock"
        };
        Ok(End::new(LEAD_PROMOTE, text))
    }

    /// Publishes the position that standbys are measured against, when it changed.
    fn write_status(&mut self) -> Need<()> {
        let Some(position) = self.view.pg.server.as_ref().and_then(|server| server.wal_position()) else {
            return Ok(());
        };
        let (slots, retain_slots) = (self.published_slots(), self.retained_slots());
        let status = Status { optime: Some(position), slots, retain_slots };
        let text = encode_status(&status);
        if self.memory.status_written.as_ref() == Some(&text) {
            return Ok(());
        }
        let put = Effect::Put { key: Key::Status, value: text.clone(), guard: WriteGuard::None };
        if self.act(put)?.succeeded() {
            self.memory.status_written = Some(text);
        }
        Ok(())
    }

    /// The last position of a primary that is shut down: what candidates must have, and what lag is measured against.
    pub fn write_final_position(&mut self, checkpoint: Lsn) -> Need<()> {
        let Some(cluster) = self.view.cluster() else {
            return Ok(());
        };
        let mut status = cluster.status.clone();
        if status.optime < Some(checkpoint) {
            status.optime = Some(checkpoint);
            status.slots.insert(model::slots::slot_name_from_member(self.me()), checkpoint);
            self.act(Effect::Put { key: Key::Status, value: encode_status(&status), guard: WriteGuard::None })?;
        }
        Ok(())
    }

    /// The store lost the dynamic configuration: the leader writes back what it knows.
    fn restore_config(&mut self, cluster: &ClusterView) -> Need<()> {
        if cluster.config.is_none() {
            let value = self.view.node.initial_config.clone();
            self.act(Effect::Put { key: Key::Config, value, guard: WriteGuard::Absent })?;
        }
        Ok(())
    }

    /// After a change of timeline: a row for the timeline that ended.
    fn write_history(&mut self, cluster: &ClusterView) -> Need<()> {
        let Some(timeline) = self.own_timeline() else {
            return Ok(());
        };
        let known = cluster.history.as_ref().map(|history| history.value.as_slice());
        if timeline == Timeline(1) {
            if known.is_none_or(|rows| !rows.is_empty()) {
                self.act(Effect::Put { key: Key::History, value: "[]".to_owned(), guard: WriteGuard::None })?;
            }
            return Ok(());
        }
        let known = known.unwrap_or_default();
        // Somebody else's rows may have followed: a primary that went on through a pause leads on an older timeline.
        if self.memory.history_written == Some(timeline) && cluster.timeline() == Some(timeline) {
            return Ok(());
        }
        let Answer::OwnHistory(Some(switches)) = self.facts.ask(Probe::OwnHistory)? else {
            return Ok(());
        };
        let mut rows: Vec<HistoryEntry> = Vec::with_capacity(switches.len());
        let last = switches.last().map(|switch| switch.timeline);
        for switch in switches {
            let before = known.iter().find(|row| row.timeline == switch.timeline && row.lsn == switch.switchpoint);
            let newest = Some(switch.timeline) == last;
            rows.push(HistoryEntry {
                timeline: switch.timeline,
                lsn: switch.switchpoint,
                reason: switch.reason.clone(),
                timestamp: before.and_then(|row| row.timestamp.clone()).or_else(|| newest.then(|| iso(self.view.wall))),
                new_leader: before
                    .and_then(|row| row.new_leader.clone())
                    .or_else(|| newest.then(|| self.me().to_owned())),
            });
        }
        let limit = self.view.settings.max_timelines_history;
        if limit > 0 && rows.len() > limit {
            rows.drain(..rows.len() - limit);
        }
        if rows != known {
            self.act(Effect::Put { key: Key::History, value: encode_history(&rows), guard: WriteGuard::None })?;
        }
        self.memory.history_written = Some(timeline);
        Ok(())
    }
}

/// ISO 8601 with microseconds and offset, as upstream writes timestamps.
pub(crate) fn iso(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6f%:z").to_string()
}
