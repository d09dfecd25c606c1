//! The vocabulary of a highly available PostgreSQL cluster: WAL positions, timelines, members, tags, the
//! snapshot of the distributed store ([`ClusterView`]), the state of one PostgreSQL ([`pg::PgSnapshot`]),
//! the dynamic configuration ([`Settings`]), and, under [`wire`], the JSON that Patroni keeps in the store.
//!
//! **Invariant**: no I/O and no clocks. This crate imports no sibling crate; every other crate may import it.
//! Parsing never panics: what a store, a file or a peer says is data, and garbage becomes `None` or an error.

mod clone_progress;
pub mod cluster;
pub mod conninfo;
pub mod controlled;
mod errors;
pub mod failsafe;
pub mod key;
pub mod lease;
pub mod libpq;
pub mod lsn;
pub mod member;
pub mod peer;
pub mod pg;
pub mod settings;
pub mod slots;
pub mod standby_names;
pub mod tags;
pub mod time;
pub mod units;
pub mod wire;

pub use clone_progress::CloneProgress;
pub use cluster::{ClusterView, FailoverKey, HistoryEntry, Leader, Status, SyncKey, Versioned};
pub use conninfo::HostPort;
pub use errors::causes;
pub use failsafe::{FailsafeLeader, FailsafeReply};
pub use key::Key;
pub use lease::LeaseTimes;
pub use lsn::{Lsn, Timeline};
pub use member::{Member, MemberState, Role};
pub use settings::Settings;
pub use standby_names::StandbyNames;
pub use tags::Tags;
pub use time::BootTime;

/// The version told to peers and tools: they compare it and switch behaviour on it, so it names the upstream release
/// whose contract this program keeps, as three integers.
pub const COMPATIBLE_VERSION: &str = "4.1.5";
