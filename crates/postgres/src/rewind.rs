//! pg_rewind, and the crash recovery it may need before.

use std::path::Path;

use model::pg::{ControlState, Unfinished, Upstream};

use crate::archive;
use crate::bootstrap::TemporaryFile;
use crate::client::{self, Failure};
use crate::config::PgConfig;
use crate::conninfo;
use crate::control;
use crate::files;
use crate::layout;
use crate::node::Postgres;
use crate::process::{self, Finished};
use crate::recovery;
use crate::task::TaskHandle;

/// What pg_rewind says, with `--progress`, when it knows what to do and has changed nothing yet.
const BEFORE_CHANGES: &str = "need to copy";
/// Segments fetched at most for one rewind: 16 GB of WAL with the default size of a segment.
const FETCHED_SEGMENTS_MAX: usize = 1024;

impl Postgres {
    /// pg_rewind against `source`. The server must be stopped, cleanly. When it fails or is cancelled after it may have
    /// changed something, the data directory stays marked: it must be rewound again or copied anew, never started.
    pub async fn rewind(&self, source: &Upstream, task: &TaskHandle) -> Result<(), String> {
        self.make_way("run pg_rewind").await?;
        self.ensure_present("run pg_rewind")?;
        self.supervisor.clear_remains().await?;
        let config = self.config();
        let version = self.version()?;
        let state = control::read(&config.binaries, &self.data_dir).await?.data.state;
        let interrupted = self.marker.read() == Some(Unfinished::Rewind);
        if interrupted && state == ControlState::InArchiveRecovery && layout::is_unstarted_copy(&self.data_dir) {
            return self.complete_rewind(&config, version, task).await;
        }
        if !matches!(state, ControlState::ShutDown | ControlState::ShutDownInRecovery) {
            return Err(format!(
                "cannot run pg_rewind: the control file says {state:?}; the server must be shut down cleanly or \
                 recovered from its crash first"
            ));
        }
        ensure_checkpoint(&config, version, source, task).await?;
        archive::archive_ready(&config, &self.data_dir, task).await;
        self.marker.set(Unfinished::Rewind)?;
        let finished = self.run_rewind(&config, version, source, task).await?;
        if !finished.status.success() && !interrupted && finished.never_said(BEFORE_CHANGES) {
            self.marker.clear()?;
        }
        finished.success("pg_rewind")?;
        self.conclude_rewind(&config, version)
    }

    /// An interrupted rewind that had written the control file, which pg_rewind does last: only the data may not have
    /// reached the disk yet.
    async fn complete_rewind(&self, config: &PgConfig, version: u32, task: &TaskHandle) -> Result<(), String> {
        tracing::info!("the interrupted pg_rewind had copied everything: completing it");
        let mut command = process::command(&config.binaries.path("initdb"));
        command.arg("--sync-only").arg("-D").arg(&self.data_dir);
        let what = "initdb --sync-only after the interrupted pg_rewind";
        process::run(command, what, task).await?.success(what)?;
        self.conclude_rewind(config, version)
    }

    fn conclude_rewind(&self, config: &PgConfig, version: u32) -> Result<(), String> {
        if version < 110_000 {
            // Slots of the source came along.
            layout::clear(&self.data_dir.join("pg_replslot"))?;
        }
        files::restore_backups(config)?;
        self.marker.clear()
    }

    /// Runs it, and where it misses a segment of the local WAL and cannot fetch it itself, fetches the segment and runs
    /// it again.
    async fn run_rewind(
        &self,
        config: &PgConfig,
        version: u32,
        source: &Upstream,
        task: &TaskHandle,
    ) -> Result<Finished, String> {
        let credentials = config.rewind_credentials(version);
        let pgpass =
            TemporaryFile::beside(&config.pgpass, "pgpass", &conninfo::pgpass_lines(credentials, &source.address))?;
        let dsn = conninfo::dsn(config, credentials, &source.address)
            .set("dbname", &config.database)
            .set("target_session_attrs", "read-write")
            .render(version);
        let restore_command = recovery::common(config, version).remove("restore_command");
        let separate = config.config_dir != self.data_dir;
        let fetches_itself = restore_command.is_some() && (version >= 150_000 || (version >= 130_000 && !separate));
        let mut fetched: Vec<String> = Vec::new();
        loop {
            let mut command = process::command_on(&config.binaries.path("pg_rewind"), &self.data_dir);
            if fetches_itself {
                command.arg("--restore-target-wal");
            }
            if separate && version >= 150_000 {
                command.arg(format!("--config-file={}", config.conf_file("").display()));
            }
            if version >= 130_000 {
                // The clean state was made and checked above. In the middle of a rewind, its own recovery would finish
                // what must be rewound again.
                command.arg("--no-ensure-shutdown");
            }
            command.arg("-D").arg(&self.data_dir).arg(format!("--source-server={dsn}")).args(&config.rewind);
            command.arg("--progress");
            command.env("PGPASSFILE", pgpass.path()).env("LC_ALL", "C").env("LANG", "C");
            let keep = || self.marker.keep(Unfinished::Rewind);
            let finished = process::run_with_tick(command, "pg_rewind", task, keep).await?;
            let missing = missing_segment(&finished.stderr).or_else(|| missing_segment(&finished.stdout));
            let (Some(template), Some(name)) = (restore_command.as_ref().filter(|_| !fetches_itself), missing) else {
                return Ok(finished);
            };
            let again = fetched.contains(&name) || fetched.len() >= FETCHED_SEGMENTS_MAX;
            if finished.status.success() || again || !self.fetch_segment(template, &name, task).await {
                return Ok(finished);
            }
            fetched.push(name);
        }
    }

    /// Fetches a segment with `restore_command`; the log says why where it fails.
    async fn fetch_segment(&self, template: &str, name: &str, task: &TaskHandle) -> bool {
        tracing::info!("pg_rewind misses the WAL file {name}: fetching it with restore_command");
        let path = layout::wal_dir(&self.data_dir).join(name);
        let text = archive::substituted(template, name, &path.to_string_lossy());
        if let Err(error) = archive::run_for_segment("restore_command", &text, &self.data_dir, task).await {
            tracing::warn!("cannot fetch {name} for pg_rewind: {error}");
            return false;
        }
        path.exists()
    }

    /// Replays the WAL of a server that did not stop cleanly, in single-user mode; ends shut down.
    pub async fn crash_recovery(&self, task: &TaskHandle) -> Result<(), String> {
        self.make_way("recover from the crash").await?;
        self.ensure_present("recover from the crash")?;
        if let Some(work) = self.marker.read() {
            return Err(format!(
                "cannot recover from the crash: unfinished work ({work:?}) on {}",
                self.data_dir.display()
            ));
        }
        self.supervisor.clear_remains().await?;
        let config = self.config();
        archive::archive_ready(&config, &self.data_dir, task).await;
        archive::forget_done(&self.data_dir);
        files::remove_signal_files(&self.data_dir)?;
        let options = std::fs::read_to_string(self.data_dir.join("postmaster.opts")).unwrap_or_default();
        let mut command = process::command(&config.binaries.path("postgres"));
        command.arg("--single").arg("-D").arg(&self.data_dir);
        for option in postmaster_options(&options) {
            command.arg("-c").arg(option);
        }
        // Nothing may be archived or removed on a timeline that is about to be rewound.
        command.args(["-c", "archive_mode=on", "-c", "archive_command=false", "template1"]);
        process::run(command, "crash recovery in single-user mode", task)
            .await?
            .success("crash recovery in single-user mode")
            .map(|_| ())
    }
}

/// pg_rewind reads the timeline of the source in its control file, which names the one before until the first checkpoint
/// after a promotion. A member says whether it has made it; this asks the server itself, for sources that say nothing.
async fn ensure_checkpoint(
    config: &PgConfig,
    version: u32,
    source: &Upstream,
    task: &TaskHandle,
) -> Result<(), String> {
    if version < 100_000 {
        return Ok(());
    }
    const QUESTION: &str = "SELECT timeline_id < ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(\
        pg_catalog.pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int FROM pg_catalog.pg_control_checkpoint()";
    let asked = async {
        let session = client::connect_to(config, config.rewind_credentials(version), &source.address).await?;
        session.value("ask the source of pg_rewind for its checkpoint", QUESTION).await
    };
    match asked.await {
        Ok(behind) if behind.as_deref() == Some("t") => {}
        Ok(_) => return Ok(()),
        Err(failure) => {
            // pg_rewind connects next, and says it better.
            tracing::debug!("{}", failure.into_text());
            return Ok(());
        }
    }
    tracing::info!("the source of pg_rewind has made no checkpoint since its promotion: making one");
    let session = client::connect_to(config, &config.superuser, &source.address).await.map_err(Failure::into_text)?;
    let what = "make a checkpoint on the source of pg_rewind";
    session.query(what, "SET statement_timeout = 0").await.map_err(Failure::into_text)?;
    tokio::select! {
        biased;
        () = task.until_cancelled() => Err(format!("cannot {what}: cancelled")),
        made = session.query(what, "CHECKPOINT") => made.map(|_| ()).map_err(Failure::into_text),
    }
}

/// The segment that pg_rewind could not open in the local WAL directory.
fn missing_segment(output: &str) -> Option<String> {
    let line = output.lines().find(|line| line.contains("could not open file \"") && line.contains("No such file"))?;
    let path = line.split('"').nth(1)?;
    let name = Path::new(path).file_name()?.to_str()?;
    let in_wal = path.contains("pg_wal/") || path.contains("pg_xlog/");
    (in_wal && name.len() == 24 && name.bytes().all(|b| b.is_ascii_hexdigit())).then(|| name.to_owned())
}

/// `name=value` of the long options in `postmaster.opts`, as far as single-user mode knows them; the last of several
/// wins, as for the postmaster. `config_file` must come along, or the server would not find its files.
fn postmaster_options(text: &str) -> Vec<String> {
    let words = shlex::split(text.trim()).unwrap_or_default();
    let options = words.iter().filter_map(|word| word.strip_prefix("--")?.split_once('='));
    options.map(|(name, value)| format!("{}={value}", name.replace('-', "_"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_that_is_missing() {
        let text = "pg_rewind: servers diverged at WAL location 0/9000000 on timeline 1\n\
            pg_rewind: error: could not open file \"/data/pg_wal/000000010000000000000008\": No such file or directory\n";
        assert_eq!(missing_segment(text).as_deref(), Some("000000010000000000000008"));
        for other in [
            "",
            "pg_rewind: error: could not open file \"/data/base/1/2\": No such file or directory",
            "pg_rewind: error: could not open file \"/data/pg_wal/000000010000000000000008\": Permission denied",
            "could not open file \"",
        ] {
            assert_eq!(missing_segment(other), None, "{other}");
        }
    }

    #[test]
    fn options_of_the_last_start() {
        let text = "/bin/postgres \"-D\" \"/d\" \"--config-file=/d/p.conf\" \"--cluster_name=a b\" \"--port=1\"\n";
        assert_eq!(postmaster_options(text), ["config_file=/d/p.conf", "cluster_name=a b", "port=1"]);
        assert!(postmaster_options("").is_empty());
    }
}
