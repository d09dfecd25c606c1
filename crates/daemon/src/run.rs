//! Builds a node and runs it to its end.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use agent::callbacks::Scripts;
use agent::clock::BootClock;
use agent::fence::{self, Mode, NoFence, SentinelFence, SentinelOptions, WatchdogFence, WatchdogOptions};
use agent::peers::HttpPeers;
use agent::ports::{Clock, Fence, Node, Peers, Spawner};
use agent::{Agent, Deps};
use api::ApiConfig;
use config::LocalConfig;
use config::sections::GuardMode;
use dcs::{Freshness, OpenError, Store, StoreConfig, Timing};
use futures::future::BoxFuture;
use ha::view::NodeInfo;
use model::{ClusterView, Settings};
use postgres::Postgres;
use serde_json::{Map, Value};
use tokio::sync::{Notify, watch};

use crate::backend::RestBackend;
use crate::node::{PgNode, PidObserver, pg_config};
use crate::promise::PromiseBesideData;
use crate::reload::{Reloaded, Reloader, comment_tags, node_info, peer_tls, section, text};
use crate::{namesake, notify::notify, signals};

/// How often an unreachable store is tried again at start.
const STORE_RETRY: Duration = Duration::from_secs(5);

/// Runs the node of this configuration until it is told to stop; returns the exit status. An error is the sentence to
/// end with: the node has not started, and nothing was changed.
///
/// `reloaded` is called with a configuration that was read again and is in force from then on.
pub fn run(local: LocalConfig, reloaded: Reloaded) -> Result<i32, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))?;
    let result = runtime.block_on(start(local, reloaded));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn start(local: LocalConfig, reloaded: Reloaded) -> Result<i32, String> {
    let name = local.name().map_err(text)?;
    let data_dir = local.data_dir().map_err(text)?;
    let cached = config::cache::load(&data_dir).unwrap_or_else(|why| {
        tracing::warn!("{why}");
        None
    });
    // Checks of this machine come before anybody is spoken to.
    let first_guess = local.dynamic_at_start(None, cached.clone());
    let pg_config = pg_config(&local, &first_guess)?;
    postgres::preflight(&pg_config)?;
    let postgres = Arc::new(Postgres::new(pg_config));
    postgres.ensure_ports_are_free()?;
    let api_config = ApiConfig::from_section(&section(&local, "restapi"))?;

    let store = open_store(&local, &first_guess).await?;
    let cluster = read_store(store.as_ref()).await;
    namesake::refuse(&cluster, &name, &local.scope().map_err(text)?).await?;
    refuse_other_cluster(&cluster, &postgres, &name).await?;
    let stored = cluster.config.filter(|config| config.version != 0).map(|config| config.value);
    let dynamic = local.dynamic_at_start(stored, cached);

    let parts = Parts::build(local, &data_dir, &dynamic, postgres, store, reloaded)?;
    parts.run(api_config, dynamic).await
}

async fn open_store(local: &LocalConfig, dynamic: &Map<String, Value>) -> Result<Arc<dyn Store>, String> {
    let (backend, section) = local.store().map_err(text)?;
    let (settings, _) = Settings::resolve(dynamic);
    let config = StoreConfig {
        backend: backend.to_owned(),
        section,
        namespace: local.namespace().map_err(text)?,
        scope: local.scope().map_err(text)?,
        name: local.name().map_err(text)?,
        timing: Timing { ttl: settings.ttl, loop_wait: settings.loop_wait, retry_timeout: settings.retry_timeout },
        ctl: false,
    };
    loop {
        match dcs::open(&config).await {
            Ok(store) => return Ok(store),
            Err(OpenError::Config(why) | OpenError::Credentials(why)) => return Err(why),
            Err(OpenError::Unreachable(why)) => tracing::warn!("{why}; trying again"),
        }
        tokio::time::sleep(STORE_RETRY).await;
    }
}

async fn read_store(store: &dyn Store) -> ClusterView {
    loop {
        match store.read(Freshness::Linearizable).await {
            Ok(cluster) => return cluster,
            Err(why) => tracing::warn!("{why}; trying again"),
        }
        tokio::time::sleep(STORE_RETRY).await;
    }
}

/// The rules refuse such a directory too; here nothing at all has been written yet.
async fn refuse_other_cluster(cluster: &ClusterView, postgres: &Postgres, name: &str) -> Result<(), String> {
    let paused = cluster.config.as_ref().is_some_and(|config| Settings::resolve(&config.value).0.pause);
    let snapshot = postgres.observe().await;
    match (cluster.system_id(), snapshot.system_id()) {
        (Some(theirs), Some(ours)) if theirs != ours && !paused => {
            Err(format!("system ID mismatch, node {name} belongs to a different cluster: {theirs} != {ours}"))
        }
        _ => Ok(()),
    }
}

struct TokioSpawner;

impl Spawner for TokioSpawner {
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        tokio::spawn(future);
    }
}

/// Everything that a running node consists of.
struct Parts {
    local: Arc<RwLock<LocalConfig>>,
    data_dir: PathBuf,
    store: Arc<dyn Store>,
    node: Arc<PgNode>,
    peers: Arc<HttpPeers>,
    scripts: Arc<Scripts>,
    fence: Arc<dyn Fence>,
    promises: Arc<PromiseBesideData>,
    clock: Arc<dyn Clock>,
    reloaded: Reloaded,
}

impl Parts {
    fn build(
        local: LocalConfig,
        data_dir: &Path,
        dynamic: &Map<String, Value>,
        postgres: Arc<Postgres>,
        store: Arc<dyn Store>,
        reloaded: Reloaded,
    ) -> Result<Parts, String> {
        let (fence, pid_observer) = fences(&local, data_dir, dynamic)?;
        let peers = Arc::new(HttpPeers::new(&peer_tls(&local)?)?);
        let promises = Arc::new(PromiseBesideData::new(local.name().map_err(text)?, data_dir.to_owned()));
        let scripts = Arc::new(Scripts::new());
        scripts.configure(&local.callbacks(dynamic));
        let local = Arc::new(RwLock::new(local));
        let node = Arc::new(PgNode::new(postgres, local.clone(), scripts.clone(), data_dir.to_owned(), pid_observer));
        let (data_dir, clock) = (data_dir.to_owned(), Arc::new(BootClock));
        Ok(Parts { local, data_dir, store, node, peers, scripts, fence, promises, clock, reloaded })
    }

    async fn run(self, api_config: ApiConfig, dynamic: Map<String, Value>) -> Result<i32, String> {
        let info = self.node_info(&dynamic)?;
        comment_tags(&info);
        let deps = Deps {
            store: self.store.clone(),
            node: self.node.clone(),
            peers: self.peers.clone(),
            fence: self.fence.clone(),
            callbacks: self.scripts.clone(),
            promises: self.promises.clone(),
            clock: self.clock.clone(),
            spawner: Arc::new(TokioSpawner),
            observer: None,
        };
        let agent = Agent::new(deps, info.clone(), dynamic);
        let handle = agent.handle();
        let reload = Arc::new(Notify::new());
        let backend = RestBackend {
            name: info.name.clone(),
            scope: info.scope.clone(),
            handle: handle.clone(),
            store: self.store.clone(),
            node: self.node.clone() as Arc<dyn Node>,
            peers: self.peers.clone() as Arc<dyn Peers>,
            clock: self.clock.clone(),
            reload: reload.clone(),
            looked: Arc::new(watch::Sender::new(None)),
            looking: Arc::default(),
        };
        let server = Arc::new(api::serve(api_config, Arc::new(backend)).await.map_err(|error| error.to_string())?);
        signals::watch(handle.clone(), reload.clone()).map_err(|error| format!("cannot watch for signals: {error}"))?;
        let scripts = self.scripts.clone();
        let reloader = Reloader {
            local: self.local,
            data_dir: self.data_dir,
            node: self.node,
            peers: self.peers,
            server: server.clone(),
            handle,
            reloaded: self.reloaded,
        };
        let reloader = tokio::spawn(reloader.run(reload, info));
        notify("READY=1");
        let code = agent.run().await;
        scripts.all_begun().await;
        reloader.abort();
        // The reloader held the other reference; it may still be winding down.
        let _ = reloader.await;
        if let Ok(server) = Arc::try_unwrap(server) {
            server.shutdown().await;
        }
        Ok(code)
    }

    fn node_info(&self, dynamic: &Map<String, Value>) -> Result<NodeInfo, String> {
        let local = self.local.read().unwrap_or_else(PoisonError::into_inner);
        node_info(&local, dynamic)
    }
}

fn mode(mode: GuardMode) -> Mode {
    match mode {
        GuardMode::Off => Mode::Off,
        GuardMode::Automatic => Mode::Automatic,
        GuardMode::Required => Mode::Required,
    }
}

/// The guards that are wanted, and whom to tell of the postmaster's process number.
fn fences(
    local: &LocalConfig,
    data_dir: &Path,
    dynamic: &Map<String, Value>,
) -> Result<(Arc<dyn Fence>, PidObserver), String> {
    let mut guards: Vec<Arc<dyn Fence>> = Vec::new();
    let mut observer: PidObserver = Box::new(|_| {});
    let sentinel_mode = mode(local.sentinel_mode().map_err(text)?);
    if sentinel_mode != Mode::Off {
        let label = format!("{}/{}", local.scope().map_err(text)?, local.name().map_err(text)?);
        let options = SentinelOptions::new(data_dir.to_owned(), label, sentinel_mode);
        let sentinel = Arc::new(SentinelFence::new(options));
        guards.push(sentinel.clone());
        observer = Box::new(move |pid| sentinel.set_postmaster(pid));
    }
    let watchdog = local.watchdog().map_err(text)?;
    let watchdog_mode = mode(watchdog.mode);
    let device_exists = watchdog.device.exists();
    if watchdog_mode == Mode::Required || (watchdog_mode == Mode::Automatic && device_exists) {
        let (settings, _) = Settings::resolve(dynamic);
        guards.push(Arc::new(WatchdogFence::new(WatchdogOptions {
            mode: watchdog_mode,
            device: watchdog.device,
            safety_margin_s: watchdog.safety_margin_s.map_or(-1, i64::from),
            driver: if watchdog.driver == "testing" { fence::Driver::Testing } else { fence::Driver::Default },
            ttl: settings.ttl,
            loop_wait: settings.loop_wait,
        })));
    }
    let combined = if guards.is_empty() { Arc::new(NoFence) } else { fence::combine(guards) };
    Ok((combined, observer))
}
