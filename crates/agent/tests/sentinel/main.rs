//! The sentinel against real PostgreSQL and real processes.

mod agents;
mod hardships;
mod required;
mod world;
