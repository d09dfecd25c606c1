use super::*;
use serde_json::json;

fn config(tree: Value) -> LocalConfig {
    LocalConfig::from_tree(tree.as_object().expect("an object").clone())
}

#[test]
fn names_have_older_homes() {
    let old = config(json!({"postgresql": {"name": "n"}, "etcd3": {"scope": "s"}}));
    assert_eq!((old.name().ok(), old.scope().ok()), (Some("n".to_owned()), Some("s".to_owned())));
    let both = config(json!({"name": "a", "scope": 5, "postgresql": {"name": "n"}, "etcd3": {"scope": "s"}}));
    assert_eq!((both.name().ok(), both.scope().ok()), (Some("a".to_owned()), Some("5".to_owned())));
    assert_eq!(config(json!({})).namespace().ok().as_deref(), Some("/service"));
}

#[test]
fn restapi_has_defaults_and_a_url() {
    let api = config(json!({"restapi": {"listen": "*:8009"}})).restapi().expect("valid");
    assert_eq!(api.url(), "http://*:8009/patroni");
    assert_eq!(
        (api.verify_client, api.request_queue_size, api.server_tokens),
        (VerifyClient::None, 5, ServerTokens::Original)
    );
    let tree = json!({"restapi": {
        "listen": "0.0.0.0", "connect_address": "db1", "certfile": "/c", "verify_client": "Required",
        "authentication": {"username": "u", "password": 12345}, "allowlist": ["10.0.0.0/8"],
        "http_extra_headers": {"X-Number": 5}, "allowlist_include_members": "on",
    }});
    let api = config(tree).restapi().expect("valid");
    assert_eq!(api.url(), "https://db1:8008/patroni");
    assert_eq!(api.verify_client, VerifyClient::Required);
    assert_eq!(api.authentication.as_ref().map(|auth| auth.password.reveal()), Some("12345"));
    assert_eq!(api.http_extra_headers, [("X-Number".to_owned(), "5".to_owned())]);
    assert!(api.allowlist_include_members);
    assert!(!format!("{api:?}").contains("12345"));
}

#[test]
fn ctl_is_completed_from_restapi() {
    let tree = json!({"restapi": {"cafile": "/ca", "authentication": {"username": "u", "password": "p"}}});
    let ctl = config(tree).ctl().expect("valid");
    assert_eq!(ctl.cacert, Some(PathBuf::from("/ca")));
    assert_eq!(ctl.authentication.map(|auth| auth.username), Some("u".to_owned()));
    let tree = json!({
        "ctl": {"insecure": true, "authentication": {"username": "c", "password": "p"}},
        "restapi": {"authentication": {"username": "u", "password": "p"}},
    });
    let ctl = config(tree).ctl().expect("valid");
    assert!(ctl.insecure);
    assert_eq!(ctl.authentication.map(|auth| auth.username), Some("c".to_owned()));
}

#[test]
fn guards_read_yaml_booleans_and_words() {
    for (mode, watchdog, sentinel) in [
        (json!(null), GuardMode::Automatic, Some(GuardMode::Automatic)),
        (json!(false), GuardMode::Off, Some(GuardMode::Off)),
        (json!("disabled"), GuardMode::Off, Some(GuardMode::Off)),
        (json!("auto"), GuardMode::Automatic, Some(GuardMode::Automatic)),
        (json!("require"), GuardMode::Required, Some(GuardMode::Required)),
        (json!("perhaps"), GuardMode::Off, None),
    ] {
        let config = config(json!({"watchdog": {"mode": mode}, "sentinel": {"mode": mode}}));
        assert_eq!(config.watchdog().expect("valid").mode, watchdog, "{mode}");
        assert_eq!(config.sentinel_mode().ok(), sentinel, "{mode}");
    }
    let watchdog = config(json!({"watchdog": {"safety_margin": -1}})).watchdog().expect("valid");
    assert_eq!((watchdog.safety_margin_s, watchdog.device), (None, PathBuf::from("/dev/watchdog")));
}

#[test]
fn log_has_defaults() {
    let log =
        config(json!({"log": {"loggers": {"patroni.ha": "debug", "x": "odd"}, "mode": 0o640}})).log().expect("valid");
    assert_eq!((log.level, log.json, log.file_num, log.file_size_bytes), (LogLevel::Info, false, 4, 25_000_000));
    assert_eq!(log.format, json!("%(asctime)s %(levelname)s: %(message)s"));
    assert_eq!((log.loggers, log.mode), (vec![("patroni.ha".to_owned(), LogLevel::Debug)], Some(0o640)));
}

#[test]
fn the_store_is_the_first_section_that_upstream_would_take() {
    let (name, section) = config(json!({"etcd3": {"host": "h"}})).store().expect("supported");
    assert_eq!((name, Value::Object(section)), ("etcd3", json!({"host": "h"})));
    let error =
        config(json!({"etcd3": {"host": "h"}, "consul": {"host": "h"}})).store().expect_err("consul comes first");
    assert!(error.to_string().starts_with("section consul "), "{error}");
}

#[test]
fn a_new_cluster_begins_with_bootstrap_dcs() {
    let plain = config(json!({"bootstrap": {"dcs": {"ttl": 25}}}));
    let map = |value: Value| value.as_object().cloned();
    assert_eq!(Value::Object(plain.dynamic_at_start(None, None)), json!({"ttl": 25}));
    assert_eq!(Value::Object(plain.dynamic_at_start(map(json!({})), map(json!({"ttl": 26})))), json!({"ttl": 26}));
    let stored = plain.dynamic_at_start(map(json!({"ttl": 27})), map(json!({"ttl": 26})));
    assert_eq!(Value::Object(stored), json!({"ttl": 27}));
    let citus = |mode: Value| config(json!({"citus": {"group": 0, "database": "d"}, "bootstrap": {"dcs": mode}}));
    assert_eq!(citus(json!({})).bootstrap_dcs()["synchronous_mode"], json!("quorum"));
    assert_eq!(citus(json!({"synchronous_mode": false})).bootstrap_dcs()["synchronous_mode"], json!(false));
    assert_eq!(config(json!({})).bootstrap().expect("valid"), None);
}

#[test]
fn secrets_are_not_shown() {
    let config = config(json!({
        "restapi": {"authentication": {"username": "u", "password": "one"}},
        "etcd3": {"password": "two"},
        "zookeeper": {"auth_data": {"digest": "three"}},
        "extra": {"api_token": "four"},
    }));
    let shown = format!("{config:?} {}", Value::Object(config.redacted()));
    for secret in ["one", "two", "three", "four"] {
        assert!(!shown.contains(&format!("\"{secret}\"")), "{shown}");
    }
    assert!(shown.contains("\"u\""), "{shown}");
}

#[test]
fn a_file_that_is_gone_is_no_reload() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("a.yml");
    std::fs::write(&path, "name: a\n").expect("written");
    let first = crate::load_with(Some(&path), vec![]).expect("valid");
    std::fs::write(&path, "name: b\n").expect("written");
    assert_eq!(first.reload().expect("valid").get("name"), Some(&json!("b")));
    std::fs::remove_file(&path).expect("removed");
    let error = first.reload().expect_err("gone").to_string();
    assert_eq!(error, format!("cannot read configuration {}: No such file or directory (os error 2)", path.display()));
}
