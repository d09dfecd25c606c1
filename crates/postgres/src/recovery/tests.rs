use super::*;
use serde_json::{Map, json};

fn config() -> PgConfig {
    let section = json!({
        "listen": "127.0.0.1:5433", "data_dir": "/d",
        "authentication": {"replication": {"username": "repl", "password": "pw", "sslmode": "require"}},
        "recovery_conf": {"restore_command": "cp /a/%f %p", "recovery_target_time": "x", "trigger_file": "/t"},
    });
    PgConfig::from_section(&section.as_object().cloned().unwrap_or_default(), &Map::new(), "n1", "demo").expect("valid")
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
    assert!(primary_conninfo(&config(), 150_000, &upstream("a,b"), None).ends_with("target_session_attrs=read-write"));
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

const VERSIONS: [u32; 11] =
    [90_300, 90_600, 100_000, 110_000, 120_000, 130_000, 140_000, 150_000, 160_000, 170_000, 180_000];

fn parameters(pairs: &[(&str, &str)]) -> Parameters {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_standby_of_every_version() {
    let mut before = Parameters::new();
    let mut table = String::new();
    for version in VERSIONS {
        let after = standby(&config(), version, Some(&upstream("10.0.0.2")), Some("/home/pgpass"));
        table.push_str(&format!("{version}\n"));
        for name in before.keys().filter(|name| !after.contains_key(*name)) {
            table.push_str(&format!("  without {name}\n"));
        }
        for (name, value) in after.iter().filter(|(name, value)| before.get(*name) != Some(value)) {
            table.push_str(&format!("  {name} = {value}\n"));
        }
        before = after;
    }
    // What changes from one version to the next.
    insta::assert_snapshot!(table, @r"
    90300
      primary_conninfo = dbname=postgres user=repl password=pw host=10.0.0.2 port=5432 sslmode=require application_name=n1
      recovery_target_timeline = latest
      restore_command = cp /a/%f %p
      standby_mode = on
      trigger_file = /t
    90600
      primary_slot_name = n1
    100000
      primary_conninfo = dbname=postgres user=repl passfile=/home/pgpass host=10.0.0.2 port=5432 sslmode=require application_name=n1
    110000
    120000
      without standby_mode
      without trigger_file
      primary_conninfo = dbname=postgres user=repl passfile=/home/pgpass host=10.0.0.2 port=5432 sslmode=require application_name=n1 gssencmode=prefer
      promote_trigger_file = /t
      recovery_target = 
      recovery_target_lsn = 
      recovery_target_name = 
      recovery_target_time = 
      recovery_target_xid = 
    130000
      primary_conninfo = dbname=postgres user=repl passfile=/home/pgpass host=10.0.0.2 port=5432 sslmode=require application_name=n1 gssencmode=prefer channel_binding=prefer
    140000
    150000
    160000
      without promote_trigger_file
    170000
      primary_conninfo = dbname=postgres user=repl passfile=/home/pgpass host=10.0.0.2 port=5432 sslmode=require application_name=n1 gssencmode=prefer channel_binding=prefer sslnegotiation=postgres
    180000
    ");
}

/// Which change needs a restart of the standby, by version (compatibility.md, 3.7).
#[test]
fn reload_or_restart_by_version() {
    use Change::{Reload, Restart};
    let expected: [(u32, [Change; 4]); 11] = [
        // primary_conninfo, primary_slot_name, restore_command, archive_cleanup_command
        (90_300, [Restart, Restart, Restart, Restart]),
        (90_600, [Restart, Restart, Restart, Restart]),
        (100_000, [Restart, Restart, Restart, Restart]),
        (110_000, [Restart, Restart, Restart, Restart]),
        (120_000, [Restart, Restart, Restart, Reload]),
        (130_000, [Reload, Reload, Restart, Reload]),
        (140_000, [Reload, Reload, Reload, Reload]),
        (150_000, [Reload, Reload, Reload, Reload]),
        (160_000, [Reload, Reload, Reload, Reload]),
        (170_000, [Reload, Reload, Reload, Reload]),
        (180_000, [Reload, Reload, Reload, Reload]),
    ];
    let names = ["primary_conninfo", "primary_slot_name", "restore_command", "archive_cleanup_command"];
    let before = parameters(&[("primary_conninfo", "host=a"), ("recovery_target_timeline", "latest")]);
    for (version, changes) in expected {
        assert_eq!(change(version, &before, &before), Change::None, "{version}");
        for (name, needed) in names.iter().zip(changes) {
            let mut after = before.clone();
            after.insert((*name).to_owned(), "new".to_owned());
            assert_eq!(change(version, &before, &after), needed, "{version} {name}");
            assert_eq!(change(version, &after, &before), needed, "{version} {name} taken away");
        }
        let mut after = before.clone();
        after.insert("recovery_target_time".to_owned(), "2030-01-01".to_owned());
        assert_eq!(change(version, &before, &after), Restart, "{version}");
    }
    // A default that is written down is no change.
    let default = parameters(&[("primary_conninfo", "host=a"), ("recovery_target_xid", "")]);
    assert_eq!(change(150_000, &before, &default), Change::None);
}

#[test]
fn recovery_of_a_custom_bootstrap_in_every_spelling() {
    let old = parameters(&[
        ("standby_mode", "off"),
        ("recovery_target_time", "2030-01-01"),
        ("pause_at_recovery_target", "false"),
        ("trigger_file", "/t"),
        ("no_such_parameter", "x"),
    ]);
    let new = parameters(&[("recovery_target_lsn", "0/1"), ("recovery_target_action", "promote")]);
    for version in VERSIONS {
        let given_old = given(&old, version);
        assert!(!given_old.standby && !given_old.pauses(), "{version}");
        let names: Vec<&str> = given_old.parameters.keys().map(String::as_str).collect();
        let expected: &[&str] = match version {
            90_300 => &["pause_at_recovery_target", "recovery_target_time", "standby_mode", "trigger_file"],
            90_400..120_000 => &["recovery_target_action", "recovery_target_time", "standby_mode", "trigger_file"],
            120_000..160_000 => &["promote_trigger_file", "recovery_target_action", "recovery_target_time"],
            _ => &["recovery_target_action", "recovery_target_time"],
        };
        assert_eq!(names, expected, "{version}");
        let given_new = given(&new, version);
        assert_eq!(given_new.parameters.contains_key("recovery_target_lsn"), version >= 100_000, "{version}");
        assert!(!given_new.pauses(), "{version}");
    }
    let pauses = |pairs: &[(&str, &str)]| given(&parameters(pairs), 150_000).pauses();
    assert!(pauses(&[("recovery_target_name", "x")]), "PostgreSQL's default");
    assert!(pauses(&[("recovery_target", "immediate"), ("recovery_target_action", "pause")]));
    assert!(!pauses(&[("recovery_target", "immediate"), ("recovery_target_action", "shutdown")]));
    assert!(!pauses(&[("restore_command", "x")]), "recovery to the end of the archive");
    assert!(pauses(&[("standby_mode", "on"), ("primary_conninfo", "host=a")]));
}
