//! The marker of work on a data directory that was begun and not finished.
//!
//! It is kept in two places, and either counts. Beside the directory it survives pg_rewind, which deletes files it
//! does not know, and does not disturb pg_basebackup and initdb, which want an empty directory; but the parent may be
//! read-only or on storage that does not live as long. So it is also kept inside, and put back while a program that
//! may remove it runs ([`Marker::keep`]).

use std::fs;
use std::path::{Path, PathBuf};

use model::pg::Unfinished;

use crate::layout;

/// Name of the marker inside a data directory.
pub(crate) const FILE_NAME: &str = "patroni.unfinished";

/// The marker of one data directory.
#[derive(Clone, Debug)]
pub(crate) struct Marker {
    inside: PathBuf,
    beside: PathBuf,
    data_dir: PathBuf,
}

impl Marker {
    pub fn of(data_dir: &Path) -> Marker {
        let mut beside = data_dir.as_os_str().to_owned();
        beside.push(".");
        beside.push(FILE_NAME);
        Marker { inside: data_dir.join(FILE_NAME), beside: beside.into(), data_dir: data_dir.to_owned() }
    }

    /// The work that was not finished.
    pub fn read(&self) -> Option<Unfinished> {
        let texts = [&self.beside, &self.inside].into_iter().filter_map(|path| fs::read_to_string(path).ok());
        // What cannot be read as a kind of work still says that something was not finished.
        texts.map(|text| parse(&text).unwrap_or(Unfinished::Clone)).next()
    }

    /// Marks the directory. An empty directory can only be marked beside; [`Marker::keep`] does the inside later.
    pub fn set(&self, work: Unfinished) -> Result<(), String> {
        if let Err(error) = layout::write_file(&self.beside, text(work), &self.data_dir) {
            tracing::debug!("{error}; the marker is kept inside the data directory only");
        }
        if self.is_populated() {
            layout::write_file(&self.inside, text(work), &self.data_dir)?;
        }
        Ok(())
    }

    /// Puts the inside marker back where there is something to mark.
    pub fn keep(&self, work: Unfinished) {
        if !self.inside.exists()
            && self.is_populated()
            && let Err(error) = layout::write_file(&self.inside, text(work), &self.data_dir)
        {
            tracing::debug!("{error}");
        }
    }

    /// The work is finished.
    pub fn clear(&self) -> Result<(), String> {
        layout::remove_file(&self.inside)?;
        layout::remove_file(&self.beside)
    }

    fn is_populated(&self) -> bool {
        self.data_dir.join("PG_VERSION").exists() || self.data_dir.join("backup_label").exists()
    }
}

fn text(work: Unfinished) -> &'static str {
    match work {
        Unfinished::Clone => "clone\n",
        Unfinished::Rewind => "rewind\n",
        Unfinished::Bootstrap => "bootstrap\n",
    }
}

fn parse(text: &str) -> Option<Unfinished> {
    match text.trim() {
        "clone" => Some(Unfinished::Clone),
        "rewind" => Some(Unfinished::Rewind),
        "bootstrap" => Some(Unfinished::Bootstrap),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_place_counts() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let data = dir.path().join("data");
        fs::create_dir(&data).expect("mkdir");
        let marker = Marker::of(&data);
        assert_eq!(marker.read(), None);
        marker.set(Unfinished::Clone).expect("set");
        assert_eq!(fs::read_dir(&data).expect("list").count(), 0, "an empty directory stays empty");
        assert_eq!(marker.read(), Some(Unfinished::Clone));

        fs::write(data.join("PG_VERSION"), "15").expect("write");
        marker.keep(Unfinished::Rewind);
        fs::remove_file(&marker.beside).expect("remove");
        assert_eq!(marker.read(), Some(Unfinished::Rewind));
        fs::write(&marker.inside, "garbage").expect("write");
        assert_eq!(marker.read(), Some(Unfinished::Clone));
        marker.clear().expect("clear");
        assert_eq!(marker.read(), None);
    }
}
