//! Log lines in upstream's form: `2026-01-31 12:00:00,123 INFO: message`, on standard error.

use std::fmt::{self, Write};

use config::sections::{Log, LogLevel};
use jiff::ZonedDateTime;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// The crates whose lines `log.level` is about; libraries speak only of what should be looked at.
const OURS: [&str; 9] = ["agent", "api", "config", "ctl", "dcs", "ha", "model", "patroni", "postgres"];

/// The form of lines where `log.format` is nothing we can render.
const DEFAULT_FORMAT: &str = "%(asctime)s %(levelname)s: %(message)s";

/// Starts logging for the whole process.
pub fn start(log: &Log) -> Result<(), String> {
    let (format, mut notes) = LineFormat::new(log);
    if log.dir.is_some() {
        notes.push("log.dir is not supported yet: lines go to standard error".to_owned());
    }
    if log.json {
        notes.push("log.type json is not supported yet: lines are plain".to_owned());
    }
    let layer = tracing_subscriber::fmt::layer().event_format(format).with_writer(std::io::stderr).with_ansi(false);
    tracing_subscriber::registry()
        .with(targets(log.level))
        .with(layer)
        .try_init()
        .map_err(|error| format!("cannot start logging: {error}"))?;
    for note in notes {
        tracing::warn!("{note}");
    }
    Ok(())
}

fn targets(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Error | LogLevel::Critical => LevelFilter::ERROR,
    };
    Targets::new().with_default(level.min(LevelFilter::WARN)).with_targets(OURS.map(|name| (name, level)))
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Time,
    Level,
    Message,
    Target,
    Process,
}

/// A pattern such as `%(asctime)s %(levelname)s: %(message)s`, taken apart.
#[derive(Clone, Debug)]
struct LineFormat {
    parts: Vec<Part>,
    dateformat: Option<String>,
}

impl LineFormat {
    /// The form of lines, and a sentence for everything that could not be had.
    fn new(log: &Log) -> (LineFormat, Vec<String>) {
        let mut notes = Vec::new();
        let parts = log.format.as_str().and_then(parse).unwrap_or_else(|| {
            notes.push(format!("log.format is not one we can write: {DEFAULT_FORMAT} is used instead"));
            parse(DEFAULT_FORMAT).unwrap_or_default()
        });
        let dateformat = log.dateformat.clone().filter(|format| {
            let sound = jiff::fmt::strtime::format(format, &ZonedDateTime::now()).is_ok();
            if !sound {
                notes.push(format!("log.dateformat {format:?} is not a strftime format and is ignored"));
            }
            sound
        });
        (LineFormat { parts, dateformat }, notes)
    }

    fn line(&self, now: &ZonedDateTime, level: &Level, target: &str, message: &str) -> String {
        let mut line = String::with_capacity(message.len() + 40);
        for part in &self.parts {
            match part {
                Part::Text(text) => line.push_str(text),
                Part::Time => line.push_str(&self.time(now)),
                Part::Level => line.push_str(level_name(level)),
                Part::Message => line.push_str(message),
                Part::Target => line.push_str(target),
                Part::Process => line.push_str(&std::process::id().to_string()),
            }
        }
        line
    }

    fn time(&self, now: &ZonedDateTime) -> String {
        let own = self.dateformat.as_ref().and_then(|format| jiff::fmt::strtime::format(format, now).ok());
        own.unwrap_or_else(|| format!("{},{:03}", now.strftime("%Y-%m-%d %H:%M:%S"), now.millisecond()))
    }
}

/// Takes a pattern apart; `None` if it names a field that we do not have.
fn parse(format: &str) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut rest = format;
    while let Some((text, field)) = rest.split_once("%(") {
        if !text.is_empty() {
            parts.push(Part::Text(text.replace("%%", "%")));
        }
        let (name, after) = field.split_once(')')?;
        parts.push(match name {
            "asctime" => Part::Time,
            "levelname" => Part::Level,
            "message" => Part::Message,
            "name" | "module" => Part::Target,
            "process" => Part::Process,
            _ => return None,
        });
        // What follows is a conversion: padding, then `s` or `d`. Padding is left out.
        let conversion = after.find(|c: char| c.is_ascii_alphabetic())?;
        rest = &after[conversion + 1..];
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.replace("%%", "%")));
    }
    Some(parts)
}

fn level_name(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        _ => "DEBUG",
    }
}

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut message = Message::default();
        event.record(&mut message);
        let text = format!("{}{}", message.text, message.fields);
        let metadata = event.metadata();
        writeln!(writer, "{}", self.line(&ZonedDateTime::now(), metadata.level(), metadata.target(), &text))
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
mod tests {
    use super::*;
    use config::LocalConfig;
    use serde_json::json;

    fn line(log: serde_json::Value) -> (String, Vec<String>) {
        let tree = json!({ "log": log });
        let log = LocalConfig::from_tree(tree.as_object().expect("an object").clone()).log().expect("valid");
        let (format, notes) = LineFormat::new(&log);
        let now: ZonedDateTime = "2026-01-31T12:00:05.0071+01:00[Europe/Berlin]".parse().expect("a time");
        (format.line(&now, &Level::WARN, "agent::driver", "no action"), notes)
    }

    #[test]
    fn lines_look_like_upstreams() {
        for (log, expected) in [
            (json!({}), "2026-01-31 12:00:05,007 WARNING: no action"),
            (json!({"dateformat": "%H:%M"}), "12:00 WARNING: no action"),
            (
                json!({"format": "100%% [%(name)s] %(levelname)-8s|%(message)s."}),
                "100% [agent::driver] WARNING|no action.",
            ),
        ] {
            assert_eq!(line(log.clone()), (expected.to_owned(), vec![]), "{log}");
        }
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let (text, notes) = line(json!({"format": "%(threadName)s %(message)s", "dateformat": "%"}));
        assert_eq!(text, "2026-01-31 12:00:05,007 WARNING: no action");
        assert_eq!(
            notes,
            [
                "log.format is not one we can write: %(asctime)s %(levelname)s: %(message)s is used instead",
                "log.dateformat \"%\" is not a strftime format and is ignored",
            ]
        );
    }

    #[test]
    fn libraries_are_quieter_than_we_are() {
        let enabled = |level, target: &str, event| targets(level).would_enable(target, event);
        assert!(enabled(LogLevel::Debug, "agent::driver", &Level::DEBUG));
        assert!(!enabled(LogLevel::Debug, "hyper", &Level::INFO));
        assert!(enabled(LogLevel::Info, "agent", &Level::INFO) && !enabled(LogLevel::Info, "agent", &Level::DEBUG));
        assert!(!enabled(LogLevel::Critical, "hyper", &Level::WARN));
    }
}
