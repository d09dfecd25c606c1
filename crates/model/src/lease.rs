//! The arithmetic of the leader lease. Everything that counts towards the moment at which a primary must have stopped is
//! here, so that its parts can be held against each other.
//!
//! ```text
//! request sent        renewed again           demote_at          deadline          the store may expire the key
//!   0 ── renew_after ──┼──────── attempts ────────┼── demote_margin ──┼── safety_margin ──┼ ttl
//! ```

use std::time::Duration;

use crate::BootTime;

/// The three times of the dynamic configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTimes {
    /// Lifetime of the leader lock.
    pub ttl: Duration,
    /// The longest an agent sleeps between two cycles.
    pub loop_wait: Duration,
    /// How long an operation on the store is retried.
    pub retry_timeout: Duration,
}

impl LeaseTimes {
    /// Between our deadline and the earliest moment the store may expire the key: time for the sentinel to kill, and for
    /// clocks that run at different speeds.
    pub fn safety_margin(&self) -> Duration {
        (self.ttl / 10).max(Duration::from_millis(500))
    }

    /// The end of a lease that was granted by a request sent at `sent`: PostgreSQL must not accept writes after it.
    pub fn deadline(&self, sent: BootTime) -> BootTime {
        sent.plus(self.ttl).minus(self.safety_margin())
    }

    /// What is left of a lease when a primary that cannot renew it begins to stop: a fast stop should fit.
    pub fn demote_margin(&self) -> Duration {
        self.ttl / 5
    }

    /// When a primary that has not renewed its lease begins to stop. No answer is awaited beyond it.
    pub fn demote_at(&self, deadline: BootTime) -> BootTime {
        deadline.minus(self.demote_margin())
    }

    /// How long asking all other members for their promise takes at most, in failsafe mode: two attempts of two seconds,
    /// and what surrounds them.
    pub const FAILSAFE_ROUND: Duration = Duration::from_millis(4_500);

    /// In failsafe mode no answer of the store is awaited beyond this: the other members must be asked before
    /// `demote_at`.
    pub fn ask_at(&self, deadline: BootTime) -> BootTime {
        self.demote_at(deadline).minus(Self::FAILSAFE_ROUND)
    }

    /// How long after the last renewal the keeper renews by itself: a little after the decision loop would have.
    pub fn renew_after(&self) -> Duration {
        (self.loop_wait + Duration::from_millis(500)).min(self.ttl / 3)
    }

    /// How long the decision loop may show no sign of life before its lease is not renewed any more.
    pub fn loop_silence_max(&self) -> Duration {
        self.loop_wait + 2 * self.retry_timeout
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Settings;

    /// Every combination that the settings can come to, in whole seconds.
    fn all() -> impl Iterator<Item = LeaseTimes> {
        let others = [1_u64, 2, 3, 4, 5, 7, 10, 30, 60, 600, 3600];
        (3..=3600_u64).flat_map(move |ttl| {
            others.into_iter().flat_map(move |loop_wait| {
                others.into_iter().map(move |retry_timeout| {
                    let [ttl, loop_wait, retry_timeout] = [ttl, loop_wait, retry_timeout].map(Duration::from_secs);
                    LeaseTimes { ttl, loop_wait, retry_timeout }
                })
            })
        })
    }

    #[test]
    fn the_parts_of_a_lease_follow_each_other_for_every_ttl() {
        for times in all().filter(|times| times.loop_silence_max() <= times.ttl) {
            let sent = BootTime(1_000_000);
            let deadline = times.deadline(sent);
            let expires = sent.plus(times.ttl);
            // Clocks may differ by ten per cent over one ttl, and a kill takes a moment whatever the ttl is.
            assert!(expires.since(deadline) >= times.ttl / 10, "{times:?}");
            assert!(expires.since(deadline) >= Duration::from_millis(500), "{times:?}");
            let demote_at = times.demote_at(deadline);
            assert!(demote_at < deadline && deadline < expires, "{times:?}");
            // A fast stop has at least 600 ms, and a renewal at least 900 ms before there is none to wait for.
            assert!(deadline.since(demote_at) >= Duration::from_millis(600), "{times:?}");
            let renewed_again = sent.plus(times.renew_after());
            assert!(renewed_again < demote_at, "{times:?}");
            assert!(demote_at.since(renewed_again) >= Duration::from_millis(900), "{times:?}");
            if times.ttl >= Duration::from_secs(20) {
                // Failsafe mode: a store that fails after a renewal leaves time to be asked again, and for the members.
                assert!(times.ask_at(deadline).since(renewed_again) >= Duration::from_secs(2), "{times:?}");
            }
            assert!(demote_at.since(renewed_again) * 10 >= times.ttl * 3, "{times:?}");
            // Pitfall 26: where the three times leave nothing over, a stuck loop still ends before the key does,
            // because no answer is awaited beyond `demote_at`.
            assert!(times.loop_silence_max() <= times.ttl, "{times:?}");
        }
    }

    #[test]
    fn settings_never_come_to_times_that_do_not_fit() {
        for ttl in (0..40).chain([60, 61, 599, 3600]) {
            for loop_wait in [0, 1, 2, 5, 10, 30, 4000] {
                for retry_timeout in [0, 1, 2, 3, 5, 10, 14, 4000] {
                    for short in [false, true] {
                        let config = json!({
                            "ttl": ttl, "loop_wait": loop_wait, "retry_timeout": retry_timeout, "allow_short_ttl": short,
                        });
                        let settings = Settings::resolve(config.as_object().expect("an object")).0;
                        let times = settings.lease_times();
                        assert!(times.loop_silence_max() <= times.ttl, "{config} {times:?}");
                        assert!(times.loop_wait.as_secs() >= 1 && times.retry_timeout.as_secs() >= 1, "{config}");
                        assert!(times.ttl.as_secs() >= if short { 3 } else { 20 }, "{config}");
                    }
                }
            }
        }
    }
}
