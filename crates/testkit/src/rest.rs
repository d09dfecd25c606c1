//! A node's REST API.

use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::{Client, Method};
use serde_json::Value;

static CLIENT: LazyLock<Client> = LazyLock::new(|| {
    // The HTTP library asks for a provider even where only plain HTTP is used; a second installation is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().pool_max_idle_per_host(0).build().expect("a client without options can be built")
});

/// An HTTP answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub code: u16,
    /// Body.
    pub text: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.text).with_context(|| format!("read {:?} as JSON", self.text))
    }
}

/// Requests to `http://127.0.0.1:port`.
#[derive(Clone, Copy, Debug)]
pub struct Rest {
    /// The port.
    pub port: u16,
}

impl Rest {
    /// GET, at most three seconds.
    pub async fn get(self, path: &str) -> Result<Answer> {
        self.send(Method::GET, path, None, Duration::from_secs(3)).await
    }

    /// The status code that GET answers; `None` when nobody answers.
    pub async fn code(self, path: &str) -> Option<u16> {
        self.get(path).await.ok().map(|answer| answer.code)
    }

    /// Another method, with a JSON body, at most 90 seconds: some answer only when the work is done.
    pub async fn send_json(self, method: Method, path: &str, body: &Value) -> Result<Answer> {
        self.send(method, path, Some(body.to_string()), Duration::from_secs(90)).await
    }

    /// POST.
    pub async fn post(self, path: &str, body: &Value) -> Result<Answer> {
        self.send_json(Method::POST, path, body).await
    }

    /// PATCH.
    pub async fn patch(self, path: &str, body: &Value) -> Result<Answer> {
        self.send_json(Method::PATCH, path, body).await
    }

    /// DELETE.
    pub async fn delete(self, path: &str) -> Result<Answer> {
        self.send(Method::DELETE, path, None, Duration::from_secs(10)).await
    }

    async fn send(self, method: Method, path: &str, body: Option<String>, limit: Duration) -> Result<Answer> {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let mut request = CLIENT.request(method.clone(), &url).timeout(limit);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let response = request.send().await.with_context(|| format!("{method} {url}"))?;
        let code = response.status().as_u16();
        let text = response.text().await.with_context(|| format!("read the answer to {method} {url}"))?;
        Ok(Answer { code, text })
    }
}
