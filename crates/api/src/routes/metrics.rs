//! `GET /metrics`: the Prometheus text (compatibility.md, 5.4). Names, types, labels and order are a contract.

use std::fmt::Write;

use jiff::Timestamp;
use model::{MemberState, Role};

use crate::backend::NodeStatus;

/// How a metric's value is come by; `None` leaves the metric out.
type Read = fn(&NodeStatus) -> Option<String>;

struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    read: Read,
}

const fn gauge(name: &'static str, help: &'static str, read: Read) -> Metric {
    Metric { name, kind: "gauge", help, read }
}

const fn counter(name: &'static str, help: &'static str, read: Read) -> Metric {
    Metric { name, kind: "counter", help, read }
}

/// The metric whose values need a legend.
const STATE: &str = "patroni_postgres_state";

const METRICS: [Metric; 26] = [
    gauge("patroni_version", "Patroni semver without periods.", |s| Some(version(&s.version))),
    gauge("patroni_postgres_running", "Value is 1 if Postgres is running, 0 otherwise.", |s| {
        flag(s.state == Some(MemberState::Running))
    }),
    gauge("patroni_postmaster_start_time", "Epoch seconds since Postgres started.", |s| {
        Some(epoch(s.postmaster_start_time))
    }),
    gauge("patroni_primary", "Value is 1 if this node is the leader, 0 otherwise.", |s| is(s, Role::Primary)),
    counter(
        "patroni_xlog_location",
        "Current location of the Postgres transaction log, 0 if this node is not the leader.",
        |s| number(s.location.map(|lsn| lsn.0)),
    ),
    gauge("patroni_standby_leader", "Value is 1 if this node is the standby_leader, 0 otherwise.", |s| {
        is(s, Role::StandbyLeader)
    }),
    gauge("patroni_replica", "Value is 1 if this node is a replica, 0 otherwise.", |s| is(s, Role::Replica)),
    gauge("patroni_sync_standby", "Value is 1 if this node is a sync standby, 0 otherwise.", |s| flag(s.sync_standby)),
    gauge("patroni_quorum_standby", "Value is 1 if this node is a quorum standby, 0 otherwise.", |s| {
        flag(s.quorum_standby)
    }),
    counter(
        "patroni_xlog_received_location",
        "Current location of the received Postgres transaction log, 0 if this node is not a replica.",
        |s| number(s.received_location.map(|lsn| lsn.0)),
    ),
    counter(
        "patroni_xlog_replayed_location",
        "Current location of the replayed Postgres transaction log, 0 if this node is not a replica.",
        |s| number(s.replayed_location.map(|lsn| lsn.0)),
    ),
    gauge(
        "patroni_xlog_replayed_timestamp",
        "Current timestamp of the replayed Postgres transaction log, 0 if null.",
        |s| Some(epoch(s.replayed_timestamp)),
    ),
    gauge("patroni_xlog_paused", "Value is 1 if the Postgres xlog is paused, 0 otherwise.", |s| flag(s.replay_paused)),
    gauge("patroni_postgres_streaming", "Value is 1 if Postgres is streaming, 0 otherwise.", |s| {
        replicates(s, "streaming")
    }),
    gauge(
        "patroni_postgres_in_archive_recovery",
        "Value is 1 if Postgres is replicating from archive, 0 otherwise.",
        |s| replicates(s, "in archive recovery"),
    ),
    gauge("patroni_postgres_server_version", "Version of Postgres (if running), 0 otherwise.", |s| {
        number(s.server_version.map(u64::from))
    }),
    gauge("patroni_cluster_unlocked", "Value is 1 if the cluster is unlocked, 0 if locked.", |s| {
        flag(s.cluster_unlocked)
    }),
    gauge("patroni_failsafe_mode_is_active", "Value is 1 if failsafe mode is active, 0 if inactive.", |s| {
        flag(s.failsafe_active)
    }),
    gauge("patroni_failsafe_mode_enabled", "Value is 1 if failsafe mode is enabled, 0 if disabled.", |s| {
        flag(s.failsafe_enabled)
    }),
    gauge("patroni_failsafe_member", "Value is 1 if this node is in the failsafe topology, 0 otherwise.", |s| {
        flag(s.failsafe_members.contains_key(&s.name))
    }),
    gauge("patroni_postgres_timeline", "Postgres timeline of this node (if running), 0 otherwise.", |s| {
        number(s.timeline.map(|timeline| u64::from(timeline.0)))
    }),
    gauge("patroni_dcs_last_seen", "Epoch timestamp when DCS was last contacted successfully by Patroni.", |s| {
        Some(s.dcs_last_seen.to_string())
    }),
    gauge("patroni_pending_restart", "Value is 1 if the node needs a restart, 0 otherwise.", |s| {
        flag(s.pending_restart)
    }),
    gauge("patroni_is_paused", "Value is 1 if auto failover is disabled, 0 otherwise.", |s| flag(s.pause)),
    gauge(STATE, "Numeric representation of Postgres state.", |s| Some(state(s.state))),
    gauge("patroni_failover_priority", "Failover priority of this node, 0 if it may not become the leader.", |s| {
        Some(s.tags.failover_priority().to_string())
    }),
];

/// All metrics of a node.
pub(super) fn text(status: &NodeStatus) -> String {
    let labels = format!("{{scope=\"{}\",name=\"{}\"}}", escape(&status.scope), escape(&status.name));
    let mut text = String::with_capacity(8 << 10);
    for metric in &METRICS {
        let Some(value) = (metric.read)(status) else {
            continue;
        };
        let legend = if metric.name == STATE { state_legend() } else { String::new() };
        let Metric { name, kind, help, .. } = metric;
        // Writing to a String cannot fail.
        let _ = write!(text, "# HELP {name} {help}\n{legend}# TYPE {name} {kind}\n{name}{labels} {value}\n");
    }
    text
}

fn flag(value: bool) -> Option<String> {
    Some(u8::from(value).to_string())
}

fn number(value: Option<u64>) -> Option<String> {
    Some(value.unwrap_or(0).to_string())
}

fn is(status: &NodeStatus, role: Role) -> Option<String> {
    flag(status.role.public() == role)
}

/// Servers before 9.6 do not say how they replicate.
fn replicates(status: &NodeStatus, how: &str) -> Option<String> {
    status.server_version.filter(|version| *version >= 90_600)?;
    flag(status.replication_state.as_deref() == Some(how))
}

/// `4.1.5` as `040105`.
fn version(text: &str) -> String {
    text.split('.').map(|part| format!("{part:0>2}")).collect()
}

/// Seconds since the epoch with as many decimals as there are, at least one; `0` for none.
fn epoch(time: Option<Timestamp>) -> String {
    let Some(time) = time else {
        return "0".to_owned();
    };
    let text = format!("{}.{:06}", time.as_second(), time.subsec_microsecond().unsigned_abs());
    let short = text.trim_end_matches('0');
    if short.ends_with('.') { format!("{short}0") } else { short.to_owned() }
}

fn state(state: Option<MemberState>) -> String {
    state
        .and_then(|state| MemberState::ALL.iter().position(|known| *known == state))
        .map_or_else(|| "-1".to_owned(), |index| index.to_string())
}

/// Names in the order of [`MemberState::ALL`].
const STATE_NAMES: [&str; MemberState::ALL.len()] = [
    "initdb",
    "initdb_failed",
    "custom_bootstrap",
    "custom_bootstrap_failed",
    "creating_replica",
    "running",
    "starting",
    "bootstrap_starting",
    "start_failed",
    "restarting",
    "restart_failed",
    "stopping",
    "stopped",
    "stop_failed",
    "crashed",
];

fn state_legend() -> String {
    let values: Vec<String> = STATE_NAMES.iter().enumerate().map(|(index, name)| format!("{index}={name}")).collect();
    format!("# Values: {}\n", values.join(", "))
}

/// A label's value as the exposition format wants it.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str, name: &str) -> Option<String> {
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{")))?;
        line.rsplit_once("} ").map(|(_, value)| value.to_owned())
    }

    #[test]
    fn empty_node() {
        let text = text(&NodeStatus { version: "4.1.5".into(), ..NodeStatus::default() });
        assert!(text.starts_with(
            "# HELP patroni_version Patroni semver without periods.\n# TYPE patroni_version gauge\n\
             patroni_version{scope=\"\",name=\"\"} 040105\n"
        ));
        assert_eq!(value(&text, "patroni_postgres_state").as_deref(), Some("-1"));
        assert_eq!(value(&text, "patroni_postmaster_start_time").as_deref(), Some("0"));
        assert_eq!(value(&text, "patroni_postgres_streaming"), None);
        assert!(
            text.contains(
                "# HELP patroni_postgres_state Numeric representation of Postgres state.\n# Values: 0=initdb, "
            )
        );
        assert!(text.contains("14=crashed\n# TYPE patroni_postgres_state gauge\n"));
    }

    #[test]
    fn values_types_and_order() {
        let text = text(&NodeStatus {
            name: "a\"b\\\n".into(),
            scope: "s".into(),
            version: "4.1.5".into(),
            state: Some(MemberState::Running),
            role: Role::Replica,
            server_version: Some(150_018),
            replication_state: Some("streaming".into()),
            postmaster_start_time: "2026-01-01T00:00:00.250Z".parse().ok(),
            replayed_timestamp: "2026-01-01T00:00:00Z".parse().ok(),
            ..NodeStatus::default()
        });
        let get = |name| value(&text, name).unwrap_or_default();
        assert!(text.contains(r#"patroni_replica{scope="s",name="a\"b\\\n"} 1"#));
        assert_eq!(get("patroni_postmaster_start_time"), "1767225600.25");
        assert_eq!(get("patroni_xlog_replayed_timestamp"), "1767225600.0");
        assert_eq!(
            (get("patroni_postgres_streaming"), get("patroni_postgres_in_archive_recovery")),
            ("1".into(), "0".into())
        );
        assert_eq!((get("patroni_postgres_state"), get("patroni_failover_priority")), ("5".into(), "1".into()));
        let counters: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
        assert_eq!(
            counters,
            ["patroni_xlog_location", "patroni_xlog_received_location", "patroni_xlog_replayed_location"]
        );
    }

    #[test]
    fn names_of_states_match_their_texts() {
        for (state, name) in MemberState::ALL.iter().zip(STATE_NAMES) {
            assert_eq!(format!("{state:?}").to_lowercase(), name.replace('_', ""));
        }
    }
}
