//! The order of a cycle.

use model::pg::{ControlState, Postmaster, Unfinished};
use model::{BootTime, ClusterView, Role};

use super::failsafe::Consent;
use super::{End, Ruling, table::*};
use crate::facts::{Facts, Need};
use crate::memory::{Divergence, Memory};
use crate::step::{Effect, Outcome, StopMode, StopPurpose, Task};
use crate::view::{LeaseView, StoreView, View};

/// One cycle under way: what is seen, what has been done, and the carry-over as it will be.
pub(crate) struct Cycle<'a> {
    pub view: &'a View,
    pub facts: &'a Facts,
    pub memory: Memory,
    /// Look again no later than in so many milliseconds, however the cycle ends.
    pub look_again_ms: Option<u64>,
    /// The request that the end of a task has answered; the view still shows it.
    pub answered: Option<u64>,
    /// Since when this node wants to be no synchronous standby, where the last cycle did already.
    pub leaving_since: Option<BootTime>,
}

impl<'a> Cycle<'a> {
    pub fn run(&mut self) -> Ruling {
        self.absorb_finished()?;
        self.tell_of_reload()?;
        let end = self.settle()?;
        self.publish()?;
        Ok(end)
    }

    /// The main rules, in order.
    fn settle(&mut self) -> Ruling {
        if self.view.shutdown {
            return self.shut_down();
        }
        let cluster = match &self.view.store {
            StoreView::Unreachable(why) => return self.store_lost(why),
            StoreView::Read(cluster) => cluster.as_ref(),
        };
        if let Some(end) = self.give_back_promised_lock(cluster)? {
            return Ok(end);
        }
        self.note_failsafe_members(cluster);
        let led = self.led_by_promise(cluster)?;
        let cluster = led.as_ref().unwrap_or(cluster);
        self.remember(cluster);
        if self.paused() {
            // Renewals do not move the fence's deadline while paused: the one that is set must not strike.
            self.let_go_of_fence()?;
        }
        if let Some(end) = self.writable_without_lease()? {
            return Ok(end);
        }
        self.answer_requests(cluster)?;
        if self.view.task.is_some() {
            return self.task_running(cluster);
        }
        if let Some(end) = self.bootstrap_ended(cluster)? {
            return Ok(end);
        }
        if let Some(end) = self.unusable_data_dir(cluster)? {
            return Ok(end);
        }
        if self.memory.reinit.is_some() {
            let pointless = cluster.leader.is_none() && !self.must_clone();
            if self.mine(cluster) || pointless {
                // With nobody to copy, the data that is there may be what the cluster needs.
                self.memory.reinit = None;
            } else {
                return self.reinitialize(cluster);
            }
        }
        if self.must_clone() {
            return self.bootstrap(cluster);
        }
        if let Some(end) = self.wrong_cluster(cluster)? {
            return Ok(end);
        }
        match self.view.pg.postmaster {
            Postmaster::Unknown => self.keep_waiting(cluster, POSTMASTER_UNKNOWN, "the state of PostgreSQL is unknown"),
            Postmaster::Absent => self.recover(cluster),
            Postmaster::Starting => self.starting(cluster),
            Postmaster::Stopping => self.keep_waiting(cluster, STARTING, "PostgreSQL is stopping"),
            Postmaster::Running => self.running(cluster),
        }
    }

    fn running(&mut self, cluster: &ClusterView) -> Ruling {
        self.memory.starting_since = None;
        self.announce_start()?;
        if self.view.pg.server.is_none() {
            return self.no_answer(cluster);
        }
        self.memory.silent_since = None;
        self.memory.giving_way = false;
        if self.memory.role == Role::Promoted && self.view.pg.is_standby() && !self.mine(cluster) && !self.paused() {
            // A promotion was begun and may still happen.
            self.stop(StopMode::Immediate, StopPurpose::Demote)?;
            return Ok(End::new(LEAD_LOST, "lost the leader lock during the promotion, stopping PostgreSQL"));
        }
        match cluster.leader_name() {
            None => self.race(cluster),
            Some(name) if name == self.me() => self.lead(cluster),
            Some(_) => self.follow(cluster),
        }
    }

    /// Rules that run before everything else: whatever task is under way, and whether or not PostgreSQL answers, a server
    /// that may accept writes while the lock is somebody else's, or the lease has ended, is stopped at once.
    pub fn writable_without_lease(&mut self) -> Need<Option<End>> {
        let bootstrapping = self.memory.bootstrap_ended.is_some()
            || self.view.task.as_ref().is_some_and(|running| running.task == Task::Bootstrap);
        let stopping = self.view.task.as_ref().is_some_and(|running| {
            let Task::Stop { mode, .. } = running.task else { return false };
            mode == StopMode::Immediate || running.progress.is_some()
        });
        // In single-user mode nobody can connect.
        let recovering = self.view.task.as_ref().is_some_and(|running| running.task == Task::CrashRecovery);
        if self.paused() || bootstrapping || stopping || recovering || !self.may_be_writable() {
            return Ok(None);
        }
        let lost = match self.view.cluster() {
            None => !self.view.holds_lease(),
            Some(cluster) => match cluster.leader_name() {
                Some(name) => name != self.me(),
                // Without a task, or with an answer, the race decides whether the lock is taken again.
                None => !self.view.holds_lease() && (self.view.task.is_some() || self.view.pg.server.is_none()),
            },
        };
        if !lost {
            return Ok(None);
        }
        self.stop(StopMode::Immediate, StopPurpose::Demote)?;
        Ok(Some(
            End::new(FOLLOW_DEMOTE, "demoting self because i do not have the lock and i was a leader").wake_in_ms(200),
        ))
    }

    /// The server runs as a primary, or does not say and its control file does. A standby's control file may say so too,
    /// as long as it is the copy that came with a base backup.
    pub fn may_be_writable(&self) -> bool {
        let pg = &self.view.pg;
        match &pg.server {
            Some(server) => pg.postmaster != Postmaster::Absent && !server.in_recovery,
            None => {
                let writing = pg.control.as_ref().is_some_and(|control| {
                    matches!(control.state, ControlState::InProduction | ControlState::ShuttingDown)
                });
                pg.postmaster != Postmaster::Absent && writing && !pg.recovery_configured
            }
        }
    }

    /// It runs and does not answer: busy, or hung. A leader is given as long as it would be given to start.
    fn no_answer(&mut self, cluster: &ClusterView) -> Ruling {
        let since = *self.memory.silent_since.get_or_insert(self.view.now);
        let late = self.view.now.since(since) > self.view.settings.primary_start_timeout;
        if late && self.mine(cluster) && !self.paused() && self.someone_can_take_over(cluster)? {
            return self.stop_to_give_way(RECOVER_GIVE_UP, "stopping PostgreSQL: it has not answered for too long");
        }
        self.keep_waiting(cluster, NO_ANSWER, "PostgreSQL does not answer, keeping the last known role")
    }

    // Vocabulary of the rules.

    pub fn me(&self) -> &'a str {
        &self.view.node.name
    }

    /// The leader key holds this node's name.
    pub fn mine(&self, cluster: &ClusterView) -> bool {
        cluster.leader_name() == Some(self.me())
    }

    pub fn paused(&self) -> bool {
        self.view.settings.pause
    }

    pub fn act(&self, effect: Effect) -> Need<&'a Outcome> {
        self.facts.act(effect)
    }

    pub fn start(&self, task: Task) -> Need<&'a Outcome> {
        self.facts.act(Effect::StartTask(task))
    }

    pub fn stop(&self, mode: StopMode, purpose: StopPurpose) -> Need<&'a Outcome> {
        self.start(Task::Stop { mode, checkpoint: false, purpose })
    }

    /// This node holds the lock and must not go on leading: PostgreSQL is stopped at once, and the lock is given away only
    /// when it is down, which [`Cycle::recover`] (or [`Cycle::unusable_data_dir`]) sees to.
    pub fn stop_to_give_way(&mut self, rule: RuleId, why: impl Into<String>) -> Ruling {
        self.memory.giving_way = true;
        self.stop(StopMode::Immediate, StopPurpose::Demote)?;
        Ok(End::new(rule, why))
    }

    /// Gives the lock away if the store says it is ours.
    pub fn release_if_mine(&mut self, cluster: &ClusterView) -> Need<()> {
        if self.mine(cluster) {
            self.act(Effect::ReleaseLeader)?;
        }
        Ok(())
    }

    /// Keeps the lease in situations that are neither good nor bad enough to change anything.
    pub fn keep_waiting(&mut self, cluster: &ClusterView, rule: RuleId, why: &str) -> Ruling {
        if self.mine(cluster) && !self.paused() {
            self.stand_guard();
            let lost = match self.act(Effect::RenewLeader)? {
                Outcome::Unfenced(why) if self.may_be_writable() => {
                    let text = format!("fencing is required and does not work, stopping PostgreSQL: {why}");
                    return self.stop_to_give_way(LEAD_UNFENCED, text);
                }
                Outcome::Rejected(_) => true,
                Outcome::Unreachable(unreachable) => match self.ask_for_consent(unreachable)? {
                    Consent::Given(_) => false,
                    _ => self.lease_is_ending(),
                },
                outcome => !outcome.succeeded() && self.lease_is_ending(),
            };
            if lost && self.may_be_writable() {
                self.stop(StopMode::Immediate, StopPurpose::Demote)?;
                return Ok(End::new(LEAD_LOST, format!("demoted self because the leader lock is lost; {why}")));
            }
        }
        Ok(End::new(rule, why).wake_in_ms(500))
    }

    fn note_wal(&mut self) {
        let position = self
            .view
            .pg
            .server
            .as_ref()
            .filter(|server| server.in_recovery)
            .and_then(|server| server.wal_position())
            .filter(|_| !self.view.settings.primary_race_backoff.is_zero());
        self.memory.wal_advanced = match (position, self.memory.wal_advanced) {
            (Some(position), Some((known, at))) if position <= known => Some((position, at)),
            (Some(position), _) => Some((position, self.view.now)),
            (None, _) => None,
        };
    }

    /// Carries over what later cycles need of this view.
    fn remember(&mut self, cluster: &ClusterView) {
        self.note_members(cluster);
        self.note_wal();
        if cluster.leader.is_some() {
            self.memory.race_backoff_since = None;
            self.memory.healthy_cluster = Some(Box::new(cluster.clone()));
            if !self.mine(cluster) {
                self.memory.handed_over_at = None;
            }
        } else {
            self.remember_members(cluster);
        }
        if self.memory.paused && !self.paused() {
            self.memory.divergence = Divergence::Unchecked;
        }
        self.memory.paused = self.paused();
        self.memory.problem = None;
        if self.view.pg.unfinished == Some(Unfinished::Rewind) && self.memory.divergence == Divergence::Fits {
            self.memory.divergence = Divergence::Diverged;
        }
    }

    /// Without a leader records expire, those of living members too when the store was away: a node compares itself with
    /// all that it has seen since there was a leader.
    fn remember_members(&mut self, cluster: &ClusterView) {
        let known = &mut self.memory.healthy_cluster.get_or_insert_default().members;
        known.retain(|member| cluster.member(&member.name).is_none());
        known.extend(cluster.members.iter().cloned());
    }

    /// PostgreSQL is starting and no task of ours awaits it.
    fn starting(&mut self, cluster: &ClusterView) -> Ruling {
        let since = *self.memory.starting_since.get_or_insert(self.view.now);
        if !self.mine(cluster) && !self.paused() && !self.view.pg.recovery_configured {
            self.stop(StopMode::Immediate, StopPurpose::Demote)?;
            return Ok(End::new(LEAD_LOST, "PostgreSQL is starting as a primary without the leader lock, stopping it"));
        }
        if !self.mine(cluster) || self.paused() {
            return Ok(End::new(STARTING, "PostgreSQL is still starting up").wake_in_ms(500));
        }
        self.stand_guard();
        match self.act(Effect::RenewLeader)? {
            Outcome::Unfenced(why) => {
                let text = format!("fencing is required and does not work, stopping PostgreSQL: {why}");
                return self.stop_to_give_way(LEAD_UNFENCED, text);
            }
            Outcome::Rejected(_) => {
                self.stop(StopMode::Immediate, StopPurpose::Demote)?;
                return Ok(End::new(LEAD_LOST, "lost leader lock during start, stopping PostgreSQL"));
            }
            outcome if !outcome.succeeded() && !self.view.holds_lease() => {
                self.stop(StopMode::Immediate, StopPurpose::Demote)?;
                return Ok(End::new(LEAD_LOST, "lease ended during start, stopping PostgreSQL"));
            }
            _ => {}
        }
        if self.view.now.since(since) > self.view.settings.primary_start_timeout
            && self.someone_can_take_over(cluster)?
        {
            return self.stop_to_give_way(RECOVER_GIVE_UP, "stopping PostgreSQL because it took too long to start");
        }
        Ok(End::new(STARTING, "PostgreSQL is still starting up, keeping the leader lock").wake_in_ms(500))
    }

    /// The lease is about to end: less than the margin in which a fast stop should fit.
    pub fn lease_is_ending(&self) -> bool {
        match self.view.lease {
            LeaseView::Held(deadline) => deadline.since(self.view.now) <= self.demote_margin(),
            LeaseView::None | LeaseView::Lost => true,
        }
    }

    /// How long before the end of the lease a primary without the store stops.
    pub fn demote_margin(&self) -> std::time::Duration {
        self.view.settings.lease_times().demote_margin()
    }
}
