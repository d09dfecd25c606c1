//! Health checks for load balancers (compatibility.md, 5.1 and 5.2). Answered from memory alone.

use model::units::{Base, parse_int};
use model::{Lsn, MemberState, Role};
use serde_json::Value;

use super::status;
use crate::answer::Answer;
use crate::backend::NodeStatus;
use crate::call::{Call, Query};

/// What a load balancer asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    Primary,
    Leader,
    StandbyLeader,
    Replica,
    ReadOnly,
    Health,
    Synchronous,
    Quorum,
    Asynchronous,
    ReadOnlySynchronous,
    ReadOnlyQuorum,
    /// A path that means nothing.
    Unknown,
}

/// Texts found anywhere in a path, in the order of their precedence.
const ANYWHERE: [(&str, Check); 7] = [
    ("standby_leader", Check::StandbyLeader),
    ("standby-leader", Check::StandbyLeader),
    ("leader", Check::Leader),
    ("master", Check::Primary),
    ("primary", Check::Primary),
    ("read-write", Check::Primary),
    ("replica", Check::Replica),
];

/// Whole paths.
const EXACT: [(&str, Check); 9] = [
    ("/", Check::Primary),
    ("/synchronous", Check::Synchronous),
    ("/sync", Check::Synchronous),
    ("/quorum", Check::Quorum),
    ("/asynchronous", Check::Asynchronous),
    ("/async", Check::Asynchronous),
    ("/read-only-sync", Check::ReadOnlySynchronous),
    ("/read-only-synchronous", Check::ReadOnlySynchronous),
    ("/read-only-quorum", Check::ReadOnlyQuorum),
];

impl Check {
    fn of_path(path: &str) -> Check {
        if let Some((_, check)) = ANYWHERE.iter().find(|(text, _)| path.contains(text)) {
            return *check;
        }
        if path.contains("read-only") && !path.contains("sync") && !path.contains("quorum") {
            return Check::ReadOnly;
        }
        if path.contains("health") {
            return Check::Health;
        }
        EXACT.iter().find(|(exact, _)| *exact == path).map_or(Check::Unknown, |(_, check)| *check)
    }

    /// There can be only one such node, so tags do not narrow the choice.
    fn ignores_tags(self) -> bool {
        matches!(self, Check::Primary | Check::Leader | Check::StandbyLeader)
    }
}

/// A health check by GET: the code, and the status as its body.
pub(super) fn get(call: &Call) -> Answer {
    let status = call.backend.status();
    let healthy = is_healthy(Check::of_path(&call.path), &status, &call.query);
    Answer::json(if healthy { 200 } else { 503 }, &status::node_json(&status))
}

/// A health check by HEAD or OPTIONS: the code alone.
pub(super) fn bare(call: &Call) -> Answer {
    Answer::healthy(is_healthy(Check::of_path(&call.path), &call.backend.status(), &call.query))
}

/// `GET /liveness`: the HA loop makes progress.
pub(super) fn liveness(call: &Call) -> Answer {
    let status = call.backend.status();
    Answer::healthy(status.pause || status.liveness_ms_left > 0)
}

/// `GET /readiness`: the leader, or a standby that streams and is close to it.
pub(super) fn readiness(call: &Call) -> Answer {
    Answer::healthy(is_ready(&call.backend.status(), &call.query))
}

fn is_healthy(check: Check, status: &NodeStatus, query: &Query) -> bool {
    let leads = leads_as_primary(status) || leads_standby_cluster(status);
    let replica = || is_replica(status, query);
    // Who is synchronous is known from the store only.
    let known = status.cluster.is_some();
    let (sync, quorum) = (known && status.sync_standby, known && status.quorum_standby);
    let healthy = match check {
        Check::Primary => leads_as_primary(status),
        Check::Leader => {
            status.is_leader || (runs_alone(status) && matches!(role(status), Role::Primary | Role::StandbyLeader))
        }
        Check::StandbyLeader => leads_standby_cluster(status),
        Check::Replica => replica(),
        Check::ReadOnly => leads || replica(),
        Check::Health => is_running(status),
        Check::Synchronous => sync && replica(),
        Check::Quorum => quorum && replica(),
        Check::Asynchronous => known && !sync && !quorum && replica(),
        Check::ReadOnlySynchronous => known && (leads || (sync && replica())),
        Check::ReadOnlyQuorum => known && (leads || (quorum && replica())),
        Check::Unknown => false,
    };
    healthy && (check.ignores_tags() || tags_match(status, query))
}

/// Nobody else can be asked, and nobody is meant to act: PostgreSQL's own role is all there is.
fn runs_alone(status: &NodeStatus) -> bool {
    status.cluster.is_none() && status.pause
}

fn role(status: &NodeStatus) -> Role {
    status.role.public()
}

fn leads_as_primary(status: &NodeStatus) -> bool {
    (status.is_leader && !status.standby_cluster) || (runs_alone(status) && role(status) == Role::Primary)
}

fn leads_standby_cluster(status: &NodeStatus) -> bool {
    let leads = status.is_leader && status.standby_cluster;
    (leads && matches!(role(status), Role::Replica | Role::StandbyLeader))
        || (runs_alone(status) && role(status) == Role::StandbyLeader)
}

fn is_running(status: &NodeStatus) -> bool {
    status.state == Some(MemberState::Running)
}

fn is_replica(status: &NodeStatus, query: &Query) -> bool {
    let wanted_state = query.get("replication_state");
    role(status) == Role::Replica
        && !leads_standby_cluster(status)
        && is_running(status)
        && !status.tags.noloadbalance()
        && wanted_state.is_none_or(|wanted| status.replication_state.as_deref() == Some(wanted))
        && lag_limit(query).is_none_or(|limit| lag_bytes(status, status.replayed_location) <= limit)
}

/// `lag` of a query, in bytes; `None` where absent or unreadable.
fn lag_limit(query: &Query) -> Option<i128> {
    query.get("lag").and_then(|text| parse_int(text, Base::Bytes(1))).map(i128::from)
}

/// From `position` to the latest that this node has heard the leader to be at; negative where it is beyond that.
fn lag_bytes(status: &NodeStatus, position: Option<Lsn>) -> i128 {
    let published = status.cluster.as_ref().and_then(|cluster| cluster.status.optime);
    let latest = published.max(status.latest_end).unwrap_or_default();
    i128::from(latest.0) - i128::from(position.unwrap_or_default().0)
}

fn is_ready(status: &NodeStatus, query: &Query) -> bool {
    if status.is_leader {
        return true;
    }
    if !is_running(status) || status.replication_state.as_deref() != Some("streaming") {
        return false;
    }
    if status.cluster.is_none() && status.latest_end.is_none() {
        // The lag cannot be known; in failsafe mode the leader at least talks to us.
        return status.failsafe_active;
    }
    let position = if query.get("mode") == Some("write") { status.received_location } else { status.replayed_location };
    let limit = lag_limit(query).unwrap_or(i128::from(status.maximum_lag_on_failover_bytes));
    lag_bytes(status, position) <= limit
}

fn tags_match(status: &NodeStatus, query: &Query) -> bool {
    query.tags().all(|(name, wanted)| match status.tags.0.get(name) {
        None => false,
        Some(Value::String(text)) => text == wanted,
        Some(Value::Null) => wanted == "none",
        Some(other) => other.to_string().to_lowercase() == wanted,
    })
}

#[cfg(test)]
mod tests;
