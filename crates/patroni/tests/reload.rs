//! One of each kind of setting, changed on a running cluster: it takes effect, waits for a restart and says so, or is
//! refused in one line.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Cluster, ClusterSpec, Flavour, Node, Rest, Signal, free_port, wait_for};

/// For things that happen within a few cycles (loop_wait 2), on a busy machine.
const SOON: Duration = Duration::from_secs(30);
const END_LIMIT: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_setting() -> Result<()> {
    let mut cluster = ClusterSpec::quick("reload").flavours(&[Flavour::from_env(); 2]).prepare().await?;
    let socket = notify_socket(&cluster)?;
    let path = cluster.nodes[0].home().join("notify").display().to_string();
    cluster.nodes[0].start_with(&[
        ("NOTIFY_SOCKET", path.as_str()),
        ("PATRONI_LOG_LEVEL", "INFO"),
        ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
        ("PG_MALLOC_ARENA_MAX", "3"),
    ])?;
    cluster.healthy_with(1, Duration::from_secs(60)).await?;
    cluster.nodes[1].start()?;
    cluster.healthy(Duration::from_secs(60)).await?;

    environment_of_the_server(&cluster.nodes[0])?;
    times(&cluster).await?;
    parameters(&cluster).await?;
    parameters_by_role(&cluster).await?;
    access_files(&cluster).await?;
    slots(&cluster).await?;
    let mut told = notifications(&socket);
    tags_and_addresses(&cluster).await?;
    callbacks(&cluster).await?;
    logging(&mut cluster).await?;
    passwords(&mut cluster).await?;
    told.extend(notifications(&socket));
    what_needs_a_restart(&mut cluster).await?;
    rest_api(&mut cluster).await?;
    without_a_store(&mut cluster).await?;
    a_second_node_of_that_name(&cluster).await?;
    told.extend(notifications(&socket));

    assert_eq!(cluster.nodes[0].stop().await?, Some(0));
    told.extend(notifications(&socket));
    let states: Vec<&str> = told.iter().map(|text| text.split('=').next().unwrap_or_default()).collect();
    assert_eq!(states[..3], ["READY", "RELOADING", "READY"], "{told:?}");
    assert!(told[1].contains("\nMONOTONIC_USEC=") && states.contains(&"STOPPING"), "{told:?}");
    cluster.finish()
}

fn notify_socket(cluster: &Cluster) -> Result<UnixDatagram> {
    let path = cluster.nodes[0].home().join("notify");
    let socket = UnixDatagram::bind(&path)?;
    cluster.sandbox.owner().give(&path)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn notifications(socket: &UnixDatagram) -> Vec<String> {
    let mut buffer = [0; 256];
    let next = || socket.recv(&mut buffer).ok().map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned());
    std::iter::from_fn(next).collect()
}

fn environment_of_the_server(node: &Node) -> Result<()> {
    let environment = fs::read(format!("/proc/{}/environ", node.postmaster_pid()?))?;
    let variables: Vec<String> =
        environment.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned()).collect();
    for prefix in ["PATRONI_", "KUBERNETES_", "NOTIFY_SOCKET", "PG_MALLOC_ARENA_MAX"] {
        assert!(!variables.iter().any(|variable| variable.starts_with(prefix)), "{prefix}: {variables:?}");
    }
    assert!(variables.iter().any(|variable| variable == "MALLOC_ARENA_MAX=3"), "{variables:?}");
    Ok(())
}

async fn patch(cluster: &Cluster, patch: Value) -> Result<()> {
    let answer = cluster.nodes[0].rest().patch("/config", &patch).await?;
    ensure!(answer.code == 200, "PATCH /config {patch}: {answer:?}");
    Ok(())
}

/// Changes the node's file and sends SIGHUP.
fn reload(node: &mut Node, change: &Value) -> Result<()> {
    node.change_config(change)?;
    node.signal(Signal::HUP)
}

/// Waits until a query answers so.
async fn answers(node: &Node, query: &str, expected: &str) -> Result<()> {
    wait_for(&format!("{expected:?} from {query} on {}", node.name), SOON, || async {
        let answer = node.sql().value(query).await?;
        ensure!(answer == expected, "it is {answer}");
        Ok(())
    })
    .await
}

async fn logged(node: &Node, text: &str) -> Result<()> {
    wait_for(&format!("{text:?} in the log of {}", node.name), SOON, || async {
        ensure!(node.log().contains(text), "it is not there");
        Ok(())
    })
    .await
}

async fn member(cluster: &Cluster, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Result<()> {
    wait_for(&format!("{what} in the key of {name}"), SOON, || async {
        let key = cluster.keys()?.remove(&format!("members/{name}")).context("find the key")?;
        ensure!(holds(&serde_json::from_str(&key)?), "{key}");
        Ok(())
    })
    .await
}

async fn times(cluster: &Cluster) -> Result<()> {
    patch(cluster, json!({"ttl": 25, "loop_wait": 1, "retry_timeout": 3})).await?;
    wait_for("the leader's lease to last 25 s", SOON, || async {
        let key = cluster.etcd.etcdctl(&["get", "-w", "json", "/service/batman/leader"])?;
        let key: Value = serde_json::from_str(&key)?;
        let lease = key["kvs"][0]["lease"].as_u64().context("find the lease")?;
        let lease = cluster.etcd.etcdctl(&["lease", "timetolive", &format!("{lease:x}")])?;
        ensure!(lease.contains("TTL(25s)"), "{lease}");
        Ok(())
    })
    .await
}

async fn parameters(cluster: &Cluster) -> Result<()> {
    let node = &cluster.nodes[0];
    patch(cluster, json!({"postgresql": {"parameters": {"work_mem": "12MB", "fsync": "perhaps"}}})).await?;
    answers(node, "SHOW work_mem", "12MB").await?;
    logged(node, "postgresql.parameters.fsync expects on or off").await?;

    patch(cluster, json!({"postgresql": {"parameters": {"max_connections": 60, "shared_buffers": "24MB"}}})).await?;
    logged(node, "Changed max_connections from 50 to 60 (restart might be required)").await?;
    // What the node's own file says wins: nothing waits there.
    let reason = json!({"max_connections": {"old_value": "50", "new_value": "60"}});
    member(cluster, "node1", "the reason", |key| {
        key["pending_restart"] == json!(true) && key["pending_restart_reason"] == reason
    })
    .await?;
    let status = node.rest().get("/patroni").await?.json()?;
    assert_eq!((&status["pending_restart"], &status["pending_restart_reason"]), (&json!(true), &reason), "{status}");
    member(cluster, "node2", "the reason", |key| key["pending_restart_reason"] == reason).await?;
    let rows = node.ctl(&["list", "-f", "json"]).await?.json()?;
    let row = &rows.as_array().context("read a list")?[0];
    assert_eq!(
        (&row["Pending restart"], &row["Pending restart reason"]),
        (&json!("*"), &json!("max_connections: 50->60"))
    );

    patch(
        cluster,
        json!({"postgresql": {"parameters": {"max_connections": 50, "shared_buffers": null, "fsync": null}}}),
    )
    .await?;
    for name in ["node1", "node2"] {
        member(cluster, name, "no pending restart", |key| key.get("pending_restart").is_none()).await?;
    }
    Ok(())
}

async fn parameters_by_role(cluster: &Cluster) -> Result<()> {
    let settings = json!({
        "parameters_primary": {"lock_timeout": "1min", "max_connections": 7}, "parameters_replica": {"lock_timeout": "2min"},
    });
    patch(cluster, json!({"postgresql": settings})).await?;
    answers(&cluster.nodes[0], "SHOW lock_timeout", "1min").await?;
    answers(&cluster.nodes[1], "SHOW lock_timeout", "2min").await?;
    answers(&cluster.nodes[0], "SHOW max_connections", "50").await?;
    patch(cluster, json!({"postgresql": {"parameters_primary": null, "parameters_replica": null}})).await?;
    answers(&cluster.nodes[1], "SHOW lock_timeout", "0").await
}

async fn access_files(cluster: &Cluster) -> Result<()> {
    // The replica has no say over the leader's files, and the dynamic lists none over the local ones.
    patch(cluster, json!({"postgresql": {"pg_ident": ["people alice boss"], "pg_hba": ["local all all reject"]}}))
        .await?;
    answers(&cluster.nodes[0], "SELECT sys_name FROM pg_ident_file_mappings", "alice").await?;
    answers(&cluster.nodes[0], "SELECT count(*) FROM pg_hba_file_rules WHERE auth_method = 'reject'", "0").await?;
    patch(cluster, json!({"postgresql": {"pg_ident": null, "pg_hba": null}})).await
}

async fn slots(cluster: &Cluster) -> Result<()> {
    let names = "SELECT coalesce(string_agg(slot_name, ',' ORDER BY slot_name), '') FROM pg_replication_slots";
    patch(cluster, json!({"slots": {"extra": {"type": "physical"}}})).await?;
    answers(&cluster.nodes[0], names, "extra,node2").await?;
    patch(cluster, json!({"slots": null})).await?;
    answers(&cluster.nodes[0], names, "node2").await?;
    // Slots that are there are nobody's business any more.
    patch(cluster, json!({"postgresql": {"use_slots": false}})).await?;
    answers(&cluster.nodes[1], "SHOW primary_slot_name", "").await?;
    patch(cluster, json!({"postgresql": {"use_slots": null}})).await?;
    answers(&cluster.nodes[1], "SHOW primary_slot_name", "node2").await
}

async fn tags_and_addresses(cluster: &Cluster) -> Result<()> {
    let node = &cluster.nodes[1];
    node.change_config(&json!({
        "tags": {"zone": "b", "nofailover": true}, "postgresql": {"connect_address": format!("localhost:{}", node.pg_port)},
    }))?;
    let answer = node.rest().post("/reload", &json!({})).await?;
    assert_eq!((answer.code, answer.text.as_str()), (202, "reload scheduled"));
    let url = format!("postgres://localhost:{}/postgres", node.pg_port);
    member(cluster, "node2", "tags and address", |key| {
        key["tags"] == json!({"zone": "b", "nofailover": true}) && key["conn_url"] == json!(url)
    })
    .await
}

async fn callbacks(cluster: &Cluster) -> Result<()> {
    let told = cluster.nodes[0].home().join("told");
    let script = format!("/bin/sh -c 'echo \"$@\" >> {}' callback", told.display());
    patch(cluster, json!({"postgresql": {"callbacks": {"on_reload": script}}})).await?;
    patch(cluster, json!({"postgresql": {"parameters": {"work_mem": "13MB"}}})).await?;
    wait_for("the callback", SOON, || async {
        let text = fs::read_to_string(&told)?;
        ensure!(text.lines().any(|line| line == "on_reload primary batman"), "{text}");
        Ok(())
    })
    .await
}

async fn logging(cluster: &mut Cluster) -> Result<()> {
    let dir = cluster.sandbox.directory("logs")?;
    let node = &mut cluster.nodes[1];
    reload(node, &json!({"log": {"level": "DEBUG", "dir": dir, "type": "json", "static_fields": {"app": "x"}}}))?;
    wait_for("lines of level DEBUG in the file", SOON, || async {
        let text = fs::read_to_string(dir.join("patroni.log"))?;
        ensure!(text.lines().any(|line| line.contains("\"DEBUG\"")), "{text}");
        ensure!(text.lines().all(|line| line.starts_with('{') && line.contains("\"app\"")), "{text}");
        Ok(())
    })
    .await?;
    let node = &mut cluster.nodes[1];
    reload(node, &json!({"log": null}))?;
    logged(node, "configuration reloaded").await
}

/// Both are changed in the database first, as an administrator would; connections are then cut, so that new ones need
/// the new passwords.
async fn passwords(cluster: &mut Cluster) -> Result<()> {
    let sql = cluster.nodes[0].sql();
    sql.rows("CREATE ROLE boss SUPERUSER LOGIN PASSWORD 'boss-pass'; ALTER ROLE replicator PASSWORD 'new-pass'")
        .await?;
    cluster.caught_up("node1", SOON).await?;
    let change = json!({"postgresql": {"authentication": {
        "superuser": {"username": "boss", "password": "boss-pass"}, "replication": {"password": "new-pass"},
    }}});
    for node in &mut cluster.nodes {
        reload(node, &change)?;
    }
    for node in &cluster.nodes {
        let agent = format!("SELECT usename FROM pg_stat_activity WHERE application_name = 'Patroni {}'", node.name);
        answers(node, &agent, "boss").await?;
    }
    let pid = "SELECT pid FROM pg_stat_replication WHERE state = 'streaming'";
    let before = sql.value(pid).await?;
    sql.value(&format!("SELECT pg_terminate_backend({before})")).await?;
    wait_for("another connection of the replica", SOON, || async {
        ensure!(sql.value(pid).await? != before, "it is the old one");
        Ok(())
    })
    .await?;
    for node in &cluster.nodes {
        assert!(!node.log().contains("new-pass") && !node.log().contains("boss-pass"), "a password is in the log");
    }
    Ok(())
}

async fn what_needs_a_restart(cluster: &mut Cluster) -> Result<()> {
    let node = &mut cluster.nodes[0];
    let before = node.config()?;
    let (data_dir, port) = (node.data_dir().display().to_string(), free_port());
    reload(
        node,
        &json!({
            "name": "other", "etcd3": {"host": "127.0.0.1:1"},
            "postgresql": {"data_dir": "/tmp/other", "listen": format!("127.0.0.1:{port}")},
        }),
    )?;
    let old_port = node.pg_port;
    let node = &cluster.nodes[0];
    for (setting, old, new) in [
        ("name", "node1", "other"),
        ("postgresql.data_dir", &data_dir, "/tmp/other"),
        ("etcd3.host", &format!("127.0.0.1:{}", cluster.etcd.port()), "127.0.0.1:1"),
    ] {
        logged(
            node,
            &format!("{setting} was changed from {old} to {new}: this takes effect when patroni is restarted"),
        )
        .await?;
    }
    // The server goes on where it listens, and so does the agent's watch over it.
    let reason = json!({"old_value": old_port.to_string(), "new_value": port.to_string()});
    member(cluster, "node1", "the new port", |key| key["pending_restart_reason"]["port"] == reason).await?;
    assert_eq!(node.rest().code("/primary").await, Some(200));

    cluster.nodes[0].write_config(&before)?;
    cluster.nodes[0].signal(Signal::HUP)?;
    member(cluster, "node1", "no pending restart", |key| key.get("pending_restart").is_none()).await?;

    // A file that is none changes nothing.
    fs::write(cluster.nodes[0].config_path(), "scope: [\n")?;
    cluster.nodes[0].signal(Signal::HUP)?;
    logged(&cluster.nodes[0], "the configuration was not reloaded: ").await?;
    cluster.nodes[0].write_config(&before)
}

async fn rest_api(cluster: &mut Cluster) -> Result<()> {
    let node = &mut cluster.nodes[1];
    let before = node.config()?;
    let (home, port) = (node.home().to_owned(), free_port());
    for name in ["first", "second"] {
        certificate(cluster.sandbox.owner(), &home, name)?;
    }
    let current = |name: &str| -> Result<()> {
        for kind in ["crt", "key"] {
            let path = home.join(format!("server.{kind}"));
            fs::copy(home.join(format!("{name}.{kind}")), &path)?;
            cluster.sandbox.owner().give(&path)?;
        }
        Ok(())
    };
    let authentication = json!({"username": "u", "password": "rest-pass"});
    reload(node, &json!({"restapi": {"listen": format!("127.0.0.1:{port}"), "authentication": authentication}}))?;
    wait_for("401 on the new port", SOON, || async {
        let answer = Rest { port }.post("/reload", &json!({})).await?;
        ensure!(answer.code == 401, "{answer:?}");
        Ok(())
    })
    .await?;

    current("first")?;
    reload(node, &json!({"restapi": {"certfile": home.join("server.crt"), "keyfile": home.join("server.key")}}))?;
    shows_certificate(port, "first").await?;
    current("second")?;
    node.signal(Signal::HUP)?;
    shows_certificate(port, "second").await?;
    fs::write(home.join("server.crt"), "nonsense")?;
    node.signal(Signal::HUP)?;
    logged(node, "the REST API goes on as before: restapi.certfile").await?;
    shows_certificate(port, "second").await?;

    node.write_config(&before)?;
    node.signal(Signal::HUP)?;
    let rest = node.rest();
    wait_for("the former port", SOON, || async {
        let answer = rest.get("/replica").await?;
        ensure!(answer.code == 503 || answer.code == 200, "{answer:?}");
        Ok(())
    })
    .await
}

fn certificate(owner: &testkit::Owner, home: &Path, name: &str) -> Result<()> {
    let arguments = format!(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={name} -keyout {name}.key -out {name}.crt"
    );
    let made = Command::new("openssl").args(arguments.split(' ')).current_dir(home).output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    ["crt", "key"].iter().try_for_each(|kind| owner.give(&home.join(format!("{name}.{kind}"))))
}

async fn shows_certificate(port: u16, name: &str) -> Result<()> {
    wait_for(&format!("certificate {name}"), SOON, || async {
        let client = Command::new("openssl")
            .args(["s_client", "-connect", &format!("127.0.0.1:{port}")])
            .stdin(Stdio::null())
            .output()?;
        let text = String::from_utf8_lossy(&client.stdout);
        ensure!(text.contains(&format!("subject=CN = {name}")), "{text}");
        Ok(())
    })
    .await
}

/// The dynamic configuration as last seen stays in force; `bootstrap.dcs` would bring back the old `work_mem`.
async fn without_a_store(cluster: &mut Cluster) -> Result<()> {
    cluster.etcd.stop()?;
    let node = &mut cluster.nodes[0];
    let lines = node.log().matches("configuration reloaded").count();
    reload(node, &json!({"postgresql": {"parameters": {"maintenance_work_mem": "77MB"}}}))?;
    let node = &cluster.nodes[0];
    wait_for("the reload", SOON, || async {
        ensure!(node.log().matches("configuration reloaded").count() > lines, "not yet");
        Ok(())
    })
    .await?;
    answers(node, "SHOW maintenance_work_mem", "77MB").await?;
    assert_eq!(node.sql().value("SHOW work_mem").await?, "13MB");
    cluster.etcd.resume(&cluster.sandbox).await?;
    cluster.healthy(Duration::from_secs(60)).await.map(|_| ())
}

async fn a_second_node_of_that_name(cluster: &Cluster) -> Result<()> {
    let node = &cluster.nodes[1];
    let mut config = node.config()?;
    let rest = format!("127.0.0.1:{}", free_port());
    config["restapi"] = json!({"listen": rest, "connect_address": rest});
    config["postgresql"]["listen"] = json!(format!("127.0.0.1:{}", free_port()));
    config["postgresql"]["data_dir"] = json!(node.home().join("second"));
    let path = node.home().join("second.yml");
    cluster.sandbox.write(&path, &config.to_string())?;
    let (code, said) = node.run_to_end(cluster.sandbox.owner(), &[path.as_os_str()], END_LIMIT).await?;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("a node named node2 is already running in the cluster batman"), "{said}");
    assert!(!node.home().join("second").exists());
    Ok(())
}
