//! `switchover`: the leader hands over to a healthy replica, now or later.

use model::Role;

use super::handover::{self, Handover};
use crate::error::{Result, fail};
use crate::members;
use crate::session::Session;
use crate::when;

/// Arguments of `switchover`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cluster; the configured one by default.
    pub cluster_name: Option<String>,
    /// Citus group.
    #[arg(long)]
    pub group: Option<u32>,
    /// The name of the current leader.
    #[arg(long, visible_alias = "primary")]
    pub leader: Option<String>,
    /// The name of the candidate.
    #[arg(long)]
    pub candidate: Option<String>,
    /// Time of a scheduled switchover in unambiguous format (e.g. ISO 8601).
    #[arg(long)]
    pub scheduled: Option<String>,
    /// Do not ask for confirmation at any point.
    #[arg(long)]
    pub force: bool,
}

/// Asks for what is missing, checks, and asks the leader to hand over.
pub async fn run(session: &Session, args: &Args) -> Result {
    let console = &session.console;
    let cluster = handover::show(session, args.cluster_name.as_deref(), args.group).await?;
    let Some(current) = cluster.view.leader_name().map(str::to_owned) else {
        return fail("This cluster has no leader");
    };
    let leader = match &args.leader {
        Some(leader) => leader.clone(),
        None if args.force => current.clone(),
        None => {
            let standby = cluster.view.leader_member().and_then(model::Member::role) == Some(Role::StandbyLeader);
            console.ask(if standby { "Standby Leader" } else { "Primary" }, Some(&current))?
        }
    };
    if leader != current {
        return fail(format!("Member {leader} is not the leader of cluster {}", cluster.name));
    }
    let candidate = handover::candidate(session, &cluster, "switchover", args.candidate.as_deref(), args.force)?;

    let now = session.now();
    let scheduled = match &args.scheduled {
        None if !args.force => {
            let question = format!("When should the switchover take place (e.g. {} ) ", when::example(&now));
            console.ask(&question, Some("now"))?
        }
        given => given.clone().unwrap_or_default(),
    };
    let at = when::parse_scheduled(&scheduled, &now)?;
    if at.is_some() && members::is_paused(&cluster.view) {
        return fail("Can't schedule switchover in the paused state");
    }
    handover::confirm(session, &cluster, "switchover", at.as_ref(), args.force)?;
    let request = Handover { action: "switchover", leader: Some(leader), candidate, at };
    handover::request(session, cluster, request).await
}
