//! The data directory: what is in it, and writing files with the permissions PostgreSQL expects.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use model::pg::DataDir;

use crate::marker;

/// What is in a data directory.
pub(crate) fn data_dir_state(data_dir: &Path) -> DataDir {
    match data_dir.join("global/pg_control").try_exists() {
        Ok(true) => return DataDir::Present,
        Ok(false) => {}
        Err(error) => return DataDir::Unreadable(format!("cannot look into {}: {error}", data_dir.display())),
    }
    let entries = match fs::read_dir(data_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return DataDir::Empty,
        Err(error) => return DataDir::Unreadable(format!("cannot list {}: {error}", data_dir.display())),
    };
    for entry in entries {
        match entry {
            Ok(entry) => {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                if !(name.starts_with('.') || name == "lost+found" || name == marker::FILE_NAME) {
                    return DataDir::Incomplete;
                }
            }
            Err(error) => return DataDir::Unreadable(format!("cannot list {}: {error}", data_dir.display())),
        }
    }
    DataDir::Empty
}

/// The version in `PG_VERSION` as `server_version_num` of its first release: 150000 for `15`, 90600 for `9.6`.
pub(crate) fn major_version(data_dir: &Path) -> Option<u32> {
    parse_major(&fs::read_to_string(data_dir.join("PG_VERSION")).ok()?)
}

/// See [`major_version`]; also reads `postgres (PostgreSQL) 15.18 (Debian)`.
pub(crate) fn parse_major(text: &str) -> Option<u32> {
    let number = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let mut parts = number.split(|c: char| !c.is_ascii_digit());
    let first: u32 = parts.next()?.parse().ok().filter(|first| (8..1000).contains(first))?;
    if first >= 10 {
        return Some(first * 10_000);
    }
    let second: u32 = parts.next()?.parse().ok().filter(|second| *second < 100)?;
    Some(first * 10_000 + second * 100)
}

/// Name of the WAL directory.
pub(crate) fn wal_dir(data_dir: &Path) -> PathBuf {
    let new = data_dir.join("pg_wal");
    if new.exists() { new } else { data_dir.join("pg_xlog") }
}

/// Whether there is the `backup_label` of a base backup or of pg_rewind, which the first start takes away. The label of an
/// exclusive backup (before version 15) lies in the directory of the server itself.
pub(crate) fn is_unstarted_copy(data_dir: &Path) -> bool {
    let label = fs::read_to_string(data_dir.join("backup_label")).unwrap_or_default();
    !label.is_empty() && !label.lines().any(|line| line == "BACKUP METHOD: pg_start_backup")
}

/// Permissions of a file to be written: in the data directory as its mode says, outside as the umask says.
fn mode_for(path: &Path, data_dir: &Path) -> u32 {
    if !path.starts_with(data_dir) {
        return 0o666;
    }
    let group = fs::metadata(data_dir).is_ok_and(|meta| meta.permissions().mode() & 0o050 == 0o050);
    if group { 0o640 } else { 0o600 }
}

/// Replaces a file, unless it holds `text` already; never leaves half of it. Returns whether it was written.
pub(crate) fn write_file(path: &Path, text: &str, data_dir: &Path) -> Result<bool, String> {
    if fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(false);
    }
    replace(path, text, mode_for(path, data_dir)).map(|()| true)
}

/// Replaces a file that holds a password; only its owner may read it.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), String> {
    let private = fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o077 == 0);
    if private && fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    replace(path, text, 0o600)
}

fn replace(path: &Path, text: &str, mode: u32) -> Result<(), String> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.new", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let written = (|| {
        // A leftover might have other permissions, which opening would keep.
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    written.map_err(|error| {
        let _ = fs::remove_file(&temporary);
        format!("cannot write {}: {error}", path.display())
    })
}

/// Copies a file, keeping its contents exactly.
pub(crate) fn copy_file(from: &Path, to: &Path, data_dir: &Path) -> Result<(), String> {
    let text = fs::read_to_string(from).map_err(|error| format!("cannot read {}: {error}", from.display()))?;
    write_file(to, &text, data_dir).map(|_| ())
}

/// Removes a file; it may be absent.
pub(crate) fn remove_file(path: &Path) -> Result<(), String> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(format!("cannot remove {}: {error}", path.display())),
        _ => Ok(()),
    }
}

/// Removes what is in a data directory, including what the links of `pg_wal` and tablespaces point to. The directory
/// itself stays, since it may be a mount point.
pub(crate) fn clear(data_dir: &Path) -> Result<(), String> {
    let fail = |error: std::io::Error| format!("cannot remove the contents of {}: {error}", data_dir.display());
    if !data_dir.try_exists().map_err(fail)? {
        return Ok(());
    }
    for link in linked_directories(data_dir) {
        clear_contents(&link).map_err(|error| format!("cannot remove the contents of {}: {error}", link.display()))?;
    }
    clear_contents(data_dir).map_err(fail)
}

fn clear_contents(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name() == "lost+found" {
            continue;
        }
        if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
    }
    Ok(())
}

/// The links PostgreSQL keeps: the WAL directory, where it is elsewhere, and tablespaces.
pub(crate) fn links(data_dir: &Path) -> Vec<PathBuf> {
    let tablespaces = fs::read_dir(data_dir.join("pg_tblspc")).into_iter().flatten().flatten().map(|e| e.path());
    let candidates = ["pg_wal", "pg_xlog"].map(|name| data_dir.join(name)).into_iter().chain(tablespaces);
    let is_link = |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_symlink());
    candidates.filter(is_link).collect()
}

/// The directory that the link of the WAL directory points to.
pub(crate) fn wal_elsewhere(data_dir: &Path) -> Option<PathBuf> {
    let link = links(data_dir).into_iter().find(|link| link.parent() == Some(data_dir))?;
    fs::canonicalize(link).ok()
}

/// What these links point to.
pub(crate) fn linked_directories(data_dir: &Path) -> Vec<PathBuf> {
    let targets = links(data_dir).into_iter().filter_map(|path| fs::canonicalize(path).ok());
    targets.filter(|target| target.is_dir() && target.parent().is_some()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (text, expected) in [
            ("15\n", Some(150_000)),
            ("9.6", Some(90_600)),
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0)", Some(150_000)),
            ("postgres (PostgreSQL) 17beta1", Some(170_000)),
            ("", None),
            ("9", None),
            ("99999999999", None),
        ] {
            assert_eq!(parse_major(text), expected, "{text:?}");
        }
    }

    #[test]
    fn states_of_a_data_directory() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let data = dir.path().join("data");
        assert_eq!(data_dir_state(&data), DataDir::Empty);
        fs::create_dir_all(data.join("lost+found")).expect("mkdir");
        fs::write(data.join(".hidden"), "").expect("write");
        assert_eq!(data_dir_state(&data), DataDir::Empty);
        fs::create_dir(data.join("global")).expect("mkdir");
        assert_eq!(data_dir_state(&data), DataDir::Incomplete);
        fs::write(data.join("global/pg_control"), "").expect("write");
        assert_eq!(data_dir_state(&data), DataDir::Present);
        fs::write(dir.path().join("file"), "").expect("write");
        assert!(matches!(data_dir_state(&dir.path().join("file")), DataDir::Unreadable(_)));
    }

    #[test]
    fn clearing_follows_links_and_keeps_the_directory() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (data, wal) = (dir.path().join("data"), dir.path().join("wal"));
        fs::create_dir_all(data.join("base/1")).expect("mkdir");
        fs::create_dir(&wal).expect("mkdir");
        fs::write(wal.join("segment"), "x").expect("write");
        std::os::unix::fs::symlink(&wal, data.join("pg_wal")).expect("link");
        clear(&data).expect("clear");
        assert_eq!(fs::read_dir(&data).expect("kept").count(), 0);
        assert_eq!(fs::read_dir(&wal).expect("kept").count(), 0);
    }

    #[test]
    fn files_follow_the_mode_of_the_data_directory() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mode = |path: &Path| fs::metadata(path).expect("file").permissions().mode() & 0o777;
        for (directory, expected) in [(0o700, 0o600), (0o750, 0o640)] {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(directory)).expect("chmod");
            let path = dir.path().join(format!("f{directory}"));
            assert_eq!(write_file(&path, "x", dir.path()), Ok(true));
            assert_eq!(write_file(&path, "x", dir.path()), Ok(false));
            assert_eq!(mode(&path), expected);
        }
        let secret = dir.path().join("pgpass");
        fs::write(&secret, "old").expect("write");
        write_private(&secret, "new").expect("write");
        assert_eq!((mode(&secret), fs::read_to_string(&secret).expect("read").as_str()), (0o600, "new"));
    }
}
