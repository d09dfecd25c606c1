//! What one agent learns of another by asking its REST API.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Lsn, MemberState, Role, Tags, Timeline};

/// A peer's answer to `GET /patroni`, reduced to what a leader race needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The member's name.
    pub name: String,
    /// `None` when the peer did not answer, or answered without a WAL position.
    pub answer: Option<PeerAnswer>,
    /// It answered that its PostgreSQL is stopped, or runs as a standby: it accepts no writes and is not about to.
    #[serde(default)]
    pub at_rest: bool,
}

impl PeerStatus {
    /// Of a peer that did not answer.
    pub fn silent(name: &str) -> PeerStatus {
        PeerStatus { name: name.to_owned(), answer: None, at_rest: false }
    }

    /// Of a peer that answered `GET /patroni` with this.
    pub fn of_body(name: &str, body: &Value) -> PeerStatus {
        let answer = PeerAnswer::from_status(body);
        let text = |key: &str| body.get(key).and_then(Value::as_str);
        let at_rest = match text("state").and_then(MemberState::parse) {
            Some(MemberState::Stopped) => true,
            Some(MemberState::Running) => {
                let standby = matches!(text("role").and_then(Role::parse), Some(Role::Replica | Role::StandbyLeader));
                standby && answer.as_ref().is_some_and(|answer| answer.in_recovery)
            }
            _ => false,
        };
        PeerStatus { name: name.to_owned(), answer, at_rest }
    }
}

/// The useful part of a peer's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerAnswer {
    /// False for a PostgreSQL that accepts writes.
    pub in_recovery: bool,
    /// Primary: current position. Standby: the later of received and replayed.
    pub wal: Lsn,
    /// The timeline it is on.
    pub timeline: Option<Timeline>,
    /// Its tags.
    pub tags: Tags,
    /// It requires a watchdog that it cannot use.
    pub watchdog_failed: bool,
    /// The positions came from PostgreSQL just now, not from memory.
    pub state_running: bool,
}

impl PeerAnswer {
    /// Reads the status object of `GET /patroni`; `None` without a WAL position (`xlog`, or `wal` of later versions).
    pub fn from_status(body: &Value) -> Option<PeerAnswer> {
        let position = |key: &str| {
            let xlog = body.get("xlog").or_else(|| body.get("wal"))?;
            xlog.get(key)?.as_u64().map(Lsn)
        };
        let current = position("location");
        let in_recovery = match body.get("role").and_then(Value::as_str).and_then(Role::parse) {
            Some(Role::Primary | Role::Promoted) => false,
            _ => current.is_none(),
        };
        let standby = position("received_location").max(position("replayed_location"));
        Some(PeerAnswer {
            in_recovery,
            wal: if in_recovery { standby? } else { current? },
            timeline: body.get("timeline").and_then(Value::as_u64).and_then(|tl| u32::try_from(tl).ok()).map(Timeline),
            tags: Tags(body.get("tags").and_then(Value::as_object).cloned().unwrap_or_default()),
            watchdog_failed: body.get("watchdog_failed").and_then(Value::as_bool).unwrap_or(false),
            state_running: body.get("state").and_then(Value::as_str) == Some("running"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn standby_reports_the_later_position() {
        let body = json!({"state": "running", "role": "replica", "timeline": 2, "tags": {"nofailover": true},
            "xlog": {"received_location": 100, "replayed_location": 90}});
        let answer = PeerAnswer::from_status(&body).expect("an answer");
        assert!(answer.in_recovery && answer.tags.nofailover() && answer.state_running);
        assert_eq!((answer.wal, answer.timeline), (Lsn(100), Some(Timeline(2))));
    }

    #[test]
    fn who_is_at_rest() {
        let xlog = json!({"received_location": 100, "replayed_location": 90});
        for (body, at_rest) in [
            (json!({"state": "stopped", "role": "demoted"}), true),
            (json!({"state": "running", "role": "replica", "xlog": xlog}), true),
            (json!({"state": "running", "role": "replica"}), false),
            (json!({"state": "running", "role": "primary", "xlog": {"location": 5}}), false),
            (json!({"state": "running", "role": "replica", "xlog": {"location": 5}}), false),
            (json!({"state": "stopping", "role": "primary"}), false),
            (json!({"state": "starting", "role": "replica", "xlog": xlog}), false),
            (json!(null), false),
        ] {
            assert_eq!(PeerStatus::of_body("a", &body).at_rest, at_rest, "{body}");
        }
    }

    #[test]
    fn primary_is_not_in_recovery_and_a_body_without_position_is_no_answer() {
        let body = json!({"role": "master", "xlog": {"location": 7}});
        assert!(!PeerAnswer::from_status(&body).expect("an answer").in_recovery);
        for body in [
            json!({}),
            json!([]),
            json!({"role": "replica"}),
            json!({"role": "replica", "xlog": {"received_location": "x"}}),
        ] {
            assert_eq!(PeerAnswer::from_status(&body), None, "{body}");
        }
    }
}
