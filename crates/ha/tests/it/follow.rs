//! Whom a standby follows.

use ha::step::Task;
use model::pg::ControlState;
use serde_json::{Value, json};

use crate::scene::*;

fn tag(scene: &mut Scene, member: Option<usize>, name: &str, value: Value) {
    match member {
        None => scene.view.node.tags.0.insert(name.into(), value),
        Some(index) => cluster_of(scene).members[index].tags.0.insert(name.into(), value),
    };
}

fn standby() -> Scene {
    let mut scene = Scene::of("b", "a");
    scene.memory.disarmed = true;
    scene
}

/// A server whose upstream is not what it should be.
fn follows(mut scene: Scene, name: Option<&str>) -> Scene {
    scene.view.pg.server.as_mut().expect("running").upstream = name.map(|name| upstream(name, "b"));
    scene
}

#[test]
fn the_leader_is_followed() {
    standby().play().expect("follow", &[]);
    follows(standby(), Some("c")).play().expect("follow-repoint", &["repoint to 127.0.0.1:5432"]);
}

/// Found in review: the tag was ignored at the start.
#[test]
fn nostream_follows_nobody_running_or_starting() {
    let mut scene = standby();
    tag(&mut scene, None, "nostream", true.into());
    scene.play().expect("follow-repoint", &["repoint to nobody"]);
    follows(scene, None).play().expect("follow", &[]);

    let mut scene = standby().pg_down(ControlState::ShutDownInRecovery);
    tag(&mut scene, None, "nostream", true.into());
    scene.memory.divergence = ha::memory::Divergence::Fits;
    scene.memory.checked_against = Some(("a".into(), Some(model::Timeline(1))));
    let played = scene.play();
    assert_eq!(played.effects().last().map(String::as_str), Some("start standby of nobody"), "{:?}", played.effects());
}

#[test]
fn replicatefrom_names_a_running_member_other_than_this_one() {
    let cases: [(&str, Value, bool, &str); 4] = [
        ("a running member", json!("c"), true, "5434"),
        ("a member that does not run", json!("c"), false, "5432"),
        ("a member that does not exist", json!("z"), true, "5432"),
        ("itself", json!("b"), true, "5432"),
    ];
    for (what, name, running, port) in cases {
        let mut scene = follows(standby(), None);
        tag(&mut scene, None, "replicatefrom", name);
        if !running {
            cluster_of(&mut scene).members[2].state = "stopped".into();
        }
        let played = scene.play();
        assert_eq!(played.effects(), [format!("repoint to 127.0.0.1:{port}")], "{what}");
    }
}

#[test]
fn nodes_told_to_replicate_from_each_other_follow_the_leader() {
    let mut scene = follows(standby(), None);
    tag(&mut scene, None, "replicatefrom", "c".into());
    tag(&mut scene, Some(2), "replicatefrom", "b".into());
    scene.play().expect("follow-repoint", &["repoint to 127.0.0.1:5432"]);
    // A chain that ends at the leader is none, whatever the leader's own tag says.
    tag(&mut scene, Some(2), "replicatefrom", "a".into());
    tag(&mut scene, Some(0), "replicatefrom", "b".into());
    scene.play().expect("follow-repoint", &["repoint to 127.0.0.1:5434"]);
}

/// Found in review: a primary_conninfo that wins over ours was written again in every cycle.
#[test]
fn a_server_that_keeps_following_another_is_told_once() {
    let repoint = Task::Repoint { upstream: Some(upstream("a", "b")) };
    let told = follows(standby(), Some("c")).finished(repoint, Ok(())).play();
    told.expect("follow-kept", &["on_reload replica"]);
    assert!(told.verdict.reason.contains("127.0.0.1:5434 although it was told to follow 127.0.0.1:5432"));

    let mut scene = follows(standby(), Some("c"));
    scene.memory = told.verdict.memory.clone();
    scene.play().expect("follow-kept", &[]);
    // Another leader, or another upstream, is news.
    follows(scene, None).play().expect("follow-repoint", &["repoint to 127.0.0.1:5432"]);
    let mut scene = standby();
    scene.memory = told.verdict.memory;
    let played = scene.play();
    played.expect("follow", &[]);
    assert_eq!(played.verdict.memory.kept_upstream, None);
}

#[test]
fn stale_recovery_parameters_are_written_again_once() {
    let mut scene = standby();
    scene.view.pg.recovery_stale = true;
    scene.play().expect("follow-repoint", &["repoint to 127.0.0.1:5432"]);
    let repoint = Task::Repoint { upstream: Some(upstream("a", "b")) };
    let told = scene.finished(repoint, Ok(())).play();
    told.expect("follow-kept", &["on_reload replica"]);
    assert!(told.verdict.reason.starts_with("PostgreSQL does not take over its recovery parameters"));
}
