//! YAML text as users of `patronictl` know it: keys sorted, lists not indented below their key, scalars quoted only
//! where they would be read as something else.

use serde_json::{Map, Value};

use crate::error::{Result, fail};

/// Reads one YAML document; `source` names it in the error.
pub fn parse(text: &str, source: &str) -> Result<Value> {
    config::yaml::parse(text).or_else(|error| fail(format!("Cannot read {source} as YAML: {error}")))
}

/// Block style, with a newline at the end.
pub fn block(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => block_map(&mut out, map, 0, false),
        Value::Array(items) if !items.is_empty() => block_list(&mut out, items, 0, false),
        other => {
            out.push_str(&flow(other));
            out.push('\n');
        }
    }
    out
}

/// Flow style on one line: `{nofailover: true, zone: a}`.
pub fn flow(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let entries: Vec<String> =
                sorted(map).into_iter().map(|(key, value)| format!("{}: {}", scalar(key, true), flow(value))).collect();
            format!("{{{}}}", entries.join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::String(text) => scalar(text, true),
        other => other.to_string(),
    }
}

fn sorted(map: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by_key(|(key, _)| key.as_str());
    entries
}

/// `inline`: the first line continues a line that is already indented (`- `).
fn block_map(out: &mut String, map: &Map<String, Value>, indent: usize, inline: bool) {
    for (number, (key, value)) in sorted(map).into_iter().enumerate() {
        if number > 0 || !inline {
            out.push_str(&" ".repeat(indent));
        }
        out.push_str(&scalar(key, false));
        out.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                block_map(out, inner, indent + 2, false);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                block_list(out, items, indent, false);
            }
            other => {
                out.push(' ');
                block_leaf(out, other);
            }
        }
    }
}

fn block_list(out: &mut String, items: &[Value], indent: usize, inline: bool) {
    for (number, item) in items.iter().enumerate() {
        if number > 0 || !inline {
            out.push_str(&" ".repeat(indent));
        }
        out.push_str("- ");
        match item {
            Value::Object(inner) if !inner.is_empty() => block_map(out, inner, indent + 2, true),
            Value::Array(inner) if !inner.is_empty() => block_list(out, inner, indent + 2, true),
            other => block_leaf(out, other),
        }
    }
}

fn block_leaf(out: &mut String, value: &Value) {
    match value {
        Value::String(text) => out.push_str(&scalar(text, false)),
        other => out.push_str(&flow(other)),
    }
    out.push('\n');
}

/// A string as a scalar: plain where that reads back as the same string, else in single quotes, or in double quotes
/// when it holds control characters.
fn scalar(text: &str, in_flow: bool) -> String {
    if text.chars().any(|c| c.is_control() || c == '\u{feff}') {
        return double_quoted(text);
    }
    if is_plain(text, in_flow) && !is_typed(text) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "''"))
}

fn is_plain(text: &str, in_flow: bool) -> bool {
    let Some(first) = text.chars().next() else {
        return false;
    };
    let second = text.chars().nth(1);
    let indicator = match first {
        '-' | '?' | ':' => second.is_none_or(|c| c == ' ') || in_flow && second.is_some_and(|c| ",[]{}".contains(c)),
        c => "#,[]{}&*!|>'\"%@`=".contains(c) && !(c == '=' && text.len() > 1),
    };
    !(indicator
        || text.starts_with("---")
        || text.starts_with("...")
        || text.starts_with(' ')
        || text.ends_with(' ')
        || text.contains(": ")
        || text.ends_with(':')
        || text.contains(" #")
        || in_flow && text.contains([',', '[', ']', '{', '}', '?']))
}

/// Would the plain text be read as something other than a string, by a YAML 1.1 reader?
fn is_typed(text: &str) -> bool {
    let lower = text.to_lowercase();
    let word = matches!(
        lower.as_str(),
        "" | "~" | "null" | "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n" | "=" | "<<"
    ) && !matches!(text, "y" | "Y" | "n" | "N");
    word || is_number(&lower) || is_timestamp(text)
}

fn is_number(lower: &str) -> bool {
    let digits = lower.strip_prefix(['-', '+']).unwrap_or(lower);
    if matches!(digits, ".inf" | ".nan") {
        return true;
    }
    let only = |digits: &str, test: fn(char) -> bool| !digits.is_empty() && digits.chars().all(|c| c == '_' || test(c));
    if let Some(hex) = digits.strip_prefix("0x") {
        return only(hex, |c| c.is_ascii_hexdigit());
    }
    if let Some(binary) = digits.strip_prefix("0b") {
        return only(binary, |c| matches!(c, '0' | '1'));
    }
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') || digits == "." {
        return false;
    }
    // Base 60 (`12:30:45`), which YAML 1.1 also reads as a number.
    if digits.contains(':') {
        return digits.starts_with(|c: char| matches!(c, '1'..='9'))
            && digits
                .split(':')
                .skip(1)
                .all(|part| (1..=2).contains(&part.len()) && only(part, |c| c.is_ascii_digit()));
    }
    let (mantissa, exponent) = digits.split_once('e').map_or((digits, None), |(m, e)| (m, Some(e)));
    let whole = only(&mantissa.replacen('.', "", 1), |c| c.is_ascii_digit());
    match exponent {
        None => {
            whole
                && !(lower.starts_with('0')
                    && !mantissa.contains('.')
                    && mantissa.len() > 1
                    && mantissa.contains(['8', '9']))
        }
        Some(e) => {
            whole && mantissa.contains('.') && e.starts_with(['+', '-']) && only(&e[1..], |c| c.is_ascii_digit())
        }
    }
}

fn is_timestamp(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    shape == "9999-99-99"
        || (shape.starts_with("9999-99-99T") || shape.starts_with("9999-99-99 ")) && shape[11..].contains(':')
}

fn double_quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\0' => out.push_str("\\0"),
            c if (c as u32) < 0x100 && c.is_control() => out.push_str(&format!("\\x{:02X}", c as u32)),
            '\u{feff}' => out.push_str("\\uFEFF"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// The text was made by PyYAML's `safe_dump(..., default_flow_style=False)` of the same value.
    #[test]
    fn block_style() {
        let value = json!({"b": {"list": [1, "x", {"k": "v", "a": []}], "empty": {}}, "a": "*", "t": "2026-01-01T00:00:00+00:00",
            "n": null, "on": "on", "s": "", "q": "it's: a", "f": 1.5, "num": "12", "m": "4MB", "h": "host # x", "list": [[1, 2], []]});
        assert_eq!(
            block(&value),
            "a: '*'\nb:\n  empty: {}\n  list:\n  - 1\n  - x\n  - a: []\n    k: v\nf: 1.5\nh: 'host # x'\nlist:\n- - 1\n  - 2\n- []\nm: 4MB\n\
             n: null\nnum: '12'\n'on': 'on'\nq: 'it''s: a'\ns: ''\nt: '2026-01-01T00:00:00+00:00'\n"
        );
        assert_eq!(block(&json!({})), "{}\n");
    }

    #[test]
    fn flow_style() {
        assert_eq!(
            flow(&json!({"zone": "a", "nofailover": true, "l": [1, "x,y"]})),
            "{l: [1, 'x,y'], nofailover: true, zone: a}"
        );
    }

    proptest! {
        #[test]
        fn any_text_reads_back(text in ".{0,20}", key in "[ -~]{1,8}") {
            let value = json!({ key: text, "list": [text] });
            prop_assert_eq!(parse(&block(&value), "test").expect("valid YAML"), value.clone());
            prop_assert_eq!(parse(&flow(&value), "test").expect("valid YAML"), value);
        }
    }
}
