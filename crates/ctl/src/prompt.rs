//! The terminal: what is printed, and the questions that are asked.

use std::cell::RefCell;
use std::io::{BufRead, IsTerminal, Write};

use crate::error::{CtlError, Result};

/// Questions that cannot be answered (a loop on bad input) end after this many tries.
const TRIES_MAX: usize = 100;

/// Standard output, error and input, or buffers in their place.
///
/// Prompts go to standard output and answers come from standard input, terminal or not: scripts pipe answers in.
pub struct Console {
    out: RefCell<Box<dyn Write>>,
    err: RefCell<Box<dyn Write>>,
    input: RefCell<Box<dyn BufRead>>,
    /// Standard output is a terminal: colours, a pager and screen clearing make sense.
    pub terminal: bool,
}

impl Console {
    /// The process's own streams.
    pub fn stdio() -> Console {
        Console {
            out: RefCell::new(Box::new(std::io::stdout())),
            err: RefCell::new(Box::new(std::io::stderr())),
            input: RefCell::new(Box::new(std::io::BufReader::new(std::io::stdin()))),
            terminal: std::io::stdout().is_terminal(),
        }
    }

    /// Other streams; not a terminal.
    #[cfg(test)]
    pub fn new(out: Box<dyn Write>, err: Box<dyn Write>, input: Box<dyn BufRead>) -> Console {
        Console { out: RefCell::new(out), err: RefCell::new(err), input: RefCell::new(input), terminal: false }
    }

    /// Prints a line.
    pub fn line(&self, text: impl AsRef<str>) {
        self.raw(&format!("{}\n", text.as_ref()));
    }

    /// Prints text as it is. A reader that went away (`patronictl list | head -1`) is no error.
    pub fn raw(&self, text: &str) {
        let mut out = self.out.borrow_mut();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    /// Prints a line to standard error.
    pub fn warn(&self, text: impl AsRef<str>) {
        let mut err = self.err.borrow_mut();
        let _ = writeln!(err, "{}", text.as_ref());
    }

    /// Reads everything from standard input, up to 16 MiB.
    pub fn read_all(&self) -> Result<String> {
        const INPUT_BYTES_MAX: u64 = 16 * 1024 * 1024;
        let mut text = String::new();
        let mut input = self.input.borrow_mut();
        std::io::Read::read_to_string(&mut std::io::Read::take(&mut *input, INPUT_BYTES_MAX), &mut text)
            .map_err(|error| CtlError::Failed(format!("Cannot read standard input: {error}")))?;
        Ok(text)
    }

    fn read_line(&self) -> Result<String> {
        let mut line = String::new();
        match self.input.borrow_mut().read_line(&mut line) {
            Ok(0) | Err(_) => Err(CtlError::Aborted),
            Ok(_) => Ok(line.trim_end_matches(['\n', '\r']).to_owned()),
        }
    }

    /// Asks `text [default]: `; an empty answer means the default. Without a default the question is repeated until
    /// there is an answer.
    pub fn ask(&self, text: &str, default: Option<&str>) -> Result<String> {
        for _ in 0..TRIES_MAX {
            match default {
                Some(default) => self.raw(&format!("{text} [{default}]: ")),
                None => self.raw(&format!("{text}: ")),
            }
            let answer = self.read_line()?;
            match default {
                Some(default) if answer.is_empty() => return Ok(default.to_owned()),
                None if answer.is_empty() => {}
                _ => return Ok(answer),
            }
        }
        Err(CtlError::Aborted)
    }

    /// Asks `text [y/N]: `.
    pub fn confirm(&self, text: &str) -> Result<bool> {
        for _ in 0..TRIES_MAX {
            self.raw(&format!("{text} [y/N]: "));
            match self.read_line()?.trim().to_lowercase().as_str() {
                "y" | "yes" => return Ok(true),
                "n" | "no" | "" => return Ok(false),
                _ => self.line("Error: invalid input"),
            }
        }
        Err(CtlError::Aborted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Screen, console};

    #[test]
    fn answers_defaults_and_end_of_input() {
        let screen = Screen::default();
        let console = console(&screen, "\nb\n\n\nc\n");
        assert_eq!(console.ask("Candidate ['b']", Some("")).as_deref(), Ok(""));
        assert_eq!(console.ask("Primary", Some("a")).as_deref(), Ok("b"));
        assert_eq!(console.ask("Name", None).as_deref(), Ok("c"));
        assert_eq!(console.ask("Name", None), Err(CtlError::Aborted));
        assert_eq!(screen.out(), "Candidate ['b'] []: Primary [a]: Name: Name: Name: Name: ");
    }

    #[test]
    fn confirmation() {
        for (input, expected) in [
            ("y\n", Ok(true)),
            ("YES\n", Ok(true)),
            ("\n", Ok(false)),
            ("x\nn\n", Ok(false)),
            ("x", Err(CtlError::Aborted)),
        ] {
            let screen = Screen::default();
            assert_eq!(console(&screen, input).confirm("Sure?"), expected, "{input:?}");
        }
    }
}
