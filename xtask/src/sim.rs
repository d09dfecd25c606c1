//! `xtask sim`: seeds in a range, on as many threads as asked for, with progress and the history of what failed.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sim::mutations::Mutation;
use sim::{Options, Report};

/// Lines of history shown for a seed that failed.
const TAIL_LINES: usize = 60;
/// Length of the phase with faults, where nothing else is asked for.
const SAFETY_S: u64 = 600;
/// Progress is printed this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// What to run.
#[derive(clap::Args)]
pub struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Only this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Print the whole history, not only the end of a failed one.
    #[arg(long)]
    trace: bool,
    /// Put this defect into every agent (`list` names them).
    #[arg(long)]
    mutate: Option<String>,
    /// Virtual seconds of the phase with faults.
    #[arg(long, default_value_t = SAFETY_S)]
    safety_s: u64,
    /// Threads; as many as there are processors where not given.
    #[arg(long)]
    jobs: Option<usize>,
    /// Go on after a failed seed.
    #[arg(long)]
    keep_going: bool,
}

/// Progress over all threads.
#[derive(Default)]
struct Totals {
    next: AtomicU64,
    done: AtomicU64,
    virtual_ms: AtomicU64,
    acks: AtomicU64,
    lost: AtomicU64,
    stop: AtomicBool,
    failed: Mutex<Vec<u64>>,
}

/// Runs the seeds; an error when one of them failed.
pub fn main(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.mutate.as_deref() == Some("list") {
        Mutation::ALL.iter().for_each(|mutation| println!("{mutation:?}"));
        return Ok(());
    }
    let mutation = match &arguments.mutate {
        None => None,
        Some(name) => Some(Mutation::by_name(name).ok_or_else(|| {
            anyhow::anyhow!("--mutate {name}: expected one of the names that `--mutate list` prints")
        })?),
    };
    let (from, count) = match arguments.seed {
        Some(seed) => (seed, 1),
        None => (arguments.from, arguments.seeds),
    };
    let end = from.saturating_add(count);
    let totals = Totals { next: AtomicU64::new(from), ..Totals::default() };
    let started = Instant::now();
    std::thread::scope(|scope| {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..arguments.jobs.unwrap_or(processors).clamp(1, 64) {
            scope.spawn(|| work(arguments, mutation, end, &totals));
        }
        scope.spawn(|| report_progress(&totals, count, started));
    });
    summarize(&totals, started)
}

fn work(arguments: &Arguments, mutation: Option<Mutation>, end: u64, totals: &Totals) {
    while !totals.stop.load(Ordering::Relaxed) {
        let seed = totals.next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        let safety_phase = Duration::from_secs(arguments.safety_s);
        let options = Options { mutation, safety_phase, ..Options::of_seed(seed) };
        let report = sim::run(seed, options);
        totals.virtual_ms.fetch_add(report.stats.virtual_ms, Ordering::Relaxed);
        totals.acks.fetch_add(report.stats.acks, Ordering::Relaxed);
        totals.lost.fetch_add(report.stats.lost, Ordering::Relaxed);
        if !report.violations.is_empty() {
            totals.failed.lock().unwrap_or_else(PoisonError::into_inner).push(seed);
            totals.stop.fetch_or(!arguments.keep_going, Ordering::Relaxed);
        }
        print(&report, arguments);
        totals.done.fetch_add(1, Ordering::Relaxed);
    }
}

fn print(report: &Report, arguments: &Arguments) {
    let failed = !report.violations.is_empty();
    if arguments.seed.is_none() && !failed {
        return;
    }
    let lines = if arguments.trace {
        report.history.len()
    } else if failed && !arguments.keep_going {
        TAIL_LINES
    } else {
        0
    };
    let mut text = String::new();
    for line in report.history.iter().skip(report.history.len().saturating_sub(lines)) {
        text.push_str(line);
        text.push('\n');
    }
    for violation in &report.violations {
        let (s, ms) = (violation.at_ms / 1000, violation.at_ms % 1000);
        text.push_str(&format!(
            "seed {} VIOLATION at {s}.{ms:03} [{}] {}\n",
            report.seed, violation.checker, violation.what
        ));
    }
    if failed {
        text.push_str(&format!("to repeat: {}\n", repeat_command(report.seed, arguments)));
    }
    println!("{text}seed {} digest {:016x} {:?}", report.seed, report.digest, report.stats);
}

/// What shows this run again, with its whole history.
fn repeat_command(seed: u64, arguments: &Arguments) -> String {
    let mut command = format!("cargo run -p xtask -- sim --seed {seed} --trace");
    if let Some(name) = &arguments.mutate {
        command.push_str(&format!(" --mutate {name}"));
    }
    if arguments.safety_s != SAFETY_S {
        command.push_str(&format!(" --safety-s {}", arguments.safety_s));
    }
    command
}

fn report_progress(totals: &Totals, count: u64, started: Instant) {
    let mut said = Instant::now();
    while totals.done.load(Ordering::Relaxed) < count && !totals.stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(50));
        if said.elapsed() >= PROGRESS_EVERY {
            said = Instant::now();
            eprintln!("{}", progress(totals, started));
        }
    }
}

fn progress(totals: &Totals, started: Instant) -> String {
    let hours = totals.virtual_ms.load(Ordering::Relaxed) as f64 / 3_600_000.0;
    let failed = totals.failed.lock().unwrap_or_else(PoisonError::into_inner).len();
    format!(
        "{} seeds, {failed} failed, {hours:.1} simulated hours, {:.3} hours per second; {} writes, {} lost in failovers",
        totals.done.load(Ordering::Relaxed),
        hours / started.elapsed().as_secs_f64().max(0.001),
        totals.acks.load(Ordering::Relaxed),
        totals.lost.load(Ordering::Relaxed),
    )
}

fn summarize(totals: &Totals, started: Instant) -> anyhow::Result<()> {
    println!("{}", progress(totals, started));
    let mut failed = totals.failed.lock().unwrap_or_else(PoisonError::into_inner).clone();
    failed.sort_unstable();
    anyhow::ensure!(failed.is_empty(), "these seeds failed: {failed:?}");
    Ok(())
}
