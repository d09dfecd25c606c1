//! What a node carries from one cycle to the next: all of it, explicitly.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::pg::Upstream;
use model::slots::{SlotChange, Xid};
use model::{BootTime, ClusterView, Lsn, MemberState, Role, Timeline};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The carry-over. A fresh agent starts with the default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// The last view in which a leader was known, with the members as they were last seen since: whom a race compares itself
    /// with, when records have expired.
    pub healthy_cluster: Option<Box<ClusterView>>,
    /// The cluster was paused in the last cycle.
    pub paused: bool,
    /// The role callbacks and outsiders know.
    pub role: Role,
    /// What the member record says PostgreSQL is doing, where the process alone does not tell.
    pub state: MemberState,
    /// Whether this data directory fits the leader's history.
    pub divergence: Divergence,
    /// The checkpoint after a promotion; nobody may rewind from this node before it is done.
    pub promoted: AfterPromote,
    /// PostgreSQL was started by this agent, or found running: a missing process is a crash, not a fresh start.
    pub expected_up: bool,
    /// Since when the server has been starting.
    pub starting_since: Option<BootTime>,
    /// A restart scheduled over REST.
    pub scheduled_restart: Option<ScheduledRestart>,
    /// The last status text written, to write only changes.
    pub status_written: Option<String>,
    /// Replication slots.
    pub slots: SlotMemory,
    /// How this node's bootstrap of a new cluster ended, until the store knows: `Err` with what went wrong.
    pub bootstrap_ended: Option<Result<(), String>>,
    /// This agent stopped PostgreSQL for its own purpose and owes it a start, even while paused.
    pub owes_start: bool,
    /// Since when the data directory cannot be read while PostgreSQL may be running on it.
    pub unreadable_since: Option<BootTime>,
    /// Since when PostgreSQL runs and does not answer.
    pub silent_since: Option<BootTime>,
    /// PostgreSQL was stopped so that another node can lead: the lock is given away when it is down, if there is one.
    pub giving_way: bool,
    /// An attempt at the lock was not answered, or very late: if the lock is this node's, it was won on old answers.
    pub lock_in_doubt: bool,
    /// `synchronous_standby_names` is not the user's but this agent's.
    #[serde(default)]
    pub names_managed: bool,
    /// Whom commits wait for, as this leader saw it come into force.
    #[serde(default)]
    pub commit_rule: Option<SeenRule>,
    /// This synchronous standby wants to stop, since then, and waits to be let go.
    #[serde(default)]
    pub leaving_sync_since: Option<BootTime>,
    /// The lock ran out, since then, while WAL of its holder still arrived.
    #[serde(default)]
    pub race_backoff_since: Option<BootTime>,
    /// The WAL position of this standby, and when it was last seen to grow; kept for `primary_race_backoff`.
    #[serde(default)]
    pub wal_advanced: Option<(Lsn, BootTime)>,
    /// The timeline whose history was written to the store.
    pub history_written: Option<Timeline>,
    /// PostgreSQL is being stopped in order to start again.
    pub restarting: Option<Restarting>,
    /// Failed attempts in a row of the current recovery action, and the next allowed one.
    pub retry: Retry,
    /// The fence was let go and has not been armed since.
    pub disarmed: bool,
    /// The version of an empty initialize key, and since when it has been there while nobody bootstraps.
    pub abandoned_bootstrap_since: Option<(u64, BootTime)>,
    /// Whom and which timeline `divergence` was checked against.
    pub checked_against: Option<(String, Option<Timeline>)>,
    /// PostgreSQL was stopped for a switchover, since then: a candidate with the shutdown checkpoint is awaited.
    pub handing_over_since: Option<BootTime>,
    /// A switchover is asked for, since then, and waits for its candidate to stream.
    pub switchover_since: Option<BootTime>,
    /// The last pg_rewind failed; why, until it is known whether the leader was there.
    pub rewind_error: Option<String>,
    /// pg_rewind failures in a row while the leader was there.
    pub rewind_failures: u32,
    /// What an operator has to do for this member, in one sentence; published.
    pub problem: Option<String>,
    /// Rewinds in a row after which this node has not streamed.
    pub rewinds: u32,
    /// Since when this standby has not streamed from anybody.
    pub silent_receiver_since: Option<BootTime>,
    /// When the lock was handed over: the new leader is awaited.
    pub handed_over_at: Option<BootTime>,
    /// Whom the server goes on following although it was told otherwise: telling it again changes nothing.
    pub kept_upstream: Option<KeptUpstream>,
    /// When the user's `pre_promote` failed: the lock was given away, and is left to others for a while.
    pub pre_promote_failed_at: Option<BootTime>,
    /// Members that must agree before this node leads without the store, with their `api_url`s: those of the failsafe
    /// key as last seen, and of a write whose outcome is not known.
    #[serde(default)]
    pub failsafe_members: BTreeMap<String, String>,
    /// This node leads without the store, by promise of all others, until then.
    #[serde(default)]
    pub leads_by_promise: Option<BootTime>,
    /// An operator asked for a new copy: from the leader, by base backup, where true.
    pub reinit: Option<bool>,
}

/// What is carried over about replication slots.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SlotMemory {
    /// Slots of members seen lately: name to the moment it was last needed.
    pub seen: BTreeMap<String, BootTime>,
    /// The last changes that were asked for, so as not to ask for the same ones all the time.
    pub attempt: Option<SlotAttempt>,
    /// Whether `hot_standby_feedback` was last forced on; `None`: the node was not told yet.
    pub feedback: Option<bool>,
    /// Logical slots of this standby that cannot be relied upon yet, with the `catalog_xmin` they must reach, once known.
    pub unready: BTreeMap<String, Option<Xid>>,
    /// The logical slots found on this standby are in `unready`, unless they have left it.
    pub surveyed: bool,
    /// When the primary was last asked what its slots need.
    pub asked_at: Option<BootTime>,
    /// Logical slots are not copied before this moment.
    pub copy_not_before: Option<BootTime>,
    /// Clashes of names that were spoken of.
    pub complaints: BTreeSet<String>,
}

/// Changes of slots that were asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotAttempt {
    /// When.
    pub at: BootTime,
    /// Which.
    pub changes: Vec<SlotChange>,
}

/// A restart under way: the stop is one task, the start another, decided anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarting {
    /// The operator's request that waits for the outcome.
    pub request: Option<u64>,
    /// Bound on the start.
    pub timeout: Duration,
    /// It was a primary before.
    pub primary: bool,
}

/// Where the check for divergence stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Divergence {
    /// Not checked since the last change of timeline, leader or role.
    #[default]
    Unchecked,
    /// The local history is a prefix of the leader's.
    Fits,
    /// WAL was written that the leader does not have.
    Diverged,
    /// pg_rewind failed and will not be tried again; why.
    Failed(String),
}

/// The checkpoint that makes a promotion visible to pg_rewind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AfterPromote {
    /// Not promoted by this agent.
    #[default]
    NotPromoted,
    /// Promoted; the checkpoint is still to be done.
    CheckpointPending,
    /// Done: others may rewind.
    CheckpointDone,
}

/// A standby whose own configuration wins over what it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptUpstream {
    /// Whom it was told to follow.
    pub wanted: Option<Upstream>,
    /// Whom it follows nevertheless.
    pub follows: Option<Upstream>,
    /// Its recovery parameters are still not the files' ([`model::pg::PgSnapshot::recovery_stale`]).
    pub stale: bool,
}

/// A value of `synchronous_standby_names` that was seen in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenRule {
    /// The value.
    pub text: String,
    /// First seen then.
    pub since: BootTime,
    /// Every commit after this position waits for it; `None` as long as some backend may not have it yet.
    pub position: Option<Lsn>,
}

/// Attempts at something that failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// Failures in a row.
    pub failures: u32,
    /// Not before this moment.
    pub not_before: Option<BootTime>,
}

/// An accepted scheduled restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScheduledRestart {
    /// When.
    pub at: jiff::Timestamp,
    /// Conditions.
    pub filter: crate::view::RestartFilter,
    /// Bound on the start, in seconds.
    pub timeout_s: Option<u64>,
    /// Start time of the server when it was accepted: another start meanwhile cancels it.
    pub postmaster_start: Option<jiff::Timestamp>,
    /// The record to publish.
    pub raw: Value,
}
