//! Figures that a test measured, for people.

use std::fs::File;
use std::io::Write;

/// Prints `measured: line`, and appends the line to the file that `TESTKIT_REPORT` names: the test command shows it at
/// its end, where output of succeeded tests is otherwise lost.
pub fn measured(line: &str) {
    println!("measured: {line}");
    let Some(path) = std::env::var_os("TESTKIT_REPORT") else { return };
    let written = File::options().create(true).append(true).open(&path).and_then(|mut file| writeln!(file, "{line}"));
    if let Err(error) = written {
        eprintln!("testkit: cannot write {}: {error}", path.display());
    }
}
