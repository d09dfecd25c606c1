//! Failsafe mode (compatibility.md, 7.13; docs/safety.md).

use std::time::Duration;

use ha::step::{Effect, Outcome, Task};
use ha::view::{LeaseView, Promise, StoreView};
use model::pg::ControlState;
use model::slots::SlotChange;
use model::{FailsafeLeader, Leader, Lsn, Tags};
use serde_json::json;

use crate::scene::*;

fn map(names: &[&str]) -> std::collections::BTreeMap<String, String> {
    let url = |name: &str| member(name, model::Role::Replica, 0).api_url.expect("an address");
    names.iter().map(|name| ((*name).to_owned(), url(name))).collect()
}

/// Failsafe mode on, and the key as the leader `a` keeps it.
fn scene(me: &str) -> Scene {
    let mut scene = Scene::of(me, "a");
    scene.view.settings = settings(json!({"failsafe_mode": true}));
    cluster_of(&mut scene).failsafe = Some(map(&["a", "b", "c"]));
    scene.memory.failsafe_members = map(&["a", "b", "c"]);
    scene
}

fn outage(me: &str) -> Scene {
    let mut scene = scene(me);
    scene.view.store = StoreView::Unreachable("no endpoint answers".to_owned());
    scene
}

/// As `me` is after it promised `a` not to lead.
fn promised(me: &str) -> Scene {
    let mut scene = scene(me);
    cluster_of(&mut scene).leader = None;
    let a = member("a", model::Role::Primary, 0);
    let leader = FailsafeLeader {
        name: "a".to_owned(),
        conn_url: a.conn_url,
        api_url: a.api_url,
        slots: [("b".to_owned(), Lsn(1200)), ("c".to_owned(), Lsn(1200))].into(),
    };
    scene.view.promise = Some(Promise { leader, until: NOW.plus(Duration::from_secs(30)) });
    scene
}

#[test]
fn the_leader_keeps_the_key_of_all_members() {
    let mut scene = scene("a");
    scene.play().expect("lead", &["RenewLeader"]);
    cluster_of(&mut scene).members.pop();
    let played = scene.play();
    let short = json!(map(&["a", "b"])).to_string();
    played.expect("lead", &["RenewLeader", &format!("put failsafe {short}")]);
    assert_eq!(played.verdict.memory.failsafe_members, map(&["a", "b"]));
    scene.view.settings = settings(json!({}));
    scene.play().expect("lead", &["RenewLeader"]);
}

#[test]
fn members_of_a_key_that_may_have_been_written_must_agree_too() {
    let mut scene = scene("a");
    cluster_of(&mut scene).failsafe = Some(map(&["a", "b"]));
    scene.memory.failsafe_members = map(&["a", "b"]);
    scene.put = Outcome::Unreachable("no answer".to_owned());
    assert_eq!(scene.play().verdict.memory.failsafe_members, map(&["a", "b", "c"]));
}

#[test]
fn primary_goes_on_while_all_members_agree() {
    for left_s in [20, 6, 1] {
        let mut scene = outage("a");
        scene.view.lease = LeaseView::Held(NOW.plus(Duration::from_secs(left_s)));
        let played = scene.play();
        played.expect("store-lost-failsafe", &[&format!("LeadByPromise({NOW:?})")]);
        assert_eq!(
            played.verdict.reason,
            "continue to run as a leader because failsafe mode is enabled and all members are accessible (no endpoint answers)"
        );
        assert!(played.verdict.memory.leads_by_promise.is_some());
    }
}

#[test]
fn a_single_node_needs_nobody() {
    let mut scene = outage("a");
    scene.memory.failsafe_members = map(&["a"]);
    scene.play().expect("store-lost-failsafe", &[&format!("LeadByPromise({NOW:?})")]);
}

/// Pitfall 28.
#[test]
fn one_missing_member_is_too_many_and_is_named() {
    let mut scene = outage("a");
    scene.failsafe.insert("c".to_owned(), Err("no answer within 2 s".to_owned()));
    let played = scene.play();
    played.expect("store-lost-leading", &[]);
    assert!(played.verdict.reason.contains("not accepted by c (no answer within 2 s)"), "{}", played.verdict.reason);
    scene.view.lease = LeaseView::Held(NOW.plus(Duration::from_secs(6)));
    let played = scene.play();
    played.expect("store-lost-demote", &["stop Fast Demote"]);
    assert!(played.verdict.reason.contains("not accepted by c (no answer within 2 s)"), "{}", played.verdict.reason);
}

#[test]
fn nobody_is_asked_where_it_does_not_apply() {
    // Off, paused, or down: as without failsafe mode.
    let mut off = outage("a");
    off.view.settings = settings(json!({}));
    off.play().expect("store-lost-leading", &[]);
    let mut paused = outage("a");
    paused.view.settings = settings(json!({"failsafe_mode": true, "pause": true}));
    paused.play().expect("store-lost", &[]);
    outage("a")
        .pg_down(ControlState::InProduction)
        .play()
        .expect("store-lost-restart", &["Disarm", "start standby of nobody"]);
    outage("b").play().expect("store-lost", &[]);
    // The key does not name this node, or is not known.
    for names in [&["b", "c"][..], &[]] {
        let mut scene = outage("a");
        scene.memory.failsafe_members = map(names);
        let played = scene.play();
        played.expect("store-lost-leading", &[]);
        assert!(played.verdict.reason.contains("the failsafe key"), "{}", played.verdict.reason);
    }
    // A lease that has ended is not brought back.
    let mut scene = outage("a");
    scene.view.lease = LeaseView::Lost;
    scene.play().expect("follow-demote", &["stop Immediate Demote"]);
    let mut scene = outage("a");
    scene.by_promise = Outcome::Rejected("the lease has ended".to_owned());
    scene.view.lease = LeaseView::Held(NOW.plus(Duration::from_secs(3)));
    scene.play().expect("store-lost-demote", &[&format!("LeadByPromise({NOW:?})"), "stop Fast Demote"]);
}

/// Pitfall 7: a store that answers reads and not writes, and one that is lost beside a task.
#[test]
fn every_failure_of_the_store_asks_the_members() {
    let ask = format!("LeadByPromise({NOW:?})");
    let unreachable = Outcome::Unreachable("bad JSON".to_owned());
    let mut renewing = scene("a");
    renewing.renew = unreachable.clone();
    renewing.view.lease = LeaseView::Held(NOW.plus(Duration::from_secs(3)));
    renewing.play().expect("store-lost-failsafe", &["RenewLeader", &ask]);
    let mut beside_a_task = scene("a").running(Task::Checkpoint, None);
    beside_a_task.renew = unreachable.clone();
    beside_a_task.view.lease = LeaseView::Held(NOW.plus(Duration::from_secs(3)));
    beside_a_task.play().expect("task-running", &["RenewLeader", &ask]);
    let mut silent = scene("a");
    silent.renew = unreachable;
    silent.view.pg.server = None;
    silent.view.lease = LeaseView::Held(NOW.plus(Duration::from_secs(3)));
    silent.play().expect("no-answer", &["RenewLeader", &ask]);
    let mut lost_beside_a_task = outage("a").running(Task::Checkpoint, None);
    lost_beside_a_task.play().expect("store-lost-failsafe", &[&ask]);
    lost_beside_a_task.failsafe.insert("b".to_owned(), Err("no".to_owned()));
    lost_beside_a_task.view.lease = LeaseView::Held(NOW.plus(Duration::from_secs(3)));
    lost_beside_a_task.play().expect("store-lost-demote", &["stop Immediate Demote"]);
}

#[test]
fn the_store_returns_and_the_primary_takes_the_lock_again() {
    let mut scene = scene("a");
    scene.memory.leads_by_promise = Some(NOW.plus(Duration::from_secs(20)));
    scene.play().expect("lead", &["RenewLeader"]);
    assert_eq!(scene.play().verdict.memory.leads_by_promise, None);
    cluster_of(&mut scene).leader = None;
    // Standbys may be ahead of the look at this primary.
    scene.peers.insert("b".to_owned(), standby_answer(2000));
    scene.play().expect("race-won", &["AcquireLeader"]);
}

#[test]
fn whoever_promised_follows_and_does_not_race() {
    let scene = promised("b");
    scene.play().expect("follow", &["Disarm"]);
    let mut expired = promised("b");
    expired.view.promise.as_mut().expect("a promise").until = NOW;
    expired.play().expect("lead-promote", &["AcquireLeader", "promote"]);
    // A leader that says that it does not lead has given the lock away.
    let mut at_rest = promised("b");
    at_rest.peers.insert("a".to_owned(), standby_answer(900));
    let forget = format!("ForgetPromise({:?})", NOW.plus(Duration::from_secs(30)));
    at_rest.play().expect("lead-promote", &[&forget, "AcquireLeader", "promote"]);
    // A failover by hand waits as well.
    let mut asked = promised("b");
    cluster_of(&mut asked).failover = Some(model::Versioned {
        value: model::FailoverKey { candidate: Some("b".to_owned()), ..Default::default() },
        version: 3,
    });
    asked.play().expect("follow", &["Disarm"]);
    // Once somebody has the lock, that counts.
    let mut led = promised("b");
    cluster_of(&mut led).leader = Some(Leader { name: "c".to_owned(), version: 7 });
    led.play().expect("follow-repoint", &["Disarm", "repoint to 127.0.0.1:5434"]);
}

#[test]
fn a_lock_that_came_late_is_given_back() {
    let mut scene = promised("b");
    cluster_of(&mut scene).leader = Some(Leader { name: "b".to_owned(), version: 7 });
    scene.play().expect("store-promised", &["ReleaseLeader"]);
}

/// Pitfall 21.
#[test]
fn a_new_primary_is_not_bound_by_what_was_before() {
    let mut scene = Scene::of("b", "b");
    scene.view.settings = settings(json!({"failsafe_mode": true}));
    cluster_of(&mut scene).failsafe = Some(map(&["a", "b", "c"]));
    scene.memory.failsafe_members = map(&["a", "b", "c"]);
    scene.memory.leads_by_promise = Some(NOW);
    scene.view.promise = promised("b").view.promise;
    let played = scene.play();
    played.expect("lead", &["RenewLeader"]);
    assert_eq!(played.verdict.memory.leads_by_promise, None);
}

#[test]
fn who_is_not_in_the_key_stays_out_of_the_race() {
    let mut scene = Scene::without_leader("b", "a");
    scene.view.settings = settings(json!({"failsafe_mode": true}));
    cluster_of(&mut scene).failsafe = Some(map(&["a", "c"]));
    let played = scene.play();
    played.expect("race-unfit", &["Disarm"]);
    assert!(played.verdict.reason.contains("does not name b"), "{}", played.verdict.reason);
    // Nobody waits for it either, should an operator ask for it.
    let mut other = Scene::without_leader("c", "a");
    other.view.settings = settings(json!({"failsafe_mode": true}));
    cluster_of(&mut other).failsafe = Some(map(&["a", "c"]));
    let value = model::FailoverKey { candidate: Some("b".to_owned()), ..Default::default() };
    cluster_of(&mut other).failover = Some(model::Versioned { value, version: 3 });
    other.play().expect("lead-promote", &["AcquireLeader", "put failover {}", "promote"]);
    scene.view.settings = settings(json!({}));
    scene.play().expect("lead-promote", &["AcquireLeader", "promote"]);
}

#[test]
fn everybody_in_the_key_is_asked_before_a_race() {
    let mut scene = Scene::without_leader("b", "a");
    scene.view.settings = settings(json!({"failsafe_mode": true}));
    cluster_of(&mut scene).members.retain(|member| member.name == "b");
    scene.memory.healthy_cluster = None;
    cluster_of(&mut scene).failsafe = Some(map(&["a", "b", "c"]));
    scene.peers.insert("c".to_owned(), standby_answer(2000));
    scene.play().expect("race-unfit", &["Disarm"]);
    scene.peers.insert(
        "c".to_owned(),
        model::peer::PeerAnswer {
            tags: Tags(json!({"nofailover": true}).as_object().cloned().expect("an object")),
            ..standby_answer(2000)
        },
    );
    scene.play().expect("lead-promote", &["AcquireLeader", "promote"]);
}

#[test]
fn slots_move_on_in_an_outage() {
    let slot =
        |name: &str| model::slots::Slot { name: name.to_owned(), restart_lsn: Some(Lsn(100)), ..Default::default() };
    let advanced = |scene: &Scene, to: u64| {
        let wanted = SlotChange::Advance { name: "c".to_owned(), to: Lsn(to), database: None };
        let played = scene.play();
        let changes = played.effects.iter().find_map(|effect| match effect {
            Effect::SyncSlots(changes) => Some(changes.clone()),
            _ => None,
        });
        assert_eq!(changes, Some(vec![wanted]), "{}", played.verdict.reason);
    };
    let mut standby = outage("b");
    standby.view.promise = promised("b").view.promise;
    let server = standby.view.pg.server.as_mut().expect("a server");
    server.slots = vec![slot("a"), slot("c")];
    server.slots[0].restart_lsn = Some(Lsn(5000));
    server.replay_lsn = Some(Lsn(3000));
    advanced(&standby, 1200);
    let mut primary = outage("a");
    primary.failsafe.insert("c".to_owned(), Ok(Some(Lsn(1100))));
    primary.view.pg.server.as_mut().expect("a server").slots = vec![slot("b"), slot("c")];
    let tags = json!({"replicatefrom": "b"}).as_object().cloned().expect("an object");
    primary.memory.healthy_cluster.as_mut().expect("a view").members[2].tags = Tags(tags);
    advanced(&primary, 1100);
}
