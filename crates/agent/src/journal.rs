//! The decision journal: what was seen, learnt, done and concluded in the last cycles, bounded, without secrets.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use ha::rules::RuleId;
use ha::step::Effect;
use ha::view::StoreView;
use ha::{Facts, Memory, View};
use model::Key;
use serde::Serialize;
use serde_json::{Value, json};

/// Cycles kept.
const CYCLES_MAX: usize = 200;

/// One cycle.
#[derive(Clone, Debug, Serialize)]
pub struct CycleRecord {
    /// What was seen.
    pub view: View,
    /// The carry-over it began with.
    pub memory: Memory,
    /// What was learnt and done, in order.
    pub facts: Facts,
    /// The rule that ended it.
    pub rule: RuleId,
    /// The sentence.
    pub reason: String,
    /// How often the cycle before came to the same rule and sentence without doing anything.
    pub repeated: u32,
}

impl CycleRecord {
    /// Dynamic configuration may hold secrets of others (connection strings, archive commands): it is left out.
    fn redact(&mut self) {
        let clear = |cluster: &mut model::ClusterView| {
            if let Some(config) = &mut cluster.config {
                config.value.clear();
            }
        };
        if let StoreView::Read(cluster) = &mut self.view.store {
            clear(cluster);
        }
        if let Some(cluster) = &mut self.memory.healthy_cluster {
            clear(cluster);
        }
        self.view.node.initial_config = String::new();
        self.facts.redact(|effect| {
            if let Effect::Put { key: Key::Config, value, .. } = effect {
                value.clear();
            }
        });
    }
}

/// A bounded list of cycles, oldest first.
#[derive(Default)]
pub struct Journal {
    cycles: Mutex<VecDeque<CycleRecord>>,
}

impl Journal {
    /// Appends a cycle; one that repeats the last and did nothing only counts.
    pub fn append(&self, mut record: CycleRecord) {
        record.redact();
        let mut cycles = self.cycles.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = cycles.back_mut()
            && last.rule == record.rule
            && last.reason == record.reason
            && last.facts.outcomes() == record.facts.outcomes()
        {
            record.repeated = last.repeated + 1;
            *last = record;
            return;
        }
        if cycles.len() == CYCLES_MAX {
            cycles.pop_front();
        }
        cycles.push_back(record);
    }

    /// The last cycles for people and tools, oldest first: `[{time, rule, name, reason, repeated, steps: [...]}]`.
    pub fn summary(&self) -> Value {
        let cycles = self.cycles.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = cycles.iter().map(|cycle| {
            let steps =
                cycle.facts.outcomes().iter().map(|(effect, outcome)| json!({"effect": effect, "outcome": outcome}));
            json!({
                "time": cycle.view.wall.to_string(),
                "rule": cycle.rule.0,
                "name": cycle.rule.name(),
                "reason": cycle.reason,
                "repeated": cycle.repeated,
                "lease": cycle.view.lease,
                "steps": steps.collect::<Vec<_>>(),
                "learnt": cycle.facts.answers(),
            })
        });
        Value::Array(rows.collect())
    }
}
