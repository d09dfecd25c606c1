//! The agent is killed at random moments of everything that takes time, and started again at once. After each operation
//! the cluster must be whole again, with every row it ever acknowledged and a leader that holds the lock.
//!
//! `KILL_LOOP_POINTS` kills at most (14), within `KILL_LOOP_SECONDS` (60), from `KILL_LOOP_SEED`; `make kill-loop` does a
//! hundred. The seed fixes the operations and the delays; what a delay hits depends on the machine.

use std::collections::BTreeMap;
use std::process::Command;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use testkit::{Cluster, ClusterSpec, Flavour, Programs, Sql, Workload, measured, run_to_end};

/// From the last kill of an operation to one leader with all others streaming, on a busy machine.
const WHOLE_LIMIT: Duration = Duration::from_secs(90);
/// Kills of one operation at most.
const KILLS_MAX: u64 = 3;

/// What is interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Operation {
    Bootstrap,
    Clone,
    Rewind,
    Promote,
    Demote,
    Restart,
}

impl Operation {
    const ON_A_CLUSTER: [Operation; 5] =
        [Operation::Clone, Operation::Rewind, Operation::Promote, Operation::Demote, Operation::Restart];

    /// How long it takes, about.
    fn spread_ms(self) -> u64 {
        match self {
            Operation::Bootstrap => 3500,
            Operation::Clone | Operation::Rewind => 2500,
            Operation::Promote | Operation::Demote => 1500,
            Operation::Restart => 1200,
        }
    }

    /// What the agent says at a moment worth hitting.
    fn sentence(self) -> &'static str {
        match self {
            Operation::Bootstrap => "trying to bootstrap a new cluster",
            Operation::Clone => "trying to bootstrap from",
            Operation::Rewind => "running pg_rewind",
            Operation::Promote => "promot",
            Operation::Demote => "manual failover: demoting",
            Operation::Restart => "restart in progress",
        }
    }
}

/// Numbers from a seed (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound.max(1)
    }
}

fn setting<T: FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

struct KillLoop {
    cluster: Cluster,
    random: Random,
    /// Rows that were acknowledged and on every node when an operation began.
    rows: u64,
    kills: BTreeMap<Operation, u64>,
    slowest: Duration,
}

impl KillLoop {
    fn killed(&self) -> u64 {
        self.kills.values().sum()
    }

    /// Kills the agent of `name` up to [`KILLS_MAX`] times, each time after a random delay, from now or from the
    /// operation's sentence in the log, and starts it at once.
    async fn kill(&mut self, operation: Operation, name: &str) -> Result<()> {
        for _ in 0..=self.random.below(KILLS_MAX) {
            if self.random.below(2) == 0 {
                self.await_sentence(operation, name).await?;
                tokio::time::sleep(Duration::from_millis(self.random.below(250))).await;
            } else {
                tokio::time::sleep(Duration::from_millis(self.random.below(operation.spread_ms()))).await;
            }
            let node = self.cluster.node_mut(name)?;
            node.kill_agent().with_context(|| format!("{name} ended by itself during {operation:?}"))?;
            node.start()?;
            *self.kills.entry(operation).or_default() += 1;
        }
        Ok(())
    }

    /// Until the sentence is logged anew, or has had its time.
    async fn await_sentence(&self, operation: Operation, name: &str) -> Result<()> {
        let node = self.cluster.node(name)?;
        let said = || node.log().matches(operation.sentence()).count();
        let (before, started) = (said(), Instant::now());
        while said() == before && started.elapsed() < Duration::from_millis(operation.spread_ms()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// One leader that holds the lock, everybody streams, no row is missing anywhere; then one more row everywhere.
    async fn check_whole(&mut self) -> Result<String> {
        let began = Instant::now();
        let leader = self.cluster.healthy(WHOLE_LIMIT).await?;
        self.slowest = self.slowest.max(began.elapsed());
        ensure!(self.cluster.keys()?["leader"] == leader, "{leader} leads without the lock");
        let insert = format!("INSERT INTO kept VALUES ({})", self.rows);
        self.cluster.node(&leader)?.sql().rows(&insert).await?;
        self.rows += 1;
        self.cluster.caught_up(&leader, WHOLE_LIMIT).await?;
        for node in &self.cluster.nodes {
            let rows = node.sql().value("SELECT count(*) FROM kept").await?;
            ensure!(rows == self.rows.to_string(), "{} has {rows} rows of {}", node.name, self.rows);
        }
        Ok(leader)
    }

    async fn interrupt(&mut self, operation: Operation, leader: &str) -> Result<()> {
        let other = self.cluster.others(leader).next().map(|node| node.name.clone()).context("find a replica")?;
        match operation {
            Operation::Bootstrap => bail!("a cluster that is there is not bootstrapped"),
            Operation::Clone => {
                let rest = self.cluster.node(&other)?.rest();
                let answer = rest.post("/reinitialize", &json!({"force": true})).await?;
                ensure!(answer.code == 200, "{answer:?}");
                self.kill(operation, &other).await
            }
            Operation::Rewind => {
                self.diverge(&other).await?;
                self.cluster.node_mut(&other)?.start()?;
                self.kill(operation, &other).await
            }
            Operation::Promote | Operation::Demote => {
                let request = json!({"leader": leader, "candidate": other});
                let rest = self.cluster.node(if operation == Operation::Promote { leader } else { &other })?.rest();
                // Nobody who may be killed answers it; the outcome is looked at, not the answer.
                let asked = tokio::spawn(async move { rest.post("/switchover", &request).await });
                let target = if operation == Operation::Promote { &other } else { leader };
                let killed = self.kill(operation, target).await;
                asked.abort();
                killed
            }
            Operation::Restart => {
                let target = if self.random.below(2) == 0 { leader.to_owned() } else { other };
                let rest = self.cluster.node(&target)?.rest();
                let asked = tokio::spawn(async move { rest.post("/restart", &json!({})).await });
                let killed = self.kill(operation, &target).await;
                asked.abort();
                killed
            }
        }
    }

    /// Gives a replica a timeline and a row of its own: everything of it is killed, and its PostgreSQL promoted where
    /// nobody can reach it.
    async fn diverge(&mut self, name: &str) -> Result<()> {
        let node = self.cluster.node_mut(name)?;
        node.kill_host()?;
        // A number of the socket that the killed postmaster has no lock file for.
        let (home, data_dir, port) = (node.home().to_owned(), node.data_dir(), 5432);
        let owner = self.cluster.sandbox.owner().clone();
        let bin = Programs::find()?.postgres_bin;
        // Where nobody reaps it, the killed postmaster still counts as running.
        std::fs::remove_file(data_dir.join("postmaster.pid"))?;
        tokio::task::spawn_blocking(move || {
            let run = |program: &str, arguments: &[&str]| -> Result<()> {
                let mut command = Command::new(bin.join(program));
                command.args(arguments).env("PGPASSWORD", "zalando");
                let output = run_to_end(&mut command, &owner, &home)?;
                ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
                Ok(())
            };
            let (data, log) = (data_dir.display().to_string(), home.join("alone.log").display().to_string());
            let options = format!("-p {port} -c listen_addresses='' -c unix_socket_directories={}", home.display());
            run("pg_ctl", &["-D", &data, "-l", &log, "-w", "-o", &options, "start"])?;
            run("pg_ctl", &["-D", &data, "-w", "promote"])?;
            let (host, port) = (home.display().to_string(), port.to_string());
            let insert = "INSERT INTO kept SELECT -1 FROM generate_series(1, 5)";
            run("psql", &["-h", &host, "-p", &port, "-U", "postgres", "-d", "postgres", "-c", insert])?;
            run("pg_ctl", &["-D", &data, "-w", "-m", "immediate", "stop"])
        })
        .await?
    }

    /// The first node makes a cluster and is killed meanwhile; then everything is removed, except after the last round.
    async fn interrupt_bootstraps(&mut self, rounds: u64) -> Result<()> {
        for round in 1..=rounds {
            self.cluster.nodes[0].start()?;
            let name = self.cluster.nodes[0].name.clone();
            self.kill(Operation::Bootstrap, &name).await?;
            let leader = self.cluster.healthy_with(1, WHOLE_LIMIT).await?;
            ensure!(self.cluster.keys()?["leader"] == leader, "{leader} leads without the lock");
            if round < rounds {
                self.cluster.nodes[0].kill_host()?;
                std::fs::remove_dir_all(self.cluster.nodes[0].data_dir())?;
                self.cluster.etcd.etcdctl(&["del", "--prefix", "/service/"])?;
            }
        }
        Ok(())
    }
}

/// Looks at all nodes over and over: whoever accepts writes before and after a look at the lock must hold it.
struct Watch {
    stop: Arc<AtomicBool>,
    found: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<u64>,
}

impl Watch {
    fn start(cluster: &Cluster) -> Watch {
        let nodes: Vec<(String, Sql)> = cluster.nodes.iter().map(|node| (node.name.clone(), node.sql())).collect();
        let port = cluster.etcd.port();
        let (stop, found) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stopped, finds) = (stop.clone(), found.clone());
        let task = tokio::spawn(async move {
            let mut looks = 0;
            while !stopped.load(Ordering::Relaxed) {
                for (name, sql) in &nodes {
                    if let Some(violation) = writable_without_lock(name, sql, port).await {
                        finds.lock().expect("the watch does not panic").push(violation);
                    }
                    looks += 1;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            looks
        });
        Watch { stop, found, task }
    }

    async fn finish(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let looks = self.task.await?;
        let found = self.found.lock().expect("the watch does not panic").clone();
        ensure!(found.is_empty(), "writable without the lock: {found:?}");
        Ok(looks)
    }
}

async fn writable_without_lock(name: &str, sql: &Sql, etcd_port: u16) -> Option<String> {
    // Start time and timeline name one reign; null while the server is a standby.
    let reign = "SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_postmaster_start_time()::text
        || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END";
    let before = sql.value(reign).await.ok()?;
    let holder = tokio::task::spawn_blocking(move || leader_key(etcd_port)).await.ok()?.ok()?;
    let after = sql.value(reign).await.ok()?;
    (before == after && holder != name).then(|| format!("{name} accepts writes while the lock is {holder:?}"))
}

fn leader_key(etcd_port: u16) -> Result<String> {
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").args([
        "--endpoints",
        &format!("127.0.0.1:{etcd_port}"),
        "get",
        "--print-value-only",
    ]);
    let output = command.arg("/service/batman/leader").output()?;
    ensure!(output.status.success(), "etcdctl failed");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_killed_at_any_moment_loses_nothing() -> Result<()> {
    let points: u64 = setting("KILL_LOOP_POINTS", 14);
    let limit = Duration::from_secs(setting("KILL_LOOP_SECONDS", 60));
    let seed: u64 = setting("KILL_LOOP_SEED", 1);
    println!("KILL_LOOP_SEED={seed} KILL_LOOP_POINTS={points}");
    let began = Instant::now();
    let spec = ClusterSpec::quick("killloop").flavours(&[Flavour::Ours; 2]).dynamic("loop_wait", json!(1));
    let cluster = spec.local(json!({"postgresql": {"parameters": {"fsync": "off"}}})).prepare().await?;
    let mut kill_loop =
        KillLoop { cluster, random: Random(seed), rows: 0, kills: BTreeMap::new(), slowest: Duration::ZERO };
    kill_loop.interrupt_bootstraps(1 + points / 25).await?;
    kill_loop.cluster.nodes[1].start()?;
    let first = kill_loop.cluster.healthy(WHOLE_LIMIT).await?;
    kill_loop.cluster.node(&first)?.sql().rows("CREATE TABLE kept (id int)").await?;
    let system_id = kill_loop.cluster.keys()?["initialize"].clone();
    let workload = Workload::start(&kill_loop.cluster, &first).await?;
    let watch = Watch::start(&kill_loop.cluster);

    let mut leader = kill_loop.check_whole().await?;
    let mut round: usize = 0;
    while kill_loop.killed() < points && began.elapsed() < limit {
        // Each in turn, so that a short run has seen all of them.
        let operation = Operation::ON_A_CLUSTER[round % Operation::ON_A_CLUSTER.len()];
        round += 1;
        let at = format!("seed {seed}, operation {round} ({operation:?}), {} kills so far", kill_loop.killed());
        kill_loop.interrupt(operation, &leader).await.with_context(|| at.clone())?;
        leader = kill_loop.check_whole().await.with_context(|| at.clone())?;
        println!("{:6.1} s: {at}: whole again, {leader} leads", began.elapsed().as_secs_f64());
    }
    ensure!(kill_loop.cluster.keys()?["initialize"] == system_id, "the system identifier has changed");
    let looks = watch.finish().await?;
    let outcome = workload.finish(&kill_loop.cluster, &leader).await?;
    ensure!(kill_loop.killed() >= 6, "only {} kills in {limit:?}", kill_loop.killed());
    measured(&format!(
        "kill loop, seed {seed}: {} kills in {:.0} s ({:?}), whole again within {:.1} s; {looks} looks at the lock; {outcome}",
        kill_loop.killed(),
        began.elapsed().as_secs_f64(),
        kill_loop.kills,
        kill_loop.slowest.as_secs_f64()
    ));
    kill_loop.cluster.finish()
}
