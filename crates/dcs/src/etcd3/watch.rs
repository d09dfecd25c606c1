//! Watching the keys of the cluster, forever.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{WatchOptions, WatchResponse, WatchStream};
use model::Key;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::failure::Failure;
use super::kv::ANSWER_BYTES_MAX;
use super::pool::{Endpoint, Pool};
use crate::{Changes, Timing};

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Watches all keys below `prefix` and counts what changes, until it is dropped.
///
/// A watch starts at the present. What happened while there was none is covered by `resets`, which is counted after
/// etcd confirmed the watch: whoever reads the keys then sees everything the watch will not tell. Hence no revision is
/// carried over, and compaction cannot get in the way.
pub(super) async fn run(pool: Arc<Pool>, prefix: String, changes: watch::Sender<Changes>) {
    let mut pause = PAUSE_MIN;
    loop {
        let endpoint = pool.first();
        let resets = changes.borrow().resets;
        let failure = follow(&pool, &endpoint, &prefix, &changes).await;
        if changes.borrow().resets != resets {
            tracing::warn!("watch of {prefix} at {} was lost: {}", endpoint.url, failure.message());
            pause = PAUSE_MIN;
        } else {
            tracing::debug!("could not watch {prefix} at {}: {}", endpoint.url, failure.message());
        }
        pool.leave(&endpoint);
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// One watch, from its creation to its end.
async fn follow(pool: &Pool, endpoint: &Endpoint, prefix: &str, changes: &watch::Sender<Changes>) -> Failure {
    let limit = answer_limit(pool.timing());
    let outcome = timeout(limit, create(pool, endpoint, prefix)).await;
    let mut stream = match outcome.unwrap_or_else(|_| Err(Failure::timeout(limit))) {
        Ok(stream) => stream,
        Err(failure) => return failure,
    };
    changes.send_modify(|counts| counts.resets += 1);
    tracing::debug!("watching {prefix} at {}", endpoint.url);
    loop {
        match next(pool.timing(), &mut stream).await {
            Ok(response) => count(&response, prefix, changes),
            Err(failure) => return failure,
        }
    }
}

async fn create(pool: &Pool, endpoint: &Endpoint, prefix: &str) -> Result<WatchStream, Failure> {
    let client = pool.client(endpoint).await?;
    let mut client = client.watch_client().max_decoding_message_size(ANSWER_BYTES_MAX);
    let mut stream = client.watch(prefix, Some(WatchOptions::new().with_prefix())).await?;
    while !checked(stream.message().await?)?.created() {}
    Ok(stream)
}

/// The next message. When there is none for a while, asks etcd for its progress: an end that is frozen, or a watch that
/// was forgotten behind an open connection, does not answer.
async fn next(timing: Timing, stream: &mut WatchStream) -> Result<WatchResponse, Failure> {
    let limit = answer_limit(timing);
    if let Ok(message) = timeout(limit, stream.message()).await {
        return checked(message?);
    }
    let answered = async {
        stream.request_progress().await?;
        checked(stream.message().await?)
    };
    timeout(limit, answered).await.unwrap_or_else(|_| Err(Failure::timeout(limit)))
}

fn checked(message: Option<WatchResponse>) -> Result<WatchResponse, Failure> {
    let Some(response) = message else {
        return Err(Failure::unsent("etcd closed the watch".to_owned()));
    };
    if response.canceled() {
        return Err(Failure::unsent(format!("etcd cancelled the watch: {}", response.cancel_reason())));
    }
    Ok(response)
}

/// How long silence may last before it is looked into, and then how long an answer may take.
fn answer_limit(timing: Timing) -> Duration {
    (timing.loop_wait / 2).clamp(Duration::from_secs(1), Duration::from_secs(5))
}

fn count(response: &WatchResponse, prefix: &str, changes: &watch::Sender<Changes>) {
    let keys = response.events().iter().filter_map(|event| {
        let path = event.kv()?.key_str().ok()?.strip_prefix(prefix)?;
        Key::parse(path)
    });
    let mut delta = Changes::default();
    for key in keys {
        match key {
            Key::Leader => delta.leader += 1,
            Key::Member(_) | Key::Status | Key::OptimeLeader => delta.members += 1,
            Key::Initialize | Key::Config | Key::Failover | Key::Sync | Key::History | Key::Failsafe => {
                delta.cluster += 1;
            }
        }
    }
    if delta != Changes::default() {
        changes.send_modify(|counts| {
            counts.leader += delta.leader;
            counts.members += delta.members;
            counts.cluster += delta.cluster;
        });
    }
}
