//! The system identifier of the cluster never changes: one initdb, and one value in the store, for ever.

use model::cluster::is_system_id;

use super::Checker;
use crate::history::Event;
use crate::world::State;

/// See the module.
#[derive(Default)]
pub struct SystemId {
    made: Option<String>,
}

impl Checker for SystemId {
    fn name(&self) -> &'static str {
        "system identifier"
    }

    fn on_event(&mut self, event: &Event, state: &State) -> Option<String> {
        match event {
            Event::Initialized(node, id) => {
                // A cluster whose directory is gone before anybody had it in the store never existed.
                let lives = |id: &String| {
                    state.store.view().system_id() == Some(id)
                        || state.nodes.iter().any(|node| {
                            node.pg.data.as_ref().is_some_and(|data| data.unfinished.is_none() && data.system_id == *id)
                        })
                };
                let before = self.made.replace(id.clone()).filter(lives)?;
                Some(format!("{node} made cluster {id} although {before} exists"))
            }
            Event::Key(key, Some(value)) if key == "initialize" && is_system_id(value) => {
                let made = self.made.as_ref()?;
                (made != value).then(|| format!("the store says {value}, the cluster is {made}"))
            }
            _ => None,
        }
    }
}
