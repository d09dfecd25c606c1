//! One local PostgreSQL: its configuration files, its process, what it says, and the work on its data directory
//! (initdb, base backup, rewind, crash recovery, slots).
//!
//! [`Postgres`] is the whole of it; its methods are primitives that do one thing each. [`PgConfig`] is the
//! `postgresql` section, parsed.
//!
//! **Invariant**: nothing here decides. No role, lease, store or peer is known to this crate: it imports only `model`.
//! A data directory that carries the marker of unfinished work is never started, and nothing is started, rewound,
//! removed or copied into while a postmaster runs on it. Passwords reach neither logs, arguments nor errors.

mod archive;
mod basebackup;
mod bootstrap;
pub mod catalogue;
mod client;
mod conf_text;
pub mod config;
mod conninfo;
mod control;
mod files;
mod guc;
mod layout;
mod marker;
mod node;
mod observe;
mod postmaster;
mod preflight;
mod proc_fs;
mod process;
mod recovery;
mod remote;
mod rewind;
mod slot_copies;
mod slots;
mod sql;
mod task;
mod tls;
mod validate;

pub use basebackup::CloneSource;
pub use config::PgConfig;
pub use control::{ControlFile, read as read_control};
pub use node::{Postgres, StartAs, StopMode};
pub use preflight::preflight;
pub use remote::ServerPosition;
pub use task::{Progress, TaskHandle};
