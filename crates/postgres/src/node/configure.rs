//! Writing configuration, and taking over a changed one.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use model::Role;
use model::pg::Upstream;
use rustix::process::Signal;

use super::{BootstrapPhase, Postgres, StartAs, StopMode, poll_pause};
use crate::config::PgConfig;
use crate::conninfo;
use crate::files::{self, MainFile, Recovery};
use crate::guc::{self, Effective};
use crate::layout;
use crate::postmaster::Found;
use crate::recovery::{self, Change, SIGNAL_FILES};
use crate::task::TaskHandle;
use crate::validate;

/// What is to become of the recovery configuration.
pub(crate) enum Plan {
    /// Removed.
    None,
    /// A standby of this server, or of nobody.
    Standby(Option<Upstream>),
    /// Whom it follows stays; everything else is written as configured now.
    Keep,
    /// Not touched at all: it came with a restore.
    Untouched,
}

impl Postgres {
    /// The configuration changed: rewrites the files, reloads a running server. Returns whether one was reloaded.
    /// What needs a restart shows as `pending_restart` in the next snapshot.
    ///
    /// `config` must be of the same data directory. Without a data directory it is only remembered.
    pub async fn apply_config(&self, config: PgConfig, role: Role) -> Result<bool, String> {
        if config.data_dir != self.data_dir {
            return Err(format!(
                "postgresql.data_dir changed from {} to {}: that needs a restart of the agent",
                self.data_dir.display(),
                config.data_dir.display()
            ));
        }
        let old = self.config();
        // An open connection would go on as somebody else, or somewhere else.
        if (&old.superuser, &old.database) != (&config.superuser, &config.database) {
            self.drop_heartbeat().await;
        }
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        *self.role.lock().unwrap_or_else(PoisonError::into_inner) = role;
        // While a restored cluster comes up, its access rules and recovery configuration are not ours to rewrite.
        let usable = layout::major_version(&self.data_dir).is_some() && self.marker.read().is_none();
        if !usable || self.phase() != BootstrapPhase::Idle {
            return Ok(false);
        }
        let (changed, _) = self.write_config(role, Plan::Keep).await?;
        Ok(changed && self.reload())
    }

    /// Forces `hot_standby_feedback` on, or leaves it to the configuration. Until this is called it stays on where it is
    /// found on: a moment without feedback is enough for the primary to remove what a logical slot needs.
    pub async fn force_feedback(&self, on: bool) -> Result<(), String> {
        let before = self.feedback.lock().unwrap_or_else(PoisonError::into_inner).replace(on);
        let role = *self.role.lock().unwrap_or_else(PoisonError::into_inner);
        if before == Some(on) || role == Role::Uninitialized || self.phase() != BootstrapPhase::Idle {
            return Ok(());
        }
        let (changed, _) = self.write_config(role, Plan::Keep).await?;
        if changed {
            self.reload();
        }
        Ok(())
    }

    fn feedback_is_forced(&self, config: &PgConfig) -> bool {
        let told = *self.feedback.lock().unwrap_or_else(PoisonError::into_inner);
        told.unwrap_or_else(|| files::parameter_on_disk(config, "hot_standby_feedback").as_deref() == Some("on"))
    }

    /// SIGHUP: the server reads its files again. Does nothing, and returns false, where none runs.
    pub fn reload(&self) -> bool {
        match self.supervisor.find() {
            Found::Alive(tracked, _) => {
                tracked.signal(Signal::HUP);
                true
            }
            _ => false,
        }
    }

    /// Rewrites recovery configuration of a running standby, and reloads or restarts it, as its version needs for what
    /// changes (see [`recovery::change`]). Returns when the server has taken it over, or when it has not within two
    /// seconds after the reload; then the log says from where it has something else.
    pub async fn repoint(&self, upstream: Option<&Upstream>, task: &TaskHandle) -> Result<(), String> {
        let config = self.config();
        let version = self.version()?;
        let running = matches!(self.supervisor.find(), Found::Alive(..));
        let is_standby = match version {
            120_000.. => self.data_dir.join("standby.signal").exists(),
            _ => self.data_dir.join("recovery.conf").exists(),
        };
        if running && is_standby && version >= 120_000 {
            let before = files::recovery_on_disk(&config, version);
            self.write_config(self.standby_role(), Plan::Standby(upstream.cloned())).await?;
            let needed = recovery::change(version, &before, &files::recovery_on_disk(&config, version));
            if needed != Change::Restart {
                self.reload();
                // Also what was written before and not taken over yet counts.
                if !self.awaits_restart(upstream).await {
                    return Ok(());
                }
            }
        }
        if running {
            if self.is_primary_now().await {
                return Err(
                    "cannot follow another server: PostgreSQL runs as a primary and must be stopped first".to_owned()
                );
            }
            self.stop(StopMode::Fast, task).await?;
        }
        self.start(StartAs::Standby(upstream.cloned()), config.pg_ctl_timeout, task).await
    }

    /// Waits until the server follows `upstream`, after a reload. Returns whether it takes a restart.
    async fn awaits_restart(&self, upstream: Option<&Upstream>) -> bool {
        const TAKEN_OVER_MAX: Duration = Duration::from_secs(2);
        let seen = async {
            loop {
                match self.server_recovery().await {
                    Some((_, true)) => return true,
                    Some((follows, false)) if follows.as_ref() != upstream => poll_pause().await,
                    // A server that does not answer says later what it follows; nothing is wrong yet.
                    _ => return false,
                }
            }
        };
        match tokio::time::timeout(TAKEN_OVER_MAX, seen).await {
            Ok(restart) => restart,
            Err(_) => {
                self.warn_of_other_source().await;
                false
            }
        }
    }

    /// Says where a `primary_conninfo` comes from that is not the one in the main file.
    async fn warn_of_other_source(&self) {
        let sql = "SELECT name || ' ' || CASE WHEN sourcefile IS NULL THEN source ELSE sourcefile || ':' || sourceline \
                   END FROM pg_catalog.pg_settings WHERE name IN ('primary_conninfo', 'primary_slot_name') \
                   AND (source <> 'configuration file' OR sourcefile <> current_setting('config_file')) AND source <> 'default'";
        let Ok(session) = self.connect().await else { return };
        let Ok(rows) = session.query("look for the source of primary_conninfo", sql).await else { return };
        let sources: Vec<&str> = rows.iter().filter_map(|row| row.try_get(0).ok().flatten()).collect();
        if !sources.is_empty() {
            tracing::warn!(
                "PostgreSQL does not follow what {} says: another place wins ({})",
                self.config().conf_file("").display(),
                sources.join(", ")
            );
        }
    }

    /// Whether a file makes the server start in recovery.
    pub(crate) fn recovery_configured(&self) -> bool {
        SIGNAL_FILES.iter().any(|name| self.data_dir.join(name).exists())
    }

    /// The role whose parameters a standby gets.
    pub(crate) fn standby_role(&self) -> Role {
        match *self.role.lock().unwrap_or_else(PoisonError::into_inner) {
            Role::StandbyLeader => Role::StandbyLeader,
            _ => Role::Replica,
        }
    }

    /// Writes all configuration files for a role. Returns whether anything changed, and the parameters.
    pub(crate) async fn write_config(&self, role: Role, plan: Plan) -> Result<(bool, Effective), String> {
        let config = self.config();
        let version = self.version()?;
        let mut effective = guc::effective(&config, version, role);
        effective.notes.iter().for_each(|note| tracing::warn!("{note}"));
        if self.feedback_is_forced(&config) {
            effective.file.insert("hot_standby_feedback".to_owned(), "on".to_owned());
        }
        self.insert_standby_names(&config, &mut effective.file);
        let (block, recovery) = self.recovery_for(&config, version, plan)?;
        self.correct(&config, &mut effective, &block).await?;
        let trusted = matches!(self.phase(), BootstrapPhase::Restored { .. }).then(|| files::trust_lines(&config));
        if trusted.is_some() {
            // The user's own file would not let this program in.
            effective.file.remove("hba_file");
        }
        let mut changed = files::write_main(&config, &MainFile { parameters: &effective.file, recovery: &block })?;
        if let Some(recovery) = &recovery {
            changed |= files::write_recovery_files(&config, version, recovery)?;
        }
        changed |= files::write_access(&config, role, trusted.as_deref())?;
        Ok((changed, effective))
    }

    /// Recovery parameters for the main file (from version 12 on), and files to write.
    fn recovery_for(
        &self,
        config: &PgConfig,
        version: u32,
        plan: Plan,
    ) -> Result<(BTreeMap<String, String>, Option<Recovery>), String> {
        let in_main = |parameters: &BTreeMap<String, String>| {
            if version >= 120_000 { parameters.clone() } else { BTreeMap::new() }
        };
        let upstream = match plan {
            Plan::None => return Ok((in_main(&recovery::common(config, version)), Some(Recovery::None))),
            Plan::Untouched => return Ok((BTreeMap::new(), None)),
            Plan::Keep if !self.recovery_configured() => {
                return Ok((in_main(&recovery::common(config, version)), None));
            }
            Plan::Keep => {
                let upstream = files::upstream_on_disk(config, version);
                let parameters = self.standby_parameters(config, version, upstream.as_ref());
                if version >= 120_000 {
                    return Ok((parameters, Some(Recovery::Kept)));
                }
                // The same in other words is left alone: a file that is newer than the server restarts it.
                let same = recovery::change(version, &files::recovery_on_disk(config, version), &parameters);
                return Ok((BTreeMap::new(), (same != Change::None).then_some(Recovery::Standby(parameters))));
            }
            Plan::Standby(upstream) => upstream,
        };
        let parameters = self.standby_parameters(config, version, upstream.as_ref());
        Ok((in_main(&parameters), Some(Recovery::Standby(parameters))))
    }

    fn standby_parameters(
        &self,
        config: &PgConfig,
        version: u32,
        upstream: Option<&Upstream>,
    ) -> BTreeMap<String, String> {
        let lines = upstream.map(|upstream| conninfo::pgpass_lines(&config.replication, &upstream.address));
        let passfile = lines.filter(|lines| !lines.is_empty()).and_then(|lines| {
            match layout::write_private(&config.pgpass, &lines) {
                Ok(()) => Some(config.pgpass.to_string_lossy().into_owned()),
                Err(error) => {
                    tracing::warn!("{error} (postgresql.pgpass); the password goes into primary_conninfo instead");
                    None
                }
            }
        });
        recovery::standby(config, version, upstream, passfile.as_deref())
    }

    /// Takes out what this server would refuse; see [`validate`].
    async fn correct(
        &self,
        config: &PgConfig,
        effective: &mut Effective,
        block: &BTreeMap<String, String>,
    ) -> Result<(), String> {
        let candidate = config.conf_file(".check");
        let write = |parameters: &guc::Parameters| {
            let text = files::render_main(config, &MainFile { parameters, recovery: block });
            layout::write_file(&candidate, &text, &config.data_dir)?;
            Ok(candidate.clone())
        };
        // The base file is included by the candidate too.
        if config.custom_conf.is_none() && !config.conf_file(".base").exists() && config.conf_file("").exists() {
            files::write_main(config, &MainFile { parameters: &effective.file, recovery: block })?;
        }
        validate::correct(&config.binaries, &self.data_dir, &mut effective.file, write).await?;
        for (name, value) in &mut effective.controlled {
            if let Some(corrected) = effective.file.get(*name) {
                value.clone_from(corrected);
            }
        }
        Ok(())
    }
}
