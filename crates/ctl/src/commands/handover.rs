//! What `switchover` and `failover` have in common.

use dcs::Guard;
use jiff::ZonedDateTime;
use model::{FailoverKey, Key, Member};
use reqwest::Method;
use serde_json::{Map, Value};

use crate::cluster::Cluster;
use crate::error::{CtlError, Result, fail};
use crate::output::Format;
use crate::session::Session;
use crate::when;

/// A request to change the leader.
pub(super) struct Handover {
    /// `switchover` or `failover`.
    pub action: &'static str,
    /// The leader to step down; given for a switchover.
    pub leader: Option<String>,
    /// The member to be promoted; any healthy one where `None`.
    pub candidate: Option<String>,
    /// When; at once where `None`.
    pub at: Option<ZonedDateTime>,
}

/// Reads the cluster and prints its members.
pub(super) async fn show(session: &Session, named: Option<&str>, group: Option<u32>) -> Result<Cluster> {
    let cluster = session.cluster(named, group).await?;
    session.console.line("Current cluster topology");
    cluster.print(&session.console, Format::Pretty, false);
    Ok(cluster)
}

/// The candidate, asked for unless given or `force`; checked against those that may be promoted.
pub(super) fn candidate(
    session: &Session,
    cluster: &Cluster,
    action: &str,
    given: Option<&str>,
    force: bool,
) -> Result<Option<String>> {
    let leader = cluster.view.leader_name();
    let may_lead = |member: &&Member| Some(member.name.as_str()) != leader && !member.tags.nofailover();
    let names: Vec<&str> = cluster.view.members.iter().filter(may_lead).map(|member| member.name.as_str()).collect();
    let candidate = match given {
        Some(name) => name.to_owned(),
        None if force => return Ok(None),
        None if names.is_empty() => return fail(format!("No candidates found to {action} to")),
        None => {
            let quoted: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
            session.console.ask(&format!("Candidate [{}]", quoted.join(", ")), Some(""))?
        }
    };
    if candidate.is_empty() {
        return Ok(None);
    }
    if Some(candidate.as_str()) == leader {
        return fail(format!("Member {candidate} is already the leader of cluster {}", cluster.name));
    }
    if !names.contains(&candidate.as_str()) {
        return fail(format!(
            "Member {candidate} does not exist in cluster {} or is tagged as nofailover",
            cluster.name
        ));
    }
    Ok(Some(candidate))
}

/// The last question.
pub(super) fn confirm(
    session: &Session,
    cluster: &Cluster,
    action: &str,
    at: Option<&ZonedDateTime>,
    force: bool,
) -> Result {
    if force {
        return Ok(());
    }
    let demoting =
        cluster.view.leader_name().map(|leader| format!(", demoting current leader {leader}")).unwrap_or_default();
    let name = &cluster.name;
    let question = match at {
        Some(at) => {
            format!("Are you sure you want to schedule {action} of cluster {name} at {}{demoting}?", when::iso(at))
        }
        None => format!("Are you sure you want to {action} cluster {name}{demoting}?"),
    };
    if session.console.confirm(&question)? { Ok(()) } else { fail(format!("Aborting {action}")) }
}

/// Asks the leader, or where there is none the candidate; where its REST API does not answer, writes the request into
/// the store. Then prints the members as they are now.
pub(super) async fn request(session: &Session, mut cluster: Cluster, handover: Handover) -> Result {
    let candidate = handover.candidate.as_deref();
    let asked = cluster.view.leader_member().or_else(|| cluster.view.member(candidate?));
    let outcome = match asked {
        Some(member) => ask(session, member, &handover).await,
        None => Err("no member to ask".to_owned()),
    };
    match outcome {
        Ok(answer) if matches!(answer.status, 200 | 202) => {
            session.console.line(format!("{} {}", when::stamp(&session.now()), answer.body));
        }
        Ok(answer) => {
            let name = if handover.action == "switchover" { "Switchover" } else { "Failover" };
            session.console.line(format!("{name} failed, details: {}, {}", answer.status, answer.body));
            return Ok(());
        }
        Err(reason) => {
            session.console.warn(format!("{reason}\nFailing over to DCS"));
            session.console.line(format!(
                "{} Could not {} using Patroni api, falling back to DCS",
                when::stamp(&session.now()),
                handover.action
            ));
            write(&cluster, &handover).await?;
        }
    }
    cluster.refresh().await?;
    cluster.print(&session.console, Format::Pretty, false);
    Ok(())
}

async fn ask(
    session: &Session,
    member: &Member,
    handover: &Handover,
) -> std::result::Result<crate::request::Answer, String> {
    let mut body = Map::from_iter([("candidate".to_owned(), handover.candidate.clone().into())]);
    if let Some(leader) = &handover.leader {
        body.insert("leader".to_owned(), leader.clone().into());
    }
    if let Some(at) = &handover.at {
        body.insert("scheduled_at".to_owned(), when::iso(at).into());
    }
    let body = Value::Object(body);
    let answer = session.rest.call(member, Method::POST, handover.action, Some(&body)).await?;
    if answer.status == 501 && handover.action == "switchover" {
        // Agents before 1.6 know only /failover.
        return session.rest.call(member, Method::POST, "failover", Some(&body)).await;
    }
    Ok(answer)
}

async fn write(cluster: &Cluster, handover: &Handover) -> Result {
    let key = FailoverKey {
        leader: handover.leader.clone(),
        candidate: handover.candidate.clone(),
        scheduled_at: handover.at.as_ref().map(ZonedDateTime::timestamp),
    };
    let version = cluster.view.failover.as_ref().map_or(0, |failover| failover.version);
    let text = model::wire::encode_failover(&key);
    let written = cluster.store.put(&Key::Failover, &text, Guard::Version(version)).await;
    written.map(|_| ()).map_err(CtlError::from)
}
