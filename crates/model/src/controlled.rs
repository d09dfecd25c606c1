//! Parameters that all nodes of a cluster must agree on: PostgreSQL refuses a standby that has less of some than its
//! primary, and a former primary needs others to come back.

use serde_json::Value;

use crate::units::{Base, bool_of, int_of};

/// How a value of a controlled parameter is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// Never taken from a configuration: it follows from other settings.
    Never,
    /// `hot_standby`, `replica` or `logical`.
    WalLevel,
    /// True only.
    True,
    /// A boolean.
    Bool,
    /// A whole number of at least this much.
    Int(i64),
    /// A size of at least this many megabytes.
    Megabytes(i64),
}

/// A parameter that all nodes must agree on: it comes from the dynamic configuration, or follows from other settings.
#[derive(Clone, Copy, Debug)]
pub struct Controlled {
    /// Name.
    pub name: &'static str,
    /// Value where the dynamic configuration gives none; `None`: not set then.
    pub default: Option<&'static str>,
    /// Which values are accepted.
    pub accept: Accept,
    /// `server_version_num` of the first release that has it; 0 for all that are supported.
    pub since: u32,
    /// It stands on the postmaster's command line, where no file can override it; others stand in the file alone,
    /// since they can be changed without a restart.
    pub on_command_line: bool,
}

const fn controlled(name: &'static str, default: Option<&'static str>, accept: Accept, since: u32) -> Controlled {
    Controlled { name, default, accept, since, on_command_line: true }
}

const fn in_file(name: &'static str, accept: Accept) -> Controlled {
    Controlled { name, default: None, accept, since: 0, on_command_line: false }
}

/// Controlled parameters in the order of the command line. `wal_level` is spelled as PostgreSQL 9.6 and later do; of
/// `wal_keep_segments` and `wal_keep_size` the server's version picks one, and fills in its default (128 MB).
pub const CONTROLLED: &[Controlled] = &[
    controlled("listen_addresses", None, Accept::Never, 0),
    controlled("port", None, Accept::Never, 0),
    controlled("cluster_name", None, Accept::Never, 90_500),
    controlled("wal_level", Some("replica"), Accept::WalLevel, 0),
    controlled("hot_standby", Some("on"), Accept::True, 0),
    controlled("max_connections", Some("100"), Accept::Int(25), 0),
    controlled("max_wal_senders", Some("10"), Accept::Int(3), 0),
    in_file("wal_keep_segments", Accept::Int(1)),
    in_file("wal_keep_size", Accept::Megabytes(16)),
    controlled("max_prepared_transactions", Some("0"), Accept::Int(0), 0),
    controlled("max_locks_per_transaction", Some("64"), Accept::Int(32), 0),
    controlled("track_commit_timestamp", Some("off"), Accept::Bool, 90_500),
    controlled("max_replication_slots", Some("10"), Accept::Int(4), 90_400),
    controlled("max_worker_processes", Some("8"), Accept::Int(2), 90_400),
    controlled("wal_log_hints", Some("on"), Accept::Bool, 90_400),
];

/// The row of a controlled parameter; names of parameters know no case.
pub fn find_controlled(name: &str) -> Option<&'static Controlled> {
    CONTROLLED.iter().find(|row| row.name.eq_ignore_ascii_case(name))
}

impl Accept {
    /// The value in the form in which it is set, or `None` if it is not accepted.
    pub fn normalise(self, value: &Value) -> Option<Value> {
        let on_off = |flag: bool| Value::from(if flag { "on" } else { "off" });
        match self {
            Accept::Never => None,
            Accept::WalLevel => match value.as_str()?.to_ascii_lowercase().as_str() {
                "hot_standby" | "replica" => Some("replica".into()),
                "logical" => Some("logical".into()),
                _ => None,
            },
            Accept::True => bool_of(value).filter(|flag| *flag).map(on_off),
            Accept::Bool => bool_of(value).map(on_off),
            Accept::Int(least) => int_of(value, Base::Plain).filter(|number| *number >= least).map(Value::from),
            Accept::Megabytes(least) => {
                int_of(value, Base::Bytes(1 << 20)).filter(|size| *size >= least).map(|_| value.clone())
            }
        }
    }
}
