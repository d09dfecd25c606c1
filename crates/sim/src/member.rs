//! One agent process: the production driver, wired to the simulated world.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agent::ports::Spawner;
use agent::{Agent, Deps, Handle, Observer};
use dcs::Timing;
use ha::view::NodeInfo;
use model::Settings;
use serde_json::Value;
use tokio::time::sleep;

use crate::callbacks::SimCallbacks;
use crate::clock::SimClock;
use crate::fence::SimFence;
use crate::history::Event;
use crate::lease::WatchedStore;
use crate::peers::SimPeers;
use crate::pg::SimPg;
use crate::promise::SimPromise;
use crate::spawner::{Process, SimSpawner};
use crate::store::SimStore;
use crate::world::{NodeId, World};

/// Cluster name.
pub const SCOPE: &str = "sim";

/// An agent that exits is started again by the service manager after this long.
const RESTART_AFTER: Duration = Duration::from_secs(2);

/// What is configured for `node`.
fn info(world: &World, node: NodeId) -> NodeInfo {
    let (tags, options) = world.with(|state| (state.node(node).tags.clone(), state.options.clone()));
    NodeInfo {
        name: node.to_string(),
        scope: SCOPE.to_owned(),
        conn_url: format!("postgres://{}:5432/postgres", node.host()),
        api_url: format!("http://{}:8008/patroni", node.host()),
        proxy_url: None,
        version: model::COMPATIBLE_VERSION.to_owned(),
        tags,
        may_bootstrap: true,
        initial_config: Value::Object(options.dynamic()).to_string(),
        clones_without_leader: false,
        clones_over_data: false,
    }
}

/// Starts the agent of `node`; nothing happens where the machine is down or an agent runs.
pub fn start_agent(world: &Arc<World>, node: NodeId) {
    let process = Arc::new(Process::default());
    let free = world.with(|state| {
        let free = state.node(node).host_up && state.node(node).handle.is_none();
        if free {
            state.node_mut(node).agent = process.clone();
            // A new process has been told nothing yet.
            state.tell_pause(node, false);
            state.record(Event::AgentStarted(node));
        }
        free
    });
    if !free {
        return;
    }
    let dynamic = world.with(|state| state.options.dynamic());
    let settings = Settings::resolve(&dynamic).0;
    let timing = Timing { ttl: settings.ttl, loop_wait: settings.loop_wait, retry_timeout: settings.retry_timeout };
    let spawner = Arc::new(SimSpawner::new(world, node, process));
    let deps = Deps {
        store: Arc::new(SimStore::new(world, node, timing)),
        node: Arc::new(SimPg::new(world, node)),
        peers: Arc::new(SimPeers { world: world.clone(), node }),
        fence: Arc::new(SimFence { world: world.clone(), node }),
        callbacks: Arc::new(SimCallbacks { world: world.clone(), node }),
        promises: Arc::new(SimPromise { world: world.clone(), node }),
        clock: Arc::new(SimClock::new(world, node)),
        spawner: spawner.clone(),
        observer: Some(observer(world, node)),
    };
    let mutation = world.with(|state| state.options.mutation);
    let deps = match mutation {
        Some(mutation) => mutation.apply(deps, world, node),
        None => deps,
    };
    let deps = Deps { store: Arc::new(WatchedStore::new(deps.store.clone(), world, node, timing)), ..deps };
    let info = match mutation {
        Some(mutation) => mutation.apply_to_info(info(world, node)),
        None => info(world, node),
    };
    let agent = Agent::new(deps, info, dynamic);
    let handle: Handle = agent.handle();
    world.with(|state| state.node_mut(node).handle = Some(handle));
    let world = world.clone();
    spawner.spawn(Box::pin(async move {
        let code = agent.run().await;
        world.with(|state| state.record(Event::Fault(format!("agent of {node} exits with status {code}"))));
        tokio::spawn(async move {
            kill_agent(&world, node);
            sleep(RESTART_AFTER).await;
            start_agent(&world, node);
        });
    }));
}

/// Kills the agent of `node`, if one runs.
pub fn kill_agent(world: &World, node: NodeId) {
    let process = world.with(|state| {
        let handle = state.node_mut(node).handle.take();
        state.node_mut(node).leads_until_ms = None;
        if handle.is_some() {
            state.record(Event::AgentGone(node));
        }
        state.node(node).agent.clone()
    });
    process.kill();
}

/// Records verdicts, leaving out repetitions.
fn observer(world: &Arc<World>, node: NodeId) -> Observer {
    let world = Arc::downgrade(world);
    let last = Mutex::new((0, String::new()));
    Arc::new(move |record| {
        let Some(world) = world.upgrade() else { return };
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0 == record.rule.0 && last.1 == record.reason {
            return;
        }
        *last = (record.rule.0, record.reason.clone());
        world.with(|state| {
            state.node_mut(node).says = record.reason.clone();
            state.record(Event::Verdict { node, rule: record.rule.0, reason: record.reason.clone() });
        });
    })
}
