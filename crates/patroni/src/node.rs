//! Starting a node: everything that can be checked is checked before anything is touched.

use std::path::Path;

use crate::{cli, logging};

/// Exit code of a node that stopped in order, but whose last log lines could not be written.
const LOG_NOT_WRITTEN: i32 = 5;

/// Runs the node until it is told to stop, and returns the exit code; an error is the sentence to end with.
pub fn run(path: Option<&Path>) -> Result<i32, String> {
    let config = config::load(path).map_err(|error| error.to_string())?;
    if rustix::process::geteuid().is_root() {
        return Err("patroni must not run as root, for PostgreSQL refuses to: start it as the user that owns \
                    postgresql.data_dir, such as postgres"
            .to_owned());
    }
    config.check_startup().map_err(|error| error.to_string())?;
    logging::start(&config.log().map_err(|error| error.to_string())?)?;
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    cli::install_crypto();
    let reloaded = |config: &config::LocalConfig| {
        let applied = config.log().map_err(|error| error.to_string()).and_then(|log| logging::reload(&log));
        if let Err(why) = applied {
            tracing::error!("logging goes on as before: {why}");
        }
    };
    let result = daemon::run(config, Box::new(reloaded));
    exit_code(result, logging::finish())
}

/// The exit code of a node: lines that are lost matter where nothing worse happened.
fn exit_code(result: Result<i32, String>, log_is_written: bool) -> Result<i32, String> {
    match result {
        Ok(0) if !log_is_written => Ok(LOG_NOT_WRITTEN),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_cannot_be_written_is_told_by_the_exit_code() {
        assert_eq!(exit_code(Ok(0), true), Ok(0));
        assert_eq!(exit_code(Ok(0), false), Ok(5));
        assert_eq!(exit_code(Ok(1), false), Ok(1));
        assert_eq!(exit_code(Err("no".to_owned()), false), Err("no".to_owned()));
    }
}
