//! Does the local history fit the leader's? Decided with timelines and positions alone (compatibility.md, 7.12).

use model::lsn::TimelineSwitch;
use model::pg::{ControlData, ControlState, Postmaster, Unfinished, Upstream};
use model::{ClusterView, HostPort, Lsn, Timeline};

use super::cycle::Cycle;
use super::{End, table::*};
use crate::facts::{Answer, Need};
use crate::memory::Divergence;
use crate::step::{Probe, ServerPosition};

/// Where the local data directory ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalPosition {
    /// Timeline of the last WAL.
    pub timeline: Timeline,
    /// Standby: the last position replayed, or the minimum recovery point. Former primary: start of its last
    /// checkpoint record.
    pub lsn: Lsn,
    /// It was a primary: the record at `lsn` was written here and must be part of the leader's history.
    pub was_primary: bool,
}

/// Rewinds in a row that did not help before an operator is called.
const REWINDS_MAX: u32 = 3;

/// True when the leader's history contains everything local. `false`: local WAL exists that the leader does not have.
///
/// A standby may be exactly at the switchpoint. A former primary's last record starts at its position, so the
/// switchpoint must lie behind it; records are copied whole, so a later switchpoint includes it.
pub fn compare_histories(local: LocalPosition, leader: &ServerPosition) -> bool {
    if local.timeline >= leader.timeline {
        return local.timeline == leader.timeline;
    }
    match leader.history.iter().find(|switch| switch.timeline == local.timeline) {
        Some(switch) if local.was_primary => local.lsn < switch.switchpoint,
        Some(switch) => local.lsn <= switch.switchpoint,
        None => false,
    }
}

/// True when both histories left every timeline that they share at the same position. Two nodes that were promoted
/// without knowing of each other give their new timelines one number; the switch before tells them apart.
fn same_branches(own: &[TimelineSwitch], leader: &ServerPosition) -> bool {
    own.iter().all(|switch| {
        let theirs = leader.history.iter().find(|other| other.timeline == switch.timeline);
        theirs.is_none_or(|theirs| theirs.switchpoint == switch.switchpoint)
    })
}

/// Where a server that does not run ended, by its control file.
fn stopped_position(control: &ControlData) -> Option<LocalPosition> {
    let standby = |timeline, lsn| Some(LocalPosition { timeline, lsn, was_primary: false });
    match control.state {
        ControlState::ShutDown => {
            Some(LocalPosition { timeline: control.timeline, lsn: control.checkpoint, was_primary: true })
        }
        ControlState::ShutDownInRecovery | ControlState::InArchiveRecovery if control.min_recovery.is_valid() => {
            standby(control.min_recovery_timeline, control.min_recovery)
        }
        ControlState::ShutDownInRecovery | ControlState::InArchiveRecovery => {
            standby(control.timeline, control.checkpoint)
        }
        _ => None,
    }
}

impl Cycle<'_> {
    /// Where the local data ends; `None` when that is not known, or not final (a crash left WAL to be replayed).
    ///
    /// A running standby is asked over a replication connection: what it says in SQL of its timeline is that of its WAL
    /// receiver or of its last restartpoint, neither of which need be the one it replays.
    fn local_position(&self) -> Need<Option<LocalPosition>> {
        if self.view.pg.postmaster == Postmaster::Running {
            let address = HostPort::from_url(&self.view.node.conn_url);
            let (Some(server), Some(address)) = (&self.view.pg.server, address) else {
                return Ok(None);
            };
            let Answer::Server(Ok(own)) = self.facts.ask(Probe::Server(Upstream { address, slot: None }))? else {
                return Ok(None);
            };
            let lsn = server.replay_lsn.unwrap_or(own.lsn);
            return Ok(Some(LocalPosition { timeline: own.timeline, lsn, was_primary: false }));
        }
        Ok(self.view.pg.control.as_ref().and_then(stopped_position))
    }

    /// Timeline the leader publishes, where it does.
    fn leader_timeline(&self, cluster: &ClusterView) -> Option<Timeline> {
        cluster.leader_member().and_then(|member| member.timeline)
    }

    /// A running standby that fits and yet receives nothing for longer than a cycle is compared once more.
    fn recheck_where_nothing_streams(&mut self) {
        let receives = self.view.pg.server.as_ref().is_none_or(|server| server.receiver_status.is_some());
        if receives || self.view.pg.postmaster != Postmaster::Running {
            self.memory.silent_receiver_since = None;
            return;
        }
        let since = *self.memory.silent_receiver_since.get_or_insert(self.view.now);
        if self.memory.divergence == Divergence::Fits && self.view.now.since(since) > self.view.settings.loop_wait {
            self.memory.silent_receiver_since = Some(self.view.now);
            self.memory.divergence = Divergence::Unchecked;
        }
    }

    /// Checks the local history against the leader's, once per leader and timeline. `Some(end)`: wait for the leader.
    pub fn check_divergence(&mut self, cluster: &ClusterView, leader: &Upstream) -> Need<Option<End>> {
        let against = (cluster.leader_name().unwrap_or_default().to_owned(), self.leader_timeline(cluster));
        // A leader that has just been promoted may not have published its timeline yet.
        let same = |known: &(String, Option<Timeline>)| known.0 == against.0 && known.1 >= against.1;
        let settled = matches!(self.memory.divergence, Divergence::Fits | Divergence::Failed(_));
        if !self.memory.checked_against.as_ref().is_some_and(same) && settled {
            // Another leader, or the same on a timeline more: what was found, or did not work, says nothing of it.
            self.memory.divergence = Divergence::Unchecked;
            self.memory.rewind_failures = 0;
            self.memory.rewinds = 0;
        }
        if self.view.pg.unfinished == Some(Unfinished::Rewind) && self.memory.divergence == Divergence::Unchecked {
            // Neither its control file nor its history can be trusted: only another rewind makes it whole.
            self.memory.divergence = Divergence::Diverged;
            self.memory.checked_against = Some(against);
            return Ok(None);
        }
        self.recheck_where_nothing_streams();
        if self.memory.divergence != Divergence::Unchecked {
            return Ok(None);
        }
        let streaming = self.view.pg.server.as_ref().is_some_and(|server| {
            server.receiver_status.as_deref() == Some("streaming")
                && server.timeline.is_some()
                && server.timeline == against.1
        });
        if streaming {
            self.memory.rewinds = 0;
            self.memory.divergence = Divergence::Fits;
            self.memory.checked_against = Some(against);
            return Ok(None);
        }
        let wait = |why: String| Ok(Some(End::new(REWIND_WAIT, why).wake_in_ms(500)));
        if !cluster.leader_member().is_some_and(|member| member.is_running()) {
            // It cannot be asked. A running standby goes on; a stopped one must know before it is started.
            let running = self.view.pg.postmaster == Postmaster::Running;
            return if running {
                Ok(None)
            } else {
                wait("waiting for the leader to run before comparing histories".to_owned())
            };
        }
        let probe = Probe::Server(Upstream { address: leader.address.clone(), slot: None });
        let position = match self.facts.ask(probe)? {
            Answer::Server(Ok(position)) => position,
            Answer::Server(Err(why)) => return wait(format!("cannot compare histories with the leader yet: {why}")),
            _ => return Ok(None),
        };
        if position.in_recovery {
            return wait("waiting for the leader to be promoted before comparing histories".to_owned());
        }
        let Some(local) = self.local_position()? else {
            return Ok(None);
        };
        let own = match self.facts.ask(Probe::OwnHistory)? {
            Answer::OwnHistory(Some(own)) => own.clone(),
            _ => Vec::new(),
        };
        self.memory.divergence = match compare_histories(local, position) && same_branches(&own, position) {
            true => Divergence::Fits,
            false if self.memory.rewinds >= REWINDS_MAX => {
                Divergence::Failed("it ran several times and the histories still differ".to_owned())
            }
            false => Divergence::Diverged,
        };
        self.memory.checked_against = Some((against.0, Some(position.timeline)));
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::lsn::TimelineSwitch;

    fn leader(timeline: u32, switches: &[(u32, u64)]) -> ServerPosition {
        let history = switches
            .iter()
            .map(|(timeline, lsn)| TimelineSwitch {
                timeline: Timeline(*timeline),
                switchpoint: Lsn(*lsn),
                reason: String::new(),
            })
            .collect();
        ServerPosition {
            in_recovery: false,
            system_id: String::new(),
            timeline: Timeline(timeline),
            lsn: Lsn(9999),
            history,
        }
    }

    #[test]
    fn two_timelines_with_one_number_are_told_apart() {
        let switch = |lsn| TimelineSwitch { timeline: Timeline(1), switchpoint: Lsn(lsn), reason: String::new() };
        let leader = leader(3, &[(1, 100), (2, 200)]);
        assert!(same_branches(&[switch(100)], &leader));
        assert!(!same_branches(&[switch(90)], &leader));
        assert!(same_branches(&[], &leader));
    }

    #[test]
    fn histories() {
        for (name, timeline, lsn, was_primary, leader, fits) in [
            ("same timeline", 1, 500, false, leader(1, &[]), true),
            ("newer than the leader", 2, 500, false, leader(1, &[]), false),
            ("standby before the switch", 1, 99, false, leader(2, &[(1, 100)]), true),
            ("standby at the switch", 1, 100, false, leader(2, &[(1, 100)]), true),
            ("standby past the switch", 1, 101, false, leader(2, &[(1, 100)]), false),
            ("primary whose checkpoint was copied", 1, 99, true, leader(2, &[(1, 100)]), true),
            ("primary whose checkpoint was not copied", 1, 100, true, leader(2, &[(1, 100)]), false),
            ("two timelines behind", 1, 99, false, leader(3, &[(1, 100), (2, 200)]), true),
            ("on a branch the leader never saw", 2, 10, false, leader(3, &[(1, 100)]), false),
        ] {
            let local = LocalPosition { timeline: Timeline(timeline), lsn: Lsn(lsn), was_primary };
            assert_eq!(compare_histories(local, &leader), fits, "{name}");
        }
    }
}
