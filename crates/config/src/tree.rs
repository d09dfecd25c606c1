//! Dotted paths in a tree of settings.

use serde_json::{Map, Value};

/// The value at `path`; null counts as absent.
pub fn get<'a>(tree: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    let mut segments = path.split('.');
    let first = tree.get(segments.next()?)?;
    segments.try_fold(first, |value, segment| value.as_object()?.get(segment)).filter(|value| !value.is_null())
}

/// The place of the value at `path`, if there is one.
pub fn get_mut<'a>(tree: &'a mut Map<String, Value>, path: &str) -> Option<&'a mut Value> {
    match path.split_once('.') {
        None => tree.get_mut(path),
        Some((section, rest)) => get_mut(tree.get_mut(section)?.as_object_mut()?, rest),
    }
}

/// Takes the value at `path` out; null counts as absent.
pub fn remove(tree: &mut Map<String, Value>, path: &str) -> Option<Value> {
    match path.split_once('.') {
        None => tree.shift_remove(path).filter(|value| !value.is_null()),
        Some((section, rest)) => {
            let inner = tree.get_mut(section)?.as_object_mut()?;
            remove(inner, rest)
        }
    }
}

/// Puts a value at `path`, making the mappings on the way; what stands in their place is replaced.
pub fn set(tree: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            tree.insert(path.to_owned(), value);
        }
        Some((section, rest)) => {
            let slot = tree.entry(section).or_insert(Value::Null);
            if !slot.is_object() {
                *slot = Value::Object(Map::new());
            }
            if let Value::Object(inner) = slot {
                set(inner, rest, value);
            }
        }
    }
}

/// What kind of value this is, for people.
pub fn kind_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}
