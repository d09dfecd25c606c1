//! `PATRONI_*` environment variables: which setting each one sets, and how its text is read.

use std::ffi::OsString;

use model::units::parse_bool;
use serde_json::{Map, Value};

use crate::tree;
use crate::yaml;

/// How the text of a variable becomes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parse {
    Text,
    Bool,
    /// A whole number as YAML writes it; `0640` is octal.
    Int,
    Float,
    /// A YAML flow sequence, brackets optional.
    List,
    /// A YAML flow mapping, braces optional.
    Map,
    /// Text with `%(field)s` in it, or a list of field names.
    Format,
}

/// Variables `PATRONI_<prefix><name>` that set `<section>.<name in lower case>`.
struct Group {
    prefix: &'static str,
    section: &'static str,
    names: &'static [&'static str],
    parse: Parse,
}

const fn group(prefix: &'static str, section: &'static str, names: &'static [&'static str], parse: Parse) -> Group {
    Group { prefix, section, names, parse }
}

const AUTHENTICATION: &[&str] = &[
    "USERNAME",
    "PASSWORD",
    "SSLMODE",
    "SSLCERT",
    "SSLKEY",
    "SSLPASSWORD",
    "SSLROOTCERT",
    "SSLCRL",
    "SSLCRLDIR",
    "GSSENCMODE",
    "CHANNEL_BINDING",
    "SSLNEGOTIATION",
];

const GROUPS: &[Group] = &[
    group("", "", &["NAME", "NAMESPACE", "SCOPE", "THREAD_POOL_SIZE", "THREAD_STACK_SIZE"], Parse::Text),
    group(
        "RESTAPI_",
        "restapi",
        &[
            "LISTEN",
            "CONNECT_ADDRESS",
            "CERTFILE",
            "KEYFILE",
            "KEYFILE_PASSWORD",
            "CAFILE",
            "CIPHERS",
            "VERIFY_CLIENT",
            "SERVER_TOKENS",
        ],
        Parse::Text,
    ),
    group("RESTAPI_", "restapi", &["HTTP_EXTRA_HEADERS", "HTTPS_EXTRA_HEADERS"], Parse::Map),
    group("RESTAPI_", "restapi", &["ALLOWLIST"], Parse::List),
    group("RESTAPI_", "restapi", &["ALLOWLIST_INCLUDE_MEMBERS"], Parse::Bool),
    group("RESTAPI_", "restapi", &["REQUEST_QUEUE_SIZE", "THREAD_POOL_SIZE"], Parse::Int),
    group("RESTAPI_", "restapi.authentication", &["USERNAME", "PASSWORD"], Parse::Text),
    group("CTL_", "ctl.authentication", &["USERNAME", "PASSWORD"], Parse::Text),
    group("CTL_", "ctl", &["INSECURE"], Parse::Bool),
    group("CTL_", "ctl", &["CACERT", "CERTFILE", "KEYFILE", "KEYFILE_PASSWORD"], Parse::Text),
    group(
        "POSTGRESQL_",
        "postgresql",
        &["LISTEN", "CONNECT_ADDRESS", "PROXY_ADDRESS", "CONFIG_DIR", "DATA_DIR", "PGPASS", "BIN_DIR"],
        Parse::Text,
    ),
    group(
        "POSTGRESQL_BIN_",
        "postgresql.bin_name",
        &["PG_CTL", "INITDB", "PG_CONTROLDATA", "PG_BASEBACKUP", "POSTGRES", "PG_ISREADY", "PG_REWIND"],
        Parse::Text,
    ),
    group("REPLICATION_", "postgresql.authentication.replication", AUTHENTICATION, Parse::Text),
    group("SUPERUSER_", "postgresql.authentication.superuser", AUTHENTICATION, Parse::Text),
    group("REWIND_", "postgresql.authentication.rewind", AUTHENTICATION, Parse::Text),
    group("LOG_", "log", &["TYPE", "LEVEL", "TRACEBACK_LEVEL", "DATEFORMAT", "DIR"], Parse::Text),
    group("LOG_", "log", &["FORMAT"], Parse::Format),
    group("LOG_", "log", &["MAX_QUEUE_SIZE", "MODE", "FILE_SIZE", "FILE_NUM"], Parse::Int),
    group("LOG_", "log", &["STATIC_FIELDS", "LOGGERS"], Parse::Map),
    group("LOG_", "log", &["DEDUPLICATE_HEARTBEAT_LOGS"], Parse::Bool),
    group("SENTINEL_", "sentinel", &["MODE"], Parse::Text),
    group("CITUS_", "citus", &["GROUP"], Parse::Int),
    group("CITUS_", "citus", &["DATABASE"], Parse::Text),
    group("RAFT_", "raft", &["DATA_DIR", "SELF_ADDR", "PASSWORD", "BIND_ADDR"], Parse::Text),
    group("RAFT_", "raft", &["PARTNER_ADDRS"], Parse::List),
    group(
        "RAFT_",
        "raft",
        &[
            "MIN_TIMEOUT",
            "MAX_TIMEOUT",
            "CONNECTION_TIMEOUT",
            "APPEND_ENTRIES_PERIOD",
            "CONNECTION_RETRY_TIME",
            "LEADER_FALLBACK_TIMEOUT",
        ],
        Parse::Float,
    ),
];

/// Older names, which give way to the newer ones.
const OLD_NAMES: &[(&str, &str)] = &[
    ("PATRONI_LOGLEVEL", "log.level"),
    ("PATRONI_LOGFORMAT", "log.format"),
    ("PATRONI_LOG_DATEFMT", "log.dateformat"),
];

/// `PATRONI_<SECTION>_<SUFFIX>` with one of these suffixes sets `<section>.<suffix>` in any section.
const SUFFIXES: &[(Parse, &[&str])] = &[
    (Parse::Int, &["PORT"]),
    (Parse::List, &["HOSTS", "PORTS", "CHECKS", "SERVICE_TAGS", "RETRIABLE_HTTP_CODES"]),
    (Parse::Map, &["LABELS", "SET_ACLS", "AUTH_DATA", "BOOTSTRAP_LABELS"]),
    (Parse::Bool, &["USE_PROXIES", "REGISTER_SERVICE", "USE_ENDPOINTS", "BYPASS_API_SERVICE", "VERIFY"]),
    (
        Parse::Text,
        &[
            "HOST",
            "PROTOCOL",
            "SRV",
            "SRV_SUFFIX",
            "URL",
            "PROXY",
            "CACERT",
            "CERT",
            "KEY",
            "TOKEN",
            "DC",
            "CONSISTENCY",
            "SERVICE_CHECK_INTERVAL",
            "SERVICE_CHECK_TLS_SERVER_NAME",
            "NAMESPACE",
            "CONTEXT",
            "SCOPE_LABEL",
            "ROLE_LABEL",
            "POD_IP",
            "KEY_PASSWORD",
            "USE_SSL",
            "GROUP",
            "DATABASE",
            "LEADER_LABEL_VALUE",
            "FOLLOWER_LABEL_VALUE",
            "STANDBY_LEADER_LABEL_VALUE",
            "TMP_ROLE_LABEL",
        ],
    ),
];

/// Credentials that count only where another variable has named the section.
const STORE_CREDENTIALS: &[(&str, &str)] = &[("PATRONI_ETCD_", "etcd"), ("PATRONI_ETCD3_", "etcd3")];

/// The settings that an environment makes, as a tree, and a sentence for every variable that could not be read.
/// Empty variables count as unset; variables that set nothing are passed over, for orchestrators add their own.
pub fn settings<I>(environment: I) -> (Map<String, Value>, Vec<String>)
where
    I: IntoIterator<Item = (String, String)>,
{
    let variables: Vec<(String, String)> =
        environment.into_iter().filter(|(name, text)| name.starts_with("PATRONI_") && !text.is_empty()).collect();
    let (mut settings, mut notes) = (Map::new(), Vec::new());
    let mut set = |path: &str, name: &str, text: &str, parse: Parse| match value(text, parse) {
        Some(value) => tree::set(&mut settings, path, value),
        None => notes.push(note(name, text, parse)),
    };
    for (name, text) in &variables {
        if let Some((_, path)) = OLD_NAMES.iter().find(|(old, _)| old == name) {
            set(path, name, text, if *path == "log.format" { Parse::Format } else { Parse::Text });
        }
    }
    for (name, text) in &variables {
        if let Some((path, parse)) = target(name) {
            set(&path, name, text, parse);
        }
    }
    for (prefix, section) in STORE_CREDENTIALS {
        for (name, text) in &variables {
            let Some(key @ ("USERNAME" | "PASSWORD")) = name.strip_prefix(prefix) else { continue };
            if settings.contains_key(*section) {
                tree::set(&mut settings, &format!("{section}.{}", key.to_ascii_lowercase()), text.clone().into());
            }
        }
    }
    (settings, notes)
}

/// Names of the variables that PostgreSQL and the scripts we start must not inherit: they hold secrets, or mean us.
pub fn names_to_strip() -> Vec<OsString> {
    std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| {
            let name = name.to_string_lossy();
            name == "NOTIFY_SOCKET" || name.starts_with("PATRONI_") || name.starts_with("KUBERNETES_")
        })
        .collect()
}

/// The setting behind a variable.
fn target(name: &str) -> Option<(String, Parse)> {
    let rest = name.strip_prefix("PATRONI_")?;
    for group in GROUPS {
        let Some(key) = rest.strip_prefix(group.prefix) else { continue };
        if group.names.contains(&key) {
            let key = key.to_ascii_lowercase();
            let path = if group.section.is_empty() { key } else { format!("{}.{key}", group.section) };
            return Some((path, group.parse));
        }
    }
    let (section, suffix) = rest.split_once('_').filter(|(section, _)| !section.is_empty())?;
    let (parse, _) = SUFFIXES.iter().find(|(_, suffixes)| suffixes.contains(&suffix))?;
    Some((format!("{}.{}", section.to_ascii_lowercase(), suffix.to_ascii_lowercase()), *parse))
}

fn value(text: &str, parse: Parse) -> Option<Value> {
    match parse {
        Parse::Text => Some(text.into()),
        Parse::Bool => parse_bool(text).map(Value::from),
        Parse::Int => Some(yaml::plain_scalar(text.trim())).filter(Value::is_i64),
        Parse::Float => text.trim().parse::<f64>().ok().filter(|value| value.is_finite()).map(Value::from),
        Parse::List => wrapped(text, '[', ']').filter(Value::is_array),
        Parse::Map => wrapped(text, '{', '}').filter(Value::is_object),
        Parse::Format if text.contains("%(") => Some(text.into()),
        Parse::Format => wrapped(text, '[', ']').filter(Value::is_array),
    }
}

/// A YAML collection, with its brackets added where they are missing.
fn wrapped(text: &str, open: char, close: char) -> Option<Value> {
    let text = text.trim();
    let is_block_list = open == '[' && text.starts_with('-');
    let text = if text.starts_with(open) || is_block_list { text.to_owned() } else { format!("{open}{text}{close}") };
    yaml::parse(&text).ok()
}

fn note(name: &str, text: &str, parse: Parse) -> String {
    let expected = match parse {
        Parse::Bool => "on or off",
        Parse::Int => "a whole number",
        Parse::Float => "a number",
        Parse::Map => "a YAML mapping such as {a: b}",
        Parse::Text | Parse::List | Parse::Format => "a YAML list such as [a, b]",
    };
    match parse {
        // Collections may hold secrets, numbers and flags do not.
        Parse::Bool | Parse::Int | Parse::Float => format!("{name} {text:?} is ignored: expected {expected}"),
        _ => format!("{name} is ignored: expected {expected}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(variables: &[(&str, &str)]) -> (Value, Vec<String>) {
        let (settings, notes) = settings(variables.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())));
        (settings.into(), notes)
    }

    #[test]
    fn variables_become_settings() {
        let (settings, notes) = read(&[
            ("PATRONI_NAME", "5"),
            ("PATRONI_SCOPE", ""),
            ("PATRONI_RESTAPI_HTTP_EXTRA_HEADERS", "A: b, C: d"),
            ("PATRONI_RESTAPI_ALLOWLIST", "1.1.1.1, b"),
            ("PATRONI_RESTAPI_ALLOWLIST_INCLUDE_MEMBERS", "on"),
            ("PATRONI_RESTAPI_USERNAME", "u"),
            ("PATRONI_CTL_INSECURE", "yes"),
            ("PATRONI_POSTGRESQL_BIN_PG_CTL", "x"),
            ("PATRONI_POSTGRESQL_DATABASE", "q"),
            ("PATRONI_REPLICATION_CHANNEL_BINDING", "prefer"),
            ("PATRONI_LOG_MODE", "0640"),
            ("PATRONI_LOG_LOGGERS", "patroni.ha: DEBUG"),
            ("PATRONI_SENTINEL_MODE", "off"),
            ("PATRONI_CITUS_GROUP", "1"),
            ("PATRONI_KUBERNETES_PORTS", r#"[{"name": "x", "port": 5}]"#),
            ("PATRONI_KUBERNETES_LABELS", "a: b"),
            ("PATRONI_ZOOKEEPER_USE_SSL", "on"),
            ("PATRONI_CONSUL_SERVICE_CHECK_INTERVAL", "5s"),
            ("PATRONI_RAFT_PARTNER_ADDRS", "'a:1','b:2'"),
            ("PATRONI_FOO_HOST", "x"),
            ("PATRONI_FOO_BAR", "x"),
            ("PATRONI_SERVICE_HOST", ""),
            ("OTHER", "x"),
        ]);
        let expected = json!({
            "name": "5",
            "restapi": {
                "http_extra_headers": {"A": "b", "C": "d"}, "allowlist": ["1.1.1.1", "b"],
                "allowlist_include_members": true, "authentication": {"username": "u"},
            },
            "ctl": {"insecure": true},
            "postgresql": {
                "bin_name": {"pg_ctl": "x"}, "database": "q",
                "authentication": {"replication": {"channel_binding": "prefer"}},
            },
            "log": {"mode": 0o640, "loggers": {"patroni.ha": "DEBUG"}},
            "sentinel": {"mode": "off"},
            "citus": {"group": 1},
            "kubernetes": {"ports": [{"name": "x", "port": 5}], "labels": {"a": "b"}},
            "zookeeper": {"use_ssl": "on"},
            "consul": {"service_check_interval": "5s"},
            "raft": {"partner_addrs": ["a:1", "b:2"]},
            "foo": {"host": "x"},
        });
        assert_eq!((settings, notes), (expected, vec![]));
    }

    #[test]
    fn newer_names_win_and_formats_may_be_lists() {
        let (settings, _) = read(&[
            ("PATRONI_LOG_LEVEL", "DEBUG"),
            ("PATRONI_LOGLEVEL", "ERROR"),
            ("PATRONI_LOGFORMAT", "%(message)s"),
            ("PATRONI_LOG_DATEFMT", "%H"),
        ]);
        assert_eq!(settings, json!({"log": {"level": "DEBUG", "format": "%(message)s", "dateformat": "%H"}}));
        let (settings, _) = read(&[("PATRONI_LOG_FORMAT", "[a, {b: c}]")]);
        assert_eq!(settings, json!({"log": {"format": ["a", {"b": "c"}]}}));
    }

    #[test]
    fn store_credentials_alone_name_no_store() {
        let credentials = [("PATRONI_ETCD3_USERNAME", "u"), ("PATRONI_ETCD3_PASSWORD", "p")];
        assert_eq!(read(&credentials).0, json!({}));
        let with_hosts = [credentials[0], credentials[1], ("PATRONI_ETCD3_HOSTS", "a:1,b:2")];
        let expected = json!({"etcd3": {"hosts": ["a:1", "b:2"], "username": "u", "password": "p"}});
        assert_eq!(read(&with_hosts).0, expected);
    }

    #[test]
    fn unreadable_values_are_named_without_secrets() {
        let (settings, notes) = read(&[
            ("PATRONI_LOG_FILE_SIZE", "abc"),
            ("PATRONI_ETCD3_USE_PROXIES", "maybe"),
            ("PATRONI_ZOOKEEPER_AUTH_DATA", "digest: [secret"),
            ("PATRONI_ETCD3_HOSTS", "]"),
        ]);
        assert_eq!(settings, json!({}));
        assert_eq!(
            notes,
            [
                "PATRONI_LOG_FILE_SIZE \"abc\" is ignored: expected a whole number",
                "PATRONI_ETCD3_USE_PROXIES \"maybe\" is ignored: expected on or off",
                "PATRONI_ZOOKEEPER_AUTH_DATA is ignored: expected a YAML mapping such as {a: b}",
                "PATRONI_ETCD3_HOSTS is ignored: expected a YAML list such as [a, b]",
            ]
        );
    }
}
