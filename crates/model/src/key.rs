//! The keys of one cluster under `/<namespace>/<scope>/` (compatibility.md, section 4.1).

use std::fmt;

/// A key of the store, without its `/<namespace>/<scope>/` prefix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Key {
    /// System identifier of the cluster; empty text while the first node is being bootstrapped.
    Initialize,
    /// Dynamic configuration, a JSON object.
    Config,
    /// Name of the lock holder, plain text; bound to a lease.
    Leader,
    /// A node's record, a JSON object; bound to a lease.
    Member(String),
    /// A requested switchover or failover.
    Failover,
    /// Who may be promoted without losing acknowledged commits.
    Sync,
    /// WAL position of the leader and of its slots.
    Status,
    /// Position of the leader as decimal text, for readers older than 2.1.
    OptimeLeader,
    /// Timeline history with the names of the leaders.
    History,
    /// Members that must agree before a leader may outlive the store.
    Failsafe,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Initialize => f.write_str("initialize"),
            Key::Config => f.write_str("config"),
            Key::Leader => f.write_str("leader"),
            Key::Member(name) => write!(f, "members/{name}"),
            Key::Failover => f.write_str("failover"),
            Key::Sync => f.write_str("sync"),
            Key::Status => f.write_str("status"),
            Key::OptimeLeader => f.write_str("optime/leader"),
            Key::History => f.write_str("history"),
            Key::Failsafe => f.write_str("failsafe"),
        }
    }
}

impl Key {
    /// The key for a path below the cluster's prefix; `None` for paths that are no key of ours.
    pub fn parse(path: &str) -> Option<Key> {
        Some(match path {
            "initialize" => Key::Initialize,
            "config" => Key::Config,
            "leader" => Key::Leader,
            "failover" => Key::Failover,
            "sync" => Key::Sync,
            "status" => Key::Status,
            "optime/leader" => Key::OptimeLeader,
            "history" => Key::History,
            "failsafe" => Key::Failsafe,
            _ => {
                let name = path.strip_prefix("members/")?;
                (!name.is_empty() && !name.contains('/')).then(|| Key::Member(name.to_owned()))?
            }
        })
    }
}

/// `/<namespace>/<scope>/` with slashes normalised; an empty namespace means `service`.
pub fn cluster_prefix(namespace: &str, scope: &str) -> String {
    let namespace: Vec<&str> = namespace.split('/').filter(|part| !part.is_empty()).collect();
    let namespace = if namespace.is_empty() { "service".to_owned() } else { namespace.join("/") };
    format!("/{namespace}/{}/", scope.trim_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip_through_their_path() {
        for path in [
            "initialize",
            "config",
            "leader",
            "members/node 1",
            "failover",
            "sync",
            "status",
            "optime/leader",
            "history",
            "failsafe",
        ] {
            assert_eq!(Key::parse(path).map(|key| key.to_string()).as_deref(), Some(path));
        }
        for path in ["", "members/", "members/a/b", "optime", "leader/x"] {
            assert_eq!(Key::parse(path), None, "{path:?}");
        }
    }

    #[test]
    fn prefix_squeezes_slashes() {
        assert_eq!(cluster_prefix("/service//", "demo"), "/service/demo/");
        assert_eq!(cluster_prefix("", "demo"), "/service/demo/");
        assert_eq!(cluster_prefix("a//b", "demo"), "/a/b/demo/");
    }
}
