//! What the API needs of the node it speaks for.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use model::member::PendingRestart;
use model::pg::WalSender;
use model::{CloneProgress, ClusterView, Lsn, MemberState, Role, Tags, Timeline};
use serde_json::{Map, Value};

/// Everything a health check or a status answer may need, as of the node's last look.
#[derive(Clone, Debug, Default)]
pub struct NodeStatus {
    /// Member name.
    pub name: String,
    /// Cluster name.
    pub scope: String,
    /// Version reported to peers and tools: three integers, at least 4.0.0.
    pub version: String,
    /// What PostgreSQL is doing; `None` is shown as `unknown`.
    pub state: Option<MemberState>,
    /// The role shown to outsiders: primary, replica, standby_leader, uninitialized.
    pub role: Role,
    /// This node holds the leader lease *and its deadline has not passed* (evaluated when the status is read).
    pub is_leader: bool,
    /// The cluster follows a remote primary.
    pub standby_cluster: bool,
    /// Members and keys as last read from the store; `None` when that is older than `ttl`.
    pub cluster: Option<Arc<ClusterView>>,
    /// No leader key at the last successful read.
    pub cluster_unlocked: bool,
    /// Seconds since the epoch of the last successful read of the store.
    pub dcs_last_seen: u64,
    /// The cluster is paused.
    pub pause: bool,
    /// The leader outlives the store by agreement of all members.
    pub failsafe_active: bool,
    /// The failsafe key as last seen: who must agree when the store is lost.
    pub failsafe_members: BTreeMap<String, String>,
    /// `failsafe_mode` in the dynamic configuration.
    pub failsafe_enabled: bool,
    /// `maximum_lag_on_failover` in bytes, the default limit of `/readiness`.
    pub maximum_lag_on_failover_bytes: u64,
    /// Effective tags.
    pub tags: Tags,
    /// `pg_postmaster_start_time()`.
    pub postmaster_start_time: Option<Timestamp>,
    /// `server_version_num`.
    pub server_version: Option<u32>,
    /// Primary: current flush position.
    pub location: Option<Lsn>,
    /// Standby: written, else received position.
    pub received_location: Option<Lsn>,
    /// Standby: replayed position.
    pub replayed_location: Option<Lsn>,
    /// Standby: latest end of WAL its upstream reported.
    pub latest_end: Option<Lsn>,
    /// Standby: commit time of the last replayed transaction.
    pub replayed_timestamp: Option<Timestamp>,
    /// Standby: replay is paused.
    pub replay_paused: bool,
    /// Current timeline.
    pub timeline: Option<Timeline>,
    /// `streaming` or `in archive recovery`.
    pub replication_state: Option<String>,
    /// This node is listed in the sync key (mode `on`).
    pub sync_standby: bool,
    /// This node is listed in the sync key (mode `quorum`).
    pub quorum_standby: bool,
    /// `pg_stat_replication`.
    pub replication: Vec<WalSender>,
    /// System identifier of the data directory.
    pub system_id: Option<String>,
    /// Parameters that wait for a restart.
    pub pending_restart: bool,
    /// Which, where known.
    pub pending_restart_reason: PendingRestart,
    /// The accepted scheduled restart, with `schedule` and `postmaster_start_time`.
    pub scheduled_restart: Option<Value>,
    /// How far the copy is that this node is being made of.
    pub clone_progress: Option<CloneProgress>,
    /// What an operator has to do for this node, in one sentence.
    pub problem: Option<String>,
    /// A required watchdog cannot be used.
    pub watchdog_failed: bool,
    /// Milliseconds until the HA loop counts as stuck for `/liveness`; zero when it is stuck already.
    pub liveness_ms_left: u64,
}

/// An HTTP status with a plain-text answer, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status code.
    pub code: u16,
    /// Body.
    pub text: String,
}

/// `POST /restart`, validated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RestartRequest {
    /// Restart only if the node has this role.
    pub role: Option<Role>,
    /// Restart only if the server is older than this `server_version_num`.
    pub postgres_version: Option<u32>,
    /// Restart only if a restart is pending.
    pub restart_pending: bool,
    /// How long the restart may take before a failover, in seconds.
    pub timeout_s: Option<u64>,
    /// When; at once where `None`.
    pub schedule: Option<Timestamp>,
    /// The body as received, for the member record.
    pub raw: Map<String, Value>,
}

/// `POST /failover` or `/switchover`, validated as far as the text goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailoverRequest {
    /// The leader to step down; `None` for a failover.
    pub leader: Option<String>,
    /// The node to promote.
    pub candidate: Option<String>,
    /// When; at once where `None`.
    pub scheduled_at: Option<Timestamp>,
}

impl FailoverRequest {
    /// `switchover` when a leader is named, else `failover`: upstream's words in all answers.
    pub fn action(&self) -> &'static str {
        if self.leader.is_some() { "switchover" } else { "failover" }
    }
}

/// `POST /reinitialize`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReinitRequest {
    /// Cancel a running task first.
    pub force: bool,
    /// Take the base backup from the leader, whatever the configured methods.
    pub from_leader: bool,
}

/// `POST /failsafe`: the leader asks whether it may go on without the store.
#[derive(Clone, Debug, PartialEq)]
pub struct FailsafeCall {
    /// The leader's name.
    pub name: String,
    /// Its `conn_url`.
    pub conn_url: Option<String>,
    /// Its `api_url`.
    pub api_url: Option<String>,
    /// Its slot positions.
    pub slots: Map<String, Value>,
}

/// The answer to [`FailsafeCall`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailsafeAnswer {
    /// Status and text: `Accepted` or why not.
    pub reply: Reply,
    /// This node's position, for the `lsn` header.
    pub lsn: Option<Lsn>,
}

/// The node behind the API.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// The last known status, from memory, with time-dependent fields evaluated now. Never blocks.
    fn status(&self) -> NodeStatus;

    /// The status with positions just asked of PostgreSQL (bounded to about two seconds; falls back to memory).
    async fn fresh_status(&self) -> NodeStatus;

    /// All keys of the cluster, read now (linearizable); the error is for a 503 answer.
    async fn cluster(&self) -> Result<Arc<ClusterView>, String>;

    /// Merges a patch into the dynamic configuration: 200 with the resulting document, 409 when somebody else
    /// changed it meanwhile, 503 when there is none, 400 when it is not valid.
    async fn patch_config(&self, patch: Map<String, Value>) -> Result<Map<String, Value>, Reply>;

    /// Replaces the dynamic configuration.
    async fn put_config(&self, config: Map<String, Value>) -> Result<(), Reply>;

    /// Wakes the HA loop for a reload of configuration files.
    async fn reload(&self) -> Reply;

    /// Restarts PostgreSQL now (waits for the outcome) or schedules it.
    async fn restart(&self, request: RestartRequest) -> Reply;

    /// Deletes the scheduled restart.
    async fn cancel_restart(&self) -> Reply;

    /// Switchover or failover: checks feasibility, writes the request, waits for the outcome when it is immediate.
    async fn failover(&self, request: FailoverRequest) -> Reply;

    /// Deletes the scheduled switchover.
    async fn cancel_failover(&self) -> Reply;

    /// Starts taking a new copy of the leader.
    async fn reinitialize(&self, request: ReinitRequest) -> Reply;

    /// Answers a leader that lost the store.
    async fn failsafe(&self, call: FailsafeCall) -> FailsafeAnswer;

    /// The bounded decision journal as JSON, newest last.
    fn decisions(&self) -> Value;
}
