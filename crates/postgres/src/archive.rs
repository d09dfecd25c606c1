//! Archiving what a stopped server had not archived yet: pg_rewind would remove it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::config::PgConfig;
use crate::layout;
use crate::process;
use crate::task::TaskHandle;

/// Segments archived at most; more would delay the rewind for too long.
const SEGMENTS_MAX: usize = 10_000;
/// How long archiving or fetching one segment may take.
const ONE_SEGMENT_MAX: Duration = Duration::from_secs(600);

/// Runs a configured command (`what`) for one segment, in the data directory as the server would, bounded in time.
pub(crate) async fn run_for_segment(what: &str, text: &str, data_dir: &Path, task: &TaskHandle) -> Result<(), String> {
    let mut command = process::command(Path::new("/bin/sh"));
    command.arg("-c").arg(text).current_dir(data_dir);
    match tokio::time::timeout(ONE_SEGMENT_MAX, process::run(command, what, task)).await {
        Ok(finished) => finished?.success(what).map(|_| ()),
        Err(_) => Err(format!("{what} took too long")),
    }
}

/// Archives every finished segment with the configured `archive_command`, as the server would have done. A failure is
/// logged and ends it: the rewind goes on.
pub(crate) async fn archive_ready(config: &PgConfig, data_dir: &Path, task: &TaskHandle) {
    let wal = layout::wal_dir(data_dir);
    let mut ready: Vec<String> = fs::read_dir(wal.join("archive_status"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".ready").map(str::to_owned))
        .filter(|name| wal.join(name).is_file())
        .collect();
    if ready.is_empty() {
        return;
    }
    ready.sort();
    let Some(template) = value_of(config, data_dir, "archive_command").await.filter(|command| !command.is_empty())
    else {
        return;
    };
    if value_of(config, data_dir, "archive_mode").await.is_none_or(|mode| mode == "off") {
        return;
    }
    for name in ready.into_iter().take(SEGMENTS_MAX) {
        let relative = wal.strip_prefix(data_dir).unwrap_or(&wal).join(&name);
        let text = substituted(&template, &name, &relative.to_string_lossy());
        if let Err(error) = run_for_segment("archive_command", &text, data_dir, task).await {
            tracing::warn!("cannot archive {name} before the rewind: {error}");
            return;
        }
        let status = wal.join("archive_status");
        if let Err(error) = fs::rename(status.join(format!("{name}.ready")), status.join(format!("{name}.done"))) {
            tracing::warn!("cannot mark {name} as archived: {error}");
        }
    }
}

/// Forgets which segments are archived already: the checkpoint at the end of a recovery removes those, and pg_rewind wants
/// them. The server takes them for ready; an `archive_command` must know what it has (PostgreSQL documentation, 26.3.1).
pub(crate) fn forget_done(data_dir: &Path) {
    let status = layout::wal_dir(data_dir).join("archive_status");
    for entry in fs::read_dir(status).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.ends_with(".done"))
            && let Err(error) = fs::remove_file(entry.path())
        {
            tracing::warn!("cannot remove {}: {error}", entry.path().display());
        }
    }
}

/// `%p`, `%f` (for `%r` too: nothing older is wanted) and `%%` (PostgreSQL documentation, 26.3.1).
pub(crate) fn substituted(template: &str, file: &str, path: &str) -> String {
    let mut text = String::new();
    let mut chars = template.chars();
    while let Some(c) = chars.next() {
        match c {
            '%' => match chars.next() {
                Some('p') => text.push_str(path),
                Some('f' | 'r') => text.push_str(file),
                Some('%') => text.push('%'),
                Some(other) => text.extend(['%', other]),
                None => text.push('%'),
            },
            other => text.push(other),
        }
    }
    text
}

/// A parameter as the files say.
async fn value_of(config: &PgConfig, data_dir: &Path, name: &str) -> Option<String> {
    let mut command = process::command(&config.binaries.path("postgres"));
    command.arg("-D").arg(data_dir).arg(format!("--config-file={}", config.conf_file("").display()));
    command.args(["-C", name]);
    let task = TaskHandle::detached();
    let run = tokio::time::timeout(Duration::from_secs(10), process::run(command, "postgres -C", &task)).await;
    let finished = run.ok()?.ok()?.success("postgres -C").ok()?;
    Some(finished.stdout.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders() {
        assert_eq!(substituted("cp %p /a/%f # 5%% %x %", "00A", "pg_wal/00A"), "cp pg_wal/00A /a/00A # 5% %x %");
    }
}
