//! Other members' REST APIs, asked over HTTP or HTTPS.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use ha::step::PeerAddress;
use model::peer::{PeerAnswer, PeerStatus};
use reqwest::{Certificate, Client, Identity};

use crate::ports::Peers;

/// How long one peer may take, from connecting to the last byte.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Status objects are a few kilobytes; a longer answer is none.
const BODY_BYTES_MAX: usize = 1 << 20;

/// TLS towards peers: from the `ctl` section, where missing from `restapi`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerTls {
    /// Accept any certificate. Upstream's agents do so towards each other whatever `ctl.insecure` says: a wrong
    /// certificate must not keep a cluster from electing a leader.
    pub insecure: bool,
    /// PEM file with the authorities to trust (`ctl.cacert`, `restapi.cafile`); the system's when there is none.
    pub ca_file: Option<PathBuf>,
    /// PEM file with the certificate to show (`ctl.certfile`), perhaps with its key.
    pub cert_file: Option<PathBuf>,
    /// PEM file with the key of that certificate, not encrypted (`ctl.keyfile`).
    pub key_file: Option<PathBuf>,
}

/// The production [`Peers`].
pub struct HttpPeers {
    client: RwLock<Arc<Client>>,
}

impl HttpPeers {
    /// Reads the certificates. Errors name the file and the setting.
    pub fn new(tls: &PeerTls) -> Result<HttpPeers, String> {
        Ok(HttpPeers { client: RwLock::new(Arc::new(client(tls)?)) })
    }

    /// Reads certificates again; on an error the former ones stay in use.
    pub fn reconfigure(&self, tls: &PeerTls) -> Result<(), String> {
        let client = Arc::new(client(tls)?);
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = client;
        Ok(())
    }
}

#[async_trait]
impl Peers for HttpPeers {
    async fn status(&self, peers: &[PeerAddress]) -> Vec<PeerStatus> {
        let client = self.client.read().unwrap_or_else(PoisonError::into_inner).clone();
        futures::future::join_all(peers.iter().map(|peer| ask(&client, peer))).await
    }
}

async fn ask(client: &Client, peer: &PeerAddress) -> PeerStatus {
    let answer = match tokio::time::timeout(ANSWER_WITHIN, get(client, &peer.api_url)).await {
        Ok(Ok(body)) => {
            tracing::debug!("got response from {} {}: {}", peer.name, peer.api_url, String::from_utf8_lossy(&body));
            serde_json::from_slice(&body).ok().as_ref().and_then(PeerAnswer::from_status)
        }
        Ok(Err(error)) => {
            tracing::warn!("request failed to {}: GET {} ({error})", peer.name, peer.api_url);
            None
        }
        Err(_) => {
            let limit_s = ANSWER_WITHIN.as_secs();
            tracing::warn!("request failed to {}: GET {} (no answer within {limit_s} s)", peer.name, peer.api_url);
            None
        }
    };
    PeerStatus { name: peer.name.clone(), answer }
}

/// The body, whatever the HTTP status: a node that is not running answers 503, and still says where it is.
async fn get(client: &Client, url: &str) -> Result<Vec<u8>, String> {
    let mut response = client.get(url).send().await.map_err(|error| causes(&error))?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| causes(&error))? {
        body.extend_from_slice(&chunk);
        if body.len() > BODY_BYTES_MAX {
            return Err(format!("the answer is longer than {BODY_BYTES_MAX} bytes"));
        }
    }
    Ok(body)
}

/// The innermost causes say what went wrong; the outermost only that something did.
fn causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

fn client(tls: &PeerTls) -> Result<Client, String> {
    // Fails when the process has a provider already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(ANSWER_WITHIN)
        .pool_max_idle_per_host(0)
        .user_agent(concat!("Patroni/", env!("CARGO_PKG_VERSION")));
    if tls.insecure {
        builder = builder.tls_danger_accept_invalid_certs(true);
    }
    if let Some(file) = &tls.ca_file {
        let invalid = |error: &dyn std::fmt::Display| invalid("ctl.cacert or restapi.cafile", file, error);
        let authorities = Certificate::from_pem_bundle(&read("ctl.cacert or restapi.cafile", file)?);
        let authorities = authorities.map_err(|error| invalid(&error))?;
        if authorities.is_empty() {
            return Err(invalid(&"no certificate in it"));
        }
        builder = builder.tls_certs_only(authorities);
    }
    if let Some(file) = &tls.cert_file {
        let mut pem = read("ctl.certfile", file)?;
        if let Some(key_file) = &tls.key_file {
            pem.push(b'\n');
            pem.extend(read("ctl.keyfile", key_file)?);
        }
        let identity = Identity::from_pem(&pem).map_err(|error| {
            let reason = format!("{}; expected a certificate and a key that is not encrypted", causes(&error));
            invalid("ctl.certfile and ctl.keyfile", file, &reason)
        })?;
        builder = builder.identity(identity);
    }
    builder.build().map_err(|error| format!("cannot set up TLS towards other members: {}", causes(&error)))
}

fn read(setting: &str, file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|error| format!("cannot read {setting} {}: {error}", file.display()))
}

fn invalid(setting: &str, file: &Path, reason: &dyn std::fmt::Display) -> String {
    format!("cannot use {setting} {}: {reason}", file.display())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use model::Lsn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// A peer that answers everything with `response`, or accepts and stays silent.
    async fn peer(name: &str, response: Option<String>) -> PeerAddress {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let api_url = format!("http://{}/patroni", listener.local_addr().expect("an address"));
        tokio::spawn(async move {
            let mut silent = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let count = stream.read(&mut request).await.expect("a request");
                assert!(request[..count].starts_with(b"GET /patroni HTTP/1.1\r\n"));
                match &response {
                    Some(response) => stream.write_all(response.as_bytes()).await.expect("an answer"),
                    None => silent.push(stream),
                }
            }
        });
        PeerAddress { name: name.to_owned(), api_url }
    }

    fn http(status: &str, body: &str) -> Option<String> {
        Some(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
    }

    #[tokio::test]
    async fn answers_come_in_the_order_asked_and_one_silent_peer_costs_two_seconds_in_all() {
        let body =
            r#"{"state": "running", "role": "replica", "xlog": {"received_location": 5, "replayed_location": 4}}"#;
        let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
        let peers = [
            peer("silent", None).await,
            peer("ok", http("200 OK", body)).await,
            peer("not-ready", http("503 Service Unavailable", body)).await,
            peer("silent-too", None).await,
            peer("garbage", http("200 OK", "<html>")).await,
            PeerAddress { name: "closed".to_owned(), api_url: format!("http://{closed}/patroni") },
            PeerAddress { name: "no-url".to_owned(), api_url: "nowhere".to_owned() },
        ];
        let began = Instant::now();
        let statuses = HttpPeers::new(&PeerTls::default()).expect("a client").status(&peers).await;
        assert!(began.elapsed() < 2 * ANSWER_WITHIN, "the silent ones were waited for one after the other");
        let seen: Vec<_> = statuses.iter().map(|s| (s.name.as_str(), s.answer.as_ref().map(|a| a.wal))).collect();
        assert_eq!(
            seen,
            [
                ("silent", None),
                ("ok", Some(Lsn(5))),
                ("not-ready", Some(Lsn(5))),
                ("silent-too", None),
                ("garbage", None),
                ("closed", None),
                ("no-url", None)
            ]
        );
    }

    #[test]
    fn bad_certificates_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("empty.pem");
        std::fs::write(&file, "nothing").expect("a file");
        for (tls, setting) in [
            (PeerTls { ca_file: Some(file.clone()), ..PeerTls::default() }, "cafile"),
            (PeerTls { cert_file: Some(file.clone()), ..PeerTls::default() }, "certfile"),
            (PeerTls { cert_file: Some(dir.path().join("none")), ..PeerTls::default() }, "certfile"),
        ] {
            let error = HttpPeers::new(&tls).err().expect("no certificate");
            assert!(error.contains(setting), "{error}");
        }
    }
}
