//! One run: start, strike, heal, judge.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use testkit::{Flavour, wait_for};

use crate::checker::{Verdict, check};
use crate::clients::{Clients, rows};
use crate::cluster::{Book, Cluster, Mode, NODES, Programs};
use crate::faults::{strike, undo_all};
use crate::plan::Plan;
use crate::stage::Stage;

const START_LIMIT: Duration = Duration::from_secs(120);
/// Longer than a cycle of an agent.
const STEADY: Duration = Duration::from_secs(6);
const HEAL_LIMIT: Duration = Duration::from_secs(180);
const CATCH_UP_LIMIT: Duration = Duration::from_secs(60);

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whose agents.
    pub flavour: Flavour,
    /// Where they are.
    pub directory: PathBuf,
    /// Where PostgreSQL is.
    pub postgres_bin: PathBuf,
    /// How commits are protected.
    pub mode: Mode,
    /// How long faults go on.
    pub time: Duration,
    /// What is drawn.
    pub seed: u64,
    /// Only faults whose name begins with one of these; empty: all.
    pub only: Vec<String>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// Faults done.
    pub faults: u32,
    /// How long clients ran.
    pub time: Duration,
    /// From the end of the faults to a healthy cluster.
    pub healed_after: Option<Duration>,
    /// What clients saw.
    pub verdict: Verdict,
    /// What must not be in this mode.
    pub violations: Vec<String>,
}

/// Runs faults against a cluster for a while.
///
/// # Errors
/// When the run itself could not be done. What the cluster did wrong is in the report.
pub async fn run(options: &Options) -> Result<Report> {
    let mut stage = Stage::new()?;
    let programs = Programs {
        flavour: options.flavour,
        directory: options.directory.clone(),
        postgres_bin: options.postgres_bin.clone(),
    };
    let mut cluster = Cluster::start(&mut stage, programs, options.mode)?;
    let book = cluster.book();
    let primary = wait_for("a healthy cluster at the start", START_LIMIT, || book.healthy()).await?;
    let clients = Clients::start(&book, primary).await?;
    let faults = strike_for(&mut cluster, &clients, &book, options).await?;
    undo_all(&mut cluster, faults)?;
    let healing = Instant::now();
    let healed = heal(&mut cluster, &book).await;
    let healed_after = healing.elapsed().saturating_sub(STEADY);
    let (history, end) = clients.finish().await?;
    let mut violations = Vec::new();
    let (healed_after, rows_at_end) = match healed {
        Ok(primary) => {
            let rows = rows(&book, primary).await?;
            violations.extend(differing(&book, primary, &rows).await.err().map(|error| format!("{error:#}")));
            (Some(healed_after), rows)
        }
        Err(error) => {
            violations.push(format!("the cluster did not heal: {error:#}"));
            (None, rows_of_anybody(&book).await?)
        }
    };
    let verdict = check(&history, &rows_at_end, end);
    violations.extend(complaints(&verdict, options.mode));
    if violations.is_empty() {
        stage.discard();
    }
    drop(cluster);
    Ok(Report { faults, time: end, healed_after, verdict, violations })
}

async fn strike_for(cluster: &mut Cluster, clients: &Clients, book: &Book, options: &Options) -> Result<u32> {
    let mut plan = Plan::new(options.seed, cluster.has_calendars(), options.only.clone());
    let started = Instant::now();
    let mut number = 0;
    while started.elapsed() < options.time {
        number += 1;
        let step = plan.next_step();
        println!("{:7.1} s  {step}", started.elapsed().as_secs_f64());
        if let Err(error) = strike(cluster, clients, number, &step).await {
            println!("          not done: {error:#}");
        }
        let rested = Instant::now();
        while rested.elapsed() < step.rest && started.elapsed() < options.time {
            restart_what_ended(cluster)?;
            if rested.elapsed() > Duration::from_secs(1) && book.healthy().await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        if rested.elapsed() >= step.rest && step.rest >= Duration::from_secs(60) {
            let error = book.healthy().await.err().map(|error| format!("{error:#}")).unwrap_or_default();
            println!("          not healthy {:.0} s later: {error}", step.rest.as_secs_f64());
        }
    }
    Ok(number)
}

/// What a service manager does for an agent that ended by itself.
fn restart_what_ended(cluster: &mut Cluster) -> Result<()> {
    (0..NODES).try_for_each(|index| cluster.start_agent(index))
}

/// Waits until the cluster is healthy and stays so: what was frozen a moment ago may not know yet what it has missed.
async fn heal(cluster: &mut Cluster, book: &Book) -> Result<usize> {
    let started = Instant::now();
    let mut since = None;
    loop {
        restart_what_ended(cluster)?;
        match book.healthy().await {
            Ok(primary) => match since {
                Some((before, at)) if before == primary => {
                    if Instant::now().duration_since(at) > STEADY {
                        return Ok(primary);
                    }
                }
                _ => since = Some((primary, Instant::now())),
            },
            Err(error) if started.elapsed() > HEAL_LIMIT => bail!("{error:#}"),
            Err(_) => since = None,
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// Every standby has the primary's rows.
async fn differing(book: &Book, primary: usize, expected: &BTreeMap<u64, u32>) -> Result<()> {
    for node in (0..NODES).filter(|node| *node != primary) {
        let what = format!("the rows of db{primary} on db{node}");
        wait_for(&what, CATCH_UP_LIMIT, || async {
            let found = rows(book, node).await?;
            if found == *expected { Ok(()) } else { bail!("{} rows of {}", found.len(), expected.len()) }
        })
        .await?;
    }
    Ok(())
}

async fn rows_of_anybody(book: &Book) -> Result<BTreeMap<u64, u32>> {
    for node in 0..NODES {
        if let Ok(rows) = rows(book, node).await {
            return Ok(rows);
        }
    }
    None.context("no node answers at the end")
}

/// What must not be: in synchronous modes nothing acknowledged is lost; rows neither come from nowhere nor twice, and
/// two nodes never acknowledge at once, in any mode.
fn complaints(verdict: &Verdict, mode: Mode) -> Vec<String> {
    let mut found = Vec::new();
    if mode != Mode::Asynchronous && !verdict.lost.is_empty() {
        found.push(format!("{} acknowledged rows are lost: {:?}", verdict.lost.len(), verdict.lost.first()));
    }
    if !verdict.phantom.is_empty() {
        found.push(format!("rows that nobody wrote: {:?}", verdict.phantom));
    }
    if !verdict.duplicated.is_empty() {
        found.push(format!("rows that are there twice: {:?}", verdict.duplicated));
    }
    for overlap in &verdict.overlaps {
        found.push(format!("two nodes acknowledged writes at once: {overlap:?}"));
    }
    if !verdict.stale.is_empty() {
        found.push(format!(
            "{} reads of the past from a node that was not in recovery: {:?}",
            verdict.stale.len(),
            verdict.stale.first()
        ));
    }
    found
}

impl Report {
    /// The report as lines.
    pub fn text(&self) -> String {
        let verdict = &self.verdict;
        let mut text = String::new();
        let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
        let before = verdict.lost.iter().map(|row| row.before_successor).max().unwrap_or_default();
        let lines = [
            ("faults", self.faults.to_string()),
            ("clients ran", seconds(self.time)),
            ("acknowledged rows", verdict.acknowledged.to_string()),
            ("writes without an answer", verdict.unknown.to_string()),
            ("acknowledged and lost", verdict.lost.len().to_string()),
            ("  the first of them before the next primary", seconds(before)),
            ("acknowledged by a standby promoted by hand", verdict.rogue_rows.to_string()),
            ("never attempted, twice", format!("{}, {}", verdict.phantom.len(), verdict.duplicated.len())),
            ("reads of the past", verdict.stale.len().to_string()),
            (
                "two nodes acknowledging at once",
                format!(
                    "{} times, {} rows, up to {}",
                    verdict.overlaps.len(),
                    verdict.overlaps.iter().map(|overlap| overlap.rows).sum::<usize>(),
                    seconds(verdict.overlaps.iter().map(|overlap| overlap.length).max().unwrap_or_default())
                ),
            ),
            ("without an acknowledged write, in all", seconds(verdict.unavailable)),
            ("  the longest", seconds(verdict.longest_gap)),
            ("healthy after the last fault", self.healed_after.map_or("never".to_owned(), seconds)),
        ];
        for (name, value) in lines {
            let _ = writeln!(text, "{name:45} {value}");
        }
        for violation in &self.violations {
            let _ = writeln!(text, "VIOLATION: {violation}");
        }
        text
    }
}
