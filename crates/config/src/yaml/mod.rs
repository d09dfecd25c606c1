//! YAML as configuration files are written: one document, plain data, and scalars read by the rules of YAML 1.1, which
//! is what the users of these files have always had: `on` and `no` are booleans, `0640` is octal.
//!
//! The grammar is the parser's business (`granit_parser`); here its events become JSON values. Differences to YAML's
//! full data model: mapping keys become text, timestamps and `.inf`/`.nan` stay text.

mod scalar;

use std::collections::HashMap;

use serde_json::{Map, Value};
use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

pub use scalar::plain_scalar;

/// Values one document may expand to. Bounds what nested aliases can blow up to.
const NODES_MAX: usize = 100_000;
/// Nesting of one document.
const DEPTH_MAX: usize = 64;

/// Where and why a text is not YAML that we read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {what}")]
pub struct YamlError {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// The reason.
    pub what: String,
}

/// Parses one YAML document; an empty text is null.
pub fn parse(text: &str) -> Result<Value, YamlError> {
    let mut composer = Composer { parser: Parser::new_from_str(text), anchors: HashMap::new(), nodes: 0 };
    composer.document()
}

/// Writes a value as block YAML. Text that any reader could mistake for something else is quoted.
pub fn to_text(value: &Value) -> String {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    let mut text = String::new();
    // JSON values have text keys and finite numbers, and strings take any text: nothing here can be refused.
    if let Err(error) = serde_saphyr::to_fmt_writer_with_options(&mut text, value, options) {
        debug_assert!(false, "cannot write YAML: {error}");
    }
    text
}

struct Composer<'a> {
    parser: Parser<'a, serde_saphyr::granit_parser::StrInput<'a>>,
    anchors: HashMap<usize, Value>,
    nodes: usize,
}

type Step<'a> = (Event<'a>, Span);

impl<'a> Composer<'a> {
    fn next(&mut self) -> Result<Step<'a>, YamlError> {
        loop {
            match self.parser.next() {
                Some(Ok((Event::Comment(..) | Event::Anchor(..), _))) => {}
                Some(Ok(step)) => return Ok(step),
                Some(Err(error)) => return Err(scan_error(&error)),
                None => return Ok((Event::StreamEnd, Span::default())),
            }
        }
    }

    fn document(&mut self) -> Result<Value, YamlError> {
        let mut value = Value::Null;
        let mut seen = false;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentEnd => {}
                Event::StreamEnd => return Ok(value),
                Event::DocumentStart(..) if seen => return Err(at(&span, "expected one document, found another")),
                Event::DocumentStart(..) => seen = true,
                event => value = self.node(event, &span, 0)?,
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: &Span, depth: usize) -> Result<Value, YamlError> {
        if depth > DEPTH_MAX {
            return Err(at(span, &format!("nested more than {DEPTH_MAX} levels deep")));
        }
        self.count(1, span)?;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => (scalar(&text, style, tag.as_deref(), span)?, anchor),
            Event::SequenceStart(_, anchor, tag) => {
                expect_tag(tag.as_deref(), "seq", span)?;
                (self.sequence(depth)?, anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                expect_tag(tag.as_deref(), "map", span)?;
                (self.mapping(depth)?, anchor)
            }
            Event::Alias(id) => {
                let value = self.anchors.get(&id).cloned().ok_or_else(|| at(span, "alias inside its own anchor"))?;
                self.count(weight(&value), span)?;
                (value, 0)
            }
            _ => return Err(at(span, "expected a value")),
        };
        if anchor != 0 {
            self.count(weight(&value), span)?;
            self.anchors.insert(anchor, value.clone());
        }
        Ok(value)
    }

    fn sequence(&mut self, depth: usize) -> Result<Value, YamlError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::Array(items)),
                (event, span) => items.push(self.node(event, &span, depth + 1)?),
            }
        }
    }

    /// Entries merged with `<<` come first and give way to the mapping's own; of equal keys the last one counts.
    fn mapping(&mut self, depth: usize) -> Result<Value, YamlError> {
        let (mut merged, mut own) = (Map::new(), Map::new());
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                merged.extend(own);
                return Ok(Value::Object(merged));
            }
            let is_merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<");
            let key = self.node(event, &span, depth + 1)?;
            let (event, value_span) = self.next()?;
            let value = self.node(event, &value_span, depth + 1)?;
            if is_merge {
                merge(&mut merged, value, &value_span)?;
            } else {
                own.insert(key_text(key, &span)?, value);
            }
        }
    }

    fn count(&mut self, nodes: usize, span: &Span) -> Result<(), YamlError> {
        self.nodes += nodes;
        if self.nodes > NODES_MAX { Err(at(span, &format!("more than {NODES_MAX} values"))) } else { Ok(()) }
    }
}

fn merge(into: &mut Map<String, Value>, value: Value, span: &Span) -> Result<(), YamlError> {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                into.entry(key).or_insert(value);
            }
            Ok(())
        }
        Value::Array(items) => items.into_iter().try_for_each(|item| match item {
            Value::Object(_) => merge(into, item, span),
            _ => Err(at(span, "expected a mapping to merge with <<")),
        }),
        _ => Err(at(span, "expected a mapping to merge with <<")),
    }
}

fn key_text(key: Value, span: &Span) -> Result<String, YamlError> {
    match key {
        Value::String(text) => Ok(text),
        Value::Array(_) | Value::Object(_) => Err(at(span, "expected plain text as a key, found a collection")),
        other => Ok(other.to_string()),
    }
}

fn weight(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(weight).sum::<usize>(),
        Value::Object(map) => 1 + map.values().map(weight).sum::<usize>(),
        _ => 1,
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, span: &Span) -> Result<Value, YamlError> {
    let plain = || plain_scalar(text);
    let Some(tag) = tag else {
        return Ok(if style == ScalarStyle::Plain { plain() } else { Value::String(text.to_owned()) });
    };
    let value = match tag.core_suffix() {
        Some("str") => return Ok(Value::String(text.to_owned())),
        Some("null") => return Ok(Value::Null),
        Some("int") => Some(plain()).filter(|value| value.is_i64() || value.is_u64()),
        Some("float") => Some(plain()).filter(Value::is_number).and_then(|value| value.as_f64()).map(Value::from),
        Some("bool") => Some(plain()).filter(Value::is_boolean),
        _ if tag.original() == "!" => return Ok(Value::String(text.to_owned())),
        _ => return Err(at(span, &format!("unknown tag {}", tag.original()))),
    };
    value.ok_or_else(|| at(span, &format!("the value does not fit its tag {}", tag.original())))
}

fn expect_tag(tag: Option<&Tag>, kind: &str, span: &Span) -> Result<(), YamlError> {
    match tag {
        Some(tag) if !tag.is_yaml_core_schema_tag(kind) => Err(at(span, &format!("unknown tag {}", tag.original()))),
        _ => Ok(()),
    }
}

fn at(span: &Span, what: &str) -> YamlError {
    YamlError { line: span.start.line(), column: span.start.col() + 1, what: what.to_owned() }
}

fn scan_error(error: &ScanError) -> YamlError {
    let what = error.info().split_whitespace().collect::<Vec<_>>().join(" ");
    YamlError { line: error.marker().line(), column: error.marker().col() + 1, what }
}

#[cfg(test)]
mod tests;
