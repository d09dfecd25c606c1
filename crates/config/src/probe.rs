//! `--validate-config`: the table's checks, and a look at the machine: ports, stores, directories and programs.

use std::fs;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use model::HostPort;
use serde_json::Value;

use crate::check::{self, Problem};
use crate::startup::find_program;
use crate::{LocalConfig, schema};

/// How long one address may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a program may take to tell its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses by which nobody else can reach this node.
const UNREACHABLE: [&str; 5] = ["127.0.0.1", "0.0.0.0", "*", "::1", "localhost"];
/// Addresses of stores, with the port they default to.
const STORE_ADDRESSES: [(&str, u16); 6] = [
    ("consul.host", 8500),
    ("etcd.host", 2379),
    ("etcd.hosts", 2379),
    ("etcd3.host", 2379),
    ("etcd3.hosts", 2379),
    ("zookeeper.hosts", 2181),
];
/// Programs that must be there.
const PROGRAMS: [&str; 6] = ["pg_ctl", "initdb", "pg_controldata", "pg_basebackup", "postgres", "pg_isready"];

/// Everything that is wrong with a configuration on this machine. `ignore_listen_port`: addresses to listen on may be
/// in use, for the node may be running.
pub fn validate(config: &LocalConfig, ignore_listen_port: bool) -> Vec<Problem> {
    let mut problems = check::missing(&config.tree, true);
    problems.extend(check::check(&config.tree).problems);
    let mut probe = Probe { config, problems };
    probe.exclusive_tags();
    probe.connect_addresses();
    if !ignore_listen_port {
        probe.listen("restapi.listen", 8008);
        probe.listen("postgresql.listen", 5432);
    }
    probe.stores();
    probe.programs();
    probe.data_dir();
    probe.problems
}

struct Probe<'a> {
    config: &'a LocalConfig,
    problems: Vec<Problem>,
}

impl<'a> Probe<'a> {
    /// Text at `path`, unless something is wrong with it already.
    fn text(&self, path: &str) -> Option<&'a str> {
        self.sound(path).and_then(Value::as_str)
    }

    fn sound(&self, path: &str) -> Option<&'a Value> {
        self.config.get(path).filter(|_| self.problems.iter().all(|problem| problem.path != path))
    }

    fn fail(&mut self, path: &str, value: &str, what: String) {
        self.problems.push(Problem { path: path.to_owned(), value: value.to_owned(), what });
    }

    fn exclusive_tags(&mut self) {
        for (veto, priority) in [("nofailover", "failover_priority"), ("nosync", "sync_priority")] {
            let has = |tag: &str| self.config.get(&format!("tags.{tag}")).is_some();
            if has(veto) && has(priority) {
                self.fail("tags", "", format!("Multiple of ('{veto}', '{priority}') provided: expected at most one"));
            }
        }
    }

    fn connect_addresses(&mut self) {
        for (path, port) in [("restapi.connect_address", 8008), ("postgresql.connect_address", 5432)] {
            let Some(text) = self.text(path) else { continue };
            let host = HostPort::parse(text, port).map(|address| address.host).unwrap_or_default();
            if UNREACHABLE.contains(&host.as_str()) {
                let what = format!(
                    "didn't pass validation: must not contain \"{}\": expected an address that other nodes reach",
                    UNREACHABLE.join("\", \"")
                );
                self.fail(path, text, what);
            }
        }
    }

    fn listen(&mut self, path: &str, default_port: u16) {
        let Some(text) = self.text(path) else { return };
        let addresses = schema::split_listen(text, default_port).unwrap_or_default();
        let in_use = addresses.iter().find(|address| {
            let is_all = ["", "*", "0.0.0.0", "::"].contains(&address.host.as_str());
            let host = if is_all { "localhost" } else { &address.host };
            connect(host, address.port).is_ok()
        });
        if let Some(address) = in_use {
            self.fail(path, text, format!("didn't pass validation: Port {} is already in use.", address.port));
        }
    }

    fn stores(&mut self) {
        for (path, default_port) in STORE_ADDRESSES {
            let Some(value) = self.sound(path) else { continue };
            let addresses: Vec<&str> = match value {
                Value::String(text) => text.split(',').map(|part| part.trim().trim_matches(['\'', '"'])).collect(),
                Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
                _ => continue,
            };
            let section = path.split('.').next().unwrap_or(path);
            let port = self.config.get(&format!("{section}.port")).and_then(Value::as_u64);
            let port = port.and_then(|port| u16::try_from(port).ok()).unwrap_or(default_port);
            for text in addresses {
                let Some(address) = HostPort::parse(text, port) else { continue };
                if let Err(reason) = connect(&address.host, address.port) {
                    self.fail(path, text, format!("didn't pass validation: {address} is not reachable: {reason}"));
                }
            }
        }
    }

    fn bin_dir(&self) -> &'a str {
        self.text("postgresql.bin_dir").unwrap_or_default()
    }

    fn program(&self, name: &str) -> String {
        let configured = self.config.get(&format!("postgresql.bin_name.{name}")).and_then(Value::as_str);
        configured.unwrap_or(name).to_owned()
    }

    fn programs(&mut self) {
        if self.config.get("postgresql").is_none() {
            return;
        }
        let bin_dir = self.bin_dir();
        let programs = PROGRAMS.map(|name| self.program(name));
        let absent: Vec<String> = programs
            .into_iter()
            .filter(|program| find_program(bin_dir, program).is_none())
            .map(|program| format!("'{program}'"))
            .collect();
        if !absent.is_empty() {
            let place = if bin_dir.is_empty() { " in '$PATH'" } else { "" };
            self.fail("postgresql.bin_dir", bin_dir, format!("does not contain {}{place}", absent.join(", ")));
        }
    }

    fn data_dir(&mut self) {
        let path = "postgresql.data_dir";
        let Some(text) = self.text(path) else { return };
        let server = find_program(self.bin_dir(), &self.program("postgres"));
        if let Err(reason) = check_data_dir(Path::new(text), server.as_deref()) {
            self.fail(path, text, format!("didn't pass validation: {reason}"));
        }
    }
}

/// The directory is absent or empty, or holds the data of the version we would start.
fn check_data_dir(data_dir: &Path, server: Option<&Path>) -> Result<(), String> {
    let empty = match fs::read_dir(data_dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(error) => return Err(format!("cannot read the directory: {error}")),
    };
    if empty {
        return Ok(());
    }
    let version = fs::read_to_string(data_dir.join("PG_VERSION"))
        .map_err(|_| "the directory is not empty and holds no PG_VERSION: expected a data directory".to_owned())?;
    let version = version.trim();
    if !["pg_wal", "pg_xlog"].iter().any(|name| data_dir.join(name).is_dir()) {
        return Err(
            "data dir for the cluster is not empty, but doesn't contain pg_wal nor pg_xlog directory".to_owned()
        );
    }
    match server.and_then(major_version) {
        Some(major) if major != version => {
            Err(format!("the data is of version {version}, the programs are of version {major}"))
        }
        _ => Ok(()),
    }
}

/// What `postgres --version` says, in the form of `server_version_num`.
pub(crate) fn version_number(server: &Path) -> Option<u32> {
    let major = major_version(server)?;
    let mut parts = major.split('.').map_while(|part| part.parse::<u32>().ok());
    match (parts.next()?, parts.next()) {
        (first, Some(second)) => Some(first * 10_000 + second * 100),
        (first, None) => Some(first * 10_000),
    }
}

/// What `postgres --version` says, in the form of `PG_VERSION`.
fn major_version(server: &Path) -> Option<String> {
    let mut child =
        Command::new(server).arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let child = child.as_mut().ok()?;
    let deadline = Instant::now() + VERSION_TIMEOUT;
    while child.try_wait().ok()?.is_none() {
        if Instant::now() > deadline {
            // It hangs; whether it can be killed changes nothing for us.
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let text = std::io::read_to_string(child.stdout.take()?).ok()?;
    let number = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let digits: String = number.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    let mut parts = digits.split('.');
    let first = parts.next()?;
    match first.parse::<u32>().ok()? {
        10.. => Some(first.to_owned()),
        _ => Some(format!("{first}.{}", parts.next().unwrap_or("0"))),
    }
}

/// Whether something accepts connections there.
fn connect(host: &str, port: u16) -> Result<(), String> {
    let addresses: Vec<SocketAddr> =
        (host, port).to_socket_addrs().map_err(|error| error.to_string())?.take(8).collect();
    let mut reason = "the name has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(_) => return Ok(()),
            Err(error) => reason = error.to_string(),
        }
    }
    Err(reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::net::TcpListener;

    fn paths(tree: Value, ignore_listen_port: bool) -> Vec<String> {
        let config = LocalConfig::from_tree(tree.as_object().expect("an object").clone());
        validate(&config, ignore_listen_port).iter().map(Problem::to_string).collect()
    }

    #[test]
    fn the_machine_is_looked_at() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = taken.local_addr().expect("an address").port();
        let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join("x"), "").expect("written");
        let data_dir = dir.path().display().to_string();
        let tree = json!({
            "name": "n", "scope": "s",
            "restapi": {"listen": format!("*:{port}"), "connect_address": format!("localhost:{port}")},
            "etcd3": {"hosts": [format!("127.0.0.1:{port}"), format!("127.0.0.1:{free}")]},
            "postgresql": {
                "listen": format!("127.0.0.1:{free}"), "connect_address": "db1:5432", "data_dir": data_dir,
                "bin_dir": "/nonexistent", "authentication": {"superuser": {}, "replication": {}},
            },
            "tags": {"nosync": false, "sync_priority": 1},
        });
        let mut expected = vec![
            "tags  Multiple of ('nosync', 'sync_priority') provided: expected at most one".to_owned(),
            format!(
                "restapi.connect_address localhost:{port} didn't pass validation: must not contain \"127.0.0.1\", \
                 \"0.0.0.0\", \"*\", \"::1\", \"localhost\": expected an address that other nodes reach"
            ),
            format!("restapi.listen *:{port} didn't pass validation: Port {port} is already in use."),
            format!(
                "etcd3.hosts 127.0.0.1:{free} didn't pass validation: 127.0.0.1:{free} is not reachable: Connection \
                 refused (os error 111)"
            ),
            "postgresql.bin_dir /nonexistent does not contain 'pg_ctl', 'initdb', 'pg_controldata', 'pg_basebackup', \
             'postgres', 'pg_isready'"
                .to_owned(),
            format!(
                "postgresql.data_dir {data_dir} didn't pass validation: the directory is not empty and holds no \
                 PG_VERSION: expected a data directory"
            ),
        ];
        assert_eq!(paths(tree.clone(), false), expected);
        expected.remove(2);
        assert_eq!(paths(tree, true), expected);
    }

    #[test]
    fn data_must_be_of_the_programs_version() {
        let server = Path::new("/usr/lib/postgresql/15/bin/postgres");
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(check_data_dir(dir.path(), Some(server)), Ok(()));
        assert_eq!(check_data_dir(&dir.path().join("absent"), Some(server)), Ok(()));
        fs::write(dir.path().join("PG_VERSION"), "15\n").expect("written");
        assert!(check_data_dir(dir.path(), Some(server)).expect_err("no WAL").contains("pg_wal"));
        fs::create_dir(dir.path().join("pg_wal")).expect("made");
        assert_eq!(check_data_dir(dir.path(), Some(server)), Ok(()));
        fs::write(dir.path().join("PG_VERSION"), "9.6\n").expect("written");
        assert_eq!(
            check_data_dir(dir.path(), Some(server)),
            Err("the data is of version 9.6, the programs are of version 15".to_owned())
        );
        assert_eq!(check_data_dir(dir.path(), None), Ok(()));
    }
}
