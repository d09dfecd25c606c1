//! Work around the repository: simulator runs.

mod sim;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Work around the repository")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the simulator over many seeds, or one.
    Sim(sim::Arguments),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Sim(arguments) => sim::main(&arguments),
    }
}
