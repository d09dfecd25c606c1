//! The lock is not taken by a node that knows, or could have asked, of a better one.

use std::collections::BTreeMap;

use super::Checker;
use crate::history::Event;
use crate::world::{NodeId, State};

/// See the module.
#[derive(Default)]
pub struct BestCandidate {
    /// What each node last learnt when it asked: when, and who was ahead.
    polls: BTreeMap<NodeId, (u64, Vec<NodeId>)>,
    vacant_since_ms: u64,
}

impl Checker for BestCandidate {
    fn name(&self) -> &'static str {
        "best candidate"
    }

    fn on_event(&mut self, event: &Event, state: &State) -> Option<String> {
        match event {
            Event::Polled(node, ahead) => {
                self.polls.insert(*node, (state.now_ms, ahead.clone()));
                None
            }
            Event::Lock { to: None, .. } => {
                self.vacant_since_ms = state.now_ms;
                None
            }
            Event::Lock { from: None, to: Some(name), why: "acquired" } => {
                let node = state.ids().find(|id| id.to_string() == *name)?;
                if state.store.manual_at_acquire || state.store.paused() || state.node(node).pg.accepts_writes() {
                    return None;
                }
                // With the sync key, who is best is whoever it names.
                if state.store.sync_at_acquire {
                    return None;
                }
                let (asked_ms, ahead) = self.polls.get(&node)?;
                (*asked_ms >= self.vacant_since_ms && !ahead.is_empty())
                    .then(|| format!("{node} took the lock although {ahead:?} answered and were ahead of it"))
            }
            _ => None,
        }
    }
}
