//! `patronictl`: the command line for people and scripts that look after a cluster. One file per command; tables and
//! data formats in [`output`], rows of members in [`members`], REST in [`request`], questions in [`prompt`].
//!
//! **Invariant**: a command reads the store and talks to members' REST APIs; it decides nothing about the cluster.
//! Only data goes to standard output and only diagnostics to standard error: `list -f json` writes nothing there.
//! Texts, prompts and exit codes that scripts rely on are upstream's.

mod cli;
mod cluster;
mod commands;
mod editor;
mod error;
mod members;
mod output;
mod prompt;
mod request;
mod session;
mod settings;
mod store;
mod topology;
mod when;
mod yaml;

#[cfg(test)]
mod testing;

use std::ffi::OsString;
use std::sync::Arc;

use clap::Parser;
use config::LocalConfig;

use crate::cli::Cli;
use crate::error::{CtlError, Result};
use crate::prompt::Console;
use crate::request::Rest;
use crate::session::Session;

/// Runs `patronictl` with the process's arguments (the program's name first) and streams, and returns its exit code:
/// 0 success (also for an action that a member refused), 1 the command could not be done, 2 wrong usage.
pub fn main_from<I, T>(args: I) -> i32
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return error.exit_code();
        }
    };
    match start(&cli) {
        Ok(()) => 0,
        Err(error) => {
            let console = Console::stdio();
            match &error {
                CtlError::Aborted => console.warn(error.to_string()),
                _ => console.warn(format!("Error: {error}")),
            }
            error.exit_code()
        }
    }
}

fn start(cli: &Cli) -> Result {
    let tree = if cli.command.is_local() {
        serde_json::Map::new()
    } else {
        settings::load(cli.config_file.as_deref(), cli.dcs_url.as_deref())?
    };
    let local = Arc::new(LocalConfig::from_tree(tree));
    let ctl = local.ctl().map_err(|error| CtlError::Failed(error.to_string()))?;
    let session = Session {
        console: Console::stdio(),
        config: local.tree.clone(),
        rest: Rest::new(&ctl, cli.insecure)?,
        open: Box::new(move |scope, group| {
            let (local, scope) = (Arc::clone(&local), scope.to_owned());
            Box::pin(async move { store::open(&local, &scope, group).await })
        }),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CtlError::Failed(format!("Cannot start: {error}")))?;
    runtime.block_on(cli.command.run(&session))
}
