use serde_json::{Map, Value, json};

use crate::units::{Base, int_of};
use crate::{Lsn, Status};

/// The JSON kept under `status`.
pub fn encode_status(status: &Status) -> String {
    let mut object = Map::new();
    if let Some(optime) = status.optime {
        object.insert("optime".to_owned(), json!(optime.0));
    }
    if !status.slots.is_empty() {
        object.insert("slots".to_owned(), json!(status.slots));
    }
    if !status.retain_slots.is_empty() {
        object.insert("retain_slots".to_owned(), json!(status.retain_slots));
    }
    Value::Object(object).to_string()
}

/// Reads the leader's position from `status`, or, where that is absent or unreadable, from the older `optime/leader`.
pub fn decode_status(status: Option<&str>, optime_leader: Option<&str>) -> Status {
    let lsn = |value: &Value| int_of(value, Base::Plain).and_then(|number| u64::try_from(number).ok()).map(Lsn);
    match status.and_then(|text| serde_json::from_str::<Value>(text).ok()) {
        Some(Value::Object(object)) => Status {
            optime: object.get("optime").and_then(lsn),
            slots: object
                .get("slots")
                .and_then(Value::as_object)
                .map(|slots| slots.iter().filter_map(|(name, value)| Some((name.clone(), lsn(value)?))).collect())
                .unwrap_or_default(),
            retain_slots: object
                .get("retain_slots")
                .and_then(Value::as_array)
                .map(|slots| slots.iter().filter_map(|slot| slot.as_str().map(str::to_owned)).collect())
                .unwrap_or_default(),
        },
        Some(number @ Value::Number(_)) => Status { optime: lsn(&number), ..Status::default() },
        _ => Status { optime: optime_leader.and_then(|text| text.trim().parse().ok()).map(Lsn), ..Status::default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_preferred_to_optime() {
        let status = decode_status(Some(r#"{"optime":7,"slots":{"b":6},"retain_slots":["b"]}"#), Some("5"));
        assert_eq!((status.optime, status.slots.get("b")), (Some(Lsn(7)), Some(&Lsn(6))));
        assert_eq!(encode_status(&status), r#"{"optime":7,"slots":{"b":6},"retain_slots":["b"]}"#);
        assert_eq!(decode_status(Some("{"), Some("5")).optime, Some(Lsn(5)));
        assert_eq!(decode_status(None, Some("x")).optime, None);
    }
}
