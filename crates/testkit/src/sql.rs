//! SQL on one node, directly.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::timeout;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

const CONNECT_LIMIT: Duration = Duration::from_secs(2);
const STATEMENT_LIMIT: Duration = Duration::from_secs(30);

/// Rows as text; `None` is null.
pub type Rows = Vec<Vec<Option<String>>>;

/// How to reach a node's PostgreSQL as superuser.
#[derive(Clone, Debug)]
pub struct Sql {
    config: Config,
}

impl Sql {
    /// Superuser on `127.0.0.1:port`, database `postgres`.
    pub fn superuser(port: u16) -> Sql {
        let mut config = Config::new();
        config.host("127.0.0.1").port(port).dbname("postgres");
        config.user(crate::node::SUPERUSER.0).password(crate::node::SUPERUSER.1).connect_timeout(CONNECT_LIMIT);
        Sql { config }
    }

    /// A connection; it ends when the client is dropped.
    pub async fn connect(&self) -> Result<Client> {
        let (client, connection) = timeout(CONNECT_LIMIT, self.config.connect(NoTls))
            .await
            .context("connect to PostgreSQL: no answer")?
            .context("connect to PostgreSQL")?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Runs statements on a new connection; the rows of all of them.
    pub async fn rows(&self, statements: &str) -> Result<Rows> {
        let client = self.connect().await?;
        let messages = timeout(STATEMENT_LIMIT, client.simple_query(statements))
            .await
            .with_context(|| format!("run {statements:?}: no answer"))?
            .with_context(|| format!("run {statements:?}"))?;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|column| row.get(column).map(ToOwned::to_owned)).collect())
            }
            _ => None,
        });
        Ok(rows.collect())
    }

    /// The only value of the only row.
    pub async fn value(&self, query: &str) -> Result<String> {
        let rows = self.rows(query).await?;
        let value = rows.into_iter().next().and_then(|row| row.into_iter().next().flatten());
        value.with_context(|| format!("{query:?} gave no value"))
    }
}
