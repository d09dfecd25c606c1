//! Agents that freeze, die and come back.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use agent::clock::boot_now;
use agent::sentinel::proc;
use rustix::process::Signal;

use crate::world::{KILL_WITHIN, World, succeed, until};

#[test]
fn writes_stop_at_the_deadline_of_a_frozen_agent() {
    let mut world = World::start();
    succeed(world.psql().args(["-c", "create table t (at timestamptz)"]));
    // A client that commits all the time, a backend that pays no attention to signals for long, and a child of a
    // backend that is not PostgreSQL.
    let commits = "begin; insert into t values (clock_timestamp()); commit;\n".repeat(200_000);
    let mut writer = world.psql().stdin(Stdio::piped()).stderr(Stdio::null()).spawn().expect("psql");
    let mut stdin = writer.stdin.take().expect("piped");
    let feeder = std::thread::spawn(move || drop(stdin.write_all(commits.as_bytes())));
    let program = "copy (select 1) to program 'exec sleep 86399'";
    let mut copying = world.psql().args(["-c", program]).stderr(Stdio::null()).spawn().expect("psql");
    let written =
        || succeed(world.psql().args(["-c", "select count(*) from t"])).trim().parse::<u64>().expect("a number");
    until("the writer writes", || (written() > 10).then_some(()));
    let sleeper = until("the program runs", || {
        let below = proc::descendants(&proc::all(), &world.servers().iter().map(|id| id.pid).collect());
        below.into_iter().map(|stat| stat.id).find(|id| {
            std::fs::read_to_string(format!("/proc/{}/cmdline", id.pid)).is_ok_and(|line| line == "sleep\x0086399\0")
        })
    });

    let mut guard = world.guard();
    let deadline = guard.arm(1500);
    guard.id().signal(Signal::STOP);
    let deadline_wall = jiff::Timestamp::now() + deadline.since(boot_now());
    world.assert_killed_at(deadline);
    // It was killed with the servers; dying may take it a moment longer than them.
    until("the child of PostgreSQL is gone", || sleeper.alive().is_none().then_some(()));
    for child in [&mut writer, &mut copying] {
        assert!(!child.wait().expect("psql ends").success());
    }
    feeder.join().expect("the feeder ends");

    // What was committed, in the server's own words.
    world.reap_postgres();
    world.start_postgres();
    let last = succeed(world.psql().args([
        "-c",
        "set timezone to 'UTC'",
        "-c",
        "select to_char(max(at), 'YYYY-MM-DD\"T\"HH24:MI:SS.USZ') from t",
    ]));
    let last: jiff::Timestamp = last.trim().parse().expect("a timestamp");
    assert!(last <= deadline_wall + KILL_WITHIN, "committed at {last}, deadline {deadline_wall}");
    assert!(last >= deadline_wall - Duration::from_millis(1000), "the writer stopped by itself at {last}");

    // The agent thaws: what it starts without the lease is not the sentinel's business any more.
    let fresh = world.servers();
    guard.id().signal(Signal::CONT);
    assert!(guard.arm(60_000) > deadline);
    guard.disarm();
    assert!(fresh.first().expect("PostgreSQL runs").alive().is_some());
}

#[test]
fn the_sentinel_of_a_dead_agent_keeps_the_deadline_and_serves_its_successor() {
    let world = World::start();
    let mut first = world.guard();
    let deadline = first.arm(2000);
    let sentinel = world.sentinel().expect("a sentinel");
    first.kill();
    let mut second = world.guard();
    assert!(second.arm(60_000) > deadline);
    assert_eq!(world.sentinel(), Some(sentinel), "another sentinel was started beside the first");
    world.assert_outlives(deadline);
    // Its successor dies, too, and nobody comes.
    let deadline = second.arm(1500);
    second.kill();
    world.assert_killed_at(deadline);
    until("the sentinel ends", || sentinel.alive().is_none().then_some(()));
}

#[test]
fn a_disarmed_sentinel_does_nothing_and_ends_without_an_agent() {
    let world = World::start();
    let mut guard = world.guard();
    let deadline = guard.arm(1500);
    let sentinel = world.sentinel().expect("a sentinel");
    guard.disarm();
    world.assert_outlives(deadline);
    assert!(sentinel.alive().is_some(), "it stays while an agent is connected");
    guard.kill();
    until("the sentinel ends", || sentinel.alive().is_none().then_some(()));
    assert!(!world.servers().is_empty());
}

#[test]
fn a_killed_or_stuck_sentinel_is_replaced_and_a_lost_pid_file_saves_nobody() {
    let world = World::start();
    let mut guard = world.guard();
    guard.arm(60_000);
    let first = world.sentinel().expect("a sentinel");
    first.signal(Signal::TERM);
    first.signal(Signal::HUP);
    guard.arm(60_000);
    assert_eq!(world.sentinel(), Some(first), "a terminated group must not disarm it");
    first.signal(Signal::KILL);
    let second = until("a new sentinel", || world.sentinel().filter(|id| *id != first));

    second.signal(Signal::STOP);
    // Confirmed by a successor, where one could be started in time; never by the one that stands still.
    let answer = guard.ask("arm 60000");
    assert!(answer.starts_with("error ") || world.sentinel() != Some(second), "{answer}");
    until("a third sentinel", || world.sentinel().filter(|id| *id != second));
    let deadline = guard.arm(1500);
    guard.id().signal(Signal::STOP);
    std::fs::remove_file(world.data_dir.join("postmaster.pid")).expect("the pid file");
    world.assert_killed_at(deadline);
}
