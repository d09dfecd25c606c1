//! Tables, and the formats they are printed in.

use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Map, Value};
use unicode_width::UnicodeWidthStr;

use crate::yaml;

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table for people.
    Pretty,
    /// Tab-separated values with a header line.
    Tsv,
    /// A JSON array with one object per row.
    Json,
    /// A YAML list with one map per row.
    Yaml,
    /// The same as `yaml`.
    Yml,
    /// The table of `pretty` with member names as a tree; only for the command `topology`.
    #[value(skip)]
    Topology,
}

impl Format {
    /// A table drawn with lines.
    pub fn is_drawn(self) -> bool {
        matches!(self, Format::Pretty | Format::Topology)
    }
}

/// A column of a [`Table`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Name in tsv, json and yaml.
    pub name: String,
    /// Heading of a drawn table.
    pub heading: String,
    /// Numbers are aligned to the right in a drawn table.
    pub right: bool,
}

impl Column {
    /// A column whose heading is its name, aligned to the left.
    pub fn new(name: &str) -> Column {
        Column { name: name.to_owned(), heading: name.to_owned(), right: false }
    }

    /// Aligned to the right.
    pub fn right(mut self) -> Column {
        self.right = true;
        self
    }

    /// With another heading in drawn tables.
    pub fn headed(mut self, heading: &str) -> Column {
        self.heading = heading.to_owned();
        self
    }
}

/// Rows under columns. Empty cells are null or empty strings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Shown in the top border of a drawn table.
    pub title: Option<String>,
    /// The columns.
    pub columns: Vec<Column>,
    /// As many cells per row as there are columns.
    pub rows: Vec<Vec<Value>>,
    /// Leave empty cells out of json and yaml.
    pub sparse: bool,
}

impl Table {
    /// The table as text, with a newline at the end.
    pub fn render(&self, format: Format, delimiter: &str) -> String {
        match format {
            Format::Pretty | Format::Topology => self.drawn(),
            Format::Tsv => self.tsv(delimiter),
            Format::Json => format!("{}\n", json(&self.records())),
            Format::Yaml | Format::Yml => format!("{}\n", yaml::block(&self.records())),
        }
    }

    /// One object per row.
    fn records(&self) -> Value {
        let record = |row: &Vec<Value>| {
            let cells = self.columns.iter().zip(row);
            let kept = cells.filter(|(_, cell)| !(self.sparse && is_empty(cell)));
            Value::Object(kept.map(|(column, cell)| (column.name.clone(), cell.clone())).collect::<Map<_, _>>())
        };
        Value::Array(self.rows.iter().map(record).collect())
    }

    fn tsv(&self, delimiter: &str) -> String {
        let header: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
        let mut out = header.join(delimiter);
        out.push('\n');
        for row in &self.rows {
            out.push_str(&row.iter().map(cell_text).collect::<Vec<_>>().join(delimiter));
            out.push('\n');
        }
        out
    }

    fn drawn(&self) -> String {
        let rows: Vec<Vec<String>> = self.rows.iter().map(|row| row.iter().map(cell_text).collect()).collect();
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(number, column)| {
                let cells = rows.iter().filter_map(|row| row.get(number)).flat_map(|cell| cell.split('\n'));
                cells.map(UnicodeWidthStr::width).max().unwrap_or(0).max(column.heading.width())
            })
            .collect();
        let border = border(&widths);
        let separated = rows.iter().flatten().any(|cell| cell.contains('\n'));

        let mut out = self.title.as_ref().map_or_else(|| border.clone(), |title| with_title(&border, title));
        out.push('\n');
        let headings: Vec<String> = self.columns.iter().map(|column| column.heading.clone()).collect();
        self.draw_row(&mut out, &headings, &widths);
        out.push_str(&border);
        out.push('\n');
        for (number, row) in rows.iter().enumerate() {
            if separated && number > 0 {
                out.push_str(&border);
                out.push('\n');
            }
            self.draw_row(&mut out, row, &widths);
        }
        if !rows.is_empty() || self.title.is_some() || !self.columns.is_empty() {
            out.push_str(&border);
            out.push('\n');
        }
        out
    }

    fn draw_row(&self, out: &mut String, row: &[String], widths: &[usize]) {
        let height = row.iter().map(|cell| cell.split('\n').count()).max().unwrap_or(1);
        for line in 0..height {
            out.push('|');
            for ((cell, width), column) in row.iter().zip(widths).zip(&self.columns) {
                let text = cell.split('\n').nth(line).unwrap_or("");
                let padding = " ".repeat(width.saturating_sub(text.width()));
                let (before, after) = if column.right { (padding.as_str(), "") } else { ("", padding.as_str()) };
                out.push_str(&format!(" {before}{text}{after} |"));
            }
            out.push('\n');
        }
    }
}

fn border(widths: &[usize]) -> String {
    let mut out = String::from("+");
    for width in widths {
        out.push_str(&"-".repeat(width + 2));
        out.push('+');
    }
    out
}

/// The title replaces the border from the second character on; what does not fit is cut.
fn with_title(border: &str, title: &str) -> String {
    let title: String = title.chars().take(border.len().saturating_sub(2)).collect();
    let rest: String = border.chars().skip(1 + title.width()).collect();
    format!("+{title}{}", if rest.is_empty() { "+" } else { &rest })
}

fn is_empty(cell: &Value) -> bool {
    match cell {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn cell_text(cell: &Value) -> String {
    match cell {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => yaml::flow(other),
    }
}

/// JSON as upstream prints it: a blank after `,` and `:`, everything outside ASCII escaped.
pub fn json(value: &Value) -> String {
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, Spaced);
    match value.serialize(&mut serializer) {
        Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
        // Writing a value into memory cannot fail; the compact form is the same data.
        Err(_) => value.to_string(),
    }
}

struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + std::io::Write>(&mut self, out: &mut W, text: &str) -> std::io::Result<()> {
        for c in text.chars() {
            if c.is_ascii() {
                out.write_all(&[c as u8])?;
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}")?;
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

    fn table() -> Table {
        Table {
            title: Some(" Cluster: ü (x) ".to_owned()),
            columns: vec![Column::new("Member"), Column::new("Replay Lag").headed("Lag").right()],
            rows: vec![vec![json!("a"), json!(0)], vec![json!("b\nc"), Value::Null]],
            sparse: true,
        }
    }

    #[test]
    fn drawn_with_separators_when_a_cell_has_two_lines() {
        assert_eq!(
            table().render(Format::Pretty, "\t"),
            "+ Cluster: ü (x+\n| Member | Lag |\n+--------+-----+\n| a      |   0 |\n+--------+-----+\n| b      |     |\n| c      |     |\n+--------+-----+\n"
        );
    }

    #[test]
    fn data_formats() {
        assert_eq!(table().render(Format::Tsv, "\t"), "Member\tReplay Lag\na\t0\nb\nc\t\n");
        assert_eq!(
            table().render(Format::Json, ""),
            "[{\"Member\": \"a\", \"Replay Lag\": 0}, {\"Member\": \"b\\nc\"}]\n"
        );
        assert_eq!(table().render(Format::Yaml, ""), "- Member: a\n  Replay Lag: 0\n- Member: \"b\\nc\"\n\n");
        let dense = Table { sparse: false, ..table() };
        assert!(dense.render(Format::Json, "").contains("\"Replay Lag\": null"));
        assert_eq!(Table::default().render(Format::Json, ""), "[]\n");
        assert_eq!(json(&json!("é😀")), "\"\\u00e9\\ud83d\\ude00\"");
    }
}
