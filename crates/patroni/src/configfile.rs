//! The options of `patroni` that look at a configuration or write one, and end.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use config::{probe, sample};
use serde_json::{Map, Value};

use crate::interview;

/// `--validate-config`: nothing is printed for a sound configuration, one line per problem otherwise.
pub fn validate(path: Option<&Path>, ignore_listen_port: bool, print: bool) -> Result<i32, String> {
    let config = config::load(path).map_err(|error| error.to_string())?;
    let problems: Vec<String> = probe::validate(&config, ignore_listen_port).iter().map(ToString::to_string).collect();
    if !problems.is_empty() {
        return Err(problems.join("\n"));
    }
    if print {
        write_out(&as_yaml(&config.tree))?;
    }
    Ok(0)
}

/// `--generate-sample-config`: to a file, whose directory is made if need be, or to standard output.
pub fn generate_sample(path: Option<&Path>) -> Result<i32, String> {
    write_configuration(path, &sample::text())
}

/// `--generate-config`: a configuration for a running server. What a person should look at is said on standard error.
pub fn generate(path: Option<&Path>, dsn: Option<&str>) -> Result<i32, String> {
    let (server, connection) = interview::ask(dsn)?;
    let (text, notes) = config::adopt::text(&server, &connection);
    let code = write_configuration(path, &text)?;
    for note in notes {
        eprintln!("{note}");
    }
    Ok(code)
}

fn write_configuration(path: Option<&Path>, text: &str) -> Result<i32, String> {
    let Some(path) = path else {
        write_out(text)?;
        return Ok(0);
    };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let written = parent.map_or(Ok(()), fs::create_dir_all).and_then(|()| write_private(path, text));
    written.map_err(|error| format!("cannot write the configuration to {}: {error}", path.display()))?;
    Ok(0)
}

/// The text may hold passwords: a new file is for its owner only.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

fn as_yaml(tree: &Map<String, Value>) -> String {
    config::yaml::to_text(&Value::Object(tree.clone()))
}

fn write_out(text: &str) -> Result<(), String> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| format!("cannot write to standard output: {error}"))
}
