//! While the cluster is paused, and a node has been told so, it starts, stops, promotes and repoints nothing.

use super::Checker;
use crate::history::{Event, Op};
use crate::world::State;

/// What was decided on before the node was told may still begin this much later.
const GRACE_MS: u64 = 30_000;
/// An operator's request explains what a node does for this long.
const REQUEST_MS: u64 = 180_000;

/// See the module.
#[derive(Default)]
pub struct HandsOff {
    /// When an operator last asked for a failover or switchover; the key goes away before the promotion begins.
    failover_asked_ms: Option<u64>,
}

impl Checker for HandsOff {
    fn name(&self) -> &'static str {
        "paused means hands off"
    }

    fn on_event(&mut self, event: &Event, state: &State) -> Option<String> {
        if matches!(event, Event::Key(key, Some(value)) if key == "failover" && value != "{}") {
            self.failover_asked_ms = Some(state.now_ms);
        }
        let Event::Op(id, op) = event else { return None };
        let node = state.node(*id);
        let told_ms = node.told_paused_ms?;
        let recently = |at_ms: u64, within_ms: u64| state.now_ms.saturating_sub(at_ms) < within_ms;
        let whole = node.pg.data.as_ref().is_some_and(|data| data.unfinished.is_none());
        let asked =
            [node.asked_ms, self.failover_asked_ms].into_iter().flatten().any(|at_ms| recently(at_ms, REQUEST_MS));
        if recently(told_ms, GRACE_MS) || asked || !whole {
            return None;
        }
        let touches = !matches!(op, Op::Clone | Op::Initdb);
        touches.then(|| format!("{id} was told of the pause {} ms ago and did {op:?}", state.now_ms - told_ms))
    }
}
