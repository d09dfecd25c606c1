//! The REST client: one member is asked for one thing.

use std::path::Path;
use std::time::Duration;

use config::sections::Ctl;
use model::Member;
use reqwest::{Certificate, Client, Identity, Method};
use serde_json::Value;

use crate::error::{Result, fail};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long reading something may take.
const READ_TIMEOUT: Duration = Duration::from_secs(20);
/// How long an action may take: a restart answers when PostgreSQL runs again, after its shutdown checkpoint.
const ACTION_TIMEOUT: Duration = Duration::from_secs(3600);
/// Answers that are longer are cut.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a member answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body as text.
    pub body: String,
}

impl Answer {
    /// The body as JSON; `Null` for anything else.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }
}

/// A client with the credentials and certificates of the configuration.
pub struct Rest {
    client: Client,
    credentials: Option<(String, String)>,
}

impl Rest {
    /// A client for the section `ctl`, completed from `restapi`; `insecure` also turns verification off. Errors name
    /// the setting and the file.
    pub fn new(ctl: &Ctl, insecure: bool) -> Result<Rest> {
        // Fails only when a provider is installed already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .tls_danger_accept_invalid_certs(insecure || ctl.insecure);
        if let Some(path) = &ctl.cacert {
            builder = match Certificate::from_pem_bundle(&read("ctl.cacert", path)?) {
                Ok(certificates) if !certificates.is_empty() => builder.tls_certs_only(certificates),
                _ => {
                    return fail(format!(
                        "Cannot use ctl.cacert {}: expected certificates in PEM format",
                        path.display()
                    ));
                }
            };
        }
        if let Some(path) = &ctl.certfile {
            builder = builder.identity(identity(path, ctl.keyfile.as_deref())?);
        }
        let credentials =
            ctl.authentication.as_ref().map(|user| (user.username.clone(), user.password.reveal().to_owned()));
        match builder.build() {
            Ok(client) => Ok(Rest { client, credentials }),
            Err(error) => fail(format!("Cannot set up the REST client: {}", causes(&error))),
        }
    }

    /// Asks a member. The error says why there was no answer.
    pub async fn call(
        &self,
        member: &Member,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> std::result::Result<Answer, String> {
        let Some(base) = member.api_url.as_deref().and_then(origin) else {
            return Err(format!("member {} has no usable api_url", member.name));
        };
        let timeout = if method == Method::POST { ACTION_TIMEOUT } else { READ_TIMEOUT };
        let mut request = self.client.request(method, format!("{base}/{path}")).timeout(timeout);
        if let Some((username, password)) = &self.credentials {
            request = request.basic_auth(username, Some(password));
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let mut response = request.send().await.map_err(|error| causes(&error))?;
        let status = response.status().as_u16();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| causes(&error))? {
            let room = BODY_BYTES_MAX.saturating_sub(bytes.len());
            bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                break;
            }
        }
        Ok(Answer { status, body: String::from_utf8_lossy(&bytes).into_owned() })
    }
}

fn read(setting: &str, path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).or_else(|error| fail(format!("Cannot read {setting} {}: {error}", path.display())))
}

/// A client certificate with its key, which may be in the same file.
fn identity(certfile: &Path, keyfile: Option<&Path>) -> Result<Identity> {
    let mut pem = read("ctl.certfile", certfile)?;
    if let Some(keyfile) = keyfile {
        pem.push(b'\n');
        pem.extend(read("ctl.keyfile", keyfile)?);
    }
    if String::from_utf8_lossy(&pem).contains("ENCRYPTED") {
        return fail("Cannot use ctl.keyfile: the key is encrypted; expected one without a password");
    }
    Identity::from_pem(&pem).or_else(|_| {
        let path = certfile.display();
        fail(format!("Cannot use ctl.certfile {path}: expected a certificate and its key in PEM format"))
    })
}

/// `scheme://host:port` of an `api_url`.
fn origin(api_url: &str) -> Option<&str> {
    let (scheme, rest) = api_url.split_once("://")?;
    let authority = rest.split(['/', '?']).next().filter(|authority| !authority.is_empty())?;
    matches!(scheme, "http" | "https").then(|| &api_url[..scheme.len() + 3 + authority.len()])
}

/// An error with what caused it, outermost first. URLs hold no credentials here.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    const CAUSES_MAX: usize = 8;
    let chain = std::iter::successors(Some(error), |error| error.source()).take(CAUSES_MAX);
    let mut sentences: Vec<String> = chain.map(ToString::to_string).collect();
    sentences.dedup();
    sentences.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Api, api_member};
    use config::LocalConfig;
    use serde_json::json;

    fn rest(config: Value) -> Result<Rest> {
        let tree = config.as_object().expect("an object").clone();
        Rest::new(&LocalConfig::from_tree(tree).ctl().expect("a section"), false)
    }

    #[tokio::test]
    async fn asks_with_credentials_and_body() {
        let api = Api::start(|_| (202, "reload scheduled".to_owned()));
        let rest = rest(json!({"restapi": {"authentication": {"username": "u", "password": "p"}}})).expect("a client");
        let answer = rest.call(&api_member("a", &api), Method::POST, "reload", Some(&json!({"x": 1}))).await;
        assert_eq!(answer, Ok(Answer { status: 202, body: "reload scheduled".to_owned() }));
        let requests = api.requests();
        assert_eq!(requests.len(), 1);
        assert_eq!((requests[0].line.as_str(), requests[0].body.as_str()), ("POST /reload", "{\"x\":1}"));
        assert_eq!(requests[0].authorization.as_deref(), Some("Basic dTpw"));
    }

    #[tokio::test]
    async fn nobody_answers() {
        let rest = rest(json!({})).expect("a client");
        let port = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            listener.local_addr().expect("an address").port()
        };
        let member = Member { api_url: Some(format!("http://127.0.0.1:{port}/patroni")), ..Member::default() };
        assert!(rest.call(&member, Method::GET, "patroni", None).await.expect_err("refused").contains("refused"));
        let member = Member { name: "a".to_owned(), api_url: Some("nonsense".to_owned()), ..Member::default() };
        assert!(rest.call(&member, Method::GET, "patroni", None).await.expect_err("no URL").contains("api_url"));
    }

    #[test]
    fn certificates_that_cannot_be_used_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("x.pem");
        std::fs::write(&path, "no certificate").expect("write");
        for setting in ["cacert", "certfile"] {
            let error = rest(json!({"ctl": {setting: path}})).err().expect("an error").to_string();
            assert!(error.contains(setting) && error.contains("x.pem") && error.contains("PEM"), "{error}");
        }
        let error = rest(json!({"ctl": {"cacert": "/nowhere/ca.pem"}})).err().expect("an error").to_string();
        assert!(error.starts_with("Cannot read ctl.cacert /nowhere/ca.pem"), "{error}");
    }
}
