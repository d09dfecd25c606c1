//! What clients saw, and what follows from it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A gap in acknowledgements from which on the cluster counts as unavailable.
pub const GAP_MIN: Duration = Duration::from_secs(1);

/// An attempt to insert a row. Times count from the start of the run, on one clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The row.
    pub id: u64,
    /// The node that was asked.
    pub node: usize,
    /// When.
    pub sent: Duration,
    /// When it was acknowledged, and the timeline it was written on. `None`: the outcome is unknown.
    pub acknowledged: Option<(Duration, u32)>,
}

/// A read of one row, from a node that said it is no standby.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The row, which had been acknowledged before the read was sent.
    pub id: u64,
    /// The node that was asked.
    pub node: usize,
    /// When.
    pub sent: Duration,
    /// Whether it was there.
    pub found: bool,
}

/// A standby that was promoted behind its agent's back. What it acknowledges meanwhile is nobody's promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rogue {
    /// The node.
    pub node: usize,
    /// From the promotion on ...
    pub from: Duration,
    /// ... until it no longer took writes.
    pub until: Duration,
}

/// Everything clients saw.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Writes, in the order they ended.
    pub writes: Vec<Write>,
    /// Reads.
    pub reads: Vec<Read>,
    /// Promotions that no agent did.
    pub rogues: Vec<Rogue>,
}

/// A row that was acknowledged and is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The row.
    pub id: u64,
    /// The node that acknowledged it.
    pub node: usize,
    /// How long before the next timeline's first acknowledgement that was; zero when after it.
    pub before_successor: Duration,
}

/// Two nodes acknowledged writes at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// The node whose reign should have ended.
    pub old: usize,
    /// The node that had taken over.
    pub new: usize,
    /// Rows that `old` acknowledged and that were sent after `new` had acknowledged one.
    pub rows: usize,
    /// The last of them was sent that long after it.
    pub length: Duration,
    /// When the last of them was sent.
    pub at: Duration,
}

/// The judgement of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Acknowledged writes.
    pub acknowledged: usize,
    /// Writes without an answer.
    pub unknown: usize,
    /// Acknowledged by a promoted standby while it was nobody's primary.
    pub rogue_rows: usize,
    /// Acknowledged rows that are missing at the end.
    pub lost: Vec<Lost>,
    /// Rows that nobody tried to write.
    pub phantom: Vec<u64>,
    /// Rows that are there more than once.
    pub duplicated: Vec<u64>,
    /// Reads, from a node that said it is the primary, that missed an acknowledged row which is not lost.
    pub stale: Vec<Read>,
    /// Times with two writable nodes.
    pub overlaps: Vec<Overlap>,
    /// The sum of all gaps between acknowledgements that are longer than [`GAP_MIN`].
    pub unavailable: Duration,
    /// The longest of them.
    pub longest_gap: Duration,
}

/// Compares what clients saw with the rows (and how often each is there) of the final primary. `end`: when clients
/// stopped.
pub fn check(history: &History, rows: &BTreeMap<u64, u32>, end: Duration) -> Verdict {
    let attempted: BTreeSet<u64> = history.writes.iter().map(|write| write.id).collect();
    let (rogue, lawful): (Vec<&Write>, Vec<&Write>) = history
        .writes
        .iter()
        .filter(|write| write.acknowledged.is_some())
        .partition(|write| history.rogues.iter().any(|rogue| rogue.covers(write)));
    let reigns = reigns(&lawful);
    let lost: Vec<Lost> = lawful
        .iter()
        .filter(|write| !rows.contains_key(&write.id))
        .map(|write| Lost { id: write.id, node: write.node, before_successor: before_successor(write, &reigns) })
        .collect();
    let gone: BTreeSet<u64> = lost.iter().map(|row| row.id).chain(rogue.iter().map(|write| write.id)).collect();
    let (unavailable, longest_gap) = gaps(&lawful, end);
    Verdict {
        acknowledged: lawful.len(),
        unknown: history.writes.len() - lawful.len() - rogue.len(),
        rogue_rows: rogue.len(),
        phantom: rows.keys().filter(|id| !attempted.contains(id)).copied().collect(),
        duplicated: rows.iter().filter(|(_, count)| **count > 1).map(|(id, _)| *id).collect(),
        stale: stale(history, &gone),
        overlaps: overlaps(&lawful, &reigns),
        lost,
        unavailable,
        longest_gap,
    }
}

impl Rogue {
    fn covers(&self, write: &Write) -> bool {
        let answered = write.acknowledged.map_or(Duration::MAX, |(at, _)| at);
        self.node == write.node && write.sent <= self.until && answered >= self.from
    }
}

/// The first acknowledgement on each timeline, by node: a promotion begins a timeline, so more than one node on a
/// timeline is an overlap by itself.
type Reigns = BTreeMap<u32, BTreeMap<usize, Duration>>;

fn reigns(writes: &[&Write]) -> Reigns {
    let mut reigns = Reigns::new();
    for write in writes {
        let Some((at, timeline)) = write.acknowledged else { continue };
        let first = reigns.entry(timeline).or_default().entry(write.node).or_insert(at);
        *first = at.min(*first);
    }
    reigns
}

fn before_successor(write: &Write, reigns: &Reigns) -> Duration {
    let Some((at, timeline)) = write.acknowledged else { return Duration::ZERO };
    let next = reigns.range(timeline + 1..).flat_map(|(_, nodes)| nodes.values()).min();
    next.map_or(Duration::ZERO, |next| next.saturating_sub(at))
}

/// A write that was sent after another node, on the same or a newer timeline, had acknowledged one. What was sent
/// before may have been executed before: nothing follows from it.
fn overlaps(writes: &[&Write], reigns: &Reigns) -> Vec<Overlap> {
    let mut found: BTreeMap<(usize, usize, u32), Overlap> = BTreeMap::new();
    for write in writes {
        let Some((at, timeline)) = write.acknowledged else { continue };
        // On one timeline the node that came first is in its right, whatever came after.
        let own = reigns.get(&timeline).and_then(|nodes| nodes.get(&write.node)).copied().unwrap_or(at);
        let newer = reigns.range(timeline..).flat_map(|(other, nodes)| nodes.iter().map(move |node| (*other, node)));
        for (other, (node, since)) in newer {
            let usurped = other > timeline || *since < own;
            if *node == write.node || !usurped || write.sent <= *since {
                continue;
            }
            let length = write.sent - *since;
            let overlap = found.entry((write.node, *node, timeline)).or_insert(Overlap {
                old: write.node,
                new: *node,
                rows: 0,
                length,
                at: write.sent,
            });
            overlap.rows += 1;
            overlap.length = overlap.length.max(length);
            overlap.at = overlap.at.max(write.sent);
        }
    }
    found.into_values().collect()
}

fn stale(history: &History, gone: &BTreeSet<u64>) -> Vec<Read> {
    let rogue = |read: &&Read| {
        history
            .rogues
            .iter()
            .any(|rogue| rogue.node == read.node && read.sent >= rogue.from && read.sent <= rogue.until)
    };
    history
        .reads
        .iter()
        .filter(|read| !read.found && !gone.contains(&read.id))
        .filter(|read| !rogue(read))
        .cloned()
        .collect()
}

fn gaps(writes: &[&Write], end: Duration) -> (Duration, Duration) {
    let mut times: Vec<Duration> = writes.iter().filter_map(|write| Some(write.acknowledged?.0)).collect();
    times.push(end);
    times.sort();
    let gaps = times.iter().zip(times.iter().skip(1)).map(|(before, after)| *after - *before);
    gaps.filter(|gap| *gap >= GAP_MIN)
        .fold((Duration::ZERO, Duration::ZERO), |(sum, longest), gap| (sum + gap, longest.max(gap)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn write(id: u64, node: usize, sent: u64, acknowledged: Option<(u64, u32)>) -> Write {
        Write { id, node, sent: ms(sent), acknowledged: acknowledged.map(|(at, timeline)| (ms(at), timeline)) }
    }

    fn history(writes: Vec<Write>) -> History {
        History { writes, ..History::default() }
    }

    fn rows(ids: &[u64]) -> BTreeMap<u64, u32> {
        ids.iter().map(|id| (*id, 1)).collect()
    }

    #[test]
    fn a_clean_failover_has_no_complaint() {
        let history = history(vec![
            write(1, 0, 0, Some((1, 1))),
            write(2, 0, 5, None),
            write(3, 1, 2000, Some((2010, 2))),
            write(4, 0, 9000, Some((9001, 3))),
        ]);
        let verdict = check(&history, &rows(&[1, 2, 3, 4]), ms(9100));
        assert_eq!((verdict.acknowledged, verdict.unknown), (3, 1));
        assert!(verdict.lost.is_empty() && verdict.overlaps.is_empty() && verdict.phantom.is_empty());
        assert_eq!((verdict.unavailable, verdict.longest_gap), (ms(2009 + 6991), ms(6991)));
    }

    #[test]
    fn an_acknowledged_row_that_is_gone_is_lost() {
        let history =
            history(vec![write(1, 0, 0, Some((10, 1))), write(2, 0, 20, None), write(3, 1, 500, Some((510, 2)))]);
        let verdict = check(&history, &rows(&[3]), ms(600));
        assert_eq!(verdict.lost, [Lost { id: 1, node: 0, before_successor: ms(500) }]);
    }

    #[test]
    fn rows_from_nowhere_and_rows_twice() {
        let history = history(vec![write(1, 0, 0, Some((1, 1)))]);
        let verdict = check(&history, &BTreeMap::from([(1, 2), (7, 1)]), ms(10));
        assert_eq!((verdict.phantom, verdict.duplicated), (vec![7], vec![1]));
    }

    #[test]
    fn an_old_primary_that_writes_on_overlaps() {
        let history = history(vec![
            write(1, 1, 100, Some((110, 2))),
            write(2, 0, 105, Some((120, 1))),
            write(3, 0, 150, Some((151, 1))),
            write(4, 0, 180, Some((181, 1))),
        ]);
        let verdict = check(&history, &rows(&[1, 2, 3, 4]), ms(200));
        assert_eq!(verdict.overlaps, [Overlap { old: 0, new: 1, rows: 2, length: ms(70), at: ms(180) }]);
    }

    #[test]
    fn two_nodes_on_one_timeline_overlap() {
        let history =
            history(vec![write(1, 0, 0, Some((1, 2))), write(2, 1, 5, Some((6, 2))), write(3, 0, 10, Some((11, 2)))]);
        let verdict = check(&history, &rows(&[1, 2, 3]), ms(20));
        assert_eq!(verdict.overlaps, [Overlap { old: 1, new: 0, rows: 1, length: ms(4), at: ms(5) }]);
    }

    #[test]
    fn what_a_rogue_acknowledges_is_counted_apart() {
        let rogues = vec![Rogue { node: 1, from: ms(50), until: ms(90) }];
        let writes = vec![write(1, 0, 0, Some((1, 1))), write(2, 1, 60, Some((61, 2))), write(3, 0, 70, Some((71, 1)))];
        let verdict = check(&History { writes, rogues, ..History::default() }, &rows(&[1, 3]), ms(100));
        assert_eq!((verdict.rogue_rows, verdict.acknowledged), (1, 2));
        assert!(verdict.lost.is_empty() && verdict.overlaps.is_empty());
    }

    #[test]
    fn a_read_that_misses_a_row_which_survives_is_stale() {
        let read = |id, found| Read { id, node: 0, sent: ms(30), found };
        let writes = vec![write(1, 1, 0, Some((1, 2))), write(2, 0, 0, Some((1, 1)))];
        let reads = vec![read(1, false), read(2, false), read(1, true)];
        let verdict = check(&History { writes, reads, ..History::default() }, &rows(&[1]), ms(40));
        assert_eq!(verdict.stale, [read(1, false)], "row 2 is lost, which is another complaint");
    }
}
