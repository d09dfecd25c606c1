//! Command lines, and what each of them runs.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgGroup, CommandFactory, FromArgMatches, Parser};

use crate::{configfile, init, node};

/// Starts the sentinel instead of a node. Not for people: the agent passes it to its own executable.
const SENTINEL: &str = "--sentinel";

#[derive(Debug, Parser)]
#[command(name = "patroni", about = "Keeps a PostgreSQL server highly available as a member of a cluster")]
#[command(group = ArgGroup::new("mode").args(["validate_config", "generate_sample_config", "generate_config"]))]
struct Cli {
    /// Configuration file, or directory of *.yml files; without it the environment variable PATRONI_CONFIGURATION or
    /// PATRONI_* variables are read. With a generate option: the file to write.
    #[arg(value_name = "configfile")]
    config: Option<PathBuf>,
    /// Check the configuration and exit.
    #[arg(long)]
    validate_config: bool,
    /// Write a sample configuration and exit.
    #[arg(long)]
    generate_sample_config: bool,
    /// Write a configuration for a running server and exit.
    #[arg(long)]
    generate_config: bool,
    /// With --generate-config: how to connect to the server, as a superuser. What is missing is taken from PG* variables.
    #[arg(long, value_name = "DSN", requires = "generate_config")]
    dsn: Option<String>,
    /// With --validate-config: ports to listen on may be in use.
    #[arg(short = 'i', long)]
    ignore_listen_port: bool,
    /// With --validate-config: print the configuration, environment included.
    #[arg(short = 'p', long)]
    print: bool,
}

/// Runs `patroni` with the process's arguments.
pub fn patroni() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|first| first == SENTINEL) {
        let arguments: Vec<String> = arguments[2..].iter().map(|text| text.to_string_lossy().into_owned()).collect();
        return exit_code(agent::sentinel::main(&arguments));
    }
    let version = format!("{} (rust {})", model::COMPATIBLE_VERSION, env!("CARGO_PKG_VERSION"));
    let parsed = Cli::command().version(version).try_get_matches_from(arguments);
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        // Help and version end here too, with exit code 0; usage errors with 2.
        Err(error) => error.exit(),
    };
    let result = if cli.validate_config {
        configfile::validate(cli.config.as_deref(), cli.ignore_listen_port, cli.print)
    } else if cli.generate_sample_config {
        configfile::generate_sample(cli.config.as_deref())
    } else if cli.generate_config {
        configfile::generate(cli.config.as_deref(), cli.dsn.as_deref())
    } else if init::is_first() {
        init::run()
    } else {
        node::run(cli.config.as_deref())
    };
    match result {
        Ok(code) => exit_code(code),
        Err(sentence) => {
            eprintln!("{sentence}");
            ExitCode::FAILURE
        }
    }
}

/// Runs `patronictl` with the process's arguments.
pub fn patronictl() -> ExitCode {
    install_crypto();
    exit_code(ctl::main_from(std::env::args_os()))
}

/// Runs `patroni_aws` with the process's arguments.
pub fn patroni_aws() -> ExitCode {
    exit_code(programs::aws::main_from(std::env::args_os()))
}

/// Runs `patroni_wale_restore` with the process's arguments.
pub fn patroni_wale_restore() -> ExitCode {
    exit_code(programs::wale_restore::main_from(std::env::args_os()))
}

/// Runs `patroni_barman` with the process's arguments.
pub fn patroni_barman() -> ExitCode {
    exit_code(programs::barman::main_from(std::env::args_os()))
}

/// Chooses the cryptography of all TLS connections of this process.
pub(crate) fn install_crypto() {
    // An error says that it was chosen before, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
