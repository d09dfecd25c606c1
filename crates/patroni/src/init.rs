//! What the first process of a container owes to the others: orphans are reaped, and signals reach the agent. The
//! agent itself runs as its child: it waits for its own children by their numbers, which a general reaper would take.

use std::process::Command;

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Signals that are passed on.
const PASSED_ON: [Signal; 7] =
    [Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2, Signal::INT, Signal::ABORT, Signal::TERM];
/// Signals that may wait to be passed on; of one kind one is enough.
const WAITING_MAX: usize = 16;

/// This process is the first one of its machine or container.
pub fn is_first() -> bool {
    std::process::id() == 1
}

/// Runs this program again, with the same arguments, as a child, and returns its exit code; 128 and the signal's number
/// for a child that was killed.
pub fn run() -> Result<i32, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))?;
    runtime.block_on(supervise())
}

async fn supervise() -> Result<i32, String> {
    let watch = |kind: SignalKind| signal(kind).map_err(|error| format!("cannot watch for signals: {error}"));
    let mut children = watch(SignalKind::child())?;
    let (sender, mut passed_on) = mpsc::channel(WAITING_MAX);
    for number in PASSED_ON {
        let (mut received, sender) = (watch(SignalKind::from_raw(number.as_raw()))?, sender.clone());
        tokio::spawn(async move { while received.recv().await.is_some() && sender.send(number).await.is_ok() {} });
    }
    let program = std::env::current_exe().map_err(|error| format!("cannot find this program's file: {error}"))?;
    let child = Command::new(program).args(std::env::args_os().skip(1)).spawn();
    let child = child.map_err(|error| format!("cannot start the agent: {error}"))?;
    let agent = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or("the agent has no process number")?;
    loop {
        tokio::select! {
            _ = children.recv() => {
                if let Some(code) = reap(agent) {
                    return Ok(code);
                }
            }
            Some(number) = passed_on.recv() => {
                // It may have ended this moment, which is noticed next.
                let _ = kill_process(agent, number);
            }
        }
    }
}

/// Reaps whoever has ended; the exit code of the agent if it is among them. Ends when nobody is left to reap.
fn reap(agent: Pid) -> Option<i32> {
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        let code = exit_code(status);
        if pid == agent {
            return Some(code);
        }
        eprintln!("Reaped pid={}, exit status={code}", pid.as_raw_pid());
    }
    None
}

fn exit_code(status: WaitStatus) -> i32 {
    status.exit_status().or_else(|| status.terminating_signal().map(|number| 128 + number)).unwrap_or(1)
}
