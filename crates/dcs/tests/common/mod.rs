//! Real etcd servers for tests: on free ports, with data in a temporary directory, killed by pid when dropped.

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

const ETCD: &str = "/usr/bin/etcd";
const START_LIMIT: Duration = Duration::from_secs(30);

/// A cluster of one or more etcd servers.
pub struct Etcd {
    home: TempDir,
    nodes: Vec<Node>,
}

struct Node {
    client_port: u16,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Etcd {
    /// Starts a cluster of `size` servers and waits until all of them accept connections.
    pub async fn start(size: usize) -> Etcd {
        Etcd::launch_all(size, "http", &[]).await
    }

    /// Starts one server that talks TLS and asks clients for a certificate.
    pub async fn start_tls(files: &Certificates) -> Etcd {
        let arguments = [
            ("--cert-file", files.path("cert")),
            ("--key-file", files.path("key")),
            ("--trusted-ca-file", files.path("cacert")),
        ];
        let mut flags: Vec<String> = arguments.into_iter().flat_map(|(flag, path)| [flag.to_owned(), path]).collect();
        flags.push("--client-cert-auth".to_owned());
        Etcd::launch_all(1, "https", &flags).await
    }

    async fn launch_all(size: usize, scheme: &str, more: &[String]) -> Etcd {
        assert!(
            Path::new(ETCD).exists(),
            "{ETCD} is missing, and these tests need a real etcd: scripts/install-deps installs it"
        );
        let home = TempDir::with_prefix("etcd-").expect("a temporary directory");
        let ports: Vec<(u16, u16)> = (0..size).map(|_| (free_port(), free_port())).collect();
        let members: Vec<_> = ports.iter().map(|(client, peer)| format!("n{client}={}", url(*peer))).collect();
        let nodes = ports.iter().map(|(client, peer)| {
            let arguments = [
                ("--name", format!("n{client}")),
                ("--data-dir", home.path().join(format!("n{client}")).display().to_string()),
                ("--listen-client-urls", format!("{scheme}://127.0.0.1:{client}")),
                ("--advertise-client-urls", format!("{scheme}://127.0.0.1:{client}")),
                ("--listen-peer-urls", url(*peer)),
                ("--initial-advertise-peer-urls", url(*peer)),
                ("--initial-cluster", members.join(",")),
                ("--log-level", "warn".to_owned()),
                // Nothing here has to survive the machine, and the disk is shared.
                ("--unsafe-no-fsync", String::new()),
            ];
            let flags = arguments.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
            let arguments = flags.filter(|text| !text.is_empty()).chain(more.iter().cloned()).collect();
            Node { client_port: *client, arguments, child: None }
        });
        let mut etcd = Etcd { nodes: nodes.collect(), home };
        for index in 0..size {
            etcd.launch(index);
        }
        for index in 0..size {
            etcd.answers(index).await;
        }
        etcd
    }

    /// `host:port` of each server.
    pub fn hosts(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.client_port)).collect()
    }

    /// SIGKILL.
    pub fn kill(&mut self, index: usize) {
        if let Some(mut child) = self.nodes[index].child.take() {
            child.kill().expect("kill etcd");
            child.wait().expect("wait for etcd");
        }
    }

    /// SIGSTOP: connections stay open, and nothing is answered. Returns when every thread has stopped.
    pub async fn freeze(&self, index: usize) {
        self.signal(index, Signal::STOP);
        let pid = self.nodes[index].child.as_ref().map(Child::id).expect("a running etcd");
        let deadline = Instant::now() + START_LIMIT;
        while !threads_are_stopped(pid) {
            assert!(Instant::now() < deadline, "etcd does not stop");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// SIGCONT.
    pub fn thaw(&self, index: usize) {
        self.signal(index, Signal::CONT);
    }

    /// Starts a killed server again, on its data and port.
    pub async fn restart(&mut self, index: usize) {
        self.launch(index);
        self.answers(index).await;
    }

    /// Kills a server and removes its data.
    pub fn wipe(&mut self, index: usize) {
        self.kill(index);
        let data = self.home.path().join(format!("n{}", self.nodes[index].client_port));
        std::fs::remove_dir_all(data).expect("remove the data of etcd");
    }

    /// What `etcdctl` prints when run with these arguments at the first server.
    pub fn etcdctl(&self, arguments: &[&str]) -> String {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.hosts()[0]])
            .args(arguments)
            .output()
            .expect("run etcdctl");
        assert!(output.status.success(), "etcdctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn signal(&self, index: usize, signal: Signal) {
        let child = self.nodes[index].child.as_ref().expect("a running etcd");
        let pid = Pid::from_raw(child.id() as i32).expect("a pid");
        kill_process(pid, signal).expect("signal etcd");
    }

    fn launch(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let log = self.home.path().join(format!("n{}.log", node.client_port));
        let log = File::options().create(true).append(true).open(log).expect("a log file");
        let child = Command::new(ETCD)
            .args(&node.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("start etcd");
        node.child = Some(child);
    }

    async fn answers(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let deadline = Instant::now() + START_LIMIT;
        while TcpListener::bind(("127.0.0.1", node.client_port)).is_ok() {
            let ended = node.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            let log = || std::fs::read_to_string(self.home.path().join(format!("n{}.log", node.client_port)));
            assert!(ended.is_none(), "etcd ended: {ended:?}\n{}", log().unwrap_or_default());
            assert!(Instant::now() < deadline, "etcd does not listen\n{}", log().unwrap_or_default());
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(mut child) = node.child.take() {
                // Works on a stopped process too. Nothing is left to do when it fails.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

fn threads_are_stopped(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("list the threads of etcd");
    threads.flatten().all(|thread| {
        let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        status.contains("State:\tT")
    })
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// A port below the range of outgoing connections, so that a server that is down finds its port free when it returns.
fn free_port() -> u16 {
    for _ in 0..1000 {
        let port = 10_000 + (RandomState::new().build_hasher().finish() % 22_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

/// A certificate authority and one certificate of it, for 127.0.0.1, good for servers and clients.
pub struct Certificates(TempDir);

impl Certificates {
    /// Makes them with the program `openssl`.
    pub fn make() -> Certificates {
        let files = Certificates(TempDir::with_prefix("certificates-").expect("a temporary directory"));
        let (ca, ca_key) = (files.path("cacert"), files.path("ca_key"));
        let (cert, key) = (files.path("cert"), files.path("key"));
        let new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
        let ca_extensions = ["-addext", "keyUsage=critical,keyCertSign,digitalSignature"];
        run_openssl(&[&new[..], &["-subj", "/CN=ca", "-keyout", &ca_key, "-out", &ca], &ca_extensions].concat());
        let issued_by = ["-CA", &ca, "-CAkey", &ca_key, "-subj", "/CN=node", "-keyout", &key, "-out", &cert];
        let extensions = ["basicConstraints=critical,CA:FALSE", "subjectAltName=IP:127.0.0.1"];
        let extensions = extensions.iter().flat_map(|text| ["-addext", text]).collect::<Vec<_>>();
        run_openssl(&[&new[..], &issued_by, &extensions].concat());
        files
    }

    /// Path of `cacert`, `cert` or `key`.
    pub fn path(&self, name: &str) -> String {
        self.0.path().join(format!("{name}.pem")).display().to_string()
    }
}

fn run_openssl(arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).output().expect("run openssl");
    assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
