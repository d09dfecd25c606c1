//! Where a run lives: a directory with a small file system for each database host, so that disks can be filled.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use testkit::{Owner, kill_all_in};

use crate::net::run;

const DISK_MIB: u32 = 640;
/// The file with which [`Disk::fill`] takes all free space.
const FILLER: &str = "filler";

/// The directory of a run.
pub struct Stage {
    path: PathBuf,
    disks: Vec<PathBuf>,
    keep: bool,
}

impl Stage {
    /// A new directory below the system's temporary one, reachable for the servers' user.
    pub fn new() -> Result<Stage> {
        let base = std::env::var_os("TESTKIT_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let path = base.join(format!("pc-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("create {path:?}"))?;
        fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        Ok(Stage { path, disks: Vec::new(), keep: true })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A directory that `owner` owns.
    pub fn directory(&self, name: &str, owner: &Owner) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).with_context(|| format!("create {path:?}"))?;
        owner.give(&path)?;
        Ok(path)
    }

    /// A directory that is a file system of its own.
    pub fn disk(&mut self, name: &str, owner: &Owner) -> Result<Disk> {
        let path = self.directory(name, owner)?;
        let size = format!("size={DISK_MIB}m,mode=0755");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "chaos"]).arg(&path))?;
        self.disks.push(path.clone());
        owner.give(&path)?;
        Ok(Disk { path })
    }

    /// The run went as it should: nothing is kept.
    pub fn discard(&mut self) {
        self.keep = false;
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = kill_all_in(&self.path);
        if self.keep {
            save_logs(&self.path, &self.disks);
        }
        for disk in &self.disks {
            if let Err(error) = run(Command::new("umount").arg("--lazy").arg(disk)) {
                eprintln!("chaos: {error:#}");
            }
        }
        if self.keep {
            eprintln!("chaos: logs are in {}", self.path.display());
        } else {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// The disks end with the run; what agents and PostgreSQL wrote is worth keeping.
fn save_logs(to: &Path, disks: &[PathBuf]) {
    for disk in disks {
        let name = disk.file_name().and_then(|name| name.to_str()).unwrap_or("disk");
        for (file, suffix) in [("log", "agent"), ("data/log/postgresql.log", "postgresql")] {
            let _ = fs::copy(disk.join(file), to.join(format!("{name}.{suffix}.log")));
        }
    }
}

/// A small file system.
#[derive(Clone, Debug)]
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes all free space.
    pub fn fill(&self) -> Result<()> {
        let filler = self.path.join(FILLER);
        let mut dd = Command::new("dd");
        dd.args(["if=/dev/zero", "bs=1M", "status=none"]).arg(format!("of={}", filler.display()));
        // It ends with "no space left on device".
        dd.output().context("run dd")?;
        ensure!(filler.exists(), "{filler:?} was not written");
        Ok(())
    }

    /// Gives the space back.
    pub fn free(&self) -> Result<()> {
        let filler = self.path.join(FILLER);
        fs::remove_file(&filler).with_context(|| format!("remove {filler:?}"))
    }
}
