//! Opening the store that the configuration names.

use std::sync::Arc;
use std::time::Duration;

use config::LocalConfig;
use dcs::{Store, StoreConfig, Timing};

use crate::error::{CtlError, Result};

/// The times `patronictl` works with: it holds no lease, so only the retry timeout matters.
const TIMING: Timing =
    Timing { ttl: Duration::from_secs(30), loop_wait: Duration::from_secs(10), retry_timeout: Duration::from_secs(10) };

/// Opens the keys of a cluster, or of one Citus group of it: that is a cluster of its own one level below,
/// `/<namespace>/<scope>/<group>/`.
pub async fn open(local: &LocalConfig, scope: &str, group: Option<u32>) -> Result<Arc<dyn Store>> {
    let (backend, section) = local.store().map_err(failed)?;
    let namespace = local.namespace().map_err(failed)?;
    let (namespace, leaf) = match group {
        None => (namespace, scope.to_owned()),
        Some(_) if scope.is_empty() || scope.contains('/') => {
            return Err(CtlError::Failed(format!("scope {scope:?}: expected a name without a slash")));
        }
        Some(group) => (format!("{namespace}/{scope}"), group.to_string()),
    };
    let store = StoreConfig {
        backend: backend.to_owned(),
        section,
        namespace,
        scope: leaf,
        name: scope.to_owned(),
        timing: TIMING,
        ctl: true,
    };
    dcs::open(&store).await.map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> CtlError {
    CtlError::Failed(error.to_string())
}
