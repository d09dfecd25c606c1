//! Learning of changes.

use model::{Key, Member};

use super::{PATIENCE, Room, changes_until};
use crate::{Changes, Freshness, Guard, Store};

/// The store watches from here on.
async fn watching(store: &dyn Store) -> Changes {
    changes_until(store, "the watch to be established", |counts| counts.resets > 0).await
}

pub(super) async fn changes_of_others_are_counted(room: Room) {
    let (a, b) = (room.store("a").await, room.store("b").await);
    if !a.capabilities().watch {
        return;
    }
    let mut counts = watching(a.as_ref()).await;
    b.acquire_leader().await.expect("acquire");
    counts = changes_until(a.as_ref(), "a new leader", |now| now.leader > counts.leader).await;
    for key in [Key::Config, Key::Failover, Key::Sync, Key::Initialize, Key::History, Key::Failsafe] {
        b.put(&key, "{}", Guard::None).await.expect("put");
        counts = changes_until(a.as_ref(), "a written key", |now| now.cluster > counts.cluster).await;
    }
    b.delete(&Key::Failover, Guard::None).await.expect("delete");
    counts = changes_until(a.as_ref(), "a deleted key", |now| now.cluster > counts.cluster).await;
    b.put(&Key::Status, "{}", Guard::None).await.expect("put");
    counts = changes_until(a.as_ref(), "the leader's status", |now| now.members > counts.members).await;
    b.touch_member(&Member::default()).await.expect("touch");
    counts = changes_until(a.as_ref(), "a member", |now| now.members > counts.members).await;
    b.release_leader().await.expect("release");
    counts = changes_until(a.as_ref(), "a released lock", |now| now.leader > counts.leader).await;
    b.acquire_leader().await.expect("acquire");
    counts = changes_until(a.as_ref(), "a new leader", |now| now.leader > counts.leader).await;
    // The lock expires.
    changes_until(a.as_ref(), "an expired lock", |now| now.leader > counts.leader).await;
}

/// A reader that sleeps on the counters sees every value in time, however its reads and the writes interleave.
pub(super) async fn no_change_is_missed(room: Room) {
    const WRITES: usize = 100;
    let (a, b) = (room.store("a").await, room.store("b").await);
    if !a.capabilities().watch {
        return;
    }
    let writer = tokio::spawn(async move {
        for number in 1..=WRITES {
            b.put(&Key::Initialize, &number.to_string(), Guard::None).await.expect("put");
        }
    });
    let mut receiver = a.changes();
    loop {
        receiver.borrow_and_update();
        let view = a.read(Freshness::Snapshot).await.expect("read");
        if view.initialize.is_some_and(|key| key.value == WRITES.to_string()) {
            break;
        }
        let changed = tokio::time::timeout(PATIENCE, receiver.changed()).await;
        changed.expect("a change was missed").expect("the store is open");
    }
    writer.await.expect("the writer ended well");
}

pub(super) async fn renewals_and_unchanged_records_do_not_count(room: Room) {
    let (a, b) = (room.store("a").await, room.store("b").await);
    if !a.capabilities().watch {
        return;
    }
    let before = watching(b.as_ref()).await;
    let member = Member { state: "running".to_owned(), ..Member::default() };
    a.acquire_leader().await.expect("acquire");
    for _ in 0..5 {
        a.renew_leader().await.expect("renew");
        a.touch_member(&member).await.expect("touch");
    }
    a.put(&Key::Config, "{}", Guard::None).await.expect("put");
    let after = changes_until(b.as_ref(), "a written key", |now| now.cluster > before.cluster).await;
    let counted = (after.leader - before.leader, after.members - before.members, after.resets - before.resets);
    assert_eq!(counted, (1, 1, 0), "one acquisition and one record");
}
