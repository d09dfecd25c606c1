//! `patronictl`.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::programs::{Installed, run_to_end};
use crate::sandbox::Owner;

/// What a command said.
#[derive(Clone, Debug)]
pub struct CtlOutput {
    /// Exit code; -1 when killed.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl CtlOutput {
    /// Standard output, if it succeeded.
    pub fn success(self) -> Result<String> {
        ensure!(self.code == 0, "patronictl ended with {}: {}{}", self.code, self.stdout, self.stderr);
        Ok(self.stdout)
    }

    /// Standard output as JSON, if it succeeded and said nothing else: tools parse both streams together.
    pub fn json(self) -> Result<Value> {
        ensure!(self.stderr.is_empty(), "patronictl wrote on standard error: {}", self.stderr);
        let text = self.success()?;
        serde_json::from_str(&text).with_context(|| format!("read {text:?} as JSON"))
    }
}

/// Runs `patronictl -c config arguments...` with nothing on standard input.
pub fn run_ctl(
    programs: &Installed,
    owner: &Owner,
    home: &Path,
    config: &Path,
    arguments: &[&str],
) -> Result<CtlOutput> {
    let mut command = programs.command("patronictl")?;
    command.arg("-c").arg(config).args(arguments);
    let output = run_to_end(&mut command, owner, home)?;
    Ok(CtlOutput {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
