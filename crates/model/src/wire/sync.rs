use serde_json::{Value, json};

use crate::SyncKey;

/// The JSON kept under `sync`.
pub fn encode_sync(sync: &SyncKey) -> String {
    let members = (!sync.members.is_empty()).then(|| sync.members.join(","));
    json!({"leader": sync.leader, "quorum": sync.quorum, "sync_standby": members}).to_string()
}

/// Reads the synchronous state; `None` without a leader or for garbage. `quorum` may be a number or its text.
pub fn decode_sync(text: &str) -> Option<SyncKey> {
    let value: Value = serde_json::from_str(text).ok()?;
    let leader = value.get("leader")?.as_str().filter(|leader| !leader.is_empty())?.to_owned();
    let quorum = match value.get("quorum") {
        Some(Value::String(text)) => text.parse().ok(),
        Some(number) => number.as_u64().and_then(|number| u32::try_from(number).ok()),
        None => None,
    };
    let members = value.get("sync_standby").and_then(Value::as_str).unwrap_or("");
    let mut members: Vec<String> =
        members.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    members.sort();
    Some(SyncKey { leader: Some(leader), quorum: quorum.unwrap_or(0), members })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_garbage() {
        for text in
            [r#"{"leader":"a","quorum":1,"sync_standby":"b,c"}"#, r#"{"leader":"a","quorum":0,"sync_standby":null}"#]
        {
            assert_eq!(encode_sync(&decode_sync(text).expect(text)), text);
        }
        assert_eq!(decode_sync(r#"{"leader":"a","quorum":"2"}"#).map(|sync| sync.quorum), Some(2));
        for text in ["", "{}", "[]", r#"{"leader":null}"#] {
            assert_eq!(decode_sync(text), None, "{text:?}");
        }
    }
}
