//! A data directory is removed only when it is not whole, when an operator asked for a new copy, or when the policy for
//! diverged directories says so.

use super::Checker;
use crate::history::Event;
use crate::world::State;

/// See the module.
#[derive(Default)]
pub struct DataKept;

impl Checker for DataKept {
    fn name(&self) -> &'static str {
        "data directory kept"
    }

    fn on_event(&mut self, event: &Event, state: &State) -> Option<String> {
        let Event::DataRemoved { node, complete: true } = event else { return None };
        let allowed = state.node(*node).reinit_requested || state.options.remove_on_divergence;
        (!allowed)
            .then(|| format!("the data directory of {node} was whole, nobody asked for a new copy, and it was removed"))
    }
}
