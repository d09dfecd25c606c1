//! Custom bootstrap and replica methods on real servers: point-in-time recovery, base backups with a WAL directory and
//! tablespaces elsewhere, and methods of the user's own.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use harness::{BIN_DIR, Cluster, Node, PATIENCE, recording, run};
use model::pg::DataDir;
use postgres::{CloneSource, Progress, StartAs, StopMode, TaskHandle};
use serde_json::{Value, json};

/// Finds the value of an argument `--datadir=...`, `--role=...`: the start of a user's script.
const ARGUMENTS: &str =
    "#!/bin/sh\nfor a; do case $a in --datadir=*) d=${a#*=};; --connstring=*) c=${a#*=};; esac; done\n";

fn script(cluster: &Cluster, name: &str, text: &str) -> String {
    let path = cluster.root.path().join(name);
    std::fs::write(&path, format!("{ARGUMENTS}{text}\n")).unwrap();
    format!("/bin/sh {}", path.display())
}

/// A primary that archives, a base backup of it, and three rows: before the backup, after it, and after the moment that
/// is returned.
async fn archiving(cluster: &Cluster) -> (Node, PathBuf, PathBuf, String) {
    let archive = cluster.root.path().join("archive");
    std::fs::create_dir(&archive).unwrap();
    let parameters = json!({
        "archive_mode": "on", "archive_command": format!("cp %p {}/%f", archive.display()), "max_connections": 120,
    });
    let origin = cluster.node_with("origin", json!({"parameters": parameters}), json!({}));
    origin.bootstrap().await;
    origin.sql("CREATE TABLE t AS SELECT 1 AS x").await;
    let backup = cluster.root.path().join("backup");
    let pg_basebackup = Command::new(format!("{BIN_DIR}/pg_basebackup"))
        .args(["-X", "none", "--checkpoint=fast", "-D"])
        .arg(&backup)
        .args(["-d", &format!("host=127.0.0.1 port={} user=repl", origin.port)])
        .env("PGPASSWORD", "r3pl-secret:\\")
        .output()
        .unwrap();
    assert!(pg_basebackup.status.success(), "{}", String::from_utf8_lossy(&pg_basebackup.stderr));
    origin.sql("INSERT INTO t VALUES (2)").await;
    let moment = origin.sql("SELECT clock_timestamp()").await.unwrap();
    origin.sql("INSERT INTO t VALUES (3)").await;
    let last = origin.sql("SELECT pg_walfile_name(pg_switch_wal())").await.unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    while !archive.join(&last).exists() {
        assert!(std::time::Instant::now() < deadline, "{last} was not archived");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (origin, backup, archive, moment)
}

fn restored(cluster: &Cluster, name: &str, backup: &Path, recovery: Value) -> Node {
    let command = script(cluster, &format!("{name}.sh"), &format!("cp -a {} $d", backup.display()));
    let bootstrap = json!({"method": "pitr", "pitr": {"command": command, "recovery_conf": recovery}});
    cluster.node_with(name, json!({}), bootstrap)
}

#[test]
fn point_in_time_recovery_from_a_backup_and_archived_wal() {
    run("point_in_time_recovery_from_a_backup_and_archived_wal", |cluster| async move {
        let (origin, backup, archive, moment) = archiving(&cluster).await;
        let recovery = |action: &str| {
            json!({
                "restore_command": format!("cp {}/%f %p", archive.display()), "recovery_target_timeline": "latest",
                "recovery_target_time": moment, "recovery_target_action": action,
            })
        };
        let node = restored(&cluster, "n2", &backup, recovery("promote"));
        let (task, seen) = recording();
        node.pg.initdb(&task).await.unwrap();
        // `pg_ctl_timeout` does not count: recovery takes as long as it takes.
        node.pg.start(StartAs::Primary, Duration::ZERO, &task).await.unwrap();
        assert_eq!(*seen.lock().unwrap(), [Progress::CustomBootstrap, Progress::Restored]);
        let during = std::fs::read_to_string(node.data_dir.join("pg_hba.conf")).unwrap();
        assert!(during.contains("trust"), "{during}");
        node.pg.post_bootstrap(&task).await.unwrap();
        let snapshot = node.until("primary", |snapshot| snapshot.is_primary()).await;
        assert_eq!(snapshot.server.unwrap().timeline.unwrap().0, 2);
        assert_eq!(node.sql("SELECT string_agg(x::text, ',' ORDER BY x) FROM t").await.as_deref(), Some("1,2"));
        // It recovered with what its origin had, and runs with what is configured.
        assert_eq!(node.sql("SHOW max_connections").await.as_deref(), Some("100"));
        assert!(snapshot.pending_restart.is_empty(), "{:?}", snapshot.pending_restart);
        for file in ["postgresql.auto.conf", "postgresql.conf"] {
            let text = std::fs::read_to_string(node.data_dir.join(file)).unwrap();
            assert!(!text.contains("recovery_target_time = '2"), "{file}: {text}");
        }
        let hba = std::fs::read_to_string(node.data_dir.join("pg_hba.conf")).unwrap();
        assert!(!hba.contains("trust"), "{hba}");
        node.pg.stop(StopMode::Immediate, &task).await.unwrap();

        // A recovery that pauses at its target can be looked at, and waits for somebody.
        let paused = restored(&cluster, "n3", &backup, recovery("pause"));
        paused.pg.initdb(&task).await.unwrap();
        let pg = std::sync::Arc::clone(&paused.pg);
        let starting = tokio::spawn(async move { pg.start(StartAs::Primary, PATIENCE, &TaskHandle::detached()).await });
        paused.until("paused", |snapshot| snapshot.server.as_ref().is_some_and(|server| server.replay_paused)).await;
        assert!(!starting.is_finished());
        assert_eq!(paused.sql("SELECT max(x) FROM t").await.as_deref(), Some("2"));
        paused.sql("SELECT pg_wal_replay_resume()").await;
        starting.await.unwrap().unwrap();
        paused.pg.post_bootstrap(&task).await.unwrap();
        assert!(paused.pg.observe().await.is_primary());
        paused.pg.stop(StopMode::Immediate, &task).await.unwrap();
        origin.pg.stop(StopMode::Immediate, &task).await.unwrap();
    });
}

#[test]
fn methods_are_tried_in_order_with_their_arguments() {
    run("methods_are_tried_in_order_with_their_arguments", |cluster| async move {
        let a = cluster.primary("a").await;
        let log = cluster.root.path().join("calls");
        let call = |name: &str, rest: &str| {
            let text =
                format!("echo \"{name} $@ kept=$(ls $d 2>/dev/null | grep -c keepsake)\" >> {}; {rest}", log.display());
            script(&cluster, &format!("{name}.sh"), &text)
        };
        let section = json!({
            "create_replica_methods": ["first", "second", "third", "basebackup"],
            "first": {"command": call("first", "touch $d.made; mkdir -p $d; touch $d/leftover; exit 3"), "retries": 2, "no_leader": 1},
            "second": {"command": call("second", "exit 1"), "no_params": true, "keep_data": true, "level": "x y"},
            "third": {"command": call("third", "exit 0"), "keep_data": true},
            "basebackup": ["verbose", {"max-rate": "100M"}],
        });
        let b = cluster.node_with("b", section, json!({}));
        std::fs::create_dir(&b.data_dir).unwrap();
        std::fs::write(b.data_dir.join("keepsake"), "").unwrap();
        let task = TaskHandle::detached();
        let source = CloneSource { name: "a".to_owned(), upstream: a.upstream(None) };
        // Without a source only methods that need none are tried.
        let error = b.pg.as_ref().clone_from(None, false, &task).await.unwrap_err();
        assert!(
            error.starts_with("replica method first failed (exit status: 3)") && !error.contains("second"),
            "{error}"
        );
        std::fs::create_dir_all(&b.data_dir).unwrap();
        std::fs::write(b.data_dir.join("keepsake"), "").unwrap();
        b.pg.as_ref().clone_from(Some(&source), false, &task).await.unwrap();
        assert_eq!(b.pg.observe().await.data_dir, DataDir::Present);
        let calls = std::fs::read_to_string(&log).unwrap();
        let calls: Vec<&str> = calls.lines().collect();
        let common = format!("--scope=demo --role=replica --datadir={}", b.data_dir.display());
        let dsn = format!("user=repl host=127.0.0.1 port={}", a.port);
        assert_eq!(calls[0], format!("first --retries=2 {common} --connstring= kept=0"));
        assert!(
            calls[1].starts_with(&format!("first --retries=2 {common} --connstring=dbname=postgres {dsn}")),
            "{calls:?}"
        );
        assert_eq!(calls[2], "second --level=x y kept=0");
        assert!(calls[3].starts_with(&format!("third {common}")) && calls[3].ends_with("kept=0"), "{calls:?}");
        assert!(!calls.concat().contains("secret"), "{calls:?}");
    });
}

#[test]
fn a_base_backup_keeps_wal_and_tablespaces_elsewhere_and_tells_how_far_it_is() {
    run("a_base_backup_keeps_wal_and_tablespaces_elsewhere_and_tells_how_far_it_is", |cluster| async move {
        let a = cluster.primary("a").await;
        let path = |name: &str| cluster.root.path().join(name);
        for name in ["space-a", "space-b"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        a.sql(&format!("CREATE TABLESPACE far LOCATION '{}'", path("space-a").display())).await;
        a.sql("CREATE TABLE t TABLESPACE far AS SELECT generate_series(1, 200000) AS x").await;
        let mapping = format!("{}={}", path("space-a").display(), path("space-b").display());
        let options = json!([{"waldir": path("wal-b")}, {"tablespace-mapping": mapping}, {"pgdata": "/elsewhere"}, {"max-rate": "32M"}]);
        let b = cluster.node_with("b", json!({"basebackup": options}), json!({}));
        let (task, seen) = recording();
        let source = CloneSource { name: "a".to_owned(), upstream: a.upstream(None) };
        let start = || async {
            b.pg.start(StartAs::Standby(Some(a.upstream(None))), PATIENCE, &TaskHandle::detached()).await.unwrap();
            assert_eq!(b.sql("SELECT count(*) FROM t").await.as_deref(), Some("200000"));
            b.pg.stop(StopMode::Fast, &TaskHandle::detached()).await.unwrap();
        };
        b.pg.as_ref().clone_from(Some(&source), false, &task).await.unwrap();
        assert_eq!(std::fs::read_link(b.data_dir.join("pg_wal")).unwrap(), path("wal-b"));
        assert!(path("space-b").read_dir().unwrap().next().is_some());
        let reports = seen.lock().unwrap().clone();
        let Some(Progress::Copied(copied)) = reports.first() else { panic!("no progress: {reports:?}") };
        assert!(copied.total_bytes.is_some_and(|total| total > 10 << 20), "{copied:?}");
        start().await;
        // A second copy finds the places empty, and the WAL directory stays where it is without being told.
        let mut config = b.config();
        config.basebackup.retain(|option| !option.starts_with("--waldir"));
        b.pg.apply_config(config, model::Role::Replica).await.unwrap();
        b.pg.remove_data_dir().await.unwrap();
        assert_eq!(path("wal-b").read_dir().unwrap().count() + path("space-b").read_dir().unwrap().count(), 0);
        b.pg.as_ref().clone_from(Some(&source), false, &task).await.unwrap();
        assert_eq!(std::fs::read_link(b.data_dir.join("pg_wal")).unwrap(), path("wal-b"));
        start().await;
    });
}
