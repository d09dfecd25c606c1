//! Replication slots: what PostgreSQL shows, what the configuration asks for, and changes between the two.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Lsn;

/// A replication slot as PostgreSQL shows it in `pg_replication_slots`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Slot name.
    pub name: String,
    /// `physical` or `logical`.
    pub logical: bool,
    /// Database of a logical slot.
    pub database: Option<String>,
    /// Output plugin of a logical slot.
    pub plugin: Option<String>,
    /// A receiver is connected.
    pub active: bool,
    /// Oldest WAL the slot keeps.
    pub restart_lsn: Option<Lsn>,
    /// Logical slots: the position the consumer confirmed.
    pub confirmed_flush_lsn: Option<Lsn>,
    /// The slot holds back vacuum.
    pub has_xmin: bool,
    /// The oldest transaction whose catalog changes the slot needs.
    pub catalog_xmin: Option<Xid>,
    /// `pg_replication_slots.wal_status` says `lost`.
    pub lost: bool,
    /// Created by pg_basebackup or a subscription for the session only.
    pub temporary: bool,
    /// From version 17 on: PostgreSQL itself copies the slot to standbys.
    pub failover: bool,
    /// From version 17 on: this is such a copy.
    pub synced: bool,
}

/// A transaction number; it wraps around.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xid(pub u32);

impl Xid {
    /// Not before `other`, in the order of transaction numbers, which is a circle (PostgreSQL documentation, 25.1.5).
    pub fn reached(self, other: Xid) -> bool {
        self.0.wrapping_sub(other.0) < 1 << 31
    }
}

/// What kind of slot it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SlotKind {
    /// For a standby, pg_receivewal and such.
    Physical,
    /// For logical decoding.
    Logical {
        /// Database.
        database: String,
        /// Output plugin.
        plugin: String,
    },
}

/// In which clusters a permanent slot exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClusterType {
    /// Those with a primary.
    Primary,
    /// Those that follow a remote primary.
    Standby,
}

/// A slot that the dynamic configuration names (`slots`): it is always kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PermanentSlot {
    /// What it is.
    pub kind: SlotKind,
    /// `cluster_type`: both where `None`.
    pub cluster_type: Option<ClusterType>,
}

impl PermanentSlot {
    /// Reads an entry of `slots`: a map with `type` and, for logical slots, `database` and `plugin`; nothing at all
    /// stands for a physical slot. The error says what is wrong, without the name.
    pub fn parse(name: &str, value: &Value) -> Result<PermanentSlot, String> {
        if !is_slot_name(name) {
            return Err("expected a name of at most 63 lower case letters, digits and underscores".to_owned());
        }
        let empty = serde_json::Map::new();
        let entry = match value {
            Value::Object(entry) => entry,
            Value::Null => &empty,
            Value::String(text) if text.is_empty() || text.eq_ignore_ascii_case("physical") => &empty,
            _ => return Err(format!("expected a map with type, database and plugin, not {value}")),
        };
        let text = |key: &str| entry.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let named = (text("database"), text("plugin"));
        let kind = match (text("type").map(str::to_ascii_lowercase).as_deref(), named) {
            (Some("physical"), _) | (None, (None, None)) => SlotKind::Physical,
            (Some("logical") | None, (Some(database), Some(plugin))) => {
                SlotKind::Logical { database: database.to_owned(), plugin: plugin.to_owned() }
            }
            (Some("logical") | None, _) => return Err("a logical slot needs database and plugin".to_owned()),
            (Some(other), _) => return Err(format!("type {other:?}: expected physical or logical")),
        };
        let cluster_type = match text("cluster_type").map(str::to_ascii_lowercase).as_deref() {
            None => None,
            Some("primary") => Some(ClusterType::Primary),
            Some("standby") => Some(ClusterType::Standby),
            Some(other) => return Err(format!("cluster_type {other:?}: expected primary or standby")),
        };
        Ok(PermanentSlot { kind, cluster_type })
    }
}

/// An entry of `ignore_slots`: slots that match in all that is given are left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotMatcher {
    /// `name`, `type`, `database`, `plugin`; other keys never match anything wrong.
    pub given: BTreeMap<String, String>,
}

impl SlotMatcher {
    /// Whether the entry speaks of this slot.
    pub fn matches(&self, slot: &Slot) -> bool {
        self.given.iter().all(|(key, value)| match key.as_str() {
            "name" => slot.name == *value,
            "type" => (if slot.logical { "logical" } else { "physical" }) == value,
            "database" => slot.database.as_ref() == Some(value),
            "plugin" => slot.plugin.as_ref() == Some(value),
            _ => true,
        })
    }
}

/// One change of a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SlotChange {
    /// `pg_drop_replication_slot`: fails where somebody uses it.
    Drop {
        /// Slot name.
        name: String,
    },
    /// A physical slot that keeps WAL from now on.
    CreatePhysical {
        /// Slot name.
        name: String,
    },
    /// A logical slot; on a primary.
    CreateLogical {
        /// Slot name.
        name: String,
        /// Database.
        database: String,
        /// Output plugin.
        plugin: String,
    },
    /// `pg_replication_slot_advance`, from version 11 on.
    Advance {
        /// Slot name.
        name: String,
        /// Where to.
        to: Lsn,
        /// Database of a logical slot.
        database: Option<String>,
    },
}

/// Whether PostgreSQL accepts the name.
pub fn is_slot_name(name: &str) -> bool {
    (1..=63).contains(&name.len()) && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

/// The slot a member streams from: lower case, `-` and `.` become `_`, other characters outside `[a-z0-9_]` become
/// `u` and a four-digit decimal code point; at most 63 characters.
pub fn slot_name_from_member(name: &str) -> String {
    let mut slot = String::with_capacity(name.len());
    for c in name.to_lowercase().chars() {
        match c {
            'a'..='z' | '0'..='9' | '_' => slot.push(c),
            '-' | '.' => slot.push('_'),
            other => slot.push_str(&format!("u{:04}", other as u32)),
        }
    }
    slot.truncate(63);
    slot
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn slot_names() {
        assert_eq!(slot_name_from_member("Node-1.example"), "node_1_example");
        assert_eq!(slot_name_from_member("a b"), "au0032b");
        assert_eq!(slot_name_from_member(&"x".repeat(80)).len(), 63);
    }

    #[test]
    fn permanent_slots_are_parsed() {
        let logical = || SlotKind::Logical { database: "d".to_owned(), plugin: "p".to_owned() };
        for (value, expected) in [
            (json!(null), Ok((SlotKind::Physical, None))),
            (json!({}), Ok((SlotKind::Physical, None))),
            (
                json!({"type": "Physical", "cluster_type": "Standby"}),
                Ok((SlotKind::Physical, Some(ClusterType::Standby))),
            ),
            (json!({"type": "logical", "database": "d", "plugin": "p"}), Ok((logical(), None))),
            (json!({"database": "d", "plugin": "p"}), Ok((logical(), None))),
            (json!({"type": "logical", "database": "d"}), Err("needs database and plugin")),
            (json!({"plugin": "p"}), Err("needs database and plugin")),
            (json!({"type": "quantum"}), Err("expected physical or logical")),
            (json!({"cluster_type": "both"}), Err("expected primary or standby")),
            (json!([1]), Err("expected a map")),
        ] {
            let parsed = PermanentSlot::parse("s", &value).map(|slot| (slot.kind, slot.cluster_type));
            match (parsed, expected) {
                (Err(why), Err(part)) => assert!(why.contains(part), "{value}: {why}"),
                (parsed, expected) => assert_eq!(parsed, expected.map_err(str::to_owned), "{value}"),
            }
        }
        for name in ["", "Upper", "da-sh", &"x".repeat(64)] {
            assert!(PermanentSlot::parse(name, &json!({})).is_err(), "{name}");
        }
    }

    #[test]
    fn transaction_numbers_wrap_around() {
        for (a, b, reached) in [(5, 5, true), (6, 5, true), (4, 5, false), (3, u32::MAX, true), (u32::MAX, 3, false)] {
            assert_eq!(Xid(a).reached(Xid(b)), reached, "{a} {b}");
        }
    }
}
