//! Which script runs at which moment, and the role it is told.

use std::time::Duration;

use ha::memory::Restarting;
use ha::step::{StopMode, StopPurpose, Task};
use model::Role;
use model::pg::ControlState;

use crate::scene::*;

/// Scripts that a cycle runs.
fn calls(scene: &Scene) -> Vec<String> {
    let effects = scene.play().effects();
    effects.into_iter().filter(|effect| effect.starts_with("on_")).collect()
}

fn stop(purpose: StopPurpose) -> Task {
    Task::Stop { mode: StopMode::Fast, checkpoint: true, purpose }
}

/// What begins the cycle that is looked at.
type Change = fn(Scene) -> Scene;

fn found(scene: Scene) -> Scene {
    Scene { memory: ha::Memory::default(), ..scene }
}

fn restarted(scene: Scene, primary: bool) -> Scene {
    let mut scene = scene.finished(started(primary), Ok(()));
    scene.memory.restarting = Some(Restarting { request: None, timeout: Duration::from_secs(1), primary });
    scene
}

fn started(primary: bool) -> Task {
    if primary { start_primary() } else { Task::StartStandby { upstream: None } }
}

/// Only the core can make the permission that such a task carries.
fn start_primary() -> Task {
    let mut scene = Scene::of("a", "a").pg_down(ControlState::InProduction);
    scene.view.lease = ha::view::LeaseView::None;
    let played = scene.play();
    let start = played.effects.iter().find_map(|effect| match effect {
        ha::Effect::StartTask(task @ Task::StartPrimary { .. }) => Some(task.clone()),
        _ => None,
    });
    start.unwrap_or_else(|| panic!("no start: {:?}", played.effects()))
}

#[test]
fn scripts_at_every_transition() {
    let cases: Vec<(&str, &str, Change, &[&str])> = vec![
        ("found running as primary", "a", found, &["on_start primary"]),
        ("found running as standby", "b", found, &["on_start replica"]),
        ("nothing happens", "a", |s| s, &[]),
        (
            "a new standby was started",
            "b",
            |mut s| {
                s.memory.role = Role::Uninitialized;
                s.finished(Task::StartStandby { upstream: None }, Ok(()))
            },
            &["on_start replica"],
        ),
        (
            "a crashed standby was started",
            "b",
            |s| s.finished(Task::StartStandby { upstream: None }, Ok(())),
            &["on_start replica"],
        ),
        ("a crashed primary was started", "a", |s| s.finished(start_primary(), Ok(())), &["on_start primary"]),
        (
            "a former primary was started as standby",
            "b",
            |mut s| {
                s.memory.role = Role::Demoted;
                s.finished(Task::StartStandby { upstream: None }, Ok(()))
            },
            &["on_role_change replica"],
        ),
        (
            "promoted",
            "a",
            |mut s| {
                s.memory.role = Role::Promoted;
                s.finished(promotion(), Ok(()))
            },
            &["on_role_change primary"],
        ),
        (
            "promoted by hand",
            "a",
            |mut s| {
                s.memory.role = Role::Replica;
                s
            },
            &["on_role_change primary"],
        ),
        ("restarted as primary", "a", |s| restarted(s, true), &["on_restart primary"]),
        ("restarted as standby", "b", |s| restarted(s, false), &["on_restart replica"]),
        (
            "a primary's restart ended as standby",
            "b",
            |mut s| {
                s.memory.role = Role::Primary;
                let mut s = restarted(s, false);
                s.memory.restarting =
                    Some(Restarting { request: None, timeout: Duration::from_secs(1), primary: true });
                s
            },
            &["on_role_change replica"],
        ),
        (
            "stopped for a restart",
            "a",
            |s| s.finished(stop(StopPurpose::Restart), Ok(())).pg_down(ControlState::ShutDown),
            &[],
        ),
        (
            "stopped to hand over",
            "a",
            |s| s.finished(stop(StopPurpose::Switchover), Ok(())).pg_down(ControlState::ShutDown),
            &["on_stop demoted"],
        ),
        (
            "stopped for lack of the lock",
            "a",
            |s| s.finished(stop(StopPurpose::Demote), Ok(())).pg_down(ControlState::ShutDown),
            &["on_stop demoted"],
        ),
        (
            "stopped with the agent",
            "a",
            |mut s| {
                s.view.shutdown = true;
                s.finished(stop(StopPurpose::Shutdown), Ok(())).pg_down(ControlState::ShutDown)
            },
            &["on_stop primary"],
        ),
        (
            "a standby stopped to be rewound",
            "b",
            |s| s.finished(stop(StopPurpose::Rebuild), Ok(())).pg_down(ControlState::ShutDown),
            &["on_stop replica"],
        ),
        ("a stop that failed", "a", |s| s.finished(stop(StopPurpose::Demote), Err("it runs".to_owned())), &[]),
        (
            "the configuration changed",
            "a",
            |mut s| {
                s.view.reloaded = true;
                s
            },
            &["on_reload primary"],
        ),
        (
            "the configuration changed on a standby",
            "b",
            |mut s| {
                s.view.reloaded = true;
                s
            },
            &["on_reload replica"],
        ),
        (
            "rewritten before the server is known",
            "a",
            |s| {
                let mut s = found(s);
                s.view.reloaded = true;
                s
            },
            &["on_start primary"],
        ),
        (
            "rewritten while it is down",
            "b",
            |mut s| {
                s.view.reloaded = true;
                s.pg_down(ControlState::ShutDownInRecovery)
            },
            &[],
        ),
        (
            "told to follow somebody else",
            "b",
            |s| s.finished(Task::Repoint { upstream: Some(upstream("a", "b")) }, Ok(())),
            &["on_reload replica"],
        ),
        (
            "the same before version 13",
            "b",
            |mut s| {
                s.view.pg.major_version = Some(120_000);
                s.finished(Task::Repoint { upstream: Some(upstream("a", "b")) }, Ok(()))
            },
            &["on_restart replica"],
        ),
        (
            "slots were copied",
            "b",
            |s| s.finished(Task::CopySlots { source: upstream("a", "b"), slots: vec!["l".to_owned()] }, Ok(())),
            &[],
        ),
        ("a checkpoint", "a", |s| s.finished(Task::Checkpoint, Ok(())), &[]),
    ];
    for (name, me, change, expected) in cases {
        assert_eq!(calls(&change(Scene::of(me, "a"))), expected, "{name}");
    }
}

fn promotion() -> Task {
    let played = Scene::without_leader("b", "a").play();
    let task = played.effects.iter().find_map(|effect| match effect {
        ha::Effect::StartTask(task @ Task::Promote { .. }) => Some(task.clone()),
        _ => None,
    });
    task.unwrap_or_else(|| panic!("no promotion: {:?}", played.effects()))
}
