//! The file in which a node keeps its promise to a leader without the store: it outlives agents and power failures.

use std::sync::Arc;

use agent::ports::PromiseFile;
use async_trait::async_trait;
use ha::view::Promise;

use crate::world::{NodeId, World};

/// [`PromiseFile`] of one node.
pub struct SimPromise {
    /// Where it happens.
    pub world: Arc<World>,
    /// Whose.
    pub node: NodeId,
}

#[async_trait]
impl PromiseFile for SimPromise {
    async fn load(&self) -> Option<Promise> {
        self.world.with(|state| state.node(self.node).promise.clone())
    }

    async fn save(&self, promise: &Promise) -> Result<(), String> {
        self.world.with(|state| state.node_mut(self.node).promise = Some(promise.clone()));
        Ok(())
    }
}
