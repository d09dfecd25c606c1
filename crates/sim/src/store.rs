//! The simulated store: leases, guards, watches; latency, partitions, outages, lost answers.
//!
//! Values are the JSON text of [`model::wire`], so that the real encoding is exercised. A request that was sent is
//! served even when its sender has died or given up meanwhile, as on a real network.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use dcs::{Capabilities, Changes, Freshness, Guard, Store, StoreError, Timing};
use model::wire::{self, RawKey};
use model::{ClusterView, Key, Member};
use serde_json::Value;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::fanout::Fanout;
use crate::history::Event;
use crate::world::{NodeId, State, World};

/// Expired leases are collected up to this much later, as etcd does.
const EXPIRY_LATE_MS_MAX: u64 = 600;

/// A read that gets no answer is sent again after this long.
const READ_ATTEMPT: Duration = Duration::from_millis(3_400);

/// The keys, and who watches them.
#[derive(Default)]
pub struct StoreState {
    keys: BTreeMap<Key, Entry>,
    version: u64,
    watchers: BTreeMap<NodeId, Watcher>,
    /// The cluster's status position when the leader key was last acquired, and by whom.
    pub optime_at_acquire: Option<model::Lsn>,
    /// A failover or switchover was requested when the leader key was last acquired.
    pub manual_at_acquire: bool,
    /// The sync key named a primary when the leader key was last acquired.
    pub sync_at_acquire: bool,
}

#[derive(Clone)]
struct Entry {
    value: String,
    version: u64,
    lease: Option<u64>,
}

struct Watcher {
    /// Which life of the agent it serves.
    connection: u64,
    changes: Fanout<Changes>,
    missed: bool,
}

#[derive(Clone, Copy)]
enum Kind {
    Leader,
    Cluster,
    Members,
}

fn kind(key: &Key) -> Kind {
    match key {
        Key::Leader => Kind::Leader,
        Key::Member(_) | Key::Status | Key::OptimeLeader => Kind::Members,
        _ => Kind::Cluster,
    }
}

impl StoreState {
    /// The text of a key.
    pub fn get(&self, key: &Key) -> Option<&str> {
        self.keys.get(key).map(|entry| entry.value.as_str())
    }

    /// Who holds the lock.
    pub fn leader(&self) -> Option<&str> {
        self.get(&Key::Leader)
    }

    /// All keys as an agent would see them.
    pub fn view(&self) -> ClusterView {
        let raw = self.keys.iter().map(|(key, entry)| RawKey {
            key: key.clone(),
            value: entry.value.clone(),
            version: entry.version,
        });
        wire::assemble(raw)
    }

    /// The dynamic configuration says that the cluster is paused.
    pub fn paused(&self) -> bool {
        let config = self.get(&Key::Config).and_then(|text| serde_json::from_str::<Value>(text).ok());
        config.is_some_and(|config| config.get("pause").and_then(Value::as_bool) == Some(true))
    }

    fn holds(&self, guard: &Guard, key: &Key) -> bool {
        let entry = self.keys.get(key);
        match guard {
            Guard::None | Guard::Version(0) => true,
            Guard::Absent => entry.is_none(),
            Guard::Present => entry.is_some(),
            Guard::Version(version) => entry.is_some_and(|entry| entry.version == *version),
            Guard::Value(value) => entry.is_some_and(|entry| entry.value == *value),
        }
    }
}

impl State {
    /// Writes a key; the history names the reason for changes of the leader key.
    pub fn store_put(&mut self, key: &Key, value: &str, lease_ms: Option<u64>, why: &'static str) -> u64 {
        self.store.version += 1;
        let version = self.store.version;
        let lease = lease_ms.map(|ttl_ms| self.start_lease(key.clone(), ttl_ms));
        let old = self.store.keys.insert(key.clone(), Entry { value: value.to_owned(), version, lease });
        let old = old.map(|entry| entry.value);
        if old.as_deref() != Some(value) {
            self.note(key, old, Some(value.to_owned()), why);
            self.notify(kind(key));
        }
        version
    }

    /// Deletes a key.
    pub fn store_delete(&mut self, key: &Key, why: &'static str) {
        if let Some(entry) = self.store.keys.remove(key) {
            self.store.version += 1;
            self.note(key, Some(entry.value), None, why);
            self.notify(kind(key));
        }
    }

    fn note(&mut self, key: &Key, old: Option<String>, new: Option<String>, why: &'static str) {
        match key {
            Key::Leader => {
                if new.is_some() {
                    self.store.optime_at_acquire = self.store.view().status.optime;
                    self.store.manual_at_acquire = self.store.view().failover.is_some();
                    self.store.sync_at_acquire = self.store.view().sync.is_some_and(|sync| sync.value.leader.is_some());
                }
                self.settle_pause(new.as_deref());
                self.record(Event::Lock { from: old, to: new, why });
            }
            Key::Member(_) | Key::Status | Key::OptimeLeader => {}
            key => self.record(Event::Key(key.to_string(), new)),
        }
    }

    /// A primary that went on through a pause takes the lock: what another one acknowledged meanwhile was lost to the pause.
    fn settle_pause(&mut self, holder: Option<&str>) {
        let holder = self.ids().find(|id| Some(id.to_string().as_str()) == holder);
        if let Some(node) = holder.filter(|node| self.store.paused() && self.node(*node).pg.accepts_writes()) {
            self.take_lost(node);
        }
    }

    /// A lease lives at least `ttl_ms`; the timer that ends it is the only thing that does.
    fn start_lease(&mut self, key: Key, ttl_ms: u64) -> u64 {
        let lease = self.unique();
        let late_ms = self.between(0, EXPIRY_LATE_MS_MAX);
        if let Some(world) = self.world() {
            let world = Arc::downgrade(&world);
            tokio::spawn(async move {
                sleep(Duration::from_millis(ttl_ms + late_ms)).await;
                let Some(world) = world.upgrade() else { return };
                world.with(|state| {
                    if state.store.keys.get(&key).is_some_and(|entry| entry.lease == Some(lease)) {
                        state.store_delete(&key, "lease expired");
                    }
                });
            });
        }
        lease
    }

    fn notify(&mut self, kind: Kind) {
        let Some(world) = self.world() else { return };
        let nodes: Vec<NodeId> = self.store.watchers.keys().copied().collect();
        for node in nodes {
            let latency = Duration::from_millis(self.between(1, 20));
            let reachable = self.store_reachable(node);
            let Some(watcher) = self.store.watchers.get_mut(&node) else { continue };
            if !reachable {
                watcher.missed = true;
                continue;
            }
            let connection = watcher.connection;
            let world = Arc::downgrade(&world);
            tokio::spawn(async move {
                sleep(latency).await;
                let Some(world) = world.upgrade() else { return };
                world.with(|state| {
                    let watcher =
                        state.store.watchers.get_mut(&node).filter(|watcher| watcher.connection == connection);
                    watcher?.changes.update(|changes| match kind {
                        Kind::Leader => changes.leader += 1,
                        Kind::Cluster => changes.cluster += 1,
                        Kind::Members => changes.members += 1,
                    });
                    Some(())
                });
            });
        }
    }

    /// Watches that were cut off are established again where the store is reachable again.
    pub fn resume_watches(&mut self) {
        let nodes: Vec<NodeId> = self.store.watchers.keys().copied().collect();
        for node in nodes {
            if self.store_reachable(node)
                && let Some(watcher) = self.store.watchers.get_mut(&node)
                && std::mem::take(&mut watcher.missed)
            {
                watcher.changes.update(|changes| changes.resets += 1);
            }
        }
    }

    /// An answer has reached a node: what it was told about the pause, for the checkers that judge what it does with it.
    fn told(&mut self, node: NodeId, view: &ClusterView) {
        let pause = view.config.as_ref().and_then(|config| config.value.get("pause"));
        self.tell_pause(node, pause == Some(&Value::Bool(true)));
    }
}

/// What the network lost.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lost {
    Request,
    Reply,
}

/// [`Store`] on behalf of one agent process.
pub struct SimStore {
    world: Arc<World>,
    node: NodeId,
    timing: Mutex<Timing>,
}

impl SimStore {
    /// Connects `node`; its earlier connection's watch ends.
    pub fn new(world: &Arc<World>, node: NodeId, timing: Timing) -> SimStore {
        world.with(|state| {
            let connection = state.unique();
            let watcher = Watcher { connection, changes: Fanout::default(), missed: false };
            state.store.watchers.insert(node, watcher);
        });
        SimStore { world: world.clone(), node, timing: Mutex::new(timing) }
    }

    fn timing(&self) -> Timing {
        *self.timing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ttl_ms(&self) -> u64 {
        self.timing().ttl.as_millis().try_into().unwrap_or(u64::MAX)
    }

    /// Sends a request, which is served some time later, and waits for the answer, which comes some time after that.
    async fn call<T: Send + 'static>(
        &self,
        what: &'static str,
        serve: impl FnOnce(&mut State) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let deadline = Instant::now() + self.timing().retry_timeout;
        self.attempt(what, deadline, serve).await
    }

    async fn attempt<T: Send + 'static>(
        &self,
        what: &'static str,
        deadline: Instant,
        serve: impl FnOnce(&mut State) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let node = self.node;
        let (request, reply, lost) = self.world.with(|state| {
            let slow = state.net.store_slow_ms.clone().unwrap_or(1..15);
            let lost = state.between(1, 100) <= u64::from(state.net.lost_percent);
            let lost = lost.then(|| if state.between(0, 1) == 0 { Lost::Request } else { Lost::Reply });
            (state.between(slow.start, slow.end), state.between(slow.start, slow.end), lost)
        });
        let (answer, answered) = oneshot::channel();
        let world = Arc::downgrade(&self.world);
        tokio::spawn(async move {
            sleep(Duration::from_millis(request)).await;
            let Some(world) = world.upgrade().filter(|_| lost != Some(Lost::Request)) else { return };
            let Some(result) = world.with(|state| state.store_reachable(node).then(|| serve(state))) else { return };
            sleep(Duration::from_millis(reply)).await;
            if lost.is_none() && world.with(|state| state.store_reachable(node)) {
                // The caller may have given up.
                let _ = answer.send(result);
            }
        });
        match timeout_at(deadline, answered).await {
            Ok(Ok(result)) => result,
            _ => {
                sleep_until(deadline).await;
                Err(StoreError::Unreachable(format!("no answer to {what} in time")))
            }
        }
    }
}

fn rejected<T>(what: &str) -> Result<T, StoreError> {
    Err(StoreError::Rejected(what.to_owned()))
}

#[async_trait]
impl Store for SimStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities { name: "sim", watch: true }
    }

    fn set_timing(&self, timing: Timing) {
        *self.timing.lock().unwrap_or_else(PoisonError::into_inner) = timing;
    }

    async fn read(&self, _freshness: Freshness) -> Result<ClusterView, StoreError> {
        // Reads are tried again, as clients do; whether a write was applied is the caller's to find out.
        let (node, deadline) = (self.node, Instant::now() + self.timing().retry_timeout);
        loop {
            let attempt = deadline.min(Instant::now() + READ_ATTEMPT);
            let result = self.attempt("read", attempt, |state| Ok(state.store.view())).await;
            if let Ok(view) = &result {
                self.world.with(|state| state.told(node, view));
            }
            if result.is_ok() || attempt == deadline {
                return result;
            }
        }
    }

    async fn acquire_leader(&self) -> Result<(), StoreError> {
        let (name, ttl_ms) = (self.node.to_string(), self.ttl_ms());
        self.call("acquire", move |state| match state.store.leader() {
            Some(holder) => rejected(&format!("the leader key is held by {holder}")),
            None => {
                state.store_put(&Key::Leader, &name, Some(ttl_ms), "acquired");
                Ok(())
            }
        })
        .await
    }

    async fn renew_leader(&self) -> Result<(), StoreError> {
        let (name, ttl_ms) = (self.node.to_string(), self.ttl_ms());
        self.call("renew", move |state| match state.store.leader() {
            Some(holder) if holder == name => {
                let lease = state.start_lease(Key::Leader, ttl_ms);
                if let Some(entry) = state.store.keys.get_mut(&Key::Leader) {
                    entry.lease = Some(lease);
                }
                Ok(())
            }
            Some(holder) => rejected(&format!("the leader key is held by {holder}")),
            None if state.options.renew_recreates => {
                state.store_put(&Key::Leader, &name, Some(ttl_ms), "renewed after it expired");
                Ok(())
            }
            None => rejected("the leader key has expired"),
        })
        .await
    }

    async fn release_leader(&self) -> Result<(), StoreError> {
        let name = self.node.to_string();
        self.call("release", move |state| match state.store.leader() {
            Some(holder) if holder != name => rejected(&format!("the leader key is held by {holder}")),
            _ => {
                state.store_delete(&Key::Leader, "released");
                Ok(())
            }
        })
        .await
    }

    async fn touch_member(&self, member: &Member) -> Result<(), StoreError> {
        let (key, value, ttl_ms) = (Key::Member(member.name.clone()), wire::encode_member(member), self.ttl_ms());
        self.call("touch", move |state| {
            state.store_put(&key, &value, Some(ttl_ms), "touched");
            Ok(())
        })
        .await
    }

    async fn delete_member(&self, name: &str) -> Result<(), StoreError> {
        let key = Key::Member(name.to_owned());
        self.call("delete of a member", move |state| {
            state.store_delete(&key, "deleted");
            Ok(())
        })
        .await
    }

    async fn put(&self, key: &Key, value: &str, guard: Guard) -> Result<u64, StoreError> {
        let (key, value) = (key.clone(), value.to_owned());
        self.call("put", move |state| {
            if !state.store.holds(&guard, &key) {
                return rejected(&format!("{key} has changed"));
            }
            Ok(state.store_put(&key, &value, None, "written"))
        })
        .await
    }

    async fn delete(&self, key: &Key, guard: Guard) -> Result<(), StoreError> {
        let key = key.clone();
        self.call("delete", move |state| {
            if !state.store.holds(&guard, &key) {
                return rejected(&format!("{key} has changed"));
            }
            state.store_delete(&key, "deleted");
            Ok(())
        })
        .await
    }

    async fn delete_cluster(&self) -> Result<(), StoreError> {
        self.call("delete of the cluster", move |state| {
            let keys: Vec<Key> = state.store.keys.keys().cloned().collect();
            for key in keys {
                state.store_delete(&key, "cluster deleted");
            }
            Ok(())
        })
        .await
    }

    fn changes(&self) -> watch::Receiver<Changes> {
        self.world.with(|state| match state.store.watchers.get_mut(&self.node) {
            Some(watcher) => watcher.changes.subscribe(),
            None => watch::channel(Changes::default()).1,
        })
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
