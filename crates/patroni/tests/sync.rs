//! Synchronous and quorum mode: who confirms commits, who takes over, and that nothing acknowledged is lost.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Cluster, ClusterSpec, Flavour, Workload, holds_for, measured, wait_for};

/// A change that takes one or two cycles (loop_wait 2), or a failover, on a busy machine.
const LIMIT: Duration = Duration::from_secs(75);

/// The sync key.
fn sync_key(cluster: &Cluster) -> Result<Value> {
    let text = cluster.keys()?.remove("sync").context("there is no sync key")?;
    Ok(serde_json::from_str(&text)?)
}

/// Waits until the sync key names `count` standbys of `leader` with this quorum; their names.
async fn standbys(cluster: &Cluster, leader: &str, quorum: u64, count: usize) -> Result<Vec<String>> {
    wait_for(&format!("{count} synchronous standbys of {leader}, quorum {quorum}"), LIMIT, || async {
        let key = sync_key(cluster)?;
        let names: Vec<String> =
            key["sync_standby"].as_str().map(|names| names.split(',').map(str::to_owned).collect()).unwrap_or_default();
        ensure!(key["leader"] == leader && key["quorum"] == quorum && names.len() == count, "it is {key}");
        Ok(names)
    })
    .await
}

/// What the cluster's members are, as every node says, and that each answers its own health checks accordingly.
async fn check_roles(cluster: &Cluster, leader: &str, synchronous: &[String], word: &str) -> Result<()> {
    let (path, role) = (format!("/{word}"), format!("{word}_standby"));
    wait_for(&format!("{synchronous:?} to be {role}"), LIMIT, || async {
        for member in cluster.members().await?.iter().filter(|member| member.name != leader) {
            let listed = synchronous.contains(&member.name);
            let expected = if listed { role.as_str() } else { "replica" };
            ensure!(member.role == expected, "{} is {}", member.name, member.role);
            let rest = cluster.node(&member.name)?.rest();
            let codes = (rest.code(&path).await, rest.code("/async").await);
            let wanted = if listed { (Some(200), Some(503)) } else { (Some(503), Some(200)) };
            ensure!(codes == wanted, "{} answers {codes:?}", member.name);
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synchronous_standby_is_replaced_and_takes_over() -> Result<()> {
    let spec = ClusterSpec::quick("sync").dynamic("synchronous_mode", json!(true));
    let mut cluster = spec.dynamic("primary_start_timeout", json!(0)).start().await?;
    let old = cluster.primary().await?;
    let first = standbys(&cluster, &old, 0, 1).await?;
    check_roles(&cluster, &old, &first, "sync").await?;
    let workload = Workload::start(&cluster, &old).await?;
    workload.more_rows(100, LIMIT).await?;

    // The standby dies: commits wait, until the other one has taken its place.
    cluster.node_mut(&first[0])?.kill_host()?;
    let second = wait_for("another synchronous standby", LIMIT, || async {
        let names = standbys(&cluster, &old, 0, 1).await?;
        ensure!(names != first, "still {names:?}");
        Ok(names)
    })
    .await?;
    workload.more_rows(100, LIMIT).await?;

    // The first comes back and stays asynchronous; the second takes over.
    cluster.node_mut(&first[0])?.start()?;
    cluster.healthy(LIMIT).await?;
    cluster.node(&old)?.kill_postmaster().await?;
    let new = cluster.primary_other_than(&old, LIMIT).await?;
    assert_eq!(vec![new.clone()], second);
    workload.more_rows(100, LIMIT).await?;
    assert_eq!(cluster.healthy(LIMIT).await?, new);
    standbys(&cluster, &new, 0, 1).await?;
    let outcome = workload.finish(&cluster, &new).await?;
    measured(&format!("synchronous standby and then the primary killed: {outcome}"));
    assert!(outcome.missing.is_empty(), "{outcome:?}");
    cluster.finish()
}

/// A write that nobody confirms: is not acknowledged as long as `write` says.
async fn waits(cluster: &Cluster, leader: &str) -> Result<()> {
    let client = cluster.node(leader)?.sql().connect().await?;
    let insert = client.batch_execute("INSERT INTO probe (node) VALUES ('strict')");
    let answered = tokio::time::timeout(Duration::from_secs(3), insert).await;
    ensure!(answered.is_err(), "the write was acknowledged");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn quorum_strict_and_off() -> Result<()> {
    let spec = ClusterSpec::quick("quorum").dynamic("synchronous_mode", json!("quorum"));
    let mut cluster = spec.dynamic("primary_start_timeout", json!(0)).start().await?;
    let mut leader = cluster.primary().await?;
    let voters = standbys(&cluster, &leader, 1, 2).await?;
    check_roles(&cluster, &leader, &voters, "quorum").await?;
    let names = "SHOW synchronous_standby_names";
    assert_eq!(cluster.node(&leader)?.sql().value(names).await?, format!("ANY 1 ({})", voters.join(",")));

    // A switchover, and the death of the primary: whoever of the voters is ahead takes over.
    let workload = Workload::start(&cluster, &leader).await?;
    workload.more_rows(100, LIMIT).await?;
    let body = json!({"leader": leader, "candidate": voters[0]});
    assert_eq!(cluster.node(&leader)?.rest().post("/switchover", &body).await?.code, 200);
    leader = cluster.healthy(LIMIT).await?;
    assert_eq!(leader, voters[0]);
    standbys(&cluster, &leader, 1, 2).await?;
    workload.more_rows(100, LIMIT).await?;
    cluster.node(&leader)?.kill_postmaster().await?;
    let new = cluster.primary_other_than(&leader, LIMIT).await?;
    workload.more_rows(100, LIMIT).await?;
    leader = cluster.healthy(LIMIT).await?;
    assert_eq!(leader, new);
    standbys(&cluster, &leader, 1, 2).await?;
    let outcome = workload.finish(&cluster, &leader).await?;
    measured(&format!("quorum mode, switchover and then the primary killed: {outcome}"));
    assert!(outcome.missing.is_empty(), "{outcome:?}");

    // Strict: with nobody there, writes wait; a standby that stops in an orderly way is let go at once.
    let patch = json!({"synchronous_mode": true, "synchronous_mode_strict": true});
    assert_eq!(cluster.node(&leader)?.rest().patch("/config", &patch).await?.code, 200);
    standbys(&cluster, &leader, 0, 1).await?;
    let others: Vec<String> = cluster.others(&leader).map(|node| node.name.clone()).collect();
    for name in &others {
        assert_eq!(cluster.node_mut(name)?.stop().await?, Some(0));
    }
    wait_for("the placeholder", LIMIT, || async {
        let shown = cluster.node(&leader)?.sql().value(names).await?;
        ensure!(shown == "__patroni_strict_sync_replica_placeholder__", "it is {shown:?}");
        Ok(())
    })
    .await?;
    waits(&cluster, &leader).await?;
    cluster.node_mut(&others[0])?.start()?;
    standbys(&cluster, &leader, 0, 1).await?;
    cluster.node(&leader)?.sql().rows("INSERT INTO probe (node) VALUES ('strict')").await?;

    // Off: the key goes, the user's own setting returns.
    let patch = json!({
        "synchronous_mode": null, "synchronous_mode_strict": null,
        "postgresql": {"parameters": {"synchronous_standby_names": "*"}},
    });
    assert_eq!(cluster.node(&leader)?.rest().patch("/config", &patch).await?.code, 200);
    wait_for("the key to go and the user's value to return", LIMIT, || async {
        let shown = cluster.node(&leader)?.sql().value(names).await?;
        ensure!(!cluster.keys()?.contains_key("sync") && shown == "*", "it is {shown:?}");
        Ok(())
    })
    .await?;
    cluster.node(&leader)?.sql().rows("INSERT INTO probe (node) VALUES ('the simple form')").await?;
    cluster.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_and_ours_lead_each_other() -> Result<()> {
    let flavours = [Flavour::Ours, Flavour::Upstream, Flavour::Ours];
    let spec = ClusterSpec::quick("syncmixed").flavours(&flavours).dynamic("synchronous_mode", json!("quorum"));
    let cluster = spec.start().await?;
    let mut leader = cluster.primary().await?;
    standbys(&cluster, &leader, 1, 2).await?;
    let workload = Workload::start(&cluster, &leader).await?;
    for candidate in ["node2", "node1", "node2"] {
        if leader == candidate {
            continue;
        }
        workload.more_rows(50, LIMIT).await?;
        let body = json!({"leader": leader, "candidate": candidate});
        let answer = cluster.node(&leader)?.rest().post("/switchover", &body).await?;
        assert_eq!(answer.code, 200, "{}", answer.text);
        assert_eq!(cluster.healthy(LIMIT).await?, candidate);
        candidate.clone_into(&mut leader);
        let voters = standbys(&cluster, &leader, 1, 2).await?;
        check_roles(&cluster, &leader, &voters, "quorum").await?;
        let shown = cluster.node(&leader)?.sql().value("SHOW synchronous_standby_names").await?;
        assert_eq!(shown, format!("ANY 1 ({})", voters.join(",")), "{leader} leads");
    }
    // The other mode, with the Python program leading, then ours.
    for candidate in ["node2", "node3"] {
        let patch = json!({"synchronous_mode": true});
        assert_eq!(cluster.node(&leader)?.rest().patch("/config", &patch).await?.code, 200);
        let synchronous = standbys(&cluster, &leader, 0, 1).await?;
        check_roles(&cluster, &leader, &synchronous, "sync").await?;
        if leader != candidate {
            let body = json!({"leader": leader, "candidate": synchronous[0]});
            assert_eq!(cluster.node(&leader)?.rest().post("/switchover", &body).await?.code, 200);
            leader = cluster.healthy(LIMIT).await?;
            assert_eq!(leader, synchronous[0]);
            standbys(&cluster, &leader, 0, 1).await?;
        }
    }
    holds_for("one synchronous standby", Duration::from_secs(3), || async {
        standbys(&cluster, &leader, 0, 1).await.map(drop)
    })
    .await?;
    let outcome = workload.finish(&cluster, &leader).await?;
    measured(&format!("synchronous and quorum mode with the Python program: {outcome}"));
    assert!(outcome.missing.is_empty(), "{outcome:?}");
    cluster.finish()
}
