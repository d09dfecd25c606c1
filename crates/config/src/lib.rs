//! The configuration of a node: YAML files and the environment, merged into a tree ([`LocalConfig`]); one table of all
//! settings ([`schema`]) that checks, defaults and documentation are derived from; and the rules by which the dynamic
//! configuration of the cluster and the local one become what PostgreSQL runs with ([`effective`]).
//!
//! **Invariant**: loading and checking change nothing on the machine. The only file written is the cache of the dynamic
//! configuration ([`cache`]). Nothing that a file, the environment or the store says makes this crate panic, and values
//! of secret settings appear in no error and no `Debug` output.

pub mod adopt;
pub mod cache;
pub mod check;
pub mod effective;
pub mod env;
mod error;
mod kept;
mod legacy;
mod local;
pub mod probe;
pub mod reference;
pub mod sample;
pub mod schema;
pub mod sections;
mod source;
mod startup;
pub mod stores;
mod tree;
pub mod yaml;

pub use error::ConfigError;
pub use local::LocalConfig;
pub use source::{Source, load, load_with};
