//! Why a configuration cannot be used. Every error is one sentence for the person who edits the file.

use std::io;
use std::path::PathBuf;

use crate::yaml::YamlError;

/// A configuration that cannot be loaded or used. Values of secret settings never appear in it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file or directory could not be read.
    #[error("cannot read configuration {}: {error}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Not YAML.
    #[error("{origin}, line {}, column {}: malformed YAML: {}", error.line, error.column, error.what)]
    Syntax {
        /// The file, or the name of the environment variable.
        origin: String,
        /// Position and reason.
        error: YamlError,
    },
    /// YAML, but no mapping at the top.
    #[error("{origin}: expected a mapping of settings at the top level, found {found}")]
    NotMapping {
        /// The file, or the name of the environment variable.
        origin: String,
        /// What was found instead.
        found: &'static str,
    },
    /// Nothing is configured at all.
    #[error("Config is empty: {hint}")]
    Empty {
        /// Where a configuration was looked for.
        hint: String,
    },
    /// A setting that is needed is missing.
    #[error("{path} is not defined: expected {expected}")]
    Missing {
        /// Dotted path of the setting.
        path: String,
        /// What belongs there.
        expected: String,
    },
    /// A setting has a value that cannot be used.
    #[error("{path} {value} is not valid: expected {expected}")]
    Invalid {
        /// Dotted path of the setting.
        path: String,
        /// The value, as JSON; `***` for secrets.
        value: String,
        /// What belongs there.
        expected: String,
    },
    /// No section of a distributed store.
    #[error("no distributed configuration store is configured: expected a section named {supported}")]
    NoStore {
        /// The supported sections.
        supported: String,
    },
    /// The section of a store that this program cannot talk to.
    #[error("section {name} names a distributed configuration store that is not supported yet: expected {supported}")]
    UnsupportedStore {
        /// The section that was found.
        name: String,
        /// The supported sections.
        supported: String,
    },
    /// Something on this machine is not as it must be for a start.
    #[error("{0}")]
    Machine(String),
}

impl ConfigError {
    pub(crate) fn missing(path: &str, expected: impl Into<String>) -> ConfigError {
        ConfigError::Missing { path: path.to_owned(), expected: expected.into() }
    }
}
