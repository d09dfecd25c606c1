//! One connection to a sentinel: finding it, starting it, asking it.

use std::path::Path;
use std::process::Stdio;

use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::SentinelOptions;
use crate::sentinel::proc::ProcId;
use crate::sentinel::proto::{self, Answer, Lines, Request};

/// A sentinel that ends or starts while it is looked for is looked for again.
const ATTEMPTS_MAX: usize = 4;

/// How many agents may wait for the sentinel to take their connection.
const BACKLOG: i32 = 16;

/// A connected sentinel.
pub struct Link {
    stream: UnixStream,
    lines: Lines,
    /// Known once it answered or was started.
    sentinel: Option<ProcId>,
}

impl Link {
    /// Connects to the sentinel of a canonical data directory; `None` when there is none.
    pub fn connect(data_dir: &Path) -> std::io::Result<Option<Link>> {
        Link::connect_to(&proto::address(data_dir)?)
    }

    fn connect_to(address: &SocketAddrUnix) -> std::io::Result<Option<Link>> {
        let socket = socket()?;
        match rustix::net::connect(&socket, address) {
            Ok(()) => {}
            Err(rustix::io::Errno::CONNREFUSED) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        // The credentials are those of whoever listens: an abstract address can be taken by any user.
        let owner = rustix::net::sockopt::socket_peercred(&socket)?.uid;
        if owner != rustix::process::geteuid() {
            let message = format!("its address is held by user id {}", owner.as_raw());
            return Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, message));
        }
        let stream = UnixStream::from_std(socket.into())?;
        Ok(Some(Link { stream, lines: Lines::default(), sentinel: None }))
    }

    /// Connects to the living sentinel, or starts one.
    pub fn connect_or_start(options: &SentinelOptions, data_dir: &Path) -> std::io::Result<Link> {
        let address = proto::address(data_dir)?;
        for _ in 0..ATTEMPTS_MAX {
            if let Some(link) = Link::connect_to(&address)? {
                return Ok(link);
            }
            // Listening before the process exists: it can be connected to at once, and of two agents only one starts it.
            let listener = socket()?;
            match rustix::net::bind(&listener, &address) {
                Ok(()) => rustix::net::listen(&listener, BACKLOG)?,
                Err(rustix::io::Errno::ADDRINUSE) => continue,
                Err(error) => return Err(error.into()),
            }
            let sentinel = start(options, data_dir, listener)?;
            if let Some(link) = Link::connect_to(&address)? {
                return Ok(Link { sentinel, ..link });
            }
        }
        Err(std::io::Error::other("it ends as soon as it is started"))
    }

    /// Sends `request` and waits for its answer.
    pub async fn ask(&mut self, request: Request) -> std::io::Result<()> {
        self.stream.write_all(request.encode().as_bytes()).await?;
        loop {
            let answer = self.next().await?;
            match answer {
                answer if answer.answers(request) => return Ok(()),
                Answer::Fired => report_fired(),
                Answer::Error(sentence) => return Err(std::io::Error::other(sentence)),
                // The late answer to a request that was given up.
                Answer::Armed { .. } | Answer::Disarmed { .. } => {}
            }
        }
    }

    /// The next thing the sentinel says; an error when it is gone. Safe to cancel.
    pub async fn next(&mut self) -> std::io::Result<Answer> {
        loop {
            while let Some(line) = self.lines.next_line() {
                let Some(answer) = Answer::parse(&line) else {
                    continue;
                };
                if let Answer::Armed { sentinel, .. } | Answer::Disarmed { sentinel } = answer {
                    self.sentinel = self.sentinel.filter(|known| known.pid == sentinel).or(ProcId::of(sentinel));
                }
                return Ok(answer);
            }
            if self.lines.is_too_long() {
                return Err(std::io::Error::other("it answers with endless lines"));
            }
            let mut buffer = [0; proto::LINE_BYTES_MAX];
            match self.stream.read(&mut buffer).await? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                count => self.lines.push(&buffer[..count]),
            }
        }
    }

    /// Ends a sentinel that does not answer, so that another can take its place.
    pub fn kill_sentinel(self) {
        if let Some(sentinel) = self.sentinel {
            sentinel.signal(Signal::KILL);
        }
    }
}

/// Says that the sentinel did what it is for.
pub fn report_fired() {
    tracing::error!("the lease deadline passed without renewal: the sentinel killed PostgreSQL");
}

fn socket() -> rustix::io::Result<OwnedFd> {
    // Non-blocking: connecting to a stuck sentinel whose queue is full must fail, not wait.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

fn start(options: &SentinelOptions, data_dir: &Path, listener: OwnedFd) -> std::io::Result<Option<ProcId>> {
    let mut command = tokio::process::Command::new(&options.program);
    command.arg0(format!("patroni: sentinel {}", options.label)).args(&options.arguments).arg(data_dir);
    // It needs nothing of the environment, where passwords may be.
    command.env_clear().stdin(Stdio::from(listener)).stdout(Stdio::null()).stderr(Stdio::inherit());
    let mut child = command.spawn()?;
    let sentinel = child.id().and_then(|pid| ProcId::of(pid.try_into().ok()?));
    // Reaps it, so that a dead one does not stay as a zombie. It outlives this task together with the agent.
    tokio::spawn(async move { child.wait().await });
    Ok(sentinel)
}
