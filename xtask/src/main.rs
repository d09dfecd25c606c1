//! Work around the repository: simulator runs, checks that documents and code agree, generated documents.

mod docs;
mod matrix;
mod sim;
mod tidy;

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
    /// Check that documents and code agree.
    Tidy,
    /// Write docs/configuration.md from the table of settings.
    Docs,
    /// Write docs/start-matrix.md from the decision function.
    Matrix,
    /// Write docs/rules.md from the table of rules.
    Rules,
}

fn main() -> std::process::ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Sim(arguments) => sim::main(&arguments),
        Command::Tidy => tidy::run(root()),
        Command::Docs => docs::write(root()),
        Command::Matrix => matrix::write(root()),
        Command::Rules => Ok(std::fs::write(root().join("docs/rules.md"), tidy::rules_markdown())?),
    }
}

/// The root of the workspace.
fn root() -> &'static std::path::Path {
    std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
