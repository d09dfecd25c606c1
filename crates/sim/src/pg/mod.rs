//! A simulated PostgreSQL: data directory, process, replication.
//!
//! It knows what a real server would refuse or silently get wrong (a standby whose WAL forked off, pg_rewind before the
//! new timeline's first checkpoint, a half-made directory), and takes a realistic, random time for everything.

mod node;
mod process;
mod replication;
pub mod sync;
pub mod wal;
mod work;

use std::collections::BTreeMap;

use model::pg::{ControlData, ControlState, DataDir, Postmaster, Unfinished, Upstream};
use model::slots::SlotChange;
use model::{Lsn, Timeline};
pub use node::SimPg;
use wal::Wal;

use crate::fanout::Fanout;
use crate::world::NodeId;

/// A checkpoint record, with its header, aligned.
const CHECKPOINT_RECORD_BYTES: u64 = 0x78;
/// The end-of-recovery record of a promotion.
const END_OF_RECOVERY_BYTES: u64 = 0x30;
/// What `server_version_num` says.
const VERSION_NUM: u32 = 150_018;

/// PostgreSQL of one node.
#[derive(Default)]
pub struct Pg {
    /// The data directory; `None` when empty.
    pub data: Option<Data>,
    /// The postmaster.
    pub process: Option<Process>,
    /// Everything that touches the disk waits until this moment.
    pub stalled_until_ms: u64,
    /// Replication to this node gets no more than this many bytes each time.
    pub stream_limit_bytes: Option<u64>,
    /// Counts changes of the process.
    events: Fanout<u64>,
}

/// What is in a data directory.
#[derive(Clone)]
pub struct Data {
    /// Of the cluster it belongs to.
    pub system_id: String,
    /// A clone, rewind or bootstrap that was begun and not finished.
    pub unfinished: Option<Unfinished>,
    /// There is a `global/pg_control`: copies write it last.
    pub has_control: bool,
    /// The WAL.
    pub wal: Wal,
    /// `Database cluster state`.
    pub control: ControlState,
    /// Latest checkpoint.
    pub checkpoint: Lsn,
    /// Its timeline.
    pub checkpoint_timeline: Timeline,
    /// `standby.signal` is there: whom to follow.
    pub recovery: Option<Recovery>,
    /// `synchronous_standby_names` in the configuration file.
    pub standby_names: String,
    /// Physical slots.
    pub slots: BTreeMap<String, Option<Lsn>>,
}

/// Recovery configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// `primary_conninfo` and `primary_slot_name`.
    pub upstream: Option<Upstream>,
}

/// A postmaster.
#[derive(Clone)]
pub struct Process {
    /// Unique in the run.
    pub id: u64,
    /// What it does.
    pub phase: Phase,
    /// `pg_is_in_recovery()`.
    pub in_recovery: bool,
    /// Backends can commit.
    pub accepts_writes: bool,
    /// A promotion was asked for.
    pub promoting: bool,
    /// When it was started.
    pub started_ms: u64,
    /// The WAL receiver.
    pub receiver: Option<Receiver>,
    /// A receiver was connected in the life of this process.
    pub ever_received: bool,
    /// Commits that wait for standbys.
    pub sync: sync::SyncRep,
}

/// The life of a postmaster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Recovers; no connections yet.
    Starting,
    /// Accepts connections.
    Running,
    /// Was told to stop.
    Stopping,
}

/// A connected WAL receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receiver {
    /// The machine it is connected to.
    pub upstream: NodeId,
    /// The process there.
    pub process: u64,
    /// When something was last heard.
    pub heard_ms: u64,
}

impl Pg {
    /// Backends can commit, or the process is in a state in which they may in the next instant.
    pub fn accepts_writes(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.accepts_writes)
    }

    /// The process, if it accepts connections.
    pub fn running(&self) -> Option<&Process> {
        self.process.as_ref().filter(|process| process.phase == Phase::Running)
    }

    /// The running process and its data, if it is a standby.
    pub fn standby(&self) -> Option<(&Process, &Data)> {
        let process = self.running().filter(|process| process.in_recovery)?;
        Some((process, self.data.as_ref()?))
    }

    /// Says that the process changed.
    fn bump(&mut self) {
        self.events.update(|count| *count += 1);
    }

    fn data_dir(&self) -> DataDir {
        match &self.data {
            None => DataDir::Empty,
            Some(data) if !data.has_control => DataDir::Incomplete,
            Some(_) => DataDir::Present,
        }
    }

    fn postmaster(&self) -> Postmaster {
        match self.process.as_ref().map(|process| process.phase) {
            None => Postmaster::Absent,
            Some(Phase::Starting) => Postmaster::Starting,
            Some(Phase::Running) => Postmaster::Running,
            Some(Phase::Stopping) => Postmaster::Stopping,
        }
    }
}

impl Data {
    /// A directory whose making has begun.
    fn unfinished(system_id: String, wal: Wal, what: Unfinished) -> Data {
        Data {
            system_id,
            unfinished: Some(what),
            has_control: false,
            control: ControlState::ShutDown,
            checkpoint: wal.end(),
            checkpoint_timeline: wal.timeline(),
            wal,
            recovery: None,
            standby_names: String::new(),
            slots: BTreeMap::new(),
        }
    }

    /// A checkpoint or restartpoint; a primary's writes a record.
    fn do_checkpoint(&mut self, writes_record: bool) {
        self.checkpoint = self.wal.end();
        self.checkpoint_timeline = self.wal.timeline();
        if writes_record {
            self.wal.append(CHECKPOINT_RECORD_BYTES);
        }
    }

    fn control_data(&self) -> ControlData {
        let standby = matches!(self.control, ControlState::InArchiveRecovery | ControlState::ShutDownInRecovery);
        let (min_recovery, min_recovery_timeline) =
            if standby { (self.wal.end(), self.wal.timeline()) } else { (Lsn(0), Timeline(0)) };
        ControlData {
            system_id: self.system_id.clone(),
            state: self.control,
            checkpoint: self.checkpoint,
            redo: self.checkpoint,
            timeline: self.checkpoint_timeline,
            min_recovery,
            min_recovery_timeline,
            rewindable: true,
        }
    }

    fn change_slot(&mut self, change: &SlotChange) {
        match change {
            SlotChange::Drop { name } => drop(self.slots.remove(name)),
            SlotChange::CreatePhysical { name } => drop(self.slots.entry(name.clone()).or_default()),
            SlotChange::Advance { name, to, database: None } => {
                if let Some(slot) = self.slots.get_mut(name) {
                    *slot = (*slot).max(Some(*to));
                }
            }
            // Logical slots are not simulated.
            SlotChange::CreateLogical { .. } | SlotChange::Advance { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests;
