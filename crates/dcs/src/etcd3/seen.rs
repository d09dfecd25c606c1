//! The newest state of etcd that was seen, against answers from members that are behind it.

use std::sync::{Mutex, PoisonError};

use etcd_client::ResponseHeader;

use super::failure::Failure;

/// Where in its history an etcd cluster was when it answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub cluster_id: u64,
    pub raft_term: u64,
    pub revision: i64,
}

impl Mark {
    pub fn of(header: Option<&ResponseHeader>) -> Option<Mark> {
        header.map(|header| Mark {
            cluster_id: header.cluster_id(),
            raft_term: header.raft_term(),
            revision: header.revision(),
        })
    }
}

/// The newest mark seen. A member that was restored from a backup, or belongs to another cluster, answers with an older
/// state in good faith; taking it would bring back a leader of the past.
#[derive(Default)]
pub(super) struct Seen(Mutex<Option<Mark>>);

impl Seen {
    /// The newest mark so far; to be taken before a request is sent, because answers to concurrent requests may arrive
    /// in any order.
    pub fn mark(&self) -> Option<Mark> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks an answer against what had been seen `before` its request was sent, and remembers it.
    pub fn admit(&self, before: Option<Mark>, answer: Option<Mark>) -> Result<(), Failure> {
        let Some(answer) = answer else {
            return Ok(());
        };
        if let Some(before) = before {
            if answer.cluster_id != before.cluster_id {
                return Err(Failure::Behind(format!(
                    "belongs to the etcd cluster {:x}, expected {:x}",
                    answer.cluster_id, before.cluster_id
                )));
            }
            if answer.raft_term < before.raft_term || answer.revision < before.revision {
                return Err(Failure::Behind(format!(
                    "is at term {} and revision {}, seen before were term {} and revision {}",
                    answer.raft_term, answer.revision, before.raft_term, before.revision
                )));
            }
        }
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *newest = Some(match *newest {
            Some(known) if known.cluster_id == answer.cluster_id => Mark {
                cluster_id: known.cluster_id,
                raft_term: known.raft_term.max(answer.raft_term),
                revision: known.revision.max(answer.revision),
            },
            _ => answer,
        });
        Ok(())
    }

    /// Starts over.
    pub fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(cluster_id: u64, raft_term: u64, revision: i64) -> Option<Mark> {
        Some(Mark { cluster_id, raft_term, revision })
    }

    #[test]
    fn older_and_foreign_answers_are_refused() {
        let seen = Seen::default();
        seen.admit(seen.mark(), mark(1, 5, 100)).expect("the first answer");
        for older in [mark(1, 4, 200), mark(1, 5, 99), mark(2, 9, 900)] {
            assert!(matches!(seen.admit(seen.mark(), older), Err(Failure::Behind(_))), "{older:?}");
        }
        assert_eq!(seen.mark(), mark(1, 5, 100));
        seen.forget();
        seen.admit(seen.mark(), mark(2, 1, 1)).expect("a new beginning");
    }

    #[test]
    fn concurrent_answers_may_arrive_in_any_order() {
        let seen = Seen::default();
        let before = seen.mark();
        seen.admit(before, mark(1, 5, 100)).expect("the faster answer");
        seen.admit(before, mark(1, 5, 90)).expect("the slower answer");
        assert_eq!(seen.mark(), mark(1, 5, 100));
    }
}
