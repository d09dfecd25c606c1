//! Questions to another server, over a replication connection.
//!
//! `tokio-postgres` cannot open one: `replication` is a parameter of the startup packet, neither a keyword it knows nor
//! something that fits into `options`. So they are asked through psql, which speaks the simple protocol that
//! replication connections understand, with exactly libpq's TLS, Kerberos and password file handling.

use std::time::Duration;

use model::lsn::{TimelineSwitch, parse_history_file};
use model::pg::Upstream;
use model::{Lsn, Timeline};

use crate::bootstrap::TemporaryFile;
use crate::node::Postgres;
use crate::process;
use crate::task::TaskHandle;
use crate::{client, conninfo};

/// Bound on one call, of which there are at most two, connecting included.
const QUESTION_MAX: Duration = Duration::from_millis(1500);
/// Separates columns; does not appear in the answers.
const FIELD: char = '\u{1f}';

/// Position and history of another server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerPosition {
    /// Whether it is a standby: `in_hot_standby` from version 14 on, before `transaction_read_only`.
    pub in_recovery: bool,
    /// `IDENTIFY_SYSTEM`.
    pub system_id: String,
    /// `IDENTIFY_SYSTEM`.
    pub timeline: Timeline,
    /// `IDENTIFY_SYSTEM`.
    pub lsn: Lsn,
    /// `TIMELINE_HISTORY` of that timeline, oldest first; empty on timeline 1.
    pub history: Vec<TimelineSwitch>,
}

impl Postgres {
    /// Position and history of another server, with the replication role, bounded to three seconds.
    pub async fn server_position(&self, server: &Upstream) -> Result<ServerPosition, String> {
        let version = self.version().unwrap_or(150_000);
        let recovery = if version >= 140_000 { "SHOW in_hot_standby" } else { "SHOW transaction_read_only" };
        let answer = self.ask_remote(server, &["IDENTIFY_SYSTEM", recovery]).await?;
        let unusable = || format!("{} answers IDENTIFY_SYSTEM with something else", server.address);
        let (identity, recovery) = answer.split_once('\n').ok_or_else(unusable)?;
        let identity: Vec<&str> = identity.split(FIELD).collect();
        let [system_id, timeline, lsn, ..] = identity[..] else { return Err(unusable()) };
        let timeline = Timeline(timeline.parse().map_err(|_| unusable())?);
        let in_recovery = match recovery.trim() {
            "on" => true,
            "off" => false,
            _ => return Err(format!("{} does not say whether it is in recovery", server.address)),
        };
        let history = if timeline.0 > 1 {
            let answer = self.ask_remote(server, &[&format!("TIMELINE_HISTORY {}", timeline.0)]).await?;
            // File name and content, which is several lines.
            let (_, content) =
                answer.split_once(FIELD).ok_or_else(|| format!("{} sends no timeline history", server.address))?;
            parse_history_file(content)
        } else {
            Vec::new()
        };
        Ok(ServerPosition {
            in_recovery,
            system_id: system_id.to_owned(),
            timeline,
            lsn: lsn.parse().map_err(|_| unusable())?,
            history,
        })
    }

    /// Timeline that the local server replays, from `IDENTIFY_SYSTEM`; `None` when it does not say.
    pub(crate) async fn own_timeline(&self) -> Option<Timeline> {
        let config = self.config();
        let running = self.pid_file();
        let mut address = client::running_address(&config, running.as_ref());
        if let Some(dir) = running.and_then(|file| file.socket_dir).filter(|_| config.use_unix_socket_repl) {
            address.host = dir.to_string_lossy().into_owned();
        }
        let own = Upstream { address, slot: None };
        let answer = self.ask_remote(&own, &["IDENTIFY_SYSTEM"]).await.ok()?;
        answer.split(FIELD).nth(1)?.trim().parse().ok().map(Timeline)
    }

    /// Output of psql: a line per question, unless the value itself has several.
    async fn ask_remote(&self, server: &Upstream, questions: &[&str]) -> Result<String, String> {
        let config = self.config();
        let lines = conninfo::pgpass_lines(&config.replication, &server.address);
        let pgpass = TemporaryFile::beside(&config.pgpass, "pgpass", &lines)?;
        let dsn = conninfo::dsn(&config, &config.replication, &server.address)
            .set("application_name", &format!("Patroni {}", config.name))
            .render(100_000);
        let mut command = process::command(&config.binaries.path("psql"));
        command.args(["--no-psqlrc", "--no-align", "--tuples-only", "--no-password", "--quiet"]);
        command.args(["--set", "ON_ERROR_STOP=1"]);
        command.arg(format!("--field-separator={FIELD}"));
        command.arg(format!("--dbname={dsn} replication=true connect_timeout=2"));
        for question in questions {
            command.args(["--command", question]);
        }
        command.env("PGPASSFILE", pgpass.path()).env("LC_ALL", "C").env("LANG", "C").env_remove("PGOPTIONS");
        let what = format!("asking {} for its position", server.address);
        let task = TaskHandle::detached();
        let finished = tokio::time::timeout(QUESTION_MAX, process::run(command, &what, &task))
            .await
            .map_err(|_| format!("{what} got no answer within {} milliseconds", QUESTION_MAX.as_millis()))??;
        Ok(finished.success(&what)?.stdout)
    }
}
