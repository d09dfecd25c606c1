//! `topology`: the members as a tree of who replicates from whom.

use super::list::{Watch, print_all, repeat};
use crate::error::Result;
use crate::output::Format;
use crate::session::Session;

/// Arguments of `topology`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Clusters; the configured one by default.
    pub cluster_names: Vec<String>,
    /// Citus group.
    #[arg(long)]
    pub group: Option<u32>,
    #[command(flatten)]
    pub watch: Watch,
}

/// Prints a tree per cluster.
pub async fn run(session: &Session, args: &Args) -> Result {
    let print = async || print_all(session, &args.cluster_names, args.group, Format::Topology, false).await;
    repeat(session, &args.watch, print).await
}
