//! Requests over REST.

use ha::memory::{Restarting, ScheduledRestart};
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
    // The view still holds the request that has been answered: it is not carried out once more.
    ended.expect("lead", &["on_restart primary", "answer 7: 200 restarted successfully", "RenewLeader"]);
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
fn reinitialize_leaves_the_data_to_a_method_that_goes_on_from_it() {
    let copied = |from_leader| {
        let mut scene = Scene::of("b", "a").pg_down(model::pg::ControlState::InArchiveRecovery);
        scene.view.node.clones_over_data = true;
        scene.memory.reinit = Some(from_leader);
        scene.memory.disarmed = true;
        scene.play()
    };
    copied(false).expect("bootstrap-clone", &["clone a"]);
    // A base backup begins with nothing.
    copied(true).expect("reinit", &["RemoveDataDir"]);
}

#[test]
fn reinitialize_is_refused_to_the_leader_and_without_one() {
    let kind = || RequestKind::Reinitialize { force: false, from_leader: false };
    let played = asked(Scene::of("a", "a"), kind()).play();
    assert_eq!(played.effects()[0], "answer 7: 503 I am the leader, can not reinitialize");
    let played = asked(Scene::without_leader("b", "a"), kind()).play();
    assert_eq!(played.effects()[0], "answer 7: 503 Cluster has no leader, can not reinitialize");
}

fn at(text: &str) -> jiff::Timestamp {
    text.parse().expect("a time")
}

/// A restart accepted for the wall time of every scene plus `seconds`.
fn schedule(seconds: i64, filter: RestartFilter) -> ScheduledRestart {
    let time = at("2030-01-01T00:00:00Z") + jiff::SignedDuration::from_secs(seconds);
    let raw = serde_json::json!({"schedule": time.to_string()});
    ScheduledRestart { at: time, filter, timeout_s: Some(60), postmaster_start: Some(jiff::Timestamp::UNIX_EPOCH), raw }
}

#[test]
fn one_restart_is_scheduled_at_a_time_and_can_be_forgotten() {
    let kind = || RequestKind::ScheduleRestart(schedule(3600, RestartFilter::default()));
    let accepted = asked(Scene::of("b", "a"), kind()).play();
    assert_eq!(accepted.effects()[0], "answer 7: 202 Restart scheduled");
    assert!(accepted.record().scheduled_restart.is_some());

    let mut scene = asked(Scene::of("b", "a"), kind());
    scene.memory = accepted.verdict.memory.clone();
    assert_eq!(scene.play().effects()[0], "answer 7: 409 Another restart is already scheduled");
    let mut scene = asked(Scene::of("b", "a"), RequestKind::CancelRestart);
    scene.memory = accepted.verdict.memory;
    let forgotten = scene.play();
    assert_eq!(forgotten.effects()[0], "answer 7: 200 scheduled restart deleted");
    assert_eq!(forgotten.record().scheduled_restart, None);
    scene.memory = forgotten.verdict.memory;
    assert_eq!(scene.play().effects()[0], "answer 7: 404 no restarts are scheduled");
}

#[test]
fn scheduled_restart_is_done_in_its_time_and_once() {
    let replica = RestartFilter { role: Some(Role::Replica), ..RestartFilter::default() };
    let pending = RestartFilter { restart_pending: true, ..RestartFilter::default() };
    let any = RestartFilter::default();
    // loop_wait is 10 s. Kept: it waits, or it is paused; else it is done or dropped.
    for (name, me, seconds, filter, paused, restarts, kept) in [
        ("not yet", "a", 60, any, false, false, true),
        ("soon", "a", 5, any, false, false, true),
        ("due", "a", 0, any, false, true, false),
        ("due on a replica", "b", 0, replica, false, true, false),
        ("a little late", "a", -14, any, false, true, false),
        ("too late", "a", -16, any, false, false, false),
        ("for another role", "a", 0, replica, false, false, false),
        ("nothing pending", "a", 0, pending, false, false, false),
        ("paused", "a", 0, any, true, false, true),
    ] {
        let mut scene = Scene::of(me, "a");
        scene.view.settings = settings(serde_json::json!({"pause": paused}));
        scene.memory.scheduled_restart = Some(schedule(seconds, filter));
        let played = scene.play();
        let stops = played.effects().contains(&"stop Fast Restart".to_owned());
        assert_eq!((stops, played.verdict.memory.scheduled_restart.is_some()), (restarts, kept), "{name}");
    }
}

#[test]
fn scheduled_restart_is_dropped_when_the_server_was_restarted_meanwhile() {
    let mut scene = Scene::of("a", "a");
    scene.memory.scheduled_restart = Some(schedule(60, RestartFilter::default()));
    scene.view.pg.server.as_mut().expect("running").start_time = at("2029-12-31T23:00:00Z");
    assert_eq!(scene.play().verdict.memory.scheduled_restart, None);
}

#[test]
fn restart_that_takes_too_long_gives_way_where_somebody_can_take_over() {
    let timeout = std::time::Duration::from_secs(5);
    let mut scene = Scene::of("a", "a").pg_down(ControlState::ShutDown);
    scene.view.pg.recovery_configured = false;
    scene.memory.restarting = Some(Restarting { request: Some(7), timeout, primary: true });
    let start = scene.play().effects.into_iter().find_map(|effect| match effect {
        Effect::StartTask(task @ Task::StartPrimary { .. }) => Some(task),
        _ => None,
    });
    let mut scene = scene.running(start.expect("a start"), None);
    scene.view.pg.postmaster = model::pg::Postmaster::Starting;
    scene.view.now = NOW.plus(std::time::Duration::from_secs(6));
    scene.view.lease = ha::view::LeaseView::Held(scene.view.now.plus(std::time::Duration::from_secs(20)));
    scene.play().expect("recover-give-up", &["RenewLeader", "CancelTask"]);
    scene.peers.clear();
    scene.play().expect("task-running", &["RenewLeader"]);
}

#[test]
fn reinitialize_while_a_task_runs_needs_force() {
    let busy = |force| {
        let scene = Scene::of("b", "a").running(Task::Checkpoint, None);
        asked(scene, RequestKind::Reinitialize { force, from_leader: false }).play()
    };
    assert_eq!(busy(false).effects(), ["answer 7: 503 checkpoint after promote already in progress"]);
    assert_eq!(busy(true).effects(), ["CancelTask", "answer 7: 200 reinitialize started"]);

    let mut scene = asked(Scene::of("b", "a"), RequestKind::Reinitialize { force: false, from_leader: false });
    scene.memory.reinit = Some(false);
    assert_eq!(scene.play().effects()[0], "answer 7: 503 reinitialize already in progress");
}

/// The new copy is what the operator asked for, and so is its start: also while the cluster is paused, and where the
/// server did not run before.
#[test]
fn reinitialize_while_paused_ends_with_a_running_copy() {
    let mut scene = Scene::of("b", "a").pg_down(ControlState::ShutDownInRecovery);
    scene.view.settings = settings(serde_json::json!({"pause": true}));
    scene.memory.disarmed = true;
    let mut scene = asked(scene, RequestKind::Reinitialize { force: false, from_leader: false });
    let removing = scene.play();
    removing.expect("reinit", &["answer 7: 200 reinitialize started", "RemoveDataDir"]);

    scene.view.requests.clear();
    let mut scene = scene.finished(Task::RemoveDataDir, Ok(()));
    scene.memory = removing.verdict.memory;
    scene.view.pg.data_dir = model::pg::DataDir::Empty;
    let copying = scene.play();
    copying.expect("bootstrap-clone", &["clone a"]);
    let clone = copying.effects.into_iter().find_map(|effect| match effect {
        Effect::StartTask(task) => Some(task),
        _ => None,
    });
    let mut scene = scene.finished(clone.expect("a copy"), Ok(()));
    scene.memory = copying.verdict.memory;
    scene.view.pg.data_dir = model::pg::DataDir::Present;
    scene.view.pg.unstarted_copy = true;
    scene.play().expect("recover-standby", &["start standby of 127.0.0.1:5432"]);
}
