//! What a decision can ask for: learn something, do something, or end the cycle.

use std::time::Duration;

use model::pg::Upstream;
use model::slots::SlotChange;
use model::{BootTime, FailsafeLeader, Lsn, Member, Role};
use serde::{Deserialize, Serialize};

use crate::lease::LeaseProof;
use crate::memory::Memory;
use crate::rules::RuleId;

/// One step of a cycle. The driver performs it, appends the outcome to [`crate::Facts`] and decides again from the top.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Learn something.
    Ask(Probe),
    /// Do something, once per cycle.
    Act(Effect),
    /// The cycle ends.
    Done(Box<Verdict>),
}

/// Something that must be looked up before the decision can go on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Probe {
    /// Ask these members' REST APIs, in parallel, each with a deadline of two seconds.
    Peers(Vec<PeerAddress>),
    /// Ask a server, over a replication connection, where it is and how it came there.
    Server(Upstream),
    /// Ask every one of these members, in parallel and within about four seconds in all, whether this node may go on
    /// leading without the store.
    Failsafe {
        /// Whom.
        members: Vec<PeerAddress>,
        /// What they are told.
        leader: Box<FailsafeLeader>,
    },
    /// Read this node's timeline history file of its current timeline.
    OwnHistory,
    /// Ask a primary for the `catalog_xmin` of these slots.
    SlotHorizons {
        /// The primary.
        server: Upstream,
        /// Slot names.
        slots: Vec<String>,
    },
}

/// Whom to ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerAddress {
    /// Member name.
    pub name: String,
    /// Its `api_url`.
    pub api_url: String,
}

/// What [`Probe::Server`] learns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerPosition {
    /// `pg_is_in_recovery()`.
    pub in_recovery: bool,
    /// `IDENTIFY_SYSTEM`.
    pub system_id: String,
    /// `IDENTIFY_SYSTEM`.
    pub timeline: model::Timeline,
    /// `IDENTIFY_SYSTEM`.
    pub lsn: Lsn,
    /// `TIMELINE_HISTORY` of that timeline, oldest first; empty on timeline 1.
    pub history: Vec<model::lsn::TimelineSwitch>,
}

/// Something to do at once; bounded in time by the driver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Effect {
    /// Create the leader key.
    AcquireLeader,
    /// Prolong the lease.
    RenewLeader,
    /// Every other member promised, in answer to a question sent at this moment, not to lead: the lease lasts a `ttl` from
    /// there, as if it had been renewed then. Nothing else follows from it: it is no permission to become writable.
    LeadByPromise(BootTime),
    /// The promise to a leader without the store that lasts until then binds nobody any more.
    ForgetPromise(BootTime),
    /// Give the leader key away.
    ReleaseLeader,
    /// Publish the member record.
    TouchMember(Box<Member>),
    /// Write a key of the store.
    Put {
        /// Which.
        key: model::Key,
        /// What.
        value: String,
        /// Under which condition.
        guard: WriteGuard,
    },
    /// Delete a key of the store.
    Delete {
        /// Which.
        key: model::Key,
        /// Under which condition.
        guard: WriteGuard,
    },
    /// Begin long work. At most one task runs.
    StartTask(Task),
    /// Tell the running task to stop; it still reports its end.
    CancelTask,
    /// Run a user's callback, without waiting for it.
    Callback(CallbackAction, Role),
    /// Change replication slots, in this order; each is tried.
    SyncSlots(Vec<SlotChange>),
    /// Turn `hot_standby_feedback` on whatever the configuration says, or leave it to the configuration.
    ForceFeedback(bool),
    /// Tell operators something that is not the cycle's verdict.
    Log(Severity, String),
    /// Set `synchronous_standby_names` and wait until it is in force; `None` gives it back to the user's configuration.
    SetStandbyNames(Option<String>),
    /// Let go of the fence: PostgreSQL is stopped, or a standby, or the cluster is paused.
    Disarm,
    /// Answer an operator's request.
    Answer(u64, Answered),
}

/// How much a line in the log matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Severity {
    /// Good to know.
    Info,
    /// Something should be looked at.
    Warning,
}

/// The condition of a write, in the core's own terms (`dcs::Guard` says the same to the stores).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WriteGuard {
    /// Always.
    None,
    /// Only if absent.
    Absent,
    /// Only if the version is unchanged.
    Version(u64),
}

/// HTTP status and text of an answer to an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// HTTP status.
    pub code: u16,
    /// In upstream's words.
    pub text: String,
}

/// Why a callback runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CallbackAction {
    /// `on_start`
    OnStart,
    /// `on_stop`
    OnStop,
    /// `on_restart`
    OnRestart,
    /// `on_reload`
    OnReload,
    /// `on_role_change`
    OnRoleChange,
}

impl CallbackAction {
    /// The name in the configuration and the first argument of the script.
    pub fn as_str(self) -> &'static str {
        match self {
            CallbackAction::OnStart => "on_start",
            CallbackAction::OnStop => "on_stop",
            CallbackAction::OnRestart => "on_restart",
            CallbackAction::OnReload => "on_reload",
            CallbackAction::OnRoleChange => "on_role_change",
        }
    }
}

/// How PostgreSQL is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopMode {
    /// `SIGINT`: disconnects clients, writes the shutdown checkpoint, waits for the standbys to have it.
    Fast,
    /// `SIGQUIT`, then `SIGKILL` of what is left after a short grace: no checkpoint.
    Immediate,
}

/// Long work. Each ends by itself, reports success or the reason of failure, and can be cancelled.
/// A task performs what it says and decides nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Task {
    /// initdb, first start, roles: a new cluster on this node. Ends with a running primary.
    Bootstrap,
    /// Make this node's data directory a copy of a member's. Ends stopped.
    Clone {
        /// Whom to copy, `None` for methods that need nobody.
        source: Option<CloneSource>,
        /// By base backup only.
        basebackup_only: bool,
    },
    /// Start as primary: recovery configuration removed. Ends when connections are accepted.
    StartPrimary {
        /// Bound on the start.
        timeout: Duration,
        /// Permission to be writable.
        proof: LeaseProof,
    },
    /// Write recovery configuration, start as a standby. Ends when connections are accepted or recovery goes on.
    StartStandby {
        /// Whom to follow; nobody (read-only, no WAL receiver) where `None`.
        upstream: Option<Upstream>,
    },
    /// Follow somebody else: rewrite recovery configuration; reload, or restart where the version needs it.
    Repoint {
        /// Whom to follow.
        upstream: Option<Upstream>,
    },
    /// pg_rewind against the new primary. The server is stopped before and after.
    Rewind {
        /// Server to rewind to.
        source: Upstream,
    },
    /// Replay the WAL of a server that did not stop cleanly, in single-user mode, so that it can be rewound.
    CrashRecovery,
    /// Remove the data directory, because a rule that allows it said so.
    RemoveDataDir,
    /// Stop PostgreSQL.
    Stop {
        /// How.
        mode: StopMode,
        /// A checkpoint first, so that the shutdown checkpoint is short.
        checkpoint: bool,
        /// Why, for the log and for the rule that goes on afterwards.
        purpose: StopPurpose,
    },
    /// Leave recovery. Ends when the control file says `in production`.
    Promote {
        /// Permission to be writable, checked again just before.
        proof: LeaseProof,
    },
    /// Copy logical slots from a primary into this standby's data directory, which takes a restart of the server. Nothing is
    /// stopped before the slots have been read. Ends running.
    CopySlots {
        /// The primary.
        source: Upstream,
        /// Slot names.
        slots: Vec<String>,
    },
    /// A checkpoint, so that the new timeline is in the control file and others may rewind.
    Checkpoint,
}

/// Whom a clone is taken from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneSource {
    /// Member name.
    pub name: String,
    /// Its server.
    pub upstream: Upstream,
}

/// Why PostgreSQL is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopPurpose {
    /// Hand the lock over: release it when a candidate has the shutdown checkpoint.
    Switchover,
    /// The agent exits: hand over like a switchover if it leads.
    Shutdown,
    /// The lease is lost or about to be.
    Demote,
    /// To start again.
    Restart,
    /// A diverged or unsuitable standby is to be rewound, or a copy is to be replaced.
    Rebuild,
}

/// How an effect ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// Done.
    Done,
    /// The lease is held until then.
    Leased(BootTime),
    /// The lock was acquired, so long after the look that what the decision rested on may be old. No proof.
    LeasedLate(BootTime),
    /// The lease is held, but a guard that the configuration requires is missing; why. No proof.
    Unfenced(String),
    /// A key was written; its version.
    Written(u64),
    /// The store answered that the condition does not hold.
    Rejected(String),
    /// No answer; whether it was done is unknown.
    Unreachable(String),
    /// Failed otherwise.
    Failed(String),
}

impl Outcome {
    /// The effect took place.
    pub fn succeeded(&self) -> bool {
        matches!(self, Outcome::Done | Outcome::Leased(_) | Outcome::LeasedLate(_) | Outcome::Written(_))
    }
}

/// The end of a cycle.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The rule that decided.
    pub rule: RuleId,
    /// The sentence an operator reads.
    pub reason: String,
    /// Carry-over into the next cycle.
    pub memory: Memory,
    /// Look again no later than this; `loop_wait` from now where `None`.
    pub wake_at: Option<BootTime>,
    /// Leave the process with this status.
    pub exit: Option<Exit>,
}

/// The agent ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit status.
    pub code: i32,
}
