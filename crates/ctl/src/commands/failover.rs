//! `failover`: a named replica is promoted, healthy leader or not.

use super::handover::{self, Handover};
use crate::error::{Result, fail};
use crate::members;
use crate::session::Session;

/// Arguments of `failover`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cluster; the configured one by default.
    pub cluster_name: Option<String>,
    /// Citus group.
    #[arg(long)]
    pub group: Option<u32>,
    /// The name of the candidate.
    #[arg(long)]
    pub candidate: Option<String>,
    /// Do not ask for confirmation at any point.
    #[arg(long)]
    pub force: bool,
}

/// Asks for what is missing, checks, and asks for the promotion.
pub async fn run(session: &Session, args: &Args) -> Result {
    let cluster = handover::show(session, args.cluster_name.as_deref(), args.group).await?;
    let candidate = handover::candidate(session, &cluster, "failover", args.candidate.as_deref(), args.force)?;
    let Some(candidate) = candidate else {
        return fail("Failover could be performed only to a specific candidate");
    };
    if !args.force && !members::is_synchronous(&cluster.view, &candidate) {
        let question = format!("Are you sure you want to failover to the asynchronous node {candidate}?");
        if !session.console.confirm(&question)? {
            return fail("Aborting failover");
        }
    }
    handover::confirm(session, &cluster, "failover", None, args.force)?;
    let request = Handover { action: "failover", leader: None, candidate: Some(candidate), at: None };
    handover::request(session, cluster, request).await
}
