//! The distributed configuration store: one trait with few semantic operations, one directory per backend, and the
//! conformance suite that every backend passes against its real server.
//!
//! **Invariant**: nothing outside a backend's file asks which backend it is; differences are data
//! ([`Capabilities`]). The error split that matters is [`StoreError`]: *unreachable* may lead to a demotion,
//! *rejected* means that somebody else won. This crate never decides anything about the cluster.

pub mod conformance;
mod etcd3;
mod registry;
mod store;

pub use registry::{OpenError, StoreConfig, open, supported};
pub use store::{Capabilities, Changes, Freshness, Guard, Store, StoreError, Timing};
