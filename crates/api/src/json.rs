//! JSON as upstream spells it: `{"role": "replica"}` with a blank after each colon and comma, and only ASCII.
//! Shell scripts grep for exactly that.

use std::io::{self, Write};

use serde_json::Value;
use serde_json::ser::Formatter;

/// The text of `value`.
pub(crate) fn to_text(value: &Value) -> String {
    let mut text = Vec::with_capacity(512);
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, Spaced);
    // Writing a `Value` into a `Vec` has no way to fail: keys are strings, and memory does not refuse writes.
    let written = serde::ser::Serialize::serialize(value, &mut serializer);
    debug_assert!(written.is_ok());
    String::from_utf8(text).unwrap_or_default()
}

struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        for c in fragment.chars() {
            if matches!(c, ' '..='~') {
                writer.write_all(&[c as u8])?;
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn spelled_like_upstream() {
        let value = json!({"a": [1, true, null, {}], "b": {"x": "ä\u{1F600}\u{7f}", "y": "\"\\\n\u{1}"}});
        assert_eq!(
            to_text(&value),
            r#"{"a": [1, true, null, {}], "b": {"x": "\u00e4\ud83d\ude00\u007f", "y": "\"\\\n\u0001"}}"#
        );
    }
}
