//! Asking a running server about itself, for `--generate-config`.
//!
//! The question goes through `psql`, so that connections are made exactly as libpq makes them: environment, service and
//! password files, TLS, Kerberos, and a prompt for the password where a person sits. Passwords travel in the environment,
//! never among the arguments.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use config::adopt::{Server, parameters_to_ask};
use model::libpq::{self, Keywords};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Keywords of libpq and the variables that stand for them (PostgreSQL documentation, 34.15).
const VARIABLES: &[(&str, &str)] = &[
    ("application_name", "PGAPPNAME"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("client_encoding", "PGCLIENTENCODING"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("dbname", "PGDATABASE"),
    ("gssencmode", "PGGSSENCMODE"),
    ("gsslib", "PGGSSLIB"),
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("krbsrvname", "PGKRBSRVNAME"),
    ("options", "PGOPTIONS"),
    ("passfile", "PGPASSFILE"),
    ("password", "PGPASSWORD"),
    ("port", "PGPORT"),
    ("requirepeer", "PGREQUIREPEER"),
    ("service", "PGSERVICE"),
    ("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    ("sslcert", "PGSSLCERT"),
    ("sslcompression", "PGSSLCOMPRESSION"),
    ("sslcrl", "PGSSLCRL"),
    ("sslcrldir", "PGSSLCRLDIR"),
    ("sslkey", "PGSSLKEY"),
    ("sslmode", "PGSSLMODE"),
    ("sslnegotiation", "PGSSLNEGOTIATION"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslsni", "PGSSLSNI"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("user", "PGUSER"),
];
/// Seconds that a connection may take, unless the caller says otherwise.
const CONNECT_TIMEOUT_S: &str = "10";
/// Largest file of access rules that is read.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What the server answers to [`question`].
#[derive(Deserialize)]
struct Answer {
    version: u32,
    superuser: bool,
    checksums: bool,
    user: String,
    parameters: Map<String, Value>,
}

/// The server that `dsn` and the `PG*` variables lead to, and how it was reached.
pub fn ask(dsn: Option<&str>) -> Result<(Server, Keywords), String> {
    let connection = connection(dsn)?;
    let answer = answer(&connection)?;
    if !answer.superuser {
        return Err(format!("cannot read all settings of the server: the role {} is not a superuser", answer.user));
    }
    let parameters = answer.parameters.into_iter().filter_map(|(name, value)| Some((name, value.as_str()?.to_owned())));
    let mut server = Server {
        version: answer.version,
        user: answer.user,
        parameters: parameters.collect(),
        checksums: answer.checksums,
        ..Server::default()
    };
    let file = |name: &str| server.parameters.get(name).map(PathBuf::from).unwrap_or_default();
    let (data_dir, hba, ident) = (file("data_directory"), file("hba_file"), file("ident_file"));
    server.bin_dir = bin_dir(&data_dir)?;
    server.hba = Some(read(&hba)?);
    server.ident = Some(read(&ident)?);
    Ok((server, connection))
}

/// Keywords of the DSN, and of the environment what they leave open.
fn connection(dsn: Option<&str>) -> Result<Keywords, String> {
    let mut keywords = match dsn {
        Some(text) => libpq::parse(text).map_err(|error| format!("--dsn: {error}"))?,
        None => Keywords::new(),
    };
    if let Some(unknown) = keywords.keys().find(|key| VARIABLES.iter().all(|(keyword, _)| keyword != key)) {
        return Err(format!("--dsn: the connection parameter {unknown} cannot be used here"));
    }
    for (keyword, variable) in VARIABLES {
        if let Some(value) = std::env::var(variable).ok().filter(|value| !value.is_empty()) {
            keywords.entry((*keyword).to_owned()).or_insert(value);
        }
    }
    Ok(keywords)
}

fn answer(connection: &Keywords) -> Result<Answer, String> {
    let mut command = Command::new(psql());
    command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", &question()]);
    command.env("PGCONNECT_TIMEOUT", CONNECT_TIMEOUT_S).env("PGAPPNAME", "Patroni config generator");
    for (keyword, variable) in VARIABLES {
        if let Some(value) = connection.get(*keyword) {
            command.env(variable, value);
        }
    }
    if !connection.contains_key("dbname") && !connection.contains_key("service") {
        command.env("PGDATABASE", "postgres");
    }
    // Its prompt for a password, where there is a terminal, goes around these streams.
    let output = command
        .stdin(Stdio::inherit())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| format!("cannot run {}: {error}", command.get_program().to_string_lossy()))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        let reason: Vec<&str> = reason.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        return Err(format!("cannot ask the running server: {}", reason.join("; ")));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("the server's answer cannot be read: {error}"))
}

/// `psql` of the configured programs if they have one, else that of the search path.
fn psql() -> PathBuf {
    let configured = std::env::var_os("PATRONI_POSTGRESQL_BIN_DIR").map(|dir| Path::new(&dir).join("psql"));
    configured.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from("psql"))
}

/// Settings that somebody has made, and those that the configuration of a node always needs.
fn question() -> String {
    let names = parameters_to_ask().iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
    format!(
        "SELECT pg_catalog.json_build_object(
            'version', pg_catalog.current_setting('server_version_num')::integer,
            'superuser', pg_catalog.current_setting('is_superuser')::boolean,
            'checksums', pg_catalog.current_setting('data_checksums')::boolean,
            'user', session_user,
            'parameters', pg_catalog.json_object_agg(name, pg_catalog.current_setting(name)))
        FROM pg_catalog.pg_settings
        WHERE name IN ({names})
           OR context <> 'internal' AND setting <> '(disabled)'
              AND source IN ('configuration file', 'command line', 'environment variable')
              AND category <> 'Write-Ahead Log / Recovery Target'"
    )
}

/// Directory of the program that runs as the postmaster of these data.
fn bin_dir(data_dir: &Path) -> Result<PathBuf, String> {
    let file = data_dir.join("postmaster.pid");
    let pid = read(&file)?;
    let pid: u32 = pid
        .lines()
        .next()
        .and_then(|line| line.trim().parse().ok())
        .ok_or_else(|| format!("{} names no process: expected its number in the first line", file.display()))?;
    let program = fs::read_link(format!("/proc/{pid}/exe"))
        .map_err(|error| format!("cannot find the program of the postmaster, process {pid}: {error}"))?;
    Ok(program.parent().unwrap_or(Path::new("/")).to_owned())
}

fn read(path: &Path) -> Result<String, String> {
    let sentence = |reason: String| format!("cannot read {}: {reason}", path.display());
    let size = fs::metadata(path).map_err(|error| sentence(error.to_string()))?.len();
    if size > FILE_BYTES_MAX {
        return Err(sentence(format!("{size} bytes are more than the {FILE_BYTES_MAX} that are read")));
    }
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .map_err(|error| sentence(error.to_string()))
}
