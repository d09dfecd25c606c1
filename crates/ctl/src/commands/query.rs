//! `query`: runs SQL on a member.

use std::time::Duration;

use serde_json::Value;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::dsn::{check_exclusive, pick};
use super::list::{Watch, repeat};
use crate::cluster::Cluster;
use crate::error::{Result, fail};
use crate::members::RoleFilter;
use crate::output::{Column, Format, Table};
use crate::prompt::Console;
use crate::request::causes;
use crate::session::Session;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Arguments of `query`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cluster; the configured one by default.
    pub cluster_name: Option<String>,
    /// Citus group.
    #[arg(long)]
    pub group: Option<u32>,
    /// Output format.
    #[arg(long, default_value = "tsv")]
    pub format: Format,
    /// Execute the SQL commands from this file; - reads standard input.
    #[arg(short, long)]
    pub file: Option<String>,
    /// Ask for the password.
    #[arg(long)]
    pub password: bool,
    /// Database user name.
    #[arg(short = 'U', long)]
    pub username: Option<String>,
    #[command(flatten)]
    pub watch: Watch,
    /// The role of the member to query.
    #[arg(short, long)]
    pub role: Option<RoleFilter>,
    /// Query this member.
    #[arg(short, long)]
    pub member: Option<String>,
    /// The column delimiter.
    #[arg(long, default_value = "\t")]
    pub delimiter: String,
    /// The SQL commands to execute.
    #[arg(short, long)]
    pub command: Option<String>,
    /// Database name to connect to.
    #[arg(short, long)]
    pub dbname: Option<String>,
}

/// Runs the statements on the leader, or on the member chosen by role or name.
pub async fn run(session: &Session, args: &Args) -> Result {
    check_exclusive(args.role, args.member.as_deref())?;
    let sql = match (&args.command, &args.file) {
        (Some(_), Some(_)) => return fail("--file and --command are mutually exclusive options"),
        (None, None) => return fail("You need to specify either --command or --file"),
        (Some(sql), None) => sql.clone(),
        (None, Some(file)) if file == "-" => session.console.read_all()?,
        (None, Some(file)) => {
            std::fs::read_to_string(file).or_else(|error| fail(format!("Cannot read {file}: {error}")))?
        }
    };
    let password = if args.password { Some(ask_password(&session.console)?) } else { environment("PGPASSWORD") };
    let print = async || {
        let cluster = session.cluster(args.cluster_name.as_deref(), args.group).await?;
        let text = match query(&cluster, args, &sql, password.as_deref()).await {
            Ok(table) if table.columns.is_empty() => String::new(),
            Ok(table) => table.render(args.format, &args.delimiter),
            Err(complaint) => failure(session, args, &complaint),
        };
        session.console.raw(&text);
        Ok(())
    };
    repeat(session, &args.watch, print).await
}

/// A row with the time and what went wrong: with `--watch` the next try may do better.
fn failure(session: &Session, args: &Args, complaint: &str) -> String {
    let now = session.now().strftime("%Y-%m-%d %H:%M:%S").to_string();
    let complaint = complaint.replace('\n', " ");
    if args.format == Format::Tsv {
        return format!("{now}{}{complaint}\n", args.delimiter);
    }
    let columns = vec![Column::new("Field 1"), Column::new("Field 2")];
    Table { columns, rows: vec![vec![now.into(), complaint.into()]], ..Table::default() }.render(args.format, "")
}

async fn query(
    cluster: &Cluster,
    args: &Args,
    sql: &str,
    password: Option<&str>,
) -> std::result::Result<Table, String> {
    let role = args.role.unwrap_or(RoleFilter::Leader);
    let Some((_, address)) = pick(&cluster.view, role, args.member.as_deref()) else {
        return Err(match args.role {
            Some(role) => no_connection(role),
            None => "No connection is available".to_owned(),
        });
    };
    let user = args.username.clone().or_else(|| environment("PGUSER")).or_else(|| environment("USER"));
    let mut connection = tokio_postgres::Config::new();
    connection.host(&address.host).port(address.port).connect_timeout(CONNECT_TIMEOUT).application_name("Patroni ctl");
    connection.user(user.as_deref().unwrap_or("postgres"));
    if let Some(name) = args.dbname.clone().or_else(|| environment("PGDATABASE")) {
        connection.dbname(&name);
    }
    if let Some(password) = password {
        connection.password(password);
    }
    let failed = |error: tokio_postgres::Error| match error.code() {
        Some(code) => format!("ERROR, SQLSTATE: {}", code.code()),
        None => format!("ERROR, SQLSTATE: {}", causes(&error)),
    };
    let refused = |error: tokio_postgres::Error| {
        let (host, port) = (&address.host, address.port);
        let place = format!("connection to server at \"{host}\", port {port} failed");
        format!("ERROR, SQLSTATE: connection failed: {place}: {}", causes(&error))
    };
    let (client, driver) = connection.connect(NoTls).await.map_err(refused)?;
    let driver = tokio::spawn(driver);
    let outcome = match in_role(&client, role, args.member.is_some()).await {
        Ok(true) => rows(&client, sql, args.format).await.map_err(failed),
        Ok(false) => Err(no_connection(role)),
        Err(error) => Err(failed(error)),
    };
    drop(client);
    // The connection's end says nothing that the query did not.
    let _ = driver.await;
    outcome
}

fn no_connection(role: RoleFilter) -> String {
    format!("No connection to role '{}' is available", role.as_str())
}

/// Whether the server is in recovery or not, as the role has it: the store may be behind.
async fn in_role(client: &Client, role: RoleFilter, named: bool) -> std::result::Result<bool, tokio_postgres::Error> {
    let wanted = match role {
        _ if named => return Ok(true),
        RoleFilter::Primary => false,
        RoleFilter::StandbyLeader | RoleFilter::Replica | RoleFilter::Standby => true,
        RoleFilter::Leader | RoleFilter::Any => return Ok(true),
    };
    Ok(client.query_one("SELECT pg_catalog.pg_is_in_recovery()", &[]).await?.try_get::<_, bool>(0)? == wanted)
}

/// The rows of the last statement that gave any.
async fn rows(client: &Client, sql: &str, format: Format) -> std::result::Result<Table, tokio_postgres::Error> {
    // Types are known for a single statement only; without them values stay text.
    let types: Vec<Type> = match client.prepare(sql).await {
        Ok(statement) => statement.columns().iter().map(|column| column.type_().clone()).collect(),
        Err(_) => Vec::new(),
    };
    let mut table = Table::default();
    for message in client.simple_query(sql).await? {
        match message {
            SimpleQueryMessage::RowDescription(columns) => {
                table.columns = columns.iter().map(|column| Column::new(column.name())).collect();
                table.rows.clear();
            }
            SimpleQueryMessage::Row(row) => {
                let cell = |index| typed(row.try_get(index).ok().flatten(), types.get(index), format);
                table.rows.push((0..row.len()).map(cell).collect());
            }
            _ => {}
        }
    }
    Ok(table)
}

/// Numbers, booleans and nulls as such in json and yaml; in the words of upstream elsewhere.
fn typed(text: Option<&str>, of: Option<&Type>, format: Format) -> Value {
    let data = matches!(format, Format::Json | Format::Yaml | Format::Yml);
    let Some(text) = text else {
        return if data { Value::Null } else { "None".into() };
    };
    match of {
        Some(&Type::BOOL) if data => (text == "t").into(),
        Some(&Type::BOOL) => if text == "t" { "True" } else { "False" }.into(),
        Some(&(Type::INT2 | Type::INT4 | Type::INT8 | Type::OID)) => {
            text.parse::<i64>().map_or(text.into(), Value::from)
        }
        Some(&(Type::FLOAT4 | Type::FLOAT8)) => text.parse::<f64>().map_or(text.into(), Value::from),
        _ => text.into(),
    }
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Asks without showing what is typed.
fn ask_password(console: &Console) -> Result<String> {
    use std::io::IsTerminal;
    let echo = |mode: &str| {
        if std::io::stdin().is_terminal() {
            let _ = std::process::Command::new("stty").arg(mode).status();
        }
    };
    echo("-echo");
    let answer = console.ask("Password", None);
    echo("echo");
    console.line("");
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values() {
        for (text, of, data, words) in [
            (Some("1"), Some(&Type::INT4), json!(1), json!(1)),
            (Some("2.5"), Some(&Type::FLOAT8), json!(2.5), json!(2.5)),
            (Some("t"), Some(&Type::BOOL), json!(true), json!("True")),
            (Some("t"), None, json!("t"), json!("t")),
            (None, Some(&Type::INT4), json!(null), json!("None")),
        ] {
            assert_eq!(typed(text, of, Format::Json), data, "{text:?}");
            assert_eq!(typed(text, of, Format::Tsv), words, "{text:?}");
        }
    }
}
