//! The endpoints of an etcd cluster: one connection each, and calls that move on to the next endpoint.
//!
//! etcd-client can spread requests over endpoints by itself, but then nobody decides which one a request goes to and a
//! frozen member swallows its share of them. Here a call stays with the endpoint that worked last and leaves it, in
//! order, when it fails or is late.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, MemberListResponse};
use model::HostPort;
use tokio::time::{Instant, sleep, timeout};

use super::failure::{Failure, is_auth_not_enabled};
use super::section::Section;
use super::seen::{Mark, Seen};
use crate::{OpenError, Timing};

/// Pause between two rounds over all endpoints: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// The least time an endpoint gets to answer.
const ATTEMPT_MIN: Duration = Duration::from_secs(1);
/// With less time left than this, another attempt cannot succeed, and would only hide why the others failed.
const LAST_ATTEMPT_MIN: Duration = Duration::from_millis(20);
/// Open connections ping this often; etcd closes connections that ping more often than every 5 s.
const PING_INTERVAL: Duration = Duration::from_secs(6);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
const TCP_KEEPALIVE: Duration = Duration::from_secs(10);
/// Endpoints learned from the cluster are bounded, whatever it says.
const ENDPOINTS_MAX: usize = 32;

/// One endpoint and its connection, made when first needed.
pub(super) struct Endpoint {
    pub url: String,
    client: Mutex<Option<Client>>,
}

impl Endpoint {
    fn new(url: String) -> Arc<Endpoint> {
        Arc::new(Endpoint { url, client: Mutex::new(None) })
    }

    /// Forgets the connection: the next use makes a new one, and logs in anew.
    pub fn disconnect(&self) {
        *lock(&self.client) = None;
    }
}

/// What a call brought.
pub(super) struct Answer<T> {
    pub value: T,
    /// An earlier attempt of the same call failed in a way that leaves open whether it was applied.
    pub doubtful: bool,
}

/// All endpoints of one etcd cluster.
pub(super) struct Pool {
    section: Section,
    timing: RwLock<Timing>,
    endpoints: RwLock<Arc<[Arc<Endpoint>]>>,
    /// Index of the endpoint to try first; taken modulo the number of endpoints.
    current: AtomicUsize,
    seen: Seen,
}

impl Pool {
    pub fn new(section: Section, timing: Timing) -> Pool {
        let endpoints: Vec<_> = section.urls.iter().cloned().map(Endpoint::new).collect();
        Pool {
            section,
            timing: RwLock::new(timing),
            endpoints: RwLock::new(endpoints.into()),
            current: AtomicUsize::new(0),
            seen: Seen::default(),
        }
    }

    pub fn timing(&self) -> Timing {
        *self.timing.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_timing(&self, timing: Timing) {
        *self.timing.write().unwrap_or_else(PoisonError::into_inner) = timing;
    }

    /// When an operation that starts now must have ended.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.timing().retry_timeout
    }

    fn endpoints(&self) -> Arc<[Arc<Endpoint>]> {
        self.endpoints.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The endpoint to use first.
    pub fn first(&self) -> Arc<Endpoint> {
        let endpoints = self.endpoints();
        // There is at least one: the section guarantees it and endpoints are only ever added.
        endpoints[self.current.load(Ordering::Relaxed) % endpoints.len()].clone()
    }

    /// Moves on from `failed`, unless somebody did so already.
    pub fn leave(&self, failed: &Endpoint) {
        failed.disconnect();
        let endpoints = self.endpoints();
        let current = self.current.load(Ordering::Relaxed);
        if endpoints[current % endpoints.len()].url == failed.url {
            let next = (current + 1) % endpoints.len();
            let _ = self.current.compare_exchange(current, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Runs `request` at one endpoint after the other until one answers, in rounds with growing pauses, until
    /// `deadline`. An answer that is older than one seen before counts as none. `what` completes "could not ...".
    pub async fn call<T, F, Fut>(&self, what: &str, deadline: Instant, request: F) -> Result<Answer<T>, Failure>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<(Option<Mark>, T), Failure>>,
    {
        let started = Instant::now();
        let mut pause = PAUSE_MIN;
        let mut doubtful = false;
        let mut problem = String::from("there is no endpoint");
        loop {
            let endpoints = self.endpoints();
            let first = self.current.load(Ordering::Relaxed);
            let mut behind = 0;
            for turn in 0..endpoints.len() {
                let endpoint = &endpoints[(first + turn) % endpoints.len()];
                let limit = attempt_limit(until(deadline), endpoints.len() - turn);
                let outcome = timeout(limit, self.attempt(endpoint, &request)).await;
                let failure = match outcome.unwrap_or_else(|_| Err(Failure::timeout(limit))) {
                    Ok(value) => return Ok(Answer { value, doubtful }),
                    Err(failure @ (Failure::Again { .. } | Failure::Behind(_))) => failure,
                    Err(failure) => return Err(explain(what, &endpoint.url, failure)),
                };
                doubtful |= failure.is_doubtful();
                behind += usize::from(matches!(failure, Failure::Behind(_)));
                problem = format!("{}: {}", endpoint.url, failure.message());
                tracing::debug!("could not {what} at {problem}");
                self.leave(endpoint);
                if until(deadline) < LAST_ATTEMPT_MIN {
                    return Err(exhausted(what, started, &problem, doubtful));
                }
            }
            if behind == endpoints.len() {
                // Nobody has the state seen before: the cluster was wiped or restored. What it says now is the truth.
                tracing::warn!("all etcd endpoints answer with an older state than before ({problem}): taking it");
                self.seen.forget();
            }
            if until(deadline) < pause + LAST_ATTEMPT_MIN {
                return Err(exhausted(what, started, &problem, doubtful));
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// One try at one endpoint; a login that has run out is renewed once.
    async fn attempt<T, F, Fut>(&self, endpoint: &Endpoint, request: &F) -> Result<T, Failure>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<(Option<Mark>, T), Failure>>,
    {
        let before = self.seen.mark();
        let outcome = match request(self.client(endpoint).await?).await {
            Err(Failure::LoginAgain(_)) if self.section.user.is_some() => {
                endpoint.disconnect();
                request(self.client(endpoint).await?).await
            }
            outcome => outcome,
        };
        let (mark, value) = outcome?;
        self.seen.admit(before, mark)?;
        Ok(value)
    }

    /// The connection to an endpoint. Making one does not wait for the network, except to log in.
    pub async fn client(&self, endpoint: &Endpoint) -> Result<Client, Failure> {
        if let Some(client) = lock(&endpoint.client).clone() {
            return Ok(client);
        }
        let options = self.options(&endpoint.url).map_err(|error| Failure::unsent(error.to_string()))?;
        let client = match &self.section.user {
            None => Client::connect([&endpoint.url], Some(options)).await,
            Some((user, password)) => {
                let with_user = options.clone().with_user(user, password);
                match Client::connect([&endpoint.url], Some(with_user)).await {
                    Err(error) if is_auth_not_enabled(&error) => Client::connect([&endpoint.url], Some(options)).await,
                    outcome => outcome,
                }
            }
        };
        let client = client.map_err(|error| match Failure::from(error) {
            Failure::Again { message, .. } => Failure::unsent(message),
            failure => failure,
        })?;
        *lock(&endpoint.client) = Some(client.clone());
        Ok(client)
    }

    fn options(&self, url: &str) -> Result<ConnectOptions, OpenError> {
        let options = ConnectOptions::new()
            .with_require_leader(true)
            .with_connect_timeout(self.timing().retry_timeout)
            .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
            .with_keep_alive_while_idle(false)
            .with_tcp_keepalive(TCP_KEEPALIVE);
        Ok(match url.starts_with("https:") {
            true => options.with_tls(self.section.tls.options()?),
            false => options,
        })
    }

    /// Learns the addresses of the cluster's other members, so that a configuration which names one endpoint survives
    /// that endpoint. Configured endpoints stay, and are tried first.
    pub async fn discover(&self) -> Result<(), Failure> {
        if !self.section.discover {
            return Ok(());
        }
        let answer = self.call("list the members of etcd", self.deadline(), |client| async move {
            Ok((None, client.cluster_client().member_list().await?))
        });
        let urls = advertised(&answer.await?.value);
        let mut endpoints = self.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<_> = endpoints.to_vec();
        for url in urls.into_iter().filter(|url| self.is_reachable_from_here(url)) {
            if list.len() < ENDPOINTS_MAX && list.iter().all(|known| known.url != url) {
                tracing::debug!("etcd has a member at {url}");
                list.push(Endpoint::new(url));
            }
        }
        *endpoints = list.into();
        Ok(())
    }

    /// A member that advertises `localhost` (the default of etcd) is there for its own machine only; here, another
    /// etcd may listen on that address.
    fn is_reachable_from_here(&self, url: &str) -> bool {
        !is_local(url) || self.section.urls.iter().any(|configured| is_local(configured))
    }
}

fn until(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn exhausted(what: &str, started: Instant, problem: &str, doubtful: bool) -> Failure {
    let spent = started.elapsed().as_secs_f64();
    Failure::Again { message: format!("could not {what} within {spent:.1}s; last, {problem}"), doubtful }
}

fn explain(what: &str, url: &str, failure: Failure) -> Failure {
    let text = |text: String| format!("could not {what} at {url}: {text}");
    match failure {
        Failure::LoginAgain(message) => Failure::LoginAgain(text(message)),
        Failure::Credentials(message) => Failure::Credentials(text(message)),
        Failure::Refused(message) => Failure::Refused(text(message)),
        other => other,
    }
}

/// The share of the remaining time that the next of `endpoints_left` endpoints gets. A single endpoint gets half: a
/// connection that died unnoticed is worth another try with a new one.
fn attempt_limit(remaining: Duration, endpoints_left: usize) -> Duration {
    let shares = u32::try_from(endpoints_left.max(2)).unwrap_or(u32::MAX);
    (remaining / shares).max(ATTEMPT_MIN).min(remaining)
}

/// Client URLs of the members, normalised; those that are no `http(s)://host:port` are left out.
fn advertised(members: &MemberListResponse) -> Vec<String> {
    let urls = members.members().iter().flat_map(|member| member.client_urls());
    urls.filter_map(|url| {
        let (scheme, rest) = url.split_once("://")?;
        let address = HostPort::parse(rest.trim_end_matches('/'), 2379)?;
        matches!(scheme, "http" | "https").then(|| format!("{scheme}://{address}"))
    })
    .collect()
}

fn is_local(url: &str) -> bool {
    HostPort::from_url(url).is_none_or(|address| {
        let ip = address.host.parse::<std::net::IpAddr>();
        address.host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified())
    })
}

impl From<Failure> for OpenError {
    fn from(failure: Failure) -> OpenError {
        match failure {
            Failure::Credentials(text) | Failure::LoginAgain(text) => {
                OpenError::Credentials(format!("etcd3.username and etcd3.password are not accepted: {text}"))
            }
            other => OpenError::Unreachable(other.message().to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_shared_among_the_endpoints_left() {
        let limit = |seconds, left| attempt_limit(Duration::from_secs(seconds), left).as_secs_f64();
        assert_eq!((limit(9, 3), limit(6, 2), limit(4, 1)), (3.0, 3.0, 2.0));
        assert_eq!((limit(10, 1), limit(2, 5), limit(0, 3)), (5.0, 1.0, 0.0));
    }

    #[test]
    fn local_addresses() {
        for url in ["http://localhost:2379", "http://127.0.0.1:1", "http://[::1]:1", "http://0.0.0.0:1"] {
            assert!(is_local(url), "{url}");
        }
        assert!(!is_local("https://10.0.0.1:2379") && !is_local("http://etcd1:2379"));
    }
}
