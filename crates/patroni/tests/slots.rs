//! Replication slots over a failover: a consumer of logical changes goes on without loss, and standbys find their slots.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Cluster, ClusterSpec, Flavour, Node, wait_for};

/// For things that happen within a few cycles (loop_wait 2), on a busy machine.
const SOON: Duration = Duration::from_secs(40);

fn spec() -> ClusterSpec {
    let parameters = json!({"max_connections": 50, "wal_level": "logical"});
    ClusterSpec::quick("slots")
        .flavours(&[Flavour::from_env(); 2])
        .dynamic("postgresql", json!({"use_pg_rewind": true, "parameters": parameters}))
        .dynamic(
            "slots",
            json!({
                "cdc": {"type": "logical", "database": "postgres", "plugin": "test_decoding"},
                "archive": {"type": "physical"},
            }),
        )
}

/// Name, confirmed position of logical and oldest WAL of physical slots.
async fn slots_of(node: &Node) -> Result<Vec<(String, String)>> {
    let query =
        "SELECT slot_name, coalesce(confirmed_flush_lsn, restart_lsn)::text FROM pg_replication_slots ORDER BY 1";
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    Ok(node.sql().rows(query).await?.iter().map(|row| (text(&row[0]), text(&row[1]))).collect())
}

async fn wait_for_slots(node: &Node, expected: &[&str]) -> Result<()> {
    wait_for(&format!("slots {expected:?} on {}", node.name), SOON, || async {
        let slots = slots_of(node).await?;
        let names: Vec<&str> = slots.iter().map(|(name, _)| name.as_str()).collect();
        ensure!(names == expected, "there are {slots:?}");
        Ok(())
    })
    .await
}

/// Takes the changes there are; numbers that were inserted.
async fn consume(node: &Node) -> Result<BTreeSet<u64>> {
    let rows = node.sql().rows("SELECT data FROM pg_logical_slot_get_changes('cdc', NULL, NULL)").await?;
    let number = |row: &Vec<Option<String>>| row[0].as_ref()?.split("x[bigint]:").nth(1)?.parse().ok();
    Ok(rows.iter().filter_map(number).collect())
}

async fn insert(node: &Node, from: u64, to: u64) -> Result<()> {
    let numbers = format!("INSERT INTO t SELECT generate_series({from}::bigint, {to})");
    node.sql().rows(&numbers).await.map(|_| ())
}

/// The standby's slot is where the consumer is, and PostgreSQL keeps what it needs.
async fn wait_until_safe(cluster: &Cluster, leader: &Node, standby: &Node) -> Result<()> {
    let position = slots_of(leader).await?.into_iter().find(|(name, _)| name == "cdc").context("find the slot")?.1;
    wait_for(&format!("the slot on {} to reach {position}", standby.name), SOON, || async {
        // Slots move at records that list the running transactions, which a checkpoint writes.
        leader.sql().rows("CHECKPOINT").await?;
        let reached =
            format!("SELECT confirmed_flush_lsn >= '{position}' FROM pg_replication_slots WHERE slot_name = 'cdc'");
        let reached = standby.sql().value(&reached).await?;
        ensure!(reached == "t", "it is at {:?}", slots_of(standby).await?);
        let safe = standby.log().lines().any(|line| line.contains("safe to be used after a failover"));
        ensure!(safe, "it is not said to be safe");
        Ok(())
    })
    .await?;
    let status: Value = serde_json::from_str(&cluster.keys()?["status"])?;
    ensure!(status["slots"]["cdc"].is_u64() && status["slots"]["archive"].is_u64(), "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_goes_on_without_loss_after_a_failover() -> Result<()> {
    let mut cluster = spec().start().await?;
    let (old, new) = {
        let name = cluster.primary().await?;
        let other = cluster.others(&name).next().context("find a second node")?.name.clone();
        (name, other)
    };
    let (leader, standby) = (cluster.node(&old)?, cluster.node(&new)?);
    wait_for_slots(leader, &["archive", "cdc", &new]).await?;
    wait_for_slots(standby, &["archive", "cdc", &old]).await?;
    assert_eq!(standby.sql().value("SHOW hot_standby_feedback").await?, "on");

    leader.sql().rows("CREATE TABLE t (x bigint)").await?;
    insert(leader, 1, 50).await?;
    assert_eq!(consume(leader).await?, (1..=50).collect());
    wait_until_safe(&cluster, leader, standby).await?;
    insert(leader, 51, 100).await?;
    cluster.caught_up(&old, SOON).await?;

    cluster.node_mut(&old)?.kill_host()?;
    // What the end of the lease does, without waiting for it: nothing is left of the old leader.
    cluster.etcd.etcdctl(&["del", "/service/batman/leader"])?;
    cluster.primary_other_than(&old, SOON).await?;
    let leader = cluster.node(&new)?;
    insert(leader, 101, 150).await?;
    let seen = consume(leader).await?;
    let missing: Vec<u64> = (51..=150).filter(|number| !seen.contains(number)).collect();
    assert!(missing.is_empty(), "lost {missing:?}");
    assert!(!leader.log().contains("unsafe to use after promote"), "the slot was said to be unsafe");
    // Its consumer is expected back, whether or not its record has expired.
    wait_for_slots(leader, &["archive", "cdc", &old]).await?;

    cluster.node_mut(&old)?.start()?;
    cluster.healthy(SOON).await?;
    wait_for_slots(cluster.node(&old)?, &["archive", "cdc", &new]).await?;
    cluster.finish()
}
