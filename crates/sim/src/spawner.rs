//! Runs an agent's futures, and freezes or kills them all at once, as SIGSTOP and SIGKILL do to a process.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use agent::ports::Spawner;
use futures::future::BoxFuture;
use tokio::task::AbortHandle;

use crate::history::Event;
use crate::world::{NodeId, World};

/// One life of one agent process.
#[derive(Default)]
pub struct Process {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    frozen: bool,
    dead: bool,
    /// Futures that wanted to run while the process was frozen.
    parked: Vec<Waker>,
    futures: Vec<AbortHandle>,
}

impl Process {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No future runs until [`Process::thaw`]; timers and answers that come meanwhile are noticed then.
    pub fn freeze(&self) {
        self.state().frozen = true;
    }

    /// Lets the futures run again.
    pub fn thaw(&self) {
        let parked = {
            let mut state = self.state();
            state.frozen = false;
            std::mem::take(&mut state.parked)
        };
        parked.into_iter().for_each(Waker::wake);
    }

    /// Drops every future. What they asked others to do goes on.
    pub fn kill(&self) {
        let futures = {
            let mut state = self.state();
            state.dead = true;
            state.parked.clear();
            std::mem::take(&mut state.futures)
        };
        futures.iter().for_each(AbortHandle::abort);
    }

    /// Answers requests from outside.
    pub fn is_responsive(&self) -> bool {
        let state = self.state();
        !state.dead && !state.frozen
    }

    /// Was killed.
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }
}

/// [`Spawner`] for one [`Process`].
pub struct SimSpawner {
    world: Weak<World>,
    node: NodeId,
    process: Arc<Process>,
}

impl SimSpawner {
    /// A spawner whose futures belong to `process` of `node`.
    pub fn new(world: &Arc<World>, node: NodeId, process: Arc<Process>) -> SimSpawner {
        SimSpawner { world: Arc::downgrade(world), node, process }
    }
}

impl Spawner for SimSpawner {
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        let mut state = self.process.state();
        if state.dead {
            return;
        }
        let gated =
            Gated { world: self.world.clone(), node: self.node, process: self.process.clone(), future: Some(future) };
        let handle = tokio::spawn(gated).abort_handle();
        state.futures.retain(|future| !future.is_finished());
        state.futures.push(handle);
    }
}

struct Gated {
    world: Weak<World>,
    node: NodeId,
    process: Arc<Process>,
    future: Option<BoxFuture<'static, ()>>,
}

impl Future for Gated {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        {
            let mut state = self.process.state();
            if state.dead {
                return Poll::Ready(());
            }
            if state.frozen {
                state.parked.push(cx.waker().clone());
                return Poll::Pending;
            }
        }
        let Some(future) = self.future.as_mut() else { return Poll::Ready(()) };
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(poll) => poll,
            Err(panic) => {
                self.future = None;
                if let Some(world) = self.world.upgrade() {
                    let node = self.node;
                    world.with(|state| state.record(Event::Panicked(node, panic_text(panic.as_ref()))));
                }
                Poll::Ready(())
            }
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Options;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    fn ticking(world: &Arc<World>) -> (Arc<Process>, Arc<AtomicU32>) {
        let process = Arc::new(Process::default());
        let ticks = Arc::new(AtomicU32::new(0));
        let counted = ticks.clone();
        SimSpawner::new(world, NodeId(0), process.clone()).spawn(Box::pin(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                counted.fetch_add(1, Ordering::Relaxed);
            }
        }));
        (process, ticks)
    }

    #[tokio::test(start_paused = true)]
    async fn frozen_futures_wait_and_late_timers_fire_once() {
        let world = World::new(1, Options::default());
        let (process, ticks) = ticking(&world);
        tokio::time::sleep(Duration::from_millis(1050)).await;
        assert_eq!(ticks.load(Ordering::Relaxed), 10);
        process.freeze();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(ticks.load(Ordering::Relaxed), 10);
        process.thaw();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(ticks.load(Ordering::Relaxed), 11);
    }

    #[tokio::test(start_paused = true)]
    async fn killed_futures_are_dropped_even_while_frozen() {
        let world = World::new(1, Options::default());
        let (process, ticks) = ticking(&world);
        let held = Arc::downgrade(&ticks);
        process.freeze();
        tokio::time::sleep(Duration::from_secs(1)).await;
        process.kill();
        drop(ticks);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(held.upgrade().is_none(), "the future still lives");
        assert!(!process.is_responsive());
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_recorded() {
        let world = World::new(1, Options::default());
        let spawner = SimSpawner::new(&world, NodeId(0), Arc::new(Process::default()));
        spawner.spawn(Box::pin(async { panic!("on purpose") }));
        tokio::time::sleep(Duration::from_millis(1)).await;
        let tail = world.with(|state| state.history.tail(1));
        assert!(tail[0].ends_with("PANIC on purpose"), "{tail:?}");
    }
}
