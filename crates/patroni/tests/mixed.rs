//! Our nodes and the Python program's in one cluster: what a rolling replacement needs.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use testkit::{Cluster, ClusterSpec, Flavour, Workload, measured};

const LIMIT: Duration = Duration::from_secs(75);

/// Both programs list the same cluster in the same words.
async fn same_lists(cluster: &Cluster) -> Result<()> {
    let ours = cluster.node("node1")?;
    let upstream = cluster.node("node3")?;
    let member_rows = |text: String| -> Vec<String> {
        // Positions move between the two reads; the rest must not.
        text.lines().map(|line| line.split('\t').take(6).collect::<Vec<_>>().join("\t")).collect()
    };
    for arguments in [&["list", "-f", "tsv"][..], &["topology"], &["history", "-f", "tsv"], &["show-config"]] {
        let a = ours.ctl(arguments).await?.success()?;
        let b = upstream.ctl(arguments).await?.success()?;
        if arguments.contains(&"list") {
            assert_eq!(member_rows(a), member_rows(b), "patronictl {arguments:?}");
        } else if !arguments.contains(&"topology") {
            assert_eq!(a, b, "patronictl {arguments:?}");
        } else {
            assert_eq!(a.lines().next(), b.lines().next(), "patronictl {arguments:?}");
        }
    }
    for node in [ours, upstream] {
        let members = cluster.members_as_seen_by(node).await?;
        assert_eq!(members.len(), 3, "{} sees {members:?}", node.name);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn switchovers_between_ours_and_upstream() -> Result<()> {
    let flavours = [Flavour::Ours, Flavour::Ours, Flavour::Upstream];
    let cluster = ClusterSpec::quick("mixed").flavours(&flavours).start().await?;
    let mut leader = cluster.primary().await?;
    for (candidate, by) in [("node3", "node1"), ("node1", "node3"), ("node2", "node3"), ("node3", "node3")] {
        if leader == candidate {
            continue;
        }
        let workload = Workload::start(&cluster, &leader).await?;
        let arguments = ["switchover", "batman", "--leader", &leader, "--candidate", candidate, "--force"];
        let said = cluster.node(by)?.ctl(&arguments).await?.success()?;
        assert!(said.contains("switched over"), "{said}");
        assert_eq!(cluster.healthy(LIMIT).await?, candidate);
        let outcome = workload.finish(&cluster, candidate).await?;
        measured(&format!("mixed cluster, switchover from {leader} to {candidate} (node3 is upstream): {outcome}"));
        assert!(outcome.missing.is_empty(), "a switchover loses nothing: {outcome:?}");
        same_lists(&cluster).await?;
        candidate.clone_into(&mut leader);
    }
    cluster.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn ours_takes_over_from_a_dead_upstream_and_back() -> Result<()> {
    let flavours = [Flavour::Ours, Flavour::Ours, Flavour::Upstream];
    let mut cluster = ClusterSpec::quick("mixedkill").flavours(&flavours).start().await?;
    let leader = cluster.primary().await?;
    if leader != "node3" {
        let body = json!({"leader": leader, "candidate": "node3"});
        assert_eq!(cluster.node(&leader)?.rest().post("/switchover", &body).await?.code, 200);
        cluster.healthy(LIMIT).await?;
    }
    let workload = Workload::start(&cluster, "node3").await?;
    workload.more_rows(100, LIMIT).await?;
    cluster.node_mut("node3")?.kill_host()?;
    let ours = cluster.primary_other_than("node3", LIMIT).await?;
    workload.more_rows(100, LIMIT).await?;
    cluster.node_mut("node3")?.start()?;
    assert_eq!(cluster.healthy(LIMIT).await?, ours);
    let outcome = workload.finish(&cluster, &ours).await?;
    measured(&format!("mixed cluster, kill -9 of the upstream primary's host (ttl 20): {outcome}"));

    let body = json!({"leader": ours, "candidate": "node3"});
    assert_eq!(cluster.node(&ours)?.rest().post("/switchover", &body).await?.code, 200);
    assert_eq!(cluster.healthy(LIMIT).await?, "node3");
    cluster.finish()
}
