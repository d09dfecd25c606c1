//! A member of the cluster as it describes itself in the store.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{HostPort, Lsn, Tags, Timeline};

/// What a node's PostgreSQL is in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Accepts writes and holds the lease.
    #[serde(alias = "master")]
    Primary,
    /// Leads a standby cluster: holds the lease, follows a remote primary.
    StandbyLeader,
    /// Follows the leader or another replica.
    Replica,
    /// Was primary and has been demoted in this life of the agent.
    Demoted,
    /// Promotion was requested; not yet out of recovery.
    Promoted,
    /// No data directory yet.
    #[default]
    Uninitialized,
}

impl Role {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::StandbyLeader => "standby_leader",
            Role::Replica => "replica",
            Role::Demoted => "demoted",
            Role::Promoted => "promoted",
            Role::Uninitialized => "uninitialized",
        }
    }

    /// The role a name on the wire stands for; `master` is read as primary.
    pub fn parse(text: &str) -> Option<Role> {
        Some(match text {
            "primary" | "master" => Role::Primary,
            "standby_leader" => Role::StandbyLeader,
            "replica" => Role::Replica,
            "demoted" => Role::Demoted,
            "promoted" => Role::Promoted,
            "uninitialized" => Role::Uninitialized,
            _ => return None,
        })
    }

    /// What callbacks and outsiders are told: a promoted node is a primary, a demoted one a replica.
    pub fn public(self) -> Role {
        match self {
            Role::Promoted => Role::Primary,
            Role::Demoted => Role::Replica,
            other => other,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a node's PostgreSQL is doing. The order is that of upstream's `patroni_postgres_state` metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub enum MemberState {
    /// initdb runs.
    #[serde(rename = "initializing new cluster")]
    Initdb,
    /// initdb failed.
    #[serde(rename = "initdb failed")]
    InitdbFailed,
    /// A custom bootstrap method runs.
    #[serde(rename = "running custom bootstrap script")]
    CustomBootstrap,
    /// A custom bootstrap method failed.
    #[serde(rename = "custom bootstrap failed")]
    CustomBootstrapFailed,
    /// A base backup is being taken.
    #[serde(rename = "creating replica")]
    CreatingReplica,
    /// Accepts connections.
    #[serde(rename = "running")]
    Running,
    /// Started, does not accept connections yet.
    #[serde(rename = "starting")]
    Starting,
    /// First start after a custom bootstrap.
    #[serde(rename = "starting after custom bootstrap")]
    BootstrapStarting,
    /// Did not start.
    #[serde(rename = "start failed")]
    StartFailed,
    /// Stopping in order to start again.
    #[serde(rename = "restarting")]
    Restarting,
    /// Did not come back from a restart.
    #[serde(rename = "restart failed")]
    RestartFailed,
    /// A stop was requested.
    #[serde(rename = "stopping")]
    Stopping,
    /// Not running, on purpose.
    #[default]
    #[serde(rename = "stopped")]
    Stopped,
    /// Did not stop.
    #[serde(rename = "stop failed")]
    StopFailed,
    /// Not running, unexpectedly.
    #[serde(rename = "crashed")]
    Crashed,
}

impl MemberState {
    /// All states in the order of the metric `patroni_postgres_state`.
    pub const ALL: [MemberState; 15] = [
        MemberState::Initdb,
        MemberState::InitdbFailed,
        MemberState::CustomBootstrap,
        MemberState::CustomBootstrapFailed,
        MemberState::CreatingReplica,
        MemberState::Running,
        MemberState::Starting,
        MemberState::BootstrapStarting,
        MemberState::StartFailed,
        MemberState::Restarting,
        MemberState::RestartFailed,
        MemberState::Stopping,
        MemberState::Stopped,
        MemberState::StopFailed,
        MemberState::Crashed,
    ];

    /// The text on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            MemberState::Initdb => "initializing new cluster",
            MemberState::InitdbFailed => "initdb failed",
            MemberState::CustomBootstrap => "running custom bootstrap script",
            MemberState::CustomBootstrapFailed => "custom bootstrap failed",
            MemberState::CreatingReplica => "creating replica",
            MemberState::Running => "running",
            MemberState::Starting => "starting",
            MemberState::BootstrapStarting => "starting after custom bootstrap",
            MemberState::StartFailed => "start failed",
            MemberState::Restarting => "restarting",
            MemberState::RestartFailed => "restart failed",
            MemberState::Stopping => "stopping",
            MemberState::Stopped => "stopped",
            MemberState::StopFailed => "stop failed",
            MemberState::Crashed => "crashed",
        }
    }

    /// The state a text on the wire stands for.
    pub fn parse(text: &str) -> Option<MemberState> {
        MemberState::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// The name used in the comment of the metric `patroni_postgres_state`.
    pub fn metric_name(self) -> &'static str {
        match self {
            MemberState::Initdb => "initdb",
            MemberState::InitdbFailed => "initdb_failed",
            MemberState::CustomBootstrap => "custom_bootstrap",
            MemberState::CustomBootstrapFailed => "custom_bootstrap_failed",
            MemberState::CreatingReplica => "creating_replica",
            MemberState::Running => "running",
            MemberState::Starting => "starting",
            MemberState::BootstrapStarting => "bootstrap_starting",
            MemberState::StartFailed => "start_failed",
            MemberState::Restarting => "restarting",
            MemberState::RestartFailed => "restart_failed",
            MemberState::Stopping => "stopping",
            MemberState::Stopped => "stopped",
            MemberState::StopFailed => "stop_failed",
            MemberState::Crashed => "crashed",
        }
    }
}

impl fmt::Display for MemberState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why PostgreSQL must be restarted: parameter name to its running and its configured value.
pub type PendingRestart = BTreeMap<String, ValueChange>;

/// The running and the configured value of one parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueChange {
    /// The value in force.
    pub old_value: String,
    /// The value after a restart.
    pub new_value: String,
}

/// A member's record under `members/<name>`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// The node's unique name (the key, not part of the JSON value).
    pub name: String,
    /// `postgres://host:port/database`.
    pub conn_url: Option<String>,
    /// `http(s)://host:port/patroni`.
    pub api_url: Option<String>,
    /// Published where `postgresql.proxy_address` is set.
    pub proxy_url: Option<String>,
    /// State text; unknown texts are kept as they are.
    pub state: String,
    /// Role text; unknown texts are kept as they are (`master` is read as `primary`).
    pub role: String,
    /// Version of the agent.
    pub version: Option<String>,
    /// `Some(false)` on a leader whose checkpoint after promotion is not done yet.
    pub checkpoint_after_promote: Option<bool>,
    /// Effective tags.
    pub tags: Tags,
    /// PostgreSQL waits for a restart to apply settings.
    pub pending_restart: bool,
    /// Which settings, where known.
    pub pending_restart_reason: PendingRestart,
    /// Primary: flushed position. Standby: the later of received and replayed.
    pub xlog_location: Option<Lsn>,
    /// Standby only.
    pub receive_lsn: Option<Lsn>,
    /// Standby only.
    pub replay_lsn: Option<Lsn>,
    /// `streaming` or `in archive recovery`.
    pub replication_state: Option<String>,
    /// The timeline PostgreSQL is on.
    pub timeline: Option<Timeline>,
    /// A restart at a given time: the request as it was accepted, with `schedule` and `postmaster_start_time`.
    pub scheduled_restart: Option<Value>,
    /// True while the node knows that the cluster is paused.
    pub pause: bool,
    /// Fields this version does not know, kept for display and rewriting.
    pub extra: BTreeMap<String, Value>,
}

impl Member {
    /// PostgreSQL's address from `conn_url`.
    pub fn pg_address(&self) -> Option<HostPort> {
        self.conn_url.as_deref().and_then(HostPort::from_url)
    }

    /// The REST API's address from `api_url`.
    pub fn api_address(&self) -> Option<HostPort> {
        self.api_url.as_deref().and_then(HostPort::from_url)
    }

    /// The role where it is one we know.
    pub fn role(&self) -> Option<Role> {
        Role::parse(&self.role)
    }

    /// PostgreSQL accepts connections.
    pub fn is_running(&self) -> bool {
        self.state == MemberState::Running.as_str()
    }
}
