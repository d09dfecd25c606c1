//! All states that four nodes can get into, explored to the end: commits, standbys that fall behind and catch up, members
//! that come and go, changed settings, agents that forget, and takeovers, in any order, between any two changes.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::*;

const NODES: [&str; 4] = ["a", "b", "c", "d"];

/// A set of nodes as bits.
type Set = u8;

/// What a decision depends on: leader, voters, quorum, listed, num, caught up.
type Known = (u8, Set, u8, Set, u8, Set);

/// A state of the world: what is written, and what each standby has in truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct World {
    leader: u8,
    voters: Set,
    quorum: u8,
    listed: Set,
    num: u8,
    /// Who has every acknowledged commit.
    has: Set,
    /// Who has flushed what was written when the commit rule came into force.
    caught_up: Set,
    /// Something was acknowledged after that.
    acked_since: bool,
}

fn names(set: Set) -> Names {
    (0..4).filter(|n| set >> n & 1 == 1).map(|n| NODES[n].to_owned()).collect()
}

fn bits(names: &Names) -> Set {
    names.iter().map(|name| 1 << NODES.iter().position(|node| node == name).expect("a node")).sum()
}

fn subsets(of: Set) -> impl Iterator<Item = Set> {
    (0..16).filter(move |set| set & of == *set)
}

fn count(set: Set) -> u8 {
    set.count_ones() as u8
}

impl World {
    fn standbys(&self) -> Set {
        0b1111 & !(1 << self.leader)
    }

    fn state(&self) -> State {
        State {
            key: Electorate { voters: names(self.voters), quorum: self.quorum.into() },
            rule: CommitRule { names: names(self.listed), num: self.num.into() },
            caught_up: names(self.caught_up),
        }
    }

    fn with_key(self, key: &Electorate) -> World {
        World { voters: bits(&key.voters), quorum: key.quorum as u8, ..self }
    }

    /// The rule is in force from now on: those that have flushed everything, whoever they are, have caught up with it.
    fn with_rule(self, rule: &CommitRule) -> Vec<World> {
        let next = World { listed: bits(&rule.names), num: rule.num as u8, acked_since: false, ..self };
        subsets(self.has).map(|caught_up| World { caught_up, ..next }).collect()
    }

    /// What may happen at any time.
    fn happens(self) -> Vec<World> {
        let mut all = Vec::new();
        for has in subsets(self.standbys()).filter(|has| count(has & self.listed) >= self.num) {
            all.push(World { has, caught_up: self.caught_up | has, acked_since: true, ..self });
        }
        for node in (0..4).map(|n| 1 << n).filter(|node| self.standbys() & node != 0) {
            all.push(World { has: self.has | node, caught_up: self.caught_up | node, ..self });
            if self.acked_since {
                all.push(World { caught_up: self.caught_up | node, ..self });
            }
        }
        // The agent forgets when the rule came into force, and takes the present moment for it.
        all.extend(self.with_rule(&self.state().rule));
        for next in (0..4u8).filter(|next| self.has >> next & 1 == 1) {
            let target = before_promotion(&self.state().key, NODES[self.leader as usize], NODES[next as usize]);
            let has = (self.has | 1 << self.leader) & !(1 << next);
            let promoted = World { leader: next, has, ..self }.with_key(&target.key);
            all.extend(promoted.with_rule(&target.rule));
        }
        all
    }

    /// Every `quorum + 1` voters hold, among them, every acknowledged commit.
    fn assert_safe(&self, how: &str) {
        let lacking = count(self.voters & !self.has);
        assert!(
            lacking <= self.quorum || self.quorum + 1 > count(self.voters),
            "{how}: {lacking} voters may lack commits in {self:?}"
        );
    }
}

fn targets(standbys: Set) -> Vec<Target> {
    let mut all = Vec::new();
    for set in subsets(standbys) {
        all.push(Target::all_of(names(set)));
        all.extend((1..=count(set)).map(|num| Target::quorum_of(names(set), num.into())));
    }
    all
}

#[test]
fn no_order_of_events_loses_an_acknowledged_commit() {
    let start =
        World { leader: 0, voters: 0, quorum: 0, listed: 0, num: 0, has: 0b1110, caught_up: 0, acked_since: false };
    let targets: BTreeMap<u8, Vec<Target>> = (0..4).map(|leader| (leader, targets(0b1111 & !(1 << leader)))).collect();
    // What is decided depends on less than the whole world.
    let mut decided: HashMap<Known, Vec<Move>> = HashMap::new();
    let (mut seen, mut open) = (HashSet::from([start]), vec![start]);
    let mut moves_seen = 0;
    while let Some(world) = open.pop() {
        let key = (world.leader, world.voters, world.quorum, world.listed, world.num, world.caught_up);
        let moves = decided.entry(key).or_insert_with(|| {
            let state = world.state();
            let mut moves: Vec<Move> = Vec::new();
            for next in targets[&world.leader].iter().filter_map(|target| state.next(target)) {
                if !moves.contains(&next) {
                    moves.push(next);
                }
            }
            moves
        });
        let mut next: Vec<World> = Vec::new();
        for change in moves.iter() {
            moves_seen += 1;
            match change {
                Move::Key(key) => next.push(world.with_key(key)),
                Move::Rule(rule) => next.extend(world.with_rule(rule)),
            }
        }
        next.iter().for_each(|after| after.assert_safe(&format!("after {world:?}")));
        let happened = world.happens();
        happened.iter().for_each(|after| after.assert_safe(&format!("{world:?} goes on")));
        next.extend(happened);
        open.extend(next.into_iter().filter(|world| seen.insert(*world)));
    }
    assert!(seen.len() > 5_000 && moves_seen > 50_000, "{} states, {moves_seen} moves", seen.len());
}

/// Plays until the target is reached, everybody catching up after each change; returns the changes.
fn way(mut state: State, target: &Target) -> Vec<Move> {
    let mut moves = Vec::new();
    while let Some(next) = state.next(target) {
        moves.push(next.clone());
        match next {
            Move::Key(key) => state.key = key,
            Move::Rule(rule) => {
                state.caught_up.clone_from(&rule.names);
                state.rule = rule;
            }
        }
        assert!(moves.len() <= 6, "no end: {moves:?}");
    }
    assert_eq!((&state.key, &state.rule), (&target.key, &target.rule), "{moves:?}");
    moves
}

#[test]
fn every_target_is_reached_from_every_other_and_after_drift() {
    let all = targets(0b1110);
    for from in &all {
        for to in &all {
            way(State { key: from.key.clone(), rule: from.rule.clone(), caught_up: from.rule.names.clone() }, to);
            // Somebody else changed the commit rule.
            way(State { key: from.key.clone(), rule: to.rule.clone(), caught_up: Names::new() }, from);
        }
    }
}

fn set(text: &str) -> Names {
    text.split_whitespace().map(str::to_owned).collect()
}

fn shown(moves: &[Move]) -> Vec<String> {
    let join = |names: &Names| names.iter().cloned().collect::<Vec<_>>().join(",");
    let show = |change: &Move| match change {
        Move::Key(key) => format!("key [{}] {}", join(&key.voters), key.quorum),
        Move::Rule(rule) => format!("{} of ({})", rule.num, join(&rule.names)),
    };
    moves.iter().map(show).collect()
}

fn at(target: &Target) -> State {
    State { key: target.key.clone(), rule: target.rule.clone(), caught_up: target.rule.names.clone() }
}

#[test]
fn ways_worth_knowing() {
    let on = |names: &str| Target::all_of(set(names));
    let any = |num: usize, names: &str| Target::quorum_of(set(names), num);
    for (what, from, to, expected) in [
        ("the first", on(""), on("b"), &["1 of (b)", "key [b] 0"][..]),
        ("the last goes", on("b"), on(""), &["key [] 0", "0 of ()"]),
        ("one for another", on("b"), on("c"), &["key [] 0", "1 of (c)", "key [c] 0"]),
        ("one of two replaced", on("b c"), on("c d"), &["key [c] 0", "2 of (c,d)", "key [c,d] 0"]),
        ("first voters", any(1, ""), any(1, "b c"), &["1 of (b,c)", "key [b,c] 1"]),
        ("a voter comes", any(1, "b c"), any(1, "b c d"), &["key [b,c,d] 2", "1 of (b,c,d)"]),
        ("a voter goes", any(1, "b c d"), any(1, "b c"), &["1 of (b,c)", "key [b,c] 1"]),
        ("more confirmations", any(1, "b c"), any(2, "b c"), &["2 of (b,c)", "key [b,c] 0"]),
        ("fewer confirmations", any(2, "b c"), any(1, "b c"), &["key [b,c] 1", "1 of (b,c)"]),
        ("on to quorum", on("b"), any(1, "b c"), &["key [b,c] 1", "1 of (b,c)"]),
        ("quorum to on", any(1, "b c"), on("b"), &["1 of (b)", "key [b] 0"]),
    ] {
        assert_eq!(shown(&way(at(&from), &to)), expected, "{what}");
    }
}

#[test]
fn who_has_not_caught_up_is_not_named() {
    let target = Target::all_of(set("b c"));
    let mut state = State { rule: target.rule.clone(), ..State::default() };
    assert_eq!(state.next(&target), None);
    state.caught_up = set("c");
    assert_eq!(shown(&[state.next(&target).expect("a change")]), ["key [c] 0"]);
    // Two voters of which any two are needed: one of them suffices.
    let target = Target::quorum_of(set("b c"), 1);
    let state = State { rule: target.rule.clone(), caught_up: set("c"), ..State::default() };
    assert_eq!(shown(&[state.next(&target).expect("a change")]), ["key [b,c] 1"]);
}

/// Pitfall 13.
#[test]
fn a_rule_that_drifted_narrows_the_key_at_once() {
    let on = at(&Target::all_of(set("b c")));
    for (rule, expected) in [
        (CommitRule::default(), "key [] 0"),
        (CommitRule { names: set("b"), num: 1 }, "key [b] 0"),
        (CommitRule { names: set("b c"), num: 1 }, "key [b,c] 1"),
        (CommitRule { names: set("b c d"), num: 2 }, "key [b,c] 1"),
    ] {
        let state = State { rule, ..on.clone() };
        let target = Target { key: on.key.clone(), rule: on.rule.clone() };
        assert_eq!(shown(&[state.next(&target).expect("a change")]), [expected]);
    }
}

#[test]
fn a_new_primary_takes_the_old_ones_voters() {
    let key = |voters: &str, quorum| Electorate { voters: set(voters), quorum };
    for (before, me, expected) in [
        (key("b c", 1), "b", &["key [a,c] 1", "1 of (a,c)"][..]),
        (key("b c", 0), "b", &["key [a,c] 0", "2 of (a,c)"]),
        (key("b c", 1), "d", &["key [a,b,c] 1", "2 of (a,b,c)"]),
        (key("b c", 1), "a", &["key [b,c] 1", "1 of (b,c)"]),
        (key("", 0), "a", &["key [] 0", "0 of ()"]),
    ] {
        let Target { key, rule } = before_promotion(&before, "a", me);
        assert_eq!(shown(&[Move::Key(key), Move::Rule(rule)]), expected, "{before:?} {me}");
    }
}
