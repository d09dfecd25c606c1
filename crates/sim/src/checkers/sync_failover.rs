//! In synchronous and quorum mode an automatic failover loses no acknowledged write.

use super::Checker;
use crate::history::Event;
use crate::world::State;

/// See the module.
#[derive(Default)]
pub struct SyncFailover;

impl Checker for SyncFailover {
    fn name(&self) -> &'static str {
        "synchronous failover"
    }

    fn on_event(&mut self, event: &Event, state: &State) -> Option<String> {
        let Event::Promoted { node, lost: Some((count, earliest)), .. } = event else { return None };
        // An operator may name a node that lacks something, and before the first sync key nothing is promised.
        if !state.store.sync_at_acquire || state.store.manual_at_acquire || state.store.paused() {
            return None;
        }
        Some(format!("promoting {node} lost {count} acknowledged writes from {earliest} on"))
    }
}
