//! The command line for people and scripts that look after a cluster.

use std::process::ExitCode;

fn main() -> ExitCode {
    patroni::cli::patronictl()
}
