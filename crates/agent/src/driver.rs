//! The loop: look, decide, perform one step, decide again; then sleep until something happens.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dcs::{Freshness, Guard, StoreError, Timing};
use ha::step::{Answered, Effect, Outcome, Probe, Severity, Step, Task, Verdict, WriteGuard};
use ha::view::{FenceView, LeaseView, NodeInfo, Request, RequestKind, StoreView, View};
use ha::{Answer, Facts, Memory};
use model::{BootTime, CloneProgress, ClusterView, Role, Settings};
use serde_json::{Map, Value};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::Deps;
use crate::journal::{CycleRecord, Journal};
use crate::keeper::Keeper;
use crate::tasks::Tasks;

/// More steps than any cycle needs: a cycle that gets here has met a defect and is given up.
const STEPS_MAX: usize = 64;
/// Requests that may wait for the loop.
pub(crate) const REQUESTS_MAX: usize = 64;
/// Members' records change often; they are looked at no more often than this.
const MEMBERS_DEBOUNCE: Duration = Duration::from_millis(300);
/// Irreversible steps are not taken on a look that is older: the agent was frozen or starved meanwhile.
const VIEW_AGE_MAX: Duration = Duration::from_secs(10);
/// A lock that was won so long after the look was won on old answers: two rounds of questions to slow peers, and a
/// write.
const RACE_AGE_MAX: Duration = Duration::from_secs(5);

/// What the loop last saw and concluded, for whoever answers questions about this node.
#[derive(Clone, Debug)]
pub struct Published {
    /// The last look.
    pub view: View,
    /// The carry-over after it.
    pub memory: Memory,
    /// The store as last read successfully, and when.
    pub cluster: Option<(Arc<ClusterView>, BootTime)>,
    /// Calendar seconds of that read.
    pub dcs_last_seen: u64,
    /// When the loop last completed a cycle.
    pub cycle_at: BootTime,
}

/// A request on its way to the loop.
pub(crate) struct Incoming {
    pub kind: RequestKind,
    pub reply: oneshot::Sender<Answered>,
}

/// State shared between the loop and its handles.
pub(crate) struct Shared {
    pub wake: Arc<Notify>,
    pub published: watch::Sender<Option<Arc<Published>>>,
    pub shutdown: watch::Sender<bool>,
    pub reload: watch::Sender<Option<NodeInfo>>,
    pub journal: Journal,
}

pub(crate) struct Driver {
    pub deps: Deps,
    pub keeper: Arc<Keeper>,
    pub tasks: Tasks,
    pub shared: Arc<Shared>,
    pub node: NodeInfo,
    pub requests: mpsc::Receiver<Incoming>,
    pub dynamic: Map<String, Value>,
    pub memory: Memory,
    pub waiting: BTreeMap<u64, (RequestKind, oneshot::Sender<Answered>)>,
    /// Answers of this cycle, sent when it has ended.
    pub answered: Vec<(oneshot::Sender<Answered>, Answered)>,
    pub next_request: u64,
    pub settings: Settings,
    pub config_version: Option<u64>,
    pub configured_role: Role,
    pub reload_pending: bool,
    pub last_cluster: Option<(Arc<ClusterView>, BootTime)>,
    pub dcs_last_seen: u64,
    pub last_reason: String,
    /// When a sentence was last logged.
    pub reported_at: BootTime,
    pub reload: watch::Receiver<Option<NodeInfo>>,
    pub shutdown: watch::Receiver<bool>,
    pub changes: watch::Receiver<dcs::Changes>,
    /// The count of members' changes when the last look began.
    pub members_seen: u64,
}

impl Driver {
    /// Runs until a verdict says to exit; returns the exit status.
    pub async fn run(mut self) -> i32 {
        self.forward_wakes();
        loop {
            let verdict = self.cycle().await;
            let wake_at = verdict.wake_at;
            let exit = verdict.exit.clone();
            self.memory = verdict.memory;
            if let Some(exit) = exit {
                return exit.code;
            }
            let latest = self.deps.clock.now().plus(self.settings.loop_wait);
            self.sleep(wake_at.map_or(latest, |at| at.min(latest))).await;
        }
    }

    /// Everything that should end the sleep, apart from members' records, notifies one place; no wake-up is lost.
    fn forward_wakes(&self) {
        let mut changes = self.deps.store.changes();
        let wake = self.shared.wake.clone();
        self.deps.spawner.spawn(Box::pin(async move {
            let mut seen = *changes.borrow_and_update();
            while changes.changed().await.is_ok() {
                let now = *changes.borrow_and_update();
                if (now.leader, now.cluster, now.resets) != (seen.leader, seen.cluster, seen.resets) {
                    wake.notify_one();
                }
                seen = now;
            }
        }));
        let counters = [self.deps.node.events(), self.keeper.changes()].into_iter().chain(self.deps.fence.events());
        for mut counter in counters {
            let wake = self.shared.wake.clone();
            self.deps.spawner.spawn(Box::pin(async move {
                while counter.changed().await.is_ok() {
                    wake.notify_one();
                }
            }));
        }
    }

    /// Sleeps until `deadline` or until something happens that the rules should look at.
    async fn sleep(&mut self, deadline: BootTime) {
        let wake = self.shared.wake.clone();
        loop {
            if self.changes.borrow_and_update().members != self.members_seen {
                let pause = self.deps.clock.now().plus(MEMBERS_DEBOUNCE).min(deadline);
                tokio::select! {
                    biased;
                    () = wake.notified() => return,
                    () = self.deps.clock.sleep_until(pause) => {}
                }
                self.members_seen = self.changes.borrow_and_update().members;
                if self.members_differ().await {
                    return;
                }
            }
            tokio::select! {
                biased;
                () = wake.notified() => return,
                incoming = self.requests.recv() => {
                    match incoming {
                        Some(incoming) => self.accept(incoming),
                        // All handles are gone: nobody will ask any more.
                        None => self.deps.clock.sleep_until(deadline).await,
                    }
                    return;
                }
                _ = self.shutdown.changed() => return,
                _ = self.reload.changed() => {
                    self.take_reload();
                    return;
                }
                Ok(()) = self.changes.changed() => {}
                () = self.deps.clock.sleep_until(deadline) => return,
            }
        }
    }

    fn accept(&mut self, incoming: Incoming) {
        self.next_request += 1;
        self.waiting.insert(self.next_request, (incoming.kind, incoming.reply));
    }

    fn take_reload(&mut self) {
        let info = self.reload.borrow_and_update().clone();
        if let Some(info) = info {
            self.node = info;
        }
        self.reload_pending = true;
    }

    /// Members came, went, or changed in what rules look at; positions alone do not count.
    async fn members_differ(&mut self) -> bool {
        let Ok(now) = self.deps.store.read(Freshness::Snapshot).await else {
            return true;
        };
        let Some((before, _)) = &self.last_cluster else {
            return true;
        };
        let essence = |cluster: &ClusterView| -> Vec<model::Member> {
            let essential = |member: &model::Member| model::Member {
                xlog_location: None,
                receive_lsn: None,
                replay_lsn: None,
                extra: member.extra.clone().into_iter().filter(|(key, _)| key != CloneProgress::KEY).collect(),
                ..member.clone()
            };
            cluster.members.iter().filter(|member| member.name != self.node.name).map(essential).collect()
        };
        essence(before) != essence(&now)
    }

    /// One look and all steps that follow from it.
    async fn cycle(&mut self) -> Verdict {
        while let Ok(incoming) = self.requests.try_recv() {
            self.accept(incoming);
        }
        let (view, taken) = self.look().await;
        let mut facts = Facts::default();
        let mut abandoned = false;
        let verdict = loop {
            self.keeper.progress();
            match ha::decide(&view, &self.memory, &facts) {
                Step::Done(verdict) => break *verdict,
                _ if facts.steps() >= STEPS_MAX => {
                    abandoned = true;
                    break self.abandoned("the cycle took more steps than it may");
                }
                Step::Ask(probe) => {
                    let answer = self.probe(&probe).await;
                    facts.learn(probe, answer);
                }
                Step::Act(effect) => {
                    let stale = irreversible(&effect, self.keeper.lease())
                        && self.deps.clock.now().since(view.now) > VIEW_AGE_MAX;
                    let outcome = if stale {
                        self.shared.wake.notify_one();
                        Outcome::Failed("the look is too old to act on: frozen or starved meanwhile".to_owned())
                    } else {
                        self.perform(&effect, view.now).await
                    };
                    facts.did(effect, outcome);
                }
            }
        };
        // An abandoned cycle remembers nothing: the end of a task is still news to the next.
        if let Some(id) = taken.filter(|_| !abandoned) {
            self.tasks.forget_finished(id);
        }
        self.conclude(view, facts, &verdict);
        // Whoever is answered may look at the status next: it is published by now.
        for (reply, answer) in self.answered.drain(..) {
            // Nobody waits any more when the client went away.
            let _ = reply.send(answer);
        }
        verdict
    }

    fn abandoned(&self, reason: &str) -> Verdict {
        Verdict {
            rule: ha::rules::RuleId(0),
            reason: reason.to_owned(),
            memory: self.memory.clone(),
            wake_at: Some(self.deps.clock.now().plus(Duration::from_millis(100))),
            exit: None,
        }
    }

    /// Logs, journals and publishes the end of a cycle.
    fn conclude(&mut self, view: View, facts: Facts, verdict: &Verdict) {
        let steady = verdict.reason.starts_with("no action. ") || verdict.reason.starts_with("PAUSE: no action");
        let heartbeat_due = steady && view.now.since(self.reported_at) >= self.settings.loop_wait;
        if verdict.exit.as_ref().is_some_and(|exit| exit.code != 0) {
            tracing::error!("{}", verdict.reason);
        } else if verdict.reason != self.last_reason || heartbeat_due {
            tracing::info!("{}", verdict.reason);
            self.reported_at = view.now;
        }
        self.last_reason = verdict.reason.clone();
        let record = CycleRecord {
            view: view.clone(),
            memory: self.memory.clone(),
            facts,
            rule: verdict.rule,
            reason: verdict.reason.clone(),
            repeated: 0,
        };
        if let Some(observer) = &self.deps.observer {
            observer(&record);
        }
        self.shared.journal.append(record);
        self.publish(view, verdict.memory.clone());
    }

    fn publish(&self, view: View, memory: Memory) {
        let published = Published {
            view,
            memory,
            cluster: self.last_cluster.clone(),
            dcs_last_seen: self.dcs_last_seen,
            cycle_at: self.deps.clock.now(),
        };
        self.shared.published.send_replace(Some(Arc::new(published)));
    }

    /// Looks at everything at once; the answer's second part is the finished task it contains.
    async fn look(&mut self) -> (View, Option<u64>) {
        self.keeper.progress();
        self.members_seen = self.changes.borrow_and_update().members;
        // Before PostgreSQL is looked at: what a task that has ended did is then in the look.
        let (task, finished) = (self.tasks.running(), self.tasks.finished());
        let (pg, store) = tokio::join!(biased; self.deps.node.observe(), self.keeper.bounded(self.deps.store.read(Freshness::Snapshot)));
        self.keeper.progress();
        let now = self.deps.clock.now();
        let store = match store {
            Ok(cluster) => {
                self.last_cluster = Some((Arc::new(cluster.clone()), now));
                self.dcs_last_seen = self.deps.clock.wall().as_second().max(0) as u64;
                StoreView::Read(Box::new(cluster))
            }
            Err(StoreError::Unreachable(why) | StoreError::Rejected(why)) => StoreView::Unreachable(why),
        };
        // No answer says nothing about the role; files are left alone while a task may be writing them.
        let role = match &pg.server {
            Some(server) if !server.in_recovery => Role::Primary,
            Some(_) => Role::Replica,
            None if self.configured_role == Role::Uninitialized => Role::Replica,
            None => self.configured_role,
        };
        let reloaded = self.adopt_config(&store, role, task.is_none()).await;
        self.keeper.set_fencing(!self.settings.pause);
        self.keeper.set_failsafe_mode(self.settings.failsafe_mode);
        let taken = finished.as_ref().map(|finished| finished.id);
        // One moment for everything that is measured, after all that may have taken time.
        let now = self.deps.clock.now();
        let view = View {
            now,
            wall: self.deps.clock.wall(),
            node: self.node.clone(),
            settings: self.settings.clone(),
            store,
            lease: self.keeper.lease(),
            promise: self.keeper.promises().current(),
            pg,
            task,
            finished,
            reloaded,
            requests: self.waiting.iter().map(|(id, (kind, _))| Request { id: *id, kind: kind.clone() }).collect(),
            fence: FenceView { failed: self.deps.fence.failed() },
            shutdown: *self.shutdown.borrow(),
        };
        (view, taken)
    }

    /// Takes over a changed dynamic configuration, or a changed role or file where those matter to PostgreSQL. Whether
    /// PostgreSQL was told of something other than its role.
    async fn adopt_config(&mut self, store: &StoreView, role: Role, idle: bool) -> bool {
        let fresh = match store {
            StoreView::Read(cluster) => cluster.config.as_ref().filter(|config| config.version != 0),
            StoreView::Unreachable(_) => None,
        };
        let changed = fresh.is_some_and(|config| self.config_version != Some(config.version));
        if let Some(config) = fresh.filter(|_| changed) {
            self.config_version = Some(config.version);
            self.dynamic = config.value.clone();
            self.node.initial_config = Value::Object(self.dynamic.clone()).to_string();
        }
        self.reload_pending |= changed;
        if self.reload_pending {
            self.resolve_settings(changed);
        }
        if (self.reload_pending || role != self.configured_role) && idle {
            let asked = std::mem::take(&mut self.reload_pending);
            self.configured_role = role;
            let applied = self.at_once(self.deps.node.apply_config(&self.dynamic, role)).await;
            // What took too long is done again.
            self.reload_pending = applied.is_err();
            match applied.and_then(|applied| applied) {
                Ok(true) => {
                    tracing::info!("PostgreSQL was told to read its configuration again");
                    return asked;
                }
                Ok(false) => {}
                Err(why) => tracing::error!("failed to apply the configuration to PostgreSQL: {why}"),
            }
        }
        false
    }

    /// Reads the settings anew; `comment`: says what is wrong with them.
    fn resolve_settings(&mut self, comment: bool) {
        let (settings, notes) = Settings::resolve(&self.deps.node.in_force(&self.dynamic));
        for note in notes.iter().filter(|_| comment) {
            tracing::warn!("dynamic configuration: {note}");
        }
        if settings != self.settings {
            let timing =
                Timing { ttl: settings.ttl, loop_wait: settings.loop_wait, retry_timeout: settings.retry_timeout };
            self.keeper.set_timing(timing);
            self.settings = settings;
        }
    }

    async fn probe(&self, probe: &Probe) -> Answer {
        match probe {
            Probe::Peers(peers) => Answer::Peers(self.deps.peers.status(peers).await),
            Probe::Server(upstream) => Answer::Server(self.deps.node.server_position(upstream).await),
            Probe::Failsafe { members, leader } => {
                let asked_at = self.deps.clock.now();
                Answer::Failsafe { asked_at, replies: self.deps.peers.failsafe(members, leader).await }
            }
            Probe::OwnHistory => Answer::OwnHistory(self.at_once(self.deps.node.own_history()).await.ok().flatten()),
            Probe::SlotHorizons { server, slots } => {
                let asked = self.at_once(self.deps.node.slot_horizons(server, slots)).await;
                Answer::SlotHorizons(asked.and_then(|answer| answer))
            }
        }
    }

    /// Awaits work on PostgreSQL that is done within the cycle, for as long as operations are retried: a server or a
    /// disk that hangs must not hold up the decisions.
    async fn at_once<T>(&self, work: impl Future<Output = T>) -> Result<T, String> {
        let bound = self.settings.retry_timeout;
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = self.deps.clock.sleep_until(self.deps.clock.now().plus(bound)) => {
                Err(format!("it has not ended within {} seconds", bound.as_secs()))
            }
        }
    }

    /// `looked_at` is the moment of the look that the effect rests on.
    async fn perform(&mut self, effect: &Effect, looked_at: BootTime) -> Outcome {
        let store = &self.deps.store;
        match effect {
            Effect::AcquireLeader => match self.keeper.acquire().await {
                Outcome::Leased(deadline) if self.deps.clock.now().since(looked_at) > RACE_AGE_MAX => {
                    Outcome::LeasedLate(deadline)
                }
                outcome => outcome,
            },
            Effect::RenewLeader => self.keeper.renew().await,
            Effect::ReleaseLeader => self.keeper.release().await,
            Effect::LeadByPromise(asked_at) => self.keeper.lead_by_promise(*asked_at).await,
            Effect::ForgetPromise(until) => {
                self.keeper.promises().forget(*until).await;
                Outcome::Done
            }
            Effect::TouchMember(member) => {
                outcome(self.keeper.bounded(store.touch_member(member)).await, |()| Outcome::Done)
            }
            Effect::Put { key, value, guard } => {
                outcome(self.keeper.bounded(store.put(key, value, guard_of(*guard))).await, Outcome::Written)
            }
            Effect::Delete { key, guard } => {
                outcome(self.keeper.bounded(store.delete(key, guard_of(*guard))).await, |()| Outcome::Done)
            }
            Effect::StartTask(task) => match self.tasks.start(task.clone(), self.deps.clock.now()) {
                Ok(()) => Outcome::Done,
                Err(why) => Outcome::Failed(why),
            },
            Effect::CancelTask => {
                self.tasks.cancel();
                Outcome::Done
            }
            Effect::Callback(action, role) => {
                self.deps.callbacks.run(*action, *role, &self.node.scope);
                Outcome::Done
            }
            Effect::SyncSlots(changes) => {
                match self.at_once(self.deps.node.sync_slots(changes)).await.and_then(|done| done) {
                    Ok(()) => Outcome::Done,
                    Err(why) => {
                        tracing::warn!("failed to adjust replication slots: {why}");
                        Outcome::Failed(why)
                    }
                }
            }
            Effect::ForceFeedback(on) => {
                match self.at_once(self.deps.node.force_feedback(*on)).await.and_then(|done| done) {
                    Ok(()) => Outcome::Done,
                    Err(why) => {
                        tracing::warn!("failed to set hot_standby_feedback: {why}");
                        Outcome::Failed(why)
                    }
                }
            }
            Effect::Log(severity, text) => {
                match severity {
                    Severity::Info => tracing::info!("{text}"),
                    Severity::Warning => tracing::warn!("{text}"),
                }
                Outcome::Done
            }
            Effect::SetStandbyNames(names) => match self.deps.node.set_standby_names(names.as_deref()).await {
                Ok(()) => Outcome::Done,
                Err(why) => {
                    tracing::warn!("failed to set synchronous_standby_names: {why}");
                    Outcome::Failed(why)
                }
            },
            Effect::Disarm => {
                self.keeper.let_go_of_fence().await;
                Outcome::Done
            }
            Effect::Answer(id, answer) => {
                if let Some((_, reply)) = self.waiting.remove(id) {
                    self.answered.push((reply, answer.clone()));
                }
                Outcome::Done
            }
        }
    }
}

/// Steps that must rest on a fresh look: those that take the lock, make the node writable, say who may be, or destroy. Stopping is never
/// put off.
fn irreversible(effect: &Effect, lease: LeaseView) -> bool {
    match effect {
        Effect::AcquireLeader | Effect::Delete { .. } | Effect::Put { key: model::Key::Sync, .. } => true,
        // Without a lease a renewal may create the key anew.
        Effect::RenewLeader => !matches!(lease, LeaseView::Held(_)),
        Effect::StartTask(task) => !matches!(task, Task::Stop { .. } | Task::Checkpoint | Task::Repoint { .. }),
        _ => false,
    }
}

fn outcome<T>(result: Result<T, StoreError>, done: impl FnOnce(T) -> Outcome) -> Outcome {
    match result {
        Ok(value) => done(value),
        Err(StoreError::Rejected(why)) => Outcome::Rejected(why),
        Err(StoreError::Unreachable(why)) => Outcome::Unreachable(why),
    }
}

fn guard_of(guard: WriteGuard) -> Guard {
    match guard {
        WriteGuard::None => Guard::None,
        WriteGuard::Absent => Guard::Absent,
        WriteGuard::Version(version) => Guard::Version(version),
    }
}
