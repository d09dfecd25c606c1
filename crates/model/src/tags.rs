//! Tags of a member: flags that Patroni interprets, and any other key for load balancers to match.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::units::{Base, bool_of, int_of};

/// A member's tags as configured or published; key order is kept for display.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tags(pub Map<String, Value>);

/// Tags that are not published while they are false.
const DROPPED_WHEN_FALSE: [&str; 5] = ["clonefrom", "nofailover", "noloadbalance", "nosync", "nostream"];

impl Tags {
    fn flag(&self, name: &str) -> Option<bool> {
        self.0.get(name).and_then(bool_of)
    }

    fn priority(&self, veto: &str, priority: &str) -> i64 {
        match (self.flag(veto), self.0.get(priority).and_then(|value| int_of(value, Base::Plain))) {
            (Some(true), _) => 0,
            (Some(false), _) => 1.max(self.0.get(priority).and_then(|value| int_of(value, Base::Plain)).unwrap_or(1)),
            (None, Some(priority)) => priority.max(0),
            (None, None) => 1,
        }
    }

    /// Never to be promoted: `nofailover`, or a `failover_priority` of zero or less where `nofailover` is not given.
    pub fn nofailover(&self) -> bool {
        self.priority("nofailover", "failover_priority") == 0
    }

    /// Who wins among equally advanced candidates; 0 for nodes that may never lead.
    pub fn failover_priority(&self) -> i64 {
        self.priority("nofailover", "failover_priority")
    }

    /// Never to be a synchronous standby.
    pub fn nosync(&self) -> bool {
        self.priority("nosync", "sync_priority") == 0
    }

    /// Who is preferred as a synchronous standby; 0 for `nosync`.
    pub fn sync_priority(&self) -> i64 {
        self.priority("nosync", "sync_priority")
    }

    /// Preferred source for new replicas.
    pub fn clonefrom(&self) -> bool {
        self.flag("clonefrom").unwrap_or(false)
    }

    /// Not offered to load balancers as a replica.
    pub fn noloadbalance(&self) -> bool {
        self.flag("noloadbalance").unwrap_or(false)
    }

    /// Fed from the archive only.
    pub fn nostream(&self) -> bool {
        self.flag("nostream").unwrap_or(false)
    }

    /// The member to stream from instead of the leader.
    pub fn replicatefrom(&self) -> Option<&str> {
        self.0.get("replicatefrom").and_then(Value::as_str).filter(|name| !name.is_empty())
    }

    /// What is published: false flags left out, unless they overrule a priority that is set.
    pub fn published(&self) -> Tags {
        let overrules = |flag: &str| match flag {
            "nofailover" => self.0.contains_key("failover_priority"),
            "nosync" => self.0.contains_key("sync_priority"),
            _ => false,
        };
        Tags(
            self.0
                .iter()
                .filter(|(name, value)| {
                    let falsy = value.is_null() || bool_of(value) == Some(false);
                    !falsy || !DROPPED_WHEN_FALSE.contains(&name.as_str()) || (overrules(name) && !value.is_null())
                })
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        )
    }

    /// True when there is nothing to publish.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tags(value: Value) -> Tags {
        serde_json::from_value(value).expect("an object")
    }

    #[test]
    fn nofailover_and_priority() {
        for (value, nofailover, priority) in [
            (json!({}), false, 1),
            (json!({"nofailover": true}), true, 0),
            (json!({"nofailover": "yes"}), true, 0),
            (json!({"failover_priority": 0}), true, 0),
            (json!({"failover_priority": -3}), true, 0),
            (json!({"failover_priority": 5}), false, 5),
            (json!({"nofailover": true, "failover_priority": 5}), true, 0),
            (json!({"nofailover": false, "failover_priority": 0}), false, 1),
        ] {
            let tags = tags(value.clone());
            assert_eq!((tags.nofailover(), tags.failover_priority()), (nofailover, priority), "{value}");
        }
    }

    #[test]
    fn false_flags_are_not_published_unless_they_overrule() {
        let all =
            tags(json!({"nofailover": false, "nosync": false, "sync_priority": 2, "clonefrom": false, "zone": "a"}));
        assert_eq!(all.published(), tags(json!({"nosync": false, "sync_priority": 2, "zone": "a"})));
    }
}
