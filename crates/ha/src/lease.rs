//! The proof that this node may be writable.

use model::BootTime;
use serde::{Deserialize, Serialize};

/// Made only from a successful acquire or renew of this cycle; before an irreversible step the lease keeper is asked once
/// more, for what it has heard since counts, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseProof {
    deadline: BootTime,
}

impl LeaseProof {
    /// Only [`crate::Facts`] makes proofs, from an outcome that the lease keeper reported in this cycle.
    pub(crate) fn until(deadline: BootTime) -> LeaseProof {
        LeaseProof { deadline }
    }

    /// The permission ends here.
    pub fn deadline(&self) -> BootTime {
        self.deadline
    }
}
