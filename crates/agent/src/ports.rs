//! What the driver needs of the world, as traits: production implements them with PostgreSQL, HTTP and the kernel, the
//! simulator with a simulated node. The store's trait is [`dcs::Store`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use ha::step::{CallbackAction, CloneSource, PeerAddress, ServerPosition, StopMode};
use ha::view::{Progress, Promise};
use model::lsn::TimelineSwitch;
use model::peer::PeerStatus;
use model::pg::{PgSnapshot, Upstream};
use model::slots::{SlotChange, Xid};
use model::{BootTime, FailsafeLeader, FailsafeReply, LeaseTimes, Role};
use serde_json::{Map, Value};
use tokio::sync::watch;

/// Time, and sleeping. The only clock the agent has.
#[async_trait]
pub trait Clock: Send + Sync + 'static {
    /// `CLOCK_BOOTTIME` in milliseconds.
    fn now(&self) -> BootTime;
    /// Calendar time, for schedules and timestamps that people read.
    fn wall(&self) -> jiff::Timestamp;
    /// Sleeps until `deadline`; returns at once when it has passed.
    async fn sleep_until(&self, deadline: BootTime);
}

/// Runs futures beside each other; in the simulator also what freezes and kills them.
pub trait Spawner: Send + Sync + 'static {
    /// Starts a future.
    fn spawn(&self, future: BoxFuture<'static, ()>);
}

/// Other members' REST APIs.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// `GET /patroni` of each, in parallel, each bounded to two seconds, without retries; answers in the order asked.
    async fn status(&self, peers: &[PeerAddress]) -> Vec<PeerStatus>;

    /// `POST /failsafe` to each, in parallel, each bounded to two attempts of two seconds; answers in the order asked.
    async fn failsafe(&self, peers: &[PeerAddress], leader: &FailsafeLeader) -> Vec<FailsafeReply>;
}

/// Where a promise outlives the agent that gave it.
#[async_trait]
pub trait PromiseFile: Send + Sync + 'static {
    /// The promise that an earlier life of this agent left; `None` where there is none.
    async fn load(&self) -> Option<Promise>;
    /// Keeps a promise; it is on the disk when this returns.
    async fn save(&self, promise: &Promise) -> Result<(), String>;
}

/// The process that outlives a frozen agent, and the kernel watchdog.
#[async_trait]
pub trait Fence: Send + Sync + 'static {
    /// Sets or moves the deadline at which PostgreSQL is killed if nothing is heard. Returns once the other side has
    /// confirmed it; an error means that nobody stands guard.
    async fn arm(&self, deadline: BootTime) -> Result<(), String>;
    /// PostgreSQL may outlive the agent from now on.
    async fn disarm(&self);
    /// Fencing is required by the configuration and does not work; as long as an earlier deadline stands, a new one that
    /// was not confirmed is no failure.
    fn failed(&self) -> bool;
    /// New times of the lease.
    fn set_times(&self, _times: LeaseTimes) {}
    /// Each counts what changes the answer of [`Fence::failed`].
    fn events(&self) -> Vec<watch::Receiver<u64>> {
        Vec::new()
    }
}

/// User scripts.
pub trait Callbacks: Send + Sync + 'static {
    /// Runs the script configured for `action` without waiting; a new call ends the script that still runs.
    fn run(&self, action: CallbackAction, role: Role, scope: &str);
}

/// How a server is started.
#[derive(Clone, Debug, PartialEq)]
pub enum StartAs {
    /// Without recovery configuration.
    Primary,
    /// As a standby of this server, or of nobody.
    Standby(Option<Upstream>),
}

/// Work that may be told to stop, and that reports progress.
#[derive(Clone)]
pub struct TaskHandle {
    /// Becomes true when the task is cancelled.
    pub cancelled: watch::Receiver<bool>,
    /// Progress for the decision loop.
    pub progress: Arc<dyn Fn(Progress) + Send + Sync>,
    /// Whether the node may become writable: asked immediately before that cannot be undone any more.
    pub may_be_writable: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// The local PostgreSQL: primitives, each of which does one thing and decides nothing. Errors are sentences for
/// people: what was tried, on what, and what went wrong.
#[async_trait]
pub trait Node: Send + Sync + 'static {
    /// One look: process, control file, and (bounded to about two seconds) what the server says.
    async fn observe(&self) -> PgSnapshot;
    /// Counts exits, starts, and other changes of the postmaster that somebody should look at.
    fn events(&self) -> watch::Receiver<u64>;

    /// The dynamic configuration with this node's own settings laid over it, where those win: what the settings that
    /// decisions rest on are read from.
    fn in_force(&self, dynamic: &Map<String, Value>) -> Map<String, Value> {
        dynamic.clone()
    }

    /// The dynamic configuration changed: recompute, rewrite files, reload what can be reloaded, note what waits for a
    /// restart. Returns whether a running server was told to read its files again.
    async fn apply_config(&self, dynamic: &Map<String, Value>, role: Role) -> Result<bool, String>;

    /// initdb into an empty directory, configuration written; ends stopped.
    async fn initdb(&self, task: &TaskHandle) -> Result<(), String>;
    /// Roles and `post_bootstrap`, on the running new primary.
    async fn post_bootstrap(&self, task: &TaskHandle) -> Result<(), String>;
    /// Starts the server. Returns when it accepts connections, or as soon as a standby replays WAL that it cannot be
    /// connected to yet; an error when the process ended or `timeout` passed.
    async fn start(&self, mode: StartAs, timeout: Duration, task: &TaskHandle) -> Result<(), String>;
    /// Stops the server; success when no process is left. Reports [`Progress::ShutDown`] as soon as the control file
    /// holds the shutdown checkpoint. Stopping a server that does not run succeeds.
    async fn stop(&self, mode: StopMode, task: &TaskHandle) -> Result<(), String>;
    /// Leaves recovery; returns when the control file says `in production`. `may_proceed` is asked immediately
    /// before the point of no return.
    async fn promote(&self, may_proceed: &(dyn Fn() -> bool + Send + Sync), task: &TaskHandle) -> Result<(), String>;
    /// Rewrites recovery configuration of a running standby, and reloads or restarts as the version needs.
    async fn repoint(&self, upstream: Option<&Upstream>, task: &TaskHandle) -> Result<(), String>;
    /// Copies another server into the empty data directory.
    async fn clone_from(
        &self,
        source: Option<&CloneSource>,
        basebackup_only: bool,
        task: &TaskHandle,
    ) -> Result<(), String>;
    /// pg_rewind.
    async fn rewind(&self, source: &Upstream, task: &TaskHandle) -> Result<(), String>;
    /// Crash recovery in single-user mode.
    async fn crash_recovery(&self, task: &TaskHandle) -> Result<(), String>;
    /// `CHECKPOINT`.
    async fn checkpoint(&self) -> Result<(), String>;
    /// Removes the contents of the data directory.
    async fn remove_data_dir(&self) -> Result<(), String>;
    /// Puts a failed bootstrap aside under a name ending in `.failed`.
    async fn move_data_dir_aside(&self) -> Result<(), String>;
    /// Changes replication slots in this order. Physical ones are done on return, each tried, the error naming all that
    /// failed; work on logical ones goes on beside the loop, and what it is asked while it is busy is dropped.
    async fn sync_slots(&self, changes: &[SlotChange]) -> Result<(), String>;
    /// `hot_standby_feedback`: on whatever the configuration says, or as configured. Until this is called it stays as
    /// found.
    async fn force_feedback(&self, on: bool) -> Result<(), String>;
    /// Copies logical slots of a primary into this running standby, restarting it once they have been read. Slots that
    /// the primary lacks or has lost, and failover slots, are left out; nothing is restarted for nothing.
    async fn copy_slots(&self, source: &Upstream, slots: &[String], task: &TaskHandle) -> Result<(), String>;
    /// `catalog_xmin` of slots of another primary, bounded to about five seconds.
    async fn slot_horizons(&self, server: &Upstream, slots: &[String]) -> Result<BTreeMap<String, Xid>, String>;
    /// Sets `synchronous_standby_names` and keeps it through restarts; `None` gives it back to the user's configuration.
    /// Returns when the server has taken it over, within a few seconds; where none runs, when it is written.
    async fn set_standby_names(&self, names: Option<&str>) -> Result<(), String>;
    /// Position and history of another server, over a replication connection, bounded to about three seconds.
    async fn server_position(&self, server: &Upstream) -> Result<ServerPosition, String>;
    /// The history file of the local timeline; `None` on timeline 1 or when unreadable.
    async fn own_history(&self) -> Option<Vec<TimelineSwitch>>;
}
