use serde_json::{Value, json};

use crate::{HistoryEntry, Lsn, Timeline};

/// The JSON kept under `history`: an array of `[timeline, lsn, reason, timestamp, new leader]`.
pub fn encode_history(history: &[HistoryEntry]) -> String {
    let rows: Vec<Value> = history
        .iter()
        .map(|row| {
            let mut fields = vec![json!(row.timeline.0), json!(row.lsn.0), json!(row.reason)];
            if let Some(timestamp) = &row.timestamp {
                fields.push(json!(timestamp));
                if let Some(new_leader) = &row.new_leader {
                    fields.push(json!(new_leader));
                }
            }
            Value::Array(fields)
        })
        .collect();
    Value::Array(rows).to_string()
}

/// Reads the history; `None` when it is no array. Rows that cannot be read are left out.
pub fn decode_history(text: &str) -> Option<Vec<HistoryEntry>> {
    let Ok(Value::Array(rows)) = serde_json::from_str::<Value>(text) else {
        return None;
    };
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let entry = |row: &Value| {
        let row = row.as_array()?;
        Some(HistoryEntry {
            timeline: Timeline(u32::try_from(row.first()?.as_u64()?).ok()?),
            lsn: Lsn(row.get(1)?.as_u64()?),
            reason: text(row.get(2)).unwrap_or_default(),
            timestamp: text(row.get(3)),
            new_leader: text(row.get(4)),
        })
    };
    Some(rows.iter().filter_map(entry).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_three_and_of_five() {
        let text = r#"[[1,25623960,"no recovery target specified"],[2,25624344,"no recovery target specified","2026-01-01T00:00:00+00:00","b"]]"#;
        assert_eq!(encode_history(&decode_history(text).expect("rows")), text);
        assert_eq!(decode_history("[]"), Some(vec![]));
        assert_eq!(decode_history("{}"), None);
        assert_eq!(decode_history(r#"[["x"],3,[]]"#), Some(vec![]));
    }
}
