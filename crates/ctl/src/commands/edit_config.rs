//! `edit-config`: changes the dynamic configuration, from options, files or in an editor.

use std::path::Path;

use dcs::{Guard, StoreError};
use model::Key;
use model::settings::patch_config;
use serde_json::{Map, Value};
use similar::{ChangeTag, TextDiff};

use crate::editor;
use crate::error::{Result, fail};
use crate::prompt::Console;
use crate::session::Session;
use crate::yaml;

/// Arguments of `edit-config`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cluster; the configured one by default.
    pub cluster_name: Option<String>,
    /// Citus group.
    #[arg(long)]
    pub group: Option<u32>,
    /// Do not show changes.
    #[arg(short, long)]
    pub quiet: bool,
    /// Set a value; the name's parts are separated by dots. Nothing or null removes it. Can be given several times.
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// Set a PostgreSQL parameter: short for -s postgresql.parameters.NAME=VALUE. Can be given several times.
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub pg: Vec<String>,
    /// Merge this YAML file into the configuration; - reads standard input.
    #[arg(long, value_name = "FILE")]
    pub apply: Option<String>,
    /// Replace the configuration by this YAML file; - reads standard input.
    #[arg(long, value_name = "FILE")]
    pub replace: Option<String>,
    /// Do not ask for confirmation at any point.
    #[arg(long)]
    pub force: bool,
}

/// Changes, shows the difference, asks, and writes if nobody else did meanwhile.
pub async fn run(session: &Session, args: &Args) -> Result {
    let console = &session.console;
    let group = args.group.or_else(|| session.configured_group());
    let cluster = session.cluster(args.cluster_name.as_deref(), group).await?;
    let Some(config) = &cluster.view.config else {
        return fail(format!("The config key does not exist in the cluster {}", cluster.name));
    };
    let edited = edit(console, args, &config.value, &cluster.name)?;
    if edited == config.value {
        if !args.quiet {
            console.line("Not changed");
        }
        return Ok(());
    }
    if !args.quiet {
        let text = |config: &Map<String, Value>| yaml::block(&Value::Object(config.clone()));
        console.raw(&difference(&text(&config.value), &text(&edited), console.terminal));
    }
    let from_stdin = [&args.apply, &args.replace].into_iter().flatten().any(|file| file == "-");
    if !args.force {
        if from_stdin {
            console.line("Use --force option to apply changes");
            return Ok(());
        }
        if !console.confirm("Apply these changes?")? {
            return Ok(());
        }
    }
    let text = Value::Object(edited).to_string();
    match cluster.store.put(&Key::Config, &text, Guard::Version(config.version)).await {
        Ok(_) => {
            console.line("Configuration changed");
            Ok(())
        }
        Err(StoreError::Rejected(_)) => fail("Config modification aborted due to concurrent changes"),
        Err(error) => Err(error.into()),
    }
}

/// The configuration as it shall be: replaced, merged and set in this order; without any option, edited by hand.
fn edit(console: &Console, args: &Args, config: &Map<String, Value>, cluster: &str) -> Result<Map<String, Value>> {
    let mut edited = config.clone();
    if let Some(file) = &args.replace {
        edited = Map::new();
        patch_config(&mut edited, &read(console, file)?);
    }
    if let Some(file) = &args.apply {
        patch_config(&mut edited, &read(console, file)?);
    }
    let settings = args.set.iter().cloned().chain(args.pg.iter().map(|pg| format!("postgresql.parameters.{pg}")));
    for setting in settings {
        set(&mut edited, &setting)?;
    }
    if args.replace.is_none() && args.apply.is_none() && args.set.is_empty() && args.pg.is_empty() {
        let text = editor::edit(&yaml::block(&Value::Object(config.clone())), &format!("{cluster}-config"))?;
        edited = mapping(yaml::parse(&text, "the edited text")?, "the edited text")?;
    }
    Ok(edited)
}

fn read(console: &Console, file: &str) -> Result<Map<String, Value>> {
    if file == "-" {
        return mapping(yaml::parse(&console.read_all()?, "standard input")?, "standard input");
    }
    let text =
        std::fs::read_to_string(Path::new(file)).or_else(|error| fail(format!("Cannot read {file}: {error}")))?;
    mapping(yaml::parse(&text, file)?, file)
}

fn mapping(value: Value, source: &str) -> Result<Map<String, Value>> {
    match value {
        Value::Object(map) => Ok(map),
        _ => fail(format!("{source} does not hold a map of settings")),
    }
}

/// Applies `name=value`. Dots nest, except that all after `postgresql.parameters.` is one name; the value is YAML; null
/// removes, and with the last setting of a section the section.
fn set(config: &mut Map<String, Value>, setting: &str) -> Result {
    let Some((name, value)) = setting.split_once('=') else {
        return fail(format!("Invalid parameter setting {setting}"));
    };
    let path: Vec<&str> = match name.strip_prefix("postgresql.parameters.") {
        Some(parameter) => vec!["postgresql", "parameters", parameter],
        None => name.split('.').collect(),
    };
    put(config, &path, yaml::parse(value, &format!("the value of {name}"))?);
    Ok(())
}

fn put(config: &mut Map<String, Value>, path: &[&str], value: Value) {
    match path {
        [] => {}
        [name] if value.is_null() => {
            config.shift_remove(*name);
        }
        [name] => {
            config.insert((*name).to_owned(), value);
        }
        [name, rest @ ..] => {
            let removes = value.is_null();
            let inner = config.entry(*name).or_insert_with(|| Value::Object(Map::new()));
            if !inner.is_object() {
                *inner = Value::Object(Map::new());
            }
            if let Value::Object(inner) = inner {
                put(inner, rest, value);
                if removes && inner.is_empty() {
                    config.shift_remove(*name);
                }
            }
        }
    }
}

/// A unified difference, in colour for terminals.
fn difference(before: &str, after: &str, colour: bool) -> String {
    const CONTEXT_LINES: usize = 3;
    let diff = TextDiff::from_lines(before, after);
    let mut out = String::from("--- \n+++ \n");
    for hunk in diff.unified_diff().context_radius(CONTEXT_LINES).iter_hunks() {
        out.push_str(&format!("{}\n", hunk.header()));
        for change in hunk.iter_changes() {
            let (sign, start) = match change.tag() {
                ChangeTag::Delete => ('-', "\x1b[31m"),
                ChangeTag::Insert => ('+', "\x1b[32m"),
                ChangeTag::Equal => (' ', ""),
            };
            let line = format!("{sign}{}", change.value().trim_end_matches('\n'));
            let coloured = colour && !start.is_empty();
            out.push_str(&if coloured { format!("{start}{line}\x1b[0m\n") } else { format!("{line}\n") });
        }
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().expect("an object").clone()
    }

    /// Settings applied to a configuration, as upstream stores the outcome.
    #[test]
    fn settings() {
        let base = json!({"ttl": 30, "postgresql": {"parameters": {"max_connections": 100}}});
        for (settings, expected) in [
            (vec!["ttl=20"], json!({"ttl": 20, "postgresql": {"parameters": {"max_connections": 100}}})),
            (
                vec!["postgresql.parameters.foo.bar=on"],
                json!({"ttl": 30, "postgresql": {"parameters": {"max_connections": 100, "foo.bar": true}}}),
            ),
            (vec!["postgresql.parameters.max_connections="], json!({"ttl": 30})),
            (
                vec!["postgresql.parameters=null", "a.b.c=1", "a.b.d=[1,2]"],
                json!({"ttl": 30, "a": {"b": {"c": 1, "d": [1, 2]}}}),
            ),
            (vec!["a.b.c=null"], base.clone()),
            (vec!["ttl.x=3", "postgresql=b=c"], json!({"ttl": {"x": 3}, "postgresql": "b=c"})),
            (vec!["ttl=foo:"], json!({"ttl": {"foo": null}, "postgresql": {"parameters": {"max_connections": 100}}})),
        ] {
            let mut config = object(base.clone());
            for setting in &settings {
                set(&mut config, setting).expect(setting);
            }
            assert_eq!(Value::Object(config), expected, "{settings:?}");
        }
        assert_eq!(set(&mut Map::new(), "ttl"), fail("Invalid parameter setting ttl"));
        assert!(set(&mut Map::new(), "ttl=[").expect_err("bad YAML").to_string().contains("the value of ttl"));
    }

    #[test]
    fn differences() {
        assert_eq!(
            difference("a: 1\nb: 2\n", "a: 1\nb: 3\n", false),
            "--- \n+++ \n@@ -1,2 +1,2 @@\n a: 1\n-b: 2\n+b: 3\n\n"
        );
        assert!(difference("a: 1\n", "b: 1\n", true).contains("\x1b[31m-a: 1\x1b[0m\n"));
    }
}
