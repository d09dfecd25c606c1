//! At most one PostgreSQL accepts writes at any moment.
//!
//! A pause is the exception: hands off means that an old primary goes on while an operator promotes another node, and
//! that a primary which the end of the pause has not reached yet goes on as well.

use super::Checker;
use crate::history::{Event, ProcessChange};
use crate::world::{NodeId, State};

/// A primary that learns of the end of a pause stops accepting writes within this time.
const STOP_WITHIN_MS: u64 = 15_000;

/// See the module.
#[derive(Default)]
pub struct OneWritable {
    /// Two servers became writable because of a pause; excused until then, or until one of them stops.
    excused_until_ms: Option<u64>,
    reported: bool,
}

impl Checker for OneWritable {
    fn name(&self) -> &'static str {
        "one writable PostgreSQL"
    }

    fn on_event(&mut self, event: &Event, state: &State) -> Option<String> {
        // A server that turned writable under a pause excuses a second one.
        if matches!(event, Event::Process(_, ProcessChange::Writable)) && state.store.paused() {
            self.excused_until_ms = (state.writable().len() > 1).then_some(u64::MAX);
        }
        None
    }

    fn on_state(&mut self, state: &State) -> Option<String> {
        let writable: Vec<NodeId> = state.writable();
        if writable.len() <= 1 {
            self.excused_until_ms = None;
            self.reported = false;
            return None;
        }
        let of_pause = |id: &NodeId| {
            let node = state.node(*id);
            let just_ended = |at_ms: u64| state.now_ms < at_ms + STOP_WITHIN_MS;
            node.told_paused_ms.is_some() || node.pause_ended_ms.is_some_and(just_ended)
        };
        if writable.iter().any(of_pause) {
            self.excused_until_ms = Some(state.now_ms + STOP_WITHIN_MS);
        }
        let excused = self.excused_until_ms.is_some_and(|until_ms| state.now_ms < until_ms);
        if excused || std::mem::replace(&mut self.reported, true) {
            return None;
        }
        Some(format!("{writable:?} accept writes at the same time"))
    }
}
