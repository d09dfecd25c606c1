//! Every setting there is, in one table: its place, type, default, whether it is secret, when it takes effect, whether
//! the environment can set it, and a line of help. Checks, defaults, redaction, environment variables, the sample
//! configuration and the documentation are derived from it.

mod table;

use model::HostPort;
use model::units::{Base, bool_of, int_of};
use serde_json::Value;

pub use table::{SECTIONS, SETTINGS};

/// [`Setting::since`] of settings that upstream does not have.
pub const OURS: &str = "here only";

/// What values a setting takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Text.
    Text,
    /// `on`, `off` and their synonyms.
    Bool,
    /// A whole number within bounds, both included.
    Int(i64, i64),
    /// A number.
    Float,
    /// A size in bytes of at least this much; units such as `MB` are understood.
    Bytes(i64),
    /// A time in seconds of at least this much; units such as `min` are understood.
    Seconds(i64),
    /// `host:port`, the port optional.
    Address,
    /// Addresses to listen on: `host,host:port`; `*` or nothing means all.
    Listen,
    /// A list of `host:port`, or the same as text separated by commas.
    Addresses,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// One of these words, or a boolean as YAML makes of `on` and `off`.
    Switch(&'static [&'static str]),
    /// A list.
    List,
    /// A mapping whose keys are the user's.
    Map,
    /// Options of a command: a list of words and one-key mappings, or a mapping.
    Options,
    /// Anything; checked where it is used.
    Any,
}

/// When a changed setting takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applies {
    /// When the configuration is reloaded: on SIGHUP, `POST /reload` or `patronictl reload`.
    Reload,
    /// After a restart of the agent.
    Restart,
    /// After a restart of PostgreSQL.
    PostgresRestart,
    /// When a cluster is made, never afterwards.
    NewCluster,
    /// When the dynamic configuration changes.
    Dynamic,
}

/// A section of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Dotted path.
    pub path: &'static str,
    /// When its settings take effect, unless one says otherwise.
    pub applies: Applies,
    /// What it is for, in sentences.
    pub help: &'static str,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Dotted path. `{a,b}` stands for either word.
    pub path: &'static str,
    /// The values it takes.
    pub kind: Kind,
    /// The default, as YAML writes it.
    pub default: Option<&'static str>,
    /// Must be present for a node to run.
    pub required: bool,
    /// Never shown.
    pub secret: bool,
    /// Older names of the last part of the path, still read.
    pub aliases: &'static [&'static str],
    /// A `PATRONI_*` variable sets it; see [`variable`].
    pub env: bool,
    /// The upstream release that brought it, where its release notes say so; `0.75` for whatever that release knew,
    /// [`OURS`] for what upstream does not have.
    pub since: Option<&'static str>,
    /// When it takes effect, if not as its section says; see [`Setting::takes_effect`].
    pub applies: Option<Applies>,
    /// What it is for, in one line.
    pub help: &'static str,
}

impl Setting {
    const fn default(self, text: &'static str) -> Setting {
        Setting { default: Some(text), ..self }
    }

    const fn required(self) -> Setting {
        Setting { required: true, ..self }
    }

    const fn secret(self) -> Setting {
        Setting { secret: true, ..self }
    }

    const fn alias(self, aliases: &'static [&'static str]) -> Setting {
        Setting { aliases, ..self }
    }

    const fn env(self) -> Setting {
        Setting { env: true, ..self }
    }

    const fn since(self, release: &'static str) -> Setting {
        Setting { since: Some(release), ..self }
    }

    const fn applies(self, applies: Applies) -> Setting {
        Setting { applies: Some(applies), ..self }
    }

    /// When a changed value takes effect.
    pub fn takes_effect(&self) -> Applies {
        self.applies.unwrap_or_else(|| section_of(&self.paths()[0]).applies)
    }

    /// Every path the row stands for, old names of the setting left out; never empty.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = vec![String::new()];
        for segment in segments(self.path) {
            let longer =
                |path: &String, word: &str| if path.is_empty() { word.to_owned() } else { format!("{path}.{word}") };
            paths = paths.iter().flat_map(|path| alternatives(segment).map(move |word| longer(path, word))).collect();
        }
        paths
    }
}

/// The section a setting is documented in.
pub fn section_of(path: &str) -> &'static Section {
    let holds = |section: &&Section| path.strip_prefix(section.path).is_some_and(|rest| rest.starts_with('.'));
    SECTIONS.iter().filter(holds).max_by_key(|section| section.path.len()).unwrap_or(&SECTIONS[0])
}

/// The environment variable of a setting, if the environment can set it.
pub fn variable(path: &str) -> String {
    let path = path
        .strip_prefix("postgresql.authentication.")
        .map_or_else(|| path.replace(".authentication.", ".").replace(".bin_name.", ".bin_"), str::to_owned);
    format!("PATRONI_{}", path.replace('.', "_").to_ascii_uppercase())
}

/// Variable, path and row of every setting that the environment can set.
pub fn variables() -> impl Iterator<Item = (String, String, &'static Setting)> {
    let rows = SETTINGS.iter().filter(|setting| setting.env);
    rows.flat_map(|setting| setting.paths().into_iter().map(move |path| (variable(&path), path, setting)))
}

const fn setting(path: &'static str, kind: Kind, help: &'static str) -> Setting {
    Setting {
        path,
        kind,
        default: None,
        required: false,
        secret: false,
        aliases: &[],
        env: false,
        since: None,
        applies: None,
        help,
    }
}

/// The row for a path without alternatives.
pub fn find(path: &str) -> Option<&'static Setting> {
    let path = canonical(path);
    SETTINGS.iter().find(|setting| matches(setting, path, false))
}

/// Whether settings are known below `path`.
pub fn is_section(path: &str) -> bool {
    let path = canonical(path);
    SETTINGS.iter().any(|setting| matches(setting, path, true))
}

/// Names of the settings and sections directly below `section` (empty: at the top).
pub fn names_below(section: &str) -> Vec<&'static str> {
    let section = canonical(section);
    let depth = if section.is_empty() { 0 } else { section.split('.').count() };
    let mut names = Vec::new();
    for setting in SETTINGS.iter().filter(|setting| section.is_empty() || matches(setting, section, true)) {
        for name in segments(setting.path).nth(depth).into_iter().flat_map(alternatives) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

/// The `postgresql` section of the dynamic configuration holds what the local one does.
fn canonical(path: &str) -> &str {
    match path.strip_prefix("bootstrap.dcs.postgresql") {
        Some(rest) if rest.is_empty() || rest.starts_with('.') => &path["bootstrap.dcs.".len()..],
        _ => path,
    }
}

/// Whether a row is about `path`, or, for `prefix`, lies below it.
fn matches(setting: &'static Setting, path: &str, prefix: bool) -> bool {
    let mut pattern = segments(setting.path).peekable();
    let all = path.split('.').all(|segment| {
        let Some(words) = pattern.next() else { return false };
        let is_last = pattern.peek().is_none();
        alternatives(words).any(|word| word == segment) || is_last && setting.aliases.contains(&segment)
    });
    all && pattern.next().is_some() == prefix
}

fn segments(pattern: &'static str) -> impl Iterator<Item = &'static str> {
    pattern.split('.')
}

/// The words of one segment of a pattern.
fn alternatives(segment: &'static str) -> impl Iterator<Item = &'static str> {
    segment.trim_start_matches('{').trim_end_matches('}').split(',')
}

impl Kind {
    /// What belongs here, for people; `None` if `value` is that.
    pub fn complaint(self, value: &Value) -> Option<String> {
        (!self.accepts(value)).then(|| self.expected())
    }

    fn accepts(self, value: &Value) -> bool {
        match self {
            Kind::Text => value.is_string(),
            Kind::Bool => bool_of(value).is_some(),
            Kind::Int(least, most) => int_of(value, Base::Plain).is_some_and(|n| (least..=most).contains(&n)),
            Kind::Float => value.is_number() || value.as_str().is_some_and(|text| text.trim().parse::<f64>().is_ok()),
            Kind::Bytes(least) => int_of(value, Base::Bytes(1)).is_some_and(|n| n >= least),
            Kind::Seconds(least) => int_of(value, Base::Micros(1_000_000)).is_some_and(|n| n >= least),
            Kind::Address => value.as_str().is_some_and(is_address),
            Kind::Listen => value.as_str().is_some_and(|text| split_listen(text, 1).is_some()),
            Kind::Addresses => match value {
                Value::String(text) => text.split(',').all(|part| is_address(part.trim().trim_matches(['\'', '"']))),
                Value::Array(items) => items.iter().all(|item| item.as_str().is_some_and(is_address)),
                _ => false,
            },
            Kind::OneOf(words) => value.as_str().is_some_and(|text| is_one_of(text, words)),
            Kind::Switch(words) => {
                bool_of(value).is_some() || value.as_str().is_some_and(|text| is_one_of(text, words))
            }
            Kind::List => value.is_array(),
            Kind::Map => value.is_object(),
            Kind::Options => match value {
                Value::Array(items) => items.iter().all(|item| match item {
                    Value::String(_) => true,
                    Value::Object(map) => map.len() == 1,
                    _ => false,
                }),
                other => other.is_object(),
            },
            Kind::Any => true,
        }
    }

    /// The values taken, for people.
    pub fn expected(self) -> String {
        match self {
            Kind::Text => "text".to_owned(),
            Kind::Bool => "true or false".to_owned(),
            Kind::Int(least, i64::MAX) => format!("a whole number of at least {least}"),
            Kind::Int(least, most) => format!("a whole number from {least} to {most}"),
            Kind::Float => "a number".to_owned(),
            Kind::Bytes(least) => format!("a size in bytes of at least {least}, such as 1048576 or 1MB"),
            Kind::Seconds(least) => format!("a time in seconds of at least {least}, such as 90 or 5min"),
            Kind::Address => "host:port".to_owned(),
            Kind::Listen => "host:port, or several hosts as host,host:port".to_owned(),
            Kind::Addresses => "a list of host:port".to_owned(),
            Kind::OneOf(words) => one_of(words),
            Kind::Switch(words) => format!("on, off or {}", one_of(words)),
            Kind::List => "a list".to_owned(),
            Kind::Map => "a mapping".to_owned(),
            Kind::Options => "a list of options and one-key mappings, or a mapping".to_owned(),
            Kind::Any => "a value".to_owned(),
        }
    }
}

fn is_one_of(text: &str, words: &[&str]) -> bool {
    words.iter().any(|word| word.eq_ignore_ascii_case(text))
}

/// `a, b or c`.
pub(crate) fn one_of(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [word] => (*word).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

fn is_address(text: &str) -> bool {
    HostPort::parse(text, 1).is_some_and(|address| !address.host.is_empty())
}

/// The addresses of `host,host:port`: every host with the one port. `*` and no host at all mean every interface.
pub(crate) fn split_listen(text: &str, default_port: u16) -> Option<Vec<HostPort>> {
    let (others, last) = match text.rsplit_once(',') {
        Some((others, last)) => (Some(others), last),
        None => (None, text),
    };
    let last = HostPort::parse(last, default_port)?;
    let mut addresses = Vec::new();
    for host in others.into_iter().flat_map(|others| others.split(',')) {
        addresses.push(HostPort { port: last.port, ..HostPort::parse(host, last.port)? });
    }
    addresses.push(last);
    Some(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;
    use serde_json::json;

    #[test]
    fn rows_are_sound() {
        for (index, setting) in SETTINGS.iter().enumerate() {
            assert!(!setting.help.is_empty() && !setting.help.ends_with('.'), "{}: help", setting.path);
            if let Some(text) = setting.default {
                let value = yaml::parse(text).expect(setting.path);
                assert_eq!(setting.kind.complaint(&value), None, "{}: default {value}", setting.path);
            }
            assert!(SETTINGS[..index].iter().all(|other| other.path != setting.path), "{} twice", setting.path);
        }
    }

    #[test]
    fn paths_are_found() {
        for path in [
            "name",
            "postgresql.authentication.superuser.sslmode",
            "bootstrap.dcs.ttl",
            "bootstrap.dcs.postgresql.parameters",
            "bootstrap.dcs.postgresql.use_slots",
        ] {
            assert!(find(path).is_some(), "{path}");
        }
        for path in ["", "postgresql", "nonsense", "name.x", "postgresql.authentication.other.username"] {
            assert!(find(path).is_none(), "{path}");
        }
        assert!(is_section("postgresql.authentication") && !is_section("name") && !is_section("nonsense"));
        assert!(names_below("").contains(&"restapi") && names_below("watchdog").contains(&"mode"));
        assert_eq!(names_below("postgresql.authentication"), ["superuser", "replication", "rewind"]);
    }

    #[test]
    fn listen_addresses_share_a_port() {
        let shown = |text| split_listen(text, 5432).map(|all| all.iter().map(HostPort::to_string).collect::<Vec<_>>());
        assert_eq!(shown("*:5433"), Some(vec!["*:5433".to_owned()]));
        assert_eq!(shown("a,b:5433"), Some(vec!["a:5433".to_owned(), "b:5433".to_owned()]));
        assert_eq!(shown("127.0.0.1"), Some(vec!["127.0.0.1:5432".to_owned()]));
        assert_eq!(shown("a:99999"), None);
    }

    #[test]
    fn kinds_accept_what_they_say() {
        for (kind, good, bad) in [
            (Kind::Text, json!("a"), json!(3)),
            (Kind::Bool, json!("yes"), json!("perhaps")),
            (Kind::Int(0, 5), json!("5"), json!(6)),
            (Kind::Bytes(0), json!("1MB"), json!("1mb")),
            (Kind::Seconds(20), json!("1min"), json!(5)),
            (Kind::Addresses, json!("a:1, b"), json!(["a:99999"])),
            (Kind::Switch(&["quorum"]), json!("Quorum"), json!("perhaps")),
            (Kind::Options, json!(["a", {"b": 1}]), json!([{"a": 1, "b": 2}])),
        ] {
            assert_eq!(kind.complaint(&good), None, "{kind:?} {good}");
            assert_eq!(kind.complaint(&bad), Some(kind.expected()), "{kind:?} {bad}");
        }
    }
}
