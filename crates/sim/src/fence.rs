//! The sentinel: kills PostgreSQL at the deadline it was last told, whatever the agent does.

use std::sync::Arc;
use std::time::Duration;

use agent::ports::Fence;
use async_trait::async_trait;
use model::BootTime;
use tokio::time::sleep;

use crate::history::Event;
use crate::pg::SimPg;
use crate::world::{NodeId, State, World};

/// The sentinel's memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct FenceState {
    /// Kill at this time of the run.
    pub deadline_ms: Option<u64>,
    /// It fired and was not told anything since.
    pub fired: bool,
}

/// [`Fence`] of one node.
pub struct SimFence {
    /// Where it happens.
    pub world: Arc<World>,
    /// Whose PostgreSQL is killed.
    pub node: NodeId,
}

impl SimFence {
    async fn round_trip(&self) {
        let ms = self.world.with(|state| state.between(0, 4));
        sleep(Duration::from_millis(ms)).await;
    }
}

#[async_trait]
impl Fence for SimFence {
    async fn arm(&self, deadline: BootTime) -> Result<(), String> {
        let node = self.node;
        self.round_trip().await;
        let wait_ms = self.world.with(|state| {
            let deadline_ms = deadline.0.saturating_sub(state.node(node).boot_offset_ms);
            state.node_mut(node).fence = FenceState { deadline_ms: Some(deadline_ms), fired: false };
            (deadline_ms, deadline_ms.saturating_sub(state.now_ms))
        });
        let (deadline_ms, wait_ms) = wait_ms;
        let world = Arc::downgrade(&self.world);
        tokio::spawn(async move {
            sleep(Duration::from_millis(wait_ms)).await;
            if let Some(world) = world.upgrade() {
                world.with(|state| state.fire_fence(node, deadline_ms));
            }
        });
        self.round_trip().await;
        Ok(())
    }

    async fn disarm(&self) {
        self.round_trip().await;
        self.world.with(|state| state.node_mut(self.node).fence = FenceState::default());
        self.round_trip().await;
    }

    fn failed(&self) -> bool {
        false
    }
}

impl State {
    fn fire_fence(&mut self, node: NodeId, deadline_ms: u64) {
        if self.node(node).fence.deadline_ms != Some(deadline_ms) {
            return;
        }
        self.node_mut(node).fence = FenceState { deadline_ms: None, fired: true };
        self.record(Event::Fenced(node));
        self.kill_process(node, "killed by the sentinel");
    }
}

/// What a test needs to hold a PostgreSQL and its sentinel.
pub fn hands(world: &Arc<World>, node: NodeId) -> (SimPg, SimFence) {
    (SimPg::new(world, node), SimFence { world: world.clone(), node })
}
