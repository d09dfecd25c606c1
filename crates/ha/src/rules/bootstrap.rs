//! An empty data directory: create the cluster, or copy a member.

use model::pg::Unfinished;
use model::{ClusterView, Key, Member, MemberState, Role};

use super::cycle::Cycle;
use super::{End, Ruling, table::*};
use crate::facts::Need;
use crate::step::{CloneSource, Effect, Outcome, StopMode, StopPurpose, Task, WriteGuard};

impl Cycle<'_> {
    pub fn bootstrap(&mut self, cluster: &ClusterView) -> Ruling {
        self.memory.role = Role::Uninitialized;
        if self.view.pg.postmaster != model::pg::Postmaster::Absent {
            if self.paused() {
                return self.keep_waiting(cluster, PAUSED, "PAUSE: PostgreSQL runs on an empty data directory");
            }
            self.stop(StopMode::Immediate, StopPurpose::Rebuild)?;
            return Ok(End::new(BOOTSTRAP_WAIT, "stopping PostgreSQL: its data directory is empty"));
        }
        if self.mine(cluster) {
            // An empty directory has nothing to lead with.
            self.act(Effect::ReleaseLeader)?;
            return Ok(End::new(BOOTSTRAP_WAIT, "released leader key: the data directory is empty").wake_in_ms(500));
        }
        self.let_go_of_fence()?;
        if self.paused() {
            return Ok(End::new(PAUSED, "PAUSE: the data directory is empty"));
        }
        if !self.may_retry() {
            return Ok(End::new(
                RECOVER_BACKOFF,
                "the last attempt to create a replica failed, waiting before the next",
            )
            .wake_in_ms(500));
        }
        if let Some(leader) = cluster.leader_name() {
            let leader = leader.to_owned();
            return self.clone_member(cluster, &leader);
        }
        match cluster.initialize.as_ref().map(|initialize| initialize.value.as_str()) {
            None => self.create_cluster(),
            Some("") => self.awaiting_bootstrap(cluster),
            Some(_) if self.view.node.clones_without_leader => {
                self.start(Task::Clone { source: None, basebackup_only: false })?;
                Ok(End::new(BOOTSTRAP_CLONE, "trying to bootstrap (without leader)"))
            }
            Some(_) => Ok(End::new(BOOTSTRAP_WAIT, "waiting for leader to bootstrap")),
        }
    }

    fn create_cluster(&mut self) -> Ruling {
        if self.view.node.tags.nofailover() {
            return Ok(End::new(BOOTSTRAP_WAIT, "waiting for leader to bootstrap: this node has the tag nofailover"));
        }
        if !self.view.node.may_bootstrap {
            return Ok(End::new(BOOTSTRAP_WAIT, "waiting for leader to bootstrap: this node has no bootstrap section"));
        }
        let claim = Effect::Put { key: Key::Initialize, value: String::new(), guard: WriteGuard::Absent };
        if !self.act(claim)?.succeeded() {
            return Ok(End::new(BOOTSTRAP_WAIT, "failed to acquire initialize lock").wake_in_ms(1000));
        }
        self.start(Task::Bootstrap)?;
        Ok(End::new(BOOTSTRAP_NEW, "trying to bootstrap a new cluster"))
    }

    /// Somebody claimed the bootstrap. Where nobody is at it any more, the claim is freed: soon, where it may be this
    /// node's own from before a crash. A claim does not say whose it is; whoever made it says at once that it bootstraps.
    fn awaiting_bootstrap(&mut self, cluster: &ClusterView) -> Ruling {
        let version = cluster.initialize.as_ref().map_or(0, |initialize| initialize.version);
        let free = Effect::Delete { key: Key::Initialize, guard: WriteGuard::Version(version) };
        let interrupted = self.view.pg.unfinished == Some(Unfinished::Bootstrap);
        let busy = |member: &Member| {
            let state = MemberState::parse(&member.state);
            // A record of this node is from before its crash.
            member.name != self.me()
                && (member.is_running()
                    || matches!(
                        state,
                        Some(MemberState::Initdb | MemberState::CustomBootstrap | MemberState::BootstrapStarting)
                    ))
        };
        if cluster.members.iter().any(busy) {
            self.memory.abandoned_bootstrap_since = None;
            return Ok(End::new(BOOTSTRAP_WAIT, "waiting for leader to bootstrap"));
        }
        let known = self.memory.abandoned_bootstrap_since.filter(|(claim, _)| *claim == version);
        let (_, since) = known.unwrap_or((version, self.view.now));
        self.memory.abandoned_bootstrap_since = Some((version, since));
        let (bound, why) = match interrupted {
            true => (self.view.settings.loop_wait, " of this node's interrupted bootstrap"),
            false => (2 * self.view.settings.ttl, ": no member is bootstrapping"),
        };
        if self.view.now.since(since) > bound {
            self.memory.abandoned_bootstrap_since = None;
            self.act(free)?;
            return Ok(End::new(BOOTSTRAP_WAIT, format!("freed the initialize key{why}")).wake_in_ms(1));
        }
        Ok(End::new(BOOTSTRAP_WAIT, "waiting for leader to bootstrap").wake_in_ms(1000))
    }

    /// Copies a running member that offers itself (tag `clonefrom`) and is on the leader's timeline, or the leader. Of
    /// several, each node begins with another one; after a failure the next is tried, the leader last.
    pub fn clone_member(&mut self, cluster: &ClusterView, leader: &str) -> Ruling {
        let from_leader = self.memory.reinit == Some(true);
        // Whoever the sync key names must have every acknowledged commit; of copies only the leader's has.
        let listed = self.is_listed(cluster);
        let timeline = cluster.member(leader).and_then(|member| member.timeline);
        let offers = |member: &&Member| {
            !(from_leader || listed)
                && member.tags.clonefrom()
                && member.is_running()
                && member.name != leader
                && member.name != self.me()
                && (timeline.is_none() || member.timeline.is_none() || member.timeline == timeline)
        };
        let mut sources: Vec<&Member> = cluster.members.iter().filter(offers).collect();
        if let Some(offering) = u32::try_from(sources.len()).ok().filter(|count| *count > 0) {
            let spread = self.me().bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
            sources.rotate_left((spread % offering) as usize);
        }
        sources.extend(cluster.member(leader));
        let sources: Vec<CloneSource> = sources.into_iter().filter_map(|member| self.clone_source(member)).collect();
        let Some(source) = sources.get(self.memory.retry.failures as usize % sources.len().max(1)).cloned() else {
            return Ok(End::new(BOOTSTRAP_WAIT, format!("waiting for leader '{leader}' to publish its address"))
                .wake_in_ms(1000));
        };
        let role = if source.name == leader { "leader" } else { "replica" };
        let text = format!("trying to bootstrap from {role} '{}'", source.name);
        self.start(Task::Clone { source: Some(source), basebackup_only: from_leader })?;
        Ok(End::new(BOOTSTRAP_CLONE, text))
    }

    fn clone_source(&self, member: &Member) -> Option<CloneSource> {
        let address = member.pg_address()?;
        Some(CloneSource { name: member.name.clone(), upstream: model::pg::Upstream { address, slot: None } })
    }

    /// The bootstrap task of this node ended: record the new cluster and lead it, or clear up. Every write is bound to
    /// the claim as it was: meanwhile somebody else may have made a cluster.
    pub fn bootstrap_ended(&mut self, cluster: &ClusterView) -> Need<Option<End>> {
        let Some(outcome) = self.memory.bootstrap_ended.clone() else {
            return Ok(None);
        };
        let claim = cluster.initialize.as_ref().filter(|initialize| initialize.value.is_empty());
        let guard = match (claim, &cluster.initialize) {
            (Some(claim), _) => WriteGuard::Version(claim.version),
            (None, _) => WriteGuard::Absent,
        };
        if let Err(why) = outcome {
            if claim.is_some() {
                self.act(Effect::Delete { key: Key::Initialize, guard })?;
            }
            return Ok(Some(End::new(BOOTSTRAP_FAILED, format!("failed to bootstrap the cluster: {why}")).exit(1)));
        }
        let id = self.view.pg.system_id().unwrap_or_default().to_owned();
        let recorded = cluster.system_id() == Some(id.as_str())
            || match self.act(Effect::Put { key: Key::Initialize, value: id, guard })? {
                Outcome::Unreachable(_) => {
                    return Ok(Some(
                        End::new(BOOTSTRAP_WAIT, "waiting for the store to record the new cluster").wake_in_ms(500),
                    ));
                }
                outcome => outcome.succeeded(),
            };
        if !recorded {
            self.memory.bootstrap_ended = None;
            self.stop(StopMode::Immediate, StopPurpose::Demote)?;
            return Ok(Some(End::new(
                BOOTSTRAP_FAILED,
                "somebody else made the cluster meanwhile, stopping PostgreSQL",
            )));
        }
        if cluster.config.is_none() {
            let value = self.view.node.initial_config.clone();
            self.act(Effect::Put { key: Key::Config, value, guard: WriteGuard::Absent })?;
        }
        self.stand_guard();
        match self.act(Effect::AcquireLeader)? {
            // A guard that is missing costs the lead in the next cycle.
            Outcome::Leased(_) | Outcome::LeasedLate(_) | Outcome::Unfenced(_) => {}
            Outcome::Rejected(_) => {
                self.memory.bootstrap_ended = None;
                self.stop(StopMode::Immediate, StopPurpose::Demote)?;
                let text = "somebody else took the leader lock of the new cluster, stopping PostgreSQL";
                return Ok(Some(End::new(RACE_LOST, text)));
            }
            _ => {
                return Ok(Some(
                    End::new(BOOTSTRAP_WAIT, "waiting for the store to grant the leader lock").wake_in_ms(500),
                ));
            }
        }
        self.memory.bootstrap_ended = None;
        self.memory.divergence = crate::memory::Divergence::Fits;
        self.announce_start()?;
        Ok(Some(End::new(BOOTSTRAP_DONE, "initialized a new cluster").wake_in_ms(1)))
    }
}
