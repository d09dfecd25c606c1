//! A real PostgreSQL, a real sentinel, and an agent that does nothing but arm it (`examples/sentinel.rs guard`).

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
pub const KILL_WITHIN: Duration = Duration::from_millis(1000);

/// For everything that is only waited for.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for something to be there.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
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
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
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

/// Runs a command that must succeed; its output.
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().expect("a process");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// A running PostgreSQL and the program under test, in a directory that its user can reach.
pub struct World {
    pub dir: TempDir,
    pub data_dir: PathBuf,
    pub postmaster: Option<Child>,
}

impl World {
    /// initdb and a running server.
    pub fn start() -> World {
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
    pub fn start_postgres(&mut self) {
        let log = std::fs::File::create(self.dir.path().join("log")).expect("the log");
        let mut start = command(format!("{BIN}/postgres"));
        start
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-k"])
            .arg(self.dir.path())
            .arg("-D")
            .arg(&self.data_dir)
            .stderr(log);
        self.postmaster = Some(start.spawn().expect("postgres"));
        until("PostgreSQL answers", || {
            let answer = self.psql().args(["-c", "select 1"]).stderr(Stdio::null()).output().expect("psql");
            answer.status.success().then_some(())
        });
    }

    /// Waits for the end of the server.
    pub fn reap_postgres(&mut self) {
        if let Some(mut postmaster) = self.postmaster.take() {
            postmaster.wait().expect("reap");
        }
    }

    /// A client.
    pub fn psql(&self) -> Command {
        let mut psql = command(format!("{BIN}/psql"));
        psql.args(["-X", "-q", "-A", "-t", "-U", "postgres", "-h"]).arg(self.dir.path());
        psql
    }

    /// Live PostgreSQL processes of this data directory.
    pub fn servers(&self) -> BTreeSet<ProcId> {
        let ours = |pid: i32| proc::is_postgres(pid) && proc::cwd(pid).is_some_and(|cwd| cwd == self.data_dir);
        proc::all().into_iter().filter(|stat| stat.is_alive() && ours(stat.id.pid)).map(|stat| stat.id).collect()
    }

    /// The sentinel of this data directory.
    pub fn sentinel(&self) -> Option<ProcId> {
        let title = format!("patroni: sentinel test/guard\0--sentinel\0{}\0", self.data_dir.display());
        let is_ours = |stat: &proc::Stat| {
            std::fs::read(format!("/proc/{}/cmdline", stat.id.pid)).is_ok_and(|line| line == title.as_bytes())
        };
        proc::all().into_iter().find(|stat| stat.is_alive() && is_ours(stat)).map(|stat| stat.id)
    }

    /// An agent.
    pub fn guard(&self) -> Guard {
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
    pub fn assert_killed_at(&self, deadline: BootTime) {
        assert!(!self.servers().is_empty(), "PostgreSQL was killed before its time");
        while boot_now() < deadline {
            std::thread::sleep(deadline.since(boot_now()));
        }
        until("no process of PostgreSQL is left", || self.servers().is_empty().then_some(()));
        let took = boot_now().since(deadline);
        assert!(took < KILL_WITHIN, "PostgreSQL outlived the deadline by {took:?}");
    }

    /// Waits beyond the deadline and asserts that PostgreSQL is still there.
    pub fn assert_outlives(&self, deadline: BootTime) {
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
pub fn example() -> PathBuf {
    let test = std::env::current_exe().expect("the test's path");
    let target = test.parent().and_then(Path::parent).expect("a target directory");
    let example = target.join("examples").join("sentinel");
    assert!(example.exists(), "{} is missing: build it with `cargo build -p agent --examples`", example.display());
    example
}

/// An agent.
pub struct Guard {
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

    /// A line, and the answer.
    pub fn ask(&mut self, request: &str) -> String {
        writeln!(self.stdin, "{request}").expect("the agent listens");
        self.line()
    }

    /// Arms the fence for so long, and returns the deadline.
    pub fn arm(&mut self, ttl_ms: u64) -> BootTime {
        let answer = self.ask(&format!("arm {ttl_ms}"));
        let deadline = answer.strip_prefix("armed ").and_then(|deadline| deadline.parse().ok());
        BootTime(deadline.unwrap_or_else(|| panic!("not armed: {answer}")))
    }

    /// Lets go of the fence.
    pub fn disarm(&mut self) {
        assert_eq!(self.ask("disarm"), "disarmed");
    }

    /// Its process.
    pub fn id(&self) -> ProcId {
        ProcId::of(self.child.id() as i32).expect("the agent lives")
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
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
