//! `global/pg_control`: the state PostgreSQL itself keeps of its data directory.
//!
//! Read directly where the layout is known, because it is polled every few milliseconds, else through
//! `pg_controldata`. The layout (`src/include/catalog/pg_control.h`) of `pg_control_version` 1201 and 1300, that is
//! PostgreSQL 12 to 17, in native byte order:
//!
//! | offset | field | offset | field |
//! |---|---|---|---|
//! | 0 | system_identifier u64 | 144 | minRecoveryPointTLI u32 |
//! | 8 | pg_control_version u32 | 176 | wal_log_hints bool |
//! | 16 | state i32 | 180 | MaxConnections i32 |
//! | 32 | checkPoint u64 | 184 | max_worker_processes i32 |
//! | 40 | checkPointCopy.redo u64 | 188 | max_wal_senders i32 |
//! | 48 | checkPointCopy.ThisTimeLineID u32 | 192 | max_prepared_xacts i32 |
//! | 136 | minRecoveryPoint u64 | 196 | max_locks_per_xact i32 |
//! | 252 | data_checksum_version u32 | 288 | crc u32 (CRC-32C of all before) |
//!
//! The checksum at its offset proves the layout, and that the file was not read in the middle of being written.

use std::fs;
use std::path::Path;

use model::pg::{ControlData, ControlState};
use model::{Lsn, Timeline};

use crate::config::Binaries;
use crate::process;
use crate::task::TaskHandle;

/// Versions of the layout above.
const KNOWN_LAYOUTS: [u32; 2] = [1201, 1300];
const CRC_OFFSET: usize = 288;

/// What is read from the control file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlFile {
    /// What decisions rest on.
    pub data: ControlData,
    /// `max_connections setting`
    pub max_connections: i32,
    /// `max_worker_processes setting`
    pub max_worker_processes: i32,
    /// `max_wal_senders setting`; 0 before version 12.
    pub max_wal_senders: i32,
    /// `max_prepared_xacts setting`
    pub max_prepared_transactions: i32,
    /// `max_locks_per_xact setting`
    pub max_locks_per_transaction: i32,
}

/// Reads the control file of a data directory, directly or through `pg_controldata`.
pub async fn read(binaries: &Binaries, data_dir: &Path) -> Result<ControlFile, String> {
    if let Some(control) = read_directly(data_dir) {
        return Ok(control);
    }
    let mut command = process::command(&binaries.path("pg_controldata"));
    command.arg(data_dir).env("LC_ALL", "C").env("LANG", "C");
    let what = format!("pg_controldata {}", data_dir.display());
    let task = TaskHandle::detached();
    let finished = process::run(command, &what, &task);
    // It reads one small file; where that takes this long, the disk hangs.
    let finished = tokio::time::timeout(std::time::Duration::from_secs(10), finished)
        .await
        .map_err(|_| format!("{what} did not end within 10 seconds"))??;
    parse_text(&finished.success(&what)?.stdout).ok_or_else(|| format!("cannot understand the output of {what}"))
}

/// Reads the file itself; `None` where that is not possible for any reason.
fn read_directly(data_dir: &Path) -> Option<ControlFile> {
    let path = data_dir.join("global/pg_control");
    // A read can meet a write; the second one is unlikely to.
    (0..3).find_map(|_| parse_binary(&fs::read(&path).ok()?))
}

fn parse_binary(bytes: &[u8]) -> Option<ControlFile> {
    let u32_at = |offset: usize| Some(u32::from_ne_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?));
    let i32_at = |offset: usize| u32_at(offset).map(u32::cast_signed);
    let u64_at = |offset: usize| Some(u64::from_ne_bytes(bytes.get(offset..offset + 8)?.try_into().ok()?));
    if !KNOWN_LAYOUTS.contains(&u32_at(8)?) || u32_at(CRC_OFFSET)? != crc32c(bytes.get(..CRC_OFFSET)?) {
        return None;
    }
    let data = ControlData {
        system_id: u64_at(0)?.to_string(),
        state: match i32_at(16)? {
            0 => ControlState::StartingUp,
            1 => ControlState::ShutDown,
            2 => ControlState::ShutDownInRecovery,
            3 => ControlState::ShuttingDown,
            4 => ControlState::InCrashRecovery,
            5 => ControlState::InArchiveRecovery,
            6 => ControlState::InProduction,
            _ => ControlState::Unrecognized,
        },
        checkpoint: Lsn(u64_at(32)?),
        redo: Lsn(u64_at(40)?),
        timeline: Timeline(u32_at(48)?),
        min_recovery: Lsn(u64_at(136)?),
        min_recovery_timeline: Timeline(u32_at(144)?),
        rewindable: *bytes.get(176)? != 0 || u32_at(252)? != 0,
    };
    Some(ControlFile {
        data,
        max_connections: i32_at(180)?,
        max_worker_processes: i32_at(184)?,
        max_wal_senders: i32_at(188)?,
        max_prepared_transactions: i32_at(192)?,
        max_locks_per_transaction: i32_at(196)?,
    })
}

/// CRC-32C (Castagnoli), bit by bit: 288 bytes are not worth a table.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg()))
    })
}

/// Parses what `pg_controldata` prints with `LC_ALL=C`.
fn parse_text(text: &str) -> Option<ControlFile> {
    let value = |label: &str| {
        let line = text.lines().find(|line| line.split_once(':').is_some_and(|(name, _)| name.trim() == label))?;
        line.split_once(':').map(|(_, value)| value.trim())
    };
    let setting = |name: &str| {
        let current = value(&format!("{name} setting"));
        // Before 9.5 the labels began with "Current".
        current.or_else(|| value(&format!("Current {name} setting"))).and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    let lsn = |label: &str| value(label).and_then(|text| text.parse::<Lsn>().ok());
    let timeline = |label: &str| value(label).and_then(|text| text.parse().ok()).map(Timeline);
    let hints = value("wal_log_hints setting").or_else(|| value("Current wal_log_hints setting")) == Some("on");
    let checksums = value("Data page checksum version").is_some_and(|version| version != "0");
    let data = ControlData {
        system_id: value("Database system identifier").filter(|id| id.parse::<u64>().is_ok())?.to_owned(),
        state: match value("Database cluster state")? {
            "starting up" => ControlState::StartingUp,
            "shut down" => ControlState::ShutDown,
            "shut down in recovery" => ControlState::ShutDownInRecovery,
            "shutting down" => ControlState::ShuttingDown,
            "in crash recovery" => ControlState::InCrashRecovery,
            "in archive recovery" => ControlState::InArchiveRecovery,
            "in production" => ControlState::InProduction,
            _ => ControlState::Unrecognized,
        },
        checkpoint: lsn("Latest checkpoint location")?,
        redo: lsn("Latest checkpoint's REDO location")?,
        timeline: timeline("Latest checkpoint's TimeLineID")?,
        min_recovery: lsn("Minimum recovery ending location").unwrap_or_default(),
        min_recovery_timeline: timeline("Min recovery ending loc's timeline").unwrap_or_default(),
        rewindable: hints || checksums,
    };
    Some(ControlFile {
        data,
        max_connections: setting("max_connections"),
        max_worker_processes: setting("max_worker_processes"),
        max_wal_senders: setting("max_wal_senders"),
        max_prepared_transactions: setting("max_prepared_xacts"),
        max_locks_per_transaction: setting("max_locks_per_xact"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn checksum_of_the_standard_test_vector() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn text_of_pg_controldata() {
        let text = "pg_control version number:            1300\n\
            Database system identifier:           7300000000000000001\n\
            Database cluster state:               shut down in recovery\n\
            pg_control last modified:             Mon 01 Jan 2024 10:00:00 AM UTC\n\
            Latest checkpoint location:           0/3000060\n\
            Latest checkpoint's REDO location:    0/3000028\n\
            Latest checkpoint's TimeLineID:       2\n\
            Minimum recovery ending location:     0/3000110\n\
            Min recovery ending loc's timeline:   2\n\
            wal_log_hints setting:                off\n\
            max_connections setting:              300\n\
            Data page checksum version:           1\n";
        let control = parse_text(text).expect("complete");
        assert_eq!(control.data.state, ControlState::ShutDownInRecovery);
        assert_eq!((control.data.checkpoint, control.data.timeline), (Lsn(0x300_0060), Timeline(2)));
        assert!(control.data.rewindable);
        assert_eq!((control.max_connections, control.max_wal_senders), (300, 0));
        assert_eq!(parse_text("Database cluster state: shut down"), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400), text in "\\PC{0,200}") {
            prop_assert_eq!(parse_binary(&bytes), None);
            let _ = parse_text(&text);
        }
    }
}
