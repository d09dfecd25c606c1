//! A new cluster: initdb or a custom method, then roles and the user's script.

use std::path::Path;

use model::Role;
use model::pg::Unfinished;

use crate::client::{Failure, Session};
use crate::config::{Credentials, PgConfig, ReplicaMethod, method_arguments};
use crate::conninfo;
use crate::files::{self, Recovery};
use crate::layout;
use crate::node::{BootstrapPhase, Postgres, StartAs, StopMode};
use crate::process;
use crate::recovery::{self, Given};
use crate::sql;
use crate::task::{Progress, TaskHandle};

/// Keys of a custom method's section that are not arguments of its command.
const RESERVED: &[&str] = &["command", "no_params", "keep_existing_recovery_conf", "recovery_conf", "scope", "datadir"];

/// Session settings under which passwords and the roles of the cluster are written: nothing of it is logged, and
/// nobody is waited for.
const QUIET: &str = "SET log_statement = none; SET log_min_duration_statement = -1; \
    SET log_min_error_statement = panic; SET log_duration = off; SET synchronous_commit = local; \
    SET statement_timeout = 0";
/// More of it, that some versions and installations lack.
const QUIET_OPTIONAL: [&str; 4] = [
    "SET log_min_duration_sample = -1",
    "SET log_transaction_sample_rate = 0",
    "SET pgaudit.log = 'none'",
    "SET auto_explain.log_min_duration = -1",
];

impl Postgres {
    /// Makes a new cluster in the empty data directory, by initdb or the custom method, and writes its
    /// configuration; ends stopped. The directory stays marked as unfinished until [`Postgres::post_bootstrap`].
    pub async fn initdb(&self, task: &TaskHandle) -> Result<(), String> {
        self.make_way("bootstrap").await?;
        let config = self.config();
        if layout::data_dir_state(&self.data_dir) != model::pg::DataDir::Empty {
            // What an interrupted bootstrap or copy left is nobody's data.
            if !matches!(self.marker.read(), Some(Unfinished::Bootstrap | Unfinished::Clone)) {
                return Err(format!("cannot bootstrap: {} is not empty", self.data_dir.display()));
            }
            layout::clear(&self.data_dir)?;
        }
        // A marker of earlier work would make the directory look used.
        self.marker.clear()?;
        match &config.bootstrap.custom {
            Some(method) => {
                self.marker.set(Unfinished::Bootstrap)?;
                self.custom_bootstrap(&config, method, task).await?;
            }
            None => {
                if let Some(problem) = &config.bootstrap.initdb_problem {
                    return Err(problem.clone());
                }
                self.marker.set(Unfinished::Bootstrap)?;
                self.run_initdb(&config, task).await?;
                self.set_phase(BootstrapPhase::Fresh);
                files::append_bootstrap_hba(&config)?;
                self.write_config(Role::Primary, crate::node::Plan::None).await?;
            }
        }
        self.marker.set(Unfinished::Bootstrap)
    }

    async fn run_initdb(&self, config: &PgConfig, task: &TaskHandle) -> Result<(), String> {
        let mut command = process::command_on(&config.binaries.path("initdb"), &self.data_dir);
        command.args(&config.bootstrap.initdb);
        if let Some(user) = &config.superuser.username {
            command.arg(format!("--username={user}"));
        }
        let mut password_file = None;
        if let Some(password) = &config.superuser.password {
            let file = TemporaryFile::beside(&config.pgpass, "pwfile", &format!("{}\n", password.expose()))?;
            command.arg(format!("--pwfile={}", file.path().display()));
            password_file = Some(file);
        }
        command.arg(&self.data_dir);
        let keep = || self.marker.keep(Unfinished::Bootstrap);
        let finished = process::run_with_tick(command, "initdb", task, keep).await?;
        drop(password_file);
        finished.success("initdb").map(|_| ())
    }

    async fn custom_bootstrap(
        &self,
        config: &PgConfig,
        method: &ReplicaMethod,
        task: &TaskHandle,
    ) -> Result<(), String> {
        let what = format!("bootstrap method {}", method.name);
        let mut words = command_words(method)?;
        if !method.flag("no_params") {
            words.push(format!("--scope={}", config.scope));
            words.push(format!("--datadir={}", self.data_dir.display()));
            words.extend(method_arguments(&method.settings, RESERVED));
        }
        task.report(Progress::CustomBootstrap);
        self.run_command(&words, &what, Unfinished::Bootstrap, None, task).await?;
        files::restore_backups(config)?;
        let version = self.version().map_err(|error| format!("{what} made no usable data directory: {error}"))?;
        layout::remove_file(&self.data_dir.join("promote"))?;
        let section = method.settings.get("recovery_conf").and_then(serde_json::Value::as_object);
        let phase = match section.map(|section| recovery::given(&crate::config::parameters_of(section), version)) {
            Some(given) => {
                let readable = given.pauses();
                self.write_given_recovery(config, version, given)?;
                BootstrapPhase::Restored { recovery: true, readable }
            }
            None if method.flag("keep_existing_recovery_conf") => {
                BootstrapPhase::Restored { recovery: self.recovery_configured(), readable: false }
            }
            None => {
                files::write_recovery_files(config, version, &Recovery::None)?;
                BootstrapPhase::Restored { recovery: false, readable: false }
            }
        };
        self.set_phase(phase);
        Ok(())
    }

    /// Recovery configuration of a custom method, as given: into `postgresql.auto.conf` from version 12 on, where it
    /// stays until the cluster is promoted and files are written anew.
    fn write_given_recovery(&self, config: &PgConfig, version: u32, given: Given) -> Result<(), String> {
        if version < 120_000 {
            return files::write_recovery_files(config, version, &Recovery::Standby(given.parameters)).map(drop);
        }
        files::write_recovery_files(config, version, &Recovery::None)?;
        let signal = if given.standby { "standby.signal" } else { "recovery.signal" };
        layout::write_file(&self.data_dir.join(signal), "", &self.data_dir)?;
        let auto = self.data_dir.join("postgresql.auto.conf");
        let mut text = std::fs::read_to_string(&auto).unwrap_or_default();
        for (name, value) in &given.parameters {
            text.push_str(&crate::conf_text::line(name, value));
        }
        layout::write_file(&auto, &text, &self.data_dir).map(drop)
    }

    /// Roles and `post_bootstrap`, on the running new primary; afterwards the bootstrap is finished.
    pub async fn post_bootstrap(&self, task: &TaskHandle) -> Result<(), String> {
        let config = self.config();
        let version = self.version()?;
        let restored = matches!(self.phase(), BootstrapPhase::Restored { .. });
        let session = self.connect().await.map_err(Failure::into_text)?;
        // The role cannot be created twice: a bootstrap is attempted again from the start, never resumed.
        let what = "prepare the session for the roles";
        session.query(what, QUIET).await.map_err(Failure::into_text)?;
        for statement in QUIET_OPTIONAL {
            if let Err(failure) = session.query(what, statement).await {
                tracing::debug!("{}", failure.into_text());
            }
        }
        create_roles(&session, &config, version).await.map_err(Failure::into_text)?;
        drop(session);
        if config.bootstrap.users {
            tracing::error!(
                "bootstrap.users is not supported since version 4: no user was created; create them in \
                 bootstrap.post_bootstrap, or one with bootstrap.admin"
            );
        }
        if let Some(script) = &config.bootstrap.post_bootstrap {
            self.run_post_bootstrap(&config, version, script, task).await?;
        }
        if restored {
            self.leave_restored(&config, task).await?;
        }
        self.set_phase(BootstrapPhase::Idle);
        self.marker.clear()
    }

    /// While a restored cluster came up, its access rules were open, its recovery configuration was the method's, and it
    /// may have run with the larger settings of the cluster it was taken from. Now everything is as configured.
    async fn leave_restored(&self, config: &PgConfig, task: &TaskHandle) -> Result<(), String> {
        self.set_phase(BootstrapPhase::Fresh);
        self.write_config(Role::Primary, crate::node::Plan::None).await?;
        let other_rules = config.parameters.for_role(Role::Primary).contains_key("hba_file");
        if other_rules || !self.observe().await.pending_restart.is_empty() {
            self.stop(StopMode::Fast, task).await?;
            return self.start(StartAs::Primary, config.pg_ctl_timeout, task).await;
        }
        self.reload();
        Ok(())
    }

    async fn run_post_bootstrap(
        &self,
        config: &PgConfig,
        version: u32,
        script: &str,
        task: &TaskHandle,
    ) -> Result<(), String> {
        let address = config.local_address();
        let pgpass =
            TemporaryFile::beside(&config.pgpass, "pgpass", &conninfo::pgpass_lines(&config.superuser, &address))?;
        let dsn = conninfo::dsn(config, &config.superuser, &address).set("dbname", &config.database).render(version);
        let mut words = shlex::split(script)
            .filter(|words| !words.is_empty())
            .ok_or_else(|| format!("bootstrap.post_bootstrap {script:?}: expected a command with balanced quotes"))?;
        words.push(dsn);
        let mut command = process::command(Path::new(&words[0]));
        command.args(&words[1..]).env("PGPASSFILE", pgpass.path());
        command.env("PGOPTIONS", "-c synchronous_commit=local -c statement_timeout=0");
        process::run(command, "bootstrap.post_bootstrap", task).await?.success("bootstrap.post_bootstrap").map(|_| ())
    }

    /// Runs a user's command that fills the data directory, with the marker kept.
    pub(crate) async fn run_command(
        &self,
        words: &[String],
        what: &str,
        work: Unfinished,
        pgpass: Option<&Path>,
        task: &TaskHandle,
    ) -> Result<(), String> {
        let (program, arguments) = words.split_first().ok_or_else(|| format!("{what} has an empty command"))?;
        let mut command = process::command_on(Path::new(program), &self.data_dir);
        command.args(arguments);
        if let Some(path) = pgpass {
            command.env("PGPASSFILE", path);
        }
        let finished = process::run_with_tick(command, what, task, || self.marker.keep(work)).await?;
        finished.success(what).map(|_| ())
    }
}

/// The words of a method's `command`, or its name.
pub(crate) fn command_words(method: &ReplicaMethod) -> Result<Vec<String>, String> {
    let text = method.settings.get("command").and_then(serde_json::Value::as_str).unwrap_or(&method.name);
    shlex::split(text)
        .filter(|words| !words.is_empty())
        .ok_or_else(|| format!("{}.command {text:?}: expected a command with balanced quotes", method.name))
}

async fn create_roles(session: &Session, config: &PgConfig, version: u32) -> Result<(), Failure> {
    if config.superuser.username.is_some() {
        create_role(session, &config.superuser, "SUPERUSER").await?;
    }
    create_role(session, &config.replication, "REPLICATION").await?;
    if let Some(admin) = &config.bootstrap.admin {
        create_role(session, admin, "CREATEDB CREATEROLE").await?;
    }
    let Some(rewind) = config.rewind_user.as_ref().filter(|_| version >= 110_000) else { return Ok(()) };
    if rewind.username == config.superuser.username {
        return Ok(());
    }
    let options = if rewind.username == config.replication.username { "REPLICATION" } else { "" };
    create_role(session, rewind, options).await?;
    let role = sql::ident(rewind.username.as_deref().unwrap_or_default());
    // What pg_rewind calls on the source (PostgreSQL documentation, pg_rewind, "Notes").
    for function in [
        "pg_ls_dir(text, boolean, boolean)",
        "pg_stat_file(text, boolean)",
        "pg_read_binary_file(text)",
        "pg_read_binary_file(text, bigint, bigint, boolean)",
    ] {
        let grant = format!("GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {role}");
        session.query("let the rewind role read files", &grant).await?;
    }
    Ok(())
}

/// Creates a role that may log in, or alters the one that exists.
async fn create_role(session: &Session, credentials: &Credentials, options: &str) -> Result<(), Failure> {
    let Some(name) = &credentials.username else { return Ok(()) };
    let what = format!("create role {name}");
    let exists = format!("SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = {}", sql::literal(name));
    let verb = if session.value(&what, &exists).await?.is_some() { "ALTER" } else { "CREATE" };
    let password =
        credentials.password.as_ref().map(|password| format!(" PASSWORD {}", sql::literal(password.expose())));
    let statement = format!("{verb} ROLE {} WITH LOGIN {options}{}", sql::ident(name), password.unwrap_or_default());
    session.query(&what, &statement).await.map(|_| ())
}

/// A file with a secret, readable by its owner only, removed when dropped.
pub(crate) struct TemporaryFile(std::path::PathBuf);

impl TemporaryFile {
    /// Creates `<path>.<purpose>.<unique>` next to `path`, whose directory is one this program may write to.
    pub fn beside(path: &Path, purpose: &str, text: &str) -> Result<TemporaryFile, String> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{purpose}.{}.{number}", std::process::id()));
        let file = TemporaryFile(name.into());
        layout::write_private(&file.0, text).map_err(|error| format!("{error} (postgresql.pgpass)"))?;
        Ok(file)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // Its directory may be gone.
        let _ = std::fs::remove_file(&self.0);
    }
}
