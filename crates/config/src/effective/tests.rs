use super::*;
use serde_json::json;

fn map(value: Value) -> Map<String, Value> {
    value.as_object().expect("an object").clone()
}

fn local(postgresql: Value) -> LocalConfig {
    LocalConfig::from_tree(map(json!({"name": "n", "scope": "s", "postgresql": postgresql})))
}

fn resolve(ours: Value, theirs: Value) -> (Value, Vec<String>) {
    let (section, notes) = local(ours).resolve_postgresql(&map(json!({"postgresql": theirs})));
    (section.into(), notes)
}

#[test]
fn local_settings_win_except_where_all_nodes_must_agree() {
    let ours = json!({
        "listen": "*:5432", "data_dir": "/d", "use_slots": false, "use_pg_rewind": true, "pg_hba": ["a"],
        "parameters": {"work_mem": "1MB", "Max_Connections": 7, "log_statement": null},
        "authentication": {"replication": {"username": "r", "password": "p", "network": "x"}},
    });
    let theirs = json!({
        "listen": "no", "data_dir": "no", "authentication": {}, "pgpass": "no", "config_dir": "no",
        "connect_address": "no", "proxy_address": "no", "use_slots": "yes", "pg_hba": ["b"], "pg_ident": ["q"],
        "parameters": {
            "work_mem": "2MB", "maintenance_work_mem": "9MB", "max_connections": "50", "log_statement": "all",
            "wal_keep_segments": 16,
        },
    });
    let expected = json!({
        "use_slots": true, "pg_hba": ["a"], "pg_ident": ["q"], "listen": "*:5432", "data_dir": "/d", "use_pg_rewind": true,
        "authentication": {"replication": {"username": "r", "password": "p"}},
        "parameters": {
            "wal_level": "replica", "hot_standby": "on", "max_connections": 50, "max_wal_senders": 10,
            "max_prepared_transactions": 0, "max_locks_per_transaction": 64, "track_commit_timestamp": "off",
            "max_replication_slots": 10, "max_worker_processes": 8, "wal_log_hints": "on", "work_mem": "1MB",
            "maintenance_work_mem": "9MB", "wal_keep_segments": 16,
        },
        "name": "n", "scope": "s", "retry_timeout": 10,
    });
    assert_eq!(resolve(ours, theirs), (expected, vec![]));
}

#[test]
fn controlled_parameters_are_accepted_or_defaulted() {
    for (name, value, expected) in [
        ("max_connections", json!("0x40"), Some(json!(64))),
        ("max_connections", json!(24), None),
        ("max_wal_senders", json!(2), None),
        ("hot_standby", json!(true), Some(json!("on"))),
        ("hot_standby", json!("off"), None),
        ("wal_level", json!("HOT_STANDBY"), Some(json!("replica"))),
        ("wal_level", json!("logical"), Some(json!("logical"))),
        ("wal_level", json!("minimal"), None),
        ("WAL_LOG_HINTS", json!(false), Some(json!("off"))),
        ("wal_keep_size", json!("1GB"), Some(json!("1GB"))),
        ("wal_keep_size", json!("8MB"), None),
        ("max_worker_processes", json!("many"), None),
        ("port", json!(5), None),
        ("cluster_name", json!("x"), None),
    ] {
        let row = find_controlled(name).expect(name);
        let (section, notes) = resolve(json!({}), json!({"parameters": {name: value}}));
        let default = row.default.map_or(Value::Null, |text| row.accept.normalise(&text.into()).expect("fits"));
        assert_eq!(section["parameters"][row.name], expected.clone().unwrap_or(default), "{name} {value}");
        assert_eq!(notes.is_empty(), expected.is_some(), "{name} {value}: {notes:?}");
    }
    let (_, notes) = resolve(json!({}), json!({"parameters": {"max_wal_senders": 1, "port": 7}}));
    assert_eq!(
        notes,
        [
            "postgresql parameter max_wal_senders=1 failed validation, defaulting to 10",
            "postgresql parameter port=7 failed validation and is ignored",
        ]
    );
}

#[test]
fn older_credentials_are_lifted() {
    let ours = json!({
        "replication": {"username": "r", "password": "p", "network": "127.0.0.1/32"},
        "pg_rewind": {"username": "w", "password": "q"},
    });
    let (section, _) = resolve(ours, json!({"use_pg_rewind": false}));
    let expected = json!({
        "replication": {"username": "r", "password": "p"}, "superuser": {"username": "w", "password": "q"},
    });
    assert_eq!((&section["authentication"], &section["use_pg_rewind"]), (&expected, &json!(true)));
    let (section, _) = resolve(json!({"superuser": {"password": "s"}}), json!({"use_pg_rewind": true}));
    assert_eq!(section["use_pg_rewind"], json!(false));
    let (section, _) = resolve(json!({}), json!({"use_pg_rewind": true}));
    assert_eq!(section["use_pg_rewind"], json!(true));
}

#[test]
fn relative_paths_become_absolute() {
    let (section, _) = resolve(json!({"data_dir": "data/x", "bin_dir": ""}), json!({}));
    let here = std::env::current_dir().expect("a current directory");
    assert_eq!(section["data_dir"], json!(here.join("data/x")));
    assert_eq!(section["bin_dir"], json!(""));
}

#[test]
fn roles_override() {
    let section = map(json!({
        "parameters": {"work_mem": "1MB", "max_connections": 100},
        "parameters_primary": {"WORK_MEM": "5MB", "max_connections": 5, "jit": "off"},
        "pg_hba": ["all"], "pg_hba_replica": ["replica"], "pg_ident_standby_leader": ["leader"],
    }));
    let (primary, notes) = for_role(&section, Role::Promoted);
    assert_eq!(primary["parameters"], json!({"work_mem": "5MB", "max_connections": 100, "jit": "off"}));
    assert_eq!(primary["pg_hba"], json!(["all"]));
    assert_eq!(notes, ["postgresql.parameters_primary.max_connections is ignored: it must be the same in all roles"]);
    assert_eq!(for_role(&section, Role::Demoted).0["pg_hba"], json!(["replica"]));
    assert_eq!(for_role(&section, Role::StandbyLeader).0["pg_ident"], json!(["leader"]));
    assert_eq!(for_role(&section, Role::Uninitialized).0, section);
}

#[test]
fn decisions_see_local_overrides() {
    let merged = local(json!({"use_pg_rewind": true})).merged_dynamic(&map(json!({"ttl": 40, "postgresql": 5})));
    let settings = Settings::resolve(&merged).0;
    assert!(settings.use_pg_rewind && settings.use_slots);
    assert_eq!(settings.ttl.as_secs(), 40);
}

#[test]
fn callbacks_are_merged_like_other_settings() {
    let dynamic = map(json!({"postgresql": {"callbacks": {"on_start": "/x"}}}));
    assert_eq!(local(json!({})).callbacks(&dynamic), BTreeMap::from([("on_start".to_owned(), "/x".to_owned())]));
    let ours = local(json!({"callbacks": {"on_stop": "/y", "on_start": 5}}));
    assert_eq!(ours.callbacks(&dynamic), BTreeMap::from([("on_stop".to_owned(), "/y".to_owned())]));
}
