//! A cluster: etcd and nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::etcd::Etcd;
use crate::node::{Node, NodeSpec};
use crate::programs::{Flavour, Programs};
use crate::sandbox::Sandbox;
use crate::wait::wait_for;

/// Cluster name.
pub const SCOPE: &str = "batman";
/// How long a cluster may take from nothing to one leader and all replicas streaming, on a busy machine.
const BOOTSTRAP_LIMIT: Duration = Duration::from_secs(120);
const LOG_LINES_MAX: usize = 15;

/// What to start.
#[derive(Clone, Debug)]
pub struct ClusterSpec {
    name: String,
    flavours: Vec<Flavour>,
    dcs: Value,
    local: Value,
}

impl ClusterSpec {
    /// Three nodes of the default flavour with default times (ttl 30, loop_wait 10). `name` becomes part of the
    /// directory's path.
    pub fn new(name: &str) -> ClusterSpec {
        ClusterSpec {
            name: name.to_owned(),
            flavours: vec![Flavour::from_env(); 3],
            dcs: json!({
                "ttl": 30, "loop_wait": 10, "retry_timeout": 10, "maximum_lag_on_failover": 1_048_576,
                "postgresql": {"use_pg_rewind": true, "parameters": {"max_connections": 50}},
            }),
            local: json!({}),
        }
    }

    /// The shortest times the product allows: ttl 20, loop_wait 2, retry_timeout 5.
    pub fn quick(name: &str) -> ClusterSpec {
        let mut spec = ClusterSpec::new(name);
        spec.dcs["ttl"] = json!(20);
        spec.dcs["loop_wait"] = json!(2);
        spec.dcs["retry_timeout"] = json!(5);
        spec
    }

    /// One node per flavour, named `node1` and so on.
    #[must_use]
    pub fn flavours(mut self, flavours: &[Flavour]) -> ClusterSpec {
        self.flavours = flavours.to_vec();
        self
    }

    /// Sets a top-level key of the dynamic configuration.
    #[must_use]
    pub fn dynamic(mut self, key: &str, value: Value) -> ClusterSpec {
        self.dcs[key] = value;
        self
    }

    /// Merged over every node's local configuration (null removes).
    #[must_use]
    pub fn local(mut self, overrides: Value) -> ClusterSpec {
        self.local = overrides;
        self
    }

    /// Starts etcd and places the nodes without starting them.
    pub async fn prepare(&self) -> Result<Cluster> {
        let sandbox = Sandbox::new(&self.name)?;
        let programs = Programs::find()?;
        let etcd = Etcd::start(&sandbox).await?;
        let mut nodes = Vec::new();
        for (index, flavour) in self.flavours.iter().enumerate() {
            let spec =
                NodeSpec { name: format!("node{}", index + 1), flavour: *flavour, overrides: self.local.clone() };
            nodes.push(Node::new(&sandbox, &programs, &spec, SCOPE, etcd.port(), &self.dcs)?);
        }
        Ok(Cluster { nodes, etcd, sandbox, finished: false })
    }

    /// Starts everything; returns when there is one leader and every other node streams.
    pub async fn start(&self) -> Result<Cluster> {
        let mut cluster = self.prepare().await?;
        for node in &mut cluster.nodes {
            node.start()?;
        }
        cluster.healthy(BOOTSTRAP_LIMIT).await?;
        Ok(cluster)
    }
}

/// A row of `GET /cluster`.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Member name.
    pub name: String,
    /// `leader`, `replica`, `sync_standby` and so on.
    pub role: String,
    /// `running`, `streaming` and so on.
    pub state: String,
    /// Timeline.
    pub timeline: Option<u64>,
    /// Bytes behind the leader; `None` for the leader and where unknown.
    pub lag_bytes: Option<u64>,
}

/// A running cluster. Dropping it without [`Cluster::finish`] prints the ends of the logs and keeps the directory.
pub struct Cluster {
    /// The nodes, in the order of the spec. Dropped first.
    pub nodes: Vec<Node>,
    /// The store.
    pub etcd: Etcd,
    /// Where everything lives.
    pub sandbox: Sandbox,
    finished: bool,
}

impl Cluster {
    /// `GET /cluster` of `node`.
    pub async fn members_as_seen_by(&self, node: &Node) -> Result<Vec<Member>> {
        let answer = node.rest().get("/cluster").await?;
        ensure!(answer.code == 200, "GET /cluster of {}: {} {}", node.name, answer.code, answer.text);
        let cluster = answer.json()?;
        let members = cluster["members"].as_array().context("read members of GET /cluster")?;
        let text = |member: &Value, key: &str| member[key].as_str().unwrap_or_default().to_owned();
        Ok(members
            .iter()
            .map(|member| Member {
                name: text(member, "name"),
                role: text(member, "role"),
                state: text(member, "state"),
                timeline: member["timeline"].as_u64(),
                lag_bytes: member["lag"].as_u64(),
            })
            .collect())
    }

    /// `GET /cluster` of the first node that answers.
    pub async fn members(&self) -> Result<Vec<Member>> {
        let mut said = Vec::new();
        for node in &self.nodes {
            match self.members_as_seen_by(node).await {
                Ok(members) => return Ok(members),
                Err(error) => said.push(format!("{error:#}")),
            }
        }
        bail!("no node answers GET /cluster: {}", said.join("; "))
    }

    /// One leader that runs, and `count - 1` replicas that stream on its timeline.
    async fn check_healthy(&self, count: usize) -> Result<String> {
        let members = self.members().await?;
        let leader: Vec<&Member> = members.iter().filter(|member| member.role == "leader").collect();
        let [leader] = leader[..] else { bail!("{} leaders in {members:?}", leader.len()) };
        let streaming = members.iter().filter(|member| {
            member.name != leader.name && member.state == "streaming" && member.timeline == leader.timeline
        });
        ensure!(leader.state == "running" && leader.timeline.is_some(), "the leader does not run: {members:?}");
        ensure!(members.len() == count && streaming.count() == count - 1, "not everybody streams: {members:?}");
        let code = self.node(&leader.name)?.rest().code("/primary").await;
        ensure!(code == Some(200), "GET /primary of the leader {} answers {code:?}", leader.name);
        Ok(leader.name.clone())
    }

    /// Waits until one leader runs and every other node streams from it; the leader's name.
    pub async fn healthy(&self, limit: Duration) -> Result<String> {
        self.healthy_with(self.nodes.len(), limit).await
    }

    /// The same, for a cluster of which only `count` members are there.
    pub async fn healthy_with(&self, count: usize, limit: Duration) -> Result<String> {
        let what = format!("one leader and {} streaming replicas", count.saturating_sub(1));
        wait_for(&what, limit, || self.check_healthy(count)).await
    }

    /// The only node that answers `GET /primary` with 200.
    pub async fn primary(&self) -> Result<String> {
        let mut primaries = Vec::new();
        for node in &self.nodes {
            if node.rest().code("/primary").await == Some(200) {
                primaries.push(node.name.clone());
            }
        }
        match &primaries[..] {
            [one] => Ok(one.clone()),
            several => bail!("{} nodes answer GET /primary with 200: {several:?}", several.len()),
        }
    }

    /// Waits until a node other than `old` answers `GET /primary`; its name.
    pub async fn primary_other_than(&self, old: &str, limit: Duration) -> Result<String> {
        wait_for(&format!("a primary other than {old}"), limit, || async {
            let name = self.primary().await?;
            ensure!(name != old, "{name} is the primary");
            Ok(name)
        })
        .await
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|node| node.name == name).with_context(|| format!("no node {name}"))
    }

    /// A node by name.
    pub fn node_mut(&mut self, name: &str) -> Result<&mut Node> {
        self.nodes.iter_mut().find(|node| node.name == name).with_context(|| format!("no node {name}"))
    }

    /// Nodes other than `name`.
    pub fn others(&self, name: &str) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |node| node.name != name)
    }

    /// The cluster's keys in the store, without the common prefix.
    pub fn keys(&self) -> Result<BTreeMap<String, String>> {
        let prefix = format!("/service/{SCOPE}/");
        let keys = self.etcd.keys(&prefix)?;
        Ok(keys.into_iter().map(|(key, value)| (key.trim_start_matches(&prefix).to_owned(), value)).collect())
    }

    /// `pg_current_wal_lsn()` and such agree: every replica has replayed what the leader has written by now.
    pub async fn caught_up(&self, leader: &str, limit: Duration) -> Result<()> {
        let position = self.node(leader)?.sql().value("SELECT pg_current_wal_lsn()").await?;
        for node in self.others(leader) {
            let query = format!("SELECT pg_last_wal_replay_lsn() >= '{position}'::pg_lsn");
            wait_for(&format!("{} to replay {position}", node.name), limit, || async {
                let answer = node.sql().value(&query).await?;
                ensure!(answer == "t", "it has not");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// The end of a successful test: no agent panicked; everything is removed.
    pub fn finish(mut self) -> Result<()> {
        for node in &self.nodes {
            let log = node.log();
            ensure!(!log.contains("panicked at"), "the agent of {} panicked: see {:?}", node.name, node.home());
        }
        self.finished = true;
        self.sandbox.finish();
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        for node in &self.nodes {
            let log = node.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_LINES_MAX)..];
            eprintln!("--- end of the log of {}\n{}", node.name, tail.join("\n"));
        }
    }
}
