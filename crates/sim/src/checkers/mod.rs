//! Safety properties, one file each. A checker sees every event and every state of the world.

mod best_candidate;
mod bounded_loss;
mod data_kept;
mod hands_off;
mod nofailover;
mod one_lease;
mod one_writable;
mod sync_failover;
mod sync_key;
mod system_id;
mod whole;

use crate::history::Event;
use crate::world::State;

/// A property that must hold at every moment.
pub trait Checker: Send {
    /// Its name, for reports.
    fn name(&self) -> &'static str;

    /// Judges an event; the state is the one after it.
    fn on_event(&mut self, _event: &Event, _state: &State) -> Option<String> {
        None
    }

    /// Judges the state after a change.
    fn on_state(&mut self, _state: &State) -> Option<String> {
        None
    }
}

/// A property did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The checker that says so.
    pub checker: &'static str,
    /// When, in milliseconds since the start of the run.
    pub at_ms: u64,
    /// What it saw.
    pub what: String,
}

/// All checkers.
pub fn all() -> Vec<Box<dyn Checker>> {
    vec![
        Box::<one_writable::OneWritable>::default(),
        Box::<one_lease::OneLease>::default(),
        Box::<bounded_loss::BoundedLoss>::default(),
        Box::<sync_failover::SyncFailover>::default(),
        Box::<sync_key::SyncKeyTrue>::default(),
        Box::<best_candidate::BestCandidate>::default(),
        Box::<nofailover::NoFailover>::default(),
        Box::<hands_off::HandsOff>::default(),
        Box::<data_kept::DataKept>::default(),
        Box::<system_id::SystemId>::default(),
        Box::<whole::Whole>::default(),
    ]
}
