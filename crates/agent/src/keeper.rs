//! The lease keeper: holds the leader lease, renews it on its own, and tells the fence how long it lasts.
//!
//! A slow disk, a slow query or a stuck task does not cost the lease; a decision loop that has stopped moving does:
//! without [`Keeper::progress`] for long enough, renewal stops.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dcs::{Store, StoreError, Timing};
use ha::step::Outcome;
use ha::view::LeaseView;
use model::BootTime;
use tokio::sync::watch;

use crate::ports::{Clock, Fence};

/// The part of the ttl between our deadline and the earliest moment the store may expire the key: time for the
/// sentinel to kill, and for clocks that run at different speeds.
fn safety_margin(ttl: Duration) -> Duration {
    (ttl / 10).max(Duration::from_millis(500))
}

struct State {
    lease: LeaseView,
    timing: Timing,
    /// Start of the last successful renewal.
    renewed_at: BootTime,
    /// The decision loop's last sign of life.
    progress_at: BootTime,
}

/// Holds the lease of one node.
pub struct Keeper {
    store: Arc<dyn Store>,
    fence: Arc<dyn Fence>,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// One lease operation at a time.
    operation: tokio::sync::Mutex<()>,
    /// Arm the fence; off while the cluster is paused.
    fencing: AtomicBool,
    changes: watch::Sender<u64>,
}

impl Keeper {
    /// A keeper without a lease.
    pub fn new(store: Arc<dyn Store>, fence: Arc<dyn Fence>, clock: Arc<dyn Clock>, timing: Timing) -> Keeper {
        let now = clock.now();
        Keeper {
            store,
            fence,
            clock,
            state: Mutex::new(State { lease: LeaseView::None, timing, renewed_at: now, progress_at: now }),
            operation: tokio::sync::Mutex::new(()),
            fencing: AtomicBool::new(true),
            changes: watch::Sender::new(0),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Every update is a plain assignment: the state is sound even if a holder panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lease as of now: past its deadline it is lost.
    pub fn lease(&self) -> LeaseView {
        match self.state().lease {
            LeaseView::Held(deadline) if deadline <= self.clock.now() => LeaseView::Lost,
            lease => lease,
        }
    }

    /// The lease is held and its deadline lies ahead.
    pub fn holds(&self) -> bool {
        matches!(self.lease(), LeaseView::Held(_))
    }

    /// Counts losses of the lease that the loop should look at.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// New times; a changed ttl counts from the next renewal.
    pub fn set_timing(&self, timing: Timing) {
        self.state().timing = timing;
        self.store.set_timing(timing);
    }

    /// Whether renewals arm the fence.
    pub fn set_fencing(&self, fencing: bool) {
        self.fencing.store(fencing, Ordering::Relaxed);
    }

    /// The decision loop moves.
    pub fn progress(&self) {
        let now = self.clock.now();
        self.state().progress_at = now;
    }

    /// Takes the lock.
    pub async fn acquire(&self) -> Outcome {
        let _guard = self.operation.lock().await;
        let (started, ttl) = self.begin();
        let result = self.store.acquire_leader().await;
        self.conclude(started, ttl, result).await
    }

    /// Prolongs the lease.
    pub async fn renew(&self) -> Outcome {
        let _guard = self.operation.lock().await;
        self.renew_in_turn().await
    }

    /// The caller holds `operation`.
    async fn renew_in_turn(&self) -> Outcome {
        let (started, ttl) = self.begin();
        let result = self.store.renew_leader().await;
        self.conclude(started, ttl, result).await
    }

    /// Gives the lock away. From the call on the lease is not renewed, whatever the store answers.
    pub async fn release(&self) -> Outcome {
        let _guard = self.operation.lock().await;
        self.state().lease = LeaseView::None;
        match self.store.release_leader().await {
            Ok(()) => Outcome::Done,
            Err(StoreError::Rejected(why)) => Outcome::Rejected(why),
            Err(StoreError::Unreachable(why)) => Outcome::Unreachable(why),
        }
    }

    fn begin(&self) -> (BootTime, Duration) {
        (self.clock.now(), self.state().timing.ttl)
    }

    /// Turns the store's answer into a lease whose deadline counts from before the question was sent.
    async fn conclude(&self, started: BootTime, ttl: Duration, result: Result<(), StoreError>) -> Outcome {
        match result {
            Ok(()) => {
                let deadline = started.plus(ttl).minus(safety_margin(ttl));
                if deadline <= self.clock.now() {
                    self.state().lease = LeaseView::Lost;
                    return Outcome::Unreachable("the answer came after the lease it granted had ended".to_owned());
                }
                if self.fencing.load(Ordering::Relaxed)
                    && let Err(why) = self.fence.arm(deadline).await
                {
                    tracing::warn!("nobody would stop PostgreSQL if this agent hung: {why}");
                }
                let mut state = self.state();
                state.lease = LeaseView::Held(deadline);
                state.renewed_at = started;
                Outcome::Leased(deadline)
            }
            Err(StoreError::Rejected(why)) => {
                self.lose();
                Outcome::Rejected(why)
            }
            Err(StoreError::Unreachable(why)) => Outcome::Unreachable(why),
        }
    }

    fn lose(&self) {
        let mut state = self.state();
        if state.lease != LeaseView::None {
            state.lease = LeaseView::Lost;
        }
        drop(state);
        self.changes.send_modify(|count| *count += 1);
    }

    /// When the keeper itself should renew, if ever: a little after the decision loop would have.
    fn due(&self) -> Option<BootTime> {
        let state = self.state();
        let interval = (state.timing.loop_wait + Duration::from_millis(500)).min(state.timing.ttl / 3);
        matches!(state.lease, LeaseView::Held(_)).then(|| state.renewed_at.plus(interval))
    }

    /// The decision loop has shown life recently enough to go on leading.
    fn loop_is_alive(&self) -> bool {
        let state = self.state();
        let bound = state.timing.loop_wait + 2 * state.timing.retry_timeout;
        self.clock.now().since(state.progress_at) <= bound
    }

    /// Renews whenever the loop has not; runs for the life of the agent.
    pub async fn run(self: Arc<Self>) {
        let idle = Duration::from_millis(500);
        let mut warned = false;
        loop {
            let now = self.clock.now();
            let next = match self.due() {
                Some(due) if due > now => due.min(now.plus(idle)),
                _ => now.plus(idle),
            };
            self.clock.sleep_until(next).await;
            let held = match self.lease() {
                LeaseView::Held(_) => true,
                LeaseView::Lost if matches!(self.state().lease, LeaseView::Held(_)) => {
                    tracing::error!("the leader lease has ended without renewal");
                    self.lose();
                    false
                }
                _ => false,
            };
            if !held || self.due().is_none_or(|due| due > self.clock.now()) {
                continue;
            }
            if !self.loop_is_alive() {
                if !warned {
                    tracing::error!("the decision loop has stopped moving: the leader lease is not renewed any more");
                    warned = true;
                }
                continue;
            }
            warned = false;
            if let Outcome::Unreachable(why) = self.renew_if_held().await {
                tracing::warn!("failed to renew the leader lease: {why}");
            }
        }
    }

    /// A lease that was given away or lost while waiting for the turn is left alone.
    async fn renew_if_held(&self) -> Outcome {
        let _guard = self.operation.lock().await;
        if !self.holds() {
            return Outcome::Done;
        }
        self.renew_in_turn().await
    }
}
