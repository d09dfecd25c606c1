//! Reading typed values out of a section, with errors that name path, value and expectation.

use std::collections::BTreeMap;
use std::time::Duration;

use model::units::{Base, bool_of, int_of};
use serde_json::{Map, Value};

pub(super) struct Reader<'a> {
    section: &'a Map<String, Value>,
    path: &'a str,
}

impl<'a> Reader<'a> {
    pub fn new(section: &'a Map<String, Value>, path: &'a str) -> Reader<'a> {
        Reader { section, path }
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.section.get(key).filter(|value| !value.is_null())
    }

    fn wrong(&self, key: &str, value: &Value, expected: &str) -> String {
        format!("{}.{key} {value}: expected {expected}", self.path)
    }

    /// A sub-section.
    pub fn section(&self, key: &str) -> Result<Option<&'a Map<String, Value>>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(section)) => Ok(Some(section)),
            Some(_) => Err(format!("{}.{key}: expected a section of keys and values", self.path)),
        }
    }

    /// Text; numbers and booleans count as text; empty text is absent.
    pub fn text(&self, key: &str) -> Result<Option<String>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(value @ (Value::Object(_) | Value::Array(_))) => Err(self.wrong(key, value, "text")),
            Some(value) => Ok(Some(plain_text(value)).filter(|text| !text.is_empty())),
        }
    }

    pub fn required_text(&self, key: &str) -> Result<String, String> {
        self.text(key)?.ok_or_else(|| format!("{}.{key} is missing: it must be set", self.path))
    }

    pub fn flag(&self, key: &str) -> Result<bool, String> {
        match self.get(key) {
            None => Ok(false),
            Some(value) => bool_of(value).ok_or_else(|| self.wrong(key, value, "true or false")),
        }
    }

    pub fn seconds(&self, key: &str, default: u64) -> Result<Duration, String> {
        let Some(value) = self.get(key) else { return Ok(Duration::from_secs(default)) };
        match int_of(value, Base::Micros(1_000_000)).map(u64::try_from) {
            Some(Ok(seconds)) if seconds <= u64::from(u32::MAX) => Ok(Duration::from_secs(seconds)),
            _ => Err(self.wrong(key, value, "a number of seconds")),
        }
    }

    /// Scalars by name, as PostgreSQL parameters: booleans are `on` and `off`; names in lower case.
    pub fn text_map(&self, key: &str) -> Result<BTreeMap<String, String>, String> {
        Ok(self.section(key)?.map(plain_text_map).unwrap_or_default())
    }

    /// A list of lines, or text with line breaks.
    pub fn lines(&self, key: &str) -> Result<Option<Vec<String>>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.lines().map(str::to_owned).collect())),
            Some(Value::Array(lines)) => Ok(Some(lines.iter().map(plain_text).collect())),
            Some(value) => Err(self.wrong(key, value, "a list of lines")),
        }
    }

    /// A list of words, or text with commas.
    pub fn list(&self, key: &str) -> Result<Option<Vec<String>>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items.iter().map(plain_text).collect())),
            Some(Value::String(text)) => {
                Ok(Some(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()))
            }
            Some(value) => Err(self.wrong(key, value, "a list of names")),
        }
    }

    /// A command, split as a shell splits words.
    pub fn words(&self, key: &str) -> Result<Option<Vec<String>>, String> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        match shlex::split(&text) {
            Some(words) if !words.is_empty() => Ok(Some(words)),
            _ => Err(format!("{}.{key} {text:?}: expected a command with balanced quotes", self.path)),
        }
    }
}

/// A scalar as PostgreSQL spells it; lists are joined by commas.
pub(super) fn plain_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "on".to_owned(),
        Value::Bool(false) => "off".to_owned(),
        Value::Null => String::new(),
        Value::Array(items) => items.iter().map(plain_text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

pub(super) fn plain_text_map(section: &Map<String, Value>) -> BTreeMap<String, String> {
    let scalars = section.iter().filter(|(_, value)| !value.is_null() && !value.is_object());
    scalars.map(|(name, value)| (name.to_ascii_lowercase(), plain_text(value))).collect()
}
