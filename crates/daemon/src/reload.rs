//! A configuration that changes while the node runs: its files are read again (SIGHUP, `POST /reload`), or the dynamic
//! configuration in the store is another one.
//!
//! What cannot be used is refused as a whole before anything is touched; after that each part takes on what concerns
//! it, and one that cannot says so and goes on as before.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use agent::Handle;
use agent::peers::{BasicAuth, HttpPeers, PeerTls};
use api::{ApiConfig, Server};
use config::LocalConfig;
use ha::view::NodeInfo;
use serde_json::{Map, Value};
use tokio::sync::Notify;

use crate::node::{PgNode, pg_config};
use crate::notify::notify;

/// Called with a configuration that was read again and is in force from then on.
pub type Reloaded = Box<dyn Fn(&LocalConfig) + Send + Sync>;

/// Whatever takes on a changed configuration.
pub(crate) struct Reloader {
    pub local: Arc<RwLock<LocalConfig>>,
    pub data_dir: PathBuf,
    pub node: Arc<PgNode>,
    pub peers: Arc<HttpPeers>,
    pub server: Arc<Server>,
    pub handle: Handle,
    pub reloaded: Reloaded,
}

impl Reloader {
    /// Until it is aborted: waits for either kind of change. `info` is what the agent was started with.
    pub async fn run(self, reload: Arc<Notify>, mut info: NodeInfo) {
        let mut published = self.handle.subscribe();
        let mut seen: Option<Map<String, Value>> = None;
        loop {
            tokio::select! {
                () = reload.notified() => {
                    notify(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_us()));
                    match self.read_again().await {
                        Ok(fresh) => info = fresh,
                        Err(why) => tracing::error!("the configuration was not reloaded: {why}"),
                    }
                    notify("READY=1");
                }
                changed = published.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let stored = self.stored();
                    if stored.is_some() && stored != seen {
                        seen = stored;
                        self.follow_store(&mut info);
                    }
                }
            }
        }
    }

    /// Reads the files and variables again.
    async fn read_again(&self) -> Result<NodeInfo, String> {
        let running = self.local.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut fresh = running.reload().map_err(text)?;
        let kept = fresh.keep_from(&running);
        fresh.check_startup().map_err(text)?;
        let dynamic = fresh.dynamic_at_start(self.stored(), self.cached());
        let info = node_info(&fresh, &dynamic)?;
        let api_config = ApiConfig::from_section(&section(&fresh, "restapi"))?;
        for sentence in kept {
            tracing::warn!("{sentence}");
        }
        if fresh.tree == running.tree {
            tracing::info!("No local configuration items changed.");
        } else {
            fresh.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
        }
        comment_tags(&info);
        if let Err(why) = peer_tls(&fresh).and_then(|tls| self.peers.reconfigure(&tls)) {
            tracing::error!("requests to other members go on as before: {why}");
        }
        if let Err(why) = self.server.reload(api_config).await {
            tracing::error!("the REST API goes on as before: {why}");
        }
        (self.reloaded)(&fresh);
        *self.local.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        self.node.reload_anyway();
        self.handle.reload(info.clone());
        tracing::info!("configuration reloaded");
        Ok(info)
    }

    /// The dynamic configuration changed: the loop has taken it on; here is what it does not know of.
    fn follow_store(&self, info: &mut NodeInfo) {
        let local = self.local.read().unwrap_or_else(PoisonError::into_inner);
        let dynamic = local.dynamic_at_start(self.stored(), self.cached());
        match node_info(&local, &dynamic) {
            Ok(fresh) => {
                let same = NodeInfo { initial_config: fresh.initial_config.clone(), ..info.clone() } == fresh;
                *info = fresh;
                if !same {
                    self.handle.reload(info.clone());
                }
            }
            Err(why) => tracing::error!("the dynamic configuration cannot be used on this node: {why}"),
        }
    }

    /// The dynamic configuration in the store as last read, however long ago.
    fn stored(&self) -> Option<Map<String, Value>> {
        let published = self.handle.published()?;
        let (cluster, _) = published.cluster.as_ref()?;
        Some(cluster.config.as_ref().filter(|config| config.version != 0)?.value.clone())
    }

    fn cached(&self) -> Option<Map<String, Value>> {
        config::cache::load(&self.data_dir).ok().flatten()
    }
}

pub(crate) fn text(error: config::ConfigError) -> String {
    error.to_string()
}

pub(crate) fn section(local: &LocalConfig, name: &str) -> Map<String, Value> {
    local.get(name).and_then(Value::as_object).cloned().unwrap_or_default()
}

/// `CLOCK_MONOTONIC`, as systemd wants it with a reload.
fn monotonic_us() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1_000
}

pub(crate) fn node_info(local: &LocalConfig, dynamic: &Map<String, Value>) -> Result<NodeInfo, String> {
    let pg = pg_config(local, dynamic)?;
    let restapi = local.restapi().map_err(text)?;
    let proxy = local.get("postgresql.proxy_address").and_then(Value::as_str);
    Ok(NodeInfo {
        name: local.name().map_err(text)?,
        scope: local.scope().map_err(text)?,
        conn_url: format!("postgres://{}/{}", pg.connect_address, pg.database),
        api_url: restapi.url(),
        proxy_url: proxy.map(|proxy| format!("postgres://{proxy}/{}", pg.database)),
        version: model::COMPATIBLE_VERSION.to_owned(),
        tags: local.tags(),
        may_bootstrap: local.bootstrap().map_err(text)?.is_some(),
        initial_config: Value::Object(dynamic.clone()).to_string(),
        clones_without_leader: pg.replica_methods.iter().any(|method| method.flag("no_leader")),
        clones_over_data: pg.replica_methods.iter().any(|method| method.flag("keep_data")),
    })
}

pub(crate) fn peer_tls(local: &LocalConfig) -> Result<PeerTls, String> {
    let ctl = local.ctl().map_err(text)?;
    // As upstream: peers are identified by the store's record of them, not by their certificates, which are often
    // self-signed; a race must not fail over that.
    let authentication = ctl.authentication.map(|credentials| BasicAuth {
        username: credentials.username,
        password: credentials.password.reveal().to_owned(),
    });
    let (ca_file, cert_file, key_file) = (ctl.cacert, ctl.certfile, ctl.keyfile);
    Ok(PeerTls { insecure: true, ca_file, cert_file, key_file, authentication })
}

/// Says where two tags contradict each other; which one wins is in [`model::Tags`].
pub(crate) fn comment_tags(info: &NodeInfo) {
    for (flag, priority) in [("nofailover", "failover_priority"), ("nosync", "sync_priority")] {
        if info.tags.0.contains_key(flag) && info.tags.0.contains_key(priority) {
            tracing::warn!("tags: both {flag} and {priority} are set, {flag} wins");
        }
    }
}
