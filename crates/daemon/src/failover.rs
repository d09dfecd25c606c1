//! Switchover and failover on request: is it possible, ask for it in the store, wait for the outcome
//! (compatibility.md, 5.6.2; the texts are upstream's).

use std::time::Duration;

use api::{FailoverRequest, Reply};
use dcs::{Freshness, Guard, StoreError};
use ha::step::PeerAddress;
use model::settings::SynchronousMode;
use model::wire::encode_failover;
use model::{ClusterView, FailoverKey, Key, Settings};

use crate::backend::{RestBackend, reply};

/// Checks, writes the request, and for an immediate one waits until the leader has changed.
pub(crate) async fn perform(backend: &RestBackend, request: FailoverRequest) -> Reply {
    let cluster = match backend.store.read(Freshness::Linearizable).await {
        Ok(cluster) => cluster,
        Err(why) => return reply(503, why.to_string()),
    };
    let settings = match &cluster.config {
        Some(config) => Settings::resolve(&config.value).0,
        None => Settings::default(),
    };
    if let Some(refusal) = refuse(&request, &settings) {
        return refusal;
    }
    if request.scheduled_at.is_none()
        && let Some(why) = infeasible(backend, &cluster, &request, &settings).await
    {
        return reply(412, why);
    }
    let old_leader = cluster.leader_name().map(str::to_owned);
    let key = FailoverKey {
        leader: request.leader.clone(),
        candidate: request.candidate.clone(),
        scheduled_at: request.scheduled_at,
    };
    if backend.store.put(&Key::Failover, &encode_failover(&key), Guard::None).await.is_err() {
        return reply(503, "failed to write failover key into DCS");
    }
    backend.handle.wake();
    if request.scheduled_at.is_some() {
        return reply(202, format!("{} scheduled", capital(request.action())));
    }
    outcome(backend, &request, old_leader.as_deref(), &settings).await
}

fn refuse(request: &FailoverRequest, settings: &Settings) -> Option<Reply> {
    if settings.pause && request.scheduled_at.is_some() {
        return Some(reply(400, "Can't schedule switchover in the paused state"));
    }
    if settings.pause && request.candidate.is_none() {
        return Some(reply(400, "Switchover is possible only to a specific candidate in a paused state"));
    }
    if request.leader.is_some() && request.leader == request.candidate {
        return Some(reply(400, "Switchover target and source are the same"));
    }
    None
}

/// Why an immediate request cannot be done, in upstream's words.
async fn infeasible(
    backend: &RestBackend,
    cluster: &ClusterView,
    request: &FailoverRequest,
    settings: &Settings,
) -> Option<String> {
    let action = request.action();
    if request.leader.is_some() && cluster.leader_name() != request.leader.as_deref() {
        return Some("leader name does not match".to_owned());
    }
    let sync = cluster.sync.as_ref().map(|sync| &sync.value);
    let sync_matters = settings.synchronous() == SynchronousMode::On && request.leader.is_some();
    let listed =
        |name: &str| sync.is_some_and(|sync| sync.members.iter().any(|member| member.eq_ignore_ascii_case(name)));
    if let Some(candidate) = request.candidate.as_deref() {
        if sync_matters && !listed(candidate) {
            return Some("candidate name does not match with sync_standby".to_owned());
        }
        if cluster.member(candidate).is_none() {
            return Some("candidate does not exists".to_owned());
        }
    } else if sync_matters && sync.is_none_or(|sync| sync.members.is_empty()) {
        return Some(format!("{action} is not possible: can not find sync_standby"));
    }
    let eligible = cluster.members.iter().filter(|member| {
        Some(member.name.as_str()) != cluster.leader_name()
            && request.candidate.as_ref().is_none_or(|name| *name == member.name)
            && (!sync_matters || listed(&member.name))
    });
    let addresses: Vec<PeerAddress> = eligible
        .filter_map(|member| Some(PeerAddress { name: member.name.clone(), api_url: member.api_url.clone()? }))
        .collect();
    if addresses.is_empty() {
        return Some(format!("{action} is not possible: cluster does not have members except leader"));
    }
    let statuses = backend.peers.status(&addresses).await;
    let good = statuses.iter().filter_map(|status| status.answer.as_ref());
    let good = good.filter(|answer| !answer.tags.nofailover() && !answer.watchdog_failed).count();
    (good == 0).then(|| format!("{action} is not possible: no good candidates have been found"))
}

/// Waits until somebody else leads, or the request was cleared, or it has taken too long.
async fn outcome(
    backend: &RestBackend,
    request: &FailoverRequest,
    old_leader: Option<&str>,
    settings: &Settings,
) -> Reply {
    let action = request.action();
    let verb = action.trim_end_matches("over");
    let seconds = 2 * settings.loop_wait.as_secs().max(10);
    let deadline = backend.clock.now().plus(Duration::from_secs(seconds));
    let mut changes = backend.store.changes();
    while backend.clock.now() < deadline {
        if let Ok(cluster) = backend.store.read(Freshness::Linearizable).await {
            match cluster.leader_name() {
                Some(leader) if Some(leader) != old_leader => {
                    return match request.candidate.as_deref() {
                        Some(candidate) if candidate != leader => {
                            let text = format!("{}ed over to \"{leader}\" instead of \"{candidate}\"", capital(verb));
                            reply(200, text)
                        }
                        _ => reply(200, format!("Successfully {verb}ed over to \"{leader}\"")),
                    };
                }
                Some(_) if cluster.failover.is_none() => return reply(503, format!("{} failed", capital(action))),
                _ => {}
            }
        }
        // The next change of the store, or a second in case none is pushed.
        if let Ok(Err(_)) = tokio::time::timeout(Duration::from_secs(1), changes.changed()).await {
            // Nothing is pushed any more.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    let text =
        format!("{} status unknown after {seconds} seconds; operation may still be in progress", capital(action));
    reply(503, text)
}

/// Deletes a scheduled switchover.
pub(crate) async fn cancel(backend: &RestBackend) -> Reply {
    let failover = match backend.store.read(Freshness::Linearizable).await {
        Ok(cluster) => cluster.failover,
        Err(why) => return reply(503, why.to_string()),
    };
    let Some(failover) = failover.filter(|failover| failover.value.scheduled_at.is_some()) else {
        return reply(404, "no switchover is scheduled");
    };
    match backend.store.put(&Key::Failover, "{}", Guard::Version(failover.version)).await {
        Ok(_) => reply(200, "scheduled switchover deleted"),
        Err(StoreError::Rejected(_)) => reply(409, "the scheduled switchover was changed meanwhile"),
        Err(StoreError::Unreachable(why)) => reply(503, why),
    }
}

/// `switch` becomes `Switch`.
fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
