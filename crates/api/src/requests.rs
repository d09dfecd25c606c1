//! Bodies of operations: validation in upstream's words and codes (compatibility.md, 5.6).

use jiff::Timestamp;
use jiff::fmt::temporal::Pieces;
use jiff::tz::Offset;
use model::Role;
use model::units::{Base, bool_of, int_of};
use serde_json::{Map, Value};

use crate::answer::Answer;
use crate::backend::{FailoverRequest, FailsafeCall, ReinitRequest, RestartRequest};

/// `POST /restart`. Keys are checked in the order given; the first that is wrong decides the answer.
pub(crate) fn restart(body: Map<String, Value>, now: Timestamp, paused: bool) -> Result<RestartRequest, Answer> {
    let mut request = RestartRequest::default();
    for (key, value) in body {
        let kept = match key.as_str() {
            "schedule" => {
                if paused {
                    return Err(Answer::text(500, "Can't schedule restart in the paused state"));
                }
                let at = schedule(&value, "restart", now)?;
                request.schedule = Some(at.instant);
                at.text.into()
            }
            "role" => {
                request.role = Some(restart_role(&value)?);
                value
            }
            "postgres_version" => {
                request.postgres_version = Some(postgres_version(&value)?);
                value
            }
            "timeout" => {
                let seconds = timeout_s(&value)?;
                request.timeout_s = Some(seconds);
                seconds.into()
            }
            "restart_pending" => {
                request.restart_pending = true;
                value
            }
            other => {
                return Err(Answer::text(400, format!("Unknown filter for the scheduled restart: {other}")));
            }
        };
        request.raw.insert(key, kept);
    }
    Ok(request)
}

fn restart_role(value: &Value) -> Result<Role, Answer> {
    match value.as_str() {
        Some("primary") => Ok(Role::Primary),
        Some("standby_leader") => Ok(Role::StandbyLeader),
        Some("replica") => Ok(Role::Replica),
        _ => Err(Answer::text(400, "PostgreSQL role should be either primary, standby_leader, or replica")),
    }
}

/// `X.Y` from 10 on, `X.Y.Z` before, as `server_version_num`.
fn postgres_version(value: &Value) -> Result<u32, Answer> {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let numbers: Option<Vec<u32>> = text.split('.').map(|part| part.parse().ok().filter(|n| *n < 10_000)).collect();
    match numbers.as_deref() {
        Some(&[major, minor]) if major >= 10 => Ok(major * 10_000 + minor),
        Some(&[major, minor, patch]) => Ok(major * 10_000 + minor * 100 + patch),
        Some(_) => {
            Err(Answer::text(400, format!("Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: {text}")))
        }
        None => Err(Answer::text(400, format!("Invalid PostgreSQL version: {text}"))),
    }
}

fn timeout_s(value: &Value) -> Result<u64, Answer> {
    int_of(value, Base::Micros(1_000_000))
        .and_then(|seconds| u64::try_from(seconds).ok())
        .filter(|seconds| *seconds > 0)
        .ok_or_else(|| Answer::text(400, "Timeout should be a positive number of seconds"))
}

/// A time of day in the future, with the text that names it (ISO 8601, offset as given).
struct Schedule {
    instant: Timestamp,
    text: String,
}

fn schedule(value: &Value, action: &str, now: Timestamp) -> Result<Schedule, Answer> {
    let unreadable = || {
        Answer::text(422, "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601")
    };
    let pieces = value.as_str().and_then(|text| Pieces::parse(text.trim()).ok()).ok_or_else(unreadable)?;
    let time = pieces.time().ok_or_else(unreadable)?;
    let offset = pieces
        .to_numeric_offset()
        .ok_or_else(|| Answer::text(400, format!("Timezone information is mandatory for the scheduled {action}")))?;
    let instant = offset.to_timestamp(pieces.date().to_datetime(time)).map_err(|_| unreadable())?;
    if instant < now {
        return Err(Answer::text(422, format!("Cannot schedule {action} in the past")));
    }
    Ok(Schedule { instant, text: iso_text(instant, offset) })
}

/// ISO 8601 with microseconds where there are any, and a numeric offset.
pub(crate) fn iso_text(instant: Timestamp, offset: Offset) -> String {
    let local = offset.to_datetime(instant);
    let format = if local.subsec_nanosecond() < 1000 { "%Y-%m-%dT%H:%M:%S" } else { "%Y-%m-%dT%H:%M:%S.%6f" };
    let minutes = offset.seconds() / 60;
    let sign = if minutes < 0 { '-' } else { '+' };
    format!("{}{sign}{:02}:{:02}", local.strftime(format), minutes.abs() / 60, minutes.abs() % 60)
}

/// `POST /switchover` (`switchover` true) or `/failover`, as far as it can be judged without the cluster.
pub(crate) fn failover(
    body: &Map<String, Value>,
    switchover: bool,
    now: Timestamp,
    paused: bool,
) -> Result<FailoverRequest, Answer> {
    let leader = name(body.get("leader"));
    let candidate = name(body.get("candidate")).or_else(|| name(body.get("member")));
    if !switchover && candidate.is_none() {
        return Err(Answer::text(400, "Failover could be performed only to a specific candidate"));
    }
    if switchover && leader.is_none() {
        return Err(Answer::text(400, "Switchover could be performed only from a specific leader"));
    }
    let scheduled_at = match body.get("scheduled_at").filter(|value| is_given(value)) {
        None => None,
        Some(_) if !switchover => return Err(Answer::text(400, "Failover can't be scheduled")),
        Some(_) if paused => return Err(Answer::text(400, "Can't schedule switchover in the paused state")),
        Some(value) => Some(schedule(value, "switchover", now)?.instant),
    };
    if paused && candidate.is_none() {
        return Err(Answer::text(400, "Switchover is possible only to a specific candidate in a paused state"));
    }
    if !switchover && leader.is_some() {
        tracing::warn!("received failover request with leader specified - performing switchover instead");
    }
    if leader.is_some() && leader == candidate {
        return Err(Answer::text(400, "Switchover target and source are the same"));
    }
    Ok(FailoverRequest { leader, candidate, scheduled_at })
}

/// False for null, empty text, zero and false: clients send them for "nothing".
fn is_given(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Number(number) => number.as_f64() != Some(0.0),
        _ => true,
    }
}

/// A member's name; something that is no text becomes a name nobody has.
fn name(value: Option<&Value>) -> Option<String> {
    let value = value.filter(|value| is_given(value))?;
    Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

/// `POST /reinitialize`.
pub(crate) fn reinitialize(body: &Map<String, Value>) -> ReinitRequest {
    let flag = |key: &str| body.get(key).and_then(bool_of).unwrap_or(false);
    ReinitRequest { force: flag("force"), from_leader: flag("from_leader") }
}

/// `POST /failsafe`.
pub(crate) fn failsafe(mut body: Map<String, Value>) -> Result<FailsafeCall, Answer> {
    let text = |key: &str| body.get(key).and_then(Value::as_str).map(str::to_owned);
    let (name, conn_url, api_url) = (text("name"), text("conn_url"), text("api_url"));
    let name = name
        .filter(|name| !name.is_empty())
        .ok_or_else(|| Answer::page(400, "Bad Request: the request body has no \"name\" of the leader"))?;
    let slots = match body.remove("slots") {
        Some(Value::Object(slots)) => slots,
        _ => Map::new(),
    };
    Ok(FailsafeCall { name, conn_url, api_url, slots })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().expect("a time")
    }

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().expect("an object")
    }

    #[rstest]
    #[case(json!({"role": "x"}), 400, "PostgreSQL role should be either primary, standby_leader, or replica")]
    #[case(json!({"role": "master"}), 400, "PostgreSQL role should be either primary, standby_leader, or replica")]
    #[case(json!({"role": 5}), 400, "PostgreSQL role should be either primary, standby_leader, or replica")]
    #[case(json!({"postgres_version": "x"}), 400, "Invalid PostgreSQL version: x")]
    #[case(json!({"postgres_version": "9.6"}), 400, "Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: 9.6")]
    #[case(json!({"postgres_version": 15}), 400, "Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: 15")]
    #[case(json!({"postgres_version": "99999999999.1"}), 400, "Invalid PostgreSQL version: 99999999999.1")]
    #[case(json!({"timeout": "0"}), 400, "Timeout should be a positive number of seconds")]
    #[case(json!({"timeout": "x"}), 400, "Timeout should be a positive number of seconds")]
    #[case(json!({"foo": 1, "role": "x"}), 400, "Unknown filter for the scheduled restart: foo")]
    #[case(json!({"schedule": ""}), 422, "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601")]
    #[case(json!({"schedule": "2030-01-01"}), 422, "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601")]
    #[case(json!({"schedule": 5}), 422, "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601")]
    #[case(json!({"schedule": "2030-01-01T00:00"}), 400, "Timezone information is mandatory for the scheduled restart")]
    #[case(json!({"schedule": "2020-01-01T00:00Z"}), 422, "Cannot schedule restart in the past")]
    fn restarts_refused(#[case] body: Value, #[case] code: u16, #[case] text: &str) {
        assert_eq!(restart(object(body), now(), false), Err(Answer::text(code, text)));
    }

    #[test]
    fn restart_is_kept_in_the_form_it_is_published() {
        let body = object(json!({"schedule": "2030-01-01 00:00+02", "restart_pending": false, "timeout": "1min",
            "role": "primary", "postgres_version": "16.1"}));
        let request = restart(body.clone(), now(), false).expect("valid");
        assert_eq!(
            Value::Object(request.raw).to_string(),
            r#"{"schedule":"2030-01-01T00:00:00+02:00","restart_pending":false,"timeout":60,"role":"primary","postgres_version":"16.1"}"#
        );
        assert_eq!(
            (request.role, request.postgres_version, request.restart_pending, request.timeout_s),
            (Some(Role::Primary), Some(160_001), true, Some(60))
        );
        assert_eq!(request.schedule, "2029-12-31T22:00:00Z".parse().ok());
        assert_eq!(restart(body, now(), true), Err(Answer::text(500, "Can't schedule restart in the paused state")));
        assert_eq!(restart(Map::new(), now(), true), Ok(RestartRequest::default()));
    }

    #[rstest]
    #[case(false, json!({"leader": "a"}), false, 400, "Failover could be performed only to a specific candidate")]
    #[case(true, json!({"candidate": "a", "leader": ""}), false, 400, "Switchover could be performed only from a specific leader")]
    #[case(false, json!({"candidate": "b", "scheduled_at": "x"}), false, 400, "Failover can't be scheduled")]
    #[case(true, json!({"leader": "a", "scheduled_at": "x"}), true, 400, "Can't schedule switchover in the paused state")]
    #[case(true, json!({"leader": "a"}), true, 400, "Switchover is possible only to a specific candidate in a paused state")]
    #[case(true, json!({"leader": "a", "member": "a"}), false, 400, "Switchover target and source are the same")]
    #[case(false, json!({"leader": "a", "candidate": "a"}), false, 400, "Switchover target and source are the same")]
    #[case(true, json!({"leader": "a", "scheduled_at": "2030-01-01T00:00"}), false, 400, "Timezone information is mandatory for the scheduled switchover")]
    #[case(true, json!({"leader": "a", "scheduled_at": "2020-01-01T00:00Z"}), false, 422, "Cannot schedule switchover in the past")]
    fn failovers_refused(
        #[case] switchover: bool,
        #[case] body: Value,
        #[case] paused: bool,
        #[case] code: u16,
        #[case] text: &str,
    ) {
        assert_eq!(failover(&object(body), switchover, now(), paused), Err(Answer::text(code, text)));
    }

    #[test]
    fn failovers_accepted() {
        let parse = |body, switchover| failover(&object(body), switchover, now(), false).expect("valid");
        let request = parse(json!({"leader": "a", "member": "b", "scheduled_at": ""}), true);
        assert_eq!((request.leader.as_deref(), request.candidate.as_deref()), (Some("a"), Some("b")));
        assert_eq!((request.scheduled_at, request.action()), (None, "switchover"));
        assert_eq!(parse(json!({"candidate": "b"}), false).action(), "failover");
        assert_eq!(parse(json!({"leader": "a", "candidate": "b"}), false).action(), "switchover");
        let request = parse(json!({"leader": 5, "scheduled_at": "2030-01-01T00:00:00.5+01:00"}), true);
        assert_eq!(request.leader.as_deref(), Some("5"));
        assert_eq!(request.scheduled_at, "2029-12-31T23:00:00.5Z".parse().ok());
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(text in ".{0,40}", number in proptest::num::f64::ANY, paused: bool) {
            for value in [json!(text), json!(number), json!([text]), json!({ text.as_str(): number })] {
                for key in ["schedule", "role", "postgres_version", "timeout", "restart_pending", text.as_str()] {
                    let _ = restart(object(json!({ key: value })), now(), paused);
                }
                let body = object(json!({"leader": value, "candidate": "b", "scheduled_at": value, "name": value}));
                let _ = failover(&body, true, now(), paused);
                let _ = failsafe(body);
            }
        }

        #[test]
        fn schedules_are_published_as_the_instant_they_name(seconds in 1_767_225_600_i64..4_102_444_800, hours in -14_i8..=14) {
            let instant = Timestamp::from_second(seconds).expect("in range");
            let text = iso_text(instant, Offset::constant(hours));
            let read = schedule(&json!(text), "restart", now()).expect("readable");
            proptest::prop_assert_eq!((read.instant, read.text), (instant, text));
        }
    }

    #[test]
    fn failsafe_calls() {
        let call =
            failsafe(object(json!({"name": "a", "api_url": "u", "slots": {"b": 5}, "conn_url": 3}))).expect("valid");
        assert_eq!((call.name.as_str(), call.conn_url, call.api_url.as_deref()), ("a", None, Some("u")));
        assert_eq!(call.slots["b"], 5);
        assert_eq!(failsafe(object(json!({"slots": {}}))).map_err(|answer| answer.code), Err(400));
    }
}
