//! Three database hosts and three members of the store: programs, their configuration, and what a client may ask.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use testkit::{Flavour, Owner, Running, kill_pid, site_packages};
use tokio_postgres::{Client, Config, NoTls};

use crate::net::{Host, Net};
use crate::stage::{Disk, Stage};

/// Database hosts of a run.
pub const NODES: usize = 3;
/// Members of the store.
pub const STORES: usize = 3;
const PG_PORT: u16 = 5432;
const REST_PORT: u16 = 8008;
const SUPERUSER: (&str, &str) = ("postgres", "chaos");
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
const REST_LIMIT: Duration = Duration::from_secs(2);
/// Lets one process have a calendar of its own; from Debian's `faketime`.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// How commits are protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Asynchronous replication.
    Asynchronous,
    /// `synchronous_mode: on`, strict.
    Synchronous,
    /// `synchronous_mode: quorum`, strict.
    Quorum,
}

/// Programs of one flavour.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Whose agents run.
    pub flavour: Flavour,
    /// The directory of `patroni` (ours), or of a virtualenv (upstream's).
    pub directory: PathBuf,
    /// The directory of `postgres`.
    pub postgres_bin: PathBuf,
}

/// One database host.
pub struct Node {
    /// Its disk.
    pub disk: Disk,
    host: Host,
    agent: Option<Running>,
}

/// The cluster.
pub struct Cluster {
    /// The network between hosts.
    pub net: Net,
    /// The database hosts.
    pub nodes: Vec<Node>,
    programs: Programs,
    owner: Owner,
    stores: Vec<Option<Running>>,
    home: PathBuf,
    http: reqwest::Client,
}

impl Cluster {
    /// Makes hosts and starts everything on them.
    pub fn start(stage: &mut Stage, programs: Programs, mode: Mode) -> Result<Cluster> {
        let owner = Owner::detect()?;
        let hosts = (0..NODES).map(Host::Db).chain((0..STORES).map(Host::Store)).collect();
        let net = Net::new(hosts)?;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().pool_max_idle_per_host(0).timeout(REST_LIMIT).build()?;
        let home = stage.path().to_owned();
        let mut cluster = Cluster { net, nodes: Vec::new(), programs, owner, stores: Vec::new(), home, http };
        for index in 0..STORES {
            stage.directory(&format!("store{index}"), &Owner::tester())?;
            cluster.stores.push(None);
            cluster.start_store(index)?;
        }
        for index in 0..NODES {
            let disk = stage.disk(&format!("db{index}"), &cluster.owner)?;
            cluster.nodes.push(Node { disk, host: Host::Db(index), agent: None });
            cluster.configure(index, mode)?;
            cluster.start_agent(index)?;
        }
        Ok(cluster)
    }

    /// Starts a member of the store; it finds the data it had.
    pub fn start_store(&mut self, index: usize) -> Result<()> {
        let home = self.home.join(format!("store{index}"));
        let url = |index: usize, port: u16| format!("http://{}:{port}", self.net.address(Host::Store(index)));
        let all: Vec<String> = (0..STORES).map(|index| format!("s{index}={}", url(index, 2380))).collect();
        let mut command = self.command(Host::Store(index));
        command.args(["etcd", "--name", &format!("s{index}"), "--data-dir"]).arg(home.join("data"));
        command.args(["--listen-client-urls", &url(index, 2379), "--advertise-client-urls", &url(index, 2379)]);
        command.args(["--listen-peer-urls", &url(index, 2380), "--initial-advertise-peer-urls", &url(index, 2380)]);
        command.args(["--initial-cluster", &all.join(","), "--log-level", "warn", "--logger", "zap"]);
        let running = Running::start(&mut command, &Owner::tester(), &home, &home.join("log"))?;
        self.stores[index] = Some(running);
        Ok(())
    }

    /// A command inside a host's network.
    fn command(&self, host: Host) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.net.namespace(host)]);
        command
    }

    /// The same, as the user whom servers run as.
    fn command_of_owner(&self, host: Host) -> Command {
        let mut command = self.command(host);
        if let Some((uid, gid)) = self.owner.ids() {
            command.args(["setpriv", "--reuid", &uid.to_string(), "--regid", &gid.to_string(), "--clear-groups"]);
        }
        command
    }

    fn configure(&self, index: usize, mode: Mode) -> Result<()> {
        let home = self.nodes[index].disk.path();
        let path = home.join("patroni.yml");
        fs::write(&path, format!("{:#}\n", self.config(index, mode))).with_context(|| format!("write {path:?}"))?;
        fs::write(self.calendar(index), "+0\n")?;
        self.owner.give(&self.calendar(index))?;
        self.owner.give(&path)
    }

    fn config(&self, index: usize, mode: Mode) -> Value {
        let home = self.nodes[index].disk.path();
        let address = self.net.address(Host::Db(index));
        let stores: Vec<String> =
            (0..STORES).map(|index| format!("{}:2379", self.net.address(Host::Store(index)))).collect();
        let synchronous = match mode {
            Mode::Asynchronous => json!(false),
            Mode::Synchronous => json!(true),
            Mode::Quorum => json!("quorum"),
        };
        json!({
            "scope": "chaos",
            "name": format!("db{index}"),
            "restapi": {"listen": format!("{address}:{REST_PORT}"), "connect_address": format!("{address}:{REST_PORT}")},
            "etcd3": {"hosts": stores},
            "bootstrap": {
                "dcs": {
                    "ttl": 20, "loop_wait": 5, "retry_timeout": 5,
                    "synchronous_mode": synchronous, "synchronous_mode_strict": mode != Mode::Asynchronous,
                    "postgresql": {"use_pg_rewind": true, "parameters": {"max_wal_size": "160MB", "min_wal_size": "80MB", "wal_keep_size": "64MB"}},
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}, "data-checksums"],
            },
            "postgresql": {
                "listen": format!("{address}:{PG_PORT}"),
                "connect_address": format!("{address}:{PG_PORT}"),
                "data_dir": home.join("data"),
                "bin_dir": self.programs.postgres_bin,
                "pgpass": home.join("pgpass"),
                "authentication": {
                    "superuser": {"username": SUPERUSER.0, "password": SUPERUSER.1},
                    "replication": {"username": "replicator", "password": "chaos-rep"},
                    "rewind": {"username": "rewind_user", "password": "chaos-rewind"},
                },
                "parameters": {
                    "unix_socket_directories": home, "shared_buffers": "16MB",
                    "logging_collector": "on", "log_directory": "log", "log_filename": "postgresql.log",
                },
                "pg_hba": [
                    "local all all scram-sha-256",
                    format!("host replication replicator {} scram-sha-256", self.net.subnet()),
                    format!("host all all {} scram-sha-256", self.net.subnet()),
                ],
            },
        })
    }

    fn calendar(&self, index: usize) -> PathBuf {
        self.nodes[index].disk.path().join("calendar")
    }

    /// Whether hosts can have calendars of their own here.
    pub fn has_calendars(&self) -> bool {
        Path::new(FAKETIME).exists()
    }

    /// Steps the calendar of the agent and the PostgreSQL of a host, by seconds from the true time.
    pub fn step_calendar(&self, index: usize, seconds: i64) -> Result<()> {
        fs::write(self.calendar(index), format!("{seconds:+}\n")).context("write the calendar's offset")
    }

    /// Starts the agent of a host, if it does not run.
    pub fn start_agent(&mut self, index: usize) -> Result<()> {
        if self.agent_runs(index) {
            return Ok(());
        }
        let home = self.nodes[index].disk.path().to_owned();
        let mut command = self.command_of_owner(self.nodes[index].host);
        command.arg("env");
        if self.has_calendars() {
            command.arg(format!("LD_PRELOAD={FAKETIME}")).arg("DONT_FAKE_MONOTONIC=1").arg("FAKETIME_CACHE_DURATION=1");
            command.arg(format!("FAKETIME_TIMESTAMP_FILE={}", self.calendar(index).display()));
        }
        match self.programs.flavour {
            Flavour::Ours => command.arg(self.programs.directory.join("patroni")),
            Flavour::Upstream => {
                // The scripts of a virtualenv name an interpreter that may be unreachable for the servers' user.
                command.arg(format!("PYTHONPATH={}", site_packages(&self.programs.directory)?.display()));
                command.arg("PYTHONDONTWRITEBYTECODE=1").arg("/usr/bin/python3");
                command.arg(self.programs.directory.join("bin/patroni"))
            }
        };
        command.arg(home.join("patroni.yml"));
        self.nodes[index].agent = Some(Running::start(&mut command, &Owner::tester(), &home, &home.join("log"))?);
        Ok(())
    }

    /// Sends the agent of a host a signal.
    pub fn signal_agent(&mut self, index: usize, signal: Signal) -> Result<()> {
        let agent = self.nodes[index].agent.as_mut().context("the agent was never started")?;
        ensure!(agent.ended()?.is_none(), "the agent of db{index} has ended by itself");
        agent.signal(signal)?;
        if signal == Signal::KILL {
            let _ = agent.kill();
        }
        Ok(())
    }

    fn agent_runs(&mut self, index: usize) -> bool {
        self.nodes[index].agent.as_mut().is_some_and(|agent| agent.ended().is_ok_and(|status| status.is_none()))
    }

    /// SIGKILL to the postmaster of a host.
    pub fn kill_postmaster(&self, index: usize) -> Result<()> {
        let path = self.nodes[index].disk.path().join("data/postmaster.pid");
        let text = fs::read_to_string(&path).with_context(|| format!("read {path:?}"))?;
        let pid = text.lines().next().and_then(|line| line.trim().parse().ok()).context("a process id")?;
        kill_pid(pid, Signal::KILL)
    }

    /// `pg_ctl promote`, without anybody's leave.
    pub fn promote(&self, index: usize) -> Result<()> {
        let mut command = self.command_of_owner(self.nodes[index].host);
        command.arg(self.programs.postgres_bin.join("pg_ctl")).args(["promote", "--no-wait", "-D"]);
        crate::net::run(command.arg(self.nodes[index].disk.path().join("data")))
    }

    /// What clients need to know.
    pub fn book(&self) -> Book {
        let addresses = (0..NODES).map(|index| self.net.address(Host::Db(index))).collect();
        Book { addresses, http: self.http.clone() }
    }
}

/// How clients reach nodes.
#[derive(Clone, Debug)]
pub struct Book {
    addresses: Vec<String>,
    http: reqwest::Client,
}

impl Book {
    /// Connects to a node's PostgreSQL.
    pub async fn connect(&self, node: usize) -> Result<Client> {
        let mut config = Config::new();
        config.host(&self.addresses[node]).port(PG_PORT).dbname("postgres").connect_timeout(CONNECT_LIMIT);
        config.user(SUPERUSER.0).password(SUPERUSER.1).tcp_user_timeout(CONNECT_LIMIT);
        let (client, connection) = tokio::time::timeout(CONNECT_LIMIT, config.connect(NoTls)).await??;
        tokio::spawn(connection);
        Ok(client)
    }

    /// The status code of `GET /primary`.
    pub async fn is_primary(&self, node: usize) -> bool {
        let url = format!("http://{}:{REST_PORT}/primary", self.addresses[node]);
        self.http.get(url).send().await.is_ok_and(|answer| answer.status().is_success())
    }

    /// The node that answers `GET /primary` with 200; with several the first.
    pub async fn primary(&self) -> Option<usize> {
        for node in 0..self.addresses.len() {
            if self.is_primary(node).await {
                return Some(node);
            }
        }
        None
    }

    /// `GET /cluster` of a node.
    pub async fn cluster(&self, node: usize) -> Result<Value> {
        let url = format!("http://{}:{REST_PORT}/cluster", self.addresses[node]);
        let text = self.http.get(url).send().await?.text().await?;
        serde_json::from_str(&text).context("read /cluster")
    }

    /// POST with a JSON body; the status code.
    pub async fn post(&self, node: usize, path: &str, body: &Value) -> Result<u16> {
        let url = format!("http://{}:{REST_PORT}{path}", self.addresses[node]);
        let request = self.http.post(url).timeout(Duration::from_secs(60));
        Ok(request.header("content-type", "application/json").body(body.to_string()).send().await?.status().as_u16())
    }

    /// One primary, and every other member streams from it on its timeline, as each node's `/cluster` has it.
    ///
    /// # Errors
    /// What is not so.
    pub async fn healthy(&self) -> Result<usize> {
        let primary = self.primary().await.context("nobody says it is the primary")?;
        let cluster = self.cluster(primary).await?;
        let members = cluster["members"].as_array().context("members")?;
        ensure!(members.len() == self.addresses.len(), "{} members", members.len());
        for member in members {
            let state = member["state"].as_str().unwrap_or_default();
            let expected = if member["role"] == "leader" { "running" } else { "streaming" };
            ensure!(state == expected, "{} is {state}", member["name"]);
            ensure!(member["timeline"] == members[0]["timeline"], "{} is on another timeline", member["name"]);
        }
        Ok(primary)
    }
}
