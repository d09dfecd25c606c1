//! The reference page of all settings, made from the table ([`schema`]).

use std::fmt::Write;

use crate::schema::{self, Applies, SECTIONS, SETTINGS, Section, Setting};
use crate::stores;

const HEAD: &str = "\
# Configuration

Generated from the table in `crates/config/src/schema/table.rs` by `cargo run -p xtask -- docs`.

A node reads one YAML file, or all `*.yml` and `*.yaml` files of a directory in the order of their names; then the
environment variables below are laid over it. Without a file the variable `PATRONI_CONFIGURATION` may hold all of it.
Shared settings of a cluster live in its store, as the *dynamic configuration*. In rising order of precedence: built-in
defaults, dynamic configuration, file, environment. Parameters that all nodes must agree on come from the dynamic
configuration alone.

Sizes and times may carry a unit: `B kB MB GB TB`, `us ms s min h d`. Flags are `on`, `true`, `yes`, `1` or `off`,
`false`, `no`, `0`. Lists and mappings in environment variables are written as in YAML, brackets optional. An empty
variable counts as not set. Keys that are not known are named in a warning, and otherwise ignored.

*Since* is the release of upstream that brought a setting, where its release notes say so. *Takes effect*: **reload**
(SIGHUP, `patronictl reload`), **restart** (of the agent), **PostgreSQL restart**, **new cluster** (only while a cluster
is made), **dynamic** (`patronictl edit-config`).
";

/// The page as Markdown.
pub fn markdown() -> String {
    let mut text = HEAD.to_owned();
    for section in SECTIONS {
        let rows: Vec<(&Setting, Vec<String>)> = SETTINGS
            .iter()
            .map(|setting| (setting, paths_in(setting, section)))
            .filter(|row| !row.1.is_empty())
            .collect();
        let title = if section.path.is_empty() { "Top level".to_owned() } else { format!("`{}`", section.path) };
        line(&mut text, format_args!("\n## {title}\n\n{}", section.help));
        if stores::KNOWN.iter().any(|store| store.name == section.path && !store.supported) {
            line(&mut text, format_args!("\nThis section is read and checked; the store is not supported yet."));
        }
        line(
            &mut text,
            format_args!("\n| Setting | Values | Default | Takes effect | Since | Environment | Meaning |"),
        );
        line(&mut text, format_args!("|---|---|---|---|---|---|---|"));
        for (setting, paths) in rows {
            line(&mut text, format_args!("{}", row(setting, &paths)));
        }
    }
    text
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{arguments}");
}

fn paths_in(setting: &Setting, section: &Section) -> Vec<String> {
    let mut paths = setting.paths();
    paths.retain(|path| schema::section_of(path).path == section.path);
    paths
}

fn row(setting: &Setting, paths: &[String]) -> String {
    let code = |words: &[String]| words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join("<br>");
    let mut names = code(paths);
    if !setting.aliases.is_empty() {
        let aliases: Vec<String> = setting.aliases.iter().map(|alias| (*alias).to_owned()).collect();
        names = format!("{names}<br>also {}", code(&aliases));
    }
    let mut values = setting.kind.expected();
    if setting.secret {
        values.push_str("; secret");
    }
    let default = match setting.default {
        Some(default) => format!("`{default}`"),
        None if setting.required => "required".to_owned(),
        None => String::new(),
    };
    let variables = match setting.env {
        true => code(&paths.iter().map(|path| schema::variable(path)).collect::<Vec<_>>()),
        false => String::new(),
    };
    let since = setting.since.unwrap_or_default().to_owned();
    let cells =
        [names, values, default, applies(setting.takes_effect()).to_owned(), since, variables, setting.help.into()];
    format!("| {} |", cells.map(|cell| cell.replace('|', "\\|")).join(" | "))
}

fn applies(applies: Applies) -> &'static str {
    match applies {
        Applies::Reload => "reload",
        Applies::Restart => "restart",
        Applies::PostgresRestart => "PostgreSQL restart",
        Applies::NewCluster => "new cluster",
        Applies::Dynamic => "dynamic",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == markdown(), "docs/configuration.md is not up to date: run cargo run -p xtask -- docs");
    }

    #[test]
    fn every_setting_is_on_the_page_once() {
        let page = markdown();
        for path in SETTINGS.iter().flat_map(Setting::paths) {
            let cell = |start: &str| page.matches(&format!("{start}`{path}`")).count();
            assert_eq!(cell("\n| ") + cell("<br>"), 1, "{path}");
        }
    }
}
