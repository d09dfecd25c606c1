//! The simulated PostgreSQL behaves as a real one where decisions depend on it.

use std::sync::Arc;
use std::time::Duration;

use agent::ports::{Node, StartAs, TaskHandle};
use ha::step::{CloneSource, StopMode};
use model::HostPort;
use model::pg::PgSnapshot;
use model::slots::SlotChange;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::*;
use crate::fence::hands;
use crate::run::Options;
use crate::world::World;

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const TIMEOUT: Duration = Duration::from_secs(60);

fn task() -> TaskHandle {
    let (sender, cancelled) = watch::channel(false);
    // A task that nobody cancels.
    std::mem::forget(sender);
    TaskHandle { cancelled, progress: Arc::new(|_| {}), may_be_writable: Arc::new(|| true) }
}

fn at(node: NodeId) -> Upstream {
    Upstream { address: HostPort { host: node.host(), port: 5432 }, slot: None }
}

fn end(world: &World, node: NodeId) -> Lsn {
    world.with(|state| state.node(node).pg.data.as_ref().map(|data| data.wal.end()).expect("data"))
}

async fn primary(world: &Arc<World>, node: NodeId) -> SimPg {
    let (pg, _) = hands(world, node);
    pg.initdb(&task()).await.expect("initdb");
    pg.start(StartAs::Primary, TIMEOUT, &task()).await.expect("start");
    pg.post_bootstrap(&task()).await.expect("post_bootstrap");
    pg
}

async fn standby(world: &Arc<World>, node: NodeId, of: NodeId) -> SimPg {
    let (pg, _) = hands(world, node);
    let source = CloneSource { name: of.to_string(), upstream: at(of) };
    pg.clone_from(Some(&source), true, &task()).await.expect("clone");
    pg.start(StartAs::Standby(Some(at(of))), TIMEOUT, &task()).await.expect("start");
    pg
}

fn write(world: &World, node: NodeId, bytes: u64) {
    world.with(|state| state.node_mut(node).pg.data.as_mut().map(|data| data.wal.append(bytes)));
}

async fn until(world: &World, what: impl Fn(&crate::world::State) -> bool) {
    let wait = async {
        while !world.with(|state| what(state)) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(TIMEOUT, wait).await.expect("it never came");
}

async fn caught_up(world: &World, standby: NodeId, primary: NodeId) {
    let wal = |state: &crate::world::State, node: NodeId| state.node(node).pg.data.as_ref().map(|data| data.wal.end());
    until(world, |state| wal(state, standby) == wal(state, primary)).await;
}

fn world() -> Arc<World> {
    World::new(11, Options::default())
}

#[tokio::test(start_paused = true)]
async fn a_standby_streams_and_a_fast_stop_waits_for_it() {
    let world = world();
    let a = primary(&world, A).await;
    let b = standby(&world, B, A).await;
    caught_up(&world, B, A).await;
    assert_eq!(b.observe().await.server.and_then(|server| server.receiver_status).as_deref(), Some("streaming"));
    write(&world, A, 1 << 20);
    a.stop(StopMode::Fast, &task()).await.expect("stop");
    let control = a.observe().await.control.expect("control data");
    assert_eq!(control.state, ControlState::ShutDown);
    assert!(end(&world, B) > control.checkpoint, "the standby has the shutdown checkpoint");
}

#[tokio::test(start_paused = true)]
async fn a_fast_stop_gives_up_on_a_standby_that_is_cut_off() {
    let world = world();
    let a = primary(&world, A).await;
    let _b = standby(&world, B, A).await;
    caught_up(&world, B, A).await;
    world.with(|state| state.net.set_link(A, B, true));
    write(&world, A, 8192);
    timeout(TIMEOUT, a.stop(StopMode::Fast, &task())).await.expect("it ends").expect("stop");
    assert!(end(&world, B) < end(&world, A));
}

#[tokio::test(start_paused = true)]
async fn a_diverged_primary_cannot_follow_until_it_is_rewound() {
    let world = world();
    let a = primary(&world, A).await;
    let b = standby(&world, B, A).await;
    caught_up(&world, B, A).await;
    world.with(|state| state.net.set_link(A, B, true));
    write(&world, A, 8192);
    world.with(|state| state.kill_process(A, "crashed"));
    b.promote(&|| true, &task()).await.expect("promote");
    world.with(|state| state.net.heal());
    a.start(StartAs::Standby(Some(at(B))), TIMEOUT, &task()).await.expect("start");
    sleep(Duration::from_secs(30)).await;
    assert_eq!(a.observe().await.server.and_then(|server| server.receiver_status), None, "it must not stream");
    a.stop(StopMode::Fast, &task()).await.expect("stop");
    b.checkpoint().await.expect("checkpoint");
    a.rewind(&at(B), &task()).await.expect("rewind");
    a.start(StartAs::Standby(Some(at(B))), TIMEOUT, &task()).await.expect("start");
    caught_up(&world, A, B).await;
    assert_eq!(b.own_history().await.map(|history| history.len()), Some(1));
}

#[tokio::test(start_paused = true)]
async fn rewinding_before_the_checkpoint_does_nothing_and_a_running_target_is_refused() {
    let world = world();
    let a = primary(&world, A).await;
    let b = standby(&world, B, A).await;
    caught_up(&world, B, A).await;
    assert!(a.rewind(&at(B), &task()).await.is_err());
    write(&world, A, 8192);
    a.stop(StopMode::Immediate, &task()).await.expect("stop");
    assert!(a.rewind(&at(B), &task()).await.is_err(), "it did not shut down cleanly");
    a.crash_recovery(&task()).await.expect("crash recovery");
    b.promote(&|| true, &task()).await.expect("promote");
    let timeline = |pg: PgSnapshot| pg.control.map(|control| control.timeline);
    assert_eq!(timeline(b.observe().await), Some(Timeline(1)), "no checkpoint yet");
    let before = end(&world, A);
    a.rewind(&at(B), &task()).await.expect("it says that nothing is to be done");
    assert_eq!(end(&world, A), before);
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_clone_leaves_its_marker_and_is_not_started() {
    let world = world();
    let _a = primary(&world, A).await;
    let (b, _) = hands(&world, B);
    let source = CloneSource { name: "a".into(), upstream: at(A) };
    // The agent dies with its child.
    let killed = timeout(Duration::from_millis(500), b.clone_from(Some(&source), true, &task())).await;
    assert!(killed.is_err());
    sleep(TIMEOUT).await;
    let seen = b.observe().await;
    assert_eq!((seen.data_dir, seen.unfinished), (DataDir::Incomplete, Some(Unfinished::Clone)));
    assert!(b.start(StartAs::Primary, TIMEOUT, &task()).await.is_err());
    assert_eq!(world.violations().len(), 1, "starting it is a violation");
}

#[tokio::test(start_paused = true)]
async fn promotion_asks_first() {
    let world = world();
    let _a = primary(&world, A).await;
    let b = standby(&world, B, A).await;
    assert!(b.promote(&|| false, &task()).await.is_err());
    assert!(b.observe().await.is_standby());
}

#[tokio::test(start_paused = true)]
async fn two_writable_servers_are_noticed_at_once() {
    let world = world();
    let _a = primary(&world, A).await;
    let b = standby(&world, B, A).await;
    assert_eq!(world.violations(), []);
    b.promote(&|| true, &task()).await.expect("promote");
    assert_eq!(world.violations().first().map(|violation| violation.checker), Some("one writable PostgreSQL"));
}

#[tokio::test(start_paused = true)]
async fn a_missing_slot_keeps_a_standby_from_streaming() {
    let world = world();
    let a = primary(&world, A).await;
    let b = standby(&world, B, A).await;
    let with_slot = Upstream { slot: Some("b".into()), ..at(A) };
    b.repoint(Some(&with_slot), &task()).await.expect("repoint");
    sleep(Duration::from_secs(5)).await;
    assert_eq!(b.observe().await.server.and_then(|server| server.receiver_status), None);
    a.sync_slots(&[SlotChange::CreatePhysical { name: "b".into() }]).await.expect("slots");
    caught_up(&world, B, A).await;
}

#[tokio::test(start_paused = true)]
async fn the_sentinel_kills_at_the_deadline_and_not_before() {
    use agent::ports::{Clock, Fence};
    let world = world();
    let pg = primary(&world, A).await;
    let (_, fence) = hands(&world, A);
    let clock = crate::clock::SimClock::new(&world, A);
    fence.arm(clock.now().plus(Duration::from_secs(20))).await.expect("armed");
    sleep(Duration::from_secs(10)).await;
    fence.arm(clock.now().plus(Duration::from_secs(20))).await.expect("armed");
    sleep(Duration::from_secs(19)).await;
    assert!(pg.observe().await.is_primary());
    sleep(Duration::from_secs(2)).await;
    assert_eq!(pg.observe().await.postmaster, Postmaster::Absent);
    fence.arm(clock.now().plus(Duration::from_secs(1))).await.expect("armed");
    pg.start(StartAs::Primary, TIMEOUT, &task()).await.ok();
    fence.disarm().await;
}

#[tokio::test(start_paused = true)]
async fn a_stalled_disk_answers_no_query() {
    let world = world();
    let a = primary(&world, A).await;
    world.with(|state| state.node_mut(A).pg.stalled_until_ms = state.now_ms + 10_000);
    let seen = a.observe().await;
    assert_eq!((seen.postmaster, seen.server), (Postmaster::Running, None));
    sleep(Duration::from_secs(10)).await;
    assert!(a.observe().await.is_primary());
}

#[tokio::test(start_paused = true)]
async fn a_clone_that_fails_leaves_an_empty_directory() {
    let world = world();
    let _a = primary(&world, A).await;
    let (b, _) = hands(&world, B);
    let source = CloneSource { name: "a".into(), upstream: at(A) };
    let cut = async {
        sleep(Duration::from_millis(500)).await;
        world.with(|state| state.net.set_link(A, B, true));
    };
    let nobody_cancels = task();
    let (cloned, ()) = tokio::join!(b.clone_from(Some(&source), true, &nobody_cancels), cut);
    assert!(cloned.is_err());
    assert_eq!(b.observe().await.data_dir, DataDir::Empty);
}

#[tokio::test(start_paused = true)]
async fn a_primary_starts_only_where_that_is_permitted() {
    let world = world();
    let a = primary(&world, A).await;
    a.stop(StopMode::Fast, &task()).await.expect("stop");
    let forbidden = TaskHandle { may_be_writable: Arc::new(|| false), ..task() };
    assert!(a.start(StartAs::Primary, TIMEOUT, &forbidden).await.is_err());
    a.start(StartAs::Standby(None), TIMEOUT, &forbidden).await.expect("a standby needs no permission");
}
