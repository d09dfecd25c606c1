//! The `etcd3` section of the configuration: from JSON to endpoints, user and certificate files.

use std::path::PathBuf;

use etcd_client::{Certificate, Identity, TlsOptions};
use model::HostPort;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Map, Value};

use crate::OpenError;

const DEFAULT_PORT: u16 = 2379;

/// The section, checked.
pub(super) struct Section {
    /// `http(s)://host:port`, at least one, in the order of the configuration.
    pub urls: Vec<String>,
    /// Ask the cluster for its other members. Off behind a proxy, which is the only way in.
    pub discover: bool,
    /// User name and password.
    pub user: Option<(String, String)>,
    /// Certificate files; used with `https` only.
    pub tls: TlsFiles,
}

/// Paths of PEM files. They are read whenever a connection is made, so renewed certificates need no restart.
#[derive(Default)]
pub(super) struct TlsFiles {
    cacert: Option<PathBuf>,
    /// Certificate chain and unencrypted private key, possibly one file.
    identity: Option<(PathBuf, PathBuf)>,
}

impl Section {
    /// Reads the section; errors name the setting, its value (never the password) and what was expected.
    pub fn parse(section: &Map<String, Value>) -> Result<Section, OpenError> {
        let reader = Reader(section);
        for key in ["srv", "discovery_srv", "srv_domain"] {
            if section.get(key).is_some_and(|value| !value.is_null()) {
                return Err(bad(key, "discovery by DNS is not supported: expected the addresses in etcd3.hosts"));
            }
        }
        let mut user = reader.user()?;
        let proxy = reader.text("proxy")?;
        let discover = proxy.is_none() && !reader.flag("use_proxies")?;
        let urls = if let Some(url) = proxy.or(reader.text("url")?) {
            let (url, url_user) = split_user(&url);
            user = url_user.or(user);
            vec![reader.url("url", &url, None)?]
        } else {
            reader.hosts()?
        };
        let tls = reader.tls_files()?;
        if urls.iter().any(|url| url.starts_with("https:")) {
            tls.options()?;
        }
        Ok(Section { urls, discover, user, tls })
    }
}

impl TlsFiles {
    /// Reads the files. Without a CA file the system's trusted roots are used.
    pub fn options(&self) -> Result<TlsOptions, OpenError> {
        let mut options = TlsOptions::new();
        options = match &self.cacert {
            Some(path) => {
                let pem = read("cacert", path)?;
                check_certificates("cacert", path, &pem)?;
                options.ca_certificate(Certificate::from_pem(pem))
            }
            None => options.with_native_roots(),
        };
        if let Some((cert_path, key_path)) = &self.identity {
            let (cert, key) = (read("cert", cert_path)?, read("key", key_path)?);
            check_certificates("cert", cert_path, &cert)?;
            PrivateKeyDer::from_pem_slice(&key)
                .map_err(|_| bad("key", &format!("{key_path:?}: expected an unencrypted private key in PEM format")))?;
            options = options.identity(Identity::from_pem(cert, key));
        }
        Ok(options)
    }
}

fn read(setting: &str, path: &PathBuf) -> Result<Vec<u8>, OpenError> {
    std::fs::read(path).map_err(|error| bad(setting, &format!("could not read {path:?}: {error}")))
}

fn check_certificates(setting: &str, path: &PathBuf, pem: &[u8]) -> Result<(), OpenError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(()),
        _ => Err(bad(setting, &format!("{path:?}: expected certificates in PEM format"))),
    }
}

fn bad(setting: &str, problem: &str) -> OpenError {
    OpenError::Config(format!("etcd3.{setting}: {problem}"))
}

/// Takes `user:password@` out of a URL.
fn split_user(url: &str) -> (String, Option<(String, String)>) {
    let Some((scheme, rest)) = url.split_once("://") else {
        return (url.to_owned(), None);
    };
    let Some((credentials, rest)) = rest.rsplit_once('@') else {
        return (url.to_owned(), None);
    };
    let user = credentials.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()));
    (format!("{scheme}://{rest}"), user)
}

struct Reader<'a>(&'a Map<String, Value>);

impl Reader<'_> {
    /// A text without surrounding blanks; empty text is absence.
    fn text(&self, key: &str) -> Result<Option<String>, OpenError> {
        Ok(self.verbatim(key)?.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()))
    }

    /// A text as it is; numbers are taken as text, because YAML makes them of bare digits. Null is absence.
    fn verbatim(&self, key: &str) -> Result<Option<String>, OpenError> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(_) => Err(bad(key, "expected text")),
        }
    }

    fn flag(&self, key: &str) -> Result<bool, OpenError> {
        let Some(value) = self.0.get(key) else {
            return Ok(false);
        };
        if value.is_null() {
            return Ok(false);
        }
        model::units::bool_of(value).ok_or_else(|| bad(key, &format!("{value}: expected true or false")))
    }

    fn user(&self) -> Result<Option<(String, String)>, OpenError> {
        Ok(match (self.text("username")?, self.verbatim("password")?) {
            (Some(user), password) => Some((user, password.unwrap_or_default())),
            (None, _) => None,
        })
    }

    fn port(&self) -> Result<Option<u16>, OpenError> {
        let Some(text) = self.text("port")? else {
            return Ok(None);
        };
        match text.parse() {
            Ok(port) if port != 0 => Ok(Some(port)),
            _ => Err(bad("port", &format!("{text:?}: expected a number from 1 to 65535"))),
        }
    }

    fn protocol(&self) -> Result<String, OpenError> {
        let protocol = self.text("protocol")?.unwrap_or_else(|| "http".to_owned());
        check_protocol("protocol", &protocol)?;
        Ok(protocol)
    }

    /// `hosts`: text with commas, or a list; `host`: one, whose port the setting `port` overrides.
    fn hosts(&self) -> Result<Vec<String>, OpenError> {
        let port = self.port()?;
        let entries: Vec<String> = match self.0.get("hosts") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(text)) => text.split(',').map(|host| host.trim().to_owned()).collect(),
            Some(Value::Array(list)) => {
                let text = |value: &Value| value.as_str().map(|host| host.trim().to_owned());
                list.iter()
                    .map(|value| text(value).ok_or_else(|| bad("hosts", &format!("{value}: expected host:port"))))
                    .collect::<Result<_, _>>()?
            }
            Some(other) => return Err(bad("hosts", &format!("{other}: expected a list of host:port"))),
        };
        let mut urls = Vec::new();
        for host in entries.iter().filter(|host| !host.is_empty()) {
            let url = self.url("hosts", host, port)?;
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
        if let (true, Some(host)) = (urls.is_empty(), self.text("host")?) {
            let url = self.url("host", &host, port)?;
            urls.push(match port {
                Some(port) => with_port(&url, port),
                None => url,
            });
        }
        if urls.is_empty() {
            return Err(OpenError::Config(
                "section etcd3: no address given: expected host, hosts, url or proxy".to_owned(),
            ));
        }
        Ok(urls)
    }

    /// One address as a URL; a scheme in the address is taken before the setting `protocol`.
    fn url(&self, setting: &str, text: &str, default_port: Option<u16>) -> Result<String, OpenError> {
        // Credentials are taken from `url` only, and shown nowhere.
        let (text, _) = split_user(text);
        let shown = text.rsplit('@').next().unwrap_or_default();
        let expected = || bad(setting, &format!("{shown:?}: expected host:port"));
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => {
                check_protocol(setting, scheme)?;
                (scheme.to_owned(), rest.trim_end_matches('/'))
            }
            None => (self.protocol()?, text.as_str()),
        };
        let address = HostPort::parse(rest, default_port.unwrap_or(DEFAULT_PORT)).ok_or_else(expected)?;
        if address.host.is_empty() || address.host.contains(['@', '?', '#', '%']) {
            return Err(expected());
        }
        Ok(format!("{scheme}://{address}"))
    }

    fn tls_files(&self) -> Result<TlsFiles, OpenError> {
        let path = |key: &str| self.text(key).map(|text| text.map(PathBuf::from));
        let identity = match (path("cert")?, path("key")?) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (Some(both), None) => Some((both.clone(), both)),
            (None, Some(_)) => return Err(bad("key", "is set without etcd3.cert: expected both")),
            (None, None) => None,
        };
        Ok(TlsFiles { cacert: path("cacert")?, identity })
    }
}

fn check_protocol(setting: &str, protocol: &str) -> Result<(), OpenError> {
    match protocol {
        "http" | "https" => Ok(()),
        _ => Err(bad(setting, &format!("{protocol:?}: expected http or https"))),
    }
}

fn with_port(url: &str, port: u16) -> String {
    match url.rsplit_once(':') {
        Some((rest, _)) => format!("{rest}:{port}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn parse(section: Value) -> Result<Section, OpenError> {
        Section::parse(section.as_object().expect("an object"))
    }

    fn urls(section: Value) -> Vec<String> {
        parse(section).expect("a section").urls
    }

    #[rstest]
    #[case(json!({"host": "127.0.0.1"}), &["http://127.0.0.1:2379"])]
    #[case(json!({"host": "e:4001"}), &["http://e:4001"])]
    #[case(json!({"host": "e", "port": 4001, "protocol": "http"}), &["http://e:4001"])]
    #[case(json!({"host": "e:2379", "port": "4001"}), &["http://e:4001"])]
    #[case(json!({"hosts": "a:1, b:2 ,a:1"}), &["http://a:1", "http://b:2"])]
    #[case(json!({"hosts": ["a", "[::1]:2"], "port": 7}), &["http://a:7", "http://[::1]:2"])]
    #[case(json!({"hosts": ["http://a:1"], "host": "ignored"}), &["http://a:1"])]
    #[case(json!({"url": "http://u:p@a"}), &["http://a:2379"])]
    #[case(json!({"proxy": "http://a:1/", "hosts": "b:2"}), &["http://a:1"])]
    fn addresses(#[case] section: Value, #[case] expected: &[&str]) {
        assert_eq!(urls(section), expected);
    }

    #[rstest]
    #[case(json!({}), "section etcd3: no address given: expected host, hosts, url or proxy")]
    #[case(json!({"hosts": ""}), "section etcd3: no address given: expected host, hosts, url or proxy")]
    #[case(json!({"host": "a:b"}), "etcd3.host: \"a:b\": expected host:port")]
    #[case(json!({"host": "u:secret@a:1"}), "etcd3.host: \"a:1\": expected host:port")]
    #[case(json!({"url": "http://u:secret@a:b"}), "etcd3.url: \"http://a:b\": expected host:port")]
    #[case(json!({"hosts": [1]}), "etcd3.hosts: 1: expected host:port")]
    #[case(json!({"hosts": {}}), "etcd3.hosts: {}: expected a list of host:port")]
    #[case(json!({"host": "a", "port": 0}), "etcd3.port: \"0\": expected a number from 1 to 65535")]
    #[case(json!({"host": "a", "protocol": "ftp"}), "etcd3.protocol: \"ftp\": expected http or https")]
    #[case(json!({"url": "unix://a"}), "etcd3.url: \"unix\": expected http or https")]
    #[case(json!({"host": "a", "key": "/k"}), "etcd3.key: is set without etcd3.cert: expected both")]
    #[case(json!({"host": "a", "username": []}), "etcd3.username: expected text")]
    #[case(json!({"host": "a", "use_proxies": "maybe"}), "etcd3.use_proxies: \"maybe\": expected true or false")]
    fn mistakes(#[case] section: Value, #[case] expected: &str) {
        assert_eq!(parse(section).err(), Some(OpenError::Config(expected.to_owned())));
    }

    #[test]
    fn missing_and_broken_certificates() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let empty = parse(json!({"host": "a", "protocol": "https", "cacert": file.path().to_str()}));
        assert!(
            matches!(empty.err(), Some(OpenError::Config(text)) if text.ends_with("expected certificates in PEM format"))
        );
        let missing = parse(json!({"host": "a", "protocol": "https", "cacert": "/nonexistent/ca.pem"}));
        assert!(
            matches!(missing.err(), Some(OpenError::Config(text)) if text.starts_with("etcd3.cacert: could not read"))
        );
        // Without TLS the files are not looked at.
        assert!(parse(json!({"host": "a", "cacert": "/nonexistent/ca.pem"})).is_ok());
    }

    #[test]
    fn users() {
        let user = |section| parse(section).expect("a section").user;
        let pair = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        assert_eq!(user(json!({"host": "a", "username": "u", "password": "p"})), pair("u", "p"));
        assert_eq!(user(json!({"host": "a", "password": "p"})), None);
        assert_eq!(user(json!({"url": "http://u:p@a:1", "username": "x"})), pair("u", "p"));
        assert!(!parse(json!({"host": "a", "use_proxies": true})).expect("a section").discover);
    }
}
