//! Requests over REST.

use ha::memory::Restarting;
use ha::step::{Effect, StopMode, StopPurpose, Task};
use ha::view::{Request, RequestKind, RestartFilter};
use model::Role;
use model::pg::ControlState;

use crate::scene::*;

fn asked(scene: Scene, kind: RequestKind) -> Scene {
    let mut scene = scene;
    scene.view.requests = vec![Request { id: 7, kind }];
    scene
}

fn restart(filter: RestartFilter) -> RequestKind {
    RequestKind::Restart { filter, timeout_s: None }
}

#[test]
fn restart_stops_then_decides_anew_and_is_answered_when_it_has_ended() {
    let scene = asked(Scene::of("a", "a"), restart(RestartFilter::default()));
    let begun = scene.play();
    assert_eq!(begun.effects()[..2], ["stop Fast Restart", "RenewLeader"]);
    assert_eq!(begun.record().state, "restarting");

    let stop = Task::Stop { mode: StopMode::Fast, checkpoint: true, purpose: StopPurpose::Restart };
    let mut scene = asked(Scene::of("a", "a"), restart(RestartFilter::default())).pg_down(ControlState::ShutDown);
    scene = scene.finished(stop, Ok(()));
    scene.memory = begun.verdict.memory;
    let stopped = scene.play();
    stopped.expect("restart", &["RenewLeader", "start primary"]);

    let start = stopped.effects.iter().find_map(|effect| match effect {
        Effect::StartTask(task) => Some(task.clone()),
        _ => None,
    });
    let mut scene = asked(Scene::of("a", "a"), restart(RestartFilter::default()));
    scene = scene.finished(start.expect("a start"), Ok(()));
    scene.memory = stopped.verdict.memory;
    let ended = scene.play();
    assert_eq!(ended.effects()[..2], ["on_restart primary", "answer 7: 200 restarted successfully"]);
}

/// Found by the simulator: a primary that lost the lock while it was stopped for a restart came back writable.
#[test]
fn restart_of_a_primary_needs_the_lock_to_start() {
    let mut scene = Scene::of("a", "b").pg_down(ControlState::ShutDown);
    scene.view.pg.recovery_configured = false;
    scene.memory.role = Role::Primary;
    let timeout = std::time::Duration::from_secs(300);
    scene.memory.restarting = Some(Restarting { request: Some(7), timeout, primary: true });
    let played = scene.play();
    assert!(!played.effects().contains(&"start primary".to_owned()), "{:?}", played.effects());
}

#[test]
fn restart_that_does_not_apply_is_refused() {
    for (filter, text) in [
        (RestartFilter { role: Some(Role::Replica), ..Default::default() }, "restart conditions are not satisfied"),
        (
            RestartFilter { postgres_version: Some(150_000), ..Default::default() },
            "restart conditions are not satisfied",
        ),
        (RestartFilter { restart_pending: true, ..Default::default() }, "restart conditions are not satisfied"),
    ] {
        let played = asked(Scene::of("a", "a"), restart(filter)).play();
        assert_eq!(played.effects()[0], format!("answer 7: 503 {text}"));
    }
    let busy = asked(Scene::of("a", "a").running(Task::Checkpoint, None), restart(RestartFilter::default())).play();
    assert_eq!(busy.effects()[0], "answer 7: 503 checkpoint after promote already in progress");
}

#[test]
fn reinitialize_stops_removes_and_copies() {
    let kind = RequestKind::Reinitialize { force: false, from_leader: true };
    let played = asked(Scene::of("b", "a"), kind).play();
    played.expect("reinit", &["answer 7: 200 reinitialize started", "Disarm", "stop Immediate Rebuild"]);

    let mut scene = Scene::of("b", "a").pg_down(model::pg::ControlState::InArchiveRecovery);
    scene.memory = played.verdict.memory;
    let removed = scene.play();
    removed.expect("reinit", &["RemoveDataDir"]);

    scene.view.pg.data_dir = model::pg::DataDir::Empty;
    scene.memory = removed.verdict.memory;
    scene.play().expect("bootstrap-clone", &["clone a by base backup"]);
}

#[test]
fn reinitialize_is_refused_to_the_leader_and_without_one() {
    let kind = || RequestKind::Reinitialize { force: false, from_leader: false };
    let played = asked(Scene::of("a", "a"), kind()).play();
    assert_eq!(played.effects()[0], "answer 7: 503 I am the leader, can not reinitialize");
    let played = asked(Scene::without_leader("b", "a"), kind()).play();
    assert_eq!(played.effects()[0], "answer 7: 503 Cluster has no leader, can not reinitialize");
}
