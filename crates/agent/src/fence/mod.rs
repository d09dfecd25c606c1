//! What stands guard over the lease deadline beside the agent itself: the [sentinel](SentinelFence), a process that
//! kills PostgreSQL, and the [kernel watchdog](WatchdogFence), which resets the machine.

mod ioctl;
mod link;
mod sentinel;
mod watchdog;

use std::sync::Arc;

use async_trait::async_trait;
use model::{BootTime, LeaseTimes};
use serde_json::Value;
use tokio::sync::watch;

pub use self::sentinel::{SentinelFence, SentinelOptions};
pub use self::watchdog::{Driver, WatchdogFence, WatchdogOptions};
use crate::ports::Fence;

/// Whether a guard is wanted, as `watchdog.mode` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Not used.
    Off,
    /// Used where it works.
    #[default]
    Automatic,
    /// Without it this node must not lead.
    Required,
}

impl Mode {
    /// Reads the setting: `off` (also `false`, `disable`, `disabled`), `automatic` (`auto`), `required` (`require`), in
    /// any case. Anything else is `None`; upstream takes it as off and warns.
    pub fn parse(value: &Value) -> Option<Mode> {
        let text = match value {
            Value::Bool(false) => return Some(Mode::Off),
            Value::String(text) => text.trim().to_ascii_lowercase(),
            _ => return None,
        };
        match text.as_str() {
            "off" | "false" | "disable" | "disabled" => Some(Mode::Off),
            "automatic" | "auto" => Some(Mode::Automatic),
            "required" | "require" => Some(Mode::Required),
            _ => None,
        }
    }
}

/// No guard, and none wanted.
pub struct NoFence;

#[async_trait]
impl Fence for NoFence {
    async fn arm(&self, _deadline: BootTime) -> Result<(), String> {
        Ok(())
    }

    async fn disarm(&self) {}

    fn failed(&self) -> bool {
        false
    }
}

/// Several guards as one; pass only those that are wanted. [`Fence::arm`] succeeds when at least one of them stands
/// guard and none that is required is missing; without guards it always does.
pub fn combine(mut guards: Vec<Arc<dyn Fence>>) -> Arc<dyn Fence> {
    match (guards.len(), guards.pop()) {
        (_, None) => Arc::new(NoFence),
        (1, Some(only)) => only,
        (_, Some(last)) => {
            guards.push(last);
            Arc::new(Combined { guards })
        }
    }
}

struct Combined {
    guards: Vec<Arc<dyn Fence>>,
}

#[async_trait]
impl Fence for Combined {
    async fn arm(&self, deadline: BootTime) -> Result<(), String> {
        let answers = futures::future::join_all(self.guards.iter().map(|guard| guard.arm(deadline))).await;
        let guarded = answers.iter().any(Result::is_ok);
        let missing: Vec<String> = answers.into_iter().filter_map(Result::err).collect();
        match guarded && (missing.is_empty() || !self.failed()) {
            true => Ok(()),
            false => Err(missing.join("; ")),
        }
    }

    async fn disarm(&self) {
        futures::future::join_all(self.guards.iter().map(|guard| guard.disarm())).await;
    }

    fn failed(&self) -> bool {
        self.guards.iter().any(|guard| guard.failed())
    }

    fn set_times(&self, times: LeaseTimes) {
        self.guards.iter().for_each(|guard| guard.set_times(times));
    }

    fn events(&self) -> Vec<watch::Receiver<u64>> {
        self.guards.iter().flat_map(|guard| guard.events()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use serde_json::json;

    #[test]
    fn modes_have_several_spellings() {
        for (value, expected) in [
            (json!(false), Some(Mode::Off)),
            (json!("Disabled"), Some(Mode::Off)),
            (json!("auto"), Some(Mode::Automatic)),
            (json!("REQUIRE"), Some(Mode::Required)),
            (json!("perhaps"), None),
            (json!(true), None),
            (json!(null), None),
        ] {
            assert_eq!(Mode::parse(&value), expected, "{value}");
        }
    }

    /// A guard that is there or not, and remembers its deadline.
    struct Guard {
        present: bool,
        required: bool,
        deadline: Mutex<Option<BootTime>>,
    }

    #[async_trait]
    impl Fence for Guard {
        async fn arm(&self, deadline: BootTime) -> Result<(), String> {
            *self.deadline.lock().expect("lock") = Some(deadline);
            if self.present { Ok(()) } else { Err("absent".to_owned()) }
        }
        async fn disarm(&self) {
            *self.deadline.lock().expect("lock") = None;
        }
        fn failed(&self) -> bool {
            self.required && !self.present
        }
    }

    #[tokio::test]
    async fn one_guard_is_enough_unless_another_is_required() {
        // (present, required) of each, then: armed, failed.
        for (guards, armed, failed) in [
            (vec![], true, false),
            (vec![(false, false)], false, false),
            (vec![(true, false), (true, true)], true, false),
            (vec![(true, false), (false, false)], true, false),
            (vec![(true, false), (false, true)], false, true),
            (vec![(false, false), (false, false)], false, false),
        ] {
            let parts: Vec<Arc<Guard>> = guards
                .iter()
                .map(|(present, required)| {
                    Arc::new(Guard { present: *present, required: *required, deadline: Mutex::new(None) })
                })
                .collect();
            let fence = combine(parts.iter().map(|part| part.clone() as Arc<dyn Fence>).collect());
            assert_eq!(fence.arm(BootTime(5)).await.is_ok(), armed, "{guards:?}");
            assert_eq!(fence.failed(), failed, "{guards:?}");
            // Each was told, whatever the others said.
            assert!(parts.iter().all(|part| *part.deadline.lock().expect("lock") == Some(BootTime(5))));
            fence.disarm().await;
            assert!(parts.iter().all(|part| part.deadline.lock().expect("lock").is_none()));
        }
    }
}
