//! `history`: the timelines of a cluster and who led next.

use serde_json::Value;

use crate::error::Result;
use crate::output::{Column, Format, Table};
use crate::session::Session;

/// Arguments of `history`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cluster; the configured one by default.
    pub cluster_name: Option<String>,
    /// Citus group.
    #[arg(long)]
    pub group: Option<u32>,
    /// Output format.
    #[arg(short, long, default_value = "pretty")]
    pub format: Format,
}

/// Prints the rows of the history key.
pub async fn run(session: &Session, args: &Args) -> Result {
    let group = args.group.or_else(|| session.configured_group());
    let cluster = session.cluster(args.cluster_name.as_deref(), group).await?;
    let history = cluster.view.history.map(|history| history.value).unwrap_or_default();
    let table = Table {
        title: None,
        columns: vec![
            Column::new("TL").right(),
            Column::new("LSN").right(),
            Column::new("Reason"),
            Column::new("Timestamp"),
            Column::new("New Leader"),
        ],
        rows: history
            .into_iter()
            .map(|row| {
                let text = |text: Option<String>| Value::from(text.unwrap_or_default());
                vec![
                    row.timeline.0.into(),
                    row.lsn.0.into(),
                    row.reason.into(),
                    text(row.timestamp),
                    text(row.new_leader),
                ]
            })
            .collect(),
        sparse: false,
    };
    session.console.raw(&table.render(args.format, "\t"));
    Ok(())
}
