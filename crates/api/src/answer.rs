//! What a handler says, before it becomes an HTTP response.

use axum::body::Body;
use axum::response::Response;
use http::header::{CONNECTION, CONTENT_TYPE, SERVER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::Value;

use crate::backend::Reply;
use crate::json;

/// A status code with a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// HTTP status code.
    pub(crate) code: u16,
    content: Content,
    header: Option<(HeaderName, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    /// No body and none of our headers: what load balancers get for HEAD and OPTIONS.
    Bare,
    /// Upstream labels its one-line answers `text/html`.
    Text(String),
    /// `application/json`.
    Json(String),
    /// `text/plain`, for the metrics.
    Plain(String),
    /// The generic error page with this message.
    Page(String),
}

impl Answer {
    /// Only a status code.
    pub(crate) fn bare(code: u16) -> Answer {
        Answer { code, content: Content::Bare, header: None }
    }

    /// 200 or 503 without a body.
    pub(crate) fn healthy(healthy: bool) -> Answer {
        Answer::bare(if healthy { 200 } else { 503 })
    }

    /// A line of text.
    pub(crate) fn text(code: u16, text: impl Into<String>) -> Answer {
        Answer { code, content: Content::Text(text.into()), header: None }
    }

    /// A JSON document.
    pub(crate) fn json(code: u16, value: &Value) -> Answer {
        Answer { code, content: Content::Json(json::to_text(value)), header: None }
    }

    /// Prometheus text.
    pub(crate) fn plain(code: u16, text: String) -> Answer {
        Answer { code, content: Content::Plain(text), header: None }
    }

    /// The generic error page; `message` says in one sentence what is wrong.
    pub(crate) fn page(code: u16, message: impl Into<String>) -> Answer {
        Answer { code, content: Content::Page(message.into()), header: None }
    }

    /// With one more header.
    pub(crate) fn with_header(mut self, name: HeaderName, value: impl ToString) -> Answer {
        self.header = Some((name, value.to_string()));
        self
    }

    /// The body's text; empty where there is none.
    #[cfg(test)]
    pub(crate) fn body(&self) -> &str {
        match &self.content {
            Content::Bare => "",
            Content::Text(text) | Content::Json(text) | Content::Plain(text) | Content::Page(text) => text,
        }
    }

    /// The response, with `extra` headers and the `Server` header where the answer has headers at all.
    pub(crate) fn into_response(self, extra: &HeaderMap, server: Option<&HeaderValue>) -> Response {
        let code = StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let (content_type, body) = match self.content {
            Content::Bare => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = code;
                return response;
            }
            Content::Text(text) => ("text/html", text),
            Content::Json(text) => ("application/json", text),
            Content::Plain(text) => ("text/plain", text),
            Content::Page(message) => ("text/html;charset=utf-8", error_page(code, &message)),
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = code;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Some(server) = server {
            headers.insert(SERVER, server.clone());
        }
        headers.extend(extra.iter().map(|(name, value)| (name.clone(), value.clone())));
        if code == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"Patroni\""));
        }
        if matches!(code, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some((name, value)) = self.header
            && let Ok(value) = HeaderValue::from_str(&value)
        {
            headers.insert(name, value);
        }
        response
    }
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Answer {
        Answer::text(reply.code, reply.text)
    }
}

/// HTML of an error, in the shape tools know: `patronictl` looks for the explanation of 501.
fn error_page(code: StatusCode, message: &str) -> String {
    let explanation = match code.as_u16() {
        400 => "Bad request syntax or unsupported method",
        408 => "Request timed out; try again later",
        409 => "Request conflict",
        411 => "Client must specify Content-Length",
        413 => "Entity is too large",
        501 => "Server does not support this operation",
        502 => "Invalid responses from another server/proxy",
        503 => "The server cannot process the request",
        _ => "Server got itself in trouble",
    };
    let (code, message) = (code.as_u16(), escape_html(message));
    format!(
        "<!DOCTYPE HTML>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Error response</title></head>\n\
         <body><h1>Error response</h1>\n<p>Error code: {code}</p>\n<p>Message: {message}</p>\n\
         <p>Error code explanation: {code} - {explanation}.</p></body></html>\n"
    )
}

fn escape_html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_answers_carry_no_headers_of_ours() {
        let mut extra = HeaderMap::new();
        extra.insert("x-test", HeaderValue::from_static("1"));
        let response = Answer::bare(503).into_response(&extra, Some(&HeaderValue::from_static("Patroni")));
        assert!(response.headers().is_empty());
        let response = Answer::text(401, "no").into_response(&extra, None);
        assert_eq!(response.headers()["www-authenticate"], "Basic realm=\"Patroni\"");
        assert_eq!(response.headers()["x-test"], "1");
    }

    #[test]
    fn error_pages_explain_and_escape() {
        let page = error_page(StatusCode::NOT_IMPLEMENTED, "Unsupported method ('<B>')");
        assert!(page.contains("Server does not support this operation") && page.contains("('&lt;B&gt;')"), "{page}");
    }
}
