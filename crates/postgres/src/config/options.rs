//! Options of PostgreSQL's programs and of user's scripts, as configuration spells them.

use serde_json::{Map, Value};

use super::reader::plain_text;

/// Options of initdb that are ours to give, or that would break it.
pub(super) const INITDB_FORBIDDEN: &[&str] = &["pgdata", "nosync", "pwfile", "sync-only", "version"];
/// Options of pg_basebackup that are ours to give.
pub(super) const BASEBACKUP_FORBIDDEN: &[&str] = &[
    "pgdata",
    "format",
    "wal-method",
    "xlog-method",
    "gzip",
    "version",
    "dbname",
    "host",
    "port",
    "username",
    "password",
];
/// Options of pg_rewind that are ours to give.
pub(super) const REWIND_FORBIDDEN: &[&str] = &[
    "target-pgdata",
    "source-pgdata",
    "source-server",
    "write-recovery-conf",
    "dry-run",
    "restore-target-wal",
    "config-file",
    "no-ensure-shutdown",
    "version",
    "help",
];

/// Reads options in all their forms: a list of names (`x`: `--x`) and one-key maps (`x: v`: `--x=v`), or one map.
/// Answers the command line and what could not be used, a sentence each.
pub fn parse_options(value: Option<&Value>, path: &str, forbidden: &[&str]) -> (Vec<String>, Vec<String>) {
    let mut parsed = Options { path, forbidden, options: Vec::new(), problems: Vec::new() };
    match value {
        None | Some(Value::Null) => {}
        Some(Value::Array(items)) => items.iter().for_each(|item| parsed.item(item)),
        Some(Value::Object(map)) => {
            for (name, value) in map {
                match value {
                    Value::Null | Value::Bool(false) => {}
                    Value::String(text) if text.is_empty() => {}
                    Value::Bool(true) => parsed.push(name, None),
                    other => parsed.push(name, Some(&plain_text(other))),
                }
            }
        }
        Some(other) => parsed.problems.push(format!("{path} {other}: expected a list of options")),
    }
    (parsed.options, parsed.problems)
}

struct Options<'a> {
    path: &'a str,
    forbidden: &'a [&'a str],
    options: Vec<String>,
    problems: Vec<String>,
}

impl Options<'_> {
    fn item(&mut self, item: &Value) {
        match item {
            Value::String(name) => self.push(name, None),
            Value::Object(map) if map.len() == 1 => {
                for (name, value) in map {
                    match value {
                        Value::String(_) | Value::Number(_) => self.push(name, Some(&plain_text(value))),
                        _ => self.problems.push(format!("{}: option {name} {value}: expected text", self.path)),
                    }
                }
            }
            other => self.problems.push(format!("{} {other}: expected a name or one name with a value", self.path)),
        }
    }

    fn push(&mut self, name: &str, value: Option<&str>) {
        let name = name.trim().trim_start_matches('-');
        let bare = name.split('=').next().unwrap_or(name);
        // Compressing on the client makes no plain directory; only the server side form does.
        let client_compression = self.forbidden.contains(&"gzip")
            && bare == "compress"
            && !value.or_else(|| name.split_once('=').map(|(_, value)| value)).unwrap_or("").starts_with("server");
        if bare.is_empty() || self.forbidden.contains(&bare) || client_compression {
            self.problems.push(format!("{}: option {bare:?} is not allowed here", self.path));
            return;
        }
        self.options.push(match value {
            Some(value) => format!("--{name}={}", without_quotes(value)),
            None => format!("--{name}"),
        });
    }
}

/// Users quote values as for a shell, which is not involved.
fn without_quotes(value: &str) -> String {
    let quoted = value.len() >= 2 && (value.starts_with('\'') || value.starts_with('"'));
    match shlex::split(value) {
        Some(words) if quoted && words.len() == 1 => words.into_iter().next().unwrap_or_default(),
        _ => value.to_owned(),
    }
}

/// `--key=value` arguments from the keys of a method's section, without those in `reserved`.
pub fn method_arguments(settings: &Map<String, Value>, reserved: &[&str]) -> Vec<String> {
    let extra = settings.iter().filter(|(key, value)| !reserved.contains(&key.as_str()) && !value.is_null());
    extra.map(|(key, value)| format!("--{key}={}", plain_text(value))).collect()
}
