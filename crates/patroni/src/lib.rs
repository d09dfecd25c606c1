//! What the two programs are made of: arguments, logging, and the places where the other crates are called.
//!
//! **Invariant**: no logic of a cluster lives here. Before a node starts, nothing on the machine is changed, and every
//! failure is one sentence on standard error with an exit code other than 0.

pub mod cli;
mod configfile;
mod init;
mod interview;
pub mod logging;
mod node;
