//! Names and kinds of replication slots.

use serde::{Deserialize, Serialize};

use crate::Lsn;

/// A replication slot as PostgreSQL shows it in `pg_replication_slots`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// `pg_replication_slots.wal_status` says `lost`.
    pub lost: bool,
    /// Created by pg_basebackup or a subscription for the session only.
    pub temporary: bool,
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
    use super::*;

    #[test]
    fn slot_names() {
        assert_eq!(slot_name_from_member("Node-1.example"), "node_1_example");
        assert_eq!(slot_name_from_member("a b"), "au0032b");
        assert_eq!(slot_name_from_member(&"x".repeat(80)).len(), 63);
    }
}
