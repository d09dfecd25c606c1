//! The WAL receiver of a simulated standby.

use std::sync::Weak;
use std::time::Duration;

use tokio::time::sleep;

use super::wal::Fit;
use super::{Phase, Receiver};
use crate::history::Event;
use crate::world::{NodeId, State, World};

/// `wal_receiver_timeout`, shortened.
const RECEIVER_TIMEOUT_MS: u64 = 20_000;

/// Streams as long as the process lives and is in recovery.
pub(super) async fn receive(world: Weak<World>, node: NodeId, id: u64) {
    let mut said = String::new();
    loop {
        let Some(strong) = world.upgrade() else { return };
        let pause_ms = strong.with(|state| {
            let process = state.node(node).pg.process.as_ref()?;
            if process.id != id || !process.in_recovery || process.phase == Phase::Stopping {
                return None;
            }
            let now = if process.promoting { "ended for a promotion".to_owned() } else { state.stream(node) };
            if now != said {
                state.record(Event::Replication(node, now.clone()));
                said = now;
            }
            Some(state.between(40, 400))
        });
        drop(strong);
        let Some(pause_ms) = pause_ms else { return };
        sleep(Duration::from_millis(pause_ms)).await;
    }
}

impl State {
    /// One look at the connection, and what came over it. Says in words how it stands.
    fn stream(&mut self, node: NodeId) -> String {
        let pg = &self.node(node).pg;
        let stalled = pg.stalled_until_ms > self.now_ms;
        let recovery = pg.data.as_ref().and_then(|data| data.recovery.as_ref());
        let Some(wanted) = recovery.and_then(|recovery| recovery.upstream.as_ref()) else {
            return "no primary_conninfo".to_owned();
        };
        let Some(upstream) = self.by_host(&wanted.address.host) else { return "unknown host".to_owned() };
        let slot = wanted.slot.clone();
        let connected = pg.process.as_ref().and_then(|process| process.receiver.clone());
        let linked = self.reachable(node, upstream);
        match connected {
            Some(receiver) if receiver.upstream == upstream => {
                let lost = if linked {
                    self.node(upstream).pg.process.as_ref().map(|process| process.id) != Some(receiver.process)
                } else {
                    self.now_ms.saturating_sub(receiver.heard_ms) > RECEIVER_TIMEOUT_MS
                };
                if lost {
                    self.set_receiver(node, None);
                    return format!("connection to {upstream} lost");
                }
                if linked && !stalled {
                    return self.transfer(node, upstream, receiver);
                }
                format!("streaming from {upstream}")
            }
            _ if stalled => "disk stalls".to_owned(),
            _ if !linked => format!("cannot reach {upstream}"),
            _ => self.connect(node, upstream, slot),
        }
    }

    fn set_receiver(&mut self, node: NodeId, receiver: Option<Receiver>) {
        if let Some(process) = &mut self.node_mut(node).pg.process {
            process.ever_received |= receiver.is_some();
            process.receiver = receiver;
        }
    }

    fn connect(&mut self, node: NodeId, upstream: NodeId, slot: Option<String>) -> String {
        let Some((process, theirs)) = self.node(upstream).pg.running().zip(self.node(upstream).pg.data.as_ref()) else {
            return format!("{upstream} does not accept connections");
        };
        if slot.as_ref().is_some_and(|slot| !theirs.slots.contains_key(slot)) {
            return format!("replication slot {} does not exist on {upstream}", slot.unwrap_or_default());
        }
        let process = process.id;
        let Some(own) = &self.node(node).pg.data else { return "no data".to_owned() };
        if own.system_id != theirs.system_id {
            return format!("{upstream} is another cluster");
        }
        match own.wal.fit(&theirs.wal) {
            Fit::Prefix => {
                let heard_ms = self.now_ms;
                self.set_receiver(node, Some(Receiver { upstream, process, heard_ms }));
                format!("streaming from {upstream}")
            }
            Fit::Ahead => format!("starting point is ahead of {upstream}"),
            Fit::Diverged(why) => format!("cannot follow {upstream}: {why}"),
        }
    }

    fn transfer(&mut self, node: NodeId, upstream: NodeId, mut receiver: Receiver) -> String {
        let bytes = self.node(node).pg.stream_limit_bytes.unwrap_or(16 << 20);
        receiver.heard_ms = self.now_ms;
        self.set_receiver(node, Some(receiver));
        let Some(theirs) = self.node(upstream).pg.data.as_ref().map(|data| data.wal.clone()) else {
            return "no data upstream".to_owned();
        };
        if let Some(own) = &mut self.node_mut(node).pg.data {
            own.wal.stream_from(&theirs, bytes);
        }
        self.acknowledge(upstream);
        format!("streaming from {upstream}")
    }

    /// Standbys that stream from this node, with their positions.
    pub(super) fn receivers_of(&self, node: NodeId) -> Vec<(NodeId, model::Lsn)> {
        let Some(id) = self.node(node).pg.process.as_ref().map(|process| process.id) else { return Vec::new() };
        let streams_here = |other: &NodeId| {
            let receiver = self.node(*other).pg.process.as_ref().and_then(|process| process.receiver.as_ref());
            receiver.is_some_and(|receiver| receiver.upstream == node && receiver.process == id)
        };
        self.ids()
            .filter(streams_here)
            .filter_map(|other| Some((other, self.node(other).pg.data.as_ref()?.wal.end())))
            .collect()
    }
}
