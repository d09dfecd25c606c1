use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::FailoverKey;

/// The JSON kept under `failover`; `{}` when nothing is requested.
pub fn encode_failover(failover: &FailoverKey) -> String {
    let mut object = Map::new();
    if let Some(leader) = &failover.leader {
        object.insert("leader".to_owned(), leader.clone().into());
    }
    if let Some(candidate) = &failover.candidate {
        object.insert("member".to_owned(), candidate.clone().into());
    }
    if let Some(at) = failover.scheduled_at {
        object.insert("scheduled_at".to_owned(), at.strftime("%Y-%m-%dT%H:%M:%S%.f%:z").to_string().into());
    }
    Value::Object(object).to_string()
}

/// Reads a request; JSON, or the `leader:candidate` text of the earliest versions. `None` when nothing is requested.
pub fn decode_failover(text: &str) -> Option<FailoverKey> {
    let failover = match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(object)) => {
            let string = |keys: [&str; 2]| {
                let mut values = keys.iter().filter_map(|key| object.get(*key)?.as_str());
                values.find(|text| !text.is_empty()).map(str::to_owned)
            };
            FailoverKey {
                leader: string(["leader", "leader"]),
                candidate: string(["member", "candidate"]),
                scheduled_at: object.get("scheduled_at").and_then(scheduled_at),
            }
        }
        Ok(Value::String(text)) => legacy(&text),
        Ok(_) => FailoverKey::default(),
        Err(_) => legacy(text),
    };
    (!failover.is_empty()).then_some(failover)
}

/// What is no time at all (null, empty text) asks for "at once"; a time that cannot be read does not.
fn scheduled_at(value: &Value) -> Option<Timestamp> {
    match value {
        Value::Null => None,
        Value::String(text) if text.trim().is_empty() => None,
        Value::String(text) => Some(parse_timestamp(text).unwrap_or(FailoverKey::UNREADABLE_TIME)),
        _ => Some(FailoverKey::UNREADABLE_TIME),
    }
}

fn legacy(text: &str) -> FailoverKey {
    let mut parts = text.splitn(2, ':').map(|part| part.trim()).map(|part| (!part.is_empty()).then(|| part.to_owned()));
    FailoverKey { leader: parts.next().flatten(), candidate: parts.next().flatten(), scheduled_at: None }
}

/// An ISO 8601 time with an offset or `Z`; `None` for anything else. A blank in place of the `T` is accepted.
pub fn parse_timestamp(text: &str) -> Option<Timestamp> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_round_trip() {
        for text in [
            r#"{"leader":"a","member":"b"}"#,
            r#"{"member":"b"}"#,
            r#"{"leader":"a","scheduled_at":"2030-01-02T03:04:05+00:00"}"#,
        ] {
            let failover = decode_failover(text).expect(text);
            assert_eq!(encode_failover(&failover), text);
        }
    }

    #[test]
    fn nothing_requested() {
        for text in ["{}", "", "[]", "null", r#"{"leader":""}"#] {
            assert_eq!(decode_failover(text), None, "{text:?}");
        }
    }

    #[test]
    fn earliest_form() {
        let failover = decode_failover("a:b").expect("a request");
        assert_eq!((failover.leader.as_deref(), failover.candidate.as_deref()), (Some("a"), Some("b")));
        assert_eq!(decode_failover(":b").and_then(|f| f.candidate).as_deref(), Some("b"));
    }

    /// Found in review: such a request was carried out at once.
    #[test]
    fn a_time_that_cannot_be_read_is_not_now() {
        for time in [r#""tomorrow""#, r#""2030-01-02T03:04:05""#, "17", "{}"] {
            let text = format!(r#"{{"leader":"a","scheduled_at":{time}}}"#);
            let request = decode_failover(&text).expect("a request");
            assert_eq!(request.scheduled_at, Some(FailoverKey::UNREADABLE_TIME), "{text}");
            assert!(!encode_failover(&request).is_empty());
        }
        for time in ["null", r#""""#] {
            let text = format!(r#"{{"leader":"a","scheduled_at":{time}}}"#);
            assert_eq!(decode_failover(&text).expect("a request").scheduled_at, None, "{text}");
        }
    }

    #[test]
    fn timestamps_need_an_offset() {
        assert!(parse_timestamp("2030-01-02T03:04:05.5+02:00").is_some());
        assert!(parse_timestamp("2030-01-02 03:04:05Z").is_some());
        assert!(parse_timestamp("2030-01-02T03:04:05").is_none());
        assert!(parse_timestamp("tomorrow").is_none());
    }
}
