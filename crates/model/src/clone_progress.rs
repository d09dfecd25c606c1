//! How far a copy of another server is.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Member;

/// Progress of a copy. Members publish it under [`CloneProgress::KEY`], which other programs ignore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneProgress {
    /// Bytes received so far.
    pub copied_bytes: u64,
    /// Bytes to receive, as estimated when the copy began; `None` where nobody estimates.
    pub total_bytes: Option<u64>,
}

impl CloneProgress {
    /// The key in the member's record, in `GET /patroni` and in `GET /cluster`.
    pub const KEY: &'static str = "clone_progress";

    /// Whole percents of the estimate, 100 at most.
    pub fn percent(&self) -> Option<u64> {
        let total = self.total_bytes.filter(|total| *total > 0)?;
        Some((u128::from(self.copied_bytes.min(total)) * 100 / u128::from(total)) as u64)
    }

    /// `{"copied_bytes": ..., "total_bytes": ..., "percent": ...}`; what is not known is absent.
    pub fn to_json(&self) -> Value {
        let mut object = json!({"copied_bytes": self.copied_bytes});
        for (key, value) in [("total_bytes", self.total_bytes), ("percent", self.percent())] {
            if let Some(value) = value {
                object[key] = value.into();
            }
        }
        object
    }

    /// What a member published.
    pub fn of(member: &Member) -> Option<CloneProgress> {
        let value = member.extra.get(CloneProgress::KEY)?;
        let number = |key: &str| value.get(key).and_then(Value::as_u64);
        Some(CloneProgress { copied_bytes: number("copied_bytes")?, total_bytes: number("total_bytes") })
    }
}

/// `42% of 3.0 GB`, or `1.2 GB`.
impl fmt::Display for CloneProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.percent(), self.total_bytes) {
            (Some(percent), Some(total)) => write!(f, "{percent}% of {}", size(total)),
            _ => f.write_str(&size(self.copied_bytes)),
        }
    }
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["MB", "GB", "TB", "PB"];
    let mut amount = bytes as f64 / (1 << 20) as f64;
    let mut unit = UNITS[0];
    for larger in &UNITS[1..] {
        if amount < 1000.0 {
            break;
        }
        amount /= 1024.0;
        unit = larger;
    }
    format!("{amount:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_json() {
        let progress = |copied_bytes, total_bytes| CloneProgress { copied_bytes, total_bytes };
        for (progress, text) in [
            (progress(0, None), "0.0 MB"),
            (progress(5 << 30, Some(10 << 30)), "50% of 10.0 GB"),
            (progress(99, Some(0)), "0.0 MB"),
            (progress(20, Some(10)), "100% of 0.0 MB"),
            (progress(u64::MAX, Some(u64::MAX)), "100% of 16384.0 PB"),
        ] {
            assert_eq!(progress.to_string(), text);
            let extra = [(CloneProgress::KEY.to_owned(), progress.to_json())].into();
            assert_eq!(CloneProgress::of(&Member { extra, ..Member::default() }), Some(progress));
        }
        let extra = [(CloneProgress::KEY.to_owned(), json!("nonsense"))].into();
        assert_eq!(CloneProgress::of(&Member { extra, ..Member::default() }), None);
    }
}
