//! The directory everything of one test lives in.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::process::kill_all_in;

/// The user whom servers run as.
#[derive(Clone, Debug)]
pub struct Owner {
    ids: Option<(u32, u32)>,
}

impl Owner {
    /// `postgres` when the test is root, else whoever runs the test.
    pub fn detect() -> Result<Owner> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Owner { ids: None });
        }
        let passwd = fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
        let ids = passwd.lines().find_map(|line| {
            let mut fields = line.strip_prefix("postgres:")?.split(':').skip(1);
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        });
        Ok(Owner { ids: Some(ids.context("find user postgres in /etc/passwd, whom servers run as")?) })
    }

    /// Whoever runs the test, root included.
    pub fn tester() -> Owner {
        Owner { ids: None }
    }

    /// User and group to change to; `None`: stay.
    pub fn ids(&self) -> Option<(u32, u32)> {
        self.ids
    }

    /// Makes `path` theirs.
    pub fn give(&self, path: &Path) -> Result<()> {
        match self.ids {
            Some((uid, gid)) => chown(path, Some(uid), Some(gid)).with_context(|| format!("change owner of {path:?}")),
            None => Ok(()),
        }
    }
}

/// A temporary directory below `TESTKIT_DIR` (default: the system's) that the servers' user can reach. Only one exists
/// at a time per target directory: tests that start clusters wait for each other, whatever runs them.
///
/// Dropping it kills everything that lives there. The directory is removed only after [`Sandbox::finish`], so that a
/// failed test leaves its logs.
pub struct Sandbox {
    path: PathBuf,
    owner: Owner,
    finished: bool,
    _turn: File,
}

impl Sandbox {
    /// A new directory; `name` becomes part of its path.
    pub fn new(name: &str) -> Result<Sandbox> {
        let turn = take_turn()?;
        let owner = Owner::detect()?;
        let base = std::env::var_os("TESTKIT_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let path = tempfile::Builder::new()
            .prefix(&format!("pt-{name}-"))
            .tempdir_in(&base)
            .with_context(|| format!("create a directory in {base:?}"))?
            .keep();
        fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        owner.give(&path)?;
        Ok(Sandbox { path, owner, finished: false, _turn: turn })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whom servers run as.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// A sub-directory that the servers' user owns.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).with_context(|| format!("create {path:?}"))?;
        self.owner.give(&path)?;
        Ok(path)
    }

    /// Writes a file that only the servers' user can read.
    pub fn write(&self, path: &Path, text: &str) -> Result<()> {
        fs::write(path, text).with_context(|| format!("write {path:?}"))?;
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        self.owner.give(path)
    }

    /// The test succeeded: the directory will be removed.
    pub fn finish(&mut self) {
        self.finished = true;
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Err(error) = kill_all_in(&self.path) {
            eprintln!("testkit: {error:#}");
        }
        if self.finished {
            let _ = fs::remove_dir_all(&self.path);
        } else {
            eprintln!("testkit: not finished, logs are kept in {}", self.path.display());
        }
    }
}

/// Files and directories with their size and when they were last changed.
pub type Tree = BTreeMap<PathBuf, (u64, SystemTime)>;

/// Everything below `path`, and `path` itself: what was touched meanwhile differs.
pub fn tree_of(path: &Path) -> Result<Tree> {
    let mut found = BTreeMap::new();
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        let meta = fs::symlink_metadata(&path).with_context(|| format!("look at {path:?}"))?;
        if meta.is_dir() {
            for entry in fs::read_dir(&path).with_context(|| format!("list {path:?}"))? {
                open.push(entry?.path());
            }
        }
        found.insert(path, (meta.len(), meta.modified()?));
    }
    Ok(found)
}

/// The lock is a file beside the test binary; the kernel releases it when the process ends, however it ends.
fn take_turn() -> Result<File> {
    let test = std::env::current_exe().context("find the test binary")?;
    let path = test.with_file_name("testkit.lock");
    let file = File::create(&path).with_context(|| format!("create {path:?}"))?;
    file.lock().with_context(|| format!("lock {path:?}"))?;
    Ok(file)
}
