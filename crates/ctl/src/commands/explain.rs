//! `explain`: why a member did what it did.

use reqwest::Method;
use serde_json::Value;

use crate::error::{Result, fail};
use crate::output::{Column, Format, Table};
use crate::session::Session;

/// Arguments of `explain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The member; the leader by default.
    pub member_name: Option<String>,
    /// The cluster; the configured one by default.
    #[arg(long)]
    pub cluster: Option<String>,
    /// Citus group.
    #[arg(long)]
    pub group: Option<u32>,
    /// How many decisions.
    #[arg(short = 'n', long, default_value_t = 20)]
    pub limit: usize,
    /// Output format.
    #[arg(short, long, default_value = "pretty")]
    pub format: Format,
}

/// Prints the newest records of the member's decision journal, oldest first.
pub async fn run(session: &Session, args: &Args) -> Result {
    let cluster = session.cluster(args.cluster.as_deref(), args.group).await?;
    let member = match &args.member_name {
        Some(name) => cluster.view.member(name),
        None => cluster.view.leader_member(),
    };
    let Some(member) = member else {
        let wanted = args.member_name.as_deref().map_or_else(|| "leader".to_owned(), |name| format!("member {name}"));
        return fail(format!("Cluster {} has no {wanted}", cluster.name));
    };
    let answer = session.call(member, Method::GET, "decisions", None).await?;
    let Value::Array(records) = answer.json() else {
        return fail(format!(
            "Member {} does not tell its decisions: expected a JSON array from GET /decisions, got status {}",
            member.name, answer.status
        ));
    };
    let newest = &records[records.len().saturating_sub(args.limit)..];
    session.console.raw(&table(newest).render(args.format, "\t"));
    Ok(())
}

/// When, by which rule, and why; and how often the same followed.
fn table(records: &[Value]) -> Table {
    let row = |record: &Value| {
        let cell = |pointer: &str| record.pointer(pointer).cloned().unwrap_or(Value::Null);
        let repeated = Some(cell("/repeated")).filter(|count| count.as_u64().is_some_and(|count| count > 0));
        vec![cell("/time"), cell("/name"), cell("/reason"), repeated.unwrap_or(Value::Null)]
    };
    Table {
        title: None,
        columns: vec![Column::new("Time"), Column::new("Rule"), Column::new("Reason"), Column::new("Repeated").right()],
        rows: records.iter().map(row).collect(),
        sparse: false,
    }
}
