use serde_json::Value;

use super::{decode_failover, decode_history, decode_member, decode_status, decode_sync};
use crate::cluster::{ClusterView, Leader, Versioned};
use crate::key::Key;

/// One key as a store returned it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawKey {
    /// Which key.
    pub key: Key,
    /// Its value as text.
    pub value: String,
    /// The store's version of it.
    pub version: u64,
}

/// Makes a [`ClusterView`] of all keys below a cluster's prefix, whatever is in them.
pub fn assemble(keys: impl IntoIterator<Item = RawKey>) -> ClusterView {
    let mut view = ClusterView::default();
    let (mut status, mut optime) = (None, None);
    for RawKey { key, value, version } in keys {
        match key {
            Key::Initialize => view.initialize = Some(Versioned { value, version }),
            Key::Config => {
                view.config = Some(match serde_json::from_str::<Value>(&value) {
                    Ok(Value::Object(object)) => Versioned { value: object, version },
                    _ => Versioned::default(),
                });
            }
            Key::Leader => view.leader = (!value.is_empty()).then_some(Leader { name: value, version }),
            Key::Member(name) => view.members.push(decode_member(&name, &value)),
            Key::Failover => view.failover = decode_failover(&value).map(|value| Versioned { value, version }),
            // Garbage is a key that names nobody: whoever replaces it needs its version.
            Key::Sync => view.sync = Some(Versioned { value: decode_sync(&value).unwrap_or_default(), version }),
            Key::Status => status = Some(value),
            Key::OptimeLeader => optime = Some(value),
            Key::History => view.history = decode_history(&value).map(|value| Versioned { value, version }),
            Key::Failsafe => {
                view.failsafe = serde_json::from_str(&value).ok();
            }
        }
    }
    view.members.sort_by(|a, b| a.name.cmp(&b.name));
    view.status = decode_status(status.as_deref(), optime.as_deref());
    view
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_a_view() {
        let raw = |key: Key, value: &str| RawKey { key, value: value.to_owned(), version: 3 };
        let view = assemble([
            raw(Key::Member("b".into()), r#"{"state":"running","role":"replica"}"#),
            raw(Key::Member("a".into()), r#"{"state":"running","role":"primary"}"#),
            raw(Key::Leader, "a"),
            raw(Key::Config, "not json"),
            raw(Key::Initialize, "7000000000000000001"),
            raw(Key::Failover, "{}"),
            raw(Key::Sync, "{}"),
        ]);
        assert_eq!(view.sync, Some(Versioned { value: crate::SyncKey::default(), version: 3 }));
        assert_eq!(view.leader_member().map(|member| member.name.as_str()), Some("a"));
        assert_eq!(view.config.as_ref().map(|config| config.version), Some(0));
        assert_eq!(view.system_id(), Some("7000000000000000001"));
        assert_eq!(view.failover, None);
        assert!(assemble([]).is_empty());
    }
}
