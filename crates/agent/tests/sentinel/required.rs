//! `sentinel.mode: required`, and a sentinel that dies and cannot be started again.

use std::path::Path;
use std::time::Duration;

use agent::clock::boot_now;
use agent::fence::{Mode, SentinelFence, SentinelOptions};
use agent::ports::Fence;
use agent::sentinel::proc::{self, ProcId};
use model::LeaseTimes;
use rustix::process::Signal;

use crate::world::{example, until};

fn sentinel_of(data_dir: &Path) -> Option<ProcId> {
    let mark = format!("\0--sentinel\0{}\0", data_dir.display());
    let is_ours = |stat: &proc::Stat| {
        let line = std::fs::read(format!("/proc/{}/cmdline", stat.id.pid)).unwrap_or_default();
        String::from_utf8_lossy(&line).ends_with(&mark)
    };
    proc::all().into_iter().find(|stat| stat.is_alive() && is_ours(stat)).map(|stat| stat.id)
}

/// Found in review: one answer that did not come in time was a failure at once. Now it is one when the deadline that
/// still stands comes so close that PostgreSQL has to stop, and not later; the loop is woken then.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_sentinel_is_a_failure_in_time_before_its_deadline_and_not_sooner() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().canonicalize().expect("canonical");
    let (program, data_dir) = (dir.join("program"), dir.join("data"));
    std::fs::copy(example(), &program).expect("copy the example");
    let mut options = SentinelOptions::new(data_dir.clone(), "test/required".to_owned(), Mode::Required);
    options.program = program.clone();
    let fence = SentinelFence::new(options);
    let [ttl, loop_wait, retry_timeout] = [5, 1, 2].map(Duration::from_secs);
    fence.set_times(LeaseTimes { ttl, loop_wait, retry_timeout });
    let mut events = fence.events().pop().expect("a counter");
    let deadline = boot_now().plus(Duration::from_secs(3));
    fence.arm(deadline).await.expect("armed");
    events.mark_unchanged();

    std::fs::remove_file(&program).expect("remove");
    sentinel_of(&data_dir).expect("a sentinel").signal(Signal::KILL);
    until("it is gone", || sentinel_of(&data_dir).is_none().then_some(()));
    let later = boot_now().plus(Duration::from_secs(4));
    fence.arm(later).await.expect_err("nobody can be started");
    assert!(!fence.failed(), "it may be mended in time");
    tokio::time::timeout(Duration::from_secs(10), events.changed()).await.expect("woken").expect("the fence lives");
    assert!(fence.failed());
    let left = deadline.since(boot_now());
    assert!(!left.is_zero() && left <= ttl / 5, "{left:?} are left of the deadline that was confirmed");

    // Mended, nobody has to ask again: what was wished for is delivered, and the loop hears of it.
    std::fs::copy(example(), &program).expect("copy the example");
    tokio::time::timeout(Duration::from_secs(10), events.changed()).await.expect("woken").expect("the fence lives");
    assert!(!fence.failed());
    fence.disarm().await;
    sentinel_of(&data_dir).expect("a sentinel").signal(Signal::KILL);
}
