//! From nothing to a cluster and what goes wrong on the way: failed bootstraps, data that is there already, copies,
//! whom standbys follow, a `pre_promote` that fails.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Cluster, ClusterSpec, Flavour, Node, Programs, Signal, run_to_end, wait_for, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

fn log_has(node: &Node, words: &str) -> bool {
    node.log().contains(words)
}

/// The port that a standby receives WAL from; empty where it receives none.
async fn sender(node: &Node) -> Result<String> {
    let query = "SELECT coalesce((SELECT sender_port::text FROM pg_stat_wal_receiver), '')";
    node.sql().value(query).await
}

async fn until_sender(node: &Node, expected: &str) -> Result<()> {
    wait_for(&format!("{} to receive from {expected:?}", node.name), LIMIT, || async {
        let port = sender(node).await?;
        ensure!(port == expected, "it receives from {port:?}");
        Ok(())
    })
    .await
    .with_context(|| node.log())
}

fn port_of(node: &Node) -> Result<String> {
    let listen = node.config()?["postgresql"]["listen"].as_str().unwrap_or_default().to_owned();
    listen.rsplit_once(':').map(|(_, port)| port.to_owned()).context("find the port")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_bootstrap_is_put_aside_and_the_next_may_try() -> Result<()> {
    let mut cluster = ClusterSpec::quick("lifefail").flavours(&[Flavour::Ours]).prepare().await?;
    let wal = cluster.sandbox.directory("wal")?.join("of-node1");
    let good = cluster.nodes[0].config()?;
    let node = &mut cluster.nodes[0];
    node.change_config(&json!({"bootstrap": {
        "post_bootstrap": "/bin/sh -c 'echo too bad >&2; exit 3' --", "initdb": [{"encoding": "UTF8"}, {"waldir": wal}],
        "users": {"someone": {"password": "x"}},
    }}))?;
    node.start()?;
    let status = node.agent()?.wait(LIMIT).with_context(|| node.log())?;
    ensure!(status.code() == Some(1), "{status}: {}", node.log());
    for words in
        ["bootstrap.post_bootstrap failed (exit status: 3): too bad", "bootstrap.users", "renaming data directory to"]
    {
        ensure!(log_has(node, words), "no {words:?} in {}", node.log());
    }
    let failed = node.home().join("data.failed");
    ensure!(failed.join("PG_VERSION").exists() && !node.data_dir().exists(), "{failed:?}");
    ensure!(std::fs::read_link(failed.join("pg_wal"))?.ends_with("of-node1.failed"));
    ensure!(!cluster.keys()?.contains_key("initialize"), "{:?}", cluster.keys()?);

    // Refused before anything is made.
    let node = &mut cluster.nodes[0];
    node.change_config(
        &json!({"bootstrap": {"post_bootstrap": null, "initdb": [{"pgdata": "/elsewhere"}], "users": null}}),
    )?;
    node.start()?;
    let status = node.agent()?.wait(LIMIT).with_context(|| node.log())?;
    ensure!(status.code() == Some(1) && log_has(node, "bootstrap.initdb: option \"pgdata\" is not allowed here"));

    node.write_config(&good)?;
    node.start()?;
    cluster.healthy(LIMIT).await?;
    cluster.finish()
}

/// A standalone server that is stopped becomes a cluster; a disk that holds something else does not.
#[tokio::test(flavor = "multi_thread")]
async fn data_that_is_there_already_is_used_or_left_alone() -> Result<()> {
    let mut cluster = ClusterSpec::quick("lifedata").flavours(&[Flavour::Ours]).prepare().await?;
    let (programs, owner) = (Programs::find()?, cluster.sandbox.owner().clone());
    let node = &mut cluster.nodes[0];
    let foreign = node.data_dir().join("somebody's");
    std::fs::create_dir_all(node.data_dir())?;
    owner.give(&node.data_dir())?;
    std::fs::write(&foreign, "work")?;
    node.start()?;
    let words = "the data directory is neither empty nor a PostgreSQL cluster";
    wait_until("it to say what is wrong", LIMIT, || log_has(node, words)).await.with_context(|| node.log())?;
    node.stop().await?;
    ensure!(foreign.exists());
    std::fs::remove_file(&foreign)?;

    let home = node.home().to_owned();
    cluster.sandbox.write(&home.join("pwfile"), "zalando\n")?;
    let mut initdb = std::process::Command::new(programs.postgres_bin.join("initdb"));
    initdb.arg("-D").arg(cluster.nodes[0].data_dir()).args(["-U", "postgres", "--no-sync", "--pwfile"]);
    let output = run_to_end(initdb.arg(home.join("pwfile")), &owner, &home)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    cluster.nodes[0].start()?;
    cluster.healthy(LIMIT).await.with_context(|| cluster.nodes[0].log())?;
    let node = &cluster.nodes[0];
    let id = node.sql().value("SELECT system_identifier FROM pg_control_system()").await?;
    ensure!(cluster.keys()?.get("initialize") == Some(&id), "{:?}", cluster.keys()?);
    cluster.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_standbys_and_pre_promote() -> Result<()> {
    let mut cluster = ClusterSpec::quick("life").flavours(&[Flavour::Ours; 3]).prepare().await?;
    let ports = cluster.nodes.iter().map(port_of).collect::<Result<Vec<_>>>()?;
    cluster.nodes[1]
        .change_config(&json!({"tags": {"clonefrom": true}, "postgresql": {"pre_promote": "/bin/false"}}))?;
    cluster.nodes[2].change_config(&json!({"postgresql": {"basebackup": [{"max-rate": "4M"}]}}))?;
    cluster.nodes[0].start()?;
    cluster.healthy_with(1, LIMIT).await?;
    cluster.nodes[1].start()?;
    cluster.healthy_with(2, LIMIT).await?;
    cluster.nodes[2].start()?;
    a_copy_tells_how_far_it_is(&cluster).await?;
    cluster.healthy(LIMIT).await?;
    ensure!(log_has(&cluster.nodes[2], "trying to bootstrap from replica 'node2'"), "{}", cluster.nodes[2].log());
    ensure!(!cluster.keys()?["members/node3"].contains("clone_progress"), "{:?}", cluster.keys()?);

    // A chain is a chain, a loop is none, and nostream receives nothing.
    for (second, third, sender_of_third) in [
        (json!({"clonefrom": true}), json!({"replicatefrom": "node2"}), &*ports[1]),
        (json!({"replicatefrom": "node3"}), json!({"replicatefrom": "node2"}), &*ports[0]),
        (json!({}), json!({"nostream": true}), ""),
    ] {
        for (index, tags) in [(1, second), (2, third)] {
            cluster.nodes[index].change_config(&json!({"tags": null}))?;
            cluster.nodes[index].change_config(&json!({"tags": tags}))?;
            cluster.nodes[index].signal(Signal::HUP)?;
        }
        until_sender(&cluster.nodes[1], &ports[0]).await?;
        until_sender(&cluster.nodes[2], sender_of_third).await?;
    }
    // It stays so over a start.
    let before = cluster.nodes[2].kill_postmaster().await?;
    let node = &cluster.nodes[2];
    wait_until("another postmaster", LIMIT, || node.postmaster_pid().is_ok_and(|pid| pid != before)).await?;
    until_sender(node, "").await?;
    cluster.nodes[2].change_config(&json!({"tags": null}))?;
    cluster.nodes[2].signal(Signal::HUP)?;
    until_sender(&cluster.nodes[2], &ports[0]).await?;
    cluster.healthy(LIMIT).await?;

    // The candidate cannot be promoted, and leaves the lock to the others.
    let switchover = json!({"leader": "node1", "candidate": "node2"});
    let answer = cluster.nodes[0].rest().post("/switchover", &switchover).await?;
    println!("{} {}", answer.code, answer.text);
    let said = "released leader key because pre_promote failed";
    wait_until("pre_promote to fail", LIMIT, || log_has(&cluster.nodes[1], said))
        .await
        .with_context(|| cluster.nodes[1].log())?;
    let leader = wait_for("another leader", LIMIT, || async {
        let name = cluster.primary().await?;
        ensure!(name != "node2", "{name} leads");
        Ok(name)
    })
    .await?;
    println!("{leader} leads");
    cluster.healthy(LIMIT).await?;
    cluster.finish()
}

async fn a_copy_tells_how_far_it_is(cluster: &Cluster) -> Result<()> {
    let copied = wait_for("the progress of the copy in GET /cluster", LIMIT, || async {
        let members = cluster.nodes[0].rest().get("/cluster").await?.json()?;
        let members = members["members"].as_array().cloned().unwrap_or_default();
        let third = members.iter().find(|member| member["name"] == "node3").context("no member node3")?;
        let copied = third["clone_progress"].clone();
        ensure!(copied["total_bytes"].as_u64().is_some_and(|total| total > 0), "{third}");
        Ok(copied)
    })
    .await
    .with_context(|| cluster.nodes[2].log())?;
    println!("{copied}");
    let own: Value = cluster.nodes[2].rest().get("/patroni").await?.json()?;
    ensure!(own["state"] == "creating replica" && own["clone_progress"]["copied_bytes"].is_u64(), "{own}");
    let list = cluster.nodes[0].ctl(&["list"]).await?.success()?;
    ensure!(list.contains("Clone progress") && list.contains("% of "), "{list}");
    ensure!(log_has(&cluster.nodes[2], "creating replica in progress: "), "{}", cluster.nodes[2].log());
    Ok(())
}
