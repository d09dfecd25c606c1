//! The promise to a leader without the store, kept beside the data: a restarted agent is bound by what it promised before.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use agent::clock::boot_now;
use agent::ports::PromiseFile;
use async_trait::async_trait;
use ha::view::Promise;
use serde::{Deserialize, Serialize};

/// File name in the data directory.
const FILE_NAME: &str = "patroni.failsafe.json";
/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Names the life of the kernel; the boot clock is of no meaning in another.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What the file holds.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// Who promised: the file is copied with the data directory, the promise is not.
    node: String,
    boot_id: String,
    /// How long the promise lasted when it was given.
    lasts_ms: u64,
    promise: Promise,
}

/// [`PromiseFile`] in a data directory.
pub struct PromiseBesideData {
    node: String,
    data_dir: PathBuf,
}

impl PromiseBesideData {
    /// Of the node of this name.
    pub fn new(node: String, data_dir: PathBuf) -> PromiseBesideData {
        PromiseBesideData { node, data_dir }
    }

    fn path(&self) -> PathBuf {
        self.data_dir.join(FILE_NAME)
    }
}

fn boot_id() -> String {
    fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned()
}

/// After a boot nobody knows how long ago the promise was given: it counts from now.
fn as_of_now(kept: Kept, boot_id: &str) -> Promise {
    let until = if kept.boot_id == boot_id {
        kept.promise.until
    } else {
        boot_now().plus(std::time::Duration::from_millis(kept.lasts_ms))
    };
    Promise { until, ..kept.promise }
}

#[async_trait]
impl PromiseFile for PromiseBesideData {
    async fn load(&self) -> Option<Promise> {
        let path = self.path();
        if fs::metadata(&path).ok()?.len() > FILE_BYTES_MAX {
            tracing::warn!("{} is too long and not used", path.display());
            return None;
        }
        let text = fs::read_to_string(&path).ok()?;
        match serde_json::from_str::<Kept>(&text) {
            Ok(kept) if kept.node == self.node => Some(as_of_now(kept, &boot_id())),
            Ok(_) => None,
            Err(error) => {
                tracing::warn!("{} is not what an agent wrote and is not used: {error}", path.display());
                None
            }
        }
    }

    async fn save(&self, promise: &Promise) -> Result<(), String> {
        if !self.data_dir.join("PG_VERSION").exists() {
            // Without data this node cannot be promoted.
            return Ok(());
        }
        let lasts_ms = u64::try_from(promise.until.since(boot_now()).as_millis()).unwrap_or(u64::MAX);
        let kept = Kept { node: self.node.clone(), boot_id: boot_id(), lasts_ms, promise: promise.clone() };
        let (path, text) = (self.path(), serde_json::to_vec(&kept).map_err(|error| error.to_string())?);
        let written = tokio::task::spawn_blocking({
            let path = path.clone();
            move || replace(&path, &text)
        });
        let failed = |why: String| format!("cannot keep the promise in {}: {why}", path.display());
        match written.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

/// A crash leaves the old file or the new one.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension(format!("json.{}.tmp", std::process::id()));
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    let written = write();
    if written.is_err() {
        // The error that counts is the first; a file that was not made cannot be removed.
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use model::{BootTime, FailsafeLeader};

    use super::*;

    fn promise(until: BootTime) -> Promise {
        Promise { leader: FailsafeLeader { name: "a".to_owned(), ..FailsafeLeader::default() }, until }
    }

    #[tokio::test]
    async fn a_promise_is_read_by_the_node_that_gave_it() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("PG_VERSION"), "15").expect("a file");
        let file = |node: &str| PromiseBesideData::new(node.to_owned(), dir.path().to_owned());
        assert_eq!(file("b").load().await, None);
        let given = promise(boot_now().plus(std::time::Duration::from_secs(30)));
        file("b").save(&given).await.expect("saved");
        assert_eq!(file("b").load().await, Some(given));
        assert_eq!(file("c").load().await, None, "a copy of the data directory has promised nothing");
        fs::write(dir.path().join(FILE_NAME), "{").expect("a file");
        assert_eq!(file("b").load().await, None);
    }

    #[test]
    fn after_a_boot_it_counts_anew() {
        let kept =
            Kept { node: "b".to_owned(), boot_id: "x".to_owned(), lasts_ms: 30_000, promise: promise(BootTime(1)) };
        assert!(as_of_now(kept, "y").until >= boot_now().plus(std::time::Duration::from_secs(29)));
    }
}
