//! What others may ask of a running agent.

use std::sync::Arc;

use ha::step::Answered;
use ha::view::{LeaseView, NodeInfo, Promise, RequestKind};
use model::{FailsafeLeader, Lsn};
use tokio::sync::{mpsc, oneshot, watch};

use crate::driver::{Incoming, Published, Shared};
use crate::journal::Journal;
use crate::keeper::Keeper;

/// A handle on a running agent; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) requests: mpsc::Sender<Incoming>,
}

impl Handle {
    /// Puts a request to the decision loop and waits for its answer.
    pub async fn request(&self, kind: RequestKind) -> Answered {
        let gone = || Answered { code: 503, text: "the agent is stopping".to_owned() };
        let (reply, answer) = oneshot::channel();
        if self.requests.send(Incoming { kind, reply }).await.is_err() {
            return gone();
        }
        answer.await.unwrap_or_else(|_| gone())
    }

    /// Wakes the loop at once.
    pub fn wake(&self) {
        self.shared.wake.notify_one();
    }

    /// Configuration files were read again: the node's description may have changed, PostgreSQL's files are rewritten.
    pub fn reload(&self, node: NodeInfo) {
        self.shared.reload.send_replace(Some(node));
    }

    /// Tells the agent to stop; it stops PostgreSQL and hands the lock over first.
    pub fn shutdown(&self) {
        self.shared.shutdown.send_replace(true);
    }

    /// The agent was told to stop.
    pub fn stopping(&self) -> bool {
        *self.shared.shutdown.borrow()
    }

    /// What the loop last saw; `None` before its first cycle.
    pub fn published(&self) -> Option<Arc<Published>> {
        self.shared.published.borrow().clone()
    }

    /// Follows what the loop publishes.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Published>>> {
        self.shared.published.subscribe()
    }

    /// The lease as of now.
    pub fn lease(&self) -> LeaseView {
        self.keeper.lease()
    }

    /// A leader that lost the store asks whether it may go on (`POST /failsafe`): accepted, with this node's WAL position, where
    /// this node does not lead, is not about to, and does not see somebody else's lock; refused with the reason.
    pub async fn accept_failsafe(&self, leader: FailsafeLeader) -> Result<Option<Lsn>, String> {
        let Some(published) = self.published() else {
            return Err("the agent is starting".to_owned());
        };
        let view = &published.view;
        if view.pg.is_primary() {
            return Err("Running as a leader".to_owned());
        }
        if let Some(holder) = view.cluster().and_then(|cluster| cluster.leader_name())
            && holder != leader.name
        {
            return Err(format!("the leader lock is held by {holder}"));
        }
        self.keeper.promise(leader).await?;
        self.wake();
        Ok(view.pg.server.as_ref().and_then(|server| server.wal_position()))
    }

    /// The promise to a leader without the store that lasts.
    pub fn promise(&self) -> Option<Promise> {
        self.keeper.promises().current()
    }

    /// The decision journal.
    pub fn journal(&self) -> &Journal {
        &self.shared.journal
    }
}
