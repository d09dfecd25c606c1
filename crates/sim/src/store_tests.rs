//! The simulated store keeps the trait's promises, and breaks the network as it should.

use super::*;
use crate::run::Options;

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);

fn timing() -> Timing {
    let s = Duration::from_secs;
    Timing { ttl: s(30), loop_wait: s(10), retry_timeout: s(10) }
}

fn two() -> (Arc<World>, SimStore, SimStore) {
    let world = World::new(7, Options::default());
    let (a, b) = (SimStore::new(&world, A, timing()), SimStore::new(&world, B, timing()));
    (world, a, b)
}

fn is_rejected<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Rejected(_)))
}

#[tokio::test(start_paused = true)]
async fn the_lock_has_one_holder_who_alone_renews_and_releases() {
    let (world, a, b) = two();
    assert_eq!(a.acquire_leader().await, Ok(()));
    assert!(is_rejected(&b.acquire_leader().await));
    assert!(is_rejected(&a.acquire_leader().await), "held is held, also by oneself");
    assert!(is_rejected(&b.renew_leader().await));
    assert!(is_rejected(&b.release_leader().await));
    sleep(Duration::from_secs(25)).await;
    assert_eq!(a.renew_leader().await, Ok(()));
    sleep(Duration::from_secs(29)).await;
    assert_eq!(world.with(|state| state.store.leader().map(str::to_owned)).as_deref(), Some("a"));
    assert_eq!(a.release_leader().await, Ok(()));
    assert_eq!(a.release_leader().await, Ok(()), "no key is success");
    assert_eq!(b.acquire_leader().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_nobody_renews_ends_and_the_watch_says_so() {
    let (_world, a, b) = two();
    let mut changes = b.changes();
    assert_eq!(a.acquire_leader().await, Ok(()));
    sleep(Duration::from_millis(50)).await;
    let held = *changes.borrow_and_update();
    let start = Instant::now();
    changes.changed().await.expect("the world lives");
    assert_eq!(changes.borrow().leader, held.leader + 1);
    let lived = start.elapsed();
    assert!(lived > Duration::from_secs(29) && lived < Duration::from_secs(31), "{lived:?}");
    assert_eq!(b.acquire_leader().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn touching_a_member_does_not_prolong_the_lock() {
    let (_world, a, b) = two();
    let member = Member { name: "a".into(), state: "running".into(), role: "replica".into(), ..Member::default() };
    assert_eq!(a.acquire_leader().await, Ok(()));
    sleep(Duration::from_secs(20)).await;
    assert_eq!(a.touch_member(&member).await, Ok(()));
    sleep(Duration::from_secs(12)).await;
    let view = b.read(Freshness::Linearizable).await.expect("readable");
    assert_eq!((view.leader, view.members), (None, vec![member]));
}

#[tokio::test(start_paused = true)]
async fn guards() {
    let (_world, a, b) = two();
    let first = a.put(&Key::Initialize, "", Guard::Absent).await.expect("absent");
    assert!(is_rejected(&b.put(&Key::Initialize, "", Guard::Absent).await));
    let second = b.put(&Key::Initialize, "1", Guard::Version(first)).await.expect("unchanged");
    assert!(is_rejected(&a.put(&Key::Initialize, "2", Guard::Version(first)).await));
    assert!(is_rejected(&a.delete(&Key::Initialize, Guard::Version(first)).await));
    assert!(is_rejected(&a.put(&Key::Sync, "{}", Guard::Present).await));
    assert!(a.put(&Key::Initialize, "3", Guard::Value("1".into())).await.is_ok_and(|version| version > second));
    assert_eq!(a.delete(&Key::Initialize, Guard::None).await, Ok(()));
    assert_eq!(a.delete(&Key::Initialize, Guard::None).await, Ok(()));
    assert!(a.read(Freshness::Snapshot).await.expect("readable").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_partition_costs_the_retry_timeout_and_applies_nothing() {
    let (world, a, _b) = two();
    world.with(|state| state.net.store_cut.insert(A));
    let start = Instant::now();
    assert!(matches!(a.acquire_leader().await, Err(StoreError::Unreachable(_))));
    assert_eq!(start.elapsed(), Duration::from_secs(10));
    assert_eq!(world.with(|state| state.store.leader().map(str::to_owned)), None);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_leaves_the_write_applied_and_a_lost_request_does_not() {
    let mut applied = Vec::new();
    for seed in 0..10 {
        let world = World::new(seed, Options::default());
        let a = SimStore::new(&world, A, timing());
        world.with(|state| state.net.lost_percent = 100);
        assert!(matches!(a.acquire_leader().await, Err(StoreError::Unreachable(_))));
        applied.push(world.with(|state| state.store.leader().is_some()));
    }
    assert!(applied.contains(&true) && applied.contains(&false), "{applied:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_store_applies_what_its_caller_has_given_up() {
    let (world, a, _b) = two();
    world.with(|state| state.net.store_slow_ms = Some(11_000..12_000));
    assert!(matches!(a.acquire_leader().await, Err(StoreError::Unreachable(_))));
    assert_eq!(world.with(|state| state.store.leader().map(str::to_owned)), None);
    sleep(Duration::from_secs(3)).await;
    assert_eq!(world.with(|state| state.store.leader().map(str::to_owned)).as_deref(), Some("a"));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_was_cut_off_resets() {
    let (world, a, b) = two();
    world.with(|state| state.net.store_cut.insert(B));
    assert!(a.put(&Key::Config, "{}", Guard::None).await.is_ok());
    sleep(Duration::from_secs(1)).await;
    assert_eq!(*b.changes().borrow(), Changes::default());
    world.with(|state| {
        state.net.heal();
        state.resume_watches();
    });
    assert_eq!(b.changes().borrow().resets, 1);
}
