//! Synchronous replication of the simulated PostgreSQL: a commit is acknowledged when the standbys that
//! `synchronous_standby_names` names have flushed it.

use std::collections::VecDeque;
use std::time::Duration;

use model::pg::WalSender;
use model::standby_names::Method;
use model::{Lsn, StandbyNames};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::Process;
use crate::client::Ack;
use crate::world::{NodeId, State};

/// The longest a running server takes until every backend acts on a value that one of them shows.
const SPREAD_MS_MAX: u64 = 800;
/// Commits that wait at the same time.
const WAITING_MAX: usize = 1_000;

/// The synchronous settings of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncOptions {
    /// `synchronous_mode`: `None`, `Some("on")` or `Some("quorum")`.
    pub mode: Option<&'static str>,
    /// `synchronous_mode_strict`.
    pub strict: bool,
    /// `synchronous_node_count`.
    pub count: u32,
}

impl SyncOptions {
    /// Chooses what a seed varies; half of the seeds are asynchronous.
    pub fn of_seed(seed: u64) -> SyncOptions {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x5bd1_e995_97f4_a7c1);
        let mode = match rng.random_range(0..4) {
            0 => Some("on"),
            1 => Some("quorum"),
            _ => None,
        };
        SyncOptions { mode, strict: rng.random_range(0..3) == 0, count: rng.random_range(1..=2) }
    }

    /// The same with a mode in any case.
    pub fn switched_on(self, seed: u64) -> SyncOptions {
        let any = if seed.is_multiple_of(2) { "quorum" } else { "on" };
        SyncOptions { mode: self.mode.or(Some(any)), ..self }
    }

    /// As dynamic configuration.
    pub fn add_to(self, config: &mut serde_json::Map<String, Value>) {
        if let Some(mode) = self.mode {
            config.insert("synchronous_mode".to_owned(), json!(mode));
            config.insert("synchronous_mode_strict".to_owned(), json!(self.strict));
            config.insert("synchronous_node_count".to_owned(), json!(self.count));
        }
    }
}

/// What a server process knows of synchronous replication.
#[derive(Clone, Debug, Default)]
pub struct SyncRep {
    /// Whom commits wait for.
    pub in_force: Option<StandbyNames>,
    /// Commits that wait, oldest first.
    pub waiting: VecDeque<Ack>,
}

impl SyncRep {
    /// Of a process that starts with this value in its configuration.
    pub fn starting(text: &str) -> SyncRep {
        SyncRep { in_force: StandbyNames::parse(text), waiting: VecDeque::new() }
    }
}

/// The position up to which `names` have confirmed, of standbys with their positions. `None`: not enough of them are
/// there.
fn confirmed(names: &StandbyNames, standbys: &[(String, Lsn)]) -> Option<Lsn> {
    let num = usize::try_from(names.num).ok()?;
    let place = |standby: &str| names.names.iter().position(|name| name == "*" || name.eq_ignore_ascii_case(standby));
    let mut listed: Vec<(usize, Lsn)> = standbys.iter().filter_map(|(name, lsn)| Some((place(name)?, *lsn))).collect();
    match names.method {
        Method::First => listed.sort(),
        Method::Any => listed.sort_by_key(|(_, lsn)| std::cmp::Reverse(*lsn)),
    }
    listed.get(..num)?.iter().map(|(_, lsn)| *lsn).min()
}

/// `sync_state` and `sync_priority` of each sender, as `pg_stat_replication` shows them.
pub(crate) fn label(names: &StandbyNames, senders: &mut [WalSender]) {
    let mut sync_left = names.num;
    for (place, name) in names.names.iter().enumerate() {
        let named = senders.iter_mut().filter(|sender| sender.sync_priority == 0);
        for sender in named.filter(|sender| name == "*" || name.eq_ignore_ascii_case(&sender.application_name)) {
            let (state, priority) = match names.method {
                Method::Any => ("quorum", 1),
                Method::First if sync_left > 0 => ("sync", place as i32 + 1),
                Method::First => ("potential", place as i32 + 1),
            };
            sync_left = sync_left.saturating_sub(1);
            (sender.sync_state, sender.sync_priority) = (state.to_owned(), priority);
        }
    }
}

impl State {
    /// A commit that was just written: acknowledged at once where nobody is waited for.
    pub fn submit(&mut self, node: NodeId, ack: Ack) {
        let Some(process) = &mut self.node_mut(node).pg.process else { return };
        if process.sync.waiting.len() < WAITING_MAX {
            process.sync.waiting.push_back(ack);
        }
        self.acknowledge(node);
    }

    /// Acknowledges what the standbys have confirmed.
    pub fn acknowledge(&mut self, node: NodeId) {
        let Some(process) = self.node(node).pg.process.as_ref().filter(|process| process.accepts_writes) else {
            return;
        };
        let up_to = match process.sync.in_force.as_ref().filter(|names| names.num > 0) {
            None => Some(Lsn(u64::MAX)),
            Some(names) => {
                // What cannot be reached cannot have confirmed anything new.
                let receivers = self.receivers_of(node).into_iter();
                let standbys: Vec<(String, Lsn)> = receivers
                    .filter(|(other, _)| self.reachable(node, *other))
                    .map(|(other, lsn)| (other.to_string(), lsn))
                    .collect();
                confirmed(names, &standbys)
            }
        };
        let (Some(up_to), now_ms) = (up_to, self.now_ms) else { return };
        let Some(process) = &mut self.node_mut(node).pg.process else { return };
        let count = process.sync.waiting.iter().take_while(|ack| ack.end <= up_to).count();
        let confirmed: Vec<Ack> = process.sync.waiting.drain(..count).collect();
        for ack in confirmed {
            self.note_ack(node, Ack { at_ms: now_ms, ..ack });
        }
    }

    /// Writes `synchronous_standby_names` and tells the server; backends take it over one by one.
    pub(super) fn set_standby_names(&mut self, node: NodeId, text: &str) -> Result<(), String> {
        let spread_ms = self.between(0, SPREAD_MS_MAX);
        // Where nothing is committed and nobody is sent to, there is nobody to lag behind.
        let idle = self.node(node).pg.standby().is_some() && self.receivers_of(node).is_empty();
        let spread_ms = if idle { 0 } else { spread_ms };
        let names =
            StandbyNames::parse(text).ok_or_else(|| format!("synchronous_standby_names {text:?} is refused"))?;
        let pg = &mut self.node_mut(node).pg;
        let Some(data) = &mut pg.data else { return Err("there is no data directory".to_owned()) };
        text.clone_into(&mut data.standby_names);
        let Some(id) = pg.process.as_ref().map(|process| process.id) else { return Ok(()) };
        let Some(world) = self.world() else { return Ok(()) };
        let world = std::sync::Arc::downgrade(&world);
        let text = text.to_owned();
        tokio::spawn(async move {
            sleep(Duration::from_millis(spread_ms)).await;
            let Some(world) = world.upgrade() else { return };
            world.with(|state| {
                let pg = &mut state.node_mut(node).pg;
                // Unless it was changed again meanwhile.
                let current = pg.data.as_ref().is_some_and(|data| data.standby_names == text);
                let same = |process: &&mut Process| process.id == id && current;
                if let Some(process) = pg.process.as_mut().filter(same) {
                    process.sync.in_force = Some(names);
                }
                state.acknowledge(node);
            });
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_as_confirmed() {
        let standbys = [("a", 10), ("b", 30), ("c", 20)].map(|(name, lsn)| (name.to_owned(), Lsn(lsn)));
        for (text, expected) in [
            ("b", Some(30)),
            ("c,b", Some(20)),
            ("2 (c,b,a)", Some(20)),
            ("ANY 1 (a,c)", Some(20)),
            ("ANY 2 (a,b,c)", Some(20)),
            ("ANY 3 (a,b,c)", Some(10)),
            ("*", Some(30)),
            ("d", None),
            ("ANY 2 (a,d)", None),
        ] {
            let names = StandbyNames::parse(text).expect(text);
            // The walsender that comes first counts for `*`; here that is the most advanced.
            let mut standbys = standbys.to_vec();
            standbys.sort_by_key(|(_, lsn)| std::cmp::Reverse(*lsn));
            let found = match text {
                "*" => standbys.first().and_then(|first| confirmed(&names, std::slice::from_ref(first))),
                _ => confirmed(&names, &standbys),
            };
            assert_eq!(found, expected.map(Lsn), "{text}");
        }
    }
}
