//! Which backends there are, and how to open one.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::{Map, Value};

use crate::{Store, Timing, etcd3};

/// What is needed to open a store: the configuration section of one backend, and whose keys to work on.
///
/// Holds secrets, so it has no `Debug`.
#[derive(Clone)]
pub struct StoreConfig {
    /// Name of the configuration section, such as `etcd3`.
    pub backend: String,
    /// The section itself (compatibility.md, 3.2.9).
    pub section: Map<String, Value>,
    /// Top-level `namespace`; empty means `service`.
    pub namespace: String,
    /// Top-level `scope`: the cluster's name.
    pub scope: String,
    /// This node's name: what the leader key will hold.
    pub name: String,
    /// Times to start with; see [`Store::set_timing`].
    pub timing: Timing,
    /// Opened for a short-lived command: nothing runs in the background and changes are not watched.
    pub ctl: bool,
}

/// Why a store could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The configuration cannot work, however often it is tried: names the setting and what was expected.
    #[error("{0}")]
    Config(String),
    /// The store answered that user or password are wrong, or missing.
    #[error("{0}")]
    Credentials(String),
    /// No usable answer; worth another try.
    #[error("store unreachable: {0}")]
    Unreachable(String),
}

type Opener = fn(StoreConfig) -> BoxFuture<'static, Result<Arc<dyn Store>, OpenError>>;

/// The backends, by the name of their configuration section.
const BACKENDS: &[(&str, Opener)] = &[("etcd3", |config| Box::pin(etcd3::open(config)))];

/// Names of the supported backends, in alphabetical order (the order in which several configured sections are tried).
pub fn supported() -> impl Iterator<Item = &'static str> {
    BACKENDS.iter().map(|(name, _)| *name)
}

/// Opens the store that `config` names: checks its section, connects, and logs in.
///
/// Takes `timing.retry_timeout` at the longest. Must be called within a Tokio runtime with I/O and time enabled.
pub async fn open(config: &StoreConfig) -> Result<Arc<dyn Store>, OpenError> {
    let Some((_, opener)) = BACKENDS.iter().find(|(name, _)| *name == config.backend) else {
        let supported: Vec<_> = supported().collect();
        return Err(OpenError::Config(format!(
            "the store {:?} is not supported: expected one of the sections {}",
            config.backend,
            supported.join(", ")
        )));
    };
    check_path_parts(config)?;
    opener(config.clone()).await
}

/// Names become parts of keys, where a slash would reach into a neighbour's keys.
fn check_path_parts(config: &StoreConfig) -> Result<(), OpenError> {
    for (setting, value) in [("scope", &config.scope), ("name", &config.name)] {
        if value.is_empty() || value.contains('/') {
            return Err(OpenError::Config(format!(
                "{setting} {value:?}: expected a name that is not empty and has no slash"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn config(backend: &str, scope: &str) -> StoreConfig {
        let second = Duration::from_secs(1);
        StoreConfig {
            backend: backend.to_owned(),
            section: Map::new(),
            namespace: String::new(),
            scope: scope.to_owned(),
            name: "a".to_owned(),
            timing: Timing { ttl: 3 * second, loop_wait: second, retry_timeout: second },
            ctl: false,
        }
    }

    #[tokio::test]
    async fn unsupported_backend_names_the_supported_ones() {
        let error = open(&config("zookeeper2", "demo")).await.err().expect("an error");
        assert_eq!(
            error,
            OpenError::Config(
                "the store \"zookeeper2\" is not supported: expected one of the sections etcd3".to_owned()
            )
        );
    }

    #[tokio::test]
    async fn scope_must_not_reach_into_other_keys() {
        for scope in ["", "a/b"] {
            let error = open(&config("etcd3", scope)).await.err().expect("an error");
            assert!(matches!(error, OpenError::Config(text) if text.starts_with("scope ")), "{scope:?}");
        }
    }
}
