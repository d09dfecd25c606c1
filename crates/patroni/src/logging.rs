//! Log lines in upstream's form, `2026-01-31 12:00:00,123 INFO: message`, or as JSON, to standard error or a file that is
//! rotated; as the section `log` says, which may change while the program runs.
//!
//! Whoever logs puts a record into a bounded queue; one thread writes. A disk that hangs thus costs log lines, which are
//! counted and reported, and never a leader its lease.

mod file;
mod format;
mod levels;
mod queue;

use std::fmt::{self, Write};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use config::sections::Log;
use jiff::ZonedDateTime;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use format::Format;
use queue::{Output, Queue};

/// How long the last lines may take to be written at the end.
const FINISH_MAX: Duration = Duration::from_secs(5);

/// Logging of this process, once it has started.
static RUNNING: OnceLock<Running> = OnceLock::new();

struct Running {
    queue: Arc<Queue>,
    filter: reload::Handle<Targets, Registry>,
}

/// One event, with everything a line may show.
struct Record {
    time: ZonedDateTime,
    level: Level,
    /// The part of the program, such as `agent::driver`.
    target: &'static str,
    message: String,
    file: Option<&'static str>,
    line: Option<u32>,
    thread: Option<String>,
}

/// Starts logging for the whole process.
pub fn start(log: &Log) -> Result<(), String> {
    let (output, notes) = output(log)?;
    let queue = Arc::new(Queue::new(log.max_queue_size, output));
    let (filter, handle) = reload::Layer::new(levels::targets(log));
    tracing_subscriber::registry()
        .with(filter)
        .with(ToQueue(Arc::clone(&queue)))
        .try_init()
        .map_err(|error| format!("cannot start logging: {error}"))?;
    Queue::start_writer(&queue).map_err(|error| format!("cannot start the thread that writes the log: {error}"))?;
    // Set once: a second start has failed above.
    let _ = RUNNING.set(Running { queue, filter: handle });
    warn(notes);
    Ok(())
}

/// Applies a changed section `log`, and opens its file anew, as programs that move log files away expect. On an error
/// logging goes on as before.
pub fn reload(log: &Log) -> Result<(), String> {
    let Some(running) = RUNNING.get() else { return start(log) };
    let (output, notes) = output(log)?;
    running.filter.reload(levels::targets(log)).map_err(|error| format!("cannot change log levels: {error}"))?;
    running.queue.reconfigure(log.max_queue_size, output);
    warn(notes);
    Ok(())
}

/// Waits until everything logged so far is written; false if the time for it ran out.
pub fn finish() -> bool {
    RUNNING.get().is_none_or(|running| running.queue.drain(FINISH_MAX))
}

fn output(log: &Log) -> Result<(Output, Vec<String>), String> {
    let (format, notes) = Format::new(log);
    let file = match &log.dir {
        Some(dir) => Some(file::RotatingFile::open(dir, log.mode, log.file_size_bytes, log.file_num)?),
        None => None,
    };
    Ok((Output { format, file, deduplicate: log.deduplicate_heartbeat_logs }, notes))
}

fn warn(notes: Vec<String>) {
    for note in notes {
        tracing::warn!("{note}");
    }
}

/// Turns events into records of the queue.
struct ToQueue(Arc<Queue>);

impl<S: Subscriber> Layer<S> for ToQueue {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = Message::default();
        event.record(&mut message);
        let metadata = event.metadata();
        self.0.push(Record {
            time: ZonedDateTime::now(),
            level: *metadata.level(),
            target: metadata.target(),
            message: message.text + &message.fields,
            file: metadata.file(),
            line: metadata.line(),
            thread: std::thread::current().name().map(str::to_owned),
        });
    }
}

/// The message of an event, and its fields as ` name=value`.
#[derive(Default)]
struct Message {
    text: String,
    fields: String,
}

impl Visit for Message {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.text, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests;
