//! At most one PostgreSQL accepts writes at any moment.
//!
//! A pause is the exception: hands off means that an old primary goes on while an operator promotes another node, and
//! that a primary which the end of the pause has not reached yet goes on as well.

use super::Checker;
use crate::history::{Event, ProcessChange};
use crate::world::{NodeId, State};

/// See the module.
#[derive(Default)]
pub struct OneWritable {
    /// Two servers became writable under a pause; excused until one of them stops.
    excused: bool,
    reported: bool,
}

impl Checker for OneWritable {
    fn name(&self) -> &'static str {
        "one writable PostgreSQL"
    }

    fn on_event(&mut self, event: &Event, state: &State) -> Option<String> {
        // A server that turned writable under a pause excuses a second one.
        if matches!(event, Event::Process(_, ProcessChange::Writable)) && state.store.paused() {
            self.excused = state.writable().len() > 1;
        }
        None
    }

    fn on_state(&mut self, state: &State) -> Option<String> {
        let writable: Vec<NodeId> = state.writable();
        if writable.len() <= 1 {
            self.excused = false;
            self.reported = false;
            return None;
        }
        let believes_in_pause = |id: &NodeId| state.node(*id).told_paused_ms.is_some();
        if self.excused || writable.iter().any(believes_in_pause) || std::mem::replace(&mut self.reported, true) {
            return None;
        }
        Some(format!("{writable:?} accept writes at the same time"))
    }
}
