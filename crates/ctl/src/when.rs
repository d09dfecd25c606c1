//! Times: what `--scheduled` accepts, and how times are shown.

use jiff::civil::{DateTime, Time};
use jiff::fmt::temporal::{Pieces, PiecesOffset};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};

use crate::error::{CtlError, Result};

/// Reads the time of a scheduled action: `None` for `now` and for nothing, else ISO 8601 (date, or date and time, or a
/// time of today). Without an offset it is taken as local time of `now`.
pub fn parse_scheduled(text: &str, now: &ZonedDateTime) -> Result<Option<ZonedDateTime>> {
    let trimmed = text.trim();
    if trimmed.is_empty() || trimmed.eq_ignore_ascii_case("now") {
        return Ok(None);
    }
    iso8601(trimmed, now).map(Some).ok_or_else(|| {
        CtlError::Failed(format!(
            "Unable to parse scheduled timestamp ({text}). It should be in an unambiguous format (e.g. ISO 8601)"
        ))
    })
}

fn iso8601(text: &str, now: &ZonedDateTime) -> Option<ZonedDateTime> {
    if let Ok(pieces) = Pieces::parse(text) {
        let datetime = DateTime::from_parts(pieces.date(), pieces.time().unwrap_or(Time::midnight()));
        let zone = match pieces.offset() {
            Some(PiecesOffset::Zulu) => TimeZone::UTC,
            Some(_) => TimeZone::fixed(pieces.to_numeric_offset()?),
            None => now.time_zone().clone(),
        };
        return datetime.to_zoned_datetime(zone).ok();
    }
    let time: Time = text.parse().ok()?;
    DateTime::from_parts(now.date(), time).to_zoned_datetime(now.time_zone().clone()).ok()
}

/// ISO 8601 with offset, as it goes to the REST API and into the store: `2030-01-02T03:04:05+00:00`.
pub fn iso(at: &ZonedDateTime) -> String {
    format(at, "%Y-%m-%dT%H:%M:%S")
}

/// The same with a blank: `2030-01-02 03:04:05+00:00`.
pub fn spaced(at: &ZonedDateTime) -> String {
    format(at, "%Y-%m-%d %H:%M:%S")
}

fn format(at: &ZonedDateTime, seconds: &str) -> String {
    let micros = if at.subsec_nanosecond() >= 1000 { "%.6f" } else { "" };
    at.strftime(&format!("{seconds}{micros}%:z")).to_string()
}

/// A time read from the store, shown in UTC.
pub fn iso_utc(at: Timestamp) -> String {
    iso(&at.to_zoned_datetime(TimeZone::UTC))
}

/// `2030-01-02 03:04:05.67890`: the time before the outcome of a switchover.
pub fn stamp(now: &ZonedDateTime) -> String {
    now.strftime("%Y-%m-%d %H:%M:%S%.5f").to_string()
}

/// The example in a prompt: an hour from now.
pub fn example(now: &ZonedDateTime) -> String {
    let later = now.checked_add(jiff::SignedDuration::from_hours(1)).unwrap_or_else(|_| now.clone());
    later.strftime("%Y-%m-%dT%H:%M").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> ZonedDateTime {
        "2026-11-24T14:10:25.698124+01:00[+01:00]".parse().expect("a time")
    }

    #[test]
    fn accepted_forms() {
        for (text, expected) in [
            ("2030-01-01T10:00:00+02:00", "2030-01-01T10:00:00+02:00"),
            ("2030-01-01T10:00Z", "2030-01-01T10:00:00+00:00"),
            ("2030-01-01 10:00", "2030-01-01T10:00:00+01:00"),
            ("2030-01-01", "2030-01-01T00:00:00+01:00"),
            ("2030-01-01T10:00:00.5+00:00", "2030-01-01T10:00:00.500000+00:00"),
            ("23:15", "2026-11-24T23:15:00+01:00"),
        ] {
            let at = parse_scheduled(text, &now()).expect(text).expect(text);
            assert_eq!(iso(&at), expected, "{text}");
        }
        assert_eq!(parse_scheduled("now", &now()), Ok(None));
        assert_eq!(parse_scheduled("", &now()), Ok(None));
    }

    #[test]
    fn refused_forms() {
        for text in ["rubbish", "2030-13-01", "tomorrow", "2030-01-01T25:00"] {
            let error = parse_scheduled(text, &now()).expect_err(text).to_string();
            assert!(error.starts_with(&format!("Unable to parse scheduled timestamp ({text}).")), "{error}");
        }
    }

    #[test]
    fn shown_forms() {
        assert_eq!(stamp(&now()), "2026-11-24 14:10:25.69812");
        assert_eq!(example(&now()), "2026-11-24T15:10");
        assert_eq!(spaced(&now()), "2026-11-24 14:10:25.698124+01:00");
    }
}
