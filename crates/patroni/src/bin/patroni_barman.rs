//! Restores and switches configurations through Barman's REST API.

use std::process::ExitCode;

fn main() -> ExitCode {
    patroni::cli::patroni_barman()
}
