//! `log.format`: patterns such as `%(asctime)s %(levelname)-8s %(message)s`, and lines as JSON.

use config::sections::Log;
use jiff::ZonedDateTime;
use serde_json::{Map, Value};
use tracing::Level;

use super::Record;

/// The form of lines where `log.format` is nothing we can write.
const DEFAULT: &str = "%(asctime)s %(levelname)s: %(message)s";

/// The form of a line.
pub struct Format {
    shape: Shape,
    dateformat: Option<String>,
}

enum Shape {
    Plain(Vec<Part>),
    /// Fields with the names they are given, then fields that are always the same.
    Json(Vec<(Field, String)>, Map<String, Value>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field, Padding),
}

/// Attributes of a record, by the names that Python's `logging` gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Asctime,
    Created,
    Filename,
    FuncName,
    Levelname,
    Levelno,
    Lineno,
    Message,
    Module,
    Msecs,
    Name,
    Pathname,
    Process,
    ProcessName,
    ThreadName,
}

const FIELDS: &[(&str, Field)] = &[
    ("asctime", Field::Asctime),
    ("created", Field::Created),
    ("filename", Field::Filename),
    ("funcName", Field::FuncName),
    ("levelname", Field::Levelname),
    ("levelno", Field::Levelno),
    ("lineno", Field::Lineno),
    ("message", Field::Message),
    ("module", Field::Module),
    ("msecs", Field::Msecs),
    ("name", Field::Name),
    ("pathname", Field::Pathname),
    ("process", Field::Process),
    ("processName", Field::ProcessName),
    ("thread", Field::ThreadName),
    ("threadName", Field::ThreadName),
];

/// Minimal width of a field; nobody has lines as wide as the limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Padding {
    width: usize,
    left: bool,
    zeros: bool,
}

const WIDTH_MAX: usize = 1000;

impl Format {
    /// The form of lines, and a sentence for everything that could not be had.
    pub fn new(log: &Log) -> (Format, Vec<String>) {
        let mut notes = Vec::new();
        let shape = match log.json {
            true => Shape::Json(json_fields(&log.format, &mut notes), log.static_fields.clone()),
            false => Shape::Plain(log.format.as_str().and_then(parse).unwrap_or_else(|| {
                notes.push(format!("log.format is not one we can write: {DEFAULT} is used instead"));
                parse(DEFAULT).unwrap_or_default()
            })),
        };
        let dateformat = log.dateformat.clone().filter(|format| {
            let sound = jiff::fmt::strtime::format(format, &ZonedDateTime::now()).is_ok();
            if !sound {
                notes.push(format!("log.dateformat {format:?} is not a strftime format and is ignored"));
            }
            sound && !format.is_empty()
        });
        (Format { shape, dateformat }, notes)
    }

    /// One line, without its end. Line breaks of a message stay in plain lines, as upstream has it.
    pub fn line(&self, record: &Record) -> String {
        match &self.shape {
            Shape::Plain(parts) => {
                let mut line = String::with_capacity(record.message.len() + 40);
                for part in parts {
                    match part {
                        Part::Text(text) => line.push_str(text),
                        Part::Field(field, padding) => padding.push(&mut line, &self.text(*field, record)),
                    }
                }
                line
            }
            Shape::Json(fields, fixed) => {
                let mut object = Map::new();
                for (field, name) in fields {
                    object.insert(name.clone(), self.value(*field, record));
                }
                object.extend(fixed.clone());
                Value::Object(object).to_string()
            }
        }
    }

    fn text(&self, field: Field, record: &Record) -> String {
        match self.value(field, record) {
            Value::String(text) => text,
            other => other.to_string(),
        }
    }

    fn value(&self, field: Field, record: &Record) -> Value {
        let file_name = || record.file.map(|path| path.rsplit('/').next().unwrap_or(path)).unwrap_or_default();
        match field {
            Field::Asctime => self.time(&record.time).into(),
            Field::Created => (record.time.timestamp().as_microsecond() as f64 / 1e6).into(),
            Field::Filename => file_name().into(),
            Field::FuncName | Field::Module => record.target.rsplit("::").next().unwrap_or_default().into(),
            Field::Levelname => level_name(&record.level).into(),
            Field::Levelno => level_number(&record.level).into(),
            Field::Lineno => record.line.unwrap_or(0).into(),
            Field::Message => record.message.clone().into(),
            Field::Msecs => record.time.millisecond().into(),
            Field::Name => record.target.into(),
            Field::Pathname => record.file.unwrap_or_default().into(),
            Field::Process => std::process::id().into(),
            Field::ProcessName => "MainProcess".into(),
            Field::ThreadName => record.thread.clone().unwrap_or_default().into(),
        }
    }

    fn time(&self, time: &ZonedDateTime) -> String {
        let own = self.dateformat.as_ref().and_then(|format| jiff::fmt::strtime::format(format, time).ok());
        own.unwrap_or_else(|| format!("{},{:03}", time.strftime("%Y-%m-%d %H:%M:%S"), time.millisecond()))
    }
}

impl Padding {
    fn push(self, line: &mut String, text: &str) {
        let missing = self.width.saturating_sub(text.chars().count());
        let fill = if self.zeros && !self.left { "0" } else { " " }.repeat(missing);
        match self.left {
            true => line.extend([text, &fill]),
            false => line.extend([&fill, text]),
        }
    }
}

fn find(name: &str) -> Option<Field> {
    FIELDS.iter().find(|(known, _)| *known == name).map(|(_, field)| *field)
}

/// Takes a pattern apart; `None` if it names a field that we do not have, or none at all.
fn parse(format: &str) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut rest = format;
    while let Some((text, field)) = rest.split_once("%(") {
        if !text.is_empty() {
            parts.push(Part::Text(text.replace("%%", "%")));
        }
        let (name, after) = field.split_once(')')?;
        // What follows is a conversion: flags, a width, a precision that is left out, and one of `s`, `d`, `f`.
        let end = after.find(|c: char| c.is_ascii_alphabetic())?;
        let flags = &after[..end];
        let digits = flags.trim_start_matches(['-', '+', ' ', '#']);
        let width = digits.split('.').next().unwrap_or_default();
        let width = if width.is_empty() { 0 } else { width.parse().ok().filter(|width| *width <= WIDTH_MAX)? };
        let padding = Padding { width, left: flags.contains('-'), zeros: digits.starts_with('0') };
        parts.push(Part::Field(find(name)?, padding));
        rest = &after[end + 1..];
    }
    if parts.is_empty() {
        return None;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.replace("%%", "%")));
    }
    Some(parts)
}

/// The fields of a JSON line: those named in a pattern, or a list of names and of `field: new name`.
fn json_fields(format: &Value, notes: &mut Vec<String>) -> Vec<(Field, String)> {
    let mut fields = Vec::new();
    let mut add = |name: &str, shown: &str| match find(name) {
        Some(field) => fields.push((field, shown.to_owned())),
        None => notes.push(format!("log.format names the field {name}, which log lines do not have")),
    };
    match format {
        Value::String(text) => {
            for name in text.split("%(").skip(1).filter_map(|rest| rest.split(')').next()) {
                add(name, name);
            }
        }
        Value::Array(items) => {
            for item in items {
                match item {
                    Value::String(name) => add(name, name),
                    Value::Object(renamed) => {
                        for (name, shown) in renamed {
                            add(name, shown.as_str().unwrap_or(name));
                        }
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
    if fields.is_empty() {
        notes.push(format!("log.format names no fields: those of {DEFAULT} are used"));
        let names = [(Field::Asctime, "asctime"), (Field::Levelname, "levelname"), (Field::Message, "message")];
        return names.map(|(field, name)| (field, name.to_owned())).to_vec();
    }
    fields
}

fn level_name(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        _ => "DEBUG",
    }
}

fn level_number(level: &Level) -> u8 {
    match *level {
        Level::ERROR => 40,
        Level::WARN => 30,
        Level::INFO => 20,
        _ => 10,
    }
}
