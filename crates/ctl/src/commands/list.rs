//! `list`: the members of one or more clusters.

use std::time::Duration;

use crate::error::Result;
use crate::output::Format;
use crate::session::Session;

/// Arguments of `list`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Clusters; the configured one by default.
    pub cluster_names: Vec<String>,
    /// Citus group.
    #[arg(long)]
    pub group: Option<u32>,
    /// Show all columns.
    #[arg(short, long)]
    pub extended: bool,
    /// Print the time.
    #[arg(short, long)]
    pub timestamp: bool,
    /// Output format.
    #[arg(short, long, default_value = "pretty")]
    pub format: Format,
    #[command(flatten)]
    pub watch: Watch,
}

/// Options to repeat the output.
#[derive(Debug, clap::Args)]
pub struct Watch {
    /// Update the screen every 2 seconds.
    #[arg(short = 'W')]
    pub every_two_seconds: bool,
    /// Update the screen every so many seconds.
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds)]
    pub watch: Option<Duration>,
}

fn seconds(text: &str) -> std::result::Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is not a number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

impl Watch {
    /// How often to repeat; `None` for once.
    pub fn interval(&self) -> Option<Duration> {
        self.watch.or(self.every_two_seconds.then_some(Duration::from_secs(2))).filter(|interval| !interval.is_zero())
    }
}

/// Prints a table per cluster.
pub async fn run(session: &Session, args: &Args) -> Result {
    let print = async || {
        if args.timestamp {
            session.console.line(session.now().strftime("%Y-%m-%d %H:%M:%S").to_string());
        }
        print_all(session, &args.cluster_names, args.group, args.format, args.extended).await
    };
    repeat(session, &args.watch, print).await
}

/// Runs `print` once, or again and again until the process is interrupted.
pub(super) async fn repeat(session: &Session, watch: &Watch, print: impl AsyncFn() -> Result) -> Result {
    let Some(interval) = watch.interval() else {
        return print().await;
    };
    loop {
        if session.console.terminal {
            session.console.raw("\x1b[2J\x1b[H");
        }
        print().await?;
        tokio::time::sleep(interval).await;
    }
}

/// Prints the named clusters, or the configured one.
pub(super) async fn print_all(
    session: &Session,
    names: &[String],
    group: Option<u32>,
    format: Format,
    extended: bool,
) -> Result {
    let mut names = names.to_vec();
    if names.is_empty() {
        let Ok(scope) = session.scope(None) else {
            session.console.warn("Listing members: No cluster names were provided");
            return Ok(());
        };
        names.push(scope);
    }
    for name in names {
        let cluster = session.cluster(Some(&name), group).await?;
        cluster.print(&session.console, format, extended);
    }
    Ok(())
}
