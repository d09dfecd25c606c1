//! Chaos on the real thing: three database hosts and three etcd hosts in network namespaces of their own, random faults,
//! and clients that write unique rows to whoever takes them, all the time. Afterwards a checker says what was lost,
//! what appeared from nowhere, who read the past, and when two nodes acknowledged writes at once.
//!
//! The same faults and the same checker run against Python Patroni (`--upstream`).
//!
//! **Invariant**: the verdict is computed from what clients saw, never from what an agent says of itself. Everything a
//! run makes (namespaces, links, mounts, processes) is removed when it ends, however it ends.

pub mod checker;
pub mod clients;
pub mod cluster;
pub mod faults;
pub mod net;
pub mod plan;
pub mod run;
pub mod stage;
