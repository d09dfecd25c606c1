//! Members' records.

use model::Member;
use tokio::time::{Instant, sleep};

use super::{LOOK_EVERY, Room, eventually, leader};
use crate::{Freshness, Store};

fn record(state: &str) -> Member {
    Member { state: state.to_owned(), role: "replica".to_owned(), ..Member::default() }
}

/// State of a member, by name.
async fn state(store: &dyn Store, name: &str) -> Option<String> {
    let view = store.read(Freshness::Linearizable).await.expect("read the cluster");
    view.member(name).map(|member| member.state.clone())
}

pub(super) async fn records_expire_and_do_not_prolong_the_lock(room: Room) {
    let (a, b) = (room.store("a").await, room.store("b").await);
    a.acquire_leader().await.expect("acquire");
    let patience = Instant::now() + room.ttl() + super::PATIENCE;
    let mut touched = Instant::now();
    while leader(b.as_ref()).await.is_some() {
        assert!(Instant::now() < patience, "the lock outlives its lease while the member announces itself");
        touched = Instant::now();
        a.touch_member(&record("running")).await.expect("touch");
        sleep(LOOK_EVERY).await;
    }
    assert_eq!(state(b.as_ref(), "a").await.as_deref(), Some("running"));
    let gone = || async { state(b.as_ref(), "a").await.is_none().then(Instant::now) };
    let lived = eventually("the member to expire", room.ttl(), gone).await - touched;
    assert!(lived >= room.ttl(), "the record lived {lived:?}");
    a.touch_member(&record("running")).await.expect("touch after expiry");
    assert_eq!(state(b.as_ref(), "a").await.as_deref(), Some("running"));
}

pub(super) async fn records_come_back_when_deleted(room: Room) {
    let (a, b) = (room.store("a").await, room.store("b").await);
    a.touch_member(&record("running")).await.expect("touch");
    a.touch_member(&record("stopped")).await.expect("touch with news");
    assert_eq!(state(b.as_ref(), "a").await.as_deref(), Some("stopped"));
    b.delete_cluster().await.expect("delete the cluster");
    a.touch_member(&record("stopped")).await.expect("touch without news");
    assert_eq!(state(b.as_ref(), "a").await.as_deref(), Some("stopped"));
}

pub(super) async fn records_are_deleted_by_name(room: Room) {
    let (a, b) = (room.store("a").await, room.store("b").await);
    for store in [&a, &b] {
        store.touch_member(&record("running")).await.expect("touch");
    }
    b.delete_member("a").await.expect("delete another node's record");
    b.delete_member("a").await.expect("delete what is not there");
    assert_eq!((state(b.as_ref(), "a").await, state(b.as_ref(), "b").await.is_some()), (None, true));
    b.delete_member("b").await.expect("delete the own record");
    assert_eq!(state(b.as_ref(), "b").await, None);
    b.touch_member(&record("running")).await.expect("touch after an orderly exit");
    assert!(state(b.as_ref(), "b").await.is_some());
}

pub(super) async fn names_may_be_odd(room: Room) {
    let names = ["node 1", "n\u{f6}d\u{e9}", "leader", "a.b_c-d", "%41", "\"quoted\"", "*", "members"];
    for name in names {
        let store = room.store(name).await;
        store.touch_member(&record(name)).await.expect(name);
        store.acquire_leader().await.expect(name);
        assert_eq!(leader(store.as_ref()).await.as_deref(), Some(name));
        store.release_leader().await.expect(name);
        assert_eq!(state(store.as_ref(), name).await.as_deref(), Some(name));
    }
}
