//! The keeper with a clock that can jump and a store that can be slow, both of these tests.

use std::sync::atomic::AtomicU64;

use async_trait::async_trait;
use dcs::{Capabilities, Changes, Freshness, Guard};
use model::{ClusterView, Key, Member};
use tokio::time::Instant;

use super::*;

/// `CLOCK_BOOTTIME` of a machine that can be suspended: its sleeps, like the runtime's, stand still meanwhile and are
/// looked at again after a slice.
struct Machine {
    began: Instant,
    suspended_ms: AtomicU64,
}

impl Machine {
    fn suspend(&self, duration: Duration) {
        self.suspended_ms.fetch_add(duration.as_millis() as u64, Ordering::Relaxed);
    }
}

#[async_trait]
impl Clock for Machine {
    fn now(&self) -> BootTime {
        let ms = self.began.elapsed().as_millis() as u64;
        BootTime(1_000_000 + ms + self.suspended_ms.load(Ordering::Relaxed))
    }

    fn wall(&self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }

    async fn sleep_until(&self, deadline: BootTime) {
        while self.now() < deadline {
            let left = deadline.since(self.now());
            tokio::time::sleep(left.min(Duration::from_millis(250))).await;
        }
    }
}

/// What happens during the next lease operation, before it succeeds.
type During = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Script {
    delay_ms: AtomicU64,
    during: Mutex<Option<During>>,
    renewals: AtomicU64,
    /// Somebody else has the lock.
    taken: AtomicBool,
}

impl Script {
    fn delay(&self, delay: Duration) {
        self.delay_ms.store(delay.as_millis() as u64, Ordering::Relaxed);
    }

    async fn play(&self) -> Result<(), StoreError> {
        let during = self.during.lock().expect("lock").take();
        if let Some(during) = during {
            during();
        }
        tokio::time::sleep(Duration::from_millis(self.delay_ms.load(Ordering::Relaxed))).await;
        match self.taken.load(Ordering::Relaxed) {
            true => Err(StoreError::Rejected("held by another".to_owned())),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Store for Script {
    fn capabilities(&self) -> Capabilities {
        Capabilities { name: "script", watch: false }
    }
    fn set_timing(&self, _timing: Timing) {}
    async fn read(&self, _freshness: Freshness) -> Result<ClusterView, StoreError> {
        self.play().await.map(|()| ClusterView::default())
    }
    async fn acquire_leader(&self) -> Result<(), StoreError> {
        self.play().await
    }
    async fn renew_leader(&self) -> Result<(), StoreError> {
        self.renewals.fetch_add(1, Ordering::Relaxed);
        self.play().await
    }
    async fn release_leader(&self) -> Result<(), StoreError> {
        self.play().await
    }
    async fn touch_member(&self, _member: &Member) -> Result<(), StoreError> {
        self.play().await
    }
    async fn delete_member(&self, _name: &str) -> Result<(), StoreError> {
        self.play().await
    }
    async fn put(&self, _key: &Key, _value: &str, _guard: Guard) -> Result<u64, StoreError> {
        self.play().await.map(|()| 1)
    }
    async fn delete(&self, _key: &Key, _guard: Guard) -> Result<(), StoreError> {
        self.play().await
    }
    async fn delete_cluster(&self) -> Result<(), StoreError> {
        self.play().await
    }
    fn changes(&self) -> watch::Receiver<Changes> {
        watch::Sender::new(Changes::default()).subscribe()
    }
}

/// Remembers its deadline.
#[derive(Default)]
struct Recorder {
    deadline: Mutex<Option<BootTime>>,
    broken: AtomicBool,
}

#[async_trait]
impl Fence for Recorder {
    async fn arm(&self, deadline: BootTime) -> Result<(), String> {
        if self.failed() {
            return Err("nobody is there".to_owned());
        }
        *self.deadline.lock().expect("lock") = Some(deadline);
        Ok(())
    }
    async fn disarm(&self) {
        *self.deadline.lock().expect("lock") = None;
    }
    fn failed(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }
}

struct Bench {
    machine: Arc<Machine>,
    store: Arc<Script>,
    fence: Arc<Recorder>,
    stop: watch::Sender<bool>,
    keeper: Arc<Keeper>,
}

fn timing(ttl_s: u64) -> Timing {
    let [ttl, loop_wait, retry_timeout] = [ttl_s, ttl_s / 3, ttl_s / 3].map(Duration::from_secs);
    Timing { ttl, loop_wait, retry_timeout }
}

/// A keeper with ttl 30, whose own renewals run.
fn bench() -> Bench {
    let machine = Arc::new(Machine { began: Instant::now(), suspended_ms: AtomicU64::new(0) });
    let (store, fence) = (Arc::new(Script::default()), Arc::new(Recorder::default()));
    let (stop, stopping) = watch::channel(false);
    let promises = Promises::new(machine.clone(), Arc::new(crate::promises::tests::Disk::default()));
    let keeper = Arc::new(Keeper::new(store.clone(), fence.clone(), machine.clone(), promises, timing(30), stopping));
    tokio::spawn(keeper.clone().run());
    Bench { machine, store, fence, stop, keeper }
}

impl Bench {
    fn armed_until(&self) -> Option<BootTime> {
        *self.fence.deadline.lock().expect("lock")
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn the_deadline_counts_from_before_the_request() {
    let bench = bench();
    bench.store.delay(seconds(4));
    let sent = bench.machine.now();
    assert_eq!(bench.keeper.acquire().await, Outcome::Leased(sent.plus(seconds(27))));
    assert_eq!(bench.keeper.lease(), LeaseView::Held(sent.plus(seconds(27))));
    assert_eq!(bench.armed_until(), Some(sent.plus(seconds(27))));
}

/// Pitfall 27: a suspended machine. Its sleeps did not notice, its lease did.
#[tokio::test(start_paused = true)]
async fn a_suspended_machine_wakes_up_without_its_lease() {
    let bench = bench();
    assert!(matches!(bench.keeper.acquire().await, Outcome::Leased(_)));
    let mut changes = bench.keeper.changes();
    changes.mark_unchanged();
    bench.machine.suspend(seconds(3600));
    assert_eq!((bench.keeper.lease(), bench.keeper.holds()), (LeaseView::Lost, false));
    // The loop is woken as soon as the keeper's short sleep has ended.
    let waited = Instant::now();
    changes.changed().await.expect("the keeper lives");
    assert!(waited.elapsed() <= Duration::from_millis(500), "{:?}", waited.elapsed());

    // Suspended between the request and its answer.
    let machine = bench.machine.clone();
    *bench.store.during.lock().expect("lock") = Some(Box::new(move || machine.suspend(seconds(60))));
    let outcome = bench.keeper.acquire().await;
    assert!(matches!(&outcome, Outcome::Unreachable(why) if why.contains("after the lease")), "{outcome:?}");
    assert!(!bench.keeper.holds());
}

/// Found in review: a ttl that is lowered while a renewal is under way. The store may have used either.
#[tokio::test(start_paused = true)]
async fn of_two_lifetimes_the_shorter_counts() {
    let bench = bench();
    for (before, after) in [(60, 20), (20, 60)] {
        bench.keeper.set_timing(timing(before));
        let keeper = bench.keeper.clone();
        *bench.store.during.lock().expect("lock") = Some(Box::new(move || keeper.set_timing(timing(after))));
        let sent = bench.machine.now();
        assert_eq!(bench.keeper.acquire().await, Outcome::Leased(sent.plus(seconds(18))));
    }
}

/// Found in review: with the keeper's own attempt before it in the queue, a renewal could come back when the lease had
/// ended.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_the_store_beyond_the_moment_to_act() {
    let bench = bench();
    let Outcome::Leased(deadline) = bench.keeper.acquire().await else { panic!("not leased") };
    bench.store.delay(seconds(1000));
    // The keeper tries from the tenth second on; the loop comes a moment later.
    bench.machine.sleep_until(deadline.minus(seconds(16))).await;
    bench.keeper.progress();
    assert_eq!(bench.store.renewals.load(Ordering::Relaxed), 1);
    let outcome = bench.keeper.renew().await;
    assert!(matches!(outcome, Outcome::Unreachable(_)), "{outcome:?}");
    let left = deadline.since(bench.machine.now());
    assert!(left >= seconds(5), "{left:?} are left to stop PostgreSQL");
    // Nor is anything else waited for.
    let put = bench.keeper.bounded(bench.store.put(&Key::Status, "", Guard::None)).await;
    assert!(matches!(put, Err(StoreError::Unreachable(_))));
    assert!(deadline.since(bench.machine.now()) >= seconds(4));
}

/// A lease that was prolonged meanwhile gives a slow answer more time.
#[tokio::test(start_paused = true)]
async fn a_renewed_lease_prolongs_the_wait() {
    let bench = bench();
    assert!(matches!(bench.keeper.acquire().await, Outcome::Leased(_)));
    let slow = bench.keeper.bounded(async {
        tokio::time::sleep(seconds(40)).await;
        Ok(())
    });
    let renewing = async {
        for _ in 0..5 {
            tokio::time::sleep(seconds(7)).await;
            assert!(matches!(bench.keeper.renew().await, Outcome::Leased(_)));
        }
    };
    let (answer, ()) = tokio::join!(slow, renewing);
    assert_eq!(answer, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_stops_waits_little_for_the_store_and_then_less() {
    let bench = bench();
    bench.store.delay(seconds(1000));
    let waiting = {
        let (keeper, store) = (bench.keeper.clone(), bench.store.clone());
        tokio::spawn(async move { keeper.bounded(store.read(Freshness::Snapshot)).await })
    };
    tokio::time::sleep(seconds(5)).await;
    // Told in the middle of it.
    bench.stop.send_replace(true);
    let told = Instant::now();
    assert!(matches!(waiting.await, Ok(Err(StoreError::Unreachable(_)))));
    assert!(told.elapsed() <= seconds(3), "{:?}", told.elapsed());
    let told = Instant::now();
    assert!(matches!(bench.keeper.release().await, Outcome::Unreachable(_)));
    assert!(told.elapsed() <= seconds(1), "{:?}", told.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_stuck_loop_loses_the_lease() {
    let bench = bench();
    assert!(matches!(bench.keeper.acquire().await, Outcome::Leased(_)));
    bench.keeper.progress();
    // ttl 30, loop_wait and retry_timeout 10: the loop may be silent for 30 s.
    tokio::time::sleep(seconds(29)).await;
    assert!(bench.keeper.holds(), "a loop that waits for a disk keeps the lease");
    tokio::time::sleep(seconds(31)).await;
    assert!(!bench.keeper.holds());
    assert!(bench.armed_until().is_some_and(|deadline| deadline < bench.machine.now()));
}

/// Found in review: the keeper's own renewals armed a fence that had been let go, and nobody knew.
#[tokio::test(start_paused = true)]
async fn a_fence_that_was_let_go_stays_so_until_the_rules_renew() {
    let bench = bench();
    assert!(matches!(bench.keeper.acquire().await, Outcome::Leased(_)));
    bench.keeper.let_go_of_fence().await;
    let before = bench.store.renewals.load(Ordering::Relaxed);
    for _ in 0..10 {
        tokio::time::sleep(seconds(3)).await;
        bench.keeper.progress();
    }
    assert!(bench.store.renewals.load(Ordering::Relaxed) > before, "the keeper renews");
    assert_eq!(bench.armed_until(), None);
    assert!(matches!(bench.keeper.renew().await, Outcome::Leased(_)));
    assert!(bench.armed_until().is_some());
    // Hands off while paused.
    bench.keeper.set_fencing(false);
    bench.keeper.let_go_of_fence().await;
    assert!(matches!(bench.keeper.renew().await, Outcome::Leased(_)));
    assert_eq!(bench.armed_until(), None);
}

#[tokio::test(start_paused = true)]
async fn a_lock_without_a_required_guard_is_no_permission() {
    let bench = bench();
    bench.fence.broken.store(true, Ordering::Relaxed);
    let outcome = bench.keeper.acquire().await;
    assert!(matches!(&outcome, Outcome::Unfenced(why) if why == "nobody is there"), "{outcome:?}");
    // The lock is this node's all the same, and must be given back.
    assert!(bench.keeper.holds() && !bench.keeper.permits_writing());
}

/// Found in review: a promotion under way went by the deadline of its proof, although a renewal had been refused since.
#[tokio::test(start_paused = true)]
async fn a_refused_renewal_ends_every_permission_whatever_the_deadline() {
    let bench = bench();
    let Outcome::Leased(deadline) = bench.keeper.acquire().await else { panic!("not leased") };
    assert!(bench.keeper.permits_writing());
    bench.store.taken.store(true, Ordering::Relaxed);
    assert!(matches!(bench.keeper.renew().await, Outcome::Rejected(_)));
    assert!(bench.machine.now() < deadline && !bench.keeper.permits_writing());
}

#[tokio::test(start_paused = true)]
async fn promises_prolong_a_lease_and_do_not_make_one() {
    let bench = bench();
    let now = bench.machine.now();
    assert!(matches!(bench.keeper.lead_by_promise(now).await, Outcome::Rejected(_)), "there was no lease");
    let Outcome::Leased(granted) = bench.keeper.acquire().await else { panic!("not leased") };
    bench.store.delay(seconds(1000));
    bench.machine.sleep_until(granted.minus(seconds(8))).await;
    let asked = bench.machine.now().minus(seconds(2));
    let until = asked.plus(seconds(27));
    assert_eq!(bench.keeper.lead_by_promise(asked).await, Outcome::Leased(until));
    assert_eq!((bench.keeper.lease(), bench.armed_until()), (LeaseView::Held(until), Some(until)));
    // What is granted has ended, what is promised has not; then that has, too.
    bench.machine.sleep_until(granted.plus(seconds(1))).await;
    assert!(bench.keeper.holds());
    bench.machine.sleep_until(until).await;
    assert_eq!(bench.keeper.lease(), LeaseView::Lost);
    assert!(matches!(bench.keeper.lead_by_promise(bench.machine.now()).await, Outcome::Rejected(_)));
}

/// Pitfall 26: in failsafe mode the store is not waited for beyond the moment at which the members must be asked.
#[tokio::test(start_paused = true)]
async fn failsafe_mode_leaves_time_to_ask_the_members() {
    let bench = bench();
    bench.keeper.set_failsafe_mode(true);
    let Outcome::Leased(deadline) = bench.keeper.acquire().await else { panic!("not leased") };
    bench.store.delay(seconds(1000));
    bench.machine.sleep_until(deadline.minus(seconds(16))).await;
    let outcome = bench.keeper.renew().await;
    assert!(matches!(outcome, Outcome::Unreachable(_)), "{outcome:?}");
    let left = deadline.since(bench.machine.now());
    assert!(left >= LeaseTimes::FAILSAFE_ROUND + seconds(5), "{left:?} are left to ask the members and to stop");
}

#[tokio::test(start_paused = true)]
async fn whoever_promised_does_not_take_the_lock_and_whoever_leads_does_not_promise() {
    let bench = bench();
    let leader = FailsafeLeader { name: "a".to_owned(), ..FailsafeLeader::default() };
    bench.keeper.promise(leader.clone()).await.expect("accepted");
    for outcome in [bench.keeper.acquire().await, bench.keeper.renew().await] {
        assert!(matches!(&outcome, Outcome::Rejected(why) if why.contains("promised a")), "{outcome:?}");
    }
    bench.machine.sleep_until(bench.machine.now().plus(seconds(30))).await;
    assert!(matches!(bench.keeper.acquire().await, Outcome::Leased(_)));
    assert_eq!(bench.keeper.promise(leader).await, Err("Running as a leader".to_owned()));
}
