//! etcd, version 3: gRPC, transactions, leases and watches. Needs etcd 3.4 or later.
//!
//! The leader key lives under one lease and the member key under another. Keys under a lease are written only on top of
//! the state that was read (`mod_revision`), so that a request which is delivered late changes nothing.

mod failure;
mod kv;
mod leased;
mod pool;
mod section;
mod seen;
mod watch;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use model::wire::{RawKey, assemble, encode_member};
use model::{ClusterView, Key, Member};
use tokio::task::JoinSet;
use tokio::time::sleep;

use self::kv::{Write, Written, conditions};
use self::leased::{Claim, LeaderSlot, Slot, lock_until};
use self::pool::Pool;
use self::section::Section;
use crate::store::{Capabilities, Changes, Freshness, Guard, Store, StoreError, Timing};
use crate::{OpenError, StoreConfig};

/// How long ending a lease may take in the background; it ends by itself anyway.
const REVOKE_LIMIT: Duration = Duration::from_secs(2);
/// The list of members is read again after this many lifetimes of a lease.
const DISCOVER_EVERY_TTLS: u32 = 10;

struct Etcd3 {
    pool: Arc<Pool>,
    /// `/<namespace>/<scope>/`.
    prefix: String,
    name: String,
    leader: tokio::sync::Mutex<LeaderSlot>,
    member: tokio::sync::Mutex<Slot>,
    changes: tokio::sync::watch::Sender<Changes>,
    watched: bool,
    /// Background work; ends when the store is dropped.
    tasks: Mutex<JoinSet<()>>,
}

/// Opens the store; see [`crate::open`].
pub(crate) async fn open(config: StoreConfig) -> Result<Arc<dyn Store>, OpenError> {
    let pool = Arc::new(Pool::new(Section::parse(&config.section)?, config.timing));
    let prefix = model::key::cluster_prefix(&config.namespace, &config.scope);
    // Shows whether the endpoints answer and the login works, with the rights that matter.
    let initialize = format!("{prefix}{}", Key::Initialize);
    pool.get(&initialize, pool.deadline()).await?;
    if let Err(failure) = pool.discover().await {
        tracing::info!("going on with the configured endpoints of etcd: {}", failure.message());
    }
    let changes = tokio::sync::watch::Sender::new(Changes::default());
    let mut tasks = JoinSet::new();
    if !config.ctl {
        tasks.spawn(watch::run(pool.clone(), prefix.clone(), changes.clone()));
        tasks.spawn(rediscover(pool.clone()));
    }
    Ok(Arc::new(Etcd3 {
        pool,
        prefix,
        name: config.name,
        leader: Default::default(),
        member: Default::default(),
        changes,
        watched: !config.ctl,
        tasks: Mutex::new(tasks),
    }))
}

async fn rediscover(pool: Arc<Pool>) {
    loop {
        sleep(pool.timing().ttl * DISCOVER_EVERY_TTLS).await;
        if let Err(failure) = pool.discover().await {
            tracing::debug!("members of etcd are not known anew: {}", failure.message());
        }
    }
}

impl Etcd3 {
    fn path(&self, key: &Key) -> String {
        format!("{}{key}", self.prefix)
    }

    async fn write(&self, key: &Key, write: Write, guard: &Guard) -> Result<u64, StoreError> {
        let path = self.path(key);
        let Some(conditions) = conditions(&path, guard) else {
            return Err(StoreError::Rejected(refusal(key, guard)));
        };
        match self.pool.write_if(&path, conditions, write, self.pool.deadline()).await? {
            Written::At(revision) => Ok(u64::try_from(revision).unwrap_or_default()),
            Written::Refused => Err(StoreError::Rejected(refusal(key, guard))),
            Written::Doubtful => {
                let refusal = refusal(key, guard);
                Err(StoreError::Unreachable(format!("{refusal}, possibly because an earlier attempt was applied")))
            }
        }
    }

    fn in_background(&self, work: BoxFuture<'static, ()>) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(work);
    }

    /// Ends the lease of a slot without waiting for it.
    fn retire(&self, slot: &mut Slot) {
        if let Some(lease) = slot.take() {
            let pool = self.pool.clone();
            self.in_background(Box::pin(async move {
                let deadline = tokio::time::Instant::now() + REVOKE_LIMIT;
                if let Err(failure) = pool.revoke(lease, deadline).await {
                    tracing::debug!("a lease is left to expire: {}", failure.message());
                }
            }));
        }
    }
}

/// Why a guard did not hold. Values are not shown: the configuration may hold secrets.
fn refusal(key: &Key, guard: &Guard) -> String {
    match guard {
        Guard::Absent => format!("the key {key} exists"),
        Guard::Present => format!("the key {key} does not exist"),
        Guard::Version(version) => format!("the key {key} is not at version {version}"),
        Guard::Value(_) => format!("the key {key} holds another value than expected"),
        Guard::None => format!("the key {key} could not be written"),
    }
}

/// The methods of keys that live under a lease are for those keys alone.
fn check_plain(key: &Key) -> Result<(), StoreError> {
    match key {
        Key::Leader | Key::Member(_) => {
            Err(StoreError::Rejected(format!("the key {key} is written under a lease only")))
        }
        _ => Ok(()),
    }
}

#[async_trait]
impl Store for Etcd3 {
    fn capabilities(&self) -> Capabilities {
        Capabilities { name: "etcd3", watch: self.watched }
    }

    fn set_timing(&self, timing: Timing) {
        self.pool.set_timing(timing);
    }

    /// Always linearizable: that is one round trip more inside etcd, and never an answer from the past.
    async fn read(&self, _: Freshness) -> Result<ClusterView, StoreError> {
        let records = self.pool.get_prefix(&self.prefix, self.pool.deadline()).await?;
        Ok(assemble(records.into_iter().filter_map(|record| {
            let key = Key::parse(record.key.strip_prefix(&self.prefix)?)?;
            Some(RawKey { key, value: record.value, version: u64::try_from(record.revision).ok()? })
        })))
    }

    async fn acquire_leader(&self) -> Result<(), StoreError> {
        let deadline = self.pool.deadline();
        let mut slot = lock_until(&self.leader, deadline).await?;
        slot.released = false;
        let claim = Claim { path: self.path(&Key::Leader), value: self.name.clone() };
        self.pool.bind(&mut slot.lease, &claim, deadline, |found| found.is_none()).await
    }

    async fn renew_leader(&self) -> Result<(), StoreError> {
        let deadline = self.pool.deadline();
        let mut slot = lock_until(&self.leader, deadline).await?;
        let released = slot.released;
        let claim = Claim { path: self.path(&Key::Leader), value: self.name.clone() };
        let may_write = |found: Option<&str>| found.map_or(!released, |holder| holder == self.name);
        self.pool.bind(&mut slot.lease, &claim, deadline, may_write).await
    }

    async fn release_leader(&self) -> Result<(), StoreError> {
        let deadline = self.pool.deadline();
        let mut slot = lock_until(&self.leader, deadline).await?;
        slot.released = true;
        self.pool.delete_own(&self.path(&Key::Leader), &self.name, deadline).await?;
        self.retire(&mut slot.lease);
        Ok(())
    }

    async fn touch_member(&self, member: &Member) -> Result<(), StoreError> {
        let deadline = self.pool.deadline();
        let mut slot = lock_until(&self.member, deadline).await?;
        let claim = Claim { path: self.path(&Key::Member(self.name.clone())), value: encode_member(member) };
        self.pool.bind(&mut slot, &claim, deadline, |_| true).await
    }

    async fn delete_member(&self, name: &str) -> Result<(), StoreError> {
        let deadline = self.pool.deadline();
        // Not before an announcement that is under way: it would come back.
        let mut slot = match name == self.name {
            true => Some(lock_until(&self.member, deadline).await?),
            false => None,
        };
        let path = self.path(&Key::Member(name.to_owned()));
        self.pool.write_if(&path, vec![], Write::Delete, deadline).await?;
        if let Some(slot) = slot.as_mut() {
            self.retire(slot);
        }
        Ok(())
    }

    async fn put(&self, key: &Key, value: &str, guard: Guard) -> Result<u64, StoreError> {
        check_plain(key)?;
        self.write(key, Write::Put { value: value.to_owned(), lease: 0 }, &guard).await
    }

    async fn delete(&self, key: &Key, guard: Guard) -> Result<(), StoreError> {
        check_plain(key)?;
        self.write(key, Write::Delete, &guard).await.map(|_| ())
    }

    async fn delete_cluster(&self) -> Result<(), StoreError> {
        Ok(self.pool.delete_prefix(&self.prefix, self.pool.deadline()).await?)
    }

    fn changes(&self) -> tokio::sync::watch::Receiver<Changes> {
        self.changes.subscribe()
    }
}
