//! Checks that every backend passes against its real server.
//!
//! A backend's test starts the server, wraps the opening of a store into a [`Bench`], and calls [`run`]. The checks run
//! at the same time, each in a cluster of its own; they panic where a backend does not keep the contract of
//! [`Store`], and [`run`] names those that did. What depends on the server, such as what happens when it is gone,
//! is tested beside the backend.

mod keys;
mod leader;
mod members;
mod watching;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use tokio::time::{Instant, sleep};

use crate::{Changes, Freshness, Store, StoreError, Timing};

/// Opens a store for a scope, a node's name and times.
pub type Opener = Arc<dyn Fn(String, String, Timing) -> BoxFuture<'static, Arc<dyn Store>> + Send + Sync>;

/// How to open the store under test.
#[derive(Clone)]
pub struct Bench {
    /// Opens a store; panics when it cannot.
    pub open: Opener,
    /// Lifetime of leases: as short as the backend keeps exactly, because several checks wait for it.
    pub ttl: Duration,
}

/// One cluster, for one check.
struct Room {
    bench: Bench,
    scope: String,
}

type Check = (&'static str, fn(Room) -> BoxFuture<'static, ()>);

macro_rules! checks {
    ($($module:ident::$name:ident),* $(,)?) => {
        &[$((stringify!($name), |room| Box::pin($module::$name(room)))),*]
    };
}

const CHECKS: &[Check] = checks![
    keys::an_unknown_cluster_is_empty,
    keys::guards_decide_on_writes,
    keys::guards_decide_on_deletes,
    keys::one_of_many_writers_wins,
    keys::values_come_back_as_they_were,
    keys::clusters_do_not_see_each_other,
    keys::a_deleted_cluster_is_empty,
    leader::one_of_many_acquirers_wins,
    leader::the_lock_expires_a_ttl_after_its_last_renewal,
    leader::renewal_keeps_the_lock,
    leader::an_expired_lock_may_be_renewed,
    leader::a_lock_that_somebody_took_is_lost,
    leader::a_restarted_node_takes_over_its_lock,
    leader::a_longer_ttl_takes_effect_with_the_next_renewal,
    leader::only_the_holder_releases,
    leader::renewal_does_not_undo_a_release,
    leader::a_deleted_lock_is_free,
    members::records_expire_and_do_not_prolong_the_lock,
    members::records_come_back_when_deleted,
    members::records_are_deleted_by_name,
    members::names_may_be_odd,
    watching::changes_of_others_are_counted,
    watching::no_change_is_missed,
    watching::renewals_and_unchanged_records_do_not_count,
];

/// Runs all checks.
///
/// # Panics
/// When a check fails; the message names all that did.
pub async fn run(bench: Bench) {
    let run = |(name, check): &Check| {
        let room = Room { bench: bench.clone(), scope: format!("conformance-{name}") };
        let (name, task) = (*name, tokio::spawn(check(room)));
        async move { task.await.err().map(|error| format!("{name}: {error}")) }
    };
    let failures: Vec<String> = join_all(CHECKS.iter().map(run)).await.into_iter().flatten().collect();
    assert!(failures.is_empty(), "{} of {} checks failed:\n{}", failures.len(), CHECKS.len(), failures.join("\n"));
}

impl Room {
    fn ttl(&self) -> Duration {
        self.bench.ttl
    }

    /// Times with this lifetime of leases.
    fn timing(&self, ttl: Duration) -> Timing {
        Timing { ttl, loop_wait: self.ttl() / 3, retry_timeout: PATIENCE }
    }

    /// A store for the node of that name.
    async fn store(&self, name: &str) -> Arc<dyn Store> {
        self.store_in(&self.scope, name).await
    }

    async fn store_in(&self, scope: &str, name: &str) -> Arc<dyn Store> {
        (self.bench.open)(scope.to_owned(), name.to_owned(), self.timing(self.ttl())).await
    }
}

/// How long anything that should happen soon may take; generous, because all checks share one machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Looks until `look` finds something, at most [`PATIENCE`] longer than `expected`.
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, expected: Duration, look: impl Fn() -> F) -> T {
    let deadline = Instant::now() + expected + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "still waiting: {what}");
        sleep(LOOK_EVERY).await;
    }
}

async fn leader(store: &dyn Store) -> Option<String> {
    let view = store.read(Freshness::Linearizable).await.expect("read the cluster");
    view.leader.map(|leader| leader.name)
}

/// Waits until nobody holds the lock, and returns when that was seen.
async fn lock_is_free(store: &dyn Store, expected: Duration) -> Instant {
    let free = || async { leader(store).await.is_none().then(Instant::now) };
    eventually("the lock to expire", expected, free).await
}

fn is_rejected<T>(outcome: &Result<T, StoreError>) -> bool {
    matches!(outcome, Err(StoreError::Rejected(_)))
}

#[track_caller]
fn assert_rejected<T: std::fmt::Debug>(outcome: Result<T, StoreError>) {
    assert!(is_rejected(&outcome), "expected a rejection: {outcome:?}");
}

/// Waits until the counters fulfil a condition, and returns them.
async fn changes_until(store: &dyn Store, what: &str, condition: impl Fn(&Changes) -> bool) -> Changes {
    let mut receiver = store.changes();
    let found = tokio::time::timeout(PATIENCE, receiver.wait_for(condition)).await;
    *found.unwrap_or_else(|_| panic!("still waiting: {what}")).expect("the store is open")
}
