//! What the programs' HTTP clients have in common.

use std::path::Path;
use std::time::{Duration, Instant};

use model::causes;
use reqwest::{Client, ClientBuilder, Identity, Response};

/// Answers are a few kilobytes; a longer one is none.
const BODY_BYTES_MAX: usize = 1 << 20;

/// How long something that fails is tried again.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// No attempt begins later than this after the first.
    pub total: Duration,
    /// Between the first two attempts; twice as long after each.
    pub pause: Duration,
    /// The longest pause.
    pub pause_max: Duration,
}

impl Patience {
    /// Tries until it succeeds or patience ends; the error is the last one. Failures before are logged.
    pub async fn retry<T, F>(&self, what: &str, mut attempt: impl FnMut() -> F) -> Result<T, String>
    where
        F: Future<Output = Result<T, String>>,
    {
        let started = Instant::now();
        let mut pause = self.pause.min(self.pause_max);
        loop {
            match attempt().await {
                Err(why) if started.elapsed() + pause < self.total => {
                    tracing::warn!("cannot {what}: {why}; trying again")
                }
                Err(why) => return Err(format!("cannot {what}: {why}")),
                done => return done,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(self.pause_max);
        }
    }
}

/// A client that follows no redirects.
pub fn client(timeout: Duration) -> ClientBuilder {
    // Fails when the process has a provider already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().timeout(timeout).redirect(reqwest::redirect::Policy::none())
}

/// A client certificate from PEM files; the key may be in the same file.
pub fn identity(cert: &Path, key: Option<&Path>) -> Result<Identity, String> {
    let read = |path: &Path| std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
    let mut pem = read(cert)?;
    if let Some(key) = key {
        pem.push(b'\n');
        pem.extend(read(key)?);
    }
    Identity::from_pem(&pem)
        .map_err(|error| format!("cannot use the certificate of {} with its key: {error}", cert.display()))
}

/// The text of a successful answer.
pub async fn text_of(sent: reqwest::Result<Response>) -> Result<String, String> {
    let (code, body) = answer(sent).await?;
    if (200..300).contains(&code) { Ok(body) } else { Err(format!("HTTP status {code}: {}", shortened(&body))) }
}

/// Status and text of any answer.
pub async fn answer(sent: reqwest::Result<Response>) -> Result<(u16, String), String> {
    let mut response = sent.map_err(|error| causes(&error))?;
    let code = response.status().as_u16();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| causes(&error))? {
        body.extend_from_slice(&chunk);
        if body.len() > BODY_BYTES_MAX {
            return Err(format!("the answer is longer than {BODY_BYTES_MAX} bytes"));
        }
    }
    Ok((code, String::from_utf8_lossy(&body).into_owned()))
}

fn shortened(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn patience_ends() {
        let patience = Patience {
            total: Duration::from_millis(20),
            pause: Duration::from_millis(1),
            pause_max: Duration::from_millis(4),
        };
        let mut attempts = 0;
        let result: Result<(), String> = patience
            .retry("try", || {
                attempts += 1;
                async { Err("no".to_owned()) }
            })
            .await;
        assert_eq!(result, Err("cannot try: no".to_owned()));
        assert!((3..=9).contains(&attempts), "{attempts}");
    }
}
