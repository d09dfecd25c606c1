//! The programs under test, where the servers' user can run them.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};

use crate::process::prepare;
use crate::sandbox::{Owner, Sandbox};

/// Whose program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// This project's binaries.
    Ours,
    /// Python Patroni, from a virtualenv.
    Upstream,
}

impl Flavour {
    /// The flavour of a test's nodes unless it says otherwise: ours; upstream where `TESTKIT_FLAVOUR=upstream`, which
    /// is how the helpers here, and the expectations of a test, are themselves checked.
    pub fn from_env() -> Flavour {
        match std::env::var("TESTKIT_FLAVOUR").as_deref() {
            Ok("upstream") => Flavour::Upstream,
            _ => Flavour::Ours,
        }
    }
}

/// Where programs are found.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Directory of `initdb`, `postgres` and so on.
    pub postgres_bin: PathBuf,
    ours: PathBuf,
    upstream: PathBuf,
}

impl Programs {
    /// Finds them: PostgreSQL in `PG_BIN_DIR` or Debian's place, ours beside the test binary, upstream in
    /// `UPSTREAM_VENV` or `target/upstream` of the workspace. Absence of the last two is reported when they are used.
    pub fn find() -> Result<Programs> {
        let test = std::env::current_exe().context("find the test binary")?;
        let built = test.parent().and_then(Path::parent).context("find the directory of built programs")?;
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let upstream =
            std::env::var_os("UPSTREAM_VENV").map_or_else(|| workspace.join("target/upstream"), PathBuf::from);
        Ok(Programs { postgres_bin: postgres_bin()?, ours: built.to_owned(), upstream })
    }

    /// Places what is needed to run `flavour` into `directory` (hard links where possible), so that the servers' user can read it and
    /// a process can be recognised by the path of its executable.
    pub fn install(&self, flavour: Flavour, sandbox: &Sandbox, directory: &Path) -> Result<Installed> {
        match flavour {
            Flavour::Ours => {
                for name in ["patroni", "patronictl"] {
                    place(&self.ours.join(name), &directory.join(name))?;
                }
                Ok(Installed { flavour, directory: directory.to_owned() })
            }
            Flavour::Upstream => {
                let directory = match reachable(&self.upstream) {
                    true => self.upstream.clone(),
                    false => copy_tree(&self.upstream, sandbox)?,
                };
                ensure!(
                    directory.join("bin/patroni").exists(),
                    "upstream Patroni is not in {}: run scripts/install-deps --with-upstream",
                    directory.display()
                );
                Ok(Installed { flavour, directory })
            }
        }
    }
}

/// Programs of one flavour, ready to run.
#[derive(Clone, Debug)]
pub struct Installed {
    flavour: Flavour,
    directory: PathBuf,
}

impl Installed {
    /// A command that runs `patroni` or `patronictl`.
    pub fn command(&self, program: &str) -> Result<Command> {
        match self.flavour {
            Flavour::Ours => Ok(Command::new(self.directory.join(program))),
            Flavour::Upstream => {
                // The scripts of a virtualenv name an interpreter that may be unreachable for the servers' user.
                let mut command = Command::new("/usr/bin/python3");
                command
                    .arg(self.directory.join("bin").join(program))
                    .env("PYTHONPATH", site_packages(&self.directory)?);
                command.env("PYTHONDONTWRITEBYTECODE", "1");
                Ok(command)
            }
        }
    }
}

/// Where the packages of a virtualenv are.
pub fn site_packages(virtualenv: &Path) -> Result<PathBuf> {
    let lib = virtualenv.join("lib");
    let versions = fs::read_dir(&lib).with_context(|| format!("list {lib:?}"))?;
    let python = versions.flatten().map(|entry| entry.path().join("site-packages")).find(|path| path.is_dir());
    python.with_context(|| format!("find site-packages in {lib:?}"))
}

/// Runs a program to its end as the servers' user, with nothing on standard input.
pub fn run_to_end(command: &mut Command, owner: &Owner, home: &Path) -> Result<Output> {
    prepare(command, owner, home);
    command.stdin(std::process::Stdio::null());
    command.output().with_context(|| format!("run {:?}", command.get_program()))
}

fn postgres_bin() -> Result<PathBuf> {
    if let Some(directory) = std::env::var_os("PG_BIN_DIR") {
        return Ok(directory.into());
    }
    let base = Path::new("/usr/lib/postgresql");
    let versions = fs::read_dir(base).context("find PostgreSQL in /usr/lib/postgresql (or set PG_BIN_DIR)")?;
    let newest = versions
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|version| base.join(version.to_string()).join("bin/postgres").exists())
        .max();
    let newest = newest.context("find a PostgreSQL server in /usr/lib/postgresql (or set PG_BIN_DIR)")?;
    Ok(base.join(newest.to_string()).join("bin"))
}

fn place(from: &Path, to: &Path) -> Result<()> {
    if to.exists() || fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    fs::copy(from, to).with_context(|| format!("copy {from:?} to {to:?}"))?;
    Ok(())
}

/// Whether everybody may pass through all directories above and into `path`.
fn reachable(path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else { return true };
    path.ancestors().all(|part| fs::metadata(part).is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0))
}

fn copy_tree(from: &Path, sandbox: &Sandbox) -> Result<PathBuf> {
    let to = sandbox.path().join("upstream");
    if !to.exists() {
        let status = Command::new("cp").args([OsStr::new("-r"), from.as_os_str(), to.as_os_str()]).status()?;
        ensure!(status.success(), "copy {from:?} to {to:?}");
    }
    Ok(to)
}
