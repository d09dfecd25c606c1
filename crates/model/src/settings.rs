//! The dynamic configuration of a cluster, resolved: defaults filled in, values in range.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::LeaseTimes;
use crate::slots::{PermanentSlot, SlotMatcher};
use crate::units::{Base, bool_of, int_of};

/// How synchronous replication is managed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SynchronousMode {
    /// Not managed: `synchronous_standby_names` is the user's.
    #[default]
    Off,
    /// A fixed number of named standbys.
    On,
    /// `ANY n`, with a quorum for failover.
    Quorum,
}

/// Settings that every node of a cluster shares (`/config` in the store), as decisions use them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Lifetime of the leader lock.
    pub ttl: Duration,
    /// The longest an agent sleeps between two cycles.
    pub loop_wait: Duration,
    /// How long operations on the store are retried.
    pub retry_timeout: Duration,
    /// How far behind the last published position a standby may be and still be promoted.
    pub maximum_lag_on_failover_bytes: u64,
    /// Rows kept in the history key; 0 keeps all.
    pub max_timelines_history: usize,
    /// How long a crashed primary may take to start before a failover; 0: fail over at once.
    pub primary_start_timeout: Duration,
    /// How long a primary may take to stop in synchronous mode; 0: no limit.
    pub primary_stop_timeout: Duration,
    /// How long a lock that ran out is left alone while WAL of its holder still arrives; 0: not at all.
    pub primary_race_backoff: Duration,
    /// Whether synchronous replication is managed.
    pub synchronous_mode: SynchronousMode,
    /// Hold writes rather than go on without a synchronous standby.
    pub synchronous_mode_strict: bool,
    /// How many synchronous standbys.
    pub synchronous_node_count: u32,
    /// How far a synchronous standby may be behind before another one is taken; `None`: as far as it likes.
    pub maximum_lag_on_syncnode_bytes: Option<u64>,
    /// The primary may outlive the store while all members answer it.
    pub failsafe_mode: bool,
    /// Only nodes on the cluster's timeline may be promoted.
    pub check_timeline: bool,
    /// Hands off.
    pub pause: bool,
    /// How long slots of absent members are kept; zero: not at all.
    pub member_slots_ttl: Duration,
    /// The cluster follows a remote primary.
    pub standby_cluster: bool,
    /// Slots that are always kept: the first section that is not empty of `permanent_replication_slots`,
    /// `permanent_slots` and `slots`, by name.
    pub permanent_slots: BTreeMap<String, PermanentSlot>,
    /// `ignore_slots`: slots that are left alone.
    pub ignore_slots: Vec<SlotMatcher>,
    /// `postgresql.use_slots`.
    pub use_slots: bool,
    /// `postgresql.use_pg_rewind`.
    pub use_pg_rewind: bool,
    /// `postgresql.remove_data_directory_on_rewind_failure`.
    pub remove_data_directory_on_rewind_failure: bool,
    /// `postgresql.remove_data_directory_on_diverged_timelines`.
    pub remove_data_directory_on_diverged_timelines: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings::resolve(&Map::new()).0
    }
}

/// Least values of the three times, in seconds.
const LOOP_WAIT_MIN_S: i64 = 1;
const RETRY_TIMEOUT_MIN_S: i64 = 3;
const TTL_MIN_S: i64 = 20;
/// The same where `allow_short_ttl` is set.
const SHORT_RETRY_TIMEOUT_MIN_S: i64 = 1;
const SHORT_TTL_MIN_S: i64 = 3;

impl Settings {
    /// Reads the dynamic configuration. Values that cannot be used are replaced and named in the second part of the
    /// answer, one sentence each; nothing here fails.
    ///
    /// The three times are repaired as upstream does: raised to their least values (lower ones with `allow_short_ttl`,
    /// which upstream does not know: its nodes go on with theirs), then `loop_wait` and
    /// `retry_timeout` lowered until `loop_wait + 2 * retry_timeout <= ttl`.
    pub fn resolve(config: &Map<String, Value>) -> (Settings, Vec<String>) {
        let mut reader = Reader { config, notes: Vec::new() };
        let (ttl, loop_wait, retry_timeout) = reader.times();
        let mut settings = Settings {
            ttl,
            loop_wait,
            retry_timeout,
            maximum_lag_on_failover_bytes: reader.int("maximum_lag_on_failover", &[], Base::Bytes(1), 1_048_576, 0)
                as u64,
            max_timelines_history: reader.int("max_timelines_history", &[], Base::Plain, 0, 0) as usize,
            primary_start_timeout: reader.seconds("primary_start_timeout", &["master_start_timeout"], 300),
            primary_stop_timeout: reader.seconds("primary_stop_timeout", &["master_stop_timeout"], 0),
            primary_race_backoff: reader.seconds("primary_race_backoff", &[], 0),
            synchronous_mode: reader.synchronous_mode(),
            synchronous_mode_strict: reader.flag("synchronous_mode_strict"),
            synchronous_node_count: reader.int("synchronous_node_count", &[], Base::Plain, 1, 0).min(1000) as u32,
            maximum_lag_on_syncnode_bytes: u64::try_from(reader.int(
                "maximum_lag_on_syncnode",
                &[],
                Base::Bytes(1),
                -1,
                -1,
            ))
            .ok()
            .filter(|bytes| *bytes > 0),
            failsafe_mode: reader.flag("failsafe_mode"),
            check_timeline: reader.flag("check_timeline"),
            pause: reader.flag("pause"),
            member_slots_ttl: reader.seconds("member_slots_ttl", &[], 1800),
            standby_cluster: reader.standby_cluster(),
            permanent_slots: reader.permanent_slots(),
            ignore_slots: reader.ignore_slots(),
            use_slots: true,
            use_pg_rewind: false,
            remove_data_directory_on_rewind_failure: false,
            remove_data_directory_on_diverged_timelines: false,
        };
        if let Some(postgresql) = config.get("postgresql").and_then(Value::as_object) {
            let mut inner = Reader { config: postgresql, notes: Vec::new() };
            settings.use_slots = inner.flag_or("use_slots", true);
            settings.use_pg_rewind = inner.flag("use_pg_rewind");
            settings.remove_data_directory_on_rewind_failure = inner.flag("remove_data_directory_on_rewind_failure");
            settings.remove_data_directory_on_diverged_timelines =
                inner.flag("remove_data_directory_on_diverged_timelines");
            reader.notes.extend(inner.notes.into_iter().map(|note| format!("postgresql.{note}")));
        }
        (settings, reader.notes)
    }

    /// The times that the leader lease is made of.
    pub fn lease_times(&self) -> LeaseTimes {
        LeaseTimes { ttl: self.ttl, loop_wait: self.loop_wait, retry_timeout: self.retry_timeout }
    }
}

impl Settings {
    /// The mode in force: a cluster that follows a remote primary has none.
    pub fn synchronous(&self) -> SynchronousMode {
        if self.standby_cluster { SynchronousMode::Off } else { self.synchronous_mode }
    }
}

struct Reader<'a> {
    config: &'a Map<String, Value>,
    notes: Vec<String>,
}

impl Reader<'_> {
    fn note(&mut self, name: &str, value: &Value, used: impl std::fmt::Display, expected: &str) {
        self.notes.push(format!("{name} {value} is not valid: expected {expected}; {used} is used instead"));
    }

    fn int(&mut self, name: &str, aliases: &[&str], base: Base, default: i64, least: i64) -> i64 {
        let names = std::iter::once(&name).chain(aliases);
        let Some(value) = names.filter_map(|name| self.config.get(*name)).find(|value| !value.is_null()).cloned()
        else {
            return default;
        };
        match int_of(&value, base) {
            Some(number) if number >= least => number,
            Some(_) => {
                self.note(name, &value, least, &format!("at least {least}"));
                least
            }
            None => {
                self.note(name, &value, default, "a whole number");
                default
            }
        }
    }

    fn seconds(&mut self, name: &str, aliases: &[&str], default: i64) -> Duration {
        Duration::from_secs(self.int(name, aliases, Base::Micros(1_000_000), default, 0).min(i64::from(i32::MAX)) as u64)
    }

    fn flag_or(&mut self, name: &str, default: bool) -> bool {
        match self.config.get(name) {
            None | Some(Value::Null) => default,
            Some(value) => bool_of(value).unwrap_or_else(|| {
                let value = value.clone();
                self.note(name, &value, default, "true or false");
                default
            }),
        }
    }

    fn flag(&mut self, name: &str) -> bool {
        self.flag_or(name, false)
    }

    fn synchronous_mode(&mut self) -> SynchronousMode {
        match self.config.get("synchronous_mode") {
            None | Some(Value::Null) => SynchronousMode::Off,
            Some(Value::String(text)) if text.eq_ignore_ascii_case("quorum") => SynchronousMode::Quorum,
            Some(value) => match bool_of(value) {
                Some(true) => SynchronousMode::On,
                Some(false) => SynchronousMode::Off,
                None => {
                    let value = value.clone();
                    self.note("synchronous_mode", &value, "off", "on, off or quorum");
                    SynchronousMode::Off
                }
            },
        }
    }

    fn standby_cluster(&self) -> bool {
        let Some(section) = self.config.get("standby_cluster").and_then(Value::as_object) else {
            return false;
        };
        ["host", "port", "restore_command"].iter().filter_map(|name| section.get(*name)).any(|value| match value {
            Value::String(text) => !text.is_empty(),
            Value::Number(number) => number.as_i64() != Some(0),
            other => !other.is_null(),
        })
    }

    fn permanent_slots(&mut self) -> BTreeMap<String, PermanentSlot> {
        let names = ["permanent_replication_slots", "permanent_slots", "slots"];
        let mut sections = names.iter().filter_map(|name| Some((*name, self.config.get(*name)?.as_object()?)));
        let Some((section, entries)) = sections.find(|(_, entries)| !entries.is_empty()) else {
            return BTreeMap::new();
        };
        let mut slots = BTreeMap::new();
        for (name, value) in entries {
            match PermanentSlot::parse(name, value) {
                Ok(slot) => drop(slots.insert(name.clone(), slot)),
                Err(why) => self.notes.push(format!("{section}.{name} is not valid: {why}; the slot is not managed")),
            }
        }
        slots
    }

    fn ignore_slots(&mut self) -> Vec<SlotMatcher> {
        let entries = match self.config.get("ignore_slots") {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Array(entries)) => entries,
            Some(other) => {
                self.note("ignore_slots", &other.clone(), "none", "a list of maps");
                return Vec::new();
            }
        };
        let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
        // An entry without any text would match every slot there is.
        let matcher = |entry: &Value| {
            let given: BTreeMap<String, String> = entry.as_object()?.iter().filter_map(text).collect();
            (!given.is_empty()).then_some(SlotMatcher { given })
        };
        entries.iter().filter_map(matcher).collect()
    }

    fn times(&mut self) -> (Duration, Duration, Duration) {
        let seconds = Base::Micros(1_000_000);
        let (ttl_min, retry_timeout_min) = match self.flag("allow_short_ttl") {
            true => (SHORT_TTL_MIN_S, SHORT_RETRY_TIMEOUT_MIN_S),
            false => (TTL_MIN_S, RETRY_TIMEOUT_MIN_S),
        };
        let ttl = self.int("ttl", &[], seconds, 30, ttl_min).min(i64::from(i32::MAX));
        let mut loop_wait = self.int("loop_wait", &[], seconds, 10, LOOP_WAIT_MIN_S);
        let mut retry_timeout = self.int("retry_timeout", &[], seconds, 10, retry_timeout_min);
        let given = (loop_wait, retry_timeout);
        if retry_timeout.saturating_mul(2).saturating_add(LOOP_WAIT_MIN_S) > ttl {
            loop_wait = LOOP_WAIT_MIN_S;
            retry_timeout = (ttl - LOOP_WAIT_MIN_S) / 2;
        } else if loop_wait.saturating_add(2 * retry_timeout) > ttl {
            loop_wait = ttl - 2 * retry_timeout;
        }
        if (loop_wait, retry_timeout) != given {
            self.notes.push(format!(
                "loop_wait {} and retry_timeout {} do not fit into ttl {ttl}: loop_wait + 2 * retry_timeout must not be more; \
                 loop_wait {loop_wait} and retry_timeout {retry_timeout} are used instead",
                given.0, given.1
            ));
        }
        let seconds = |value: i64| Duration::from_secs(value as u64);
        (seconds(ttl), seconds(loop_wait), seconds(retry_timeout))
    }
}

/// Merges `patch` into `config`: null removes a key, objects merge, anything else replaces. Returns whether anything
/// changed; values are compared by their text, so that `1` equals `"1"`.
pub fn patch_config(config: &mut Map<String, Value>, patch: &Map<String, Value>) -> bool {
    let mut changed = false;
    for (key, value) in patch {
        match (config.get_mut(key), value) {
            (Some(_), Value::Null) => {
                config.shift_remove(key);
                changed = true;
            }
            (None, Value::Null) => {}
            (Some(Value::Object(old)), Value::Object(new)) => changed |= patch_config(old, new),
            (Some(old), new) => {
                if !same_text(old, new) {
                    *old = new.clone();
                    changed = true;
                }
            }
            (None, Value::Object(new)) => {
                let mut fresh = Map::new();
                patch_config(&mut fresh, new);
                config.insert(key.clone(), Value::Object(fresh));
                changed = true;
            }
            (None, new) => {
                config.insert(key.clone(), new.clone());
                changed = true;
            }
        }
    }
    changed
}

fn same_text(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(_) | Value::Array(_), _) | (_, Value::Object(_) | Value::Array(_)) => a == b,
        _ => leaf_text(a) == leaf_text(b),
    }
}

fn leaf_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn resolve(config: Value) -> (Settings, Vec<String>) {
        Settings::resolve(config.as_object().expect("an object"))
    }

    #[test]
    fn defaults() {
        let (settings, notes) = resolve(json!({}));
        assert_eq!(
            (settings.ttl.as_secs(), settings.loop_wait.as_secs(), settings.retry_timeout.as_secs()),
            (30, 10, 10)
        );
        assert_eq!(settings.maximum_lag_on_failover_bytes, 1_048_576);
        assert!(settings.use_slots && notes.is_empty());
    }

    #[test]
    fn slots_come_from_the_first_section_that_has_any() {
        let (settings, notes) = resolve(json!({
            "permanent_slots": {},
            "slots": {"a": null, "Bad": {}, "l": {"type": "logical", "database": "d", "plugin": "p"}},
            "ignore_slots": [{"name": "x", "type": "physical"}, {}, 3],
        }));
        assert_eq!(settings.permanent_slots.keys().collect::<Vec<_>>(), ["a", "l"]);
        assert!(notes.len() == 1 && notes[0].starts_with("slots.Bad is not valid"), "{notes:?}");
        assert_eq!(settings.ignore_slots.len(), 1);
        let (settings, _) = resolve(json!({"permanent_replication_slots": {"p": {}}, "slots": {"a": null}}));
        assert_eq!(settings.permanent_slots.keys().collect::<Vec<_>>(), ["p"]);
    }

    #[test]
    fn times_are_repaired() {
        for (config, expected) in [
            (json!({"ttl": 5}), (20, 1, 9)),
            (json!({"ttl": 30, "loop_wait": 15}), (30, 10, 10)),
            (json!({"ttl": 30, "retry_timeout": 20}), (30, 1, 14)),
            (json!({"ttl": 20, "retry_timeout": 5, "loop_wait": 10}), (20, 10, 5)),
            (json!({"ttl": "1min", "loop_wait": 0, "retry_timeout": 1}), (60, 1, 3)),
        ] {
            let (settings, _) = resolve(config.clone());
            let times = (settings.ttl.as_secs(), settings.loop_wait.as_secs(), settings.retry_timeout.as_secs());
            assert_eq!(times, expected, "{config}");
        }
    }

    #[test]
    fn bad_values_are_named() {
        let (settings, notes) = resolve(json!({"pause": "perhaps", "ttl": [], "postgresql": {"use_slots": 3}}));
        assert!(!settings.pause && settings.use_slots);
        assert_eq!(notes.len(), 3, "{notes:?}");
        assert!(notes.iter().any(|note| note.starts_with("postgresql.use_slots 3")), "{notes:?}");
    }

    #[test]
    fn patch_removes_merges_and_replaces() {
        let mut config =
            json!({"ttl": 30, "postgresql": {"parameters": {"a": 1, "b": 2}}}).as_object().expect("object").clone();
        let patch = json!({"ttl": "30", "postgresql": {"parameters": {"b": null, "c": 3}}});
        assert!(patch_config(&mut config, patch.as_object().expect("object")));
        assert_eq!(Value::Object(config.clone()), json!({"ttl": 30, "postgresql": {"parameters": {"a": 1, "c": 3}}}));
        assert!(!patch_config(&mut config, json!({"nothing": null, "ttl": 30}).as_object().expect("object")));
    }
}
