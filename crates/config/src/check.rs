//! A tree of settings held against the table: keys that are not known, values that do not fit, what is missing.

use std::fmt;

use model::units::{Base, bool_of, int_of};
use serde_json::{Map, Value};

use crate::{schema, stores, tree};

/// A setting that is wrong or missing. Shown as `path value what`, which scripts around `--validate-config` expect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Dotted path of the setting.
    pub path: String,
    /// Its value as JSON, text without quotes; `***` for secrets, empty where there is none.
    pub value: String,
    /// What is wrong, and what was expected.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.path, self.value, self.what)
    }
}

impl Problem {
    pub(crate) fn invalid(path: &str, value: &Value, expected: &str) -> Problem {
        Problem {
            path: path.to_owned(),
            value: shown(path, value),
            what: format!("didn't pass validation: expected {expected}"),
        }
    }

    pub(crate) fn missing(path: &str, expected: &str) -> Problem {
        Problem { path: path.to_owned(), value: String::new(), what: format!("is not defined: expected {expected}") }
    }
}

/// What a walk over a tree found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// A sentence for every key that is not known. Never fatal: the key may be a newer version's.
    pub unknown: Vec<String>,
    /// Values that do not fit.
    pub problems: Vec<Problem>,
}

/// Checks the types of everything in a local configuration, and its keys.
pub fn check(tree: &Map<String, Value>) -> Findings {
    let mut walk = Walk { custom: custom_sections(tree), findings: Findings::default() };
    walk.section("", tree);
    if let Some(Value::Object(dynamic)) = tree::get(tree, "bootstrap.dcs") {
        permit_short_times(dynamic, "bootstrap.dcs.", &mut walk.findings);
    }
    walk.findings
}

/// With `allow_short_ttl` two times may be lower than the table says, which is what upstream's nodes can do.
fn permit_short_times(dynamic: &Map<String, Value>, prefix: &str, findings: &mut Findings) {
    let permitted = |path: &str| {
        let name = path.strip_prefix(prefix).unwrap_or(path);
        let least =
            [("ttl", 3), ("retry_timeout", 1)].iter().find(|(known, _)| *known == name).map(|(_, least)| *least);
        let value = dynamic.get(name).and_then(|value| int_of(value, Base::Micros(1_000_000)));
        least.zip(value).is_some_and(|(least, value)| value >= least)
    };
    if dynamic.get("allow_short_ttl").and_then(bool_of) == Some(true) {
        findings.problems.retain(|problem| !permitted(&problem.path));
    }
}

/// Checks a dynamic configuration (`/config` in the store).
pub fn check_dynamic(dynamic: &Map<String, Value>) -> Findings {
    let mut walk = Walk { custom: Vec::new(), findings: Findings::default() };
    walk.section("bootstrap.dcs", dynamic);
    permit_short_times(dynamic, "bootstrap.dcs.", &mut walk.findings);
    for sentence in &mut walk.findings.unknown {
        *sentence = sentence.replace("bootstrap.dcs.", "");
    }
    for problem in &mut walk.findings.problems {
        if let Some(path) = problem.path.strip_prefix("bootstrap.dcs.") {
            problem.path = path.to_owned();
        }
    }
    walk.findings
}

/// What `--validate-config` insists on in sections that are optional themselves: of each row one key must be there.
const WITHIN: &[(&str, &[&str])] = &[
    ("bootstrap", &["dcs"]),
    ("bootstrap.dcs.standby_cluster", &["host", "port", "restore_command"]),
    ("restapi.authentication", &["username"]),
    ("restapi.authentication", &["password"]),
    ("etcd", &["host", "hosts", "srv", "srv_suffix", "url", "proxy"]),
    ("etcd3", &["host", "hosts", "srv", "srv_suffix", "url", "proxy"]),
    ("consul", &["host", "url"]),
    ("zookeeper", &["hosts"]),
    ("exhibitor", &["hosts"]),
    ("exhibitor", &["port"]),
    ("kubernetes", &["labels"]),
    ("raft", &["self_addr"]),
    ("raft", &["partner_addrs"]),
    ("citus", &["database"]),
    ("citus", &["group"]),
];

/// What a node cannot do without, and a section whose absence explains several of them at once. `all` adds what only
/// `--validate-config` insists on.
pub fn missing(tree: &Map<String, Value>, all: bool) -> Vec<Problem> {
    let validated: &[(&str, &str)] = &[
        ("restapi.connect_address", "host:port"),
        ("postgresql.connect_address", "host:port"),
        ("postgresql.authentication.superuser", "a user name and a password"),
    ];
    let required = schema::SETTINGS.iter().filter(|setting| setting.required);
    let wanted = required
        .map(|setting| (setting.path, format!("{} ({})", setting.help, setting.kind.expected())))
        .chain([("postgresql.authentication.replication", "a user name and a password".to_owned())])
        .chain(validated.iter().filter(|_| all).map(|(path, expected)| (*path, (*expected).to_owned())));
    let mut problems: Vec<Problem> = Vec::new();
    for (path, expected) in wanted.filter(|(path, _)| tree::get(tree, path).is_none()) {
        let sections = path.match_indices('.').map(|(at, _)| &path[..at]);
        match sections.into_iter().find(|section| tree::get(tree, section).is_none()) {
            Some(section) => {
                if problems.iter().all(|problem| problem.path != section) {
                    problems.push(Problem::missing(section, "a mapping"));
                }
            }
            None => problems.push(Problem::missing(path, &expected)),
        }
    }
    for (section, keys) in WITHIN.iter().filter(|_| all) {
        if let Some(Value::Object(inner)) = tree::get(tree, section)
            && keys.iter().all(|key| inner.get(*key).is_none_or(Value::is_null))
        {
            let other = if let [_] = keys { String::new() } else { format!(", or one of {}", keys[1..].join(", ")) };
            problems.push(Problem::missing(&format!("{section}.{}", keys[0]), &format!("this setting{other}")));
        }
    }
    if !stores::KNOWN.iter().any(|store| tree.contains_key(store.name)) {
        let expected = format!("one section of a store: {}", stores::supported());
        problems.extend(stores::KNOWN.iter().map(|store| Problem::missing(store.name, &expected)));
    }
    problems
}

/// Sections whose names the user chose: a bootstrap method's and replica methods'.
fn custom_sections(tree: &Map<String, Value>) -> Vec<String> {
    let mut custom = Vec::new();
    if let Some(Value::String(method)) = tree::get(tree, "bootstrap.method") {
        custom.push(format!("bootstrap.{method}"));
    }
    for path in ["postgresql.create_replica_methods", "postgresql.create_replica_method"] {
        if let Some(Value::Array(methods)) = tree::get(tree, path) {
            custom.extend(methods.iter().filter_map(Value::as_str).map(|method| format!("postgresql.{method}")));
        }
    }
    custom
}

struct Walk {
    custom: Vec<String>,
    findings: Findings,
}

impl Walk {
    fn section(&mut self, section: &str, map: &Map<String, Value>) {
        for (key, value) in map.iter().filter(|(_, value)| !value.is_null()) {
            let path = if section.is_empty() { key.clone() } else { format!("{section}.{key}") };
            if let Some(setting) = schema::find(&path) {
                if let Some(expected) = setting.kind.complaint(value) {
                    self.findings.problems.push(Problem::invalid(&path, value, &expected));
                } else if let Value::Object(inner) = value {
                    self.named_below(&path, inner);
                }
            } else if schema::is_section(&path) {
                match value {
                    Value::Object(inner) => self.section(&path, inner),
                    other => self.findings.problems.push(Problem::invalid(&path, other, "a mapping")),
                }
            } else if section != "tags" && !self.custom.contains(&path) {
                self.findings.unknown.push(unknown(&path, section, key));
            }
        }
    }

    /// A mapping whose keys are the user's: of some the table knows the type.
    fn named_below(&mut self, section: &str, map: &Map<String, Value>) {
        for (key, value) in map.iter().filter(|(_, value)| !value.is_null()) {
            let path = format!("{section}.{key}");
            if let Some(expected) = schema::find(&path).and_then(|setting| setting.kind.complaint(value)) {
                self.findings.problems.push(Problem::invalid(&path, value, &expected));
            }
        }
    }
}

fn unknown(path: &str, section: &str, key: &str) -> String {
    let nearest = schema::names_below(section)
        .into_iter()
        .map(|name| (distance(key, name), name))
        .filter(|(distance, name)| *distance <= (name.len().min(key.len()) / 3).max(1))
        .min();
    match nearest {
        Some((_, name)) if section.is_empty() => format!("{path} is not a known setting; did you mean {name}?"),
        Some((_, name)) => format!("{path} is not a known setting; did you mean {section}.{name}?"),
        None => format!("{path} is not a known setting"),
    }
}

/// Levenshtein distance of two short names.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// A value as messages show it.
pub(crate) fn shown(path: &str, value: &Value) -> String {
    // Text where credentials belong may be a password in the wrong place.
    if is_secret(path) || path.split('.').any(|segment| segment == "authentication") && schema::is_section(path) {
        return "***".to_owned();
    }
    match value {
        Value::String(text) => text.clone(),
        // Collections may hold anything, passwords included.
        Value::Array(_) | Value::Object(_) => tree::kind_name(value).to_owned(),
        other => other.to_string(),
    }
}

/// Whether the value at `path` must not be shown. Keys that are not in the table are judged by their name.
pub(crate) fn is_secret(path: &str) -> bool {
    schema::find(path).map_or_else(
        || {
            let key = path.rsplit('.').next().unwrap_or(path).to_ascii_lowercase();
            ["password", "secret", "token", "auth"].iter().any(|word| key.contains(word)) && !schema::is_section(path)
        },
        |setting| setting.secret,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lines(tree: Value) -> Vec<String> {
        let findings = check(tree.as_object().expect("an object"));
        findings.unknown.into_iter().chain(findings.problems.iter().map(Problem::to_string)).collect()
    }

    #[test]
    fn each_wrong_value_has_its_sentence() {
        for (tree, expected) in [
            (json!({"name": 3}), "name 3 didn't pass validation: expected text"),
            (json!({"restapi": 3}), "restapi 3 didn't pass validation: expected a mapping"),
            (
                json!({"restapi": {"verify_client": "maybe"}}),
                "restapi.verify_client maybe didn't pass validation: expected none, optional or required",
            ),
            (
                json!({"restapi": {"request_queue_size": 9999}}),
                "restapi.request_queue_size 9999 didn't pass validation: expected a whole number from 0 to 4096",
            ),
            (
                json!({"bootstrap": {"dcs": {"ttl": 5}}}),
                "bootstrap.dcs.ttl 5 didn't pass validation: expected a time in seconds of at least 20, such as 90 or 5min",
            ),
            (
                json!({"bootstrap": {"dcs": {"postgresql": {"parameters": 5}}}}),
                "bootstrap.dcs.postgresql.parameters 5 didn't pass validation: expected a mapping",
            ),
            (
                json!({"postgresql": {"authentication": {"superuser": {"password": 12345}}}}),
                "postgresql.authentication.superuser.password *** didn't pass validation: expected text",
            ),
            (
                json!({"postgresql": {"pg_hba": {"a": "p"}}}),
                "postgresql.pg_hba a mapping didn't pass validation: expected a list",
            ),
            (
                json!({"watchdog": {"mode": "perhaps"}}),
                "watchdog.mode perhaps didn't pass validation: expected on, off or automatic, auto, required, require, \
                 disable or disabled",
            ),
            (
                json!({"log": {"level": "LOUD"}}),
                "log.level LOUD didn't pass validation: expected DEBUG, INFO, WARNING, WARN, ERROR, CRITICAL or FATAL",
            ),
            (json!({"restapi": {"lisen": "x"}}), "restapi.lisen is not a known setting; did you mean restapi.listen?"),
            (json!({"postgrsql": {}}), "postgrsql is not a known setting; did you mean postgresql?"),
            (json!({"patroni_extra": {}}), "patroni_extra is not a known setting"),
        ] {
            assert_eq!(lines(tree.clone()), [expected], "{tree}");
        }
    }

    #[test]
    fn names_that_users_choose_are_no_mistakes() {
        let tree = json!({
            "tags": {"zone": "a", "nofailover": false},
            "bootstrap": {"method": "clone", "clone": {"command": "x"}},
            "postgresql": {
                "create_replica_methods": ["wal_e", "basebackup"], "wal_e": {"command": "x"},
                "parameters": {"anything": 1},
            },
        });
        assert_eq!(lines(tree), Vec::<String>::new());
    }

    #[test]
    fn dynamic_configuration_is_checked_with_its_own_paths() {
        let dynamic = json!({"ttl": "x", "postgresql": {"use_slots": "perhaps"}, "loop_wiat": 1});
        let findings = check_dynamic(dynamic.as_object().expect("an object"));
        let paths: Vec<&str> = findings.problems.iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(paths, ["ttl", "postgresql.use_slots"]);
        assert_eq!(findings.unknown, ["loop_wiat is not a known setting; did you mean loop_wait?"]);
    }

    #[test]
    fn missing_settings_are_named_once() {
        let paths = |tree: Value, all| -> Vec<String> {
            missing(tree.as_object().expect("an object"), all).into_iter().map(|problem| problem.path).collect()
        };
        assert_eq!(paths(json!({"scope": "x", "etcd3": {"host": "h"}}), true), ["name", "restapi", "postgresql"],);
        let tree = json!({"scope": "x", "name": "n", "restapi": {"listen": "a"}, "postgresql": {
            "listen": "b", "data_dir": "d", "authentication": {"replication": {"username": "r"}}}, "etcd3": {"host": "h"}});
        assert_eq!(paths(tree.clone(), false), Vec::<String>::new());
        assert_eq!(
            paths(tree, true),
            ["restapi.connect_address", "postgresql.connect_address", "postgresql.authentication.superuser"]
        );
        assert!(paths(json!({"name": "n"}), false).contains(&"zookeeper".to_owned()));
    }

    #[test]
    fn short_times_are_permitted_where_they_are_asked_for() {
        for (dynamic, wrong) in [
            (json!({"ttl": 3, "retry_timeout": 1, "allow_short_ttl": true}), vec![]),
            (json!({"ttl": 2, "retry_timeout": 1, "allow_short_ttl": true}), vec!["ttl"]),
            (json!({"ttl": "x", "allow_short_ttl": true}), vec!["ttl"]),
            (json!({"ttl": 3, "retry_timeout": 1, "allow_short_ttl": false}), vec!["ttl", "retry_timeout"]),
        ] {
            let found = check_dynamic(dynamic.as_object().expect("an object"));
            let paths: Vec<&str> = found.problems.iter().map(|problem| problem.path.as_str()).collect();
            assert_eq!(paths, wrong, "{dynamic}");
            assert!(found.unknown.is_empty(), "{:?}", found.unknown);
        }
    }

    #[test]
    fn secrets_are_known_by_table_and_by_name() {
        for path in
            ["restapi.authentication.password", "etcd3.password", "consul.token", "x.my_password", "restapi.auth"]
        {
            assert!(is_secret(path), "{path}");
        }
        for path in ["restapi.authentication", "postgresql.pgpass", "name"] {
            assert!(!is_secret(path), "{path}");
        }
    }
}
