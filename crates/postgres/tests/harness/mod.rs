//! Real servers in temporary directories, on free ports, ended with the test.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)]

use std::future::Future;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use model::HostPort;
use model::pg::{PgSnapshot, Upstream};
use postgres::{PgConfig, Postgres, Progress, StartAs, TaskHandle};
use serde_json::{Value, json};
use tokio_postgres::NoTls;

pub const BIN_DIR: &str = "/usr/lib/postgresql/15/bin";
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a test as the user `postgres`: PostgreSQL refuses root. As root the test binary runs itself again, for this
/// one test.
pub fn run<F: Future<Output = ()>>(name: &str, test: impl FnOnce(Cluster) -> F) {
    if rustix::process::geteuid().is_root() {
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
        let entry = passwd.lines().find(|line| line.starts_with("postgres:")).expect("a user postgres");
        let ids: Vec<u32> = entry.split(':').skip(2).take(2).map(|id| id.parse().unwrap()).collect();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([name, "--exact", "--nocapture", "--test-threads=1"]).uid(ids[0]).gid(ids[1]);
        let output = command.env("HOME", "/tmp").current_dir("/tmp").output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("1 passed"), "{text}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let root = Arc::new(tempfile::Builder::new().prefix("pg-test-").tempdir_in("/tmp").unwrap());
    let cluster = Cluster { root: Arc::clone(&root) };
    // The guard outlives the test's own handle on the directory, also when the test panics.
    let guard = Servers(root);
    runtime.block_on(test(cluster));
    drop(guard);
}

/// A small file system for one test, mounted by the part of the test that is root and used by the part that is not.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts it where this is root and the kernel lets it; the other part of the test finds it by its name.
    pub fn mount(name: &str, megabytes: u32) -> SmallDisk {
        let path = PathBuf::from(format!("/tmp/pg-test-disk-{name}"));
        if rustix::process::geteuid().is_root() {
            std::fs::create_dir_all(&path).unwrap();
            let options = format!("size={megabytes}m,mode=1777");
            let _ = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&path).status();
        }
        SmallDisk(path)
    }

    /// Where it is mounted, if it is.
    pub fn path(&self) -> Option<&Path> {
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        let name = self.0.to_str().unwrap();
        mounts.lines().any(|line| line.split(' ').nth(1) == Some(name)).then_some(&self.0)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if rustix::process::geteuid().is_root() {
            let _ = Command::new("umount").args(["--lazy"]).arg(&self.0).stderr(std::process::Stdio::null()).status();
            let _ = std::fs::remove_dir(&self.0);
        }
    }
}

/// Kills the servers whose data directories are below a path.
struct Servers(Arc<tempfile::TempDir>);

impl Drop for Servers {
    fn drop(&mut self) {
        for entry in std::fs::read_dir(self.0.path()).into_iter().flatten().flatten() {
            let text = std::fs::read_to_string(entry.path().join("postmaster.pid")).unwrap_or_default();
            let pid = text.lines().next().and_then(|line| line.parse().ok()).and_then(rustix::process::Pid::from_raw);
            if let Some(pid) = pid {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
            }
        }
    }
}

/// Nodes that belong together.
pub struct Cluster {
    pub root: Arc<tempfile::TempDir>,
}

/// One node.
pub struct Node {
    pub pg: Arc<Postgres>,
    pub port: u16,
    pub data_dir: PathBuf,
    pub section: Value,
    pub bootstrap: Value,
    pub name: String,
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub fn parse(section: &Value, bootstrap: &Value, name: &str) -> PgConfig {
    PgConfig::from_section(section.as_object().unwrap(), bootstrap.as_object().unwrap(), name, "demo").unwrap()
}

impl Cluster {
    pub fn node(&self, name: &str) -> Node {
        self.node_with(name, json!({}), json!({}))
    }

    /// A node whose section and bootstrap section are overlaid.
    pub fn node_with(&self, name: &str, overlay: Value, bootstrap_overlay: Value) -> Node {
        let port = free_port();
        let data_dir = self.root.path().join(name);
        let mut section = json!({
            "listen": format!("127.0.0.1:{port}"),
            "data_dir": data_dir,
            "bin_dir": BIN_DIR,
            "pgpass": self.root.path().join(format!("pgpass-{name}")),
            "authentication": {
                "superuser": {"username": "boss", "password": "b0ss-secret"},
                "replication": {"username": "repl", "password": "r3pl-secret:\\"},
                "rewind": {"username": "rewinder", "password": "rew1nd-secret"},
            },
            "parameters": {
                "unix_socket_directories": self.root.path(), "fsync": "off", "shared_buffers": "16MB",
                "log_statement": "all", "logging_collector": "on", "log_directory": "log", "log_filename": "pg.log",
                "wal_keep_size": "64MB", "autovacuum": "off",
            },
            "pg_hba": ["local all all scram-sha-256", "host all all 127.0.0.1/32 scram-sha-256",
                       "host replication all 127.0.0.1/32 scram-sha-256"],
        });
        let mut bootstrap = json!({"initdb": [{"encoding": "UTF8"}, "data-checksums", {"locale": "C"}]});
        merge(&mut section, overlay);
        merge(&mut bootstrap, bootstrap_overlay);
        let pg = Arc::new(Postgres::new(parse(&section, &bootstrap, name)));
        Node { pg, port, data_dir, section, bootstrap, name: name.to_owned() }
    }

    /// A running primary.
    pub async fn primary(&self, name: &str) -> Node {
        let node = self.node(name);
        node.bootstrap().await;
        node
    }
}

pub fn merge(base: &mut Value, overlay: Value) {
    for (key, value) in overlay.as_object().cloned().unwrap_or_default() {
        match base.get_mut(&key) {
            Some(old @ Value::Object(_)) if value.is_object() => merge(old, value),
            _ => base[key] = value,
        }
    }
}

impl Node {
    pub fn config(&self) -> PgConfig {
        parse(&self.section, &self.bootstrap, &self.name)
    }

    pub async fn bootstrap(&self) {
        let task = TaskHandle::detached();
        self.pg.initdb(&task).await.unwrap();
        self.pg.start(StartAs::Primary, PATIENCE, &task).await.unwrap();
        self.pg.post_bootstrap(&task).await.unwrap();
    }

    pub fn upstream(&self, slot: Option<&str>) -> Upstream {
        let address = HostPort { host: "127.0.0.1".to_owned(), port: self.port };
        Upstream { address, slot: slot.map(str::to_owned) }
    }

    /// Makes this node a streaming standby of `primary`, with a slot named like this node.
    pub async fn follow(&self, primary: &Node) {
        let task = TaskHandle::detached();
        let slot = model::slots::SlotChange::CreatePhysical { name: self.name.clone() };
        primary.pg.sync_slots(&[slot]).await.unwrap();
        let source = postgres::CloneSource { name: primary.name.clone(), upstream: primary.upstream(None) };
        self.pg.as_ref().clone_from(Some(&source), true, &task).await.unwrap();
        let upstream = primary.upstream(Some(&self.name));
        self.pg.start(StartAs::Standby(Some(upstream)), PATIENCE, &task).await.unwrap();
        self.until("streaming", |snapshot| {
            snapshot.server.as_ref().is_some_and(|server| server.receiver_status.as_deref() == Some("streaming"))
        })
        .await;
    }

    /// Observes until `condition` holds.
    pub async fn until(&self, what: &str, condition: impl Fn(&PgSnapshot) -> bool) -> PgSnapshot {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let snapshot = self.pg.observe().await;
            if condition(&snapshot) {
                return snapshot;
            }
            assert!(Instant::now() < deadline, "{}: not {what}: {snapshot:#?}", self.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn sql(&self, statement: &str) -> Option<String> {
        self.sql_as("boss", "b0ss-secret", statement).await.unwrap()
    }

    pub async fn sql_as(&self, user: &str, password: &str, sql: &str) -> Result<Option<String>, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.port).user(user).password(password).dbname("postgres");
        let (client, connection) = config.connect(NoTls).await?;
        let running = tokio::spawn(connection);
        let messages = client.simple_query(sql).await;
        running.abort();
        let value = messages?.into_iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).map(str::to_owned)),
            _ => None,
        });
        Ok(value.flatten())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.data_dir.join("log/pg.log")).unwrap_or_default()
    }
}

/// A handle whose progress is kept.
pub fn recording() -> (TaskHandle, Arc<Mutex<Vec<Progress>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let progress = Arc::new(move |progress| sink.lock().unwrap().push(progress));
    (TaskHandle { progress, ..TaskHandle::detached() }, seen)
}

pub fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

pub fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
