//! The REST API driven through real TCP connections.

mod http;
mod support;
mod tls;
