//! What a machine in trouble does to agent, sentinel and PostgreSQL.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use agent::clock::boot_now;
use agent::sentinel::proc::ProcId;
use model::BootTime;
use rustix::process::Signal;

use crate::world::{KILL_WITHIN, World, command, succeed, until};

/// A process that takes all the time it is given, killed with its owner.
struct Hog(Child);

impl Hog {
    /// Two for each processor.
    fn herd() -> Vec<Hog> {
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let spin = |_| Hog(command("/bin/sh").args(["-c", "while :; do :; done"]).spawn().expect("a shell"));
        (0..2 * processors).map(spin).collect()
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An agent that gets a tenth of the time, as one does that is swapped out or in a cgroup with a small `cpu.max`: it
/// renews when it can, and the sentinel goes by what it heard, on processors that are busy with other things.
#[test]
fn an_agent_that_is_starved_keeps_postgresql_exactly_as_long_as_it_renews() {
    let world = World::start();
    let _hogs = Hog::herd();
    let mut guard = world.guard();
    let agent = guard.id();
    guard.arm(5000);
    let starving = Arc::new(AtomicBool::new(true));
    let starver = std::thread::spawn({
        let starving = starving.clone();
        move || {
            while starving.load(Ordering::Relaxed) {
                agent.signal(Signal::STOP);
                std::thread::sleep(Duration::from_millis(90));
                agent.signal(Signal::CONT);
                std::thread::sleep(Duration::from_millis(10));
            }
            agent.signal(Signal::STOP);
        }
    });
    let until_then = Instant::now() + Duration::from_millis(1500);
    let mut deadline = BootTime(0);
    while Instant::now() < until_then {
        deadline = guard.arm(2500);
    }
    starving.store(false, Ordering::Relaxed);
    starver.join().expect("the starver ends");
    world.assert_killed_at(deadline);
}

/// A server that died of a bug or the out-of-memory killer, and one of its backends that has not noticed.
#[test]
fn a_backend_that_outlived_its_postmaster_is_killed_too() {
    let mut world = World::start();
    let mut session = world.psql();
    session.args(["-c", "select 'survivor', pg_sleep(600)"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut session = session.spawn().expect("psql");
    let find = "select pid from pg_stat_activity where query like '%survivor%' and pid <> pg_backend_pid()";
    let backend = until("the session", || succeed(world.psql().args(["-c", find])).trim().parse().ok());
    let backend = ProcId::of(backend).expect("the backend");
    let mut guard = world.guard();
    let deadline = guard.arm(1500);

    backend.signal(Signal::STOP);
    let postmaster = world.postmaster.as_ref().map(|child| child.id() as i32).and_then(ProcId::of);
    postmaster.expect("a postmaster").signal(Signal::KILL);
    world.reap_postgres();
    until("its other children notice", || (world.servers().len() == 1).then_some(()));
    // What a look finds now is the orphan alone.
    let later = guard.arm(1500);
    assert!(later > deadline);
    world.assert_killed_at(later);
    until("the orphan ends", || backend.alive().is_none().then_some(()));
    session.kill().and_then(|()| session.wait()).expect("psql ends");
}

/// Found in review: the number of a postmaster that is gone may be anybody's.
#[test]
fn a_process_that_has_got_the_postmasters_number_is_left_alone() {
    let world = World::start();
    let mut stranger = Hog(command("/bin/sleep").arg("600").spawn().expect("sleep"));
    let mut guard = world.guard();
    assert_eq!(guard.ask(&format!("postmaster {}", stranger.0.id())), "postmaster");
    let deadline = guard.arm(1000);
    guard.id().signal(Signal::STOP);
    world.assert_killed_at(deadline);
    assert!(stranger.0.try_wait().expect("a child").is_none(), "a stranger was killed");
}

/// A control group of the first version's freezer: what is in it cannot be killed until it is thawed, as if it waited
/// for a disk (its state is the same, `D`).
struct Freezer(PathBuf);

impl Freezer {
    /// `None` where there is no such thing or this user may not use it.
    fn new() -> Option<Freezer> {
        let path = Path::new("/sys/fs/cgroup/freezer").join(format!("sentinel-test-{}", std::process::id()));
        std::fs::create_dir(&path).ok()?;
        let freezer = Freezer(path);
        freezer.set("THAWED").ok()?;
        Some(freezer)
    }

    fn set(&self, state: &str) -> std::io::Result<()> {
        std::fs::write(self.0.join("freezer.state"), state)
    }

    fn freeze(&self, processes: impl Iterator<Item = ProcId>) {
        for id in processes {
            std::fs::write(self.0.join("cgroup.procs"), id.pid.to_string()).expect("move the process");
        }
        self.set("FROZEN").expect("freeze");
        let state = || std::fs::read_to_string(self.0.join("freezer.state")).is_ok_and(|text| text.trim() == "FROZEN");
        until("the processes stand still", || state().then_some(()));
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = self.set("THAWED");
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::fs::remove_dir(&self.0).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// PostgreSQL in uninterruptible wait: the kill is delivered, and takes effect before anything else when the wait ends.
#[test]
fn what_waits_for_a_disk_at_the_deadline_never_runs_again() {
    let Some(freezer) = Freezer::new() else {
        eprintln!("skipped: no freezer control group that this user may use");
        return;
    };
    let mut world = World::start();
    succeed(world.psql().args(["-c", "create table t (at timestamptz)"]));
    let commits = "insert into t values (clock_timestamp());\n".repeat(200_000);
    let input = world.dir.path().join("commits");
    std::fs::write(&input, commits).expect("a file");
    let mut writer =
        world.psql().stdin(std::fs::File::open(&input).expect("the file")).stderr(Stdio::null()).spawn().expect("psql");
    let written =
        || succeed(world.psql().args(["-c", "select count(*) from t"])).trim().parse::<u64>().expect("a number");
    until("the writer writes", || (written() > 10).then_some(()));

    let mut guard = world.guard();
    let deadline = guard.arm(1500);
    guard.id().signal(Signal::STOP);
    freezer.freeze(world.servers().into_iter());
    let frozen = world.servers();
    let deadline_wall = jiff::Timestamp::now() + deadline.since(boot_now());
    while boot_now() < deadline.plus(KILL_WITHIN) {
        std::thread::sleep(deadline.plus(KILL_WITHIN).since(boot_now()));
    }
    assert_eq!(world.servers(), frozen, "frozen processes cannot end");
    assert!(frozen.iter().all(|id| id.alive().is_some_and(|stat| stat.state == b'D')));
    freezer.set("THAWED").expect("thaw");
    until("they end", || world.servers().is_empty().then_some(()));
    assert!(!writer.wait().expect("psql ends").success());

    world.reap_postgres();
    world.start_postgres();
    let late = format!("select count(*) from t where at > '{deadline_wall}'");
    assert_eq!(succeed(world.psql().args(["-c", &late])).trim(), "0", "commits after the deadline");
}
