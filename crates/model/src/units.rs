//! Tolerant parsing of booleans and of numbers with units, as PostgreSQL and upstream read them.

use serde_json::Value;

/// `on/true/yes/1` and `off/false/no/0` in any case; anything else is `None`.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Some(true),
        "off" | "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// [`parse_bool`] on a JSON value: booleans as they are, numbers and text by their spelling.
pub fn bool_of(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::String(text) => parse_bool(text),
        Value::Number(number) => parse_bool(&number.to_string()),
        _ => None,
    }
}

/// What a number without a unit counts, and what units are converted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// No units allowed.
    Plain,
    /// Sizes, counted in units of this many bytes (1 for bytes, 1024 for kB, 8192 for blocks).
    Bytes(u64),
    /// Times, counted in units of this many microseconds (1000 for ms, 1_000_000 for s).
    Micros(u64),
}

/// A number with an optional unit, in `base` units. Hexadecimal (`0x`) and octal (leading `0`) integers are read as
/// C does; fractions are rounded half to even. Units are case-sensitive: `B kB MB GB TB`, `us ms s min h d`.
pub fn parse_int(text: &str, base: Base) -> Option<i64> {
    let text = text.trim();
    let (number, unit) = split_number(text)?;
    let factor = unit_factor(unit.trim(), base)?;
    if factor == 1.0
        && let Number::Integer(integer) = number
    {
        return Some(integer);
    }
    let value = match number {
        Number::Integer(integer) => integer as f64,
        Number::Real(real) => real,
    } * factor;
    let rounded = value.round_ties_even();
    (rounded.is_finite() && rounded.abs() < 9.2e18).then_some(rounded as i64)
}

/// [`parse_int`] without rounding.
pub fn parse_real(text: &str, base: Base) -> Option<f64> {
    let (number, unit) = split_number(text.trim())?;
    let factor = unit_factor(unit.trim(), base)?;
    let value = match number {
        Number::Integer(integer) => integer as f64,
        Number::Real(real) => real,
    } * factor;
    value.is_finite().then_some(value)
}

/// [`parse_int`] on a JSON value.
pub fn int_of(value: &Value, base: Base) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| parse_int(&number.to_string(), base)),
        Value::String(text) => parse_int(text, base),
        _ => None,
    }
}

#[derive(Clone, Copy)]
enum Number {
    Integer(i64),
    Real(f64),
}

fn split_number(text: &str) -> Option<(Number, &str)> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        let end = hex.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(hex.len());
        return Some((Number::Integer(sign * i64::from_str_radix(&hex[..end], 16).ok()?), &hex[end..]));
    }
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let mut end = digits.find(|c| !is_number(c)).unwrap_or(digits.len());
    let mut real = digits[..end].contains('.');
    if let Some(exponent) = exponent_len(&digits[end..]) {
        end += exponent;
        real = true;
    }
    let number = &digits[..end];
    if !number.bytes().any(|b| b.is_ascii_digit()) {
        return None;
    }
    let value = if real {
        Number::Real(sign as f64 * number.parse::<f64>().ok()?)
    } else if number.len() > 1 && number.starts_with('0') && number.bytes().all(|b| (b'0'..=b'7').contains(&b)) {
        Number::Integer(sign * i64::from_str_radix(number, 8).ok()?)
    } else {
        Number::Integer(sign * number.parse::<i64>().ok()?)
    };
    Some((value, &digits[end..]))
}

/// Length of an exponent (`e5`, `E-3`) at the start of `text`.
fn exponent_len(text: &str) -> Option<usize> {
    let rest = text.strip_prefix(['e', 'E'])?;
    let unsigned = rest.strip_prefix(['+', '-']).unwrap_or(rest);
    let digits = unsigned.bytes().take_while(u8::is_ascii_digit).count();
    (digits > 0).then_some(text.len() - unsigned.len() + digits)
}

fn unit_factor(unit: &str, base: Base) -> Option<f64> {
    if unit.is_empty() {
        return Some(1.0);
    }
    let (amount, per) = match base {
        Base::Plain => return None,
        Base::Bytes(per) => {
            let bytes: u64 = match unit {
                "B" => 1,
                "kB" => 1 << 10,
                "MB" => 1 << 20,
                "GB" => 1 << 30,
                "TB" => 1 << 40,
                _ => return None,
            };
            (bytes, per)
        }
        Base::Micros(per) => {
            let micros: u64 = match unit {
                "us" => 1,
                "ms" => 1_000,
                "s" => 1_000_000,
                "min" => 60_000_000,
                "h" => 3_600_000_000,
                "d" => 86_400_000_000,
                _ => return None,
            };
            (micros, per)
        }
    };
    Some(amount as f64 / per as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_c_reads_them() {
        let seconds = Base::Micros(1_000_000);
        for (text, base, expected) in [
            ("10", Base::Plain, Some(10)),
            ("-1", Base::Plain, Some(-1)),
            ("0x1F", Base::Plain, Some(31)),
            ("010", Base::Plain, Some(8)),
            ("1MB", Base::Bytes(1), Some(1 << 20)),
            ("16MB", Base::Bytes(1 << 20), Some(16)),
            ("128 kB", Base::Bytes(8192), Some(16)),
            ("1.5", Base::Plain, Some(2)),
            ("2.5", Base::Plain, Some(2)),
            ("1500ms", seconds, Some(2)),
            ("5min", seconds, Some(300)),
            ("1e3", Base::Plain, Some(1000)),
            ("5mb", Base::Bytes(1), None),
            ("10s", Base::Plain, None),
            ("", Base::Plain, None),
            (".", Base::Plain, None),
            ("-", Base::Plain, None),
            ("0x", Base::Plain, None),
            ("99999999999999999999", Base::Plain, None),
        ] {
            assert_eq!(parse_int(text, base), expected, "{text:?} {base:?}");
        }
    }

    #[test]
    fn reals_keep_their_fraction() {
        let milliseconds = Base::Micros(1000);
        for (text, base, expected) in [
            ("0.5", Base::Plain, Some(0.5)),
            ("1500us", milliseconds, Some(1.5)),
            ("2", milliseconds, Some(2.0)),
            ("1e400", Base::Plain, None),
            ("1kB", milliseconds, None),
        ] {
            assert_eq!(parse_real(text, base), expected, "{text}");
        }
    }

    #[test]
    fn booleans_are_tolerant_but_not_guessing() {
        assert_eq!(parse_bool(" ON "), Some(true));
        assert_eq!(bool_of(&serde_json::json!(0)), Some(false));
        assert_eq!(parse_bool("maybe"), None);
        assert_eq!(bool_of(&Value::Null), None);
    }
}
