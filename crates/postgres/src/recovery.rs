//! Recovery parameters: what makes a server a standby, and of whom.

use std::collections::BTreeMap;

use model::HostPort;
use model::pg::Upstream;

use crate::config::PgConfig;
use crate::conninfo::{self, Dsn};

/// Parameters that lived in `recovery.conf` before version 12.
const RECOVERY_PARAMETERS: &[&str] = &[
    "archive_cleanup_command",
    "pause_at_recovery_target",
    "primary_conninfo",
    "primary_slot_name",
    "promote_trigger_file",
    "recovery_end_command",
    "recovery_min_apply_delay",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "restore_command",
    "standby_mode",
    "trigger_file",
];

/// Files that make a server start in recovery.
pub(crate) const SIGNAL_FILES: [&str; 3] = ["standby.signal", "recovery.signal", "recovery.conf"];

/// Whether this is a recovery parameter.
pub(crate) fn is_recovery_parameter(name: &str) -> bool {
    RECOVERY_PARAMETERS.contains(&name)
}

/// Recovery parameters for a standby of `upstream`, or for a server that waits for whom to follow.
/// `passfile` is the password file that holds the replication password; without it the password is in the text.
pub(crate) fn standby(
    config: &PgConfig,
    version: u32,
    upstream: Option<&Upstream>,
    passfile: Option<&str>,
) -> BTreeMap<String, String> {
    let mut parameters = common(config, version);
    parameters.insert("recovery_target_timeline".to_owned(), "latest".to_owned());
    if version >= 120_000 {
        for name in ["", "_name", "_time", "_xid", "_lsn"] {
            parameters.insert(format!("recovery_target{name}"), String::new());
        }
    } else {
        parameters.insert("standby_mode".to_owned(), "on".to_owned());
    }
    let Some(upstream) = upstream else { return parameters };
    parameters.insert("primary_conninfo".to_owned(), primary_conninfo(config, version, upstream, passfile));
    if let Some(slot) = &upstream.slot {
        parameters.insert("primary_slot_name".to_owned(), slot.clone());
    }
    if follows_remote(config, &upstream.address)
        && let Some(delay) = &config.standby_cluster.recovery_min_apply_delay
    {
        parameters.insert("recovery_min_apply_delay".to_owned(), delay.clone());
    }
    parameters
}

/// The user's recovery parameters, without those that name a target or an upstream. They are kept on a primary too
/// where the version allows: pg_rewind reads `restore_command` from its configuration.
pub(crate) fn common(config: &PgConfig, version: u32) -> BTreeMap<String, String> {
    let mut parameters = BTreeMap::new();
    for (name, value) in &config.recovery_conf {
        if name.starts_with("recovery_target") || matches!(name.as_str(), "primary_conninfo" | "primary_slot_name") {
            continue;
        }
        let name = match name.as_str() {
            "standby_mode" | "pause_at_recovery_target" => continue,
            "trigger_file" | "promote_trigger_file" if version >= 160_000 => continue,
            "trigger_file" if version >= 120_000 => "promote_trigger_file",
            "promote_trigger_file" if version < 120_000 => "trigger_file",
            other => other,
        };
        parameters.insert(name.to_owned(), value.clone());
    }
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
mod tests {
    use super::*;
    use serde_json::{Map, json};

    fn config() -> PgConfig {
        let section = json!({
            "listen": "127.0.0.1:5433", "data_dir": "/d",
            "authentication": {"replication": {"username": "repl", "password": "pw", "sslmode": "require"}},
            "recovery_conf": {"restore_command": "cp /a/%f %p", "recovery_target_time": "x", "trigger_file": "/t"},
        });
        PgConfig::from_section(&section.as_object().cloned().unwrap_or_default(), &Map::new(), "n1", "demo")
            .expect("valid")
    }

    fn upstream(host: &str) -> Upstream {
        Upstream { address: HostPort { host: host.to_owned(), port: 5432 }, slot: Some("n1".to_owned()) }
    }

    #[test]
    fn conninfo_by_version() {
        assert_eq!(
            primary_conninfo(&config(), 150_000, &upstream("10.0.0.2"), Some("/home/pgpass")),
            "dbname=postgres user=repl passfile=/home/pgpass host=10.0.0.2 port=5432 sslmode=require \
             application_name=n1 gssencmode=prefer channel_binding=prefer"
        );
        assert_eq!(
            primary_conninfo(&config(), 90_600, &upstream("10.0.0.2"), Some("/home/pgpass")),
            "dbname=postgres user=repl password=pw host=10.0.0.2 port=5432 sslmode=require application_name=n1"
        );
        assert!(
            primary_conninfo(&config(), 150_000, &upstream("a,b"), None).ends_with("target_session_attrs=read-write")
        );
    }

    #[test]
    fn parameters_of_a_standby() {
        let new = standby(&config(), 150_000, Some(&upstream("10.0.0.2")), None);
        assert_eq!(new["recovery_target_timeline"], "latest");
        assert_eq!(new["recovery_target_time"], "");
        assert_eq!(new["restore_command"], "cp /a/%f %p");
        assert_eq!(new["promote_trigger_file"], "/t");
        assert_eq!(new["primary_slot_name"], "n1");
        let old = standby(&config(), 110_000, None, None);
        assert_eq!((old["standby_mode"].as_str(), old["trigger_file"].as_str()), ("on", "/t"));
        assert!(!old.contains_key("primary_conninfo") && !old.contains_key("recovery_target_time"));
    }

    #[test]
    fn delay_only_behind_the_remote_primary() {
        let dynamic = json!({"standby_cluster": {"host": "remote", "port": 5432, "recovery_min_apply_delay": "5min"}});
        let config = config().with_dynamic(dynamic.as_object().expect("object")).expect("valid");
        let delay = |host| standby(&config, 150_000, Some(&upstream(host)), None).remove("recovery_min_apply_delay");
        assert_eq!(delay("remote").as_deref(), Some("5min"));
        assert_eq!(delay("10.0.0.2"), None);
    }
}
