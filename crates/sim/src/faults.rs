//! What goes wrong, and what operators do meanwhile.

use std::sync::Arc;
use std::time::Duration;

use ha::view::{RequestKind, RestartFilter};
use model::{FailoverKey, Key, wire};
use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;
use serde_json::Value;
use tokio::time::sleep;

use crate::history::Event;
use crate::member::{kill_agent, start_agent};
use crate::world::{NodeId, State, World};

/// Something that goes wrong, for how long, or that an operator does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// kill -9 of an agent; its service manager starts it again later.
    KillAgent(NodeId),
    /// SIGSTOP of an agent.
    Freeze(NodeId),
    /// PostgreSQL crashes.
    CrashPostgres(NodeId),
    /// Power failure of a machine.
    CrashHost(NodeId),
    /// A node does not reach the store.
    CutStore(NodeId),
    /// Two nodes do not reach each other.
    CutLink(NodeId, NodeId),
    /// A node reaches neither the store nor anybody else.
    Isolate(NodeId),
    /// The store answers nobody.
    StoreDown,
    /// The store takes seconds.
    StoreSlow,
    /// Requests to the store, and its answers, get lost.
    LosePackets,
    /// Somebody sets the clock by this many seconds.
    WallJump(NodeId, i64),
    /// The disk under PostgreSQL does not answer.
    StallDisk(NodeId),
    /// Replication to a node gets slow.
    SlowReplication(NodeId),
    /// An operator asks for a switchover, to somebody or to this node.
    Switchover(Option<NodeId>),
    /// An operator asks for a failover to this node.
    Failover(NodeId),
    /// An operator pauses the cluster for a while.
    Pause,
    /// An operator restarts PostgreSQL.
    Restart(NodeId),
    /// An operator asks for a new copy.
    Reinit(NodeId),
}

impl Fault {
    /// Any fault, in a cluster of `nodes`; the primary is hit more often than others.
    pub fn draw(rng: &mut Xoshiro256PlusPlus, nodes: usize, primary: Option<NodeId>) -> Fault {
        let anyone = NodeId(rng.random_range(0..nodes));
        let node = primary.filter(|_| rng.random_range(0..3) == 0).unwrap_or(anyone);
        let other = NodeId((node.0 + rng.random_range(1..nodes.max(2))) % nodes);
        match rng.random_range(0..100) {
            0..8 => Fault::KillAgent(node),
            8..18 => Fault::Freeze(node),
            18..27 => Fault::CrashPostgres(node),
            27..33 => Fault::CrashHost(node),
            33..40 => Fault::CutStore(node),
            40..46 if other != node => Fault::CutLink(node, other),
            40..52 => Fault::Isolate(node),
            52..57 => Fault::StoreDown,
            57..60 => Fault::StoreSlow,
            60..66 => Fault::LosePackets,
            66..69 => Fault::WallJump(node, rng.random_range(-7_200..7_200)),
            69..74 => Fault::StallDisk(node),
            74..82 => Fault::SlowReplication(node),
            82..86 => Fault::Switchover((rng.random_range(0..2) == 0).then_some(node)),
            86..88 => Fault::Failover(node),
            88..93 => Fault::Pause,
            93..97 => Fault::Restart(node),
            _ => Fault::Reinit(node),
        }
    }

    /// Lets it happen, waits, and undoes what can be undone.
    pub async fn inject(self, world: &Arc<World>, lasts: Duration) {
        world.with(|state| state.record(Event::Fault(format!("{self:?} for {:.1} s", lasts.as_secs_f64()))));
        self.begin(world);
        sleep(lasts).await;
        self.end(world);
    }

    fn begin(&self, world: &Arc<World>) {
        match *self {
            Fault::KillAgent(node) => kill_agent(world, node),
            Fault::Freeze(node) => world.with(|state| state.node(node).agent.clone()).freeze(),
            Fault::CrashHost(node) => {
                kill_agent(world, node);
                world.with(|state| {
                    state.kill_process(node, "power failure");
                    let machine = state.node_mut(node);
                    machine.host_up = false;
                    machine.fence = Default::default();
                });
            }
            Fault::Restart(node) => {
                request(world, node, RequestKind::Restart { filter: RestartFilter::default(), timeout_s: None })
            }
            Fault::Reinit(node) => {
                let leads = world.with(|state| {
                    let leads = state.store.leader() == Some(&node.to_string());
                    state.node_mut(node).reinit_requested |= !leads;
                    leads
                });
                if !leads {
                    request(world, node, RequestKind::Reinitialize { force: true, from_leader: false });
                }
            }
            _ => world.with(|state| self.change(state)),
        }
    }

    /// The faults that are a matter of state alone.
    fn change(&self, state: &mut State) {
        let forever = u64::MAX / 2;
        match *self {
            Fault::CrashPostgres(node) => state.kill_process(node, "crashed"),
            Fault::CutStore(node) => {
                state.net.store_cut.insert(node);
            }
            Fault::CutLink(a, b) => state.net.set_link(a, b, true),
            Fault::Isolate(node) => {
                state.net.store_cut.insert(node);
                state.ids().filter(|other| *other != node).for_each(|other| state.net.set_link(node, other, true));
            }
            Fault::StoreDown => state.net.store_down = true,
            Fault::StoreSlow => state.net.store_slow_ms = Some(200..7_000),
            Fault::LosePackets => state.net.lost_percent = 30,
            Fault::WallJump(node, seconds) => state.node_mut(node).wall_jump_ms = seconds * 1000,
            Fault::StallDisk(node) => state.node_mut(node).pg.stalled_until_ms = forever,
            Fault::SlowReplication(node) => state.node_mut(node).pg.stream_limit_bytes = Some(10_000),
            Fault::Switchover(to) => state.ask_switchover(to),
            Fault::Failover(node) => {
                let request = FailoverKey { candidate: Some(node.to_string()), ..FailoverKey::default() };
                state.store_put(&Key::Failover, &wire::encode_failover(&request), None, "operator");
            }
            Fault::Pause => state.set_pause(true),
            _ => {}
        }
    }

    fn end(&self, world: &Arc<World>) {
        match *self {
            Fault::KillAgent(node) => start_agent(world, node),
            Fault::Freeze(node) => world.with(|state| state.node(node).agent.clone()).thaw(),
            Fault::CrashHost(node) => {
                world.with(|state| state.node_mut(node).host_up = true);
                start_agent(world, node);
            }
            _ => {}
        }
        world.with(|state| {
            match *self {
                Fault::CutStore(node) => {
                    state.net.store_cut.remove(&node);
                }
                Fault::CutLink(a, b) => state.net.set_link(a, b, false),
                Fault::Isolate(node) => {
                    state.net.store_cut.remove(&node);
                    state.ids().for_each(|other| state.net.set_link(node, other, false));
                }
                Fault::StoreDown => state.net.store_down = false,
                Fault::StoreSlow => state.net.store_slow_ms = None,
                Fault::LosePackets => state.net.lost_percent = 0,
                Fault::StallDisk(node) => state.end_stall(node),
                Fault::SlowReplication(node) => state.node_mut(node).pg.stream_limit_bytes = None,
                Fault::Pause => state.set_pause(false),
                _ => {}
            }
            state.resume_watches();
            state.record(Event::Fault(format!("end of {self:?}")));
        });
    }
}

/// Puts a request to an agent as its REST API would; nobody waits for the answer.
fn request(world: &Arc<World>, node: NodeId, kind: RequestKind) {
    let handle = world.with(|state| {
        state.node_mut(node).asked_ms = Some(state.now_ms);
        state.node(node).handle.clone()
    });
    if let Some(handle) = handle {
        let world = Arc::downgrade(world);
        tokio::spawn(async move {
            let answer = handle.request(kind).await;
            if let Some(world) = world.upgrade() {
                let text = format!("{node} answers {} {}", answer.code, answer.text);
                world.with(|state| state.record(Event::Fault(text)));
            }
        });
    }
}

/// Undoes every fault at once.
pub fn heal(world: &Arc<World>) {
    world.with(|state| {
        state.record(Event::Fault("all faults end".to_owned()));
        state.net.heal();
        for id in state.ids() {
            state.end_stall(id);
            let machine = state.node_mut(id);
            machine.host_up = true;
            machine.pg.stream_limit_bytes = None;
            machine.agent.thaw();
        }
        state.set_pause(false);
        state.resume_watches();
    });
    let ids: Vec<NodeId> = world.with(|state| state.ids().collect());
    ids.into_iter().for_each(|id| start_agent(world, id));
}

impl State {
    fn end_stall(&mut self, node: NodeId) {
        let now_ms = self.now_ms;
        let stalled = &mut self.node_mut(node).pg.stalled_until_ms;
        *stalled = (*stalled).min(now_ms);
    }

    fn ask_switchover(&mut self, to: Option<NodeId>) {
        let Some(leader) = self.store.leader().map(str::to_owned) else { return };
        let candidate = to.map(|node| node.to_string()).filter(|name| *name != leader);
        let request = FailoverKey { leader: Some(leader), candidate, scheduled_at: None };
        self.store_put(&Key::Failover, &wire::encode_failover(&request), None, "operator");
    }

    fn set_pause(&mut self, pause: bool) {
        let Some(text) = self.store.get(&Key::Config) else { return };
        let Ok(Value::Object(mut config)) = serde_json::from_str(text) else { return };
        let before = config.get("pause").and_then(Value::as_bool).unwrap_or(false);
        if before != pause {
            config.insert("pause".to_owned(), Value::Bool(pause));
            self.store_put(&Key::Config, &Value::Object(config).to_string(), None, "operator");
        }
    }
}
