//! What each agent was told about the leader lease: a layer between the agent and its store (and its defects) that
//! writes down which node has reason to believe that it holds the lock, and until when.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use dcs::{Capabilities, Changes, Freshness, Guard, Store, StoreError, Timing};
use model::{ClusterView, Key, Member};
use tokio::sync::watch;

use crate::world::{NodeId, World};

/// [`Store`] that watches the answers to lease operations.
pub struct WatchedStore {
    inner: Arc<dyn Store>,
    world: Arc<World>,
    node: NodeId,
    ttl_ms: AtomicU64,
}

impl WatchedStore {
    /// Watches what `inner` tells `node`.
    pub fn new(inner: Arc<dyn Store>, world: &Arc<World>, node: NodeId, timing: Timing) -> WatchedStore {
        let ttl_ms = AtomicU64::new(timing.ttl.as_millis() as u64);
        WatchedStore { inner, world: world.clone(), node, ttl_ms }
    }

    /// The lease counts from the moment of the call, and ends when the store says that somebody else has it.
    fn told(&self, called_ms: u64, answer: &Result<(), StoreError>) {
        let until_ms = match answer {
            Ok(()) => Some(called_ms + self.ttl_ms.load(Ordering::Relaxed)),
            Err(StoreError::Rejected(_)) => None,
            Err(StoreError::Unreachable(_)) => return,
        };
        self.world.with(|state| state.node_mut(self.node).leads_until_ms = until_ms);
    }
}

#[async_trait]
impl Store for WatchedStore {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn set_timing(&self, timing: Timing) {
        self.ttl_ms.store(timing.ttl.as_millis() as u64, Ordering::Relaxed);
        self.inner.set_timing(timing);
    }

    async fn read(&self, freshness: Freshness) -> Result<ClusterView, StoreError> {
        self.inner.read(freshness).await
    }

    async fn acquire_leader(&self) -> Result<(), StoreError> {
        let called_ms = self.world.now_ms();
        let answer = self.inner.acquire_leader().await;
        self.told(called_ms, &answer);
        answer
    }

    async fn renew_leader(&self) -> Result<(), StoreError> {
        let called_ms = self.world.now_ms();
        let answer = self.inner.renew_leader().await;
        self.told(called_ms, &answer);
        answer
    }

    async fn release_leader(&self) -> Result<(), StoreError> {
        self.world.with(|state| state.node_mut(self.node).leads_until_ms = None);
        self.inner.release_leader().await
    }

    async fn touch_member(&self, member: &Member) -> Result<(), StoreError> {
        self.inner.touch_member(member).await
    }

    async fn delete_member(&self, name: &str) -> Result<(), StoreError> {
        self.inner.delete_member(name).await
    }

    async fn put(&self, key: &Key, value: &str, guard: Guard) -> Result<u64, StoreError> {
        self.inner.put(key, value, guard).await
    }

    async fn delete(&self, key: &Key, guard: Guard) -> Result<(), StoreError> {
        self.inner.delete(key, guard).await
    }

    async fn delete_cluster(&self) -> Result<(), StoreError> {
        self.inner.delete_cluster().await
    }

    fn changes(&self) -> watch::Receiver<Changes> {
        self.inner.changes()
    }
}
