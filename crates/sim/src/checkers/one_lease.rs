//! At most one agent has reason to believe that it holds the leader lease: what the store told one of them must have
//! run out before it tells another the same.

use super::Checker;
use crate::world::{NodeId, State};

/// See the module.
#[derive(Default)]
pub struct OneLease {
    reported: bool,
}

impl Checker for OneLease {
    fn name(&self) -> &'static str {
        "one lease"
    }

    fn on_state(&mut self, state: &State) -> Option<String> {
        let leads = |id: &NodeId| state.node(*id).leads_until_ms.is_some_and(|until_ms| until_ms > state.now_ms);
        let leaders: Vec<NodeId> = state.ids().filter(leads).collect();
        if leaders.len() <= 1 {
            self.reported = false;
            return None;
        }
        (!std::mem::replace(&mut self.reported, true)).then(|| format!("{leaders:?} were told that they hold the lock"))
    }
}
