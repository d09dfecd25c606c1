//! A node that is only memory, behind a real server, and a client that speaks raw HTTP.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::{
    ApiConfig, Backend, FailoverRequest, FailsafeAnswer, FailsafeCall, NodeStatus, ReinitRequest, Reply,
    RestartRequest, Server,
};
use async_trait::async_trait;
use model::wire::{RawKey, assemble};
use model::{ClusterView, Key, Lsn, MemberState, Role};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Remembers what it was asked to do.
#[derive(Default)]
pub struct Node {
    pub status: Mutex<NodeStatus>,
    pub fresh: Mutex<Option<NodeStatus>>,
    pub store: Mutex<Option<Arc<ClusterView>>>,
    pub asked: Mutex<Vec<String>>,
}

impl Node {
    /// A leader of a cluster of one, with a store.
    pub fn leader() -> Arc<Node> {
        let raw = |key: Key, value: &str| RawKey { key, value: value.to_owned(), version: 1 };
        let view = Arc::new(assemble([
            raw(Key::Config, r#"{"ttl":30,"b":1,"a":"ä"}"#),
            raw(Key::Leader, "n1"),
            raw(Key::Member("n1".into()), r#"{"api_url":"http://127.0.0.1:1/patroni","state":"running"}"#),
            raw(Key::History, r#"[[1,5,"no recovery target specified","2026-01-01T00:00:00+00:00","n1"]]"#),
            raw(Key::Failsafe, r#"{"n1":"http://127.0.0.1:1/patroni"}"#),
        ]));
        let status = NodeStatus {
            name: "n1".into(),
            scope: "demo".into(),
            version: "4.1.5".into(),
            state: Some(MemberState::Running),
            role: Role::Primary,
            is_leader: true,
            cluster: Some(Arc::clone(&view)),
            failsafe_members: [("n1".to_owned(), "http://127.0.0.1:1/patroni".to_owned())].into(),
            location: Some(Lsn(100)),
            liveness_ms_left: 1000,
            ..NodeStatus::default()
        };
        Arc::new(Node { status: Mutex::new(status), store: Mutex::new(Some(view)), ..Node::default() })
    }

    /// Changes the status.
    pub fn update(&self, change: impl FnOnce(&mut NodeStatus)) {
        change(&mut self.status.lock().expect("status"));
    }

    /// What was asked since the last call of this.
    pub fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().expect("asked"))
    }

    fn note(&self, what: String, code: u16, text: &str) -> Reply {
        self.asked.lock().expect("asked").push(what);
        Reply { code, text: text.to_owned() }
    }
}

#[async_trait]
impl Backend for Node {
    fn status(&self) -> NodeStatus {
        self.status.lock().expect("status").clone()
    }

    async fn fresh_status(&self) -> NodeStatus {
        let fresh = self.fresh.lock().expect("fresh").clone();
        fresh.unwrap_or_else(|| self.status())
    }

    async fn cluster(&self) -> Result<Arc<ClusterView>, String> {
        self.store.lock().expect("store").clone().ok_or_else(|| "the store is away".to_owned())
    }

    async fn patch_config(&self, patch: Map<String, Value>) -> Result<Map<String, Value>, Reply> {
        if patch.contains_key("panic") {
            panic!("as the test wants");
        }
        if patch.contains_key("conflict") {
            return Err(Reply { code: 409, text: "changed by somebody else".into() });
        }
        self.note(format!("patch {}", Value::Object(patch.clone())), 200, "");
        Ok(patch)
    }

    async fn put_config(&self, config: Map<String, Value>) -> Result<(), Reply> {
        self.note(format!("put {}", Value::Object(config)), 200, "");
        Ok(())
    }

    async fn reload(&self) -> Reply {
        self.note("reload".into(), 202, "reload scheduled")
    }

    async fn restart(&self, request: RestartRequest) -> Reply {
        self.note(format!("restart {}", Value::Object(request.raw)), 200, "restarted successfully")
    }

    async fn cancel_restart(&self) -> Reply {
        self.note("cancel restart".into(), 404, "no restarts are scheduled")
    }

    async fn failover(&self, request: FailoverRequest) -> Reply {
        let text = format!("{} {:?} {:?}", request.action(), request.leader, request.candidate);
        self.note(text, 200, "Successfully switched over to \"n2\"")
    }

    async fn cancel_failover(&self) -> Reply {
        self.note("cancel switchover".into(), 200, "scheduled switchover deleted")
    }

    async fn reinitialize(&self, request: ReinitRequest) -> Reply {
        let ReinitRequest { force, from_leader } = request;
        self.note(format!("reinitialize {force} {from_leader}"), 200, "reinitialize started")
    }

    async fn failsafe(&self, call: FailsafeCall) -> FailsafeAnswer {
        FailsafeAnswer { reply: self.note(format!("failsafe {}", call.name), 200, "Accepted"), lsn: Some(Lsn(77)) }
    }

    fn decisions(&self) -> Value {
        json!([{"rule": "r"}])
    }
}

/// Serves `node` on a free port of 127.0.0.1 with more settings from `extra`.
pub async fn serve(node: &Arc<Node>, extra: Value) -> Server {
    api::serve(config("127.0.0.1:0", extra), Arc::clone(node) as Arc<dyn Backend>).await.expect("a server")
}

/// A configuration.
pub fn config(listen: &str, extra: Value) -> ApiConfig {
    let mut section = extra.as_object().cloned().unwrap_or_default();
    section.insert("listen".into(), listen.into());
    ApiConfig::from_section(&section).expect("a valid section")
}

/// An answer in pieces.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    /// Status line and headers.
    pub head: String,
    pub body: String,
}

impl Answer {
    fn parse(text: &str) -> Answer {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        Answer { code, head: head.to_lowercase(), body: body.to_owned() }
    }
}

/// Sends bytes as they are and reads until the server closes.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> Answer {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        stream.write_all(bytes).await.expect("sent");
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await.expect("received");
        String::from_utf8_lossy(&text).into_owned()
    };
    Answer::parse(&tokio::time::timeout(Duration::from_secs(20), exchange).await.expect("an answer in time"))
}

/// A request with headers (each ended by `\r\n`) and a body, whose length is added.
pub async fn send(address: SocketAddr, request: &str, headers: &str, body: &str) -> Answer {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    raw(
        address,
        format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}{length}\r\n{body}").as_bytes(),
    )
    .await
}
