//! The sentinel alone, and an agent that only arms it: what the tests of the fence run as processes of their own.
//!
//! `sentinel --sentinel DATA_DIR` is the sentinel. `sentinel guard DATA_DIR` uses it through [`SentinelFence`]: for each
//! line `arm TTL_MS`, `disarm` or `postmaster PID` on standard input it prints `armed DEADLINE_MS`, `disarmed`,
//! `postmaster`, or `error SENTENCE`.

use std::io::BufRead;
use std::time::Duration;

use agent::clock::boot_now;
use agent::fence::{Mode, SentinelFence, SentinelOptions};
use agent::ports::Fence;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["--sentinel", ..] => std::process::exit(agent::sentinel::main(&arguments[1..])),
        ["guard", data_dir] => guard(data_dir),
        _ => panic!("expected --sentinel DATA_DIR, or guard DATA_DIR"),
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn guard(data_dir: &str) {
    let fence = SentinelFence::new(SentinelOptions::new(data_dir.into(), "test/guard".to_owned(), Mode::Required));
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("a line");
        match line.split_once(' ') {
            Some(("postmaster", pid)) => {
                fence.set_postmaster(Some(pid.parse().expect("a number")));
                println!("postmaster");
            }
            Some((_, ttl_ms)) => {
                let deadline = boot_now().plus(Duration::from_millis(ttl_ms.parse().expect("milliseconds")));
                match fence.arm(deadline).await {
                    Ok(()) => println!("armed {}", deadline.0),
                    Err(error) => println!("error {error}"),
                }
            }
            None => {
                fence.disarm().await;
                println!("disarmed");
            }
        }
    }
}
