//! `restart`: members restart PostgreSQL, now or later.

use std::hash::{BuildHasher, Hasher, RandomState};

use model::Member;
use reqwest::Method;
use serde_json::{Map, Value};

use crate::error::{Result, fail};
use crate::members::{self, RoleFilter};
use crate::output::Format;
use crate::session::Session;
use crate::when;

/// Arguments of `restart`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cluster.
    pub cluster_name: String,
    /// Members; all by default.
    pub member_names: Vec<String>,
    /// Restart only members with this role.
    #[arg(short, long, default_value = "any")]
    pub role: RoleFilter,
    /// Restart a single member only.
    #[arg(long)]
    pub any: bool,
    /// Time of a scheduled restart in unambiguous format (e.g. ISO 8601).
    #[arg(long)]
    pub scheduled: Option<String>,
    /// Restart if the PostgreSQL version is less than provided (e.g. 9.5.2).
    #[arg(long)]
    pub pg_version: Option<String>,
    /// Restart if pending.
    #[arg(long)]
    pub pending: bool,
    /// Return error and fail over if necessary when restarting takes longer than this.
    #[arg(long)]
    pub timeout: Option<String>,
    /// Citus group.
    #[arg(long)]
    pub group: Option<u32>,
    /// Do not ask for confirmation at any point.
    #[arg(long)]
    pub force: bool,
}

/// Asks each member for a restart.
pub async fn run(session: &Session, args: &Args) -> Result {
    let console = &session.console;
    let cluster = session.cluster(Some(&args.cluster_name), args.group).await?;
    members::require_any(&cluster, args.role)?;
    cluster.print(console, Format::Pretty, false);
    let mut members = members::select(&cluster, args.role, &args.member_names)?;
    if args.any {
        members = pick_one(members);
    }

    let now = session.now();
    let scheduled = match &args.scheduled {
        None if !args.force => {
            let question = format!("When should the restart take place (e.g. {}) ", when::example(&now));
            console.ask(&question, Some("now"))?
        }
        given => given.clone().unwrap_or_default(),
    };
    let at = when::parse_scheduled(&scheduled, &now)?;
    if at.is_some() && members::is_paused(&cluster.view) {
        return fail("Can't schedule restart in the paused state");
    }
    if args.pending && at.is_none() {
        members.retain(|member| member.pending_restart);
    }
    if members.is_empty() {
        return Ok(());
    }
    session.confirm_action("restart", &members, at.as_ref().map(when::spaced).as_deref(), args.force)?;
    let version = match &args.pg_version {
        None if !args.force => {
            console.ask("Restart if the PostgreSQL version is less than provided (e.g. 9.5.2) ", Some(""))?
        }
        given => given.clone().unwrap_or_default(),
    };
    if !version.is_empty() {
        check_version(&version)?;
    }

    let mut request = Map::new();
    if args.pending {
        request.insert("restart_pending".to_owned(), true.into());
    }
    let mut put = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            request.insert(key.to_owned(), value.into());
        }
    };
    put("postgres_version", (!version.is_empty()).then_some(version));
    put("timeout", args.timeout.clone());
    put("schedule", at.as_ref().map(when::iso));
    let request = Value::Object(request);
    for member in &members {
        restart(session, member, &request, args.force && at.is_some()).await?;
    }
    Ok(())
}

/// `replace`: a restart scheduled earlier is deleted first.
async fn restart(session: &Session, member: &Member, request: &Value, replace: bool) -> Result {
    if replace && member.scheduled_restart.is_some() {
        let answer = session.call(member, Method::DELETE, "restart", None).await?;
        session.report(&answer, "flush scheduled restart", &member.name);
    }
    let answer = session.call(member, Method::POST, "restart", Some(request)).await?;
    match answer.status {
        200 => session.console.line(format!("Success: restart on member {}", member.name)),
        202 => session.console.line(format!("Success: restart scheduled on member {}", member.name)),
        409 => session.console.line(format!("Failed: another restart is already scheduled on member {}", member.name)),
        _ => {
            session.report(&answer, "restart", &member.name);
        }
    }
    Ok(())
}

/// One of them, at random.
fn pick_one(mut members: Vec<Member>) -> Vec<Member> {
    let random = RandomState::new().build_hasher().finish();
    let index = usize::try_from(random % (members.len().max(1) as u64)).unwrap_or(0);
    members.drain(..).nth(index).into_iter().collect()
}

/// `X.Y` from PostgreSQL 10 on, `X.Y.Z` before.
fn check_version(text: &str) -> Result {
    let parts: Option<Vec<u32>> = text.split('.').map(|part| part.trim().parse().ok()).collect();
    match parts.as_deref() {
        None => fail(format!("Invalid PostgreSQL version: {text}")),
        Some([major, _]) if *major >= 10 => Ok(()),
        Some([major, _, _]) if *major < 10 => Ok(()),
        Some(_) => fail(format!("Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: {text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for good in ["15.2", "9.5.2", "10.0"] {
            assert_eq!(check_version(good), Ok(()), "{good}");
        }
        for bad in ["15", "9.5", "abc", "15.x", "1.2.3.4", "15.2.1"] {
            assert!(check_version(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn one_is_picked() {
        let members: Vec<Member> =
            ["a", "b", "c"].map(|name| Member { name: name.to_owned(), ..Member::default() }).into();
        for _ in 0..20 {
            assert_eq!(pick_one(members.clone()).len(), 1);
        }
        assert!(pick_one(Vec::new()).is_empty());
    }
}
