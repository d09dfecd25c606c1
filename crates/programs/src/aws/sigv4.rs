//! Signatures of requests to AWS, version 4 (AWS documentation, "Create a signed AWS API request").

use std::fmt;
use std::fmt::Write as _;

use ring::{digest, hmac};

/// Temporary credentials of an instance's role.
#[derive(Clone)]
pub struct Credentials {
    /// Access key.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: String,
    /// Token of the session, where they are temporary.
    pub session_token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

/// What is signed.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `GET`, `POST`, ...
    pub method: &'a str,
    /// Path, encoded.
    pub path: &'a str,
    /// Query parameters, not encoded.
    pub query: &'a [(&'a str, &'a str)],
    /// Headers to sign, with lower-case names; `host` and `x-amz-date` must be among them.
    pub headers: &'a [(&'a str, &'a str)],
    /// Body.
    pub body: &'a [u8],
}

/// Which service is asked, where, and when.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// As in `eu-central-1`.
    pub region: &'a str,
    /// As in `ec2`.
    pub service: &'a str,
    /// The value of `x-amz-date`, see [`amz_date`].
    pub date: &'a str,
}

/// The value of `x-amz-date`: `20150830T123600Z`.
pub fn amz_date(at: jiff::Timestamp) -> String {
    at.strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// The value of the `Authorization` header.
pub fn authorization(request: &Request<'_>, credentials: &Credentials, scope: &Scope<'_>) -> String {
    let mut headers: Vec<(&str, String)> =
        request.headers.iter().map(|(name, value)| (*name, single_spaced(value))).collect();
    headers.sort();
    let signed: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let signed = signed.join(";");
    let mut canonical = format!("{}\n{}\n{}\n", request.method, request.path, canonical_query(request.query));
    for (name, value) in &headers {
        let _ = writeln!(canonical, "{name}:{value}");
    }
    let _ = write!(canonical, "\n{signed}\n{}", sha256_hex(request.body));
    let day = scope.date.get(..8).unwrap_or(scope.date);
    let credential_scope = format!("{day}/{}/{}/aws4_request", scope.region, scope.service);
    let to_sign = format!("AWS4-HMAC-SHA256\n{}\n{credential_scope}\n{}", scope.date, sha256_hex(canonical.as_bytes()));
    let key = signing_key(&credentials.secret_access_key, day, scope.region, scope.service);
    let signature = hex(hmac_sha256(&key, to_sign.as_bytes()).as_ref());
    format!(
        "AWS4-HMAC-SHA256 Credential={}/{credential_scope}, SignedHeaders={signed}, Signature={signature}",
        credentials.access_key_id
    )
}

/// Pairs as `application/x-www-form-urlencoded`, in their order.
pub fn form(pairs: &[(&str, &str)]) -> String {
    let encoded = pairs.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value)));
    encoded.collect::<Vec<_>>().join("&")
}

fn canonical_query(query: &[(&str, &str)]) -> String {
    let mut pairs: Vec<(String, String)> = query.iter().map(|(name, value)| (encoded(name), encoded(value))).collect();
    pairs.sort();
    pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

/// Everything but RFC 3986's unreserved characters as `%XX`.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            other => {
                let _ = write!(encoded, "%{other:02X}");
            }
        }
    }
    encoded
}

fn single_spaced(value: &str) -> String {
    value.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

fn signing_key(secret: &str, day: &str, region: &str, service: &str) -> hmac::Tag {
    let mut key = hmac_with(format!("AWS4{secret}").as_bytes(), day.as_bytes());
    for part in [region, service, "aws4_request"] {
        key = hmac_sha256(&key, part.as_bytes());
    }
    key
}

fn hmac_sha256(key: &hmac::Tag, text: &[u8]) -> hmac::Tag {
    hmac_with(key.as_ref(), text)
}

fn hmac_with(key: &[u8], text: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text)
}

fn sha256_hex(data: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, data).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &str = "20150830T123600Z";

    fn credentials(session_token: Option<&str>) -> Credentials {
        Credentials {
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
            session_token: session_token.map(str::to_owned),
        }
    }

    fn signature(request: &Request<'_>, service: &str) -> String {
        let scope = Scope { region: "us-east-1", service, date: DATE };
        let header = authorization(request, &credentials(None), &scope);
        header.split("Signature=").nth(1).expect("a signature").to_owned()
    }

    /// The test suite that AWS publishes ("aws-sig-v4-test-suite"), and the example of its documentation.
    #[test]
    fn published_vectors() {
        let host = ("host", "example.amazonaws.com");
        let date = ("x-amz-date", DATE);
        let get = Request { method: "GET", path: "/", query: &[], headers: &[host, date], body: b"" };
        for (name, request, expected) in [
            ("get-vanilla", get, "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            (
                "get-vanilla-query-order-key-case",
                Request { query: &[("Param2", "value2"), ("Param1", "value1")], ..get },
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
            (
                "post-vanilla",
                Request { method: "POST", ..get },
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            ),
            (
                "post-x-www-form-urlencoded",
                Request {
                    method: "POST",
                    headers: &[("content-type", "application/x-www-form-urlencoded"), host, date],
                    body: b"Param1=value1",
                    ..get
                },
                "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
            ),
        ] {
            assert_eq!(signature(&request, "service"), expected, "{name}");
        }
        let list_users = Request {
            query: &[("Action", "ListUsers"), ("Version", "2010-05-08")],
            headers: &[
                ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
                ("host", "iam.amazonaws.com"),
                date,
            ],
            ..get
        };
        assert_eq!(signature(&list_users, "iam"), "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7");
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = format!("{:?}", credentials(Some("session")));
        assert!(!shown.contains("wJalr") && !shown.contains("session\"") && shown.contains("AKIDEXAMPLE"), "{shown}");
    }

    #[test]
    fn values_are_encoded() {
        assert_eq!(form(&[("Tag.1.Value", "a b/ü+"), ("B", "~")]), "Tag.1.Value=a%20b%2F%C3%BC%2B&B=~");
        let at = "2015-08-30T12:36:00Z".parse().expect("a time");
        assert_eq!(amz_date(at), DATE);
    }
}
