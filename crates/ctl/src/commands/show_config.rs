//! `show-config`: the dynamic configuration as YAML.

use serde_json::Value;

use crate::error::Result;
use crate::session::Session;
use crate::yaml;

/// Arguments of `show-config`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cluster; the configured one by default.
    pub cluster_name: Option<String>,
    /// Citus group.
    #[arg(long)]
    pub group: Option<u32>,
}

/// Prints the dynamic configuration; nothing when there is none.
pub async fn run(session: &Session, args: &Args) -> Result {
    let group = args.group.or_else(|| session.configured_group());
    let cluster = session.cluster(args.cluster_name.as_deref(), group).await?;
    if let Some(config) = cluster.view.config {
        session.console.line(yaml::block(&Value::Object(config.value)));
    }
    Ok(())
}
