//! An automatic failover loses no acknowledged write that is older than `maximum_lag_on_failover` before the last
//! position the old leader published.

use super::Checker;
use crate::history::Event;
use crate::world::State;

/// See the module.
#[derive(Default)]
pub struct BoundedLoss;

impl Checker for BoundedLoss {
    fn name(&self) -> &'static str {
        "bounded loss"
    }

    fn on_event(&mut self, event: &Event, state: &State) -> Option<String> {
        let Event::Promoted { node, lost: Some((count, earliest)), .. } = event else { return None };
        // Positions are not compared for a node that an operator named, and under a pause operators are on their own.
        if state.store.manual_at_acquire || state.store.paused() {
            return None;
        }
        let published = state.store.optime_at_acquire?;
        let safe = published.0.saturating_sub(state.options.maximum_lag_bytes);
        (earliest.0 <= safe).then(|| {
            format!(
                "promoting {node} lost {count} acknowledged writes from {earliest} on; the old leader had published \
                 {published}, so that everything up to {} had to be kept",
                model::Lsn(safe)
            )
        })
    }
}
