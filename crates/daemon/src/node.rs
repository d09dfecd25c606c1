//! [`agent::ports::Node`] over a real [`postgres::Postgres`]: the same words on both sides, and the configuration that
//! both need.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use agent::callbacks::Scripts;
use agent::ports::{Node, StartAs, TaskHandle};
use async_trait::async_trait;
use config::LocalConfig;
use ha::step::{CloneSource, ServerPosition, StopMode};
use ha::view::Progress;
use model::lsn::TimelineSwitch;
use model::member::PendingRestart;
use model::pg::{PgSnapshot, Upstream};
use model::slots::{SlotChange, Xid};
use model::{Role, Settings};
use postgres::{PgConfig, Postgres};
use serde_json::{Map, Value};
use tokio::sync::watch;

/// Tells the sentinel which process to watch.
pub type PidObserver = Box<dyn Fn(Option<u32>) + Send + Sync>;

/// The local PostgreSQL of a production node.
pub struct PgNode {
    postgres: Arc<Postgres>,
    local: Arc<RwLock<LocalConfig>>,
    scripts: Arc<Scripts>,
    data_dir: PathBuf,
    /// The dynamic configuration as last cached beside the data.
    cached: Mutex<Option<Map<String, Value>>>,
    /// The dynamic configuration whose oddities were last logged.
    commented: Mutex<Option<Map<String, Value>>>,
    /// What waits for a restart, as last logged.
    pending: Mutex<PendingRestart>,
    /// The next [`Node::apply_config`] tells the server to read its files again in any case.
    reload_anyway: AtomicBool,
    pid_observer: PidObserver,
    /// Held while a changed configuration is applied.
    applying: Arc<tokio::sync::Mutex<()>>,
}

/// Reads the `postgresql` section as it is with this dynamic configuration.
pub fn pg_config(local: &LocalConfig, dynamic: &Map<String, Value>) -> Result<PgConfig, String> {
    let text = |error: config::ConfigError| error.to_string();
    let section = local.effective_postgresql(dynamic);
    let bootstrap = local.bootstrap().map_err(text)?.unwrap_or_default();
    let (name, scope) = (local.name().map_err(text)?, local.scope().map_err(text)?);
    PgConfig::from_section(&section, &bootstrap, &name, &scope)?.with_dynamic(dynamic)
}

impl PgNode {
    /// A node over `postgres`, whose configuration comes from `local` and the dynamic configuration.
    pub fn new(
        postgres: Arc<Postgres>,
        local: Arc<RwLock<LocalConfig>>,
        scripts: Arc<Scripts>,
        data_dir: PathBuf,
        pid_observer: PidObserver,
    ) -> PgNode {
        PgNode {
            postgres,
            local,
            scripts,
            data_dir,
            cached: Mutex::new(None),
            commented: Mutex::new(None),
            pending: Mutex::default(),
            reload_anyway: AtomicBool::new(false),
            pid_observer,
            applying: Arc::default(),
        }
    }

    /// Somebody asked for a reload: files that are not ours (certificates, included files) may have changed too.
    pub fn reload_anyway(&self) {
        self.reload_anyway.store(true, Ordering::Release);
    }

    /// Says once what has begun to wait for a restart.
    fn comment_pending(&self, pending: &PendingRestart) {
        let mut seen = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, change) in pending.iter().filter(|(name, change)| seen.get(*name) != Some(change)) {
            tracing::info!(
                "Changed {name} from {} to {} (restart might be required)",
                change.old_value,
                change.new_value
            );
        }
        seen.clone_from(pending);
    }

    /// What an operator should hear of a dynamic configuration, each time it changes.
    fn comment(&self, dynamic: &Map<String, Value>) {
        let mut seen = self.commented.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.as_ref() == Some(dynamic) {
            return;
        }
        *seen = Some(dynamic.clone());
        for sentence in config::check::check_dynamic(dynamic).unknown {
            tracing::warn!("dynamic configuration: {sentence}");
        }
        let (settings, _) = Settings::resolve(dynamic);
        let unsupported = [("standby_cluster", settings.standby_cluster)];
        for (name, _) in unsupported.iter().filter(|(_, wanted)| *wanted) {
            tracing::error!("dynamic configuration: {name} is not supported yet and has no effect on this node");
        }
    }

    /// Keeps the dynamic configuration beside the data, for a start without the store.
    fn cache(&self, dynamic: &Map<String, Value>) {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.as_ref() == Some(dynamic) || !self.data_dir.join("PG_VERSION").exists() {
            return;
        }
        match config::cache::save(&self.data_dir, dynamic, file_mode(&self.data_dir)) {
            Ok(()) => *cached = Some(dynamic.clone()),
            Err(error) => tracing::warn!("cannot keep the dynamic configuration beside the data: {error}"),
        }
    }
}

/// Files beside the data are as open to the group as the data directory is.
fn file_mode(data_dir: &Path) -> u32 {
    let group_reads = std::fs::metadata(data_dir).is_ok_and(|meta| meta.permissions().mode() & 0o040 != 0);
    if group_reads { 0o640 } else { 0o600 }
}

fn handle(task: &TaskHandle) -> postgres::TaskHandle {
    let progress = task.progress.clone();
    postgres::TaskHandle {
        may_be_writable: task.may_be_writable.clone(),
        cancelled: task.cancelled.clone(),
        progress: Arc::new(move |report| {
            progress(match report {
                postgres::Progress::ShutDown(lsn) => Progress::ShutDown(lsn),
                postgres::Progress::Starting => Progress::Starting,
                postgres::Progress::Copied(copied) => Progress::Copied(copied),
                postgres::Progress::CustomBootstrap => Progress::CustomBootstrap,
                postgres::Progress::Restored => Progress::Restored,
                postgres::Progress::PrePromote => Progress::PrePromote,
                postgres::Progress::Promoting => Progress::Promoting,
            });
        }),
    }
}

#[async_trait]
impl Node for PgNode {
    async fn observe(&self) -> PgSnapshot {
        let snapshot = self.postgres.observe().await;
        let pid = self.postgres.postmaster_pid().and_then(|pid| u32::try_from(pid).ok());
        (self.pid_observer)(pid);
        if snapshot.server.is_some() {
            self.comment_pending(&snapshot.pending_restart);
        }
        snapshot
    }

    fn events(&self) -> watch::Receiver<u64> {
        self.postgres.events()
    }

    fn in_force(&self, dynamic: &Map<String, Value>) -> Map<String, Value> {
        self.local.read().unwrap_or_else(PoisonError::into_inner).merged_dynamic(dynamic)
    }

    async fn apply_config(&self, dynamic: &Map<String, Value>, role: Role) -> Result<bool, String> {
        let config = {
            let local = self.local.read().unwrap_or_else(PoisonError::into_inner);
            // First of all: the reload that follows is told to the script that is configured now.
            self.scripts.configure(&local.callbacks(dynamic));
            pg_config(&local, dynamic)?
        };
        self.comment(dynamic);
        self.cache(dynamic);
        // On a disk that hangs this never returns: it holds up a thread of its own, once, and not who waits for it.
        let turn = self.applying.clone().lock_owned().await;
        let anyway = self.reload_anyway.swap(false, Ordering::AcqRel);
        let postgres = self.postgres.clone();
        let applying = tokio::spawn(async move {
            let _turn = turn;
            Ok(postgres.apply_config(config, role).await? || anyway && postgres.reload())
        });
        applying.await.map_err(|error| format!("it ended unexpectedly: {error}"))?
    }

    async fn initdb(&self, task: &TaskHandle) -> Result<(), String> {
        self.postgres.initdb(&handle(task)).await
    }

    async fn post_bootstrap(&self, task: &TaskHandle) -> Result<(), String> {
        self.postgres.post_bootstrap(&handle(task)).await
    }

    async fn start(&self, mode: StartAs, timeout: Duration, task: &TaskHandle) -> Result<(), String> {
        // The cluster's start timeout is for primaries; for standbys it is this node's own setting.
        let (mode, timeout) = match mode {
            StartAs::Primary => (postgres::StartAs::Primary, timeout),
            StartAs::Standby(upstream) => (postgres::StartAs::Standby(upstream), self.postgres.config().pg_ctl_timeout),
        };
        self.postgres.start(mode, timeout, &handle(task)).await
    }

    async fn stop(&self, mode: StopMode, task: &TaskHandle) -> Result<(), String> {
        let mode = match mode {
            StopMode::Fast => postgres::StopMode::Fast,
            StopMode::Immediate => postgres::StopMode::Immediate,
        };
        self.postgres.stop(mode, &handle(task)).await
    }

    async fn promote(&self, may_proceed: &(dyn Fn() -> bool + Send + Sync), task: &TaskHandle) -> Result<(), String> {
        self.postgres.promote(may_proceed, &handle(task)).await
    }

    async fn repoint(&self, upstream: Option<&Upstream>, task: &TaskHandle) -> Result<(), String> {
        self.postgres.repoint(upstream, &handle(task)).await
    }

    async fn clone_from(
        &self,
        source: Option<&CloneSource>,
        basebackup_only: bool,
        task: &TaskHandle,
    ) -> Result<(), String> {
        let source =
            source.map(|source| postgres::CloneSource { name: source.name.clone(), upstream: source.upstream.clone() });
        // Not a method call: `Arc` has a `clone_from` of its own.
        Postgres::clone_from(&self.postgres, source.as_ref(), basebackup_only, &handle(task)).await
    }

    async fn rewind(&self, source: &Upstream, task: &TaskHandle) -> Result<(), String> {
        self.postgres.rewind(source, &handle(task)).await
    }

    async fn crash_recovery(&self, task: &TaskHandle) -> Result<(), String> {
        self.postgres.crash_recovery(&handle(task)).await
    }

    async fn checkpoint(&self) -> Result<(), String> {
        self.postgres.checkpoint().await
    }

    async fn remove_data_dir(&self) -> Result<(), String> {
        self.postgres.remove_data_dir().await
    }

    async fn move_data_dir_aside(&self) -> Result<(), String> {
        self.postgres.move_data_dir_aside().await
    }

    async fn sync_slots(&self, changes: &[SlotChange]) -> Result<(), String> {
        self.postgres.sync_slots(changes).await
    }

    async fn force_feedback(&self, on: bool) -> Result<(), String> {
        self.postgres.force_feedback(on).await
    }

    async fn copy_slots(&self, source: &Upstream, slots: &[String], task: &TaskHandle) -> Result<(), String> {
        self.postgres.copy_slots(source, slots, &handle(task)).await
    }

    async fn slot_horizons(&self, server: &Upstream, slots: &[String]) -> Result<BTreeMap<String, Xid>, String> {
        self.postgres.slot_horizons(server, slots).await
    }

    async fn set_standby_names(&self, names: Option<&str>) -> Result<(), String> {
        self.postgres.set_standby_names(names).await
    }

    async fn server_position(&self, server: &Upstream) -> Result<ServerPosition, String> {
        let one_line = |why: String| why.split_whitespace().collect::<Vec<_>>().join(" ");
        let position = self.postgres.server_position(server).await.map_err(one_line)?;
        Ok(ServerPosition {
            in_recovery: position.in_recovery,
            system_id: position.system_id,
            timeline: position.timeline,
            lsn: position.lsn,
            history: position.history,
        })
    }

    async fn own_history(&self) -> Option<Vec<TimelineSwitch>> {
        self.postgres.own_history().await
    }
}
