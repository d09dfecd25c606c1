//! What an unquoted YAML 1.1 scalar is (<https://yaml.org/type/>), in the narrower forms that PyYAML reads: `y` and `n`
//! are text, floats need a point, and their exponents a sign.

use serde_json::{Number, Value};

/// The value of an unquoted scalar. Numbers too large for 64 bits, timestamps, infinities and NaN stay text.
pub fn plain_scalar(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Value::Bool(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => return Value::Bool(false),
        _ => {}
    }
    let number = if text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) {
        integer(text).map(Number::from).or_else(|| float(text).and_then(Number::from_f64))
    } else {
        None
    };
    number.map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

fn split_sign(text: &str) -> (i64, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    }
}

fn integer(text: &str) -> Option<i64> {
    let (sign, digits) = split_sign(text);
    let magnitude = if let Some(binary) = digits.strip_prefix("0b") {
        radix(binary, 2)?
    } else if let Some(hex) = digits.strip_prefix("0x") {
        radix(hex, 16)?
    } else if digits == "0" {
        0
    } else if let Some(octal) = digits.strip_prefix('0') {
        radix(octal, 8)?
    } else {
        let mut parts = digits.split(':');
        let first = radix(parts.next()?, 10)?;
        parts.try_fold(first, |sum, part| sum.checked_mul(60)?.checked_add(sixtieth(part)?))?
    };
    magnitude.checked_mul(sign)
}

/// Digits with any number of underscores between them.
fn radix(digits: &str, radix: u32) -> Option<i64> {
    let plain: String = digits.chars().filter(|c| *c != '_').collect();
    let sound =
        !digits.is_empty() && plain.chars().all(|c| c.is_digit(radix)) && (radix != 10 || !digits.starts_with('_'));
    if sound { i64::from_str_radix(&plain, radix).ok() } else { None }
}

/// A place of a sexagesimal number: 0 to 59.
fn sixtieth(part: &str) -> Option<i64> {
    let sound = matches!(part.len(), 1 | 2) && part.bytes().all(|b| b.is_ascii_digit());
    part.parse().ok().filter(|value| sound && *value < 60)
}

fn float(text: &str) -> Option<f64> {
    let (sign, digits) = split_sign(text);
    let (mantissa, exponent) = match digits.find(['e', 'E']) {
        Some(at) => (&digits[..at], Some(&digits[at + 1..])),
        None => (digits, None),
    };
    let (whole, fraction) = mantissa.split_once('.')?;
    let is_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    let exponent_sound = exponent.is_none_or(|exponent| {
        exponent
            .strip_prefix(['+', '-'])
            .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
    });
    if !is_digits(fraction) || !exponent_sound {
        return None;
    }
    let plain = |part: &str| part.replace('_', "");
    let value = if whole.is_empty() {
        let sound = digits.len() == text.len() && fraction.starts_with(|c: char| c.is_ascii_digit());
        sound.then(|| format!("0.{}e{}", plain(fraction), exponent.unwrap_or("0")))?.parse::<f64>().ok()?
    } else if whole.contains(':') {
        let mut parts = whole.split(':');
        let first = Some(parts.next()?).filter(|part| starts_as_number(part) && is_digits(part))?;
        let first: f64 = plain(first).parse().ok()?;
        let whole = parts.try_fold(first, |sum, part| Some(sum * 60.0 + sixtieth(part)? as f64))?;
        let fraction: f64 = format!("0.{}0", plain(fraction)).parse().ok()?;
        exponent.is_none().then_some(whole + fraction)?
    } else {
        let sound = starts_as_number(whole) && is_digits(whole);
        let text = format!("{}.{}0e{}", plain(whole), plain(fraction), exponent.unwrap_or("0"));
        sound.then_some(text)?.parse::<f64>().ok()?
    };
    Some(value * sign as f64).filter(|value| value.is_finite())
}

fn starts_as_number(part: &str) -> bool {
    part.starts_with(|c: char| c.is_ascii_digit())
}
