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
