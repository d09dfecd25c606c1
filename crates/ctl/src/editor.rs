//! Text in the user's editor.

use std::fs::{self, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Command;

use crate::error::{Result, fail};

/// A file that is removed when this goes out of scope.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Nothing can be done about a file that cannot be removed.
        let _ = fs::remove_file(&self.0);
    }
}

/// Opens `text` in `$EDITOR`, `editor` or `vi`, and returns it as it was saved. `name` becomes part of the file name.
pub fn edit(text: &str, name: &str) -> Result<String> {
    let name: String = name.chars().map(|c| if c.is_alphanumeric() || c == '-' { c } else { '_' }).collect();
    let path = std::env::temp_dir().join(format!("{name}-{:016x}.yaml", RandomState::new().build_hasher().finish()));
    // The configuration may hold secrets: readable by its owner alone, and never through an existing file or link.
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let mut file = created.or_else(|error| fail(format!("Cannot create {}: {error}", path.display())))?;
    let temporary = Temporary(path);
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .or_else(|error| fail(format!("Cannot write {}: {error}", temporary.0.display())))?;
    drop(file);

    let (program, arguments) = editor()?;
    let status = Command::new(&program).args(&arguments).arg(&temporary.0).status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => return fail(format!("Editor {program} ended with {status}; nothing was changed")),
        Err(error) => return fail(format!("Cannot run the editor {program}: {error}; set EDITOR to the one to use")),
    }
    fs::read_to_string(&temporary.0).or_else(|error| fail(format!("Cannot read {}: {error}", temporary.0.display())))
}

/// The program and its arguments.
fn editor() -> Result<(String, Vec<String>)> {
    if let Some(editor) = std::env::var("EDITOR").ok().filter(|editor| !editor.trim().is_empty()) {
        let mut words = editor.split_whitespace().map(str::to_owned);
        return match words.next() {
            Some(program) => Ok((program, words.collect())),
            None => fail("EDITOR is empty"),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        ["editor", "vi"].into_iter().find(|name| std::env::split_paths(&path).any(|dir| dir.join(name).is_file()));
    match found {
        Some(program) => Ok((program.to_owned(), Vec::new())),
        None => fail("EDITOR environment variable is not set. editor or vi are not available"),
    }
}
