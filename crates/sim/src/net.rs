//! Who can talk to whom, and how fast.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::world::NodeId;

/// The network between nodes and to the store.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// These nodes do not reach the store.
    pub store_cut: BTreeSet<NodeId>,
    /// The store answers nobody.
    pub store_down: bool,
    /// One way to or from the store takes this many milliseconds instead of a few.
    pub store_slow_ms: Option<Range<u64>>,
    /// Out of 100 requests to the store, this many never arrive, or are served and their answers never arrive.
    pub lost_percent: u32,
    /// These pairs (smaller first) do not reach each other.
    pub links_cut: BTreeSet<(NodeId, NodeId)>,
}

impl Network {
    /// Cuts the link between two nodes, or mends it.
    pub fn set_link(&mut self, a: NodeId, b: NodeId, cut: bool) {
        let pair = (a.min(b), a.max(b));
        if cut {
            self.links_cut.insert(pair);
        } else {
            self.links_cut.remove(&pair);
        }
    }

    /// Packets pass between two nodes.
    pub fn linked(&self, a: NodeId, b: NodeId) -> bool {
        a == b || !self.links_cut.contains(&(a.min(b), a.max(b)))
    }

    /// Packets pass between a node and the store.
    pub fn store_reachable(&self, node: NodeId) -> bool {
        !self.store_down && !self.store_cut.contains(&node)
    }

    /// Nothing is broken any more.
    pub fn heal(&mut self) {
        *self = Network::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_have_no_direction() {
        let mut net = Network::default();
        net.set_link(NodeId(2), NodeId(0), true);
        assert!(!net.linked(NodeId(0), NodeId(2)) && net.linked(NodeId(0), NodeId(1)));
        net.set_link(NodeId(0), NodeId(2), false);
        assert!(net.linked(NodeId(2), NodeId(0)));
    }
}
