//! Checks that documents and code agree: dependency edges as ARCHITECTURE.md draws them, the generated table of rules,
//! and the size of files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Lines beyond which a file wants to be split.
const LINES_MAX: usize = 700;

/// Runs every check in the workspace at `root`; the error lists what is wrong.
pub fn run(root: &Path) -> Result<()> {
    let mut problems = edges(root)?;
    problems.extend(rules_document(root)?);
    problems.extend(crate::matrix::problems(root));
    problems.extend(long_files(root)?);
    if problems.is_empty() {
        println!("tidy: dependency edges, rules table, start matrix and file sizes are as documented");
        return Ok(());
    }
    bail!("{}", problems.join("\n"));
}

/// Edges between our crates, against the block of ARCHITECTURE.md that begins with ```` ```edges ````: one line per
/// crate, `name -> dependency dependency`.
fn edges(root: &Path) -> Result<Vec<String>> {
    let document = fs::read_to_string(root.join("ARCHITECTURE.md")).context("read ARCHITECTURE.md")?;
    let block = document.split("```edges\n").nth(1).and_then(|rest| rest.split("```").next());
    let block = block.context("ARCHITECTURE.md has no block of edges")?;
    let documented: BTreeMap<&str, BTreeSet<&str>> = block
        .lines()
        .filter_map(|line| line.split_once("->"))
        .map(|(from, to)| (from.trim(), to.split_whitespace().collect()))
        .collect();
    let mut problems = Vec::new();
    for directory in crates(root)? {
        let manifest = fs::read_to_string(directory.join("Cargo.toml")).context("read a manifest")?;
        let name = directory.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let Some(allowed) = documented.get(name.as_str()) else {
            problems.push(format!("ARCHITECTURE.md does not say what the crate {name} may depend on"));
            continue;
        };
        for dependency in internal_dependencies(&manifest, &documented) {
            if !allowed.contains(dependency.as_str()) {
                problems.push(format!("the edge {name} -> {dependency} is not in ARCHITECTURE.md"));
            }
        }
    }
    Ok(problems)
}

fn crates(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = fs::read_dir(root.join("crates"))
        .context("list crates")?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("Cargo.toml").exists())
        .collect();
    found.push(root.join("xtask"));
    found.sort();
    Ok(found)
}

/// Names under `[dependencies]` that are crates of ours; dependencies of tests may point anywhere.
fn internal_dependencies(manifest: &str, known: &BTreeMap<&str, BTreeSet<&str>>) -> Vec<String> {
    let section = manifest.split("\n[dependencies]\n").nth(1).unwrap_or_default();
    let section = section.split("\n[").next().unwrap_or_default();
    let names = section.lines().filter_map(|line| line.split(['.', '=', ' ']).next());
    names.filter(|name| known.contains_key(name)).map(str::to_owned).collect()
}

/// The table of decision rules as Markdown.
pub fn rules_markdown() -> String {
    let mut text = String::from(
        "# Decision rules\n\nGenerated from the table in `crates/ha/src/rules/table.rs` by `cargo run -p xtask -- rules`.\n\n\
         | Number | Name | When it applies, and what it does |\n|---|---|---|\n",
    );
    for rule in ha::rules::RULES {
        text.push_str(&format!("| {} | {} | {} |\n", rule.id.0, rule.name, rule.text));
    }
    text
}

fn rules_document(root: &Path) -> Result<Vec<String>> {
    let there = fs::read_to_string(root.join("docs/rules.md")).unwrap_or_default();
    let differs = there != rules_markdown();
    Ok(differs
        .then(|| "docs/rules.md is not up to date: run cargo run -p xtask -- rules".to_owned())
        .into_iter()
        .collect())
}

fn long_files(root: &Path) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let mut pending = vec![root.join("crates"), root.join("xtask")];
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).with_context(|| format!("list {}", path.display()))?;
            pending.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let lines = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?.lines().count();
            if lines > LINES_MAX {
                problems.push(format!("{} has {lines} lines: more than {LINES_MAX} want to be split", path.display()));
            }
        }
    }
    Ok(problems)
}
