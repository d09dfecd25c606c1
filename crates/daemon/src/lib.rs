//! One production node.
