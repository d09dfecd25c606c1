//! A callback that tags this EC2 instance and its volumes with the role of the node.

use std::process::ExitCode;

fn main() -> ExitCode {
    patroni::cli::patroni_aws()
}
