//! The syntax of `postgresql.conf`: one `name = value` per line (PostgreSQL documentation, 20.1.2).

/// Quotes a value: quotes and backslashes are doubled. Line breaks, which the syntax cannot hold, become spaces.
pub(crate) fn quoted(value: &str) -> String {
    let mut text = String::with_capacity(value.len() + 2);
    text.push('\'');
    for c in value.chars() {
        match c {
            '\'' => text.push_str("''"),
            '\\' => text.push_str("\\\\"),
            '\n' | '\r' => text.push(' '),
            other => text.push(other),
        }
    }
    text.push('\'');
    text
}

/// A `name = 'value'` line.
pub(crate) fn line(name: &str, value: &str) -> String {
    format!("{name} = {}\n", quoted(value))
}

/// The assignment on one line: lower-case name and unquoted value. Includes, comments and anything else are `None`.
pub(crate) fn assignment(line: &str) -> Option<(String, String)> {
    let line = line.trim_start();
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '$'))).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    let name = name.to_ascii_lowercase();
    if name.is_empty() || name.starts_with("include") {
        return None;
    }
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let value = match rest.strip_prefix('\'') {
        Some(quoted) => unquoted(quoted)?,
        None => rest.split(|c: char| c == '#' || c.is_whitespace()).next().unwrap_or("").to_owned(),
    };
    Some((name, value))
}

/// All assignments, in order; of several to one name PostgreSQL uses the last.
pub(crate) fn assignments(text: &str) -> Vec<(String, String)> {
    text.lines().filter_map(assignment).collect()
}

/// Reads up to the closing quote.
fn unquoted(text: &str) -> Option<String> {
    let mut value = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' if chars.peek() == Some(&'\'') => {
                chars.next();
                value.push('\'');
            }
            '\'' => return Some(value),
            '\\' => value.push(match chars.next()? {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                'b' => '\u{8}',
                'f' => '\u{c}',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_as_postgresql_reads_them() {
        for (line, expected) in [
            ("port = 5433 # comment", Some(("port", "5433"))),
            ("Work_Mem '4MB'", Some(("work_mem", "4MB"))),
            ("  a.b='it''s \\'x\\''", Some(("a.b", "it's 'x'"))),
            ("include 'other.conf'", None),
            ("# port = 1", None),
            ("", None),
            ("x = 'open", None),
        ] {
            let parsed = assignment(line);
            let parsed = parsed.as_ref().map(|(name, value)| (name.as_str(), value.as_str()));
            assert_eq!(parsed, expected, "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(value in "[^\n\r\u{0}]{0,40}") {
            prop_assert_eq!(assignment(&line("p", &value)), Some(("p".to_owned(), value)));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,200}") {
            let _ = assignments(&text);
        }
    }
}
