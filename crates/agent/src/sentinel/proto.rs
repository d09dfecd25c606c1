//! What agent and sentinel say to each other: lines of text over a stream socket in the abstract namespace.
//!
//! ```text
//! agent                                sentinel
//! arm DEADLINE_MS [PID START_TICKS]    armed DEADLINE_MS SENTINEL_PID
//! disarm                               disarmed SENTINEL_PID
//!                                      fired          (unasked, when the deadline passed)
//!                                      error SENTENCE (to anything else)
//! ```
//!
//! `DEADLINE_MS` is a [`BootTime`]; `PID START_TICKS` names the postmaster where the agent knows it. The address must
//! never depend on the version of the program: an upgraded agent has to find the sentinel of its predecessor.

use std::path::{Component, Path, PathBuf};

use model::BootTime;
use rustix::net::SocketAddrUnix;

use super::proc::ProcId;

/// Longer lines end the connection.
pub const LINE_BYTES_MAX: usize = 512;

/// What an agent asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Kill PostgreSQL at the deadline, unless another request comes first.
    Arm {
        /// When.
        deadline: BootTime,
        /// The postmaster, where the agent knows it.
        postmaster: Option<ProcId>,
    },
    /// Do nothing from now on.
    Disarm,
}

impl Request {
    /// The line on the wire, with its end.
    pub fn encode(self) -> String {
        match self {
            Request::Arm { deadline, postmaster: None } => format!("arm {}\n", deadline.0),
            Request::Arm { deadline, postmaster: Some(id) } => {
                format!("arm {} {} {}\n", deadline.0, id.pid, id.start_ticks)
            }
            Request::Disarm => "disarm\n".to_owned(),
        }
    }

    /// Reads a line without its end.
    pub fn parse(line: &str) -> Option<Request> {
        let mut words = line.split(' ');
        let request = match words.next()? {
            "disarm" => Request::Disarm,
            "arm" => {
                let deadline = BootTime(words.next()?.parse().ok()?);
                let postmaster = match words.next() {
                    None => None,
                    Some(pid) => Some(ProcId { pid: pid.parse().ok()?, start_ticks: words.next()?.parse().ok()? }),
                };
                Request::Arm { deadline, postmaster }
            }
            _ => return None,
        };
        words.next().is_none().then_some(request)
    }
}

/// What a sentinel answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The deadline is set.
    Armed {
        /// As asked: what tells this answer from the late answer to an earlier request.
        deadline: BootTime,
        /// The sentinel's pid.
        sentinel: i32,
    },
    /// No deadline is set.
    Disarmed {
        /// The sentinel's pid.
        sentinel: i32,
    },
    /// The deadline passed; PostgreSQL was killed.
    Fired,
    /// The request was not understood; a sentence.
    Error(String),
}

impl Answer {
    /// The line on the wire, with its end.
    pub fn encode(&self) -> String {
        match self {
            Answer::Armed { deadline, sentinel } => format!("armed {} {sentinel}\n", deadline.0),
            Answer::Disarmed { sentinel } => format!("disarmed {sentinel}\n"),
            Answer::Fired => "fired\n".to_owned(),
            Answer::Error(sentence) => format!("error {sentence}\n"),
        }
    }

    /// Reads a line without its end.
    pub fn parse(line: &str) -> Option<Answer> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "armed" => {
                let (deadline, sentinel) = rest.split_once(' ')?;
                Some(Answer::Armed { deadline: BootTime(deadline.parse().ok()?), sentinel: sentinel.parse().ok()? })
            }
            "disarmed" => Some(Answer::Disarmed { sentinel: rest.parse().ok()? }),
            "fired" => Some(Answer::Fired),
            "error" => Some(Answer::Error(rest.to_owned())),
            _ => None,
        }
    }

    /// Whether this is the answer to `request`.
    pub fn answers(&self, request: Request) -> bool {
        match (self, request) {
            (Answer::Armed { deadline, .. }, Request::Arm { deadline: asked, .. }) => *deadline == asked,
            (Answer::Disarmed { .. }, Request::Disarm) => true,
            _ => false,
        }
    }
}

/// Collects bytes until they are lines.
#[derive(Debug, Default)]
pub struct Lines {
    bytes: Vec<u8>,
}

impl Lines {
    /// Takes what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next complete line, without its end.
    pub fn next_line(&mut self) -> Option<String> {
        let end = self.bytes.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.bytes.drain(..=end).take(end).collect();
        Some(String::from_utf8_lossy(&line).into_owned())
    }

    /// The other side does not speak this protocol.
    pub fn is_too_long(&self) -> bool {
        self.bytes.len() > LINE_BYTES_MAX
    }
}

/// The data directory by its canonical name: symbolic links are resolved as far as the path exists, so that the name
/// is the same before and after the directory is created. Touches the disk.
pub fn canonical(data_dir: &Path) -> PathBuf {
    let absolute = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    for ancestor in absolute.ancestors() {
        if let Ok(real) = ancestor.canonicalize() {
            let rest = absolute.strip_prefix(ancestor).unwrap_or(Path::new(""));
            // Joining an empty path would add a slash to the end.
            return rest
                .components()
                .filter(|part| *part != Component::CurDir)
                .fold(real, |path, part| path.join(part));
        }
    }
    absolute
}

/// Where the sentinel of a (canonical) data directory listens, for this user in this pid namespace: two containers
/// that share a network namespace may well use the same path.
pub fn address(data_dir: &Path) -> std::io::Result<SocketAddrUnix> {
    let uid = rustix::process::geteuid().as_raw();
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let digest =
        fnv1a(data_dir.as_os_str().as_encoded_bytes(), fnv1a(namespace.as_os_str().as_encoded_bytes(), FNV_BASIS));
    Ok(SocketAddrUnix::new_abstract_name(format!("patroni-sentinel/{uid}/{digest:016x}").as_bytes())?)
}

const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a: any fixed digest would do; the standard library's may change between releases.
fn fnv1a(bytes: &[u8], basis: u64) -> u64 {
    bytes.iter().fold(basis, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_survive_the_wire() {
        let postmaster = Some(ProcId { pid: 7, start_ticks: 99 });
        for request in [
            Request::Arm { deadline: BootTime(12), postmaster: None },
            Request::Arm { deadline: BootTime(u64::MAX), postmaster },
            Request::Disarm,
        ] {
            assert_eq!(Request::parse(request.encode().trim_end()), Some(request));
        }
        for answer in [
            Answer::Armed { deadline: BootTime(12), sentinel: 3 },
            Answer::Disarmed { sentinel: 3 },
            Answer::Fired,
            Answer::Error("no such request".to_owned()),
        ] {
            assert_eq!(Answer::parse(answer.encode().trim_end()), Some(answer));
        }
        for bad in ["", "arm", "arm x", "arm 1 2", "arm 1 2 x", "arm 1 2 3 4", "disarm now", "armed 1"] {
            assert_eq!(Request::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_late_answer_to_an_earlier_request_is_told_apart() {
        let asked = Request::Arm { deadline: BootTime(20), postmaster: None };
        assert!(!Answer::Armed { deadline: BootTime(10), sentinel: 3 }.answers(asked));
        assert!(!Answer::Disarmed { sentinel: 3 }.answers(asked));
        assert!(Answer::Armed { deadline: BootTime(20), sentinel: 3 }.answers(asked));
    }

    #[test]
    fn lines_come_whole_and_one_by_one() {
        let mut lines = Lines::default();
        lines.push(b"arm 1\ndis");
        assert_eq!(lines.next_line().as_deref(), Some("arm 1"));
        assert_eq!(lines.next_line(), None);
        lines.push(b"arm\n");
        assert_eq!(lines.next_line().as_deref(), Some("disarm"));
        lines.push(&[b'x'; LINE_BYTES_MAX + 1]);
        assert!(lines.is_too_long());
    }

    #[test]
    fn the_name_is_the_same_before_and_after_the_directory_exists() {
        let dir = tempfile::tempdir().expect("a directory");
        std::os::unix::fs::symlink(dir.path(), dir.path().join("link")).expect("a link");
        let through_link = dir.path().join("link").join("data");
        let before = canonical(&through_link);
        std::fs::create_dir(dir.path().join("data")).expect("a directory");
        assert_eq!(before, canonical(&through_link));
        assert_eq!(before, dir.path().canonicalize().expect("canonical").join("data"));
    }

    #[test]
    fn the_address_never_changes() {
        // The published test vector of FNV-1a: an agent of another version computes the same.
        assert_eq!(fnv1a(b"foobar", FNV_BASIS), 0x85944171f73967e8);
    }
}
