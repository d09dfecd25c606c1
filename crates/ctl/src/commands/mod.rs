//! One file per command: its arguments and what it does.

pub mod dsn;
pub mod edit_config;
pub mod explain;
pub mod failover;
pub mod flush;
mod handover;
pub mod history;
pub mod list;
pub mod pause;
pub mod query;
pub mod reinit;
pub mod reload;
pub mod remove;
pub mod restart;
pub mod show_config;
pub mod switchover;
pub mod topology;
pub mod version;

#[cfg(test)]
mod tests;
