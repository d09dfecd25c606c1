//! The lease keeper: holds the leader lease, renews it on its own, and tells the fence how long it lasts.
//!
//! A slow disk, a slow query or a stuck task does not cost the lease; a decision loop that has stopped moving does:
//! without [`Keeper::progress`] for long enough, renewal stops. How the times relate is in [`LeaseTimes`].

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dcs::{Store, StoreError, Timing};
use ha::step::Outcome;
use ha::view::LeaseView;
use model::{BootTime, FailsafeLeader, LeaseTimes};
use tokio::sync::watch;

use crate::ports::{Clock, Fence};
use crate::promises::Promises;

/// A leader that must act without an answer of the store waits for one at least so long.
const STORE_WAIT_MIN: Duration = Duration::from_millis(500);
/// How long an agent that is told to stop waits for the store, as long as it answers.
const STORE_WAIT_AT_EXIT: Duration = Duration::from_secs(2);

struct State {
    /// What the store granted.
    lease: LeaseView,
    /// Until when all other members promised not to lead: as good as a lease, and of no meaning without one before.
    promised: Option<BootTime>,
    times: LeaseTimes,
    /// Start of the last successful renewal.
    renewed_at: BootTime,
    /// The decision loop's last sign of life.
    progress_at: BootTime,
    /// The last complaint about the fence, so that each is made once.
    complaint: Option<String>,
}

impl State {
    /// The end of what the store granted, or of what all members promised, whichever is later; it may have passed.
    fn deadline(&self) -> Option<BootTime> {
        let LeaseView::Held(granted) = self.lease else { return None };
        Some(self.promised.map_or(granted, |promised| promised.max(granted)))
    }
}

/// Holds the lease of one node.
pub struct Keeper {
    store: Arc<dyn Store>,
    fence: Arc<dyn Fence>,
    clock: Arc<dyn Clock>,
    promises: Promises,
    state: Mutex<State>,
    /// One lease operation at a time.
    operation: tokio::sync::Mutex<()>,
    /// Whether the cluster's state asks for a fence: off while it is paused.
    fencing: AtomicBool,
    /// Whether renewals of the keeper's own move the fence's deadline: not after [`Keeper::let_go_of_fence`], until the
    /// rules acquire or renew again. Arming and letting go take turns on it.
    guarding: tokio::sync::Mutex<bool>,
    changes: watch::Sender<u64>,
    /// Other members are to be asked before the lease ends.
    failsafe_mode: AtomicBool,
    /// The agent was told to stop.
    stopping: watch::Receiver<bool>,
    /// The store did not answer in time since the agent was told to stop.
    silent_at_exit: AtomicBool,
}

fn times_of(timing: Timing) -> LeaseTimes {
    LeaseTimes { ttl: timing.ttl, loop_wait: timing.loop_wait, retry_timeout: timing.retry_timeout }
}

impl Keeper {
    /// A keeper without a lease. `stopping` becomes true when the agent is told to stop.
    pub fn new(
        store: Arc<dyn Store>,
        fence: Arc<dyn Fence>,
        clock: Arc<dyn Clock>,
        promises: Promises,
        timing: Timing,
        stopping: watch::Receiver<bool>,
    ) -> Keeper {
        let now = clock.now();
        let times = times_of(timing);
        let lease = LeaseView::None;
        fence.set_times(times);
        Keeper {
            store,
            fence,
            clock,
            promises,
            state: Mutex::new(State {
                lease,
                promised: None,
                times,
                renewed_at: now,
                progress_at: now,
                complaint: None,
            }),
            operation: tokio::sync::Mutex::new(()),
            fencing: AtomicBool::new(true),
            guarding: tokio::sync::Mutex::new(false),
            changes: watch::Sender::new(0),
            failsafe_mode: AtomicBool::new(false),
            stopping,
            silent_at_exit: AtomicBool::new(false),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Every update is a plain assignment: the state is sound even if a holder panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lease as of now, granted by the store or by promise of all members: past its deadline it is lost.
    pub fn lease(&self) -> LeaseView {
        let state = self.state();
        match state.deadline() {
            Some(deadline) if deadline <= self.clock.now() => LeaseView::Lost,
            Some(deadline) => LeaseView::Held(deadline),
            None => state.lease,
        }
    }

    /// What this node promised others.
    pub fn promises(&self) -> &Promises {
        &self.promises
    }

    /// Promises a leader without the store not to lead for a `ttl`; refused where this node leads or is about to.
    pub async fn promise(&self, leader: FailsafeLeader) -> Result<(), String> {
        let ttl = self.state().times.ttl;
        self.promises.give(leader, ttl, || self.holds()).await
    }

    /// All other members promised not to lead, in answer to a question sent at `asked_at`: the lease that is held lasts
    /// from there as if it had been renewed then.
    pub async fn lead_by_promise(&self, asked_at: BootTime) -> Outcome {
        let deadline = self.state().times.deadline(asked_at);
        let ended = || Outcome::Rejected("the lease has ended".to_owned());
        if !self.holds() || deadline <= self.clock.now() {
            return ended();
        }
        *self.guarding.lock().await = true;
        let armed = self.arm(deadline).await;
        // The fence has taken its time: what has ended meanwhile is not brought back.
        if !self.holds() {
            return ended();
        }
        self.state().promised = Some(deadline);
        match armed {
            Err(why) if self.fence.failed() => Outcome::Unfenced(why),
            _ => Outcome::Leased(deadline),
        }
    }

    /// The lease is held and its deadline lies ahead.
    pub fn holds(&self) -> bool {
        matches!(self.lease(), LeaseView::Held(_))
    }

    /// PostgreSQL may be made writable at this very moment: the lease is held, by the latest answer of the store and not
    /// only by the one that a decision rested on, and no guard that is required is missing.
    pub fn permits_writing(&self) -> bool {
        self.holds() && !self.fence.failed()
    }

    /// Counts losses of the lease that the loop should look at.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// New times; a changed ttl counts from the next renewal.
    pub fn set_timing(&self, timing: Timing) {
        let times = times_of(timing);
        // Before the store knows: a lease granted with a shorter ttl must not be counted with a longer one.
        self.state().times = times;
        self.store.set_timing(timing);
        self.fence.set_times(times);
    }

    /// Whether the cluster's state asks for a fence.
    pub fn set_fencing(&self, fencing: bool) {
        self.fencing.store(fencing, Ordering::Relaxed);
    }

    /// Whether other members are asked when the store does not answer.
    pub fn set_failsafe_mode(&self, failsafe_mode: bool) {
        self.failsafe_mode.store(failsafe_mode, Ordering::Relaxed);
    }

    /// The decision loop moves.
    pub fn progress(&self) {
        let now = self.clock.now();
        self.state().progress_at = now;
    }

    /// Takes the lock.
    pub async fn acquire(&self) -> Outcome {
        let _turn = self.operation.lock().await;
        let _taking = match self.promises.take_lock(false) {
            Ok(taking) => taking,
            Err(why) => return Outcome::Rejected(why),
        };
        *self.guarding.lock().await = true;
        let (sent, ttl) = self.begin();
        let result = self.bounded(self.store.acquire_leader()).await;
        self.conclude(sent, ttl, result).await
    }

    /// Prolongs the lease.
    pub async fn renew(&self) -> Outcome {
        let _turn = self.operation.lock().await;
        *self.guarding.lock().await = true;
        self.renew_in_turn().await
    }

    /// The caller holds `operation`.
    async fn renew_in_turn(&self) -> Outcome {
        // Without a lease, a renewal can take the lock anew.
        let _taking = match self.promises.take_lock(self.holds()) {
            Ok(taking) => taking,
            Err(why) => return Outcome::Rejected(why),
        };
        let (sent, ttl) = self.begin();
        let result = self.bounded(self.store.renew_leader()).await;
        self.conclude(sent, ttl, result).await
    }

    /// Gives the lock away. From the call on the lease is not renewed, whatever the store answers.
    pub async fn release(&self) -> Outcome {
        let _turn = self.operation.lock().await;
        {
            let mut state = self.state();
            (state.lease, state.promised) = (LeaseView::None, None);
        }
        match self.bounded(self.store.release_leader()).await {
            Ok(()) => Outcome::Done,
            Err(StoreError::Rejected(why)) => Outcome::Rejected(why),
            Err(StoreError::Unreachable(why)) => Outcome::Unreachable(why),
        }
    }

    /// Nothing of this node is writable any more: no guard, until the rules acquire or renew again.
    pub async fn let_go_of_fence(&self) {
        let mut guarding = self.guarding.lock().await;
        *guarding = false;
        self.fence.disarm().await;
    }

    /// Waits for an answer of the store as long as it can matter. A holder of the lease does not wait beyond the moment
    /// at which it must act without one; an agent that is told to stop does not wait long, and even less once the store
    /// was silent.
    pub async fn bounded<T>(
        &self,
        operation: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let must_act = async {
            let Some(mut deadline) = self.state().deadline() else { return std::future::pending().await };
            let least = self.clock.now().plus(STORE_WAIT_MIN);
            loop {
                let times = self.state().times;
                let failsafe = self.failsafe_mode.load(Ordering::Relaxed);
                let act_at = if failsafe { times.ask_at(deadline) } else { times.demote_at(deadline) };
                self.clock.sleep_until(act_at.max(least)).await;
                match self.state().deadline() {
                    Some(later) if later > deadline => deadline = later,
                    _ => return,
                }
            }
        };
        let mut stopping = self.stopping.clone();
        let told_to_stop = async {
            if stopping.wait_for(|told| *told).await.is_err() {
                return std::future::pending().await;
            }
            let silent = self.silent_at_exit.load(Ordering::Relaxed);
            let wait = if silent { STORE_WAIT_MIN } else { STORE_WAIT_AT_EXIT };
            self.clock.sleep_until(self.clock.now().plus(wait)).await;
        };
        tokio::select! {
            biased;
            answer = operation => answer,
            () = must_act => Err(StoreError::Unreachable("no answer while the lease lasts".to_owned())),
            () = told_to_stop => {
                self.silent_at_exit.store(true, Ordering::Relaxed);
                Err(StoreError::Unreachable("no answer while the agent stops".to_owned()))
            }
        }
    }

    fn begin(&self) -> (BootTime, Duration) {
        (self.clock.now(), self.state().times.ttl)
    }

    /// Turns the store's answer into a lease whose deadline counts from before the question was sent. The store has used
    /// the ttl as it was then or as it is now: the shorter counts.
    async fn conclude(&self, sent: BootTime, ttl: Duration, result: Result<(), StoreError>) -> Outcome {
        match result {
            Ok(()) => {
                let times = self.state().times;
                let deadline = LeaseTimes { ttl: ttl.min(times.ttl), ..times }.deadline(sent);
                if deadline <= self.clock.now() {
                    if !self.holds() {
                        self.state().lease = LeaseView::Lost;
                    }
                    return Outcome::Unreachable("the answer came after the lease it granted had ended".to_owned());
                }
                // Promises that last longer than an answer that came late stay good.
                let promised = self.state().promised.filter(|promised| *promised > deadline);
                let effective = promised.unwrap_or(deadline);
                let armed = self.arm(effective).await;
                let mut state = self.state();
                (state.lease, state.promised) = (LeaseView::Held(deadline), promised);
                state.renewed_at = sent;
                drop(state);
                match armed {
                    Err(why) if self.fence.failed() => Outcome::Unfenced(why),
                    _ => Outcome::Leased(effective),
                }
            }
            Err(StoreError::Rejected(why)) => {
                self.lose();
                Outcome::Rejected(why)
            }
            Err(StoreError::Unreachable(why)) => Outcome::Unreachable(why),
        }
    }

    async fn arm(&self, deadline: BootTime) -> Result<(), String> {
        let guarding = self.guarding.lock().await;
        if !*guarding || !self.fencing.load(Ordering::Relaxed) {
            return Ok(());
        }
        let armed = self.fence.arm(deadline).await;
        let complaint = armed.as_ref().err().cloned();
        let before = std::mem::replace(&mut self.state().complaint, complaint.clone());
        if let Some(why) = complaint.filter(|why| before.as_ref() != Some(why)) {
            tracing::warn!("nobody would stop PostgreSQL if this agent hung: {why}");
        }
        armed
    }

    fn lose(&self) {
        let mut state = self.state();
        if state.lease != LeaseView::None {
            state.lease = LeaseView::Lost;
        }
        state.promised = None;
        drop(state);
        self.changes.send_modify(|count| *count += 1);
    }

    /// When the keeper itself should renew, if ever.
    fn due(&self) -> Option<BootTime> {
        let state = self.state();
        // While only promises last, the loop looks at the store before anything is renewed.
        let granted = matches!(state.lease, LeaseView::Held(deadline) if deadline > self.clock.now());
        granted.then(|| state.renewed_at.plus(state.times.renew_after()))
    }

    /// The decision loop has shown life recently enough to go on leading.
    fn loop_is_alive(&self) -> bool {
        let state = self.state();
        self.clock.now().since(state.progress_at) <= state.times.loop_silence_max()
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
        let _turn = self.operation.lock().await;
        if !self.holds() {
            return Outcome::Done;
        }
        self.renew_in_turn().await
    }
}

#[cfg(test)]
mod tests;
