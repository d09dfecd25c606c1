//! `log.dir`: a file that is rotated by size, `patroni.log`, `patroni.log.1`, and so on.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const FILE_NAME: &str = "patroni.log";

/// The open log file.
pub struct RotatingFile {
    path: PathBuf,
    file: File,
    size_bytes: u64,
    size_max_bytes: u64,
    /// Rotated files that are kept.
    kept: u32,
    mode: Option<u32>,
}

impl RotatingFile {
    /// Opens the file in `dir` and goes on at its end. With `size_max_bytes` or `kept` 0 it is never rotated, as upstream
    /// has it. Without a `mode` the umask decides.
    pub fn open(dir: &Path, mode: Option<u32>, size_max_bytes: u64, kept: u32) -> Result<RotatingFile, String> {
        let path = dir.join(FILE_NAME);
        match append_to(&path, mode) {
            Ok((file, size_bytes)) => Ok(RotatingFile { path, file, size_bytes, size_max_bytes, kept, mode }),
            Err(error) => Err(format!("cannot write the log file {} (log.dir): {error}", path.display())),
        }
    }

    /// Writes one line. A line is never split over two files.
    pub fn write_line(&mut self, line: &str) -> io::Result<()> {
        let length = line.len() as u64 + 1;
        let is_full = self.size_bytes > 0 && self.size_bytes + length > self.size_max_bytes;
        if is_full && self.size_max_bytes > 0 && self.kept > 0 {
            self.rotate()?;
        }
        let mut bytes = Vec::with_capacity(line.len() + 1);
        bytes.extend_from_slice(line.as_bytes());
        bytes.push(b'\n');
        self.file.write_all(&bytes)?;
        self.size_bytes += length;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.kept).rev() {
            rename_if_there(&self.numbered(number), &self.numbered(number + 1))?;
        }
        rename_if_there(&self.path, &self.numbered(1))?;
        (self.file, self.size_bytes) = append_to(&self.path, self.mode)?;
        Ok(())
    }

    fn numbered(&self, number: u32) -> PathBuf {
        self.path.with_file_name(format!("{FILE_NAME}.{number}"))
    }
}

fn append_to(path: &Path, mode: Option<u32>) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    if let Some(mode) = mode {
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    let size_bytes = file.metadata()?.len();
    Ok((file, size_bytes))
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
