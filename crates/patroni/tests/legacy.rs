//! A file of the 0.75 layout makes a cluster as it always did; only its store is one of today's.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Etcd, Flavour, Programs, Rest, Running, Sandbox, Sql, free_port, wait_for, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_the_old_layout_makes_a_cluster() -> Result<()> {
    let mut sandbox = Sandbox::new("legacy")?;
    let etcd = Etcd::start(&sandbox).await?;
    let programs = Programs::find()?;
    let home = sandbox.directory("node")?;
    let ours = programs.install(Flavour::Ours, &sandbox, &home)?;
    let (rest, port) = (Rest { port: free_port() }, free_port());
    let old = json!({
        "ttl": 30, "loop_wait": 2, "scope": "batman",
        "restapi": {
            "listen": format!("127.0.0.1:{}", rest.port), "connect_address": format!("127.0.0.1:{}", rest.port),
            "auth": "username:password",
        },
        "etcd3": {"scope": "batman", "ttl": 25, "host": format!("127.0.0.1:{}", etcd.port())},
        "tags": {"nofailover": false},
        "postgresql": {
            "name": "postgresql0", "scope": "batman", "listen": format!("127.0.0.1:{port}"),
            "connect_address": format!("127.0.0.1:{port}"), "data_dir": home.join("data"),
            "bin_dir": programs.postgres_bin, "pgpass": home.join("pgpass"),
            "maximum_lag_on_failover": 1048576, "use_slots": true,
            "initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}, "data-checksums"],
            "pg_hba": ["host all all 127.0.0.1/32 md5", "hostssl all all 0.0.0.0/0 md5"],
            "replication": {"username": "replicator", "password": "rep-pass", "network": "127.0.0.1/32"},
            "superuser": {"username": "postgres", "password": "zalando"},
            "admin": {"username": "admin", "password": "admin-pass"},
            "recovery_conf": {"restore_command": "cp ../wal_archive/%f %p"},
            "parameters": {
                "unix_socket_directories": home, "shared_buffers": "16MB", "wal_level": "hot_standby",
                "max_connections": 77, "hot_standby": "on",
            },
        },
    });
    let file = home.join("postgres0.yml");
    sandbox.write(&file, &old.to_string())?;
    let mut command = ours.command("patroni")?;
    let mut agent = Running::start(command.arg(&file), sandbox.owner(), &home, &home.join("log"))?;
    let primary = wait_for("the node to lead", LIMIT, || async move {
        let answer = rest.get("/primary").await?;
        ensure!(answer.code == 200, "{}: {}", answer.code, answer.text);
        answer.json()
    });
    primary.await.with_context(|| agent.output())?;

    let shared = wait_for("the dynamic configuration", LIMIT, || async {
        let keys = etcd.keys("/service/batman/config")?;
        let text = keys.values().next().context("the key is absent")?;
        Ok(serde_json::from_str::<Value>(text)?)
    });
    let expected = json!({
        "ttl": 25, "loop_wait": 2, "maximum_lag_on_failover": 1048576,
        "postgresql": {
            "use_slots": true,
            "parameters": {"wal_level": "hot_standby", "max_connections": 77, "hot_standby": "on"},
        },
    });
    assert_eq!(shared.await?, expected);
    let sql = Sql::superuser(port);
    assert_eq!(sql.value("SHOW max_connections").await?, "77");
    let may =
        "SELECT rolcreatedb AND rolcreaterole AND rolcanlogin AND NOT rolsuper FROM pg_roles WHERE rolname = 'admin'";
    assert_eq!(sql.value(may).await?, "t");
    let hba = fs::read_to_string(home.join("data/pg_hba.conf"))?;
    let added = "host replication replicator 127.0.0.1/32 md5\nhost all all 127.0.0.1/32 md5\n";
    ensure!(hba.contains(added) && !hba.contains("hostssl all all 0.0.0.0/0"), "{hba}");

    let said = || agent.output();
    let notice = "WARNING: postgresql.admin is an older setting: bootstrap.admin replaces it";
    wait_until("the notices", LIMIT, || said().contains(notice)).await.with_context(said)?;
    ensure!(!said().contains("zalando") && !said().contains("-pass"), "{}", said());
    agent.kill()?;
    sandbox.finish();
    Ok(())
}
