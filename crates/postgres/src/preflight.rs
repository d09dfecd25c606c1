//! What is wrong before anything is tried, in one sentence each.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::Access;

use crate::config::PgConfig;
use crate::layout;

/// Programs that must be there.
const PROGRAMS: [&str; 6] = ["postgres", "initdb", "pg_ctl", "pg_controldata", "pg_basebackup", "pg_isready"];

/// Checks the surroundings when the agent starts: user, programs, data directory.
pub fn preflight(config: &PgConfig) -> Result<(), String> {
    not_root()?;
    programs(config)?;
    data_directory(&config.data_dir)
}

/// Checks that can change between two starts.
pub(crate) fn before_start(config: &PgConfig, version: u32) -> Result<(), String> {
    not_root()?;
    data_directory(&config.data_dir)?;
    binary_version(config, version)?;
    ports(config)
}

fn not_root() -> Result<(), String> {
    if rustix::process::geteuid().is_root() {
        return Err("PostgreSQL refuses to run as root: run this program as the user that owns the data directory, \
                    usually postgres"
            .to_owned());
    }
    Ok(())
}

fn programs(config: &PgConfig) -> Result<(), String> {
    let is_there = |program: &str| {
        let path = config.binaries.path(program);
        if path.components().count() > 1 {
            return path.is_file();
        }
        let search = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&search).any(|dir| dir.join(&path).is_file())
    };
    let named = |program: &'static str| config.binaries.names.get(program).map_or(program, String::as_str);
    let missing: Vec<&str> = PROGRAMS.into_iter().filter(|program| !is_there(program)).map(named).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let place = match &config.binaries.dir {
        Some(dir) => format!("postgresql.bin_dir {}", dir.display()),
        None => "the search path (postgresql.bin_dir is not set)".to_owned(),
    };
    Err(format!("{} not found in {place}: expected the directory of PostgreSQL's programs", missing.join(", ")))
}

/// Owner, permissions, and a parent to create it in.
fn data_directory(data_dir: &Path) -> Result<(), String> {
    let name = data_dir.display();
    let meta = match fs::metadata(data_dir) {
        Ok(meta) => meta,
        Err(error) if error.kind() == ErrorKind::NotFound => return creatable(data_dir),
        Err(error) => return Err(format!("cannot look at postgresql.data_dir {name}: {error}")),
    };
    if !meta.is_dir() {
        return Err(format!("postgresql.data_dir {name} is not a directory"));
    }
    let me = rustix::process::geteuid().as_raw();
    if meta.uid() != me {
        return Err(format!(
            "postgresql.data_dir {name} belongs to user id {}, this program runs as {me}: PostgreSQL starts only as the owner",
            meta.uid()
        ));
    }
    // A file system that is mounted read-only, or was made so by the kernel after an error.
    rustix::fs::access(data_dir, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|error| format!("postgresql.data_dir {name} cannot be read and written: {error}"))?;
    let mode = meta.permissions().mode() & 0o777;
    // An empty directory is given the right permissions by initdb or a copy.
    let used = data_dir.join("PG_VERSION").exists();
    if used && mode & 0o027 != 0 {
        return Err(format!("postgresql.data_dir {name} has permissions {mode:04o}: PostgreSQL expects 0700 or 0750"));
    }
    Ok(())
}

fn creatable(data_dir: &Path) -> Result<(), String> {
    let Some(parent) = data_dir.parent() else { return Ok(()) };
    if !parent.is_dir() {
        return Err(format!(
            "postgresql.data_dir {} cannot be created: {} does not exist",
            data_dir.display(),
            parent.display()
        ));
    }
    rustix::fs::access(parent, Access::WRITE_OK).map_err(|error| {
        format!("postgresql.data_dir {} cannot be created in {}: {error}", data_dir.display(), parent.display())
    })
}

fn binary_version(config: &PgConfig, version: u32) -> Result<(), String> {
    // Where the version of the program cannot be had, the start will say what is wrong.
    let output = std::process::Command::new(config.binaries.path("postgres")).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    match layout::parse_major(&text) {
        Some(binary) if binary != version => Err(format!(
            "{} was made by PostgreSQL {}, and {} is {}: the data directory must be upgraded, or postgresql.bin_dir set",
            config.data_dir.display(),
            major_text(version),
            config.binaries.path("postgres").display(),
            major_text(binary)
        )),
        _ => Ok(()),
    }
}

fn major_text(version: u32) -> String {
    if version >= 100_000 {
        (version / 10_000).to_string()
    } else {
        format!("{}.{}", version / 10_000, version / 100 % 100)
    }
}

pub(crate) fn ports(config: &PgConfig) -> Result<(), String> {
    let port = config.listen.port;
    for host in &config.listen.hosts {
        let address = if host == "*" { "0.0.0.0" } else { host };
        if let Err(error) = TcpListener::bind((address, port))
            && error.kind() == ErrorKind::AddrInUse
        {
            return Err(format!("postgresql.listen {host}:{port}: the port is in use by another program"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, json};

    fn config(data_dir: &Path, bin_dir: &Path, port: u16) -> PgConfig {
        let section = json!({
            "listen": format!("127.0.0.1:{port}"), "data_dir": data_dir, "bin_dir": bin_dir,
            "authentication": {"replication": {"username": "r"}},
        });
        PgConfig::from_section(&section.as_object().cloned().unwrap_or_default(), &Map::new(), "n", "demo")
            .expect("valid")
    }

    #[test]
    fn each_problem_is_one_sentence() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let error = |result: Result<(), String>| result.expect_err("a problem");
        let missing = config(&dir.path().join("a/b"), dir.path(), 1);
        assert!(error(data_directory(&missing.data_dir)).contains("a does not exist"));
        assert!(error(programs(&missing)).contains("postgres, initdb, pg_ctl"), "{}", error(programs(&missing)));
        fs::write(dir.path().join("file"), "").expect("write");
        assert!(error(data_directory(&dir.path().join("file"))).ends_with("is not a directory"));

        let data = dir.path().join("data");
        fs::create_dir(&data).expect("mkdir");
        fs::write(data.join("PG_VERSION"), "15").expect("write");
        fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).expect("chmod");
        assert!(error(data_directory(&data)).contains("has permissions 0755"));
        fs::set_permissions(&data, fs::Permissions::from_mode(0o750)).expect("chmod");
        assert_eq!(data_directory(&data), Ok(()));

        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("address").port();
        assert!(error(ports(&config(&data, dir.path(), port))).ends_with("the port is in use by another program"));
    }
}
