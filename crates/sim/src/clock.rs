//! A node's clocks: a boot clock that never jumps, and a calendar that faults may set.

use std::sync::Arc;
use std::time::Duration;

use agent::ports::Clock;
use async_trait::async_trait;
use model::BootTime;

use crate::world::{NodeId, World};

/// The calendar shows this at the start of every run (2026-01-01T00:00:00Z).
pub const EPOCH_MS: i64 = 1_767_225_600_000;

/// [`Clock`] of one node. Nodes booted at different times, so their boot clocks differ by a constant.
pub struct SimClock {
    world: Arc<World>,
    node: NodeId,
    boot_offset_ms: u64,
}

impl SimClock {
    /// The clock of `node`.
    pub fn new(world: &Arc<World>, node: NodeId) -> SimClock {
        let boot_offset_ms = world.with(|state| state.node(node).boot_offset_ms);
        SimClock { world: world.clone(), node, boot_offset_ms }
    }
}

#[async_trait]
impl Clock for SimClock {
    fn now(&self) -> BootTime {
        BootTime(self.world.now_ms() + self.boot_offset_ms)
    }

    fn wall(&self) -> jiff::Timestamp {
        let jump_ms = self.world.with(|state| state.node(self.node).wall_jump_ms);
        calendar(self.world.now_ms(), jump_ms)
    }

    async fn sleep_until(&self, deadline: BootTime) {
        let left = deadline.0.saturating_sub(self.now().0);
        // A day is longer than any run: the timer wheel has a horizon.
        tokio::time::sleep(Duration::from_millis(left.min(86_400_000))).await;
    }
}

/// The calendar time `now_ms` after the start, on a machine whose clock was set `jump_ms` ahead.
pub fn calendar(now_ms: u64, jump_ms: i64) -> jiff::Timestamp {
    let ms = EPOCH_MS.saturating_add_unsigned(now_ms).saturating_add(jump_ms);
    jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Options;

    #[tokio::test(start_paused = true)]
    async fn a_jump_moves_the_calendar_only() {
        let world = World::new(1, Options::default());
        let clock = SimClock::new(&world, NodeId(0));
        let (boot, wall) = (clock.now(), clock.wall());
        world.with(|state| state.node_mut(NodeId(0)).wall_jump_ms -= 3_600_000);
        clock.sleep_until(boot.plus(Duration::from_secs(10))).await;
        assert_eq!(clock.now().since(boot), Duration::from_secs(10));
        assert_eq!(clock.wall().as_millisecond() - wall.as_millisecond(), 10_000 - 3_600_000);
        clock.sleep_until(boot).await;
        assert_eq!(clock.now().since(boot), Duration::from_secs(10));
    }
}
