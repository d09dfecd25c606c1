//! One run: the cluster comes up, faults are injected while the checkers watch, then faults end and it must heal.

use std::sync::Arc;
use std::time::Duration;

use model::Tags;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde_json::{Map, Value, json};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use crate::checkers::Violation;
use crate::client;
use crate::faults::{Fault, heal};
use crate::history::Event;
use crate::member::start_agent;
use crate::mutations::Mutation;
use crate::pg::sync::SyncOptions;
use crate::world::{NodeId, State, World};

/// How a run is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Machines.
    pub nodes: usize,
    /// How long faults are injected, in virtual time.
    pub safety_phase: Duration,
    /// The last node has the tag `nofailover`.
    pub nofailover: bool,
    /// A renewal may create an expired key anew, as some stores do.
    pub renew_recreates: bool,
    /// `remove_data_directory_on_diverged_timelines` and `..._on_rewind_failure`.
    pub remove_on_divergence: bool,
    /// `failsafe_mode`.
    pub failsafe: bool,
    /// `maximum_lag_on_failover`.
    pub maximum_lag_bytes: u64,
    /// Synchronous replication.
    pub sync: SyncOptions,
    /// A deliberate defect in every agent.
    pub mutation: Option<Mutation>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            nodes: 3,
            safety_phase: Duration::from_secs(600),
            nofailover: false,
            renew_recreates: false,
            remove_on_divergence: false,
            failsafe: false,
            maximum_lag_bytes: 1 << 20,
            sync: SyncOptions::default(),
            mutation: None,
        }
    }
}

impl Options {
    /// Chooses what a seed varies.
    pub fn of_seed(seed: u64) -> Options {
        // Not the generator of the run: what a run draws must not depend on how its options were made.
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x9e37_79b9_7f4a_7c15);
        Options {
            nodes: rng.random_range(2..=4),
            nofailover: rng.random_range(0..3) == 0,
            renew_recreates: rng.random_range(0..2) == 0,
            remove_on_divergence: rng.random_range(0..2) == 0,
            sync: SyncOptions::of_seed(seed),
            failsafe: rng.random_range(0..2) == 0,
            ..Options::default()
        }
    }

    /// Tags of a node.
    pub fn tags_of(&self, node: NodeId) -> Tags {
        let mut tags = Map::new();
        if self.nofailover && node.0 > 0 && node.0 + 1 == self.nodes {
            tags.insert("nofailover".to_owned(), Value::Bool(true));
        }
        Tags(tags)
    }

    /// The dynamic configuration.
    pub fn dynamic(&self) -> Map<String, Value> {
        let config = json!({
            "ttl": 30,
            "loop_wait": 10,
            "retry_timeout": 10,
            "maximum_lag_on_failover": self.maximum_lag_bytes,
            "check_timeline": true,
            "failsafe_mode": self.failsafe,
            "postgresql": {
                "use_pg_rewind": true,
                "remove_data_directory_on_rewind_failure": self.remove_on_divergence,
                "remove_data_directory_on_diverged_timelines": self.remove_on_divergence,
            },
        });
        let mut config = config.as_object().cloned().unwrap_or_default();
        self.sync.add_to(&mut config);
        config
    }
}

/// Numbers of one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Virtual time that passed.
    pub virtual_ms: u64,
    /// Events in the history.
    pub events: u64,
    /// Acknowledged writes.
    pub acks: u64,
    /// Acknowledged writes that promotions left behind, within what asynchronous replication allows.
    pub lost: u64,
}

/// What a run found.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Identifies the history; the same seed and options give the same digest.
    pub digest: u64,
    /// Properties that did not hold.
    pub violations: Vec<Violation>,
    /// The readable history's last lines.
    pub history: Vec<String>,
    /// Numbers.
    pub stats: Stats,
}

/// A cluster that has become healthy is left alone for this long before a switchover.
const SETTLE: Duration = Duration::from_secs(15);
/// Lines of history in a report.
const HISTORY_LINES: usize = 20_000;
/// An empty cluster must be complete after this long.
const COME_UP: Duration = Duration::from_secs(180);
/// Once faults have ended, there must be one leader that all others stream from within this time.
pub const HEAL_WITHIN: Duration = Duration::from_secs(300);
/// How long the store is away in failsafe mode: several times the `ttl`.
pub const OUTAGE: Duration = Duration::from_secs(130);
/// A switchover in a healthy cluster must be over within this time.
pub const SWITCHOVER_WITHIN: Duration = Duration::from_secs(14);

/// Runs one seed, on this thread.
pub fn run(seed: u64, options: Options) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return failed_to_start(seed, &error.to_string()),
    };
    runtime.block_on(async {
        let world = World::new(seed, options);
        phases(&world).await;
        report(seed, &world)
    })
}

fn failed_to_start(seed: u64, why: &str) -> Report {
    let what = format!("cannot build the runtime: {why}");
    let violations = vec![Violation { checker: "simulator", at_ms: 0, what }];
    Report { seed, digest: 0, violations, history: Vec::new(), stats: Stats::default() }
}

fn report(seed: u64, world: &Arc<World>) -> Report {
    let violations = world.violations();
    world.with(|state| {
        // Handles hold the world through the agents' store: let go of them.
        state.nodes.iter_mut().for_each(|node| node.handle = None);
        Report {
            seed,
            digest: state.history.digest(),
            violations,
            history: state.history.tail(HISTORY_LINES),
            stats: Stats {
                virtual_ms: state.now_ms,
                events: state.history.len(),
                acks: state.ledger.total,
                lost: state.ledger.lost,
            },
        }
    })
}

async fn phases(world: &Arc<World>) {
    tokio::spawn(client::write(Arc::downgrade(world)));
    let ids: Vec<NodeId> = world.with(|state| state.ids().collect());
    for id in ids {
        start_agent(world, id);
        let pause_ms =
            world.with(|state| if state.between(0, 1) == 0 { state.between(0, 10) } else { state.between(0, 1_500) });
        sleep(Duration::from_millis(pause_ms)).await;
    }
    if !becomes_healthy(world, COME_UP, "coming up").await {
        return;
    }
    inject_faults(world).await;
    if !world.violations().is_empty() {
        return;
    }
    heal(world);
    if becomes_healthy(world, HEAL_WITHIN, "healing").await {
        switch_over(world).await;
        if world.with(|state| state.options.failsafe) {
            outlive_the_store(world).await;
        }
    }
}

/// Random faults, sometimes two at a time.
async fn inject_faults(world: &Arc<World>) {
    let (until_ms, nodes) = world.with(|state| {
        let length: u64 = state.options.safety_phase.as_millis().try_into().unwrap_or(u64::MAX);
        (state.now_ms.saturating_add(length), state.nodes.len())
    });
    let mut running: JoinSet<()> = JoinSet::new();
    let mut handles: Vec<AbortHandle> = Vec::new();
    while world.now_ms() < until_ms && world.violations().is_empty() {
        let (fault, lasts_ms, pause_ms) = world.with(|state| {
            let primary = state.writable().first().copied();
            let fault = Fault::draw(&mut state.rng, nodes, primary);
            let lasts_ms =
                if state.between(0, 2) == 0 { state.between(100, 5_000) } else { state.between(5_000, 70_000) };
            let pause_ms =
                if state.between(0, 3) == 0 { state.between(0, 3_000) } else { state.between(5_000, 40_000) };
            (fault, lasts_ms, pause_ms)
        });
        if running.len() < 2 {
            let world = world.clone();
            handles.push(running.spawn(async move { fault.inject(&world, Duration::from_millis(lasts_ms)).await }));
        }
        sleep(Duration::from_millis(pause_ms)).await;
        while running.try_join_next().is_some() {}
    }
    handles.iter().for_each(AbortHandle::abort);
    while running.join_next().await.is_some() {}
}

/// Waits for a healthy cluster; a violation, and false, when it does not come or something else is violated before.
async fn becomes_healthy(world: &Arc<World>, within: Duration, phase: &'static str) -> bool {
    let deadline_ms = world.now_ms() + within.as_millis() as u64;
    let mut asked = false;
    loop {
        sleep(Duration::from_millis(500)).await;
        if !world.violations().is_empty() {
            return false;
        }
        let ailing = world.with(|state| state.ailing());
        if ailing.is_empty() {
            world.with(|state| state.record(Event::Fault(format!("healthy ({phase})"))));
            return true;
        }
        let left_ms = deadline_ms.saturating_sub(world.now_ms());
        if left_ms == 0 {
            world.violate("liveness", format!("{phase}: {} after {} s", ailing.join("; "), within.as_secs()));
            return false;
        }
        // What only an operator can repair, an operator repairs.
        if !asked && left_ms < within.as_millis() as u64 / 2 {
            asked = true;
            let hopeless = world.with(|state| state.beyond_help());
            for node in hopeless {
                tokio::spawn({
                    let world = world.clone();
                    async move { Fault::Reinit(node).inject(&world, Duration::ZERO).await }
                });
            }
        }
    }
}

/// A switchover in a healthy cluster: quick, and without loss.
async fn switch_over(world: &Arc<World>) {
    let Some(before) = world.with(|state| (state.electable() > 1).then(|| state.writable().first().copied()).flatten())
    else {
        return;
    };
    // Connections are being established again, the fence's and the store's news are on their way.
    sleep(SETTLE).await;
    let lost_before = world.with(|state| state.ledger.lost);
    let asked_ms = world.now_ms();
    Fault::Switchover(None).inject(world, Duration::ZERO).await;
    loop {
        sleep(Duration::from_millis(50)).await;
        if !world.violations().is_empty() {
            return;
        }
        let after = world.with(|state| state.writable().first().copied());
        if after.is_some_and(|after| after != before) {
            break;
        }
        if world.now_ms() > asked_ms + SWITCHOVER_WITHIN.as_millis() as u64 {
            let members = world.with(|state| {
                state.store.view().members.into_iter().map(|member| (member.name, member.tags)).collect::<Vec<_>>()
            });
            let seconds = SWITCHOVER_WITHIN.as_secs();
            world.violate("switchover", format!("no new leader {seconds} s after a switchover among {members:?}"));
            return;
        }
    }
    let lost = world.with(|state| state.ledger.lost) - lost_before;
    if lost > 0 {
        world.violate("switchover", format!("a switchover in a healthy cluster lost {lost} acknowledged writes"));
    }
    becomes_healthy(world, HEAL_WITHIN, "after a switchover").await;
}

/// In failsafe mode the primary of a healthy cluster outlives an outage of the store, however long, and the cluster is
/// healthy afterwards without a change of leader.
async fn outlive_the_store(world: &Arc<World>) {
    if !world.violations().is_empty() || !becomes_healthy(world, HEAL_WITHIN, "before an outage").await {
        return;
    }
    sleep(SETTLE).await;
    let before = world.with(|state| state.writable());
    let until_ms = world.now_ms() + OUTAGE.as_millis() as u64;
    let outage = tokio::spawn({
        let world = world.clone();
        async move { Fault::StoreDown.inject(&world, OUTAGE).await }
    });
    while world.now_ms() < until_ms + SETTLE.as_millis() as u64 && world.violations().is_empty() {
        sleep(Duration::from_millis(50)).await;
        let now = world.with(|state| state.writable());
        if now != before {
            world.violate("failsafe", format!("{before:?} was the primary when the store was lost, and then {now:?}"));
        }
    }
    // It has ended by itself, or the run has failed.
    outage.abort();
    becomes_healthy(world, HEAL_WITHIN, "after an outage").await;
}

impl State {
    /// What keeps the cluster from being healthy, in words.
    fn ailing(&self) -> Vec<String> {
        let writable = self.writable();
        let [primary] = writable[..] else { return vec![format!("{} nodes accept writes", writable.len())] };
        let mut ailing = Vec::new();
        if self.store.leader() != Some(&primary.to_string()) {
            ailing.push(format!("{primary} accepts writes and the lock is held by {:?}", self.store.leader()));
        }
        let view = self.store.view();
        let published = view.status.optime.unwrap_or_default();
        let end = self.node(primary).pg.data.as_ref().map(|data| data.wal.end()).unwrap_or_default();
        // Writes of two cycles.
        if end.bytes_since(published) > 16 << 20 {
            ailing.push(format!("the published position {published} is far behind {end}"));
        }
        if view.member(&primary.to_string()).is_none_or(|member| member.role() != Some(model::Role::Primary)) {
            ailing.push(format!("{primary} does not say that it is the primary"));
        }
        for id in self.ids().filter(|id| *id != primary) {
            let streams = self.node(id).pg.standby().is_some_and(|(process, _)| process.receiver.is_some());
            if !streams {
                ailing.push(format!("{id} does not stream"));
            }
            if view.member(&id.to_string()).is_none_or(|member| !member.is_running()) {
                ailing.push(format!("{id} does not say that it runs"));
            }
        }
        ailing
    }

    /// Nodes that no tool but a new copy brings back: their agent says so, another server's timeline looks exactly like
    /// theirs, or pg_rewind was interrupted and the policy forbids to remove the directory.
    fn beyond_help(&self) -> Vec<NodeId> {
        let Some(primary) = self.writable().first().copied() else { return Vec::new() };
        let Some(theirs) = self.node(primary).pg.data.as_ref() else { return Vec::new() };
        let hopeless = |id: &NodeId| {
            let Some(own) = &self.node(*id).pg.data else { return false };
            own.wal.is_mistaken_for(&theirs.wal)
                || own.unfinished.is_some()
                || self.node(*id).says.contains("patronictl reinit")
        };
        self.ids().filter(|id| *id != primary).filter(hopeless).collect()
    }

    /// Nodes that may be promoted.
    fn electable(&self) -> usize {
        self.nodes.iter().filter(|node| !node.tags.nofailover()).count()
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
