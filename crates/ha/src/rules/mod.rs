//! The rules of a cycle, one file per situation, and the table that names them.
//!
//! [`decide`] runs the cycle from the top each time. A rule that needs an outcome asks [`Facts`] for it with `?`: where
//! the outcome is not there yet, the step that obtains it becomes the answer of `decide`.

mod bootstrap;
mod candidates;
mod cycle;
mod data_dir;
mod divergence;
mod failsafe;
mod finished;
mod follow;
mod guard;
mod lead;
mod member;
mod race;
mod recover;
mod requests;
mod shutdown;
mod slot_copies;
mod slots;
mod store_lost;
mod switchover;
mod sync;
mod sync_pick;
mod table;
mod working;

pub use divergence::{LocalPosition, compare_histories};
pub use member::{clone_progress, state_of};
pub use table::{RULES, Rule, RuleId};
pub use working::task_name;

use crate::facts::{Facts, Need};
use crate::memory::Memory;
use crate::step::{Exit, Step, Verdict};
use crate::view::View;
use cycle::Cycle;

/// The next step of this cycle. Pure: the same arguments give the same step.
pub fn decide(view: &View, memory: &Memory, facts: &Facts) -> Step {
    let mut cycle = Cycle {
        view,
        facts,
        memory: memory.clone(),
        look_again_ms: None,
        answered: None,
        leaving_since: memory.leaving_sync_since,
    };
    cycle.memory.leaving_sync_since = None;
    match cycle.run() {
        Ok(end) => Step::Done(Box::new(Verdict {
            rule: end.rule,
            reason: end.reason,
            memory: cycle.memory,
            wake_at: end
                .wake_in
                .into_iter()
                .chain(cycle.look_again_ms.map(std::time::Duration::from_millis))
                .min()
                .map(|wait| view.now.plus(wait)),
            exit: end.exit,
        })),
        Err(step) => *step,
    }
}

/// How a rule ends the cycle.
pub(crate) struct End {
    rule: RuleId,
    reason: String,
    wake_in: Option<std::time::Duration>,
    exit: Option<Exit>,
}

impl End {
    fn new(rule: RuleId, reason: impl Into<String>) -> End {
        End { rule, reason: reason.into(), wake_in: None, exit: None }
    }

    /// Look again no later than in `ms` milliseconds.
    fn wake_in_ms(mut self, ms: u64) -> End {
        self.wake_in = Some(std::time::Duration::from_millis(ms));
        self
    }

    fn exit(mut self, code: i32) -> End {
        self.exit = Some(Exit { code });
        self
    }
}

/// What every rule returns.
pub(crate) type Ruling = Need<End>;

/// `['a', 'b']`, as upstream's log shows lists.
fn list<'n>(names: impl IntoIterator<Item = &'n String>) -> String {
    let quoted: Vec<String> = names.into_iter().map(|name| format!("'{name}'")).collect();
    format!("[{}]", quoted.join(", "))
}
