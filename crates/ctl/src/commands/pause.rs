//! `pause` and `resume`: maintenance mode.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use crate::cluster::Cluster;
use crate::error::{Result, fail};
use crate::members;
use crate::session::Session;

/// Arguments of `pause` and `resume`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cluster; the configured one by default.
    pub cluster_name: Option<String>,
    /// Citus group.
    #[arg(long)]
    pub group: Option<u32>,
    /// Wait until all nodes have recognized it.
    #[arg(long)]
    pub wait: bool,
}

/// Sets or clears `pause` in the dynamic configuration, through the first member that answers.
pub async fn run(session: &Session, args: &Args, pause: bool) -> Result {
    let group = args.group.or_else(|| session.configured_group());
    let mut cluster = session.cluster(args.cluster_name.as_deref(), group).await?;
    if members::is_paused(&cluster.view) == pause {
        return fail(if pause { "Cluster is already paused" } else { "Cluster is not paused" });
    }
    let patch = json!({ "pause": if pause { json!(true) } else { json!(null) } });
    let (word, done) = if pause { ("pause", "paused") } else { ("resume", "resumed") };
    let mut answer = None;
    for member in cluster.leader_first() {
        match session.rest.call(member, Method::PATCH, "config", Some(&patch)).await {
            Ok(received) => {
                answer = Some(received);
                break;
            }
            Err(reason) => session.console.warn(format!("Member {} is not accessible: {reason}", member.name)),
        }
    }
    let Some(answer) = answer else {
        return fail("Can not find accessible cluster member");
    };
    if answer.status != 200 {
        session
            .console
            .line(format!("Failed: {word} cluster management status code={}, ({})", answer.status, answer.body));
        return Ok(());
    }
    if args.wait {
        session.console.line(format!("'{word}' request sent, waiting until it is recognized by all nodes"));
        wait(session, &mut cluster, pause, done).await?;
    }
    session.console.line(format!("Success: cluster management is {done}"));
    Ok(())
}

/// Waits until all members that were there at the start say so, at most a cycle and a second.
async fn wait(session: &Session, cluster: &mut Cluster, pause: bool, done: &str) -> Result {
    const POLL_INTERVAL: Duration = Duration::from_millis(200);
    let names: Vec<String> = cluster.leader_first().iter().map(|member| member.name.clone()).collect();
    let deadline = tokio::time::Instant::now() + cluster.settings().loop_wait + Duration::from_secs(1);
    loop {
        cluster.refresh().await?;
        let members = cluster.view.members.iter();
        let behind: Vec<&str> = members
            .filter(|member| member.pause != pause && names.contains(&member.name))
            .map(|member| member.name.as_str())
            .collect();
        if behind.is_empty() {
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            session.console.warn(format!("Not yet {done} on: {}", behind.join(", ")));
            return Ok(());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
