use serde_json::json;

use super::*;
use crate::check;

fn modern(old: Value) -> (Value, Vec<String>) {
    let mut tree = old.as_object().expect("an object").clone();
    let notes = modernise(&mut tree);
    (tree.into(), notes)
}

/// All that the founding document's settings say, in one file.
fn whole() -> Value {
    json!({
        "ttl": 30, "loop_wait": 10, "scope": "batman",
        "restapi": {"listen": "127.0.0.1:8008", "connect_address": "127.0.0.1:8008", "auth": "user:pa:ss"},
        "etcd": {"scope": "batman", "ttl": 31, "host": "127.0.0.1:4001"},
        "tags": {"nofailover": false},
        "postgresql": {
            "name": "postgresql0", "scope": "batman", "listen": "127.0.0.1:5432", "data_dir": "data/postgresql0",
            "maximum_lag_on_failover": 1048576, "use_slots": true, "pgpass": "/tmp/pgpass0",
            "initdb": [{"encoding": "UTF8"}, "data-checksums"],
            "pg_rewind": {"username": "postgres", "password": "zalando"},
            "pg_hba": ["host all all 0.0.0.0/0 md5", "hostssl all all 0.0.0.0/0 md5"],
            "replication": {"username": "replicator", "password": "rep-pass", "network": "127.0.0.1/32"},
            "superuser": {"password": "zalando"},
            "admin": {"username": "admin", "password": "admin"},
            "create_replica_method": ["basebackup"],
            "callbacks": {"on_start": "/bin/true"},
            "recovery_conf": {"restore_command": "cp ../wal_archive/%f %p"},
            "parameters": {"archive_mode": "on", "wal_level": "hot_standby", "max_wal_senders": 5, "ssl.x": "y"},
        },
    })
}

#[test]
fn a_file_of_the_old_layout_becomes_one_of_todays() {
    let (tree, notes) = modern(whole());
    let expected = json!({
        "scope": "batman", "name": "postgresql0",
        "restapi": {
            "listen": "127.0.0.1:8008", "connect_address": "127.0.0.1:8008",
            "authentication": {"username": "user", "password": "pa:ss"},
        },
        "etcd": {"host": "127.0.0.1:4001"},
        "tags": {"nofailover": false},
        "bootstrap": {
            "dcs": {
                "ttl": 31, "loop_wait": 10, "maximum_lag_on_failover": 1048576,
                "postgresql": {"use_slots": true, "parameters": {"wal_level": "hot_standby", "max_wal_senders": 5}},
            },
            "initdb": [{"encoding": "UTF8"}, "data-checksums"],
            "admin": {"username": "admin", "password": "admin"},
            "pg_hba": ["host replication replicator 127.0.0.1/32 md5", "host all all 0.0.0.0/0 md5"],
        },
        "postgresql": {
            "listen": "127.0.0.1:5432", "data_dir": "data/postgresql0", "pgpass": "/tmp/pgpass0",
            "create_replica_method": ["basebackup"], "use_pg_rewind": true,
            "callbacks": {"on_start": "/bin/true"},
            "recovery_conf": {"restore_command": "cp ../wal_archive/%f %p"},
            "authentication": {
                "replication": {"username": "replicator", "password": "rep-pass"},
                "superuser": {"password": "zalando"},
            },
            "parameters": {"archive_mode": "on", "ssl.x": "y"},
        },
    });
    assert_eq!(tree, expected);
    let object = tree.as_object().expect("an object");
    assert_eq!(check::check(object), check::Findings::default());
    assert_eq!(
        notes,
        [
            "postgresql.name is an older setting: name replaces it",
            "etcd.scope is an older setting: scope replaces it",
            "postgresql.scope is an older setting: scope replaces it",
            "restapi.auth is an older setting: restapi.authentication replaces it",
            "etcd.ttl is an older setting: bootstrap.dcs.ttl replaces it",
            "ttl is an older setting and is ignored: bootstrap.dcs.ttl is set",
            "loop_wait is an older setting: bootstrap.dcs.loop_wait replaces it",
            "postgresql.maximum_lag_on_failover is an older setting: bootstrap.dcs.maximum_lag_on_failover replaces it",
            "postgresql.use_slots is an older setting: bootstrap.dcs.postgresql.use_slots replaces it",
            "postgresql.initdb is an older setting: bootstrap.initdb replaces it",
            "postgresql.admin is an older setting: bootstrap.admin replaces it",
            "postgresql.replication.network is an older setting: a line of bootstrap.pg_hba replaces it",
            "postgresql.pg_hba is an older setting: bootstrap.pg_hba replaces it",
            "postgresql.parameters.wal_level is an older setting: bootstrap.dcs.postgresql.parameters.wal_level replaces it",
            "postgresql.parameters.max_wal_senders is an older setting: bootstrap.dcs.postgresql.parameters.max_wal_senders \
             replaces it",
            "postgresql.callbacks are told the role primary where release 0.75 said master",
            "postgresql.replication is an older setting: postgresql.authentication.replication replaces it",
            "postgresql.superuser is an older setting: postgresql.authentication.superuser replaces it",
            "postgresql.pg_rewind is an older setting: postgresql.use_pg_rewind replaces it",
        ]
    );
}

#[test]
fn exhibitor_inside_zookeeper_replaces_it() {
    let mut old = whole();
    let tree = old.as_object_mut().expect("an object");
    tree.remove("etcd");
    tree.remove("ttl");
    tree.insert(
        "zookeeper".to_owned(),
        json!({
            "scope": "batman", "session_timeout": 25, "reconnect_timeout": 8, "hosts": ["a:2181"],
            "exhibitor": {"poll_interval": 300, "port": 8181, "hosts": ["h1", "h2"]},
        }),
    );
    let (tree, _) = modern(old);
    assert_eq!(tree["exhibitor"], json!({"poll_interval": 300, "port": 8181, "hosts": ["h1", "h2"]}));
    assert_eq!(tree.get("zookeeper"), None);
    assert_eq!((&tree["bootstrap"]["dcs"]["ttl"], &tree["bootstrap"]["dcs"]["retry_timeout"]), (&json!(25), &json!(8)));
}

#[test]
fn parameters_under_recovery_conf_are_parameters() {
    let (tree, _) = modern(json!({"postgresql": {
        "replication": {"username": "r"}, "recovery_conf": {"a": "b", "parameters": {"work_mem": "1MB"}}}}));
    assert_eq!(tree["postgresql"]["parameters"], json!({"work_mem": "1MB"}));
    assert_eq!(tree["postgresql"]["recovery_conf"], json!({"a": "b"}));
}

#[test]
fn single_older_keys_do_not_make_a_cluster() {
    let (tree, notes) = modern(json!({
        "ttl": 40, "name": "n",
        "postgresql": {"name": "other", "use_slots": false, "replication": {"username": "r", "network": "::/0"}},
        "bootstrap": {"dcs": {"ttl": 30}},
    }));
    let expected = json!({
        "name": "n", "bootstrap": {"dcs": {"ttl": 30}},
        "postgresql": {"authentication": {"replication": {"username": "r"}}, "use_pg_rewind": false},
    });
    assert_eq!(tree, expected);
    assert_eq!(
        notes,
        [
            "postgresql.name is an older setting and is ignored: name is set",
            "ttl has no effect here: bootstrap.dcs.ttl holds it for a new cluster, patronictl edit-config changes it",
            "postgresql.use_slots has no effect here: bootstrap.dcs.postgresql.use_slots holds it for a new cluster, \
             patronictl edit-config changes it",
            "postgresql.replication.network has no effect: write a line of postgresql.pg_hba",
            "postgresql.replication is an older setting: postgresql.authentication.replication replaces it",
        ]
    );
}

#[test]
fn todays_layout_is_left_alone() {
    let today = json!({
        "scope": "s", "name": "n", "etcd3": {"host": "h"}, "restapi": {"auth": 5},
        "postgresql": {"authentication": {"replication": {"username": "r"}}, "pg_hba": ["a"], "parameters": {"port": 5}},
    });
    assert_eq!(modern(today.clone()), (today, vec![]));
}

#[test]
fn nonsense_in_old_places_is_left_to_the_checks() {
    for old in
        [json!({"postgresql": 5, "etcd": [1], "zookeeper": {"exhibitor": "x"}}), json!({"restapi": {"auth": "x"}})]
    {
        let (tree, _) = modern(old);
        assert!(tree.is_object());
    }
}
