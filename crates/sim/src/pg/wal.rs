//! WAL as a chain of branches: what a data directory holds is fully described by where its history forked and where it
//! ends. Branches are unique even where two servers chose the same timeline number, which PostgreSQL cannot tell apart.

use std::fmt;

use model::lsn::TimelineSwitch;
use model::{Lsn, Timeline};

/// WAL written by one server between two promotions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Branch(pub u64);

impl fmt::Debug for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "branch {}", self.0)
    }
}

/// A branch that was left.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Left {
    timeline: Timeline,
    branch: Branch,
    end: Lsn,
}

/// The WAL of one data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wal {
    left: Vec<Left>,
    timeline: Timeline,
    branch: Branch,
    end: Lsn,
}

/// Whether a standby can stream from a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// The standby's WAL is a prefix of the server's.
    Prefix,
    /// Same branch, but the standby has more: it waits.
    Ahead,
    /// The standby has WAL that is not in the server's history; why, in PostgreSQL's terms.
    Diverged(&'static str),
}

impl Wal {
    /// WAL of a new cluster.
    pub fn new(branch: Branch, end: Lsn) -> Wal {
        Wal { left: Vec::new(), timeline: Timeline(1), branch, end }
    }

    /// The first byte not yet written.
    pub fn end(&self) -> Lsn {
        self.end
    }

    /// The current timeline.
    pub fn timeline(&self) -> Timeline {
        self.timeline
    }

    /// The current branch.
    pub fn branch(&self) -> Branch {
        self.branch
    }

    /// Writes `bytes`; the position after them.
    pub fn append(&mut self, bytes: u64) -> Lsn {
        self.end = Lsn(self.end.0 + bytes);
        self.end
    }

    /// A promotion: leaves the current timeline for the next one.
    pub fn fork(&mut self, branch: Branch) {
        self.left.push(Left { timeline: self.timeline, branch: self.branch, end: self.end });
        self.timeline = Timeline(self.timeline.0 + 1);
        self.branch = branch;
    }

    /// The history file of the current timeline.
    pub fn history(&self) -> Vec<TimelineSwitch> {
        let reason = || "no recovery target specified".to_owned();
        self.left
            .iter()
            .map(|left| TimelineSwitch { timeline: left.timeline, switchpoint: left.end, reason: reason() })
            .collect()
    }

    /// Where `branch` ends in this history; `None` where it is no part of it.
    fn end_of(&self, branch: Branch) -> Option<Lsn> {
        if branch == self.branch {
            return Some(self.end);
        }
        self.left.iter().find(|left| left.branch == branch).map(|left| left.end)
    }

    /// Something written on `branch` that ended at `end` is in here.
    pub fn contains(&self, branch: Branch, end: Lsn) -> bool {
        self.end_of(branch).is_some_and(|last| end <= last)
    }

    /// Whether a standby with this WAL can stream from a server with `upstream`'s.
    pub fn fit(&self, upstream: &Wal) -> Fit {
        match upstream.end_of(self.branch) {
            Some(last) if self.end <= last => Fit::Prefix,
            Some(_) if self.branch == upstream.branch => Fit::Ahead,
            Some(_) => Fit::Diverged("new timeline forked off before the current recovery point"),
            None if upstream.history().iter().any(|switch| switch.timeline == self.timeline) => {
                Fit::Diverged("timeline is in the server's history, but with other contents")
            }
            None if upstream.timeline == self.timeline => Fit::Diverged("same timeline number, other contents"),
            None => Fit::Diverged("requested timeline is not in the server's history"),
        }
    }

    /// A timeline of this WAL has the number and the beginning of another one in `upstream`'s history: nothing but the
    /// contents tells them apart, and pg_rewind takes them for one.
    pub fn is_mistaken_for(&self, upstream: &Wal) -> bool {
        let branches = |wal: &Wal| {
            let mut begin = Lsn(0);
            let mut all = Vec::new();
            for left in &wal.left {
                all.push((left.timeline, begin, left.branch));
                begin = left.end;
            }
            all.push((wal.timeline, begin, wal.branch));
            all
        };
        let (own, theirs) = (branches(self), branches(upstream));
        own.iter().any(|a| theirs.iter().any(|b| (a.0, a.1) == (b.0, b.1) && a.2 != b.2))
    }

    /// Streams up to `bytes` from a server this WAL is a prefix of.
    pub fn stream_from(&mut self, upstream: &Wal, bytes: u64) {
        if self.fit(upstream) == Fit::Prefix {
            let end = Lsn(self.end.0.saturating_add(bytes)).min(upstream.end);
            *self = upstream.truncated(end);
        }
    }

    /// This WAL up to `end`, on the newest branch that begins there or before.
    fn truncated(&self, end: Lsn) -> Wal {
        let kept = self.left.iter().take_while(|left| left.end <= end).count();
        match self.left.get(kept) {
            Some(current) => Wal {
                left: self.left[..kept].to_vec(),
                timeline: current.timeline,
                branch: current.branch,
                end: end.min(current.end),
            },
            None => {
                Wal { left: self.left.clone(), timeline: self.timeline, branch: self.branch, end: end.min(self.end) }
            }
        }
    }

    /// Where pg_rewind sees the histories part: it compares timeline numbers and where they began, nothing else.
    /// `None` when they have nothing in common.
    pub fn seen_divergence(&self, source: &Wal) -> Option<Lsn> {
        let entries = |wal: &Wal| {
            let mut begin = Lsn(0);
            let mut entries = Vec::new();
            for left in &wal.left {
                entries.push((left.timeline, begin, left.end));
                begin = left.end;
            }
            entries.push((wal.timeline, begin, Lsn(u64::MAX)));
            entries
        };
        let (own, other) = (entries(self), entries(source));
        let common = own.iter().zip(&other).take_while(|(a, b)| (a.0, a.1) == (b.0, b.1)).last();
        common.map(|(a, b)| a.2.min(b.2).min(self.end).min(source.end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Wal {
        Wal::new(Branch(1), Lsn(1000))
    }

    #[test]
    fn a_standby_follows_onto_the_new_timeline() {
        let mut primary = base();
        let mut standby = primary.clone();
        primary.append(500);
        primary.fork(Branch(2));
        primary.append(100);
        assert_eq!(standby.fit(&primary), Fit::Prefix);
        standby.stream_from(&primary, 300);
        assert_eq!((standby.timeline(), standby.end()), (Timeline(1), Lsn(1300)));
        standby.stream_from(&primary, 10_000);
        assert_eq!(standby, primary);
    }

    #[test]
    fn wal_past_the_switchpoint_diverges() {
        let mut old = base();
        let mut new = old.clone();
        old.append(10);
        new.fork(Branch(2));
        assert!(matches!(old.fit(&new), Fit::Diverged(_)));
        assert!(new.contains(Branch(1), Lsn(1000)) && !new.contains(Branch(1), Lsn(1010)));
        assert_eq!(old.seen_divergence(&new), Some(Lsn(1000)));
        assert!(!old.is_mistaken_for(&new));
        let before = old.clone();
        old.stream_from(&new, 100);
        assert_eq!(old, before);
    }

    #[test]
    fn the_same_number_is_not_the_same_timeline() {
        let (mut a, mut b) = (base(), base());
        a.fork(Branch(2));
        b.fork(Branch(3));
        a.append(10);
        b.append(50);
        assert!(matches!(a.fit(&b), Fit::Diverged(_)));
        assert_eq!(a.seen_divergence(&b), Some(Lsn(1010)), "pg_rewind sees one timeline");
        assert!(a.is_mistaken_for(&b));
    }

    #[test]
    fn ahead_on_the_same_branch_waits() {
        let mut standby = base();
        let primary = base();
        standby.append(1);
        assert_eq!(standby.fit(&primary), Fit::Ahead);
    }
}
