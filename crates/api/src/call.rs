//! One request as handlers see it.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Uri};
use serde_json::{Map, Value};

use crate::answer::Answer;
use crate::backend::Backend;
use crate::config::ApiConfig;

/// The largest request body read.
pub(crate) const BODY_BYTES_MAX: usize = 1 << 20;
/// How long a client may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Who sits at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    /// Address, with IPv4 in its own form even on a dual-stack socket.
    pub(crate) ip: IpAddr,
    /// It proved a certificate that our `cafile` vouches for.
    pub(crate) certificate: bool,
    /// The connection is encrypted.
    pub(crate) tls: bool,
}

/// A request with what is needed to answer it.
pub(crate) struct Call {
    pub(crate) config: Arc<ApiConfig>,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) peer: Peer,
    /// Path, not percent-decoded, with one slash at its start.
    pub(crate) path: String,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    /// In a mutex only because a body may not be shared between threads and a call may; nobody locks it.
    pub(crate) body: Mutex<Body>,
}

impl Call {
    /// A JSON object that must be there: 411 without a length, 400 when it is anything else or empty.
    pub(crate) async fn required_object(&mut self) -> Result<Map<String, Value>, Answer> {
        if !self.has_body() {
            return Err(Answer::page(411, "Length Required: send a JSON object with a Content-Length header"));
        }
        let body = self.read_body().await?;
        match parse_object(&body)? {
            object if object.is_empty() => {
                Err(Answer::page(400, "Bad Request: the JSON object in the request body is empty"))
            }
            object => Ok(object),
        }
    }

    /// A JSON object that may be left out: then it is empty.
    pub(crate) async fn optional_object(&mut self) -> Result<Map<String, Value>, Answer> {
        let body = if self.has_body() { self.read_body().await? } else { Vec::new() };
        if body.is_empty() { Ok(Map::new()) } else { parse_object(&body) }
    }

    fn has_body(&self) -> bool {
        self.headers.contains_key(CONTENT_LENGTH) || self.headers.contains_key(TRANSFER_ENCODING)
    }

    async fn read_body(&mut self) -> Result<Vec<u8>, Answer> {
        let body = std::mem::take(self.body.get_mut().unwrap_or_else(PoisonError::into_inner));
        match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, BODY_BYTES_MAX)).await {
            Ok(Ok(bytes)) => Ok(bytes.into()),
            Ok(Err(_)) => {
                Err(Answer::page(413, format!("Request body unreadable or larger than {BODY_BYTES_MAX} bytes")))
            }
            Err(_) => Err(Answer::page(408, format!("Request body not complete after {BODY_TIMEOUT:?}"))),
        }
    }
}

fn parse_object(body: &[u8]) -> Result<Map<String, Value>, Answer> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Answer::page(400, "Bad Request: the request body must be a JSON object")),
        Err(error) => Err(Answer::page(400, format!("Bad Request: the request body is not valid JSON: {error}"))),
    }
}

/// The first value of each key of a query string; keys without a value are left out, as upstream does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

/// Keys of a query string beyond this number are ignored.
const QUERY_KEYS_MAX: usize = 100;

impl Query {
    pub(crate) fn parse(text: &str) -> Query {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (key, value) in form_urlencoded::parse(text.as_bytes()).take(QUERY_KEYS_MAX) {
            if !value.is_empty() && pairs.iter().all(|(known, _)| *known != key) {
                pairs.push((key.into_owned(), value.into_owned()));
            }
        }
        Query(pairs)
    }

    /// The value of `key`.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    /// Names and wanted values of `tag_<name>` keys.
    pub(crate) fn tags(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter_map(|(key, value)| Some((key.strip_prefix("tag_")?, value.as_str())))
    }
}

/// The path of a request with the slashes at its start squeezed into one.
pub(crate) fn normal_path(uri: &Uri) -> String {
    format!("/{}", uri.path().trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_takes_first_values_and_drops_blank_ones() {
        let query = Query::parse("lag=10MB&lag=1&mode=&tag_zone=a+b&tag_x=%C3%A4&tag_bad=%ff%zz&=x&&tag_zone=c");
        assert_eq!((query.get("lag"), query.get("mode")), (Some("10MB"), None));
        assert_eq!(query.tags().collect::<Vec<_>>(), [("zone", "a b"), ("x", "ä"), ("bad", "\u{fffd}%zz")]);
    }

    #[test]
    fn bodies() {
        assert!(parse_object(br#"{"a":1}"#).is_ok());
        for body in [&b"[]"[..], b"null", b"{", b"", b"\xff", b"{} x"] {
            assert_eq!(parse_object(body).map_err(|answer| answer.code), Err(400), "{body:?}");
        }
    }
}
