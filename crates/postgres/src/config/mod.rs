//! The `postgresql` and `bootstrap` sections, parsed.

mod auth;
mod options;
mod reader;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::settings::SynchronousMode;
use model::units::bool_of;
use model::{HostPort, Role, Settings};
use serde_json::{Map, Value};

pub use auth::{Credentials, Secret};
pub use options::{method_arguments, parse_options};
use reader::Reader;

/// PostgreSQL's port where none is given.
const DEFAULT_PORT: u16 = 5432;

/// Everything about the local PostgreSQL that comes from configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct PgConfig {
    /// Member name: `application_name` of the standby.
    pub name: String,
    /// Cluster name: `cluster_name`.
    pub scope: String,
    /// `listen`: hosts and one port.
    pub listen: Listen,
    /// `connect_address`: where others reach this server.
    pub connect_address: HostPort,
    /// `database`, for all local connections.
    pub database: String,
    /// `data_dir`.
    pub data_dir: PathBuf,
    /// `config_dir`.
    pub config_dir: PathBuf,
    /// `config_base_name`.
    pub config_base_name: String,
    /// `custom_conf`: included instead of the original file.
    pub custom_conf: Option<String>,
    /// `bin_dir` and `bin_name`.
    pub binaries: Binaries,
    /// `pgpass`.
    pub pgpass: PathBuf,
    /// `authentication.superuser`.
    pub superuser: Credentials,
    /// `authentication.replication`.
    pub replication: Credentials,
    /// `authentication.rewind`.
    pub rewind_user: Option<Credentials>,
    /// `krbsrvname`.
    pub krbsrvname: Option<String>,
    /// `parameters` and its role variants, merged over the base.
    pub parameters: ByRole<BTreeMap<String, String>>,
    /// `pg_hba` and its role variants, which replace the base.
    pub pg_hba: ByRole<Option<Vec<String>>>,
    /// `pg_ident` and its role variants, which replace the base.
    pub pg_ident: ByRole<Option<Vec<String>>>,
    /// `recovery_conf`, and recovery parameters found under `parameters`.
    pub recovery_conf: BTreeMap<String, String>,
    /// `use_unix_socket`.
    pub use_unix_socket: bool,
    /// `use_unix_socket_repl`: local replication connections go over the socket.
    pub use_unix_socket_repl: bool,
    /// `basebackup`: options of pg_basebackup.
    pub basebackup: Vec<String>,
    /// `rewind`: options of pg_rewind.
    pub rewind: Vec<String>,
    /// `create_replica_methods` with their sections, in order.
    pub replica_methods: Vec<ReplicaMethod>,
    /// `pg_ctl_timeout`.
    pub pg_ctl_timeout: Duration,
    /// `pre_promote`, split as a shell splits words.
    pub pre_promote: Option<Vec<String>>,
    /// `before_stop`, split as a shell splits words.
    pub before_stop: Option<Vec<String>>,
    /// The `bootstrap` section.
    pub bootstrap: Bootstrap,
    /// The dynamic `standby_cluster` section; see [`PgConfig::with_dynamic`].
    pub standby_cluster: StandbyCluster,
    /// The dynamic `synchronous_mode` is on: `synchronous_standby_names` is not the user's. See
    /// [`PgConfig::with_dynamic`].
    pub synchronous: bool,
}

/// `listen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Hosts, addresses or `*`; never empty.
    pub hosts: Vec<String>,
    /// TCP port.
    pub port: u16,
}

/// Where PostgreSQL's programs are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Binaries {
    /// `bin_dir`; the search path where absent.
    pub dir: Option<PathBuf>,
    /// `bin_name`: other names of programs.
    pub names: BTreeMap<String, String>,
}

impl Binaries {
    /// Path of a program such as `pg_basebackup`; a bare name is looked up in `PATH`.
    pub fn path(&self, program: &str) -> PathBuf {
        let name = self.names.get(program).map_or(program, String::as_str);
        self.dir.as_ref().map_or_else(|| PathBuf::from(name), |dir| dir.join(name))
    }
}

/// A value with variants for roles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ByRole<T> {
    /// Without a suffix.
    pub base: T,
    /// Suffix `_primary`.
    pub primary: T,
    /// Suffix `_replica`.
    pub replica: T,
    /// Suffix `_standby_leader`.
    pub standby_leader: T,
}

impl<T> ByRole<T> {
    /// The variant for a role; `None` for a node without data.
    fn variant(&self, role: Role) -> Option<&T> {
        match role {
            Role::Primary | Role::Promoted => Some(&self.primary),
            Role::Replica | Role::Demoted => Some(&self.replica),
            Role::StandbyLeader => Some(&self.standby_leader),
            Role::Uninitialized => None,
        }
    }
}

impl ByRole<BTreeMap<String, String>> {
    /// The base and, over it, the role's variant.
    pub fn for_role(&self, role: Role) -> BTreeMap<String, String> {
        let mut merged = self.base.clone();
        merged.extend(self.variant(role).cloned().unwrap_or_default());
        merged
    }

    /// What a role's variant sets.
    pub fn overrides(&self, role: Role) -> BTreeMap<String, String> {
        self.variant(role).cloned().unwrap_or_default()
    }
}

impl ByRole<Option<Vec<String>>> {
    /// The role's variant, else the base.
    pub fn for_role(&self, role: Role) -> Option<&[String]> {
        self.variant(role).and_then(Option::as_deref).or(self.base.as_deref())
    }
}

/// One way to make a replica.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaMethod {
    /// Name in `create_replica_methods`; `basebackup` is built in.
    pub name: String,
    /// Section `postgresql.<name>`.
    pub settings: Map<String, Value>,
}

impl ReplicaMethod {
    /// The method's own options for pg_basebackup, and what cannot be used.
    pub(crate) fn basebackup_options(&self) -> (Vec<String>, Vec<String>) {
        let settings = Value::Object(self.settings.clone());
        parse_options(Some(&settings), &format!("postgresql.{}", self.name), options::BASEBACKUP_FORBIDDEN)
    }

    /// A flag of the section.
    pub fn flag(&self, key: &str) -> bool {
        self.settings.get(key).and_then(bool_of).unwrap_or(false)
    }
}

/// The `bootstrap` section.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bootstrap {
    /// `initdb`: options, ready for the command line.
    pub initdb: Vec<String>,
    /// What is wrong with the options of initdb; a bootstrap is refused with it.
    pub initdb_problem: Option<String>,
    /// `method` with its section, when it is not initdb.
    pub custom: Option<ReplicaMethod>,
    /// `pg_hba`: lines appended after initdb.
    pub pg_hba: Vec<String>,
    /// `admin`: a role that may create databases and roles, made once in the new cluster.
    pub admin: Option<Credentials>,
    /// `users` is set, which makes nothing since version 4.
    pub users: bool,
    /// `post_bootstrap`, else `post_init`.
    pub post_bootstrap: Option<String>,
}

/// The `standby_cluster` section, as far as PostgreSQL's configuration needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StandbyCluster {
    /// `host` and `port` of the remote primary, where configured.
    pub remote: Option<HostPort>,
    /// `restore_command`, on all nodes.
    pub restore_command: Option<String>,
    /// `archive_cleanup_command`, on all nodes.
    pub archive_cleanup_command: Option<String>,
    /// `recovery_min_apply_delay`, on the node that follows the remote primary.
    pub recovery_min_apply_delay: Option<String>,
    /// `create_replica_methods` for the standby leader.
    pub replica_methods: Option<Vec<String>>,
}

impl PgConfig {
    /// Parses the effective `postgresql` section (dynamic configuration merged with the local file; controlled
    /// parameters only from the dynamic one) and the local `bootstrap` section.
    ///
    /// Errors name the dotted path, the value and what was expected. Unusable options of pg_basebackup and pg_rewind
    /// are logged and left out.
    pub fn from_section(
        section: &Map<String, Value>,
        bootstrap: &Map<String, Value>,
        name: &str,
        scope: &str,
    ) -> Result<PgConfig, String> {
        let reader = Reader::new(section, "postgresql");
        let listen = parse_listen(&reader.required_text("listen")?)?;
        let data_dir = absolute(&reader.required_text("data_dir")?, "postgresql.data_dir")?;
        let config_dir = match reader.text("config_dir")? {
            Some(path) => absolute(&path, "postgresql.config_dir")?,
            None => data_dir.clone(),
        };
        let connect_address = match reader.text("connect_address")? {
            Some(text) => parse_address(&text, "postgresql.connect_address", listen.port)?,
            None => HostPort { host: local_host(&listen), port: listen.port },
        };
        let recovery_conf = recovery_conf(&reader)?;
        let (superuser, replication, rewind_user) = auth::credentials(&reader)?;
        Ok(PgConfig {
            name: name.to_owned(),
            scope: scope.to_owned(),
            connect_address,
            database: reader.text("database")?.unwrap_or_else(|| "postgres".to_owned()),
            config_base_name: reader.text("config_base_name")?.unwrap_or_else(|| "postgresql".to_owned()),
            custom_conf: reader.text("custom_conf")?,
            binaries: binaries(&reader)?,
            pgpass: reader.text("pgpass")?.map_or_else(default_pgpass, PathBuf::from),
            superuser,
            replication,
            rewind_user,
            krbsrvname: reader.text("krbsrvname")?,
            parameters: by_role("parameters", |key| reader.text_map(key))?,
            pg_hba: by_role("pg_hba", |key| reader.lines(key))?,
            pg_ident: by_role("pg_ident", |key| reader.lines(key))?,
            recovery_conf,
            use_unix_socket: reader.flag("use_unix_socket")?,
            use_unix_socket_repl: reader.flag("use_unix_socket_repl")?,
            basebackup: usable_options(section, "basebackup", options::BASEBACKUP_FORBIDDEN)?,
            rewind: usable_options(section, "rewind", options::REWIND_FORBIDDEN)?,
            replica_methods: replica_methods(&reader, section)?,
            pg_ctl_timeout: reader.seconds("pg_ctl_timeout", 60)?,
            pre_promote: reader.words("pre_promote")?,
            before_stop: reader.words("before_stop")?,
            bootstrap: parse_bootstrap(bootstrap)?,
            standby_cluster: StandbyCluster::default(),
            synchronous: false,
            listen,
            data_dir,
            config_dir,
        })
    }

    /// Adds what only the dynamic configuration holds: `standby_cluster` and `synchronous_mode`.
    pub fn with_dynamic(mut self, dynamic: &Map<String, Value>) -> Result<PgConfig, String> {
        if let Some(section) = dynamic.get("standby_cluster").and_then(Value::as_object) {
            let reader = Reader::new(section, "standby_cluster");
            let port = reader.text("port")?;
            let remote = reader.text("host")?.map(|host| {
                let port = port.as_deref().unwrap_or("5432");
                let port =
                    port.parse().map_err(|_| format!("standby_cluster.port {port:?}: expected a port number"))?;
                Ok::<_, String>(HostPort { host, port })
            });
            self.standby_cluster = StandbyCluster {
                remote: remote.transpose()?,
                restore_command: reader.text("restore_command")?,
                archive_cleanup_command: reader.text("archive_cleanup_command")?,
                recovery_min_apply_delay: reader.text("recovery_min_apply_delay")?,
                replica_methods: reader.list("create_replica_methods")?,
            };
        }
        self.synchronous = Settings::resolve(dynamic).0.synchronous() != SynchronousMode::Off;
        Ok(self)
    }

    /// Path of a configuration file: `postgresql.conf`, or `postgresql.base.conf` for `".base"`.
    pub(crate) fn conf_file(&self, infix: &str) -> PathBuf {
        self.config_dir.join(format!("{}{infix}.conf", self.config_base_name))
    }

    /// Where local TCP connections go.
    pub fn local_address(&self) -> HostPort {
        HostPort { host: local_host(&self.listen), port: self.listen.port }
    }

    /// Credentials for pg_rewind and questions to other servers: the rewind role from version 11 on, else the
    /// superuser.
    pub fn rewind_credentials(&self, version: u32) -> &Credentials {
        self.rewind_user.as_ref().filter(|_| version >= 110_000).unwrap_or(&self.superuser)
    }
}

/// Parameters of a section, as PostgreSQL spells them.
pub(crate) fn parameters_of(section: &Map<String, Value>) -> BTreeMap<String, String> {
    reader::plain_text_map(section)
}

/// `localhost` where the server listens there, else the first address.
fn local_host(listen: &Listen) -> String {
    let everywhere = |host: &String| matches!(host.as_str(), "*" | "localhost" | "0.0.0.0" | "127.0.0.1");
    match listen.hosts.first() {
        Some(first) if !listen.hosts.iter().any(everywhere) => first.clone(),
        _ => "localhost".to_owned(),
    }
}

fn parse_listen(text: &str) -> Result<Listen, String> {
    let invalid = || format!("postgresql.listen {text:?}: expected host[,host...]:port, for example 127.0.0.1:5432");
    let (hosts, last) = match text.rsplit_once(',') {
        Some((hosts, last)) => (Some(hosts), last),
        None => (None, text),
    };
    let last = HostPort::parse(last, DEFAULT_PORT).ok_or_else(invalid)?;
    let mut all: Vec<String> = Vec::new();
    for host in hosts.into_iter().flat_map(|hosts| hosts.split(',')) {
        all.push(HostPort::parse(host, DEFAULT_PORT).ok_or_else(invalid)?.host);
    }
    all.push(last.host);
    if all.iter().any(String::is_empty) {
        return Err(invalid());
    }
    Ok(Listen { hosts: all, port: last.port })
}

fn parse_address(text: &str, path: &str, default_port: u16) -> Result<HostPort, String> {
    HostPort::parse(text, default_port)
        .filter(|address| !address.host.is_empty())
        .ok_or_else(|| format!("{path} {text:?}: expected host:port"))
}

fn absolute(text: &str, path: &str) -> Result<PathBuf, String> {
    let given = Path::new(text);
    let resolved = std::path::absolute(given).map_err(|error| format!("{path} {text:?}: {error}"))?;
    if resolved.parent().is_none() {
        return Err(format!("{path} {text:?}: expected a directory below the root of the file system"));
    }
    Ok(resolved)
}

fn default_pgpass() -> PathBuf {
    PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/".into())).join("pgpass")
}

fn by_role<T>(key: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<ByRole<T>, String> {
    Ok(ByRole {
        base: read(key)?,
        primary: read(&format!("{key}_primary"))?,
        replica: read(&format!("{key}_replica"))?,
        standby_leader: read(&format!("{key}_standby_leader"))?,
    })
}

fn recovery_conf(reader: &Reader<'_>) -> Result<BTreeMap<String, String>, String> {
    let mut recovery = reader.text_map("parameters")?;
    recovery.retain(|name, _| crate::recovery::is_recovery_parameter(name));
    recovery.extend(reader.text_map("recovery_conf")?);
    Ok(recovery)
}

fn binaries(reader: &Reader<'_>) -> Result<Binaries, String> {
    Ok(Binaries { dir: reader.text("bin_dir")?.map(PathBuf::from), names: reader.text_map("bin_name")? })
}

fn usable_options(section: &Map<String, Value>, key: &str, forbidden: &[&str]) -> Result<Vec<String>, String> {
    let (options, problems) = parse_options(section.get(key), &format!("postgresql.{key}"), forbidden);
    for problem in problems {
        tracing::warn!("{problem}; the option is not used");
    }
    Ok(options)
}

fn replica_methods(reader: &Reader<'_>, section: &Map<String, Value>) -> Result<Vec<ReplicaMethod>, String> {
    let names = match reader.list("create_replica_methods")? {
        Some(names) => Some(names),
        None => reader.list("create_replica_method")?,
    };
    let names = names.unwrap_or_else(|| vec!["basebackup".to_owned()]);
    let method = |name: String| {
        let settings = section.get(&name).and_then(Value::as_object).cloned().unwrap_or_default();
        ReplicaMethod { name, settings }
    };
    Ok(names.into_iter().map(method).collect())
}

fn parse_bootstrap(section: &Map<String, Value>) -> Result<Bootstrap, String> {
    let reader = Reader::new(section, "bootstrap");
    let (initdb, problems) = parse_options(section.get("initdb"), "bootstrap.initdb", options::INITDB_FORBIDDEN);
    let custom = match reader.text("method")? {
        Some(name) if name != "initdb" => match section.get(&name).and_then(Value::as_object) {
            Some(settings) if settings.get("command").is_some() => {
                Some(ReplicaMethod { name, settings: settings.clone() })
            }
            _ => None,
        },
        _ => None,
    };
    let post_bootstrap = match reader.text("post_bootstrap")? {
        Some(command) => Some(command),
        None => reader.text("post_init")?,
    };
    Ok(Bootstrap {
        initdb,
        initdb_problem: (!problems.is_empty()).then(|| problems.join("; ")),
        custom,
        pg_hba: reader.lines("pg_hba")?.unwrap_or_default(),
        admin: auth::one(&reader, "admin", "bootstrap.admin")?.filter(|admin| admin.username.is_some()),
        users: section.get("users").is_some_and(|users| !users.is_null()),
        post_bootstrap,
    })
}

#[cfg(test)]
mod tests;
