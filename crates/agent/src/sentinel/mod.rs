//! The sentinel: a small process of its own that kills PostgreSQL when the lease deadline passes and nobody moved it.
//! It works while the agent is frozen, swapped out or dead.
//!
//! Started by [`crate::fence::SentinelFence`] as `patroni --sentinel DATA_DIR` with a listening socket as standard
//! input; entry point [`main`]. One agent is connected at a time, the latest; a deadline stays in force when the
//! agent goes away, and its successor finds the same sentinel by the [`proto::address`] of the data directory.
//!
//! **Invariant**: no async runtime, and no access to the data directory's disk on the thread that watches the deadline.

pub mod kill;
mod log;
pub mod proc;
mod process;
pub mod proto;
pub mod strike;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use model::BootTime;
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use self::kill::Known;
use self::log::Log;
use self::proc::ProcId;
use self::proto::{Answer, Lines, Request};
use self::strike::Strike;
use crate::clock::boot_now;

/// How long a sentinel without a deadline waits for an agent before it ends.
const LINGER: Duration = Duration::from_secs(3);

/// How often killed processes are looked at until they are gone.
const REAP_PERIOD: Duration = Duration::from_millis(20);

/// How often it is said that killed processes do not die.
const COMPLAINT_PERIOD: Duration = Duration::from_secs(1);

/// Runs the sentinel; `args` are those after `--sentinel`: the data directory. Standard input is the listening socket.
/// Returns the exit status.
pub fn main(args: &[String]) -> i32 {
    let told_to_end = process::harden();
    let log = Log::start();
    let status = match start(args, told_to_end) {
        Ok(mut sentinel) => {
            sentinel.run(&log);
            0
        }
        Err(error) => {
            log.line(error);
            1
        }
    };
    log.finish();
    status
}

fn start(args: &[String], told_to_end: Arc<AtomicBool>) -> Result<Sentinel, String> {
    let [data_dir] = args else {
        return Err("expected one argument after --sentinel: the data directory".to_owned());
    };
    let failed =
        |what: &str, error: &dyn std::fmt::Display| format!("cannot {what} for data directory {data_dir}: {error}");
    let listener = take_listener().map_err(|error| failed("use standard input as the listening socket", &error))?;
    let timer = rustix::time::timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)
        .map_err(|error| failed("create a timer", &error))?;
    Ok(Sentinel {
        data_dir: PathBuf::from(data_dir),
        listener,
        timer,
        told_to_end,
        strike: Strike::prepare(),
        agent: None,
        armed: None,
        dying: Vec::new(),
        idle_since: boot_now(),
    })
}

/// Moves the listening socket away from descriptor 0, so that closing it is enough to give up the address.
fn take_listener() -> std::io::Result<UnixListener> {
    let listener = UnixListener::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    listener.local_addr()?;
    listener.set_nonblocking(true)?;
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    Ok(listener)
}

struct Sentinel {
    data_dir: PathBuf,
    listener: UnixListener,
    timer: OwnedFd,
    told_to_end: Arc<AtomicBool>,
    strike: Strike,
    agent: Option<Agent>,
    armed: Option<Armed>,
    /// Killed, not yet gone.
    dying: Vec<ProcId>,
    idle_since: BootTime,
}

struct Agent {
    stream: UnixStream,
    lines: Lines,
}

struct Armed {
    deadline: BootTime,
    postmaster: Option<Known>,
}

/// What ended a wait.
struct Ready {
    listener: bool,
    agent: bool,
}

impl Sentinel {
    fn run(&mut self, log: &Log) {
        let mut complained = boot_now();
        loop {
            if self.is_due() {
                self.fire(log);
                complained = boot_now();
            }
            self.dying.retain(|id| id.alive().is_some());
            if !self.dying.is_empty() && boot_now().since(complained) >= COMPLAINT_PERIOD {
                complained = boot_now();
                self.kill_again(log);
            }
            let Some(timeout) = self.timeout() else {
                return;
            };
            match self.wait(timeout) {
                // A request that arrives together with the deadline is late.
                Ok(_) if self.is_due() => {}
                Ok(ready) => {
                    if ready.agent {
                        self.serve();
                    }
                    if ready.listener {
                        self.accept();
                    }
                }
                Err(error) => {
                    // Cannot happen with valid descriptors, and must not become a busy loop if it does.
                    log.line(format!("cannot wait for events: {error}"));
                    std::thread::sleep(REAP_PERIOD);
                }
            }
        }
    }

    fn is_due(&self) -> bool {
        self.armed.as_ref().is_some_and(|armed| armed.deadline <= boot_now())
    }

    /// How long to wait at most, `Some(None)` for as long as it takes; `None` when there is nothing left to do.
    fn timeout(&self) -> Option<Option<Duration>> {
        if !self.dying.is_empty() {
            return Some(Some(REAP_PERIOD));
        }
        if self.armed.is_some() || self.agent.is_some() {
            return Some(None);
        }
        let idle = boot_now().since(self.idle_since);
        let ends = idle >= LINGER || self.told_to_end.load(Ordering::Relaxed);
        (!ends).then_some(Some(LINGER.saturating_sub(idle)))
    }

    fn wait(&self, timeout: Option<Duration>) -> rustix::io::Result<Ready> {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut polled = vec![PollFd::new(&self.timer, PollFlags::IN), PollFd::new(&self.listener, PollFlags::IN)];
        if let Some(agent) = &self.agent {
            polled.push(PollFd::new(&agent.stream, PollFlags::IN));
        }
        match rustix::event::poll(&mut polled, timeout.as_ref()) {
            Ok(_) => {
                let ready = |index: usize| polled.get(index).is_some_and(|entry| !entry.revents().is_empty());
                let (listener, agent) = (ready(1), ready(2));
                let _ = rustix::io::read(&self.timer, &mut [0; 8]);
                Ok(Ready { listener, agent })
            }
            Err(rustix::io::Errno::INTR) => Ok(Ready { listener: false, agent: false }),
            Err(error) => Err(error),
        }
    }

    /// Takes a new connection; it replaces the one before. Other users are turned away.
    fn accept(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else {
            return;
        };
        let ours =
            rustix::net::sockopt::socket_peercred(&stream).is_ok_and(|peer| peer.uid == rustix::process::geteuid());
        if ours && stream.set_nonblocking(true).is_ok() {
            self.agent = Some(Agent { stream, lines: Lines::default() });
        }
    }

    fn serve(&mut self) {
        let Some(mut agent) = self.agent.take() else {
            return;
        };
        self.idle_since = boot_now();
        let mut buffer = [0; proto::LINE_BYTES_MAX];
        match agent.stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => agent.lines.push(&buffer[..count]),
            Err(error) if is_transient(&error) => {}
            Err(_) => return,
        }
        while let Some(line) = agent.lines.next_line() {
            let answer = self.answer(&line);
            if agent.say(&answer).is_err() {
                return;
            }
        }
        if !agent.lines.is_too_long() {
            self.agent = Some(agent);
        }
    }

    fn answer(&mut self, line: &str) -> Answer {
        let sentinel = std::process::id() as i32;
        match Request::parse(line) {
            Some(Request::Arm { deadline, postmaster }) => match self.set_timer(Some(deadline)) {
                Ok(()) => {
                    let known = self.armed.take().and_then(|armed| armed.postmaster);
                    self.armed = Some(Armed { deadline, postmaster: self.identify(postmaster, known) });
                    Answer::Armed { deadline, sentinel }
                }
                Err(error) => Answer::Error(format!("cannot set the timer: {error}")),
            },
            Some(Request::Disarm) => {
                self.armed = None;
                let _ = self.set_timer(None);
                Answer::Disarmed { sentinel }
            }
            None => Answer::Error("no such request".to_owned()),
        }
    }

    /// The postmaster to hold on to: the one the agent names, else the one already known, else one that can be found.
    fn identify(&self, named: Option<ProcId>, known: Option<Known>) -> Option<Known> {
        match (named, known) {
            (Some(id), Some(known)) if known.id == id => Some(known),
            // What is not PostgreSQL has got the number since.
            (Some(id), _) if proc::is_postgres(id.pid) => Known::open(id),
            (None, Some(known)) if known.id.alive().is_some() => Some(known),
            _ => kill::find_postmaster(&self.data_dir).and_then(Known::open),
        }
    }

    fn set_timer(&self, deadline: Option<BootTime>) -> rustix::io::Result<()> {
        // Zero would stop the timer: a deadline at boot is as far in the past as one a millisecond later.
        let deadline_ms = deadline.map_or(0, |deadline| deadline.0.max(1));
        let seconds = i64::try_from(deadline_ms / 1000).unwrap_or(i64::MAX);
        let it_value = Timespec { tv_sec: seconds, tv_nsec: (deadline_ms % 1000 * 1_000_000) as _ };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once).map(drop)
    }

    fn fire(&mut self, log: &Log) {
        let Some(armed) = self.armed.take() else {
            return;
        };
        if let Some(postmaster) = &armed.postmaster {
            self.strike.stop(postmaster);
        }
        let late = boot_now().since(armed.deadline);
        let killed = kill::sweep(&self.data_dir, armed.postmaster.as_ref());
        self.dying = killed.all().collect();
        self.idle_since = boot_now();
        let _ = self.set_timer(None);
        if let Some(agent) = &mut self.agent
            && agent.say(&Answer::Fired).is_err()
        {
            self.agent = None;
        }
        let pids: Vec<String> = killed.postmasters.iter().map(|id| id.pid.to_string()).collect();
        let what = match pids.is_empty() {
            true => format!("found no PostgreSQL in {}", self.data_dir.display()),
            false => format!("killed PostgreSQL pid {} and {} children", pids.join(", "), killed.others.len()),
        };
        log.line(format!("lease deadline passed {} ms ago without renewal, {what}", late.as_millis()));
    }

    /// Processes that survive SIGKILL wait for a disk or a debugger; they cannot run until then, nor after.
    fn kill_again(&self, log: &Log) {
        self.dying.iter().for_each(|id| id.signal(rustix::process::Signal::KILL));
        let waiting: Vec<String> = self
            .dying
            .iter()
            .filter_map(|id| id.alive())
            .map(|stat| format!("{} (state {})", stat.id.pid, stat.state as char))
            .collect();
        log.line(format!("killed processes are not gone yet: {}", waiting.join(", ")));
    }
}

impl Agent {
    /// Answers are far smaller than the socket's buffer: one that does not fit means that nobody reads.
    fn say(&mut self, answer: &Answer) -> std::io::Result<()> {
        self.stream.write_all(answer.encode().as_bytes())
    }
}

fn is_transient(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted)
}
