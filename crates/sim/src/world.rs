//! The one place where all simulated state lives.
//!
//! Every change goes through [`World::with`], which hands new events and the new state to the checkers before anything
//! else can happen: a property that must hold at every moment is checked at every moment.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use agent::Handle;
use ha::view::Promise;
use model::Tags;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use crate::checkers::{self, Checker, Violation};
use crate::client::Ledger;
use crate::fence::FenceState;
use crate::history::{Event, History};
use crate::net::Network;
use crate::pg::Pg;
use crate::run::Options;
use crate::spawner::Process;
use crate::store::StoreState;

/// A node, by its place in the list of nodes. Displays as its member name: `a`, `b`, ...
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub usize);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", char::from(b'a' + (self.0 % 26) as u8))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl NodeId {
    /// Address of the host.
    pub fn host(self) -> String {
        format!("10.0.0.{}", self.0 + 1)
    }

    /// The node with this address.
    pub fn by_host(host: &str) -> Option<NodeId> {
        host.strip_prefix("10.0.0.")?.parse::<usize>().ok()?.checked_sub(1).map(NodeId)
    }
}

/// One machine: agent, PostgreSQL, sentinel.
pub struct SimNode {
    /// Effective tags.
    pub tags: Tags,
    /// Boot clock minus time since the start of the run.
    pub boot_offset_ms: u64,
    /// How far the calendar was set ahead (or, negative, back).
    pub wall_jump_ms: i64,
    /// The machine runs.
    pub host_up: bool,
    /// The agent process that runs, or ran last.
    pub agent: Arc<Process>,
    /// The way to ask it something, while it runs.
    pub handle: Option<Handle>,
    /// PostgreSQL and its data directory.
    pub pg: Pg,
    /// The sentinel.
    pub fence: FenceState,
    /// Since when every answer of the store to this node said that the cluster is paused.
    pub told_paused_ms: Option<u64>,
    /// When it was last told otherwise, or its agent forgot with its process.
    pub pause_ended_ms: Option<u64>,
    /// An operator asked for a new copy, and it was not made yet.
    pub reinit_requested: bool,
    /// The last promise to a leader without the store, on the disk.
    pub promise: Option<Promise>,
    /// Until when the agent may believe that it holds the lease, by what it was told.
    pub leads_until_ms: Option<u64>,
    /// What the agent's last cycle said.
    pub says: String,
    /// When an operator last asked this node for anything.
    pub asked_ms: Option<u64>,
}

/// Everything but the checkers.
pub struct State {
    /// Milliseconds since the start of the run.
    pub now_ms: u64,
    /// The only source of randomness.
    pub rng: Xoshiro256PlusPlus,
    /// How this run was set up.
    pub options: Options,
    /// All machines.
    pub nodes: Vec<SimNode>,
    /// The distributed store.
    pub store: StoreState,
    /// The network.
    pub net: Network,
    /// Acknowledged writes.
    pub ledger: Ledger,
    /// What happened.
    pub history: History,
    /// Number of the next unique thing: processes, branches of WAL, leases.
    next_id: u64,
    me: Weak<World>,
}

/// The world; shared by everything that simulates a part of it.
pub struct World {
    shared: Mutex<Shared>,
    start: Instant,
}

struct Shared {
    state: State,
    checkers: Vec<Box<dyn Checker>>,
    checked: u64,
    violations: Vec<Violation>,
}

impl World {
    /// `nodes` machines with empty data directories, an empty store, and a seed for every choice. Needs a running tokio
    /// runtime with paused time.
    pub fn new(seed: u64, options: Options) -> Arc<World> {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let nodes = (0..options.nodes)
            .map(|index| SimNode {
                tags: options.tags_of(NodeId(index)),
                boot_offset_ms: rng.random_range(1_000..50_000_000),
                wall_jump_ms: rng.random_range(-50..50),
                host_up: true,
                agent: Arc::new(Process::default()),
                handle: None,
                pg: Pg::default(),
                fence: FenceState::default(),
                told_paused_ms: None,
                pause_ended_ms: None,
                reinit_requested: false,
                promise: None,
                leads_until_ms: None,
                says: String::new(),
                asked_ms: None,
            })
            .collect();
        Arc::new_cyclic(|me| World {
            start: Instant::now(),
            shared: Mutex::new(Shared {
                state: State {
                    now_ms: 0,
                    rng,
                    nodes,
                    store: StoreState::default(),
                    net: Network::default(),
                    ledger: Ledger::default(),
                    history: History::default(),
                    next_id: 1,
                    me: me.clone(),
                    options,
                },
                checkers: checkers::all(),
                checked: 0,
                violations: Vec::new(),
            }),
        })
    }

    /// Milliseconds since the start of the run.
    pub fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis().try_into().unwrap_or(u64::MAX)
    }

    /// Looks at or changes the state; then every checker sees what changed.
    pub fn with<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &mut *shared;
        shared.state.now_ms = self.now_ms();
        let result = change(&mut shared.state);
        while let Some((at_ms, event)) = shared.state.history.get(shared.checked) {
            for checker in &mut shared.checkers {
                if let Some(what) = checker.on_event(event, &shared.state) {
                    shared.violations.push(Violation { checker: checker.name(), at_ms: *at_ms, what });
                }
            }
            shared.checked += 1;
        }
        let at_ms = shared.state.now_ms;
        for checker in &mut shared.checkers {
            if let Some(what) = checker.on_state(&shared.state) {
                shared.violations.push(Violation { checker: checker.name(), at_ms, what });
            }
        }
        result
    }

    /// What the checkers found.
    pub fn violations(&self) -> Vec<Violation> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).violations.clone()
    }

    /// Reports a violation from outside the checkers (liveness).
    pub fn violate(&self, checker: &'static str, what: String) {
        let at_ms = self.now_ms();
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.violations.push(Violation { checker, at_ms, what });
    }
}

impl State {
    /// What `node` knows of the pause changes.
    pub fn tell_pause(&mut self, node: NodeId, paused: bool) {
        let now_ms = self.now_ms;
        let node = self.node_mut(node);
        match (paused, node.told_paused_ms) {
            (true, None) => node.told_paused_ms = Some(now_ms),
            (false, Some(_)) => {
                node.told_paused_ms = None;
                node.pause_ended_ms = Some(now_ms);
            }
            _ => {}
        }
    }

    /// Appends to the history.
    pub fn record(&mut self, event: Event) {
        self.history.push(self.now_ms, event);
    }

    /// The machine. Ids come from this world's own list.
    pub fn node(&self, id: NodeId) -> &SimNode {
        &self.nodes[id.0]
    }

    /// The machine, to change it.
    pub fn node_mut(&mut self, id: NodeId) -> &mut SimNode {
        &mut self.nodes[id.0]
    }

    /// All ids.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len()).map(NodeId)
    }

    /// The machine with this address.
    pub fn by_host(&self, host: &str) -> Option<NodeId> {
        NodeId::by_host(host).filter(|id| id.0 < self.nodes.len())
    }

    /// A number never given before in this run.
    pub fn unique(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// The world, for work that goes on by itself; `None` while the run ends.
    pub fn world(&self) -> Option<Arc<World>> {
        self.me.upgrade()
    }

    /// Packets pass between two machines and both run.
    pub fn reachable(&self, a: NodeId, b: NodeId) -> bool {
        self.node(a).host_up && self.node(b).host_up && self.net.linked(a, b)
    }

    /// Packets pass between a machine and the store.
    pub fn store_reachable(&self, node: NodeId) -> bool {
        self.node(node).host_up && self.net.store_reachable(node)
    }

    /// Nodes that accept writes, or could in the next instant.
    pub fn writable(&self) -> Vec<NodeId> {
        self.ids().filter(|id| self.node(*id).pg.accepts_writes()).collect()
    }

    /// A random duration in milliseconds.
    pub fn between(&mut self, least_ms: u64, most_ms: u64) -> u64 {
        self.rng.random_range(least_ms..=most_ms)
    }
}
