//! The parameters that must agree across a cluster, and what PostgreSQL is started with.
//!
//! Controlled parameters stand on the postmaster's command line, where no file can override them, and come only from
//! the dynamic configuration, `listen` and `scope`.

use std::collections::BTreeMap;

use model::Role;
use model::controlled::{Accept, CONTROLLED, Controlled, find_controlled};
use model::units::{Base, parse_bool, parse_int, parse_real};
use serde_json::Value;

use crate::catalogue::{self, base_of};
use crate::config::PgConfig;
use crate::control::ControlFile;
use crate::recovery::is_recovery_parameter;

const WAL_KEEP_DEFAULT_MB: i64 = 128;
const SEGMENT_MB: i64 = 16;

/// Parameters by name.
pub(crate) type Parameters = BTreeMap<String, String>;

/// What the configuration asks for, resolved for one version and role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Effective {
    /// Controlled parameters, in the order of the command line.
    pub controlled: Vec<(&'static str, String)>,
    /// Everything for the file, controlled ones included; no recovery parameters.
    pub file: Parameters,
    /// What was asked for and is not used, a sentence each.
    pub notes: Vec<String>,
}

impl Effective {
    /// The postmaster's arguments after `-D` and `--config-file`.
    pub fn arguments(&self) -> Vec<String> {
        self.controlled.iter().map(|(name, value)| format!("--{name}={value}")).collect()
    }

    /// A standby cannot start with less than its primary has (PostgreSQL documentation, 27.4.3): raises these to the
    /// values in the control file.
    pub fn raise_to(&mut self, control: &ControlFile, version: u32) {
        for (name, value) in &mut self.controlled {
            let required = match *name {
                "max_connections" => control.max_connections,
                "max_prepared_transactions" => control.max_prepared_transactions,
                "max_locks_per_transaction" => control.max_locks_per_transaction,
                "max_worker_processes" if version >= 90_400 => control.max_worker_processes,
                "max_wal_senders" if version >= 120_000 => control.max_wal_senders,
                _ => continue,
            };
            if parse_int(value, Base::Plain).is_some_and(|configured| i64::from(required) > configured) {
                tracing::warn!(
                    "{name} is {value} in the configuration and was {required} on the primary that this standby \
                     follows: it starts with {required}"
                );
                *value = required.to_string();
            }
        }
    }

    /// Sets a controlled parameter for this start only.
    pub fn set(&mut self, name: &str, to: &str) {
        for (_, value) in self.controlled.iter_mut().filter(|(known, _)| *known == name) {
            *value = to.to_owned();
        }
    }
}

/// Resolves the parameters for a server version (`server_version_num`, 150000 for any 15) and role.
pub(crate) fn effective(config: &PgConfig, version: u32, role: Role) -> Effective {
    let asked = &config.parameters.base;
    let mut notes = Vec::new();
    let mut controlled: Vec<(&'static str, String)> = CONTROLLED
        .iter()
        .filter(|parameter| parameter.on_command_line && version >= parameter.since)
        .map(|parameter| (parameter.name, value_of(parameter, config, version, &mut notes)))
        .collect();
    let mut file = asked.clone();
    for (name, value) in config.parameters.overrides(role) {
        if is_controlled(&name) {
            notes.push(format!(
                "{name} in the parameters for role {} is not used: it must agree everywhere",
                role.as_str()
            ));
        } else {
            file.insert(name, value);
        }
    }
    file.retain(|name, _| !is_controlled(name) && !is_recovery_parameter(name));
    file.extend(controlled.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    let (name, value) = wal_keep(asked, version);
    file.insert(name.to_owned(), value);
    notes.extend(catalogue::correct(&mut file, version));
    for (name, value) in &mut controlled {
        if let Some(corrected) = file.get(*name) {
            value.clone_from(corrected);
        }
    }
    Effective { controlled, file, notes }
}

/// Whether a parameter is controlled.
pub(crate) fn is_controlled(name: &str) -> bool {
    find_controlled(name).is_some()
}

/// Names of the parameters on the command line.
pub(crate) fn command_line_names() -> impl Iterator<Item = &'static str> {
    CONTROLLED.iter().filter(|parameter| parameter.on_command_line).map(|parameter| parameter.name)
}

fn value_of(parameter: &Controlled, config: &PgConfig, version: u32, notes: &mut Vec<String>) -> String {
    match parameter.name {
        "listen_addresses" => return config.listen.hosts.join(","),
        "port" => return config.listen.port.to_string(),
        "cluster_name" => return config.scope.clone(),
        _ => {}
    }
    let default = parameter.default.unwrap_or_default();
    let asked = config.parameters.base.get(parameter.name);
    let accepted = asked.map(|value| (value, normalised(parameter.accept, value)));
    let value = match accepted {
        Some((_, Some(value))) => value,
        Some((value, None)) => {
            notes.push(format!(
                "postgresql parameter {}={value} failed validation, defaulting to {default}",
                parameter.name
            ));
            default.to_owned()
        }
        None => default.to_owned(),
    };
    match value.as_str() {
        "replica" if parameter.accept == Accept::WalLevel && version < 90_600 => "hot_standby".to_owned(),
        _ => value,
    }
}

/// The value in the form in which it is set, if it is accepted.
fn normalised(rule: Accept, value: &str) -> Option<String> {
    let value = rule.normalise(&Value::from(value))?;
    Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

/// `wal_keep_size` (13 and later) or `wal_keep_segments`, whichever of the two was asked for.
fn wal_keep(asked: &Parameters, version: u32) -> (&'static str, String) {
    let accepted = |name: &str| {
        let value = asked.get(name)?;
        find_controlled(name).and_then(|row| normalised(row.accept, value))
    };
    let size = accepted("wal_keep_size");
    let segments = accepted("wal_keep_segments").and_then(|text| parse_int(&text, Base::Plain));
    if version >= 130_000 {
        let converted = segments.map_or(WAL_KEEP_DEFAULT_MB, |count| count.saturating_mul(SEGMENT_MB));
        ("wal_keep_size", size.unwrap_or_else(|| format!("{converted}MB")))
    } else {
        let size_mb = size.and_then(|text| parse_int(&text, Base::Bytes(1 << 20))).unwrap_or(WAL_KEEP_DEFAULT_MB);
        let converted = size_mb.saturating_add(SEGMENT_MB / 2) / SEGMENT_MB;
        ("wal_keep_segments", segments.unwrap_or(converted).to_string())
    }
}

/// Whether two spellings mean the same value of a parameter with this `pg_settings.vartype` and `unit`.
pub(crate) fn same_value(a: &str, b: &str, vartype: &str, unit: &str) -> bool {
    match vartype {
        "bool" => parse_bool(a).is_some() && parse_bool(a) == parse_bool(b),
        "integer" => {
            let number = |text| parse_int(text, base_of(unit));
            number(a).is_some() && number(a) == number(b)
        }
        "real" => match (parse_real(a, base_of(unit)), parse_real(b, base_of(unit))) {
            (Some(a), Some(b)) => a == b,
            _ => a == b,
        },
        "enum" => a.eq_ignore_ascii_case(b),
        _ => a == b,
    }
}

/// A value as PostgreSQL's `SHOW` prints it: in the largest unit that divides it.
pub(crate) fn human_value(value: &str, vartype: &str, unit: &str) -> String {
    const SIZES: &[(&str, u64)] = &[("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10), ("B", 1)];
    const TIMES: &[(&str, u64)] =
        &[("d", 86_400_000_000), ("h", 3_600_000_000), ("min", 60_000_000), ("s", 1_000_000), ("ms", 1000), ("us", 1)];
    if vartype == "bool" {
        return parse_bool(value).map_or(value, |on| if on { "on" } else { "off" }).to_owned();
    }
    let (per, units) = match base_of(unit) {
        _ if vartype != "integer" => return value.to_owned(),
        Base::Plain => return parse_int(value, Base::Plain).map_or(value.to_owned(), |number| number.to_string()),
        Base::Bytes(per) => (per, SIZES),
        Base::Micros(per) => (per, TIMES),
    };
    let Some(number) = parse_int(value, base_of(unit)) else { return value.to_owned() };
    let total = u64::try_from(number).ok().filter(|number| *number > 0).and_then(|number| number.checked_mul(per));
    let fitting = total.and_then(|total| units.iter().find(|(_, size)| total % size == 0).map(|unit| (total, unit)));
    fitting.map_or_else(|| number.to_string(), |(total, (name, size))| format!("{}{name}", total / size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn config(parameters: Value) -> PgConfig {
        let section = json!({
            "listen": "127.0.0.1,10.0.0.1:5433", "data_dir": "/d", "parameters": parameters,
            "parameters_replica": {"max_connections": 300, "work_mem": "1MB"},
            "authentication": {"replication": {"username": "r"}},
        });
        let section = section.as_object().cloned().unwrap_or_default();
        PgConfig::from_section(&section, &serde_json::Map::new(), "n", "demo").expect("valid")
    }

    #[test]
    fn command_line_of_version_15() {
        let arguments = effective(&config(json!({})), 150_000, Role::Primary).arguments();
        insta::assert_snapshot!(arguments.join("\n"), @r"
        --listen_addresses=127.0.0.1,10.0.0.1
        --port=5433
        --cluster_name=demo
        --wal_level=replica
        --hot_standby=on
        --max_connections=100
        --max_wal_senders=10
        --max_prepared_transactions=0
        --max_locks_per_transaction=64
        --track_commit_timestamp=off
        --max_replication_slots=10
        --max_worker_processes=8
        --wal_log_hints=on
        ");
    }

    #[test]
    fn old_versions_get_what_they_know() {
        let effective = effective(&config(json!({"wal_keep_size": "1GB"})), 90_300, Role::Primary);
        let names: Vec<&str> = effective.controlled.iter().map(|(name, _)| *name).collect();
        assert!(!names.contains(&"cluster_name") && !names.contains(&"wal_log_hints"));
        assert_eq!((&*effective.file["wal_level"], &*effective.file["wal_keep_segments"]), ("hot_standby", "64"));
    }

    #[test]
    fn values_that_are_not_accepted_are_replaced() {
        let parameters = json!({
            "max_connections": 5, "hot_standby": "off", "wal_level": "Logical", "port": 1, "wal_keep_segments": 10,
            "recovery_target_time": "now", "primary_conninfo": "x",
        });
        let effective = effective(&config(parameters), 150_000, Role::Replica);
        let value = |name: &str| effective.file.get(name).map(String::as_str);
        assert_eq!(value("max_connections"), Some("100"));
        assert_eq!(value("hot_standby"), Some("on"));
        assert_eq!(value("wal_level"), Some("logical"));
        assert_eq!(value("port"), Some("5433"));
        assert_eq!(value("wal_keep_size"), Some("160MB"));
        assert_eq!(value("work_mem"), Some("1MB"));
        assert_eq!((value("recovery_target_time"), value("primary_conninfo")), (None, None));
    }

    #[test]
    fn values_compare_by_meaning() {
        assert!(same_value("on", "true", "bool", ""));
        assert!(same_value("16384", "128MB", "integer", "8kB"));
        assert!(same_value("0.10", "0.1", "real", "") && same_value("2", "2000us", "real", "ms"));
        assert!(!same_value("a", "A", "string", "") && same_value("a", "A", "enum", ""));
        assert_eq!(human_value("16384", "integer", "8kB"), "128MB");
        assert_eq!(human_value("300", "integer", "s"), "5min");
        assert_eq!(human_value("-1", "integer", "kB"), "-1");
        assert_eq!(human_value("0200", "string", ""), "0200");
    }
}
