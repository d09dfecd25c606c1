//! Promises to leaders without the store: whoever gave one does not take the lock before it has ended.
//!
//! Giving a promise and beginning to take the lock exclude each other, so that a leader never counts on a member that is
//! becoming leader itself. A promise outlives the agent (`PromiseFile`): it is given once it is on the disk.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ha::view::Promise;
use model::{BootTime, FailsafeLeader};

use crate::ports::{Clock, PromiseFile};

#[derive(Default)]
struct State {
    promise: Option<Promise>,
    /// Operations under way that can take the lock.
    taking: u32,
}

/// The promise of one node; a later one replaces the one before.
pub struct Promises {
    clock: Arc<dyn Clock>,
    file: Arc<dyn PromiseFile>,
    state: Mutex<State>,
}

/// While this lives, an operation that can take the lock is under way.
pub struct Taking<'a>(&'a Promises);

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        self.0.state().taking -= 1;
    }
}

impl Promises {
    /// None given yet.
    pub fn new(clock: Arc<dyn Clock>, file: Arc<dyn PromiseFile>) -> Promises {
        Promises { clock, file, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every update is a plain assignment: the state is sound even if a holder panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what an earlier life of the agent promised.
    pub async fn load(&self) {
        let Some(earlier) = self.file.load().await else { return };
        let mut state = self.state();
        if state.promise.as_ref().is_none_or(|promise| promise.until < earlier.until) {
            state.promise = Some(earlier);
        }
    }

    /// The promise that lasts.
    pub fn current(&self) -> Option<Promise> {
        self.state().promise.clone().filter(|promise| promise.until > self.clock.now())
    }

    /// Gives a promise for `ttl` from now; refused while `leads` or while the lock is being taken.
    pub async fn give(&self, leader: FailsafeLeader, ttl: Duration, leads: impl Fn() -> bool) -> Result<(), String> {
        let promise = {
            let mut state = self.state();
            if state.taking > 0 || leads() {
                return Err("Running as a leader".to_owned());
            }
            let until = self.clock.now().plus(ttl);
            let until = state.promise.as_ref().map_or(until, |promise| promise.until.max(until));
            let promise = Promise { leader, until };
            // Kept from here on, whether or not the caller hears of it.
            state.promise = Some(promise.clone());
            promise
        };
        self.file.save(&promise).await
    }

    /// The promise that lasts until `until` is of no meaning any more; one given since stays.
    pub async fn forget(&self, until: BootTime) {
        let ended = {
            let mut state = self.state();
            let Some(promise) = state.promise.as_mut().filter(|promise| promise.until == until) else { return };
            promise.until = self.clock.now();
            promise.clone()
        };
        if let Err(why) = self.file.save(&ended).await {
            // A restarted agent would be bound for a while that could be spared.
            tracing::warn!("{why}");
        }
    }

    /// Begins an operation that can take the lock; refused while a promise lasts, unless the node `leads` already.
    pub fn take_lock(&self, leads: bool) -> Result<Taking<'_>, String> {
        let now = self.clock.now();
        let mut state = self.state();
        if let Some(promise) = state.promise.as_ref().filter(|promise| promise.until > now && !leads) {
            return Err(format!("promised {} not to lead while it is without the store", promise.leader.name));
        }
        state.taking += 1;
        Ok(Taking(self))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::clock::BootClock;
    use async_trait::async_trait;

    /// The disk of one node.
    #[derive(Default)]
    pub(crate) struct Disk {
        kept: Mutex<Option<Promise>>,
        full: bool,
    }

    #[async_trait]
    impl PromiseFile for Disk {
        async fn load(&self) -> Option<Promise> {
            self.kept.lock().expect("no panic").clone()
        }

        async fn save(&self, promise: &Promise) -> Result<(), String> {
            if self.full {
                return Err("no space".to_owned());
            }
            *self.kept.lock().expect("no panic") = Some(promise.clone());
            Ok(())
        }
    }

    fn promises(disk: &Arc<Disk>) -> Promises {
        Promises::new(Arc::new(BootClock), disk.clone())
    }

    fn leader() -> FailsafeLeader {
        FailsafeLeader { name: "a".to_owned(), ..FailsafeLeader::default() }
    }

    const TTL: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_promise_keeps_the_lock_untaken_also_in_the_next_life() {
        let disk = Arc::new(Disk::default());
        let first = promises(&disk);
        first.give(leader(), TTL, || false).await.expect("accepted");
        assert!(first.take_lock(false).is_err());
        assert!(first.take_lock(true).is_ok(), "a leader renews");
        let second = promises(&disk);
        assert!(second.take_lock(false).is_ok());
        second.load().await;
        assert!(second.take_lock(false).is_err());
        let until = second.current().expect("lasts").until;
        second.forget(BootTime(until.0 + 1)).await;
        assert!(second.take_lock(false).is_err(), "another promise");
        second.forget(until).await;
        assert!(second.take_lock(false).is_ok());
    }

    #[tokio::test]
    async fn an_ended_promise_binds_nobody() {
        let disk = Arc::new(Disk::default());
        let promises = promises(&disk);
        promises.give(leader(), Duration::ZERO, || false).await.expect("accepted");
        assert!(promises.take_lock(false).is_ok());
        assert_eq!(promises.current(), None);
    }

    #[tokio::test]
    async fn no_promise_while_leading_or_taking_the_lock() {
        let promises = promises(&Arc::default());
        assert!(promises.give(leader(), TTL, || true).await.is_err());
        let taking = promises.take_lock(false).expect("free");
        assert!(promises.give(leader(), TTL, || false).await.is_err());
        drop(taking);
        promises.give(leader(), TTL, || false).await.expect("accepted");
    }

    #[tokio::test]
    async fn what_is_not_on_the_disk_is_not_promised_but_kept() {
        let promises = promises(&Arc::new(Disk { full: true, ..Disk::default() }));
        assert!(promises.give(leader(), TTL, || false).await.is_err());
        assert!(promises.current().is_some_and(|promise| promise.until > BootTime(0)));
    }
}
