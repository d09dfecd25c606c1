//! WAL positions and timelines, as in PostgreSQL's `pg_lsn` type and history files.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A position in the write-ahead log, in bytes. Displays as PostgreSQL does: `16/B374D848`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Bytes from `other` up to `self`; zero when `other` is ahead.
    pub fn bytes_since(self, other: Lsn) -> u64 {
        self.0.saturating_sub(other.0)
    }

    /// True for every position but `0/0`, which PostgreSQL uses for "none".
    pub fn is_valid(self) -> bool {
        self.0 != 0
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text was not of the form `X/X` with two hexadecimal numbers of at most 32 bits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid LSN {0:?}: expected two hexadecimal numbers separated by a slash, like 16/B374D848")]
pub struct LsnError(String);

impl FromStr for Lsn {
    type Err = LsnError;

    fn from_str(text: &str) -> Result<Self, LsnError> {
        let fail = || LsnError(text.chars().take(40).collect());
        let half = |part: &str| {
            let digits = (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
            digits.then(|| u64::from_str_radix(part, 16).ok()).flatten()
        };
        let (high, low) = text.trim().split_once('/').ok_or_else(fail)?;
        match (half(high), half(low)) {
            (Some(high), Some(low)) => Ok(Lsn(high << 32 | low)),
            _ => Err(fail()),
        }
    }
}

/// A timeline number; the first timeline of a cluster is 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timeline(pub u32);

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tl{}", self.0)
    }
}

/// One line of a timeline history file (`00000002.history`): the timeline that ended, where it ended, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineSwitch {
    /// The timeline that was left.
    pub timeline: Timeline,
    /// The position at which it was left (the first byte of the next timeline).
    pub switchpoint: Lsn,
    /// PostgreSQL's remark, e.g. `no recovery target specified`.
    pub reason: String,
}

/// Parses the text of a timeline history file; lines that are no entries are skipped, as PostgreSQL skips comments.
pub fn parse_history_file(text: &str) -> Vec<TimelineSwitch> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().splitn(3, '\t');
            Some(TimelineSwitch {
                timeline: Timeline(fields.next()?.trim().parse().ok()?),
                switchpoint: fields.next()?.parse().ok()?,
                reason: fields.next().unwrap_or("").trim().to_owned(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_text_round_trips() {
        for text in ["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF", "0/3000060"] {
            assert_eq!(text.parse::<Lsn>().map(|lsn| lsn.to_string()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn malformed_lsn_is_an_error() {
        for text in ["", "/", "0", "0/", "/0", "g/0", "123456789/0", "+1/0", "0/0/0", "0/ 1"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn history_file_keeps_entries_and_skips_the_rest() {
        let text =
            "1\t0/3000060\tno recovery target specified\n\n# remark\n2\tbroken\n2\t0/50000A0\tbefore 2000-01-01\n";
        let switches = parse_history_file(text);
        assert_eq!(switches.len(), 2);
        assert_eq!((switches[1].timeline, switches[1].switchpoint), (Timeline(2), Lsn(0x50000A0)));
    }
}
