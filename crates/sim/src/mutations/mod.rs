//! Deliberate defects, put in where the driver meets the world. Each of them must be caught by a checker within a bounded
//! number of seeds: that is how the checkers prove that they can fail.

mod local;
mod remote;
mod sync;

use std::sync::{Arc, Mutex};

use agent::Deps;
use ha::view::NodeInfo;
use model::Tags;

use crate::world::{NodeId, World};

/// A deliberate defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// The leader lock is taken although somebody holds it: the compare of the compare-and-set is gone.
    AcquireIgnoresHolder,
    /// An acquire without an answer counts as a success.
    AcquireUnknownIsSuccess,
    /// Every renewal is reported as a success.
    RenewAlwaysSucceeds,
    /// A renewal that the store rejects is reported as a success.
    RenewIgnoresRejection,
    /// Releasing deletes the key whoever holds it, and any acquire that fails releases.
    ReleaseDeletesAny,
    /// Reads answer with what the store held half a minute ago.
    StaleReads,
    /// Conditions of writes are not sent.
    GuardsDropped,
    /// The store's leases are a third of what the agent believes.
    ShortLeases,
    /// The leader's position is not published.
    StatusNotWritten,
    /// `maximum_lag_on_failover` is not looked at.
    LagLimitIgnored,
    /// The agent never learns of a pause.
    PauseHidden,
    /// Changes in the store wake nobody.
    WatchNeverWakes,
    /// Nobody is asked before the lock is taken.
    PeersSilent,
    /// Peers seem to have no WAL.
    PeersWithoutWal,
    /// The sentinel confirms and forgets.
    FenceNeverFires,
    /// The sentinel is told a deadline a minute too late.
    FenceLate,
    /// Lease arithmetic uses the calendar.
    BootClockIsCalendar,
    /// The tag `nofailover` is not read.
    NofailoverIgnored,
    /// This node believes to have more WAL than anybody.
    OwnWalInflated,
    /// A stop is reported as done at once.
    StopReturnsEarly,
    /// The shutdown checkpoint is reported before PostgreSQL has stopped accepting writes.
    ShutdownReportedEarly,
    /// pg_rewind does nothing and reports success.
    RewindDoesNothing,
    /// Markers of interrupted work are not seen.
    UnfinishedHidden,
    /// A primary looks like a standby.
    PrimaryLooksLikeStandby,
    /// A member that does not answer a leader without the store counts as agreeing.
    SilenceIsConsent,
    /// Members accept a leader without the store and promise nothing.
    PromiseNotGiven,
    /// Nobody is asked, and all are reported to have promised.
    PromisesInvented,
    /// The failsafe key names the leader alone.
    FailsafeKeyNotWritten,
    /// A standby that is taken out of the sync key stays there.
    SyncKeyNeverShrinks,
    /// A new primary does not replace the old one in the sync key.
    SyncKeyKeepsLeader,
    /// A candidate takes itself for a synchronous standby.
    SyncKeyListsMe,
    /// A candidate needs no votes of other voters.
    QuorumIgnored,
    /// `synchronous_standby_names` is not set.
    StandbyNamesNotSet,
    /// `synchronous_standby_names` is set long after it is said to be.
    StandbyNamesLate,
    /// One of the listed standbys is enough for a commit.
    StandbyNamesNeedOne,
    /// Every standby seems to have everything.
    StandbysSeemCaughtUp,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Mutation; 36] = [
        Mutation::AcquireIgnoresHolder,
        Mutation::AcquireUnknownIsSuccess,
        Mutation::RenewAlwaysSucceeds,
        Mutation::RenewIgnoresRejection,
        Mutation::ReleaseDeletesAny,
        Mutation::StaleReads,
        Mutation::GuardsDropped,
        Mutation::ShortLeases,
        Mutation::StatusNotWritten,
        Mutation::LagLimitIgnored,
        Mutation::PauseHidden,
        Mutation::WatchNeverWakes,
        Mutation::PeersSilent,
        Mutation::PeersWithoutWal,
        Mutation::FenceNeverFires,
        Mutation::FenceLate,
        Mutation::BootClockIsCalendar,
        Mutation::NofailoverIgnored,
        Mutation::OwnWalInflated,
        Mutation::StopReturnsEarly,
        Mutation::ShutdownReportedEarly,
        Mutation::RewindDoesNothing,
        Mutation::UnfinishedHidden,
        Mutation::PrimaryLooksLikeStandby,
        Mutation::SilenceIsConsent,
        Mutation::PromiseNotGiven,
        Mutation::PromisesInvented,
        Mutation::FailsafeKeyNotWritten,
        Mutation::SyncKeyNeverShrinks,
        Mutation::SyncKeyKeepsLeader,
        Mutation::SyncKeyListsMe,
        Mutation::QuorumIgnored,
        Mutation::StandbyNamesNotSet,
        Mutation::StandbyNamesLate,
        Mutation::StandbyNamesNeedOne,
        Mutation::StandbysSeemCaughtUp,
    ];

    /// The defect is one of synchronous replication: it shows in no other run.
    pub fn is_synchronous(self) -> bool {
        matches!(
            self,
            Mutation::SyncKeyNeverShrinks
                | Mutation::SyncKeyKeepsLeader
                | Mutation::SyncKeyListsMe
                | Mutation::QuorumIgnored
                | Mutation::StandbyNamesNotSet
                | Mutation::StandbyNamesLate
                | Mutation::StandbyNamesNeedOne
                | Mutation::StandbysSeemCaughtUp
        )
    }

    /// The mutation of that name (as in [`Mutation::ALL`], `CamelCase`).
    pub fn by_name(name: &str) -> Option<Mutation> {
        Mutation::ALL.into_iter().find(|mutation| format!("{mutation:?}").eq_ignore_ascii_case(name))
    }

    /// Puts the defect between an agent and its world.
    pub fn apply(self, deps: Deps, world: &Arc<World>, node: NodeId) -> Deps {
        let Deps { store, node: pg, peers, fence, clock, .. } = deps.clone();
        let world = world.clone();
        Deps {
            store: Arc::new(remote::MutatedStore::new(store, self, world.clone(), node)),
            node: Arc::new(local::MutatedNode { inner: pg, mutation: self, told: Mutex::default() }),
            peers: Arc::new(remote::MutatedPeers { inner: peers, mutation: self, world, node }),
            fence: Arc::new(local::MutatedFence { inner: fence, mutation: self }),
            clock: Arc::new(local::MutatedClock { inner: clock, mutation: self }),
            ..deps
        }
    }

    /// Puts the defect into an agent's idea of itself.
    pub fn apply_to_info(self, mut info: NodeInfo) -> NodeInfo {
        if self == Mutation::NofailoverIgnored {
            info.tags = Tags::default();
        }
        info
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(Mutation::by_name("fencelate"), Some(Mutation::FenceLate));
        assert_eq!(Mutation::by_name("nothing"), None);
    }
}
