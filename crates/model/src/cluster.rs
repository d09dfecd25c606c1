//! One snapshot of the cluster's keys in the store.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

use crate::{Lsn, Member, Timeline};

/// A value with the store's version of it, for compare-and-set. Version 0 stands for "no condition possible".
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Versioned<T> {
    /// The value.
    pub value: T,
    /// etcd: mod revision; ZooKeeper: znode version; 0 where the store has none.
    pub version: u64,
}

/// The holder of the leader key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// The member's name.
    pub name: String,
    /// The store's version of the key.
    pub version: u64,
}

/// A switchover (leader given) or failover (only candidate given) that was requested.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverKey {
    /// The leader to step down, for a switchover.
    pub leader: Option<String>,
    /// The member to be promoted; any healthy one where `None`.
    pub candidate: Option<String>,
    /// When to do it; at once where `None`.
    pub scheduled_at: Option<jiff::Timestamp>,
}

impl SyncKey {
    /// `name` is one of the synchronous standbys; names are compared as PostgreSQL does, without regard to case.
    pub fn lists(&self, name: &str) -> bool {
        self.members.iter().any(|member| member.eq_ignore_ascii_case(name))
    }

    /// `name` is the primary that wrote the key.
    pub fn led_by(&self, name: &str) -> bool {
        self.leader.as_deref().is_some_and(|leader| leader.eq_ignore_ascii_case(name))
    }
}

impl FailoverKey {
    /// Stands for a time that cannot be read: a moment that has long passed, so that nobody takes the request for an
    /// immediate one and the leader clears it.
    pub const UNREADABLE_TIME: jiff::Timestamp = jiff::Timestamp::MIN;

    /// True when nothing is requested (`{}` in the store).
    pub fn is_empty(&self) -> bool {
        self.leader.is_none() && self.candidate.is_none() && self.scheduled_at.is_none()
    }
}

/// Who holds all acknowledged commits, in synchronous and quorum mode.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncKey {
    /// The primary that wrote the key.
    pub leader: Option<String>,
    /// How many of `members` a candidate must see besides itself (or one more, where it is none of them), and be ahead
    /// of or equal to, in order to know all acknowledged commits; 0 without quorum mode.
    pub quorum: u32,
    /// Synchronous standbys, sorted.
    pub members: Vec<String>,
}

/// What the leader says of its WAL position.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The last position the leader published.
    pub optime: Option<Lsn>,
    /// Positions of replication slots.
    pub slots: BTreeMap<String, Lsn>,
    /// Slots of members that went away recently.
    pub retain_slots: Vec<String>,
}

/// A row of the history key: a timeline that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The timeline that was left.
    pub timeline: Timeline,
    /// Where it was left.
    pub lsn: Lsn,
    /// PostgreSQL's remark.
    pub reason: String,
    /// When, as ISO text; absent in rows written by old versions.
    pub timestamp: Option<String>,
    /// Who led next; absent in rows written by old versions.
    pub new_leader: Option<String>,
}

/// All keys of one cluster, read at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterView {
    /// `None`: absent; empty: bootstrap under way; else the system identifier.
    pub initialize: Option<Versioned<String>>,
    /// Dynamic configuration; garbage reads as an empty object with version 0.
    pub config: Option<Versioned<Map<String, Value>>>,
    /// Who holds the lock.
    pub leader: Option<Leader>,
    /// Known members, sorted by name.
    pub members: Vec<Member>,
    /// A requested switchover or failover; `None` also when the key says `{}`.
    pub failover: Option<Versioned<FailoverKey>>,
    /// Synchronous state; without a leader where the key holds nothing usable.
    pub sync: Option<Versioned<SyncKey>>,
    /// Leader's position.
    pub status: Status,
    /// Timeline history, oldest first; `None` when absent or garbage.
    pub history: Option<Versioned<Vec<HistoryEntry>>>,
    /// Members that must agree when the store is lost: name to api_url.
    pub failsafe: Option<BTreeMap<String, String>>,
}

impl ClusterView {
    /// The member of that name.
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }

    /// Name of the lock holder.
    pub fn leader_name(&self) -> Option<&str> {
        self.leader.as_ref().map(|leader| leader.name.as_str())
    }

    /// Record of the lock holder, where it is known.
    pub fn leader_member(&self) -> Option<&Member> {
        self.member(self.leader_name()?)
    }

    /// True when no key of the cluster exists.
    pub fn is_empty(&self) -> bool {
        *self == ClusterView::default()
    }

    /// The cluster's timeline: last history row plus one; `[]` means 1; `None` when unknown.
    pub fn timeline(&self) -> Option<Timeline> {
        let history = &self.history.as_ref()?.value;
        Some(history.last().map_or(Timeline(1), |row| Timeline(row.timeline.0.saturating_add(1))))
    }

    /// The system identifier, once it is known (at least ten digits).
    pub fn system_id(&self) -> Option<&str> {
        let id = self.initialize.as_ref()?.value.as_str();
        is_system_id(id).then_some(id)
    }
}

/// PostgreSQL's system identifiers are 64-bit numbers made from a time; upstream takes ten digits as the least.
pub fn is_system_id(text: &str) -> bool {
    text.len() >= 10 && text.bytes().all(|b| b.is_ascii_digit())
}
