//! `reinit`: replicas take a new copy of the leader.

use std::time::Duration;

use model::{Member, MemberState};
use reqwest::Method;
use serde_json::json;

use crate::error::{Result, fail};
use crate::members::{self, RoleFilter};
use crate::output::Format;
use crate::session::Session;

/// How often a member is asked whether its copy is complete.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// The longest `--wait` waits: copies of large clusters take hours.
const WAIT_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Arguments of `reinit`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cluster.
    pub cluster_name: String,
    /// Replicas.
    pub member_names: Vec<String>,
    /// Citus group.
    #[arg(long)]
    pub group: Option<u32>,
    /// Do not ask for confirmation at any point.
    #[arg(long)]
    pub force: bool,
    /// Take the base backup from the leader.
    #[arg(long)]
    pub from_leader: bool,
    /// Wait until reinitialization completes.
    #[arg(long)]
    pub wait: bool,
}

/// Asks the replicas to start, and with `--wait` until they are done.
pub async fn run(session: &Session, args: &Args) -> Result {
    let console = &session.console;
    let cluster = session.cluster(Some(&args.cluster_name), args.group).await?;
    members::require_any(&cluster, RoleFilter::Replica)?;
    cluster.print(console, Format::Pretty, false);
    let mut names = args.member_names.clone();
    if names.is_empty() {
        if args.force {
            return Ok(());
        }
        let replicas: Vec<&str> =
            members::in_role(&cluster.view, RoleFilter::Replica).iter().map(|member| member.name.as_str()).collect();
        let question = format!("Which member do you want to reinitialize [{}]?", replicas.join(", "));
        let name = console.ask(&question, Some(""))?;
        if !replicas.contains(&name.as_str()) {
            return fail(format!("{name} is not a member of cluster"));
        }
        names.push(name);
    }
    let members = members::select(&cluster, RoleFilter::Replica, &names)?;
    session.confirm_action("reinitialize", &members, None, args.force)?;

    let mut started = Vec::new();
    for member in members {
        if start(session, &member, args).await? {
            started.push(member);
        }
    }
    if args.wait { wait(session, started).await } else { Ok(()) }
}

/// Asks one replica; true when it has started.
async fn start(session: &Session, member: &Member, args: &Args) -> Result<bool> {
    let mut force = args.force;
    loop {
        let request = json!({"force": force, "from_leader": args.from_leader});
        let answer = session.call(member, Method::POST, "reinitialize", Some(&request)).await?;
        let success = session.report(&answer, "reinitialize", &member.name);
        // The loop ends: each round needs a person's yes, and the end of input ends the command.
        let busy = !success && !args.force && answer.body.ends_with(" already in progress");
        if !busy || !session.console.confirm("Do you want to cancel it and reinitialize anyway?")? {
            return Ok(success);
        }
        force = true;
    }
}

async fn wait(session: &Session, mut members: Vec<Member>) -> Result {
    let deadline = tokio::time::Instant::now() + WAIT_MAX;
    while !members.is_empty() {
        let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        session.console.line(format!("Waiting for reinitialize to complete on: {}", names.join(", ")));
        if tokio::time::Instant::now() > deadline {
            return fail(format!("Reinitialize is still running on: {}", names.join(", ")));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
        let mut waiting = Vec::new();
        for member in members {
            let answer = session.rest.call(&member, Method::GET, "patroni", None).await;
            let state = answer.ok().and_then(|answer| answer.json().get("state")?.as_str().map(str::to_owned));
            match state {
                Some(state) if state != MemberState::CreatingReplica.as_str() => {
                    session.console.line(format!("Reinitialize is completed on: {}", member.name));
                }
                _ => waiting.push(member),
            }
        }
        members = waiting;
    }
    Ok(())
}
