//! The agents of a running cluster are replaced by the other program, with the same configuration and data, and back again:
//! PostgreSQL does not notice.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use testkit::{Cluster, ClusterSpec, Flavour, Node, wait_for};

const LIMIT: Duration = Duration::from_secs(60);
/// What an agent writes into a data directory.
const FILES: [&str; 7] = [
    "postgresql.conf",
    "postgresql.base.conf",
    "postgresql.auto.conf",
    "pg_hba.conf",
    "pg_ident.conf",
    "standby.signal",
    "patroni.dynamic.json",
];

/// What must not change on a node: its postmaster, and the files, as text and time of the last writing.
#[derive(Debug, PartialEq)]
struct Untouched {
    postmaster: u32,
    files: BTreeMap<&'static str, (String, SystemTime)>,
}

fn look(node: &Node) -> Result<Untouched> {
    let mut files = BTreeMap::new();
    for name in FILES {
        let path = node.data_dir().join(name);
        if let Ok(text) = fs::read_to_string(&path) {
            files.insert(name, (text, fs::metadata(&path)?.modified()?));
        }
    }
    Ok(Untouched { postmaster: node.postmaster_pid()?, files })
}

/// `resumed`: the cached dynamic configuration no longer says that the cluster is paused.
fn check_untouched(node: &Node, before: &Untouched, resumed: bool) -> Result<()> {
    let now = look(node)?;
    ensure!(now.postmaster == before.postmaster, "PostgreSQL of {} was restarted", node.name);
    for (name, (text, written)) in &before.files {
        if resumed && *name == "patroni.dynamic.json" {
            continue;
        }
        let (text_now, written_now) =
            now.files.get(name).with_context(|| format!("{name} of {} is gone", node.name))?;
        ensure!(text == text_now, "{name} of {} was\n{text}\nand is\n{text_now}", node.name);
        // Upstream writes some files again as they are.
        let ours = node.flavour == Flavour::Ours;
        ensure!(!ours || written == written_now, "{name} of {} was written again with the same text", node.name);
    }
    ensure!(now.files.len() == before.files.len(), "{}: {:?}", node.name, now.files.keys());
    Ok(())
}

/// The way an operator goes: pause, replace the agents, look, resume.
async fn replace_agents(cluster: &mut Cluster, flavour: Flavour, leader: &str) -> Result<()> {
    let said = cluster.nodes[0].ctl(&["pause", "--wait"]).await?.success()?;
    ensure!(said.contains("paused"), "{said}");
    let before: Vec<Untouched> = cluster.nodes.iter().map(look).collect::<Result<_>>()?;
    for index in 0..cluster.nodes.len() {
        cluster.nodes[index].stop().await?;
    }
    let Cluster { nodes, sandbox, .. } = cluster;
    for node in nodes.iter_mut() {
        node.change_flavour(sandbox, flavour)?;
        node.start()?;
    }
    ensure!(cluster.healthy(LIMIT).await? == leader, "the leader has changed");
    same_and_replicating(cluster, &before, leader, false).await?;
    let said = cluster.nodes[0].ctl(&["resume", "--wait"]).await?.success()?;
    ensure!(said.contains("resumed"), "{said}");
    for node in &cluster.nodes {
        // A steady cycle after the resumption: whatever it would change is changed by then.
        let steady = format!("INFO: no action. I am ({})", node.name);
        let already = node.log().matches(&steady).count();
        wait_for(&format!("a steady cycle of {}", node.name), LIMIT, || async {
            ensure!(node.log().matches(&steady).count() > already, "no line {steady:?} yet");
            Ok(())
        })
        .await?;
    }
    ensure!(cluster.healthy(LIMIT).await? == leader, "the leader has changed");
    same_and_replicating(cluster, &before, leader, true).await
}

async fn same_and_replicating(cluster: &Cluster, before: &[Untouched], leader: &str, resumed: bool) -> Result<()> {
    for (node, before) in cluster.nodes.iter().zip(before) {
        check_untouched(node, before, resumed)?;
    }
    cluster.node(leader)?.sql().rows("INSERT INTO kept SELECT count(*) FROM kept").await?;
    cluster.caught_up(leader, LIMIT).await
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_replaced_under_a_running_cluster_and_back() -> Result<()> {
    let mut cluster = ClusterSpec::quick("takeover").flavours(&[Flavour::Upstream; 2]).start().await?;
    let leader = cluster.primary().await?;
    cluster.node(&leader)?.sql().rows("CREATE TABLE kept (id int)").await?;
    replace_agents(&mut cluster, Flavour::Ours, &leader).await?;
    replace_agents(&mut cluster, Flavour::Upstream, &leader).await?;
    cluster.finish()
}
