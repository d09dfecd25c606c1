//! The agent: observe, decide, act. The driver performs the steps that [`ha::decide`] asks for; tasks run beside it;
//! the lease keeper renews the leader lock on its own; the fence stops PostgreSQL when everything else hangs.
//!
//! **Invariant**: no rule lives here. What the agent does follows from `ha`'s steps, apart from one thing: a lease that
//! is not renewed is treated as lost at its deadline, by the keeper and by the fence, whatever the loop does.

pub mod ports;
