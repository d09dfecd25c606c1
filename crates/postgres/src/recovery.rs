//! Recovery parameters: what makes a server a standby, and of whom. Which of them a version knows, and which of them it
//! takes over without a restart.

use model::HostPort;
use model::pg::Upstream;
use model::units::parse_bool;

use crate::config::PgConfig;
use crate::conninfo::{self, Dsn};
use crate::guc::Parameters;

/// A parameter that lived in `recovery.conf` before version 12. Versions are `server_version_num`.
struct Parameter {
    name: &'static str,
    /// The first version that has it.
    since: u32,
    /// The first that has it no more.
    until: u32,
    /// From this version on it is taken over by a reload.
    reloads_since: u32,
}

const EVER: u32 = u32::MAX;

const fn parameter(name: &'static str, since: u32, until: u32, reloads_since: u32) -> Parameter {
    Parameter { name, since, until, reloads_since }
}

/// PostgreSQL documentation, 20.5.4, 20.5.5 and 20.6.3, and the release notes of 9.4, 9.5, 10, 12, 13, 14 and 16.
const PARAMETERS: &[Parameter] = &[
    parameter("archive_cleanup_command", 0, EVER, 120_000),
    parameter("pause_at_recovery_target", 0, 90_500, EVER),
    parameter("primary_conninfo", 0, EVER, 130_000),
    parameter("primary_slot_name", 90_400, EVER, 130_000),
    parameter("promote_trigger_file", 120_000, 160_000, 120_000),
    parameter("recovery_end_command", 0, EVER, 120_000),
    parameter("recovery_min_apply_delay", 90_400, EVER, 120_000),
    parameter("recovery_target", 90_400, EVER, EVER),
    parameter("recovery_target_action", 90_500, EVER, EVER),
    parameter("recovery_target_inclusive", 0, EVER, EVER),
    parameter("recovery_target_lsn", 100_000, EVER, EVER),
    parameter("recovery_target_name", 0, EVER, EVER),
    parameter("recovery_target_time", 0, EVER, EVER),
    parameter("recovery_target_timeline", 0, EVER, EVER),
    parameter("recovery_target_xid", 0, EVER, EVER),
    parameter("restore_command", 0, EVER, 140_000),
    parameter("standby_mode", 0, 120_000, EVER),
    parameter("trigger_file", 0, 120_000, EVER),
];

/// Files that make a server start in recovery.
pub(crate) const SIGNAL_FILES: [&str; 3] = ["standby.signal", "recovery.signal", "recovery.conf"];

/// Whether this is a recovery parameter of any version.
pub(crate) fn is_recovery_parameter(name: &str) -> bool {
    PARAMETERS.iter().any(|parameter| parameter.name == name)
}

/// Whether this version has the parameter.
fn is_known(name: &str, version: u32) -> bool {
    PARAMETERS.iter().any(|parameter| parameter.name == name && (parameter.since..parameter.until).contains(&version))
}

/// Name and value as this version spells them; `None` where it has nothing of the kind.
fn translated(name: &str, value: &str, version: u32) -> Option<(String, String)> {
    let (name, value) = match name {
        "trigger_file" if version >= 120_000 => ("promote_trigger_file", value),
        "promote_trigger_file" if version < 120_000 => ("trigger_file", value),
        "pause_at_recovery_target" if version >= 90_500 => {
            let pauses = parse_bool(value)?;
            ("recovery_target_action", if pauses { "pause" } else { "promote" })
        }
        "recovery_target_action" if version < 90_500 => {
            let pauses = match value {
                "pause" => "true",
                "promote" => "false",
                _ => return None,
            };
            ("pause_at_recovery_target", pauses)
        }
        other => (other, value),
    };
    is_known(name, version).then(|| (name.to_owned(), value.to_owned()))
}

/// Recovery parameters for a standby of `upstream`, or for a server that waits for whom to follow.
/// `passfile` is the password file that holds the replication password; without it the password is in the text.
pub(crate) fn standby(
    config: &PgConfig,
    version: u32,
    upstream: Option<&Upstream>,
    passfile: Option<&str>,
) -> Parameters {
    let mut parameters = common(config, version);
    let mut set = |name: &str, value: &str| {
        if is_known(name, version) {
            parameters.insert(name.to_owned(), value.to_owned());
        }
    };
    set("recovery_target_timeline", "latest");
    set("standby_mode", "on");
    if version >= 120_000 {
        for name in ["", "_name", "_time", "_xid", "_lsn"] {
            set(&format!("recovery_target{name}"), "");
        }
    }
    let Some(upstream) = upstream else { return parameters };
    set("primary_conninfo", &primary_conninfo(config, version, upstream, passfile));
    if let Some(slot) = &upstream.slot {
        set("primary_slot_name", slot);
    }
    if follows_remote(config, &upstream.address)
        && let Some(delay) = &config.standby_cluster.recovery_min_apply_delay
    {
        set("recovery_min_apply_delay", delay);
    }
    parameters
}

/// The user's recovery parameters, without those that name a target or an upstream. They are kept on a primary too
/// where the version allows: pg_rewind reads `restore_command` from its configuration.
pub(crate) fn common(config: &PgConfig, version: u32) -> Parameters {
    let ours = |name: &str| {
        name.starts_with("recovery_target")
            || matches!(name, "primary_conninfo" | "primary_slot_name" | "standby_mode" | "pause_at_recovery_target")
    };
    let asked = config.recovery_conf.iter().filter(|(name, _)| !ours(name));
    let mut parameters: Parameters = asked.filter_map(|(name, value)| translated(name, value, version)).collect();
    for (name, value) in [
        ("restore_command", &config.standby_cluster.restore_command),
        ("archive_cleanup_command", &config.standby_cluster.archive_cleanup_command),
    ] {
        if let Some(value) = value {
            parameters.insert(name.to_owned(), value.clone());
        }
    }
    parameters
}

/// Recovery configuration of a custom bootstrap method, as its section gives it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Given {
    /// In this version's spelling. `standby_mode` is among them before version 12.
    pub parameters: Parameters,
    /// A standby that never leaves recovery by itself, rather than a recovery to a target.
    pub standby: bool,
}

/// Reads the `recovery_conf` of a custom bootstrap method.
pub(crate) fn given(section: &Parameters, version: u32) -> Given {
    let standby = section.get("standby_mode").and_then(|mode| parse_bool(mode)) == Some(true);
    let parameters = section.iter().filter_map(|(name, value)| translated(name, value, version)).collect();
    Given { parameters, standby }
}

impl Given {
    /// Recovery stops at its target and waits there for somebody who looks and resumes it. Without a target, and with
    /// any other action, the server must not be read before it is done.
    pub fn pauses(&self) -> bool {
        let get = |name: &str| self.parameters.get(name).map(String::as_str);
        let target = ["", "_name", "_time", "_xid", "_lsn"];
        let has_target =
            target.iter().any(|kind| get(&format!("recovery_target{kind}")).is_some_and(|value| !value.is_empty()));
        let acts = match (get("recovery_target_action"), get("pause_at_recovery_target")) {
            (Some(action), _) => action == "pause",
            (None, Some(pauses)) => parse_bool(pauses) != Some(false),
            // PostgreSQL's default.
            (None, None) => true,
        };
        self.standby || (has_target && acts)
    }
}

/// What it takes for a running standby to take over changed recovery parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    /// Nothing differs.
    None,
    /// A reload.
    Reload,
    /// A restart.
    Restart,
}

/// Compares the parameters that a standby of this version runs with and those it should. One that is absent has its
/// default.
pub(crate) fn change(version: u32, running: &Parameters, wanted: &Parameters) -> Change {
    let value = |parameters: &Parameters, name: &str| {
        let default = if name == "recovery_target_timeline" && version >= 120_000 { "latest" } else { "" };
        parameters.get(name).map_or(default, String::as_str).to_owned()
    };
    let changed = |parameter: &&Parameter| value(running, parameter.name) != value(wanted, parameter.name);
    let needed = |parameter: &Parameter| {
        if version >= parameter.reloads_since { Change::Reload } else { Change::Restart }
    };
    PARAMETERS.iter().filter(changed).map(needed).max().unwrap_or(Change::None)
}

fn follows_remote(config: &PgConfig, address: &HostPort) -> bool {
    config.standby_cluster.remote.as_ref() == Some(address)
}

/// `primary_conninfo` in its fixed order of fields.
pub(crate) fn primary_conninfo(config: &PgConfig, version: u32, upstream: &Upstream, passfile: Option<&str>) -> String {
    let credentials = &config.replication;
    let mut dsn: Dsn = conninfo::dsn(config, credentials, &upstream.address)
        .set("dbname", &config.database)
        .set("application_name", &config.name)
        .or("sslmode", "prefer")
        .or("gssencmode", "prefer")
        .or("channel_binding", "prefer")
        .or("sslnegotiation", "postgres");
    if let Some(password) = &credentials.sslpassword {
        dsn = dsn.set("sslpassword", password.expose());
    }
    match (&credentials.password, passfile.filter(|_| version >= 100_000)) {
        (Some(_), Some(path)) => dsn = dsn.set("passfile", path),
        (Some(password), None) => dsn = dsn.set("password", password.expose()),
        (None, _) => {}
    }
    if upstream.slot.is_some() && upstream.address.host.contains(',') {
        dsn = dsn.set("target_session_attrs", "read-write");
    }
    dsn.render(version)
}

/// The upstream that recovery parameters name.
pub(crate) fn upstream_of(conninfo: &str, slot: &str) -> Option<Upstream> {
    let address = conninfo::address(conninfo)?;
    Some(Upstream { address, slot: (!slot.is_empty()).then(|| slot.to_owned()) })
}

#[cfg(test)]
mod tests;
