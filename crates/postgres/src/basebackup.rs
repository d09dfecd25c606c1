//! Copying another server into the data directory.

use std::time::{Duration, Instant};

use model::CloneProgress;
use model::pg::{DataDir, Unfinished, Upstream};

use crate::bootstrap::{TemporaryFile, command_words};
use crate::config::{PgConfig, ReplicaMethod, method_arguments};
use crate::conninfo;
use crate::files;
use crate::layout;
use crate::node::Postgres;
use crate::process;
use crate::task::{Progress, TaskHandle};

/// Keys of a method's section that are not arguments of its command.
const RESERVED: &[&str] = &["command", "no_params", "no_leader", "keep_data", "no_master"];
/// A primary may be busy with another backup, or just promoted.
const BASEBACKUP_TRIES: usize = 2;
const BASEBACKUP_PAUSE: Duration = Duration::from_secs(5);

/// Whom a clone is taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloneSource {
    /// Member name.
    pub name: String,
    /// Its server.
    pub upstream: Upstream,
}

impl Postgres {
    /// Copies another server into the data directory, by the configured methods in order; ends stopped. Without a
    /// source only methods with `no_leader` are tried. What was in the directory is removed, unless the method has
    /// `keep_data`.
    pub async fn clone_from(
        &self,
        source: Option<&CloneSource>,
        basebackup_only: bool,
        task: &TaskHandle,
    ) -> Result<(), String> {
        self.make_way("copy another server").await?;
        let config = self.config();
        let mut problems = Vec::new();
        for method in methods(&config, source, basebackup_only) {
            if task.is_cancelled() {
                return Err("copying another server was cancelled".to_owned());
            }
            match self.clone_by(&config, &method, source, task).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::warn!("{error}");
                    problems.push(error);
                }
            }
        }
        if problems.is_empty() {
            problems.push("no method in postgresql.create_replica_methods works without a running server".to_owned());
        }
        Err(problems.join("; then "))
    }

    async fn clone_by(
        &self,
        config: &PgConfig,
        method: &ReplicaMethod,
        source: Option<&CloneSource>,
        task: &TaskHandle,
    ) -> Result<(), String> {
        let keep_data = method.flag("keep_data");
        let address = source.map(|source| &source.upstream.address);
        let lines = address.map_or(String::new(), |address| conninfo::pgpass_lines(&config.replication, address));
        let pgpass = TemporaryFile::beside(&config.pgpass, "pgpass", &lines)?;
        let dsn = address.map_or(String::new(), |address| {
            conninfo::dsn(config, &config.replication, address).set("dbname", &config.database).render(client_version())
        });
        self.marker.set(Unfinished::Clone)?;
        let copied = if method.name == "basebackup" {
            self.base_backup(config, method, &dsn, &pgpass, task).await
        } else {
            if !keep_data {
                self.empty_data_dir().await?;
            }
            let mut words = command_words(method)?;
            words.extend(method_arguments(&method.settings, RESERVED));
            if !method.flag("no_params") {
                words.push(format!("--scope={}", config.scope));
                words.push("--role=replica".to_owned());
                words.push(format!("--datadir={}", self.data_dir.display()));
                words.push(format!("--connstring={dsn}"));
            }
            let what = format!("replica method {}", method.name);
            self.run_command(&words, &what, Unfinished::Clone, Some(pgpass.path()), task).await
        };
        let copied = copied.and_then(|()| match layout::data_dir_state(&self.data_dir) {
            DataDir::Present => Ok(()),
            _ => Err(format!("replica method {} left no data in {}", method.name, self.data_dir.display())),
        });
        if let Err(error) = copied {
            if !keep_data {
                self.empty_data_dir().await?;
            }
            return Err(error);
        }
        files::restore_backups(config)?;
        layout::remove_file(&self.data_dir.join("promote"))?;
        self.marker.clear()
    }

    async fn base_backup(
        &self,
        config: &PgConfig,
        method: &ReplicaMethod,
        dsn: &str,
        pgpass: &TemporaryFile,
        task: &TaskHandle,
    ) -> Result<(), String> {
        let what = "pg_basebackup";
        let (own_options, problems) = method.basebackup_options();
        for problem in problems {
            tracing::warn!("{problem}; the option is not used");
        }
        let mut attempt = 1;
        loop {
            // A WAL directory elsewhere, often on a disk of its own, stays there.
            let wal_target = self.wal_target();
            self.empty_data_dir().await?;
            let mut command = process::command_on(&config.binaries.path("pg_basebackup"), &self.data_dir);
            command.arg(format!("--pgdata={}", self.data_dir.display())).args(["-X", "stream"]);
            command.arg(format!("--dbname={dsn}"));
            let options = config.basebackup.iter().chain(&own_options);
            if !options.clone().any(|option| option.starts_with("--checkpoint")) {
                command.arg("--checkpoint=fast");
            }
            if !options.clone().any(|option| option == "--progress") {
                command.arg("--progress");
            }
            if let Some(target) = wal_target.as_ref().filter(|_| !options.clone().any(|o| o.starts_with("--waldir"))) {
                command.arg(format!("--waldir={}", target.display()));
            }
            command.args(options).env("PGPASSFILE", pgpass.path()).env("LC_ALL", "C").env("LANG", "C");
            let mut reports = Reports::default();
            let tick = |line: &str| {
                self.marker.keep(Unfinished::Clone);
                if let Some(progress) = parse_progress(line).filter(|progress| reports.is_due(*progress)) {
                    task.report(Progress::Copied(progress));
                }
            };
            let mut finished = process::run_watched(command, what, task, tick).await?;
            // What went wrong is in the other lines.
            let said = finished.stderr.lines().filter(|line| parse_progress(line).is_none());
            finished.stderr = said.flat_map(|line| [line, "\n"]).collect();
            match finished.success(what) {
                Ok(_) => return Ok(()),
                Err(error) if attempt == BASEBACKUP_TRIES => return Err(error),
                Err(error) => tracing::warn!("{error}; trying again in {} seconds", BASEBACKUP_PAUSE.as_secs()),
            }
            attempt += 1;
            tokio::select! {
                biased;
                () = task.until_cancelled() => return Err(format!("{what} was cancelled")),
                () = tokio::time::sleep(BASEBACKUP_PAUSE) => {}
            }
        }
    }

    /// Where the WAL directory is, or was before the last removal, when that is outside the data directory.
    pub(crate) fn wal_target(&self) -> Option<std::path::PathBuf> {
        let mut known = self.wal_elsewhere.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(target) = layout::wal_elsewhere(&self.data_dir) {
            *known = Some(target);
        }
        known.clone()
    }

    /// Empties the data directory for a copy; the marker beside it stays.
    async fn empty_data_dir(&self) -> Result<(), String> {
        let data_dir = self.data_dir.clone();
        crate::node::blocking(move || layout::clear(&data_dir)).await??;
        self.marker.set(Unfinished::Clone)
    }
}

/// When progress is reported: each whole percent, but not more often than every five seconds, and once a minute where
/// there is no percent. Each report ends up in the log and in the store.
#[derive(Default)]
struct Reports {
    last: Option<(Instant, Option<u64>)>,
}

impl Reports {
    const LEAST: Duration = Duration::from_secs(5);
    const MOST: Duration = Duration::from_secs(60);

    fn is_due(&mut self, progress: CloneProgress) -> bool {
        let now = Instant::now();
        let due = self.last.is_none_or(|(at, percent)| {
            let since = now.duration_since(at);
            since >= Self::MOST || (since >= Self::LEAST && percent != progress.percent())
        });
        if due {
            self.last = Some((now, progress.percent()));
        }
        due
    }
}

/// `12345/67890 kB (18%), 0/1 tablespace`, as pg_basebackup says every second; without an estimate `12345 kB (100%)`.
fn parse_progress(line: &str) -> Option<CloneProgress> {
    let (amounts, rest) = line.trim().split_once(" kB (")?;
    let (percent, rest) = rest.split_once("%)")?;
    if !rest.contains("tablespace") || percent.trim().parse::<u64>().is_err() {
        return None;
    }
    let bytes = |text: &str| text.trim().parse::<u64>().ok()?.checked_mul(1024);
    match amounts.split_once('/') {
        Some((copied, total)) => {
            Some(CloneProgress { copied_bytes: bytes(copied)?, total_bytes: bytes(total).filter(|total| *total > 0) })
        }
        None => Some(CloneProgress { copied_bytes: bytes(amounts)?, total_bytes: None }),
    }
}

/// libpq of the installed programs, whose version does not matter for the keywords used here.
fn client_version() -> u32 {
    100_000
}

/// The methods to try, in order.
fn methods(config: &PgConfig, source: Option<&CloneSource>, basebackup_only: bool) -> Vec<ReplicaMethod> {
    let builtin = || ReplicaMethod { name: "basebackup".to_owned(), settings: serde_json::Map::new() };
    if basebackup_only {
        return if source.is_some() { vec![builtin()] } else { Vec::new() };
    }
    let remote = &config.standby_cluster;
    let from_remote = source.is_some_and(|source| remote.remote.as_ref() == Some(&source.upstream.address));
    let mut methods = config.replica_methods.clone();
    if let Some(names) = remote.replica_methods.as_ref().filter(|_| from_remote) {
        let known = |name: &String| config.replica_methods.iter().find(|method| method.name == *name).cloned();
        methods = names
            .iter()
            .map(|name| known(name).unwrap_or_else(|| ReplicaMethod { name: name.clone(), ..builtin() }))
            .collect();
    }
    methods.retain(|method| source.is_some() || (method.name != "basebackup" && method.flag("no_leader")));
    methods
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::HostPort;
    use serde_json::{Map, json};

    #[test]
    fn progress_lines() {
        let progress = |copied_bytes, total_bytes| Some(CloneProgress { copied_bytes, total_bytes });
        for (line, expected) in [
            ("   12345/67890 kB (18%), 0/1 tablespace", progress(12345 * 1024, Some(67890 * 1024))),
            ("67890/67890 kB (100%), 1/1 tablespace (.../data/base)", progress(67890 * 1024, Some(67890 * 1024))),
            ("    4096 kB (100%), 0/1 tablespace", progress(4096 * 1024, None)),
            ("0/0 kB (100%), 0/1 tablespace", progress(0, None)),
            ("waiting for checkpoint", None),
            ("pg_basebackup: error: could not write 12/3 kB (1%)", None),
            ("18446744073709551615/1 kB (18%), 0/1 tablespace", None),
        ] {
            assert_eq!(parse_progress(line), expected, "{line}");
        }
    }

    #[test]
    fn methods_by_source() {
        let section = json!({
            "listen": "127.0.0.1:5433", "data_dir": "/d", "authentication": {"replication": {"username": "r"}},
            "create_replica_methods": ["wal_g", "basebackup"], "wal_g": {"command": "x", "no_leader": true},
        });
        let section = section.as_object().cloned().unwrap_or_default();
        let config = PgConfig::from_section(&section, &Map::new(), "n", "demo").expect("valid");
        let dynamic = json!({"standby_cluster": {"host": "far", "create_replica_methods": ["basebackup"]}});
        let config = config.with_dynamic(dynamic.as_object().expect("object")).expect("valid");
        let source = |host: &str| CloneSource {
            name: "a".to_owned(),
            upstream: Upstream { address: HostPort { host: host.to_owned(), port: 5432 }, slot: None },
        };
        let names = |source: Option<CloneSource>, basebackup_only| {
            methods(&config, source.as_ref(), basebackup_only).into_iter().map(|method| method.name).collect::<Vec<_>>()
        };
        assert_eq!(names(Some(source("near")), false), ["wal_g", "basebackup"]);
        assert_eq!(names(Some(source("near")), true), ["basebackup"]);
        assert_eq!(names(Some(source("far")), false), ["basebackup"]);
        assert_eq!(names(None, false), ["wal_g"]);
        assert!(names(None, true).is_empty());
    }
}
