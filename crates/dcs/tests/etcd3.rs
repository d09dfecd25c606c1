//! The etcd3 backend against real etcd servers.

mod common;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use common::Etcd;
use dcs::conformance::Bench;
use dcs::{Freshness, Guard, OpenError, Store, StoreConfig, StoreError, Timing, open};
use model::{Key, Member};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

/// etcd raises shorter lifetimes to two seconds.
const TTL: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_secs(4);
/// A busy machine may be late; an operation without a bound is much later.
const TOLERANCE: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(30);

fn timing() -> Timing {
    Timing { ttl: TTL, loop_wait: Duration::from_secs(2), retry_timeout: RETRY }
}

fn config(section: Value, name: &str) -> StoreConfig {
    StoreConfig {
        backend: "etcd3".to_owned(),
        section: section.as_object().expect("an object").clone(),
        namespace: "/service/".to_owned(),
        scope: "demo".to_owned(),
        name: name.to_owned(),
        timing: timing(),
        ctl: false,
    }
}

/// Members that were just started may still elect their leader.
async fn store(etcd: &Etcd, name: &str) -> Arc<dyn Store> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match open(&config(json!({"hosts": etcd.hosts()}), name)).await {
            Ok(store) => return store,
            Err(error) => assert!(Instant::now() < deadline, "open the store: {error}"),
        }
    }
}

async fn leader(store: &dyn Store) -> Option<String> {
    store.read(Freshness::Linearizable).await.expect("read").leader.map(|leader| leader.name)
}

/// Waits until the watch was established `count` times.
async fn watched(store: &dyn Store, count: u64) {
    let mut changes = store.changes();
    let established = timeout(PATIENCE, changes.wait_for(|counts| counts.resets >= count)).await;
    established.expect("the watch is not established").expect("the store is open");
}

/// Every operation fails as unreachable, within the bound.
async fn assert_unreachable(store: &dyn Store) {
    let started = Instant::now();
    let member = Member::default();
    let (read, acquire, touch, put, delete) = tokio::join!(
        store.read(Freshness::Snapshot),
        store.renew_leader(),
        store.touch_member(&member),
        store.put(&Key::Config, "{}", Guard::None),
        store.delete(&Key::Sync, Guard::Absent),
    );
    for outcome in [read.map(drop), acquire, touch, put.map(drop), delete] {
        assert!(matches!(outcome, Err(StoreError::Unreachable(_))), "{outcome:?}");
    }
    let spent = started.elapsed();
    assert!(spent < RETRY + TOLERANCE, "took {spent:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance() {
    let etcd = Etcd::start(1).await;
    let hosts = etcd.hosts();
    dcs::conformance::run(Bench {
        open: Arc::new(move |scope, name, timing| {
            let config = StoreConfig { scope, timing, ..config(json!({"hosts": hosts}), &name) };
            Box::pin(async move { open(&config).await.expect("open the store") })
        }),
        ttl: TTL,
    })
    .await;
}

/// Other programs, and other versions of Patroni, read and write the same keys.
#[tokio::test]
async fn keys_are_where_others_look_for_them() {
    let etcd = Etcd::start(1).await;
    let store = store(&etcd, "a").await;
    store.acquire_leader().await.expect("acquire");
    let member = Member { state: "running".to_owned(), role: "primary".to_owned(), ..Member::default() };
    store.touch_member(&member).await.expect("touch");
    store.put(&Key::Initialize, "7000000000000000001", Guard::Absent).await.expect("put");
    let expected = [
        "/service/demo/initialize\n7000000000000000001\n",
        "/service/demo/leader\na\n",
        "/service/demo/members/a\n{\"state\":\"running\",\"role\":\"primary\"}\n",
    ];
    assert_eq!(etcd.etcdctl(&["get", "--prefix", "/"]), expected.concat());
    etcd.etcdctl(&["put", "/service/demo/leader", "b"]);
    etcd.etcdctl(&["put", "/service/demo/unknown/key", "x"]);
    assert_eq!(leader(store.as_ref()).await.as_deref(), Some("b"));
    assert!(matches!(store.renew_leader().await, Err(StoreError::Rejected(text)) if text.contains("held by \"b\"")));
}

#[tokio::test]
async fn a_stopped_server_is_unreachable_until_it_is_back() {
    let mut etcd = Etcd::start(1).await;
    let store = store(&etcd, "a").await;
    store.acquire_leader().await.expect("acquire");
    watched(store.as_ref(), 1).await;
    etcd.kill(0);
    assert_unreachable(store.as_ref()).await;
    etcd.restart(0).await;
    recovers(store.as_ref(), 2).await;
}

#[tokio::test]
async fn a_frozen_server_is_unreachable_until_it_is_back() {
    let etcd = Etcd::start(1).await;
    let store = store(&etcd, "a").await;
    store.acquire_leader().await.expect("acquire");
    watched(store.as_ref(), 1).await;
    etcd.freeze(0).await;
    assert_unreachable(store.as_ref()).await;
    etcd.thaw(0);
    recovers(store.as_ref(), 2).await;
}

/// The store works again, and the watch was established anew and tells of changes.
async fn recovers(store: &dyn Store, resets: u64) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = store.renew_leader().await {
        assert!(Instant::now() < deadline, "{error}");
    }
    assert_eq!(leader(store).await.as_deref(), Some("a"));
    watched(store, resets).await;
    let before = store.changes().borrow().cluster;
    store.put(&Key::Config, "{}", Guard::None).await.expect("put");
    let mut changes = store.changes();
    let seen = timeout(PATIENCE, changes.wait_for(|counts| counts.cluster > before)).await;
    seen.expect("the watch tells nothing").expect("the store is open");
}

/// The watch has nothing to report and no operation is running: only the watch itself can notice.
#[tokio::test]
async fn a_watch_notices_a_frozen_server_by_itself() {
    let etcd = Etcd::start(1).await;
    let store = store(&etcd, "a").await;
    watched(store.as_ref(), 1).await;
    // Silence alone is no reason to give up: the server answers when asked.
    sleep(2 * timing().loop_wait).await;
    assert_eq!(store.changes().borrow().resets, 1);
    etcd.freeze(0).await;
    // Long enough for the watch to give up; it must do so while the server is frozen to be established once more.
    sleep(3 * timing().loop_wait).await;
    etcd.thaw(0);
    watched(store.as_ref(), 2).await;
}

#[tokio::test]
async fn a_cluster_serves_while_one_member_is_dead() {
    let mut etcd = Etcd::start(3).await;
    let store = store(&etcd, "a").await;
    for index in 0..3 {
        etcd.kill(index);
        works_within(store.as_ref(), RETRY + TOLERANCE).await;
        etcd.restart(index).await;
    }
}

#[tokio::test]
async fn a_cluster_serves_while_one_member_is_frozen() {
    let etcd = Etcd::start(3).await;
    let store = store(&etcd, "a").await;
    for index in 0..3 {
        etcd.freeze(index).await;
        works_within(store.as_ref(), 2 * RETRY + TOLERANCE).await;
        leaves_the_frozen_member_alone(store.as_ref()).await;
        etcd.thaw(index);
    }
}

/// Sooner or later a read takes less time than asking the frozen member first would.
async fn leaves_the_frozen_member_alone(store: &dyn Store) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let started = Instant::now();
        store.read(Freshness::Linearizable).await.expect("read");
        if started.elapsed() < Duration::from_secs(1) {
            break;
        }
        assert!(Instant::now() < deadline, "every read asks the frozen member first");
    }
}

/// The lock can be held and keys be written. While a majority elects a leader, single attempts may fail.
async fn works_within(store: &dyn Store, limit: Duration) {
    let deadline = Instant::now() + limit;
    loop {
        let outcome = match store.renew_leader().await {
            Ok(()) => store.put(&Key::Status, "{}", Guard::None).await.map(drop),
            failed => failed,
        };
        match outcome {
            Ok(()) => break,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
    assert_eq!(leader(store).await.as_deref(), Some("a"));
}

/// A request to a frozen member may be carried out when that one wakes up; the same request to the next must not make
/// two of it.
#[tokio::test]
async fn guarded_writes_survive_a_frozen_member() {
    let etcd = Etcd::start(3).await;
    let store = store(&etcd, "a").await;
    etcd.freeze(0).await;
    let version = within_patience(|| store.put(&Key::Initialize, "", Guard::Absent)).await;
    etcd.thaw(0);
    etcd.freeze(1).await;
    within_patience(|| store.put(&Key::Initialize, "1", Guard::Version(version))).await;
    etcd.thaw(1);
    let view = store.read(Freshness::Linearizable).await.expect("read");
    assert_eq!(view.initialize.map(|key| key.value).as_deref(), Some("1"));
}

/// Tries until the store is reachable: the frozen member may have been the one that leads the others.
async fn within_patience<T, F: Future<Output = Result<T, StoreError>>>(attempt: impl Fn() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(StoreError::Unreachable(_)) if Instant::now() < deadline => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn other_members_are_discovered() {
    let mut etcd = Etcd::start(3).await;
    let section = json!({"host": etcd.hosts()[0]});
    let store = open(&config(section, "a")).await.expect("open the store");
    etcd.kill(0);
    works_within(store.as_ref(), 2 * RETRY + TOLERANCE).await;
}

#[tokio::test]
async fn a_member_without_majority_is_unreachable() {
    let mut etcd = Etcd::start(3).await;
    let store = store(&etcd, "a").await;
    store.put(&Key::Config, "{}", Guard::None).await.expect("put");
    etcd.kill(0);
    etcd.kill(2);
    assert_unreachable(store.as_ref()).await;
}

#[tokio::test]
async fn a_wiped_server_is_taken_as_it_is() {
    let mut etcd = Etcd::start(1).await;
    let store = store(&etcd, "a").await;
    for _ in 0..5 {
        store.put(&Key::Config, "{}", Guard::None).await.expect("put");
    }
    store.acquire_leader().await.expect("acquire");
    etcd.wipe(0);
    etcd.restart(0).await;
    let view = store.read(Freshness::Snapshot).await.expect("read");
    assert!(view.is_empty(), "{view:?}");
    store.renew_leader().await.expect("a lock under a lease that etcd forgot");
    assert_eq!(leader(store.as_ref()).await.as_deref(), Some("a"));
}

#[tokio::test]
async fn a_refused_value_is_no_outage() {
    let etcd = Etcd::start(1).await;
    let store = store(&etcd, "a").await;
    // etcd refuses the first itself; the second is more than it would receive.
    for bytes in [1_700_000, 3 << 20] {
        let started = Instant::now();
        let outcome = store.put(&Key::History, &"x".repeat(bytes), Guard::None).await;
        let refused = matches!(&outcome, Err(StoreError::Rejected(text)) if text.contains("larg"));
        assert!(refused, "{bytes} bytes: {outcome:?}");
        assert!(started.elapsed() < RETRY, "it was tried again");
    }
}

#[tokio::test]
async fn logins() {
    let mut etcd = Etcd::start(1).await;
    let section = |password: &str| json!({"hosts": etcd.hosts(), "username": "root", "password": password});
    let (right, wrong, none) = (section("secret"), section("no"), json!({"hosts": etcd.hosts()}));
    // A user is configured, but etcd does not ask for one yet.
    let store = open(&config(right.clone(), "a")).await.expect("open without authentication");
    store.acquire_leader().await.expect("acquire");
    etcd.etcdctl(&["user", "add", "root:secret"]);
    etcd.etcdctl(&["user", "grant-role", "root", "root"]);
    etcd.etcdctl(&["auth", "enable"]);
    store.renew_leader().await.expect("renew after logging in");
    for section in [wrong, none] {
        let error = open(&config(section, "b")).await.err();
        assert!(matches!(&error, Some(OpenError::Credentials(text)) if !text.contains("secret")), "{error:?}");
    }
    // Tokens live in memory: a restarted server knows none of them.
    etcd.kill(0);
    etcd.restart(0).await;
    store.renew_leader().await.expect("renew after logging in again");
    watched(store.as_ref(), 2).await;
    assert_eq!(leader(store.as_ref()).await.as_deref(), Some("a"));
}

#[tokio::test]
async fn certificates_of_both_sides() {
    let files = common::Certificates::make();
    let etcd = Etcd::start_tls(&files).await;
    let section = |names: &[&str]| {
        let mut section = json!({"hosts": etcd.hosts(), "protocol": "https"});
        for name in names {
            section[*name] = json!(files.path(name));
        }
        section
    };
    let store = open(&config(section(&["cacert", "cert", "key"]), "a")).await.expect("open with certificates");
    store.acquire_leader().await.expect("acquire");
    watched(store.as_ref(), 1).await;
    // The server asks for a certificate; the client does not trust the server.
    for names in [&["cacert"][..], &["cert", "key"][..]] {
        let error = open(&config(section(names), "b")).await.err();
        assert!(matches!(error, Some(OpenError::Unreachable(_))), "{names:?}: {error:?}");
    }
}

#[tokio::test]
async fn an_unreachable_server_is_worth_another_try() {
    let started = Instant::now();
    // Nobody listens on the port of discard.
    let error = open(&config(json!({"host": "127.0.0.1:9"}), "a")).await.err();
    assert!(matches!(error, Some(OpenError::Unreachable(_))), "{error:?}");
    assert!(started.elapsed() < RETRY + TOLERANCE);
}

#[tokio::test]
async fn nothing_runs_after_the_store_is_dropped() {
    let etcd = Etcd::start(1).await;
    let store = store(&etcd, "a").await;
    watched(store.as_ref(), 1).await;
    let mut changes = store.changes();
    drop(store);
    let closed = timeout(PATIENCE, async { while changes.changed().await.is_ok() {} }).await;
    closed.expect("the watch still runs");
}
