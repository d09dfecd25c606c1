//! The helpers, checked with clusters of the program they were not written for.

use std::time::Duration;

use serde_json::json;
use testkit::{ClusterSpec, Flavour, Workload, measured};

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn switchover_of_upstream_nodes() -> anyhow::Result<()> {
    let cluster = ClusterSpec::quick("upstream").flavours(&[Flavour::Upstream; 3]).start().await?;
    let old = cluster.primary().await?;
    let new = cluster.others(&old).next().map(|node| node.name.clone()).expect("three nodes");

    let workload = Workload::start(&cluster, &old).await?;
    let answer = cluster.node(&old)?.rest().post("/switchover", &json!({"leader": old, "candidate": new})).await?;
    assert_eq!((answer.code, answer.text), (200, format!("Successfully switched over to \"{new}\"")));
    assert_eq!(cluster.healthy(LIMIT).await?, new);

    let listed = cluster.node(&old)?.ctl(&["list", "-f", "json"]).await?.json()?;
    assert_eq!(listed.as_array().map(Vec::len), Some(3), "{listed}");
    let outcome = workload.finish(&cluster, &new).await?;
    measured(&format!("upstream switchover: {outcome}"));
    assert!(outcome.missing.is_empty(), "a switchover loses nothing: {outcome:?}");
    cluster.finish()
}
