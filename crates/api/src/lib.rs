//! The REST API of one node: health checks for load balancers, status for people and peers, and the operations that
//! `patronictl` asks for (compatibility.md, section 5).
//!
//! **Invariant**: this crate answers and forwards, it decides nothing: whoever runs it implements [`Backend`]. Health
//! answers come from [`NodeStatus`] in memory and never wait for PostgreSQL or the store. Secrets are never echoed.

mod backend;

pub use backend::{
    Backend, FailoverRequest, FailsafeAnswer, FailsafeCall, NodeStatus, ReinitRequest, Reply, RestartRequest,
};
