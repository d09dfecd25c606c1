//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::commands::*;
use crate::error::Result;
use crate::session::Session;

const EXAMPLES: &str = "\
Examples:
  patronictl -c /etc/patroni.yml list
  patronictl -d etcd3://127.0.0.1:2379 list demo -f json
  patronictl switchover demo --candidate node2 --force
  patronictl restart demo --pending --force
  patronictl edit-config demo -s ttl=20 --force
  patronictl explain node1";

/// Command-line interface for interacting with Patroni.
#[derive(Debug, Parser)]
#[command(name = "patronictl", after_help = EXAMPLES, disable_version_flag = true)]
pub struct Cli {
    /// Configuration file [default: ~/.config/patroni/patronictl.yaml].
    #[arg(short = 'c', long, env = "PATRONICTL_CONFIG_FILE", hide_env_values = true)]
    pub config_file: Option<PathBuf>,
    /// Address of the store, instead of the configured one: scheme://host:port/namespace.
    #[arg(short = 'd', long = "dcs-url", visible_alias = "dcs", env = "DCS_URL", hide_env_values = true)]
    pub dcs_url: Option<String>,
    /// Do not verify the certificates of REST APIs.
    #[arg(short = 'k', long)]
    pub insecure: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands; one file each.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Generate a dsn for the provided member, defaults to a dsn of the leader.
    Dsn(dsn::Args),
    /// Edit cluster configuration.
    EditConfig(edit_config::Args),
    /// Show the last decisions of a member: when, by which rule, and why.
    Explain(explain::Args),
    /// Failover to a replica.
    Failover(failover::Args),
    /// Discard scheduled events.
    Flush(flush::Args),
    /// Show the history of failovers/switchovers.
    History(history::Args),
    /// List the members of clusters.
    List(list::Args),
    /// Disable auto failover.
    Pause(pause::Args),
    /// Query a PostgreSQL member.
    Query(query::Args),
    /// Reinitialize cluster member.
    Reinit(reinit::Args),
    /// Reload cluster member configuration.
    Reload(reload::Args),
    /// Remove cluster from DCS.
    Remove(remove::Args),
    /// Restart cluster member.
    Restart(restart::Args),
    /// Resume auto failover.
    Resume(pause::Args),
    /// Show cluster configuration.
    ShowConfig(show_config::Args),
    /// Switchover to a replica.
    Switchover(switchover::Args),
    /// Print the members of clusters as a tree.
    Topology(topology::Args),
    /// Output version of patronictl command or a running Patroni instance.
    Version(version::Args),
}

impl Command {
    /// Works without a store and without a configuration.
    pub fn is_local(&self) -> bool {
        matches!(self, Command::Version(args) if args.cluster_name.is_none())
    }

    /// Runs the command.
    pub async fn run(&self, session: &Session) -> Result {
        match self {
            Command::Dsn(args) => dsn::run(session, args).await,
            Command::EditConfig(args) => edit_config::run(session, args).await,
            Command::Explain(args) => explain::run(session, args).await,
            Command::Failover(args) => failover::run(session, args).await,
            Command::Flush(args) => flush::run(session, args).await,
            Command::History(args) => history::run(session, args).await,
            Command::List(args) => list::run(session, args).await,
            Command::Pause(args) => pause::run(session, args, true).await,
            Command::Query(args) => query::run(session, args).await,
            Command::Reinit(args) => reinit::run(session, args).await,
            Command::Reload(args) => reload::run(session, args).await,
            Command::Remove(args) => remove::run(session, args).await,
            Command::Restart(args) => restart::run(session, args).await,
            Command::Resume(args) => pause::run(session, args, false).await,
            Command::ShowConfig(args) => show_config::run(session, args).await,
            Command::Switchover(args) => switchover::run(session, args).await,
            Command::Topology(args) => topology::run(session, args).await,
            Command::Version(args) => version::run(session, args).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn spellings_that_scripts_use() {
        for line in [
            "patronictl list -f json",
            "patronictl -k -d etcd3://h:1 list a b -e -t -W",
            "patronictl --dcs h list -w 2.5",
            "patronictl switchover --scheduled=now --force --primary=a --candidate=b",
            "patronictl switchover demo --leader a",
            "patronictl failover --force --candidate=b",
            "patronictl edit-config --replace=- --force",
            "patronictl edit-config -q -s a=1 --set b=2 -p c=3 --pg d=-1 --apply -",
            "patronictl restart demo a b --pending --force --role=standby-leader --timeout 1min --pg-version 15.2 --any",
            "patronictl flush demo a b restart --force",
            "patronictl flush demo switchover",
            "patronictl pause --wait --group 0",
            "patronictl query -c select -W -U u -d db --password --delimiter , --format tsv",
            "patronictl version",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in [
            "patronictl",
            "patronictl restart",
            "patronictl restart demo -r foo",
            "patronictl list -f foo",
            "patronictl lost",
        ] {
            assert_eq!(
                Cli::try_parse_from(line.split(' ')).map_err(|error| error.exit_code()).err(),
                Some(2),
                "{line}"
            );
        }
    }
}
