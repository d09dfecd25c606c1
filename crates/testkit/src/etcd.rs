//! A single etcd server.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::ports::free_port;
use crate::process::Running;
use crate::sandbox::Sandbox;
use crate::wait::wait_for;

const START_LIMIT: Duration = Duration::from_secs(20);

/// etcd with its data in a sandbox. Stopping keeps the data.
pub struct Etcd {
    port: u16,
    command: Vec<String>,
    home: std::path::PathBuf,
    running: Option<Running>,
}

impl Etcd {
    /// Starts a new, empty server.
    pub async fn start(sandbox: &Sandbox) -> Result<Etcd> {
        let home = sandbox.directory("etcd")?;
        let (port, peer) = (free_port(), free_port());
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let command = [
            ("--name", "etcd".to_owned()),
            ("--data-dir", home.join("data").display().to_string()),
            ("--listen-client-urls", url(port)),
            ("--advertise-client-urls", url(port)),
            ("--listen-peer-urls", url(peer)),
            ("--initial-advertise-peer-urls", url(peer)),
            ("--initial-cluster", format!("etcd={}", url(peer))),
            ("--log-level", "warn".to_owned()),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect();
        let mut etcd = Etcd { port, command, home, running: None };
        etcd.resume(sandbox).await?;
        Ok(etcd)
    }

    /// Client port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// SIGKILL: nobody is told.
    pub fn stop(&mut self) -> Result<()> {
        match self.running.take() {
            Some(mut running) => running.kill(),
            None => Ok(()),
        }
    }

    /// Starts it (again), on the same data and port.
    pub async fn resume(&mut self, sandbox: &Sandbox) -> Result<()> {
        let mut command = Command::new("etcd");
        command.args(&self.command);
        self.running = Some(Running::start(&mut command, sandbox.owner(), &self.home, &self.home.join("log"))?);
        wait_for("etcd to answer", START_LIMIT, || async { self.keys("/").map(|_| ()) }).await
    }

    /// All keys below `prefix` with their values, read through `etcdctl`.
    pub fn keys(&self, prefix: &str) -> Result<BTreeMap<String, String>> {
        let text = self.etcdctl(&["get", "--prefix", prefix])?;
        let mut lines = text.lines();
        let mut keys = BTreeMap::new();
        while let Some(key) = lines.next() {
            keys.insert(key.to_owned(), lines.next().unwrap_or_default().to_owned());
        }
        Ok(keys)
    }

    /// Writes a key.
    pub fn put(&self, key: &str, value: &str) -> Result<()> {
        self.etcdctl(&["put", key, value]).map(|_| ())
    }

    /// Runs `etcdctl`; what it printed.
    pub fn etcdctl(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &format!("127.0.0.1:{}", self.port), "--command-timeout", "3s"])
            .args(arguments)
            .output()
            .context("run etcdctl")?;
        ensure!(output.status.success(), "etcdctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }
}
