//! Who may be promoted, and whom commits wait for: how the one is changed without the other losing what was acknowledged.
//!
//! Two things say who has acknowledged commits. The *sync key* says it to candidates: the leader named there has them
//! all, and any `quorum + 1` of the voters hold, among them, every one. The *commit rule* (`synchronous_standby_names`)
//! makes it true: a commit is acknowledged when `num` of the listed standbys have flushed it. They lie in different
//! places and cannot be changed together, so each single change must leave them fitting: **any `quorum + 1` voters share
//! a member with any `num` of the listed standbys**. That speaks of commits to come; for those acknowledged before, a
//! change of the key must follow from the key before it, or rest on standbys known to have flushed that far.
//!
//! Mode `on` is the case in which all listed standbys are needed and the quorum is 0.

use std::collections::BTreeSet;

/// Names in lower case.
pub type Names = BTreeSet<String>;

/// The sync key of a primary, without the primary.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Electorate {
    /// Who may be promoted.
    pub voters: Names,
    /// Any `quorum + 1` of them hold every acknowledged commit.
    pub quorum: usize,
}

/// Whom a commit waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CommitRule {
    /// The standbys that may confirm.
    pub names: Names,
    /// How many must.
    pub num: usize,
}

/// Where things stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The sync key.
    pub key: Electorate,
    /// What the server waits for.
    pub rule: CommitRule,
    /// Standbys that have flushed everything that was written before `rule` was in force.
    pub caught_up: Names,
}

/// Where they should get to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// The sync key.
    pub key: Electorate,
    /// What the server should wait for.
    pub rule: CommitRule,
}

/// One change that is safe now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// Write the sync key.
    Key(Electorate),
    /// Change the commit rule.
    Rule(CommitRule),
}

impl Target {
    /// Mode `on`: all of these confirm every commit, and each may be promoted.
    pub fn all_of(names: Names) -> Target {
        let rule = CommitRule { num: names.len(), names: names.clone() };
        Target { key: Electorate { voters: names, quorum: 0 }, rule }
    }

    /// Quorum mode: any `num` of these confirm a commit; as many must be seen by a candidate as leave none of the commits
    /// out.
    pub fn quorum_of(names: Names, num: usize) -> Target {
        let num = num.min(names.len());
        if num == 0 {
            return Target::default();
        }
        let rule = CommitRule { num, names: names.clone() };
        Target { key: Electorate { quorum: names.len() - num, voters: names }, rule }
    }
}

impl Electorate {
    /// Nobody but the leader.
    pub fn leader_only() -> Electorate {
        Electorate::default()
    }

    /// Any `quorum + 1` voters share a member with any `num` of the standbys that `rule` lists.
    pub fn fits(&self, rule: &CommitRule) -> bool {
        let needed = self.quorum + 1;
        if needed > self.voters.len() {
            return true;
        }
        // Whoever wants to miss the other side begins with those that are not common.
        let outside = self.voters.difference(&rule.names).count();
        let uncommon = rule.names.difference(&self.voters).count();
        needed.saturating_sub(outside) + rule.num.saturating_sub(uncommon) > self.voters.len() - outside
    }

    /// Any `quorum + 1` voters of this one hold what any `quorum + 1` voters of `before` held, or one of `caught_up` is
    /// among them.
    fn follows_from(&self, before: &Electorate, caught_up: &Names) -> bool {
        if self.quorum + 1 > self.voters.len() {
            return true;
        }
        let behind = |name: &&String| !caught_up.contains(*name);
        let known = self.voters.intersection(&before.voters).filter(behind).count();
        let new = self.voters.difference(&before.voters).filter(behind).count();
        // The most voters that together may lack something.
        self.quorum >= known.min(before.quorum) + new
    }
}

/// What a candidate that has won the race writes *before* it is promoted: no commit of its own may be acknowledged under
/// a key that speaks of another primary's. `leader` is the one the key names, `me` the candidate, in lower case.
///
/// The candidate has all commits acknowledged so far. The old leader has them too and takes its place among the voters;
/// the commit rule is the weakest that fits.
pub fn before_promotion(key: &Electorate, leader: &str, me: &str) -> Target {
    let mut voters = key.voters.clone();
    voters.insert(leader.to_owned());
    voters.remove(me);
    let num = voters.len().saturating_sub(key.quorum);
    if num == 0 {
        return Target::default();
    }
    let rule = CommitRule { names: voters.clone(), num };
    Target { key: Electorate { voters, quorum: key.quorum }, rule }
}

impl State {
    /// The key tells the truth about commits to come.
    pub fn fits(&self) -> bool {
        self.key.fits(&self.rule)
    }

    /// This key could be written now.
    fn allows(&self, key: &Electorate) -> bool {
        key.fits(&self.rule) && key.follows_from(&self.key, &self.caught_up)
    }

    /// The next change on the way to `target`; `None` when it is reached, or when standbys must catch up first.
    pub fn next(&self, target: &Target) -> Option<Move> {
        if !self.fits() {
            // Somebody else changed the commit rule: whoever may lack commits is taken out at once.
            return Some(Move::Key(self.narrowed(&self.rule)));
        }
        if self.key != target.key && self.allows(&target.key) {
            return Some(Move::Key(target.key.clone()));
        }
        if self.rule != target.rule {
            if self.key.fits(&target.rule) {
                return Some(Move::Rule(target.rule.clone()));
            }
            return Some(Move::Key(self.narrowed(&target.rule)));
        }
        let partial = self.confirmed_part(&target.key);
        (partial != self.key && self.allows(&partial)).then_some(Move::Key(partial))
    }

    /// Of the present voters those that `rule` lists, else all of them, with as many more to be seen as it takes to fit
    /// `rule` as well; nobody but the leader where nothing does.
    fn narrowed(&self, rule: &CommitRule) -> Electorate {
        let common: Names = self.key.voters.intersection(&rule.names).cloned().collect();
        for voters in [common, self.key.voters.clone()] {
            for quorum in self.key.quorum..voters.len() {
                let key = Electorate { voters: voters.clone(), quorum };
                if key.fits(rule) && self.allows(&key) {
                    return key;
                }
            }
        }
        // A rule may list others than the key, and the key need not fit the present rule: then nobody is left.
        Electorate::leader_only()
    }

    /// What of `key` may be written before all of its voters have caught up.
    fn confirmed_part(&self, key: &Electorate) -> Electorate {
        let known = |name: &&String| self.key.voters.contains(*name) || self.caught_up.contains(*name);
        let voters: Names = key.voters.iter().filter(known).cloned().collect();
        let mut parts = (key.quorum..voters.len()).map(|quorum| Electorate { voters: voters.clone(), quorum });
        parts.find(|part| self.allows(part)).unwrap_or_else(|| self.key.clone())
    }
}

#[cfg(test)]
#[path = "quorum_tests.rs"]
mod tests;
