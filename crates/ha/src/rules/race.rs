//! No leader: take the lock if this node is the one that should have it.

use model::ClusterView;

use super::cycle::Cycle;
use super::{End, Ruling, table::*};
use crate::facts::Need;
use crate::memory::Divergence;
use crate::step::{Effect, Outcome, StopMode, StopPurpose};

/// Why a node is no candidate in synchronous mode.
pub(super) const NOT_SYNCHRONOUS: &str = "this node is not a synchronous standby and may lack acknowledged commits";

impl Cycle<'_> {
    pub fn race(&mut self, cluster: &ClusterView) -> Ruling {
        if let Some(why) = self.back_off_race(cluster) {
            return self.unfit(&why);
        }
        match self.stay_out_of_race(cluster)? {
            None => {}
            Some(why) => return self.unfit(&why),
        }
        self.stand_guard();
        match self.act(Effect::AcquireLeader)? {
            Outcome::Leased(_) => {
                self.memory.lock_in_doubt = false;
                self.take_up_failover_request(cluster)?;
                self.lead_with_lease(cluster, "acquired session lock as a leader")
            }
            Outcome::LeasedLate(_) => {
                self.memory.lock_in_doubt = true;
                Ok(End::new(RACE_WON, "acquired session lock as a leader, after so long that I ask again")
                    .wake_in_ms(1))
            }
            Outcome::Unfenced(why) => self.unfenced(cluster, Some(why)),
            Outcome::Rejected(_) if self.view.pg.is_primary() && !self.paused() => {
                self.stop(StopMode::Immediate, StopPurpose::Demote)?;
                Ok(End::new(RACE_LOST, "demoting self after trying and failing to obtain lock"))
            }
            Outcome::Rejected(_) => {
                Ok(End::new(RACE_LOST, "following new leader after trying and failing to obtain lock").wake_in_ms(50))
            }
            _ => {
                // The write may be applied yet.
                self.memory.lock_in_doubt = true;
                Ok(End::new(RACE_LOST, "could not reach the store to obtain lock").wake_in_ms(500))
            }
        }
    }

    /// The lock was won by a write that took effect long after this node had compared itself with the others: before it
    /// promotes, it compares again, and gives the lock away where it would not try for it now.
    pub fn settle_doubts(&mut self, cluster: &ClusterView) -> Need<Option<End>> {
        if !self.memory.lock_in_doubt {
            return Ok(None);
        }
        if let Some(why) = self.stay_out_of_race(cluster)? {
            self.act(Effect::ReleaseLeader)?;
            self.let_go_of_fence()?;
            self.memory.lock_in_doubt = false;
            let text = format!("released leader key: it was won on old answers, and {why}");
            return Ok(Some(End::new(RACE_UNFIT, text).wake_in_ms(500)));
        }
        self.memory.lock_in_doubt = false;
        self.take_up_failover_request(cluster)?;
        Ok(None)
    }

    /// Why this node must not try for the lock, if so.
    fn stay_out_of_race(&mut self, cluster: &ClusterView) -> Need<Option<String>> {
        if self.pre_promote_has_failed() && !self.view.pg.is_primary() {
            return Ok(Some("pre_promote failed, leaving the lock to others for a while".to_owned()));
        }
        let nofailover = self.view.node.tags.nofailover();
        if let Some(failover) = cluster.failover.as_ref().map(|failover| &failover.value)
            && failover.scheduled_at.is_none()
            && !nofailover
        {
            let candidate = failover.candidate.as_deref();
            let switchover = failover.leader.is_some();
            if switchover && candidate.is_none_or(|name| name == self.me()) && self.lacks_sync(cluster) {
                return Ok(Some(NOT_SYNCHRONOUS.to_owned()));
            }
            if candidate == Some(self.me()) {
                return self.race_as_candidate(cluster, switchover);
            }
            if self.paused() && !self.view.pg.is_primary() {
                return Ok(Some("the requested candidate is another node, and the cluster is paused".to_owned()));
            }
            if let Some(name) = candidate
                && self.can_be_promoted(cluster, name)?
            {
                return Ok(Some(format!("waiting for the requested candidate {name} to take the lock")));
            }
            if failover.leader.as_deref() == Some(self.me()) && !self.paused() && self.someone_can_take_over(cluster)? {
                return Ok(Some(
                    "a switchover away from this node was requested and another node can take over".to_owned(),
                ));
            }
        }
        if self.view.pg.is_primary() && self.paused() {
            let id = cluster.system_id();
            return Ok((id.is_some() && id != self.view.pg.system_id())
                .then(|| "the data directory belongs to another cluster".to_owned()));
        }
        if self.view.pg.is_primary() && self.memory.leads_by_promise.is_some() && self.view.holds_lease() {
            // It led all the time, and nobody else could: standbys may be ahead of the look, not of this primary.
            return Ok(None);
        }
        if self.paused() {
            return Ok(Some("PAUSE: no action, the cluster has no leader".to_owned()));
        }
        // A primary that runs has nobody to fail over from: it keeps its place.
        if nofailover && !self.view.pg.is_primary() {
            return Ok(Some("I am not allowed to promote: tag nofailover".to_owned()));
        }
        if self.view.pg.unfinished.is_some() {
            return Ok(Some("the data directory is not consistent".to_owned()));
        }
        if matches!(self.memory.divergence, Divergence::Diverged | Divergence::Failed(_)) && !self.view.pg.is_primary()
        {
            return Ok(Some("the local history diverged from the last leader's".to_owned()));
        }
        if !self.may_retry() {
            return Ok(Some(
                "the last promotion of this node failed, leaving the lock to others for a while".to_owned(),
            ));
        }
        self.unfit_to_lead(cluster, false)
    }

    /// An operator named this node: positions are not compared. Where the request is a switchover, commits that others
    /// acknowledged must still be here: the old leader may have died in the middle of it.
    fn race_as_candidate(&mut self, cluster: &ClusterView, switchover: bool) -> Need<Option<String>> {
        let unfit = self.unfit_to_lead(cluster, true)?;
        if unfit.is_none()
            && switchover
            && !self.paused()
            && let Some(why) = self.lacks_votes(cluster)?
        {
            // Whoever has the votes shall lead.
            self.clear_failover_request(cluster)?;
            return Ok(Some(why));
        }
        Ok(unfit)
    }

    /// `primary_race_backoff`: WAL of the old leader still arrives, so it runs on and may have lost nothing but the lock. It
    /// is given time to take it back.
    fn back_off_race(&mut self, cluster: &ClusterView) -> Option<String> {
        let settings = &self.view.settings;
        let backoff = settings.primary_race_backoff;
        let named = cluster.failover.as_ref().is_some_and(|failover| failover.value.candidate.is_some());
        if backoff.is_zero() || self.paused() || settings.standby_cluster || named || !self.view.pg.is_standby() {
            return None;
        }
        let (now, loop_wait) = (self.view.now, settings.loop_wait);
        let (_, advanced_at) = self.memory.wal_advanced?;
        let since = *self.memory.race_backoff_since.get_or_insert(now);
        let waited = now.since(since);
        let streams = self.view.pg.server.as_ref().is_some_and(|server| server.receiver_status.is_some());
        let arrives = streams && now.since(advanced_at) <= loop_wait;
        ((waited < backoff && arrives) || waited < loop_wait.min(backoff)).then(|| {
            format!(
                "primary_race_backoff: leaving the lock to its last holder for up to {} s, {} s have passed",
                backoff.as_secs(),
                waited.as_secs()
            )
        })
    }

    fn unfit(&mut self, why: &str) -> Ruling {
        if self.view.pg.is_primary() {
            if self.paused() {
                return Ok(
                    End::new(PAUSED, format!("PAUSE: continue to run as primary without lock: {why}")).wake_in_ms(1000)
                );
            }
            self.stop(StopMode::Immediate, StopPurpose::Demote)?;
            return Ok(End::new(
                RACE_DEMOTE,
                format!("demoting self because I do not have the lock and may not take it: {why}"),
            ));
        }
        self.let_go_of_fence()?;
        if self.paused() {
            return Ok(End::new(PAUSED, why));
        }
        Ok(End::new(RACE_UNFIT, format!("following a different leader because i am not the healthiest node: {why}"))
            .wake_in_ms(1000))
    }
}
