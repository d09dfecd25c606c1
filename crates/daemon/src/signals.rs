//! SIGTERM and SIGINT stop the agent, SIGHUP reads its configuration again.

use std::sync::Arc;

use agent::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

/// Watches for signals for the life of the process.
pub fn watch(handle: Handle, reload: Arc<Notify>) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = hangup.recv() => reload.notify_one(),
                _ = terminate.recv() => stop(&handle),
                _ = interrupt.recv() => stop(&handle),
            }
        }
    });
    Ok(())
}

fn stop(handle: &Handle) {
    if !handle.stopping() {
        tracing::info!("told to stop");
        crate::notify::notify("STOPPING=1");
    }
    handle.shutdown();
}
