//! `--generate-config`: a configuration under which a running server goes on as it is.
//!
//! Whoever asks the server fills in [`Server`]; here its answers become a configuration. What the server has in files
//! that the node will rewrite (`postgresql.conf`, `pg_hba.conf`, `pg_ident.conf`) is taken over.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use model::HostPort;
use model::controlled::{CONTROLLED, find_controlled};
use model::libpq::{self, Keywords};
use model::settings::patch_config;
use serde_json::{Map, Value, json};

use crate::{env, sample};

/// Parameters that belong to one node: commands, which whoever may change the dynamic configuration could otherwise
/// make all nodes run.
const LOCAL: [&str; 5] =
    ["archive_command", "restore_command", "archive_cleanup_command", "recovery_end_command", "ssl_passphrase_command"];
/// Parameters that become other settings, or are the node's business alone.
const OTHERWISE: [&str; 11] = [
    "listen_addresses",
    "port",
    "cluster_name",
    "data_directory",
    "config_file",
    "hba_file",
    "ident_file",
    "primary_conninfo",
    "primary_slot_name",
    "promote_trigger_file",
    "synchronous_standby_names",
];
const LINE_TYPES: [&str; 6] = ["local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"];
const LINE_TYPES_16: [&str; 3] = ["include", "include_if_exists", "include_dir"];

/// What a running server says about itself.
#[derive(Clone, Debug, Default)]
pub struct Server {
    /// `server_version_num`.
    pub version: u32,
    /// The superuser that asked.
    pub user: String,
    /// Parameters as `current_setting` shows them: those that somebody has set, and all that become settings.
    pub parameters: BTreeMap<String, String>,
    /// Data checksums are on.
    pub checksums: bool,
    /// Directory of the running server's program.
    pub bin_dir: PathBuf,
    /// Text of its `hba_file` and `ident_file`, where they can be read.
    pub hba: Option<String>,
    /// See `hba`.
    pub ident: Option<String>,
}

impl Server {
    fn parameter(&self, name: &str) -> &str {
        self.parameters.get(name).map(String::as_str).unwrap_or_default()
    }
}

/// The configuration as text, and sentences about what a person should look at. `connection` is how the server was
/// reached.
pub fn text(server: &Server, connection: &Keywords) -> (String, Vec<String>) {
    let (name, ip) = sample::this_machine();
    let overrides = env::settings(sample::environment()).0;
    let (tree, notes) = tree(server, connection, &name, ip, &overrides);
    (sample::render(tree), notes)
}

fn tree(
    server: &Server,
    connection: &Keywords,
    name: &str,
    ip: IpAddr,
    overrides: &Map<String, Value>,
) -> (Map<String, Value>, Vec<String>) {
    let mut notes = Vec::new();
    let mut tree = sample::tree(name, ip, server.version, Map::new());
    let mut postgresql = postgresql(server, connection, ip, &mut notes);
    let (shared, local) = parameters(server, &mut notes);
    let rewindable = server.checksums || server.parameter("wal_log_hints") == "on";
    postgresql.insert("parameters".to_owned(), Value::Object(local));
    let settings = json!({"parameters": shared, "use_pg_rewind": rewindable, "use_slots": true});
    if let Some(Value::Object(dcs)) = tree.get_mut("bootstrap").and_then(|bootstrap| bootstrap.get_mut("dcs")) {
        dcs.insert("postgresql".to_owned(), settings);
    }
    tree.insert("postgresql".to_owned(), Value::Object(postgresql));
    match server.parameter("cluster_name") {
        "" => notes.push("cluster_name is not set: it becomes the scope when PostgreSQL is restarted".to_owned()),
        cluster => {
            tree.insert("scope".to_owned(), cluster.into());
        }
    }
    patch_config(&mut tree, overrides);
    sample::with_store(&mut tree);
    (tree, notes)
}

fn postgresql(server: &Server, connection: &Keywords, ip: IpAddr, notes: &mut Vec<String>) -> Map<String, Value> {
    let mut superuser = Map::from_iter([("username".to_owned(), Value::from(server.user.as_str()))]);
    for keyword in libpq::credential_keywords().filter(|keyword| server.version >= keyword.since) {
        if let Some(value) = connection.get(keyword.name) {
            superuser.insert(keyword.name.to_owned(), value.as_str().into());
        }
    }
    superuser.entry("password").or_insert("#FIXME".into());
    let port = server.parameter("port").parse().unwrap_or(5432);
    let advertised = connection.get("port").and_then(|port| port.parse().ok()).unwrap_or(port);
    let data_dir = server.parameter("data_directory");
    let section = json!({
        "listen": listen(server, port, notes),
        "connect_address": HostPort { host: ip.to_string(), port: advertised }.to_string(),
        "data_dir": data_dir,
        "bin_dir": server.bin_dir.display().to_string(),
        "authentication": {
            "superuser": superuser,
            "replication": {"username": "#FIXME", "password": "#FIXME"},
        },
    });
    let mut section = section.as_object().cloned().unwrap_or_default();
    // The node writes where the running server reads, or it could not reach it without a restart.
    let config_file = Path::new(server.parameter("config_file"));
    let config_dir = config_file.parent().unwrap_or(Path::new(data_dir));
    if config_dir != Path::new(data_dir) && !config_dir.as_os_str().is_empty() {
        section.insert("config_dir".to_owned(), config_dir.display().to_string().into());
        notes.push(format!("postgresql.config_dir {}: the node must be able to write there", config_dir.display()));
    }
    if let Some(base) = config_file.file_stem().and_then(|stem| stem.to_str()).filter(|base| *base != "postgresql") {
        section.insert("config_base_name".to_owned(), base.into());
    }
    let is_hba = |line: &&str| {
        let kind = line.split_whitespace().next().unwrap_or_default();
        LINE_TYPES.contains(&kind) || server.version >= 160_000 && LINE_TYPES_16.contains(&kind)
    };
    for (list, file, text) in [("pg_hba", "hba_file", &server.hba), ("pg_ident", "ident_file", &server.ident)] {
        let is_ours = Path::new(server.parameter(file)) == config_dir.join(format!("{list}.conf"));
        let lines = text.as_deref().unwrap_or_default().lines().map(str::trim);
        let lines: Vec<&str> = match list {
            "pg_hba" => lines.filter(is_hba).collect(),
            _ => lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect(),
        };
        if is_ours && !lines.is_empty() {
            section.insert(list.to_owned(), json!(lines));
        }
    }
    section
}

fn listen(server: &Server, port: u16, notes: &mut Vec<String>) -> String {
    let hosts: Vec<String> = server
        .parameter("listen_addresses")
        .split(',')
        .map(str::trim)
        .filter(|host| !host.is_empty())
        .map(|host| if host.contains(':') { format!("[{host}]") } else { host.to_owned() })
        .collect();
    if hosts.is_empty() {
        notes.push("the server listens on sockets only: postgresql.listen names addresses for other nodes".to_owned());
        return format!("localhost:{port}");
    }
    if hosts.iter().all(|host| ["localhost", "127.0.0.1", "[::1]"].contains(&host.as_str())) {
        notes.push("the server listens on this machine only: other nodes cannot reach it".to_owned());
    }
    format!("{}:{port}", hosts.join(","))
}

/// Parameters for all nodes and for this one.
fn parameters(server: &Server, notes: &mut Vec<String>) -> (Map<String, Value>, Map<String, Value>) {
    let (mut shared, mut local) = (Map::new(), Map::new());
    for (name, text) in server.parameters.iter().filter(|(name, _)| !OTHERWISE.contains(&name.as_str())) {
        let value = plain(text);
        if LOCAL.contains(&name.as_str()) {
            local.insert(name.clone(), value);
            continue;
        }
        if let Some(row) = find_controlled(name)
            && row.accept.normalise(&value).is_none()
        {
            if let Some(default) = row.default {
                notes.push(format!(
                    "the server's {name} {text} is less than every node must have; it becomes {default}"
                ));
            }
            continue;
        }
        shared.insert(name.clone(), value);
    }
    for name in ["hba_file", "ident_file"] {
        let config_dir = Path::new(server.parameter("config_file")).parent().unwrap_or(Path::new(""));
        let standard = config_dir.join(format!("pg_{}", name.replace("_file", ".conf")));
        let file = server.parameter(name);
        if !file.is_empty() && Path::new(file) != standard {
            local.insert(name.to_owned(), file.into());
        }
    }
    (shared, local)
}

/// Whole numbers without quotes; everything else as it is.
fn plain(text: &str) -> Value {
    match text.parse::<i64>() {
        Ok(number) if number.to_string() == text => number.into(),
        _ => text.into(),
    }
}

/// Names of the parameters that are always asked for.
pub fn parameters_to_ask() -> Vec<&'static str> {
    let files = ["data_directory", "config_file", "hba_file", "ident_file"];
    CONTROLLED.iter().map(|row| row.name).chain(files).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LocalConfig, check};
    use std::net::Ipv4Addr;

    fn server() -> Server {
        let parameters = [
            ("listen_addresses", "localhost, ::1"),
            ("port", "5499"),
            ("cluster_name", "demo"),
            ("data_directory", "/data"),
            ("config_file", "/etc/pg/main.conf"),
            ("hba_file", "/etc/pg/pg_hba.conf"),
            ("ident_file", "/elsewhere/ident.conf"),
            ("primary_conninfo", "password=secret"),
            ("archive_command", "cp %p /archive"),
            ("max_connections", "20"),
            ("max_wal_senders", "7"),
            ("wal_keep_size", "0"),
            ("wal_level", "logical"),
            ("wal_log_hints", "on"),
            ("hot_standby", "on"),
            ("shared_buffers", "128MB"),
            ("DateStyle", "ISO, MDY"),
        ];
        Server {
            version: 150_000,
            user: "boss".to_owned(),
            parameters: parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            checksums: false,
            bin_dir: "/bin".into(),
            hba: Some("# x\n  local all all trust\nhost all all ::/0 md5 # why\ninclude x\n".to_owned()),
            ident: Some("a b c\n".to_owned()),
        }
    }

    #[test]
    fn the_servers_answers_become_a_configuration() {
        let connection = libpq::parse("host=h password=p sslmode=require sslnegotiation=direct").expect("sound");
        let ip = Ipv4Addr::new(10, 0, 0, 1).into();
        let (tree, notes) = tree(&server(), &connection, "n1", ip, &Map::new());
        assert_eq!(
            Value::Object(tree["postgresql"].as_object().expect("an object").clone()),
            json!({
                "listen": "localhost,[::1]:5499", "connect_address": "10.0.0.1:5499", "data_dir": "/data",
                "bin_dir": "/bin", "config_dir": "/etc/pg", "config_base_name": "main",
                "authentication": {
                    "superuser": {"username": "boss", "password": "p", "sslmode": "require"},
                    "replication": {"username": "#FIXME", "password": "#FIXME"},
                },
                "pg_hba": ["local all all trust", "host all all ::/0 md5 # why"],
                "parameters": {"archive_command": "cp %p /archive", "ident_file": "/elsewhere/ident.conf"},
            })
        );
        assert_eq!(
            tree["bootstrap"]["dcs"]["postgresql"],
            json!({
                "parameters": {
                    "max_wal_senders": 7, "wal_level": "logical", "wal_log_hints": "on", "hot_standby": "on",
                    "shared_buffers": "128MB", "DateStyle": "ISO, MDY",
                },
                "use_pg_rewind": true, "use_slots": true,
            })
        );
        assert_eq!((&tree["scope"], &tree["name"]), (&json!("demo"), &json!("n1")));
        assert_eq!(
            notes,
            [
                "the server listens on this machine only: other nodes cannot reach it",
                "postgresql.config_dir /etc/pg: the node must be able to write there",
                "the server's max_connections 20 is less than every node must have; it becomes 100",
            ]
        );
        assert_eq!(check::check(&tree), check::Findings::default());
        assert_eq!(check::missing(&tree, true), vec![]);
        let config = LocalConfig::from_tree(tree);
        assert_eq!(config.resolve_postgresql(&config.bootstrap_dcs()).1, Vec::<String>::new());
    }
}
