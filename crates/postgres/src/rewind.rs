//! pg_rewind, and the crash recovery it may need before.

use model::pg::{ControlState, Unfinished, Upstream};

use crate::archive;
use crate::bootstrap::TemporaryFile;
use crate::conninfo;
use crate::control;
use crate::files;
use crate::layout;
use crate::node::Postgres;
use crate::process;
use crate::recovery;
use crate::task::TaskHandle;

/// What pg_rewind says, with `--progress`, when it knows what to do and has changed nothing yet.
const BEFORE_CHANGES: &str = "need to copy";

impl Postgres {
    /// pg_rewind against `source`. The server must be stopped, cleanly. When it fails or is cancelled after it may have
    /// changed something, the data directory stays marked: it must be rewound again or copied anew, never started.
    pub async fn rewind(&self, source: &Upstream, task: &TaskHandle) -> Result<(), String> {
        self.ensure_stopped("run pg_rewind")?;
        self.ensure_present("run pg_rewind")?;
        self.supervisor.clear_remains().await?;
        let config = self.config();
        let version = self.version()?;
        let state = control::read(&config.binaries, &self.data_dir).await?.data.state;
        let interrupted = self.marker.read() == Some(Unfinished::Rewind);
        if !interrupted && !matches!(state, ControlState::ShutDown | ControlState::ShutDownInRecovery) {
            return Err(format!(
                "cannot run pg_rewind: the control file says {state:?}; the server must be shut down cleanly or \
                 recovered from its crash first"
            ));
        }
        archive::archive_ready(&config, &self.data_dir, task).await;
        let credentials = config.rewind_credentials(version);
        let pgpass =
            TemporaryFile::beside(&config.pgpass, "pgpass", &conninfo::pgpass_lines(credentials, &source.address))?;
        let dsn = conninfo::dsn(&config, credentials, &source.address)
            .set("dbname", &config.database)
            .set("target_session_attrs", "read-write")
            .render(version);
        let mut command = process::command(&config.binaries.path("pg_rewind"));
        let separate = config.config_dir != self.data_dir;
        let has_restore = recovery::common(&config, version).contains_key("restore_command");
        if has_restore && (version >= 150_000 || (version >= 130_000 && !separate)) {
            command.arg("--restore-target-wal");
        }
        if separate && version >= 150_000 {
            command.arg(format!("--config-file={}", config.conf_file("").display()));
        }
        command.arg("-D").arg(&self.data_dir).arg(format!("--source-server={dsn}")).args(&config.rewind);
        command.arg("--progress");
        command.env("PGPASSFILE", pgpass.path()).env("LC_ALL", "C").env("LANG", "C");
        self.marker.set(Unfinished::Rewind)?;
        let keep = || self.marker.keep(Unfinished::Rewind);
        let finished = process::run_with_tick(command, "pg_rewind", task, keep).await?;
        if !finished.status.success() && !interrupted && finished.never_said(BEFORE_CHANGES) {
            self.marker.clear()?;
        }
        finished.success("pg_rewind")?;
        if version < 110_000 {
            // Slots of the source came along.
            layout::clear(&self.data_dir.join("pg_replslot"))?;
        }
        files::restore_backups(&config)?;
        self.marker.clear()
    }

    /// Replays the WAL of a server that did not stop cleanly, in single-user mode; ends shut down.
    pub async fn crash_recovery(&self, task: &TaskHandle) -> Result<(), String> {
        self.ensure_stopped("recover from the crash")?;
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
    fn options_of_the_last_start() {
        let text = "/bin/postgres \"-D\" \"/d\" \"--config-file=/d/p.conf\" \"--cluster_name=a b\" \"--port=1\"\n";
        assert_eq!(postmaster_options(text), ["config_file=/d/p.conf", "cluster_name=a b", "port=1"]);
        assert!(postmaster_options("").is_empty());
    }
}
