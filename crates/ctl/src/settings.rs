//! Where `patronictl` gets its configuration from: a file and the environment, as the daemon reads them, and
//! `--dcs-url`.

use std::path::{Path, PathBuf};

use config::ConfigError;
use serde_json::{Map, Value, json};

use crate::error::{Result, fail};

/// Schemes of `--dcs-url` with their default ports.
const SCHEMES: [(&str, u16); 5] =
    [("consul", 8500), ("etcd", 2379), ("etcd3", 2379), ("exhibitor", 8181), ("zookeeper", 2181)];

/// The file that is read when none is named: `patroni/patronictl.yaml` below `$XDG_CONFIG_HOME` or `~/.config`.
pub fn default_path() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")))?;
    Some(base.join("patroni").join("patronictl.yaml"))
}

/// The merged configuration. A file that was named must be readable; the default file may be missing.
pub fn load(named: Option<&Path>, dcs_url: Option<&str>) -> Result<Map<String, Value>> {
    let path = match named {
        Some(path) if std::fs::metadata(path).is_ok() => Some(path.to_owned()),
        Some(path) => {
            return fail(format!(
                "Provided config file {} not existing or no read rights. Check the -c/--config-file parameter",
                path.display()
            ));
        }
        None => default_path().filter(|path| path.exists()),
    };
    let mut tree = config_tree(path.as_deref())?;
    if let Some(url) = dcs_url {
        apply_dcs_url(&mut tree, url)?;
    }
    Ok(tree)
}

/// The file and the environment, merged as the daemon merges them. Nothing at all is enough: `--dcs-url` and a cluster
/// on the command line say the rest.
fn config_tree(path: Option<&Path>) -> Result<Map<String, Value>> {
    match config::load(path) {
        Ok(local) => Ok(local.tree),
        Err(ConfigError::Empty { .. }) => Ok(Map::new()),
        Err(error) => fail(error.to_string()),
    }
}

/// `scheme://host:port/namespace` replaces every store section, and the namespace when the URL has a path.
pub fn apply_dcs_url(tree: &mut Map<String, Value>, url: &str) -> Result {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (Some(scheme.to_lowercase()), rest),
        None => (None, url),
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let port_given = authority.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let scheme = scheme.unwrap_or_else(|| {
        let by_port = SCHEMES.iter().find(|(_, port)| Some(*port) == port_given);
        by_port.map_or("etcd", |(scheme, _)| *scheme).to_owned()
    });
    let Some((scheme, default_port)) = SCHEMES.into_iter().find(|(name, _)| *name == scheme) else {
        return fail(format!("Unknown dcs scheme: {scheme}"));
    };
    let Some(address) =
        model::HostPort::parse(if authority.is_empty() { "127.0.0.1" } else { authority }, default_port)
    else {
        return fail(format!("Cannot use the DCS URL {url:?}: expected scheme://host:port/namespace"));
    };
    for section in config::stores::KNOWN {
        tree.shift_remove(section.name);
    }
    let section = match scheme {
        "zookeeper" => json!({ "hosts": [address.to_string()] }),
        "exhibitor" => json!({ "hosts": [address.host], "port": address.port }),
        _ => json!({ "host": address.to_string() }),
    };
    tree.insert(scheme.to_owned(), section);
    if !path.trim_matches('/').is_empty() {
        tree.insert("namespace".to_owned(), path.trim_matches('/').into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_url(url: &str) -> Result<Value> {
        let mut tree =
            Map::from_iter([("etcd".to_owned(), json!({"host": "old"})), ("namespace".to_owned(), "n".into())]);
        apply_dcs_url(&mut tree, url)?;
        Ok(Value::Object(tree))
    }

    #[test]
    fn dcs_urls() {
        for (url, expected) in [
            ("etcd3://h:1/x/y/", json!({"namespace": "x/y", "etcd3": {"host": "h:1"}})),
            ("etcd3://h", json!({"namespace": "n", "etcd3": {"host": "h:2379"}})),
            ("h", json!({"namespace": "n", "etcd": {"host": "h:2379"}})),
            ("h:8500", json!({"namespace": "n", "consul": {"host": "h:8500"}})),
            ("zookeeper://[::1]:5/z", json!({"namespace": "z", "zookeeper": {"hosts": ["[::1]:5"]}})),
            ("exhibitor://h", json!({"namespace": "n", "exhibitor": {"hosts": ["h"], "port": 8181}})),
        ] {
            assert_eq!(with_url(url), Ok(expected), "{url}");
        }
        assert_eq!(with_url("foo://x"), fail("Unknown dcs scheme: foo"));
        assert!(with_url("etcd://h:70000").is_err());
    }

    #[test]
    fn files() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("p.yml");
        assert!(load(Some(&path), None).expect_err("missing").to_string().contains("not existing or no read rights"));
        std::fs::write(&path, "scope: demo\netcd3: {host: h:1}\n").expect("write");
        let tree = load(Some(&path), Some("etcd3://g:2")).expect("a tree");
        assert_eq!((&tree["scope"], &tree["etcd3"]["host"]), (&json!("demo"), &json!("g:2")));
        std::fs::write(&path, "{}\n").expect("write");
        assert!(load(Some(&path), Some("etcd3://g:2")).expect("a tree").contains_key("etcd3"));
        std::fs::write(&path, "- 1\n").expect("write");
        assert!(load(Some(&path), None).is_err());
    }
}
