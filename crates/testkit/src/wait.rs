//! Waiting for a condition.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const POLL_MS: u64 = 50;

/// Asks `probe` until it answers `Ok`, at most for `limit`; the error holds what the last `Err` said.
pub async fn wait_for<T, F>(what: &str, limit: Duration, mut probe: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let started = Instant::now();
    loop {
        match probe().await {
            Ok(value) => return Ok(value),
            Err(error) if started.elapsed() >= limit => {
                bail!("waited {:.1} s for {what}; last seen: {error:#}", started.elapsed().as_secs_f64())
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(POLL_MS)).await,
        }
    }
}

/// [`wait_for`] a plain condition.
pub async fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    wait_for(what, limit, || {
        let holds = condition();
        async move { if holds { Ok(()) } else { bail!("it does not hold") } }
    })
    .await
}

/// Asks `probe` over and over for as long as `time`; fails as soon as it answers `Err`. For what must *not* happen.
pub async fn holds_for<F>(what: &str, time: Duration, mut probe: impl FnMut() -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let started = Instant::now();
    while started.elapsed() < time {
        if let Err(error) = probe().await {
            bail!("{what} ended after {:.1} s: {error:#}", started.elapsed().as_secs_f64());
        }
        tokio::time::sleep(Duration::from_millis(POLL_MS)).await;
    }
    Ok(())
}
