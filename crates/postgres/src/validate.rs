//! Parameters that this very server would refuse, found by asking it.
//!
//! One unknown name or value out of range in `postgresql.conf` keeps PostgreSQL from starting at all. So the file is
//! first read by `postgres -C`, which stops before it touches anything, and what it complains of is corrected: numbers
//! out of range are moved to the bound it names, the rest is left out.

use std::path::Path;
use std::time::Duration;

use crate::config::Binaries;
use crate::guc::Parameters;
use crate::process;
use crate::task::TaskHandle;

/// PostgreSQL reports unknown names before bad values, and all of each kind at once.
const ROUNDS_MAX: usize = 4;
const CHECK_MAX: Duration = Duration::from_secs(10);

/// A complaint of the server about one parameter.
#[derive(Debug, PartialEq, Eq)]
enum Complaint {
    /// Cannot be used.
    Refused(String),
    /// Outside its range; the nearest bound, in the parameter's own unit.
    OutOfRange(String, String),
}

/// Corrects `parameters` until the server accepts what `write` makes of them: the path of a complete configuration
/// file. Problems of other origin (files of the user that are included) are left for the start to report.
pub(crate) async fn correct(
    binaries: &Binaries,
    data_dir: &Path,
    parameters: &mut Parameters,
    write: impl Fn(&Parameters) -> Result<std::path::PathBuf, String>,
) -> Result<(), String> {
    for _ in 0..ROUNDS_MAX {
        let file = write(parameters)?;
        let mut command = process::command(&binaries.path("postgres"));
        let config_file = format!("--config-file={}", file.display());
        command.arg("-D").arg(data_dir).arg(config_file).args(["-c", "lc_messages=C", "-C", "data_directory"]);
        command.env("LC_ALL", "C");
        let task = TaskHandle::detached();
        let checked = tokio::time::timeout(CHECK_MAX, process::run(command, "postgres -C", &task)).await;
        let _ = std::fs::remove_file(&file);
        let Ok(Ok(finished)) = checked else { return Ok(()) };
        if finished.status.success() {
            return Ok(());
        }
        let mut corrected = false;
        for complaint in complaints(&finished.stderr) {
            corrected |= apply(&complaint, parameters);
        }
        if !corrected {
            return Ok(());
        }
    }
    Ok(())
}

fn apply(complaint: &Complaint, parameters: &mut Parameters) -> bool {
    let (Complaint::Refused(named) | Complaint::OutOfRange(named, _)) = complaint;
    // The server spells names its own way (`TimeZone`).
    let Some(name) = parameters.keys().find(|key| key.eq_ignore_ascii_case(named)).cloned() else { return false };
    match complaint {
        Complaint::Refused(_) => {
            let value = parameters.remove(&name).unwrap_or_default();
            tracing::warn!(
                "Removing unexpected parameter={name} value={value} from the config: this PostgreSQL refuses \
                 postgresql.parameters.{name}"
            );
            true
        }
        Complaint::OutOfRange(_, bound) => {
            let old = parameters.insert(name.clone(), bound.clone()).unwrap_or_default();
            if old != *bound {
                tracing::warn!("postgresql.parameters.{name} {old:?} is out of range; {bound} is used");
            }
            old != *bound
        }
    }
}

fn complaints(stderr: &str) -> Vec<Complaint> {
    stderr.lines().filter_map(complaint).collect()
}

fn complaint(line: &str) -> Option<Complaint> {
    let quoted = |after: &str| {
        let (_, rest) = line.split_once(after)?;
        rest.split_once('"').map(|(name, _)| name.to_owned())
    };
    if let Some(name) = quoted("outside the valid range for parameter \"") {
        let bound = (|| {
            let (before, after) = line.split_once(" is outside the valid range")?;
            let value = before.rsplit_once(":  ")?.1.split(' ').next()?.parse::<f64>().ok()?;
            let (least, most) = after.rsplit_once('(')?.1.trim_end().trim_end_matches(')').split_once(" .. ")?;
            let number = |text: &str| text.split(' ').next().map(str::to_owned);
            let least = number(least)?;
            if value < least.parse::<f64>().ok()? { Some(least) } else { number(most) }
        })();
        return Some(match bound {
            Some(bound) => Complaint::OutOfRange(name, bound),
            None => Complaint::Refused(name),
        });
    }
    ["unrecognized configuration parameter \"", "invalid value for parameter \"", "requires a Boolean value: \""]
        .into_iter()
        .find_map(quoted)
        .or_else(|| {
            let (before, _) = line.split_once("\" requires a ")?;
            before.rsplit_once("parameter \"").map(|(_, name)| name.to_owned())
        })
        .or_else(|| quoted("parameter \"").filter(|_| line.contains("cannot be ")))
        .map(Complaint::Refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_know_no_case() {
        let mut parameters = Parameters::from([("timezone".to_owned(), "Nowhere".to_owned())]);
        assert!(apply(&Complaint::Refused("TimeZone".to_owned()), &mut parameters));
        assert!(parameters.is_empty() && !apply(&Complaint::Refused("TimeZone".to_owned()), &mut parameters));
    }

    #[test]
    fn what_the_server_says() {
        let refused = |name: &str| Some(Complaint::Refused(name.to_owned()));
        let bound = |name: &str, bound: &str| Some(Complaint::OutOfRange(name.to_owned(), bound.to_owned()));
        for (line, expected) in [
            ("x LOG:  unrecognized configuration parameter \"foo\" in file \"/a\" line 2", refused("foo")),
            ("x LOG:  invalid value for parameter \"wal_level\": \"nope\"", refused("wal_level")),
            ("x LOG:  parameter \"fsync\" requires a Boolean value", refused("fsync")),
            (
                "2026-01-01 00:00:00.1 GMT [1] LOG:  1 kB is outside the valid range for parameter \"work_mem\" (64 kB .. 2147483647 kB)",
                bound("work_mem", "64"),
            ),
            ("x LOG:  999999 is outside the valid range for parameter \"p\" (1 .. 262143)", bound("p", "262143")),
            ("x FATAL:  configuration file \"/a\" contains errors", None),
        ] {
            assert_eq!(complaint(line), expected, "{line}");
        }
    }
}
