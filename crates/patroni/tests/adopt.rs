//! `--generate-config` on a running server: the file is one that this program and upstream accept, and under it the
//! server goes on without a restart.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::{Etcd, Flavour, Programs, Rest, Running, Sandbox, Sql, free_port, run_to_end, wait_for, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

/// A server that nobody manages yet: its port, data and process.
struct Standalone {
    port: u16,
    data_dir: std::path::PathBuf,
    process: Running,
}

impl Standalone {
    async fn start(sandbox: &Sandbox, programs: &Programs, home: &Path) -> Result<Standalone> {
        let (port, data_dir, owner) = (free_port(), home.join("data"), sandbox.owner());
        sandbox.write(&home.join("pwfile"), "zalando\n")?;
        let mut initdb = Command::new(programs.postgres_bin.join("initdb"));
        initdb.arg("-D").arg(&data_dir).args(["-U", "postgres", "--auth=scram-sha-256", "--no-sync", "--pwfile"]);
        let output = run_to_end(initdb.arg(home.join("pwfile")), owner, home)?;
        ensure!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        let settings = format!(
            "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\ncluster_name = 'adopted'\n\
             max_connections = 123\nshared_buffers = 16MB\nwal_log_hints = on\nwork_mem = 5MB\n\
             archive_mode = on\narchive_command = '/bin/true'\n",
            home.display()
        );
        let conf = data_dir.join("postgresql.conf");
        let text = fs::read_to_string(&conf)? + &settings;
        sandbox.write(&conf, &text)?;
        let mut postgres = Command::new(programs.postgres_bin.join("postgres"));
        let process = Running::start(postgres.arg("-D").arg(&data_dir), owner, home, &home.join("postgres.log"))?;
        let server = Standalone { port, data_dir, process };
        wait_for("the server to answer", LIMIT, || async { Sql::superuser(port).value("SELECT 1").await }).await?;
        Sql::superuser(port).rows("CREATE ROLE replicator REPLICATION LOGIN PASSWORD 'rep-pass'").await?;
        Ok(server)
    }

    fn postmaster(&self) -> Result<u32> {
        let text = fs::read_to_string(self.data_dir.join("postmaster.pid"))?;
        text.lines().next().unwrap_or_default().parse().context("read postmaster.pid")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_server_is_adopted_without_a_restart() -> Result<()> {
    adopted_by(Flavour::Ours).await
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_adopts_it_with_the_same_file() -> Result<()> {
    adopted_by(Flavour::Upstream).await
}

async fn adopted_by(flavour: Flavour) -> Result<()> {
    let mut sandbox = Sandbox::new("adopt")?;
    let etcd = Etcd::start(&sandbox).await?;
    let programs = Programs::find()?;
    let home = sandbox.directory("node")?;
    let ours = programs.install(Flavour::Ours, &sandbox, &home)?;
    let Ok(agent_program) = programs.install(flavour, &sandbox, &home) else {
        println!("upstream is not installed: nothing to compare with");
        sandbox.finish();
        return Ok(());
    };
    let server = Standalone::start(&sandbox, &programs, &home).await?;
    let rest = Rest { port: free_port() };
    let file = home.join("patroni.yml");

    let dsn = format!("host=127.0.0.1 port={} user=postgres password=zalando", server.port);
    let mut generate = ours.command("patroni")?;
    generate.args(["--generate-config", "--dsn", &dsn]).arg(&file);
    // What no server can tell.
    for (name, value) in [
        ("PATRONI_NAME", "node1".to_owned()),
        ("PATRONI_ETCD3_HOST", format!("127.0.0.1:{}", etcd.port())),
        ("PATRONI_RESTAPI_LISTEN", format!("127.0.0.1:{}", rest.port)),
        // The name of the machine may lead to itself, which no configuration may advertise.
        ("PATRONI_RESTAPI_CONNECT_ADDRESS", format!("db1.example.com:{}", rest.port)),
        ("PATRONI_POSTGRESQL_CONNECT_ADDRESS", format!("db1.example.com:{}", server.port)),
        ("PATRONI_REPLICATION_USERNAME", "replicator".to_owned()),
        ("PATRONI_REPLICATION_PASSWORD", "rep-pass".to_owned()),
        ("PATRONI_POSTGRESQL_PGPASS", home.join("pgpass").display().to_string()),
    ] {
        generate.env(name, value);
    }
    let output = run_to_end(&mut generate, sandbox.owner(), &home)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success() && output.stdout.is_empty(), "{said}");
    assert_eq!(said, "the server listens on this machine only: other nodes cannot reach it\n");
    let text = fs::read_to_string(&file)?;
    ensure!(!text.contains("#FIXME"), "{text}");
    let loaded = config::load_with(Some(&file), vec![])?;
    assert_eq!(loaded.warnings(), Vec::<String>::new());
    assert_eq!(loaded.scope()?, "adopted");

    let mut validate = agent_program.command("patroni")?;
    let output = run_to_end(validate.args(["--validate-config", "-i"]).arg(&file), sandbox.owner(), &home)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{said}\n{text}");

    let before = server.postmaster()?;
    let mut command = agent_program.command("patroni")?;
    command.arg(&file).env("PATRONI_LOG_DIR", &home);
    if flavour == Flavour::Ours {
        // Upstream needs a library for it.
        command.env("PATRONI_LOG_TYPE", "json");
    }
    let mut agent = Running::start(&mut command, sandbox.owner(), &home, &home.join("log"))?;
    let outcome = wait_until_primary(rest).await;
    let status = outcome.with_context(|| agent.output())?;
    assert_eq!(status.get("pending_restart"), None, "{status}");
    assert_eq!(server.postmaster()?, before);
    let shown = Sql::superuser(server.port).rows("SHOW max_connections; SHOW work_mem; SHOW archive_command").await?;
    assert_eq!(shown.iter().flatten().flatten().collect::<Vec<_>>(), ["123", "5MB", "/bin/true"]);
    // The configuration is the node's now.
    wait_until("postgresql.base.conf", LIMIT, || server.data_dir.join("postgresql.base.conf").exists()).await?;
    let log = || fs::read_to_string(home.join("patroni.log")).unwrap_or_default();
    let steady = match flavour {
        Flavour::Ours => r#""levelname":"INFO","message":"no action. I am (node1), the leader with the lock"}"#,
        Flavour::Upstream => "INFO: no action. I am (node1), the leader with the lock",
    };
    wait_until("a steady line in the log", LIMIT, || log().contains(steady)).await.with_context(log)?;
    agent.kill()?;
    drop(server.process);
    sandbox.finish();
    Ok(())
}

async fn wait_until_primary(rest: Rest) -> Result<Value> {
    wait_for("the node to lead", LIMIT, || async move {
        let answer = rest.get("/primary").await?;
        ensure!(answer.code == 200, "{}: {}", answer.code, answer.text);
        answer.json()
    })
    .await
}
