//! The watchdog (`driver: testing`, on a pipe that the test reads) and a disk that stops answering, on a real primary.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Cluster, ClusterSpec, Signal, holds_for, wait_for, wait_until};
use tokio::net::unix::pipe;

/// For what is only waited for.
const PATIENCE: Duration = Duration::from_secs(40);
/// `loop_wait` is 2: a leader that works writes at least once in this time.
const BEAT: Duration = Duration::from_secs(3);

fn make_pipe(path: &Path) -> Result<()> {
    let made = Command::new("mkfifo").args(["-m", "666"]).arg(path).status()?;
    ensure!(made.success(), "mkfifo {path:?}: {made}");
    Ok(())
}

/// The other end of the pipe: what was written so far.
struct Device {
    path: PathBuf,
    reader: pipe::Receiver,
    written: String,
}

impl Device {
    fn open(path: &Path) -> Result<Device> {
        let reader = pipe::OpenOptions::new().open_receiver(path)?;
        Ok(Device { path: path.to_owned(), reader, written: String::new() })
    }

    /// What came since the last call.
    fn news(&mut self) -> String {
        let before = self.written.len();
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = self.reader.try_read(&mut bytes) {
            self.written.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        self.written[before..].to_owned()
    }

    async fn until(&mut self, what: &str, mut seen: impl FnMut(&str) -> bool) -> Result<()> {
        let mut news = String::new();
        wait_until(&format!("the watchdog to be told: {what}"), PATIENCE, || {
            news.push_str(&self.news());
            seen(&news)
        })
        .await
        .with_context(|| format!("written to {:?} in all: {:?}", self.path, self.written))
    }

    async fn silent_for(&mut self, time: Duration) -> Result<()> {
        let news = std::cell::RefCell::new(String::new());
        let this = std::cell::RefCell::new(self);
        holds_for("nothing is written to the watchdog", time, || {
            news.borrow_mut().push_str(&this.borrow_mut().news());
            let silent = news.borrow().is_empty();
            async move {
                ensure!(silent, "something was written");
                Ok(())
            }
        })
        .await
    }
}

async fn patch(cluster: &Cluster, config: Value) -> Result<()> {
    let answer = cluster.nodes[0].rest().patch("/config", &config).await?;
    ensure!(answer.code == 200, "{} {}", answer.code, answer.text);
    Ok(())
}

async fn primary_answers(cluster: &Cluster, code: u16) -> Result<()> {
    wait_for(&format!("GET /primary to answer {code}"), PATIENCE, || async {
        let answer = cluster.nodes[0].rest().code("/primary").await;
        ensure!(answer == Some(code), "it answers {answer:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_required_watchdog_is_kept_alive_exactly_while_there_is_a_primary() -> Result<()> {
    let mut cluster = ClusterSpec::quick("watchdog").flavours(&[testkit::Flavour::Ours]).prepare().await?;
    let path = cluster.nodes[0].home().join("watchdog");
    make_pipe(&path)?;
    let section = json!({"mode": "required", "device": path, "driver": "testing"});
    cluster.nodes[0].change_config(&json!({"watchdog": section}))?;
    let mut device = Device::open(&path)?;
    cluster.nodes[0].start()?;
    primary_answers(&cluster, 200).await?;
    // ttl 20 less the safety margin of 5.
    device
        .until("its timeout, then keepalives", |news| news.starts_with("Ctimeout=15\n1") && news.ends_with("111"))
        .await?;
    let postmaster = cluster.nodes[0].postmaster_pid()?;

    // A changed ttl reaches the open device.
    patch(&cluster, json!({"ttl": 25})).await?;
    device.until("the new timeout", |news| news.contains("Ctimeout=20\n1")).await?;

    // A frozen agent lets it run out; one that thaws in time goes on.
    cluster.nodes[0].signal(Signal::STOP)?;
    device.news();
    device.silent_for(BEAT).await?;
    cluster.nodes[0].signal(Signal::CONT)?;
    device.until("keepalives after the thaw", |news| news.contains("11")).await?;

    dead_disk(&cluster, &mut device).await?;
    busy_server(&cluster).await?;
    assert_eq!(cluster.nodes[0].postmaster_pid()?, postmaster, "PostgreSQL was restarted");

    // Hands off: the device is let go, PostgreSQL is not.
    patch(&cluster, json!({"pause": true})).await?;
    device.until("the magic close", |news| news.ends_with('V')).await?;
    device.silent_for(BEAT).await?;
    patch(&cluster, json!({"pause": null})).await?;
    device.until("to count again", |news| news.starts_with("Ctimeout=20\n1")).await?;
    assert_eq!(cluster.nodes[0].postmaster_pid()?, postmaster, "PostgreSQL was restarted");

    // The device is lost: without it this node must not lead. It comes back, and so does the primary.
    drop(device);
    primary_answers(&cluster, 503).await?;
    wait_for("PostgreSQL to accept no writes", PATIENCE, || async {
        let written = cluster.nodes[0].sql().rows("CREATE TABLE t ()").await;
        ensure!(written.is_err(), "it does");
        Ok(())
    })
    .await?;
    let mut device = Device::open(&path)?;
    primary_answers(&cluster, 200).await?;
    device.until("to count again", |news| news.starts_with("Ctimeout=20\n1")).await?;

    // The end, with a store that is dead: told to stop, the agent is no primary at once, waits for no answer, and stops
    // the countdown when PostgreSQL is down.
    cluster.etcd.stop()?;
    let rest = cluster.nodes[0].rest();
    cluster.nodes[0].signal(Signal::TERM)?;
    let told = std::time::Instant::now();
    while rest.code("/primary").await == Some(200) {
        ensure!(told.elapsed() < Duration::from_millis(500), "GET /primary answers 200 long after SIGTERM");
    }
    device.until("the magic close", |news| news.ends_with('V')).await?;
    let data_dir = cluster.nodes[0].data_dir();
    ensure!(!data_dir.join("postmaster.pid").exists(), "the countdown was stopped before PostgreSQL was down");
    let code = cluster.nodes[0].stop().await?;
    ensure!(code == Some(0), "it ended with {code:?}");
    let took = told.elapsed();
    testkit::measured(&format!(
        "SIGTERM of the primary's agent while the store is dead: it ends after {:.1} s",
        took.as_secs_f64()
    ));
    ensure!(took < Duration::from_secs(8), "it ended after {took:?}");
    cluster.finish()
}

/// Pitfall 25: the lock holder's look at its data directory hangs. Reading a pipe that nobody writes to waits as a dead
/// disk does.
async fn dead_disk(cluster: &Cluster, device: &mut Device) -> Result<()> {
    let node = &cluster.nodes[0];
    let file = node.data_dir().join("PG_VERSION");
    let aside = node.home().join("PG_VERSION");
    std::fs::rename(&file, &aside)?;
    make_pipe(&file)?;
    primary_answers(cluster, 503).await?;
    // A stall is no reason to give the lock away.
    device.until("keepalives meanwhile", |news| news.contains("11")).await?;
    let said = node.rest().get("/patroni").await?.text;
    ensure!(!said.contains("\"state\": \"running\""), "{said}");
    // Opened for writing it lets in who waits at it, and ends for them when it is closed.
    let end = std::fs::OpenOptions::new().read(true).write(true).open(&file)?;
    std::fs::rename(&aside, &file)?;
    drop(end);
    primary_answers(cluster, 200).await
}

/// Pitfall 2: PostgreSQL is too busy to answer. It keeps its role.
async fn busy_server(cluster: &Cluster) -> Result<()> {
    let node = &cluster.nodes[0];
    let servers: Vec<u32> = node.processes().into_iter().filter(|pid| is_server(*pid)).collect();
    ensure!(!servers.is_empty(), "no server process");
    servers.iter().try_for_each(|pid| testkit::kill_pid(*pid, Signal::STOP))?;
    let held = holds_for("the role is kept", BEAT, || async {
        let status = node.rest().get("/patroni").await?.json()?;
        ensure!(status["role"] == "primary", "{status}");
        Ok(())
    })
    .await;
    servers.iter().try_for_each(|pid| testkit::kill_pid(*pid, Signal::CONT))?;
    held?;
    primary_answers(cluster, 200).await
}

fn is_server(pid: u32) -> bool {
    std::fs::read_link(format!("/proc/{pid}/exe"))
        .is_ok_and(|exe| exe.file_name().is_some_and(|name| name == "postgres"))
}
