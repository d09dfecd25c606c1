//! Logical slots of a primary, copied into a standby: PostgreSQL before version 17 has no other way to have them there.
//!
//! A slot is the file `pg_replslot/<name>/state`, the same on all servers of one major version
//! (PostgreSQL's `src/backend/replication/slot.c`, `ReplicationSlotOnDisk`).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use model::pg::Upstream;
use model::slots::{Xid, is_slot_name};

use crate::client::{self, Failure, Session};
use crate::node::{Postgres, StartAs, StopMode, blocking};
use crate::sql;
use crate::task::TaskHandle;

/// Bound on the questions to the primary, connecting included.
const QUESTION_MAX: Duration = Duration::from_secs(5);
/// `SLOT_MAGIC`, the first four bytes of a state file in the byte order of the machine.
const MAGIC: [u8; 4] = 0x0105_1CA1_u32.to_ne_bytes();
/// Magic, checksum, version and length, four bytes each, stand before the slot's data, which begins with its name.
const HEADER: usize = 16;
/// More than any version's file has.
const STATE_MAX: usize = 4096;

impl Postgres {
    /// Copies logical slots of the primary `source` into this running standby. They are read first, with the rewind role:
    /// where none can be copied, nothing else is done. Then the server is stopped, the files are written, and it is
    /// started again as it was.
    ///
    /// Left out are slots that are not there, have lost their WAL, or that PostgreSQL copies itself (failover slots).
    pub async fn copy_slots(&self, source: &Upstream, slots: &[String], task: &TaskHandle) -> Result<(), String> {
        if self.is_primary_now().await || !self.recovery_configured() {
            return Err("cannot copy replication slots: PostgreSQL does not run as a standby".to_owned());
        }
        let states = self.read_states(source, slots).await?;
        if states.is_empty() {
            tracing::info!("no logical replication slot to copy from {}", source.address);
            return Ok(());
        }
        if task.is_cancelled() {
            return Err("copying replication slots was cancelled".to_owned());
        }
        self.abandon_slot_work();
        self.stop(StopMode::Fast, task).await?;
        let data_dir = self.data_dir.clone();
        let written = blocking(move || states.iter().try_for_each(|(name, state)| write_state(&data_dir, name, state)));
        let written = written.await.and_then(|result| result);
        // Also without the slots a standby has work to do.
        self.start(StartAs::AsConfigured, self.config().pg_ctl_timeout, task).await?;
        written
    }

    /// `catalog_xmin` of slots of the primary `server`, of those that exist and have one.
    pub async fn slot_horizons(&self, server: &Upstream, slots: &[String]) -> Result<BTreeMap<String, Xid>, String> {
        let statement = format!(
            "SELECT slot_name, catalog_xmin FROM pg_replication_slots WHERE catalog_xmin IS NOT NULL \
             AND NOT pg_is_in_recovery() AND slot_name IN ({})",
            literals(slots)
        );
        let rows = self.ask_primary(server, "read the horizons of its slots", &statement).await?;
        let read = |row: &tokio_postgres::SimpleQueryRow| {
            Some((row.try_get(0).ok()??.to_owned(), Xid(row.try_get(1).ok()??.parse().ok()?)))
        };
        Ok(rows.iter().filter_map(read).collect())
    }

    async fn read_states(&self, source: &Upstream, slots: &[String]) -> Result<BTreeMap<String, Vec<u8>>, String> {
        let version = self.version()?;
        let lost = if version >= 130_000 { "AND wal_status <> 'lost'" } else { "" };
        let failover = if version >= 170_000 { "AND NOT failover" } else { "" };
        let statement = format!(
            "SELECT slot_name, pg_read_binary_file('pg_replslot/' || slot_name || '/state') FROM pg_replication_slots \
             WHERE slot_type = 'logical' AND NOT temporary AND NOT pg_is_in_recovery() {lost} {failover} \
             AND slot_name IN ({})",
            literals(slots)
        );
        let rows = self.ask_primary(source, "read its replication slots", &statement).await?;
        let mut states = BTreeMap::new();
        for row in rows {
            let (Ok(Some(name)), Ok(Some(hex))) = (row.try_get(0), row.try_get(1)) else { continue };
            let state = from_hex(hex).filter(|state| is_state_of(name, state));
            let state = state.ok_or_else(|| format!("{} sends no valid state of slot {name}", source.address))?;
            states.insert(name.to_owned(), state);
        }
        Ok(states)
    }

    async fn ask_primary(
        &self,
        server: &Upstream,
        what: &str,
        statement: &str,
    ) -> Result<Vec<tokio_postgres::SimpleQueryRow>, String> {
        let config = self.config();
        let asking = async {
            let credentials = config.rewind_credentials(self.version().map_err(Failure::Failed)?);
            let session: Session = client::connect_to(&config, credentials, &server.address).await?;
            session.query(what, statement).await
        };
        match tokio::time::timeout(QUESTION_MAX, asking).await {
            Ok(result) => result.map_err(|failure| format!("{}: {}", server.address, failure.into_text())),
            Err(_) => Err(format!("{}: no answer within {} seconds", server.address, QUESTION_MAX.as_secs())),
        }
    }
}

fn literals(names: &[String]) -> String {
    names.iter().map(|name| sql::literal(name)).collect::<Vec<_>>().join(", ")
}

/// `bytea` as text: `\x` and two digits a byte.
fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x")?.as_bytes();
    if digits.len() % 2 != 0 || digits.len() / 2 > STATE_MAX {
        return None;
    }
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).map(byte).collect()
}

/// Whether this is the whole state file of a slot of that name. PostgreSQL does not start over one that is not.
fn is_state_of(name: &str, state: &[u8]) -> bool {
    let length = state.get(12..HEADER).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
    let named = state
        .get(HEADER..)
        .is_some_and(|data| data.len() > name.len() && data.starts_with(name.as_bytes()) && data[name.len()] == 0);
    is_slot_name(name)
        && state.starts_with(&MAGIC)
        && length.and_then(|length| usize::try_from(length).ok()) == state.len().checked_sub(HEADER)
        && named
}

/// Replaces a slot of a server that does not run.
fn write_state(data_dir: &Path, name: &str, state: &[u8]) -> Result<(), String> {
    let slots = data_dir.join("pg_replslot");
    let dir = slots.join(name);
    let group = fs::metadata(data_dir).is_ok_and(|meta| meta.permissions().mode() & 0o050 == 0o050);
    let (dir_mode, file_mode) = if group { (0o750, 0o640) } else { (0o700, 0o600) };
    let write = || {
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::DirBuilder::new().mode(dir_mode).create(&dir)?;
        let path = dir.join("state");
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(file_mode).open(&path)?;
        file.write_all(state)?;
        file.sync_all()?;
        File::open(&dir)?.sync_all()?;
        File::open(&slots)?.sync_all()
    };
    write().map_err(|error| {
        // Half a slot would keep the server from starting.
        let _ = fs::remove_dir_all(&dir);
        format!("cannot write replication slot {}: {error}", dir.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(name: &str) -> Vec<u8> {
        let mut data = name.as_bytes().to_vec();
        data.resize(180, 0);
        let mut state = MAGIC.to_vec();
        state.extend([0; 8]);
        state.extend(180u32.to_ne_bytes());
        state.extend(data);
        state
    }

    #[test]
    fn only_whole_states_are_accepted() {
        let good = state("s");
        assert!(is_state_of("s", &good));
        assert!(!is_state_of("t", &good) && !is_state_of("s", &state("s2")) && !is_state_of("../s", &state("../s")));
        assert!(!is_state_of("s", &good[..good.len() - 1]) && !is_state_of("s", &[]));
        let mut other = good;
        other[0] ^= 1;
        assert!(!is_state_of("s", &other));
    }

    #[test]
    fn bytes_from_text() {
        assert_eq!(from_hex("\\x00ff"), Some(vec![0, 255]));
        assert!(from_hex("00").is_none() && from_hex("\\x0").is_none() && from_hex("\\xzz").is_none());
    }

    #[test]
    fn a_slot_is_replaced_whole() {
        let data = tempfile::tempdir().expect("a directory");
        fs::create_dir(data.path().join("pg_replslot")).expect("mkdir");
        for (directory, file) in [(0o700, 0o600), (0o750, 0o640)] {
            fs::set_permissions(data.path(), fs::Permissions::from_mode(directory)).expect("chmod");
            let content = state("s");
            write_state(data.path(), "s", &content).expect("write");
            let path = data.path().join("pg_replslot/s/state");
            assert_eq!(fs::read(&path).expect("read"), content);
            assert_eq!(fs::metadata(path).expect("file").permissions().mode() & 0o777, file);
        }
    }
}
