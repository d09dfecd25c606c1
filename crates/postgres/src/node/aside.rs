//! Putting a failed bootstrap aside, for somebody to look at.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::{BootstrapPhase, Postgres, blocking};
use crate::layout;

impl Postgres {
    /// Renames the data directory to `<data_dir>.failed`, and likewise what its links of WAL directory and tablespaces
    /// point to, with the links following. What an earlier failure left under these names is removed: a node that
    /// fails again and again must not fill its disk.
    pub async fn move_data_dir_aside(&self) -> Result<(), String> {
        self.make_way("put the data directory aside").await?;
        self.set_phase(BootstrapPhase::Idle);
        let data_dir = self.data_dir.clone();
        blocking(move || move_aside(&data_dir)).await??;
        self.marker.clear()
    }
}

fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".failed");
    name.into()
}

fn move_aside(data_dir: &Path) -> Result<(), String> {
    if !data_dir.exists() {
        return Ok(());
    }
    for link in layout::links(data_dir) {
        let Ok(target) = fs::canonicalize(&link) else { continue };
        tracing::info!("renaming {} and updating its symlink {}", target.display(), link.display());
        let moved = rename(&target)?;
        layout::remove_file(&link)?;
        symlink(&moved, &link)
            .map_err(|error| format!("cannot link {} to {}: {error}", link.display(), moved.display()))?;
    }
    tracing::info!("renaming data directory to {}", aside(data_dir).display());
    rename(data_dir).map(drop)
}

fn rename(from: &Path) -> Result<PathBuf, String> {
    let to = aside(from);
    let failed = |error: std::io::Error| format!("cannot rename {} to {}: {error}", from.display(), to.display());
    if to.is_dir() {
        fs::remove_dir_all(&to).map_err(failed)?;
    }
    fs::rename(from, &to).map_err(failed)?;
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_follow_and_an_earlier_failure_makes_way() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = |name: &str| dir.path().join(name);
        for round in ["first", "second"] {
            for name in ["data/pg_tblspc", "wal", "space"] {
                fs::create_dir_all(path(name)).expect("mkdir");
            }
            fs::write(path("data/PG_VERSION"), round).expect("write");
            fs::write(path("space/file"), round).expect("write");
            symlink(path("wal"), path("data/pg_wal")).expect("link");
            symlink(path("space"), path("data/pg_tblspc/16384")).expect("link");
            move_aside(&path("data")).expect("moved");
            assert!(!path("data").exists() && !path("wal").exists() && !path("space").exists());
            assert_eq!(fs::read_to_string(path("data.failed/PG_VERSION")).expect("kept"), round);
            assert_eq!(fs::read_to_string(path("data.failed/pg_tblspc/16384/file")).expect("kept"), round);
            assert_eq!(fs::read_link(path("data.failed/pg_wal")).expect("link"), path("wal.failed"));
        }
        assert_eq!(move_aside(&path("data")), Ok(()), "nothing there");
    }
}
