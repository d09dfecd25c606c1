//! `flush`: forgets scheduled restarts or a scheduled switchover.

use dcs::Guard;
use model::{FailoverKey, Key};
use reqwest::Method;

use crate::cluster::Cluster;
use crate::error::{CtlError, Result};
use crate::members::{self, RoleFilter};
use crate::output::Format;
use crate::session::Session;
use crate::when;

/// Arguments of `flush`.
#[derive(Debug, clap::Args)]
#[command(override_usage = "patronictl flush [OPTIONS] CLUSTER_NAME [MEMBER_NAMES]... {restart|switchover}")]
pub struct Args {
    /// The cluster.
    pub cluster_name: String,
    /// Members (all by default), and last what to forget: restart or switchover.
    #[arg(required = true, value_name = "MEMBER_NAMES]... [restart|switchover")]
    pub members_and_target: Vec<String>,
    /// Flush only members with this role.
    #[arg(short, long, default_value = "any")]
    pub role: RoleFilter,
    /// Citus group.
    #[arg(long)]
    pub group: Option<u32>,
    /// Do not ask for confirmation at any point.
    #[arg(long)]
    pub force: bool,
}

/// Deletes what was scheduled.
pub async fn run(session: &Session, args: &Args) -> Result {
    let (target, names) = match args.members_and_target.split_last() {
        Some((target, names)) if target == "restart" || target == "switchover" => (target.as_str(), names),
        other => {
            let given = other.map_or("", |(target, _)| target);
            let sentence =
                format!("Invalid value for '{{restart|switchover}}': '{given}' is not one of 'restart', 'switchover'.");
            return Err(CtlError::Usage(sentence));
        }
    };
    let cluster = session.cluster(Some(&args.cluster_name), args.group).await?;
    if target == "restart" {
        restarts(session, &cluster, args, names).await
    } else {
        switchover(session, &cluster).await
    }
}

async fn restarts(session: &Session, cluster: &Cluster, args: &Args, names: &[String]) -> Result {
    members::require_any(cluster, args.role)?;
    cluster.print(&session.console, Format::Pretty, false);
    let members = members::select(cluster, args.role, names)?;
    session.confirm_action("flush", &members, None, args.force)?;
    for member in &members {
        if member.scheduled_restart.is_none() {
            session.console.line(format!("No scheduled restart for member {}", member.name));
            continue;
        }
        let answer = session.call(member, Method::DELETE, "restart", None).await?;
        session.report(&answer, "flush scheduled restart", &member.name);
    }
    Ok(())
}

/// Asks one member after the other; when none of them deletes it, deletes the key.
async fn switchover(session: &Session, cluster: &Cluster) -> Result {
    let Some(failover) = cluster.view.failover.as_ref().filter(|key| key.value.scheduled_at.is_some()) else {
        session.console.line("No pending scheduled switchover");
        return Ok(());
    };
    for member in cluster.leader_first() {
        match session.rest.call(member, Method::DELETE, "switchover", None).await {
            Ok(answer) if matches!(answer.status, 200 | 404) => {
                let word = if answer.status == 200 { "Success" } else { "Failed" };
                session.console.line(format!("{word}: {}", answer.body));
                return Ok(());
            }
            Ok(answer) => session
                .console
                .line(format!("Failed: member={}, status_code={}, ({})", member.name, answer.status, answer.body)),
            Err(reason) => session.console.warn(format!("Member {} is not accessible: {reason}", member.name)),
        }
    }
    session.console.warn("Failing over to DCS");
    let stamp = when::stamp(&session.now());
    session.console.line(format!("{stamp} Could not find any accessible member of cluster {}", cluster.name));
    let nothing = model::wire::encode_failover(&FailoverKey::default());
    cluster.store.put(&Key::Failover, &nothing, Guard::Version(failover.version)).await?;
    Ok(())
}
