//! Sections of the local configuration as the programs use them: parsed, defaults filled in.

use std::fmt;
use std::path::PathBuf;

use model::HostPort;
use serde_json::{Map, Value};

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text, for the one who needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A user name with its password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password.
    pub password: Secret,
}

/// When clients must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyClient {
    /// Never.
    None,
    /// For requests that change something.
    Optional,
    /// Always.
    Required,
}

/// What the `Server` header of answers tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerTokens {
    /// Everything.
    Original,
    /// Product and version.
    Minimal,
    /// Product.
    ProductOnly,
}

/// Section `restapi`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestApi {
    /// Where to listen; host `*` or nothing means every interface.
    pub listen: HostPort,
    /// Where others reach us.
    pub connect_address: HostPort,
    /// Asked of requests that change something.
    pub authentication: Option<Credentials>,
    /// PEM certificate, perhaps with its key; present: HTTPS.
    pub certfile: Option<PathBuf>,
    /// PEM private key.
    pub keyfile: Option<PathBuf>,
    /// Passphrase of `keyfile`.
    pub keyfile_password: Option<Secret>,
    /// PEM authorities for client certificates.
    pub cafile: Option<PathBuf>,
    /// Cipher suites in OpenSSL's notation.
    pub ciphers: Option<String>,
    /// When client certificates are checked.
    pub verify_client: VerifyClient,
    /// Addresses, networks and names that may change something; empty: all.
    pub allowlist: Vec<String>,
    /// Members of the cluster belong to the allow list.
    pub allowlist_include_members: bool,
    /// Headers of every answer.
    pub http_extra_headers: Vec<(String, String)>,
    /// Headers of every answer over HTTPS, in addition.
    pub https_extra_headers: Vec<(String, String)>,
    /// Backlog of the listening socket.
    pub request_queue_size: u32,
    /// What the `Server` header tells.
    pub server_tokens: ServerTokens,
}

impl RestApi {
    /// What is published as the member's `api_url`.
    pub fn url(&self) -> String {
        let scheme = if self.certfile.is_some() { "https" } else { "http" };
        format!("{scheme}://{}/patroni", self.connect_address)
    }
}

/// Section `ctl`: how REST APIs of others are spoken to. What is missing here is taken from `restapi`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ctl {
    /// Do not verify certificates.
    pub insecure: bool,
    /// PEM authorities.
    pub cacert: Option<PathBuf>,
    /// PEM client certificate.
    pub certfile: Option<PathBuf>,
    /// PEM private key.
    pub keyfile: Option<PathBuf>,
    /// Passphrase of `keyfile`.
    pub keyfile_password: Option<Secret>,
    /// Credentials to give.
    pub authentication: Option<Credentials>,
}

/// Whether a guard is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardMode {
    /// Not used.
    Off,
    /// Used where it works.
    Automatic,
    /// A node does not become primary without it.
    Required,
}

impl GuardMode {
    /// Reads a mode; booleans are what YAML makes of `on` and `off`.
    pub(crate) fn parse(value: &Value) -> Option<GuardMode> {
        match value {
            Value::Bool(false) => Some(GuardMode::Off),
            Value::Bool(true) => Some(GuardMode::Automatic),
            Value::String(text) => match text.to_ascii_lowercase().as_str() {
                "off" | "false" | "no" | "0" | "disable" | "disabled" => Some(GuardMode::Off),
                "automatic" | "auto" | "on" | "true" | "yes" | "1" => Some(GuardMode::Automatic),
                "required" | "require" => Some(GuardMode::Required),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Section `watchdog`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watchdog {
    /// Whether it is used.
    pub mode: GuardMode,
    /// The device.
    pub device: PathBuf,
    /// Seconds between the watchdog's timeout and the end of the lease; `None`: half of `ttl`.
    pub safety_margin_s: Option<u32>,
    /// `default`, or `testing` for a pipe in place of a device.
    pub driver: String,
}

/// Severity of log lines, by upstream's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// What happens.
    Info,
    /// What should be looked at.
    Warning,
    /// What failed.
    Error,
    /// What ends the program.
    Critical,
}

impl LogLevel {
    /// Reads a level's name, in any case.
    pub fn parse(text: &str) -> Option<LogLevel> {
        Some(match text.to_ascii_uppercase().as_str() {
            "DEBUG" => LogLevel::Debug,
            "INFO" => LogLevel::Info,
            "WARNING" | "WARN" => LogLevel::Warning,
            "ERROR" => LogLevel::Error,
            "CRITICAL" | "FATAL" => LogLevel::Critical,
            _ => return None,
        })
    }
}

/// Section `log`.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// One JSON object per line in place of plain text.
    pub json: bool,
    /// Least severe level that is logged.
    pub level: LogLevel,
    /// `log.format` as configured: text with `%(field)s`, or a list of fields.
    pub format: Value,
    /// strftime pattern; `None`: ISO-like with milliseconds.
    pub dateformat: Option<String>,
    /// Fields of every JSON line.
    pub static_fields: Map<String, Value>,
    /// Directory of `patroni.log`; `None`: standard error.
    pub dir: Option<PathBuf>,
    /// Permissions of the file.
    pub mode: Option<u32>,
    /// Rotated files that are kept.
    pub file_num: u32,
    /// Bytes after which the file is rotated.
    pub file_size_bytes: u64,
    /// Lines that may wait to be written.
    pub max_queue_size: usize,
    /// Levels of single loggers, by upstream's module names; unknown names are nobody's mistake.
    pub loggers: Vec<(String, LogLevel)>,
    /// Leave out repeated heartbeats.
    pub deduplicate_heartbeat_logs: bool,
}
