//! One production node: the agent over real PostgreSQL, a real store, HTTP peers, and the REST API in front of it.
//!
//! **Invariant**: wiring and translation only. What the node does is decided in `ha`; how PostgreSQL, the store and
//! HTTP are spoken to is in their crates.

mod backend;
mod failover;
mod namesake;
mod node;
mod notify;
mod promise;
mod reload;
mod run;
mod signals;
mod status;

pub use reload::Reloaded;
pub use run::run;
