//! `patroni_wale_restore`: a replica creation method that fetches the latest backup of WAL-E or WAL-G, unless so much WAL
//! was written since that a base backup from the leader is cheaper.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use model::Lsn;
use tokio::process::Command;

/// Restored.
const DONE: i32 = 0;
/// Not now, perhaps later.
const LATER: i32 = 1;
/// Another method should be used.
const GIVE_UP: i32 = 2;
/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a leader that cannot be reached is asked.
const LEADER_ATTEMPTS: u32 = 3;
/// Bound on listing backups, and on one question to the leader.
const LISTING_MAX: Duration = Duration::from_secs(300);
const QUESTION_MAX: Duration = Duration::from_secs(10);

/// How the archive is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Tool {
    /// `wal-e`: lists as tab-separated text.
    WalE,
    /// `wal-g`: lists as JSON.
    WalG,
}

/// The arguments; Patroni passes the first four itself.
#[derive(Debug, Parser)]
#[command(
    name = "patroni_wale_restore",
    rename_all = "snake_case",
    about = "Creates a replica from the latest backup of WAL-E or WAL-G"
)]
pub struct Arguments {
    /// Cluster name.
    #[arg(long)]
    scope: String,
    /// Data directory to restore into.
    #[arg(long)]
    datadir: PathBuf,
    /// How to connect to the leader; empty where there is none.
    #[arg(long)]
    connstring: String,
    /// Role of the node.
    #[arg(long)]
    role: Option<String>,
    /// Directory with the environment of the tool, for envdir.
    #[arg(long)]
    envdir: PathBuf,
    /// How often to try again what may work later.
    #[arg(long, default_value_t = 1)]
    retries: u32,
    /// Most WAL written since the backup, in megabytes.
    #[arg(long, default_value_t = 10_240)]
    threshold_megabytes: u64,
    /// Most WAL written since the backup, in percent of its size.
    #[arg(long, default_value_t = 30)]
    threshold_backup_size_percentage: u64,
    /// 1: credentials of the instance's role (wal-e --aws-instance-profile).
    #[arg(long, default_value_t = 0)]
    use_iam: u8,
    /// 1: restore also where the leader cannot be reached.
    #[arg(long, default_value_t = 0)]
    no_leader: u8,
    /// The program to use.
    #[arg(long, value_enum, default_value_t = Tool::WalE)]
    tool: Tool,
}

/// The latest backup, as far as the decision needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Backup {
    size_bytes: u64,
    start: Lsn,
}

/// Runs with these arguments, the program's name first; the exit code: 0 restored, 1 failed and may work later, 2 another
/// method should be used, or that of the tool.
pub fn main_from(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return error.exit_code();
        }
    };
    // Without a file nothing can fail here.
    let _ = crate::start_log(None);
    crate::block_on(run(&arguments))
}

async fn run(arguments: &Arguments) -> i32 {
    if !arguments.envdir.is_dir() {
        tracing::error!("--envdir {}: expected a directory with the tool's environment", arguments.envdir.display());
        return GIVE_UP;
    }
    let mut retries = arguments.retries;
    loop {
        match arguments.restore().await {
            LATER if retries > 0 => retries -= 1,
            code => return code,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl Arguments {
    async fn restore(&self) -> i32 {
        let backup = match self.latest_backup().await {
            Ok(Some(backup)) => backup,
            Ok(None) => {
                tracing::warn!("there is no backup of {} to restore", self.scope);
                return GIVE_UP;
            }
            Err(why) => {
                tracing::error!("{why}");
                return LATER;
            }
        };
        match self.written_since(&backup).await {
            Ok(Some(bytes)) if !self.is_worth_it(&backup, bytes) => return GIVE_UP,
            Ok(_) => {}
            Err(why) => {
                tracing::error!("{why}");
                return LATER;
            }
        }
        let code = self.fetch().await;
        if code == DONE
            && let Err(why) = repair_wal_dir(&self.datadir)
        {
            tracing::error!("{why}");
            return LATER;
        }
        code
    }

    fn command(&self) -> Command {
        let mut command = Command::new("envdir");
        command.arg(&self.envdir).stdin(Stdio::null()).kill_on_drop(true);
        match self.tool {
            Tool::WalE => command.arg("wal-e"),
            Tool::WalG => command.arg("wal-g"),
        };
        if self.use_iam == 1 && self.tool == Tool::WalE {
            command.arg("--aws-instance-profile");
        }
        command
    }

    async fn latest_backup(&self) -> Result<Option<Backup>, String> {
        let mut command = self.command();
        match self.tool {
            Tool::WalE => command.args(["backup-list", "--detail", "LATEST"]),
            Tool::WalG => command.args(["backup-list", "--detail", "--json"]),
        };
        let listing = output("list the backups", &mut command, LISTING_MAX).await?;
        match self.tool {
            Tool::WalE => parse_wal_e(&listing),
            Tool::WalG => parse_wal_g(&listing),
        }
    }

    /// How much WAL the leader has written since the backup began; `None` where there is no leader to compare with.
    async fn written_since(&self, backup: &Backup) -> Result<Option<u64>, String> {
        if self.connstring.is_empty() {
            return Ok(None);
        }
        let mut attempt = 1;
        loop {
            match self.leader_position().await {
                Ok(position) => return Ok(Some(position.0.saturating_sub(backup.start.0))),
                Err(why) if attempt < LEADER_ATTEMPTS => tracing::warn!("{why}; trying again"),
                Err(why) if self.no_leader == 1 => {
                    tracing::warn!("{why}; restoring without it");
                    return Ok(None);
                }
                Err(why) => return Err(why),
            }
            attempt += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn leader_position(&self) -> Result<Lsn, String> {
        let version = self.ask_leader("SHOW server_version_num").await?;
        let version: u32 = version.parse().map_err(|_| format!("the leader says its version is {version:?}"))?;
        let (wal, lsn) = if version >= 100_000 { ("wal", "lsn") } else { ("xlog", "location") };
        let question = format!(
            "SELECT CASE WHEN pg_is_in_recovery() THEN GREATEST(pg_last_{wal}_receive_{lsn}()::text::pg_lsn, \
             pg_last_{wal}_replay_{lsn}()::text::pg_lsn) ELSE pg_current_{wal}_{lsn}()::text::pg_lsn END"
        );
        let answer = self.ask_leader(&question).await?;
        answer.parse().map_err(|_| format!("the leader says its position is {answer:?}"))
    }

    /// Through psql, which understands all that may stand in a connection string; the password comes from PGPASSFILE.
    async fn ask_leader(&self, question: &str) -> Result<String, String> {
        let mut command = Command::new("psql");
        command.args(["--no-psqlrc", "--no-align", "--tuples-only", "--no-password", "--quiet"]);
        command.arg(format!("--dbname={}", self.connstring)).args(["--command", question]);
        command.stdin(Stdio::null()).kill_on_drop(true);
        output("ask the leader", &mut command, QUESTION_MAX).await.map(|answer| answer.trim().to_owned())
    }

    fn is_worth_it(&self, backup: &Backup, written_bytes: u64) -> bool {
        let most = self.threshold_megabytes.saturating_mul(1 << 20);
        let share = u128::from(self.threshold_backup_size_percentage) * u128::from(backup.size_bytes) / 100;
        let worth = written_bytes < most && u128::from(written_bytes) < share;
        tracing::info!(
            "{written_bytes} bytes of WAL since the backup of {} bytes: {} (threshold_megabytes {}, \
             threshold_backup_size_percentage {})",
            backup.size_bytes,
            if worth { "restoring it" } else { "another method should be used" },
            self.threshold_megabytes,
            self.threshold_backup_size_percentage
        );
        worth
    }

    /// Takes as long as it takes.
    async fn fetch(&self) -> i32 {
        match self.command().arg("backup-fetch").arg(&self.datadir).arg("LATEST").status().await {
            Ok(status) => status.code().unwrap_or(LATER),
            Err(error) => {
                tracing::error!("cannot run envdir: {error}");
                LATER
            }
        }
    }
}

/// What a program prints, if it succeeds in time.
async fn output(what: &str, command: &mut Command, bound: Duration) -> Result<String, String> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let running = command.stderr(Stdio::inherit()).output();
    let finished = tokio::time::timeout(bound, running).await;
    let finished = finished.map_err(|_| format!("cannot {what}: {program} takes more than {} s", bound.as_secs()))?;
    let finished = finished.map_err(|error| format!("cannot {what}: cannot run {program}: {error}"))?;
    if !finished.status.success() {
        return Err(format!("cannot {what}: {program} ended with {}", finished.status));
    }
    Ok(String::from_utf8_lossy(&finished.stdout).into_owned())
}

/// A table with a line of names, separated by tabs; exactly one backup is expected.
fn parse_wal_e(listing: &str) -> Result<Option<Backup>, String> {
    let mut lines = listing.lines().filter(|line| !line.trim().is_empty()).map(|line| line.split('\t'));
    let Some(names) = lines.next() else { return Ok(None) };
    let names: Vec<&str> = names.map(str::trim).collect();
    let rows: Vec<Vec<&str>> = lines.map(|row| row.map(str::trim).collect()).collect();
    let [row] = &rows[..] else { return Ok(None) };
    let column = |name: &str| {
        let at = names.iter().position(|found| *found == name);
        at.and_then(|at| row.get(at)).ok_or_else(|| format!("the list of backups has no column {name}"))
    };
    let number = |name: &str| {
        let text = column(name)?;
        text.parse::<u64>().map_err(|_| format!("the list of backups: {name} {text:?}: expected a number"))
    };
    let segment = column("wal_segment_backup_start")?;
    let start = segment_start(segment).ok_or_else(|| {
        format!("the list of backups: wal_segment_backup_start {segment:?}: expected the name of a WAL segment")
    })?;
    let offset = number("wal_segment_offset_backup_start")?;
    Ok(Some(Backup { size_bytes: number("expanded_size_bytes")?, start: Lsn(start.0.saturating_add(offset)) }))
}

/// First position of a segment of 16 MB, from its name of 24 hexadecimal digits: timeline, high and low half.
fn segment_start(name: &str) -> Option<Lsn> {
    let digits = name.get(..24).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    let high = u64::from_str_radix(&digits[8..16], 16).ok()?;
    let low = u64::from_str_radix(&digits[16..24], 16).ok()?;
    Some(Lsn((high << 32) | (low.checked_mul(1 << 24).filter(|low| *low <= u64::from(u32::MAX))?)))
}

/// A JSON array of all backups; the one that began last counts.
fn parse_wal_g(listing: &str) -> Result<Option<Backup>, String> {
    let backups: Vec<serde_json::Value> =
        serde_json::from_str(listing.trim()).map_err(|error| format!("the list of backups cannot be read: {error}"))?;
    let number = |backup: &serde_json::Value, name: &str| backup.get(name).and_then(serde_json::Value::as_u64);
    let found = backups.iter().filter_map(|backup| {
        Some(Backup { size_bytes: number(backup, "uncompressed_size")?, start: Lsn(number(backup, "start_lsn")?) })
    });
    match found.max_by_key(|backup| backup.start) {
        None if !backups.is_empty() => Err("the list of backups has no start_lsn and uncompressed_size".to_owned()),
        latest => Ok(latest),
    }
}

/// A backup of a server whose WAL directory was a link brings the link: where it leads nowhere, a directory takes its place.
fn repair_wal_dir(data_dir: &Path) -> Result<(), String> {
    for name in ["pg_wal", "pg_xlog"] {
        let path = data_dir.join(name);
        let is_link = fs::symlink_metadata(&path).is_ok_and(|meta| meta.file_type().is_symlink());
        if is_link && !path.exists() {
            let repaired = fs::remove_file(&path).and_then(|()| fs::create_dir(&path));
            repaired.map_err(|error| format!("cannot replace the broken link {}: {error}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &str = "name\tlast_modified\texpanded_size_bytes\twal_segment_backup_start\twal_segment_offset_backup_start\twal_segment_backup_stop\twal_segment_offset_backup_stop";

    #[test]
    fn lists_of_wal_e() {
        let row = "base_1\t2030-01-01T00:00:00Z\t1000000\t00000001000000020000007F\t00000040\t00000001000000020000007F\t00000296";
        let expected = Backup { size_bytes: 1_000_000, start: Lsn(0x2_7F00_0028) };
        assert_eq!(parse_wal_e(&format!("{NAMES}\n{row}\n")), Ok(Some(expected)));
        assert_eq!(parse_wal_e(&format!("{NAMES}\n")), Ok(None));
        assert_eq!(parse_wal_e(""), Ok(None));
        assert_eq!(parse_wal_e(&format!("{NAMES}\n{row}\n{row}\n")), Ok(None), "one is expected");
        for broken in [row.replace("0000007F", "0000zz7F"), row.replace("1000000", "much"), "x\ty".to_owned()] {
            assert!(parse_wal_e(&format!("{NAMES}\n{broken}\n")).is_err(), "{broken}");
        }
    }

    #[test]
    fn lists_of_wal_g() {
        let backup = |start: u64| format!(r#"{{"backup_name": "b", "start_lsn": {start}, "uncompressed_size": 7}}"#);
        let list = format!("[{}, {}]", backup(100), backup(50));
        assert_eq!(parse_wal_g(&list), Ok(Some(Backup { size_bytes: 7, start: Lsn(100) })));
        assert_eq!(parse_wal_g("[]"), Ok(None));
        assert!(parse_wal_g("[{}]").is_err() && parse_wal_g("no backups").is_err());
    }

    #[test]
    fn both_thresholds_count() {
        let arguments = |more: &[&str]| {
            let all = ["p", "--scope=s", "--datadir=/d", "--connstring=host=x", "--envdir=/e"];
            Arguments::try_parse_from(all.iter().chain(more)).expect("arguments")
        };
        let backup = Backup { size_bytes: 100 << 20, start: Lsn(0) };
        for (more, written_mb, expected) in [
            (&["--threshold_megabytes=50"][..], 29, true),
            (&["--threshold_megabytes=50"][..], 30, false),
            (&["--threshold_megabytes=20"][..], 20, false),
            (&["--threshold_megabytes=20"][..], 19, true),
            (&["--threshold_backup_size_percentage=90"][..], 89, true),
        ] {
            assert_eq!(arguments(more).is_worth_it(&backup, written_mb << 20), expected, "{more:?} {written_mb}");
        }
    }

    #[test]
    fn a_broken_link_of_the_wal_directory_is_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let (broken, good) = (dir.path().join("pg_wal"), dir.path().join("pg_xlog"));
        std::os::unix::fs::symlink("/nowhere/at/all", &broken).expect("link");
        std::os::unix::fs::symlink(dir.path(), &good).expect("link");
        repair_wal_dir(dir.path()).expect("repaired");
        assert!(fs::symlink_metadata(&broken).expect("there").is_dir());
        assert!(fs::symlink_metadata(&good).expect("there").file_type().is_symlink());
    }
}
