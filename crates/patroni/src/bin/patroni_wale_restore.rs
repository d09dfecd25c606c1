//! A replica creation method over WAL-E or WAL-G.

use std::process::ExitCode;

fn main() -> ExitCode {
    patroni::cli::patroni_wale_restore()
}
