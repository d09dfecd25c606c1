//! What happens when parts of a cluster die, freeze or lose the store, while clients write all the time.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use testkit::{
    Cluster, ClusterSpec, Node, Outcome, Signal, Workload, holds_for, kill_pid, measured, wait_for, wait_until,
};

/// ttl 30, one cycle, and a busy machine.
const FAILOVER_LIMIT: Duration = Duration::from_secs(75);
/// A former primary: crash recovery or pg_rewind or a new copy, and streaming.
const REJOIN_LIMIT: Duration = Duration::from_secs(90);
/// Rows this close to the end of a primary may be lost: replication is asynchronous.
const LOSS_WINDOW: Duration = Duration::from_secs(2);

/// Some of the last rows may be missing, but nothing that replicas had seconds to receive.
fn check_loss(outcome: &Outcome) -> Result<()> {
    let late = outcome.missing.iter().filter(|(_, before_gap)| *before_gap > LOSS_WINDOW);
    ensure!(late.count() == 0, "rows are missing that were acknowledged long before the failure: {outcome:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_the_postmaster() -> Result<()> {
    let cluster = ClusterSpec::new("killpg").start().await?;
    let old = cluster.primary().await?;
    let workload = Workload::start(&cluster, &old).await?;
    workload.more_rows(100, FAILOVER_LIMIT).await?;
    cluster.node(&old)?.kill_postmaster().await?;
    workload.more_rows(100, FAILOVER_LIMIT).await?;
    let leader = cluster.healthy(REJOIN_LIMIT).await?;
    let outcome = workload.finish(&cluster, &leader).await?;
    measured(&format!("kill -9 of the primary's postmaster: {outcome}"));
    check_loss(&outcome)?;
    cluster.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_the_agent() -> Result<()> {
    let mut cluster = ClusterSpec::new("killagent").start().await?;
    let old = cluster.primary().await?;
    let workload = Workload::start(&cluster, &old).await?;
    workload.more_rows(100, FAILOVER_LIMIT).await?;
    cluster.node_mut(&old)?.kill_agent()?;
    let new = cluster.primary_other_than(&old, FAILOVER_LIMIT).await?;
    workload.more_rows(100, FAILOVER_LIMIT).await?;
    cluster.node_mut(&old)?.start()?;
    assert_eq!(cluster.healthy(REJOIN_LIMIT).await?, new);
    let outcome = workload.finish(&cluster, &new).await?;
    measured(&format!("kill -9 of the primary's agent: {outcome}"));
    check_loss(&outcome)?;
    cluster.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_comes_back_at_once_keeps_its_primary() -> Result<()> {
    let mut cluster = ClusterSpec::quick("restart").start().await?;
    let leader = cluster.primary().await?;
    let postmaster = cluster.node(&leader)?.postmaster_pid()?;
    let workload = Workload::start(&cluster, &leader).await?;
    workload.more_rows(50, FAILOVER_LIMIT).await?;
    cluster.node_mut(&leader)?.kill_agent()?;
    cluster.node_mut(&leader)?.start()?;
    workload.more_rows(200, FAILOVER_LIMIT).await?;
    assert_eq!(cluster.healthy(REJOIN_LIMIT).await?, leader);
    assert_eq!(cluster.node(&leader)?.postmaster_pid()?, postmaster, "PostgreSQL was restarted");
    let outcome = workload.finish(&cluster, &leader).await?;
    assert!(outcome.missing.is_empty(), "{outcome:?}");
    cluster.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_agent_and_postmaster() -> Result<()> {
    let mut cluster = ClusterSpec::new("killboth").start().await?;
    let old = cluster.primary().await?;
    let workload = Workload::start(&cluster, &old).await?;
    workload.more_rows(100, FAILOVER_LIMIT).await?;
    cluster.node_mut(&old)?.kill_host()?;
    let new = cluster.primary_other_than(&old, FAILOVER_LIMIT).await?;
    workload.more_rows(100, FAILOVER_LIMIT).await?;
    cluster.node_mut(&old)?.start()?;
    assert_eq!(cluster.healthy(REJOIN_LIMIT).await?, new);
    let outcome = workload.finish(&cluster, &new).await?;
    measured(&format!("kill -9 of everything on the primary's host: {outcome}"));
    check_loss(&outcome)?;
    cluster.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_agent_loses_its_primary_before_another_is_promoted() -> Result<()> {
    let mut cluster = ClusterSpec::quick("freeze").start().await?;
    let old = cluster.primary().await?;
    let workload = Workload::start(&cluster, &old).await?;
    workload.more_rows(100, FAILOVER_LIMIT).await?;
    let frozen = Instant::now();
    cluster.node_mut(&old)?.signal(Signal::STOP)?;
    let new = cluster.primary_other_than(&old, FAILOVER_LIMIT).await?;
    workload.more_rows(100, FAILOVER_LIMIT).await?;

    let last_of_old = workload.last_accepted_by(&old).context("the old primary accepted writes")?;
    let first_of_new = workload.first_accepted_by(&new, frozen).context("the new primary accepted writes")?;
    assert!(last_of_old < first_of_new, "{old} accepted writes after {new} did");
    measured(&format!(
        "SIGSTOP of the primary's agent (ttl 20): writes end after {:.2} s, {:.2} s before the next primary accepts one",
        last_of_old.duration_since(frozen).as_secs_f64(),
        first_of_new.duration_since(last_of_old).as_secs_f64()
    ));
    let error = cluster.node(&old)?.sql().rows("SELECT 1").await;
    assert!(error.is_err(), "PostgreSQL of the frozen agent still runs");

    cluster.node_mut(&old)?.signal(Signal::CONT)?;
    assert_eq!(cluster.healthy(REJOIN_LIMIT).await?, new);
    let outcome = workload.finish(&cluster, &new).await?;
    measured(&format!("SIGSTOP of the primary's agent: {outcome}"));
    check_loss(&outcome)?;
    cluster.finish()
}

/// No node accepts a write.
async fn nobody_writes(cluster: &Cluster) -> Result<()> {
    for node in &cluster.nodes {
        let written = node.sql().rows("INSERT INTO probe (node) VALUES ('store outage')").await;
        ensure!(written.is_err(), "{} accepts writes", node.name);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_store_there_is_no_primary() -> Result<()> {
    let mut cluster = ClusterSpec::quick("outage").start().await?;
    let old = cluster.primary().await?;
    let workload = Workload::start(&cluster, &old).await?;
    workload.more_rows(100, FAILOVER_LIMIT).await?;
    let stopped = Instant::now();
    cluster.etcd.stop()?;
    let ttl_and_some = Duration::from_secs(30);
    wait_for("the primary to step down", ttl_and_some, || nobody_writes(&cluster)).await?;
    let demoted = stopped.elapsed();
    assert!(demoted < Duration::from_secs(20), "writes ended {demoted:?} after the store, ttl is 20");
    holds_for("no primary without a store", Duration::from_secs(5), || nobody_writes(&cluster)).await?;
    for node in &cluster.nodes {
        assert_eq!(node.rest().code("/primary").await, Some(503), "{}", node.name);
    }

    let resumed = Instant::now();
    cluster.etcd.resume(&cluster.sandbox).await?;
    workload.more_rows(100, FAILOVER_LIMIT).await?;
    let leader = cluster.healthy(REJOIN_LIMIT).await?;
    let outcome = workload.finish(&cluster, &leader).await?;
    measured(&format!(
        "store killed (ttl 20): writes end after {:.2} s; all stream again {:.2} s after its return; {outcome}",
        demoted.as_secs_f64(),
        resumed.elapsed().as_secs_f64()
    ));
    assert!(outcome.missing.is_empty(), "an orderly demotion loses nothing: {outcome:?}");
    cluster.finish()
}

/// Processes of a node whose title contains `words`.
fn processes_titled(node: &Node, words: &str) -> Vec<u32> {
    let title = |pid: &u32| std::fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")).unwrap_or_default();
    node.processes().into_iter().filter(|pid| String::from_utf8_lossy(&title(pid)).contains(words)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_diverged_primary_is_rewound() -> Result<()> {
    let mut cluster = ClusterSpec::quick("diverge").start().await?;
    let old = cluster.primary().await?;
    cluster.node(&old)?.sql().rows("CREATE TABLE kept (id int); INSERT INTO kept VALUES (1)").await?;
    cluster.caught_up(&old, FAILOVER_LIMIT).await?;
    // Replicas stop receiving, so that the next row exists on the old primary alone.
    let receivers: Vec<u32> = cluster.others(&old).flat_map(|node| processes_titled(node, "walreceiver")).collect();
    assert_eq!(receivers.len(), 2, "one walreceiver per replica");
    for pid in &receivers {
        kill_pid(*pid, Signal::STOP)?;
    }
    cluster.node(&old)?.sql().rows("INSERT INTO kept VALUES (2)").await?;
    cluster.node_mut(&old)?.kill_host()?;
    // What the kernel still holds for a receiver must not be read: it finds the order to end first.
    for pid in &receivers {
        kill_pid(*pid, Signal::TERM)?;
        kill_pid(*pid, Signal::CONT)?;
    }

    let new = cluster.primary_other_than(&old, FAILOVER_LIMIT).await?;
    cluster.node(&new)?.sql().rows("INSERT INTO kept VALUES (3)").await?;
    let marker = cluster.node(&old)?.data_dir().join("marker");
    std::fs::write(&marker, "a new copy of the leader would not have this file")?;
    cluster.node_mut(&old)?.start()?;
    assert_eq!(cluster.healthy(REJOIN_LIMIT).await?, new);
    let rows = "SELECT string_agg(id::text, ',' ORDER BY id) FROM kept";
    for node in &cluster.nodes {
        assert_eq!(node.sql().value(rows).await?, "1,3", "{}", node.name);
    }
    let log = cluster.node(&old)?.log();
    assert!(log.contains("pg_rewind"), "the log does not mention pg_rewind");
    cluster.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_hands_over() -> Result<()> {
    let mut cluster = ClusterSpec::new("sigterm").start().await?;
    let old = cluster.primary().await?;
    let workload = Workload::start(&cluster, &old).await?;
    workload.more_rows(100, FAILOVER_LIMIT).await?;
    let code = cluster.node_mut(&old)?.stop().await?;
    assert_eq!(code, Some(0));
    assert!(cluster.node(&old)?.postmaster_pid().is_err(), "PostgreSQL still runs");
    let node = cluster.node(&old)?;
    wait_until("the last process of the node to end", Duration::from_secs(15), || node.processes().is_empty()).await?;
    let new = cluster.primary_other_than(&old, FAILOVER_LIMIT).await?;
    workload.more_rows(100, FAILOVER_LIMIT).await?;
    cluster.node_mut(&old)?.start()?;
    assert_eq!(cluster.healthy(REJOIN_LIMIT).await?, new);
    let outcome = workload.finish(&cluster, &new).await?;
    measured(&format!("SIGTERM of the primary's agent: {outcome}"));
    assert!(outcome.missing.is_empty(), "an orderly stop loses nothing: {outcome:?}");
    assert!(outcome.longest_gap < Duration::from_secs(20), "the lock is released, not waited for: {outcome}");
    cluster.finish()
}
