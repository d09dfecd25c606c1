//! Real clusters for tests: etcd, PostgreSQL and agents (ours or the Python program) on free ports of this machine, with a
//! writer that remembers what was acknowledged and a probe that notices two primaries.
//!
//! Everything a test starts lives below one [`Sandbox`]: processes are found and killed by where they live, never by
//! name, so that several runs can share a machine. Servers run as an ordinary user, because PostgreSQL refuses to run
//! as root; when the test is root that user is `postgres`.
//!
//! **Invariant**: nothing here sleeps for a fixed time to let something happen. Waiting is [`wait_for`] with a deadline,
//! and its error says what was seen last. Nothing here knows the product's crates: it talks to running programs only.

mod cluster;
mod ctl;
mod etcd;
mod node;
mod ports;
mod process;
mod programs;
mod report;
mod rest;
mod sandbox;
mod sql;
mod wait;
mod writer;

pub use cluster::{Cluster, ClusterSpec, Member};
pub use ctl::{CtlOutput, run_ctl};
pub use etcd::Etcd;
pub use node::{Node, NodeSpec};
pub use ports::free_port;
pub use process::{Running, in_directory, kill_all_in, kill_pid};
pub use programs::{Flavour, Programs, run_to_end, site_packages};
pub use report::measured;
pub use rest::{Answer, Rest};
pub use rustix::process::Signal;
pub use sandbox::{Owner, Sandbox, Tree, tree_of};
pub use sql::{Rows, Sql};
pub use wait::{holds_for, wait_for, wait_until};
pub use writer::{Outcome, Workload};
