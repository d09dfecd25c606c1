//! The table of parameters against a real server, and a start in spite of parameters that cannot be.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use harness::{PATIENCE, mode, run};
use model::Role;
use postgres::catalogue::{Verdict, verdict};
use postgres::{StartAs, StopMode, TaskHandle};
use serde_json::json;

const VERSION: u32 = 150_000;
/// Depends on how the server was built.
const BUILD: [&str; 1] = ["debug_discard_caches"];

#[test]
fn the_table_says_what_the_server_says() {
    run("the_table_says_what_the_server_says", |cluster| async move {
        let parameters = json!({
            "work_mem": "1kB", "fsync": "maybe", "checkpoint_segments": 3, "no_such_parameter": 1, "datestyle": "German",
            "log_min_duration_statement": "10s", "my.own": "kept", "timezone": "Nowhere/Never", "autovacuum": false,
        });
        let node = cluster.node_with(
            "n1",
            json!({
                "parameters": parameters, "parameters_primary": {"statement_timeout": "7min"},
                "parameters_replica": {"statement_timeout": "9min"},
                "pg_ident": ["m boss postgres"], "custom_conf": cluster.root.path().join("custom.conf"),
            }),
            json!({"initdb": ["allow-group-access", {"locale": "C"}, {"encoding": "UTF8"}]}),
        );
        std::fs::write(cluster.root.path().join("custom.conf"), "lock_timeout = 4242\nwork_mem = 9MB\n").unwrap();
        let task = TaskHandle::detached();
        node.pg.initdb(&task).await.unwrap();
        node.pg.start(StartAs::Primary, PATIENCE, &task).await.unwrap();
        node.pg.post_bootstrap(&task).await.unwrap();

        // What the files say: a session has settings of its own.
        let in_file = "SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_file_settings WHERE applied AND \
                       name IN ('work_mem', 'lock_timeout', 'statement_timeout', 'my.own', 'autovacuum', 'fsync', 'timezone')";
        let expected = "autovacuum=off lock_timeout=4242 my.own=kept statement_timeout=7min work_mem=64";
        assert_eq!(node.sql(in_file).await.unwrap(), expected);
        for file in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf", "postgresql.conf.backup", "pg_hba.conf.backup"]
        {
            assert_eq!(mode(&node.data_dir.join(file)), 0o640, "{file}");
        }
        assert!(!node.data_dir.join("postgresql.base.conf").exists(), "custom_conf takes its place");
        assert_eq!(node.sql("SELECT count(*)::text FROM pg_ident_file_mappings").await.unwrap(), "1");

        // Another role: other parameters, and they come into force by a reload.
        assert_eq!(node.pg.apply_config(node.config(), Role::Replica).await, Ok(true));
        let file = std::fs::read_to_string(node.data_dir.join("postgresql.conf")).unwrap();
        assert!(file.contains("statement_timeout = '9min'"), "{file}");

        compare(&node.sql(ROWS).await.unwrap());

        // A standby may not have less than its primary had: it starts with that, and the configured value waits.
        node.pg.stop(StopMode::Fast, &task).await.unwrap();
        let less = changed(&node, json!({"parameters": {"max_connections": 30, "max_worker_processes": 4}}));
        node.pg.apply_config(less, Role::Replica).await.unwrap();
        node.pg.start(StartAs::Standby(None), PATIENCE, &task).await.unwrap();
        let pending = node.pg.observe().await.pending_restart;
        let pending: Vec<String> =
            pending.iter().map(|(name, change)| format!("{name} {}->{}", change.old_value, change.new_value)).collect();
        assert_eq!(pending, ["max_connections 100->30", "max_worker_processes 8->4"]);
    });
}

/// The node's configuration with a change.
fn changed(node: &harness::Node, change: serde_json::Value) -> postgres::PgConfig {
    let mut section = node.section.clone();
    harness::merge(&mut section, change);
    harness::parse(&section, &node.bootstrap, &node.name)
}

const ROWS: &str = "SELECT json_agg(row_to_json(s))::text FROM (SELECT name, vartype, coalesce(unit, '') AS unit, min_val, \
                    max_val, enumvals, context FROM pg_settings) s";

fn compare(rows: &str) {
    let rows: Vec<serde_json::Value> = serde_json::from_str(rows).unwrap();
    assert!(rows.len() > 300, "{} rows", rows.len());
    for row in rows.iter().filter(|row| !BUILD.contains(&row["name"].as_str().unwrap())) {
        let text = |key: &str| row[key].as_str().unwrap_or_default();
        let (name, unit) = (text("name"), text("unit"));
        if name.contains('.') {
            continue;
        }
        let check = |value: &str| verdict(name, value, VERSION);
        let refused = |value: &str| assert!(matches!(check(value), Verdict::LeaveOut(_)), "{name} = {value}");
        let used = |value: &str| assert_eq!(check(value), Verdict::Use, "{name} = {value}");
        let bound = |value: String, expected: &str| match check(&value) {
            Verdict::Replace(bound, _) => assert_eq!(bound, expected, "{name} = {value}"),
            other => panic!("{name} = {value}: {other:?}"),
        };
        match (text("context"), text("vartype")) {
            ("internal", _) => refused("1"),
            (_, "bool") => {
                ["on", "off", "true", "0"].iter().for_each(|value| used(value));
                ["2", "maybe", "", "always"].iter().for_each(|value| refused(value));
            }
            (_, "integer") => {
                let (least, most) = (text("min_val"), text("max_val"));
                [least, most].iter().for_each(|value| used(value));
                bound((least.parse::<i64>().unwrap() - 1).to_string(), least);
                bound((most.parse::<i64>().unwrap() + 1).to_string(), most);
                let (other, own) = units(unit);
                refused(&format!("{least}{other}"));
                assert_eq!(
                    matches!(check(&format!("1{own}")), Verdict::LeaveOut(_)),
                    unit.is_empty(),
                    "{name}: {unit}"
                );
            }
            (_, "real") => {
                let (least, most): (f64, f64) = (text("min_val").parse().unwrap(), text("max_val").parse().unwrap());
                used(&least.to_string());
                used(&(least + 0.25).to_string());
                bound((least - 1.0).to_string(), &least.to_string());
                if most < 1e300 {
                    used(&most.to_string());
                    bound((most * 2.0).to_string(), &most.to_string());
                }
                assert_eq!(matches!(check("1ms"), Verdict::LeaveOut(_)), unit.is_empty(), "{name}: {unit}");
            }
            (_, "enum") => {
                row["enumvals"].as_array().unwrap().iter().for_each(|value| used(value.as_str().unwrap()));
                refused("no such value");
            }
            (_, "string") => used("no such value"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

/// A unit of the other family, and the smallest of the own one.
fn units(unit: &str) -> (&'static str, &'static str) {
    match unit {
        "ms" | "s" | "min" => ("kB", "d"),
        _ => ("ms", "TB"),
    }
}
