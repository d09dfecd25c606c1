//! Keys without a lease.

use model::{ClusterView, Key};

use super::{Room, assert_rejected, is_rejected};
use crate::{Freshness, Guard, Store};

async fn view(store: &dyn Store) -> ClusterView {
    store.read(Freshness::Linearizable).await.expect("read the cluster")
}

/// Value and version of the initialize key.
async fn initialize(store: &dyn Store) -> Option<(String, u64)> {
    view(store).await.initialize.map(|key| (key.value, key.version))
}

pub(super) async fn an_unknown_cluster_is_empty(room: Room) {
    let store = room.store("a").await;
    for freshness in [Freshness::Snapshot, Freshness::Linearizable] {
        assert_eq!(store.read(freshness).await, Ok(ClusterView::default()));
    }
}

pub(super) async fn guards_decide_on_writes(room: Room) {
    let store = room.store("a").await;
    let put = |value: &'static str, guard| {
        let store = store.clone();
        async move { store.put(&Key::Initialize, value, guard).await }
    };
    for guard in [Guard::Present, Guard::Version(1), Guard::Value(String::new()), Guard::Value("x".to_owned())] {
        assert_rejected(put("no", guard).await);
    }
    assert_eq!(initialize(store.as_ref()).await, None);
    let first = put("", Guard::Absent).await.expect("create");
    assert_eq!(initialize(store.as_ref()).await, Some((String::new(), first)));
    assert_rejected(put("no", Guard::Absent).await);
    let second = put("two", Guard::Present).await.expect("overwrite");
    assert_rejected(put("no", Guard::Version(first)).await);
    assert_rejected(put("no", Guard::Version(u64::MAX)).await);
    let third = put("three", Guard::Version(second)).await.expect("write on top of a version");
    assert_rejected(put("no", Guard::Value("two".to_owned())).await);
    let fourth = put("four", Guard::Value("three".to_owned())).await.expect("write on top of a value");
    assert_eq!(initialize(store.as_ref()).await, Some(("four".to_owned(), fourth)));
    put("five", Guard::Version(0)).await.expect("version 0 is no condition");
    let last = put("six", Guard::None).await.expect("no condition");
    assert_eq!(initialize(store.as_ref()).await, Some(("six".to_owned(), last)));
    let mut versions = vec![first, second, third, fourth, last];
    versions.dedup();
    assert_eq!(versions.len(), 5, "every write has a version of its own");
}

pub(super) async fn guards_decide_on_deletes(room: Room) {
    let store = room.store("a").await;
    let delete = |guard| store.delete(&Key::Initialize, guard);
    delete(Guard::None).await.expect("delete what is not there");
    let first = store.put(&Key::Initialize, "1", Guard::None).await.expect("put");
    let second = store.put(&Key::Initialize, "2", Guard::None).await.expect("put");
    for guard in [Guard::Version(first), Guard::Value("1".to_owned())] {
        assert_rejected(delete(guard).await);
    }
    assert!(initialize(store.as_ref()).await.is_some());
    delete(Guard::Version(second)).await.expect("delete a version");
    assert_eq!(initialize(store.as_ref()).await, None);
    assert_rejected(delete(Guard::Present).await);
    store.put(&Key::Initialize, "3", Guard::Absent).await.expect("create anew");
    delete(Guard::Value("3".to_owned())).await.expect("delete a value");
    assert_eq!(initialize(store.as_ref()).await, None);
}

pub(super) async fn one_of_many_writers_wins(room: Room) {
    let mut stores = Vec::new();
    for number in 0..6 {
        stores.push(room.store(&format!("node{number}")).await);
    }
    let mut guard = Guard::Absent;
    for round in 0..6 {
        let writes = stores.iter().enumerate().map(|(number, store)| {
            let (guard, value) = (guard.clone(), format!("{round} {number}"));
            async move { store.put(&Key::Initialize, &value, guard).await }
        });
        let outcomes = futures::future::join_all(writes).await;
        let winners: Vec<_> = outcomes.iter().enumerate().filter(|(_, outcome)| outcome.is_ok()).collect();
        assert_eq!(winners.len(), 1, "{guard:?}: {outcomes:?}");
        assert!(outcomes.iter().all(|outcome| outcome.is_ok() || is_rejected(outcome)), "{outcomes:?}");
        let (value, version) = initialize(stores[0].as_ref()).await.expect("the winner's value");
        assert_eq!(value, format!("{round} {}", winners[0].0));
        guard = if round % 2 == 0 { Guard::Version(version) } else { Guard::Value(value) };
    }
}

pub(super) async fn values_come_back_as_they_were(room: Room) {
    let (a, b) = (room.store("a").await, room.store("b").await);
    // Servers limit values to about a megabyte.
    let large = "0123456789abcdef".repeat(32 * 1024);
    for value in ["", "\u{e4}\u{1f418}\n\t\"\\'", &large] {
        a.put(&Key::Initialize, value, Guard::None).await.expect("put");
        let (found, _) = initialize(b.as_ref()).await.expect("a value");
        assert!(found == value, "{} bytes came back as {} bytes", value.len(), found.len());
    }
    // Several of them in one answer.
    let config = format!("{{\"large\":\"{large}\"}}");
    a.put(&Key::Config, &config, Guard::None).await.expect("put");
    let found = view(b.as_ref()).await.config.expect("a configuration");
    assert_eq!(found.value.get("large").and_then(|value| value.as_str()).map(str::len), Some(large.len()));
}

/// A scope that begins like another.
pub(super) async fn clusters_do_not_see_each_other(room: Room) {
    let neighbour = room.store_in(&format!("{}2", room.scope), "a").await;
    let store = room.store("a").await;
    neighbour.acquire_leader().await.expect("acquire");
    neighbour.put(&Key::Config, "{}", Guard::None).await.expect("put");
    assert!(view(store.as_ref()).await.is_empty());
    store.acquire_leader().await.expect("acquire");
    store.delete_cluster().await.expect("delete the cluster");
    let left = view(neighbour.as_ref()).await;
    assert!(left.leader.is_some() && left.config.is_some(), "{left:?}");
}

pub(super) async fn a_deleted_cluster_is_empty(room: Room) {
    let (a, b) = (room.store("a").await, room.store("b").await);
    for key in [Key::Initialize, Key::Config, Key::Failover, Key::Sync, Key::Status, Key::History, Key::Failsafe] {
        a.put(&key, "{}", Guard::None).await.expect("put");
    }
    a.put(&Key::OptimeLeader, "1", Guard::None).await.expect("put");
    a.acquire_leader().await.expect("acquire");
    a.touch_member(&model::Member::default()).await.expect("touch");
    b.delete_cluster().await.expect("delete the cluster");
    assert!(view(a.as_ref()).await.is_empty());
    b.delete_cluster().await.expect("delete what is not there");
}
