//! `--generate-sample-config`: a configuration to start from, `#FIXME` where only a person can know.

use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs, UdpSocket};

use model::controlled::CONTROLLED;
use model::settings::patch_config;
use serde_json::{Map, Value, json};

use crate::startup::find_program;
use crate::{env, probe, schema, stores, tree, yaml};

/// The version of PostgreSQL that a sample is for where none is found.
const VERSION_ASSUMED: u32 = 150_000;

/// Sections in the order of the file; others follow.
const ORDER: [&str; 17] = [
    "scope",
    "namespace",
    "name",
    "log",
    "restapi",
    "ctl",
    "citus",
    "consul",
    "etcd",
    "etcd3",
    "exhibitor",
    "kubernetes",
    "raft",
    "zookeeper",
    "bootstrap",
    "postgresql",
    "watchdog",
];

const ABOUT_BOOTSTRAP: &str = "\
# Used only while the cluster does not exist yet. What stands under `dcs` becomes the dynamic configuration that all
# members share; once the cluster runs, change it with `patronictl edit-config`: changes made here have no effect then.
";

/// The text of a sample configuration for this machine, with `PATRONI_*` variables laid over it. What depends on
/// PostgreSQL's version follows the one that is found.
pub fn text() -> String {
    let overrides = env::settings(environment()).0;
    let bin_dir = tree::get(&overrides, "postgresql.bin_dir").and_then(Value::as_str).unwrap_or_default();
    let program = tree::get(&overrides, "postgresql.bin_name.postgres").and_then(Value::as_str).unwrap_or("postgres");
    let version = find_program(bin_dir, program).and_then(|server| probe::version_number(&server));
    let (name, ip) = this_machine();
    render(tree(&name, ip, version.unwrap_or(VERSION_ASSUMED), overrides))
}

/// The environment, as far as it is text.
pub(crate) fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)))
}

/// Name and address of this machine.
pub(crate) fn this_machine() -> (String, IpAddr) {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let ip = address_of(&name);
    (name, ip)
}

/// The address that others most likely reach this machine at: that of its name, or, where the name leads back to the
/// machine itself, the one from which it would send packets into the world.
fn address_of(host: &str) -> IpAddr {
    let addresses = (host, 0).to_socket_addrs().map(|all| all.map(|address| address.ip()).collect());
    let mut addresses: Vec<IpAddr> = addresses.unwrap_or_default();
    addresses.retain(|address| !address.is_loopback());
    let named = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first()).copied();
    named.or_else(sending_address).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Nothing is sent: connecting a datagram socket only chooses its addresses. The other one is reserved for documents.
fn sending_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|address| !address.is_unspecified())
}

fn default(path: &str) -> Value {
    schema::find(path).and_then(|setting| yaml::parse(setting.default?).ok()).unwrap_or(Value::Null)
}

/// The sample's settings, for a server of this version (as `server_version_num`).
pub(crate) fn tree(name: &str, ip: IpAddr, version: u32, overrides: Map<String, Value>) -> Map<String, Value> {
    let at = |port: u16| model::HostPort { host: ip.to_string(), port }.to_string();
    let parameters: Map<String, Value> = CONTROLLED
        .iter()
        .filter_map(|row| {
            let default = match row.name {
                "wal_keep_size" if version >= 130_000 => "128MB",
                "wal_keep_segments" if version < 130_000 => "8",
                "wal_level" if version < 90_600 => "hot_standby",
                _ => row.default?,
            };
            let number = default.parse::<i64>().map(Value::from);
            Some((row.name.to_owned(), number.unwrap_or_else(|_| default.into())))
        })
        .collect();
    let auth_method = if version >= 100_000 { "scram-sha-256" } else { "md5" };
    let sample = json!({
        "scope": "#FIXME",
        "name": name,
        "log": {
            "type": default("log.type"), "level": default("log.level"), "format": default("log.format"),
            "traceback_level": default("log.traceback_level"), "max_queue_size": default("log.max_queue_size"),
        },
        "restapi": {"listen": at(8008), "connect_address": at(8008)},
        "bootstrap": {"dcs": {
            "loop_wait": default("bootstrap.dcs.loop_wait"),
            "retry_timeout": default("bootstrap.dcs.retry_timeout"),
            "ttl": default("bootstrap.dcs.ttl"),
            "postgresql": {"parameters": parameters, "use_pg_rewind": true, "use_slots": true},
        }},
        "postgresql": {
            "listen": at(5432), "connect_address": at(5432), "data_dir": "#FIXME", "bin_dir": "",
            "authentication": {
                "superuser": {"username": "postgres", "password": "#FIXME"},
                "replication": {"username": "replicator", "password": "#FIXME"},
            },
            "parameters": {"password_encryption": auth_method},
            "pg_hba": [format!("host all all all {auth_method}"), format!("host replication replicator all {auth_method}")],
        },
        "tags": {
            "failover_priority": 1, "sync_priority": 1, "noloadbalance": false, "clonefrom": true, "nostream": false,
        },
    });
    let mut tree = sample.as_object().cloned().unwrap_or_default();
    if version >= 110_000 {
        let rewind = json!({"username": "rewind_user", "password": "#FIXME"});
        tree::set(&mut tree, "postgresql.authentication.rewind", rewind);
    }
    patch_config(&mut tree, &overrides);
    with_store(&mut tree);
    tree
}

/// Adds a store where the environment names none.
pub(crate) fn with_store(tree: &mut Map<String, Value>) {
    if !stores::KNOWN.iter().any(|store| tree.contains_key(store.name)) {
        tree.insert("etcd3".to_owned(), json!({"host": "127.0.0.1:2379"}));
    }
}

/// The text of a configuration, its sections in the order in which people read them.
pub(crate) fn render(mut tree: Map<String, Value>) -> String {
    let mut text = String::new();
    let names: Vec<String> = ORDER.iter().map(|name| (*name).to_owned()).chain(tree.keys().cloned()).collect();
    for name in names {
        let Some(value) = tree.remove(&name) else { continue };
        if value.is_object() {
            text.push('\n');
        }
        if name == "bootstrap" {
            text.push_str(ABOUT_BOOTSTRAP);
        }
        text.push_str(&yaml::to_text(&Value::Object(Map::from_iter([(name, value)]))));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LocalConfig, check};

    #[test]
    fn the_sample_is_a_sound_configuration() {
        let overrides = json!({"scope": "demo", "log": {"level": "DEBUG"}});
        let tree = tree(
            "host1",
            Ipv4Addr::new(10, 0, 0, 1).into(),
            150_000,
            overrides.as_object().cloned().unwrap_or_default(),
        );
        let text = render(tree.clone());
        assert_eq!(yaml::parse(&text), Ok(Value::Object(tree.clone())));
        assert_eq!(check::check(&tree), check::Findings::default(), "{text}");
        assert_eq!(check::missing(&tree, true), vec![]);
        let config = LocalConfig::from_tree(tree);
        assert_eq!((config.name().ok(), config.scope().ok()), (Some("host1".to_owned()), Some("demo".to_owned())));
        let (_, notes) = config.resolve_postgresql(&config.bootstrap_dcs());
        assert_eq!(notes, Vec::<String>::new(), "the sample's parameters are accepted");
        let order: Vec<usize> = [
            "scope:",
            "\nname:",
            "\nlog:",
            "\nrestapi:",
            "\netcd3:",
            "# Used only",
            "\nbootstrap:",
            "\npostgresql:",
            "\ntags:",
        ]
        .iter()
        .map(|start| text.find(start).expect(start))
        .collect();
        assert!(order.is_sorted(), "{order:?}\n{text}");
    }

    #[test]
    fn older_servers_have_other_parameters() {
        let old = tree("host1", Ipv4Addr::LOCALHOST.into(), 90_500, Map::new());
        let parameters = &old["bootstrap"]["dcs"]["postgresql"]["parameters"];
        assert_eq!(parameters["wal_keep_segments"], json!(8));
        assert_eq!((&parameters["wal_level"], parameters.get("wal_keep_size")), (&json!("hot_standby"), None));
        assert_eq!(old["postgresql"]["parameters"], json!({"password_encryption": "md5"}));
        assert_eq!(old["postgresql"]["authentication"].get("rewind"), None);
    }

    #[test]
    fn a_store_from_the_environment_stands_alone() {
        let overrides = json!({"consul": {"host": "c:8500"}}).as_object().cloned().unwrap_or_default();
        let tree = tree("host1", Ipv4Addr::LOCALHOST.into(), 150_000, overrides);
        assert!(tree.contains_key("consul") && !tree.contains_key("etcd3"));
    }
}
