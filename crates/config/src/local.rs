//! The configuration of this node, and typed access to its parts.

use std::fmt;
use std::path::{Path, PathBuf};

use model::units::{Base, bool_of, int_of};
use model::{HostPort, Tags};
use serde_json::{Map, Value};

use crate::check::{self, Findings, shown};
use crate::sections::{
    Credentials, Ctl, GuardMode, Log, LogLevel, RestApi, Secret, ServerTokens, VerifyClient, Watchdog,
};
use crate::source::{self, Source};
use crate::{ConfigError, legacy, schema, stores, tree, yaml};

/// A name that means "nobody" in the state of synchronous replication.
const RESERVED_NAME: &str = model::standby_names::PLACEHOLDER;

/// The local configuration: files and environment merged, without nulls.
#[derive(Clone, PartialEq)]
pub struct LocalConfig {
    /// The merged tree.
    pub tree: Map<String, Value>,
    source: Source,
    notes: Vec<String>,
}

impl fmt::Debug for LocalConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalConfig").field("source", &self.source).field("tree", &self.redacted()).finish()
    }
}

impl LocalConfig {
    pub(crate) fn new(tree: Map<String, Value>, source: Source, notes: Vec<String>) -> LocalConfig {
        LocalConfig { tree, source, notes }
    }

    /// A configuration from a tree that is at hand.
    pub fn from_tree(mut tree: Map<String, Value>) -> LocalConfig {
        let notes = legacy::modernise(&mut tree);
        LocalConfig::new(tree, Source::Variable, notes)
    }

    /// Where it was read from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Reads the same source again. A file that is gone is an error here: the environment alone would be another
    /// configuration.
    pub fn reload(&self) -> Result<LocalConfig, ConfigError> {
        match &self.source {
            Source::Path(path) => match std::fs::metadata(path) {
                Ok(_) => source::load(Some(path)),
                Err(error) => Err(ConfigError::Read { path: path.clone(), error }),
            },
            Source::Variable | Source::Environment => source::load(None),
        }
    }

    /// What an operator should hear about at start: variables that were ignored, keys that are not known, values that
    /// do not fit.
    pub fn warnings(&self) -> Vec<String> {
        let Findings { unknown, problems } = check::check(&self.tree);
        let problems = problems.iter().map(check::Problem::to_string);
        self.notes.iter().cloned().chain(unknown).chain(problems).collect()
    }

    /// The tree with `***` in place of secrets.
    pub fn redacted(&self) -> Map<String, Value> {
        redact("", &self.tree)
    }

    /// The value at a dotted path; null counts as absent.
    pub fn get(&self, path: &str) -> Option<&Value> {
        tree::get(&self.tree, path)
    }

    /// The node's unique name.
    pub fn name(&self) -> Result<String, ConfigError> {
        let Some(name) = self.text("name")? else {
            return Err(ConfigError::missing("name", "the unique name of this node in the cluster"));
        };
        let invalid = |expected: &str| self.invalid("name", expected);
        match name.as_str() {
            RESERVED_NAME => Err(invalid("another name: this one is reserved")),
            name if name.is_empty() || name.contains('/') => Err(invalid("a name without slashes")),
            _ => Ok(name),
        }
    }

    /// The name of the cluster.
    pub fn scope(&self) -> Result<String, ConfigError> {
        match self.text("scope")? {
            Some(scope) if scope.is_empty() || scope.contains('/') => {
                Err(self.invalid("scope", "a name without slashes"))
            }
            Some(scope) => Ok(scope),
            None => Err(ConfigError::missing("scope", "the name of the cluster")),
        }
    }

    /// The path under which clusters are kept in the store; see [`model::key::cluster_prefix`].
    pub fn namespace(&self) -> Result<String, ConfigError> {
        self.text_or_default("namespace")
    }

    /// Name and section of the store. Of several sections the first in the order of [`stores::KNOWN`] counts.
    pub fn store(&self) -> Result<(&'static str, Map<String, Value>), ConfigError> {
        let found = stores::KNOWN.iter().find(|store| self.tree.contains_key(store.name));
        let store = found.ok_or_else(|| ConfigError::NoStore { supported: stores::supported() })?;
        if !store.supported {
            return Err(ConfigError::UnsupportedStore { name: store.name.to_owned(), supported: stores::supported() });
        }
        Ok((store.name, self.section(store.name)?))
    }

    /// Section `restapi`.
    pub fn restapi(&self) -> Result<RestApi, ConfigError> {
        let listen = self
            .address("restapi.listen", 8008)?
            .ok_or_else(|| ConfigError::missing("restapi.listen", "host:port of the REST API"))?;
        let connect_address = self.address("restapi.connect_address", listen.port)?;
        Ok(RestApi {
            connect_address: connect_address.unwrap_or_else(|| listen.clone()),
            listen,
            authentication: self.credentials("restapi.authentication")?,
            certfile: self.path("restapi.certfile")?,
            keyfile: self.path("restapi.keyfile")?,
            keyfile_password: self.text("restapi.keyfile_password")?.map(Secret::new),
            cafile: self.path("restapi.cafile")?,
            ciphers: self.text("restapi.ciphers")?,
            verify_client: match self.word("restapi.verify_client")?.as_str() {
                "required" => VerifyClient::Required,
                "optional" => VerifyClient::Optional,
                _ => VerifyClient::None,
            },
            allowlist: self.texts("restapi.allowlist")?,
            allowlist_include_members: self.flag("restapi.allowlist_include_members")?,
            http_extra_headers: self.headers("restapi.http_extra_headers")?,
            https_extra_headers: self.headers("restapi.https_extra_headers")?,
            request_queue_size: self.int("restapi.request_queue_size")? as u32,
            server_tokens: match self.word("restapi.server_tokens")?.as_str() {
                "productonly" => ServerTokens::ProductOnly,
                "minimal" => ServerTokens::Minimal,
                _ => ServerTokens::Original,
            },
        })
    }

    /// Section `ctl`, completed from `restapi`.
    pub fn ctl(&self) -> Result<Ctl, ConfigError> {
        let authentication = self.credentials("ctl.authentication")?;
        let cacert = self.path("ctl.cacert")?;
        Ok(Ctl {
            insecure: self.flag("ctl.insecure")?,
            cacert: if cacert.is_some() { cacert } else { self.path("restapi.cafile")? },
            certfile: self.path("ctl.certfile")?,
            keyfile: self.path("ctl.keyfile")?,
            keyfile_password: self.text("ctl.keyfile_password")?.map(Secret::new),
            authentication: match authentication {
                None => self.credentials("restapi.authentication")?,
                some => some,
            },
        })
    }

    /// Tags as configured.
    pub fn tags(&self) -> Tags {
        Tags(self.get("tags").and_then(Value::as_object).cloned().unwrap_or_default())
    }

    /// Section `bootstrap`; `None` where there is none: such a node never initialises a cluster.
    pub fn bootstrap(&self) -> Result<Option<Map<String, Value>>, ConfigError> {
        self.tree.get("bootstrap").map(|_| self.section("bootstrap")).transpose()
    }

    /// The dynamic configuration of a new cluster. With Citus, synchronous mode is `quorum` unless it says otherwise.
    pub fn bootstrap_dcs(&self) -> Map<String, Value> {
        let mut dcs = self.get("bootstrap.dcs").and_then(Value::as_object).cloned().unwrap_or_default();
        if self.citus().is_some() && !dcs.contains_key("synchronous_mode") {
            dcs.insert("synchronous_mode".to_owned(), "quorum".into());
        }
        dcs
    }

    /// The dynamic configuration to begin with: the store's if there is one, else the one this node saw last, else the
    /// one for a new cluster.
    pub fn dynamic_at_start(
        &self,
        stored: Option<Map<String, Value>>,
        cached: Option<Map<String, Value>>,
    ) -> Map<String, Value> {
        let known = [stored, cached].into_iter().flatten().find(|config| !config.is_empty());
        known.unwrap_or_else(|| self.bootstrap_dcs())
    }

    /// Section `citus` where it is usable: `group` a number, `database` text.
    pub fn citus(&self) -> Option<&Map<String, Value>> {
        let citus = self.get("citus")?.as_object()?;
        let usable = citus.get("group").and_then(|group| int_of(group, Base::Plain)).is_some()
            && citus.get("database").is_some_and(Value::is_string);
        usable.then_some(citus)
    }

    /// Section `watchdog`. An unknown mode means off, as upstream has it; [`LocalConfig::warnings`] names it.
    pub fn watchdog(&self) -> Result<Watchdog, ConfigError> {
        let mode = self.get("watchdog.mode").map_or(Some(GuardMode::Automatic), GuardMode::parse);
        Ok(Watchdog {
            mode: mode.unwrap_or(GuardMode::Off),
            device: self.text_or_default("watchdog.device")?.into(),
            safety_margin_s: u32::try_from(self.int("watchdog.safety_margin")?).ok(),
            driver: self.text_or_default("watchdog.driver")?,
        })
    }

    /// `sentinel.mode`: whether a separate process ends PostgreSQL when the agent hangs.
    pub fn sentinel_mode(&self) -> Result<GuardMode, ConfigError> {
        let Some(mode) = self.get("sentinel.mode") else { return Ok(GuardMode::Automatic) };
        GuardMode::parse(mode).ok_or_else(|| self.invalid("sentinel.mode", "automatic, off or required"))
    }

    /// Section `log`.
    pub fn log(&self) -> Result<Log, ConfigError> {
        let level = self.text_or_default("log.level")?;
        let loggers = self.section("log.loggers")?;
        Ok(Log {
            json: self.word("log.type")? == "json",
            level: LogLevel::parse(&level).ok_or_else(|| self.unfit("log.level"))?,
            format: self.get("log.format").cloned().unwrap_or_else(|| default("log.format")),
            dateformat: self.text("log.dateformat")?,
            static_fields: self.section("log.static_fields")?,
            dir: self.path("log.dir")?,
            mode: match self.get("log.mode") {
                Some(_) => Some(self.int("log.mode")? as u32),
                None => None,
            },
            file_num: self.int("log.file_num")?.min(i64::from(u32::MAX)) as u32,
            file_size_bytes: self.int("log.file_size")? as u64,
            max_queue_size: self.int("log.max_queue_size")? as usize,
            loggers: loggers
                .iter()
                .filter_map(|(name, level)| Some((name.clone(), LogLevel::parse(level.as_str()?)?)))
                .collect(),
            deduplicate_heartbeat_logs: self.flag("log.deduplicate_heartbeat_logs")?,
        })
    }

    /// The data directory, absolute: relative paths count from the directory the program was started in.
    pub fn data_dir(&self) -> Result<PathBuf, ConfigError> {
        match self.path("postgresql.data_dir")? {
            Some(path) => absolute(&path),
            None => Err(ConfigError::missing("postgresql.data_dir", "the path of the data directory")),
        }
    }

    /// A mapping, empty where there is none.
    pub(crate) fn section(&self, path: &str) -> Result<Map<String, Value>, ConfigError> {
        match self.get(path) {
            None => Ok(Map::new()),
            Some(Value::Object(map)) => Ok(map.clone()),
            Some(_) => Err(self.invalid(path, "a mapping")),
        }
    }

    fn invalid(&self, path: &str, expected: &str) -> ConfigError {
        let value = self.get(path).map(|value| shown(path, value)).unwrap_or_default();
        ConfigError::Invalid { path: path.to_owned(), value, expected: expected.to_owned() }
    }

    /// The value is not what the table says.
    fn unfit(&self, path: &str) -> ConfigError {
        self.invalid(path, &schema::find(path).map_or_else(String::new, |setting| setting.kind.expected()))
    }

    /// Text; numbers and flags that were not quoted are read as they would be printed.
    fn text(&self, path: &str) -> Result<Option<String>, ConfigError> {
        match self.get(path) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(Some(value.to_string())),
            Some(_) => Err(self.invalid(path, "text")),
        }
    }

    fn text_or_default(&self, path: &str) -> Result<String, ConfigError> {
        Ok(self.text(path)?.unwrap_or_else(|| default(path).as_str().unwrap_or_default().to_owned()))
    }

    /// One of the words that the table lists, in lower case.
    fn word(&self, path: &str) -> Result<String, ConfigError> {
        let word = self.text_or_default(path)?;
        match schema::find(path).and_then(|setting| setting.kind.complaint(&Value::String(word.clone()))) {
            Some(expected) => Err(self.invalid(path, &expected)),
            None => Ok(word.to_ascii_lowercase()),
        }
    }

    fn path(&self, path: &str) -> Result<Option<PathBuf>, ConfigError> {
        Ok(self.text(path)?.filter(|text| !text.is_empty()).map(PathBuf::from))
    }

    fn flag(&self, path: &str) -> Result<bool, ConfigError> {
        bool_of(self.get(path).unwrap_or(&default(path))).ok_or_else(|| self.unfit(path))
    }

    fn int(&self, path: &str) -> Result<i64, ConfigError> {
        let fallback = default(path);
        let value = self.get(path).unwrap_or(&fallback);
        let fits = schema::find(path).is_none_or(|setting| setting.kind.complaint(value).is_none());
        int_of(value, Base::Plain).filter(|_| fits).ok_or_else(|| self.unfit(path))
    }

    fn address(&self, path: &str, default_port: u16) -> Result<Option<HostPort>, ConfigError> {
        let Some(text) = self.text(path)? else { return Ok(None) };
        HostPort::parse(&text, default_port).map(Some).ok_or_else(|| self.invalid(path, "host:port"))
    }

    fn texts(&self, path: &str) -> Result<Vec<String>, ConfigError> {
        match self.get(path) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => Ok(items.iter().map(plain_text).collect()),
            Some(_) => Err(self.invalid(path, "a list")),
        }
    }

    fn headers(&self, path: &str) -> Result<Vec<(String, String)>, ConfigError> {
        Ok(self.section(path)?.iter().map(|(name, value)| (name.clone(), plain_text(value))).collect())
    }

    /// Both parts, or nothing.
    fn credentials(&self, section: &str) -> Result<Option<Credentials>, ConfigError> {
        let username = self.text(&format!("{section}.username"))?;
        let password = self.text(&format!("{section}.password"))?;
        match (username, password) {
            (Some(username), Some(password)) => Ok(Some(Credentials { username, password: Secret::new(password) })),
            (None, None) => Ok(None),
            (Some(_), None) => Err(ConfigError::missing(&format!("{section}.password"), "the password for username")),
            (None, Some(_)) => Err(ConfigError::missing(&format!("{section}.username"), "the user name for password")),
        }
    }
}

/// The default of a setting, null where it has none.
fn default(path: &str) -> Value {
    // A row's default is checked to parse by the table's test.
    schema::find(path).and_then(|setting| yaml::parse(setting.default?).ok()).unwrap_or(Value::Null)
}

fn plain_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A path made independent of the current directory.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, ConfigError> {
    std::path::absolute(path)
        .map_err(|error| ConfigError::Machine(format!("cannot resolve the path {}: {error}", path.display())))
}

fn redact(section: &str, map: &Map<String, Value>) -> Map<String, Value> {
    map.iter()
        .map(|(key, value)| {
            let path = if section.is_empty() { key.clone() } else { format!("{section}.{key}") };
            let shown = match value {
                _ if check::is_secret(&path) => Value::String("***".to_owned()),
                Value::Object(inner) => Value::Object(redact(&path, inner)),
                other => other.clone(),
            };
            (key.clone(), shown)
        })
        .collect()
}

#[cfg(test)]
mod tests;
