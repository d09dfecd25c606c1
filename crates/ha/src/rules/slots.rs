//! Replication slots: every node keeps one for each other member, so that a new primary has them at once, and those the
//! configuration names (compatibility.md, 7.20). Which changes follow is [`crate::slots::plan`]'s business.

use std::collections::{BTreeMap, BTreeSet};

use model::pg::{Postmaster, ServerStatus};
use model::slots::{ClusterType, PermanentSlot, SlotKind, slot_name_from_member};
use model::{ClusterView, Lsn, Member, Tags};

use super::cycle::Cycle;
use crate::facts::Need;
use crate::memory::SlotAttempt;
use crate::slots::{ADVANCE_SINCE, Plan, Server, WantedSlot, plan};
use crate::step::{Effect, Severity};

/// The first major version whose leaders publish the positions of all slots.
const POSITIONS_SINCE: u64 = 4;

impl<'a> Cycle<'a> {
    /// Asks for changes where the slots that are there differ from those that should be. Rests on nothing of the store
    /// but the `cluster` it is given, so that a node without the store may go on with the view it had.
    pub fn sync_slots(&mut self, cluster: &ClusterView) -> Need<()> {
        self.note_members(cluster);
        // A task that was started in this cycle changes what is there.
        let Some(server) = self.slot_server(cluster).filter(|_| self.task_now().is_none()) else {
            return Ok(());
        };
        self.complain_of_names(cluster)?;
        self.force_feedback(cluster, server)?;
        self.check_copied_slots(cluster, server)?;
        let Plan { changes, .. } = self.slot_plan(cluster, server);
        let (now, pause) = (self.view.now, self.view.settings.loop_wait);
        let again = |attempt: &SlotAttempt| attempt.changes == changes && now.since(attempt.at) < pause;
        if changes.is_empty() || self.memory.slots.attempt.as_ref().is_some_and(again) {
            return Ok(());
        }
        self.memory.slots.attempt = Some(SlotAttempt { at: now, changes: changes.clone() });
        self.act(Effect::SyncSlots(changes))?;
        Ok(())
    }

    /// The server, where its slots are ours to look after and nothing else was being done to it.
    pub fn slot_server(&self, cluster: &ClusterView) -> Option<&'a ServerStatus> {
        let view = self.view;
        let idle = view.task.is_none() && view.pg.postmaster == Postmaster::Running;
        let managed = view.settings.use_slots && cluster.config.is_some();
        view.pg.server.as_ref().filter(|_| idle && managed)
    }

    /// What is to be done about the slots of `server`.
    pub fn slot_plan(&self, cluster: &ClusterView, server: &ServerStatus) -> Plan {
        let here = Server {
            version_num: server.version_num,
            standby: server.in_recovery.then_some(server.replay_lsn),
            slots: &server.slots,
            ignore: &self.view.settings.ignore_slots,
            keep_unknown: self.paused(),
        };
        plan(&here, &self.wanted_slots(cluster, server))
    }

    /// Remembers whose slots this node keeps, and when each was last needed.
    pub fn note_members(&mut self, cluster: &ClusterView) {
        let (now, ttl) = (self.view.now, self.view.settings.member_slots_ttl);
        let present: Vec<String> =
            self.members_served(cluster).map(|member| slot_name_from_member(&member.name)).collect();
        let seen = &mut self.memory.slots.seen;
        seen.extend(present.into_iter().map(|slot| (slot, now)));
        let leads = cluster.leader_name() == Some(&self.view.node.name);
        if !leads && !self.view.node.tags.nofailover() {
            // The leader decides how long; what it retains, everybody retains.
            seen.extend(cluster.status.retain_slots.iter().map(|slot| (slot.clone(), now)));
        }
        seen.retain(|_, at| now.since(*at) <= ttl || *at == now);
        seen.remove(&slot_name_from_member(&self.view.node.name));
    }

    /// A promotion begins the time anew for which slots of absent members are kept: the new leader's clock counts.
    pub fn renew_slot_retention(&mut self) {
        let now = self.view.now;
        self.memory.slots.seen.values_mut().for_each(|at| *at = now);
    }

    /// Members whose slots this node keeps for as long as they are there: all that stream, for it may lead them one day.
    /// One that never leads serves only those that are told to replicate from it.
    fn members_served<'c>(&self, cluster: &'c ClusterView) -> impl Iterator<Item = &'c Member> + use<'a, 'c> {
        let (me, nofailover) = (self.me(), self.view.node.tags.nofailover());
        cluster.members.iter().filter(move |member| {
            let serves = !nofailover || member.tags.replicatefrom() == Some(me) || cluster.leader_name() == Some(me);
            member.name != me && !member.tags.nostream() && serves
        })
    }

    /// What the leader publishes as `retain_slots`: slots of members seen within `member_slots_ttl`, its own among them,
    /// because its record will expire before it is back.
    pub fn retained_slots(&self) -> Vec<String> {
        let settings = &self.view.settings;
        if settings.member_slots_ttl.is_zero() || !settings.use_slots {
            return Vec::new();
        }
        let own = Some(slot_name_from_member(self.me())).filter(|_| !self.view.node.tags.nostream());
        let all: BTreeSet<String> = self.memory.slots.seen.keys().cloned().chain(own).collect();
        all.into_iter().filter(|slot| !settings.permanent_slots.contains_key(slot)).collect()
    }

    /// Positions of this node's slots as the leader publishes them in `status`, and as the failsafe call carries them:
    /// with `member_slots_ttl` 0 only the permanent ones, for nobody else asks for them.
    pub fn published_slots(&self) -> BTreeMap<String, Lsn> {
        let settings = &self.view.settings;
        let mut slots = self.view.pg.slot_positions();
        if settings.member_slots_ttl.is_zero() {
            slots.retain(|name, _| settings.permanent_slots.contains_key(name));
        }
        if let Some(position) = self.view.pg.server.as_ref().and_then(|server| server.wal_position()) {
            slots.insert(slot_name_from_member(self.me()), position);
        }
        slots
    }

    /// All slots that this node should have, sorted.
    fn wanted_slots(&self, cluster: &ClusterView, server: &ServerStatus) -> Vec<WantedSlot> {
        let leads = self.mine(cluster) || !server.in_recovery;
        let everywhere = server.version_num >= ADVANCE_SINCE && !self.view.settings.member_slots_ttl.is_zero();
        let mut wanted: BTreeMap<String, WantedSlot> = BTreeMap::new();
        for member in self.members_served(cluster) {
            let consumed_here = self.streams_from_here(cluster, member, leads);
            if !everywhere && !consumed_here {
                continue;
            }
            let name = slot_name_from_member(&member.name);
            let position = self.member_position(cluster, member, &name);
            let slot = WantedSlot { name: name.clone(), kind: SlotKind::Physical, consumed_here, position };
            // Two members of one slot name: it moves with the one that is here.
            let known = wanted.entry(name).or_insert(slot.clone());
            known.consumed_here |= slot.consumed_here;
        }
        let retained = self.memory.slots.seen.keys().filter(|_| everywhere);
        for name in retained {
            wanted.entry(name.clone()).or_insert_with(|| WantedSlot {
                name: name.clone(),
                kind: SlotKind::Physical,
                consumed_here: leads,
                position: cluster.status.slots.get(name).copied(),
            });
        }
        self.add_permanent_slots(cluster, server, leads, &mut wanted);
        wanted.remove(&slot_name_from_member(self.me()));
        wanted.into_values().collect()
    }

    /// Whether a member's WAL receiver connects to this node: as the leader's direct standby or one whose source is not
    /// there, or as told by `replicatefrom`.
    fn streams_from_here(&self, cluster: &ClusterView, member: &Member, leads: bool) -> bool {
        match member.tags.replicatefrom().filter(|source| cluster.member(source).is_some()) {
            Some(source) => source == self.me(),
            None => leads,
        }
    }

    /// Where a member is. Leaders of old versions publish no positions of member slots, and no leader knows those of
    /// cascading standbys: the member itself does.
    fn member_position(&self, cluster: &ClusterView, member: &Member, slot: &str) -> Option<Lsn> {
        let published = cluster.status.slots.get(slot).copied();
        let cascades = member.tags.replicatefrom().is_some_and(|source| cluster.leader_name() != Some(source));
        let old_leader = cluster.leader_member().and_then(major_version).is_some_and(|major| major < POSITIONS_SINCE);
        if cascades || old_leader { published.max(member.xlog_location) } else { published }
    }

    fn add_permanent_slots(
        &self,
        cluster: &ClusterView,
        server: &ServerStatus,
        leads: bool,
        wanted: &mut BTreeMap<String, WantedSlot>,
    ) {
        for (name, slot) in &self.view.settings.permanent_slots {
            let exists = match slot.kind {
                SlotKind::Physical => self.keeps_physical(slot, server, leads),
                SlotKind::Logical { .. } => self.keeps_logical(cluster, slot, server, &self.view.node.tags),
            };
            // A member's slot of that name serves as the permanent one where that is physical; else it wins.
            if exists && !wanted.contains_key(name) {
                let position = cluster.status.slots.get(name).copied();
                let (name, kind) = (name.clone(), slot.kind.clone());
                wanted.insert(name.clone(), WantedSlot { name, kind, consumed_here: leads, position });
            }
        }
    }

    fn keeps_physical(&self, slot: &PermanentSlot, server: &ServerStatus, leads: bool) -> bool {
        let movable = leads || server.version_num >= ADVANCE_SINCE;
        movable && !self.view.node.tags.nofailover() && self.is_for_this_cluster(slot)
    }

    /// Whether a node with these tags has a permanent logical slot. Logical slots need a primary in this cluster, and a
    /// connection all the way to it.
    fn keeps_logical(&self, cluster: &ClusterView, slot: &PermanentSlot, server: &ServerStatus, tags: &Tags) -> bool {
        let logical = matches!(slot.kind, SlotKind::Logical { .. });
        let usable = server.version_num >= ADVANCE_SINCE && !self.view.settings.standby_cluster;
        logical && usable && !tags.nofailover() && streams_to_the_top(cluster, tags) && self.is_for_this_cluster(slot)
    }

    fn is_for_this_cluster(&self, slot: &PermanentSlot) -> bool {
        match slot.cluster_type {
            None => true,
            Some(ClusterType::Primary) => !self.view.settings.standby_cluster,
            Some(ClusterType::Standby) => self.view.settings.standby_cluster,
        }
    }

    /// Names of the logical slots of this node.
    pub fn logical_slots(&self, cluster: &ClusterView, server: &ServerStatus) -> Vec<String> {
        let permanent = self.view.settings.permanent_slots.iter();
        let kept = permanent.filter(|(_, slot)| self.keeps_logical(cluster, slot, server, &self.view.node.tags));
        kept.map(|(name, _)| name.clone()).collect()
    }

    /// `hot_standby_feedback` is on wherever this node, or a standby behind it, has logical slots: else the primary removes
    /// rows of the catalogs that they still need.
    fn force_feedback(&mut self, cluster: &ClusterView, server: &ServerStatus) -> Need<()> {
        let permanent = || self.view.settings.permanent_slots.values();
        let needs = |tags: &Tags| permanent().any(|slot| self.keeps_logical(cluster, slot, server, tags));
        let behind = |member: &Member| member.tags.replicatefrom() == Some(self.me()) && needs(&member.tags);
        let forced = needs(&self.view.node.tags) || cluster.members.iter().any(behind);
        if self.memory.slots.feedback != Some(forced) && self.act(Effect::ForceFeedback(forced))?.succeeded() {
            self.memory.slots.feedback = Some(forced);
        }
        Ok(())
    }

    /// Says once of each clash of names what comes of it.
    fn complain_of_names(&mut self, cluster: &ClusterView) -> Need<()> {
        let mut owners: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for member in &cluster.members {
            owners.entry(slot_name_from_member(&member.name)).or_default().push(&member.name);
        }
        let mut complaints = BTreeSet::new();
        for (slot, members) in owners.iter().filter(|(_, members)| members.len() > 1) {
            complaints.insert(format!("members {} share the replication slot name {slot}", members.join(", ")));
        }
        for (name, slot) in &self.view.settings.permanent_slots {
            let clash = owners.contains_key(name) && matches!(slot.kind, SlotKind::Logical { .. });
            if let Some(members) = owners.get(name).filter(|_| clash) {
                let member = members.join(", ");
                complaints.insert(format!(
                    "permanent logical replication slot {name} is conflicting with the slot of member {member}; it is not kept"
                ));
            }
        }
        let new: Vec<&str> = complaints.difference(&self.memory.slots.complaints).map(String::as_str).collect();
        if !new.is_empty() {
            self.act(Effect::Log(Severity::Warning, new.join("; ")))?;
        }
        self.memory.slots.complaints = complaints;
        Ok(())
    }
}

/// Neither the node with these tags nor any it replicates from is fed from an archive alone.
fn streams_to_the_top(cluster: &ClusterView, tags: &Tags) -> bool {
    let mut tags = tags;
    // A chain is no longer than the cluster; a circle of members has no top.
    for _ in 0..=cluster.members.len() {
        if tags.nostream() {
            return false;
        }
        match tags.replicatefrom().and_then(|source| cluster.member(source)) {
            Some(source) => tags = &source.tags,
            None => return true,
        }
    }
    false
}

/// Major version of the agent that published a record.
fn major_version(member: &Member) -> Option<u64> {
    member.version.as_deref()?.split('.').next()?.parse().ok()
}
