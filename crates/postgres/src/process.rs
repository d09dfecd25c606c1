//! Child programs: in a process group of their own, cancellable as a whole, with bounded output.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::sync::watch;

use crate::proc_fs;
use crate::task::TaskHandle;

/// Bytes of output kept per stream: its end, since errors come last.
const OUTPUT_MAX_BYTES: usize = 256 * 1024;
/// How often [`run_with_tick`] calls back.
const TICK: Duration = Duration::from_millis(10);
/// How long output is still read after the program ended: a grandchild may hold the pipe open for ever.
const DRAIN_MAX: Duration = Duration::from_millis(500);

/// How a program ended.
pub(crate) struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Whether the program certainly never said `text` on stderr: not said in what was kept, and all was kept.
    pub fn never_said(&self, text: &str) -> bool {
        self.stderr.len() < OUTPUT_MAX_BYTES && !self.stderr.contains(text)
    }

    /// An error sentence unless the program succeeded; the last lines of its output say why.
    pub fn success(self, what: &str) -> Result<Finished, String> {
        if self.status.success() {
            return Ok(self);
        }
        let text = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let tail = lines[lines.len().saturating_sub(8)..].join("; ");
        Err(format!("{what} failed ({}): {}", self.status, if tail.is_empty() { "no output" } else { &tail }))
    }
}

/// A command without the agent's own environment (its configuration with passwords, its service manager's sockets),
/// in a new process group, reading nothing.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let private = text.starts_with("PATRONI_") || text.starts_with("LISTEN_");
        if private || matches!(&*text, "NOTIFY_SOCKET" | "WATCHDOG_USEC" | "WATCHDOG_PID") {
            command.env_remove(&name);
        }
    }
    command.stdin(Stdio::null()).process_group(0);
    command
}

/// A [`command`] that fills or changes a data directory. Killing the agent does not end it: it carries the directory in
/// its environment, so that the next agent finds and ends it before it touches the directory itself.
pub(crate) fn command_on(program: &Path, data_dir: &Path) -> Command {
    let mut command = command(program);
    command.env(proc_fs::WORKS_ON, data_dir);
    command
}

/// [`command`] for a server: it knows nothing of the orchestrator around it either, and gets the memory arenas that
/// `PG_MALLOC_ARENA_MAX` asks for.
pub(crate) fn postmaster(program: &Path) -> Command {
    let mut command = command(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"KUBERNETES_")) {
        command.env_remove(name);
    }
    if let Some(arenas) = std::env::var_os("PG_MALLOC_ARENA_MAX") {
        command.env_remove("PG_MALLOC_ARENA_MAX").env("MALLOC_ARENA_MAX", arenas);
    }
    command
}

/// Runs a program to its end; a cancelled task kills its process group and is an error.
pub(crate) async fn run(command: Command, what: &str, task: &TaskHandle) -> Result<Finished, String> {
    run_with_tick(command, what, task, || {}).await
}

/// [`run`], with something to do every few milliseconds while the program runs.
pub(crate) async fn run_with_tick(
    command: Command,
    what: &str,
    task: &TaskHandle,
    mut tick: impl FnMut(),
) -> Result<Finished, String> {
    run_watched(command, what, task, |_| tick()).await
}

/// [`run`], with something to do every few milliseconds while the program runs, which is given the last complete line
/// that the program wrote to stderr.
pub(crate) async fn run_watched(
    mut command: Command,
    what: &str,
    task: &TaskHandle,
    mut tick: impl FnMut(&str),
) -> Result<Finished, String> {
    if task.is_cancelled() {
        return Err(format!("{what} was cancelled before it began"));
    }
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot run {}: {error}", command.as_std().get_program().to_string_lossy()))?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let last_line = watch::Sender::new(String::new());
    let seen = last_line.subscribe();
    let stdout = tokio::spawn(read_tail(child.stdout.take(), None));
    let stderr = tokio::spawn(read_tail(child.stderr.take(), Some(last_line)));
    let mut interval = tokio::time::interval(TICK);
    let status = loop {
        tokio::select! {
            biased;
            status = child.wait() => break status.map_err(|error| format!("cannot wait for {what}: {error}"))?,
            () = task.until_cancelled() => return Err(format!("{what} was cancelled")),
            _ = interval.tick() => tick(&seen.borrow()),
        }
    };
    // What a script left running on purpose goes on, even if it keeps the pipes open.
    group.0 = None;
    Ok(Finished { status, stdout: drained(stdout).await, stderr: drained(stderr).await })
}

async fn drained(reader: tokio::task::JoinHandle<String>) -> String {
    tokio::time::timeout(DRAIN_MAX, reader).await.ok().and_then(Result::ok).unwrap_or_default()
}

async fn read_tail(stream: Option<impl AsyncRead + Unpin>, last_line: Option<watch::Sender<String>>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut kept = Vec::new();
    let mut chunk = vec![0; 8192];
    while let Ok(count) = stream.read(&mut chunk).await {
        if count == 0 {
            break;
        }
        kept.extend_from_slice(&chunk[..count]);
        if let Some(sender) = &last_line {
            sender.send_replace(last_complete_line(&kept));
        }
        if kept.len() > 2 * OUTPUT_MAX_BYTES {
            kept.drain(..kept.len() - OUTPUT_MAX_BYTES);
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// The last line that has ended, of at most a kilobyte. Programs that write to a terminal end theirs with a carriage
/// return.
fn last_complete_line(text: &[u8]) -> String {
    const LINE_MAX_BYTES: usize = 1024;
    let text = &text[text.len().saturating_sub(2 * LINE_MAX_BYTES)..];
    let ends = |byte: &u8| matches!(byte, b'\n' | b'\r');
    let Some(end) = text.iter().rposition(ends) else { return String::new() };
    let lines = text[..end].rsplit(ends);
    let line = lines.map(String::from_utf8_lossy).find(|line| !line.trim().is_empty());
    line.map(|line| line.trim().to_owned()).unwrap_or_default()
}

/// Kills the process group when dropped before the program ended: on cancellation, and when the future is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // Nobody left in the group is the normal case.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_that_has_ended() {
        for (text, line) in [("", ""), ("a", ""), ("a\nb", "a"), ("a\r\nb\n\n", "b"), ("1/2\r2/2\r", "2/2")] {
            assert_eq!(last_complete_line(text.as_bytes()), line, "{text:?}");
        }
    }

    #[tokio::test]
    async fn cancelling_kills_grandchildren() {
        let (cancel, cancelled) = watch::channel(false);
        let task = TaskHandle { cancelled, ..TaskHandle::detached() };
        let dir = tempfile::tempdir().expect("temporary directory");
        let pid_file = dir.path().join("pid");
        let mut shell = command(Path::new("/bin/sh"));
        shell.arg("-c").arg(format!("sleep 600 & echo $! > {}; wait", pid_file.display()));
        let running = tokio::spawn(async move { run(shell, "sleeper", &task).await.map(|_| ()) });
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        let pid = loop {
            assert!(tokio::time::Instant::now() < deadline, "no pid written");
            match std::fs::read_to_string(&pid_file).ok().and_then(|text| text.trim().parse::<i32>().ok()) {
                Some(pid) => break pid,
                None => tokio::time::sleep(TICK).await,
            }
        };
        cancel.send(true).expect("receiver");
        assert_eq!(running.await.expect("join"), Err("sleeper was cancelled".to_owned()));
        while crate::proc_fs::is_alive(pid) {
            assert!(tokio::time::Instant::now() < deadline, "grandchild {pid} survived");
            tokio::time::sleep(TICK).await;
        }
    }

    #[tokio::test]
    async fn failure_names_program_status_and_reason() {
        let mut shell = command(Path::new("/bin/sh"));
        shell.args(["-c", "echo why >&2; exit 3"]);
        let finished = run(shell, "the script", &TaskHandle::detached()).await.expect("runs");
        assert_eq!(finished.success("the script").err().as_deref(), Some("the script failed (exit status: 3): why"));
    }
}
