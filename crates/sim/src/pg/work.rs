//! Programs that an agent runs on a data directory: initdb, pg_basebackup, pg_rewind, single-user mode.
//!
//! They are the agent's children: a frozen agent does not stop them, a killed one takes them with it, and what they had
//! done by then stays on disk with its marker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agent::ports::TaskHandle;
use model::Lsn;
use model::pg::{ControlState, Unfinished, Upstream};
use rand::RngExt;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::process::disk_time;
use super::wal::{Branch, Wal};
use super::{Data, Phase};
use crate::history::Event;
use crate::world::{NodeId, State, World};

/// How often a program looks whether it still may and can go on.
const SLICE_MS: u64 = 250;

/// Ends the program when its parent goes away.
struct Child(Arc<AtomicBool>);

impl Drop for Child {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs a program for `takes_ms`: `goes_on` is asked all the while, `finish` makes its result visible.
pub(super) async fn run_program(
    world: &Arc<World>,
    node: NodeId,
    takes_ms: u64,
    task: &TaskHandle,
    goes_on: impl Fn(&State) -> Result<(), String> + Send + 'static,
    finish: impl FnOnce(&mut State) -> Result<(), String> + Send + 'static,
) -> Result<(), String> {
    let ended = Arc::new(AtomicBool::new(false));
    let child = Child(ended.clone());
    let (answer, answered) = oneshot::channel();
    let weak = Arc::downgrade(world);
    tokio::spawn(async move {
        let mut left_ms = takes_ms;
        while left_ms > 0 {
            let slice_ms = left_ms.min(SLICE_MS);
            if !disk_time(&weak, node, slice_ms).await || ended.load(Ordering::Relaxed) {
                return;
            }
            left_ms -= slice_ms;
            let Some(world) = weak.upgrade() else { return };
            let may_go_on = world.with(|state| {
                if state.node(node).host_up { goes_on(state) } else { Err("the host went down".to_owned()) }
            });
            if let Err(why) = may_go_on {
                let _ = answer.send(Err(why));
                return;
            }
        }
        if let Some(world) = weak.upgrade() {
            let _ = answer.send(world.with(finish));
        }
    });
    let result = tokio::select! {
        biased;
        () = cancelled(task) => Err("cancelled".to_owned()),
        answer = answered => answer.unwrap_or_else(|_| Err("the program was killed".to_owned())),
    };
    drop(child);
    result
}

/// Ends when the task is cancelled.
pub(super) async fn cancelled(task: &TaskHandle) {
    let mut told = task.cancelled.clone();
    if told.wait_for(|told| *told).await.is_err() {
        // Whoever could have cancelled is gone.
        std::future::pending::<()>().await;
    }
}

/// Waits in the agent: a frozen agent does not get past it.
pub(super) async fn agent_time(world: &Arc<World>, least_ms: u64, most_ms: u64) {
    let ms = world.with(|state| state.between(least_ms, most_ms));
    sleep(Duration::from_millis(ms)).await;
}

impl State {
    /// The server at that address, if `node` can connect to it now.
    pub(super) fn server_at(&self, node: NodeId, server: &Upstream) -> Result<NodeId, String> {
        let host = &server.address.host;
        let other = self.by_host(host).ok_or_else(|| format!("could not translate host name {host:?}"))?;
        if !self.reachable(node, other) {
            return Err(format!("connection to server at {host} timed out"));
        }
        let stalled = self.node(other).pg.stalled_until_ms > self.now_ms;
        match self.node(other).pg.process.as_ref().map(|process| process.phase) {
            Some(Phase::Running) if !stalled => Ok(other),
            Some(_) => Err(format!("server at {host} does not accept connections")),
            None => Err(format!("connection to server at {host} refused")),
        }
    }

    pub(super) fn begin_initdb(&mut self, node: NodeId) -> Result<(), String> {
        match self.node(node).pg.data.as_ref().map(|data| data.unfinished) {
            None => {}
            // What an interrupted bootstrap or copy left is nobody's data.
            Some(Some(Unfinished::Bootstrap | Unfinished::Clone)) if self.node(node).pg.process.is_none() => {
                self.remove_data(node)?;
            }
            Some(_) => return Err("directory exists but is not empty".to_owned()),
        }
        let system_id = (7_000_000_000_000_000_000 + self.rng.random_range(0..100_000_000_000_000_000u64)).to_string();
        let branch = Branch(self.unique());
        let wal = Wal::new(branch, Lsn(0x0100_0000));
        self.node_mut(node).pg.data = Some(Data::unfinished(system_id, wal, Unfinished::Bootstrap));
        Ok(())
    }

    pub(super) fn finish_initdb(&mut self, node: NodeId) -> Result<(), String> {
        let Some(data) = &mut self.node_mut(node).pg.data else { return Err("the directory is gone".to_owned()) };
        data.has_control = true;
        data.do_checkpoint(true);
        let system_id = data.system_id.clone();
        self.record(Event::Initialized(node, system_id));
        Ok(())
    }

    pub(super) fn begin_clone(&mut self, node: NodeId, source: &Upstream) -> Result<(), String> {
        let other = self.server_at(node, source)?;
        if self.node(node).pg.process.is_some() {
            return Err("a server runs in the directory".to_owned());
        }
        // What is there is removed first, whatever it is.
        self.remove_data(node)?;
        let Some(theirs) = self.node(other).pg.data.clone() else { return Err("the source has no data".to_owned()) };
        self.node_mut(node).pg.data = Some(Data::unfinished(theirs.system_id, theirs.wal, Unfinished::Clone));
        Ok(())
    }

    /// The copy ends with the source's WAL as of now.
    pub(super) fn finish_copy(&mut self, node: NodeId, source: &Upstream) -> Result<(), String> {
        let other = self.server_at(node, source)?;
        let Some(theirs) = self.node(other).pg.data.clone() else { return Err("the source has no data".to_owned()) };
        let own = &mut self.node_mut(node).pg.data;
        if own.is_none() {
            return Err("the directory is gone".to_owned());
        }
        *own = Some(Data {
            unfinished: None,
            has_control: true,
            control: ControlState::InArchiveRecovery,
            recovery: None,
            slots: Default::default(),
            ..theirs
        });
        Ok(())
    }

    /// What pg_rewind checks before it touches anything; `false` when it finds nothing to do.
    pub(super) fn begin_rewind(&mut self, node: NodeId, source: &Upstream) -> Result<bool, String> {
        if self.node(node).pg.process.is_some() {
            return Err("target server must be shut down cleanly".to_owned());
        }
        let Some(own) = &mut self.node_mut(node).pg.data else { return Err("the directory is empty".to_owned()) };
        let clean = matches!(own.control, ControlState::ShutDown | ControlState::ShutDownInRecovery);
        match own.unfinished {
            None if clean => {}
            Some(Unfinished::Rewind) => {}
            None => return Err("target server must be shut down cleanly".to_owned()),
            Some(_) => return Err("there is nothing to rewind".to_owned()),
        }
        // The marker goes up before the source is asked, and stays unless pg_rewind reports success.
        own.unfinished = Some(Unfinished::Rewind);
        let other = self.server_at(node, source)?;
        let Some(theirs) = self.node(other).pg.data.clone() else { return Err("the source has no data".to_owned()) };
        let Some(own) = &mut self.node_mut(node).pg.data else { return Err("the directory is empty".to_owned()) };
        if own.system_id != theirs.system_id {
            return Err("source and target clusters are from different systems".to_owned());
        }
        // It reads the timelines from the control files: before the source's first checkpoint on its new timeline it
        // sees the old one, and does nothing.
        if own.checkpoint_timeline == theirs.checkpoint_timeline {
            own.unfinished = None;
            return Ok(false);
        }
        match own.wal.seen_divergence(&theirs.wal) {
            None => Err("could not find common ancestor of the source and target cluster's timelines".to_owned()),
            Some(at) if at >= own.wal.end() => {
                own.unfinished = None;
                Ok(false)
            }
            Some(_) => Ok(true),
        }
    }

    pub(super) fn crash_recovered(&mut self, node: NodeId) -> Result<(), String> {
        let Some(data) = &mut self.node_mut(node).pg.data else { return Err("the directory is empty".to_owned()) };
        data.do_checkpoint(true);
        data.control = ControlState::ShutDown;
        data.recovery = None;
        Ok(())
    }
}
