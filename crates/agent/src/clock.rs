//! The machine's clocks.

use std::time::Duration;

use async_trait::async_trait;
use model::BootTime;
use rustix::time::ClockId;

use crate::ports::Clock;

/// How far [`Clock::sleep_until`] sleeps before it looks at the clock again. The runtime's timers stand still while the
/// machine is suspended, so this is how late a sleep may end after a suspend.
const SLICE: Duration = Duration::from_millis(250);

/// `CLOCK_BOOTTIME` now.
pub fn boot_now() -> BootTime {
    let now = rustix::time::clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(now.tv_sec).unwrap_or(0), u64::try_from(now.tv_nsec).unwrap_or(0));
    BootTime(seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000))
}

/// The production [`Clock`].
#[derive(Clone, Copy, Debug, Default)]
pub struct BootClock;

#[async_trait]
impl Clock for BootClock {
    fn now(&self) -> BootTime {
        boot_now()
    }

    fn wall(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }

    async fn sleep_until(&self, deadline: BootTime) {
        loop {
            let left = deadline.since(boot_now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(SLICE)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sleep_ends_at_its_deadline_not_before() {
        let clock = BootClock;
        let deadline = clock.now().plus(Duration::from_millis(30));
        tokio::time::timeout(Duration::from_secs(10), clock.sleep_until(deadline)).await.expect("woke up");
        assert!(clock.now() >= deadline);
        // A deadline that passed, and one that is now.
        tokio::time::timeout(Duration::from_secs(10), clock.sleep_until(BootTime(0))).await.expect("woke up");
        tokio::time::timeout(Duration::from_secs(10), clock.sleep_until(clock.now())).await.expect("woke up");
    }
}
