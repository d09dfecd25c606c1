//! The first blow of the sentinel allocates nothing, and stops a server with its children.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agent::sentinel::kill::{Known, sweep};
use agent::sentinel::proc::ProcId;
use agent::sentinel::strike::Strike;

thread_local! {
    /// Requests for memory by this thread.
    static REQUESTS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        REQUESTS.with(|requests| requests.set(requests.get() + 1));
        // SAFETY: the caller keeps the promises of this very function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn nothing_is_allocated_and_everything_stands_still() {
    let script = "sleep 600 & echo $!; sleep 600 & echo $!; wait";
    let mut server = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().expect("sh");
    let lines = BufReader::new(server.stdout.take().expect("piped")).lines().take(2);
    let mut family: Vec<ProcId> =
        lines.map(|line| ProcId::of(line.expect("a line").parse().expect("a pid")).expect("a child")).collect();
    let postmaster = ProcId::of(server.id() as i32).expect("a server");
    family.push(postmaster);
    let known = Known::open(postmaster).expect("a live process");
    let strike = Strike::prepare();

    // The counter counts.
    let before = REQUESTS.with(Cell::get);
    drop(std::hint::black_box(Box::new(before)));
    assert!(REQUESTS.with(Cell::get) > before);

    let before = REQUESTS.with(Cell::get);
    strike.stop(&known);
    let allocated = REQUESTS.with(Cell::get) - before;
    assert_eq!(allocated, 0, "memory was asked for");
    let deadline = Instant::now() + Duration::from_secs(10);
    while !family.iter().all(|id| id.alive().is_some_and(|stat| stat.state == b'T')) {
        assert!(Instant::now() < deadline, "not stopped: {:?}", family.iter().map(|id| id.alive()).collect::<Vec<_>>());
        std::thread::yield_now();
    }
    sweep(&std::env::temp_dir().join("gone"), Some(&known));
    assert!(!server.wait().expect("reap").success());
}
