//! PostgreSQL is down.

use ha::memory::{Divergence, Retry};
use ha::step::{Outcome, ServerPosition, StopMode, StopPurpose, Task};
use model::lsn::TimelineSwitch;
use model::pg::{ControlState, Postmaster, Unfinished};
use model::{Lsn, Timeline};
use serde_json::json;

use crate::scene::*;

fn promoted_at(switchpoint: u64) -> Result<ServerPosition, String> {
    let switch = TimelineSwitch { timeline: Timeline(1), switchpoint: Lsn(switchpoint), reason: String::new() };
    Ok(ServerPosition {
        in_recovery: false,
        system_id: SYSTEM_ID.to_owned(),
        timeline: Timeline(2),
        lsn: Lsn(5000),
        history: vec![switch],
    })
}

/// `b` leads on timeline 2; `a` was primary on timeline 1 and is down.
fn old_primary(state: ControlState) -> Scene {
    let mut scene = Scene::of("a", "b").pg_down(state);
    scene.view.pg.recovery_configured = false;
    scene.memory.role = model::Role::Primary;
    scene.memory.disarmed = true;
    cluster_of(&mut scene).members[1].timeline = Some(Timeline(2));
    scene
}

#[test]
fn crashed_primary_with_the_lock_starts_again_at_once() {
    let played = Scene::of("a", "a").pg_down(ControlState::InProduction).play();
    played.expect("recover-primary", &["RenewLeader", "start primary"]);
    assert_eq!(played.record().state, "starting");
}

#[test]
fn crashed_primary_gives_way_at_once_where_the_start_timeout_is_zero() {
    let mut scene = Scene::of("a", "a").pg_down(ControlState::InProduction);
    scene.view.settings = settings(json!({"primary_start_timeout": 0}));
    scene.play().expect("recover-give-up", &["ReleaseLeader", "Disarm"]);

    scene.peers.clear();
    scene.play().expect("recover-primary", &["RenewLeader", "start primary"]);
}

#[test]
fn primary_that_does_not_start_gives_way_if_it_can() {
    let mut scene = Scene::of("a", "a").pg_down(ControlState::InProduction);
    scene.memory.retry = Retry { failures: 1, not_before: Some(NOW) };
    scene.play().expect("recover-give-up", &["ReleaseLeader", "Disarm"]);
}

#[test]
fn no_start_as_primary_without_the_lease() {
    for renew in [Outcome::Rejected("b holds it".into()), Outcome::Unreachable("timeout".into())] {
        let mut scene = Scene::of("a", "a").pg_down(ControlState::InProduction);
        scene.renew = renew;
        let played = scene.play();
        assert_eq!(played.effects(), ["RenewLeader"]);
    }
}

#[test]
fn standby_with_the_lock_starts_read_only() {
    let mut scene = Scene::of("b", "b").pg_down(ControlState::InArchiveRecovery);
    scene.view.pg.recovery_configured = true;
    scene.play().expect("recover-readonly", &["RenewLeader", "start standby of nobody"]);
}

#[test]
fn former_primary_whose_wal_was_all_copied_starts_as_standby() {
    let mut scene = old_primary(ControlState::ShutDown);
    scene.server = promoted_at(991);
    scene.play().expect("recover-standby", &["start standby of 127.0.0.1:5433"]);
}

#[test]
fn former_primary_that_wrote_more_is_rewound() {
    let mut scene = old_primary(ControlState::ShutDown);
    scene.server = promoted_at(990);
    scene.play().expect("rewind", &["rewind to 127.0.0.1:5433"]);
}

#[test]
fn crashed_former_primary_replays_its_wal_first() {
    let scene = old_primary(ControlState::InProduction);
    scene.play().expect("crash-recovery", &["CrashRecovery"]);
}

/// A standby that was promoted behind its agent's back and stopped before its first checkpoint: the control file names
/// the timeline before, which is the leader's, and pg_rewind would find nothing to do.
#[test]
fn crashed_primary_on_the_leaders_timeline_replays_its_wal_first() {
    let mut scene = old_primary(ControlState::InProduction);
    let leaders = cluster_of(&mut scene).members[1].timeline.expect("a timeline");
    scene.view.pg.control.as_mut().expect("control").timeline = leaders;
    scene.memory.divergence = Divergence::Fits;
    scene.play().expect("crash-recovery", &["CrashRecovery"]);
}

#[test]
fn crashed_standby_that_diverged_is_recovered_before_it_is_rewound() {
    let mut scene = old_primary(ControlState::InArchiveRecovery);
    scene.view.pg.control.as_mut().expect("control").checkpoint = Lsn(5000);
    scene.server = promoted_at(990);
    scene.play().expect("crash-recovery", &["CrashRecovery"]);
}

/// Found by the kill loop: a standby that had been promoted alone and crashed at once was "rewound" three times without
/// effect, because pg_rewind reads the timeline of the last checkpoint.
#[test]
fn timeline_without_a_checkpoint_is_recovered_before_the_rewind() {
    let mut scene = old_primary(ControlState::ShutDownInRecovery);
    scene.memory.divergence = Divergence::Diverged;
    let control = scene.view.pg.control.as_mut().expect("control");
    (control.min_recovery, control.min_recovery_timeline) = (Lsn(995), Timeline(2));
    scene.play().expect("crash-recovery", &["CrashRecovery"]);

    let control = scene.view.pg.control.as_mut().expect("control");
    (control.state, control.timeline, control.min_recovery_timeline) =
        (ControlState::ShutDown, Timeline(2), Timeline(0));
    scene.play().expect("rewind", &["rewind to 127.0.0.1:5433"]);
}

#[test]
fn rewind_waits_for_the_checkpoint_and_for_the_promotion() {
    let mut scene = old_primary(ControlState::ShutDown);
    scene.server = promoted_at(990);
    cluster_of(&mut scene).members[1].checkpoint_after_promote = Some(false);
    scene.play().expect("rewind-wait", &[]);

    let mut scene = old_primary(ControlState::ShutDown);
    scene.server = promoted_at(990).map(|position| ServerPosition { in_recovery: true, ..position });
    scene.play().expect("rewind-wait", &[]);

    let mut scene = old_primary(ControlState::ShutDown);
    scene.server = Err("connection refused".to_owned());
    scene.play().expect("rewind-wait", &[]);
}

#[test]
fn divergence_that_cannot_be_rewound_follows_the_policy() {
    let mut scene = old_primary(ControlState::ShutDown);
    scene.server = promoted_at(990);
    scene.view.settings = settings(json!({"postgresql": {"use_pg_rewind": false}}));
    // Nothing may be removed: it runs as a standby that cannot stream, and says what to do.
    scene.play().expect("recover-standby", &["start standby of 127.0.0.1:5433"]);

    let policy = json!({"postgresql": {"use_pg_rewind": false, "remove_data_directory_on_diverged_timelines": true}});
    scene.view.settings = settings(policy);
    scene.play().expect("reinit", &["RemoveDataDir"]);
}

#[test]
fn running_standby_that_diverged_says_what_to_do() {
    let mut scene = Scene::of("b", "a");
    scene.view.settings = settings(json!({"postgresql": {"use_pg_rewind": false}}));
    scene.memory.divergence = Divergence::Diverged;
    scene.memory.checked_against = Some(("a".into(), Some(Timeline(1))));
    scene.memory.disarmed = true;
    let played = scene.play();
    played.expect("diverged", &[]);
    assert!(played.verdict.reason.contains("patronictl reinit"), "{}", played.verdict.reason);
}

fn failed_rewind(memory: ha::Memory) -> Scene {
    let rewind = Task::Rewind { source: upstream("b", "a") };
    let mut scene = old_primary(ControlState::ShutDown).finished(rewind, Err("target server must be shut down".into()));
    scene.memory = memory;
    scene.server = promoted_at(990);
    scene
}

/// Plays the end of a failed pg_rewind and the cycle after the pause.
fn fail_and_go_on(memory: ha::Memory, server: Result<ServerPosition, String>) -> Played {
    let failed = failed_rewind(memory).play();
    failed.expect("recover-backoff", &[]);
    let mut scene = failed_rewind(failed.verdict.memory);
    scene.view.finished = None;
    scene.server = server;
    scene.view.now = NOW.plus(std::time::Duration::from_secs(60));
    scene.play()
}

fn diverged() -> ha::Memory {
    let mut memory = old_primary(ControlState::ShutDown).memory;
    memory.divergence = Divergence::Diverged;
    memory.checked_against = Some(("b".into(), Some(Timeline(2))));
    memory
}

#[test]
fn failed_rewinds_are_bounded_and_then_visible() {
    let mut memory = diverged();
    for _ in 1..3 {
        let again = fail_and_go_on(memory, promoted_at(990));
        again.expect("rewind", &["rewind to 127.0.0.1:5433"]);
        memory = again.verdict.memory;
    }
    let played = fail_and_go_on(memory.clone(), promoted_at(990));
    played.expect("diverged", &[]);
    assert!(played.verdict.reason.contains("target server must be shut down"), "{}", played.verdict.reason);
    assert!(played.verdict.reason.contains("run patronictl reinit for a"), "{}", played.verdict.reason);
    assert_eq!(played.record().extra["problem"], played.verdict.reason);

    // The same end under a policy that allows a new copy.
    let failed = failed_rewind(memory).play();
    let mut scene = failed_rewind(failed.verdict.memory);
    scene.view.finished = None;
    scene.view.now = NOW.plus(std::time::Duration::from_secs(60));
    let policy = json!({"postgresql": {"remove_data_directory_on_rewind_failure": true}});
    scene.view.settings = settings(policy);
    scene.play().expect("reinit", &["RemoveDataDir"]);
}

/// A pg_rewind that failed because the leader went away says nothing of the data directory: no attempt is used up, and
/// nothing is removed.
#[test]
fn rewind_that_failed_without_the_leader_does_not_count() {
    let mut memory = diverged();
    for _ in 0..5 {
        let waiting = fail_and_go_on(memory, Err("connection refused".into()));
        waiting.expect("rewind-wait", &[]);
        memory = waiting.verdict.memory;
    }
    assert_eq!((memory.rewind_failures, memory.divergence), (0, Divergence::Diverged));
}

#[test]
fn another_leader_is_another_chance_for_a_rewind() {
    let mut scene = old_primary(ControlState::ShutDown);
    scene.server = promoted_at(990);
    scene.memory.divergence = Divergence::Failed("it ran and failed".into());
    scene.memory.checked_against = Some(("c".into(), Some(Timeline(2))));
    scene.play().expect("rewind", &["rewind to 127.0.0.1:5433"]);
    scene.memory.checked_against = Some(("b".into(), Some(Timeline(2))));
    scene.play().expect("diverged", &[]);
}

/// Pitfall 6: the same primary gains a timeline through crash recovery and promotion; nobody's `primary_conninfo` changes.
#[test]
fn leader_that_gains_a_timeline_is_compared_anew() {
    let mut scene = Scene::of("b", "a");
    scene.memory.divergence = Divergence::Fits;
    scene.memory.checked_against = Some(("a".into(), Some(Timeline(1))));
    scene.memory.disarmed = true;
    scene.view.pg.server.as_mut().expect("running").receiver_status = None;
    cluster_of(&mut scene).members[0].timeline = Some(Timeline(2));
    // Its own position and the leader's are asked of the same stand-in: this node is on a timeline of its own then.
    scene.server = promoted_at(990);
    scene.own_history =
        Some(vec![TimelineSwitch { timeline: Timeline(1), switchpoint: Lsn(950), reason: String::new() }]);
    scene.play().expect("rewind", &["stop Fast Rebuild"]);

    cluster_of(&mut scene).members[0].timeline = Some(Timeline(1));
    scene.play().expect("follow", &[]);
}

/// A copy that was never started says "in production", as its source did: neither a crash nor a history of its own. Found
/// by thought: after a kill between the end of the copy and its start it was taken for a crashed primary.
#[test]
fn copy_that_was_never_started_is_started_as_a_standby() {
    for state in [ControlState::InProduction, ControlState::InArchiveRecovery] {
        let mut scene = Scene::of("a", "b").pg_down(state);
        scene.view.pg.unstarted_copy = true;
        scene.view.pg.recovery_configured = false;
        scene.memory = ha::Memory { disarmed: true, ..Default::default() };
        scene.server = promoted_at(100);
        for timeline in [None, Some(Timeline(1)), Some(Timeline(2))] {
            cluster_of(&mut scene).members[1].timeline = timeline;
            scene.play().expect("recover-standby", &["start standby of 127.0.0.1:5433"]);
        }
    }
}

/// Pitfall 24, and found by the kill loop: pg_rewind removes the local history and truncates the local WAL that another
/// attempt needs. A node must not get stuck on what it left.
#[test]
fn half_rewound_directory_that_cannot_be_rewound_is_copied_anew() {
    let mut scene = old_primary(ControlState::ShutDown);
    scene.server = promoted_at(990);
    scene.view.pg.unfinished = Some(Unfinished::Rewind);
    scene.memory.divergence = Divergence::Diverged;
    scene.memory.rewind_error = Some("could not open file 00000005.history".into());
    scene.play().expect("rewind", &["rewind to 127.0.0.1:5433"]);
    scene.memory.rewind_failures = 2;
    scene.play().expect("reinit", &["RemoveDataDir"]);

    // Not because the leader went away in the middle, and not without anybody to copy.
    scene.server = Err("connection refused".into());
    scene.play().expect("rewind-wait", &[]);
    cluster_of(&mut scene).leader = None;
    scene.play().expect("rewind-wait", &[]);

    let mut scene = old_primary(ControlState::ShutDown);
    scene.view.pg.unfinished = Some(Unfinished::Rewind);
    scene.view.settings = settings(json!({"postgresql": {"use_pg_rewind": false}}));
    scene.play().expect("reinit", &["RemoveDataDir"]);
}

/// Pitfall 24: a half-rewound directory is never started.
#[test]
fn interrupted_rewind_is_rewound_again_and_never_started() {
    let mut scene = old_primary(ControlState::InArchiveRecovery);
    scene.view.pg.unfinished = Some(Unfinished::Rewind);
    for divergence in [Divergence::Unchecked, Divergence::Fits, Divergence::Diverged] {
        // Not even where the control file looks as if everything fitted.
        scene.server = promoted_at(5000);
        scene.memory.divergence = divergence;
        scene.play().expect("rewind", &["rewind to 127.0.0.1:5433"]);
    }

    cluster_of(&mut scene).leader = None;
    scene.play().expect("rewind-wait", &[]);

    let mut scene = Scene::of("a", "a").pg_down(ControlState::InArchiveRecovery);
    scene.view.pg.unfinished = Some(Unfinished::Rewind);
    scene.play().expect("recover-give-up", &["ReleaseLeader", "Disarm"]);
}

/// The control file that comes with a base backup says "in production" until the standby has replayed it.
#[test]
fn fresh_copy_that_does_not_answer_yet_is_no_primary() {
    let mut scene = Scene::of("b", "a");
    scene.view.pg.server = None;
    scene.view.pg.control = Some(control(ControlState::InProduction));
    scene.play().expect("no-answer", &[]);
}

#[test]
fn paused_means_no_start() {
    let mut scene = Scene::of("a", "a").pg_down(ControlState::InProduction);
    scene.view.settings = settings(json!({"pause": true}));
    scene.play().expect("paused-down", &["Disarm", "ReleaseLeader"]);
}

#[test]
fn what_was_stopped_to_give_way_gives_way_when_it_is_down() {
    let mut scene = Scene::of("a", "a");
    scene.view.pg.server = None;
    scene.memory.silent_since = Some(NOW.minus(std::time::Duration::from_secs(301)));
    let stopping = scene.play();
    stopping.expect("recover-give-up", &["stop Immediate Demote"]);

    // The stop has succeeded, which ends every count of failures.
    let stop = Task::Stop { mode: StopMode::Immediate, checkpoint: false, purpose: StopPurpose::Demote };
    let mut scene = Scene::of("a", "a").pg_down(ControlState::InProduction).finished(stop, Ok(()));
    scene.memory = stopping.verdict.memory;
    scene.play().expect("recover-give-up", &["on_stop demoted", "ReleaseLeader", "Disarm"]);

    // Nobody to give way to: it starts again.
    scene.peers.clear();
    scene.play().expect("recover-primary", &["on_stop demoted", "RenewLeader", "start primary"]);
}

/// Found with a slow disk: single-user mode leaves a process and a control file like a primary's, and was stopped at
/// every look.
#[test]
fn crash_recovery_is_not_taken_for_a_primary() {
    let mut scene = Scene::of("a", "b").pg_down(ControlState::InCrashRecovery).running(Task::CrashRecovery, None);
    for (postmaster, state) in
        [(Postmaster::Unknown, ControlState::InProduction), (Postmaster::Starting, ControlState::ShuttingDown)]
    {
        scene.view.pg.postmaster = postmaster;
        scene.view.pg.recovery_configured = false;
        scene.view.pg.control = Some(control(state));
        scene.play().expect("task-running", &[]);
    }
}
