//! The sentinel against real PostgreSQL and real processes: agents that freeze, die and come back.
//!
//! The agent is `examples/sentinel.rs guard`, which arms the fence and does nothing else.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use agent::clock::boot_now;
use agent::sentinel::proc::{self, ProcId};
use model::BootTime;
use rustix::process::Signal;
use tempfile::TempDir;

const BIN: &str = "/usr/lib/postgresql/15/bin";

/// How long after the deadline PostgreSQL may still be there: a kill takes milliseconds, the rest is for a busy machine.
const KILL_WITHIN: Duration = Duration::from_millis(1000);

/// For everything that is only waited for.
const PATIENCE: Duration = Duration::from_secs(30);

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A command as the user who may run PostgreSQL.
fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = postgres_ids();
        command.uid(uid).gid(gid);
    }
    command.current_dir("/").stdin(Stdio::null());
    command
}

fn postgres_ids() -> (u32, u32) {
    let passwd = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    let line = passwd.lines().find(|line| line.starts_with("postgres:")).expect("a user postgres");
    let ids: Vec<u32> = line.split(':').skip(2).take(2).map(|id| id.parse().expect("an id")).collect();
    (ids[0], ids[1])
}

fn succeed(command: &mut Command) -> String {
    let output = command.output().expect("a process");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// A running PostgreSQL and the program under test, in a directory that its user can reach.
struct World {
    dir: TempDir,
    data_dir: PathBuf,
    postmaster: Option<Child>,
}

impl World {
    fn start() -> World {
        let dir = TempDir::with_prefix("sentinel-").expect("a directory");
        if rustix::process::geteuid().is_root() {
            let (uid, gid) = postgres_ids();
            std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid)).expect("chown");
        }
        std::fs::copy(example(), dir.path().join("program")).expect("copy the example");
        let mut world = World { data_dir: dir.path().join("data"), dir, postmaster: None };
        succeed(
            command(format!("{BIN}/initdb")).args(["-N", "-A", "trust", "-U", "postgres", "-D"]).arg(&world.data_dir),
        );
        world.start_postgres();
        world
    }

    /// As a child of this process, so that it can be reaped: PostgreSQL takes a zombie of its predecessor for a server.
    fn start_postgres(&mut self) {
        let log = std::fs::File::create(self.dir.path().join("log")).expect("the log");
        let mut start = command(format!("{BIN}/postgres"));
        start.args(["-c", "listen_addresses=", "-k"]).arg(self.dir.path()).arg("-D").arg(&self.data_dir).stderr(log);
        self.postmaster = Some(start.spawn().expect("postgres"));
        until("PostgreSQL answers", || {
            let answer = self.psql().args(["-c", "select 1"]).stderr(Stdio::null()).output().expect("psql");
            answer.status.success().then_some(())
        });
    }

    fn reap_postgres(&mut self) {
        if let Some(mut postmaster) = self.postmaster.take() {
            postmaster.wait().expect("reap");
        }
    }

    fn psql(&self) -> Command {
        let mut psql = command(format!("{BIN}/psql"));
        psql.args(["-X", "-q", "-A", "-t", "-U", "postgres", "-h"]).arg(self.dir.path());
        psql
    }

    /// Live PostgreSQL processes of this data directory.
    fn servers(&self) -> BTreeSet<ProcId> {
        let ours = |pid: i32| proc::is_postgres(pid) && proc::cwd(pid).is_some_and(|cwd| cwd == self.data_dir);
        proc::all().into_iter().filter(|stat| stat.is_alive() && ours(stat.id.pid)).map(|stat| stat.id).collect()
    }

    /// The sentinel of this data directory.
    fn sentinel(&self) -> Option<ProcId> {
        let title = format!("patroni: sentinel test/guard\0--sentinel\0{}\0", self.data_dir.display());
        let is_ours = |stat: &proc::Stat| {
            std::fs::read(format!("/proc/{}/cmdline", stat.id.pid)).is_ok_and(|line| line == title.as_bytes())
        };
        proc::all().into_iter().find(|stat| stat.is_alive() && is_ours(stat)).map(|stat| stat.id)
    }

    fn guard(&self) -> Guard {
        let mut child = command(self.dir.path().join("program"))
            .arg("guard")
            .arg(&self.data_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the agent");
        let (stdin, stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        Guard { child, stdin, stdout: BufReader::new(stdout) }
    }

    /// Waits for the deadline and asserts that PostgreSQL was there until then, and is gone soon after.
    fn assert_killed_at(&self, deadline: BootTime) {
        assert!(!self.servers().is_empty(), "PostgreSQL was killed before its time");
        while boot_now() < deadline {
            std::thread::sleep(deadline.since(boot_now()));
        }
        until("no process of PostgreSQL is left", || self.servers().is_empty().then_some(()));
        let took = boot_now().since(deadline);
        assert!(took < KILL_WITHIN, "PostgreSQL outlived the deadline by {took:?}");
    }

    fn assert_outlives(&self, deadline: BootTime) {
        let before = self.servers();
        while boot_now() < deadline.plus(KILL_WITHIN) {
            std::thread::sleep(deadline.plus(KILL_WITHIN).since(boot_now()));
        }
        let postmaster = before.first().expect("PostgreSQL runs");
        assert!(postmaster.alive().is_some(), "PostgreSQL was killed");
        assert_eq!(succeed(self.psql().args(["-c", "select 1"])).trim(), "1");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.servers().into_iter().chain(self.sentinel()).for_each(|id| id.signal(Signal::KILL));
        self.reap_postgres();
    }
}

/// The example, which `cargo test` builds beside the tests.
fn example() -> PathBuf {
    let test = std::env::current_exe().expect("the test's path");
    let target = test.parent().and_then(Path::parent).expect("a target directory");
    let example = target.join("examples").join("sentinel");
    assert!(example.exists(), "{} is missing: build it with `cargo build -p agent --examples`", example.display());
    example
}

/// An agent.
struct Guard {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Guard {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    fn ask(&mut self, request: &str) -> String {
        writeln!(self.stdin, "{request}").expect("the agent listens");
        self.line()
    }

    /// Arms the fence for so long, and returns the deadline.
    fn arm(&mut self, ttl_ms: u64) -> BootTime {
        let answer = self.ask(&format!("arm {ttl_ms}"));
        let deadline = answer.strip_prefix("armed ").and_then(|deadline| deadline.parse().ok());
        BootTime(deadline.unwrap_or_else(|| panic!("not armed: {answer}")))
    }

    fn disarm(&mut self) {
        assert_eq!(self.ask("disarm"), "disarmed");
    }

    fn id(&self) -> ProcId {
        ProcId::of(self.child.id() as i32).expect("the agent lives")
    }

    fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("reap");
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

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
