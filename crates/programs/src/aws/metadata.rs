//! The instance's metadata service, version 2: every question carries a token that was asked for first.

use std::time::Duration;

use reqwest::Client;
use serde::Deserialize;

use super::sigv4::Credentials;
use crate::http;

/// Bound on one question. Where there is no such service, nothing answers.
const ANSWER_WITHIN: Duration = Duration::from_millis(2100);
/// Lifetime of a token.
const TOKEN_TTL_S: &str = "300";

/// Where this instance is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// As in `i-0123456789abcdef0`.
    pub instance_id: String,
    /// As in `eu-central-1`.
    pub region: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RoleCredentials {
    access_key_id: String,
    secret_access_key: String,
    token: String,
}

/// The service at one address.
pub struct Metadata {
    base: String,
    client: Client,
}

impl Metadata {
    /// `base` is `http://169.254.169.254` on an instance.
    pub fn new(base: &str) -> Result<Metadata, String> {
        // A proxy would not know which instance asks.
        let client = http::client(ANSWER_WITHIN).no_proxy().build();
        let client = client.map_err(|error| format!("cannot make an HTTP client: {error}"))?;
        Ok(Metadata { base: base.trim_end_matches('/').to_owned(), client })
    }

    /// The instance's identity document.
    pub async fn identity(&self) -> Result<Identity, String> {
        let text = self.get(&self.token().await?, "dynamic/instance-identity/document").await?;
        serde_json::from_str(&text).map_err(|error| format!("the identity document cannot be read: {error}"))
    }

    /// Credentials of the role that the instance has.
    pub async fn credentials(&self) -> Result<Credentials, String> {
        let token = self.token().await?;
        let path = "meta-data/iam/security-credentials/";
        let roles = self.get(&token, path).await?;
        let role = roles.lines().next().map(str::trim).filter(|role| !role.is_empty());
        let role = role.ok_or("the instance has no role")?;
        let text = self.get(&token, &format!("{path}{role}")).await?;
        // The error of a parser could show a part of it.
        let found: RoleCredentials =
            serde_json::from_str(&text).map_err(|_| format!("the credentials of role {role} cannot be read"))?;
        Ok(Credentials {
            access_key_id: found.access_key_id,
            secret_access_key: found.secret_access_key,
            session_token: Some(found.token),
        })
    }

    async fn token(&self) -> Result<String, String> {
        let asked = self.client.put(format!("{}/latest/api/token", self.base));
        let asked = asked.header("X-aws-ec2-metadata-token-ttl-seconds", TOKEN_TTL_S).header("Content-Length", "0");
        http::text_of(asked.send().await).await.map_err(|why| format!("no token from the metadata service: {why}"))
    }

    async fn get(&self, token: &str, path: &str) -> Result<String, String> {
        let asked = self.client.get(format!("{}/latest/{path}", self.base)).header("X-aws-ec2-metadata-token", token);
        http::text_of(asked.send().await).await.map_err(|why| format!("no {path} from the metadata service: {why}"))
    }
}
