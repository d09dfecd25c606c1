//! Bootstrap, start, stop, crash and configuration of a single real server.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::time::{Duration, Instant};

use harness::{BIN_DIR, PATIENCE, free_port, kill, mode, recording, run};
use model::Role;
use model::pg::{ControlState, DataDir, Postmaster, Unfinished};
use postgres::{Postgres, Progress, StartAs, StopMode, TaskHandle};
use serde_json::json;

#[test]
fn bootstrap_makes_a_primary_with_roles_and_no_password_in_its_log() {
    run("bootstrap_makes_a_primary_with_roles_and_no_password_in_its_log", |cluster| async move {
        let script = cluster.root.path().join("post.sh");
        let output = cluster.root.path().join("post.out");
        std::fs::write(
            &script,
            format!(
                "#!/bin/sh\necho \"$1\" > {0}; psql -XAt -d \"$1\" -c 'SELECT current_user' >> {0}\n",
                output.display()
            ),
        )
        .unwrap();
        let bootstrap = json!({
            "post_bootstrap": format!("/bin/sh {}", script.display()),
            "admin": {"username": "chief", "password": "chief-secret"},
        });
        let node = cluster.node_with("n1", json!({}), bootstrap);
        assert_eq!(node.pg.observe().await.data_dir, DataDir::Empty);
        let task = TaskHandle::detached();
        node.pg.initdb(&task).await.unwrap();
        assert_eq!(node.pg.observe().await.unfinished, Some(Unfinished::Bootstrap));
        // Another agent finds a bootstrap that nobody goes on with.
        let error = Postgres::new(node.config()).start(StartAs::Primary, PATIENCE, &task).await.unwrap_err();
        assert!(error.contains("a bootstrap"), "{error}");
        node.pg.start(StartAs::Primary, PATIENCE, &task).await.unwrap();
        node.pg.post_bootstrap(&task).await.unwrap();

        let snapshot = node.pg.observe().await;
        assert!(snapshot.is_primary(), "{snapshot:#?}");
        assert_eq!((snapshot.unfinished, snapshot.major_version), (None, Some(150_000)));
        assert!(snapshot.control.as_ref().unwrap().rewindable);
        let server = snapshot.server.unwrap();
        assert_eq!((server.version_num / 10_000, server.timeline.unwrap().0), (15, 1));
        assert!(server.flush_lsn.unwrap().is_valid() && server.receive_lsn.is_none());
        assert!(snapshot.pending_restart.is_empty(), "{:?}", snapshot.pending_restart);

        let output = std::fs::read_to_string(&output).unwrap();
        assert!(output.contains("host=localhost") && output.ends_with("boss\n"), "{output}");
        assert!(!output.contains("secret"), "{output}");
        let granted =
            node.sql_as("rewinder", "rew1nd-secret", "SELECT length(pg_read_binary_file('PG_VERSION'))").await;
        assert_eq!(granted.unwrap().as_deref(), Some("3"));
        let may = "SELECT rolcreatedb AND rolcreaterole AND NOT rolsuper FROM pg_roles WHERE rolname = current_user";
        assert_eq!(node.sql_as("chief", "chief-secret", may).await.unwrap().as_deref(), Some("t"));
        let verifier = node.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'repl' AND rolreplication").await;
        assert!(verifier.unwrap().starts_with("SCRAM-SHA-256$"));
        let log = node.log();
        assert!(log.contains("SELECT current_user") && !log.contains("-secret"), "{log}");

        let conf = node.data_dir.join("postgresql.conf");
        assert!(std::fs::read_to_string(&conf).unwrap().contains("include 'postgresql.base.conf'"));
        assert_eq!((mode(&conf), mode(&node.data_dir.join("pg_hba.conf"))), (0o600, 0o600));
        assert!(node.data_dir.join("postgresql.base.conf").exists());
        assert!(node.data_dir.join("pg_hba.conf.backup").exists());
        let opts = std::fs::read_to_string(node.data_dir.join("postmaster.opts")).unwrap();
        assert!(opts.contains("\"--cluster_name=demo\" \"--wal_level=replica\""), "{opts}");
    });
}

#[test]
fn fast_stop_reports_the_shutdown_checkpoint_and_a_restart_follows() {
    run("fast_stop_reports_the_shutdown_checkpoint_and_a_restart_follows", |cluster| async move {
        let node = cluster.primary("n1").await;
        node.pg.checkpoint().await.unwrap();
        let (task, seen) = recording();
        node.pg.stop(StopMode::Fast, &task).await.unwrap();
        let snapshot = node.pg.observe().await;
        assert_eq!((snapshot.postmaster, snapshot.server.is_none()), (Postmaster::Absent, true));
        let control = snapshot.control.unwrap();
        assert_eq!(control.state, ControlState::ShutDown);
        assert_eq!(*seen.lock().unwrap(), [Progress::ShutDown(control.checkpoint)]);
        // Stopping what does not run is no error.
        node.pg.stop(StopMode::Immediate, &task).await.unwrap();
        node.pg.start(StartAs::AsConfigured, PATIENCE, &task).await.unwrap();
        assert!(node.pg.observe().await.is_primary());
        assert_eq!(seen.lock().unwrap().last(), Some(&Progress::Starting));
        node.pg.stop(StopMode::Immediate, &task).await.unwrap();
        assert_eq!(node.pg.observe().await.control.unwrap().state, ControlState::InProduction);
    });
}

#[test]
fn a_killed_postmaster_is_noticed_and_started_again() {
    run("a_killed_postmaster_is_noticed_and_started_again", |cluster| async move {
        let node = cluster.primary("n1").await;
        let mut events = node.pg.events();
        events.mark_unchanged();
        let pid = node.pg.postmaster_pid().unwrap();
        let before = Instant::now();
        kill(pid);
        tokio::time::timeout(Duration::from_secs(5), events.changed()).await.expect("an event").unwrap();
        println!("noticed after {:?}", before.elapsed());
        let snapshot = node.pg.observe().await;
        assert_eq!(snapshot.postmaster, Postmaster::Absent);
        assert_eq!(snapshot.control.unwrap().state, ControlState::InProduction);
        node.pg.start(StartAs::Primary, PATIENCE, &TaskHandle::detached()).await.unwrap();
        assert!(node.pg.observe().await.is_primary());
    });
}

#[test]
fn crash_recovery_ends_shut_down() {
    run("crash_recovery_ends_shut_down", |cluster| async move {
        let node = cluster.primary("n1").await;
        let task = TaskHandle::detached();
        node.sql("CREATE TABLE t AS SELECT 42 AS x").await;
        let error = node.pg.crash_recovery(&task).await.unwrap_err();
        assert!(error.contains("PostgreSQL runs"), "{error}");
        node.pg.stop(StopMode::Immediate, &task).await.unwrap();
        node.pg.crash_recovery(&task).await.unwrap();
        assert_eq!(node.pg.observe().await.control.unwrap().state, ControlState::ShutDown);
        node.pg.start(StartAs::Primary, PATIENCE, &task).await.unwrap();
        assert_eq!(node.sql("SELECT x FROM t").await.as_deref(), Some("42"));
    });
}

#[test]
fn another_agent_attaches_to_a_running_server() {
    run("another_agent_attaches_to_a_running_server", |cluster| async move {
        let node = cluster.primary("n1").await;
        let pid = node.pg.postmaster_pid();
        let other = Postgres::new(node.config());
        assert!(other.observe().await.is_primary());
        assert_eq!(other.postmaster_pid(), pid);
        let mut events = other.events();
        events.mark_unchanged();
        let error = other.start(StartAs::Primary, PATIENCE, &TaskHandle::detached()).await.unwrap_err();
        assert!(error.contains("runs already"), "{error}");
        kill(pid.unwrap());
        tokio::time::timeout(Duration::from_secs(5), events.changed()).await.expect("an event").unwrap();
        assert_eq!(other.observe().await.postmaster, Postmaster::Absent);
        other.start(StartAs::Primary, PATIENCE, &TaskHandle::detached()).await.unwrap();
        other.stop(StopMode::Fast, &TaskHandle::detached()).await.unwrap();
    });
}

#[test]
fn changed_configuration_is_reloaded_corrected_or_waits_for_a_restart() {
    run("changed_configuration_is_reloaded_corrected_or_waits_for_a_restart", |cluster| async move {
        let mut node = cluster.primary("n1").await;
        assert_eq!(node.pg.apply_config(node.config(), Role::Primary).await, Ok(false));
        let parameters = &mut node.section["parameters"];
        parameters["work_mem"] = json!("1kB");
        parameters["no_such_thing"] = json!("x");
        parameters["max_connections"] = json!(50);
        parameters["shared_buffers"] = json!("24MB");
        assert_eq!(node.pg.apply_config(node.config(), Role::Primary).await, Ok(true));
        let snapshot = node.until("pending restart", |snapshot| snapshot.pending_restart.len() == 2).await;
        let change = |name: &str| {
            let change = &snapshot.pending_restart[name];
            (change.old_value.clone(), change.new_value.clone())
        };
        assert_eq!(change("max_connections"), ("100".to_owned(), "50".to_owned()));
        assert_eq!(change("shared_buffers"), ("16MB".to_owned(), "24MB".to_owned()));
        assert_eq!(node.sql("SHOW work_mem").await.as_deref(), Some("64kB"));
        let task = TaskHandle::detached();
        node.pg.stop(StopMode::Fast, &task).await.unwrap();
        node.pg.start(StartAs::AsConfigured, PATIENCE, &task).await.unwrap();
        assert!(node.pg.observe().await.pending_restart.is_empty());
        assert_eq!(node.sql("SHOW max_connections").await.as_deref(), Some("50"));
    });
}

#[test]
fn problems_are_one_sentence() {
    run("problems_are_one_sentence", |cluster| async move {
        let node = cluster.primary("n1").await;
        let task = TaskHandle::detached();
        node.pg.stop(StopMode::Fast, &task).await.unwrap();
        let taken = std::net::TcpListener::bind(("127.0.0.1", node.port)).unwrap();
        let error = node.pg.start(StartAs::Primary, PATIENCE, &task).await.unwrap_err();
        assert!(error.ends_with("the port is in use by another program"), "{error}");
        drop(taken);
        let mut section = node.section.clone();
        section["parameters"]["shared_preload_libraries"] = json!("no_such_library");
        let broken = Postgres::new(harness::parse(&section, &json!({}), "n1"));
        let error = broken.start(StartAs::Primary, PATIENCE, &task).await.unwrap_err();
        assert!(error.contains("ended while it was starting"), "{error}");
        section["bin_dir"] = json!("/nonexistent");
        let error = postgres::preflight(&harness::parse(&section, &json!({}), "n1")).unwrap_err();
        assert!(error.contains("not found in postgresql.bin_dir /nonexistent"), "{error}");
        section["bin_dir"] = json!(BIN_DIR);
        assert_eq!(postgres::preflight(&harness::parse(&section, &json!({}), "n1")), Ok(()));
    });
}

#[test]
fn a_failed_bootstrap_is_put_aside_and_a_directory_removed() {
    run("a_failed_bootstrap_is_put_aside_and_a_directory_removed", |cluster| async move {
        let node = cluster.node_with(
            "n1",
            json!({"listen": format!("127.0.0.1:{}", free_port())}),
            json!({"post_init": "false"}),
        );
        let task = TaskHandle::detached();
        node.pg.initdb(&task).await.unwrap();
        node.pg.start(StartAs::Primary, PATIENCE, &task).await.unwrap();
        let error = node.pg.post_bootstrap(&task).await.unwrap_err();
        assert!(error.starts_with("bootstrap.post_bootstrap failed (exit status: 1)"), "{error}");
        assert!(node.pg.move_data_dir_aside().await.unwrap_err().contains("PostgreSQL runs"));
        node.pg.stop(StopMode::Immediate, &task).await.unwrap();
        node.pg.move_data_dir_aside().await.unwrap();
        let names: Vec<String> = std::fs::read_dir(cluster.root.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        assert!(names.iter().any(|name| name.starts_with("n1.") && name.ends_with(".failed")), "{names:?}");
        let snapshot = node.pg.observe().await;
        assert_eq!((snapshot.data_dir, snapshot.unfinished), (DataDir::Empty, None));
        node.pg.initdb(&task).await.unwrap();
        node.pg.remove_data_dir().await.unwrap();
        let snapshot = node.pg.observe().await;
        assert_eq!((snapshot.data_dir, snapshot.unfinished), (DataDir::Empty, None));
    });
}

#[test]
fn the_control_file_is_read_without_pg_controldata() {
    run("the_control_file_is_read_without_pg_controldata", |cluster| async move {
        let mut node = cluster.node("n1");
        node.bootstrap().await;
        node.pg.stop(StopMode::Fast, &TaskHandle::detached()).await.unwrap();
        let output = std::process::Command::new(format!("{BIN_DIR}/pg_controldata"))
            .arg(&node.data_dir)
            .env("LC_ALL", "C")
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let through_program = {
            let script = cluster.root.path().join("control.sh");
            std::fs::write(&script, format!("#!/bin/sh\ncat <<'END'\n{text}END\n")).unwrap();
            std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            node.section["bin_name"] = json!({"pg_controldata": script});
            // Without a control file of its own, only the program answers.
            postgres::read_control(&node.config().binaries, &cluster.root.path().join("nothing")).await.unwrap()
        };
        node.section["bin_name"] = json!({"pg_controldata": "no-such-program"});
        let directly = postgres::read_control(&node.config().binaries, &node.data_dir).await.unwrap();
        assert_eq!(directly, through_program);
        assert_eq!((directly.data.state, directly.max_connections), (ControlState::ShutDown, 100));
    });
}

#[test]
fn a_custom_bootstrap_method_may_bring_recovery_configuration() {
    run("a_custom_bootstrap_method_may_bring_recovery_configuration", |cluster| async move {
        let origin = cluster.primary("origin").await;
        origin.sql("CREATE TABLE t AS SELECT 7 AS x").await;
        let task = TaskHandle::detached();
        origin.pg.stop(StopMode::Fast, &task).await.unwrap();
        let script = cluster.root.path().join("restore.sh");
        let text = format!(
            "#!/bin/sh\nfor a; do case $a in --datadir=*) d=${{a#*=}};; esac; done\necho \"$@\" > {0}/args\n\
             cp -a {1} $d && rm -f $d/postgresql.base.conf $d/postmaster.*\n",
            cluster.root.path().display(),
            origin.data_dir.display()
        );
        std::fs::write(&script, text).unwrap();
        let bootstrap = json!({"method": "copy", "copy": {
            "command": format!("/bin/sh {}", script.display()), "from": "origin",
            "recovery_conf": {"restore_command": "false", "recovery_target_timeline": "latest",
                              "recovery_target_action": "promote"},
        }});
        let node = cluster.node_with("n2", json!({}), bootstrap);
        node.pg.initdb(&task).await.unwrap();
        let arguments = std::fs::read_to_string(cluster.root.path().join("args")).unwrap();
        assert_eq!(arguments.trim(), format!("--scope=demo --datadir={} --from=origin", node.data_dir.display()));
        node.pg.start(StartAs::Primary, PATIENCE, &task).await.unwrap();
        node.pg.post_bootstrap(&task).await.unwrap();
        let snapshot = node.until("primary", |snapshot| snapshot.is_primary()).await;
        // Recovery ran to its end and was left: a new timeline.
        assert_eq!(snapshot.server.unwrap().timeline.unwrap().0, 2);
        assert_eq!(node.sql("SELECT x FROM t").await.as_deref(), Some("7"));
        let hba = std::fs::read_to_string(node.data_dir.join("pg_hba.conf")).unwrap();
        assert!(!hba.contains("trust"), "{hba}");
    });
}
