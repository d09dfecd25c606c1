//! `GET /patroni` of other members: answered from the peer's PostgreSQL, if its agent is alive and reachable.

use std::sync::Arc;
use std::time::Duration;

use agent::ports::Peers;
use async_trait::async_trait;
use ha::step::PeerAddress;
use model::peer::{PeerAnswer, PeerStatus};
use model::{FailsafeLeader, FailsafeReply, HostPort, Lsn};
use tokio::time::sleep;

use crate::history::Event;
use crate::world::{NodeId, State, World};

/// An answer that does not come is given up after this long.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How often a peer that does not answer is asked for its promise.
const PROMISE_ATTEMPTS: u32 = 2;

/// [`Peers`] as seen from one node.
pub struct SimPeers {
    /// Where it happens.
    pub world: Arc<World>,
    /// Who asks.
    pub node: NodeId,
}

enum Reply {
    Answer(PeerAnswer),
    /// An answer, or a refusal, from which nothing follows.
    Nothing,
    /// PostgreSQL does not run.
    Stopped,
    Silence,
}

#[async_trait]
impl Peers for SimPeers {
    async fn status(&self, peers: &[PeerAddress]) -> Vec<PeerStatus> {
        let latency_ms = self.world.with(|state| state.between(2, 40));
        sleep(Duration::from_millis(latency_ms)).await;
        let replies: Vec<Reply> = self.world.with(|state| {
            let ids: Vec<Option<NodeId>> = peers.iter().map(|peer| state.peer(peer)).collect();
            let ahead = ids.iter().flatten().copied().filter(|id| state.is_better(self.node, *id)).collect();
            state.record(Event::Polled(self.node, ahead));
            ids.into_iter().map(|id| id.map_or(Reply::Silence, |id| state.reply(self.node, id))).collect()
        });
        if replies.iter().any(|reply| matches!(reply, Reply::Silence)) {
            sleep(TIMEOUT).await;
        }
        let named = peers.iter().zip(replies);
        named
            .map(|(peer, reply)| match reply {
                Reply::Answer(answer) => {
                    let at_rest = answer.in_recovery;
                    PeerStatus { name: peer.name.clone(), answer: Some(answer), at_rest }
                }
                Reply::Stopped => PeerStatus { at_rest: true, ..PeerStatus::silent(&peer.name) },
                Reply::Nothing | Reply::Silence => PeerStatus::silent(&peer.name),
            })
            .collect()
    }

    async fn failsafe(&self, peers: &[PeerAddress], leader: &FailsafeLeader) -> Vec<FailsafeReply> {
        futures::future::join_all(peers.iter().map(|peer| self.ask_for_promise(peer, leader))).await
    }
}

impl SimPeers {
    async fn ask_for_promise(&self, peer: &PeerAddress, leader: &FailsafeLeader) -> FailsafeReply {
        let mut accepted = None;
        for _ in 0..PROMISE_ATTEMPTS {
            accepted = self.promise_of(peer, leader).await;
            if accepted.is_some() {
                break;
            }
            sleep(TIMEOUT).await;
        }
        let accepted = accepted.unwrap_or_else(|| Err("no answer".to_owned()));
        FailsafeReply { name: peer.name.clone(), accepted }
    }

    /// The request and the answer pass the network; whoever the request has reached has decided, even if nobody hears of it.
    async fn promise_of(&self, peer: &PeerAddress, leader: &FailsafeLeader) -> Option<Result<Option<Lsn>, String>> {
        let (request_ms, reply_ms) = self.world.with(|state| (state.between(1, 20), state.between(1, 20)));
        sleep(Duration::from_millis(request_ms)).await;
        let handle = self.world.with(|state| {
            let id = state.peer(peer).filter(|id| state.reachable(self.node, *id))?;
            let asked = state.node(id);
            asked.agent.is_responsive().then(|| asked.handle.clone()).flatten()
        })?;
        let answer = handle.accept_failsafe(leader.clone()).await;
        sleep(Duration::from_millis(reply_ms)).await;
        self.world.with(|state| state.answers(self.node, peer)).then_some(answer)
    }
}

impl State {
    fn peer(&self, peer: &PeerAddress) -> Option<NodeId> {
        self.by_host(&HostPort::from_url(&peer.api_url)?.host)
    }

    /// The agent of this peer would answer a request of `from`.
    pub(crate) fn answers(&self, from: NodeId, peer: &PeerAddress) -> bool {
        self.peer(peer).is_some_and(|id| self.reachable(from, id) && self.node(id).agent.is_responsive())
    }

    fn reply(&self, from: NodeId, to: NodeId) -> Reply {
        let peer = self.node(to);
        if !self.reachable(from, to) {
            return Reply::Silence;
        }
        if peer.agent.is_dead() {
            return Reply::Nothing;
        }
        if !peer.agent.is_responsive() {
            return Reply::Silence;
        }
        let stalled = peer.pg.stalled_until_ms > self.now_ms;
        match (peer.pg.running(), &peer.pg.data) {
            (Some(process), Some(data)) if !stalled => Reply::Answer(PeerAnswer {
                in_recovery: process.in_recovery,
                wal: data.wal.end(),
                timeline: Some(data.wal.timeline()),
                tags: peer.tags.clone(),
                watchdog_failed: false,
                state_running: true,
            }),
            _ if !stalled && peer.pg.process.is_none() => Reply::Stopped,
            _ => Reply::Nothing,
        }
    }

    /// `other` could be asked, could lead, and is strictly ahead of `node`. On an older timeline it could not lead
    /// (`check_timeline`), whatever it has.
    fn is_better(&self, node: NodeId, other: NodeId) -> bool {
        let Some(own) = self.node(node).pg.data.as_ref() else { return true };
        match self.reply(node, other) {
            Reply::Answer(answer) => {
                !answer.tags.nofailover() && answer.wal > own.wal.end() && answer.timeline >= Some(own.wal.timeline())
            }
            _ => false,
        }
    }
}
