//! `--generate-sample-config`: a configuration to start from, `#FIXME` where only a person can know.

use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs};

use model::settings::patch_config;
use serde_json::{Map, Value, json};

use crate::effective::CONTROLLED;
use crate::{env, schema, stores, yaml};

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

/// The text of a sample configuration for this machine, with `PATRONI_*` variables laid over it.
pub fn text() -> String {
    let variables =
        std::env::vars_os().filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)));
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    render(tree(&name, address_of(&name), env::settings(variables).0))
}

/// The address that others most likely reach this machine at.
fn address_of(host: &str) -> IpAddr {
    let addresses: Vec<IpAddr> =
        (host, 0).to_socket_addrs().map(|all| all.map(|address| address.ip()).collect()).unwrap_or_default();
    let best = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    best.copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

fn default(path: &str) -> Value {
    schema::find(path).and_then(|setting| yaml::parse(setting.default?).ok()).unwrap_or(Value::Null)
}

fn tree(name: &str, ip: IpAddr, overrides: Map<String, Value>) -> Map<String, Value> {
    let at = |port: u16| model::HostPort { host: ip.to_string(), port }.to_string();
    let parameters: Map<String, Value> = CONTROLLED
        .iter()
        .filter_map(|row| {
            let default = if row.name == "wal_keep_size" { "128MB" } else { row.default? };
            let number = default.parse::<i64>().map(Value::from);
            Some((row.name.to_owned(), number.unwrap_or_else(|_| default.into())))
        })
        .collect();
    let sample = json!({
        "scope": "#FIXME",
        "name": name,
        "log": {
            "type": default("log.type"), "level": default("log.level"), "format": default("log.format"),
            "max_queue_size": default("log.max_queue_size"),
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
                "rewind": {"username": "rewind_user", "password": "#FIXME"},
            },
            "parameters": {"password_encryption": "scram-sha-256"},
            "pg_hba": ["host all all all scram-sha-256", "host replication replicator all scram-sha-256"],
        },
        "tags": {
            "failover_priority": 1, "sync_priority": 1, "noloadbalance": false, "clonefrom": true, "nostream": false,
        },
    });
    let mut tree = sample.as_object().cloned().unwrap_or_default();
    patch_config(&mut tree, &overrides);
    if !stores::KNOWN.iter().any(|store| tree.contains_key(store.name)) {
        tree.insert("etcd3".to_owned(), json!({"host": "127.0.0.1:2379"}));
    }
    tree
}

fn render(mut tree: Map<String, Value>) -> String {
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
        let tree = tree("host1", Ipv4Addr::new(10, 0, 0, 1).into(), overrides.as_object().cloned().unwrap_or_default());
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
    fn a_store_from_the_environment_stands_alone() {
        let overrides = json!({"consul": {"host": "c:8500"}}).as_object().cloned().unwrap_or_default();
        let tree = tree("host1", Ipv4Addr::LOCALHOST.into(), overrides);
        assert!(tree.contains_key("consul") && !tree.contains_key("etcd3"));
    }
}
