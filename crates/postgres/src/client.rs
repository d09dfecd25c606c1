//! Connections to the local server.

use std::time::Duration;

use model::HostPort;
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Config, NoTls, SimpleQueryMessage, SimpleQueryRow};

use crate::config::{Credentials, PgConfig};
use crate::postmaster::PidFile;
use crate::tls;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Session settings of every connection; statements that may take longer raise `statement_timeout` themselves.
const OPTIONS: &str = "-c statement_timeout=2000 -c pg_stat_statements.track=none -c search_path=pg_catalog";

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// SQLSTATE 57P03: starting up, shutting down, or a standby that takes no connections. Or nobody listens (yet).
    NotAccepting(String),
    /// Anything else.
    Failed(String),
}

impl Failure {
    /// The sentence for people.
    pub fn into_text(self) -> String {
        match self {
            Failure::NotAccepting(text) | Failure::Failed(text) => text,
        }
    }
}

/// One connection; closed when dropped.
pub(crate) struct Session {
    client: tokio_postgres::Client,
    connection: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Connects as superuser to the server described by `config`, over its socket where configured, else over TCP.
/// `running` is what the server's own file says.
pub(crate) async fn connect(config: &PgConfig, running: Option<&PidFile>) -> Result<Session, Failure> {
    connect_database(config, running, &config.database).await
}

/// The same, to another database.
pub(crate) async fn connect_database(
    config: &PgConfig,
    running: Option<&PidFile>,
    database: &str,
) -> Result<Session, Failure> {
    let local = running_address(config, running);
    let socket = running.and_then(|file| file.socket_dir.as_ref()).filter(|_| config.use_unix_socket);
    if let Some(dir) = socket {
        let address = HostPort { host: dir.to_string_lossy().into_owned(), port: local.port };
        match open(config, &config.superuser, &address, database).await {
            // Not being there is no reason to fail while TCP may work.
            Err(Failure::Failed(error)) => tracing::debug!("{error}; trying TCP"),
            result => return result,
        }
    }
    open(config, &config.superuser, &local, database).await
}

/// Where the server listens: it may have been started before `listen` was changed, which takes a restart.
pub(crate) fn running_address(config: &PgConfig, running: Option<&PidFile>) -> HostPort {
    let configured = config.local_address();
    let port = running.and_then(|file| file.port).unwrap_or(configured.port);
    let host = match running.and_then(|file| file.listen.as_deref()) {
        Some("*" | "0.0.0.0" | "::" | "127.0.0.1" | "localhost") => "localhost".to_owned(),
        Some(host) if !host.is_empty() && !config.listen.hosts.iter().any(|known| known == host) => host.to_owned(),
        _ => configured.host,
    };
    HostPort { host, port }
}

/// Connects with these credentials to a server, which may be another node's, over TCP or in a socket directory.
pub(crate) async fn connect_to(
    config: &PgConfig,
    credentials: &Credentials,
    address: &HostPort,
) -> Result<Session, Failure> {
    open(config, credentials, address, &config.database).await
}

async fn open(
    config: &PgConfig,
    credentials: &Credentials,
    address: &HostPort,
    database: &str,
) -> Result<Session, Failure> {
    let what = format!("cannot connect to PostgreSQL at {address}");
    let mut options = Config::new();
    options
        .host(&address.host)
        .port(address.port)
        .dbname(database)
        .user(credentials.username.clone().unwrap_or_else(system_user))
        .application_name(format!("Patroni {}", config.name))
        .connect_timeout(CONNECT_TIMEOUT)
        .options(OPTIONS);
    if let Some(password) = &credentials.password {
        options.password(password.expose());
    }
    let failure = |error: tokio_postgres::Error| classify(&what, &error);
    if address.host.starts_with('/') {
        options.ssl_mode(SslMode::Disable);
        let connecting = options.connect(NoTls);
        let (client, connection) = bounded(&what, connecting).await?.map_err(failure)?;
        return Ok(Session::new(client, connection));
    }
    let (mode, connector) = tls::connector(credentials).map_err(|error| Failure::Failed(format!("{what}: {error}")))?;
    options.ssl_mode(mode);
    let (client, connection) = bounded(&what, options.connect(connector)).await?.map_err(failure)?;
    Ok(Session::new(client, connection))
}

/// The connect timeout of the driver covers the socket, not the handshake.
async fn bounded<T>(what: &str, future: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::time::timeout(CONNECT_TIMEOUT, future)
        .await
        .map_err(|_| Failure::Failed(format!("{what}: no answer within {} seconds", CONNECT_TIMEOUT.as_secs())))
}

/// The user libpq would connect as.
fn system_user() -> String {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut entries = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let name = entries.find(|fields| fields.get(2) == Some(&uid.as_str())).and_then(|fields| fields.first().copied());
    name.map(str::to_owned)
        .or_else(|| std::env::var("PGUSER").ok())
        .or_else(|| std::env::var("USER").ok())
        .unwrap_or_else(|| "postgres".to_owned())
}

/// The address refuses connections, or its socket file is not there: a server that lives is not listening yet.
fn nobody_listens(error: &tokio_postgres::Error) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    source.is_some_and(|error| matches!(error.kind(), ConnectionRefused | NotFound))
}

fn classify(what: &str, error: &tokio_postgres::Error) -> Failure {
    // The driver's own text says only "db error".
    let reason = match error.as_db_error() {
        Some(db) => db.message().to_owned(),
        None => model::causes(error),
    };
    let text = format!("{what}: {reason}");
    if error.code() == Some(&SqlState::CANNOT_CONNECT_NOW) || nobody_listens(error) {
        Failure::NotAccepting(text)
    } else {
        Failure::Failed(text)
    }
}

impl Session {
    fn new<S, T>(client: tokio_postgres::Client, connection: tokio_postgres::Connection<S, T>) -> Session
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
        T: tokio_postgres::tls::TlsStream + Unpin + Send + 'static,
    {
        let connection = tokio::spawn(async move {
            // The client's calls report the same error.
            let _ = connection.await;
        });
        Session { client, connection }
    }

    /// The connection is known to be closed.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Runs statements; the rows of all of them. `what` names them in errors, which never hold the statement itself.
    pub async fn query(&self, what: &str, sql: &str) -> Result<Vec<SimpleQueryRow>, Failure> {
        self.coded_query(what, sql).await.map_err(|(failure, _)| failure)
    }

    /// The same, with the SQLSTATE of an error.
    pub async fn coded_query(&self, what: &str, sql: &str) -> Result<Vec<SimpleQueryRow>, (Failure, Option<SqlState>)> {
        let coded = |error: tokio_postgres::Error| (classify(&format!("cannot {what}"), &error), error.code().cloned());
        let messages = self.client.simple_query(sql).await.map_err(coded)?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Ok(rows.collect())
    }

    /// The first column of the first row.
    pub async fn value(&self, what: &str, sql: &str) -> Result<Option<String>, Failure> {
        let rows = self.query(what, sql).await?;
        Ok(rows.first().and_then(|row| row.try_get(0).ok().flatten()).map(str::to_owned))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, json};

    #[test]
    fn a_server_is_reached_where_it_was_started() {
        let pid_file = |listen: &str, port: u16| PidFile {
            pid: 1,
            start_time: 0,
            port: Some(port),
            socket_dir: None,
            listen: Some(listen.to_owned()),
            status: None,
        };
        for (configured, running, expected) in [
            ("127.0.0.1:5432", None, "localhost:5432"),
            ("127.0.0.1:5433", Some(pid_file("127.0.0.1", 5432)), "localhost:5432"),
            ("10.0.0.2:5432", Some(pid_file("10.0.0.1", 5432)), "10.0.0.1:5432"),
            ("10.0.0.2:5432", Some(pid_file("*", 5431)), "localhost:5431"),
            ("10.0.0.1,127.0.0.1:5432", Some(pid_file("10.0.0.1", 5432)), "localhost:5432"),
            ("10.0.0.1:5432", Some(pid_file("", 5432)), "10.0.0.1:5432"),
        ] {
            let section = json!({
                "listen": configured, "data_dir": "/d", "authentication": {"replication": {"username": "r"}},
            });
            let section = section.as_object().cloned().unwrap_or_default();
            let config = PgConfig::from_section(&section, &Map::new(), "n", "s").expect("valid");
            assert_eq!(running_address(&config, running.as_ref()).to_string(), expected, "{configured} {running:?}");
        }
    }
}
