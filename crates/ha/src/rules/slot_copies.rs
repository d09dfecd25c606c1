//! Logical slots of a standby: they cannot be made there, only copied from the primary, and a copy is good only once the
//! primary keeps what it needs of the catalogs (compatibility.md, 7.20).

use model::pg::{ServerStatus, Upstream};
use model::slots::{Xid, slot_name_from_member};
use model::{ClusterView, Tags};

use super::cycle::Cycle;
use super::{End, list, table::*};
use crate::facts::{Answer, Need};
use crate::step::{Effect, Probe, Severity, Task};

/// A copy restarts the standby: not again within this time, whatever came of the last.
const COPY_PAUSE: std::time::Duration = std::time::Duration::from_secs(60);

impl Cycle<'_> {
    /// Copies the logical slots that this standby lacks, once it streams and holds back the primary's vacuum.
    pub fn copy_slots(&mut self, cluster: &ClusterView) -> Need<Option<End>> {
        let Some(server) = self.slot_server(cluster).filter(|server| server.in_recovery) else {
            return Ok(None);
        };
        let copies = self.slot_plan(cluster, server).copies;
        let streaming = server.receiver_status.as_deref() == Some("streaming");
        let guarded = self.memory.slots.feedback == Some(true);
        let early = self.memory.slots.copy_not_before.is_some_and(|at| at > self.view.now);
        let Some(source) = leader_of(cluster).filter(|_| streaming && guarded && !early && !copies.is_empty()) else {
            return Ok(None);
        };
        self.memory.slots.copy_not_before = Some(self.view.now.plus(COPY_PAUSE));
        let text = format!("Copying logical slots {} from the primary", list(&copies));
        self.start(Task::CopySlots { source, slots: copies })?;
        Ok(Some(End::new(FOLLOW_COPY_SLOTS, text)))
    }

    /// These were copied: whether they can be relied upon is open.
    pub fn slots_copied(&mut self, slots: &[String]) {
        self.memory.slots.unready.extend(slots.iter().map(|slot| (slot.clone(), None)));
    }

    /// A copy can be relied upon when the primary began to keep the catalogs for this standby, and the slot has moved on
    /// since to what the primary's own slot needed then. All slots of a standby that this agent has not watched from the
    /// start are taken for fresh copies.
    pub fn check_copied_slots(&mut self, cluster: &ClusterView, server: &ServerStatus) -> Need<()> {
        if !server.in_recovery {
            self.memory.slots.unready.clear();
            self.memory.slots.surveyed = false;
            return Ok(());
        }
        let kept = self.logical_slots(cluster, server);
        let here = |name: &String| server.slots.iter().find(|slot| slot.logical && slot.name == *name);
        if !self.memory.slots.surveyed {
            self.memory.slots.surveyed = true;
            let found: Vec<String> = kept.iter().filter(|name| here(name).is_some()).cloned().collect();
            self.slots_copied(&found);
        }
        self.memory.slots.unready.retain(|name, _| kept.contains(name) && here(name).is_some());
        self.learn_horizons(cluster)?;
        let reached = |(name, horizon): (&String, &Option<Xid>)| {
            let at = here(name).and_then(|slot| slot.catalog_xmin)?;
            horizon.is_some_and(|horizon| at.reached(horizon)).then(|| name.clone())
        };
        let ready: Vec<String> = self.memory.slots.unready.iter().filter_map(reached).collect();
        if !ready.is_empty() {
            let say = |name: &String| format!("Logical slot {name} is safe to be used after a failover");
            let text = ready.iter().map(say).collect::<Vec<_>>().join("; ");
            self.act(Effect::Log(Severity::Info, text))?;
            self.memory.slots.unready.retain(|name, _| !ready.contains(name));
        }
        Ok(())
    }

    /// Asks the primary what its slots need, for those where that is not known, once it keeps the catalogs for us.
    fn learn_horizons(&mut self, cluster: &ClusterView) -> Need<()> {
        let unready = &self.memory.slots.unready;
        let unknown: Vec<String> =
            unready.iter().filter(|(_, horizon)| horizon.is_none()).map(|(name, _)| name.clone()).collect();
        let pause = self.view.settings.loop_wait;
        let early = self.memory.slots.asked_at.is_some_and(|at| self.view.now.since(at) < pause);
        let Some(server) = leader_of(cluster).filter(|_| !unknown.is_empty() && !early) else {
            return Ok(());
        };
        let own = slot_name_from_member(first_hop(cluster, self.me(), &self.view.node.tags));
        let slots = unknown.iter().cloned().chain([own.clone()]).collect();
        self.memory.slots.asked_at = Some(self.view.now);
        let Answer::SlotHorizons(Ok(horizons)) = self.facts.ask(Probe::SlotHorizons { server, slots })? else {
            return Ok(());
        };
        if horizons.contains_key(&own) {
            for name in unknown {
                if let Some(horizon) = horizons.get(&name) {
                    self.memory.slots.unready.insert(name, Some(*horizon));
                }
            }
        }
        Ok(())
    }

    /// About to be promoted: says which slots may have lost what they need.
    pub fn warn_of_unready_slots(&mut self) -> Need<()> {
        if self.memory.slots.unready.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = self.memory.slots.unready.keys().map(String::as_str).collect();
        let text = format!("Logical replication slots that might be unsafe to use after promote: {}", names.join(", "));
        self.act(Effect::Log(Severity::Warning, text))?;
        Ok(())
    }
}

fn leader_of(cluster: &ClusterView) -> Option<Upstream> {
    let address = cluster.leader_member().and_then(|member| member.pg_address())?;
    Some(Upstream { address, slot: None })
}

/// The member of this node's chain of `replicatefrom` that streams from the leader: its slot there stands for all of them.
fn first_hop<'c>(cluster: &'c ClusterView, me: &'c str, tags: &'c Tags) -> &'c str {
    let (mut name, mut tags) = (me, tags);
    for _ in 0..cluster.members.len() {
        let source = tags.replicatefrom().filter(|source| cluster.leader_name() != Some(source));
        match source.and_then(|source| cluster.member(source)) {
            Some(member) => (name, tags) = (&member.name, &member.tags),
            None => break,
        }
    }
    name
}
