//! Modes in which the usual rules change: failsafe mode, standby clusters, pause.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use testkit::{ClusterSpec, Flavour, Workload, holds_for, measured, wait_for};

/// One failover with ttl 20, on a busy machine.
const LIMIT: Duration = Duration::from_secs(75);

/// Our nodes and an upstream one agree that the primary outlives the store for longer than its lease.
#[tokio::test(flavor = "multi_thread")]
async fn in_failsafe_mode_the_primary_outlives_the_store() -> Result<()> {
    let flavours = [Flavour::Ours, Flavour::Upstream, Flavour::Ours];
    let spec = ClusterSpec::quick("failsafe").flavours(&flavours).dynamic("failsafe_mode", json!(true));
    let mut cluster = spec.start().await?;
    let leader = cluster.primary().await?;
    let workload = Workload::start(&cluster, &leader).await?;
    workload.more_rows(50, LIMIT).await?;
    wait_for("all members in the failsafe key", LIMIT, || async {
        let members = cluster.node(&leader)?.rest().get("/failsafe").await?.json()?;
        ensure!(members.as_object().is_some_and(|members| members.len() == 3), "{members}");
        Ok(())
    })
    .await?;
    cluster.etcd.stop()?;
    wait_for("everybody in failsafe mode", LIMIT, || async {
        for node in &cluster.nodes {
            let status = node.rest().get("/patroni").await?.json()?;
            ensure!(status["failsafe_mode_is_active"] == json!(true), "{}: {status}", node.name);
        }
        Ok(())
    })
    .await?;
    holds_for("the primary leads without the store", Duration::from_secs(22), || async {
        let code = cluster.node(&leader)?.rest().code("/primary").await;
        ensure!(code == Some(200), "GET /primary says {code:?}");
        Ok(())
    })
    .await?;
    workload.more_rows(50, LIMIT).await?;
    cluster.etcd.resume(&cluster.sandbox).await?;
    assert_eq!(cluster.healthy(LIMIT).await?, leader);
    let outcome = workload.finish(&cluster, &leader).await?;
    measured(&format!("an outage of the store in failsafe mode, {leader} leads (node2 is upstream): {outcome}"));
    assert!(outcome.missing.is_empty(), "{outcome:?}");
    cluster.finish()
}
