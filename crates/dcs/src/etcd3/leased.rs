//! Keys that live under a lease: the leader lock and the member's record.

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, timeout_at};

use super::failure::Failure;
use super::kv::{Lease, Write, Written, unchanged_since};
use super::pool::Pool;
use crate::StoreError;

/// A lease, once there is one.
pub(super) type Slot = Option<Lease>;

/// The leader lock's lease.
#[derive(Default)]
pub(super) struct LeaderSlot {
    pub lease: Slot,
    /// Released, and not acquired since: a late renewal must not bring the key back.
    pub released: bool,
}

/// What a key is to hold.
pub(super) struct Claim {
    pub path: String,
    pub value: String,
}

/// How often a key that somebody else keeps changing is looked at again.
const ROUNDS_MAX: usize = 5;

impl Pool {
    /// Makes the key hold the claimed value under a lease that lives at least the `ttl` of now.
    ///
    /// First the lease is prolonged, or made anew if it expired or its lifetime is not the configured one. Then the key
    /// is read, and where it is not as it should be, written on top of what was read, provided that `may_write`
    /// allows to replace the value found (`None`: no key). A key found with the very lease of `slot` is this node's own
    /// write, be it of an attempt whose answer was lost. `Rejected` when `may_write` says no.
    pub async fn bind(
        &self,
        slot: &mut Slot,
        claim: &Claim,
        deadline: Instant,
        may_write: impl Fn(Option<&str>) -> bool + Send,
    ) -> Result<(), StoreError> {
        let mut lease = self.live_lease(slot, deadline).await?;
        for _ in 0..ROUNDS_MAX {
            let found = self.get(&claim.path, deadline).await?;
            let found = found.as_ref();
            if found.is_some_and(|record| record.lease == lease.id && record.value == claim.value) {
                return Ok(());
            }
            if !may_write(found.map(|record| record.value.as_str())) {
                return Err(rejected(&claim.path, found.map(|record| record.value.as_str())));
            }
            let condition = unchanged_since(&claim.path, found.map_or(0, |record| record.revision));
            let write = Write::Put { value: claim.value.clone(), lease: lease.id };
            match self.write_if(&claim.path, vec![condition], write, deadline).await {
                Ok(Written::At(_)) => return Ok(()),
                Ok(Written::Refused | Written::Doubtful) => {}
                Err(Failure::LeaseGone) => {
                    *slot = None;
                    lease = self.live_lease(slot, deadline).await?;
                }
                Err(failure) => return Err(failure.into()),
            }
        }
        Err(StoreError::Rejected(format!("{} was changed {ROUNDS_MAX} times by somebody else", claim.path)))
    }

    async fn live_lease(&self, slot: &mut Slot, deadline: Instant) -> Result<Lease, Failure> {
        let ttl_s = whole_seconds(self.timing().ttl);
        if let Some(lease) = slot.filter(|lease| lease.ttl_s == ttl_s) {
            match self.keep_alive(lease, deadline).await {
                Ok(()) => return Ok(lease),
                Err(Failure::LeaseGone) => {}
                Err(failure) => return Err(failure),
            }
        }
        // A lease of another lifetime is left to expire, with no key under it once the new one is bound.
        let lease = self.grant(ttl_s, deadline).await?;
        *slot = Some(lease);
        Ok(lease)
    }

    /// Deletes the key if it holds `value`; no key is success. The condition is the revision that was read: a request
    /// delivered late must not delete a lock acquired since.
    pub async fn delete_own(&self, path: &str, value: &str, deadline: Instant) -> Result<(), StoreError> {
        for _ in 0..ROUNDS_MAX {
            let Some(record) = self.get(path, deadline).await? else {
                return Ok(());
            };
            if record.value != value {
                return Err(rejected(path, Some(&record.value)));
            }
            let condition = unchanged_since(path, record.revision);
            if let Written::At(_) = self.write_if(path, vec![condition], Write::Delete, deadline).await? {
                return Ok(());
            }
        }
        Err(StoreError::Rejected(format!("{path} was changed {ROUNDS_MAX} times by somebody else")))
    }
}

fn rejected(path: &str, holder: Option<&str>) -> StoreError {
    StoreError::Rejected(match holder {
        Some(holder) => format!("{path} is held by {holder:?}"),
        None => format!("{path} does not exist any more"),
    })
}

/// Leases count in whole seconds; never less than asked for.
fn whole_seconds(ttl: std::time::Duration) -> i64 {
    let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    i64::try_from(seconds).unwrap_or(i64::MAX).max(1)
}

/// Waits for an operation on the same key that is under way, but not past the deadline.
pub(super) async fn lock_until<T>(mutex: &Mutex<T>, deadline: Instant) -> Result<MutexGuard<'_, T>, StoreError> {
    timeout_at(deadline, mutex.lock())
        .await
        .map_err(|_| StoreError::Unreachable("an earlier operation on the same key has not ended".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn lifetimes_are_rounded_up() {
        let seconds = |ms| whole_seconds(Duration::from_millis(ms));
        assert_eq!((seconds(0), seconds(2500), seconds(3000), seconds(30_000)), (1, 3, 3, 30));
    }
}
