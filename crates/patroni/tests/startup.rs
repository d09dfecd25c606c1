//! A node that cannot run says why in one sentence, ends with an error, and has changed nothing: neither its disk nor
//! the store. Each case runs the real program against a real store.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Cluster, ClusterSpec, Flavour, Owner, Tree, tree_of, wait_for};

const END_LIMIT: Duration = Duration::from_secs(30);
const BOOTSTRAP_LIMIT: Duration = Duration::from_secs(60);

/// One node and a store, nothing started.
async fn one_node(name: &str) -> Result<Cluster> {
    ClusterSpec::quick(name).flavours(&[Flavour::from_env()]).prepare().await
}

/// Starts the agent with `config` and expects it to refuse: words of the sentence, a code other than zero, and no trace.
async fn refuses(cluster: &Cluster, owner: &Owner, config: &Path, words: &[&str]) -> Result<String> {
    let node = &cluster.nodes[0];
    let before = (tree_of(node.home())?, cluster.etcd.keys("/").ok());
    let (code, said) = node.run_to_end(owner, &[config.as_os_str()], END_LIMIT).await?;
    ensure!(code == 1, "it ended with {code}, expected 1: {said}");
    for word in words {
        ensure!(said.contains(word), "expected {word:?} in: {said}");
    }
    ensure!(!said.contains("panicked") && !said.contains("stack backtrace"), "it panicked: {said}");
    let after = (tree_of(node.home())?, cluster.etcd.keys("/").ok());
    let touched = |from: &Tree, to: &Tree| -> Vec<PathBuf> {
        from.iter().filter(|(path, state)| to.get(*path) != Some(*state)).map(|(path, _)| path.clone()).collect()
    };
    let (gone, new) = (touched(&before.0, &after.0), touched(&after.0, &before.0));
    ensure!(gone.is_empty() && new.is_empty(), "it changed files: {gone:?}, {new:?}; it said: {said}");
    ensure!(before.1 == after.1, "it changed keys: {:?} to {:?}; it said: {said}", before.1, after.1);
    Ok(said)
}

/// The same, where nothing but the sentence is expected on standard error.
async fn refuses_with_one_line(cluster: &Cluster, config: &Path, words: &[&str]) -> Result<()> {
    let said = refuses(cluster, cluster.sandbox.owner(), config, words).await?;
    ensure!(said.lines().count() == 1, "expected one line: {said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_no_configuration() -> Result<()> {
    let cluster = one_node("badfile").await?;
    let directory = cluster.sandbox.directory("configs")?;
    let write = |name: &str, text: &str| -> Result<PathBuf> {
        let path = directory.join(name);
        cluster.sandbox.write(&path, text)?;
        Ok(path)
    };
    refuses_with_one_line(&cluster, &directory.join("absent.yml"), &["absent.yml"]).await?;
    let malformed = write("malformed.yml", "scope: batman\nname: [node1\nrestapi: {\n")?;
    refuses_with_one_line(&cluster, &malformed, &["malformed.yml", "line"]).await?;
    refuses_with_one_line(&cluster, &write("list.yml", "- scope\n- name\n")?, &["list.yml", "mapping"]).await?;
    refuses_with_one_line(&cluster, &write("empty.yml", "")?, &["empty.yml"]).await?;
    let binary = directory.join("binary.yml");
    fs::write(&binary, [0xff, 0xfe, 0x00, 0x80])?;
    refuses_with_one_line(&cluster, &binary, &["binary.yml"]).await?;
    // Root reads everything; the servers' user does not.
    let unreadable = write("unreadable.yml", "scope: batman\n")?;
    fs::set_permissions(&unreadable, Permissions::from_mode(0o000))?;
    refuses_with_one_line(&cluster, &unreadable, &["unreadable.yml", "ermission denied"]).await?;
    cluster.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_cannot_work() -> Result<()> {
    let cluster = one_node("badvalue").await?;
    let node = &cluster.nodes[0];
    let good = node.config()?;
    let file = node.home().join("file");
    fs::write(&file, "")?;
    let below_a_file = file.join("data");
    let cases: &[(Value, &[&str])] = &[
        (json!({"name": null}), &["name"]),
        (json!({"scope": null}), &["scope"]),
        (json!({"etcd3": null}), &["etcd3"]),
        (json!({"etcd3": null, "papyrus": {"host": "127.0.0.1"}}), &["etcd3"]),
        (json!({"etcd3": {"host": "not a host"}}), &["etcd3", "not a host"]),
        (json!({"restapi": {"listen": "127.0.0.1:http"}}), &["restapi.listen", "127.0.0.1:http"]),
        (json!({"postgresql": {"data_dir": null}}), &["postgresql.data_dir"]),
        (json!({"postgresql": {"data_dir": below_a_file}}), &["postgresql.data_dir", "file"]),
        (json!({"postgresql": {"data_dir": "/proc/no/such/data"}}), &["postgresql.data_dir", "/proc"]),
        (json!({"postgresql": {"bin_dir": "/no/such/bin"}}), &["postgresql.bin_dir", "/no/such/bin"]),
        (json!({"postgresql": {"authentication": null}}), &["postgresql.authentication"]),
    ];
    for (change, words) in cases {
        node.write_config(&good)?;
        node.change_config(change)?;
        refuses_with_one_line(&cluster, &node.config_path(), words).await.with_context(|| change.to_string())?;
    }
    cluster.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn root_is_refused() -> Result<()> {
    let cluster = one_node("root").await?;
    if cluster.sandbox.owner().ids().is_some() {
        let path = cluster.nodes[0].config_path();
        let said = refuses(&cluster, &Owner::tester(), &path, &["root"]).await?;
        ensure!(said.lines().count() == 1, "expected one line: {said}");
    } else {
        println!("not root: nothing to refuse");
    }
    cluster.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_in_use() -> Result<()> {
    let cluster = one_node("port").await?;
    let node = &cluster.nodes[0];
    let path = node.config_path();
    let owner = cluster.sandbox.owner();
    for port in [node.rest_port, node.pg_port] {
        let _listener = TcpListener::bind(("127.0.0.1", port))?;
        refuses(&cluster, owner, &path, &[&port.to_string(), "in use"]).await?;
    }
    cluster.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn data_of_another_cluster() -> Result<()> {
    let mut cluster = one_node("alien").await?;
    cluster.nodes[0].start()?;
    cluster.healthy(BOOTSTRAP_LIMIT).await?;
    let system_id = cluster.keys()?.remove("initialize").context("find the system identifier")?;
    assert_eq!(cluster.nodes[0].stop().await?, Some(0));
    cluster.etcd.put("/service/robin/initialize", "1234567890123456789")?;
    cluster.nodes[0].change_config(&json!({"scope": "robin"}))?;
    let path = cluster.nodes[0].config_path();
    refuses(&cluster, cluster.sandbox.owner(), &path, &[&system_id, "1234567890123456789"]).await?;
    cluster.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_password_for_the_store() -> Result<()> {
    let cluster = one_node("login").await?;
    for arguments in [&["user", "add", "root:right"][..], &["user", "grant-role", "root", "root"], &["auth", "enable"]]
    {
        cluster.etcd.etcdctl(arguments)?;
    }
    let node = &cluster.nodes[0];
    node.change_config(&json!({"etcd3": {"username": "root", "password": "very-wrong"}}))?;
    let said = refuses(&cluster, cluster.sandbox.owner(), &node.config_path(), &["etcd3"]).await?;
    ensure!(!said.contains("very-wrong"), "the password is in the output: {said}");
    cluster.finish()
}

/// Not a reason to end: the replica goes on trying, and says what to look at.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_password_for_replication() -> Result<()> {
    let mut cluster = ClusterSpec::quick("password").flavours(&[Flavour::from_env(); 2]).prepare().await?;
    cluster.nodes[0].start()?;
    cluster.healthy_with(1, BOOTSTRAP_LIMIT).await?;
    let wrong = json!({"postgresql": {"authentication": {"replication": {"password": "very-wrong"}}}});
    cluster.nodes[1].change_config(&wrong)?;
    cluster.nodes[1].start()?;
    let replica = &cluster.nodes[1];
    wait_for("the reason in the replica's log", BOOTSTRAP_LIMIT, || async {
        let log = replica.log();
        ensure!(log.contains("password authentication failed for user \"replicator\""), "{log}");
        Ok(())
    })
    .await?;
    assert!(!replica.log().contains("very-wrong"), "the password is in the log");
    cluster.nodes[1]
        .change_config(&json!({"postgresql": {"authentication": {"replication": {"password": "rep-pass"}}}}))?;
    cluster.nodes[1].signal(testkit::Signal::HUP)?;
    cluster.healthy(BOOTSTRAP_LIMIT).await?;
    cluster.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_errors_end_with_two() -> Result<()> {
    let cluster = one_node("usage").await?;
    let arguments = [OsStr::new("--no-such-option")];
    let (code, said) = cluster.nodes[0].run_to_end(cluster.sandbox.owner(), &arguments, END_LIMIT).await?;
    assert_eq!(code, 2, "{said}");
    cluster.finish()
}
