use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::{Lsn, Member, Tags, Timeline};

/// The JSON kept under `members/<name>`.
pub fn encode_member(member: &Member) -> String {
    let mut object = Map::new();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            object.insert(key.to_owned(), value);
        }
    };
    let lsn = |lsn: Option<Lsn>| lsn.map(|lsn| json!(lsn.0));
    put("conn_url", member.conn_url.clone().map(Value::from));
    put("api_url", member.api_url.clone().map(Value::from));
    put("state", Some(member.state.clone().into()));
    put("role", Some(member.role.clone().into()));
    put("version", member.version.clone().map(Value::from));
    put("proxy_url", member.proxy_url.clone().map(Value::from));
    put("checkpoint_after_promote", member.checkpoint_after_promote.map(Value::from));
    put("tags", (!member.tags.is_empty()).then(|| Value::Object(member.tags.0.clone())));
    put("pending_restart", member.pending_restart.then_some(Value::Bool(true)));
    let reasons = &member.pending_restart_reason;
    put("pending_restart_reason", (!reasons.is_empty()).then(|| json!(reasons)));
    put("xlog_location", lsn(member.xlog_location));
    put("receive_lsn", lsn(member.receive_lsn));
    put("replay_lsn", lsn(member.replay_lsn));
    put("replication_state", member.replication_state.clone().map(Value::from));
    put("timeline", member.timeline.map(|timeline| json!(timeline.0)));
    put("scheduled_restart", member.scheduled_restart.clone());
    put("pause", member.pause.then_some(Value::Bool(true)));
    for (key, value) in &member.extra {
        put(key, Some(value.clone()));
    }
    Value::Object(object).to_string()
}

/// Reads a member's record. Text that starts with `postgres` is the form of the earliest versions
/// (`postgres://...?application_name=<api_url>`); anything unreadable gives a member of which only the name is known.
pub fn decode_member(name: &str, text: &str) -> Member {
    let mut member = Member { name: name.to_owned(), ..Member::default() };
    if text.starts_with("postgres") {
        let (conn_url, api_url) = match text.split_once("?application_name=") {
            Some((conn_url, api_url)) => (conn_url, Some(api_url.to_owned())),
            None => (text, None),
        };
        member.conn_url = Some(conn_url.to_owned());
        member.api_url = api_url;
        return member;
    }
    let Ok(Value::Object(mut object)) = serde_json::from_str::<Value>(text) else {
        return member;
    };
    let mut string = |key: &str| object.shift_remove(key).and_then(|value| value.as_str().map(str::to_owned));
    member.conn_url = string("conn_url");
    member.api_url = string("api_url");
    member.proxy_url = string("proxy_url");
    member.state = string("state").unwrap_or_default();
    member.role =
        string("role").map(|role| if role == "master" { "primary".to_owned() } else { role }).unwrap_or_default();
    member.version = string("version");
    member.replication_state = string("replication_state");
    let mut lsn = |key: &str| object.shift_remove(key).and_then(|value| value.as_u64()).map(Lsn);
    member.xlog_location = lsn("xlog_location");
    member.receive_lsn = lsn("receive_lsn");
    member.replay_lsn = lsn("replay_lsn");
    let mut flag = |key: &str| object.shift_remove(key).and_then(|value| value.as_bool());
    member.checkpoint_after_promote = flag("checkpoint_after_promote");
    member.pending_restart = flag("pending_restart").unwrap_or(false);
    member.pause = flag("pause").unwrap_or(false);
    member.timeline =
        object.shift_remove("timeline").and_then(|value| u32::try_from(value.as_u64()?).ok()).map(Timeline);
    if let Some(Value::Object(tags)) = object.shift_remove("tags") {
        member.tags = Tags(tags);
    }
    member.pending_restart_reason = object
        .shift_remove("pending_restart_reason")
        .and_then(|value| serde_json::from_value(value).ok())
        .unwrap_or_else(BTreeMap::new);
    member.scheduled_restart = object.shift_remove("scheduled_restart").filter(Value::is_object);
    member.extra = object.into_iter().collect();
    member
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_of_a_replica() {
        let text = r#"{"conn_url":"postgres://127.0.0.1:5433/postgres","api_url":"http://127.0.0.1:8009/patroni","state":"running","role":"replica","version":"4.1.5","tags":{"zone":"a"},"xlog_location":67108864,"receive_lsn":67108864,"replay_lsn":67108864,"replication_state":"streaming","timeline":1}"#;
        let member = decode_member("b", text);
        assert_eq!(member.pg_address().map(|a| a.port), Some(5433));
        assert_eq!(encode_member(&member), text);
    }

    #[test]
    fn earliest_form_and_garbage() {
        let member = decode_member("a", "postgres://u:p@h:5432/postgres?application_name=http://h:8008/patroni");
        assert_eq!(member.api_url.as_deref(), Some("http://h:8008/patroni"));
        for garbage in ["", "[]", "{", "null", r#"{"state":1,"role":[],"timeline":-1,"xlog_location":"x","tags":3}"#] {
            let member = decode_member("a", garbage);
            assert_eq!((member.name.as_str(), member.state.as_str(), member.timeline), ("a", "", None), "{garbage}");
        }
    }

    #[test]
    fn unknown_fields_survive_and_master_is_primary() {
        let member = decode_member("a", r#"{"state":"running","role":"master","future":1}"#);
        assert_eq!(member.role(), Some(crate::Role::Primary));
        assert!(encode_member(&member).contains(r#""future":1"#));
    }
}
