//! `version`: of this program, and of members.

use reqwest::Method;
use serde_json::Value;

use crate::error::Result;
use crate::session::Session;

/// Arguments of `version`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Ask the members of this cluster.
    pub cluster_name: Option<String>,
    /// Ask only these members.
    pub member_names: Vec<String>,
    /// Citus group.
    #[arg(long)]
    pub group: Option<u32>,
}

/// Prints one line for this program and one per member.
pub async fn run(session: &Session, args: &Args) -> Result {
    session.console.line(format!("patronictl version {}", model::COMPATIBLE_VERSION));
    let Some(name) = &args.cluster_name else {
        return Ok(());
    };
    let cluster = session.cluster(Some(name), args.group).await?;
    let wanted = |name: &String| args.member_names.is_empty() || args.member_names.contains(name);
    for member in cluster.view.members.iter().filter(|member| member.api_url.is_some() && wanted(&member.name)) {
        let answer = session.rest.call(member, Method::GET, "patroni", None).await;
        let version =
            answer.and_then(|answer| describe(&answer.json()).ok_or_else(|| "no version in the answer".to_owned()));
        session.console.line(match version {
            Ok(version) => format!("{}: {version}", member.name),
            Err(reason) => format!("{}: failed to get version: {reason}", member.name),
        });
    }
    Ok(())
}

/// `Patroni X PostgreSQL Y` of a status; the second part when PostgreSQL runs.
fn describe(status: &Value) -> Option<String> {
    let patroni = status.get("patroni")?.get("version")?.as_str()?;
    let postgres = status.get("server_version").and_then(Value::as_u64).map(|number| match number {
        100_000.. => format!(" PostgreSQL {}.{}", number / 10_000, number % 10_000),
        _ => format!(" PostgreSQL {}.{}.{}", number / 10_000, number / 100 % 100, number % 100),
    });
    Some(format!("Patroni {patroni}{}", postgres.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn versions() {
        let status = |number: u64| json!({"server_version": number, "patroni": {"version": "4.1.5"}});
        assert_eq!(describe(&status(150_009)).as_deref(), Some("Patroni 4.1.5 PostgreSQL 15.9"));
        assert_eq!(describe(&status(90_624)).as_deref(), Some("Patroni 4.1.5 PostgreSQL 9.6.24"));
        assert_eq!(describe(&json!({"patroni": {"version": "4.1.5"}})).as_deref(), Some("Patroni 4.1.5"));
        assert_eq!(describe(&json!([])), None);
    }
}
