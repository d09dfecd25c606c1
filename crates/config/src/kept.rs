//! Settings that a running node cannot take on: they are kept as they were, and each is named.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::check::shown;
use crate::schema::{self, Applies, SECTIONS, SETTINGS};
use crate::{LocalConfig, tree};

/// Whole sections, and single settings elsewhere, that count from the start of the agent on, as the table has it.
fn kept() -> impl Iterator<Item = String> {
    let whole = |path: &str| {
        let section = path.split('.').next().unwrap_or_default();
        SECTIONS.iter().any(|row| row.path == section && row.applies == Applies::Restart)
    };
    let sections = SECTIONS.iter().filter(|row| row.applies == Applies::Restart && !row.path.is_empty());
    let settings = SETTINGS.iter().filter(|row| row.takes_effect() == Applies::Restart);
    let single = settings.flat_map(schema::Setting::paths).filter(move |path| !whole(path));
    single.chain(sections.map(|row| row.path.to_owned()))
}

impl LocalConfig {
    /// Puts back from `running` what only a restart can change. The answer is a sentence for each setting that was
    /// changed; values of secrets are not in it.
    pub fn keep_from(&mut self, running: &LocalConfig) -> Vec<String> {
        let mut sentences = Vec::new();
        for path in kept() {
            let (old, new) = (running.get(&path).cloned(), self.get(&path).cloned());
            if old == new {
                continue;
            }
            differences(&path, old.as_ref(), new.as_ref(), &mut sentences);
            match old {
                Some(old) => tree::set(&mut self.tree, &path, old),
                None => {
                    tree::remove(&mut self.tree, &path);
                }
            }
        }
        sentences
    }
}

fn differences(path: &str, old: Option<&Value>, new: Option<&Value>, sentences: &mut Vec<String>) {
    if let (Some(Value::Object(old)), Some(Value::Object(new))) = (old, new) {
        for key in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
            if old.get(key) != new.get(key) {
                differences(&format!("{path}.{key}"), old.get(key), new.get(key), sentences);
            }
        }
        return;
    }
    let text = |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), |value| shown(path, value));
    sentences.push(format!(
        "{path} was changed from {} to {}: this takes effect when patroni is restarted",
        text(old),
        text(new)
    ));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(tree: Value) -> LocalConfig {
        LocalConfig::from_tree(tree.as_object().expect("an object").clone())
    }

    #[test]
    fn what_needs_a_restart_is_named_and_kept() {
        let running = config(json!({
            "name": "a", "etcd3": {"host": "h:1", "password": "old-secret"}, "tags": {"x": 1},
            "postgresql": {"data_dir": "/a", "listen": "*:1"},
        }));
        let mut fresh = config(json!({
            "name": "b", "etcd3": {"hosts": ["h:2"], "password": "new-secret"}, "tags": {"x": 2},
            "watchdog": {"mode": "off"}, "postgresql": {"data_dir": "/b", "listen": "*:2"},
        }));
        let sentences = fresh.keep_from(&running);
        let said = [
            "name was changed from a to b: this takes effect when patroni is restarted",
            "postgresql.data_dir was changed from /a to /b: this takes effect when patroni is restarted",
            "watchdog was changed from nothing to a mapping: this takes effect when patroni is restarted",
            "etcd3.host was changed from h:1 to nothing: this takes effect when patroni is restarted",
            "etcd3.hosts was changed from nothing to a list: this takes effect when patroni is restarted",
            "etcd3.password was changed from *** to ***: this takes effect when patroni is restarted",
        ];
        assert_eq!(sentences, said);
        let expected = json!({
            "name": "a", "etcd3": {"host": "h:1", "password": "old-secret"}, "tags": {"x": 2},
            "postgresql": {"data_dir": "/a", "listen": "*:2"},
        });
        assert_eq!(Value::Object(fresh.tree.clone()), expected);
        assert_eq!(fresh.keep_from(&running), Vec::<String>::new());
    }
}
