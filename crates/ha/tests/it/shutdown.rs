//! SIGTERM.

use ha::step::{StopMode, StopPurpose, Task};
use ha::view::Progress;
use model::Lsn;
use model::pg::ControlState;
use serde_json::json;

use crate::scene::*;

fn told_to_stop(mut scene: Scene) -> Scene {
    scene.view.shutdown = true;
    scene
}

#[test]
fn leader_stops_hands_over_and_exits() {
    told_to_stop(Scene::of("a", "a")).play().expect("shutdown", &["stop Fast Shutdown"]);

    let stop = Task::Stop { mode: StopMode::Fast, checkpoint: true, purpose: StopPurpose::Shutdown };
    let scene = told_to_stop(Scene::of("a", "a")).running(stop, Some(Progress::ShutDown(Lsn(999))));
    scene.play().expect("hand-over", &["ReleaseLeader", "Disarm"]);

    let mut scene = told_to_stop(Scene::without_leader("a", "a")).pg_down(ControlState::ShutDown);
    scene.memory.disarmed = true;
    let played = scene.play();
    played.expect("shutdown", &[]);
    assert_eq!(played.verdict.exit.as_ref().map(|exit| exit.code), Some(0));
    assert_eq!(played.record().state, "stopped");
}

#[test]
fn leader_without_standbys_releases_the_lock_once_stopped() {
    let mut scene = told_to_stop(Scene::of("a", "a")).pg_down(ControlState::ShutDown);
    scene.peers.clear();
    let played = scene.play();
    played.expect("shutdown", &["ReleaseLeader", "Disarm"]);
    assert_eq!(played.verdict.exit.map(|exit| exit.code), Some(0));
}

#[test]
fn paused_agent_leaves_postgresql_alone() {
    let mut scene = told_to_stop(Scene::of("a", "a"));
    scene.view.settings = settings(json!({"pause": true}));
    let played = scene.play();
    played.expect("shutdown-paused", &["Disarm"]);
    assert_eq!(played.verdict.exit.map(|exit| exit.code), Some(0));
}

/// Pitfall 1: a client that hangs in its backend keeps a fast stop from ever ending.
#[test]
fn a_stop_that_takes_too_long_becomes_immediate() {
    let stop = |purpose| Task::Stop { mode: StopMode::Fast, checkpoint: false, purpose };
    let late = |scene: Scene, purpose, seconds: u64| {
        let mut scene = scene.running(stop(purpose), None);
        scene.view.now = NOW.plus(std::time::Duration::from_secs(seconds));
        scene
    };
    // A standby, a restart, a hand-over; default primary_start_timeout: 300 s.
    let standby = |seconds| told_to_stop(late(Scene::of("b", "a"), StopPurpose::Shutdown, seconds)).play();
    standby(299).expect("task-running", &[]);
    standby(301).expect("stop-late", &["stop Immediate Shutdown"]);
    let mut scene = late(Scene::of("a", "a"), StopPurpose::Restart, 301);
    let restarting =
        ha::memory::Restarting { request: None, timeout: std::time::Duration::from_secs(70), primary: true };
    scene.memory.restarting = Some(restarting);
    scene.play().expect("stop-late", &["stop Immediate Restart"]);
    scene.view.now = NOW.plus(std::time::Duration::from_secs(71));
    scene.play().expect("stop-late", &["stop Immediate Restart"]);
    let played = late(Scene::of("a", "a"), StopPurpose::Switchover, 301).play();
    played.expect("stop-late", &["RenewLeader", "stop Immediate Demote"]);
    assert!(played.verdict.memory.giving_way);
    // Failing over at once is not giving up at once.
    let mut scene = late(Scene::of("a", "a"), StopPurpose::Switchover, 59);
    scene.view.settings = settings(json!({"primary_start_timeout": 0}));
    scene.play().expect("hand-over", &["RenewLeader"]);
    // Once the shutdown checkpoint is written, standbys may take as long as they take.
    let mut scene = Scene::of("b", "a").running(stop(StopPurpose::Shutdown), Some(Progress::ShutDown(Lsn(1))));
    scene.view.now = NOW.plus(std::time::Duration::from_secs(301));
    told_to_stop(scene).play().expect("task-running", &[]);
}

#[test]
fn primary_stop_timeout_counts_with_synchronous_standbys_only() {
    let played = |mode: &str, seconds: u64| {
        let stop = Task::Stop { mode: StopMode::Fast, checkpoint: false, purpose: StopPurpose::Switchover };
        let mut scene = Scene::of("a", "a").running(stop, None);
        scene.view.settings = settings(json!({"synchronous_mode": mode, "primary_stop_timeout": 5}));
        scene.view.now = NOW.plus(std::time::Duration::from_secs(seconds));
        scene.play()
    };
    played("off", 6).expect("hand-over", &["RenewLeader"]);
    played("on", 4).expect("hand-over", &["RenewLeader"]);
    played("on", 6).expect("stop-late", &["RenewLeader", "stop Immediate Demote"]);
    played("quorum", 6).expect("stop-late", &["RenewLeader", "stop Immediate Demote"]);
}
