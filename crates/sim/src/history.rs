//! What happened, in order: the record that people read, checkers judge, and whose digest identifies a run.

use std::fmt;

use model::{Lsn, Timeline};

use crate::pg::wal::Branch;
use crate::world::NodeId;

/// Something that happened in the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A fault began or ended, or an operator did something.
    Fault(String),
    /// An agent process started.
    AgentStarted(NodeId),
    /// An agent process is gone.
    AgentGone(NodeId),
    /// An agent ended a cycle with another rule or another reason than the cycle before.
    Verdict {
        /// Whose.
        node: NodeId,
        /// The rule's number.
        rule: u16,
        /// The sentence an operator reads.
        reason: String,
    },
    /// A future of an agent panicked.
    Panicked(NodeId, String),
    /// The leader key changed hands, or went away.
    Lock {
        /// Who held it.
        from: Option<String>,
        /// Who holds it.
        to: Option<String>,
        /// Why.
        why: &'static str,
    },
    /// A key of the store other than leader, members and status was written (or deleted, where `None`).
    Key(String, Option<String>),
    /// An agent asked its PostgreSQL for something.
    Op(NodeId, Op),
    /// An operation that an agent asked for ended.
    OpEnded(NodeId, Op, Result<(), String>),
    /// The state of a PostgreSQL process changed.
    Process(NodeId, ProcessChange),
    /// A standby left recovery.
    Promoted {
        /// Which.
        node: NodeId,
        /// The new timeline.
        timeline: Timeline,
        /// Where it forked off.
        switchpoint: Lsn,
        /// The new branch of WAL.
        branch: Branch,
        /// Acknowledged writes it does not have: how many, and the end of the earliest.
        lost: Option<(u64, Lsn)>,
    },
    /// initdb made a new cluster with this system identifier.
    Initialized(NodeId, String),
    /// The contents of a data directory were removed.
    DataRemoved {
        /// Whose.
        node: NodeId,
        /// It was a whole data directory, not the remains of something interrupted.
        complete: bool,
    },
    /// A data directory that must not be started was started.
    StartedUnfit(NodeId, &'static str),
    /// An agent set `synchronous_standby_names`.
    StandbyNames(NodeId, String),
    /// The sentinel killed PostgreSQL.
    Fenced(NodeId),
    /// A standby streams, or does not any more; why.
    Replication(NodeId, String),
    /// A user's callback ran: `action role`.
    Callback(NodeId, String),
    /// The member asked its peers for a leader race, and who was strictly ahead of it and could have led.
    Polled(NodeId, Vec<NodeId>),
}

/// What an agent asks of its PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// initdb.
    Initdb,
    /// Start without recovery configuration.
    StartPrimary,
    /// Start as a standby.
    StartStandby,
    /// Fast stop.
    StopFast,
    /// Immediate stop.
    StopImmediate,
    /// Leave recovery.
    Promote,
    /// Follow somebody else.
    Repoint,
    /// Base backup.
    Clone,
    /// pg_rewind.
    Rewind,
    /// Single-user crash recovery.
    CrashRecovery,
    /// Remove the data directory.
    RemoveDataDir,
    /// Put the data directory aside.
    MoveAside,
}

/// A change of a PostgreSQL process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessChange {
    /// The process exists and recovers.
    Starting,
    /// Accepts connections, read-only.
    ReadOnly,
    /// Accepts writes.
    Writable,
    /// Told to stop: no more writes.
    Stopping,
    /// The shutdown checkpoint is in the control file.
    ShutDown(Lsn),
    /// Gone, and why.
    Exited(&'static str),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "nobody".to_owned());
        match self {
            Event::Fault(text) => write!(f, "*  {text}"),
            Event::AgentStarted(node) => write!(f, "{node}  agent started"),
            Event::AgentGone(node) => write!(f, "{node}  agent gone"),
            Event::Verdict { node, rule, reason } => write!(f, "{node}  rule {rule}: {reason}"),
            Event::Panicked(node, text) => write!(f, "{node}  PANIC {text}"),
            Event::Lock { from, to, why } => write!(f, "-  leader key: {} -> {} ({why})", name(from), name(to)),
            Event::Key(key, Some(value)) => write!(f, "-  {key} = {value}"),
            Event::Key(key, None) => write!(f, "-  {key} deleted"),
            Event::Op(node, op) => write!(f, "{node}  asked for {op:?}"),
            Event::OpEnded(node, op, Ok(())) => write!(f, "{node}  {op:?} done"),
            Event::OpEnded(node, op, Err(why)) => write!(f, "{node}  {op:?} failed: {why}"),
            Event::Process(node, change) => write!(f, "{node}  postgres: {change:?}"),
            Event::Promoted { node, timeline, switchpoint, branch, lost } => {
                write!(f, "{node}  postgres: promoted to {timeline:?} at {switchpoint} ({branch:?}), lost {lost:?}")
            }
            Event::Initialized(node, id) => write!(f, "{node}  postgres: initialized {id}"),
            Event::DataRemoved { node, complete } => write!(f, "{node}  data directory removed, whole: {complete}"),
            Event::StartedUnfit(node, what) => write!(f, "{node}  postgres: started on {what}"),
            Event::StandbyNames(node, text) => write!(f, "{node}  synchronous_standby_names = {text:?}"),
            Event::Fenced(node) => write!(f, "{node}  sentinel: deadline passed"),
            Event::Replication(node, text) => write!(f, "{node}  replication: {text}"),
            Event::Callback(node, text) => write!(f, "{node}  callback {text}"),
            Event::Polled(node, ahead) => write!(f, "{node}  asked its peers; ahead of it: {ahead:?}"),
        }
    }
}

/// The most entries kept; older ones go, the digest covers all.
const KEPT_MAX: usize = 20_000;

/// All events so far.
pub struct History {
    entries: std::collections::VecDeque<(u64, Event)>,
    dropped: u64,
    digest: u64,
}

impl Default for History {
    fn default() -> Self {
        History { entries: Default::default(), dropped: 0, digest: 0xcbf2_9ce4_8422_2325 }
    }
}

impl History {
    /// Appends an event that happened `now_ms` after the start.
    pub fn push(&mut self, now_ms: u64, event: Event) {
        self.hash(&now_ms.to_le_bytes());
        self.hash(event.to_string().as_bytes());
        if self.entries.len() == KEPT_MAX {
            self.entries.pop_front();
            self.dropped += 1;
        }
        self.entries.push_back((now_ms, event));
    }

    /// FNV-1a, for a value that is the same on every machine.
    fn hash(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.digest = (self.digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Identifies everything that happened.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// How many events there have been.
    pub fn len(&self) -> u64 {
        self.dropped + self.entries.len() as u64
    }

    /// Nothing happened yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The event with this number, where it is still kept.
    pub fn get(&self, number: u64) -> Option<&(u64, Event)> {
        self.entries.get(usize::try_from(number.checked_sub(self.dropped)?).ok()?)
    }

    /// The last `count` events as lines of text.
    pub fn tail(&self, count: usize) -> Vec<String> {
        let skip = self.entries.len().saturating_sub(count);
        self.entries.iter().skip(skip).map(|(at, event)| line(*at, event)).collect()
    }
}

/// One line of the readable history.
pub fn line(at_ms: u64, event: &Event) -> String {
    format!("{:>5}.{:03}  {event}", at_ms / 1000, at_ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_depends_on_order_and_time() {
        let digest = |events: &[(u64, &str)]| {
            let mut history = History::default();
            for (at, text) in events {
                history.push(*at, Event::Fault((*text).to_owned()));
            }
            history.digest()
        };
        assert_eq!(digest(&[(1, "a"), (2, "b")]), digest(&[(1, "a"), (2, "b")]));
        assert_ne!(digest(&[(1, "a"), (2, "b")]), digest(&[(1, "b"), (2, "a")]));
        assert_ne!(digest(&[(1, "a")]), digest(&[(2, "a")]));
    }

    #[test]
    fn tail_and_numbers() {
        let mut history = History::default();
        for at in 0..5 {
            history.push(at * 1000, Event::Fault(format!("e{at}")));
        }
        assert_eq!(history.tail(1), ["    4.000  *  e4"]);
        assert_eq!(history.get(2).map(|entry| entry.0), Some(2000));
        assert_eq!((history.len(), history.get(5)), (5, None));
    }
}
