//! `dsn`: where to connect.

use crate::error::{Result, fail};
use crate::members::{RoleFilter, in_role};
use crate::session::Session;
use model::{ClusterView, HostPort, Member};

/// Arguments of `dsn`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cluster; the configured one by default.
    pub cluster_name: Option<String>,
    /// Give a dsn of any member with this role.
    #[arg(short, long)]
    pub role: Option<RoleFilter>,
    /// Generate a dsn for this member.
    #[arg(short, long)]
    pub member: Option<String>,
    /// Citus group.
    #[arg(long)]
    pub group: Option<u32>,
}

/// Prints `host=... port=...`.
pub async fn run(session: &Session, args: &Args) -> Result {
    check_exclusive(args.role, args.member.as_deref())?;
    let cluster = session.cluster(args.cluster_name.as_deref(), args.group).await?;
    let role = args.role.unwrap_or(RoleFilter::Leader);
    match pick(&cluster.view, role, args.member.as_deref()) {
        Some((_, address)) => {
            session.console.line(format!("host={} port={}", address.host, address.port));
            Ok(())
        }
        None => fail("Can not find a suitable member"),
    }
}

/// A role and a member cannot both be given.
pub(super) fn check_exclusive(role: Option<RoleFilter>, member: Option<&str>) -> Result {
    if role.is_some() && member.is_some() {
        return fail("--role and --member are mutually exclusive options");
    }
    Ok(())
}

/// The named member, or the first in that role.
pub(super) fn pick<'a>(view: &'a ClusterView, role: RoleFilter, name: Option<&str>) -> Option<(&'a Member, HostPort)> {
    let member = match name {
        Some(name) => view.member(name)?,
        None => in_role(view, role).into_iter().next()?,
    };
    Some((member, member.pg_address()?))
}
