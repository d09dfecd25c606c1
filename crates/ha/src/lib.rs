//! The decision core: `decide(&View, &Memory, &Facts) -> Step`.
//!
//! **Invariant**: pure. This crate imports only `model`: no async runtime, clock, file, socket or process. The same
//! arguments give the same step, so every decision is a table row in a test, can be replayed from a trace, and runs
//! unchanged in the simulator.

pub mod facts;
pub mod lease;
pub mod memory;
pub mod quorum;
pub mod rules;
pub mod slots;
pub mod step;
pub mod view;

pub use facts::{Answer, Facts, Need};
pub use lease::LeaseProof;
pub use memory::Memory;
pub use rules::decide;
pub use step::{Effect, Outcome, Probe, Step, Task, Verdict};
pub use view::View;
