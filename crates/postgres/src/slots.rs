//! Physical replication slots.

use std::collections::BTreeMap;

use model::Lsn;
use model::slots::Slot;
use serde_json::Value;

use crate::client::{Failure, Session};
use crate::node::Postgres;
use crate::observe;
use crate::sql;

/// A slot that must exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedSlot {
    /// Slot name.
    pub name: String,
    /// Move it forward to this position where its consumer does not (slots kept for members that follow another).
    pub advance_to: Option<Lsn>,
}

/// One change, in the order they are made.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Drop(String),
    Create(String),
    Advance(String, Lsn),
}

impl Postgres {
    /// Creates, drops and advances physical slots so that exactly `wanted` exist among those we manage: not logical
    /// or temporary ones, and none that `ignore_slots` names. A slot with a consumer is never dropped. Every change is
    /// tried; the error names all that failed.
    pub async fn sync_slots(&self, wanted: &[WantedSlot]) -> Result<(), String> {
        let version = self.version()?;
        if version < 90_400 {
            return Ok(());
        }
        let session = self.connect().await.map_err(Failure::into_text)?;
        let json = session.value("list the slots", &observe::slots_statement(version)).await;
        let json = json.map_err(Failure::into_text)?.unwrap_or_default();
        let listed: Vec<Value> = serde_json::from_str(&json).unwrap_or_default();
        let existing: Vec<Slot> = listed.iter().filter_map(observe::slot).collect();
        let mut problems = Vec::new();
        for change in plan(&existing, wanted, &self.config().ignore_slots) {
            if let Err(failure) = perform(&session, &change, version).await {
                problems.push(failure.into_text());
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
    }
}

/// The changes that lead from what exists to what is wanted.
fn plan(existing: &[Slot], wanted: &[WantedSlot], ignore: &[BTreeMap<String, String>]) -> Vec<Change> {
    let mut changes = Vec::new();
    for slot in existing.iter().filter(|slot| !slot.temporary && !slot.logical) {
        let is_wanted = wanted.iter().any(|wanted| wanted.name == slot.name);
        if !is_wanted && !slot.active && !is_ignored(slot, ignore) {
            changes.push(Change::Drop(slot.name.clone()));
        }
    }
    for slot in wanted {
        match existing.iter().find(|existing| existing.name == slot.name) {
            None => changes.push(Change::Create(slot.name.clone())),
            Some(existing) if existing.logical || existing.temporary || existing.active => {}
            Some(existing) => {
                // An unused slot that holds back vacuum, lost its WAL, or never reserved any is made anew.
                let unused_xmin = existing.has_xmin && slot.advance_to.is_some();
                if unused_xmin || existing.lost || existing.restart_lsn.is_none() {
                    changes.push(Change::Drop(slot.name.clone()));
                    changes.push(Change::Create(slot.name.clone()));
                } else if let Some(target) = slot.advance_to.filter(|target| existing.restart_lsn < Some(*target)) {
                    changes.push(Change::Advance(slot.name.clone(), target));
                }
            }
        }
    }
    changes
}

/// Whether some entry of `ignore_slots` matches in all keys it has.
fn is_ignored(slot: &Slot, ignore: &[BTreeMap<String, String>]) -> bool {
    let matches = |entry: &BTreeMap<String, String>| {
        entry.iter().all(|(key, value)| match key.as_str() {
            "name" => slot.name == *value,
            "type" => (if slot.logical { "logical" } else { "physical" }) == value,
            "database" => slot.database.as_ref() == Some(value),
            "plugin" => slot.plugin.as_ref() == Some(value),
            _ => true,
        })
    };
    ignore.iter().any(matches)
}

async fn perform(session: &Session, change: &Change, version: u32) -> Result<(), Failure> {
    let (what, statement) = match change {
        Change::Drop(name) => {
            (format!("drop slot {name}"), format!("SELECT pg_drop_replication_slot({})", sql::literal(name)))
        }
        Change::Create(name) => {
            let reserve = if version >= 90_600 { ", true" } else { "" };
            let create = format!("SELECT pg_create_physical_replication_slot({}{reserve})", sql::literal(name));
            (format!("create slot {name}"), create)
        }
        Change::Advance(_, _) if version < 110_000 => return Ok(()),
        Change::Advance(name, target) => {
            // A standby has no WAL beyond what it received; PostgreSQL itself stops at the end of it.
            let advance = format!("SELECT pg_replication_slot_advance({}, '{target}')", sql::literal(name));
            (format!("advance slot {name}"), advance)
        }
    };
    session.query(&what, &statement).await.map(|_| tracing::debug!("{what}: done"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(name: &str) -> Slot {
        Slot {
            name: name.to_owned(),
            logical: false,
            database: None,
            plugin: None,
            active: false,
            restart_lsn: Some(Lsn(100)),
            confirmed_flush_lsn: None,
            has_xmin: false,
            lost: false,
            temporary: false,
        }
    }

    fn wanted(name: &str, advance_to: Option<u64>) -> WantedSlot {
        WantedSlot { name: name.to_owned(), advance_to: advance_to.map(Lsn) }
    }

    #[test]
    fn from_existing_to_wanted() {
        use Change::{Advance, Create, Drop};
        let name = |text: &str| text.to_owned();
        let ignore = [BTreeMap::from([(name("name"), name("x")), (name("type"), name("physical"))])];
        for (existing, wanted, expected) in [
            (vec![], vec![wanted("a", None)], vec![Create(name("a"))]),
            (vec![slot("a")], vec![], vec![Drop(name("a"))]),
            (vec![Slot { active: true, ..slot("a") }], vec![], vec![]),
            (vec![Slot { logical: true, ..slot("a") }], vec![], vec![]),
            (vec![Slot { temporary: true, ..slot("a") }], vec![], vec![]),
            (vec![slot("x")], vec![], vec![]),
            (vec![slot("a")], vec![wanted("a", Some(200))], vec![Advance(name("a"), Lsn(200))]),
            (vec![slot("a")], vec![wanted("a", Some(50))], vec![]),
            (vec![Slot { active: true, ..slot("a") }], vec![wanted("a", Some(200))], vec![]),
            (
                vec![Slot { has_xmin: true, ..slot("a") }],
                vec![wanted("a", Some(50))],
                vec![Drop(name("a")), Create(name("a"))],
            ),
            (vec![Slot { has_xmin: true, ..slot("a") }], vec![wanted("a", None)], vec![]),
            (vec![Slot { lost: true, ..slot("a") }], vec![wanted("a", None)], vec![Drop(name("a")), Create(name("a"))]),
            (
                vec![Slot { restart_lsn: None, ..slot("a") }],
                vec![wanted("a", None)],
                vec![Drop(name("a")), Create(name("a"))],
            ),
        ] {
            assert_eq!(plan(&existing, &wanted, &ignore), expected, "{existing:?}");
        }
    }
}
