//! `chaos`: faults against a real cluster in network namespaces, and a judgement.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chaos::cluster::Mode;
use chaos::net::{Host, Net};
use chaos::run::{Options, run};
use clap::{Parser, ValueEnum};
use testkit::Flavour;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeArgument {
    Async,
    Sync,
    Quorum,
}

/// Runs random faults against a cluster of three nodes and three etcd members, each on a host of its own (network
/// namespaces; needs root), while clients write; then says what was lost, and whether two nodes took writes at once.
#[derive(Debug, Parser)]
#[command(name = "chaos")]
struct Arguments {
    /// How long faults go on.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Draws the same faults again; random unless given.
    #[arg(long)]
    seed: Option<u64>,
    /// Only faults whose name begins so (as printed: Promote, Partition(Primary, ...); may be given several times.
    #[arg(long)]
    only: Vec<String>,
    /// How commits are protected.
    #[arg(long, value_enum, default_value = "async")]
    mode: ModeArgument,
    /// Python Patroni in this virtualenv instead of ours.
    #[arg(long, value_name = "VIRTUALENV")]
    upstream: Option<PathBuf>,
    /// The directory of PostgreSQL's programs; the newest of Debian's unless given.
    #[arg(long)]
    postgres_bin: Option<PathBuf>,
    /// Says "skipped" and succeeds where this machine does not permit namespaces.
    #[arg(long)]
    skip_if_impossible: bool,
    /// Violations are reported and the exit status is zero all the same (for comparisons).
    #[arg(long)]
    report_only: bool,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.skip_if_impossible
        && let Err(error) = Net::new(vec![Host::Db(0)])
    {
        println!("chaos: skipped, this machine does not permit hosts as network namespaces: {error:#}");
        return Ok(ExitCode::SUCCESS);
    }
    let own = std::env::current_exe().context("find this program")?;
    let built = own.parent().context("find the directory of built programs")?.to_owned();
    let seed = arguments.seed.unwrap_or_else(|| rand::random_range(1..1_000_000));
    let options = Options {
        flavour: if arguments.upstream.is_some() { Flavour::Upstream } else { Flavour::Ours },
        directory: arguments.upstream.unwrap_or(built),
        postgres_bin: match arguments.postgres_bin {
            Some(directory) => directory,
            None => testkit::Programs::find()?.postgres_bin,
        },
        mode: match arguments.mode {
            ModeArgument::Async => Mode::Asynchronous,
            ModeArgument::Sync => Mode::Synchronous,
            ModeArgument::Quorum => Mode::Quorum,
        },
        time: Duration::from_secs(arguments.seconds),
        seed,
        only: arguments.only,
    };
    println!("chaos: {:?}, {:?}, seed {seed}, {} s", options.flavour, options.mode, arguments.seconds);
    let mut term = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    // Leaving the run half-way removes what it made.
    let report = tokio::select! {
        report = run(&options) => report?,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        _ = term.recv() => bail!("terminated"),
    };
    print!("{}", report.text());
    let bad = !report.violations.is_empty() && !arguments.report_only;
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
