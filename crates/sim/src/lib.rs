//! A simulated world for the production driver: several nodes, each with an agent, a PostgreSQL and a sentinel, on one
//! virtual clock, with a simulated store and network between them. Faults are injected, checkers watch.
//!
//! **Invariant**: deterministic. One thread per run, virtual time only, every random choice from one seeded generator,
//! ordered maps. The same seed gives the same history, so a digest of the history identifies a run. Nothing here reads a
//! wall clock, a file or a socket. The agents run unchanged: everything they touch is one of the traits in
//! [`agent::ports`] or [`dcs::Store`], and that is also where deliberate defects ([`mutations`]) are put in.

pub mod callbacks;
pub mod checkers;
pub mod client;
pub mod clock;
pub mod fanout;
pub mod faults;
pub mod fence;
pub mod history;
pub mod lease;
pub mod member;
pub mod mutations;
pub mod net;
pub mod peers;
pub mod pg;
pub mod promise;
pub mod run;
pub mod spawner;
pub mod store;
pub mod world;

pub use history::{Event, History};
pub use run::{Options, Report, run};
pub use world::{NodeId, World};
