//! Another node leads: follow it, or the member that this node is told to replicate from.

use model::pg::Upstream;
use model::{ClusterView, slots};

use super::cycle::Cycle;
use super::{End, Ruling, table::*};
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
        let Some(wanted) = self.upstream_in(cluster) else {
            let text = format!("waiting for leader '{leader}' to publish its address");
            return Ok(End::new(FOLLOW_WAIT, text).wake_in_ms(1000));
        };
        let current = self.view.pg.server.as_ref().and_then(|server| server.upstream.as_ref());
        if current != Some(&wanted) && !self.view.node.tags.nostream() && self.may_retry() {
            self.start(Task::Repoint { upstream: Some(wanted) })?;
            return Ok(End::new(FOLLOW_REPOINT, format!("following a new leader ({leader})")));
        }
        if let Some(address) = cluster.leader_member().and_then(|member| member.pg_address()) {
            let source = Upstream { address, slot: None };
            if let Some(end) = self.check_divergence(cluster, &source)? {
                return Ok(end);
            }
            if let Some(end) = self.resolve_divergence(cluster, &source)? {
                return Ok(end);
            }
        }
        if let Some(end) = self.scheduled_restart()? {
            return Ok(end);
        }
        let text = format!("no action. I am ({}), a secondary, and following a leader ({leader})", self.me());
        Ok(End::new(FOLLOW, text))
    }

    /// Whom this node should stream from: the member named by `replicatefrom` where it runs, else the leader. `None`
    /// where that is this node, or has published no address.
    pub fn upstream_in(&self, cluster: &ClusterView) -> Option<Upstream> {
        let cascade = self.view.node.tags.replicatefrom().filter(|name| *name != self.me());
        let named = cascade.and_then(|name| cluster.member(name)).filter(|member| member.is_running());
        let source = named.or_else(|| cluster.leader_member()).filter(|member| member.name != self.me())?;
        let slot = self.view.settings.use_slots.then(|| slots::slot_name_from_member(self.me()));
        Some(Upstream { address: source.pg_address()?, slot })
    }
}
