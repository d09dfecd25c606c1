//! The bounded queue between those who log and the thread that writes.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::ZonedDateTime;
use tracing::Level;

use super::Record;
use super::file::RotatingFile;
use super::format::Format;

/// Where lines go, and in which form.
pub struct Output {
    pub format: Format,
    /// `None`: standard error.
    pub file: Option<RotatingFile>,
    /// Leave out heartbeats that repeat the line before.
    pub deduplicate: bool,
}

/// Records that wait to be written. More than fit are counted and dropped.
pub struct Queue {
    state: Mutex<State>,
    /// Something is there to be written.
    filled: Condvar,
    /// Everything is written.
    emptied: Condvar,
}

struct State {
    waiting: VecDeque<Record>,
    capacity: usize,
    lost: u64,
    /// The writer holds a record.
    writing: bool,
    /// What the writer shall use from the next record on. Handed over, not shared: the writer may hang in a write.
    output: Option<Output>,
}

impl Queue {
    pub fn new(capacity: usize, output: Output) -> Queue {
        let state = State { waiting: VecDeque::new(), capacity, lost: 0, writing: false, output: Some(output) };
        Queue { state: Mutex::new(state), filled: Condvar::new(), emptied: Condvar::new() }
    }

    /// Starts the thread that writes, for as long as the process lives.
    pub fn start_writer(queue: &Arc<Queue>) -> io::Result<()> {
        let queue = Arc::clone(queue);
        let writer = move || {
            let (mut output, mut last_heartbeat) = (None, None);
            loop {
                let (record, changed) = queue.next();
                output = changed.or(output);
                if let Some(output) = &mut output {
                    output.write(&record, &mut last_heartbeat);
                }
                queue.written();
            }
        };
        std::thread::Builder::new().name("log".to_owned()).spawn(writer).map(drop)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panicked while logging left a queue behind that is whole: it only ever gains or loses one record.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a record, or counts it as lost. Never waits for the writer.
    pub fn push(&self, record: Record) {
        let mut state = self.lock();
        if state.waiting.len() >= state.capacity {
            state.lost += 1;
            return;
        }
        state.waiting.push_back(record);
        drop(state);
        self.filled.notify_one();
    }

    /// Changes what and how is written, from the next record on.
    pub fn reconfigure(&self, capacity: usize, output: Output) {
        let mut state = self.lock();
        state.capacity = capacity;
        state.output = Some(output);
    }

    /// Waits until everything is written; false after `limit`.
    pub fn drain(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        while !state.waiting.is_empty() || state.writing {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.emptied.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// The next record, or one about those that were lost, which comes as soon as there is room again; and how to write
    /// from here on, where that has changed.
    fn next(&self) -> (Record, Option<Output>) {
        let mut state = self.lock();
        loop {
            if let Some(record) = state.waiting.pop_front() {
                state.writing = true;
                return (record, state.output.take());
            }
            if state.lost > 0 {
                let lost = std::mem::take(&mut state.lost);
                state.writing = true;
                return (lost_record(lost), state.output.take());
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn written(&self) {
        let mut state = self.lock();
        state.writing = false;
        if state.waiting.is_empty() {
            self.emptied.notify_all();
        }
    }
}

impl Output {
    fn write(&mut self, record: &Record, last_heartbeat: &mut Option<String>) {
        let is_heartbeat = is_heartbeat(&record.message);
        if is_heartbeat && self.deduplicate && last_heartbeat.as_ref() == Some(&record.message) {
            return;
        }
        *last_heartbeat = is_heartbeat.then(|| record.message.clone());
        let line = self.format.line(record);
        let written = self.file.as_mut().map(|file| file.write_line(&line));
        if !matches!(written, Some(Ok(()))) {
            // Nobody is left to be told if this fails too.
            let _ = writeln!(io::stderr().lock(), "{line}");
        }
    }
}

/// The line that says, cycle after cycle, that all is well.
fn is_heartbeat(message: &str) -> bool {
    message.starts_with("no action. ") || message.starts_with("PAUSE: no action")
}

fn lost_record(lost: u64) -> Record {
    Record {
        time: ZonedDateTime::now(),
        level: Level::WARN,
        target: module_path!(),
        message: format!("{lost} log records were lost: more than log.max_queue_size were waiting to be written"),
        file: None,
        line: None,
        thread: None,
    }
}
