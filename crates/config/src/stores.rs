//! The sections of distributed stores, and which of them this program can talk to.

use crate::schema::one_of;

/// A section that names a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreSection {
    /// Name of the section and of the backend.
    pub name: &'static str,
    /// A backend exists.
    pub supported: bool,
}

const fn store(name: &'static str, supported: bool) -> StoreSection {
    StoreSection { name, supported }
}

/// All sections in the order in which one is chosen where a configuration has several: upstream's order, so that nodes
/// of a mixed cluster choose the same store.
pub const KNOWN: &[StoreSection] = &[
    store("consul", false),
    store("etcd", false),
    store("etcd3", true),
    store("exhibitor", false),
    store("kubernetes", false),
    store("raft", false),
    store("zookeeper", false),
];

/// The supported sections, for people.
pub fn supported() -> String {
    let names: Vec<&str> = KNOWN.iter().filter(|store| store.supported).map(|store| store.name).collect();
    one_of(&names)
}
