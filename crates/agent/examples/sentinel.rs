//! The sentinel alone, and an agent that only arms it: what the tests of the fence run as processes of their own.
//!
//! `sentinel --sentinel DATA_DIR` is the sentinel. `sentinel guard DATA_DIR TTL_MS` arms it through
//! [`SentinelFence`], prints `armed DEADLINE_MS`, and from then on renews for each line `renew` on standard input,
//! disarms for `disarm`, and answers each with `armed DEADLINE_MS`, `disarmed`, or `error SENTENCE`.

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
        ["guard", data_dir, ttl_ms] => guard(data_dir, Duration::from_millis(ttl_ms.parse().expect("milliseconds"))),
        _ => panic!("expected --sentinel DATA_DIR, or guard DATA_DIR TTL_MS"),
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn guard(data_dir: &str, ttl: Duration) {
    let fence = SentinelFence::new(SentinelOptions::new(data_dir.into(), "test/guard".to_owned(), Mode::Required));
    println!("{}", arm(&fence, ttl).await);
    for line in std::io::stdin().lock().lines() {
        match line.expect("a line").as_str() {
            "disarm" => {
                fence.disarm().await;
                println!("disarmed");
            }
            _ => println!("{}", arm(&fence, ttl).await),
        }
    }
}

async fn arm(fence: &SentinelFence, ttl: Duration) -> String {
    let deadline = boot_now().plus(ttl);
    match fence.arm(deadline).await {
        Ok(()) => format!("armed {}", deadline.0),
        Err(error) => format!("error {error}"),
    }
}
