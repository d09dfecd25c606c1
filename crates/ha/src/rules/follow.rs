//! Another node leads: follow it, or the member that this node is told to replicate from.

use model::pg::Upstream;
use model::{ClusterView, slots};

use super::cycle::Cycle;
use super::{End, Ruling, table::*};
use crate::memory::KeptUpstream;
use crate::step::{StopMode, StopPurpose, Task};

impl Cycle<'_> {
    pub fn follow(&mut self, cluster: &ClusterView) -> Ruling {
        let leader = cluster.leader_name().unwrap_or_default().to_owned();
        if self.view.pg.is_primary() {
            if self.paused() {
                return Ok(End::new(
                    PAUSED,
                    format!("PAUSE: continue to run as primary without lock, {leader} holds it"),
                ));
            }
            self.stop(StopMode::Immediate, StopPurpose::Demote)?;
            return Ok(End::new(FOLLOW_DEMOTE, "demoting self because i do not have the lock and i was a leader"));
        }
        self.let_go_of_fence()?;
        if self.paused() {
            return Ok(End::new(PAUSED, format!("PAUSE: no action. I am ({})", self.me())));
        }
        let wanted = match self.target_in(cluster) {
            Target::Unpublished => {
                let text = format!("waiting for leader '{leader}' to publish its address");
                return Ok(End::new(FOLLOW_WAIT, text).wake_in_ms(1000));
            }
            Target::Nobody => None,
            Target::Server(upstream) => Some(upstream),
        };
        let kept = match self.follows(wanted.as_ref()) {
            None => None,
            Some(state) if self.memory.kept_upstream.as_ref() == Some(&state) => Some(state),
            Some(_) if !self.may_retry() => None,
            Some(_) => {
                self.start(Task::Repoint { upstream: wanted })?;
                return Ok(End::new(FOLLOW_REPOINT, format!("following a new leader ({leader})")));
            }
        };
        if let Some(address) = cluster.leader_member().and_then(|member| member.pg_address()) {
            let source = Upstream { address, slot: None };
            if let Some(end) = self.check_divergence(cluster, &source)? {
                return Ok(end);
            }
            if let Some(end) = self.resolve_divergence(cluster, &source)? {
                return Ok(end);
            }
        }
        if let Some(end) = self.copy_slots(cluster)? {
            return Ok(end);
        }
        if let Some(end) = self.scheduled_restart()? {
            return Ok(end);
        }
        if let Some(kept) = kept {
            return Ok(End::new(FOLLOW_KEPT, kept_text(&kept)));
        }
        self.memory.kept_upstream = None;
        let text = format!("no action. I am ({}), a secondary, and following a leader ({leader})", self.me());
        Ok(End::new(FOLLOW, text))
    }

    /// What the running standby follows, where that is not what it should be; `None` where nothing is to be done.
    pub fn follows(&self, wanted: Option<&Upstream>) -> Option<KeptUpstream> {
        let server = self.view.pg.server.as_ref()?;
        let stale = self.view.pg.recovery_stale;
        let follows = server.upstream.clone();
        (stale || follows.as_ref() != wanted).then(|| KeptUpstream { wanted: wanted.cloned(), follows, stale })
    }

    /// Whom this node should stream from: nobody with the tag `nostream`, the member named by `replicatefrom` where it
    /// runs, else the leader.
    pub fn target_in(&self, cluster: &ClusterView) -> Target {
        if self.view.node.tags.nostream() {
            return Target::Nobody;
        }
        let named = self.cascades_from(cluster).and_then(|name| cluster.member(name));
        let source = named.filter(|member| member.is_running()).or_else(|| cluster.leader_member());
        let address = source.filter(|member| member.name != self.me()).and_then(|member| member.pg_address());
        let slot = self.view.settings.use_slots.then(|| slots::slot_name_from_member(self.me()));
        address.map_or(Target::Unpublished, |address| Target::Server(Upstream { address, slot }))
    }

    /// The member that `replicatefrom` names, unless following it would lead back to this node: nodes that follow each
    /// other receive nothing.
    fn cascades_from<'c>(&'c self, cluster: &'c ClusterView) -> Option<&'c str> {
        let named = self.view.node.tags.replicatefrom().filter(|name| *name != self.me())?;
        let mut at = named;
        for _ in 0..cluster.members.len() {
            if cluster.leader_name() == Some(at) {
                break;
            }
            let Some(next) = cluster.member(at).and_then(|member| member.tags.replicatefrom()) else { break };
            if next == self.me() {
                return None;
            }
            at = next;
        }
        Some(named)
    }
}

/// Whom a standby streams from.
pub enum Target {
    /// Nobody: it lives on its `restore_command`.
    Nobody,
    /// This server.
    Server(Upstream),
    /// A member that has published no address yet.
    Unpublished,
}

impl Target {
    /// What the recovery configuration names; nobody also while the address is not known.
    pub fn upstream(self) -> Option<Upstream> {
        match self {
            Target::Server(upstream) => Some(upstream),
            Target::Nobody | Target::Unpublished => None,
        }
    }
}

fn kept_text(kept: &KeptUpstream) -> String {
    let name = |upstream: &Option<Upstream>| upstream.as_ref().map_or("nobody".to_owned(), |to| to.address.to_string());
    let place = "primary_conninfo, primary_slot_name or another recovery parameter is set where it wins over \
                 postgresql.conf: on the command line, in an included file or for a role";
    match kept.follows == kept.wanted {
        true => format!("PostgreSQL does not take over its recovery parameters: {place}"),
        false => format!(
            "PostgreSQL keeps following {} although it was told to follow {}: {place}",
            name(&kept.follows),
            name(&kept.wanted)
        ),
    }
}
