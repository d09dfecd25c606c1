//! The agent's hands on the simulated PostgreSQL: [`agent::ports::Node`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agent::ports::{Node, StartAs, TaskHandle};
use async_trait::async_trait;
use ha::step::{CloneSource, ServerPosition, StopMode};
use ha::view::Progress;
use model::lsn::TimelineSwitch;
use model::pg::{ControlState, PgSnapshot, ServerStatus, Upstream, WalSender};
use model::slots::{Slot, SlotChange, Xid};
use model::{BootTime, Role};
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::process::disk_time;
use super::work::{agent_time, cancelled, run_program};
use super::{Data, Phase, Process, Recovery, VERSION_NUM};
use crate::clock::calendar;
use crate::history::{Event, Op};
use crate::world::{NodeId, State, World};

/// A query that gets no answer is given up after this long.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection attempt that gets no answer is given up after this long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// [`Node`] on behalf of one agent process.
pub struct SimPg {
    /// Where it happens.
    pub world: Arc<World>,
    /// Whose PostgreSQL.
    pub node: NodeId,
    /// This object is in the middle of a bootstrap.
    bootstrapping: AtomicBool,
}

impl SimPg {
    /// The hands of an agent of `node`.
    pub fn new(world: &Arc<World>, node: NodeId) -> SimPg {
        SimPg { world: world.clone(), node, bootstrapping: AtomicBool::new(false) }
    }

    fn begin(&self, op: Op) {
        self.world.with(|state| state.record(Event::Op(self.node, op)));
    }

    fn end(&self, op: Op, result: Result<(), String>) -> Result<(), String> {
        self.world.with(|state| state.record(Event::OpEnded(self.node, op, result.clone())));
        result
    }

    /// Waits until `done` gives an answer, looking whenever the process changes.
    async fn until<R>(&self, task: &TaskHandle, done: impl Fn(&State) -> Option<R>) -> Result<R, String> {
        let mut events = self.events();
        loop {
            events.borrow_and_update();
            if let Some(answer) = self.world.with(|state| done(state)) {
                return Ok(answer);
            }
            tokio::select! {
                biased;
                () = cancelled(task) => return Err("cancelled".to_owned()),
                changed = events.changed() => changed.map_err(|_| "the world ended".to_owned())?,
            }
        }
    }

    fn process(state: &State, node: NodeId) -> Option<&Process> {
        state.node(node).pg.process.as_ref()
    }

    async fn do_start(&self, mode: StartAs, timeout: Duration, task: &TaskHandle) -> Result<(), String> {
        let node = self.node;
        // Writing configuration files; a stalled disk holds this up.
        let config_ms = self.world.with(|state| state.between(2, 40));
        disk_time(&Arc::downgrade(&self.world), node, config_ms).await;
        let bootstrapping = self.bootstrapping.load(Ordering::Relaxed);
        let primary = mode == StartAs::Primary;
        if primary && !(task.may_be_writable)() {
            return Err("the permission to start as a primary has ended".to_owned());
        }
        // Between the question and the start of the process an agent can still be stopped.
        agent_time(&self.world, 0, 5).await;
        let id = self.world.with(|state| {
            let Some(data) = &mut state.node_mut(node).pg.data else {
                return Err("the data directory is empty".to_owned());
            };
            match mode {
                StartAs::Primary => data.recovery = None,
                StartAs::Standby(upstream) => data.recovery = Some(Recovery { upstream }),
            }
            state.start_process(node, bootstrapping)
        })?;
        (task.progress)(Progress::Starting);
        let started = self.until(task, |state| match Self::process(state, node) {
            Some(process) if process.id == id && process.phase == Phase::Running => Some(Ok(())),
            Some(process) if process.id == id && process.phase == Phase::Starting => None,
            _ => Some(Err("the server went down while it started".to_owned())),
        });
        tokio::select! {
            biased;
            answer = started => {
                if answer.is_err() && primary {
                    // Cancelled: it may be writable only with permission.
                    self.world.with(|state| state.kill_process(node, "cancelled start"));
                }
                answer?
            }
            () = sleep(timeout) => Err(format!("the server did not start within {} s", timeout.as_secs())),
        }
    }

    async fn do_stop(&self, mode: StopMode, task: &TaskHandle) -> Result<(), String> {
        let node = self.node;
        agent_time(&self.world, 1, 20).await;
        match mode {
            StopMode::Fast => self.world.with(|state| state.begin_fast_stop(node)),
            StopMode::Immediate => {
                agent_time(&self.world, 5, 100).await;
                self.world.with(|state| state.kill_process(node, "immediate stop"));
            }
        }
        // Told once; `true` in the answer means gone.
        let shut_down = |state: &State| match (Self::process(state, node), &state.node(node).pg.data) {
            (None, _) => Some(None),
            (Some(_), Some(data)) if is_shut_down(data.control) => Some(Some(data.checkpoint)),
            _ => None,
        };
        if let Some(at) = self.until(task, shut_down).await? {
            (task.progress)(Progress::ShutDown(at));
        }
        self.until(task, |state| Self::process(state, node).is_none().then_some(())).await
    }

    async fn do_promote(
        &self,
        may_proceed: &(dyn Fn() -> bool + Send + Sync),
        task: &TaskHandle,
    ) -> Result<(), String> {
        let node = self.node;
        agent_time(&self.world, 1, 200).await;
        if *task.cancelled.borrow() {
            return Err("cancelled".to_owned());
        }
        if !may_proceed() {
            return Err("the permission to promote has ended".to_owned());
        }
        // Between the question and the signal an agent can still be stopped.
        agent_time(&self.world, 0, 10).await;
        self.world.with(|state| state.begin_promotion(node))?;
        let promoted = self.until(task, |state| match Self::process(state, node) {
            None => Some(Err("the server went down while it was promoted".to_owned())),
            Some(process) => (!process.in_recovery).then_some(Ok(())),
        });
        let promoted = promoted.await;
        if promoted.is_err() {
            // Cancelled after the point of no return: it could become writable any moment.
            self.world.with(|state| state.kill_process(node, "cancelled promotion"));
        }
        promoted?
    }

    async fn do_clone(&self, source: Option<&CloneSource>, task: &TaskHandle) -> Result<(), String> {
        let node = self.node;
        let Some(source) = source.map(|source| source.upstream.clone()) else {
            return Err("no replica creation method works without a source".to_owned());
        };
        agent_time(&self.world, 5, 50).await;
        self.world.with(|state| state.begin_clone(node, &source))?;
        let takes_ms = self.world.with(|state| state.between(1_000, 15_000));
        let copied = source.clone();
        let connected = move |state: &State| state.server_at(node, &source).map(drop);
        let finish = move |state: &mut State| state.finish_copy(node, &copied);
        let result = run_program(&self.world, node, takes_ms, task, connected, finish).await;
        if result.is_err() {
            self.world.with(|state| state.remove_data(node)).ok();
        }
        result
    }

    async fn do_rewind(&self, source: &Upstream, task: &TaskHandle) -> Result<(), String> {
        let (node, source) = (self.node, source.clone());
        agent_time(&self.world, 5, 50).await;
        if !self.world.with(|state| state.begin_rewind(node, &source))? {
            return Ok(());
        }
        let takes_ms = self.world.with(|state| state.between(500, 8_000));
        let copied = source.clone();
        let connected = move |state: &State| state.server_at(node, &source).map(drop);
        run_program(&self.world, node, takes_ms, task, connected, move |state| state.finish_copy(node, &copied)).await
    }
}

fn is_shut_down(control: ControlState) -> bool {
    matches!(control, ControlState::ShutDown | ControlState::ShutDownInRecovery)
}

#[async_trait]
impl Node for SimPg {
    async fn observe(&self) -> PgSnapshot {
        agent_time(&self.world, 1, 15).await;
        let answers = self.world.with(|state| {
            state.node(self.node).pg.running().is_none() || state.node(self.node).pg.stalled_until_ms <= state.now_ms
        });
        if !answers {
            sleep(QUERY_TIMEOUT).await;
        }
        self.world.with(|state| state.snapshot(self.node, answers))
    }

    fn events(&self) -> watch::Receiver<u64> {
        self.world.with(|state| state.node_mut(self.node).pg.events.subscribe())
    }

    async fn apply_config(&self, _dynamic: &Map<String, Value>, _role: Role) -> Result<bool, String> {
        agent_time(&self.world, 0, 5).await;
        Ok(false)
    }

    async fn initdb(&self, task: &TaskHandle) -> Result<(), String> {
        let node = self.node;
        self.begin(Op::Initdb);
        self.bootstrapping.store(true, Ordering::Relaxed);
        let result = match self.world.with(|state| state.begin_initdb(node)) {
            Ok(()) => {
                let finish = move |state: &mut State| state.finish_initdb(node);
                run_program(&self.world, node, 2_000, task, |_| Ok(()), finish).await
            }
            Err(why) => Err(why),
        };
        self.end(Op::Initdb, result)
    }

    async fn post_bootstrap(&self, task: &TaskHandle) -> Result<(), String> {
        let node = self.node;
        let primary = move |state: &State| {
            let writable = state.node(node).pg.accepts_writes();
            writable.then_some(()).ok_or_else(|| "the server does not accept writes".to_owned())
        };
        let finish = move |state: &mut State| {
            state.node_mut(node).pg.data.iter_mut().for_each(|data| data.unfinished = None);
            Ok(())
        };
        let result = run_program(&self.world, node, 500, task, primary, finish).await;
        self.bootstrapping.store(false, Ordering::Relaxed);
        result
    }

    async fn start(&self, mode: StartAs, timeout: Duration, task: &TaskHandle) -> Result<(), String> {
        let op = match mode {
            StartAs::Primary => Op::StartPrimary,
            StartAs::Standby(_) => Op::StartStandby,
        };
        self.begin(op);
        let result = self.do_start(mode, timeout, task).await;
        self.end(op, result)
    }

    async fn stop(&self, mode: StopMode, task: &TaskHandle) -> Result<(), String> {
        let op = if mode == StopMode::Fast { Op::StopFast } else { Op::StopImmediate };
        self.begin(op);
        let result = self.do_stop(mode, task).await;
        self.end(op, result)
    }

    async fn promote(&self, may_proceed: &(dyn Fn() -> bool + Send + Sync), task: &TaskHandle) -> Result<(), String> {
        self.begin(Op::Promote);
        let result = self.do_promote(may_proceed, task).await;
        self.end(Op::Promote, result)
    }

    async fn repoint(&self, upstream: Option<&Upstream>, _task: &TaskHandle) -> Result<(), String> {
        self.begin(Op::Repoint);
        agent_time(&self.world, 20, 200).await;
        let recovery = Recovery { upstream: upstream.cloned() };
        let result = self.world.with(|state| state.repoint(self.node, recovery));
        self.end(Op::Repoint, result)
    }

    async fn clone_from(
        &self,
        source: Option<&CloneSource>,
        _basebackup_only: bool,
        task: &TaskHandle,
    ) -> Result<(), String> {
        self.begin(Op::Clone);
        let result = self.do_clone(source, task).await;
        self.end(Op::Clone, result)
    }

    async fn rewind(&self, source: &Upstream, task: &TaskHandle) -> Result<(), String> {
        self.begin(Op::Rewind);
        let result = self.do_rewind(source, task).await;
        self.end(Op::Rewind, result)
    }

    async fn crash_recovery(&self, task: &TaskHandle) -> Result<(), String> {
        let node = self.node;
        self.begin(Op::CrashRecovery);
        let fit = self.world.with(|state| match (&state.node(node).pg.process, &state.node(node).pg.data) {
            (Some(_), _) => Err("a server runs in the directory".to_owned()),
            (None, Some(data)) if data.unfinished.is_none() => Ok(state.between(500, 8_000)),
            _ => Err("the data directory is not whole".to_owned()),
        });
        let result = match fit {
            Ok(takes_ms) => {
                let finish = move |state: &mut State| state.crash_recovered(node);
                run_program(&self.world, node, takes_ms, task, |_| Ok(()), finish).await
            }
            Err(why) => Err(why),
        };
        self.end(Op::CrashRecovery, result)
    }

    async fn checkpoint(&self) -> Result<(), String> {
        let node = self.node;
        agent_time(&self.world, 20, 2_000).await;
        disk_time(&Arc::downgrade(&self.world), node, 0).await;
        self.world.with(|state| {
            let pg = &mut state.node_mut(node).pg;
            match (&pg.process, &mut pg.data) {
                (Some(process), Some(data)) if process.phase == Phase::Running => {
                    data.do_checkpoint(!process.in_recovery);
                    Ok(())
                }
                _ => Err("no server runs".to_owned()),
            }
        })
    }

    async fn remove_data_dir(&self) -> Result<(), String> {
        self.begin(Op::RemoveDataDir);
        agent_time(&self.world, 50, 500).await;
        let result = self.world.with(|state| state.remove_data(self.node));
        self.end(Op::RemoveDataDir, result)
    }

    async fn move_data_dir_aside(&self) -> Result<(), String> {
        self.begin(Op::MoveAside);
        agent_time(&self.world, 5, 50).await;
        let result = self.world.with(|state| state.remove_data(self.node));
        self.end(Op::MoveAside, result)
    }

    async fn sync_slots(&self, changes: &[SlotChange]) -> Result<(), String> {
        agent_time(&self.world, 1, 20).await;
        self.world.with(|state| {
            let pg = &mut state.node_mut(self.node).pg;
            let (true, Some(data)) = (pg.running().is_some(), &mut pg.data) else {
                return Err("no server runs".to_owned());
            };
            changes.iter().for_each(|change| data.change_slot(change));
            Ok(())
        })
    }

    async fn force_feedback(&self, _on: bool) -> Result<(), String> {
        Ok(())
    }

    async fn copy_slots(&self, _source: &Upstream, _slots: &[String], _task: &TaskHandle) -> Result<(), String> {
        Err("logical slots are not simulated".to_owned())
    }

    async fn slot_horizons(&self, _server: &Upstream, _slots: &[String]) -> Result<BTreeMap<String, Xid>, String> {
        Err("logical slots are not simulated".to_owned())
    }

    async fn set_standby_names(&self, names: Option<&str>) -> Result<(), String> {
        agent_time(&self.world, 1, 40).await;
        let result = self.world.with(|state| {
            let text = names.unwrap_or("");
            state.record(Event::StandbyNames(self.node, text.to_owned()));
            state.set_standby_names(self.node, text)
        });
        agent_time(&self.world, 1, 40).await;
        result
    }

    async fn server_position(&self, server: &Upstream) -> Result<ServerPosition, String> {
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        agent_time(&self.world, 2, 60).await;
        let answer = self.world.with(|state| {
            let other = state.server_at(self.node, server)?;
            let pg = &state.node(other).pg;
            let (Some(process), Some(data)) = (&pg.process, &pg.data) else { return Err("no answer".to_owned()) };
            Ok(ServerPosition {
                in_recovery: process.in_recovery,
                system_id: data.system_id.clone(),
                timeline: data.wal.timeline(),
                lsn: data.wal.end(),
                history: data.wal.history(),
            })
        });
        if answer.as_ref().is_err_and(|why| !why.contains("refused")) {
            sleep_until(deadline).await;
        }
        answer
    }

    async fn own_history(&self) -> Option<Vec<TimelineSwitch>> {
        agent_time(&self.world, 0, 5).await;
        let history = self.world.with(|state| state.node(self.node).pg.data.as_ref().map(|data| data.wal.history()))?;
        (!history.is_empty()).then_some(history)
    }
}

impl State {
    pub(super) fn remove_data(&mut self, node: NodeId) -> Result<(), String> {
        if self.node(node).pg.process.is_some() {
            return Err("a server runs in the data directory".to_owned());
        }
        if let Some(data) = self.node_mut(node).pg.data.take() {
            self.record(Event::DataRemoved { node, complete: data.unfinished.is_none() });
        }
        Ok(())
    }

    /// What [`Node::observe`] sees; `answers`: queries get an answer.
    fn snapshot(&self, node: NodeId, answers: bool) -> PgSnapshot {
        let sim = self.node(node);
        let server = match (sim.pg.running(), &sim.pg.data) {
            (Some(process), Some(data)) if answers => Some(self.server_status(node, process, data)),
            _ => None,
        };
        PgSnapshot {
            taken_at: BootTime(self.now_ms + sim.boot_offset_ms),
            data_dir: sim.pg.data_dir(),
            major_version: sim.pg.data.as_ref().map(|_| VERSION_NUM / 10_000 * 10_000),
            postmaster: sim.pg.postmaster(),
            control: sim.pg.data.as_ref().map(Data::control_data),
            server,
            recovery_configured: sim.pg.data.as_ref().is_some_and(|data| data.recovery.is_some()),
            recovery_stale: false,
            unfinished: sim.pg.data.as_ref().and_then(|data| data.unfinished),
            // A simulated copy says "in archive recovery" from the first.
            unstarted_copy: false,
            pending_restart: Default::default(),
        }
    }

    fn server_status(&self, node: NodeId, process: &Process, data: &Data) -> ServerStatus {
        let (standby, end) = (process.in_recovery, data.wal.end());
        let senders = self.receivers_of(node).into_iter().map(|(other, lsn)| WalSender {
            usename: "replicator".to_owned(),
            application_name: other.to_string(),
            client_addr: Some(other.host()),
            state: "streaming".to_owned(),
            sync_state: "async".to_owned(),
            sync_priority: 0,
            write_lsn: Some(lsn),
            flush_lsn: Some(lsn),
            replay_lsn: Some(lsn),
        });
        let mut senders: Vec<WalSender> = senders.collect();
        if let Some(names) = process.sync.in_force.as_ref().filter(|_| !standby) {
            super::sync::label(names, &mut senders);
        }
        let active = |name: &str| senders.iter().any(|sender| sender.application_name == name);
        let slots = data.slots.iter().map(|(name, position)| Slot {
            name: name.clone(),
            active: active(name),
            restart_lsn: position.or(Some(end)),
            ..Slot::default()
        });
        ServerStatus {
            version_num: VERSION_NUM,
            start_time: calendar(process.started_ms, 0),
            in_recovery: standby,
            timeline: Some(data.wal.timeline()),
            flush_lsn: (!standby).then_some(end),
            receive_lsn: (standby && process.ever_received).then_some(end),
            replay_lsn: standby.then_some(end),
            replay_timestamp: None,
            replay_paused: false,
            receiver_status: process.receiver.as_ref().map(|_| "streaming".to_owned()),
            receiver_latest_end: process.receiver.as_ref().map(|_| end),
            upstream: data.recovery.as_ref().filter(|_| standby).and_then(|recovery| recovery.upstream.clone()),
            has_restore_command: false,
            slots: slots.collect(),
            senders,
            synchronous_standby_names: data.standby_names.clone(),
            synchronous_commit: "on".to_owned(),
        }
    }
}
