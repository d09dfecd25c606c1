//! A scene: one node's view of a three-node cluster `a`, `b`, `c`, to be changed by each test, and a stand-in for the
//! driver that performs every step with the outcome the scene prescribes.

use std::collections::BTreeMap;
use std::time::Duration;

use ha::step::{Effect, Outcome, PeerAddress, Probe, ServerPosition, Step, Task, Verdict};
use ha::view::{FenceView, FinishedTask, LeaseView, NodeInfo, Progress, RunningTask, StoreView, View};
use ha::{Answer, Facts, Memory};
use model::lsn::TimelineSwitch;
use model::peer::{PeerAnswer, PeerStatus};
use model::pg::{ControlData, ControlState, DataDir, PgSnapshot, Postmaster, ServerStatus, Upstream, WalSender};
use model::slots::Xid;
use model::{
    BootTime, ClusterView, FailsafeReply, HostPort, Leader, Lsn, Member, Role, Settings, Tags, Timeline, Versioned,
};
use serde_json::json;

pub const SYSTEM_ID: &str = "7000000000000000001";
pub const NOW: BootTime = BootTime(1_000_000);

pub struct Scene {
    pub view: View,
    pub memory: Memory,
    pub peers: BTreeMap<String, PeerAnswer>,
    pub acquire: Outcome,
    pub renew: Outcome,
    pub put: Outcome,
    /// How members answer `POST /failsafe`; those not named accept.
    pub failsafe: BTreeMap<String, Result<Option<Lsn>, String>>,
    pub by_promise: Outcome,
    pub server: Result<ServerPosition, String>,
    pub own_history: Option<Vec<TimelineSwitch>>,
    pub horizons: Result<BTreeMap<String, Xid>, String>,
}

pub struct Played {
    pub effects: Vec<Effect>,
    pub verdict: Verdict,
}

pub fn cluster_of(scene: &mut Scene) -> &mut ClusterView {
    match &mut scene.view.store {
        StoreView::Read(cluster) => cluster,
        StoreView::Unreachable(_) => panic!("the store of this scene is not readable"),
    }
}

pub fn member(name: &str, role: Role, lsn: u64) -> Member {
    let port = 5432 + u16::from(name.as_bytes()[0] - b'a');
    Member {
        name: name.to_owned(),
        conn_url: Some(format!("postgres://127.0.0.1:{port}/postgres")),
        api_url: Some(format!("http://127.0.0.1:{}/patroni", port + 2576)),
        state: "running".to_owned(),
        role: role.as_str().to_owned(),
        version: Some("4.1.5".to_owned()),
        xlog_location: Some(Lsn(lsn)),
        timeline: Some(Timeline(1)),
        ..Member::default()
    }
}

pub fn upstream(name: &str, me: &str) -> Upstream {
    let port = 5432 + u16::from(name.as_bytes()[0] - b'a');
    Upstream { address: HostPort { host: "127.0.0.1".to_owned(), port }, slot: Some(me.to_owned()) }
}

pub fn standby_answer(lsn: u64) -> PeerAnswer {
    PeerAnswer {
        in_recovery: true,
        wal: Lsn(lsn),
        timeline: Some(Timeline(1)),
        tags: Tags::default(),
        watchdog_failed: false,
        state_running: true,
    }
}

pub fn control(state: ControlState) -> ControlData {
    ControlData {
        system_id: SYSTEM_ID.to_owned(),
        state,
        checkpoint: Lsn(990),
        redo: Lsn(990),
        timeline: Timeline(1),
        min_recovery: Lsn(0),
        min_recovery_timeline: Timeline(0),
        rewindable: true,
    }
}

fn server(in_recovery: bool, lsn: u64) -> ServerStatus {
    ServerStatus {
        version_num: 150_018,
        start_time: jiff::Timestamp::UNIX_EPOCH,
        in_recovery,
        timeline: Some(Timeline(1)),
        flush_lsn: (!in_recovery).then_some(Lsn(lsn)),
        receive_lsn: in_recovery.then_some(Lsn(lsn)),
        replay_lsn: in_recovery.then_some(Lsn(lsn)),
        replay_timestamp: None,
        replay_paused: false,
        receiver_status: in_recovery.then(|| "streaming".to_owned()),
        receiver_latest_end: None,
        upstream: None,
        has_restore_command: false,
        slots: Vec::new(),
        senders: Vec::new(),
        synchronous_standby_names: String::new(),
        synchronous_commit: "on".to_owned(),
    }
}

fn sender(name: &str) -> WalSender {
    WalSender {
        usename: "replicator".to_owned(),
        application_name: name.to_owned(),
        client_addr: None,
        state: "streaming".to_owned(),
        sync_state: "async".to_owned(),
        sync_priority: 0,
        write_lsn: None,
        flush_lsn: None,
        replay_lsn: None,
    }
}

impl Scene {
    /// A healthy cluster: `leader` leads, everybody is at position 1000; seen by `me`.
    pub fn of(me: &str, leader: &str) -> Scene {
        let role = |name: &str| if name == leader { Role::Primary } else { Role::Replica };
        let cluster = ClusterView {
            initialize: Some(Versioned { value: SYSTEM_ID.to_owned(), version: 1 }),
            config: Some(Versioned { value: Default::default(), version: 1 }),
            leader: Some(Leader { name: leader.to_owned(), version: 5 }),
            members: ["a", "b", "c"].map(|name| member(name, role(name), 1000)).to_vec(),
            history: Some(Versioned { value: Vec::new(), version: 1 }),
            status: model::Status { optime: Some(Lsn(1000)), ..Default::default() },
            ..ClusterView::default()
        };
        let leads = me == leader;
        let mut status = server(!leads, 1000);
        if leads {
            status.senders = ["b", "c"].map(sender).to_vec();
        }
        if !leads {
            status.upstream = Some(upstream(leader, me));
        }
        let view = View {
            now: NOW,
            wall: "2030-01-01T00:00:00Z".parse().expect("a time"),
            node: NodeInfo {
                name: me.to_owned(),
                scope: "demo".to_owned(),
                conn_url: member(me, Role::Replica, 0).conn_url.expect("an address"),
                api_url: member(me, Role::Replica, 0).api_url.expect("an address"),
                proxy_url: None,
                version: "4.1.5".to_owned(),
                tags: Tags::default(),
                may_bootstrap: true,
                initial_config: "{}".to_owned(),
                clones_without_leader: false,
                clones_over_data: false,
            },
            settings: Settings { use_pg_rewind: true, use_slots: true, ..Settings::default() },
            store: StoreView::Read(Box::new(cluster.clone())),
            lease: if leads { LeaseView::Held(NOW.plus(Duration::from_secs(20))) } else { LeaseView::None },
            promise: None,
            pg: PgSnapshot {
                taken_at: NOW,
                data_dir: DataDir::Present,
                major_version: Some(150_000),
                postmaster: Postmaster::Running,
                control: Some(control(if leads {
                    ControlState::InProduction
                } else {
                    ControlState::InArchiveRecovery
                })),
                server: Some(status),
                recovery_configured: !leads,
                recovery_stale: false,
                unfinished: None,
                unstarted_copy: false,
                pending_restart: BTreeMap::new(),
            },
            task: None,
            finished: None,
            reloaded: false,
            requests: Vec::new(),
            fence: FenceView::default(),
            shutdown: false,
        };
        let memory = Memory {
            healthy_cluster: Some(Box::new(cluster)),
            role: role(me),
            state: model::MemberState::Running,
            expected_up: true,
            ..Memory::default()
        };
        let peers = ["a", "b", "c"].into_iter().filter(|name| *name != me && *name != leader);
        let deadline = NOW.plus(Duration::from_secs(27));
        Scene {
            view,
            memory,
            peers: peers.map(|name| (name.to_owned(), standby_answer(1000))).collect(),
            acquire: Outcome::Leased(deadline),
            renew: Outcome::Leased(deadline),
            put: Outcome::Written(9),
            failsafe: BTreeMap::new(),
            by_promise: Outcome::Leased(deadline),
            server: Err("not asked in this scene".to_owned()),
            own_history: None,
            horizons: Err("not asked in this scene".to_owned()),
        }
    }

    /// The same with the leader key gone and the old leader silent.
    pub fn without_leader(me: &str, old_leader: &str) -> Scene {
        let mut scene = Scene::of(me, old_leader);
        cluster_of(&mut scene).leader = None;
        scene.view.lease = LeaseView::None;
        scene
    }

    /// PostgreSQL of this node is gone; the control file says `state`.
    pub fn pg_down(mut self, state: ControlState) -> Scene {
        self.view.pg.postmaster = Postmaster::Absent;
        self.view.pg.server = None;
        self.view.pg.control = Some(control(state));
        self
    }

    pub fn running(mut self, task: Task, progress: Option<Progress>) -> Scene {
        self.view.task = Some(RunningTask { id: 1, task, since: NOW, progress });
        self
    }

    pub fn finished(mut self, task: Task, outcome: Result<(), String>) -> Scene {
        self.view.finished = Some(FinishedTask { id: 1, task, progress: None, outcome });
        self
    }

    /// The same, with the last report of the task.
    pub fn finished_at(mut self, task: Task, progress: Progress, outcome: Result<(), String>) -> Scene {
        self.view.finished = Some(FinishedTask { id: 1, task, progress: Some(progress), outcome });
        self
    }

    fn outcome(&self, effect: &Effect) -> Outcome {
        match effect {
            Effect::AcquireLeader => self.acquire.clone(),
            Effect::RenewLeader => self.renew.clone(),
            Effect::LeadByPromise(_) => self.by_promise.clone(),
            Effect::Put { .. } => self.put.clone(),
            _ => Outcome::Done,
        }
    }

    fn answer(&self, probe: &Probe) -> Answer {
        match probe {
            Probe::Peers(peers) => Answer::Peers(
                peers
                    .iter()
                    .map(|peer| {
                        let answer = self.peers.get(&peer.name).cloned();
                        let at_rest = answer.as_ref().is_some_and(|answer| answer.in_recovery);
                        PeerStatus { name: peer.name.clone(), answer, at_rest }
                    })
                    .collect(),
            ),
            Probe::Server(_) => Answer::Server(self.server.clone()),
            Probe::SlotHorizons { .. } => Answer::SlotHorizons(self.horizons.clone()),
            Probe::Failsafe { members, .. } => {
                let reply = |member: &PeerAddress| FailsafeReply {
                    name: member.name.clone(),
                    accepted: self.failsafe.get(&member.name).cloned().unwrap_or(Ok(None)),
                };
                Answer::Failsafe { asked_at: NOW, replies: members.iter().map(reply).collect() }
            }
            Probe::OwnHistory => Answer::OwnHistory(self.own_history.clone()),
        }
    }

    /// Plays one cycle to its end.
    pub fn play(&self) -> Played {
        let mut facts = Facts::default();
        for _ in 0..64 {
            match ha::decide(&self.view, &self.memory, &facts) {
                Step::Done(verdict) => {
                    let effects: Vec<Effect> = facts.outcomes().iter().map(|(effect, _)| effect.clone()).collect();
                    assert_fence_is_remembered(&effects, &verdict);
                    return Played { effects, verdict: *verdict };
                }
                Step::Ask(probe) => {
                    let answer = self.answer(&probe);
                    facts.learn(probe, answer);
                }
                Step::Act(effect) => {
                    let outcome = self.outcome(&effect);
                    facts.did(effect, outcome);
                }
            }
        }
        panic!("the cycle does not end: {facts:#?}");
    }
}

/// Acquiring and renewing arm the fence, except while paused: whoever takes it for let go afterwards would leave it
/// armed for good.
fn assert_fence_is_remembered(effects: &[Effect], verdict: &Verdict) {
    let arming = |effect: &Effect| matches!(effect, Effect::AcquireLeader | Effect::RenewLeader);
    let armed = effects.iter().rposition(arming);
    let let_go = effects.iter().rposition(|effect| *effect == Effect::Disarm);
    if armed > let_go && !verdict.memory.paused {
        assert!(!verdict.memory.disarmed, "the fence is armed and taken for let go: {effects:?}");
    }
}

impl Played {
    /// Effects in short: publishing, which every cycle ends with, is left out.
    pub fn effects(&self) -> Vec<String> {
        let short = |effect: &Effect| match effect {
            Effect::TouchMember(_) | Effect::SyncSlots(_) | Effect::ForceFeedback(_) => None,
            Effect::Put { key, value, .. } if *key == model::Key::Status => {
                assert!(value.contains("optime"), "{value}");
                None
            }
            Effect::Put { key, value, .. } => Some(format!("put {key} {value}")),
            Effect::Delete { key, .. } => Some(format!("delete {key}")),
            Effect::StartTask(task) => Some(short_task(task)),
            Effect::Callback(action, role) => Some(format!("{} {role}", action.as_str())),
            Effect::Log(_, text) => Some(format!("log {text}")),
            Effect::Answer(id, answer) => Some(format!("answer {id}: {} {}", answer.code, answer.text)),
            other => Some(format!("{other:?}")),
        };
        self.effects.iter().filter_map(short).collect()
    }

    pub fn expect(&self, rule: &str, effects: &[&str]) {
        assert_eq!(self.verdict.rule.name(), rule, "{}", self.verdict.reason);
        assert_eq!(self.effects(), effects, "{}", self.verdict.reason);
    }

    /// The record this cycle publishes.
    pub fn record(&self) -> Member {
        let record = self.effects.iter().find_map(|effect| match effect {
            Effect::TouchMember(member) => Some((**member).clone()),
            _ => None,
        });
        record.expect("every cycle with a readable store publishes the member record")
    }
}

fn short_task(task: &Task) -> String {
    let to = |upstream: &Option<Upstream>| upstream.as_ref().map_or("nobody".to_owned(), |to| to.address.to_string());
    match task {
        Task::Stop { mode, purpose, .. } => format!("stop {mode:?} {purpose:?}"),
        Task::StartPrimary { .. } => "start primary".to_owned(),
        Task::StartStandby { upstream } => format!("start standby of {}", to(upstream)),
        Task::Repoint { upstream } => format!("repoint to {}", to(upstream)),
        Task::Promote { .. } => "promote".to_owned(),
        Task::Clone { source, basebackup_only } => {
            let source = source.as_ref().map_or("nobody", |source| &source.name);
            format!("clone {source}{}", if *basebackup_only { " by base backup" } else { "" })
        }
        Task::CopySlots { source, slots } => format!("copy slots {} from {}", slots.join(" "), source.address),
        Task::Rewind { source } => format!("rewind to {}", source.address),
        other => format!("{other:?}"),
    }
}

pub fn settings(changes: serde_json::Value) -> Settings {
    let mut config = json!({"postgresql": {"use_pg_rewind": true}}).as_object().expect("an object").clone();
    model::settings::patch_config(&mut config, changes.as_object().expect("an object"));
    Settings::resolve(&config).0
}
