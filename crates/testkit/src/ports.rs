//! TCP ports.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};

/// Below the range from which Linux takes the local ports of outgoing connections (32768 and up): a server that is
/// down for a while must find its port free when it comes back.
const RANGE: std::ops::Range<u16> = 10_000..32_000;
const ATTEMPTS_MAX: u32 = 1000;

static HANDED_OUT: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port of 127.0.0.1 on which nobody listens and that this process has not handed out before.
///
/// # Panics
/// When a thousand random ports are all taken.
pub fn free_port() -> u16 {
    let mut handed_out = HANDED_OUT.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..ATTEMPTS_MAX {
        let port = rand::random_range(RANGE);
        if !handed_out.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            handed_out.insert(port);
            return port;
        }
    }
    panic!("no free port of {ATTEMPTS_MAX} tried between {} and {}", RANGE.start, RANGE.end);
}
