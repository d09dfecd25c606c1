//! Whatever files, the environment, the store and PostgreSQL's files say: no panic, and no secret in what is shown.

use config::{LocalConfig, adopt, check, effective, env, schema, yaml};
use model::units::{Base, int_of, parse_bool, parse_int};
use model::{HostPort, Lsn, Role, Settings};
use proptest::prelude::*;
use serde_json::{Map, Value};

const SECRET: &str = "s3cr3t-value";

/// Fragments of configurations in both layouts, for text that is nearly right.
#[rustfmt::skip]
const FRAGMENTS: &[&str] = &[
    "postgresql:", "  replication:", "    username: r", "restapi: {auth: 'a:b'}", "zookeeper:", "  exhibitor: {hosts: [a]}",
    "bootstrap:", "  dcs:", "    ttl: ", "&a 30", "*a", "<<: *a", "- ", "{", "}", "[", "]", "|", ">", "'", "\"", "null", "~",
    "0x1F", "1_0:59", "!!int ", "? ", ": ", "\n", "  ", "\t", "#", "---\n", "...", "%YAML 1.1\n", "tags: {clonefrom: yes}",
    "log: {format: '%(message)s'}", "\u{feff}", "\u{85}", "é",
];

/// Texts that look like other types, and texts at their edges.
#[rustfmt::skip]
const TEXTS: &[&str] = &[
    "", "on", "off", "0", "-1", "1MB", "5min", "0x7fffffffffffffff", "9223372036854775807s", "1e400", "a:b", "host:5432",
    "[::1]:1", "*:0", "%(message)", "quorum", "é", "a.b", "..", "user:pass",
];

/// Places of the old layout, and sections where a mapping belongs.
#[rustfmt::skip]
const PLACES: &[&str] = &[
    "ttl", "postgresql.name", "postgresql.replication", "postgresql.replication.network", "postgresql.superuser",
    "postgresql.admin", "postgresql.initdb", "postgresql.pg_rewind", "postgresql.recovery_conf.parameters",
    "zookeeper.exhibitor", "zookeeper.session_timeout", "etcd.scope", "restapi.auth", "restapi", "postgresql", "log",
    "bootstrap", "bootstrap.dcs", "bootstrap.dcs.postgresql.parameters.max_connections", "unknown.key",
];

fn yaml_text() -> impl Strategy<Value = String> {
    let fragment = prop_oneof![4 => prop::sample::select(FRAGMENTS).prop_map(str::to_owned), 1 => "\\PC{0,6}"];
    prop::collection::vec(fragment, 0..24).prop_map(|parts| parts.concat())
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(TEXTS).prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[a-z.]{0,6}", inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// A tree with some known settings, old and new, at any value.
fn any_tree() -> impl Strategy<Value = Map<String, Value>> {
    let mut paths: Vec<String> = schema::SETTINGS.iter().flat_map(schema::Setting::paths).collect();
    paths.extend(PLACES.iter().map(|place| (*place).to_owned()));
    prop::collection::vec((prop::sample::select(paths), any_value()), 0..12).prop_map(|settings| {
        let mut tree = Map::new();
        for (path, value) in settings {
            put(&mut tree, &path, value);
        }
        tree
    })
}

/// JSON with keys that members and the state of synchronous replication have, at any value; and text that is none.
fn store_text() -> impl Strategy<Value = String> {
    #[rustfmt::skip]
    const KEYS: &[&str] = &[
        "conn_url", "api_url", "state", "role", "version", "xlog_location", "receive_lsn", "replay_lsn", "timeline", "tags",
        "pending_restart", "pending_restart_reason", "scheduled_restart", "pause", "checkpoint_after_promote",
        "leader", "sync_standby", "quorum", "member", "candidate", "scheduled_at", "optime", "slots", "failsafe", "x",
    ];
    let object = prop::collection::vec((prop::sample::select(KEYS), any_value()), 0..8).prop_map(|pairs| {
        Value::Object(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()).to_string()
    });
    prop_oneof![6 => object, 1 => any_value().prop_map(|value| value.to_string()), 1 => "(postgres://)?\\PC{0,30}"]
}

fn put(tree: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            tree.insert(path.to_owned(), value);
        }
        Some((section, rest)) => {
            let slot = tree.entry(section).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(inner) = slot {
                put(inner, rest, value);
            }
        }
    }
}

/// Asks a configuration for everything there is.
fn use_everything(config: &LocalConfig, dynamic: &Map<String, Value>) {
    let _ = (config.warnings(), config.redacted(), format!("{config:?}"));
    let _ = (config.name(), config.scope(), config.namespace(), config.store(), config.restapi(), config.ctl());
    let _ =
        (config.log(), config.watchdog(), config.sentinel_mode(), config.bootstrap(), config.citus(), config.tags());
    let _ = (config.data_dir(), config.callbacks(dynamic), config.check_startup());
    let (section, _) = config.resolve_postgresql(dynamic);
    for role in [Role::Primary, Role::Replica, Role::StandbyLeader, Role::Uninitialized] {
        let _ = effective::for_role(&section, role);
    }
    let _ = Settings::resolve(&config.merged_dynamic(dynamic));
    let _ = check::missing(&config.tree, true);
}

/// The lease outlasts a cycle with its retries, whatever was asked for.
fn assert_times(dynamic: &Map<String, Value>) -> Result<(), TestCaseError> {
    let (settings, _) = Settings::resolve(dynamic);
    prop_assert!(settings.loop_wait + 2 * settings.retry_timeout <= settings.ttl, "{settings:?}");
    prop_assert!(settings.ttl.as_secs() >= 20 && settings.loop_wait.as_secs() >= 1, "{settings:?}");
    prop_assert!(settings.retry_timeout.as_secs() >= 3, "{settings:?}");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn yaml_text_never_panics(text in yaml_text()) {
        if let Ok(Value::Object(tree)) = yaml::parse(&text) {
            use_everything(&LocalConfig::from_tree(tree), &Map::new());
        }
    }

    #[test]
    fn trees_never_panic(tree in any_tree(), dynamic in any_tree()) {
        let dynamic = dynamic.get("bootstrap").and_then(|bootstrap| bootstrap.get("dcs")).and_then(Value::as_object);
        use_everything(&LocalConfig::from_tree(tree), &dynamic.cloned().unwrap_or_default());
    }

    #[test]
    fn dynamic_configuration_never_panics(dynamic in any_tree(), flat in any_value()) {
        let _ = check::check_dynamic(&dynamic);
        assert_times(&dynamic)?;
        if let Value::Object(dynamic) = flat {
            assert_times(&dynamic)?;
            use_everything(&LocalConfig::from_tree(Map::new()), &dynamic);
        }
    }

    #[test]
    fn the_three_times_are_always_repaired(ttl in any_value(), loop_wait in any_value(), retry_timeout in any_value()) {
        let times = [("ttl", ttl), ("loop_wait", loop_wait), ("retry_timeout", retry_timeout)];
        assert_times(&times.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())?;
    }

    #[test]
    fn the_environment_never_panics(
        variables in prop::collection::vec(
            (prop::sample::select(schema::variables().map(|(name, _, _)| name).collect::<Vec<_>>()), yaml_text()), 0..8),
    ) {
        let (tree, _) = env::settings(variables);
        use_everything(&LocalConfig::from_tree(tree), &Map::new());
    }

    #[test]
    fn secrets_are_never_shown(
        path in prop::sample::select(
            schema::SETTINGS.iter().filter(|setting| setting.secret).flat_map(schema::Setting::paths).collect::<Vec<_>>()),
        shape in 0..3,
    ) {
        let value = match shape {
            0 => Value::from(SECRET),
            1 => serde_json::json!([SECRET]),
            _ => serde_json::json!({ "a": SECRET }),
        };
        let mut tree = Map::new();
        put(&mut tree, &path, value);
        let config = LocalConfig::from_tree(tree);
        let shown = format!(
            "{config:?} {:?} {:?} {:?} {:?} {:?}",
            config.warnings(), config.redacted(), config.restapi(), config.ctl(), config.check_startup()
        );
        prop_assert!(!shown.contains(SECRET), "{path}: {shown}");
    }

    #[test]
    fn numbers_with_units_never_panic(
        number in "[-+]?(0x)?[0-9a-fA-F_.eE]{0,24} ?",
        unit in "(B|kB|MB|GB|TB|us|ms|s|min|h|d|x)?",
    ) {
        let text = format!("{number}{unit}");
        let _ = (parse_bool(&text), yaml::plain_scalar(&text));
        for base in [Base::Plain, Base::Bytes(1), Base::Bytes(1 << 20), Base::Micros(1), Base::Micros(1_000_000)] {
            let _ = (parse_int(&text, base), int_of(&Value::from(text.as_str()), base));
        }
    }

    #[test]
    fn connection_strings_never_panic(text in "(postgres(ql)?://)?[a-z0-9=' \\\\%@:/?&,\\[\\]\u{e9}]{0,40}") {
        let _ = (HostPort::parse(&text, 5432), HostPort::from_url(&text));
        if let Ok(keywords) = model::libpq::parse(&text) {
            let _ = adopt::text(&adopt::Server::default(), &keywords);
        }
    }

    #[test]
    fn keys_of_the_store_never_panic(text in store_text(), other in store_text()) {
        use model::wire::{decode_failover, decode_member, decode_status, decode_sync, encode_member};
        let member = decode_member("n", &text);
        // What is understood is written back so that it is understood the same way; in free values a fraction may
        // change in its last digit.
        let understood = |member: model::Member| model::Member {
            tags: Default::default(), scheduled_restart: None, extra: Default::default(), ..member
        };
        prop_assert_eq!(understood(decode_member("n", &encode_member(&member))), understood(member.clone()));
        let _ = (member.pg_address(), member.role());
        let _ = (decode_sync(&text), decode_failover(&text), decode_status(Some(&text), Some(&other)));
    }

    #[test]
    fn positions_and_history_files_never_panic(text in "[0-9A-Fa-fx/\t .#\n-]{0,60}", any in "\\PC{0,40}") {
        for text in [text, any] {
            let _ = text.parse::<Lsn>();
            let _ = model::lsn::parse_history_file(&text);
            let _ = model::wire::decode_history(&text);
        }
    }
}
