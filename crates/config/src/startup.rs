//! What must be right on this machine before a node starts. Nothing is changed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use serde_json::{Map, Value};

use crate::{ConfigError, LocalConfig, check, schema, tree};

impl LocalConfig {
    /// Refuses, with the first thing that is wrong, a configuration with which this node could not run.
    pub fn check_startup(&self) -> Result<(), ConfigError> {
        self.name()?;
        self.scope()?;
        self.namespace()?;
        let (store, _) = self.store()?;
        self.check_section(store)?;
        for section in ["restapi", "postgresql", "postgresql.authentication", "postgresql.authentication.replication"] {
            self.section(section)?;
        }
        if let Some(problem) = check::missing(&self.tree, false).into_iter().next() {
            let expected = problem.what.trim_start_matches("is not defined: expected ").to_owned();
            return Err(ConfigError::Missing { path: problem.path, expected });
        }
        self.restapi()?;
        self.ctl()?;
        self.bootstrap()?;
        self.watchdog()?;
        self.sentinel_mode()?;
        self.log()?;
        self.check_postgresql()
    }

    /// Refuses values of a section that are not what the table says.
    fn check_section(&self, section: &str) -> Result<(), ConfigError> {
        for key in self.section(section)?.keys() {
            self.check_value(&format!("{section}.{key}"))?;
        }
        Ok(())
    }

    fn check_value(&self, path: &str) -> Result<(), ConfigError> {
        if let (Some(value), Some(setting)) = (self.get(path), schema::find(path))
            && let Some(expected) = setting.kind.complaint(value)
        {
            return Err(ConfigError::Invalid { path: path.to_owned(), value: check::shown(path, value), expected });
        }
        Ok(())
    }

    fn check_postgresql(&self) -> Result<(), ConfigError> {
        let section = self.effective_postgresql(&Map::new());
        for key in ["listen", "connect_address", "proxy_address", "parameters", "pg_hba", "pg_ident"] {
            self.check_value(&format!("postgresql.{key}"))?;
        }
        if tree::get(&section, "authentication.replication.username").is_none() {
            return Err(ConfigError::missing(
                "postgresql.authentication.replication.username",
                "the role that replicas connect with",
            ));
        }
        check_data_dir(&self.data_dir()?)?;
        let bin_dir = section.get("bin_dir").and_then(Value::as_str).unwrap_or_default();
        let program = tree::get(&section, "bin_name.postgres").and_then(Value::as_str).unwrap_or("postgres");
        if find_program(bin_dir, program).is_none() {
            return Err(ConfigError::Machine(match bin_dir {
                "" => format!("cannot find the program {program} in PATH; set postgresql.bin_dir to its directory"),
                bin_dir => format!("cannot find the program {program} in postgresql.bin_dir {bin_dir}"),
            }));
        }
        Ok(())
    }
}

/// The data directory exists and is ours, or can be made.
fn check_data_dir(data_dir: &Path) -> Result<(), ConfigError> {
    let refuse = |reason: String| {
        Err(ConfigError::Machine(format!("postgresql.data_dir {} cannot be used: {reason}", data_dir.display())))
    };
    match fs::metadata(data_dir) {
        Ok(metadata) if !metadata.is_dir() => refuse("it is not a directory".to_owned()),
        Ok(metadata) if metadata.uid() != rustix::process::geteuid().as_raw() => refuse(format!(
            "it belongs to user id {}, and this program runs as user id {}",
            metadata.uid(),
            rustix::process::geteuid().as_raw()
        )),
        Ok(_) => match access(data_dir, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK) {
            Ok(()) => Ok(()),
            Err(error) => refuse(error.to_string()),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let Some(parent) = data_dir.ancestors().skip(1).find(|path| path.exists()) else {
                return refuse("no directory above it exists".to_owned());
            };
            if !parent.is_dir() {
                return refuse(format!("{} is not a directory", parent.display()));
            }
            match access(parent, Access::WRITE_OK | Access::EXEC_OK) {
                Ok(()) => Ok(()),
                Err(error) => refuse(format!("it does not exist and cannot be made in {}: {error}", parent.display())),
            }
        }
        Err(error) => refuse(error.to_string()),
    }
}

/// The path of an executable in `bin_dir`, or in `PATH` where that is empty.
pub(crate) fn find_program(bin_dir: &str, name: &str) -> Option<PathBuf> {
    let directories = match bin_dir {
        "" => std::env::split_paths(&std::env::var_os("PATH")?).collect(),
        bin_dir => vec![PathBuf::from(bin_dir)],
    };
    directories
        .into_iter()
        .map(|directory| directory.join(name))
        .find(|path| path.is_file() && access(path, Access::EXEC_OK).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A configuration that could start, with programs in a directory of its own, after `edit`.
    fn sentence(edit: impl FnOnce(&mut Map<String, Value>, &Path)) -> String {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let bin_dir = dir.path().join("bin");
        fs::create_dir(&bin_dir).expect("a directory");
        fs::write(bin_dir.join("postgres"), "").expect("written");
        fs::set_permissions(bin_dir.join("postgres"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("set");
        let tree = json!({
            "name": "n", "scope": "s", "etcd3": {"host": "h"}, "restapi": {"listen": "127.0.0.1:8008"},
            "postgresql": {
                "listen": "127.0.0.1:5432", "data_dir": dir.path().join("data/x"), "bin_dir": bin_dir,
                "authentication": {"replication": {"username": "r"}},
            },
        });
        let mut tree = tree.as_object().expect("an object").clone();
        edit(&mut tree, dir.path());
        let checked = LocalConfig::from_tree(tree).check_startup();
        let text = checked.map_or_else(|error| error.to_string(), |()| "ok".to_owned());
        text.replace(&dir.path().display().to_string(), "DIR")
    }

    fn with(path: &str, value: Value) -> String {
        sentence(|tree, _| tree::set(tree, path, value))
    }

    #[test]
    fn a_complete_configuration_may_start() {
        assert_eq!(sentence(|_, _| ()), "ok");
        assert_eq!(with("postgresql.data_dir", json!("data/postgresql0")), "ok");
    }

    #[test]
    fn each_failure_is_one_sentence() {
        for (path, value, expected) in [
            ("name", json!(null), "name is not defined: expected the unique name of this node in the cluster"),
            (
                "name",
                json!("__patroni_strict_sync_replica_placeholder__"),
                "name __patroni_strict_sync_replica_placeholder__ is not valid: expected another name: this one is reserved",
            ),
            ("name", json!("a/b"), "name a/b is not valid: expected a name without slashes"),
            ("scope", json!(null), "scope is not defined: expected the name of the cluster"),
            ("scope", json!(["a"]), "scope a list is not valid: expected text"),
            ("restapi", json!(null), "restapi is not defined: expected a mapping"),
            ("restapi.listen", json!("a:99999"), "restapi.listen a:99999 is not valid: expected host:port"),
            (
                "restapi.authentication",
                json!({"username": "u"}),
                "restapi.authentication.password is not defined: expected the password for username",
            ),
            (
                "restapi.verify_client",
                json!("x"),
                "restapi.verify_client x is not valid: expected none, optional or required",
            ),
            (
                "restapi.request_queue_size",
                json!(-1),
                "restapi.request_queue_size -1 is not valid: expected a whole number from 0 to 4096",
            ),
            (
                "consul",
                json!({"host": "h"}),
                "section consul names a distributed configuration store that is not supported yet: expected etcd3",
            ),
            ("etcd3.host", json!("not a host"), "etcd3.host not a host is not valid: expected host:port"),
            ("etcd3.password", json!(5), "etcd3.password *** is not valid: expected text"),
            ("postgresql", json!("x"), "postgresql x is not valid: expected a mapping"),
            (
                "postgresql.authentication",
                json!({"replication": {"password": "p"}}),
                "postgresql.authentication.replication.username is not defined: expected the role that replicas connect with",
            ),
            (
                "postgresql.authentication",
                json!("secret"),
                "postgresql.authentication *** is not valid: expected a mapping",
            ),
            ("postgresql.parameters", json!(["a"]), "postgresql.parameters a list is not valid: expected a mapping"),
            (
                "postgresql.data_dir",
                json!("/dev/null/x"),
                "postgresql.data_dir /dev/null/x cannot be used: Not a directory (os error 20)",
            ),
            (
                "postgresql.data_dir",
                json!("/dev/null"),
                "postgresql.data_dir /dev/null cannot be used: it is not a directory",
            ),
            (
                "postgresql.bin_dir",
                json!("/nonexistent"),
                "cannot find the program postgres in postgresql.bin_dir /nonexistent",
            ),
            ("sentinel.mode", json!("maybe"), "sentinel.mode maybe is not valid: expected automatic, off or required"),
            (
                "log.level",
                json!("LOUD"),
                "log.level LOUD is not valid: expected DEBUG, INFO, WARNING, WARN, ERROR, CRITICAL or FATAL",
            ),
        ] {
            assert_eq!(with(path, value.clone()), expected, "{path} {value}");
        }
        // Root may write everywhere.
        if !rustix::process::geteuid().is_root() {
            assert_eq!(
                with("postgresql.data_dir", json!("/proc/x/y")),
                "postgresql.data_dir /proc/x/y cannot be used: it does not exist and cannot be made in /proc: Permission \
                 denied (os error 13)"
            );
        }
        let no_store = sentence(|tree, _| {
            tree.remove("etcd3");
        });
        assert_eq!(no_store, "no distributed configuration store is configured: expected a section named etcd3");
    }
}
