//! Replication slots: every node keeps one for each other member, so that a new primary has them at once
//! (compatibility.md, 7.20).

use model::ClusterView;
use model::pg::Postmaster;
use model::slots::slot_name_from_member;

use super::cycle::Cycle;
use crate::facts::Need;
use crate::step::{Effect, WantedSlot};

impl Cycle<'_> {
    /// Asks for changes where the slots that are there differ from those that should be.
    pub fn sync_slots(&mut self, cluster: &ClusterView) -> Need<()> {
        self.note_members(cluster);
        let Some(server) = &self.view.pg.server else {
            return Ok(());
        };
        let idle = self.view.task.is_none() && self.view.pg.postmaster == Postmaster::Running;
        if !idle || !self.view.settings.use_slots || cluster.config.is_none() {
            return Ok(());
        }
        let mut wanted = self.wanted_slots(cluster);
        if self.paused() {
            // Hands off what operators may have made.
            let there = server.slots.iter().filter(|slot| !slot.logical && !slot.temporary);
            let unknown = there.filter(|slot| !wanted.iter().any(|known| known.name == slot.name));
            let kept: Vec<_> = unknown.map(|slot| WantedSlot { name: slot.name.clone(), advance_to: None }).collect();
            wanted.extend(kept);
        }
        let missing = wanted.iter().any(|slot| match server.slots.iter().find(|there| there.name == slot.name) {
            None => true,
            Some(there) => {
                !there.active && slot.advance_to.is_some_and(|to| there.restart_lsn.is_none_or(|at| at < to))
            }
        });
        let unknown = server.slots.iter().any(|there| {
            !there.logical && !there.temporary && !there.active && !wanted.iter().any(|slot| slot.name == there.name)
        });
        if missing || (unknown && !self.paused()) {
            self.act(Effect::SyncSlots(wanted))?;
        }
        Ok(())
    }

    fn note_members(&mut self, cluster: &ClusterView) {
        let (now, ttl) = (self.view.now, self.view.settings.member_slots_ttl);
        for member in
            cluster.members.iter().filter(|member| member.name != self.view.node.name && !member.tags.nostream())
        {
            self.memory.slots_seen.insert(slot_name_from_member(&member.name), now);
        }
        if cluster.leader_name() != Some(self.me()) {
            // The leader decides how long; what it retains, everybody retains.
            for slot in &cluster.status.retain_slots {
                self.memory.slots_seen.insert(slot.clone(), now);
            }
        }
        self.memory.slots_seen.retain(|_, seen| now.since(*seen) <= ttl || *seen == now);
        self.memory.slots_seen.remove(&slot_name_from_member(self.me()));
    }

    /// Slots of members that are away and whose slots are kept for them, sorted.
    pub fn retained_slots(&self, cluster: &ClusterView) -> Vec<String> {
        let present = |slot: &String| cluster.members.iter().any(|member| slot_name_from_member(&member.name) == *slot);
        self.memory.slots_seen.keys().filter(|slot| !present(slot)).cloned().collect()
    }

    fn wanted_slots(&self, cluster: &ClusterView) -> Vec<WantedSlot> {
        let streams_from_me = |slot: &str| {
            cluster.members.iter().any(|member| {
                let follows = member.tags.replicatefrom().unwrap_or(cluster.leader_name().unwrap_or_default());
                slot_name_from_member(&member.name) == slot && follows == self.me()
            })
        };
        let own = slot_name_from_member(self.me());
        let permanent = self.view.settings.permanent_physical_slots.iter().filter(|name| **name != own);
        let slots: std::collections::BTreeSet<&String> = self.memory.slots_seen.keys().chain(permanent).collect();
        slots
            .into_iter()
            .map(|name| WantedSlot {
                name: name.clone(),
                advance_to: if streams_from_me(name) { None } else { cluster.status.slots.get(name).copied() },
            })
            .collect()
    }
}
