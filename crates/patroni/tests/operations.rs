//! What operators do to a healthy cluster, through the REST API and `patronictl`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Cluster, ClusterSpec, Node, Workload, holds_for, measured, wait_for};

/// For things that happen within a few cycles (loop_wait 2), on a busy machine.
const SOON: Duration = Duration::from_secs(40);

fn replica_of(cluster: &Cluster, leader: &str) -> Result<String> {
    cluster.others(leader).next().map(|node| node.name.clone()).context("find a second node")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_cluster_answers_like_upstream() -> Result<()> {
    let cluster = ClusterSpec::quick("new").start().await?;
    let leader = cluster.primary().await?;
    check_health_codes(&cluster, &leader).await?;
    check_information(&cluster, &leader).await?;
    check_store(&cluster, &leader)?;
    check_lists(&cluster, &leader).await?;
    check_slots(&cluster, &leader).await?;
    cluster.finish()
}

async fn check_health_codes(cluster: &Cluster, leader: &str) -> Result<()> {
    let on_leader = [
        ("/", 200),
        ("/primary", 200),
        ("/master", 200),
        ("/read-write", 200),
        ("/leader", 200),
        ("/standby-leader", 503),
        ("/replica", 503),
        ("/read-only", 200),
        ("/synchronous", 503),
        ("/asynchronous", 503),
        ("/health", 200),
        ("/liveness", 200),
        ("/readiness", 200),
    ];
    let on_replica = [
        ("/", 503),
        ("/primary", 503),
        ("/leader", 503),
        ("/replica", 200),
        ("/replica?lag=10MB", 200),
        ("/replica?replication_state=streaming", 200),
        ("/replica?tag_zone=a", 503),
        ("/read-only", 200),
        ("/asynchronous", 200),
        ("/health", 200),
        ("/liveness", 200),
        ("/readiness", 200),
    ];
    for node in &cluster.nodes {
        let table = if node.name == leader { &on_leader[..] } else { &on_replica[..] };
        for (path, code) in table {
            assert_eq!(node.rest().code(path).await, Some(*code), "GET {path} of {}", node.name);
        }
    }
    Ok(())
}

async fn check_information(cluster: &Cluster, leader: &str) -> Result<()> {
    let node = cluster.node(leader)?;
    let status = node.rest().get("/patroni").await?.json()?;
    let seen = (&status["state"], &status["role"], &status["timeline"], &status["patroni"]["scope"]);
    assert_eq!(seen, (&json!("running"), &json!("primary"), &json!(1), &json!("batman")), "{status}");
    assert!(status["xlog"]["location"].is_u64() && status["server_version"].is_u64(), "{status}");
    assert_eq!(status["replication"].as_array().map(Vec::len), Some(2), "{status}");
    let version = status["patroni"]["version"].as_str().unwrap_or_default();
    assert!(version.starts_with("4."), "peers switch behaviour on the version, which is {version:?}");

    let replica = cluster.node(&replica_of(cluster, leader)?)?.rest().get("/patroni").await?.json()?;
    let seen = (&replica["role"], &replica["replication_state"], &replica["xlog"]["paused"]);
    assert_eq!(seen, (&json!("replica"), &json!("streaming"), &json!(false)), "{replica}");

    let config = node.rest().get("/config").await?.json()?;
    assert_eq!((&config["ttl"], &config["loop_wait"]), (&json!(20), &json!(2)), "{config}");
    let metrics = node.rest().get("/metrics").await?;
    let sample = format!("patroni_primary{{scope=\"batman\",name=\"{leader}\"}} 1");
    assert!(metrics.text.lines().any(|line| line == sample), "no line {sample} in\n{}", metrics.text);
    Ok(())
}

fn check_store(cluster: &Cluster, leader: &str) -> Result<()> {
    let keys = cluster.keys()?;
    let names: Vec<&str> = keys.keys().map(String::as_str).collect();
    for key in ["config", "initialize", "leader", "members/node1", "members/node2", "members/node3", "status"] {
        assert!(names.contains(&key), "no key {key} in {names:?}");
    }
    assert_eq!(keys["leader"], leader);
    let member: Value = serde_json::from_str(&keys[&format!("members/{leader}")])?;
    let port = cluster.node(leader)?.pg_port;
    assert_eq!(member["conn_url"], format!("postgres://127.0.0.1:{port}/postgres"));
    assert_eq!((&member["state"], &member["role"]), (&json!("running"), &json!("primary")));
    Ok(())
}

async fn check_lists(cluster: &Cluster, leader: &str) -> Result<()> {
    let node = cluster.node(leader)?;
    let rows = node.ctl(&["list", "-f", "json"]).await?.json()?;
    let rows = rows.as_array().context("read a list")?;
    assert_eq!(rows.len(), 3);
    for row in rows {
        let (role, state) = if row["Member"] == leader { ("Leader", "running") } else { ("Replica", "streaming") };
        assert_eq!((&row["Role"], &row["State"], &row["TL"]), (&json!(role), &json!(state), &json!(1)), "{row}");
    }
    let system_id = &cluster.keys()?["initialize"];
    let table = node.ctl(&["list"]).await?.success()?;
    assert!(table.starts_with(&format!("+ Cluster: batman ({system_id}) -")), "{table}");
    let tsv = node.ctl(&["list", "-f", "tsv"]).await?.success()?;
    assert!(tsv.starts_with("Cluster\tMember\tHost\tRole\tState\tTL"), "{tsv}");
    let tree = node.ctl(&["topology"]).await?.success()?;
    assert_eq!(tree.lines().filter(|line| line.contains("| + node")).count(), 2, "{tree}");
    let config = node.ctl(&["show-config"]).await?.success()?;
    assert!(config.lines().any(|line| line == "loop_wait: 2"), "{config}");
    let version = node.ctl(&["version", "batman"]).await?.success()?;
    assert_eq!(version.lines().filter(|line| line.contains("PostgreSQL ")).count(), 3, "{version}");
    let missing = node.ctl(&["list", "-f", "json", "no-such-cluster"]).await?;
    assert_eq!((missing.code, missing.stdout.trim()), (0, "[]"), "{missing:?}");
    Ok(())
}

async fn check_slots(cluster: &Cluster, leader: &str) -> Result<()> {
    let mut others: Vec<&str> = cluster.others(leader).map(|node| node.name.as_str()).collect();
    others.sort_unstable();
    let query = "SELECT slot_name FROM pg_replication_slots WHERE active ORDER BY 1";
    wait_for("an active slot for each replica", SOON, || async {
        let rows = cluster.node(leader)?.sql().rows(query).await?;
        let names: Vec<&str> = rows.iter().filter_map(|row| row[0].as_deref()).collect();
        ensure!(names == others, "active slots are {names:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn switchover_there_back_and_at_a_time() -> Result<()> {
    let cluster = ClusterSpec::quick("switch").start().await?;
    let first = cluster.primary().await?;
    let second = replica_of(&cluster, &first)?;

    let workload = Workload::start(&cluster, &first).await?;
    let request = json!({"leader": first, "candidate": second});
    let answer = cluster.node(&second)?.rest().post("/switchover", &request).await?;
    assert_eq!((answer.code, answer.text), (200, format!("Successfully switched over to \"{second}\"")));
    assert_eq!(cluster.healthy(SOON).await?, second);
    let outcome = workload.finish(&cluster, &second).await?;
    measured(&format!("switchover by REST: {outcome}"));
    assert!(outcome.missing.is_empty(), "a switchover loses nothing: {outcome:?}");

    let workload = Workload::start(&cluster, &second).await?;
    let arguments = ["switchover", "batman", "--leader", &second, "--candidate", &first, "--force"];
    let said = cluster.node(&first)?.ctl(&arguments).await?.success()?;
    assert!(said.contains("switched over"), "{said}");
    assert_eq!(cluster.healthy(SOON).await?, first);
    let outcome = workload.finish(&cluster, &first).await?;
    measured(&format!("switchover by patronictl: {outcome}"));
    assert!(outcome.missing.is_empty(), "a switchover loses nothing: {outcome:?}");

    let soon = "SELECT to_char(now() + '8 s', 'YYYY-MM-DD\"T\"HH24:MI:SSOF')";
    let at = cluster.node(&first)?.sql().value(soon).await?;
    let request = json!({"leader": first, "candidate": second, "scheduled_at": at});
    let answer = cluster.node(&first)?.rest().post("/switchover", &request).await?;
    assert_eq!((answer.code, answer.text.as_str()), (202, "Switchover scheduled"));
    let table = cluster.node(&first)?.ctl(&["list"]).await?.success()?;
    assert!(table.contains("Switchover scheduled at: "), "{table}");
    cluster.primary_other_than(&first, SOON).await?;
    assert_eq!(cluster.healthy(SOON).await?, second);
    check_refusals(&cluster, &second).await?;

    let history = cluster.node(&second)?.rest().get("/history").await?.json()?;
    assert_eq!(history.as_array().map(Vec::len), Some(3), "three switchovers: {history}");
    cluster.finish()
}

async fn check_refusals(cluster: &Cluster, leader: &str) -> Result<()> {
    let rest = cluster.node(leader)?.rest();
    let past = json!({"leader": leader, "scheduled_at": "2020-01-01T00:00:00+00:00"});
    let to_itself = json!({"leader": leader, "candidate": leader});
    let from_nobody = json!({"candidate": leader});
    for (path, body, code, text) in [
        ("/switchover", json!({"leader": "nobody"}), 412, "leader name does not match"),
        ("/switchover", json!({"leader": leader, "candidate": "nobody"}), 412, "candidate does not exists"),
        ("/switchover", to_itself, 400, "Switchover target and source are the same"),
        ("/switchover", from_nobody, 400, "Switchover could be performed only from a specific leader"),
        ("/failover", json!({"candidate": ""}), 400, "Failover could be performed only to a specific candidate"),
        ("/switchover", past, 422, "Cannot schedule switchover in the past"),
    ] {
        let answer = rest.post(path, &body).await?;
        assert!(answer.code == code && answer.text.contains(text), "{path} {body}: {answer:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn failover_by_hand() -> Result<()> {
    let cluster = ClusterSpec::quick("byhand").start().await?;
    let old = cluster.primary().await?;
    let new = replica_of(&cluster, &old)?;
    let said = cluster.node(&old)?.ctl(&["failover", "batman", "--candidate", &new, "--force"]).await?.success()?;
    assert!(said.contains("failed over"), "{said}");
    assert_eq!(cluster.healthy(SOON).await?, new);
    cluster.finish()
}

async fn setting_everywhere(cluster: &Cluster, name: &str, value: &str) -> Result<()> {
    for node in &cluster.nodes {
        wait_for(&format!("{name} = {value} on {}", node.name), SOON, || async {
            let now = node.sql().value(&format!("SHOW {name}")).await?;
            ensure!(now == value, "it is {now}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn pending_restarts(cluster: &Cluster, leader: &str, expected: usize) -> Result<()> {
    wait_for(&format!("{expected} members that wait for a restart"), SOON, || async {
        let rows = cluster.node(leader)?.ctl(&["list", "-f", "json"]).await?.json()?;
        let rows = rows.as_array().context("read a list")?;
        let count = rows.iter().filter(|row| row["Pending restart"] == "*").count();
        ensure!(count == expected, "{count} members wait for a restart");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_reload_and_restart() -> Result<()> {
    let cluster = ClusterSpec::quick("settings").start().await?;
    let leader = cluster.primary().await?;
    let node = cluster.node(&leader)?;

    let patch = json!({"postgresql": {"parameters": {"work_mem": "5MB"}}});
    let answer = node.rest().patch("/config", &patch).await?;
    assert_eq!((answer.code, &answer.json()?["postgresql"]["parameters"]["work_mem"]), (200, &json!("5MB")));
    setting_everywhere(&cluster, "work_mem", "5MB").await?;

    let said = node.ctl(&["edit-config", "-q", "-p", "max_connections=60", "--force"]).await?.success()?;
    assert!(said.contains("Configuration changed"), "{said}");
    pending_restarts(&cluster, &leader, 3).await?;
    // The leader first: a standby may have more connections than its primary had, not fewer.
    let said = node.ctl(&["restart", "batman", &leader, "--force"]).await?.success()?;
    assert!(said.contains(&format!("Success: restart on member {leader}")), "{said}");
    pending_restarts(&cluster, &leader, 2).await?;
    let said = node.ctl(&["restart", "batman", "--pending", "--force"]).await?.success()?;
    assert_eq!(said.matches("Success: restart on member").count(), 2, "{said}");
    setting_everywhere(&cluster, "max_connections", "60").await?;
    pending_restarts(&cluster, &leader, 0).await?;
    assert_eq!(cluster.healthy(SOON).await?, leader, "restarts keep the leader");

    for node in &cluster.nodes {
        node.change_config(&json!({"postgresql": {"parameters": {"log_min_duration_statement": "7s"}}}))?;
    }
    let said = node.ctl(&["reload", "batman", "--force"]).await?.success()?;
    assert_eq!(said.matches("Reload request received").count(), 3, "{said}");
    setting_everywhere(&cluster, "log_min_duration_statement", "7s").await?;
    cluster.finish()
}

/// A restart is scheduled, shown, done in its time, and gone then.
async fn scheduled_restart(node: &Node) -> Result<()> {
    let before = node.postmaster_pid()?;
    let soon = "SELECT to_char(now() + '4 s', 'YYYY-MM-DD\"T\"HH24:MI:SSOF')";
    let at = node.sql().value(soon).await?;
    let request = ["restart", "batman", &node.name, "--scheduled", &at, "--force"];
    let said = node.ctl(&request).await?.success()?;
    ensure!(said.contains(&format!("Success: restart scheduled on member {}", node.name)), "{said}");
    let answer = node.rest().post("/restart", &json!({"schedule": at})).await?;
    ensure!(answer.code == 409 && answer.text == "Another restart is already scheduled", "{answer:?}");
    let status = node.rest().get("/patroni").await?.json()?;
    ensure!(status["scheduled_restart"]["schedule"].is_string(), "{status}");
    wait_for("the scheduled restart", SOON, || async {
        ensure!(node.postmaster_pid()? != before, "the server is the same");
        let status = node.rest().get("/patroni").await?.json()?;
        ensure!(status["state"] == "running" && status["scheduled_restart"].is_null(), "{status}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn reinitialize_a_replica() -> Result<()> {
    let cluster = ClusterSpec::quick("reinit").start().await?;
    let leader = cluster.primary().await?;
    let replica = cluster.node(&replica_of(&cluster, &leader)?)?;
    scheduled_restart(replica).await?;
    let marker = replica.data_dir().join("marker");
    std::fs::write(&marker, "of the old copy")?;
    let said =
        replica.ctl(&["reinit", "batman", &replica.name, "--force", "--from-leader", "--wait"]).await?.success()?;
    assert!(said.contains(&format!("Success: reinitialize for member {}", replica.name)), "{said}");
    cluster.healthy(SOON).await?;
    assert!(!marker.exists(), "the old data directory is still there");
    let answer = cluster.node(&leader)?.rest().post("/reinitialize", &json!({})).await?;
    assert!(answer.code == 503 && answer.text.contains("I am the leader, can not reinitialize"), "{answer:?}");
    cluster.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_means_hands_off() -> Result<()> {
    let cluster = ClusterSpec::quick("pause").start().await?;
    let leader = cluster.primary().await?;
    let node = cluster.node(&leader)?;
    let said = node.ctl(&["pause", "--wait"]).await?.success()?;
    assert!(said.contains("Success: cluster management is paused"), "{said}");
    let table = node.ctl(&["list"]).await?.success()?;
    assert!(table.contains("Maintenance mode: on"), "{table}");

    node.kill_postmaster().await?;
    let ttl_and_two_cycles = Duration::from_secs(24);
    holds_for("hands off", ttl_and_two_cycles, || async {
        ensure!(node.postmaster_pid().is_err(), "PostgreSQL of {leader} was started");
        for other in cluster.others(&leader) {
            let standby = other.sql().value("SELECT pg_is_in_recovery()").await?;
            ensure!(standby == "t", "{} was promoted", other.name);
        }
        Ok(())
    })
    .await?;

    let any = cluster.node(&replica_of(&cluster, &leader)?)?;
    let said = any.ctl(&["resume", "--wait"]).await?.success()?;
    assert!(said.contains("Success: cluster management is resumed"), "{said}");
    cluster.healthy(2 * SOON).await?;
    cluster.finish()
}
