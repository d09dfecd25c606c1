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
use crate::conninfo;
use crate::node::Postgres;
use crate::process;
use crate::task::TaskHandle;

/// Bound on one call, of which there are at most two, connecting included.
const QUESTION_MAX: Duration = Duration::from_millis(1500);
/// Separates columns and rows; neither appears in the answers.
const FIELD: char = '\u{1f}';
const RECORD: char = '\u{1e}';

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
        let rows = self.ask_remote(server, &["IDENTIFY_SYSTEM", recovery]).await?;
        let unusable = || format!("{} answers IDENTIFY_SYSTEM with something else", server.address);
        let identity = rows.first().filter(|row| row.len() >= 3).ok_or_else(unusable)?;
        let timeline = Timeline(identity[1].parse().map_err(|_| unusable())?);
        let in_recovery = match rows.get(1).and_then(|row| row.first()).map(String::as_str) {
            Some("on") => true,
            Some("off") => false,
            _ => return Err(format!("{} does not say whether it is in recovery", server.address)),
        };
        let history = if timeline.0 > 1 {
            let rows = self.ask_remote(server, &[&format!("TIMELINE_HISTORY {}", timeline.0)]).await?;
            let content = rows.first().and_then(|row| row.get(1));
            parse_history_file(content.ok_or_else(|| format!("{} sends no timeline history", server.address))?)
        } else {
            Vec::new()
        };
        Ok(ServerPosition {
            in_recovery,
            system_id: identity[0].clone(),
            timeline,
            lsn: identity[2].parse().map_err(|_| unusable())?,
            history,
        })
    }

    async fn ask_remote(&self, server: &Upstream, questions: &[&str]) -> Result<Vec<Vec<String>>, String> {
        let config = self.config();
        let lines = conninfo::pgpass_lines(&config.replication, &server.address);
        let pgpass = TemporaryFile::beside(&config.pgpass, "pgpass", &lines)?;
        let dsn = conninfo::dsn(&config, &config.replication, &server.address)
            .set("application_name", &format!("Patroni {}", config.name))
            .render(100_000);
        let mut command = process::command(&config.binaries.path("psql"));
        command.args(["--no-psqlrc", "--no-align", "--tuples-only", "--no-password", "--quiet"]);
        command.args(["--set", "ON_ERROR_STOP=1"]);
        command.arg(format!("--field-separator={FIELD}")).arg(format!("--record-separator={RECORD}"));
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
        Ok(parse_rows(&finished.success(&what)?.stdout))
    }
}

/// Rows of psql's output. Results of several commands are set apart by line breaks instead of the record separator.
fn parse_rows(text: &str) -> Vec<Vec<String>> {
    let rows = text.split(RECORD).map(|row| row.trim_end_matches('\n')).filter(|row| !row.is_empty());
    rows.map(|row| row.split(FIELD).map(str::to_owned).collect()).collect()
}
