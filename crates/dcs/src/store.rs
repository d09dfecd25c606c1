//! The trait every backend implements.

use std::time::Duration;

use async_trait::async_trait;
use model::{ClusterView, Key, Member};
use tokio::sync::watch;

/// Why an operation on the store did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No usable answer: no connection, timeout, no quorum, garbage, wrong credentials. Whether a write was applied
    /// is unknown. Losing the store for long leads to a demotion.
    #[error("store unreachable: {0}")]
    Unreachable(String),
    /// The store answered that the condition did not hold: the write was not applied, somebody else won.
    #[error("write rejected: {0}")]
    Rejected(String),
}

/// The condition under which a write is applied.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Guard {
    /// Always.
    None,
    /// Only if the key does not exist.
    Absent,
    /// Only if the key exists.
    Present,
    /// Only if the key has this version ([`model::Versioned::version`]); version 0 means no condition.
    Version(u64),
    /// Only if the key holds this text.
    Value(String),
}

/// How recent a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// A consistent snapshot that the store may have answered from a follower or a watched cache, but never one
    /// older than an earlier answer to this client.
    Snapshot,
    /// Linearizable: reflects every write that completed before the call.
    Linearizable,
}

/// The three times an agent works with; set at start and whenever the dynamic configuration changes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Lifetime of leases: of the leader key and of member keys.
    pub ttl: Duration,
    /// The agent's longest sleep.
    pub loop_wait: Duration,
    /// The time within which an operation succeeds or fails, retries over all endpoints included.
    pub retry_timeout: Duration,
}

/// What a backend can do, as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Name of the configuration section, for messages.
    pub name: &'static str,
    /// Changes are pushed; without it the agent polls every `loop_wait`.
    pub watch: bool,
}

/// Counters of what changed below the cluster's prefix, by whomever. A receiver compares them with the last it saw:
/// a change may be seen late or merged with others, never lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The leader key: created, changed hands, or went away. Renewals do not count.
    pub leader: u64,
    /// `config`, `failover`, `sync`, `initialize`, `history`, `failsafe`.
    pub cluster: u64,
    /// Members' records and the leader's status.
    pub members: u64,
    /// The watch was lost and established again; anything may have changed.
    pub resets: u64,
}

/// A connection to the keys of one cluster, on behalf of one named node.
///
/// All methods return within about [`Timing::retry_timeout`] and may be called concurrently. Leases belong to this
/// object: the leader lock to one lease, the member key to another, so that announcing a member never prolongs a lock.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// What this backend can do.
    fn capabilities(&self) -> Capabilities;

    /// Applies new times. A changed `ttl` takes effect with the next renewal of each lease.
    fn set_timing(&self, timing: Timing);

    /// Reads all keys of the cluster. A cluster that does not exist is an empty view, not an error.
    async fn read(&self, freshness: Freshness) -> Result<ClusterView, StoreError>;

    /// Creates the leader key with this node's name and a fresh lease of `ttl`, if nobody holds it; `Rejected` if
    /// somebody does. The lease lives at least `ttl` from the moment of the call.
    async fn acquire_leader(&self) -> Result<(), StoreError>;

    /// Prolongs the lease to at least `ttl` from the moment of the call, if the leader key holds this node's name.
    /// `Rejected`: it does not, and is not this node's any more. A key that expired and was taken by nobody may be
    /// created anew.
    async fn renew_leader(&self) -> Result<(), StoreError>;

    /// Deletes the leader key if it holds this node's name; `Rejected` if it holds another. No key is success.
    /// A renewal afterwards does not bring the key back: it is `Rejected` until the lock is acquired again.
    async fn release_leader(&self) -> Result<(), StoreError>;

    /// Publishes this node's record under a lease of `ttl`; skips the write when record and lease are as they were,
    /// and then only prolongs the lease.
    async fn touch_member(&self, member: &Member) -> Result<(), StoreError>;

    /// Removes this node's record, for an orderly exit or another node's sake.
    async fn delete_member(&self, name: &str) -> Result<(), StoreError>;

    /// Writes a key without a lease and returns its new version. Not for `leader` and `members/`.
    async fn put(&self, key: &Key, value: &str, guard: Guard) -> Result<u64, StoreError>;

    /// Deletes a key. Deleting an absent key with [`Guard::None`] succeeds.
    async fn delete(&self, key: &Key, guard: Guard) -> Result<(), StoreError>;

    /// Deletes every key of the cluster.
    async fn delete_cluster(&self) -> Result<(), StoreError>;

    /// Learns of changes; see [`Changes`].
    fn changes(&self) -> watch::Receiver<Changes>;
}
