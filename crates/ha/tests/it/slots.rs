//! Replication slots: the plan, who keeps which, and logical slots on standbys.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ha::Effect;
use ha::slots::{Plan, Server, WantedSlot, plan};
use ha::step::{Outcome, Task};
use model::slots::{Slot, SlotChange, SlotKind, SlotMatcher, Xid};
use model::{Lsn, Member, Role, Tags};
use serde_json::{Value, json};

use crate::scene::*;

fn physical(name: &str) -> Slot {
    Slot { name: name.to_owned(), restart_lsn: Some(Lsn(100)), ..Slot::default() }
}

fn logical(name: &str) -> Slot {
    Slot {
        logical: true,
        database: Some("db".to_owned()),
        plugin: Some("test_decoding".to_owned()),
        confirmed_flush_lsn: Some(Lsn(100)),
        has_xmin: true,
        catalog_xmin: Some(Xid(700)),
        ..physical(name)
    }
}

fn wanted(name: &str) -> WantedSlot {
    WantedSlot { name: name.to_owned(), kind: SlotKind::Physical, consumed_here: true, position: Some(Lsn(200)) }
}

fn elsewhere(name: &str) -> WantedSlot {
    WantedSlot { consumed_here: false, ..wanted(name) }
}

fn wanted_logical(name: &str) -> WantedSlot {
    let (database, plugin) = ("db".to_owned(), "test_decoding".to_owned());
    WantedSlot { kind: SlotKind::Logical { database, plugin }, consumed_here: false, ..wanted(name) }
}

/// What it shows, the server, its slots, those wanted, and the plan in short.
type Row = (&'static str, Server<'static>, Vec<Slot>, Vec<WantedSlot>, &'static str);

/// Changes in short: `-a` drop, `+a` create, `a>200` advance, `a=` copy.
fn short(plan: &Plan) -> String {
    let change = |change: &SlotChange| match change {
        SlotChange::Drop { name } => format!("-{name}"),
        SlotChange::CreatePhysical { name } => format!("+{name}"),
        SlotChange::CreateLogical { name, database, plugin } => format!("+{name}({database},{plugin})"),
        SlotChange::Advance { name, to, database: None } => format!("{name}>{}", to.0),
        SlotChange::Advance { name, to, database: Some(database) } => format!("{name}({database})>{}", to.0),
    };
    let copies = plan.copies.iter().map(|name| format!("{name}="));
    plan.changes.iter().map(change).chain(copies).collect::<Vec<_>>().join(" ")
}

const PRIMARY: Server<'static> =
    Server { version_num: 150_000, standby: None, slots: &[], ignore: &[], keep_unknown: false };
const STANDBY: Server<'static> = Server { standby: Some(Some(Lsn(1000))), ..PRIMARY };

#[test]
fn the_plan_of_physical_slots() {
    let active = |slot: Slot| Slot { active: true, ..slot };
    let table: Vec<Row> = vec![
        ("missing: made", PRIMARY, vec![], vec![wanted("a")], "+a"),
        ("missing on a standby: made", STANDBY, vec![], vec![elsewhere("a")], "+a"),
        ("there: nothing", PRIMARY, vec![physical("a")], vec![wanted("a")], ""),
        ("unknown: dropped", PRIMARY, vec![physical("a")], vec![], "-a"),
        ("unknown and logical: dropped", PRIMARY, vec![logical("a")], vec![], "-a"),
        ("unknown on a standby: dropped", STANDBY, vec![physical("a"), logical("b")], vec![], "-a -b"),
        ("unknown and in use: never dropped", PRIMARY, vec![active(physical("a"))], vec![], ""),
        ("unknown while paused: kept", Server { keep_unknown: true, ..PRIMARY }, vec![physical("a")], vec![], ""),
        ("temporary: nobody's", PRIMARY, vec![Slot { temporary: true, ..physical("a") }], vec![], ""),
        ("wrong kind: made anew", PRIMARY, vec![logical("a")], vec![wanted("a")], "-a +a"),
        ("wrong kind in use: left", PRIMARY, vec![active(logical("a"))], vec![wanted("a")], ""),
        ("its WAL is lost: made anew", PRIMARY, vec![Slot { lost: true, ..physical("a") }], vec![wanted("a")], "-a +a"),
        (
            "keeps no WAL: made anew",
            PRIMARY,
            vec![Slot { restart_lsn: None, ..physical("a") }],
            vec![wanted("a")],
            "-a +a",
        ),
        ("consumer elsewhere: moved", STANDBY, vec![physical("a")], vec![elsewhere("a")], "a>200"),
        ("cascading member's slot on the primary: moved", PRIMARY, vec![physical("a")], vec![elsewhere("a")], "a>200"),
        ("consumer here: it moves itself", STANDBY, vec![physical("a")], vec![wanted("a")], ""),
        (
            "position behind: nothing",
            STANDBY,
            vec![physical("a")],
            vec![WantedSlot { position: Some(Lsn(50)), ..elsewhere("a") }],
            "",
        ),
        (
            "position unknown: nothing",
            STANDBY,
            vec![physical("a")],
            vec![WantedSlot { position: None, ..elsewhere("a") }],
            "",
        ),
        ("in use: not moved", STANDBY, vec![active(physical("a"))], vec![elsewhere("a")], ""),
        (
            "pitfall 17, never past replay",
            Server { standby: Some(Some(Lsn(150))), ..STANDBY },
            vec![physical("a")],
            vec![elsewhere("a")],
            "a>150",
        ),
        (
            "replay unknown: not moved",
            Server { standby: Some(None), ..STANDBY },
            vec![physical("a")],
            vec![elsewhere("a")],
            "",
        ),
        (
            "pitfall 16, unused with xmin: made anew",
            STANDBY,
            vec![Slot { has_xmin: true, ..physical("a") }],
            vec![elsewhere("a")],
            "-a +a",
        ),
        (
            "pitfall 14, an absent consumer's slot on its primary keeps its place",
            PRIMARY,
            vec![Slot { has_xmin: true, ..physical("a") }],
            vec![wanted("a")],
            "",
        ),
        (
            "before 11 nothing moves",
            Server { version_num: 100_000, ..STANDBY },
            vec![physical("a")],
            vec![elsewhere("a")],
            "",
        ),
        ("before 9.4 there are no slots", Server { version_num: 90_300, ..PRIMARY }, vec![], vec![wanted("a")], ""),
        ("since 9.4 there are", Server { version_num: 90_400, ..PRIMARY }, vec![], vec![wanted("a")], "+a"),
        ("drops come first", PRIMARY, vec![physical("z")], vec![wanted("a"), wanted("b")], "-z +a +b"),
    ];
    for (name, server, slots, wanted, expected) in table {
        assert_eq!(short(&plan(&Server { slots: &slots, ..server }, &wanted)), expected, "{name}");
    }
}

#[test]
fn the_plan_of_logical_slots() {
    let other = |change: fn(&mut Slot)| {
        let mut slot = logical("l");
        change(&mut slot);
        vec![slot]
    };
    let l = || vec![wanted_logical("l")];
    let table: Vec<Row> = vec![
        ("primary, missing: made in its database", PRIMARY, vec![], l(), "+l(db,test_decoding)"),
        ("primary, there: nothing", PRIMARY, other(|_| {}), l(), ""),
        (
            "primary, another plugin: made anew",
            PRIMARY,
            other(|slot| slot.plugin = Some("x".into())),
            l(),
            "-l +l(db,test_decoding)",
        ),
        (
            "primary, another database: made anew",
            PRIMARY,
            other(|slot| slot.database = Some("x".into())),
            l(),
            "-l +l(db,test_decoding)",
        ),
        ("primary, physical: made anew", PRIMARY, vec![physical("l")], l(), "-l +l(db,test_decoding)"),
        ("primary, lost: made anew", PRIMARY, other(|slot| slot.lost = true), l(), "-l +l(db,test_decoding)"),
        ("standby, missing: copied", STANDBY, vec![], l(), "l="),
        (
            "standby, missing, not on the primary yet: waits",
            STANDBY,
            vec![],
            vec![WantedSlot { position: None, ..wanted_logical("l") }],
            "",
        ),
        ("standby, behind: moved in its database", STANDBY, other(|_| {}), l(), "l(db)>200"),
        (
            "standby, pitfall 17, never past replay",
            Server { standby: Some(Some(Lsn(150))), ..STANDBY },
            other(|_| {}),
            l(),
            "l(db)>150",
        ),
        ("standby, lost: dropped and copied", STANDBY, other(|slot| slot.lost = true), l(), "-l l="),
        (
            "standby, another plugin: dropped and copied",
            STANDBY,
            other(|slot| slot.plugin = Some("x".into())),
            l(),
            "-l l=",
        ),
        ("standby, in use: left", STANDBY, other(|slot| slot.active = true), l(), ""),
        (
            "standby, holds vacuum back, as it must",
            STANDBY,
            other(|slot| slot.confirmed_flush_lsn = Some(Lsn(200))),
            l(),
            "",
        ),
        ("before 11 there are none", Server { version_num: 100_000, ..PRIMARY }, vec![], l(), ""),
    ];
    for (name, server, slots, wanted, expected) in table {
        assert_eq!(short(&plan(&Server { slots: &slots, ..server }, &wanted)), expected, "{name}");
    }
}

/// Pitfall 17: what PostgreSQL's slot synchronisation looks after is left alone, except for what it cannot get rid of.
#[test]
fn failover_slots_are_left_alone() {
    let failover = |synced| Slot { failover: true, synced, ..logical("l") };
    let since_17 = |server: Server<'static>| Server { version_num: 170_000, ..server };
    for (name, server, slot, wanted, expected) in [
        ("unknown on the primary", since_17(PRIMARY), failover(false), vec![], ""),
        (
            "named, of another plugin, on the primary",
            since_17(PRIMARY),
            Slot { plugin: None, ..failover(false) },
            vec![wanted_logical("l")],
            "",
        ),
        ("PostgreSQL's copy on a standby", since_17(STANDBY), failover(true), vec![], ""),
        ("PostgreSQL's copy, named, is not moved", since_17(STANDBY), failover(true), vec![wanted_logical("l")], ""),
        ("left behind by a former primary", since_17(STANDBY), failover(false), vec![], "-l"),
    ] {
        assert_eq!(short(&plan(&Server { slots: &[slot], ..server }, &wanted)), expected, "{name}");
    }
}

#[test]
fn ignored_slots_match_in_all_that_is_given() {
    for (given, ignored) in [
        (json!({"name": "l"}), true),
        (json!({"name": "x"}), false),
        (json!({"type": "logical"}), true),
        (json!({"type": "physical"}), false),
        (json!({"name": "l", "type": "logical", "database": "db", "plugin": "test_decoding"}), true),
        (json!({"name": "l", "database": "other"}), false),
        (json!({"plugin": "pgoutput"}), false),
    ] {
        let matcher = SlotMatcher { given: serde_json::from_value(given.clone()).expect("a map of texts") };
        let plan = plan(&Server { slots: &[logical("l")], ignore: &[matcher], ..PRIMARY }, &[]);
        assert_eq!(plan.changes.is_empty(), ignored, "{given}");
    }
}

fn changes(scene: &Scene) -> String {
    let played = scene.play();
    let changes = played.effects.iter().find_map(|effect| match effect {
        Effect::SyncSlots(changes) => Some(changes.clone()),
        _ => None,
    });
    short(&Plan { changes: changes.unwrap_or_default(), copies: Vec::new() })
}

fn tags(value: Value) -> Tags {
    serde_json::from_value(value).expect("tags")
}

fn tag(scene: &mut Scene, member: &str, value: Value) {
    if scene.view.node.name == member {
        scene.view.node.tags = tags(value.clone());
    }
    let members = &mut cluster_of(scene).members;
    let member = members.iter_mut().find(|known| known.name == member).expect("a member");
    member.tags = tags(value);
}

fn with_slots(me: &str, leader: &str, slots: Value) -> Scene {
    let mut scene = Scene::of(me, leader);
    scene.view.settings = settings(json!({"slots": slots}));
    scene
}

fn server_of(scene: &mut Scene) -> &mut model::pg::ServerStatus {
    scene.view.pg.server.as_mut().expect("a running server")
}

const LOGICAL: &str = r#"{"l": {"type": "logical", "database": "db", "plugin": "test_decoding"}}"#;

fn logical_config() -> Value {
    serde_json::from_str(LOGICAL).expect("json")
}

#[test]
fn every_node_keeps_a_slot_for_every_other_member() {
    assert_eq!(changes(&Scene::of("a", "a")), "+b +c");
    assert_eq!(changes(&Scene::of("b", "a")), "+a +c");
}

#[test]
fn who_keeps_member_slots() {
    type Change = fn(&mut Scene);
    let cases: Vec<(&str, &str, Change, &str)> = vec![
        ("a member without streaming needs none", "a", |s| tag(s, "c", json!({"nostream": true})), "+b"),
        ("one that never leads keeps none", "b", |s| tag(s, "b", json!({"nofailover": true})), ""),
        (
            "except for those that replicate from it",
            "b",
            |s| {
                tag(s, "b", json!({"nofailover": true}));
                tag(s, "c", json!({"replicatefrom": "b"}));
            },
            "+c",
        ),
        (
            "retention off, primary: direct members",
            "a",
            |s| {
                s.view.settings = settings(json!({"member_slots_ttl": 0}));
                tag(s, "c", json!({"replicatefrom": "b"}));
            },
            "+b",
        ),
        (
            "retention off, standby: its own",
            "b",
            |s| {
                s.view.settings = settings(json!({"member_slots_ttl": 0}));
                tag(s, "c", json!({"replicatefrom": "b"}));
            },
            "+c",
        ),
        (
            "retention off, the source is not there: the primary",
            "a",
            |s| {
                s.view.settings = settings(json!({"member_slots_ttl": 0}));
                tag(s, "c", json!({"replicatefrom": "z"}));
            },
            "+b +c",
        ),
        ("before 11, standby: its own", "b", |s| server_of(s).version_num = 100_000, ""),
        ("use_slots off: none", "a", |s| s.view.settings = settings(json!({"postgresql": {"use_slots": false}})), ""),
        ("before 9.4: none", "a", |s| server_of(s).version_num = 90_300, ""),
        ("without configuration in the store: none", "b", |s| cluster_of(s).config = None, ""),
        (
            "permanent physical: everywhere, but not its own name",
            "b",
            |s| {
                s.view.settings = settings(json!({"slots": {"b": {}, "p": {"type": "physical"}}}));
            },
            "+a +c +p",
        ),
        (
            "permanent physical before 11: not on a standby",
            "b",
            |s| {
                s.view.settings = settings(json!({"slots": {"p": {}}}));
                server_of(s).version_num = 100_000;
            },
            "",
        ),
        (
            "permanent physical before 11: on the primary",
            "a",
            |s| {
                s.view.settings = settings(json!({"slots": {"p": {}}}));
                server_of(s).version_num = 100_000;
            },
            "+b +c +p",
        ),
        (
            "permanent, of standby clusters only",
            "a",
            |s| {
                s.view.settings =
                    settings(json!({"slots": {"p": {"cluster_type": "standby"}, "q": {"cluster_type": "primary"}}}));
            },
            "+b +c +q",
        ),
        (
            "permanent: not where nothing is promoted",
            "b",
            |s| {
                s.view.settings = settings(json!({"slots": {"p": {}}}));
                tag(s, "b", json!({"nofailover": true}));
            },
            "",
        ),
        (
            "permanent logical: made on the primary",
            "a",
            |s| s.view.settings = settings(json!({"slots": logical_config()})),
            "+b +c +l(db,test_decoding)",
        ),
        (
            "permanent logical of a member's name: the member's wins",
            "a",
            |s| {
                s.view.settings =
                    settings(json!({"slots": {"b": {"type": "logical", "database": "d", "plugin": "p"}}}));
            },
            "+b +c",
        ),
        (
            "paused: what is unknown is kept, what is missing made",
            "a",
            |s| {
                s.view.settings = settings(json!({"pause": true}));
                server_of(s).slots = vec![physical("mine"), physical("b")];
            },
            "+c",
        ),
        (
            "ignored: kept",
            "a",
            |s| {
                s.view.settings = settings(json!({"ignore_slots": [{"name": "mine"}]}));
                server_of(s).slots = vec![physical("mine"), physical("b"), physical("c"), physical("other")];
            },
            "-other",
        ),
    ];
    for (name, me, change, expected) in cases {
        let mut scene = Scene::of(me, "a");
        change(&mut scene);
        assert_eq!(changes(&scene), expected, "{name}");
    }
}

#[test]
fn where_a_member_is() {
    let moved = |version: &str, cascades: bool| {
        let mut scene = Scene::of("b", "a");
        server_of(&mut scene).slots = vec![physical("a"), physical("c")];
        let cluster = cluster_of(&mut scene);
        cluster.status.slots = BTreeMap::from([("c".to_owned(), Lsn(300))]);
        cluster.members[0].version = Some(version.to_owned());
        cluster.members[2].xlog_location = Some(Lsn(400));
        if cascades {
            tag(&mut scene, "c", json!({"replicatefrom": "z"}));
            cluster_of(&mut scene).members.push(member("z", Role::Replica, 1000));
        }
        changes(&scene)
    };
    assert_eq!(moved("4.1.5", false), "c>300");
    assert!(moved("3.3.2", false).contains("c>400"));
    assert!(moved("4.1.5", true).contains("c>400"));
}

/// Pitfall 14: the record of the old leader expires during the failover.
#[test]
fn slots_of_absent_members_are_kept_for_a_while() {
    let mut scene = Scene::of("b", "b");
    scene.memory.slots.seen = scene.play().verdict.memory.slots.seen;
    cluster_of(&mut scene).members.retain(|member| member.name != "a");
    server_of(&mut scene).slots = vec![Slot { has_xmin: true, ..physical("a") }, physical("c")];
    let played = scene.play();
    assert!(!played.effects.iter().any(|effect| matches!(effect, Effect::SyncSlots(_))));
    let status = status_of(&played);
    assert_eq!(status["retain_slots"], json!(["a", "b", "c"]), "the leader itself is b");

    // What the leader retains, a standby that has never met the member keeps too.
    let mut standby = Scene::of("c", "b");
    cluster_of(&mut standby).members.retain(|member| member.name != "a");
    cluster_of(&mut standby).status.retain_slots = vec!["a".to_owned(), "c".to_owned()];
    assert_eq!(changes(&standby), "+a +b");

    scene.view.now = NOW.plus(Duration::from_secs(1801));
    assert_eq!(changes(&scene), "-a");
    // A promotion begins the time anew.
    let mut promoted = Scene::of("b", "b");
    promoted.memory.slots.seen = BTreeMap::from([("a".to_owned(), NOW)]);
    promoted.memory.role = Role::Promoted;
    cluster_of(&mut promoted).members.retain(|member| member.name != "a");
    promoted.view.now = NOW.plus(Duration::from_secs(1801));
    server_of(&mut promoted).slots = vec![physical("a"), physical("c")];
    assert_eq!(changes(&promoted), "-a");
    let promoted = promoted.finished(promote_task(), Ok(()));
    assert_eq!(changes(&promoted), "");
}

fn promote_task() -> Task {
    let mut scene = Scene::without_leader("b", "a");
    scene.peers.insert("a".to_owned(), standby_answer(1000));
    let played = scene.play();
    let task = played.effects.iter().find_map(|effect| match effect {
        Effect::StartTask(task @ Task::Promote { .. }) => Some(task.clone()),
        _ => None,
    });
    task.unwrap_or_else(|| panic!("no promotion: {}", played.verdict.reason))
}

fn status_of(played: &Played) -> Value {
    let text = played.effects.iter().find_map(|effect| match effect {
        Effect::Put { key: model::Key::Status, value, .. } => Some(value.clone()),
        _ => None,
    });
    serde_json::from_str(&text.expect("the leader publishes its status")).expect("json")
}

#[test]
fn what_the_leader_publishes_of_slots() {
    let mut scene = with_slots("a", "a", json!({"p": {}}));
    server_of(&mut scene).slots = vec![
        physical("b"),
        physical("p"),
        Slot { confirmed_flush_lsn: Some(Lsn(150)), ..logical("l") },
        Slot { temporary: true, ..physical("t") },
        Slot { failover: true, synced: true, ..logical("copy") },
    ];
    let status = status_of(&scene.play());
    assert_eq!(status["slots"], json!({"a": 1000, "b": 100, "l": 150, "p": 100}));
    assert_eq!(status["retain_slots"], json!(["a", "b", "c"]));
    scene.view.settings = settings(json!({"slots": {"p": {}}, "member_slots_ttl": 0}));
    let status = status_of(&scene.play());
    assert_eq!((&status["slots"], &status["retain_slots"]), (&json!({"a": 1000, "p": 100}), &Value::Null));
}

#[test]
fn the_same_changes_are_not_asked_for_all_the_time() {
    let mut scene = Scene::of("a", "a");
    scene.memory = scene.play().verdict.memory;
    scene.view.now = NOW.plus(Duration::from_millis(9_900));
    assert_eq!(changes(&scene), "", "nothing came of it, and it is early");
    server_of(&mut scene).slots = vec![physical("b")];
    assert_eq!(changes(&scene), "+c", "something else");
    scene.view.now = NOW.plus(Duration::from_secs(10));
    server_of(&mut scene).slots = vec![];
    assert_eq!(changes(&scene), "+b +c");
}

#[test]
fn clashes_of_names_are_spoken_of_once() {
    let mut scene = with_slots("a", "a", json!({"b": {"type": "logical", "database": "d", "plugin": "p"}}));
    cluster_of(&mut scene).members.push(Member { name: "B".to_owned(), ..member("b", Role::Replica, 1000) });
    let played = scene.play();
    let said = played.effects().into_iter().find(|effect| effect.starts_with("log ")).expect("a line");
    assert!(said.contains("members b, B share the replication slot name b"), "{said}");
    assert!(
        said.contains("permanent logical replication slot b is conflicting with the slot of member b, B"),
        "{said}"
    );
    scene.memory = played.verdict.memory;
    assert!(!scene.play().effects().iter().any(|effect| effect.starts_with("log ")));
}

fn feedback(scene: &Scene) -> Option<bool> {
    scene.play().effects.iter().find_map(|effect| match effect {
        Effect::ForceFeedback(on) => Some(*on),
        _ => None,
    })
}

#[test]
fn hot_standby_feedback_is_forced_for_logical_slots() {
    let logical = || with_slots("b", "a", logical_config());
    assert_eq!(feedback(&logical()), Some(true));
    let mut told = logical();
    told.memory.slots.feedback = Some(true);
    assert_eq!(feedback(&told), None, "told already");
    told.view.settings = settings(json!({}));
    assert_eq!(feedback(&told), Some(false), "the slots are gone");
    assert_eq!(feedback(&with_slots("b", "a", json!({"p": {}}))), Some(false), "physical slots do not need it");
    assert_eq!(feedback(&with_slots("a", "a", logical_config())), Some(true), "a primary may follow one day");
    let mut never = logical();
    tag(&mut never, "b", json!({"nofailover": true}));
    assert_eq!(feedback(&never), Some(false), "no slots here");
    tag(&mut never, "c", json!({"replicatefrom": "b"}));
    assert_eq!(feedback(&never), Some(true), "but behind it");
    tag(&mut never, "b", json!({"nostream": true}));
    server_of(&mut never).upstream = None;
    assert_eq!(feedback(&never), Some(false), "nothing flows through it");
    let mut standby_cluster = logical();
    standby_cluster.view.settings = settings(json!({"slots": logical_config(), "standby_cluster": {"host": "x"}}));
    assert_eq!(feedback(&standby_cluster), Some(false));
    let mut old = logical();
    server_of(&mut old).version_num = 100_000;
    assert_eq!(feedback(&old), Some(false));
}

/// A standby that streams and holds back vacuum, and whose leader has the slot.
fn ready_to_copy() -> Scene {
    let mut scene = with_slots("b", "a", logical_config());
    scene.memory.slots.feedback = Some(true);
    server_of(&mut scene).slots = vec![physical("a"), physical("c")];
    cluster_of(&mut scene).status.slots = BTreeMap::from([("l".to_owned(), Lsn(500))]);
    scene
}

#[test]
fn a_missing_logical_slot_is_copied() {
    let scene = ready_to_copy();
    scene.play().expect("follow-copy-slots", &["Disarm", "copy slots l from 127.0.0.1:5432"]);
    type Change = fn(&mut Scene);
    let cases: [(&str, Change); 6] = [
        ("paused", |s| s.view.settings.pause = true),
        ("not streaming", |s| server_of(s).receiver_status = None),
        ("no feedback yet", |s| s.memory.slots.feedback = None),
        ("the leader has none", |s| cluster_of(s).status.slots.clear()),
        ("there", |s| server_of(s).slots.push(logical("l"))),
        ("tried a moment ago", |s| s.memory.slots.copy_not_before = Some(NOW.plus(Duration::from_millis(1)))),
    ];
    for (name, change) in cases {
        let mut scene = ready_to_copy();
        change(&mut scene);
        let effects = scene.play().effects();
        assert!(!effects.iter().any(|effect| effect.starts_with("copy slots")), "{name}: {effects:?}");
    }
}

#[test]
fn a_copy_that_fails_is_tried_again_later_and_blames_nothing_else() {
    let mut scene = ready_to_copy();
    let played = scene.play();
    scene.memory = played.verdict.memory;
    let copy = played.effects.iter().find_map(|effect| match effect {
        Effect::StartTask(task) => Some(task.clone()),
        _ => None,
    });
    let mut scene = scene.finished(copy.expect("a task"), Err("no answer".to_owned()));
    scene.view.now = NOW.plus(Duration::from_secs(59));
    let played = scene.play();
    assert_eq!((played.verdict.rule.name(), played.verdict.memory.retry.failures), ("follow", 0));
    scene.view.now = NOW.plus(Duration::from_secs(60));
    assert_eq!(scene.play().verdict.rule.name(), "follow-copy-slots");
}

#[test]
fn a_copy_is_relied_upon_once_the_primary_keeps_what_it_needs() {
    let mut scene = ready_to_copy();
    let copy = Task::CopySlots { source: upstream("a", "b"), slots: vec!["l".to_owned()] };
    server_of(&mut scene).slots.push(Slot { confirmed_flush_lsn: Some(Lsn(500)), ..logical("l") });
    let mut scene = scene.finished(copy, Ok(()));
    scene.horizons = Ok(BTreeMap::from([("l".to_owned(), Xid(710))]));
    let unready = |scene: &Scene| scene.play().verdict.memory.slots.unready;
    // Our slot on the primary holds nothing yet.
    assert_eq!(unready(&scene), BTreeMap::from([("l".to_owned(), None)]));
    scene.horizons = Ok(BTreeMap::from([("l".to_owned(), Xid(710)), ("b".to_owned(), Xid(700))]));
    scene.memory = scene.play().verdict.memory;
    scene.view.finished = None;
    assert_eq!(scene.memory.slots.unready, BTreeMap::from([("l".to_owned(), Some(Xid(710)))]));
    assert_eq!(unready(&scene).len(), 1, "700 is before 710");
    server_of(&mut scene).slots[2].catalog_xmin = Some(Xid(710));
    let played = scene.play();
    assert_eq!(played.effects(), ["log Logical slot l is safe to be used after a failover"]);
    assert_eq!(played.verdict.memory.slots.unready, BTreeMap::new());
}

#[test]
fn slots_found_on_a_standby_count_as_fresh_copies() {
    let mut scene = ready_to_copy();
    server_of(&mut scene).slots.push(logical("l"));
    let memory = scene.play().verdict.memory;
    assert_eq!(memory.slots.unready.keys().collect::<Vec<_>>(), ["l"]);
    scene.memory = memory;
    scene.memory.slots.unready.clear();
    assert_eq!(scene.play().verdict.memory.slots.unready, BTreeMap::new(), "once");
    let mut primary = with_slots("a", "a", logical_config());
    primary.memory.slots.surveyed = true;
    assert!(!primary.play().verdict.memory.slots.surveyed, "after a demotion anew");
}

#[test]
fn a_promotion_with_unready_slots_warns() {
    let mut scene = Scene::without_leader("b", "a");
    scene.memory.slots.unready = BTreeMap::from([("l".to_owned(), None)]);
    let effects = scene.play().effects();
    let warning = "log Logical replication slots that might be unsafe to use after promote: l";
    assert_eq!(effects, ["AcquireLeader", warning, "promote"], "{effects:?}");
}

#[test]
fn a_standby_asks_with_the_slot_of_its_chain_on_the_primary() {
    let mut scene = ready_to_copy();
    server_of(&mut scene).slots.push(logical("l"));
    tag(&mut scene, "b", json!({"replicatefrom": "c"}));
    server_of(&mut scene).upstream = Some(upstream("c", "b"));
    scene.horizons = Ok(BTreeMap::from([("l".to_owned(), Xid(710)), ("c".to_owned(), Xid(700))]));
    let unready = scene.play().verdict.memory.slots.unready;
    assert_eq!(unready, BTreeMap::from([("l".to_owned(), Some(Xid(710)))]));
}

#[test]
fn slots_wait_for_a_running_task() {
    let checkpoint = Scene::of("a", "a").running(Task::Checkpoint, None);
    assert_eq!(changes(&checkpoint), "");
    let mut failing = Scene::of("a", "a");
    failing.renew = Outcome::Rejected("b holds it".to_owned());
    assert_eq!(changes(&failing), "", "a stop has begun");
    let names: BTreeSet<&str> = ha::rules::RULES.iter().map(|rule| rule.name).collect();
    assert!(names.contains("follow-copy-slots"));
}
