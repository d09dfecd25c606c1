//! Defects between an agent and the store, and between agents.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agent::ports::Peers;
use async_trait::async_trait;
use dcs::{Capabilities, Changes, Freshness, Guard, Store, StoreError, Timing};
use ha::step::PeerAddress;
use model::peer::PeerStatus;
use model::{ClusterView, FailsafeLeader, FailsafeReply, Key, Lsn, Member};
use serde_json::Value;
use tokio::sync::watch;

use super::{Mutation, sync};
use crate::world::{NodeId, World};

/// How old [`Mutation::StaleReads`] answers are.
const STALE_MS: u64 = 30_000;

pub(super) struct MutatedStore {
    inner: Arc<dyn Store>,
    mutation: Mutation,
    world: Arc<World>,
    node: NodeId,
    reads: Mutex<VecDeque<(u64, ClusterView)>>,
    silence: watch::Sender<Changes>,
}

impl MutatedStore {
    pub(super) fn new(inner: Arc<dyn Store>, mutation: Mutation, world: Arc<World>, node: NodeId) -> MutatedStore {
        let silence = watch::Sender::new(Changes::default());
        MutatedStore { inner, mutation, world, node, reads: Mutex::default(), silence }
    }

    fn is(&self, mutation: Mutation) -> bool {
        self.mutation == mutation
    }

    /// The oldest view of the last [`STALE_MS`].
    fn stale(&self, view: ClusterView) -> ClusterView {
        let now_ms = self.world.now_ms();
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        reads.push_back((now_ms, view.clone()));
        while reads.front().is_some_and(|(at_ms, _)| at_ms + STALE_MS < now_ms) {
            reads.pop_front();
        }
        reads.front().map_or(view, |(_, view)| view.clone())
    }
}

#[async_trait]
impl Store for MutatedStore {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn set_timing(&self, mut timing: Timing) {
        if self.is(Mutation::ShortLeases) {
            timing.ttl /= 3;
        }
        self.inner.set_timing(timing);
    }

    async fn read(&self, freshness: Freshness) -> Result<ClusterView, StoreError> {
        let mut view = self.inner.read(freshness).await?;
        if self.is(Mutation::StaleReads) {
            view = self.stale(view);
        }
        sync::disguise_key(self.mutation, &self.node.to_string(), &mut view);
        if let Some(config) = &mut view.config {
            if self.is(Mutation::PauseHidden) {
                config.value.shift_remove("pause");
            }
            if self.is(Mutation::LagLimitIgnored) {
                config.value.insert("maximum_lag_on_failover".to_owned(), Value::from(1_u64 << 50));
            }
        }
        Ok(view)
    }

    async fn acquire_leader(&self) -> Result<(), StoreError> {
        match self.inner.acquire_leader().await {
            Err(StoreError::Rejected(_)) if self.is(Mutation::AcquireIgnoresHolder) => {
                let name = self.node.to_string();
                self.world.with(|state| state.store_put(&Key::Leader, &name, Some(30_000), "stolen"));
                Ok(())
            }
            Err(StoreError::Unreachable(_)) if self.is(Mutation::AcquireUnknownIsSuccess) => Ok(()),
            Err(error) if self.is(Mutation::ReleaseDeletesAny) => {
                self.release_leader().await?;
                Err(error)
            }
            result => result,
        }
    }

    async fn renew_leader(&self) -> Result<(), StoreError> {
        match self.inner.renew_leader().await {
            Err(_) if self.is(Mutation::RenewAlwaysSucceeds) => Ok(()),
            Err(StoreError::Rejected(_)) if self.is(Mutation::RenewIgnoresRejection) => Ok(()),
            result => result,
        }
    }

    async fn release_leader(&self) -> Result<(), StoreError> {
        if self.is(Mutation::ReleaseDeletesAny) {
            return self.inner.delete(&Key::Leader, Guard::None).await;
        }
        self.inner.release_leader().await
    }

    async fn touch_member(&self, member: &Member) -> Result<(), StoreError> {
        self.inner.touch_member(member).await
    }

    async fn delete_member(&self, name: &str) -> Result<(), StoreError> {
        self.inner.delete_member(name).await
    }

    async fn put(&self, key: &Key, value: &str, guard: Guard) -> Result<u64, StoreError> {
        if self.is(Mutation::FailsafeKeyNotWritten) && *key == Key::Failsafe {
            let alone = serde_json::json!({ self.node.to_string(): "http://10.0.0.9/patroni" }).to_string();
            return self.inner.put(key, &alone, guard).await;
        }
        if self.is(Mutation::StatusNotWritten) && *key == Key::Status {
            return Ok(1);
        }
        if *key == Key::Sync
            && let Some(version) = sync::unwritten(self.mutation, &self.world, value)
        {
            return Ok(version);
        }
        let guard = if self.is(Mutation::GuardsDropped) { Guard::None } else { guard };
        self.inner.put(key, value, guard).await
    }

    async fn delete(&self, key: &Key, guard: Guard) -> Result<(), StoreError> {
        let guard = if self.is(Mutation::GuardsDropped) { Guard::None } else { guard };
        self.inner.delete(key, guard).await
    }

    async fn delete_cluster(&self) -> Result<(), StoreError> {
        self.inner.delete_cluster().await
    }

    fn changes(&self) -> watch::Receiver<Changes> {
        if self.is(Mutation::WatchNeverWakes) { self.silence.subscribe() } else { self.inner.changes() }
    }
}

pub(super) struct MutatedPeers {
    pub(super) inner: Arc<dyn Peers>,
    pub(super) mutation: Mutation,
    pub(super) world: Arc<World>,
    pub(super) node: NodeId,
}

#[async_trait]
impl Peers for MutatedPeers {
    async fn status(&self, peers: &[PeerAddress]) -> Vec<PeerStatus> {
        let mut statuses = self.inner.status(peers).await;
        // Time for the answer passes in any case.
        tokio::time::sleep(Duration::from_millis(1)).await;
        for status in &mut statuses {
            match (self.mutation, &mut status.answer) {
                (Mutation::PeersSilent, answer) => *answer = None,
                (Mutation::PeersWithoutWal, Some(answer)) => answer.wal = Lsn(0),
                _ => {}
            }
        }
        statuses
    }

    async fn failsafe(&self, peers: &[PeerAddress], leader: &FailsafeLeader) -> Vec<FailsafeReply> {
        let promised = |peer: &PeerAddress| FailsafeReply { name: peer.name.clone(), accepted: Ok(None) };
        if self.mutation == Mutation::PromisesInvented {
            return peers.iter().map(promised).collect();
        }
        if self.mutation == Mutation::PromiseNotGiven {
            let answers = |peer: &PeerAddress| self.world.with(|state| state.answers(self.node, peer));
            let silent = |peer: &PeerAddress| FailsafeReply { accepted: Err("no answer".to_owned()), ..promised(peer) };
            return peers.iter().map(|peer| if answers(peer) { promised(peer) } else { silent(peer) }).collect();
        }
        let replies = self.inner.failsafe(peers, leader).await;
        if self.mutation == Mutation::SilenceIsConsent {
            return peers.iter().map(promised).collect();
        }
        replies
    }
}
