//! `remove`: forgets a cluster.

use crate::error::{Result, fail};
use crate::output::Format;
use crate::session::Session;

const PHRASE: &str = "Yes I am aware";

/// Arguments of `remove`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cluster.
    pub cluster_name: String,
    /// Citus group.
    #[arg(long)]
    pub group: Option<u32>,
    /// Output format.
    #[arg(short, long, default_value = "pretty")]
    pub format: Format,
}

/// Deletes all keys of the cluster after three questions.
pub async fn run(session: &Session, args: &Args) -> Result {
    let console = &session.console;
    let cluster = session.cluster(Some(&args.cluster_name), args.group).await?;
    cluster.print(console, args.format, false);
    if console.ask("Please confirm the cluster name to remove", None)? != args.cluster_name {
        return fail("Cluster names specified do not match");
    }
    let question =
        format!("You are about to remove all information in DCS for {}, please type: \"{PHRASE}\"", args.cluster_name);
    if console.ask(&question, None)? != PHRASE {
        return fail(format!("You did not exactly type \"{PHRASE}\""));
    }
    if let Some(leader) = cluster.view.leader_name() {
        let question = "This cluster currently is healthy. Please specify the leader name to continue";
        if console.ask(question, None)? != leader {
            return fail("You did not specify the current leader of the cluster");
        }
    }
    Ok(cluster.store.delete_cluster().await?)
}
