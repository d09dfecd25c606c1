//! What a decision sees: one snapshot with one `now`.

use jiff::Timestamp;
use model::pg::PgSnapshot;
use model::{BootTime, CloneProgress, ClusterView, FailsafeLeader, Lsn, Role, Settings, Tags};
use serde::{Deserialize, Serialize};

use crate::memory::ScheduledRestart;
use crate::step::Task;

/// One look at the world, taken at `now`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// The moment of the look; all durations are measured against it.
    pub now: BootTime,
    /// The calendar time of the look, for schedules only.
    pub wall: Timestamp,
    /// This node.
    pub node: NodeInfo,
    /// The cluster's settings as this node knows them.
    pub settings: Settings,
    /// The keys of the cluster.
    pub store: StoreView,
    /// The leader lease as the keeper knows it.
    pub lease: LeaseView,
    /// A leader without the store that this node promised not to replace.
    #[serde(default)]
    pub promise: Option<Promise>,
    /// The local PostgreSQL.
    pub pg: PgSnapshot,
    /// The task that runs.
    pub task: Option<RunningTask>,
    /// The task that ended since the last cycle.
    pub finished: Option<FinishedTask>,
    /// The server was told to read its configuration again since the last cycle, because that changed.
    #[serde(default)]
    pub reloaded: bool,
    /// What operators asked for over REST, oldest first.
    pub requests: Vec<Request>,
    /// The process that kills PostgreSQL when the lease runs out, and the kernel watchdog.
    pub fence: FenceView,
    /// The agent was told to stop.
    pub shutdown: bool,
}

/// What this node is, from its configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Member name.
    pub name: String,
    /// Cluster name.
    pub scope: String,
    /// Published `conn_url`.
    pub conn_url: String,
    /// Published `api_url`.
    pub api_url: String,
    /// Published `proxy_url`.
    pub proxy_url: Option<String>,
    /// Published version.
    pub version: String,
    /// Configured tags.
    pub tags: Tags,
    /// There is a `bootstrap` section: this node may create the cluster.
    pub may_bootstrap: bool,
    /// `bootstrap.dcs` as JSON text: what is written to the store with a new cluster, or where the store lost it.
    pub initial_config: String,
    /// Some replica creation method works without a leader.
    pub clones_without_leader: bool,
    /// Some replica creation method goes on from the data that is there (`keep_data`).
    #[serde(default)]
    pub clones_over_data: bool,
}

/// The store as last read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum StoreView {
    /// Read in this cycle.
    Read(Box<ClusterView>),
    /// Could not be read; why. Nothing follows about what the keys hold.
    Unreachable(String),
}

/// The leader lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaseView {
    /// This node holds none.
    #[default]
    None,
    /// Held until this moment at least; PostgreSQL must not accept writes after it.
    Held(BootTime),
    /// Was held; somebody else has the key now, or the deadline passed.
    Lost,
}

/// This node accepted a leader's `POST /failsafe`: it does not take the lock until then, whatever the store says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Promise {
    /// Whom it was given.
    pub leader: FailsafeLeader,
    /// A `ttl` after it was given last.
    pub until: BootTime,
}

/// The state of fencing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceView {
    /// Something that must work does not (`required` mode): this node must not lead.
    pub failed: bool,
}

/// A task that runs beside the loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunningTask {
    /// Its number; results with another number are dropped.
    pub id: u64,
    /// What it does.
    pub task: Task,
    /// When it was started.
    pub since: BootTime,
    /// What it reported so far.
    pub progress: Option<Progress>,
}

/// A report from a running task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Progress {
    /// The shutdown checkpoint record begins at this position; the process may still be there.
    ShutDown(Lsn),
    /// The server was started and accepts no connections yet.
    Starting,
    /// A base backup is this far.
    Copied(CloneProgress),
    /// A custom bootstrap method fills the data directory.
    CustomBootstrap,
    /// The server that a custom bootstrap method restored was started, and recovers.
    Restored,
    /// The user's `pre_promote` runs: nothing has been done yet.
    PrePromote,
    /// `pre_promote` has succeeded, or there is none.
    Promoting,
}

/// A task that ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FinishedTask {
    /// Its number.
    pub id: u64,
    /// What it did.
    pub task: Task,
    /// The last it reported.
    #[serde(default)]
    pub progress: Option<Progress>,
    /// How it ended: text for people on failure.
    pub outcome: Result<(), String>,
}

/// A request of an operator that waits for an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Its number, for the answer.
    pub id: u64,
    /// What is asked.
    pub kind: RequestKind,
}

/// What operators may ask of one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RequestKind {
    /// Restart PostgreSQL.
    Restart {
        /// Conditions of the restart.
        filter: RestartFilter,
        /// How long it may take before a failover; the cluster's `primary_start_timeout` where `None`.
        timeout_s: Option<u64>,
    },
    /// Restart PostgreSQL at a given time.
    ScheduleRestart(ScheduledRestart),
    /// Forget the scheduled restart.
    CancelRestart,
    /// Take a new copy.
    Reinitialize {
        /// Cancel what runs first.
        force: bool,
        /// Copy from the leader, by base backup.
        from_leader: bool,
    },
}

/// Conditions under which a restart is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartFilter {
    /// Only in this role.
    pub role: Option<Role>,
    /// Only when the server is older than this `server_version_num`.
    pub postgres_version: Option<u32>,
    /// Only when a restart is pending.
    pub restart_pending: bool,
}

impl View {
    /// The cluster as read in this cycle.
    pub fn cluster(&self) -> Option<&ClusterView> {
        match &self.store {
            StoreView::Read(cluster) => Some(cluster),
            StoreView::Unreachable(_) => None,
        }
    }

    /// What this node promised a leader without the store, as long as it counts.
    pub fn promise_in_force(&self) -> Option<&Promise> {
        self.promise.as_ref().filter(|promise| promise.until > self.now)
    }

    /// The lease is held and its deadline lies ahead.
    pub fn holds_lease(&self) -> bool {
        matches!(self.lease, LeaseView::Held(deadline) if deadline > self.now)
    }
}
