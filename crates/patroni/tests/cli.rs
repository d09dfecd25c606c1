//! The command line of `patroni`: exit codes, and one sentence on standard error for every failure before a start.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use assert_cmd::assert::OutputAssertExt;
use assert_cmd::cargo::cargo_bin;
use serde_json::json;
use tempfile::TempDir;

const PG_BIN: &str = "/usr/lib/postgresql/15/bin";

/// `patroni` without any of our variables, in the user's name.
fn patroni(directory: &Path) -> Command {
    clean(Command::new(cargo_bin("patroni")), directory)
}

fn clean(mut command: Command, directory: &Path) -> Command {
    command.current_dir(directory).env_clear().env("PATH", format!("{PG_BIN}:/usr/bin:/bin")).env("LANG", "C.UTF-8");
    command
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// `patroni` as a user who may run PostgreSQL: root's tests become `postgres`, who can reach a copy of the program.
fn patroni_as_user(directory: &Path) -> Command {
    if !is_root() {
        return patroni(directory);
    }
    let passwd = fs::read_to_string("/etc/passwd").expect("readable");
    let entry = passwd.lines().find(|line| line.starts_with("postgres:")).expect("a user postgres");
    let ids: Vec<u32> = entry.split(':').skip(2).take(2).map(|id| id.parse().expect("a number")).collect();
    let program = directory.join("patroni");
    if !program.exists() {
        // A link where possible: while a copy is written, a child of another test may inherit it, and nobody can run it.
        fs::hard_link(cargo_bin("patroni"), &program)
            .or_else(|_| fs::copy(cargo_bin("patroni"), &program).map(drop))
            .expect("placed");
    }
    chown(directory, Some(ids[0]), Some(ids[1])).expect("given away");
    let mut command = clean(Command::new(program), directory);
    command.uid(ids[0]).gid(ids[1]);
    command
}

fn names_in(directory: &Path) -> Vec<PathBuf> {
    let mut names: Vec<PathBuf> =
        fs::read_dir(directory).expect("read").map(|entry| entry.expect("entry").path()).collect();
    names.sort();
    names
}

fn stderr(command: &mut Command, code: i32) -> String {
    let output = command.assert().code(code).stdout("").get_output().stderr.clone();
    String::from_utf8(output).expect("text")
}

#[test]
fn the_version_is_one_that_peers_know() {
    let expected = format!("patroni {} (rust {})\n", model::COMPATIBLE_VERSION, env!("CARGO_PKG_VERSION"));
    patroni(directory().path()).arg("--version").assert().code(0).stdout(expected).stderr("");
    patroni(directory().path()).arg("--help").assert().code(0).stderr("");
}

#[test]
fn wrong_usage_ends_with_2() {
    let dir = directory();
    assert!(stderr(patroni(dir.path()).arg("--nonsense"), 2).contains("--nonsense"));
    let both = stderr(patroni(dir.path()).args(["--validate-config", "--generate-sample-config"]), 2);
    assert!(both.contains("cannot be used with"), "{both}");
    assert!(stderr(patroni(dir.path()).args(["a.yml", "b.yml"]), 2).contains("b.yml"));
}

#[test]
fn a_start_that_cannot_succeed_is_one_sentence_and_changes_nothing() {
    let dir = directory();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("written");
    let sound = json!({
        "name": "n", "scope": "s", "etcd3": {"host": "127.0.0.1:1"}, "restapi": {"listen": "127.0.0.1:8008"},
        "postgresql": {
            "listen": "127.0.0.1:5432", "data_dir": "data/x", "bin_dir": PG_BIN,
            "authentication": {"replication": {"username": "r", "password": "secret-password"}},
        },
    });
    let edited = |name: &str, path: &str, value: serde_json::Value| {
        let mut tree = sound.clone();
        *tree.pointer_mut(path).expect("a setting to edit") = value;
        write(name, &tree.to_string());
    };
    write("bad.yml", "name: [n\nscope: s\n");
    write("list.yml", "- a\n");
    write("locked.yml", "name: n\n");
    fs::set_permissions(dir.path().join("locked.yml"), fs::Permissions::from_mode(0o0)).expect("locked");
    edited("store.yml", "/etcd3", json!(null));
    edited("section.yml", "/restapi", json!(null));
    edited("parent.yml", "/postgresql/data_dir", json!("/proc/none/data"));
    edited("auth.yml", "/postgresql/authentication", json!("secret-password"));
    edited("program.yml", "/postgresql/bin_dir", json!("/nonexistent"));
    edited("name.yml", "/name", json!("__patroni_strict_sync_replica_placeholder__"));
    let cases = [
        (
            "",
            "Config is empty: no configuration file was named, and neither PATRONI_CONFIGURATION nor another PATRONI_* environment variable is set",
        ),
        (
            "none.yml",
            "Config is empty: none.yml does not exist, and neither PATRONI_CONFIGURATION nor another PATRONI_* environment variable is set",
        ),
        ("bad.yml", "bad.yml, line 2, column 6: malformed YAML: "),
        ("list.yml", "list.yml: expected a mapping of settings at the top level, found a list"),
        ("locked.yml", "cannot read configuration locked.yml: Permission denied (os error 13)"),
        ("store.yml", "no distributed configuration store is configured: expected a section named etcd3"),
        ("section.yml", "restapi is not defined: expected a mapping"),
        (
            "parent.yml",
            "postgresql.data_dir /proc/none/data cannot be used: it does not exist and cannot be made in /proc: ",
        ),
        ("auth.yml", "postgresql.authentication *** is not valid: expected a mapping"),
        ("program.yml", "cannot find the program postgres in postgresql.bin_dir /nonexistent"),
        (
            "name.yml",
            "name __patroni_strict_sync_replica_placeholder__ is not valid: expected another name: this one is reserved",
        ),
    ];
    patroni_as_user(dir.path());
    let before = names_in(dir.path());
    for (file, expected) in cases {
        let mut command = patroni_as_user(dir.path());
        let text = stderr(if file.is_empty() { &mut command } else { command.arg(file) }, 1);
        assert!(text.starts_with(expected), "{file}: {text}");
        assert_eq!(text.lines().count(), 1, "{file}: {text}");
        assert!(!text.contains("secret-password"), "{file}: {text}");
    }
    let mut command = patroni_as_user(dir.path());
    let text = stderr(command.env("PATRONI_CONFIGURATION", "name: n").env("PATRONI_SCOPE", "s"), 1);
    assert_eq!(text, "scope is not defined: expected the name of the cluster\n");
    assert_eq!(names_in(dir.path()), before);
}

#[test]
fn root_may_not_run_a_node() {
    if !is_root() {
        return;
    }
    let dir = directory();
    let text = stderr(patroni(dir.path()).env("PATRONI_NAME", "n"), 1);
    assert!(text.starts_with("patroni must not run as root, for PostgreSQL refuses to: "), "{text}");
    assert_eq!(names_in(dir.path()), Vec::<PathBuf>::new());
}

/// In a container the agent is the first process: it reaps orphans, passes signals on, and ends as the agent ends.
#[test]
fn as_the_first_process_it_reaps_and_passes_signals_on() {
    let namespace = |directory: &Path| {
        let mut command = clean(Command::new("unshare"), directory);
        command.args(["--pid", "--fork", "--kill-child"]);
        command
    };
    let dir = directory();
    if !namespace(dir.path()).arg("true").output().is_ok_and(|output| output.status.success()) {
        println!("process namespaces are not allowed here: nothing to test");
        return;
    }
    patroni_as_user(dir.path());
    // A refused configuration: the child's code is passed on.
    let program = if is_root() { dir.path().join("patroni") } else { cargo_bin("patroni") };
    let user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"];
    let mut command = namespace(dir.path());
    command.args(user).arg(&program).arg("none.yml").assert().code(1);

    // A store that does not answer: the agent waits for it.
    let tree = json!({
        "name": "n", "scope": "s", "etcd3": {"host": "127.0.0.1:1"}, "restapi": {"listen": "127.0.0.1:1"},
        "postgresql": {
            "listen": "127.0.0.1:1", "data_dir": dir.path().join("data"), "bin_dir": PG_BIN,
            "authentication": {"replication": {"username": "r"}},
        },
    });
    fs::write(dir.path().join("waits.yml"), tree.to_string()).expect("written");
    let log = dir.path().join("log");
    let mut command = namespace(dir.path());
    let orphan = format!("sh -c 'sleep 0.2 & :'; exec {} waits.yml", program.display());
    command.args(user).args(["sh", "-c", &orphan]).stderr(fs::File::create(&log).expect("a log"));
    let mut child = command.spawn().expect("started");
    let deadline = Instant::now() + Duration::from_secs(20);
    let said = |text: &str| fs::read_to_string(&log).expect("readable").contains(text);
    while !said("Reaped pid=") {
        assert!(Instant::now() < deadline, "{}", fs::read_to_string(&log).expect("readable"));
        std::thread::sleep(Duration::from_millis(20));
    }
    // The one process below `unshare` is the first of the namespace.
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let first: i32 = fs::read_to_string(children).expect("read").trim().parse().expect("one process");
    let first = rustix::process::Pid::from_raw(first).expect("a process");
    rustix::process::kill_process(first, rustix::process::Signal::TERM).expect("told");
    let status = child.wait().expect("ended");
    // Before it runs a node, the agent takes SIGTERM as any program does.
    assert_eq!(status.code(), Some(128 + 15), "{}", fs::read_to_string(&log).expect("readable"));
}

#[test]
fn validation_prints_problems_or_the_configuration() {
    let dir = directory();
    let store = TcpListener::bind("127.0.0.1:0").expect("a port");
    let busy = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = |listener: &TcpListener| listener.local_addr().expect("an address").port();
    let text = format!(
        "name: n\nscope: s\nrestapi:\n  listen: 127.0.0.1:{}\n  connect_address: db1:8008\n  lisen: x\netcd3:\n  hosts:\n  - \
         127.0.0.1:{}\npostgresql:\n  listen: 127.0.0.1:{}\n  connect_address: db1:5432\n  data_dir: data\n  use_unix_socket: \
         on\n  authentication:\n    superuser:\n      username: postgres\n    replication:\n      username: \"off\"\n",
        port(&busy),
        port(&store),
        port(&busy),
    );
    fs::write(dir.path().join("a.yml"), text).expect("written");
    let address = format!("127.0.0.1:{}", port(&busy));
    let expected = format!(
        "restapi.listen {address} didn't pass validation: Port {0} is already in use.\npostgresql.listen {address} didn't \
         pass validation: Port {0} is already in use.\n",
        port(&busy)
    );
    assert_eq!(stderr(patroni(dir.path()).args(["--validate-config", "a.yml"]), 1), expected);
    patroni(dir.path()).args(["--validate-config", "-i", "a.yml"]).assert().code(0).stdout("").stderr("");
    let printed = patroni(dir.path())
        .args(["--validate-config", "-i", "-p", "a.yml"])
        .env("PATRONI_SCOPE", "t")
        .assert()
        .code(0)
        .get_output()
        .stdout
        .clone();
    let printed = config::yaml::parse(&String::from_utf8(printed).expect("text")).expect("YAML");
    assert_eq!(printed["scope"], json!("t"));
    assert_eq!(printed["postgresql"]["use_unix_socket"], json!(true));
    assert_eq!(printed["postgresql"]["authentication"]["replication"]["username"], json!("off"));
}

#[test]
fn the_sample_is_written_where_it_is_wanted() {
    let dir = directory();
    let sample =
        patroni(dir.path()).arg("--generate-sample-config").assert().code(0).stderr("").get_output().stdout.clone();
    patroni(dir.path()).args(["--generate-sample-config", "new/sample.yml"]).assert().code(0).stdout("").stderr("");
    assert_eq!(fs::read(dir.path().join("new/sample.yml")).expect("written"), sample);
    let loaded = config::load_with(Some(&dir.path().join("new/sample.yml")), vec![]).expect("loads");
    assert_eq!(loaded.warnings(), Vec::<String>::new());
    assert_eq!(loaded.scope().ok().as_deref(), Some("#FIXME"));
    let text = stderr(patroni(dir.path()).args(["--generate-sample-config", "/proc/none/sample.yml"]), 1);
    assert!(text.starts_with("cannot write the configuration to /proc/none/sample.yml: "), "{text}");
}

/// Paths of the settings that `--validate-config` complains about.
fn complaints(command: &mut Command) -> Vec<String> {
    let output = command.assert().code(1).get_output().stderr.clone();
    let text = String::from_utf8(output).expect("text");
    let mut paths: Vec<String> = text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    // Whether a store happens to run on this machine is no matter of the files.
    paths.retain(|path| path != "etcd3.host");
    paths.sort();
    paths
}

#[test]
fn shipped_configurations_are_sound_for_us_and_for_upstream() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let upstream = std::env::var_os("UPSTREAM_VENV").map_or_else(|| root.join("target/upstream"), PathBuf::from);
    for index in 0..3 {
        let dir = directory();
        let file = root.join(format!("postgres{index}.yml"));
        let loaded = config::load_with(Some(&file), vec![]).expect("loads");
        assert_eq!(loaded.warnings(), Vec::<String>::new());
        assert_eq!(loaded.resolve_postgresql(&loaded.bootstrap_dcs()).1, Vec::<String>::new());
        // Samples for one machine advertise addresses that only this machine reaches.
        let expected = ["postgresql.connect_address", "restapi.connect_address"];
        let ours = complaints(patroni(dir.path()).args(["--validate-config", "-i"]).arg(&file));
        assert_eq!(ours, expected);
        let program = upstream.join("bin/patroni");
        if program.exists() {
            let mut command = clean(Command::new(program), dir.path());
            assert_eq!(complaints(command.args(["--validate-config", "-i"]).arg(&file)), expected);
        }
    }
}

/// Where the verdicts on `samples/different` part: what we complain about, and what upstream does. The reasons are in
/// docs/migration.md.
const DIFFERENT: [(&str, &[&str], &[&str]); 11] = [
    ("callbacks-not-text", &["postgresql.callbacks.on_start"], &[]),
    ("flags-as-text", &[], &["ctl.insecure", "tags.clonefrom"]),
    ("initdb-mapping", &[], &["bootstrap.initdb"]),
    ("level-in-lower-case", &[], &["log.level"]),
    ("methods-not-a-list", &["postgresql.create_replica_methods"], &[]),
    ("negative-priority", &[], &["tags.failover_priority"]),
    ("slots-not-a-mapping", &["bootstrap.dcs.slots"], &[]),
    ("stack-size-odd", &[], &["thread_stack_size"]),
    ("start-timeout-negative", &["bootstrap.dcs.master_start_timeout"], &[]),
    ("times-with-units", &[], &["bootstrap.dcs.loop_wait", "bootstrap.dcs.retry_timeout", "bootstrap.dcs.ttl"]),
    ("watchdog-auto", &[], &["watchdog.mode"]),
];

/// Complaints about a sample, without those about stores that no test machine reaches.
fn verdict(command: &mut Command, sample: &Path) -> Vec<String> {
    let output = command.args(["--validate-config", "-i"]).arg(sample).output().expect("it runs");
    let text = String::from_utf8(output.stderr).expect("text");
    let mut paths: Vec<String> = text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    assert_eq!(output.status.success(), paths.is_empty(), "{}: {text}", sample.display());
    let is_reachability = |path: &String| {
        let key = path.split('.').nth(1).unwrap_or_default();
        ["host", "hosts", "partner_addrs"].contains(&key)
    };
    paths.retain(|path| !is_reachability(path));
    paths.sort();
    paths.dedup();
    paths
}

#[test]
fn samples_get_the_verdict_that_upstream_gives() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let upstream = std::env::var_os("UPSTREAM_VENV").map_or_else(|| root.join("target/upstream"), PathBuf::from);
    let upstream = Some(upstream.join("bin/patroni")).filter(|program| program.exists());
    let reasons = fs::read_to_string(root.join("docs/migration.md")).expect("readable");
    let dir = directory();
    for folder in ["sound", "wrong", "old", "different"] {
        let samples = names_in(&root.join("samples").join(folder));
        assert!(samples.len() > 5, "{folder}");
        for sample in samples {
            let name = sample.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
            let ours = verdict(&mut patroni(dir.path()), &sample);
            let different = DIFFERENT.iter().find(|row| folder == "different" && row.0 == name);
            let expected = match folder {
                "sound" => vec![],
                "wrong" => ours.clone(),
                // Samples for one machine advertise addresses that only this machine reaches.
                "old" => vec!["postgresql.connect_address".to_owned(), "restapi.connect_address".to_owned()],
                _ => different.expect("a row for the sample").1.iter().map(|path| (*path).to_owned()).collect(),
            };
            assert_eq!(ours, expected, "{folder}/{name}");
            assert!(folder != "wrong" || !ours.is_empty(), "{name}");
            assert!(different.is_none() || reasons.contains(&format!("| `{name}` |")), "{name} in docs/migration.md");
            let Some(program) = &upstream else { continue };
            let theirs = verdict(&mut clean(Command::new(program), dir.path()), &sample);
            match (folder, different) {
                (_, Some((_, _, expected))) => assert_eq!(theirs, *expected, "{name}"),
                // Upstream reads most of the old layout when it starts, but its validation does not know it.
                ("old", _) => assert!(theirs.contains(&"postgresql.authentication".to_owned()), "{name}: {theirs:?}"),
                _ => assert_eq!(theirs, ours, "{folder}/{name}"),
            }
        }
    }
}

/// Every sample of the old layout is one that may run, once its store is supported; each key that moved has its notice.
#[test]
fn old_files_are_explained() {
    let dir = directory();
    for sample in names_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/old")) {
        let loaded = config::load_with(Some(&sample), vec![]).expect("loads");
        assert!(loaded.bootstrap().is_ok_and(|bootstrap| bootstrap.is_some()), "{}", sample.display());
        let notes = loaded.warnings();
        assert!(notes.iter().any(|note| note == "postgresql.name is an older setting: name replaces it"), "{notes:?}");
        assert!(notes.iter().all(|note| !note.contains("not a known setting")), "{notes:?}");
    }
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/old/etcd.yml");
    let printed = dir.path().join("etcd.yml");
    fs::copy(sample, &printed).expect("copied");
    let text = stderr(patroni_as_user(dir.path()).arg(&printed), 1);
    assert_eq!(
        text,
        "section etcd names a distributed configuration store that is not supported yet: expected etcd3\n"
    );
}
