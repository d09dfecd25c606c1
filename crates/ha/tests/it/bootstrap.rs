//! Empty data directories.

use ha::step::{Outcome, Task};
use model::pg::{DataDir, Unfinished};
use model::{ClusterView, Versioned};
use serde_json::json;

use crate::scene::*;

fn empty(me: &str, leader: &str) -> Scene {
    let mut scene = Scene::of(me, leader).pg_down(model::pg::ControlState::ShutDown);
    scene.view.pg.data_dir = DataDir::Empty;
    scene.view.pg.control = None;
    scene.memory = Default::default();
    scene
}

fn nothing_known(me: &str) -> Scene {
    let mut scene = empty(me, "a");
    *cluster_of(&mut scene) = ClusterView::default();
    scene.view.lease = Default::default();
    scene
}

#[test]
fn first_node_claims_and_creates_the_cluster() {
    nothing_known("a").play().expect("bootstrap-new", &["Disarm", "put initialize ", "Bootstrap"]);
}

#[test]
fn second_node_waits() {
    let mut scene = nothing_known("b");
    scene.put = Outcome::Rejected("it exists".to_owned());
    scene.play().expect("bootstrap-wait", &["Disarm", "put initialize "]);

    let mut scene = nothing_known("b");
    cluster_of(&mut scene).initialize = Some(Versioned { value: String::new(), version: 3 });
    scene.play().expect("bootstrap-wait", &["Disarm"]);
}

#[test]
fn nodes_that_may_not_lead_do_not_create_a_cluster() {
    let mut scene = nothing_known("a");
    scene.view.node.tags.0.insert("nofailover".into(), true.into());
    scene.play().expect("bootstrap-wait", &["Disarm"]);
    let mut scene = nothing_known("a");
    scene.view.node.may_bootstrap = false;
    scene.play().expect("bootstrap-wait", &["Disarm"]);
}

#[test]
fn finished_bootstrap_takes_the_lock_and_leads() {
    let mut scene = Scene::of("a", "a").finished(Task::Bootstrap, Ok(()));
    *cluster_of(&mut scene) =
        ClusterView { initialize: Some(Versioned { value: String::new(), version: 3 }), ..Default::default() };
    scene.memory = Default::default();
    let id = format!("put initialize {SYSTEM_ID}");
    scene.play().expect("bootstrap-done", &[&id, "put config {}", "AcquireLeader", "on_start primary"]);
}

#[test]
fn failed_bootstrap_frees_the_key_and_exits() {
    let mut scene = nothing_known("a").finished(Task::Bootstrap, Err("initdb: error: invalid locale".into()));
    cluster_of(&mut scene).initialize = Some(Versioned { value: String::new(), version: 3 });
    let played = scene.play();
    played.expect("bootstrap-failed", &["delete initialize"]);
    assert_eq!(played.verdict.exit.map(|exit| exit.code), Some(1));
}

/// Found in review: a node that was frozen during its bootstrap must not overwrite the cluster made meanwhile.
#[test]
fn late_bootstrap_does_not_touch_anothers_cluster() {
    let mut scene = Scene::of("a", "b").finished(Task::Bootstrap, Ok(()));
    scene.view.pg.server.as_mut().expect("running").in_recovery = false;
    cluster_of(&mut scene).initialize = Some(Versioned { value: "6999999999999999999".into(), version: 9 });
    scene.put = Outcome::Rejected("it exists".into());
    let played = scene.play();
    assert!(!played.effects().contains(&"AcquireLeader".to_owned()));
    assert!(played.effects().contains(&"stop Immediate Demote".to_owned()), "{:?}", played.effects());
}

/// Found in review: the end of a bootstrap is not forgotten over a moment without the store.
#[test]
fn bootstrap_that_ended_without_the_store_is_recorded_later() {
    let mut scene = Scene::of("a", "a").finished(Task::Bootstrap, Ok(()));
    scene.memory = Default::default();
    scene.view.lease = Default::default();
    scene.view.store = ha::view::StoreView::Unreachable("timeout".into());
    let waiting = scene.play();
    waiting.expect("store-lost", &[]);

    let mut scene = Scene::of("a", "a");
    let claim = Some(Versioned { value: String::new(), version: 3 });
    *cluster_of(&mut scene) = ClusterView { initialize: claim, ..Default::default() };
    scene.view.lease = Default::default();
    scene.memory = waiting.verdict.memory;
    let id = format!("put initialize {SYSTEM_ID}");
    scene.play().expect("bootstrap-done", &[&id, "put config {}", "AcquireLeader", "on_start primary"]);
}

#[test]
fn interrupted_bootstrap_is_freed_and_made_anew() {
    let mut scene = nothing_known("a");
    scene.view.pg.data_dir = DataDir::Present;
    scene.view.pg.unfinished = Some(Unfinished::Bootstrap);
    cluster_of(&mut scene).initialize = Some(Versioned { value: String::new(), version: 3 });
    let first = scene.play();
    first.expect("bootstrap-wait", &["Disarm"]);
    scene.memory = first.verdict.memory;
    scene.view.now = NOW.plus(std::time::Duration::from_secs(11));
    scene.play().expect("bootstrap-wait", &["delete initialize"]);
    scene.memory.disarmed = false;
    cluster_of(&mut scene).initialize = None;
    scene.play().expect("bootstrap-new", &["Disarm", "put initialize ", "Bootstrap"]);
}

/// Simulator: a node that was killed while it bootstrapped came back and freed the claim of the node that had begun anew.
#[test]
fn claim_of_another_node_is_not_freed_by_one_whose_bootstrap_was_interrupted() {
    let mut scene = nothing_known("a");
    scene.view.pg.data_dir = DataDir::Present;
    scene.view.pg.unfinished = Some(Unfinished::Bootstrap);
    let claim = |version| Some(Versioned { value: String::new(), version });
    cluster_of(&mut scene).initialize = claim(3);
    scene.memory = scene.play().verdict.memory;
    // Somebody else's, made since: it is watched from the beginning, and whoever made it says so.
    scene.view.now = NOW.plus(std::time::Duration::from_secs(11));
    cluster_of(&mut scene).initialize = claim(4);
    let second = scene.play();
    second.expect("bootstrap-wait", &[]);
    scene.memory = second.verdict.memory;
    scene.view.now = NOW.plus(std::time::Duration::from_secs(22));
    cluster_of(&mut scene).members =
        vec![model::Member { state: "initializing new cluster".into(), ..member("b", model::Role::Uninitialized, 0) }];
    scene.play().expect("bootstrap-wait", &[]);
}

#[test]
fn abandoned_claim_is_freed_after_twice_the_ttl() {
    let mut scene = nothing_known("b");
    cluster_of(&mut scene).initialize = Some(Versioned { value: String::new(), version: 3 });
    let first = scene.play();
    first.expect("bootstrap-wait", &["Disarm"]);
    scene.memory = first.verdict.memory;
    scene.view.now = NOW.plus(std::time::Duration::from_secs(61));
    scene.play().expect("bootstrap-wait", &["delete initialize"]);

    cluster_of(&mut scene).members =
        vec![model::Member { state: "initializing new cluster".into(), ..member("a", model::Role::Uninitialized, 0) }];
    scene.play().expect("bootstrap-wait", &[]);
}

#[test]
fn empty_node_copies_the_leader_or_whoever_offers() {
    empty("b", "a").play().expect("bootstrap-clone", &["Disarm", "clone a"]);
    let mut scene = empty("b", "a");
    cluster_of(&mut scene).members[2].tags.0.insert("clonefrom".into(), true.into());
    scene.play().expect("bootstrap-clone", &["Disarm", "clone c"]);
}

#[test]
fn copies_come_from_offering_members_on_the_leaders_timeline_in_turn() {
    let mut scene = empty("d", "a");
    for index in [1, 2] {
        cluster_of(&mut scene).members[index].tags.0.insert("clonefrom".into(), true.into());
    }
    let in_turn: Vec<String> = (0..4)
        .map(|failures| {
            scene.memory.retry.failures = failures;
            scene.play().effects().last().cloned().unwrap_or_default()
        })
        .collect();
    let mut offering = in_turn[..2].to_vec();
    offering.sort();
    assert_eq!(offering, ["clone b", "clone c"]);
    assert_eq!(in_turn[2..], ["clone a".to_owned(), in_turn[0].clone()]);

    scene.memory.retry.failures = 0;
    let members = &mut cluster_of(&mut scene).members;
    members[1].timeline = Some(model::Timeline(2));
    members[2].state = "starting".into();
    scene.play().expect("bootstrap-clone", &["Disarm", "clone a"]);
}

#[test]
fn state_tells_how_a_new_cluster_is_made() {
    use ha::view::Progress;
    let state = |progress| nothing_known("a").running(Task::Bootstrap, progress).play().record().state;
    assert_eq!(state(None), "initializing new cluster");
    assert_eq!(state(Some(Progress::CustomBootstrap)), "running custom bootstrap script");
    assert_eq!(state(Some(Progress::Restored)), "starting after custom bootstrap");
    let failed = |progress| nothing_known("a").finished_at(Task::Bootstrap, progress, Err("x".into())).play().record();
    assert_eq!(failed(Progress::CustomBootstrap).state, "custom bootstrap failed");
    assert_eq!(failed(Progress::Starting).state, "initdb failed");
}

#[test]
fn progress_of_a_copy_is_said_and_published() {
    use ha::view::Progress;
    let copied = model::CloneProgress { copied_bytes: 30 << 20, total_bytes: Some(60 << 20) };
    let task = Task::Clone { source: None, basebackup_only: false };
    let played = empty("b", "a").running(task, Some(Progress::Copied(copied))).play();
    assert_eq!(played.verdict.reason, "creating replica in progress: 50% of 60.0 MB");
    assert_eq!(played.record().extra[model::CloneProgress::KEY]["percent"], 50);
}

#[test]
fn half_cloned_directory_is_cloned_again() {
    let mut scene = empty("b", "a");
    scene.view.pg.data_dir = DataDir::Present;
    scene.view.pg.unfinished = Some(Unfinished::Clone);
    scene.play().expect("bootstrap-clone", &["Disarm", "clone a"]);
}

#[test]
fn foreign_files_are_not_touched() {
    let mut scene = empty("b", "a");
    scene.view.pg.data_dir = DataDir::Incomplete;
    scene.play().expect("data-dir-foreign", &[]);
}

#[test]
fn leader_with_an_empty_directory_gives_the_lock_away() {
    empty("a", "a").play().expect("bootstrap-wait", &["ReleaseLeader"]);
}

#[test]
fn another_clusters_directory_ends_the_agent() {
    let mut scene = Scene::of("b", "a");
    scene.view.pg.control.as_mut().expect("control").system_id = "6999999999999999999".into();
    let played = scene.play();
    played.expect("wrong-cluster", &["Disarm"]);
    assert_eq!(played.verdict.exit.as_ref().map(|exit| exit.code), Some(1));
    assert!(played.verdict.reason.contains("system ID mismatch"), "{}", played.verdict.reason);

    scene.view.settings = settings(json!({"pause": true}));
    assert_eq!(scene.play().verdict.exit, None);
}

/// Pitfall 22: the store is wiped; a standby that has just started must not recreate `initialize`.
#[test]
fn standby_does_not_recreate_the_initialize_key() {
    let mut scene = Scene::of("b", "a");
    *cluster_of(&mut scene) = ClusterView::default();
    scene.memory = Default::default();
    let played = scene.play();
    played.expect("store-wiped", &[]);
}
