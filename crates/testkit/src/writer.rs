//! A client that writes all the time and remembers what was acknowledged, and a probe that asks every node directly
//! whether it accepts writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

use crate::cluster::Cluster;
use crate::sql::Sql;
use crate::wait::wait_until;

const TABLES_LIMIT: Duration = Duration::from_secs(30);
const STATEMENT_LIMIT: Duration = Duration::from_secs(2);
const WRITE_PAUSE: Duration = Duration::from_millis(5);
const PROBE_PAUSE: Duration = Duration::from_millis(20);
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// An acknowledged insert of the probe.
#[derive(Clone, Debug)]
struct Accepted {
    node: String,
    timeline: u32,
    sent: Instant,
    acknowledged: Instant,
}

#[derive(Default)]
struct Record {
    /// Row and when its acknowledgement arrived.
    written: Vec<(i64, Instant)>,
    accepted: Vec<Accepted>,
}

/// The running clients.
pub struct Workload {
    stop: Arc<AtomicBool>,
    record: Arc<Mutex<Record>>,
    tasks: Vec<JoinHandle<()>>,
    started: Instant,
}

/// What the clients saw.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Rows whose insert was acknowledged.
    pub acknowledged: usize,
    /// Acknowledged rows that the final leader does not have, with how long before the longest gap each was
    /// acknowledged (zero for rows after the gap's start).
    pub missing: Vec<(i64, Duration)>,
    /// The longest time between two acknowledgements.
    pub longest_gap: Duration,
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} rows acknowledged, {} missing, longest time without an acknowledged write {:.2} s",
            self.acknowledged,
            self.missing.len(),
            self.longest_gap.as_secs_f64()
        )
    }
}

impl Workload {
    /// Creates the tables on the leader, and starts writing when every replica has them.
    pub async fn start(cluster: &Cluster, leader: &str) -> Result<Workload> {
        let tables = "CREATE TABLE IF NOT EXISTS written (id bigint PRIMARY KEY);
                      CREATE TABLE IF NOT EXISTS probe (node text, at timestamptz DEFAULT clock_timestamp());
                      TRUNCATE written, probe";
        cluster.node(leader)?.sql().rows(tables).await.context("create the tables of the workload")?;
        cluster.caught_up(leader, TABLES_LIMIT).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let record = Arc::new(Mutex::new(Record::default()));
        let nodes: Vec<(String, Sql)> = cluster.nodes.iter().map(|node| (node.name.clone(), node.sql())).collect();
        let mut tasks: Vec<JoinHandle<()>> = nodes
            .iter()
            .map(|(name, sql)| tokio::spawn(probe(name.clone(), sql.clone(), stop.clone(), record.clone())))
            .collect();
        let sqls = nodes.into_iter().map(|(_, sql)| sql).collect();
        tasks.push(tokio::spawn(write(sqls, stop.clone(), record.clone())));
        Ok(Workload { stop, record, tasks, started: Instant::now() })
    }

    /// Waits until `rows` more rows are acknowledged.
    pub async fn more_rows(&self, rows: usize, limit: Duration) -> Result<()> {
        let acknowledged = || lock(&self.record).written.len();
        let goal = acknowledged() + rows;
        wait_until(&format!("{rows} more acknowledged rows"), limit, || acknowledged() >= goal).await
    }

    /// When the last acknowledgement by `node` arrived that the probe saw.
    pub fn last_accepted_by(&self, node: &str) -> Option<Instant> {
        lock(&self.record).accepted.iter().rev().find(|insert| insert.node == node).map(|insert| insert.acknowledged)
    }

    /// When `node` first acknowledged an insert after `since`.
    pub fn first_accepted_by(&self, node: &str, since: Instant) -> Option<Instant> {
        let record = lock(&self.record);
        record
            .accepted
            .iter()
            .map(|insert| (&insert.node, insert.acknowledged))
            .find(|(name, at)| *name == node && *at > since)
            .map(|(_, at)| at)
    }

    /// Stops writing, reads the table on `leader` and compares.
    ///
    /// # Errors
    /// When two nodes accepted writes at the same time, or nothing was written at all.
    pub async fn finish(self, cluster: &Cluster, leader: &str) -> Result<Outcome> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.context("a client of the workload ended early")?;
        }
        let rows = cluster.node(leader)?.sql().rows("SELECT id FROM written").await?;
        let present: BTreeSet<i64> = rows.iter().filter_map(|row| row.first()?.as_deref()?.parse().ok()).collect();
        let record = lock(&self.record);
        ensure!(
            !record.written.is_empty(),
            "no write was acknowledged in {:.1} s",
            self.started.elapsed().as_secs_f64()
        );
        check_one_primary(&record.accepted)?;
        let (gap_start, longest_gap) = longest_gap(self.started, &record.written);
        let missing = record
            .written
            .iter()
            .filter(|(id, _)| !present.contains(id))
            .map(|(id, at)| (*id, gap_start.saturating_duration_since(*at)))
            .collect();
        Ok(Outcome { acknowledged: record.written.len(), missing, longest_gap })
    }
}

fn lock(record: &Mutex<Record>) -> std::sync::MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

fn longest_gap(started: Instant, written: &[(i64, Instant)]) -> (Instant, Duration) {
    let mut longest = (started, Duration::ZERO);
    let mut before = started;
    for (_, at) in written {
        if at.duration_since(before) > longest.1 {
            longest = (before, at.duration_since(before));
        }
        before = *at;
    }
    longest
}

/// A primary's reign is a timeline: promotion begins a new one. Two nodes were writable at once if both wrote on one
/// timeline, or if a write on an older timeline was *sent* after a write on a newer one was acknowledged.
fn check_one_primary(accepted: &[Accepted]) -> Result<()> {
    let mut reigns: BTreeMap<u32, (&str, Instant)> = BTreeMap::new();
    for insert in accepted {
        let (node, _) = *reigns.entry(insert.timeline).or_insert((&insert.node, insert.acknowledged));
        ensure!(node == insert.node, "{node} and {} both accepted writes on timeline {}", insert.node, insert.timeline);
    }
    for insert in accepted {
        for (timeline, (node, since)) in reigns.range(insert.timeline + 1..) {
            ensure!(
                *node == insert.node || insert.sent <= *since,
                "{} accepted a write on timeline {} {} ms after {node} had accepted one on timeline {timeline}",
                insert.node,
                insert.timeline,
                insert.acknowledged.duration_since(*since).as_millis()
            );
        }
    }
    Ok(())
}

/// Writes increasing numbers to whichever node takes them. A number whose outcome is unknown is not used again.
async fn write(nodes: Vec<Sql>, stop: Arc<AtomicBool>, record: Arc<Mutex<Record>>) {
    let mut id: i64 = 0;
    let mut connected: Option<Client> = None;
    let mut turn = 0;
    while !stop.load(Ordering::Relaxed) {
        let Some(client) = &connected else {
            connected = nodes[turn % nodes.len()].connect().await.ok();
            turn += 1;
            if connected.is_none() {
                sleep(RETRY_PAUSE).await;
            }
            continue;
        };
        id += 1;
        let insert = format!("INSERT INTO written VALUES ({id})");
        match timeout(STATEMENT_LIMIT, client.batch_execute(&insert)).await {
            Ok(Ok(())) => {
                lock(&record).written.push((id, Instant::now()));
                sleep(WRITE_PAUSE).await;
            }
            _ => {
                connected = None;
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// Inserts into one node over and over, each time noting the timeline it wrote on.
async fn probe(name: String, sql: Sql, stop: Arc<AtomicBool>, record: Arc<Mutex<Record>>) {
    let insert = format!(
        "INSERT INTO probe (node) VALUES ('{name}')
         RETURNING ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int"
    );
    let mut connected: Option<Client> = None;
    while !stop.load(Ordering::Relaxed) {
        let Some(client) = &connected else {
            connected = sql.connect().await.ok();
            if connected.is_none() {
                sleep(RETRY_PAUSE).await;
            }
            continue;
        };
        let sent = Instant::now();
        match timeout(STATEMENT_LIMIT, client.query_one(&insert, &[])).await {
            Ok(Ok(row)) => {
                let timeline = u32::try_from(row.get::<_, i32>(0)).unwrap_or_default();
                let accepted = Accepted { node: name.clone(), timeline, sent, acknowledged: Instant::now() };
                lock(&record).accepted.push(accepted);
            }
            Ok(Err(error)) if error.as_db_error().is_some() => {}
            _ => connected = None,
        }
        sleep(PROBE_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(start: Instant, rows: &[(&str, u32, u64, u64)]) -> Vec<Accepted> {
        let at = |ms| start + Duration::from_millis(ms);
        rows.iter()
            .map(|&(node, timeline, sent, acknowledged)| Accepted {
                node: node.to_owned(),
                timeline,
                sent: at(sent),
                acknowledged: at(acknowledged),
            })
            .collect()
    }

    #[test]
    fn reigns_that_follow_each_other_are_fine() {
        let rows = [("a", 1, 0, 1), ("a", 1, 5, 12), ("b", 2, 9, 11), ("a", 3, 20, 21), ("a", 4, 30, 31)];
        check_one_primary(&accepted(Instant::now(), &rows)).expect("no overlap can be proved");
    }

    #[test]
    fn overlaps_are_found() {
        let now = Instant::now();
        let same_timeline = [("a", 2, 0, 1), ("b", 2, 5, 6)];
        assert!(check_one_primary(&accepted(now, &same_timeline)).is_err());
        let old_writes_on = [("a", 1, 0, 1), ("b", 2, 2, 3), ("a", 1, 4, 5)];
        assert!(check_one_primary(&accepted(now, &old_writes_on)).is_err());
    }

    #[test]
    fn longest_gap_is_between_two_acknowledgements() {
        let start = Instant::now();
        let written: Vec<(i64, Instant)> = [10, 20, 500, 510]
            .iter()
            .enumerate()
            .map(|(id, ms)| (id as i64, start + Duration::from_millis(*ms)))
            .collect();
        assert_eq!(longest_gap(start, &written), (written[1].1, Duration::from_millis(480)));
    }
}
