//! Clients: to every node one that writes whatever the node says of itself, some that ask `GET /primary` first, and
//! readers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

use crate::checker::{History, Read, Rogue, Write};
use crate::cluster::{Book, NODES};

const STATEMENT_LIMIT: Duration = Duration::from_secs(3);
const WRITE_PAUSE: Duration = Duration::from_millis(10);
const READ_PAUSE: Duration = Duration::from_millis(25);
const RETRY_PAUSE: Duration = Duration::from_millis(50);
const ROUTED_WRITERS: usize = 2;
const INSERT: &str = "INSERT INTO chaos (id, node) VALUES ($1, $2)
    RETURNING ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int";
const SELECT: &str = "SELECT EXISTS (SELECT FROM chaos WHERE id = $1), pg_is_in_recovery()";

/// What all clients share.
#[derive(Clone)]
pub struct Scribe {
    started: Instant,
    next: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    history: Arc<Mutex<History>>,
}

impl Scribe {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

/// The running clients.
pub struct Clients {
    scribe: Scribe,
    tasks: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Creates the table on `primary` and starts.
    pub async fn start(book: &Book, primary: usize) -> Result<Clients> {
        // No primary key: a row that appears twice shall be seen, not refused.
        let table = "CREATE TABLE chaos (id bigint NOT NULL, node int NOT NULL); CREATE INDEX ON chaos (id)";
        book.connect(primary).await?.batch_execute(table).await.context("create the table")?;
        let scribe = Scribe {
            started: Instant::now(),
            next: Arc::new(AtomicU64::new(1)),
            stop: Arc::default(),
            history: Arc::default(),
        };
        let mut tasks = Vec::new();
        for node in 0..NODES {
            tasks.push(tokio::spawn(write(scribe.clone(), book.clone(), Route::To(node))));
        }
        for turn in 0..ROUTED_WRITERS {
            tasks.push(tokio::spawn(write(scribe.clone(), book.clone(), Route::Asked(turn))));
        }
        for node in 0..NODES {
            tasks.push(tokio::spawn(read(scribe.clone(), book.clone(), node)));
        }
        Ok(Clients { scribe, tasks })
    }

    /// Time since the clients were started.
    pub fn now(&self) -> Duration {
        self.scribe.now()
    }

    /// Notes a promotion that no agent did.
    pub fn note_rogue(&self, rogue: Rogue) {
        self.scribe.history().rogues.push(rogue);
    }

    /// Stops all of them; what they saw, and when they stopped.
    pub async fn finish(self) -> Result<(History, Duration)> {
        self.scribe.stop.store(true, Ordering::Relaxed);
        let end = self.scribe.now();
        for task in self.tasks {
            task.await.context("a client ended early")?;
        }
        let history = std::mem::take(&mut *self.scribe.history());
        Ok((history, end))
    }
}

/// The rows of a node, and how often each is there.
pub async fn rows(book: &Book, node: usize) -> Result<BTreeMap<u64, u32>> {
    let client = book.connect(node).await?;
    let rows = client.query("SELECT id, count(*)::int FROM chaos GROUP BY id", &[]).await.context("read all rows")?;
    let row = |row: &tokio_postgres::Row| {
        Some((u64::try_from(row.get::<_, i64>(0)).ok()?, u32::try_from(row.get::<_, i32>(1)).ok()?))
    };
    rows.iter().map(|line| row(line).context("a row's number")).collect()
}

#[derive(Clone, Copy)]
enum Route {
    /// This node, whatever it says.
    To(usize),
    /// Whoever says it is the primary; where to begin asking.
    Asked(usize),
}

impl Route {
    async fn connect(self, book: &Book) -> Option<(usize, Client)> {
        match self {
            Route::To(node) => Some((node, book.connect(node).await.ok()?)),
            Route::Asked(first) => {
                for turn in 0..NODES {
                    let node = (first + turn) % NODES;
                    if book.is_primary(node).await {
                        return Some((node, book.connect(node).await.ok()?));
                    }
                }
                None
            }
        }
    }
}

async fn write(scribe: Scribe, book: Book, route: Route) {
    let mut connected = None;
    while scribe.goes_on() {
        let Some((node, client)) = &connected else {
            connected = route.connect(&book).await;
            if connected.is_none() {
                sleep(RETRY_PAUSE).await;
            }
            continue;
        };
        let id = scribe.next.fetch_add(1, Ordering::Relaxed);
        let sent = scribe.now();
        let (row, asked) = (id as i64, *node as i32);
        let answer = timeout(STATEMENT_LIMIT, client.query_one(INSERT, &[&row, &asked])).await;
        let note = |acknowledged| scribe.history().writes.push(Write { id, node: *node, sent, acknowledged });
        match answer {
            Ok(Ok(row)) => {
                let timeline = u32::try_from(row.get::<_, i32>(0)).unwrap_or_default();
                note(Some((scribe.now(), timeline)));
                sleep(WRITE_PAUSE).await;
            }
            // "cannot execute INSERT in a read-only transaction": certainly not written.
            Ok(Err(error)) if error.as_db_error().is_some_and(|error| error.code().code() == "25006") => {
                sleep(RETRY_PAUSE).await;
                if matches!(route, Route::Asked(_)) {
                    connected = None;
                }
            }
            _ => {
                note(None);
                connected = None;
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// Looks for the row that was acknowledged last, on a node that says it is no standby.
async fn read(scribe: Scribe, book: Book, node: usize) {
    let mut connected = None;
    while scribe.goes_on() {
        sleep(READ_PAUSE).await;
        let Some(client) = &connected else {
            connected = book.connect(node).await.ok();
            continue;
        };
        let newest =
            scribe.history().writes.iter().rev().find(|write| write.acknowledged.is_some()).map(|write| write.id);
        let Some(id) = newest else { continue };
        let sent = scribe.now();
        match timeout(STATEMENT_LIMIT, client.query_one(SELECT, &[&(id as i64)])).await {
            Ok(Ok(row)) if !row.get::<_, bool>(1) => {
                scribe.history().reads.push(Read { id, node, sent, found: row.get(0) });
            }
            Ok(Ok(_)) => {}
            _ => connected = None,
        }
    }
}
