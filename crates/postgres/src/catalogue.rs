//! What PostgreSQL's parameters accept, release by release: a table, so that a bad value is explained before a server
//! is asked. What the table does not know is left to the server's own program; see [`crate::validate`].

use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use model::units::{Base, parse_int, parse_real};

use crate::guc::Parameters;

/// The table; its head says what is in it.
const TEXT: &str = include_str!("catalogue/parameters.txt");

static TABLE: LazyLock<HashMap<String, Vec<Row>>> = LazyLock::new(|| {
    let mut table: HashMap<String, Vec<Row>> = HashMap::new();
    for (name, row) in TEXT.lines().filter_map(row) {
        table.entry(name.to_ascii_lowercase()).or_default().push(row);
    }
    table
});

/// Parameters that took the place of others, for whoever still asks for the old name, or already for the new one.
const SUCCESSORS: &[(&str, &str)] = &[
    ("checkpoint_segments", "max_wal_size"),
    ("force_parallel_mode", "debug_parallel_query"),
    ("min_parallel_relation_size", "min_parallel_table_scan_size"),
    ("replication_timeout", "wal_sender_timeout"),
    ("unix_socket_directory", "unix_socket_directories"),
    ("wal_keep_segments", "wal_keep_size"),
];

/// One row: a parameter in some releases.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    /// `server_version_num` of the first release with it.
    since: u32,
    /// The same of the first release without it.
    until: Option<u32>,
    kind: Kind,
}

/// What a value must be.
#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Bool,
    Integer(Range),
    Real(Range),
    /// Values, and whether spellings of a bool count as well.
    Enum(Vec<String>, bool),
    Text,
    Fixed,
}

/// Bounds of a number, in `unit`.
#[derive(Clone, Debug, PartialEq)]
struct Range {
    /// As `pg_settings.unit` has it; empty where there is none.
    unit: String,
    least: f64,
    most: f64,
}

/// What becomes of a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Used as it is.
    Use,
    /// This is used instead; the sentence says why.
    Replace(String, String),
    /// Not used; the sentence says why.
    LeaveOut(String),
}

/// Looks a value up for a server version (`server_version_num` of its major release). Names know no case. Parameters of
/// extensions, which have a dot, and unknown ones pass.
pub fn verdict(name: &str, value: &str, version: u32) -> Verdict {
    let Some(rows) = TABLE.get(&name.to_ascii_lowercase()) else { return Verdict::Use };
    let Some(row) = valid_row(rows, version) else {
        return Verdict::LeaveOut(format!(
            "Removing unexpected parameter={name} value={value} from the config: PostgreSQL {} has no \
             postgresql.parameters.{name}{}",
            release(version),
            elsewhere(name, rows, version)
        ));
    };
    let kind = match &row.kind {
        Kind::Text => return Verdict::Use,
        Kind::Fixed => {
            return Verdict::LeaveOut(format!(
                "Removing unexpected parameter={name} value={value} from the config: postgresql.parameters.{name} \
                 cannot be set in a file"
            ));
        }
        Kind::Bool if is_bool(value) => return Verdict::Use,
        Kind::Enum(values, boolean) if *boolean && is_bool(value) || listed(values, value) => return Verdict::Use,
        Kind::Integer(range) | Kind::Real(range) => match number(&row.kind, range, value) {
            Some(number) => return within(name, value, range, number),
            None => &row.kind,
        },
        kind => kind,
    };
    Verdict::LeaveOut(format!(
        "Removing {} parameter={name} from the config due to the invalid value={value}: postgresql.parameters.{name} \
         expects {kind}",
        kind.name()
    ))
}

/// Applies [`verdict`] to all parameters; the answer holds a sentence for each that was changed or left out.
pub(crate) fn correct(parameters: &mut Parameters, version: u32) -> Vec<String> {
    let mut notes = Vec::new();
    parameters.retain(|name, value| match verdict(name, value, version) {
        Verdict::Use => true,
        Verdict::Replace(other, note) => {
            notes.push(note);
            *value = other;
            true
        }
        Verdict::LeaveOut(note) => {
            notes.push(note);
            false
        }
    });
    notes
}

fn within(name: &str, value: &str, range: &Range, number: f64) -> Verdict {
    let (bound, how) = if number < range.least {
        (range.least, "low, increasing")
    } else if number > range.most {
        (range.most, "big, decreasing")
    } else {
        return Verdict::Use;
    };
    Verdict::Replace(
        bound.to_string(),
        format!(
            "Value={value} of parameter={name} is too {how} to {}: postgresql.parameters.{name} expects {range}",
            with_unit(bound, &range.unit)
        ),
    )
}

fn valid_row(rows: &[Row], version: u32) -> Option<&Row> {
    rows.iter().find(|row| version >= row.since && row.until.is_none_or(|until| version < until))
}

/// When the parameter is or was there, and what has its place here.
fn elsewhere(name: &str, rows: &[Row], version: u32) -> String {
    let since = rows.iter().map(|row| row.since).min().unwrap_or(0);
    let mut text = match rows.iter().filter_map(|row| row.until).max() {
        _ if version < since => format!(", which came with release {}", release(since)),
        Some(until) if version >= until => format!(", which was removed in release {}", release(until)),
        _ => String::new(),
    };
    let other = SUCCESSORS.iter().find_map(|(old, new)| match () {
        () if *old == name => Some(new),
        () if *new == name => Some(old),
        () => None,
    });
    let is_here = |other: &&&str| TABLE.get(**other).is_some_and(|rows| valid_row(rows, version).is_some());
    if let Some(other) = other.filter(is_here) {
        text.push_str(&format!("; {other} has its place"));
    }
    text
}

fn number(kind: &Kind, range: &Range, value: &str) -> Option<f64> {
    match kind {
        Kind::Integer(_) => parse_int(value, base_of(&range.unit)).map(|number| number as f64),
        _ => parse_real(value, base_of(&range.unit)),
    }
}

fn listed(values: &[String], value: &str) -> bool {
    values.iter().any(|known| known.eq_ignore_ascii_case(value))
}

/// `parse_bool` of PostgreSQL's `bool.c`: unambiguous beginnings count.
fn is_bool(value: &str) -> bool {
    let value = value.trim().to_ascii_lowercase();
    let begins = |word: &str, least: usize| value.len() >= least && word.starts_with(&value);
    begins("true", 1)
        || begins("false", 1)
        || begins("yes", 1)
        || begins("no", 1)
        || begins("on", 2)
        || begins("off", 2)
        || matches!(value.as_str(), "1" | "0")
}

/// The base unit a parameter of `pg_settings.unit` is counted in.
pub(crate) fn base_of(unit: &str) -> Base {
    match unit {
        "B" => Base::Bytes(1),
        "MB" => Base::Bytes(1 << 20),
        "16MB" => Base::Bytes(16 << 20),
        "ms" => Base::Micros(1000),
        "s" => Base::Micros(1_000_000),
        "min" => Base::Micros(60_000_000),
        _ => match unit.strip_suffix("kB") {
            Some("") => Base::Bytes(1 << 10),
            Some(blocks) => blocks.parse::<u64>().map_or(Base::Plain, |kilobytes| Base::Bytes(kilobytes << 10)),
            None => Base::Plain,
        },
    }
}

fn with_unit(number: f64, unit: &str) -> String {
    match unit.strip_suffix("kB").or_else(|| unit.strip_suffix("MB")).and_then(|count| count.parse::<f64>().ok()) {
        Some(_) => format!("{number} units of {unit}"),
        None => format!("{number}{unit}"),
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.most > 1e300 {
            write!(f, "at least {}", with_unit(self.least, &self.unit))
        } else {
            write!(f, "{} to {}", self.least, with_unit(self.most, &self.unit))
        }
    }
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Kind::Bool => "bool",
            Kind::Integer(_) => "integer",
            Kind::Real(_) => "real",
            Kind::Enum(..) => "enum",
            Kind::Text => "string",
            Kind::Fixed => "fixed",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Bool => f.write_str("on or off"),
            Kind::Integer(range) => write!(f, "a whole number, {range}"),
            Kind::Real(range) => write!(f, "a number, {range}"),
            Kind::Enum(values, _) => {
                let shown: Vec<&str> = values.iter().map(|v| if v.is_empty() { "nothing" } else { v }).collect();
                write!(f, "one of {}", shown.join(", "))
            }
            Kind::Text => f.write_str("text"),
            Kind::Fixed => f.write_str("nothing"),
        }
    }
}

/// `9.6` of 90600, `15` of 150000.
fn release(version: u32) -> String {
    match version {
        100_000.. => (version / 10_000).to_string(),
        _ => format!("{}.{}", version / 10_000, version / 100 % 100),
    }
}

/// A line of the table; `None` for comments.
fn row(line: &str) -> Option<(&str, Row)> {
    let (name, rest) = line.split_once(' ')?;
    let (versions, kind) = rest.trim_start().split_once(' ')?;
    let (since, until) = versions.split_once('-')?;
    let until = if until.is_empty() { None } else { Some(crate::layout::parse_major(until)?) };
    Some((name, Row { since: crate::layout::parse_major(since)?, until, kind: kind_of(kind.trim())? }))
}

fn kind_of(text: &str) -> Option<Kind> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    Some(match word {
        "bool" => Kind::Bool,
        "string" => Kind::Text,
        "fixed" => Kind::Fixed,
        "integer" => Kind::Integer(range(rest)?),
        "real" => Kind::Real(range(rest)?),
        "enum" | "switch" => {
            let values = rest.split(['/', ',']).map(|value| value.trim().trim_matches('"').to_owned());
            Kind::Enum(values.collect(), word == "switch")
        }
        _ => return None,
    })
}

fn range(text: &str) -> Option<Range> {
    let (unit, bounds) = text.split_once(' ').unwrap_or(("", text));
    let (least, most) = bounds.split_once("..")?;
    Some(Range { unit: unit.to_owned(), least: least.parse().ok()?, most: most.parse().ok()? })
}

#[cfg(test)]
mod tests;
