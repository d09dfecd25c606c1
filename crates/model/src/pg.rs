//! What a node knows of its own PostgreSQL at one moment. "Unknown" is never the same as "absent".

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::member::PendingRestart;
use crate::slots::Slot;
use crate::{BootTime, HostPort, Lsn, Timeline};

/// What is in the data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataDir {
    /// Absent or empty (hidden entries and `lost+found` do not count).
    Empty,
    /// There is a `global/pg_control`.
    Present,
    /// Files without a `global/pg_control`: half-made, or not PostgreSQL's.
    Incomplete,
    /// The directory cannot be read; the reason.
    Unreadable(String),
}

/// The postmaster process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Postmaster {
    /// Could not be determined.
    Unknown,
    /// No process.
    Absent,
    /// A process that does not accept connections yet.
    Starting,
    /// Accepts connections.
    Running,
    /// A process that was told to stop.
    Stopping,
}

/// `Database cluster state` of `pg_controldata`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlState {
    /// `starting up`
    StartingUp,
    /// `shut down`
    ShutDown,
    /// `shut down in recovery`
    ShutDownInRecovery,
    /// `shutting down`
    ShuttingDown,
    /// `in crash recovery`
    InCrashRecovery,
    /// `in archive recovery`
    InArchiveRecovery,
    /// `in production`
    InProduction,
    /// Anything else.
    Unrecognized,
}

/// The fields of `global/pg_control` that decisions rest on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlData {
    /// `Database system identifier`
    pub system_id: String,
    /// `Database cluster state`
    pub state: ControlState,
    /// `Latest checkpoint location`
    pub checkpoint: Lsn,
    /// `Latest checkpoint's REDO location`
    pub redo: Lsn,
    /// `Latest checkpoint's TimeLineID`
    pub timeline: Timeline,
    /// `Minimum recovery ending location`
    pub min_recovery: Lsn,
    /// `Min recovery ending loc's timeline`
    pub min_recovery_timeline: Timeline,
    /// `wal_log_hints setting` on, or `Data page checksum version` not 0: what pg_rewind needs.
    pub rewindable: bool,
}

/// Where a standby streams from, as configured (`primary_conninfo`, `primary_slot_name`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// Address of the server.
    pub address: HostPort,
    /// Replication slot, where one is used.
    pub slot: Option<String>,
}

/// A row of `pg_stat_replication`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalSender {
    /// Role that connected.
    pub usename: String,
    /// Standby's `application_name`, the member's name.
    pub application_name: String,
    /// Address, where over TCP.
    pub client_addr: Option<String>,
    /// `streaming`, `catchup`, `backup`, ...
    pub state: String,
    /// `async`, `sync`, `quorum`, `potential`.
    pub sync_state: String,
    /// `pg_stat_replication.sync_priority`.
    pub sync_priority: i32,
    /// Positions: sent, written, flushed, replayed.
    pub write_lsn: Option<Lsn>,
    /// See `write_lsn`.
    pub flush_lsn: Option<Lsn>,
    /// See `write_lsn`.
    pub replay_lsn: Option<Lsn>,
}

/// What a running server said of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// `server_version_num`, e.g. 150018.
    pub version_num: u32,
    /// `pg_postmaster_start_time()`.
    pub start_time: jiff::Timestamp,
    /// `pg_is_in_recovery()`.
    pub in_recovery: bool,
    /// Current timeline: of the insertion point on a primary, of the receiver or else the control file on a standby.
    pub timeline: Option<Timeline>,
    /// Primary: `pg_current_wal_flush_lsn()`.
    pub flush_lsn: Option<Lsn>,
    /// Standby: `pg_last_wal_receive_lsn()`, or the written position where it is later.
    pub receive_lsn: Option<Lsn>,
    /// Standby: `pg_last_wal_replay_lsn()`.
    pub replay_lsn: Option<Lsn>,
    /// Standby: `pg_last_xact_replay_timestamp()`.
    pub replay_timestamp: Option<jiff::Timestamp>,
    /// Standby: replay was paused.
    pub replay_paused: bool,
    /// Standby: status of the WAL receiver (`streaming`, ...), where there is one.
    pub receiver_status: Option<String>,
    /// Standby: latest end of WAL the upstream reported.
    pub receiver_latest_end: Option<Lsn>,
    /// Standby: what it is configured to follow; `None` where nothing is configured.
    pub upstream: Option<Upstream>,
    /// Standby: `restore_command` is set.
    pub has_restore_command: bool,
    /// All slots.
    pub slots: Vec<Slot>,
    /// All WAL senders.
    pub senders: Vec<WalSender>,
    /// `synchronous_standby_names`.
    pub synchronous_standby_names: String,
    /// `synchronous_commit`.
    pub synchronous_commit: String,
}

impl ServerStatus {
    /// The position others compare: flushed on a primary, the later of received and replayed on a standby.
    pub fn wal_position(&self) -> Option<Lsn> {
        if self.in_recovery { self.receive_lsn.max(self.replay_lsn) } else { self.flush_lsn }
    }

    /// `streaming` or `in archive recovery`, as published by standbys; `None` on a primary or where unknown.
    pub fn replication_state(&self) -> Option<&'static str> {
        if !self.in_recovery {
            return None;
        }
        match self.receiver_status.as_deref() {
            Some("streaming") => Some("streaming"),
            _ => self.has_restore_command.then_some("in archive recovery"),
        }
    }
}

/// One look at this node's PostgreSQL.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PgSnapshot {
    /// When it was taken.
    pub taken_at: BootTime,
    /// The data directory.
    pub data_dir: DataDir,
    /// Major version of the data directory as in `server_version_num / 100` rounded (150000 for 15); `None` unknown.
    pub major_version: Option<u32>,
    /// The process.
    pub postmaster: Postmaster,
    /// The control file; read when the server does not run, and after its start for the system identifier.
    pub control: Option<ControlData>,
    /// What the server said; `None` when it does not run *or does not answer*.
    pub server: Option<ServerStatus>,
    /// A `standby.signal`, `recovery.signal` or `recovery.conf` is in the data directory.
    pub recovery_configured: bool,
    /// A running standby's recovery parameters are not the ones that the files give it, or somebody put others where
    /// they win: they must be written again, which restarts the server where its version needs that.
    #[serde(default)]
    pub recovery_stale: bool,
    /// A clone or rewind that was begun and not finished left its marker.
    pub unfinished: Option<Unfinished>,
    /// A `backup_label` of a base backup or of pg_rewind is in the data directory: a complete copy that has not been
    /// started yet. Its control file is the source's; only a start as a standby may go on from there.
    #[serde(default)]
    pub unstarted_copy: bool,
    /// Parameters that wait for a restart.
    pub pending_restart: PendingRestart,
}

impl PgSnapshot {
    /// System identifier from the control file.
    pub fn system_id(&self) -> Option<&str> {
        self.control.as_ref().map(|control| control.system_id.as_str())
    }

    /// Running and known to accept writes.
    pub fn is_primary(&self) -> bool {
        self.postmaster == Postmaster::Running && self.server.as_ref().is_some_and(|server| !server.in_recovery)
    }

    /// Running and known to be a standby.
    pub fn is_standby(&self) -> bool {
        self.postmaster == Postmaster::Running && self.server.as_ref().is_some_and(|server| server.in_recovery)
    }

    /// Positions of the slots as published in the status key.
    pub fn slot_positions(&self) -> BTreeMap<String, Lsn> {
        let slots = self.server.iter().flat_map(|server| &server.slots).filter(|slot| !slot.temporary && !slot.synced);
        slots
            .filter_map(|slot| {
                let position = if slot.logical { slot.confirmed_flush_lsn } else { slot.restart_lsn };
                Some((slot.name.clone(), position?))
            })
            .collect()
    }
}

/// Work on the data directory that was begun and not finished; such a directory must not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unfinished {
    /// A base backup or another replica creation method.
    Clone,
    /// pg_rewind.
    Rewind,
    /// initdb or a custom bootstrap method.
    Bootstrap,
}
