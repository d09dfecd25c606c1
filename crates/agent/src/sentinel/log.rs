//! Lines on standard error that never delay anything: a full pipe or a hung disk behind it must not save PostgreSQL.

use std::io::Write;
use std::sync::mpsc::{SyncSender, sync_channel};

/// How many lines wait for a standard error that does not take them; more are dropped.
const QUEUE_LINES_MAX: usize = 64;

/// Writes lines from its own thread.
pub struct Log {
    lines: Option<SyncSender<String>>,
    written: std::sync::mpsc::Receiver<()>,
}

impl Log {
    /// Starts the thread; without one, lines are dropped.
    pub fn start() -> Log {
        let (lines, queue) = sync_channel::<String>(QUEUE_LINES_MAX);
        let (done, written) = sync_channel(1);
        let thread = std::thread::Builder::new().name("log".to_owned()).stack_size(64 * 1024).spawn(move || {
            for line in queue {
                // `eprintln!` panics when standard error is closed.
                let _ = std::io::stderr().write_all(format!("sentinel: {line}\n").as_bytes());
            }
            let _ = done.send(());
        });
        Log { lines: thread.is_ok().then_some(lines), written }
    }

    /// Queues a line.
    pub fn line(&self, text: String) {
        if let Some(lines) = &self.lines {
            let _ = lines.try_send(text);
        }
    }

    /// Waits a moment for queued lines to be written.
    pub fn finish(mut self) {
        if self.lines.take().is_some() {
            let _ = self.written.recv_timeout(std::time::Duration::from_secs(1));
        }
    }
}
