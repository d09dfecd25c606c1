use ha::step::{Effect, StopMode, StopPurpose, Task};

use super::*;

/// Found, lock, what happens while not paused, what happens while paused.
const EXPECTED: [(Found, Lock, &str, &str); 30] = [
    (Found::RunningPrimary, Lock::Mine, "lead: RenewLeader", "lead: RenewLeader"),
    (Found::RunningPrimary, Lock::Anothers, "follow-demote: stop Immediate Demote", "paused:"),
    (Found::RunningPrimary, Lock::Nobodys, "race-won: AcquireLeader", "race-won: AcquireLeader"),
    (Found::RunningStandby, Lock::Mine, "lead-promote: RenewLeader promote", "paused: ReleaseLeader"),
    (Found::RunningStandby, Lock::Anothers, "follow:", "paused:"),
    (Found::RunningStandby, Lock::Nobodys, "lead-promote: AcquireLeader promote", "paused:"),
    (Found::StoppedPrimary, Lock::Mine, "recover-primary: RenewLeader start primary", "paused-down: ReleaseLeader"),
    (Found::StoppedPrimary, Lock::Anothers, "recover-standby: start standby of 127.0.0.1:5433", "paused-down:"),
    (Found::StoppedPrimary, Lock::Nobodys, "recover-standby: start standby of nobody", "paused-down:"),
    (
        Found::StoppedStandby,
        Lock::Mine,
        "recover-readonly: RenewLeader start standby of nobody",
        "paused-down: ReleaseLeader",
    ),
    (Found::StoppedStandby, Lock::Anothers, "recover-standby: start standby of 127.0.0.1:5433", "paused-down:"),
    (Found::StoppedStandby, Lock::Nobodys, "recover-standby: start standby of nobody", "paused-down:"),
    (Found::CrashedPrimary, Lock::Mine, "recover-primary: RenewLeader start primary", "paused-down: ReleaseLeader"),
    (Found::CrashedPrimary, Lock::Anothers, "crash-recovery: CrashRecovery", "paused-down:"),
    (Found::CrashedPrimary, Lock::Nobodys, "recover-standby: start standby of nobody", "paused-down:"),
    (Found::HalfCloned, Lock::Mine, "bootstrap-wait: ReleaseLeader", "bootstrap-wait: ReleaseLeader"),
    (Found::HalfCloned, Lock::Anothers, "bootstrap-clone: clone b", "paused:"),
    (Found::HalfCloned, Lock::Nobodys, "bootstrap-wait:", "paused:"),
    (Found::HalfRewound, Lock::Mine, "recover-give-up: ReleaseLeader", "paused-down: ReleaseLeader"),
    (Found::HalfRewound, Lock::Anothers, "rewind: rewind to 127.0.0.1:5433", "paused-down:"),
    (Found::HalfRewound, Lock::Nobodys, "rewind-wait:", "paused-down:"),
    (Found::Foreign, Lock::Mine, "wrong-cluster: exit 1", "wrong-cluster: ReleaseLeader"),
    (Found::Foreign, Lock::Anothers, "wrong-cluster: exit 1", "wrong-cluster:"),
    (Found::Foreign, Lock::Nobodys, "wrong-cluster: exit 1", "wrong-cluster:"),
    (Found::Empty, Lock::Mine, "bootstrap-wait: ReleaseLeader", "bootstrap-wait: ReleaseLeader"),
    (Found::Empty, Lock::Anothers, "bootstrap-clone: clone b", "paused:"),
    (Found::Empty, Lock::Nobodys, "bootstrap-wait:", "paused:"),
    (Found::Unreadable, Lock::Mine, "data-dir-unreadable: RenewLeader", "data-dir-unreadable:"),
    (Found::Unreadable, Lock::Anothers, "data-dir-unreadable:", "data-dir-unreadable:"),
    (Found::Unreadable, Lock::Nobodys, "data-dir-unreadable:", "data-dir-unreadable:"),
];

#[test]
fn every_cell_is_as_expected() {
    let cells = cells();
    assert_eq!(cells.len(), 2 * EXPECTED.len());
    for cell in cells {
        let row = EXPECTED.iter().find(|(found, lock, ..)| (*found, *lock) == (cell.found, cell.lock));
        let (.., running, paused) = row.expect("a row for every cell");
        let expected = if cell.paused { paused } else { running };
        assert_eq!(cell.outcome(), **expected, "{:?}, {:?}, paused {}", cell.found, cell.lock, cell.paused);
    }
}

#[test]
fn no_cell_is_dangerous() {
    let dangers: Vec<String> = cells().iter().flat_map(Cell::dangers).collect();
    assert!(dangers.is_empty(), "{dangers:?}");
}

/// The check itself: what it is there for does not get past it.
#[test]
fn dangers_are_found() {
    let dangers = |found, lock, paused, effects: Vec<Effect>| {
        let mut cell = Cell { found, lock, paused, played: scene_of(found, lock, paused).play() };
        cell.played.effects = effects;
        cell.dangers().len()
    };
    let task = |task| vec![Effect::StartTask(task)];
    let standby = || Task::StartStandby { upstream: None };
    let clone = || Task::Clone { source: None, basebackup_only: false };
    let promote = scene_of(Found::RunningStandby, Lock::Mine, false).play().effects;
    let promote: Vec<Effect> =
        promote.into_iter().filter(|effect| matches!(effect, Effect::StartTask(Task::Promote { .. }))).collect();
    assert_eq!(promote.len(), 1);
    assert_eq!(dangers(Found::StoppedPrimary, Lock::Anothers, false, task(Task::RemoveDataDir)), 1);
    assert_eq!(dangers(Found::StoppedPrimary, Lock::Anothers, false, task(clone())), 1);
    assert_eq!(dangers(Found::HalfRewound, Lock::Anothers, false, task(clone())), 1);
    assert_eq!(dangers(Found::HalfRewound, Lock::Anothers, false, task(standby())), 1);
    assert_eq!(dangers(Found::RunningStandby, Lock::Nobodys, false, promote), 1);
    assert_eq!(dangers(Found::RunningPrimary, Lock::Anothers, false, Vec::new()), 1);
    assert_eq!(dangers(Found::Foreign, Lock::Nobodys, false, task(standby())), 1);
    let stop = Task::Stop { mode: StopMode::Immediate, checkpoint: false, purpose: StopPurpose::Demote };
    assert_eq!(dangers(Found::RunningPrimary, Lock::Anothers, true, task(stop.clone())), 1);
    assert_eq!(dangers(Found::RunningPrimary, Lock::Anothers, false, task(stop)), 0);
}
