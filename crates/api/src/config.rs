//! The `restapi` section of the configuration file (compatibility.md, 3.2.3).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use model::units::{Base, bool_of, int_of};
use serde_json::{Map, Value};

use crate::listen::ListenAddress;

/// Listen backlog where `request_queue_size` is not given.
const BACKLOG_DEFAULT: i32 = 128;

/// How one node's REST API is served.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiConfig {
    pub(crate) listen: ListenAddress,
    /// `connect_address`, else `listen`: the address published to others, as `host:port`.
    pub connect_address: String,
    /// User and password that operations need.
    pub authentication: Option<Credentials>,
    /// HTTPS, where a `certfile` is given.
    pub tls: Option<TlsFiles>,
    pub(crate) allowlist: Vec<AllowEntry>,
    /// Members of the cluster may use operations.
    pub allowlist_include_members: bool,
    pub(crate) extra_headers: HeaderMap,
    /// What the `Server` header says.
    pub server_tokens: ServerTokens,
    /// Listen backlog (`request_queue_size`).
    pub backlog: i32,
}

/// User and password; prints neither.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Base64 of `user:password`, as in the header.
    pub(crate) basic: String,
}

impl Credentials {
    /// Of a user and a password.
    pub fn new(username: &str, password: &str) -> Credentials {
        Credentials { basic: STANDARD.encode(format!("{username}:{password}")) }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(***)")
    }
}

/// Certificate and key files.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM file with the certificate and those that lead to its root.
    pub certfile: String,
    /// PEM file with the private key; the certificate's file where not given.
    pub keyfile: Option<String>,
    /// Password of an encrypted key.
    pub keyfile_password: Option<String>,
    /// PEM file with the roots that client certificates are checked against.
    pub cafile: Option<String>,
    /// OpenSSL names of TLS 1.2 cipher suites, separated by colons.
    pub ciphers: Option<String>,
    /// Whether clients show a certificate.
    pub verify_client: VerifyClient,
}

impl fmt::Debug for TlsFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsFiles")
            .field("certfile", &self.certfile)
            .field("keyfile", &self.keyfile)
            .field("cafile", &self.cafile)
            .field("verify_client", &self.verify_client)
            .finish_non_exhaustive()
    }
}

/// `verify_client`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VerifyClient {
    /// Client certificates are not asked for.
    #[default]
    None,
    /// Operations need one.
    Optional,
    /// Every connection needs one.
    Required,
}

/// `server_tokens`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerTokens {
    /// `Patroni/<version>`; upstream names its HTTP library here, we do not.
    #[default]
    Original,
    /// `Patroni/<version>`
    Minimal,
    /// `Patroni`
    ProductOnly,
}

/// One entry of `allowlist`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AllowEntry {
    /// An address or a network.
    Net(IpNet),
    /// A name that is resolved at each check.
    Host(String),
}

impl ApiConfig {
    /// Reads the `restapi` section. Errors are sentences that name the setting.
    pub fn from_section(section: &Map<String, Value>) -> Result<ApiConfig, String> {
        let listen = text(section, "listen")?.ok_or("restapi.listen is missing: expected host:port")?;
        let tls = tls_files(section)?;
        let mut extra_headers = HeaderMap::new();
        headers(section, "http_extra_headers", &mut extra_headers)?;
        if tls.is_some() {
            headers(section, "https_extra_headers", &mut extra_headers)?;
        }
        Ok(ApiConfig {
            listen: ListenAddress::parse(&listen)?,
            connect_address: text(section, "connect_address")?.unwrap_or(listen),
            authentication: credentials(section)?,
            tls,
            allowlist: allowlist(section)?,
            allowlist_include_members: flag(section, "allowlist_include_members")?,
            extra_headers,
            server_tokens: server_tokens(section)?,
            backlog: backlog(section)?,
        })
    }

    /// The URL published as `api_url` in the member's record.
    pub fn api_url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}/patroni", self.connect_address)
    }
}

/// Text (numbers are taken as their text); `None` where absent, null or empty.
fn text(section: &Map<String, Value>, key: &str) -> Result<Option<String>, String> {
    match section.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok((!text.is_empty()).then(|| text.clone())),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(_) => Err(format!("restapi.{key} must be text")),
    }
}

fn flag(section: &Map<String, Value>, key: &str) -> Result<bool, String> {
    match section.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(value) => bool_of(value).ok_or_else(|| format!("restapi.{key} must be true or false, not {value}")),
    }
}

fn credentials(section: &Map<String, Value>) -> Result<Option<Credentials>, String> {
    if let Some(value) = section.get("authentication").filter(|value| !value.is_null()) {
        let section = value.as_object().ok_or("restapi.authentication must be a map of username and password")?;
        // The values stay out of the errors: they are secrets.
        return Ok(match (text(section, "username")?, text(section, "password")?) {
            (Some(username), Some(password)) => Some(Credentials::new(&username, &password)),
            _ => None,
        });
    }
    match text(section, "auth")? {
        None => Ok(None),
        Some(auth) if auth.contains(':') => Ok(Some(Credentials { basic: STANDARD.encode(auth) })),
        Some(_) => Err("restapi.auth must have the form user:password".to_owned()),
    }
}

fn tls_files(section: &Map<String, Value>) -> Result<Option<TlsFiles>, String> {
    let Some(certfile) = text(section, "certfile")? else {
        return Ok(None);
    };
    let verify_client = match text(section, "verify_client")?.as_deref().map(str::to_ascii_lowercase).as_deref() {
        None | Some("none") => VerifyClient::None,
        Some("optional") => VerifyClient::Optional,
        Some("required") => VerifyClient::Required,
        Some(other) => {
            return Err(format!("restapi.verify_client must be none, optional or required, not {other:?}"));
        }
    };
    let cafile = text(section, "cafile")?;
    if verify_client != VerifyClient::None && cafile.is_none() {
        return Err(
            "restapi.verify_client needs restapi.cafile: the roots that client certificates are checked against"
                .to_owned(),
        );
    }
    Ok(Some(TlsFiles {
        certfile,
        keyfile: text(section, "keyfile")?,
        keyfile_password: text(section, "keyfile_password")?,
        cafile,
        ciphers: text(section, "ciphers")?,
        verify_client,
    }))
}

fn allowlist(section: &Map<String, Value>) -> Result<Vec<AllowEntry>, String> {
    let texts: Vec<&str> = match section.get("allowlist") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) => text.split(',').collect(),
        Some(Value::Array(entries)) => entries
            .iter()
            .map(|entry| entry.as_str().ok_or("restapi.allowlist must be a list of addresses, networks and host names"))
            .collect::<Result<_, _>>()?,
        Some(_) => return Err("restapi.allowlist must be a list of addresses, networks and host names".to_owned()),
    };
    texts.into_iter().map(str::trim).filter(|text| !text.is_empty()).map(allow_entry).collect()
}

fn allow_entry(text: &str) -> Result<AllowEntry, String> {
    if let Ok(ip) = text.parse() {
        return Ok(AllowEntry::Net(IpNet::from(std::net::IpAddr::to_canonical(&ip))));
    }
    if let Ok(net) = text.parse() {
        return Ok(AllowEntry::Net(net));
    }
    if text.contains('/') || text.contains(char::is_whitespace) {
        return Err(format!("restapi.allowlist: {text:?} is no address, network or host name"));
    }
    Ok(AllowEntry::Host(text.to_owned()))
}

fn headers(section: &Map<String, Value>, key: &str, into: &mut HeaderMap) -> Result<(), String> {
    let Some(value) = section.get(key).filter(|value| !value.is_null()) else {
        return Ok(());
    };
    let map = value.as_object().ok_or_else(|| format!("restapi.{key} must be a map of header names and values"))?;
    for (name, value) in map {
        let parsed = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| format!("restapi.{key}: {name:?} is no header name"))?;
        let value = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let value = HeaderValue::from_str(&value)
            .map_err(|_| format!("restapi.{key}.{name}: the value has characters that headers cannot carry"))?;
        into.insert(parsed, value);
    }
    Ok(())
}

fn server_tokens(section: &Map<String, Value>) -> Result<ServerTokens, String> {
    match text(section, "server_tokens")?.as_deref().map(str::to_ascii_lowercase).as_deref() {
        None | Some("original") => Ok(ServerTokens::Original),
        Some("minimal") => Ok(ServerTokens::Minimal),
        Some("productonly") => Ok(ServerTokens::ProductOnly),
        Some(other) => Err(format!("restapi.server_tokens must be original, minimal or productonly, not {other:?}")),
    }
}

fn backlog(section: &Map<String, Value>) -> Result<i32, String> {
    match section.get("request_queue_size") {
        None | Some(Value::Null) => Ok(BACKLOG_DEFAULT),
        Some(value) => int_of(value, Base::Plain)
            .filter(|size| (0..=4096).contains(size))
            .and_then(|size| i32::try_from(size).ok())
            .ok_or_else(|| format!("restapi.request_queue_size must be a number from 0 to 4096, not {value}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(section: Value) -> Result<ApiConfig, String> {
        ApiConfig::from_section(section.as_object().expect("an object"))
    }

    #[test]
    fn least_and_full_sections() {
        let least = read(json!({"listen": "127.0.0.1:8008"})).expect("valid");
        assert_eq!(least.api_url(), "http://127.0.0.1:8008/patroni");
        assert_eq!((least.authentication, least.tls, least.backlog), (None, None, 128));
        let full = read(json!({
            "listen": "*:8008", "connect_address": "a:8008", "authentication": {"username": "u", "password": 5},
            "certfile": "/c", "cafile": "/ca", "verify_client": "optional", "allowlist": ["10.0.0.0/8", "::1", "db1"],
            "allowlist_include_members": "on", "http_extra_headers": {"X-A": "1"},
            "https_extra_headers": {"X-A": "2"}, "server_tokens": "Minimal", "request_queue_size": "7",
        }))
        .expect("valid");
        assert_eq!(full.api_url(), "https://a:8008/patroni");
        assert_eq!(full.authentication, Some(Credentials::new("u", "5")));
        assert_eq!(full.extra_headers["x-a"], "2");
        assert_eq!(full.allowlist.len(), 3);
        assert_eq!((full.allowlist_include_members, full.backlog), (true, 7));
        assert!(!format!("{full:?}").contains("dTo1"), "secrets are not printed");
    }

    #[test]
    fn earliest_form_of_authentication() {
        let config = read(json!({"listen": "a:1", "auth": "u:p:q"})).expect("valid");
        assert_eq!(config.authentication, Some(Credentials::new("u", "p:q")));
    }

    #[test]
    fn errors_name_the_setting() {
        for (section, setting) in [
            (json!({}), "restapi.listen"),
            (json!({"listen": "a:b"}), "restapi.listen"),
            (json!({"listen": "a:1", "auth": "secret"}), "restapi.auth"),
            (json!({"listen": "a:1", "authentication": "secret"}), "restapi.authentication"),
            (json!({"listen": "a:1", "certfile": "c", "verify_client": "required"}), "restapi.cafile"),
            (json!({"listen": "a:1", "certfile": "c", "verify_client": "x"}), "restapi.verify_client"),
            (json!({"listen": "a:1", "allowlist": ["10.0.0.0/99"]}), "restapi.allowlist"),
            (json!({"listen": "a:1", "allowlist": 5}), "restapi.allowlist"),
            (json!({"listen": "a:1", "http_extra_headers": {"a b": "c"}}), "restapi.http_extra_headers"),
            (json!({"listen": "a:1", "http_extra_headers": {"a": "b\n"}}), "restapi.http_extra_headers.a"),
            (json!({"listen": "a:1", "server_tokens": "x"}), "restapi.server_tokens"),
            (json!({"listen": "a:1", "request_queue_size": 5000}), "restapi.request_queue_size"),
        ] {
            let error = read(section.clone()).expect_err("invalid");
            assert!(error.contains(setting) && !error.contains("secret"), "{section}: {error}");
        }
    }
}
