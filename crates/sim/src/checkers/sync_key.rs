//! Any `quorum + 1` of the standbys that the sync key names hold, among them, every acknowledged write: at every moment,
//! whoever asks.

use model::{Key, SyncKey};

use super::Checker;
use crate::world::State;

/// See the module.
#[derive(Default)]
pub struct SyncKeyTrue {
    text: String,
    key: Option<SyncKey>,
}

impl Checker for SyncKeyTrue {
    fn name(&self) -> &'static str {
        "sync key"
    }

    fn on_state(&mut self, state: &State) -> Option<String> {
        let text = state.store.get(&Key::Sync).unwrap_or("");
        if text != self.text {
            text.clone_into(&mut self.text);
            self.key = model::wire::decode_sync(text);
        }
        let key = self.key.as_ref().filter(|key| !key.members.is_empty())?;
        // WAL is one line: whoever has the last has all before.
        let last = state.ledger.acks.last()?;
        let has = |name: &String| {
            let node = state.ids().find(|id| id.to_string() == *name)?;
            Some(state.node(node).pg.data.as_ref()?.wal.contains(last.branch, last.end))
        };
        let lacking: Vec<&String> = key.members.iter().filter(|name| has(name) != Some(true)).collect();
        let quorum = key.quorum as usize;
        (lacking.len() > quorum && quorum < key.members.len()).then(|| {
            format!(
                "the sync key names {:?} with quorum {quorum}, and {lacking:?} lack the write {last:?}",
                key.members
            )
        })
    }
}
