//! Documents that are made from tables in the code.

use std::path::Path;

use anyhow::{Context, Result};

/// Writes the reference page of all settings.
pub fn write(root: &Path) -> Result<()> {
    let path = root.join("docs/configuration.md");
    std::fs::write(&path, config::reference::markdown()).with_context(|| format!("write {}", path.display()))
}
