//! Programs that Patroni calls, each a module with a `main_from`: `patroni_aws` (a callback that tags EC2 instances),
//! `patroni_wale_restore` (a replica creation method over WAL-E or WAL-G), `patroni_barman` (restores and switches
//! configurations through Barman's REST API). Command lines and exit codes are Python Patroni's (compatibility.md, 9).
//!
//! **Invariant**: nothing here knows a node, a store or a cluster; everything comes from arguments and the services that
//! are asked. Credentials reach neither logs nor arguments of other programs.

pub mod aws;
pub mod barman;
mod http;
pub mod wale_restore;

use std::path::Path;

/// Log lines go to standard error, or are appended to a file.
fn start_log(file: Option<&Path>) -> Result<(), String> {
    let builder = tracing_subscriber::fmt().with_ansi(false).with_target(false);
    let started = match file {
        None => builder.with_writer(std::io::stderr).try_init(),
        Some(path) => {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            let file = file.map_err(|error| format!("cannot write the log file {}: {error}", path.display()))?;
            builder.with_writer(std::sync::Mutex::new(file)).try_init()
        }
    };
    // An error says that this process logs already.
    let _ = started;
    Ok(())
}

/// Runs one program's work to its end.
fn block_on(work: impl Future<Output = i32>) -> i32 {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => {
            tracing::error!("cannot start the runtime: {error}");
            1
        }
    }
}
