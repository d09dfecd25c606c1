//! `synchronous_standby_names`: written by the agent, kept through restarts, and waited for until it holds.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use model::Role;

use super::{BootstrapPhase, Plan, Postgres, poll_pause};
use crate::client::{Failure, Session};
use crate::config::PgConfig;
use crate::files;
use crate::postmaster::Found;

const PARAMETER: &str = "synchronous_standby_names";
/// How long a value that the server was told to read may take to be in force.
const IN_FORCE_MAX: Duration = Duration::from_secs(2);

/// Whose value is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum StandbyNames {
    /// Not decided in the life of this object: in synchronous mode what the file says, so that an agent that starts does
    /// not let commits pass that standbys are relied on for; else the user's.
    #[default]
    Undecided,
    /// The user's.
    User,
    /// The agent's.
    Agent(String),
}

impl Postgres {
    /// Sets `synchronous_standby_names` and keeps it through restarts; `None` gives it back to the user's configuration.
    ///
    /// Returns when the server has taken it over. For a value that names somebody that includes the checkpointer: it is
    /// the one that tells backends whether to wait at all (PostgreSQL's `SyncRepUpdateSyncStandbysDefined`), and it does
    /// not read its configuration while it writes a checkpoint at full speed. An error after some seconds; the value stays
    /// written then.
    pub async fn set_standby_names(&self, names: Option<&str>) -> Result<(), String> {
        let held = names.map_or(StandbyNames::User, |names| StandbyNames::Agent(names.to_owned()));
        *self.standby_names.lock().unwrap_or_else(PoisonError::into_inner) = held;
        let role = *self.role.lock().unwrap_or_else(PoisonError::into_inner);
        if role == Role::Uninitialized || self.phase() != BootstrapPhase::Idle {
            return Ok(());
        }
        self.write_config(role, Plan::Keep).await?;
        self.reload();
        match names {
            Some(names) if matches!(self.supervisor.find(), Found::Alive(..)) => self.until_in_force(names).await,
            _ => Ok(()),
        }
    }

    /// Puts the value that is to hold among the parameters for the file.
    pub(crate) fn insert_standby_names(&self, config: &PgConfig, parameters: &mut BTreeMap<String, String>) {
        let mut held = self.standby_names.lock().unwrap_or_else(PoisonError::into_inner);
        if *held == StandbyNames::Undecided && config.synchronous {
            *held = StandbyNames::Agent(files::parameter_on_disk(config, PARAMETER).unwrap_or_default());
        }
        if let StandbyNames::Agent(names) = &*held {
            parameters.insert(PARAMETER.to_owned(), names.clone());
        }
    }

    async fn until_in_force(&self, names: &str) -> Result<(), String> {
        let session = self.connect().await.map_err(Failure::into_text)?;
        if self.sees(&session, names).await.is_ok() {
            return Ok(());
        }
        if shown(&session).await? != names {
            // ALTER SYSTEM wins over the file.
            tracing::warn!("{PARAMETER} was set by ALTER SYSTEM: resetting it");
            let reset = format!("ALTER SYSTEM RESET {PARAMETER}");
            session.query("reset synchronous_standby_names", &reset).await.map_err(Failure::into_text)?;
            self.reload();
        }
        self.sees(&session, names).await
    }

    async fn sees(&self, session: &Session, names: &str) -> Result<(), String> {
        let version = self.version()?;
        let mut why = String::new();
        let waiting = async {
            loop {
                match shown(session).await {
                    Ok(seen) if seen != names => why = format!("it is still {seen:?}"),
                    Ok(_) if names.is_empty() || version < 100_000 || checkpointer_listens(session).await => break,
                    Ok(_) => "the checkpointer is busy and has not taken it over".clone_into(&mut why),
                    Err(error) => why = error,
                }
                poll_pause().await;
            }
        };
        let in_time = tokio::time::timeout(IN_FORCE_MAX, waiting).await.is_ok();
        if in_time { Ok(()) } else { Err(format!("{PARAMETER} {names:?} is not in force: {why}")) }
    }
}

async fn shown(session: &Session) -> Result<String, String> {
    let rows = session.query("read synchronous_standby_names", &format!("SHOW {PARAMETER}")).await;
    let rows = rows.map_err(Failure::into_text)?;
    Ok(rows.first().and_then(|row| row.get(0)).unwrap_or("").to_owned())
}

/// The checkpointer is idle, or writes slowly enough to look at its configuration between two pages.
async fn checkpointer_listens(session: &Session) -> bool {
    let query = "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'checkpointer' \
                 AND wait_event IN ('CheckpointerMain', 'CheckpointWriteDelay')";
    session.query("look at the checkpointer", query).await.is_ok_and(|rows| !rows.is_empty())
}
