//! The leader lock.

use tokio::time::{Instant, sleep};

use super::{Room, assert_rejected, is_rejected, leader, lock_is_free};
use crate::{Freshness, Store};

pub(super) async fn one_of_many_acquirers_wins(room: Room) {
    let mut stores = Vec::new();
    for number in 0..8 {
        stores.push((format!("node{number}"), room.store(&format!("node{number}")).await));
    }
    let attempts = stores.iter().map(|(_, store)| store.acquire_leader());
    let outcomes = futures::future::join_all(attempts).await;
    let winners: Vec<_> = stores.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok()).collect();
    assert_eq!(winners.len(), 1, "{outcomes:?}");
    assert!(outcomes.iter().all(|outcome| outcome.is_ok() || is_rejected(outcome)), "{outcomes:?}");
    let ((name, winner), _) = winners[0];
    assert_eq!(leader(winner.as_ref()).await.as_ref(), Some(name));
}

pub(super) async fn the_lock_expires_a_ttl_after_its_last_renewal(room: Room) {
    let (a, b) = (room.store("a").await, room.store("b").await);
    a.acquire_leader().await.expect("acquire");
    // Time passes, so that a renewal which prolongs nothing shows.
    sleep(room.ttl() / 2).await;
    let renewed = Instant::now();
    a.renew_leader().await.expect("renew");
    let lived = lock_is_free(b.as_ref(), room.ttl()).await - renewed;
    assert!(lived >= room.ttl(), "the lock lived {lived:?} after its renewal");
    b.acquire_leader().await.expect("acquire after expiry");
}

pub(super) async fn renewal_keeps_the_lock(room: Room) {
    let (a, b) = (room.store("a").await, room.store("b").await);
    a.acquire_leader().await.expect("acquire");
    let version = b.read(Freshness::Snapshot).await.expect("read").leader.map(|leader| leader.version);
    assert_rejected(b.acquire_leader().await);
    keep(a.as_ref(), b.as_ref(), &room).await;
    let kept = b.read(Freshness::Snapshot).await.expect("read").leader.map(|leader| leader.version);
    assert_eq!(kept, version, "the lock was written anew");
    assert_rejected(b.renew_leader().await);
}

/// Renews the lock of `a` for two lifetimes; it must be there all the time.
async fn keep(a: &dyn Store, reader: &dyn Store, room: &Room) {
    let end = Instant::now() + 2 * room.ttl();
    while Instant::now() < end {
        a.renew_leader().await.expect("renew");
        assert_eq!(leader(reader).await.as_deref(), Some("a"));
        sleep(room.ttl() / 6).await;
    }
}

pub(super) async fn an_expired_lock_may_be_renewed(room: Room) {
    let (a, b) = (room.store("a").await, room.store("b").await);
    a.acquire_leader().await.expect("acquire");
    lock_is_free(b.as_ref(), room.ttl()).await;
    let outcome = a.renew_leader().await;
    // Both are allowed, as long as the answer and the store agree.
    let expected = if outcome.is_ok() { Some("a".to_owned()) } else { None };
    assert!(outcome.is_ok() || is_rejected(&outcome), "{outcome:?}");
    assert_eq!(leader(b.as_ref()).await, expected);
}

pub(super) async fn a_lock_that_somebody_took_is_lost(room: Room) {
    let (a, b) = (room.store("a").await, room.store("b").await);
    a.acquire_leader().await.expect("acquire");
    lock_is_free(b.as_ref(), room.ttl()).await;
    b.acquire_leader().await.expect("acquire after expiry");
    assert_rejected(a.renew_leader().await);
    assert_rejected(a.acquire_leader().await);
    assert_rejected(a.release_leader().await);
    assert_eq!(leader(a.as_ref()).await.as_deref(), Some("b"));
}

pub(super) async fn a_restarted_node_takes_over_its_lock(room: Room) {
    let before = room.store("a").await;
    before.acquire_leader().await.expect("acquire");
    drop(before);
    let (after, b) = (room.store("a").await, room.store("b").await);
    assert_eq!(leader(b.as_ref()).await.as_deref(), Some("a"), "closing a store releases nothing");
    keep(after.as_ref(), b.as_ref(), &room).await;
}

pub(super) async fn a_longer_ttl_takes_effect_with_the_next_renewal(room: Room) {
    let (a, b) = (room.store("a").await, room.store("b").await);
    a.acquire_leader().await.expect("acquire");
    let longer = 3 * room.ttl();
    a.set_timing(room.timing(longer));
    let renewed = Instant::now();
    a.renew_leader().await.expect("renew");
    let lived = lock_is_free(b.as_ref(), longer).await - renewed;
    assert!(lived >= longer, "the lock lived {lived:?}");
}

pub(super) async fn only_the_holder_releases(room: Room) {
    let (a, b) = (room.store("a").await, room.store("b").await);
    b.release_leader().await.expect("there is no lock");
    a.acquire_leader().await.expect("acquire");
    assert_rejected(b.release_leader().await);
    assert_eq!(leader(b.as_ref()).await.as_deref(), Some("a"));
    a.release_leader().await.expect("release");
    assert_eq!(leader(b.as_ref()).await, None);
    a.release_leader().await.expect("there is no lock any more");
    b.acquire_leader().await.expect("acquire what was released");
    assert_eq!(leader(a.as_ref()).await.as_deref(), Some("b"));
}

pub(super) async fn renewal_does_not_undo_a_release(room: Room) {
    let a = room.store("a").await;
    a.acquire_leader().await.expect("acquire");
    a.release_leader().await.expect("release");
    assert_rejected(a.renew_leader().await);
    assert_eq!(leader(a.as_ref()).await, None);
    a.acquire_leader().await.expect("acquire again");
    a.renew_leader().await.expect("renew again");
}

pub(super) async fn a_deleted_lock_is_free(room: Room) {
    let (a, b) = (room.store("a").await, room.store("b").await);
    a.acquire_leader().await.expect("acquire");
    b.delete_cluster().await.expect("delete the cluster");
    b.acquire_leader().await.expect("acquire what was deleted");
    assert_rejected(a.renew_leader().await);
    assert_eq!(leader(a.as_ref()).await.as_deref(), Some("b"));
}
