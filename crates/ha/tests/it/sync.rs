//! Synchronous and quorum mode: what the leader writes, in which order, and who may take over.

use std::time::Duration;

use ha::memory::SeenRule;
use ha::step::{Effect, Outcome, StopMode, StopPurpose, Task};
use ha::view::{Request, RequestKind, RestartFilter};
use model::{FailoverKey, Lsn, SyncKey, Tags, Versioned};
use serde_json::{Value, json};

use crate::scene::*;

fn key(leader: &str, quorum: u32, members: &str) -> Option<Versioned<SyncKey>> {
    let members = members.split_whitespace().map(str::to_owned).collect();
    Some(Versioned { value: SyncKey { leader: Some(leader.to_owned()), quorum, members }, version: 7 })
}

fn tags(value: Value) -> Tags {
    serde_json::from_value(value).expect("tags")
}

/// The leader `a` with standbys `b` and `c` that stream and have everything; `names` is in force since position 900.
fn leading(config: Value, sync: Option<Versioned<SyncKey>>, names: &str) -> Scene {
    let mut scene = Scene::of("a", "a");
    scene.view.settings = settings(config);
    cluster_of(&mut scene).sync = sync;
    let server = scene.view.pg.server.as_mut().expect("running");
    server.synchronous_standby_names = names.to_owned();
    let state = if names.starts_with("ANY") { "quorum" } else { "sync" };
    let listed = model::StandbyNames::parse(names).expect("names").folded();
    for sender in &mut server.senders {
        (sender.write_lsn, sender.flush_lsn, sender.replay_lsn) = (Some(Lsn(1000)), Some(Lsn(1000)), Some(Lsn(1000)));
        if listed.contains(&sender.application_name) {
            sender.sync_state = state.to_owned();
        }
    }
    scene.memory.names_managed = true;
    scene.memory.commit_rule = Some(SeenRule { text: names.to_owned(), since: NOW, position: Some(Lsn(900)) });
    scene
}

fn on() -> Value {
    json!({"synchronous_mode": true})
}

fn strict() -> Value {
    json!({"synchronous_mode": "on", "synchronous_mode_strict": true})
}

fn quorum() -> Value {
    json!({"synchronous_mode": "quorum"})
}

fn put(leader: &str, quorum: u32, members: &str) -> String {
    let members = if members.is_empty() { "null".to_owned() } else { format!("\"{members}\"") };
    format!("put sync {{\"leader\":\"{leader}\",\"quorum\":{quorum},\"sync_standby\":{members}}}")
}

fn names(text: &str) -> String {
    format!("SetStandbyNames(Some({text:?}))")
}

/// Plays the scene and compares what it does about synchronous replication.
fn does(scene: &Scene, expected: &[String]) {
    let played = scene.play();
    let effects: Vec<String> = played.effects().into_iter().filter(|effect| effect != "RenewLeader").collect();
    assert_eq!(effects, expected, "{}", played.verdict.reason);
}

fn without(scene: &mut Scene, name: &str) {
    let server = scene.view.pg.server.as_mut().expect("running");
    server.senders.retain(|sender| sender.application_name != name);
}

fn sender<'s>(scene: &'s mut Scene, name: &str) -> &'s mut model::pg::WalSender {
    let server = scene.view.pg.server.as_mut().expect("running");
    server.senders.iter_mut().find(|sender| sender.application_name == name).expect("a sender")
}

#[test]
fn the_mode_is_turned_on_step_by_step() {
    // First the key, which names nobody, then the commit rule.
    let mut scene = leading(on(), None, "");
    does(&scene, &[put("a", 0, ""), names("b")]);
    // In force, but some backend may not have it yet.
    cluster_of(&mut scene).sync = key("a", 0, "");
    scene.view.pg.server.as_mut().expect("running").synchronous_standby_names = "b".to_owned();
    sender(&mut scene, "b").sync_state = "sync".to_owned();
    scene.memory.commit_rule = None;
    let played = scene.play();
    played.expect("lead", &["RenewLeader"]);
    assert!(played.verdict.wake_at.is_some_and(|at| at <= NOW.plus(Duration::from_secs(1))));
    // A second later its position is known, and the standby must have got that far.
    scene.memory = played.verdict.memory;
    scene.view.now = NOW.plus(Duration::from_millis(1_100));
    sender(&mut scene, "b").flush_lsn = Some(Lsn(999));
    does(&scene, &[]);
    sender(&mut scene, "b").flush_lsn = Some(Lsn(1000));
    does(&scene, &[put("a", 0, "b")]);
}

#[test]
fn steady_states_change_nothing() {
    for scene in [
        leading(on(), key("a", 0, "b"), "b"),
        leading(on(), key("A", 0, "B"), "1 (B)"),
        leading(json!({"synchronous_mode": "on", "synchronous_node_count": 2}), key("a", 0, "b c"), "2 (b,c)"),
        leading(quorum(), key("a", 1, "b c"), "ANY 1 (b,c)"),
    ] {
        scene.play().expect("lead", &["RenewLeader"]);
    }
}

#[test]
fn the_key_shrinks_before_the_rule_and_grows_after_it() {
    let mut scene = leading(on(), key("a", 0, "b"), "b");
    without(&mut scene, "b");
    does(&scene, &[put("a", 0, ""), names("c")]);
    without(&mut scene, "c");
    does(&scene, &[put("a", 0, ""), names("")]);
}

#[test]
fn the_rule_stays_when_the_key_could_not_be_written() {
    for lost in [Outcome::Rejected("changed".into()), Outcome::Unreachable("no answer".into())] {
        let mut scene = leading(on(), key("a", 0, "b"), "b");
        without(&mut scene, "b");
        scene.put = lost;
        let played = scene.play();
        played.expect("lead-sync", &["RenewLeader", &put("a", 0, "")]);
        // What became of it shows in the next look.
        assert!(played.verdict.wake_at.is_some_and(|at| at <= NOW.plus(Duration::from_millis(500))));
    }
}

#[test]
fn who_is_chosen() {
    type Change = fn(&mut Scene);
    let cases: [(&str, &str, Change); 10] = [
        ("the most advanced", "c", |scene| sender(scene, "c").flush_lsn = Some(Lsn(1001))),
        ("the one that is synchronous already", "c", |scene| sender(scene, "c").sync_state = "potential".to_owned()),
        ("sync_priority", "c", |scene| cluster_of(scene).members[2].tags = tags(json!({"sync_priority": 2}))),
        ("nosync", "c", |scene| cluster_of(scene).members[1].tags = tags(json!({"nosync": true}))),
        ("nofailover comes last", "c", |scene| {
            cluster_of(scene).members[1].tags = tags(json!({"nofailover": true, "sync_priority": 9}));
        }),
        ("not running", "c", |scene| cluster_of(scene).members[1].state = "starting".to_owned()),
        ("not streaming", "c", |scene| sender(scene, "b").state = "catchup".to_owned()),
        ("two connections of one name", "c", |scene| {
            let twin = sender(scene, "b").clone();
            scene.view.pg.server.as_mut().expect("running").senders.push(twin);
        }),
        ("on its way to another upstream", "c", |scene| {
            cluster_of(scene).members[1].tags = tags(json!({"replicatefrom": "c"}));
        }),
        ("case does not matter", "b", |scene| sender(scene, "b").application_name = "B".to_owned()),
    ];
    for (what, expected, change) in cases {
        let mut scene = leading(on(), key("a", 0, ""), "");
        change(&mut scene);
        let effects = scene.play().effects();
        assert_eq!(effects, ["RenewLeader".to_owned(), names(expected)], "{what}");
    }
}

/// Pitfall 18: an unrelated connection carries the primary's own name.
#[test]
fn the_primary_never_chooses_itself() {
    let mut scene = leading(on(), key("a", 0, ""), "");
    without(&mut scene, "b");
    without(&mut scene, "c");
    let mut stranger = leading(on(), None, "");
    let mut walsender = sender(&mut stranger, "b").clone();
    walsender.application_name = "A".to_owned();
    scene.view.pg.server.as_mut().expect("running").senders.push(walsender);
    does(&scene, &[]);
}

#[test]
fn laggards_are_replaced() {
    let config = json!({"synchronous_mode": "on", "maximum_lag_on_syncnode": 100});
    let mut scene = leading(config, key("a", 0, "b"), "b");
    sender(&mut scene, "b").flush_lsn = Some(Lsn(950));
    does(&scene, &[]);
    sender(&mut scene, "b").flush_lsn = Some(Lsn(899));
    does(&scene, &[put("a", 0, ""), names("c")]);
    // The only one is measured against the primary.
    without(&mut scene, "c");
    does(&scene, &[put("a", 0, ""), names("")]);
}

#[test]
fn the_level_of_synchronous_commit_says_which_position_counts() {
    for (level, expected) in [("remote_apply", vec![]), ("on", vec![put("a", 0, "b")]), ("remote_write", vec![])] {
        let mut scene = leading(on(), key("a", 0, ""), "b");
        scene.view.pg.server.as_mut().expect("running").synchronous_commit = level.to_owned();
        sender(&mut scene, "b").replay_lsn = Some(Lsn(899));
        sender(&mut scene, "b").write_lsn = Some(Lsn(899));
        does(&scene, &expected);
    }
}

#[test]
fn strict_mode_waits_for_somebody() {
    const NOBODY: &str = "__patroni_strict_sync_replica_placeholder__";
    let lonely = |sync: &str, in_force: &str| {
        let mut scene = leading(strict(), key("a", 0, sync), in_force);
        without(&mut scene, "b");
        without(&mut scene, "c");
        scene
    };
    // The last one keeps its place: it has every commit as long as none gets past it.
    does(&lonely("b", "b"), &[]);
    does(&lonely("", ""), &[names(NOBODY)]);
    does(&lonely("", NOBODY), &[]);
    does(&lonely("", "*"), &[names(NOBODY)]);
    // One that asks to be let go is let go.
    let mut leaving = lonely("b", "b");
    cluster_of(&mut leaving).members[1].tags = tags(json!({"nosync": true, "sync_priority": 0}));
    does(&leaving, &[put("a", 0, ""), names(NOBODY)]);
    // And somebody who comes takes the place of nobody.
    let scene = leading(strict(), key("a", 0, ""), NOBODY);
    does(&scene, &[names("b")]);
}

/// Pitfall 13: whoever changed the parameter, the key must not name a standby that commits do not wait for.
#[test]
fn a_parameter_that_drifted_is_repaired_after_the_key() {
    for in_force in ["", "c", "*", "1 (c,b)"] {
        let mut scene = leading(on(), key("a", 0, "b"), "b");
        scene.view.pg.server.as_mut().expect("running").synchronous_standby_names = in_force.to_owned();
        does(&scene, &[put("a", 0, ""), names("b")]);
    }
}

#[test]
fn the_mode_is_turned_off_key_first() {
    let mut scene = leading(json!({}), key("a", 0, "b"), "b");
    does(&scene, &["delete sync".to_owned(), "SetStandbyNames(None)".to_owned()]);
    // The user's own value is no business of ours.
    cluster_of(&mut scene).sync = None;
    scene.memory.names_managed = false;
    scene.view.pg.server.as_mut().expect("running").synchronous_standby_names = "*".to_owned();
    does(&scene, &[]);
    // A standby gives its file back, too.
    let mut standby = Scene::of("b", "a");
    standby.memory.names_managed = true;
    standby.play().expect("follow", &["Disarm", "SetStandbyNames(None)"]);
}

#[test]
fn a_standby_cluster_has_no_synchronous_mode() {
    let config = json!({"synchronous_mode": true, "standby_cluster": {"host": "10.0.0.1"}});
    let mut scene = leading(config, None, "");
    scene.memory.names_managed = false;
    let effects = scene.play().effects();
    assert!(!effects.iter().any(|effect| effect.contains("sync") || effect.contains("Names")), "{effects:?}");
}

#[test]
fn quorum_mode_names_all_voters() {
    let mut scene = leading(quorum(), key("a", 0, ""), "");
    does(&scene, &[names("ANY 1 (b,c)")]);
    scene = leading(quorum(), key("a", 0, ""), "ANY 1 (b,c)");
    does(&scene, &[put("a", 1, "b,c")]);
    // Two confirmations: first the rule.
    let two = json!({"synchronous_mode": "quorum", "synchronous_node_count": 2});
    does(&leading(two, key("a", 1, "b c"), "ANY 1 (b,c)"), &[names("ANY 2 (b,c)")]);
    // One of the voters may not lead: it is needed only to reach the count.
    let mut scene = leading(quorum(), key("a", 0, ""), "");
    cluster_of(&mut scene).members[1].tags = tags(json!({"nofailover": true}));
    does(&scene, &[names("ANY 1 (c)")]);
}

/// Pitfall 15: a replica joins and is gone before it was ever a voter.
#[test]
fn a_replica_that_joins_and_drops_at_once_leaves_nothing_behind() {
    let mut scene = leading(quorum(), key("a", 1, "b c"), "ANY 1 (b,c)");
    let mut d = sender(&mut scene, "c").clone();
    d.application_name = "d".to_owned();
    d.sync_state = "async".to_owned();
    scene.view.pg.server.as_mut().expect("running").senders.push(d);
    cluster_of(&mut scene).members.push(member("d", model::Role::Replica, 1000));
    does(&scene, &[put("a", 2, "b,c,d"), names("ANY 1 (b,c,d)")]);
    // Gone between the two writes, and gone after both.
    for in_force in ["ANY 1 (b,c)", "ANY 1 (b,c,d)"] {
        let scene = leading(quorum(), key("a", 2, "b c d"), in_force);
        let expected = match in_force {
            "ANY 1 (b,c)" => vec![put("a", 1, "b,c")],
            _ => vec![names("ANY 1 (b,c)")],
        };
        does(&scene, &expected);
    }
}

fn racing(me: &str, config: Value, sync: Option<Versioned<SyncKey>>) -> Scene {
    let mut scene = Scene::without_leader(me, "a");
    scene.view.settings = settings(config);
    cluster_of(&mut scene).sync = sync;
    scene
}

#[test]
fn a_new_primary_writes_the_key_before_it_is_promoted() {
    let scene = racing("b", on(), key("a", 0, "b"));
    scene.play().expect("lead-promote", &["AcquireLeader", &put("b", 0, ""), "promote"]);
    let scene = racing("b", strict(), key("a", 0, "b c"));
    scene.play().expect("lead-promote", &["AcquireLeader", &names("2 (a,c)"), &put("b", 0, "a,c"), "promote"]);
    let scene = racing("b", quorum(), key("a", 1, "b c"));
    scene.play().expect("lead-promote", &["AcquireLeader", &names("ANY 1 (a,c)"), &put("b", 1, "a,c"), "promote"]);
    // Not written, not promoted.
    let mut scene = racing("b", on(), key("a", 0, "b"));
    scene.put = Outcome::Rejected("changed".into());
    let played = scene.play();
    played.expect("lead-sync", &["AcquireLeader", &put("b", 0, "")]);
    assert!(played.verdict.reason.starts_with("Postponing promotion because"), "{}", played.verdict.reason);
}

/// Found by the simulator (seeds 2055 and 2095): WAL senders of a standby still went by the value before.
#[test]
fn a_standby_that_others_stream_from_waits_until_the_rule_is_in_force() {
    let mut scene = racing("b", strict(), key("a", 0, "b c"));
    let cascading = leading(on(), None, "").view.pg.server.expect("running").senders;
    scene.view.pg.server.as_mut().expect("running").senders = cascading;
    let waiting = scene.play();
    waiting.expect("lead-sync", &["AcquireLeader", &names("2 (a,c)")]);
    // The lock is this node's now, and the value is in force.
    cluster_of(&mut scene).leader = Some(model::Leader { name: "b".to_owned(), version: 8 });
    scene.view.pg.server.as_mut().expect("running").synchronous_standby_names = "2 (a,c)".to_owned();
    scene.memory = waiting.verdict.memory;
    scene.view.now = NOW.plus(Duration::from_millis(900));
    scene.play().expect("lead-sync", &["RenewLeader"]);
    scene.view.now = NOW.plus(Duration::from_millis(1_000));
    scene.play().expect("lead-promote", &["RenewLeader", &put("b", 0, "a,c"), "promote"]);
}

#[test]
fn only_synchronous_standbys_and_the_old_primary_may_take_over() {
    // It has more, and of all that nothing was acknowledged.
    let mut scene = racing("b", on(), key("a", 0, "b"));
    scene.peers.get_mut("c").expect("c").wal = Lsn(2000);
    assert!(scene.play().effects.contains(&Effect::AcquireLeader));
    for config in [on(), json!({"synchronous_mode": true, "synchronous_node_count": 2})] {
        let played = racing("c", config, key("a", 0, "b")).play();
        assert!(played.verdict.reason.contains("not a synchronous standby"), "{}", played.verdict.reason);
    }
    assert!(racing("a", on(), key("a", 0, "")).play().effects.contains(&Effect::AcquireLeader));
    // With the mode off the key says nothing.
    assert!(racing("c", json!({}), key("a", 0, "b")).play().effects.contains(&Effect::AcquireLeader));
}

#[test]
fn in_quorum_mode_a_candidate_must_see_enough_voters() {
    // 1 of 2 confirms: with both of the voters in view every commit is.
    let mut scene = racing("b", quorum(), key("a", 1, "b c"));
    assert!(scene.play().effects.contains(&Effect::AcquireLeader));
    scene.peers.clear();
    let played = scene.play();
    assert!(played.verdict.reason.contains("0 voters are known not to be ahead, 1 are needed"));
    assert!(!played.effects.contains(&Effect::AcquireLeader));
    // One that is ahead lends no vote; one that may not lead does.
    let mut scene = racing("b", quorum(), key("a", 1, "b c"));
    cluster_of(&mut scene).members[2].tags = tags(json!({"nofailover": true}));
    scene.peers.get_mut("c").expect("c").tags = tags(json!({"nofailover": true}));
    assert!(scene.play().effects.contains(&Effect::AcquireLeader));
    scene.peers.get_mut("c").expect("c").wal = Lsn(1001);
    assert!(!scene.play().effects.contains(&Effect::AcquireLeader));
    // Somebody who is no voter needs one more.
    let mut scene = racing("b", quorum(), key("a", 1, "c d"));
    assert!(!scene.play().effects.contains(&Effect::AcquireLeader));
    cluster_of(&mut scene).members.push(member("d", model::Role::Replica, 1000));
    scene.peers.insert("d".into(), standby_answer(1000));
    assert!(scene.play().effects.contains(&Effect::AcquireLeader));
    // Who wrote the key has everything.
    let mut scene = racing("a", quorum(), key("a", 1, "b c"));
    scene.peers.clear();
    assert!(scene.play().effects.contains(&Effect::AcquireLeader));
}

/// Pitfall 10, in quorum mode: priorities count among voters only, and not for the old primary.
#[test]
fn priorities_count_among_voters() {
    let preferred = || model::peer::PeerAnswer { tags: tags(json!({"failover_priority": 9})), ..standby_answer(1000) };
    let mut scene = racing("b", quorum(), key("a", 1, "b c"));
    scene.peers.insert("a".into(), preferred());
    assert!(scene.play().effects.contains(&Effect::AcquireLeader));
    scene.peers.insert("c".into(), preferred());
    assert!(!scene.play().effects.contains(&Effect::AcquireLeader));
}

#[test]
fn requests_of_operators() {
    let request = |leader: Option<&str>, candidate: &str| {
        let value = FailoverKey {
            leader: leader.map(str::to_owned),
            candidate: Some(candidate.to_owned()),
            scheduled_at: None,
        };
        Some(Versioned { value, version: 4 })
    };
    // A failover to a named node is the operator's decision; a switchover loses nothing.
    let mut scene = racing("c", on(), key("a", 0, "b"));
    cluster_of(&mut scene).failover = request(None, "c");
    assert!(scene.play().effects.contains(&Effect::AcquireLeader));
    cluster_of(&mut scene).failover = request(Some("a"), "c");
    assert!(!scene.play().effects.contains(&Effect::AcquireLeader));
    // The old leader died in the middle of a switchover: whoever has the votes shall lead.
    let mut scene = racing("b", quorum(), key("a", 1, "b c"));
    cluster_of(&mut scene).failover = request(Some("a"), "b");
    scene.peers.get_mut("c").expect("c").wal = Lsn(1001);
    scene.play().expect("race-unfit", &["put failover {}", "Disarm"]);
    // Seen from the leader.
    let mut scene = leading(on(), key("a", 0, "b"), "b");
    cluster_of(&mut scene).failover = request(Some("a"), "c");
    let effects = scene.play().effects();
    assert_eq!(effects, ["RenewLeader", "put failover {}"]);
    cluster_of(&mut scene).failover = request(Some("a"), "b");
    scene.play().expect("switchover", &["RenewLeader", "stop Fast Switchover"]);
    cluster_of(&mut scene).failover = request(None, "c");
    scene.play().expect("switchover", &["RenewLeader", "stop Fast Switchover"]);
}

/// A synchronous standby is let go before it stops: commits would wait for it.
#[test]
fn a_synchronous_standby_leaves_before_it_stops() {
    let restart = RequestKind::Restart { filter: RestartFilter::default(), timeout_s: None };
    let mut scene = Scene::of("b", "a");
    scene.view.settings = settings(on());
    scene.memory.names_managed = true;
    cluster_of(&mut scene).sync = key("a", 0, "b");
    scene.view.requests = vec![Request { id: 1, kind: restart }];
    let waiting = scene.play();
    waiting.expect("follow", &["Disarm"]);
    assert_eq!(waiting.record().tags, tags(json!({"nosync": true, "sync_priority": 0})));
    let stop = "stop Fast Restart";
    // Let go, or after two loop_wait without being let go.
    scene.memory = waiting.verdict.memory;
    scene.view.now = NOW.plus(Duration::from_secs(21));
    assert!(scene.play().effects().contains(&stop.to_owned()));
    scene.view.now = NOW.plus(Duration::from_secs(1));
    cluster_of(&mut scene).sync = key("a", 0, "c");
    assert!(scene.play().effects().contains(&stop.to_owned()));

    let mut scene = Scene::of("b", "a");
    scene.view.settings = settings(on());
    cluster_of(&mut scene).sync = key("a", 0, "b");
    scene.view.shutdown = true;
    let waiting = scene.play();
    waiting.expect("shutdown", &[]);
    assert!(waiting.record().tags.nosync());
    cluster_of(&mut scene).sync = key("a", 0, "");
    scene.play().expect("shutdown", &["stop Fast Shutdown"]);
}

#[test]
fn a_synchronous_standby_is_not_replaced_by_a_copy() {
    let mut scene = Scene::of("b", "a");
    scene.view.settings = settings(on());
    scene.memory.names_managed = true;
    scene.memory.reinit = Some(false);
    cluster_of(&mut scene).sync = key("a", 0, "b");
    scene.play().expect("reinit", &["Disarm"]);
    cluster_of(&mut scene).sync = key("a", 0, "");
    scene.play().expect("reinit", &["Disarm", "stop Immediate Rebuild"]);
}

#[test]
fn nobody_gives_way_to_a_node_that_may_lack_commits() {
    let mut scene = Scene::of("a", "a").pg_down(model::pg::ControlState::InProduction);
    scene.view.settings = settings(json!({"synchronous_mode": true, "primary_start_timeout": 0}));
    cluster_of(&mut scene).sync = key("a", 0, "");
    scene.play().expect("recover-primary", &["RenewLeader", "start primary"]);
    cluster_of(&mut scene).sync = key("a", 0, "b");
    scene.play().expect("recover-give-up", &["ReleaseLeader", "Disarm"]);
}

#[test]
fn voters_are_managed_during_the_checkpoint_after_a_promotion() {
    let scene = leading(on(), key("a", 0, ""), "").running(Task::Checkpoint, None);
    scene.play().expect("task-running", &["RenewLeader", &names("b")]);
    let stop = Task::Stop { mode: StopMode::Fast, checkpoint: true, purpose: StopPurpose::Restart };
    let scene = leading(on(), key("a", 0, ""), "").running(stop, None);
    scene.play().expect("task-running", &["RenewLeader"]);
}

#[test]
fn primary_race_backoff_leaves_the_lock_to_a_primary_that_still_sends() {
    let mut scene = racing("b", json!({"primary_race_backoff": 30}), None);
    scene.memory.wal_advanced = Some((Lsn(900), NOW));
    let mut after = |seconds: u64, position: u64| {
        scene.view.now = NOW.plus(Duration::from_secs(seconds));
        let server = scene.view.pg.server.as_mut().expect("running");
        (server.receive_lsn, server.replay_lsn) = (Some(Lsn(position)), Some(Lsn(position)));
        let played = scene.play();
        let races = played.effects.contains(&Effect::AcquireLeader);
        if !races {
            scene.memory = played.verdict.memory;
        }
        races
    };
    assert!(!after(0, 1000), "the first loop_wait is always waited for");
    assert!(!after(9, 1000));
    assert!(!after(15, 1001), "WAL still arrives");
    assert!(!after(25, 1001));
    assert!(after(26, 1001), "nothing arrived for a loop_wait");
    assert!(after(31, 1002), "enough");
}
