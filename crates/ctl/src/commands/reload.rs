//! `reload`: members read their configuration files again.

use reqwest::Method;

use crate::error::Result;
use crate::members::{self, RoleFilter};
use crate::output::Format;
use crate::session::Session;

/// Arguments of `reload`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cluster.
    pub cluster_name: String,
    /// Members; all by default.
    pub member_names: Vec<String>,
    /// Reload only members with this role.
    #[arg(short, long, default_value = "any")]
    pub role: RoleFilter,
    /// Citus group.
    #[arg(long)]
    pub group: Option<u32>,
    /// Do not ask for confirmation at any point.
    #[arg(long)]
    pub force: bool,
}

/// Asks each member for a reload.
pub async fn run(session: &Session, args: &Args) -> Result {
    let cluster = session.cluster(Some(&args.cluster_name), args.group).await?;
    members::require_any(&cluster, args.role)?;
    cluster.print(&session.console, Format::Pretty, false);
    let members = members::select(&cluster, args.role, &args.member_names)?;
    session.confirm_action("reload", &members, None, args.force)?;
    let loop_wait_s = cluster.settings().loop_wait.as_secs();
    for member in &members {
        let answer = session.call(member, Method::POST, "reload", None).await?;
        session.console.line(match answer.status {
            200 => format!("No changes to apply on member {}", member.name),
            202 => format!(
                "Reload request received for member {} and will be processed within {loop_wait_s} seconds",
                member.name
            ),
            status => format!("Failed: reload for member {}, status code={status}, ({})", member.name, answer.body),
        });
    }
    Ok(())
}
