//! Records the callbacks that would run.

use std::sync::Arc;

use agent::ports::Callbacks;
use ha::step::CallbackAction;
use model::Role;

use crate::history::Event;
use crate::world::{NodeId, World};

/// [`Callbacks`] of one node.
pub struct SimCallbacks {
    /// Where it happens.
    pub world: Arc<World>,
    /// On whose behalf.
    pub node: NodeId,
}

impl Callbacks for SimCallbacks {
    fn run(&self, action: CallbackAction, role: Role, _scope: &str) {
        let text = format!("{} {role}", action.as_str());
        self.world.with(|state| state.record(Event::Callback(self.node, text)));
    }
}
