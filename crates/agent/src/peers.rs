//! Other members' REST APIs, asked over HTTP or HTTPS.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use ha::step::PeerAddress;
use model::peer::PeerStatus;
use model::{FailsafeLeader, FailsafeReply, Lsn, causes};
use reqwest::{Certificate, Client, Identity, Response, Url};

use crate::ports::Peers;

/// How long one peer may take, from connecting to the last byte.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Status objects are a few kilobytes; a longer answer is none.
const BODY_BYTES_MAX: usize = 1 << 20;

/// How often a peer that does not answer is asked for its promise.
const PROMISE_ATTEMPTS: usize = 2;

/// What a member that promises answers, with status 200.
const ACCEPTED: &str = "Accepted";

/// Name and password for other members' REST APIs (`ctl.authentication`, where missing `restapi.authentication`).
#[derive(Clone, PartialEq, Eq)]
pub struct BasicAuth {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
}

impl std::fmt::Debug for BasicAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BasicAuth({}, ***)", self.username)
    }
}

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
    /// Credentials for what is not open to everybody.
    pub authentication: Option<BasicAuth>,
}

/// How peers are spoken to.
struct Line {
    client: Client,
    authentication: Option<BasicAuth>,
}

/// The production [`Peers`].
pub struct HttpPeers {
    line: RwLock<Arc<Line>>,
}

impl HttpPeers {
    /// Reads the certificates. Errors name the file and the setting.
    pub fn new(tls: &PeerTls) -> Result<HttpPeers, String> {
        Ok(HttpPeers { line: RwLock::new(Arc::new(line(tls)?)) })
    }

    /// Reads certificates again; on an error the former ones stay in use.
    pub fn reconfigure(&self, tls: &PeerTls) -> Result<(), String> {
        let line = Arc::new(line(tls)?);
        *self.line.write().unwrap_or_else(PoisonError::into_inner) = line;
        Ok(())
    }

    fn line(&self) -> Arc<Line> {
        self.line.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Peers for HttpPeers {
    async fn status(&self, peers: &[PeerAddress]) -> Vec<PeerStatus> {
        let line = self.line();
        futures::future::join_all(peers.iter().map(|peer| ask(&line.client, peer))).await
    }

    async fn failsafe(&self, peers: &[PeerAddress], leader: &FailsafeLeader) -> Vec<FailsafeReply> {
        let (line, body) = (self.line(), leader.to_body());
        futures::future::join_all(peers.iter().map(|peer| ask_for_promise(&line, peer, &body))).await
    }
}

async fn ask_for_promise(line: &Line, peer: &PeerAddress, body: &serde_json::Value) -> FailsafeReply {
    let mut accepted = Err(String::new());
    for _ in 0..PROMISE_ATTEMPTS {
        let answer = tokio::time::timeout(ANSWER_WITHIN, post_failsafe(line, &peer.api_url, body)).await;
        let answered = matches!(answer, Ok(Ok(_)));
        accepted = match answer {
            Ok(Ok((200, text, lsn))) if text.trim() == ACCEPTED => Ok(lsn),
            Ok(Ok((code, text, _))) => Err(format!("{code} {}", one_line(&text))),
            Ok(Err(why)) => Err(why),
            Err(_) => Err(format!("no answer within {} s", ANSWER_WITHIN.as_secs())),
        };
        // An answer is an answer; only silence is worth a second question.
        if answered {
            break;
        }
    }
    match &accepted {
        Ok(_) => tracing::info!("Got response from {} {}: {ACCEPTED}", peer.name, peer.api_url),
        Err(why) => tracing::warn!("Failed to get response from {} for POST {}: {why}", peer.name, peer.api_url),
    }
    FailsafeReply { name: peer.name.clone(), accepted }
}

/// Status, text and `lsn` header of the answer.
async fn post_failsafe(
    line: &Line,
    api_url: &str,
    body: &serde_json::Value,
) -> Result<(u16, String, Option<Lsn>), String> {
    let mut url = Url::parse(api_url).map_err(|error| format!("{api_url} is not a URL: {error}"))?;
    url.set_path("/failsafe");
    let mut request = line.client.post(url).header("content-type", "application/json").body(body.to_string());
    if let Some(BasicAuth { username, password }) = &line.authentication {
        request = request.basic_auth(username, Some(password));
    }
    let response = request.send().await.map_err(|error| causes(&error))?;
    let code = response.status().as_u16();
    let lsn = response.headers().get("lsn").and_then(|lsn| lsn.to_str().ok()?.parse().ok()).map(Lsn);
    let body = body_of(response).await?;
    Ok((code, String::from_utf8_lossy(&body).into_owned(), lsn))
}

/// What a log line can hold of an answer.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect()
}

async fn ask(client: &Client, peer: &PeerAddress) -> PeerStatus {
    match tokio::time::timeout(ANSWER_WITHIN, get(client, &peer.api_url)).await {
        Ok(Ok(body)) => {
            tracing::debug!("got response from {} {}: {}", peer.name, peer.api_url, String::from_utf8_lossy(&body));
            let body = serde_json::from_slice(&body).unwrap_or_default();
            PeerStatus::of_body(&peer.name, &body)
        }
        Ok(Err(error)) => {
            tracing::warn!("request failed to {}: GET {} ({error})", peer.name, peer.api_url);
            PeerStatus::silent(&peer.name)
        }
        Err(_) => {
            let limit_s = ANSWER_WITHIN.as_secs();
            tracing::warn!("request failed to {}: GET {} (no answer within {limit_s} s)", peer.name, peer.api_url);
            PeerStatus::silent(&peer.name)
        }
    }
}

/// The body, whatever the HTTP status: a node that is not running answers 503, and still says where it is.
async fn get(client: &Client, url: &str) -> Result<Vec<u8>, String> {
    body_of(client.get(url).send().await.map_err(|error| causes(&error))?).await
}

async fn body_of(mut response: Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| causes(&error))? {
        body.extend_from_slice(&chunk);
        if body.len() > BODY_BYTES_MAX {
            return Err(format!("the answer is longer than {BODY_BYTES_MAX} bytes"));
        }
    }
    Ok(body)
}

fn line(tls: &PeerTls) -> Result<Line, String> {
    Ok(Line { client: client(tls)?, authentication: tls.authentication.clone() })
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

    /// A peer that answers each question with the next response, and then is gone; gives what it was asked.
    async fn peer_once(responses: Vec<Option<String>>) -> (PeerAddress, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let api_url = format!("http://{}/patroni", listener.local_addr().expect("an address"));
        let asked = tokio::spawn(async move {
            let mut asked = Vec::new();
            for response in responses {
                let (mut stream, _) = listener.accept().await.expect("a question");
                let mut request = Vec::new();
                while !request.ends_with(b"}") {
                    let mut part = [0; 1024];
                    let count = stream.read(&mut part).await.expect("a request");
                    request.extend_from_slice(&part[..count]);
                }
                asked.push(String::from_utf8(request).expect("text"));
                if let Some(response) = response {
                    stream.write_all(response.as_bytes()).await.expect("an answer");
                }
            }
            asked
        });
        (PeerAddress { name: "p".to_owned(), api_url }, asked)
    }

    #[tokio::test]
    async fn promises_are_asked_for_as_upstream_does() {
        let leader = FailsafeLeader {
            name: "a".to_owned(),
            conn_url: Some("postgres://h:1/postgres".to_owned()),
            api_url: Some("http://h:2/patroni".to_owned()),
            slots: [("a".to_owned(), Lsn(7))].into(),
        };
        let auth = BasicAuth { username: "u".to_owned(), password: "p".to_owned() };
        let peers = HttpPeers::new(&PeerTls { authentication: Some(auth), ..PeerTls::default() }).expect("a client");
        let accepted = "HTTP/1.0 200 OK\r\nlsn: 99\r\n\r\nAccepted".to_owned();
        let (peer, asked) = peer_once(vec![None, Some(accepted)]).await;
        assert_eq!(peers.failsafe(&[peer], &leader).await[0].accepted, Ok(Some(Lsn(99))), "asked a second time");
        let asked = asked.await.expect("two questions");
        assert!(asked[1].starts_with("POST /failsafe HTTP/1.1\r\n"), "{}", asked[1]);
        assert!(asked[1].contains("authorization: Basic dTpw\r\n"), "{}", asked[1]);
        let body =
            r#"{"name":"a","conn_url":"postgres://h:1/postgres","api_url":"http://h:2/patroni","slots":{"a":7}}"#;
        assert!(asked[1].ends_with(body), "{}", asked[1]);
        let (peer, asked) = peer_once(vec![http("500 no", "Running as a leader")]).await;
        let refused = Err("500 Running as a leader".to_owned());
        assert_eq!(peers.failsafe(&[peer], &leader).await[0].accepted, refused, "not asked again");
        assert_eq!(asked.await.expect("one question").len(), 1);
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
