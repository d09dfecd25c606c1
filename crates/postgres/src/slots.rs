//! Changes of replication slots on the local server.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use model::slots::SlotChange;
use tokio_postgres::error::SqlState;

use crate::client::{self, Failure, Session};
use crate::config::PgConfig;
use crate::node::Postgres;
use crate::postmaster::PidFile;
use crate::sql;

/// Bound on one statement about a logical slot: to make one waits for all transactions that run, to move one on reads all
/// the WAL between.
const LOGICAL_MAX: Duration = Duration::from_secs(60);

impl Postgres {
    /// Changes slots, in order. Physical ones are done on return; every change is tried, and the error names all that
    /// failed. Logical slots take their time: work on them goes on in a task of its own, whose failures are logged, and
    /// what comes while it is busy is dropped; whoever still wants it asks again.
    ///
    /// A slot that cannot be moved on because its WAL is gone is dropped, so that it can be copied again.
    pub async fn sync_slots(&self, changes: &[SlotChange]) -> Result<(), String> {
        let version = self.version()?;
        let (quick, slow): (Vec<&SlotChange>, Vec<&SlotChange>) =
            changes.iter().partition(|change| database_of(change).is_none());
        let mut problems = Vec::new();
        if !quick.is_empty() {
            let session = self.connect().await.map_err(Failure::into_text)?;
            for change in quick {
                if let Err((failure, _)) = perform(&session, change, version).await {
                    problems.push(failure.into_text());
                }
            }
        }
        if !slow.is_empty() {
            self.work_on_logical_slots(slow.into_iter().cloned().collect(), version);
        }
        if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
    }

    fn work_on_logical_slots(&self, changes: Vec<SlotChange>, version: u32) {
        let mut busy = self.slot_work.lock().unwrap_or_else(PoisonError::into_inner);
        if busy.as_ref().is_some_and(|work| !work.is_finished()) {
            return;
        }
        *busy = Some(tokio::spawn(logical_work(self.config(), self.pid_file(), changes, version)));
    }

    /// Ends work on logical slots: the server is about to be promoted.
    pub(crate) fn abandon_slot_work(&self) {
        if let Some(work) = self.slot_work.lock().unwrap_or_else(PoisonError::into_inner).take() {
            work.abort();
        }
    }
}

/// The database a change must be made in; `None` where any will do.
fn database_of(change: &SlotChange) -> Option<&str> {
    match change {
        SlotChange::CreateLogical { database, .. } | SlotChange::Advance { database: Some(database), .. } => {
            Some(database)
        }
        SlotChange::Drop { .. } | SlotChange::CreatePhysical { .. } | SlotChange::Advance { .. } => None,
    }
}

async fn logical_work(config: Arc<PgConfig>, running: Option<PidFile>, changes: Vec<SlotChange>, version: u32) {
    let mut open: Option<(String, Session)> = None;
    for change in changes {
        let Some(database) = database_of(&change) else { continue };
        if open.as_ref().is_none_or(|(name, _)| name != database) {
            match connect(&config, running.as_ref(), database).await {
                Ok(session) => open = Some((database.to_owned(), session)),
                Err(why) => {
                    tracing::warn!("cannot work on logical replication slots in database {database}: {why}");
                    return;
                }
            }
        }
        let Some((_, session)) = &open else { return };
        let Err((failure, code)) = perform(session, &change, version).await else { continue };
        tracing::warn!("{}", failure.into_text());
        let gone = [Some(SqlState::UNDEFINED_FILE), Some(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE)].contains(&code);
        if let SlotChange::Advance { name, .. } = change
            && gone
            && let Err((failure, _)) = perform(session, &SlotChange::Drop { name }, version).await
        {
            tracing::warn!("{}", failure.into_text());
        }
    }
}

async fn connect(config: &PgConfig, running: Option<&PidFile>, database: &str) -> Result<Session, String> {
    let session = client::connect_database(config, running, database).await.map_err(Failure::into_text)?;
    let bound = format!("SET statement_timeout = {}", LOGICAL_MAX.as_millis());
    session.query("set the statement timeout", &bound).await.map_err(Failure::into_text)?;
    Ok(session)
}

async fn perform(session: &Session, change: &SlotChange, version: u32) -> Result<(), (Failure, Option<SqlState>)> {
    let (what, statement) = match change {
        SlotChange::Drop { name } => (
            format!("drop replication slot '{name}'"),
            format!("SELECT pg_drop_replication_slot({})", sql::literal(name)),
        ),
        SlotChange::CreatePhysical { name } => {
            let reserve = if version >= 90_600 { ", true" } else { "" };
            let create = format!("SELECT pg_create_physical_replication_slot({}{reserve})", sql::literal(name));
            (format!("create physical replication slot '{name}'"), create)
        }
        SlotChange::CreateLogical { name, plugin, .. } => {
            let (slot, plugin) = (sql::literal(name), sql::literal(plugin));
            let create = format!("SELECT pg_create_logical_replication_slot({slot}, {plugin})");
            (format!("create logical replication slot '{name}'"), create)
        }
        SlotChange::Advance { name, to, .. } => (
            format!("advance replication slot '{name}' to {to}"),
            format!("SELECT pg_replication_slot_advance({}, '{to}')", sql::literal(name)),
        ),
    };
    session.coded_query(&what, &statement).await?;
    match change {
        SlotChange::Advance { .. } => tracing::debug!("{what}: done"),
        _ => tracing::info!("{what}: done"),
    }
    Ok(())
}
