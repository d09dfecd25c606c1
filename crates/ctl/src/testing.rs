//! Stand-ins for the streams, the store and members' REST APIs.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Cursor, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use config::LocalConfig;
use dcs::{Capabilities, Changes, Freshness, Guard, Store, StoreError, Timing};
use model::wire::{RawKey, assemble};
use model::{ClusterView, Key, Member};
use tokio::sync::watch;

use crate::cli::Cli;
use crate::cluster::Cluster;
use crate::error::CtlError;
use crate::prompt::Console;
use crate::request::Rest;
use crate::session::Session;

/// What was printed.
#[derive(Clone, Default)]
pub struct Screen {
    out: Rc<RefCell<Vec<u8>>>,
    err: Rc<RefCell<Vec<u8>>>,
}

struct Buffer(Rc<RefCell<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Screen {
    /// Standard output so far.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.out.borrow()).into_owned()
    }

    /// Standard error so far.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.err.borrow()).into_owned()
    }
}

/// A console that prints on `screen` and is answered from `input`.
pub fn console(screen: &Screen, input: &str) -> Console {
    Console::new(
        Box::new(Buffer(Rc::clone(&screen.out))),
        Box::new(Buffer(Rc::clone(&screen.err))),
        Box::new(Cursor::new(input.to_owned().into_bytes())),
    )
}

/// A store in memory, with versions that count up.
pub struct FakeStore {
    keys: Mutex<Vec<RawKey>>,
    changes: watch::Sender<Changes>,
}

impl FakeStore {
    /// A store with these keys, by path below the cluster's prefix.
    pub fn new(keys: &[(&str, &str)]) -> Arc<FakeStore> {
        let raw = keys.iter().enumerate().filter_map(|(number, (path, value))| {
            Some(RawKey { key: Key::parse(path)?, value: (*value).to_owned(), version: number as u64 + 1 })
        });
        Arc::new(FakeStore { keys: Mutex::new(raw.collect()), changes: watch::channel(Changes::default()).0 })
    }

    /// The value of a key.
    pub fn value(&self, key: &Key) -> Option<String> {
        self.keys.lock().expect("keys").iter().find(|raw| raw.key == *key).map(|raw| raw.value.clone())
    }
}

#[async_trait]
impl Store for FakeStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities { name: "fake", watch: false }
    }

    fn set_timing(&self, _: Timing) {}

    async fn read(&self, _: Freshness) -> Result<ClusterView, StoreError> {
        Ok(assemble(self.keys.lock().expect("keys").iter().cloned()))
    }

    async fn acquire_leader(&self) -> Result<(), StoreError> {
        unreachable!("a command never leads")
    }

    async fn renew_leader(&self) -> Result<(), StoreError> {
        unreachable!("a command never leads")
    }

    async fn release_leader(&self) -> Result<(), StoreError> {
        unreachable!("a command never leads")
    }

    async fn touch_member(&self, _: &Member) -> Result<(), StoreError> {
        unreachable!("a command is no member")
    }

    async fn delete_member(&self, _: &str) -> Result<(), StoreError> {
        unreachable!("a command is no member")
    }

    async fn put(&self, key: &Key, value: &str, guard: Guard) -> Result<u64, StoreError> {
        let mut keys = self.keys.lock().expect("keys");
        let next = keys.iter().map(|raw| raw.version).max().unwrap_or(0) + 1;
        let current = keys.iter().position(|raw| raw.key == *key);
        let version = current.map_or(0, |index| keys[index].version);
        if matches!(guard, Guard::Version(wanted) if wanted != 0 && wanted != version) {
            return Err(StoreError::Rejected(key.to_string()));
        }
        let raw = RawKey { key: key.clone(), value: value.to_owned(), version: next };
        match current {
            Some(index) => keys[index] = raw,
            None => keys.push(raw),
        }
        Ok(next)
    }

    async fn delete(&self, key: &Key, _: Guard) -> Result<(), StoreError> {
        self.keys.lock().expect("keys").retain(|raw| raw.key != *key);
        Ok(())
    }

    async fn delete_cluster(&self) -> Result<(), StoreError> {
        self.keys.lock().expect("keys").clear();
        Ok(())
    }

    fn changes(&self) -> watch::Receiver<Changes> {
        self.changes.subscribe()
    }
}

/// A cluster as read from these keys.
pub fn cluster(name: &str, keys: &[(&str, &str)]) -> Cluster {
    let store = FakeStore::new(keys);
    let view = assemble(store.keys.lock().expect("keys").iter().cloned());
    Cluster { name: name.to_owned(), group: None, store, view }
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// The error, if it failed.
    pub error: Option<CtlError>,
}

/// Runs `patronictl` with these arguments and answers; the configured scope is `demo`, every scope has this store.
pub async fn run(store: &Arc<FakeStore>, input: &str, args: &[&str]) -> Ended {
    use clap::Parser;
    let cli = Cli::try_parse_from(std::iter::once(&"patronictl").chain(args)).expect("valid arguments");
    let local = LocalConfig::from_tree(serde_json::Map::from_iter([("scope".to_owned(), "demo".into())]));
    let screen = Screen::default();
    let store: Arc<dyn Store> = Arc::clone(store) as Arc<dyn Store>;
    let session = Session {
        console: console(&screen, input),
        rest: Rest::new(&local.ctl().expect("a section"), false).expect("a client"),
        config: local.tree,
        open: Box::new(move |_, _| {
            let store = Arc::clone(&store);
            Box::pin(async move { Ok(store) })
        }),
    };
    let error = cli.command.run(&session).await.err();
    Ended { out: screen.out(), err: screen.err(), error }
}

/// A request as a member received it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Method and path.
    pub line: String,
    /// The header `Authorization`.
    pub authorization: Option<String>,
    /// The body.
    pub body: String,
}

/// A member's REST API: answers by a function of method and path.
pub struct Api {
    port: u16,
    requests: Arc<Mutex<Vec<Received>>>,
}

impl Api {
    /// Listens on a random port; `answer` maps `METHOD /path` to status and body.
    pub fn start(answer: impl Fn(&str) -> (u16, String) + Send + 'static) -> Api {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        // The thread ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Some(received) = receive(&stream) {
                    let (status, body) = answer(&received.line);
                    log.lock().expect("requests").push(received);
                    reply(stream, status, &body);
                }
            }
        });
        Api { port, requests }
    }

    /// What was asked so far.
    pub fn requests(&self) -> Vec<Received> {
        self.requests.lock().expect("requests").clone()
    }

    /// The requests without their headers: `POST /restart {}`.
    pub fn lines(&self) -> Vec<String> {
        self.requests()
            .iter()
            .map(|request| format!("{} {}", request.line, request.body).trim_end().to_owned())
            .collect()
    }

    /// What a member with this API publishes as `api_url`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/patroni", self.port)
    }
}

fn receive(stream: &TcpStream) -> Option<Received> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let line = first.rsplit_once(" HTTP/")?.0.to_owned();
    let (mut length, mut authorization) = (0, None);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "authorization" => authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Received { line, authorization, body: String::from_utf8_lossy(&body).into_owned() })
}

fn reply(mut stream: TcpStream, status: u16, body: &str) {
    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    // A client that went away is the client's test to fail.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
}

/// A member with that API.
pub fn api_member(name: &str, api: &Api) -> Member {
    Member { name: name.to_owned(), api_url: Some(api.url()), ..Member::default() }
}
