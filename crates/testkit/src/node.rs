//! One node: an agent, its configuration and its PostgreSQL.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::ctl::{CtlOutput, run_ctl};
use crate::ports::free_port;
use crate::process::{Running, in_directory, kill_all_in, kill_pid};
use crate::programs::{Flavour, Installed, Programs};
use crate::rest::Rest;
use crate::sandbox::{Owner, Sandbox};
use crate::sql::Sql;
use crate::wait::wait_until;

/// Superuser and password of every cluster here.
pub const SUPERUSER: (&str, &str) = ("postgres", "zalando");
const END_LIMIT: Duration = Duration::from_secs(60);

/// What distinguishes one node from another.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Member name.
    pub name: String,
    /// Whose agent.
    pub flavour: Flavour,
    /// Merged over the node's local configuration (null removes).
    pub overrides: Value,
}

/// A node in a sandbox. Its processes are killed with the sandbox.
pub struct Node {
    /// Member name.
    pub name: String,
    /// Whose agent.
    pub flavour: Flavour,
    /// Port of PostgreSQL on 127.0.0.1.
    pub pg_port: u16,
    /// Port of the REST API on 127.0.0.1.
    pub rest_port: u16,
    home: PathBuf,
    owner: Owner,
    programs: Installed,
    agent: Option<Running>,
}

impl Node {
    /// Places programs and writes the configuration; starts nothing.
    pub fn new(
        sandbox: &Sandbox,
        programs: &Programs,
        spec: &NodeSpec,
        scope: &str,
        etcd_port: u16,
        dcs: &Value,
    ) -> Result<Node> {
        let home = sandbox.directory(&spec.name)?;
        let installed = programs.install(spec.flavour, sandbox, &home)?;
        let node = Node {
            name: spec.name.clone(),
            flavour: spec.flavour,
            pg_port: free_port(),
            rest_port: free_port(),
            home,
            owner: sandbox.owner().clone(),
            programs: installed,
            agent: None,
        };
        let mut config = node.default_config(programs, scope, etcd_port, dcs);
        merge(&mut config, &spec.overrides);
        node.write_config(&config)?;
        Ok(node)
    }

    fn default_config(&self, programs: &Programs, scope: &str, etcd_port: u16, dcs: &Value) -> Value {
        let rest = format!("127.0.0.1:{}", self.rest_port);
        let postgres = format!("127.0.0.1:{}", self.pg_port);
        json!({
            "scope": scope,
            "name": self.name,
            "restapi": {"listen": rest, "connect_address": rest},
            "etcd3": {"host": format!("127.0.0.1:{etcd_port}")},
            "bootstrap": {
                "dcs": dcs,
                "initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}, "data-checksums"],
            },
            "postgresql": {
                "listen": postgres,
                "connect_address": postgres,
                "data_dir": self.data_dir(),
                "bin_dir": programs.postgres_bin,
                "pgpass": self.home.join("pgpass"),
                "authentication": {
                    "superuser": {"username": SUPERUSER.0, "password": SUPERUSER.1},
                    "replication": {"username": "replicator", "password": "rep-pass"},
                    "rewind": {"username": "rewind_user", "password": "rewind_password"},
                },
                "parameters": {"unix_socket_directories": self.home, "shared_buffers": "16MB"},
                "pg_hba": [
                    "local all all scram-sha-256",
                    "host replication replicator 127.0.0.1/32 scram-sha-256",
                    "host all all 127.0.0.1/32 scram-sha-256",
                ],
            },
        })
    }

    /// From the next start on the agent is the other program, with the same configuration and data.
    pub fn change_flavour(&mut self, sandbox: &Sandbox, flavour: Flavour) -> Result<()> {
        self.programs = Programs::find()?.install(flavour, sandbox, &self.home)?;
        self.flavour = flavour;
        Ok(())
    }

    /// The node's directory: configuration, data directory, log.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// PGDATA.
    pub fn data_dir(&self) -> PathBuf {
        self.home.join("data")
    }

    /// The configuration file (JSON, which is YAML).
    pub fn config_path(&self) -> PathBuf {
        self.home.join("patroni.yml")
    }

    /// The configuration as it is on disk.
    pub fn config(&self) -> Result<Value> {
        let text = fs::read_to_string(self.config_path())?;
        serde_json::from_str(&text).context("read the node's configuration")
    }

    /// Writes the configuration; the agent reads it at start and on SIGHUP.
    pub fn write_config(&self, config: &Value) -> Result<()> {
        let path = self.config_path();
        fs::write(&path, format!("{config:#}\n")).with_context(|| format!("write {path:?}"))?;
        self.owner.give(&path)
    }

    /// Merges into the configuration file (null removes).
    pub fn change_config(&self, patch: &Value) -> Result<()> {
        let mut config = self.config()?;
        merge(&mut config, patch);
        self.write_config(&config)
    }

    /// Starts the agent.
    pub fn start(&mut self) -> Result<()> {
        self.start_with(&[])
    }

    /// Starts the agent with more variables in its environment.
    pub fn start_with(&mut self, variables: &[(&str, &str)]) -> Result<()> {
        let mut command = self.programs.command("patroni")?;
        command.arg(self.config_path()).envs(variables.iter().copied());
        self.agent = Some(Running::start(&mut command, &self.owner, &self.home, &self.home.join("log"))?);
        Ok(())
    }

    /// Starts the agent as `owner` with the given arguments and waits until it ends by itself; its exit code and what
    /// it wrote. The node's own log is not touched.
    pub async fn run_to_end(&self, owner: &Owner, arguments: &[&OsStr], limit: Duration) -> Result<(i32, String)> {
        let mut command = self.programs.command("patroni")?;
        command.args(arguments);
        let directory = tempfile::tempdir().context("create a directory for the output")?;
        let mut agent = Running::start(&mut command, owner, &self.home, &directory.path().join("output"))?;
        tokio::task::spawn_blocking(move || {
            let ended = agent.wait(limit);
            let output = agent.output();
            let status = ended.with_context(|| format!("it wrote: {output}"))?;
            Ok((status.code().unwrap_or(-1), output))
        })
        .await?
    }

    /// The running agent.
    pub fn agent(&mut self) -> Result<&mut Running> {
        let name = &self.name;
        self.agent.as_mut().with_context(|| format!("the agent of {name} is not running"))
    }

    /// Sends the agent a signal.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.agent()?.signal(signal)
    }

    /// SIGTERM, and waits for its end; the exit code.
    pub async fn stop(&mut self) -> Result<Option<i32>> {
        let mut agent = self.agent.take().context("the agent is not running")?;
        agent.signal(Signal::TERM)?;
        let status = tokio::task::spawn_blocking(move || agent.wait(END_LIMIT)).await??;
        Ok(status.code())
    }

    /// SIGKILL to the agent alone.
    pub fn kill_agent(&mut self) -> Result<()> {
        self.agent.take().context("the agent is not running")?.kill()
    }

    /// SIGKILL to the postmaster alone, and waits until it is gone; its children notice and end. Its process id.
    pub async fn kill_postmaster(&self) -> Result<u32> {
        let pid = self.postmaster_pid()?;
        kill_pid(pid, Signal::KILL)?;
        wait_until(&format!("postmaster {pid} to end"), END_LIMIT, || !self.processes().contains(&pid)).await?;
        Ok(pid)
    }

    /// SIGKILL to everything of this node, as if the machine had died.
    pub fn kill_host(&mut self) -> Result<()> {
        kill_all_in(&self.home)?;
        self.agent = None;
        Ok(())
    }

    /// The process id of the running postmaster.
    pub fn postmaster_pid(&self) -> Result<u32> {
        let path = self.data_dir().join("postmaster.pid");
        let text = fs::read_to_string(&path).with_context(|| format!("read {path:?}"))?;
        let pid =
            text.lines().next().unwrap_or_default().trim().parse().context("read the process id of the postmaster")?;
        if in_directory(&self.data_dir()).contains(&pid) {
            Ok(pid)
        } else {
            bail!("process {pid} of {path:?} does not run in {:?}", self.data_dir())
        }
    }

    /// Processes of this node.
    pub fn processes(&self) -> Vec<u32> {
        in_directory(&self.home)
    }

    /// The REST API.
    pub fn rest(&self) -> Rest {
        Rest { port: self.rest_port }
    }

    /// PostgreSQL, as superuser.
    pub fn sql(&self) -> Sql {
        Sql::superuser(self.pg_port)
    }

    /// What the agent has written so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.home.join("log")).unwrap_or_default()
    }

    /// Runs `patronictl` of this node's flavour with this node's configuration.
    pub async fn ctl(&self, arguments: &[&str]) -> Result<CtlOutput> {
        let (programs, owner, home) = (self.programs.clone(), self.owner.clone(), self.home.clone());
        let config = self.config_path();
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        tokio::task::spawn_blocking(move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            run_ctl(&programs, &owner, &home, &config, &arguments)
        })
        .await?
    }
}

/// Merges `patch` into `target`: null removes, objects merge, anything else replaces.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else { return };
    if !target.is_object() {
        *target = json!({});
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        match value {
            Value::Null => {
                target.shift_remove(key);
            }
            Value::Object(_) => merge(target.entry(key.clone()).or_insert(json!({})), value),
            other => {
                target.insert(key.clone(), other.clone());
            }
        }
    }
}
