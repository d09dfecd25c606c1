//! No server is started on a half-made data directory, and no agent panics.

use super::Checker;
use crate::history::Event;
use crate::world::State;

/// See the module.
#[derive(Default)]
pub struct Whole;

impl Checker for Whole {
    fn name(&self) -> &'static str {
        "whole"
    }

    fn on_event(&mut self, event: &Event, _state: &State) -> Option<String> {
        match event {
            Event::StartedUnfit(node, what) => Some(format!("{node} started PostgreSQL on {what}")),
            Event::Panicked(node, text) => Some(format!("the agent of {node} panicked: {text}")),
            _ => None,
        }
    }
}
