//! A node with the tag `nofailover` is never promoted.

use super::Checker;
use crate::history::Event;
use crate::world::State;

/// See the module.
#[derive(Default)]
pub struct NoFailover;

impl Checker for NoFailover {
    fn name(&self) -> &'static str {
        "nofailover"
    }

    fn on_event(&mut self, event: &Event, state: &State) -> Option<String> {
        let Event::Promoted { node, .. } = event else { return None };
        state.node(*node).tags.nofailover().then(|| format!("{node} has the tag nofailover and was promoted"))
    }
}
