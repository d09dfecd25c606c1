//! Life and death of a simulated postmaster. Once begun, each change goes on by itself, whatever becomes of the agent.

use std::sync::{Arc, Weak};
use std::time::Duration;

use model::Timeline;
use model::pg::ControlState;
use tokio::time::sleep;

use super::replication;
use super::wal::Branch;
use super::{END_OF_RECOVERY_BYTES, Phase, Process, Recovery};
use crate::history::{Event, ProcessChange};
use crate::world::{NodeId, State, World};

/// How often something that waits for a stalled disk looks again.
const STALL_LOOK_MS: u64 = 100;
/// A walsender gives up on a receiver that says nothing for this long.
const SENDER_TIMEOUT_MS: u64 = 10_000;

impl State {
    /// The data directory holds nothing that a server could start from, and why.
    fn unfit(&self, node: NodeId) -> Option<&'static str> {
        let data = self.node(node).pg.data.as_ref()?;
        data.unfinished.map(|_| "a half-made data directory")
    }

    /// Starts a postmaster; `bootstrapping` excuses the marker of an unfinished bootstrap.
    pub(super) fn start_process(&mut self, node: NodeId, bootstrapping: bool) -> Result<u64, String> {
        if self.node(node).pg.process.is_some() {
            return Err("another server might be running".to_owned());
        }
        if let Some(what) = self.unfit(node).filter(|_| !bootstrapping) {
            self.record(Event::StartedUnfit(node, what));
            return Err(format!("the server was started on {what}"));
        }
        let (id, now_ms) = (self.unique(), self.now_ms);
        let pg = &mut self.node_mut(node).pg;
        let Some(data) = &mut pg.data else { return Err("the data directory is empty".to_owned()) };
        let in_recovery = data.recovery.is_some();
        let clean = matches!(data.control, ControlState::ShutDown | ControlState::ShutDownInRecovery);
        data.control = match (in_recovery, clean) {
            (true, _) => ControlState::InArchiveRecovery,
            (false, true) => ControlState::StartingUp,
            (false, false) => ControlState::InCrashRecovery,
        };
        pg.process = Some(Process {
            id,
            phase: Phase::Starting,
            in_recovery,
            accepts_writes: false,
            promoting: false,
            started_ms: now_ms,
            receiver: None,
            ever_received: false,
            sync: super::sync::SyncRep::starting(&data.standby_names),
        });
        self.changed(node, ProcessChange::Starting);
        let recovery_ms = if clean { self.between(200, 2_000) } else { self.between(500, 12_000) };
        if let Some(world) = self.world() {
            tokio::spawn(start_up(Arc::downgrade(&world), node, id, recovery_ms));
        }
        Ok(id)
    }

    /// Starts a fast stop, as SIGINT does.
    pub(super) fn begin_fast_stop(&mut self, node: NodeId) {
        let drain_ms = self.between(0, 150);
        let checkpoint_ms = self.between(50, 4_000);
        let Some(process) = &mut self.node_mut(node).pg.process else { return };
        if process.phase == Phase::Stopping {
            return;
        }
        process.phase = Phase::Stopping;
        let id = process.id;
        self.changed(node, ProcessChange::Stopping);
        if let Some(world) = self.world() {
            tokio::spawn(fast_stop(Arc::downgrade(&world), node, id, drain_ms, checkpoint_ms));
        }
    }

    /// The process is gone at once: SIGKILL, a crash, the end of a stop.
    pub fn kill_process(&mut self, node: NodeId, why: &'static str) {
        if self.node_mut(node).pg.process.take().is_some() {
            self.changed(node, ProcessChange::Exited(why));
        }
    }

    /// Starts a promotion, as SIGUSR1 with a trigger file does.
    pub(super) fn begin_promotion(&mut self, node: NodeId) -> Result<(), String> {
        let takes_ms = self.between(50, 2_500);
        let Some(process) = &mut self.node_mut(node).pg.process else { return Err("no server runs".to_owned()) };
        if process.phase == Phase::Running && !process.in_recovery {
            return Ok(());
        }
        if process.phase != Phase::Running {
            return Err("the server is not in recovery".to_owned());
        }
        // The receiver is ended first: what it has is what the new timeline starts from.
        process.promoting = true;
        process.receiver = None;
        let id = process.id;
        if let Some(world) = self.world() {
            tokio::spawn(promotion(Arc::downgrade(&world), node, id, takes_ms));
        }
        Ok(())
    }

    /// Follows somebody else.
    pub(super) fn repoint(&mut self, node: NodeId, recovery: Recovery) -> Result<(), String> {
        let pg = &mut self.node_mut(node).pg;
        let (Some(data), Some(process)) = (&mut pg.data, &mut pg.process) else {
            return Err("no server runs".to_owned());
        };
        if !process.in_recovery {
            return Err("the server is not in recovery".to_owned());
        }
        data.recovery = Some(recovery);
        process.receiver = None;
        Ok(())
    }

    fn changed(&mut self, node: NodeId, change: ProcessChange) {
        self.record(Event::Process(node, change));
        self.node_mut(node).pg.bump();
    }

    /// The process with this id, if it still is the node's.
    fn process_mut(&mut self, node: NodeId, id: u64) -> Option<&mut Process> {
        self.node_mut(node).pg.process.as_mut().filter(|process| process.id == id)
    }

    fn open_for_connections(&mut self, node: NodeId, id: u64) -> Option<bool> {
        let process = self.process_mut(node, id).filter(|process| process.phase == Phase::Starting)?;
        process.phase = Phase::Running;
        let in_recovery = process.in_recovery;
        process.accepts_writes = !in_recovery;
        if !in_recovery && let Some(data) = &mut self.node_mut(node).pg.data {
            data.control = ControlState::InProduction;
            data.do_checkpoint(true);
        }
        self.changed(node, if in_recovery { ProcessChange::ReadOnly } else { ProcessChange::Writable });
        Some(in_recovery)
    }

    fn leave_recovery(&mut self, node: NodeId, id: u64) -> Option<()> {
        self.process_mut(node, id).filter(|process| process.phase == Phase::Running)?;
        let branch = Branch(self.unique());
        let pg = &mut self.node_mut(node).pg;
        let (data, process) = (pg.data.as_mut()?, pg.process.as_mut()?);
        let switchpoint = data.wal.end();
        data.wal.fork(branch);
        data.wal.append(END_OF_RECOVERY_BYTES);
        data.recovery = None;
        data.control = ControlState::InProduction;
        process.in_recovery = false;
        process.promoting = false;
        process.accepts_writes = true;
        process.receiver = None;
        let timeline: Timeline = data.wal.timeline();
        let lost = self.take_lost(node);
        let lost = lost.iter().map(|ack| ack.end).min().map(|first| (lost.len() as u64, first));
        self.record(Event::Promoted { node, timeline, switchpoint, branch, lost });
        self.changed(node, ProcessChange::Writable);
        Some(())
    }

    /// Every standby that streams from this process has everything, or has been silent for too long.
    fn standbys_have_all(&self, node: NodeId, id: u64) -> bool {
        let Some(end) = self.node(node).pg.data.as_ref().map(|data| data.wal.end()) else { return true };
        self.ids().all(|other| {
            let pg = &self.node(other).pg;
            let receiver = pg.process.as_ref().and_then(|process| process.receiver.as_ref());
            let silent = |heard_ms: u64| self.now_ms.saturating_sub(heard_ms) > SENDER_TIMEOUT_MS;
            match (receiver, &pg.data) {
                (Some(receiver), Some(data)) if receiver.upstream == node && receiver.process == id => {
                    data.wal.end() >= end || silent(receiver.heard_ms)
                }
                _ => true,
            }
        })
    }
}

/// Waits, and longer while the disk of `node` stalls. False when the world has ended.
pub(super) async fn disk_time(world: &Weak<World>, node: NodeId, ms: u64) -> bool {
    sleep(Duration::from_millis(ms)).await;
    loop {
        let Some(world) = world.upgrade() else { return false };
        let left_ms = world.with(|state| state.node(node).pg.stalled_until_ms.saturating_sub(state.now_ms));
        if left_ms == 0 {
            return true;
        }
        drop(world);
        // Stalls end earlier than announced.
        sleep(Duration::from_millis(left_ms.min(STALL_LOOK_MS))).await;
    }
}

async fn start_up(world: Weak<World>, node: NodeId, id: u64, recovery_ms: u64) {
    if !disk_time(&world, node, recovery_ms).await {
        return;
    }
    let Some(in_recovery) = world.upgrade().and_then(|world| world.with(|state| state.open_for_connections(node, id)))
    else {
        return;
    };
    if in_recovery {
        replication::receive(world, node, id).await;
    }
}

async fn fast_stop(world: Weak<World>, node: NodeId, id: u64, drain_ms: u64, checkpoint_ms: u64) {
    sleep(Duration::from_millis(drain_ms)).await;
    let Some(strong) = world.upgrade() else { return };
    let in_recovery = strong.with(|state| {
        let process = state.process_mut(node, id)?;
        process.accepts_writes = false;
        process.sync.waiting.clear();
        Some(process.in_recovery)
    });
    drop(strong);
    let Some(in_recovery) = in_recovery else { return };
    if !disk_time(&world, node, checkpoint_ms).await {
        return;
    }
    let Some(strong) = world.upgrade() else { return };
    strong.with(|state| {
        state.process_mut(node, id)?;
        let data = state.node_mut(node).pg.data.as_mut()?;
        data.do_checkpoint(!in_recovery);
        data.control = if in_recovery { ControlState::ShutDownInRecovery } else { ControlState::ShutDown };
        let at = data.checkpoint;
        state.changed(node, ProcessChange::ShutDown(at));
        Some(())
    });
    drop(strong);
    loop {
        sleep(Duration::from_millis(50)).await;
        let Some(strong) = world.upgrade() else { return };
        let done = strong.with(|state| {
            if state.process_mut(node, id).is_none() {
                return true;
            }
            let done = in_recovery || state.standbys_have_all(node, id);
            if done {
                state.kill_process(node, "shut down");
            }
            done
        });
        if done {
            return;
        }
    }
}

async fn promotion(world: Weak<World>, node: NodeId, id: u64, takes_ms: u64) {
    if !disk_time(&world, node, takes_ms).await {
        return;
    }
    let Some(strong) = world.upgrade() else { return };
    let checkpoint_ms = strong.with(|state| state.leave_recovery(node, id).map(|()| state.between(100, 20_000)));
    drop(strong);
    // The server's own checkpoint after a promotion comes some time later, and with it the new timeline in pg_control.
    let Some(checkpoint_ms) = checkpoint_ms else { return };
    if !disk_time(&world, node, checkpoint_ms).await {
        return;
    }
    let Some(strong) = world.upgrade() else { return };
    strong.with(|state| {
        state.process_mut(node, id).filter(|process| process.phase == Phase::Running)?;
        state.node_mut(node).pg.data.as_mut()?.do_checkpoint(true);
        Some(())
    });
}
