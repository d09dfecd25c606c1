//! The scripts of `postgresql.callbacks`: all calls on two nodes, from the bootstrap to the stop.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testkit::{Cluster, ClusterSpec, Flavour, Node, wait_for};

/// For things that happen within a few cycles (loop_wait 2), on a busy machine.
const SOON: Duration = Duration::from_secs(40);

/// Scripts that write down what they are told, and that they know no secrets.
fn record_calls(node: &Node) -> Result<()> {
    let mut config = node.config()?;
    let file = node.home().join("calls");
    let command = format!("sh -c 'echo $0 $1 $2 $(env | grep -c ^PATRONI_) >> {}'", file.display());
    for action in ["on_start", "on_stop", "on_restart", "on_reload", "on_role_change"] {
        config["postgresql"]["callbacks"][action] = json!(command);
    }
    node.write_config(&config)
}

/// Waits until a node's scripts have been told these things, in this order and nothing else, since `seen`.
async fn wait_for_calls(node: &Node, seen: &mut usize, expected: &[&str]) -> Result<()> {
    let scope = |call: &&str| format!("{call} batman 0");
    let expected: Vec<String> = expected.iter().map(scope).collect();
    let calls = wait_for(&format!("calls {expected:?} of {}", node.name), SOON, || async {
        let calls = std::fs::read_to_string(node.home().join("calls")).unwrap_or_default();
        let calls: Vec<String> = calls.lines().skip(*seen).map(str::to_owned).collect();
        ensure!(calls.len() >= expected.len(), "{calls:?}");
        Ok(calls)
    })
    .await?;
    ensure!(calls == expected, "{} was told {calls:?} instead of {expected:?}", node.name);
    *seen += calls.len();
    Ok(())
}

async fn start() -> Result<(Cluster, String, String)> {
    let mut cluster = ClusterSpec::quick("callbacks").flavours(&[Flavour::from_env(); 2]).prepare().await?;
    for node in &mut cluster.nodes {
        record_calls(node)?;
        node.start()?;
    }
    let leader = cluster.healthy(Duration::from_secs(120)).await?;
    let other = cluster.others(&leader).next().context("find a second node")?.name.clone();
    Ok((cluster, leader, other))
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_are_told_of_every_change() -> Result<()> {
    let (mut cluster, first, second) = start().await?;
    let (mut of_first, mut of_second) = (0, 0);
    let (a, b) = (cluster.node(&first)?, cluster.node(&second)?);
    wait_for_calls(a, &mut of_first, &["on_start primary"]).await?;
    wait_for_calls(b, &mut of_second, &["on_start replica"]).await?;

    let change = json!({"postgresql": {"parameters": {"work_mem": "5MB"}}});
    assert_eq!(a.rest().patch("/config", &change).await?.code, 200);
    wait_for_calls(a, &mut of_first, &["on_reload primary"]).await?;
    wait_for_calls(b, &mut of_second, &["on_reload replica"]).await?;

    assert_eq!(a.rest().post("/restart", &json!({})).await?.code, 200);
    wait_for_calls(a, &mut of_first, &["on_restart primary"]).await?;
    assert_eq!(b.rest().post("/restart", &json!({})).await?.code, 200);
    wait_for_calls(b, &mut of_second, &["on_restart replica"]).await?;

    cluster.healthy(SOON).await?;
    let request = json!({"leader": first, "candidate": second});
    assert_eq!(a.rest().post("/switchover", &request).await?.code, 200);
    wait_for_calls(a, &mut of_first, &["on_stop demoted", "on_role_change replica"]).await?;
    wait_for_calls(b, &mut of_second, &["on_role_change primary"]).await?;
    cluster.healthy(SOON).await?;

    cluster.node_mut(&first)?.stop().await?;
    wait_for_calls(cluster.node(&first)?, &mut of_first, &["on_stop replica"]).await?;
    cluster.node_mut(&second)?.stop().await?;
    wait_for_calls(cluster.node(&second)?, &mut of_second, &["on_stop primary"]).await?;
    cluster.finish()
}
