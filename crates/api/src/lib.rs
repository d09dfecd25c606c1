//! The REST API of one node: health checks for load balancers, status for people and peers, and the operations that
//! `patronictl` asks for (compatibility.md, section 5).
//!
//! [`serve`] starts a [`Server`] from an [`ApiConfig`] and a [`Backend`]. A request passes the connection gate
//! (`gate`), the route table (`routes`), access control (`access`), one handler, and leaves as an `Answer`.
//!
//! **Invariant**: this crate answers and forwards, it decides nothing: whoever runs it implements [`Backend`]. Health
//! answers come from [`NodeStatus`] in memory and never wait for PostgreSQL or the store. Secrets are never echoed.

mod access;
mod answer;
mod backend;
mod call;
mod config;
mod gate;
mod json;
mod listen;
mod requests;
mod routes;
mod server;
mod tls;

pub use backend::{
    Backend, FailoverRequest, FailsafeAnswer, FailsafeCall, NodeStatus, ReinitRequest, Reply, RestartRequest,
};
pub use config::{ApiConfig, Credentials, ServerTokens, TlsFiles, VerifyClient};
pub use server::{ServeError, Server, serve};
