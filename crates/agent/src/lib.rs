//! The agent: observe, decide, act. The driver performs the steps that [`ha::decide`] asks for; tasks run beside it;
//! the lease keeper renews the leader lock on its own; the fence stops PostgreSQL when everything else hangs.
//!
//! **Invariant**: no rule lives here. What the agent does follows from `ha`'s steps, apart from one thing: a lease that
//! is not renewed is treated as lost at its deadline, by the keeper and by the fence, whatever the loop does.

pub mod callbacks;
pub mod clock;
mod driver;
pub mod fence;
mod handle;
pub mod journal;
mod keeper;
pub mod peers;
pub mod ports;
mod promises;
pub mod sentinel;
mod tasks;

use std::collections::BTreeMap;
use std::sync::Arc;

use dcs::{Store, Timing};
use ha::view::NodeInfo;
use model::{Role, Settings};
use serde_json::{Map, Value};
use tokio::sync::{Notify, mpsc, watch};

pub use driver::Published;
pub use handle::Handle;
use journal::{CycleRecord, Journal};
use keeper::Keeper;
use ports::{Callbacks, Clock, Fence, Node, Peers, PromiseFile, Spawner};

/// Called with every cycle as it ends.
pub type Observer = Arc<dyn Fn(&CycleRecord) + Send + Sync>;

/// The world of one agent.
#[derive(Clone)]
pub struct Deps {
    /// The distributed store.
    pub store: Arc<dyn Store>,
    /// The local PostgreSQL.
    pub node: Arc<dyn Node>,
    /// Other members.
    pub peers: Arc<dyn Peers>,
    /// Sentinel and watchdog.
    pub fence: Arc<dyn Fence>,
    /// User scripts.
    pub callbacks: Arc<dyn Callbacks>,
    /// Where promises to leaders without the store are kept.
    pub promises: Arc<dyn PromiseFile>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Runs futures.
    pub spawner: Arc<dyn Spawner>,
    /// Sees every cycle; for traces and the simulator.
    pub observer: Option<Observer>,
}

/// An agent that has not started yet.
pub struct Agent {
    driver: driver::Driver,
    handle: Handle,
}

impl Agent {
    /// Prepares an agent. `dynamic` is the dynamic configuration to work with until the store's is read:
    /// the cached one, or `bootstrap.dcs`.
    pub fn new(deps: Deps, node: NodeInfo, dynamic: Map<String, Value>) -> Agent {
        let (settings, _) = Settings::resolve(&deps.node.in_force(&dynamic));
        let timing = Timing { ttl: settings.ttl, loop_wait: settings.loop_wait, retry_timeout: settings.retry_timeout };
        let wake = Arc::new(Notify::new());
        let (reload, reload_receiver) = watch::channel(None);
        let (shutdown, shutdown_receiver) = watch::channel(false);
        let (store, fence, clock) = (deps.store.clone(), deps.fence.clone(), deps.clock.clone());
        let promises = promises::Promises::new(clock.clone(), deps.promises.clone());
        let keeper = Arc::new(Keeper::new(store, fence, clock, promises, timing, shutdown_receiver.clone()));
        let shared = Arc::new(driver::Shared {
            wake: wake.clone(),
            published: watch::Sender::new(None),
            shutdown,
            reload,
            journal: Journal::default(),
        });
        let (requests, requests_receiver) = mpsc::channel(driver::REQUESTS_MAX);
        let handle = Handle { shared: shared.clone(), keeper: keeper.clone(), requests };
        let driver = driver::Driver {
            tasks: tasks::Tasks::new(deps.clone(), keeper.clone(), wake),
            changes: deps.store.changes(),
            members_seen: 0,
            deps,
            keeper,
            shared,
            node,
            requests: requests_receiver,
            dynamic,
            memory: Default::default(),
            waiting: BTreeMap::new(),
            answered: Vec::new(),
            next_request: 0,
            settings,
            config_version: None,
            configured_role: Role::Uninitialized,
            reload_pending: false,
            last_cluster: None,
            dcs_last_seen: 0,
            last_reason: String::new(),
            reported_at: Default::default(),
            reload: reload_receiver,
            shutdown: shutdown_receiver,
        };
        Agent { driver, handle }
    }

    /// A handle on this agent.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Starts the lease keeper beside the loop and runs the loop; returns the exit status.
    pub async fn run(self) -> i32 {
        let keeper = self.driver.keeper.clone();
        keeper.promises().load().await;
        self.driver.deps.spawner.spawn(Box::pin(keeper.run()));
        self.driver.run().await
    }
}
