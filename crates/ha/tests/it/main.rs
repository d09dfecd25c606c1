//! Table tests of the decision core: a scene in, the exact effects and the verdict out.

mod bootstrap;
mod callbacks;
mod failover;
mod failsafe;
mod follow;
mod guard;
mod lead;
mod operators;
mod recover;
mod scene;
mod shutdown;
mod slots;
mod store_lost;
mod sync;
