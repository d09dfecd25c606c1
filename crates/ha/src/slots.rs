//! From the slots that exist to those that should: a pure plan (compatibility.md, 7.20).

use model::Lsn;
use model::slots::{Slot, SlotChange, SlotKind, SlotMatcher};
use serde::{Deserialize, Serialize};

/// `server_version_num` from which on slots can be moved forward, and standbys may keep slots for each other.
pub const ADVANCE_SINCE: u32 = 110_000;
/// `server_version_num` of the first version with slots.
pub const SLOTS_SINCE: u32 = 90_400;
/// `server_version_num` from which on PostgreSQL copies some logical slots to standbys itself.
const FAILOVER_SLOTS_SINCE: u32 = 170_000;

/// A slot that must exist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedSlot {
    /// Slot name.
    pub name: String,
    /// What it is.
    pub kind: SlotKind,
    /// Its consumer connects to this node, and moves it.
    pub consumed_here: bool,
    /// Where its consumer is, as far as the store knows.
    pub position: Option<Lsn>,
}

/// The server whose slots are planned.
#[derive(Clone, Copy, Debug)]
pub struct Server<'a> {
    /// `server_version_num`.
    pub version_num: u32,
    /// Where a standby has replayed to; `None` on a primary.
    pub standby: Option<Option<Lsn>>,
    /// Its slots.
    pub slots: &'a [Slot],
    /// `ignore_slots`.
    pub ignore: &'a [SlotMatcher],
    /// Slots that nobody wants stay: the cluster is paused.
    pub keep_unknown: bool,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub changes: Vec<SlotChange>,
    /// Logical slots that a standby lacks: they can only be copied from the primary.
    pub copies: Vec<String>,
}

/// The way from what exists to what is wanted. Slots in use are never dropped or moved; temporary slots, those that
/// PostgreSQL's own synchronisation looks after, and those before version 9.4 are none of our business.
pub fn plan(server: &Server<'_>, wanted: &[WantedSlot]) -> Plan {
    let mut plan = Plan::default();
    if server.version_num < SLOTS_SINCE {
        return plan;
    }
    let ours = |slot: &&Slot| !slot.temporary && !server.leaves_alone(slot);
    for slot in server.slots.iter().filter(ours) {
        let unknown = !wanted.iter().any(|wanted| wanted.name == slot.name);
        let ignored = server.keep_unknown || server.ignore.iter().any(|matcher| matcher.matches(slot));
        if unknown && !ignored && !slot.active {
            plan.changes.push(SlotChange::Drop { name: slot.name.clone() });
        }
    }
    for wanted in wanted {
        match server.slots.iter().find(|slot| slot.name == wanted.name) {
            None => server.make(wanted, &mut plan),
            Some(slot) if slot.active || slot.temporary || server.leaves_alone(slot) => {}
            Some(slot) if !fits(slot, &wanted.kind) || server.useless(slot, wanted) => {
                plan.changes.push(SlotChange::Drop { name: slot.name.clone() });
                server.make(wanted, &mut plan);
            }
            Some(slot) => plan.changes.extend(server.advance(slot, wanted)),
        }
    }
    plan
}

/// It is of the kind that is wanted.
fn fits(slot: &Slot, kind: &SlotKind) -> bool {
    match kind {
        SlotKind::Physical => !slot.logical,
        SlotKind::Logical { database, plugin } => {
            slot.logical && slot.database.as_ref() == Some(database) && slot.plugin.as_ref() == Some(plugin)
        }
    }
}

impl Server<'_> {
    /// Failover slots are the operator's and PostgreSQL's. What a former primary leaves behind would keep PostgreSQL
    /// from making its own copy, so that one is not left alone.
    fn leaves_alone(&self, slot: &Slot) -> bool {
        let stale = self.standby.is_some() && !slot.synced;
        self.version_num >= FAILOVER_SLOTS_SINCE && slot.failover && !stale
    }

    /// It does not do what it is for any more: its WAL is gone, it never kept any, or it holds back vacuum for a consumer
    /// that is elsewhere. A slot whose consumer belongs here keeps its place, with what vacuum pays for it.
    fn useless(&self, slot: &Slot, wanted: &WantedSlot) -> bool {
        let unreserved = !slot.logical && slot.restart_lsn.is_none();
        let stray_xmin = !slot.logical && slot.has_xmin && !wanted.consumed_here;
        slot.lost || unreserved || stray_xmin
    }

    fn make(&self, wanted: &WantedSlot, plan: &mut Plan) {
        let name = wanted.name.clone();
        match &wanted.kind {
            SlotKind::Physical => plan.changes.push(SlotChange::CreatePhysical { name }),
            SlotKind::Logical { .. } if self.version_num < ADVANCE_SINCE => {}
            SlotKind::Logical { database, plugin } if self.standby.is_none() => {
                let (database, plugin) = (database.clone(), plugin.clone());
                plan.changes.push(SlotChange::CreateLogical { name, database, plugin });
            }
            SlotKind::Logical { .. } if wanted.position.is_some() => plan.copies.push(name),
            // The primary has not made it yet.
            SlotKind::Logical { .. } => {}
        }
    }

    /// Moves a slot after its consumer, who is elsewhere; never past what this standby has replayed.
    fn advance(&self, slot: &Slot, wanted: &WantedSlot) -> Option<SlotChange> {
        if self.version_num < ADVANCE_SINCE || wanted.consumed_here {
            return None;
        }
        let (at, database) = match &wanted.kind {
            SlotKind::Physical => (slot.restart_lsn, None),
            SlotKind::Logical { database, .. } => {
                // A primary's consumers are its own.
                self.standby?;
                (slot.confirmed_flush_lsn, Some(database.clone()))
            }
        };
        let to = match self.standby {
            None => wanted.position?,
            Some(replayed) => wanted.position?.min(replayed?),
        };
        (at < Some(to)).then(|| SlotChange::Advance { name: slot.name.clone(), to, database })
    }
}
