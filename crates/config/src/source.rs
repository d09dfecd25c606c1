//! Where the local configuration comes from: a file or a directory of files, or one environment variable that holds all
//! of it, or nothing but `PATRONI_*` variables; the latter are laid over files.

use std::fs;
use std::path::{Path, PathBuf};

use model::settings::patch_config;
use serde_json::{Map, Value};

use crate::local::LocalConfig;
use crate::{ConfigError, env, legacy, tree, yaml};

/// The variable that may hold a whole configuration.
const WHOLE: &str = "PATRONI_CONFIGURATION";
/// Largest file that is read; a configuration is never near it.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Where a configuration was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file or a directory, with the environment laid over it.
    Path(PathBuf),
    /// `PATRONI_CONFIGURATION` alone.
    Variable,
    /// `PATRONI_*` variables alone.
    Environment,
}

/// Loads the local configuration. A `path` that does not exist counts as none, as upstream has it: then
/// `PATRONI_CONFIGURATION` is read, which disregards all other `PATRONI_*` variables, or else those alone.
pub fn load(path: Option<&Path>) -> Result<LocalConfig, ConfigError> {
    let variables = std::env::vars_os()
        .filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)))
        .collect::<Vec<_>>();
    load_with(path, variables)
}

/// [`load`] with a given environment.
pub fn load_with(path: Option<&Path>, variables: Vec<(String, String)>) -> Result<LocalConfig, ConfigError> {
    let path = path.filter(|path| !path.as_os_str().is_empty());
    let whole = variables.iter().find(|(name, text)| name == WHOLE && !text.is_empty()).map(|(_, text)| text);
    let existing = match path {
        Some(path) => match fs::metadata(path) {
            Ok(metadata) => Some((path, metadata.is_dir())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(ConfigError::Read { path: path.to_owned(), error }),
        },
        None => None,
    };
    let (source, patches) = match (existing, whole) {
        (Some((path, true)), _) => (Source::Path(path.to_owned()), directory(path)?),
        (Some((path, false)), _) => (Source::Path(path.to_owned()), vec![file(path)?]),
        (None, Some(text)) => (Source::Variable, vec![mapping(WHOLE, text)?]),
        (None, None) => (Source::Environment, vec![]),
    };
    let mut settings = Map::new();
    for patch in &patches {
        patch_config(&mut settings, patch);
    }
    // Before the environment: it speaks of today's layout only.
    let mut notes = legacy::modernise(&mut settings);
    if source != Source::Variable {
        let (overrides, problems) = env::settings(variables);
        patch_config(&mut settings, &overrides);
        notes.extend(problems);
    }
    if settings.is_empty() {
        return Err(ConfigError::Empty { hint: where_we_looked(path, existing.is_some()) });
    }
    Ok(LocalConfig::new(settings, source, notes))
}

fn where_we_looked(path: Option<&Path>, exists: bool) -> String {
    match path {
        Some(path) if exists => {
            format!("expected settings in {} or in PATRONI_* environment variables", path.display())
        }
        Some(path) => format!(
            "{} does not exist, and neither {WHOLE} nor another PATRONI_* environment variable is set",
            path.display()
        ),
        None => format!(
            "no configuration file was named, and neither {WHOLE} nor another PATRONI_* environment variable is set"
        ),
    }
}

/// All `*.yml` and `*.yaml` files of a directory in the order of their names, each a patch over those before it.
fn directory(path: &Path) -> Result<Vec<Map<String, Value>>, ConfigError> {
    let read_error = |error| ConfigError::Read { path: path.to_owned(), error };
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(read_error)? {
        let file = entry.map_err(read_error)?.path();
        if file.extension().is_some_and(|extension| extension == "yml" || extension == "yaml") && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    files.iter().map(|path| file(path)).collect()
}

fn file(path: &Path) -> Result<Map<String, Value>, ConfigError> {
    let read_error = |error| ConfigError::Read { path: path.to_owned(), error };
    let size = fs::metadata(path).map_err(read_error)?.len();
    if size > FILE_BYTES_MAX {
        let reason = format!("{size} bytes are more than the {FILE_BYTES_MAX} that are read");
        return Err(read_error(std::io::Error::new(std::io::ErrorKind::FileTooLarge, reason)));
    }
    mapping(&path.display().to_string(), &fs::read_to_string(path).map_err(read_error)?)
}

/// Parses the text of one source: a patch, in which null removes a key.
fn mapping(origin: &str, text: &str) -> Result<Map<String, Value>, ConfigError> {
    match yaml::parse(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(ConfigError::NotMapping { origin: origin.to_owned(), found: tree::kind_name(&other) }),
        Err(error) => Err(ConfigError::Syntax { origin: origin.to_owned(), error }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn write(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for (name, text) in files {
            fs::write(dir.path().join(name), text).expect("written");
        }
        dir
    }

    fn tree_of(path: Option<&Path>, variables: &[(&str, &str)]) -> Result<Value, String> {
        let variables = variables.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        load_with(path, variables).map(|config| config.tree.into()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_environment_is_laid_over_files() {
        let dir = write(&[("a.yml", "name: a\nscope: s\nrestapi: {listen: 'x:1', certfile: null}\n")]);
        let variables =
            [("PATRONI_NAME", "b"), ("PATRONI_RESTAPI_LISTEN", "y:2"), ("PATRONI_CONFIGURATION", "name: c")];
        let expected = json!({"name": "b", "scope": "s", "restapi": {"listen": "y:2"}});
        assert_eq!(tree_of(Some(&dir.path().join("a.yml")), &variables), Ok(expected));
    }

    #[test]
    fn files_of_a_directory_patch_each_other_by_name() {
        let dir = write(&[
            ("20.yaml", "name: b\nlog: null\ntags: {y: 2}\n"),
            ("10.yml", "name: a\nlog: {level: DEBUG}\ntags: {x: 1}\n"),
            ("30.txt", "name: c\n"),
        ]);
        fs::create_dir(dir.path().join("40.yml")).expect("a directory");
        assert_eq!(tree_of(Some(dir.path()), &[]), Ok(json!({"name": "b", "tags": {"x": 1, "y": 2}})));
    }

    #[test]
    fn a_whole_configuration_disregards_other_variables() {
        let variables = [("PATRONI_NAME", "b"), ("PATRONI_CONFIGURATION", "scope: s\n")];
        for path in [None, Some(Path::new("")), Some(Path::new("/nonexistent/file.yml"))] {
            assert_eq!(tree_of(path, &variables), Ok(json!({"scope": "s"})));
            assert_eq!(tree_of(path, &variables[..1]), Ok(json!({"name": "b"})));
        }
    }

    #[test]
    fn bad_sources_are_named_in_one_sentence() {
        let dir = write(&[("list.yml", "- a\n"), ("empty.yml", ""), ("bad.yml", "a: [1\nb: 2\n"), ("latin.yml", "x")]);
        fs::write(dir.path().join("latin.yml"), b"a: \xff\n").expect("written");
        let at = |name: &str| dir.path().join(name);
        let shown = |name: &str| at(name).display().to_string();
        let error = |path: &Path| tree_of(Some(path), &[]).expect_err("a bad source");
        assert_eq!(
            error(&at("list.yml")),
            format!("{}: expected a mapping of settings at the top level, found a list", shown("list.yml"))
        );
        assert_eq!(
            error(&at("empty.yml")),
            format!("{}: expected a mapping of settings at the top level, found nothing", shown("empty.yml"))
        );
        assert!(
            error(&at("bad.yml")).starts_with(&format!("{}, line 2, column 2: malformed YAML: ", shown("bad.yml"))),
            "{}",
            error(&at("bad.yml"))
        );
        assert_eq!(
            error(&at("latin.yml")),
            format!("cannot read configuration {}: stream did not contain valid UTF-8", shown("latin.yml"))
        );
        assert_eq!(
            error(Path::new("/nonexistent")),
            "Config is empty: /nonexistent does not exist, and neither PATRONI_CONFIGURATION nor another PATRONI_* \
             environment variable is set"
        );
        assert_eq!(
            tree_of(None, &[("PATRONI_CONFIGURATION", "5")]),
            Err("PATRONI_CONFIGURATION: expected a mapping of settings at the top level, found a number".to_owned())
        );
    }
}
