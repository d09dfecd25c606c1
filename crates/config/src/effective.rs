//! What PostgreSQL runs with: built-in defaults, the dynamic configuration of the cluster, and the local configuration,
//! in rising order of precedence; except for the parameters that all nodes of a cluster must agree on, which the dynamic
//! configuration alone decides.

use std::collections::BTreeMap;

use model::controlled::{CONTROLLED, Controlled, find_controlled};
use model::libpq;
use model::units::bool_of;
use model::{Role, Settings};
use serde_json::{Map, Value};

use crate::local::absolute;
use crate::{LocalConfig, tree};

/// Keys of `postgresql` that belong to one node and are discarded from the dynamic configuration.
const LOCAL_ONLY: [&str; 7] =
    ["connect_address", "proxy_address", "listen", "config_dir", "data_dir", "pgpass", "authentication"];

/// Settings that are paths, made absolute so that children may run in any directory.
const PATHS: [&str; 4] = ["data_dir", "config_dir", "pgpass", "bin_dir"];

impl LocalConfig {
    /// The `postgresql` section in force under this dynamic configuration: for all roles, see [`for_role`] for one.
    pub fn effective_postgresql(&self, dynamic: &Map<String, Value>) -> Map<String, Value> {
        self.resolve_postgresql(dynamic).0
    }

    /// The dynamic configuration with the section `postgresql` in force: what [`Settings::resolve`] should read, for
    /// local settings override some of what decisions depend on.
    pub fn merged_dynamic(&self, dynamic: &Map<String, Value>) -> Map<String, Value> {
        let mut merged = dynamic.clone();
        merged.insert("postgresql".to_owned(), Value::Object(self.effective_postgresql(dynamic)));
        merged
    }

    /// Scripts by the event they are told about (`on_start`, ...).
    pub fn callbacks(&self, dynamic: &Map<String, Value>) -> BTreeMap<String, String> {
        match self.effective_postgresql(dynamic).get("callbacks") {
            Some(Value::Object(callbacks)) => callbacks
                .iter()
                .filter_map(|(event, command)| Some((event.clone(), command.as_str()?.to_owned())))
                .collect(),
            _ => BTreeMap::new(),
        }
    }

    /// [`LocalConfig::effective_postgresql`], and a sentence for everything in the dynamic configuration that was not
    /// accepted.
    pub fn resolve_postgresql(&self, dynamic: &Map<String, Value>) -> (Map<String, Value>, Vec<String>) {
        let empty = Map::new();
        let section = |tree| tree::get(tree, "postgresql").and_then(Value::as_object).unwrap_or(&empty);
        let (theirs, ours) = (section(dynamic), section(&self.tree));
        let mut notes = Vec::new();
        let mut result = Map::new();
        let use_slots = theirs.get("use_slots").and_then(bool_of).unwrap_or(true);
        result.insert("use_slots".to_owned(), use_slots.into());
        result.insert("parameters".to_owned(), Value::Object(parameters(theirs, ours, &mut notes)));
        let is_merged = |key: &str| key == "parameters" || key == "use_slots";
        for (key, value) in theirs.iter().filter(|(key, _)| !LOCAL_ONLY.contains(&key.as_str()) && !is_merged(key)) {
            result.insert(key.clone(), value.clone());
        }
        for (key, value) in ours.iter().filter(|(key, _)| !is_merged(key)) {
            result.insert(key.clone(), value.clone());
        }
        if let Some(Value::Object(roles)) = result.get_mut("authentication") {
            for role in roles.values_mut().filter_map(Value::as_object_mut) {
                role.retain(|key, _| key == "username" || libpq::credential_keywords().any(|known| known.name == key));
            }
        }
        for key in PATHS {
            let path = result.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
            if let Some(Ok(path)) = path.map(|text| absolute(text.as_ref())) {
                result.insert(key.to_owned(), path.to_string_lossy().into());
            }
        }
        self.copy_top_level(dynamic, &mut result);
        (result, notes)
    }

    fn copy_top_level(&self, dynamic: &Map<String, Value>, result: &mut Map<String, Value>) {
        if let Ok(name) = self.name() {
            result.insert("name".to_owned(), name.into());
        }
        if let Ok(scope) = self.scope() {
            result.insert("scope".to_owned(), scope.into());
        }
        let retry_timeout = Settings::resolve(dynamic).0.retry_timeout.as_secs();
        result.insert("retry_timeout".to_owned(), retry_timeout.into());
        if let Some(citus) = self.citus() {
            result.insert("citus".to_owned(), Value::Object(citus.clone()));
        }
    }
}

/// Parameters for all roles: controlled ones from the dynamic configuration, others from both, the local ones winning.
fn parameters(theirs: &Map<String, Value>, ours: &Map<String, Value>, notes: &mut Vec<String>) -> Map<String, Value> {
    let mut merged = Map::new();
    for row in CONTROLLED {
        if let Some(default) = row.default {
            let value = row.accept.normalise(&Value::from(default)).unwrap_or(Value::Null);
            merged.insert(row.name.to_owned(), value);
        }
    }
    for (section, is_dynamic) in [(theirs, true), (ours, false)] {
        let Some(Value::Object(given)) = section.get("parameters") else { continue };
        for (name, value) in given {
            match find_controlled(name) {
                None => put(&mut merged, name, value.clone()),
                Some(row) if is_dynamic => match row.accept.normalise(value) {
                    Some(value) => put(&mut merged, row.name, value),
                    None => notes.push(refused(row, value)),
                },
                Some(_) => {}
            }
        }
    }
    merged
}

fn refused(row: &Controlled, value: &Value) -> String {
    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match row.default {
        Some(default) => {
            format!("postgresql parameter {}={value} failed validation, defaulting to {default}", row.name)
        }
        None => format!("postgresql parameter {}={value} failed validation and is ignored", row.name),
    }
}

/// Sets a parameter in place of one whose name differs in case only; null removes it.
fn put(parameters: &mut Map<String, Value>, name: &str, value: Value) {
    let old = parameters.keys().find(|key| key.eq_ignore_ascii_case(name)).cloned();
    if value.is_null() {
        if let Some(old) = old {
            parameters.shift_remove(&old);
        }
    } else {
        parameters.insert(old.unwrap_or_else(|| name.to_owned()), value);
    }
}

/// The section in force for one role: `parameters_<role>` laid over `parameters`, `pg_hba_<role>` and
/// `pg_ident_<role>` in place of the general ones. The second part names what was skipped: roles must not differ in
/// controlled parameters.
pub fn for_role(postgresql: &Map<String, Value>, role: Role) -> (Map<String, Value>, Vec<String>) {
    let (mut result, mut notes) = (postgresql.clone(), Vec::new());
    let suffix = match role {
        Role::Primary | Role::Promoted => "primary",
        Role::Replica | Role::Demoted => "replica",
        Role::StandbyLeader => "standby_leader",
        Role::Uninitialized => return (result, notes),
    };
    if let Some(Value::Object(overrides)) = postgresql.get(&format!("parameters_{suffix}")) {
        let mut parameters = result.get("parameters").and_then(Value::as_object).cloned().unwrap_or_default();
        for (name, value) in overrides {
            match find_controlled(name) {
                None => put(&mut parameters, name, value.clone()),
                Some(row) => notes.push(format!(
                    "postgresql.parameters_{suffix}.{} is ignored: it must be the same in all roles",
                    row.name
                )),
            }
        }
        result.insert("parameters".to_owned(), Value::Object(parameters));
    }
    for list in ["pg_hba", "pg_ident"] {
        if let Some(lines) = postgresql.get(&format!("{list}_{suffix}")) {
            result.insert(list.to_owned(), lines.clone());
        }
    }
    (result, notes)
}

#[cfg(test)]
mod tests;
