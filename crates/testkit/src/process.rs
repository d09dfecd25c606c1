//! Processes: started with their output in a file, signalled by pid, and found by where they live.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::sandbox::Owner;

const KILL_ROUNDS_MAX: u32 = 100;
const KILL_ROUND: Duration = Duration::from_millis(20);

/// A started program. Killed when dropped.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts `command` as `owner` in its own process group, with an environment of its own (`PATH`, `HOME`, `LANG`
    /// plus whatever `command` sets) and its output appended to `log`.
    pub fn start(command: &mut Command, owner: &Owner, home: &Path, log: &Path) -> Result<Running> {
        let output = File::options().create(true).append(true).open(log).with_context(|| format!("open {log:?}"))?;
        owner.give(log)?;
        prepare(command, owner, home);
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("start {:?}", command.get_program()))?;
        Ok(Running { child, log: log.to_owned() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_pid(self.pid(), signal)
    }

    /// The exit status, when it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until it has ended.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if started.elapsed() > limit {
                bail!("process {} did not end within {} s", self.pid(), limit.as_secs());
            }
            std::thread::sleep(KILL_ROUND);
        }
    }

    /// SIGKILL, and reaped.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// What it wrote.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// User, environment and directory of a program: nothing of the test's own environment reaches it.
pub(crate) fn prepare(command: &mut Command, owner: &Owner, home: &Path) {
    let own: Vec<_> = command.get_envs().map(|(key, value)| (key.to_owned(), value.map(ToOwned::to_owned))).collect();
    command.env_clear();
    command.env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin").env("LANG", "C.UTF-8").env("HOME", home);
    for (key, value) in own {
        if let Some(value) = value {
            command.env(key, value);
        }
    }
    if let Some((uid, gid)) = owner.ids() {
        command.uid(uid).gid(gid);
    }
    command.current_dir(home);
}

/// Sends a signal to a process.
pub fn kill_pid(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a process id")?;
    kill_process(pid, signal).with_context(|| format!("signal process {}", pid.as_raw_nonzero()))
}

/// Programs that servers here consist of. A shell or an editor that somebody opened in a test's directory is not ours.
fn is_server_program(exe: &Path) -> bool {
    let name = exe.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    ["postgres", "pg_", "initdb", "etcd", "python3", "patroni"].iter().any(|start| name.starts_with(start))
}

/// Server processes that live in `directory`: their executable or working directory is below it.
pub fn in_directory(directory: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| lives_in(*pid, directory))
        .collect()
}

fn lives_in(pid: u32, directory: &Path) -> bool {
    let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}"));
    // A zombie, or somebody else's process.
    let Ok(exe) = link("exe") else { return false };
    is_server_program(&exe) && (exe.starts_with(directory) || link("cwd").is_ok_and(|cwd| cwd.starts_with(directory)))
}

/// Kills every process that lives in `directory` (see [`in_directory`]) and waits until none is left.
pub fn kill_all_in(directory: &Path) -> Result<()> {
    for _ in 0..KILL_ROUNDS_MAX {
        let pids = in_directory(directory);
        if pids.is_empty() {
            return Ok(());
        }
        for pid in pids {
            let _ = kill_pid(pid, Signal::KILL);
        }
        std::thread::sleep(KILL_ROUND);
    }
    bail!("processes {:?} in {directory:?} do not end", in_directory(directory))
}
