//! Real primaries and standbys: copying, streaming, promotion, divergence.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use harness::{BIN_DIR, PATIENCE, mode, run};
use model::Role;
use model::pg::{ControlState, DataDir, Unfinished};
use model::slots::SlotChange;
use postgres::{CloneSource, Postgres, StartAs, StopMode, TaskHandle};
use serde_json::json;

#[test]
fn a_standby_streams_through_its_slot_and_is_promoted() {
    run("a_standby_streams_through_its_slot_and_is_promoted", |cluster| async move {
        let (a, b) = (cluster.primary("a").await, cluster.node("b"));
        let task = TaskHandle::detached();
        b.follow(&a).await;
        let snapshot = b.pg.observe().await;
        assert!(snapshot.is_standby() && snapshot.recovery_configured && snapshot.unfinished.is_none());
        let server = snapshot.server.unwrap();
        assert_eq!((server.timeline.unwrap().0, server.upstream), (1, Some(a.upstream(Some("b")))));
        let senders = a.pg.observe().await.server.unwrap().senders;
        assert_eq!((senders[0].application_name.as_str(), senders[0].usename.as_str()), ("b", "repl"));
        let pgpass = cluster.root.path().join("pgpass-b");
        assert_eq!(mode(&pgpass), 0o600);
        assert!(std::fs::read_to_string(&pgpass).unwrap().contains(":repl:r3pl-secret\\:\\\\"));
        let conf = std::fs::read_to_string(b.data_dir.join("postgresql.conf")).unwrap();
        assert!(conf.contains("passfile=") && !conf.contains("r3pl"), "{conf}");
        // Slots in use stay; every change is tried.
        let [b_slot, c_slot] = ["b", "c"].map(str::to_owned);
        a.pg.sync_slots(&[SlotChange::CreatePhysical { name: c_slot.clone() }]).await.unwrap();
        let drops = [SlotChange::Drop { name: b_slot }, SlotChange::Drop { name: c_slot }];
        let error = a.pg.sync_slots(&drops).await.unwrap_err();
        assert!(error.contains("cannot drop replication slot 'b'") && !error.contains("'c'"), "{error}");
        let slots = a.pg.observe().await.server.unwrap().slots;
        assert_eq!(slots.iter().map(|slot| (slot.name.as_str(), slot.active)).collect::<Vec<_>>(), [("b", true)]);

        let position = b.pg.server_position(&a.upstream(None)).await.unwrap();
        assert!(!position.in_recovery && position.history.is_empty());
        assert_eq!(position.system_id, a.pg.observe().await.system_id().unwrap());
        assert!(a.pg.server_position(&b.upstream(None)).await.unwrap().in_recovery);

        a.sql("CREATE TABLE t AS SELECT 1 AS x").await;
        a.pg.stop(StopMode::Fast, &task).await.unwrap();
        let error = b.pg.promote(&|| false, &task).await.unwrap_err();
        assert!(error.contains("nothing was done"), "{error}");
        assert!(b.pg.observe().await.is_standby());
        b.pg.promote(&|| true, &task).await.unwrap();
        assert_eq!(b.pg.observe().await.control.unwrap().state, ControlState::InProduction);
        let snapshot = b.until("primary", |snapshot| snapshot.is_primary()).await;
        assert_eq!(snapshot.server.unwrap().timeline.unwrap().0, 2);
        assert_eq!(b.sql("SELECT x FROM t").await.as_deref(), Some("1"));
        assert_eq!(b.pg.own_history().await.unwrap().len(), 1);
        let position = a.pg.server_position(&b.upstream(None)).await.unwrap();
        assert_eq!((position.timeline.0, position.history[0].timeline.0), (2, 1));
    });
}

#[test]
fn a_diverged_primary_is_rewound() {
    run("a_diverged_primary_is_rewound", |cluster| async move {
        let (a, b) = (cluster.primary("a").await, cluster.node("b"));
        let task = TaskHandle::detached();
        b.follow(&a).await;
        b.pg.promote(&|| true, &task).await.unwrap();
        b.until("primary", |snapshot| snapshot.is_primary()).await;
        b.sql("CREATE TABLE kept AS SELECT 1 AS x").await;
        b.pg.checkpoint().await.unwrap();
        a.sql("CREATE TABLE lost AS SELECT 1 AS x").await;
        a.pg.stop(StopMode::Immediate, &task).await.unwrap();
        let error = a.pg.rewind(&b.upstream(None), &task).await.unwrap_err();
        assert!(error.contains("InProduction"), "{error}");
        a.pg.crash_recovery(&task).await.unwrap();
        b.pg.sync_slots(&[SlotChange::CreatePhysical { name: "a".to_owned() }]).await.unwrap();
        // It dies at the very end, after the control file: it is completed, not run again and not started before.
        let script = cluster.root.path().join("rewind.sh");
        std::fs::write(&script, format!("#!/bin/sh\n{BIN_DIR}/pg_rewind \"$@\"\nexit 1\n")).unwrap();
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut section = a.section.clone();
        section["bin_name"] = json!({"pg_rewind": script});
        a.pg.apply_config(harness::parse(&section, &json!({}), "a"), Role::Replica).await.unwrap();
        a.pg.rewind(&b.upstream(None), &task).await.unwrap_err();
        let interrupted = a.pg.observe().await;
        assert_eq!((interrupted.unfinished, interrupted.unstarted_copy), (Some(Unfinished::Rewind), true));
        a.pg.start(StartAs::Standby(Some(b.upstream(Some("a")))), PATIENCE, &task).await.unwrap_err();
        a.pg.rewind(&b.upstream(None), &task).await.unwrap();
        let rewound = a.pg.observe().await;
        assert_eq!((rewound.unfinished, rewound.unstarted_copy), (None, true));
        a.pg.start(StartAs::Standby(Some(b.upstream(Some("a")))), PATIENCE, &task).await.unwrap();
        let snapshot = a
            .until("streaming", |snapshot| {
                snapshot.server.as_ref().is_some_and(|server| server.receiver_status.as_deref() == Some("streaming"))
            })
            .await;
        assert_eq!(snapshot.server.unwrap().timeline.unwrap().0, 2);
        assert_eq!(
            a.sql("SELECT to_regclass('lost') IS NULL AND to_regclass('kept') IS NOT NULL").await.as_deref(),
            Some("t")
        );
    });
}

#[test]
fn a_failed_rewind_leaves_the_marker_and_is_not_started() {
    run("a_failed_rewind_leaves_the_marker_and_is_not_started", |cluster| async move {
        let a = cluster.primary("a").await;
        let nobody = cluster.node("nobody");
        let task = TaskHandle::detached();
        a.pg.stop(StopMode::Fast, &task).await.unwrap();
        let error = a.pg.rewind(&nobody.upstream(None), &task).await.unwrap_err();
        assert!(error.starts_with("pg_rewind failed") && !error.contains("secret"), "{error}");
        // It could not connect and has changed nothing.
        assert_eq!(a.pg.observe().await.unfinished, None);
        let script = cluster.root.path().join("rewind.sh");
        std::fs::write(&script, "#!/bin/sh\necho 'pg_rewind: need to copy 1 MB' >&2\nexit 1\n").unwrap();
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut section = a.section.clone();
        section["bin_name"] = json!({"pg_rewind": script});
        a.pg.apply_config(harness::parse(&section, &json!({}), "a"), Role::Replica).await.unwrap();
        a.pg.rewind(&nobody.upstream(None), &task).await.unwrap_err();
        assert_eq!(a.pg.observe().await.unfinished, Some(Unfinished::Rewind));
        let error = a.pg.start(StartAs::AsConfigured, PATIENCE, &task).await.unwrap_err();
        assert!(error.contains("pg_rewind") && error.contains("not finished"), "{error}");
    });
}

#[test]
fn an_interrupted_copy_is_marked() {
    run("an_interrupted_copy_is_marked", |cluster| async move {
        let a = cluster.primary("a").await;
        // The copy takes long enough to be interrupted.
        let b = cluster.node_with("b", json!({"basebackup": [{"max-rate": "32k"}]}), json!({}));
        let (cancel, cancelled) = tokio::sync::watch::channel(false);
        let task = TaskHandle { cancelled, ..TaskHandle::detached() };
        let source = CloneSource { name: "a".to_owned(), upstream: a.upstream(None) };
        let pg = std::sync::Arc::clone(&b.pg);
        let cloning = tokio::spawn(async move { pg.as_ref().clone_from(Some(&source), true, &task).await });
        // Beside at once, inside as soon as there is something.
        let inside = b.data_dir.join("patroni.unfinished");
        let deadline = std::time::Instant::now() + PATIENCE;
        while !inside.exists() {
            assert!(std::time::Instant::now() < deadline && !cloning.is_finished(), "no marker");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        // An agent that dies leaves this behind.
        let other = Postgres::new(b.config()).observe().await;
        assert_eq!((other.unfinished, other.data_dir), (Some(Unfinished::Clone), DataDir::Incomplete));
        cancel.send(true).unwrap();
        assert!(cloning.await.unwrap().unwrap_err().contains("cancelled"));
        assert_eq!(b.pg.observe().await.data_dir, DataDir::Empty);
        assert!(b.pg.start(StartAs::AsConfigured, PATIENCE, &TaskHandle::detached()).await.is_err());
    });
}

#[test]
fn repoint_needs_no_restart_and_raised_settings_wait_for_one() {
    run("repoint_needs_no_restart_and_raised_settings_wait_for_one", |cluster| async move {
        let mut a = cluster.node_with("a", json!({"parameters": {"max_connections": 120}}), json!({}));
        a.bootstrap().await;
        let (b, c) = (cluster.node("b"), cluster.node("c"));
        let task = TaskHandle::detached();
        b.follow(&a).await;
        // The standby is configured with less than its primary has: it starts with more, and says so.
        let snapshot = b.pg.observe().await;
        let change = &snapshot.pending_restart["max_connections"];
        assert_eq!((change.old_value.as_str(), change.new_value.as_str()), ("120", "100"));
        c.follow(&a).await;
        let pid = c.pg.postmaster_pid();
        b.pg.sync_slots(&[SlotChange::CreatePhysical { name: "c".to_owned() }]).await.unwrap();
        c.pg.repoint(Some(&b.upstream(Some("c"))), &task).await.unwrap();
        let snapshot = c.pg.observe().await;
        assert_eq!(snapshot.server.unwrap().upstream, Some(b.upstream(Some("c"))));
        c.until("streaming again", |snapshot| {
            snapshot.server.as_ref().is_some_and(|server| server.receiver_status.as_deref() == Some("streaming"))
        })
        .await;
        assert_eq!(c.pg.postmaster_pid(), pid);
        // A changed configuration leaves whom it follows.
        assert_eq!(c.pg.apply_config(c.config(), Role::Replica).await, Ok(false));
        c.pg.repoint(None, &task).await.unwrap();
        assert_eq!(c.pg.observe().await.server.unwrap().upstream, None);
        // A kept slot is moved forward.
        a.sql("CREATE TABLE t AS SELECT 1; SELECT pg_switch_wal()").await;
        let target = a.pg.observe().await.server.unwrap().flush_lsn.unwrap();
        let create = SlotChange::CreatePhysical { name: "kept".to_owned() };
        let advance = SlotChange::Advance { name: "kept".to_owned(), to: target, database: None };
        a.pg.sync_slots(&[create, advance]).await.unwrap();
        let slots = a.pg.observe().await.server.unwrap().slots;
        assert!(slots.iter().any(|slot| slot.name == "kept" && slot.restart_lsn >= Some(target)), "{slots:?}");
        a.section["parameters"]["max_connections"] = json!(100);
        assert_eq!(a.pg.apply_config(a.config(), Role::Primary).await, Ok(true));
    });
}
