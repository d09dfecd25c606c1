//! `PATRONI_*` environment variables: how the text of each becomes a value. Which variable sets which setting follows
//! from the table ([`schema::variables`]).

use std::collections::HashMap;

use model::units::parse_bool;
use serde_json::{Map, Value};

use crate::schema::{self, Kind};
use crate::{tree, yaml};

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

impl Parse {
    fn of(path: &str, kind: Kind) -> Parse {
        match kind {
            _ if path == "log.format" => Parse::Format,
            Kind::Bool => Parse::Bool,
            Kind::Int(..) => Parse::Int,
            Kind::Float => Parse::Float,
            Kind::List | Kind::Addresses | Kind::Options => Parse::List,
            Kind::Map => Parse::Map,
            // Numbers with units are texts, and so is what is checked where it is used.
            Kind::Text
            | Kind::Bytes(_)
            | Kind::Seconds(_)
            | Kind::Address
            | Kind::Listen
            | Kind::OneOf(_)
            | Kind::Switch(_)
            | Kind::Any => Parse::Text,
        }
    }
}

/// Older names, which give way to the newer ones.
const OLD_NAMES: &[(&str, &str)] = &[
    ("PATRONI_LOGLEVEL", "log.level"),
    ("PATRONI_LOGFORMAT", "log.format"),
    ("PATRONI_LOG_DATEFMT", "log.dateformat"),
];

/// The settings that an environment makes, as a tree, and a sentence for every variable that could not be read.
/// Empty variables count as unset; variables that set nothing are passed over, for orchestrators add their own.
pub fn settings<I>(environment: I) -> (Map<String, Value>, Vec<String>)
where
    I: IntoIterator<Item = (String, String)>,
{
    let variables: Vec<(String, String)> =
        environment.into_iter().filter(|(name, text)| name.starts_with("PATRONI_") && !text.is_empty()).collect();
    let known: HashMap<String, (String, Parse)> = schema::variables()
        .map(|(name, path, setting)| (name, (path.clone(), Parse::of(&path, setting.kind))))
        .collect();
    let (mut settings, mut notes) = (Map::new(), Vec::new());
    let mut set = |settings: &mut Map<String, Value>, path: &str, name: &str, text: &str, parse: Parse| match value(
        text, parse,
    ) {
        Some(value) => tree::set(settings, path, value),
        None => notes.push(note(name, text, parse)),
    };
    for (name, text) in &variables {
        if let Some((_, path)) = OLD_NAMES.iter().find(|(old, _)| old == name) {
            set(&mut settings, path, name, text, Parse::of(path, Kind::Any));
        }
    }
    // Credentials come last: they count only where another variable has named the store's section.
    let mut credentials = Vec::new();
    for (name, text) in &variables {
        match known.get(name) {
            Some((path, _)) if is_store_credential(path) => credentials.push((path, text)),
            Some((path, parse)) => set(&mut settings, path, name, text, *parse),
            None => {}
        }
    }
    for (path, text) in credentials {
        if path.split('.').next().is_some_and(|section| settings.contains_key(section)) {
            tree::set(&mut settings, path, text.clone().into());
        }
    }
    (settings, notes)
}

fn is_store_credential(path: &str) -> bool {
    ["etcd.", "etcd3."]
        .iter()
        .any(|section| path.strip_prefix(section).is_some_and(|key| matches!(key, "username" | "password")))
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
            "zookeeper": {"use_ssl": true},
            "consul": {"service_check_interval": "5s"},
            "raft": {"partner_addrs": ["a:1", "b:2"]},
        });
        assert_eq!((settings, notes), (expected, vec![]));
    }

    /// What upstream's documentation and its reader know.
    #[test]
    fn all_variables_of_the_contract_are_read() {
        let known: Vec<String> = schema::variables().map(|(name, _, _)| name).collect();
        let families: [(&str, &str); 17] = [
            ("", "NAME NAMESPACE SCOPE THREAD_POOL_SIZE THREAD_STACK_SIZE"),
            (
                "RESTAPI_",
                "LISTEN CONNECT_ADDRESS CERTFILE KEYFILE KEYFILE_PASSWORD CAFILE CIPHERS VERIFY_CLIENT SERVER_TOKENS \
                 HTTP_EXTRA_HEADERS HTTPS_EXTRA_HEADERS ALLOWLIST ALLOWLIST_INCLUDE_MEMBERS REQUEST_QUEUE_SIZE \
                 THREAD_POOL_SIZE USERNAME PASSWORD",
            ),
            ("CTL_", "USERNAME PASSWORD INSECURE CACERT CERTFILE KEYFILE KEYFILE_PASSWORD"),
            ("POSTGRESQL_", "LISTEN CONNECT_ADDRESS PROXY_ADDRESS CONFIG_DIR DATA_DIR PGPASS BIN_DIR DATABASE"),
            ("POSTGRESQL_BIN_", "PG_CTL INITDB PG_CONTROLDATA PG_BASEBACKUP POSTGRES PG_ISREADY PG_REWIND"),
            ("REPLICATION_", ROLE),
            ("SUPERUSER_", ROLE),
            ("REWIND_", ROLE),
            (
                "LOG_",
                "TYPE LEVEL TRACEBACK_LEVEL FORMAT DATEFORMAT STATIC_FIELDS MAX_QUEUE_SIZE DIR MODE FILE_SIZE FILE_NUM \
                 LOGGERS DEDUPLICATE_HEARTBEAT_LOGS",
            ),
            (
                "RAFT_",
                "DATA_DIR SELF_ADDR PARTNER_ADDRS PASSWORD BIND_ADDR MIN_TIMEOUT MAX_TIMEOUT CONNECTION_TIMEOUT \
                 APPEND_ENTRIES_PERIOD CONNECTION_RETRY_TIME LEADER_FALLBACK_TIMEOUT",
            ),
            ("ETCD_", ETCD),
            ("ETCD3_", ETCD),
            (
                "CONSUL_",
                "HOST PORT URL SCHEME TOKEN VERIFY CACERT CERT KEY DC CONSISTENCY CHECKS REGISTER_SERVICE SERVICE_TAGS \
                 SERVICE_CHECK_INTERVAL SERVICE_CHECK_TLS_SERVER_NAME",
            ),
            ("ZOOKEEPER_", "HOSTS USE_SSL CACERT CERT KEY KEY_PASSWORD VERIFY SET_ACLS AUTH_DATA"),
            ("EXHIBITOR_", "HOSTS PORT POLL_INTERVAL"),
            (
                "KUBERNETES_",
                "NAMESPACE LABELS SCOPE_LABEL ROLE_LABEL LEADER_LABEL_VALUE FOLLOWER_LABEL_VALUE \
                 STANDBY_LEADER_LABEL_VALUE TMP_ROLE_LABEL USE_ENDPOINTS POD_IP PORTS BYPASS_API_SERVICE CACERT CONTEXT \
                 RETRIABLE_HTTP_CODES BOOTSTRAP_LABELS",
            ),
            ("CITUS_", "GROUP DATABASE"),
        ];
        for (prefix, names) in families {
            for name in names.split_whitespace() {
                let name = format!("PATRONI_{prefix}{name}");
                assert!(known.contains(&name), "{name}");
            }
        }
        let distinct: std::collections::BTreeSet<&String> = known.iter().collect();
        assert_eq!(distinct.len(), known.len(), "each variable sets one setting");
    }

    const ROLE: &str = "USERNAME PASSWORD SSLMODE SSLCERT SSLKEY SSLPASSWORD SSLROOTCERT SSLCRL SSLCRLDIR GSSENCMODE \
                        CHANNEL_BINDING SSLNEGOTIATION";
    const ETCD: &str =
        "HOST HOSTS PORT USE_PROXIES PROTOCOL SRV SRV_SUFFIX URL PROXY CACERT CERT KEY USERNAME PASSWORD";

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
