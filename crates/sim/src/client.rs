//! Clients that write wherever writes are accepted, and remember what was acknowledged.

use std::sync::Weak;
use std::time::Duration;

use model::Lsn;
use rand::RngExt;
use tokio::time::sleep;

use crate::pg::wal::Branch;
use crate::world::{NodeId, State, World};

/// An acknowledged write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The WAL it is in.
    pub branch: Branch,
    /// Where its commit record ends.
    pub end: Lsn,
    /// When it was acknowledged.
    pub at_ms: u64,
}

/// Acknowledged writes that no promotion has left behind yet, and how many were.
#[derive(Default)]
pub struct Ledger {
    /// Oldest first.
    pub acks: Vec<Ack>,
    /// All that were ever acknowledged.
    pub total: u64,
    /// Those that a promotion left behind.
    pub lost: u64,
}

/// Acknowledged writes remembered; older ones have been checked by many promotions.
const REMEMBERED_MAX: usize = 20_000;

/// Writes for the whole run.
pub async fn write(world: Weak<World>) {
    loop {
        let Some(strong) = world.upgrade() else { return };
        let pause_ms = strong.with(|state| {
            for node in state.writable() {
                state.commit(node);
            }
            state.between(50, 400)
        });
        drop(strong);
        sleep(Duration::from_millis(pause_ms)).await;
    }
}

impl State {
    /// One transaction; acknowledged as soon as it is flushed, here and on the standbys it waits for.
    fn commit(&mut self, node: NodeId) {
        let (now_ms, bytes) = (self.now_ms, self.rng.random_range(1u64..16) * 8 * 1024);
        let pg = &mut self.node_mut(node).pg;
        if pg.stalled_until_ms > now_ms {
            return;
        }
        let Some(data) = &mut pg.data else { return };
        let end = data.wal.append(bytes);
        let branch = data.wal.branch();
        self.submit(node, Ack { branch, end, at_ms: now_ms });
    }

    /// A client was told that its write is safe.
    pub fn note_ack(&mut self, node: NodeId, ack: Ack) {
        // Only a pause lets a primary go on without the lock, and then nothing is promised of what it acknowledges.
        if self.store.leader() != Some(&node.to_string()) {
            return;
        }
        self.ledger.total += 1;
        self.ledger.acks.push(ack);
        if self.ledger.acks.len() > REMEMBERED_MAX {
            self.ledger.acks.drain(..REMEMBERED_MAX / 2);
        }
    }

    /// Takes the acknowledged writes that are not in `node`'s WAL out of the ledger.
    pub fn take_lost(&mut self, node: NodeId) -> Vec<Ack> {
        let Some(wal) = self.node(node).pg.data.as_ref().map(|data| data.wal.clone()) else { return Vec::new() };
        let (kept, lost): (Vec<Ack>, Vec<Ack>) =
            self.ledger.acks.iter().partition(|ack| wal.contains(ack.branch, ack.end));
        self.ledger.acks = kept;
        self.ledger.lost += lost.len() as u64;
        lost
    }
}
