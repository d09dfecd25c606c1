//! The API over real TCP connections.

use std::sync::Arc;
use std::time::Duration;

use crate::support::{Node, config, raw, send, serve};
use api::Backend;
use model::Role;
use rstest::rstest;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn health_checks_by_get_head_and_options() {
    let node = Node::leader();
    let server = serve(&node, json!({"http_extra_headers": {"X-Extra": "1"}})).await;
    let at = server.local_addr();
    for (path, code) in [("/", 200), ("/primary", 200), ("/replica?lag=1", 503), ("/nonsense", 503), ("/health", 200)] {
        let get = send(at, &format!("GET {path}"), "", "").await;
        assert_eq!(get.code, code, "{path}");
        assert!(get.head.contains("content-type: application/json") && get.head.contains("x-extra: 1"), "{}", get.head);
        let body: Value = serde_json::from_str(&get.body).expect("JSON");
        assert_eq!(body["patroni"]["name"], "n1");
        for method in ["HEAD", "OPTIONS"] {
            let bare = send(at, &format!("{method} {path}"), "", "").await;
            assert_eq!((bare.code, bare.body.as_str()), (code, ""), "{method} {path}");
            assert!(!bare.head.contains("content-type") && !bare.head.contains("x-extra"), "{}", bare.head);
        }
    }
    node.update(|status| status.is_leader = false);
    assert_eq!(send(at, "GET /primary", "", "").await.code, 503, "each answer is evaluated anew");
}

#[tokio::test]
async fn load_balancers_speak_old_http() {
    let server = serve(&Node::leader(), json!({})).await;
    let answer = raw(server.local_addr(), b"OPTIONS / HTTP/1.0\r\n\r\n").await;
    assert_eq!((answer.code, answer.body.as_str()), (200, ""));
    let answer = raw(server.local_addr(), b"OPTIONS * HTTP/1.0\r\n\r\n").await;
    assert_eq!(answer.code, 503);
}

#[tokio::test]
async fn liveness_and_readiness_have_no_body() {
    let node = Node::leader();
    let server = serve(&node, json!({})).await;
    let at = server.local_addr();
    for path in ["/liveness", "/readiness"] {
        let answer = send(at, &format!("GET {path}"), "", "").await;
        assert_eq!((answer.code, answer.body.as_str()), (200, ""), "{path}");
        assert_eq!(send(at, &format!("HEAD {path}"), "", "").await.code, 503, "{path}: no health path by HEAD");
    }
    node.update(|status| {
        status.is_leader = false;
        status.liveness_ms_left = 0;
    });
    assert_eq!(send(at, "GET /liveness", "", "").await.code, 503);
    assert_eq!(send(at, "GET /readiness", "", "").await.code, 503);
}

#[tokio::test]
async fn information() {
    let node = Node::leader();
    let fresh = api::NodeStatus { role: Role::Replica, ..node.status() };
    *node.fresh.lock().expect("fresh") = Some(fresh);
    let server = serve(&node, json!({})).await;
    let at = server.local_addr();
    for (path, text) in [
        ("/patroni", r#""role": "replica""#),
        ("/primary", r#""role": "primary""#),
        ("/cluster", r#"{"members": [{"name": "n1", "role": "leader", "state": "running""#),
        ("/config/", r#"{"ttl": 30, "b": 1, "a": "\u00e4"}"#),
        ("/history", r#"[[1, 5, "no recovery target specified", "2026-01-01T00:00:00+00:00", "n1"]]"#),
        ("/failsafe", r#"{"n1": "http://127.0.0.1:1/patroni"}"#),
        ("/decisions", r#"[{"rule": "r"}]"#),
        ("/metrics", "patroni_replica{scope=\"demo\",name=\"n1\"} 1\n"),
    ] {
        let answer = send(at, &format!("GET {path}"), "", "").await;
        assert_eq!(answer.code, 200, "{path}");
        assert!(answer.body.contains(text), "{path}: {}", answer.body);
        assert!(answer.head.contains("server: patroni/4.1.5"), "{}", answer.head);
    }
    assert!(send(at, "GET /metrics", "", "").await.head.contains("content-type: text/plain"));

    node.update(|status| {
        status.cluster = None;
        status.failsafe_members.clear();
    });
    *node.store.lock().expect("store") = None;
    for (path, code) in [("/cluster", 503), ("/history", 503), ("/config", 502), ("/failsafe", 502), ("/patroni", 200)]
    {
        assert_eq!(send(at, &format!("GET {path}"), "", "").await.code, code, "{path} without the store");
    }
}

#[rstest]
#[case("POST /reload", "", 202, "reload scheduled", "reload")]
#[case("POST /sigterm", "", 202, "shutdown scheduled", "")]
#[case("POST /restart", "", 200, "restarted successfully", "restart {}")]
#[case("POST /restart", r#"{"timeout":"5s"}"#, 200, "restarted successfully", r#"restart {"timeout":5}"#)]
#[case("POST /restart", r#"{"x":1}"#, 400, "Unknown filter for the scheduled restart: x", "")]
#[case("POST /restart", "null", 400, "Error code: 400", "")]
#[case("POST /restart", "{", 400, "Error code: 400", "")]
#[case("DELETE /restart", "", 404, "no restarts are scheduled", "cancel restart")]
#[case("POST /switchover", r#"{"leader":"n1"}"#, 200, "Successfully switched over", r#"switchover Some("n1") None"#)]
#[case("POST /failover", r#"{"member":"n2"}"#, 200, "Successfully", r#"failover None Some("n2")"#)]
#[case("POST /failover", r#"{"leader":"n1"}"#, 400, "only to a specific candidate", "")]
#[case("POST /switchover", "", 411, "Client must specify Content-Length", "")]
#[case("POST /switchover", "{}", 400, "Error code: 400", "")]
#[case("DELETE /switchover", "", 200, "scheduled switchover deleted", "cancel switchover")]
#[case("DELETE /failover", "", 501, "Server does not support this operation", "")]
#[case("POST /reinitialize", "", 200, "reinitialize started", "reinitialize false false")]
#[case("POST /reinitialize", r#"{"force":true,"from_leader":"on"}"#, 200, "", "reinitialize true true")]
#[case("POST /reinitialize", "[1]", 400, "Error code: 400", "")]
#[case("PATCH /config", r#"{"b":null,"a":2}"#, 200, r#"{"b": null, "a": 2}"#, r#"patch {"b":null,"a":2}"#)]
#[case("PATCH /config", r#"{"conflict":1}"#, 409, "changed by somebody else", "")]
#[case("PATCH /config", "{}", 400, "Error code: 400", "")]
#[case("PATCH /config", "[1]", 400, "must be a JSON object", "")]
#[case("PATCH /config", "", 411, "Error code: 411", "")]
#[case("PUT /config", r#"{"z":1,"a":2}"#, 200, r#"{"z": 1, "a": 2}"#, r#"put {"z":1,"a":2}"#)]
#[case("POST /citus", "{}", 501, "Unsupported method ('POST')", "")]
#[case("POST /patroni", "", 501, "Server does not support this operation", "")]
#[case("BREW /", "", 501, "Unsupported method ('BREW')", "")]
#[tokio::test]
async fn operations(
    #[case] request: &str,
    #[case] body: &str,
    #[case] code: u16,
    #[case] text: &str,
    #[case] asked: &str,
) {
    let node = Node::leader();
    let server = serve(&node, json!({})).await;
    let answer = send(server.local_addr(), request, "", body).await;
    assert_eq!(answer.code, code, "{}", answer.body);
    assert!(answer.body.contains(text), "{}", answer.body);
    assert_eq!(node.take_asked().join(";"), asked);
}

#[tokio::test]
async fn failsafe_needs_the_mode_and_answers_with_the_position() {
    let node = Node::leader();
    let server = serve(&node, json!({})).await;
    let at = server.local_addr();
    let body = r#"{"name":"n2","api_url":"u","conn_url":"c"}"#;
    assert_eq!(send(at, "POST /failsafe", "", body).await.code, 502);
    node.update(|status| status.failsafe_enabled = true);
    let answer = send(at, "POST /failsafe", "", body).await;
    assert_eq!((answer.code, answer.body.as_str()), (200, "Accepted"));
    assert!(answer.head.contains("lsn: 77"), "{}", answer.head);
    assert_eq!(send(at, "POST /failsafe", "", r#"{"slots":{}}"#).await.code, 400);
    assert_eq!(send(at, "POST /failsafe", "", "").await.code, 411);
}

#[tokio::test]
async fn passwords_guard_operations_only() {
    let node = Node::leader();
    let server = serve(&node, json!({"authentication": {"username": "u", "password": "p"}})).await;
    let at = server.local_addr();
    for request in [
        "PATCH /config",
        "PUT /config",
        "POST /reload",
        "POST /sigterm",
        "POST /restart",
        "DELETE /restart",
        "POST /failover",
        "POST /switchover",
        "DELETE /switchover",
        "POST /reinitialize",
        "POST /failsafe",
    ] {
        let answer = send(at, request, "", "").await;
        assert_eq!((answer.code, answer.body.as_str()), (401, "no auth header received"), "{request}");
        assert!(answer.head.contains("www-authenticate: basic realm=\"patroni\""), "{}", answer.head);
        let answer = send(at, request, "Authorization: Basic dTpx\r\n", "").await;
        assert_eq!((answer.code, answer.body.as_str()), (401, "not authenticated"), "{request}");
    }
    assert!(node.take_asked().is_empty());
    assert_eq!(send(at, "POST /reload", "Authorization: Basic dTpw\r\n", "").await.code, 202);
    assert_eq!(send(at, "GET /config", "", "").await.code, 200);
}

#[tokio::test]
async fn allowlists() {
    let node = Node::leader();
    node.update(|status| status.failsafe_enabled = true);
    let failsafe = r#"{"name":"n2"}"#;
    for (extra, reload, failsafe_code) in [
        (json!({"allowlist": ["127.0.0.0/8"]}), 202, 200),
        (json!({"allowlist": ["10.0.0.0/8", "localhost"]}), 202, 200),
        (json!({"allowlist": ["10.0.0.0/8"]}), 403, 403),
        (json!({"allowlist_include_members": true}), 202, 200),
        (json!({"allowlist": ["10.0.0.0/8"], "allowlist_include_members": true}), 202, 403),
    ] {
        let server = serve(&node, extra.clone()).await;
        let at = server.local_addr();
        assert_eq!(send(at, "POST /reload", "", "").await.code, reload, "{extra}");
        assert_eq!(send(at, "POST /failsafe", "", failsafe).await.code, failsafe_code, "{extra}");
        assert_eq!(send(at, "GET /primary", "", "").await.code, 200, "{extra}");
    }
    node.update(|status| status.cluster = None);
    let server = serve(&node, json!({"allowlist_include_members": true})).await;
    let answer = send(server.local_addr(), "POST /reload", "", "").await;
    assert_eq!((answer.code, answer.body.as_str()), (403, "Access is denied"));
    assert_eq!(send(server.local_addr(), "POST /failsafe", "", failsafe).await.code, 200, "no members known");
}

#[tokio::test]
async fn hostile_requests_are_answered_or_cut() {
    let node = Node::leader();
    let server = serve(&node, json!({})).await;
    let at = server.local_addr();
    let huge = format!(r#"{{"a":"{}"}}"#, "x".repeat(1 << 20));
    let answer = send(at, "PATCH /config", "", &huge).await;
    assert_eq!(answer.code, 413, "{}", answer.body);
    assert_eq!(send(at, "PATCH /config", "", "{\"a\":\"\u{0}\"}").await.code, 400);
    assert_eq!(
        raw(at, b"PATCH /config HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\n\"\xff\"")
            .await
            .code,
        400
    );
    let chunked = b"PATCH /config HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n{\"a\":1}\r\n0\r\n\r\n";
    assert_eq!(raw(at, chunked).await.code, 200);
    assert!(matches!(
        raw(at, b"GET /\xff\xfe?lag=%ff&tag_%zz=%00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.code,
        400 | 503
    ));
    assert_eq!(send(at, "GET /replica?lag=%ff&tag_%zz=%00&&==", "", "").await.code, 503);
    assert_eq!(raw(at, b"nonsense\r\n\r\n").await.code, 400);
    assert_eq!(send(at, "GET /", &format!("X: {}\r\n", "x".repeat(200_000)), "").await.code, 431);
    assert_eq!(send(at, "GET /", &"X: y\r\n".repeat(200), "").await.code, 431);
    let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(send(at, "PATCH /config", "", &deep).await.code, 400);
    node.take_asked();
    assert_eq!(send(at, "PATCH /config", "", r#"{"panic":1}"#).await.code, 500);
    assert_eq!(send(at, "GET /primary", "", "").await.code, 200, "alive after all of this");
}

#[tokio::test]
async fn slow_clients_are_cut() {
    let server = serve(&Node::leader(), json!({})).await;
    let (body, headers) = tokio::join!(
        raw(server.local_addr(), b"PATCH /config HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{"),
        raw(server.local_addr(), b"GET / HTTP/1.1\r\nHost"),
    );
    assert_eq!(body.code, 408);
    assert!(matches!(headers.code, 0 | 408), "cut: {}", headers.code);
}

#[tokio::test]
async fn connections_are_kept_alive() {
    let server = serve(&Node::leader(), json!({})).await;
    let mut stream = TcpStream::connect(server.local_addr()).await.expect("connected");
    for _ in 0..3 {
        stream.write_all(b"OPTIONS /primary HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
        let mut answer = vec![0; 4096];
        let length = stream.read(&mut answer).await.expect("received");
        assert!(answer[..length].starts_with(b"HTTP/1.1 200 OK\r\n"));
    }
}

#[tokio::test]
async fn port_in_use_is_said_clearly() {
    let first = serve(&Node::leader(), json!({})).await;
    let listen = first.local_addr().to_string();
    let error =
        api::serve(config(&listen, json!({})), Node::leader() as Arc<dyn Backend>).await.err().expect("refused");
    let text = error.to_string();
    assert!(text.contains("restapi.listen") && text.contains(&listen) && text.contains("another process"), "{text}");
}

#[tokio::test]
async fn reload_changes_settings_and_address() {
    let server = serve(&Node::leader(), json!({})).await;
    let first = server.local_addr();
    assert_eq!(send(first, "POST /reload", "", "").await.code, 202);
    let auth = json!({"auth": "u:p", "server_tokens": "productonly"});
    server.reload(config("127.0.0.1:0", auth.clone())).await.expect("reloaded");
    assert_eq!(server.local_addr(), first, "an unchanged setting keeps the listener");
    let answer = send(first, "POST /reload", "", "").await;
    assert_eq!(answer.code, 401);
    assert!(answer.head.contains("server: patroni\r\n"), "{}", answer.head);

    // The same port on all addresses collides with the listener it replaces.
    let all = format!("*:{}", first.port());
    server.reload(config(&all, auth.clone())).await.expect("moved");
    assert!(server.local_addr().ip().is_unspecified());
    assert_eq!(send(first, "GET /primary", "", "").await.code, 200);

    // A port that is somebody else's: refused, and the server stays where it is.
    let other = serve(&Node::leader(), json!({})).await;
    let taken = config(&other.local_addr().to_string(), auth);
    assert!(tokio::time::timeout(Duration::from_secs(30), server.reload(taken)).await.expect("in time").is_err());
    assert_eq!(server.local_addr().port(), first.port());
    assert_eq!(send(first, "GET /primary", "", "").await.code, 200);
}

#[tokio::test]
async fn shutdown_closes_idle_connections_and_the_port() {
    let server = serve(&Node::leader(), json!({})).await;
    let at = server.local_addr();
    let mut idle = TcpStream::connect(at).await.expect("connected");
    idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    assert!(idle.read(&mut [0; 4096]).await.expect("answered") > 0);
    tokio::time::timeout(Duration::from_secs(10), server.shutdown()).await.expect("bounded");
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), idle.read_to_end(&mut rest)).await.expect("closed").ok();
    assert!(TcpStream::connect(at).await.is_err(), "nobody listens any more");
}
