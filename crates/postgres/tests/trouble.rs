//! Servers in trouble: hand-made recovery configuration, full and read-only disks, hooks that fail, backends that hang.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use harness::{BIN_DIR, PATIENCE, SmallDisk, recording, run};
use model::pg::{ControlState, DataDir, Postmaster};
use postgres::{Postgres, Progress, StartAs, StopMode, TaskHandle};
use serde_json::json;

#[test]
fn hand_made_recovery_configuration_is_noticed_and_written_anew() {
    run("hand_made_recovery_configuration_is_noticed_and_written_anew", |cluster| async move {
        let (a, b) = (cluster.primary("a").await, cluster.node("b"));
        let task = TaskHandle::detached();
        b.follow(&a).await;
        assert!(!b.pg.observe().await.recovery_stale);
        let wanted = a.upstream(Some("b"));
        let pid = b.pg.postmaster_pid();

        // ALTER SYSTEM wins over the main file.
        b.sql("ALTER SYSTEM SET restore_command = 'false'").await;
        b.sql("ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'").await;
        b.pg.reload();
        b.until("stale", |snapshot| {
            let server = snapshot.server.as_ref();
            let port = server.and_then(|server| server.upstream.as_ref()).map(|upstream| upstream.address.port);
            snapshot.recovery_stale && port == Some(1)
        })
        .await;
        b.pg.repoint(Some(&wanted), &task).await.unwrap();
        let snapshot = b.pg.observe().await;
        assert!(!snapshot.recovery_stale);
        assert_eq!(snapshot.server.unwrap().upstream, Some(wanted.clone()));
        assert_eq!((b.sql("SHOW restore_command").await.as_deref(), b.pg.postmaster_pid()), (Some(""), pid));

        // A server that would not be a standby after its next start is restarted as one.
        std::fs::rename(b.data_dir.join("standby.signal"), b.data_dir.join("recovery.signal")).unwrap();
        assert!(b.pg.observe().await.recovery_stale);
        b.pg.repoint(Some(&wanted), &task).await.unwrap();
        let snapshot = b.pg.observe().await;
        assert!(!snapshot.recovery_stale && snapshot.is_standby());
        assert!(b.pg.postmaster_pid() != pid && !b.data_dir.join("recovery.signal").exists());

        // What stands on the command line wins over everything.
        b.pg.stop(StopMode::Fast, &task).await.unwrap();
        let mut by_hand = Command::new(format!("{BIN_DIR}/pg_ctl"));
        by_hand
            .args(["start", "-w", "-s", "-l"])
            .arg(cluster.root.path().join("by-hand.log"))
            .arg("-D")
            .arg(&b.data_dir);
        by_hand.args(["-o", &format!("-p {} -c primary_conninfo='host=127.0.0.1 port=2'", b.port)]);
        assert!(by_hand.status().unwrap().success());
        b.pg.repoint(Some(&wanted), &task).await.unwrap();
        let server = b.pg.observe().await.server.unwrap();
        assert_eq!(server.upstream.map(|upstream| upstream.address.port), Some(2));
        b.pg.stop(StopMode::Fast, &task).await.unwrap();
    });
}

/// Pitfall 19: with archiving on, a shutdown switches WAL; the standbys have the checkpoint that is reported.
#[test]
fn with_archiving_on_standbys_have_the_reported_shutdown_checkpoint() {
    run("with_archiving_on_standbys_have_the_reported_shutdown_checkpoint", |cluster| async move {
        let archiving = json!({"parameters": {"archive_mode": "on", "archive_command": "true"}});
        let a = cluster.node_with("a", archiving, json!({}));
        a.bootstrap().await;
        let b = cluster.node("b");
        b.follow(&a).await;
        a.sql("CREATE TABLE t AS SELECT 1 AS x").await;
        let (task, seen) = recording();
        a.pg.stop(StopMode::Fast, &task).await.unwrap();
        let Some(Progress::ShutDown(checkpoint)) = seen.lock().unwrap().last().copied() else { panic!("not reported") };
        let server = b.pg.observe().await.server.unwrap();
        assert!(server.wal_position() > Some(checkpoint), "{:?} {checkpoint}", server.wal_position());
    });
}

/// Pitfall 1: a fast stop waits for a backend that hangs, and can be followed by an immediate one.
#[test]
fn a_backend_that_hangs_does_not_keep_the_server_from_being_stopped() {
    run("a_backend_that_hangs_does_not_keep_the_server_from_being_stopped", |cluster| async move {
        let a = cluster.primary("a").await;
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(a.port).user("boss").password("b0ss-secret").dbname("postgres");
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        let backend: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        let backend = rustix::process::Pid::from_raw(backend).unwrap();
        rustix::process::kill_process(backend, rustix::process::Signal::STOP).unwrap();
        let (cancel, cancelled) = tokio::sync::watch::channel(false);
        let pg = std::sync::Arc::clone(&a.pg);
        let stopping =
            tokio::spawn(
                async move { pg.stop(StopMode::Fast, &TaskHandle { cancelled, ..TaskHandle::detached() }).await },
            );
        a.until("stopping", |snapshot| snapshot.postmaster == Postmaster::Stopping).await;
        cancel.send(true).unwrap();
        assert!(stopping.await.unwrap().unwrap_err().contains("goes on stopping"));
        a.pg.stop(StopMode::Immediate, &TaskHandle::detached()).await.unwrap();
        let snapshot = a.pg.observe().await;
        assert_eq!(snapshot.postmaster, Postmaster::Absent);
        assert_ne!(snapshot.control.unwrap().state, ControlState::ShutDown);
        // Where nobody reaps orphans, a zombie is left.
        let status = std::fs::read_to_string(format!("/proc/{}/status", backend.as_raw_nonzero())).unwrap_or_default();
        assert!(status.is_empty() || status.contains("State:\tZ"), "the frozen backend is still there: {status}");
        connection.abort();
    });
}

#[test]
fn hooks_sockets_versions_and_permissions() {
    run("hooks_sockets_versions_and_permissions", |cluster| async move {
        let stopped = cluster.root.path().join("stopped");
        let hooks = json!({
            "pre_promote": "/bin/sh -c 'echo no >&2; exit 4'", "before_stop": format!("touch {}", stopped.display()),
            "use_unix_socket": true, "use_unix_socket_repl": true,
            // Over TCP nobody comes in: what works, works over the socket.
            "pg_hba": ["local all all scram-sha-256", "local replication all scram-sha-256",
                       "host replication all 127.0.0.1/32 scram-sha-256"],
        });
        let (a, mut b) = (cluster.primary("a").await, cluster.node_with("b", hooks, json!({})));
        b.follow(&a).await;
        let task = TaskHandle::detached();
        // Without a WAL receiver the timeline is asked for over a replication connection of its own.
        a.pg.stop(StopMode::Fast, &task).await.unwrap();
        let snapshot = b
            .until("without a receiver", |snapshot| {
                snapshot.server.as_ref().is_some_and(|server| server.receiver_status.is_none())
            })
            .await;
        assert_eq!(snapshot.server.unwrap().timeline.unwrap().0, 1);
        let (recorder, seen) = recording();
        let error = b.pg.promote(&|| true, &recorder).await.unwrap_err();
        assert_eq!(error, "pre_promote failed (exit status: 4): no");
        assert_eq!(*seen.lock().unwrap(), [Progress::PrePromote]);
        assert!(b.pg.observe().await.is_standby());
        b.pg.stop(StopMode::Fast, &task).await.unwrap();
        assert!(stopped.exists());

        let failed = |error: Result<(), String>, words: &str| {
            let error = error.unwrap_err();
            assert!(error.contains(words), "{error}");
        };
        let version = b.data_dir.join("PG_VERSION");
        std::fs::write(&version, "14\n").unwrap();
        failed(b.pg.start(StartAs::AsConfigured, PATIENCE, &task).await, "was made by PostgreSQL 14");
        std::fs::write(&version, "15\n").unwrap();
        let chmod = |mode| std::fs::set_permissions(&b.data_dir, std::fs::Permissions::from_mode(mode)).unwrap();
        chmod(0o755);
        failed(b.pg.start(StartAs::AsConfigured, PATIENCE, &task).await, "has permissions 0755");
        chmod(0o500);
        failed(postgres::preflight(&b.config()), "cannot be read and written");
        chmod(0o000);
        assert!(matches!(b.pg.observe().await.data_dir, DataDir::Unreadable(_)));
        chmod(0o700);
        b.section["bin_name"] = json!({"postgres": "postgres-of-mine"});
        failed(postgres::preflight(&b.config()), "postgres-of-mine not found");
    });
}

/// A disk that fills up during the bootstrap, and one that is full at a start. Where nobody may mount a small file
/// system, nothing is tested.
#[test]
fn a_full_disk_is_named() {
    let disk = SmallDisk::mount("full", 150);
    run("a_full_disk_is_named", |cluster| async move {
        let Some(small) = disk.path() else {
            println!("no small file system can be mounted here: nothing is tested");
            return;
        };
        let filler = small.join("filler");
        let fill = |megabytes: usize| std::fs::write(&filler, vec![0u8; megabytes << 20]);
        fill(125).unwrap();
        let node = cluster.node_with("full", json!({"data_dir": small.join("data")}), json!({}));
        let task = TaskHandle::detached();
        let error = node.pg.initdb(&task).await.unwrap_err();
        assert!(error.starts_with("initdb failed") && error.contains("No space left on device"), "{error}");
        node.pg.remove_data_dir().await.unwrap();
        std::fs::remove_file(&filler).unwrap();
        node.bootstrap().await;
        node.pg.stop(StopMode::Fast, &task).await.unwrap();
        // All that is left.
        fill(150).unwrap_err();
        let mut section = node.section.clone();
        section["parameters"]["work_mem"] = json!("5MB");
        let full = Postgres::new(harness::parse(&section, &json!({}), "full"));
        let error = full.start(StartAs::Primary, PATIENCE, &task).await.unwrap_err();
        assert!(error.contains("cannot write") && error.contains("No space left on device"), "{error}");
        std::fs::remove_file(&filler).unwrap();
        full.start(StartAs::Primary, PATIENCE, &task).await.unwrap();
        assert!(full.observe().await.is_primary());
        full.stop(StopMode::Immediate, &task).await.unwrap();
    });
}
