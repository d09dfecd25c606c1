use serde_json::json;

use super::*;

fn parse(section: Value, bootstrap: Value) -> Result<PgConfig, String> {
    let object = |value: Value| value.as_object().cloned().unwrap_or_default();
    PgConfig::from_section(&object(section), &object(bootstrap), "node1", "demo")
}

fn minimal() -> Value {
    json!({
        "listen": "127.0.0.1:5433", "data_dir": "/data/pg",
        "authentication": {"replication": {"username": "repl", "password": "s3cret"}},
    })
}

fn with(key: &str, value: Value) -> Value {
    let mut section = minimal();
    section[key] = value;
    section
}

#[test]
fn defaults() {
    let config = parse(minimal(), json!({})).expect("valid");
    assert_eq!(config.config_dir, PathBuf::from("/data/pg"));
    assert_eq!(config.connect_address.to_string(), "localhost:5433");
    assert_eq!(config.database, "postgres");
    assert_eq!(config.replica_methods[0].name, "basebackup");
    assert_eq!(config.pg_ctl_timeout, Duration::from_secs(60));
}

#[test]
fn errors_name_path_value_and_expectation() {
    for (section, expected) in [
        (json!({}), "postgresql.listen is missing"),
        (with("listen", json!("a:b")), "postgresql.listen \"a:b\": expected host"),
        (with("data_dir", json!("/")), "postgresql.data_dir \"/\""),
        (with("data_dir", json!(["x"])), "postgresql.data_dir [\"x\"]: expected text"),
        (with("use_unix_socket", json!("perhaps")), "postgresql.use_unix_socket \"perhaps\": expected true or false"),
        (with("pg_ctl_timeout", json!(-1)), "postgresql.pg_ctl_timeout -1: expected a number of seconds"),
        (with("authentication", json!({})), "postgresql.authentication.replication.username is missing"),
        (with("pre_promote", json!("a 'b")), "postgresql.pre_promote \"a 'b\": expected a command"),
        (with("pg_hba", json!(5)), "postgresql.pg_hba 5: expected a list of lines"),
    ] {
        let error = parse(section, json!({})).expect_err(expected);
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn listening_on_several_hosts() {
    let config = parse(with("listen", json!("10.0.0.1,127.0.0.1,[::1]:5434")), json!({})).expect("valid");
    assert_eq!((config.listen.hosts.join(" ").as_str(), config.listen.port), ("10.0.0.1 127.0.0.1 ::1", 5434));
    let config = parse(with("listen", json!("10.0.0.1")), json!({})).expect("valid");
    assert_eq!(config.local_address().to_string(), "10.0.0.1:5432");
}

#[test]
fn passwords_do_not_show() {
    let config = parse(minimal(), json!({})).expect("valid");
    assert!(!format!("{config:?}").contains("s3cret"));
    assert_eq!(config.replication.password.as_ref().map(Secret::expose), Some("s3cret"));
}

#[test]
fn options_in_all_forms() {
    let forbidden = options::INITDB_FORBIDDEN;
    let list = json!(["data-checksums", {"encoding": "UTF8"}, {"locale": "'C.UTF-8'"}, {"pwfile": "x"}, 7]);
    let (options, problems) = parse_options(Some(&list), "bootstrap.initdb", forbidden);
    assert_eq!(options, ["--data-checksums", "--encoding=UTF8", "--locale=C.UTF-8"]);
    assert_eq!(problems.len(), 2, "{problems:?}");
    let map = json!({"encoding": "UTF8", "no-locale": true, "text-search-config": "", "debug": false});
    assert_eq!(parse_options(Some(&map), "x", forbidden).0, ["--encoding=UTF8", "--no-locale"]);
    let compress = json!([{"compress": "5"}, {"compress": "server-gzip"}]);
    assert_eq!(parse_options(Some(&compress), "x", options::BASEBACKUP_FORBIDDEN).0, ["--compress=server-gzip"]);
}

#[test]
fn role_variants() {
    let mut section = with("parameters", json!({"work_mem": "4MB", "restore_command": "cp", "fsync": true}));
    section["parameters_replica"] = json!({"work_mem": "8MB"});
    section["pg_hba"] = json!(["local all all peer"]);
    section["pg_hba_primary"] = json!(["host all all all scram-sha-256"]);
    let config = parse(section, json!({})).expect("valid");
    assert_eq!(config.parameters.for_role(Role::Replica)["work_mem"], "8MB");
    assert_eq!(config.parameters.for_role(Role::Primary)["fsync"], "on");
    assert_eq!(config.recovery_conf["restore_command"], "cp");
    assert_eq!(config.pg_hba.for_role(Role::Demoted), Some(&["local all all peer".to_owned()][..]));
    assert_eq!(config.pg_hba.for_role(Role::Promoted), Some(&["host all all all scram-sha-256".to_owned()][..]));
}

#[test]
fn older_spelling_of_credentials() {
    let section = json!({
        "listen": "127.0.0.1:5433", "data_dir": "/data/pg",
        "replication": {"username": "r", "password": "p"}, "pg_rewind": {"username": "w", "password": "x"},
    });
    let config = parse(section, json!({})).expect("valid");
    assert_eq!(config.replication.username.as_deref(), Some("r"));
    assert_eq!(config.superuser.username.as_deref(), Some("w"));
}
