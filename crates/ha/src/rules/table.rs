//! The numbered rules, with gaps to insert between. Journals, tests and the generated table refer to them.

use serde::{Serialize, Serializer};

/// Identifies a rule: its number in [`RULES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub u16);

impl RuleId {
    /// The rule's row.
    pub fn rule(self) -> Option<&'static Rule> {
        RULES.iter().find(|rule| rule.id == self)
    }

    /// The rule's name, for logs and journals.
    pub fn name(self) -> &'static str {
        self.rule().map_or("unknown", |rule| rule.name)
    }
}

impl Serialize for RuleId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}-{}", self.0, self.name()))
    }
}

/// A row of the table.
#[derive(Debug)]
pub struct Rule {
    /// Number.
    pub id: RuleId,
    /// Short name.
    pub name: &'static str,
    /// When it applies, and what it does.
    pub text: &'static str,
}

macro_rules! rules {
    ($($constant:ident = $number:literal, $name:literal, $text:literal;)*) => {
        $(#[doc = $text] pub(crate) const $constant: RuleId = RuleId($number);)*
        /// All rules, by number.
        pub const RULES: &[Rule] = &[$(Rule { id: $constant, name: $name, text: $text }),*];
    };
}

rules! {
    SHUTDOWN = 100, "shutdown", "The agent was told to stop: stop PostgreSQL, hand the lock over to a standby that has everything, exit.";
    SHUTDOWN_PAUSED = 110, "shutdown-paused", "The agent was told to stop while the cluster is paused: leave PostgreSQL running, exit.";
    STORE_LOST_LEADING = 200, "store-lost-leading", "The store cannot be reached, the lease is still good: go on until shortly before it ends.";
    STORE_LOST_FAILSAFE = 205, "store-lost-failsafe", "The store cannot be reached and every other member promised not to lead (failsafe mode): go on.";
    STORE_LOST_DEMOTE = 210, "store-lost-demote", "The store cannot be reached and the lease is about to end: stop accepting writes.";
    STORE_LOST = 220, "store-lost", "The store cannot be reached and this node does not lead: change nothing.";
    STORE_LOST_RESTART = 230, "store-lost-restart", "The store cannot be reached and PostgreSQL, which is known to be the cluster's, is down: start it read-only.";
    STORE_PROMISED = 240, "store-promised", "The lock came to this node although it promised a leader without the store not to take it: give it back.";
    TASK_RUNNING = 300, "task-running", "A task runs: keep the lease if it is held, wait for the task.";
    TASK_LOST_LEASE = 310, "task-lost-lease", "A task that would make this node writable runs, but the lease is lost: cancel it.";
    HAND_OVER = 320, "hand-over", "The shutdown checkpoint is written and a standby has it: give the lock away.";
    STOP_LATE = 330, "stop-late", "PostgreSQL does not stop, because of a client or a backend that hangs: stop it at once.";
    DATA_DIR_UNREADABLE = 400, "data-dir-unreadable", "The data directory cannot be read: give the lock away, wait.";
    DATA_DIR_FOREIGN = 410, "data-dir-foreign", "The data directory holds something that is not a PostgreSQL cluster: touch nothing, wait.";
    BOOTSTRAP_NEW = 420, "bootstrap-new", "No cluster exists: whoever creates the initialize key makes one.";
    BOOTSTRAP_FAILED = 425, "bootstrap-failed", "Making a new cluster failed: free the initialize key and exit.";
    BOOTSTRAP_DONE = 430, "bootstrap-done", "The new cluster is up: record its identifier and configuration, take the lock.";
    BOOTSTRAP_CLONE = 440, "bootstrap-clone", "The data directory is empty and there is somebody to copy: copy.";
    BOOTSTRAP_WAIT = 450, "bootstrap-wait", "The data directory is empty and nothing can be done about it yet: wait.";
    WRONG_CLUSTER = 500, "wrong-cluster", "The data directory belongs to another cluster: exit without touching it.";
    STORE_WIPED = 510, "store-wiped", "The store does not know the cluster: a standby must not recreate its keys.";
    POSTMASTER_UNKNOWN = 520, "postmaster-unknown", "Whether PostgreSQL runs could not be determined: wait, keep the lease if it is held.";
    STARTING = 530, "starting", "PostgreSQL is starting: wait, within the start timeout if this node leads.";
    NO_ANSWER = 540, "no-answer", "PostgreSQL runs and does not answer: keep the last known role.";
    PAUSED_DOWN = 550, "paused-down", "PostgreSQL is down while paused: leave it, give the lock away.";
    PAUSED = 560, "paused", "The cluster is paused: hands off.";
    RECOVER_PRIMARY = 600, "recover-primary", "PostgreSQL crashed and the lock is held: start it as the primary it was.";
    RECOVER_READONLY = 610, "recover-readonly", "PostgreSQL is down, the lock is held, but it was no primary: start it read-only, promote next.";
    RECOVER_GIVE_UP = 620, "recover-give-up", "The primary does not start and another node can take over: give the lock away.";
    RECOVER_STANDBY = 630, "recover-standby", "PostgreSQL is down and another node leads, or none: start as a standby.";
    RECOVER_HANDED_OVER = 640, "recover-handed-over", "The lock was handed over: wait for the new leader.";
    RECOVER_BACKOFF = 650, "recover-backoff", "The last attempt failed: wait before the next.";
    CRASH_RECOVERY = 660, "crash-recovery", "PostgreSQL did not stop cleanly and may have diverged: replay its WAL in single-user mode.";
    REWIND = 670, "rewind", "The local history diverged from the leader's: rewind.";
    REWIND_WAIT = 680, "rewind-wait", "A rewind or a check must wait for the leader.";
    DIVERGED = 690, "diverged", "The local history diverged and cannot be rewound: an operator must reinitialize this member.";
    REINIT = 695, "reinit", "A new copy was asked for, or a rule allows it: remove the data directory and copy.";
    RACE_WON = 700, "race-won", "No leader, this node is the healthiest and got the lock.";
    RACE_LOST = 710, "race-lost", "No leader, this node tried for the lock and another got it.";
    RACE_UNFIT = 720, "race-unfit", "No leader, and this node must not become one; the reason says why.";
    RACE_DEMOTE = 730, "race-demote", "A running primary without the lock must not go on.";
    LEAD = 800, "lead", "The lock is held and PostgreSQL accepts writes.";
    LEAD_PROMOTE = 810, "lead-promote", "The lock is held and PostgreSQL is a standby: promote.";
    LEAD_PRE_PROMOTE = 815, "lead-pre-promote", "The lock is held, and pre_promote failed: give the lock away, and leave it to others for a ttl.";
    LEAD_LOST = 820, "lead-lost", "The lock could not be kept: stop accepting writes at once.";
    LEAD_UNSURE = 830, "lead-unsure", "Renewing the lock got no answer; the lease is still good.";
    LEAD_UNFENCED = 840, "lead-unfenced", "Fencing is required and does not work: do not lead.";
    LEAD_CHECKPOINT = 850, "lead-checkpoint", "After a promotion: a checkpoint, so that others can rewind.";
    LEAD_SYNC = 855, "lead-sync", "Synchronous mode: the sync key or synchronous_standby_names changes, one at a time.";
    SWITCHOVER = 860, "switchover", "A switchover was asked for and is possible: hand over.";
    RESTART = 870, "restart", "A restart was asked for, or is due: restart.";
    FOLLOW = 900, "follow", "Another node leads: follow it.";
    FOLLOW_REPOINT = 910, "follow-repoint", "Another node leads than the one followed: follow it.";
    FOLLOW_KEPT = 915, "follow-kept", "PostgreSQL follows another server than it was told to, because its own configuration wins: say so, change nothing.";
    FOLLOW_DEMOTE = 920, "follow-demote", "A running primary while another node holds the lock: stop accepting writes at once.";
    FOLLOW_WAIT = 930, "follow-wait", "The leader has published no address yet: wait.";
    FOLLOW_COPY_SLOTS = 940, "follow-copy-slots", "This standby lacks permanent logical slots: copy them from the leader, with a restart.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_rise_and_names_are_unique() {
        assert!(RULES.windows(2).all(|pair| pair[0].id < pair[1].id));
        let names: std::collections::BTreeSet<_> = RULES.iter().map(|rule| rule.name).collect();
        assert_eq!(names.len(), RULES.len());
    }
}
