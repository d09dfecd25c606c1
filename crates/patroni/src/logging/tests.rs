use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use config::LocalConfig;
use serde_json::{Value, json};

use super::*;

fn section(log: Value) -> Log {
    let tree = json!({ "log": log });
    LocalConfig::from_tree(tree.as_object().expect("an object").clone()).log().expect("valid")
}

fn record(message: &str) -> Record {
    Record {
        time: "2026-01-31T12:00:05.0071+01:00[Europe/Berlin]".parse().expect("a time"),
        level: Level::WARN,
        target: "agent::driver",
        message: message.to_owned(),
        file: Some("crates/agent/src/driver.rs"),
        line: Some(7),
        thread: Some("main".to_owned()),
    }
}

fn line(log: Value) -> (String, Vec<String>) {
    let (format, notes) = Format::new(&section(log));
    (format.line(&record("no action")), notes)
}

#[test]
fn lines_look_like_upstreams() {
    for (log, expected) in [
        (json!({}), "2026-01-31 12:00:05,007 WARNING: no action"),
        (json!({"dateformat": "%H:%M"}), "12:00 WARNING: no action"),
        (
            json!({"format": "100%% [%(name)s] %(levelname)-8s|%(message)12s|%(lineno)03d."}),
            "100% [agent::driver] WARNING |   no action|007.",
        ),
        (json!({"format": "%(threadName)s %(module)s %(filename)s"}), "main driver driver.rs"),
        (
            json!({"type": "json", "static_fields": {"app": "patroni", "n": 1}}),
            r#"{"asctime":"2026-01-31 12:00:05,007","levelname":"WARNING","message":"no action","app":"patroni","n":1}"#,
        ),
        (
            json!({"type": "json", "format": ["message", {"levelname": "level"}, "levelno"]}),
            r#"{"message":"no action","level":"WARNING","levelno":30}"#,
        ),
    ] {
        assert_eq!(line(log.clone()), (expected.to_owned(), vec![]), "{log}");
    }
}

#[test]
fn what_cannot_be_written_is_named() {
    let (text, notes) = line(json!({"format": "%(nonsense)s %(message)s", "dateformat": "%"}));
    assert_eq!(text, "2026-01-31 12:00:05,007 WARNING: no action");
    assert_eq!(
        notes,
        [
            "log.format is not one we can write: %(asctime)s %(levelname)s: %(message)s is used instead",
            "log.dateformat \"%\" is not a strftime format and is ignored",
        ]
    );
    let (text, notes) = line(json!({"type": "json", "format": ["message", "nonsense"]}));
    assert_eq!(text, r#"{"message":"no action"}"#);
    assert_eq!(notes, ["log.format names the field nonsense, which log lines do not have"]);
    for format in ["%(message)", "%(message", "%(message)99999999999s", "plain", "%(message)-"] {
        assert_eq!(line(json!({ "format": format })).1.len(), 1, "{format}");
    }
}

fn enabled(log: Value, target: &str, level: &Level) -> bool {
    levels::targets(&section(log)).would_enable(target, level)
}

#[test]
fn libraries_are_quieter_than_we_are() {
    let at = |level| json!({ "level": level });
    assert!(enabled(at("DEBUG"), "agent::driver", &Level::DEBUG) && enabled(at("INFO"), "daemon::run", &Level::INFO));
    assert!(!enabled(at("DEBUG"), "hyper", &Level::INFO));
    assert!(!enabled(at("INFO"), "agent", &Level::DEBUG));
    assert!(!enabled(at("CRITICAL"), "hyper", &Level::WARN));
}

#[test]
fn single_loggers_have_levels_of_their_own() {
    let log = json!({"loggers": {
        "patroni.postgresql": "DEBUG", "patroni": "ERROR", "urllib3.connectionpool": "DEBUG", "patroni.dcs.raft": "INFO",
        "some.module": "WARNING",
    }});
    for (target, level, expected) in [
        ("postgres::node", Level::DEBUG, true),
        ("agent::driver", Level::INFO, false),
        ("agent::driver", Level::ERROR, true),
        ("hyper::client", Level::DEBUG, true),
        ("dcs::raft", Level::INFO, true),
        ("rustls", Level::INFO, false),
    ] {
        assert_eq!(enabled(log.clone(), target, &level), expected, "{target} {level}");
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .expect("read")
        .map(|entry| entry.expect("entry").file_name().into_string().expect("text"))
        .collect();
    names.sort();
    names
}

#[test]
fn files_are_rotated_by_size() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut file = file::RotatingFile::open(dir.path(), Some(0o640), 10, 2).expect("opened");
    for text in ["aaaa", "bbbb", "cccc", "a long line", "e", "f"] {
        file.write_line(text).expect("written");
    }
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).expect("read");
    assert_eq!(names(dir.path()), ["patroni.log", "patroni.log.1", "patroni.log.2"]);
    assert_eq!(
        (read("patroni.log").as_str(), read("patroni.log.1").as_str(), read("patroni.log.2").as_str()),
        ("e\nf\n", "a long line\n", "cccc\n")
    );
    let mode = fs::metadata(dir.path().join("patroni.log")).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    let mut again = file::RotatingFile::open(dir.path(), None, 0, 2).expect("opened");
    again.write_line("goes on at the end").expect("written");
    assert_eq!(read("patroni.log"), "e\nf\ngoes on at the end\n");
    let missing = file::RotatingFile::open(&dir.path().join("none"), None, 0, 0).err().expect("no directory");
    assert!(
        missing.starts_with("cannot write the log file ") && missing.contains("(log.dir): No such file"),
        "{missing}"
    );
}

fn queue(log: Value) -> Arc<Queue> {
    let log = section(log);
    Arc::new(Queue::new(log.max_queue_size, output(&log).expect("an output").0))
}

#[test]
fn lines_that_do_not_fit_are_counted() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let queue = queue(json!({"dir": dir.path(), "max_queue_size": 2, "format": "%(message)s"}));
    for text in ["a", "b", "c", "d"] {
        queue.push(record(text));
    }
    assert!(!queue.drain(Duration::ZERO), "nobody writes yet");
    Queue::start_writer(&queue).expect("started");
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    let expected = "a\nb\n2 log records were lost: more than log.max_queue_size were waiting to be written\n";
    let written = || fs::read_to_string(dir.path().join("patroni.log")).expect("read");
    while written() != expected {
        assert!(std::time::Instant::now() < deadline, "{}", written());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(queue.drain(Duration::from_secs(10)));
}

#[test]
fn heartbeats_that_repeat_are_left_out_on_demand() {
    for (deduplicate, expected) in [
        (true, "no action. A\nx\nno action. A\nno action. B\n"),
        (false, "no action. A\nno action. A\nx\nno action. A\nno action. B\n"),
    ] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let log = json!({"dir": dir.path(), "format": "%(message)s", "deduplicate_heartbeat_logs": deduplicate});
        let queue = queue(log);
        for text in ["no action. A", "no action. A", "x", "no action. A", "no action. B"] {
            queue.push(record(text));
        }
        Queue::start_writer(&queue).expect("started");
        assert!(queue.drain(Duration::from_secs(10)));
        assert_eq!(fs::read_to_string(dir.path().join("patroni.log")).expect("read"), expected);
    }
}

#[test]
fn a_changed_section_applies_from_the_next_line_on() {
    let (first, second) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let queue = queue(json!({"dir": first.path(), "format": "%(message)s"}));
    Queue::start_writer(&queue).expect("started");
    queue.push(record("a"));
    assert!(queue.drain(Duration::from_secs(10)));
    let log = section(json!({"dir": second.path(), "type": "json", "format": ["message"]}));
    queue.reconfigure(log.max_queue_size, output(&log).expect("an output").0);
    queue.push(record("b"));
    assert!(queue.drain(Duration::from_secs(10)));
    let read = |dir: &tempfile::TempDir| fs::read_to_string(dir.path().join("patroni.log")).expect("read");
    assert_eq!((read(&first), read(&second)), ("a\n".to_owned(), "{\"message\":\"b\"}\n".to_owned()));
}
