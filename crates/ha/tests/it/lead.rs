//! The leader at work.

use ha::memory::AfterPromote;
use ha::step::{Effect, Outcome, StopMode, Task};
use ha::view::LeaseView;
use model::lsn::TimelineSwitch;
use model::{Lsn, Timeline, Versioned};
use serde_json::json;

use crate::scene::*;

#[test]
fn healthy_leader_renews_and_does_nothing_else() {
    let played = Scene::of("a", "a").play();
    played.expect("lead", &["RenewLeader"]);
    assert_eq!(played.verdict.reason, "no action. I am (a), the leader with the lock");
}

#[test]
fn leader_that_lost_the_lock_stops_at_once() {
    let mut scene = Scene::of("a", "a");
    scene.renew = Outcome::Rejected("b holds it".to_owned());
    scene.play().expect("lead-lost", &["RenewLeader", "stop Immediate Demote"]);
}

#[test]
fn unanswered_renewal_changes_nothing_while_the_lease_is_good() {
    let mut scene = Scene::of("a", "a");
    scene.renew = Outcome::Unreachable("timeout".to_owned());
    scene.play().expect("lead-unsure", &["RenewLeader"]);
}

#[test]
fn unanswered_renewal_near_the_end_of_the_lease_stops_the_primary() {
    let mut scene = Scene::of("a", "a");
    scene.renew = Outcome::Unreachable("timeout".to_owned());
    scene.view.lease = LeaseView::Held(NOW.plus(std::time::Duration::from_secs(3)));
    scene.play().expect("lead-lost", &["RenewLeader", "stop Immediate Demote"]);
}

/// Pitfall 2: the monitoring query times out, PostgreSQL is busy.
#[test]
fn a_server_that_does_not_answer_keeps_its_role() {
    let mut scene = Scene::of("a", "a");
    scene.view.pg.server = None;
    let played = scene.play();
    played.expect("no-answer", &["RenewLeader"]);
    assert_eq!(played.record().role, "primary");
}

/// Found in review: whatever runs or does not answer, a primary without the lock is stopped.
#[test]
fn primary_without_the_lock_is_stopped_in_every_state() {
    use ha::step::StopPurpose;
    use model::pg::Postmaster;
    type Change = fn(&mut Scene);
    let cases: [(&str, Change); 5] = [
        ("idle", |_| {}),
        ("during a checkpoint", |scene| {
            *scene = std::mem::replace(scene, Scene::of("a", "b")).running(Task::Checkpoint, None)
        }),
        ("during a slow fast stop", |scene| {
            let stop = Task::Stop { mode: StopMode::Fast, checkpoint: true, purpose: StopPurpose::Switchover };
            *scene = std::mem::replace(scene, Scene::of("a", "b")).running(stop, None);
        }),
        ("not answering", |scene| scene.view.pg.server = None),
        ("stopping by hand", |scene| {
            scene.view.pg.server = None;
            scene.view.pg.postmaster = Postmaster::Stopping;
        }),
    ];
    for (name, change) in cases {
        let mut scene = Scene::of("a", "a");
        cluster_of(&mut scene).leader.as_mut().expect("a leader").name = "b".to_owned();
        scene.view.lease = LeaseView::Lost;
        change(&mut scene);
        assert_eq!(scene.play().effects(), ["stop Immediate Demote"], "{name}");
    }
}

/// Found in review: a disk that stalls for a moment must not cost the lock while PostgreSQL goes on writing.
#[test]
fn unreadable_data_directory_stops_before_it_releases() {
    let mut scene = Scene::of("a", "a");
    scene.view.pg.data_dir = model::pg::DataDir::Unreadable("it takes too long".to_owned());
    let stalled = scene.play();
    stalled.expect("data-dir-unreadable", &["RenewLeader"]);
    scene.memory = stalled.verdict.memory;
    scene.view.now = NOW.plus(std::time::Duration::from_secs(31));
    scene.view.lease = LeaseView::Held(scene.view.now.plus(std::time::Duration::from_secs(20)));
    scene.play().expect("data-dir-unreadable", &["stop Immediate Demote"]);
    scene.view.pg.postmaster = model::pg::Postmaster::Absent;
    scene.play().expect("data-dir-unreadable", &["ReleaseLeader"]);
}

/// Found in review: a scheduled switchover suspended the checkpoint after promotion.
#[test]
fn scheduled_switchover_does_not_suspend_other_work() {
    let mut scene = Scene::of("a", "a");
    scene.memory.promoted = AfterPromote::CheckpointPending;
    scene.view.pg.server.as_mut().expect("running").timeline = Some(Timeline(2));
    let scheduled_at = Some("2030-01-08T00:00:00Z".parse().expect("a time"));
    let failover = model::FailoverKey { leader: Some("a".into()), candidate: Some("b".into()), scheduled_at };
    cluster_of(&mut scene).failover = Some(model::Versioned { value: failover, version: 8 });
    scene.play().expect("lead-checkpoint", &["RenewLeader", "Checkpoint"]);
}

/// Pitfall 22: the store is wiped; the leader restores what it knows.
#[test]
fn leader_restores_configuration_and_identifier() {
    let mut scene = Scene::of("a", "a");
    cluster_of(&mut scene).config = None;
    cluster_of(&mut scene).initialize = None;
    let written = format!("put initialize {SYSTEM_ID}");
    scene.play().expect("lead", &[&written, "RenewLeader", "put config {}"]);
}

/// Pitfall 12: nobody rewinds before the new timeline's checkpoint.
#[test]
fn checkpoint_follows_promotion_and_is_announced() {
    let mut scene = Scene::of("a", "a");
    scene.memory.promoted = AfterPromote::CheckpointPending;
    scene.view.pg.server.as_mut().expect("running").timeline = Some(Timeline(2));
    let played = scene.play();
    played.expect("lead-checkpoint", &["RenewLeader", "Checkpoint"]);
    assert_eq!(played.record().checkpoint_after_promote, Some(false));

    let done = scene.finished(Task::Checkpoint, Ok(())).play();
    assert_eq!(done.record().checkpoint_after_promote, None);
}

#[test]
fn new_timeline_gets_a_history_row() {
    let mut scene = Scene::of("a", "a");
    scene.view.pg.control.as_mut().expect("control").timeline = Timeline(2);
    scene.view.pg.server.as_mut().expect("running").timeline = Some(Timeline(2));
    let switch = TimelineSwitch {
        timeline: Timeline(1),
        switchpoint: Lsn(900),
        reason: "no recovery target specified".to_owned(),
    };
    scene.own_history = Some(vec![switch]);
    let row = r#"put history [[1,900,"no recovery target specified","2030-01-01T00:00:00.000000+00:00","a"]]"#;
    scene.play().expect("lead", &["RenewLeader", row]);
    // Found by the simulator (seed 2022): after a pause this node leads on, and the store tells of somebody's later
    // timeline, on which no standby is.
    let rows = [1, 2].map(|timeline| model::HistoryEntry {
        timeline: Timeline(timeline),
        lsn: Lsn(900),
        reason: "no recovery target specified".to_owned(),
        timestamp: Some("2030-01-01T00:00:00.000000+00:00".to_owned()),
        new_leader: Some("a".to_owned()),
    });
    cluster_of(&mut scene).history = Some(Versioned { value: rows.to_vec(), version: 2 });
    scene.memory.history_written = Some(Timeline(2));
    scene.play().expect("lead", &["RenewLeader", row]);
}

#[test]
fn required_fence_that_fails_costs_the_lead() {
    let mut scene = Scene::of("a", "a");
    scene.view.fence.failed = true;
    scene.play().expect("lead-unfenced", &["RenewLeader", "stop Immediate Demote"]);
    let mut scene = scene.pg_down(model::pg::ControlState::InProduction);
    scene.view.fence.failed = true;
    scene.play().expect("lead-unfenced", &["ReleaseLeader", "Disarm"]);
}

#[test]
fn paused_leader_without_primary_gives_the_lock_away() {
    let mut scene = Scene::of("b", "a");
    cluster_of(&mut scene).leader.as_mut().expect("a leader").name = "b".to_owned();
    scene.view.settings = settings(json!({"pause": true}));
    scene.play().expect("paused", &["Disarm", "ReleaseLeader"]);
}

/// Found in review: the deadline that was set before the pause must not strike during it.
#[test]
fn pause_lets_go_of_the_fence_once() {
    let mut scene = Scene::of("a", "a");
    scene.view.settings = settings(json!({"pause": true}));
    let paused = scene.play();
    paused.expect("lead", &["Disarm", "RenewLeader"]);
    scene.memory = paused.verdict.memory;
    let still = scene.play();
    still.expect("lead", &["RenewLeader"]);

    scene.memory = still.verdict.memory;
    scene.view.settings = settings(json!({}));
    assert!(!scene.play().verdict.memory.disarmed);
}

#[test]
fn switchover_stops_with_a_checkpoint_first() {
    let mut scene = Scene::of("a", "a");
    let failover = model::FailoverKey { leader: Some("a".into()), candidate: Some("b".into()), scheduled_at: None };
    cluster_of(&mut scene).failover = Some(model::Versioned { value: failover, version: 8 });
    let played = scene.play();
    played.expect("switchover", &["RenewLeader", "stop Fast Switchover"]);
    assert!(
        played.effects.iter().any(|effect| matches!(
            effect,
            Effect::StartTask(Task::Stop { mode: StopMode::Fast, checkpoint: true, .. })
        ))
    );
}

#[test]
fn switchover_waits_a_moment_for_a_candidate_that_does_not_stream() {
    let mut scene = Scene::of("a", "a");
    scene.view.pg.server.as_mut().expect("running").senders.clear();
    let failover = model::FailoverKey { leader: Some("a".into()), candidate: Some("b".into()), scheduled_at: None };
    cluster_of(&mut scene).failover = Some(model::Versioned { value: failover, version: 8 });
    let waiting = scene.play();
    waiting.expect("lead", &["RenewLeader"]);

    scene.memory = waiting.verdict.memory;
    scene.view.now = NOW.plus(std::time::Duration::from_secs(11));
    scene.play().expect("lead", &["RenewLeader", "put failover {}"]);
}

#[test]
fn impossible_switchover_is_cleared_and_explained() {
    for (name, change) in [
        ("unreachable", (|scene: &mut Scene| drop(scene.peers.remove("b"))) as fn(&mut Scene)),
        ("lagging", |scene| {
            cluster_of(scene).status.optime = Some(Lsn(50_000_000));
        }),
        ("nofailover", |scene| {
            cluster_of(scene).members[1].tags.0.insert("nofailover".into(), true.into());
        }),
    ] {
        let mut scene = Scene::of("a", "a");
        let failover = model::FailoverKey { leader: Some("a".into()), candidate: Some("b".into()), scheduled_at: None };
        cluster_of(&mut scene).failover = Some(model::Versioned { value: failover, version: 8 });
        change(&mut scene);
        let played = scene.play();
        assert!(played.verdict.reason.starts_with("switchover is not possible"), "{name}: {}", played.verdict.reason);
        played.expect("lead", &["RenewLeader", "put failover {}"]);
    }
}

#[test]
fn scheduled_switchover_waits_then_runs_or_is_discarded() {
    for (at, rule, effects) in [
        ("2030-01-01T00:00:05Z", "lead", vec!["RenewLeader"]),
        (
            "2030-01-01T00:00:00Z",
            "switchover",
            vec!["RenewLeader", r#"put failover {"leader":"a","member":"b"}"#, "stop Fast Switchover"],
        ),
        ("2029-12-31T23:59:00Z", "lead", vec!["RenewLeader", "put failover {}"]),
    ] {
        let mut scene = Scene::of("a", "a");
        let scheduled_at = Some(at.parse().expect("a time"));
        let failover = model::FailoverKey { leader: Some("a".into()), candidate: Some("b".into()), scheduled_at };
        cluster_of(&mut scene).failover = Some(model::Versioned { value: failover, version: 8 });
        scene.play().expect(rule, &effects);
    }
}

#[test]
fn a_failed_pre_promote_gives_the_lock_to_others_for_a_ttl() {
    let held = || {
        let mut scene = Scene::of("b", "a");
        cluster_of(&mut scene).leader = Some(model::Leader { name: "b".into(), version: 6 });
        scene.view.lease = ha::view::LeaseView::Held(NOW.plus(std::time::Duration::from_secs(20)));
        scene.memory.role = model::Role::Promoted;
        scene
    };
    let played = held().play();
    played.expect("lead-promote", &["RenewLeader", "promote"]);
    let promote = played.effects.iter().find_map(|effect| match effect {
        ha::step::Effect::StartTask(task) => Some(task.clone()),
        _ => None,
    });
    let promote = promote.expect("a promotion");
    let failed = Err("pre_promote failed (exit status: 1): no output".to_owned());
    let released = held().finished_at(promote.clone(), ha::view::Progress::PrePromote, failed.clone()).play();
    released.expect("lead-pre-promote", &["ReleaseLeader", "Disarm"]);

    let mut scene = Scene::without_leader("b", "a");
    scene.memory = released.verdict.memory;
    let left_to_others = scene.play();
    left_to_others.expect("race-unfit", &[]);
    assert!(left_to_others.verdict.reason.contains("pre_promote failed"), "{}", left_to_others.verdict.reason);
    // Nobody else wanted it.
    scene.view.now = NOW.plus(std::time::Duration::from_secs(31));
    assert!(scene.play().effects().contains(&"AcquireLeader".to_owned()));

    // After the hook, a failure is one of PostgreSQL.
    let played = held().finished_at(promote, ha::view::Progress::Promoting, failed).play();
    assert_eq!(played.verdict.memory.pre_promote_failed_at, None);
    assert_eq!(played.verdict.memory.retry.failures, 1);
}

/// Pitfall 12: promote, demote, promote: nobody rewinds before the checkpoint on the newest timeline.
#[test]
fn every_promotion_owes_a_checkpoint_of_its_own() {
    let stop = Task::Stop { mode: StopMode::Immediate, checkpoint: false, purpose: ha::step::StopPurpose::Demote };
    let mut scene = Scene::of("a", "a").finished(stop, Ok(())).pg_down(model::pg::ControlState::ShutDown);
    scene.memory.promoted = AfterPromote::CheckpointDone;
    let stopped = scene.play();
    assert_eq!(stopped.verdict.memory.promoted, AfterPromote::NotPromoted);

    let mut scene = Scene::of("a", "a");
    scene.memory.promoted = AfterPromote::NotPromoted;
    scene.view.pg.server.as_mut().expect("running").timeline = Some(Timeline(3));
    let promoted = scene.play();
    promoted.expect("lead-checkpoint", &["RenewLeader", "Checkpoint"]);
    assert_eq!(promoted.record().checkpoint_after_promote, Some(false));
}

/// Pitfall 11: a slow demotion spans several cycles.
#[test]
fn slow_demotion_is_one_stop_and_one_start() {
    use ha::step::StopPurpose;
    use model::pg::{ControlState, Postmaster};
    let mut scene = Scene::of("a", "b");
    scene.view.pg = Scene::of("a", "a").view.pg;
    scene.memory.role = model::Role::Primary;
    let mut effects = Vec::new();
    let begun = scene.play();
    effects.extend(begun.effects());
    let stop = Task::Stop { mode: StopMode::Immediate, checkpoint: false, purpose: StopPurpose::Demote };
    let mut scene = scene.running(stop.clone(), None);
    scene.memory = begun.verdict.memory;
    for answers in [true, true, false, false] {
        if !answers {
            scene.view.pg.server = None;
            scene.view.pg.postmaster = Postmaster::Stopping;
        }
        let waiting = scene.play();
        effects.extend(waiting.effects());
        scene.memory = waiting.verdict.memory;
    }
    let memory = scene.memory.clone();
    let mut scene = scene.finished(stop, Ok(())).pg_down(ControlState::ShutDown);
    scene.view.task = None;
    scene.memory = memory;
    scene.view.pg.recovery_configured = false;
    scene.server = Ok(ha::step::ServerPosition {
        in_recovery: false,
        system_id: SYSTEM_ID.to_owned(),
        timeline: Timeline(1),
        lsn: Lsn(1000),
        history: Vec::new(),
    });
    let stopped = scene.play();
    effects.extend(stopped.effects());
    let count = |what: &str| effects.iter().filter(|effect| effect.starts_with(what)).count();
    assert_eq!((count("stop "), count("start ")), (1, 1), "{effects:?}");
}
