//! The leader is gone: who takes over.

use ha::step::{Effect, Outcome, StopMode, StopPurpose, Task};
use ha::view::Progress;
use model::pg::ControlState;
use model::{FailoverKey, Lsn, Role, Timeline, Versioned};
use serde_json::json;

use crate::scene::*;

#[test]
fn healthiest_standby_takes_the_lock_and_promotes() {
    let played = Scene::without_leader("b", "a").play();
    played.expect("lead-promote", &["AcquireLeader", "promote"]);
    assert_eq!(played.verdict.reason, "promoted self to leader by acquiring session lock");
    assert_eq!(played.record().role, "promoted");
}

#[test]
fn a_lost_race_changes_nothing() {
    let mut scene = Scene::without_leader("b", "a");
    scene.acquire = Outcome::Rejected("c holds it".to_owned());
    scene.play().expect("race-lost", &["AcquireLeader"]);
}

#[test]
fn unfit_standbys_stay_out_and_say_why() {
    type Change = fn(&mut Scene);
    let cases: [(&str, Change); 8] = [
        ("tag nofailover", |scene| drop(scene.view.node.tags.0.insert("nofailover".into(), true.into()))),
        ("wal position of c 0/3E9 is ahead", |scene| scene.peers.get_mut("c").expect("c").wal = Lsn(1001)),
        ("more than maximum_lag_on_failover", |scene| cluster_of(scene).status.optime = Some(Lsn(2_000_000))),
        ("primary (a) is still alive", |scene| {
            let alive = model::peer::PeerAnswer { in_recovery: false, ..standby_answer(1000) };
            scene.peers.insert("a".into(), alive);
        }),
        ("higher priority of 5", |scene| {
            let tags = serde_json::from_value(json!({"failover_priority": 5})).expect("tags");
            scene.peers.get_mut("c").expect("c").tags = tags;
        }),
        ("fencing is required", |scene| scene.view.fence.failed = true),
        ("PAUSE", |scene| scene.view.settings = settings(json!({"pause": true}))),
        ("timeline is behind", |scene| {
            scene.view.settings = settings(json!({"check_timeline": true}));
            let row = model::HistoryEntry {
                timeline: Timeline(1),
                lsn: Lsn(900),
                reason: String::new(),
                timestamp: None,
                new_leader: None,
            };
            cluster_of(scene).history = Some(Versioned { value: vec![row], version: 2 });
        }),
    ];
    for (why, change) in cases {
        let mut scene = Scene::without_leader("b", "a");
        change(&mut scene);
        let played = scene.play();
        assert!(played.verdict.reason.contains(why), "expected {why:?} in {:?}", played.verdict.reason);
        assert!(!played.effects.contains(&Effect::AcquireLeader), "{why}");
    }
}

#[test]
fn unreachable_and_nofailover_peers_do_not_block() {
    let mut scene = Scene::without_leader("b", "a");
    scene.peers.clear();
    scene.play().expect("lead-promote", &["AcquireLeader", "promote"]);

    let mut scene = Scene::without_leader("b", "a");
    let ahead = scene.peers.get_mut("c").expect("c");
    ahead.wal = Lsn(2000);
    ahead.tags = serde_json::from_value(json!({"nofailover": true})).expect("tags");
    scene.play().expect("lead-promote", &["AcquireLeader", "promote"]);
}

/// Found by the simulator: an old primary whose abandoned WAL reaches further blocked every race.
#[test]
fn position_on_an_older_timeline_does_not_count_and_a_newer_timeline_does() {
    let mut scene = Scene::without_leader("b", "a");
    scene.view.pg.server.as_mut().expect("running").timeline = Some(Timeline(2));
    scene.peers.get_mut("c").expect("c").wal = Lsn(2000);
    scene.play().expect("lead-promote", &["AcquireLeader", "promote"]);

    let mut scene = Scene::without_leader("b", "a");
    let newer = scene.peers.get_mut("c").expect("c");
    (newer.wal, newer.timeline) = (Lsn(10), Some(Timeline(2)));
    scene.play().expect("race-unfit", &["Disarm"]);
}

/// Found by the simulator: a switchover request that outlived its switchover kept the only possible leader away, in
/// favour of a node on an older timeline.
#[test]
fn stale_switchover_request_does_not_block_the_only_candidate() {
    let mut scene = Scene::without_leader("b", "a");
    scene.view.pg.server.as_mut().expect("running").timeline = Some(Timeline(2));
    let request = FailoverKey { leader: Some("b".into()), candidate: None, scheduled_at: None };
    cluster_of(&mut scene).failover = Some(Versioned { value: request, version: 4 });
    scene.play().expect("lead-promote", &["AcquireLeader", "put failover {}", "promote"]);
}

/// Pitfall 10: the former leader with a higher priority must not block the race at equal positions.
#[test]
fn former_leader_with_higher_priority_does_not_block() {
    let mut scene = Scene::without_leader("b", "a");
    let mut old = standby_answer(1000);
    old.tags = serde_json::from_value(json!({"failover_priority": 9})).expect("tags");
    scene.peers.insert("a".into(), old);
    scene.play().expect("lead-promote", &["AcquireLeader", "promote"]);
}

/// Members' records may expire together with the leader key: those of the last healthy view are still asked.
#[test]
fn members_of_the_last_healthy_view_are_asked() {
    let mut scene = Scene::without_leader("b", "a");
    cluster_of(&mut scene).members.retain(|member| member.name == "b");
    scene.peers.get_mut("c").expect("c").wal = Lsn(1001);
    scene.play().expect("race-unfit", &["Disarm"]);
}

#[test]
fn requested_candidate_goes_first_and_others_wait_for_it() {
    let request = Versioned {
        value: FailoverKey { leader: Some("a".into()), candidate: Some("b".into()), scheduled_at: None },
        version: 4,
    };
    let mut scene = Scene::without_leader("b", "a");
    cluster_of(&mut scene).failover = Some(request.clone());
    scene.play().expect("lead-promote", &["AcquireLeader", "put failover {}", "promote"]);

    let mut scene = Scene::without_leader("c", "a");
    scene.peers.insert("b".into(), standby_answer(1000));
    cluster_of(&mut scene).failover = Some(request.clone());
    let played = scene.play();
    played.expect("race-unfit", &["Disarm"]);
    assert!(played.verdict.reason.contains("requested candidate b"), "{}", played.verdict.reason);

    // The candidate does not answer: anybody may.
    let mut scene = Scene::without_leader("c", "a");
    scene.peers.clear();
    cluster_of(&mut scene).failover = Some(request);
    scene.play().expect("lead-promote", &["AcquireLeader", "put failover {}", "promote"]);
}

#[test]
fn candidate_waits_while_another_primary_is_alive() {
    let mut scene = Scene::without_leader("b", "a");
    let request = FailoverKey { leader: None, candidate: Some("b".into()), scheduled_at: None };
    cluster_of(&mut scene).failover = Some(Versioned { value: request, version: 4 });
    scene.peers.insert("a".into(), model::peer::PeerAnswer { in_recovery: false, ..standby_answer(1000) });
    scene.play().expect("race-unfit", &["Disarm"]);
}

#[test]
fn asynchronous_node_is_not_promoted_in_synchronous_mode() {
    let mut scene = Scene::without_leader("b", "a");
    let sync = model::SyncKey { leader: Some("a".into()), quorum: 0, members: vec!["c".into()] };
    cluster_of(&mut scene).sync = Some(Versioned { value: sync, version: 4 });
    scene.view.settings = crate::scene::settings(json!({"synchronous_mode": true}));
    let played = scene.play();
    assert!(played.verdict.reason.contains("not a synchronous standby"), "{}", played.verdict.reason);
}

#[test]
fn lost_lease_during_promotion_cancels_it() {
    let mut scene = Scene::of("b", "c");
    let proof = Scene::without_leader("b", "a").play().effects.into_iter().find_map(|effect| match effect {
        Effect::StartTask(task @ Task::Promote { .. }) => Some(task),
        _ => None,
    });
    scene = scene.running(proof.expect("a promotion"), None);
    scene.play().expect("task-lost-lease", &["CancelTask"]);
}

/// Found in review: a promotion that was cancelled after its point of no return may still make the node writable.
#[test]
fn cancelled_promotion_of_a_node_without_the_lock_ends_in_a_stop() {
    let mut scene = Scene::of("b", "c");
    scene.memory.role = Role::Promoted;
    scene.play().expect("lead-lost", &["stop Immediate Demote"]);
}

#[test]
fn diverged_standby_stays_out_of_the_race() {
    let mut scene = Scene::without_leader("b", "a");
    scene.memory.divergence = ha::memory::Divergence::Diverged;
    let played = scene.play();
    assert!(played.verdict.reason.contains("diverged"), "{}", played.verdict.reason);
    assert!(!played.effects.contains(&Effect::AcquireLeader));
}

#[test]
fn finished_promotion_announces_the_role() {
    let proof = Scene::without_leader("b", "a").play().effects.into_iter().find_map(|effect| match effect {
        Effect::StartTask(task @ Task::Promote { .. }) => Some(task),
        _ => None,
    });
    let mut scene = Scene::of("b", "b").finished(proof.expect("a promotion"), Ok(()));
    scene.view.pg.server.as_mut().expect("running").timeline = Some(Timeline(2));
    scene.memory.role = Role::Promoted;
    scene.play().expect("lead-checkpoint", &["on_role_change primary", "RenewLeader", "Checkpoint"]);
}

#[test]
fn old_leader_releases_the_lock_when_the_candidate_has_the_shutdown_checkpoint() {
    let stop = || Task::Stop { mode: StopMode::Fast, checkpoint: true, purpose: StopPurpose::Switchover };
    let scene = Scene::of("a", "a").running(stop(), None);
    scene.play().expect("hand-over", &["RenewLeader"]);

    let scene = Scene::of("a", "a").running(stop(), Some(Progress::ShutDown(Lsn(1000))));
    scene.play().expect("hand-over", &["RenewLeader"]);

    let scene = Scene::of("a", "a").running(stop(), Some(Progress::ShutDown(Lsn(999))));
    scene.play().expect("hand-over", &["ReleaseLeader", "Disarm"]);
}

/// Pitfall 19: it is the requested candidate that must have the shutdown checkpoint.
#[test]
fn another_standby_with_the_checkpoint_does_not_do_for_the_candidate() {
    let stop = Task::Stop { mode: StopMode::Fast, checkpoint: true, purpose: StopPurpose::Switchover };
    let mut scene = Scene::of("a", "a").running(stop, Some(Progress::ShutDown(Lsn(999))));
    let request = FailoverKey { leader: Some("a".into()), candidate: Some("b".into()), scheduled_at: None };
    cluster_of(&mut scene).failover = Some(Versioned { value: request, version: 4 });
    scene.peers.get_mut("b").expect("b").wal = Lsn(999);
    scene.play().expect("hand-over", &["RenewLeader"]);
}

#[test]
fn switchover_whose_candidate_fell_behind_is_called_off() {
    let stop = Task::Stop { mode: StopMode::Fast, checkpoint: true, purpose: StopPurpose::Switchover };
    let mut scene = Scene::of("a", "a").pg_down(ControlState::ShutDown).finished(stop, Ok(()));
    let request = FailoverKey { leader: Some("a".into()), candidate: Some("b".into()), scheduled_at: None };
    cluster_of(&mut scene).failover = Some(Versioned { value: request, version: 4 });
    scene.peers.get_mut("b").expect("b").wal = Lsn(5);
    let waiting = scene.play();
    waiting.expect("hand-over", &["on_stop demoted", "RenewLeader"]);

    scene.view.finished = None;
    scene.memory = waiting.verdict.memory;
    scene.view.now = NOW.plus(std::time::Duration::from_secs(6));
    scene.play().expect("recover-primary", &["put failover {}", "RenewLeader", "start primary"]);
}

#[test]
fn old_leader_waits_for_the_new_one_after_handing_over() {
    let mut scene = Scene::without_leader("a", "a").pg_down(ControlState::ShutDown);
    scene.memory.handed_over_at = Some(NOW);
    scene.memory.disarmed = true;
    scene.play().expect("recover-handed-over", &[]);
}

/// Found in review: a primary whose own tag says that it must not be promoted demoted itself when the key was gone.
#[test]
fn nofailover_primary_that_runs_keeps_its_place() {
    let mut scene = Scene::without_leader("a", "a");
    scene.view.node.tags.0.insert("nofailover".into(), true.into());
    scene.play().expect("race-won", &["AcquireLeader"]);
}

/// A primary that writes all the time looked at itself a moment before its standbys answered.
#[test]
fn standbys_that_seem_ahead_of_a_running_primary_do_not_stop_it() {
    let mut scene = Scene::without_leader("a", "a");
    scene.peers.get_mut("b").expect("b").wal = Lsn(1500);
    scene.play().expect("race-won", &["AcquireLeader"]);
    scene.peers.get_mut("b").expect("b").timeline = Some(Timeline(2));
    scene.play().expect("race-demote", &["stop Immediate Demote"]);
}

/// Found in review: the request was emptied, and a candidate that needs more than one attempt to promote would have
/// given the lock away, as every standby does that holds it while paused.
#[test]
fn paused_candidate_that_gets_the_lock_keeps_the_request() {
    let request = |leader: Option<&str>| {
        let request = FailoverKey { leader: leader.map(Into::into), candidate: Some("b".into()), scheduled_at: None };
        Some(Versioned { value: request, version: 4 })
    };
    let mut scene = Scene::without_leader("b", "a");
    scene.view.settings = settings(json!({"pause": true}));
    scene.memory.disarmed = true;
    cluster_of(&mut scene).failover = request(Some("a"));
    scene.play().expect("lead-promote", &["AcquireLeader", r#"put failover {"member":"b"}"#, "promote"]);

    let mut scene = Scene::of("b", "b");
    scene.view.settings = settings(json!({"pause": true}));
    scene.memory.disarmed = true;
    scene.view.pg = Scene::of("b", "a").view.pg;
    cluster_of(&mut scene).failover = request(None);
    let played = scene.play();
    assert_eq!(played.verdict.rule.name(), "lead-promote", "{}", played.verdict.reason);
}

/// Found in review: a request whose time cannot be read was carried out at once.
#[test]
fn request_at_a_time_that_cannot_be_read_is_cleared() {
    let mut scene = Scene::of("a", "a");
    let scheduled_at = Some(FailoverKey::UNREADABLE_TIME);
    let request = FailoverKey { leader: Some("a".into()), candidate: Some("b".into()), scheduled_at };
    cluster_of(&mut scene).failover = Some(Versioned { value: request, version: 4 });
    let played = scene.play();
    played.expect("lead", &["RenewLeader", "put failover {}"]);
    assert!(played.verdict.reason.contains("cannot be read"), "{}", played.verdict.reason);
}
