//! Addresses and connection URLs as members publish them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A host name or address with a port. IPv6 addresses are kept without brackets and displayed with them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HostPort {
    /// Host name, IPv4 or IPv6 address, or `*` in a listen address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl HostPort {
    /// Parses `host`, `host:port`, `[v6]:port` or a bare IPv6 address; `default_port` where none is given.
    pub fn parse(text: &str, default_port: u16) -> Option<HostPort> {
        let text = text.trim();
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']')?;
            match rest.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if rest.is_empty() => (host, None),
                None => return None,
            }
        } else {
            match text.split_once(':') {
                Some((_, rest)) if rest.contains(':') => (text, None),
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port != 0)?,
            None => default_port,
        };
        let sane = !host.contains(|c: char| c.is_whitespace() || c == '/' || c.is_control());
        sane.then(|| HostPort { host: host.to_owned(), port })
    }

    /// The host part of a URL such as `postgres://host:port/db` or `http://host:port/patroni`.
    pub fn from_url(url: &str) -> Option<HostPort> {
        let (scheme, rest) = url.split_once("://")?;
        let authority = rest.split(['/', '?']).next()?;
        let address = authority.rsplit('@').next()?;
        let default_port = match scheme {
            "https" => 443,
            "http" => 80,
            _ => 5432,
        };
        HostPort::parse(address, default_port).filter(|address| !address.host.is_empty())
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The text was not `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid address {0:?}: expected host:port")]
pub struct HostPortError(pub String);

impl FromStr for HostPort {
    type Err = HostPortError;

    /// Like [`HostPort::parse`], but the port must be given.
    fn from_str(text: &str) -> Result<Self, HostPortError> {
        HostPort::parse(text, 0).filter(|address| address.port != 0).ok_or_else(|| HostPortError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, host, port) in [
            ("127.0.0.1:5433", "127.0.0.1", 5433),
            ("db", "db", 5432),
            ("[::1]:5433", "::1", 5433),
            ("fe80::1", "fe80::1", 5432),
            ("*:5433", "*", 5433),
        ] {
            assert_eq!(HostPort::parse(text, 5432), Some(HostPort { host: host.into(), port }), "{text}");
        }
        for text in ["a:b", "a:0", "a:70000", "[::1", "[::1]x", "a b:1"] {
            assert_eq!(HostPort::parse(text, 5432), None, "{text}");
        }
        assert!("db".parse::<HostPort>().is_err());
    }

    #[test]
    fn urls() {
        assert_eq!(
            HostPort::from_url("postgres://[::1]:5433/postgres").map(|a| a.to_string()).as_deref(),
            Some("[::1]:5433")
        );
        assert_eq!(HostPort::from_url("http://u:p@h:8008/patroni").map(|a| a.to_string()).as_deref(), Some("h:8008"));
        assert_eq!(HostPort::from_url("nonsense"), None);
    }
}
