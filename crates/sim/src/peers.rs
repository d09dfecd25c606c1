//! `GET /patroni` of other members: answered from the peer's PostgreSQL, if its agent is alive and reachable.

use std::sync::Arc;
use std::time::Duration;

use agent::ports::Peers;
use async_trait::async_trait;
use ha::step::PeerAddress;
use model::HostPort;
use model::peer::{PeerAnswer, PeerStatus};
use tokio::time::sleep;

use crate::history::Event;
use crate::world::{NodeId, State, World};

/// An answer that does not come is given up after this long.
const TIMEOUT: Duration = Duration::from_secs(2);

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
            .map(|(peer, reply)| PeerStatus {
                name: peer.name.clone(),
                answer: match reply {
                    Reply::Answer(answer) => Some(answer),
                    Reply::Nothing | Reply::Silence => None,
                },
            })
            .collect()
    }
}

impl State {
    fn peer(&self, peer: &PeerAddress) -> Option<NodeId> {
        self.by_host(&HostPort::from_url(&peer.api_url)?.host)
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
