//! The dynamic configuration as this node saw it last, kept beside the data for a start without the store.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// File name in the data directory.
pub const FILE_NAME: &str = "patroni.dynamic.json";
/// Largest cache that is read.
const FILE_BYTES_MAX: u64 = 16 << 20;

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE_NAME)
}

/// Reads the cache; `Ok(None)` where there is none. An error is a sentence for the log: a node starts without it.
pub fn load(data_dir: &Path) -> Result<Option<Map<String, Value>>, String> {
    let path = path(data_dir);
    let sentence = |reason: String| format!("cannot use the cached dynamic configuration {}: {reason}", path.display());
    match fs::metadata(&path) {
        Ok(metadata) if metadata.len() > FILE_BYTES_MAX => {
            return Err(sentence(format!("{} bytes are more than the {FILE_BYTES_MAX} that are read", metadata.len())));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(sentence(error.to_string())),
    }
    let text = fs::read_to_string(&path).map_err(|error| sentence(error.to_string()))?;
    match serde_json::from_str(&text) {
        Ok(Value::Object(config)) => Ok(Some(config)),
        Ok(_) => Err(sentence("expected a JSON object".to_owned())),
        Err(error) => Err(sentence(error.to_string())),
    }
}

/// Replaces the cache where it says something else, so that a crash leaves the old one or the new one. `mode` is 0600, or 0640 where the data
/// directory is readable by its group.
pub fn save(data_dir: &Path, dynamic: &Map<String, Value>, mode: u32) -> Result<(), String> {
    if load(data_dir).is_ok_and(|there| there.as_ref() == Some(dynamic)) {
        return Ok(());
    }
    let path = path(data_dir);
    let temporary = data_dir.join(format!("{FILE_NAME}.{}.tmp", std::process::id()));
    let written = write(&temporary, dynamic, mode).and_then(|()| fs::rename(&temporary, &path));
    written.map_err(|error| {
        // The error that counts is the first; a file that was not made cannot be removed.
        let _ = fs::remove_file(&temporary);
        format!("cannot save the dynamic configuration to {}: {error}", path.display())
    })
}

fn write(path: &Path, dynamic: &Map<String, Value>, mode: u32) -> io::Result<()> {
    // A file left by an earlier process with the same id would keep its permissions.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(&serde_json::to_vec(dynamic)?)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(load(dir.path()), Ok(None));
        for ttl in [30, 40] {
            let dynamic = json!({"ttl": ttl, "postgresql": {"parameters": {"b": 1, "a": 2}}});
            let dynamic = dynamic.as_object().expect("an object");
            save(dir.path(), dynamic, 0o600).expect("saved");
            assert_eq!(load(dir.path()), Ok(Some(dynamic.clone())));
        }
        let names: Vec<_> = fs::read_dir(dir.path()).expect("read").map(|e| e.expect("entry").file_name()).collect();
        assert_eq!(names, [FILE_NAME]);
        let mode = fs::metadata(dir.path().join(FILE_NAME)).expect("exists").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn broken_caches_are_sentences() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let prefix = format!("cannot use the cached dynamic configuration {}/{FILE_NAME}: ", dir.path().display());
        for (text, reason) in
            [("[]", "expected a JSON object"), ("{", "EOF while parsing an object at line 1 column 1")]
        {
            fs::write(dir.path().join(FILE_NAME), text).expect("written");
            assert_eq!(load(dir.path()), Err(format!("{prefix}{reason}")));
        }
        let error = save(Path::new("/nonexistent"), &Map::new(), 0o600).expect_err("no directory");
        assert_eq!(
            error,
            "cannot save the dynamic configuration to /nonexistent/patroni.dynamic.json: No such file or directory (os error 2)"
        );
    }
}
