//! The agent of one node.

use std::process::ExitCode;

fn main() -> ExitCode {
    patroni::cli::patroni()
}
