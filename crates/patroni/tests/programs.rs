//! The programs that Patroni calls, against servers that stand in for AWS and Barman and check what they are sent, and
//! scripts that stand in for WAL-E and WAL-G.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// What a stand-in was asked.
#[derive(Clone, Debug)]
struct Asked {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: String,
}

impl Asked {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    fn form(&self) -> BTreeMap<String, String> {
        form_urlencoded::parse(self.body.as_bytes()).into_owned().collect()
    }
}

type Answer = fn(&Asked, usize) -> (u16, String);

/// A server whose answers `answer` makes, from the request and how many came before.
struct StandIn {
    url: String,
    seen: Arc<Mutex<Vec<Asked>>>,
    _runtime: tokio::runtime::Runtime,
}

#[derive(Clone)]
struct Shared {
    seen: Arc<Mutex<Vec<Asked>>>,
    answer: Answer,
}

async fn handle(
    State(shared): State<Shared>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, String) {
    let body = String::from_utf8(body.to_vec()).expect("text");
    let asked = Asked { method, path: uri.path().to_owned(), headers, body };
    let mut seen = shared.seen.lock().expect("no panics");
    let (code, text) = (shared.answer)(&asked, seen.len());
    seen.push(asked);
    (StatusCode::from_u16(code).expect("a status"), text)
}

impl StandIn {
    fn start(answer: Answer) -> StandIn {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let seen: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let app = Router::new().fallback(handle).with_state(Shared { seen: seen.clone(), answer });
        runtime.spawn(async move { axum::serve(listener, app).await });
        StandIn { url, seen, _runtime: runtime }
    }

    fn seen(&self) -> Vec<Asked> {
        self.seen.lock().expect("no panics").clone()
    }

    fn lines(&self) -> Vec<String> {
        self.seen().iter().map(Asked::line).collect()
    }
}

fn program(name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    let mut command = Command::new(cargo_bin(name));
    command.env_clear().env("LANG", "C.UTF-8").envs(variables.iter().copied()).args(arguments);
    let Output { status, stderr, .. } = command.output().expect("it runs");
    (status.code().unwrap_or(-1), String::from_utf8_lossy(&stderr).into_owned())
}

// AWS

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

fn metadata(asked: &Asked, _before: usize) -> (u16, String) {
    let text = match asked.line().as_str() {
        "PUT /latest/api/token" if asked.header("x-aws-ec2-metadata-token-ttl-seconds") == "300" => "the-token",
        _ if asked.header("x-aws-ec2-metadata-token") != "the-token" => return (401, "no token".to_owned()),
        "GET /latest/dynamic/instance-identity/document" => {
            r#"{"instanceId": "i-0123", "region": "eu-central-1", "accountId": "1"}"#
        }
        "GET /latest/meta-data/iam/security-credentials/" => "the-role\n",
        "GET /latest/meta-data/iam/security-credentials/the-role" => {
            r#"{"AccessKeyId": "AKIDEXAMPLE", "SecretAccessKey": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "Token": "the-session"}"#
        }
        _ => return (404, String::new()),
    };
    (200, text.to_owned())
}

fn ec2(asked: &Asked, before: usize) -> (u16, String) {
    if before == 0 {
        let text = "<Response><Errors><Error><Code>RequestLimitExceeded</Code><Message>slow down</Message></Error></Errors></Response>";
        return (503, text.to_owned());
    }
    let volumes = "<DescribeVolumesResponse><volumeSet><item><volumeId>vol-2</volumeId></item>\
                   <item><volumeId>vol-1</volumeId></item></volumeSet></DescribeVolumesResponse>";
    match asked.form().get("Action").map(String::as_str) {
        Some("DescribeVolumes") => (200, volumes.to_owned()),
        Some("CreateTags") => (200, "<CreateTagsResponse><return>true</return></CreateTagsResponse>".to_owned()),
        _ => (400, String::new()),
    }
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any key");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The signature, computed here from what arrived and AWS's description alone.
fn expected_authorization(asked: &Asked) -> String {
    let names = "content-type;host;x-amz-date;x-amz-security-token";
    let headers: String = names.split(';').map(|name| format!("{name}:{}\n", asked.header(name))).collect();
    let canonical = format!("POST\n/\n\n{headers}\n{names}\n{}", hex(&Sha256::digest(&asked.body)));
    let date = asked.header("x-amz-date");
    let scope = format!("{}/eu-central-1/ec2/aws4_request", &date[..8]);
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(&canonical)));
    let key = scope.split('/').fold(format!("AWS4{SECRET}").into_bytes(), |key, part| hmac(&key, part));
    let signature = hex(&hmac(&key, &to_sign));
    format!("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/{scope}, SignedHeaders={names}, Signature={signature}")
}

#[test]
fn aws_tags_the_instance_and_its_volumes() {
    let (imds, api) = (StandIn::start(metadata), StandIn::start(ec2));
    let variables =
        [("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds.url.as_str()), ("AWS_ENDPOINT_URL_EC2", api.url.as_str())];
    let (code, log) = program("patroni_aws", &["on_role_change", "primary", "batman"], &variables);
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("RequestLimitExceeded: slow down; trying again") && !log.contains(SECRET), "{log}");
    let seen = api.seen();
    for asked in &seen {
        assert_eq!(asked.header("authorization"), expected_authorization(asked), "{asked:?}");
        assert_eq!(asked.header("x-amz-security-token"), "the-session");
    }
    let pairs = |list: &[(&str, &str)]| -> BTreeMap<String, String> {
        list.iter()
            .chain(&[("Version", "2016-11-15")])
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    };
    let tag_instance = pairs(&[
        ("Action", "CreateTags"),
        ("ResourceId.1", "i-0123"),
        ("Tag.1.Key", "Role"),
        ("Tag.1.Value", "primary"),
    ]);
    let expected = [
        tag_instance.clone(),
        tag_instance,
        pairs(&[
            ("Action", "DescribeVolumes"),
            ("Filter.1.Name", "attachment.instance-id"),
            ("Filter.1.Value.1", "i-0123"),
        ]),
        pairs(&[
            ("Action", "CreateTags"),
            ("ResourceId.1", "vol-1"),
            ("ResourceId.2", "vol-2"),
            ("Tag.1.Key", "Name"),
            ("Tag.1.Value", "spilo_batman"),
            ("Tag.2.Key", "Role"),
            ("Tag.2.Value", "primary"),
            ("Tag.3.Key", "Instance"),
            ("Tag.3.Value", "i-0123"),
        ]),
    ];
    assert_eq!(seen.iter().map(Asked::form).collect::<Vec<_>>(), expected);
}

#[test]
fn aws_refuses_what_is_no_callback_and_ends_soon_elsewhere() {
    for arguments in [&["on_reload", "primary", "batman"][..], &["on_start", "primary"][..], &[]] {
        let (code, log) = program("patroni_aws", arguments, &[]);
        assert!(code == 1 && log.starts_with("Usage: "), "{arguments:?}: {log}");
    }
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let url = format!("http://{closed}");
    let started = Instant::now();
    let (code, log) =
        program("patroni_aws", &["on_start", "replica", "batman"], &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &url)]);
    assert!(code == 1 && log.contains("cannot query AWS metadata"), "{log}");
    assert!(started.elapsed() < Duration::from_secs(10));
}

// Barman

fn barman_done(asked: &Asked, before: usize) -> (u16, String) {
    let text = match asked.line().as_str() {
        "GET /status" if before == 0 => return (503, "starting".to_owned()),
        "GET /status" => "\"OK\"",
        "POST /servers/pg/operations" => r#"{"operation_id": "20300101T000000"}"#,
        "GET /servers/pg/operations/20300101T000000" if before < 4 => r#"{"status": "IN_PROGRESS"}"#,
        "GET /servers/pg/operations/20300101T000000" => r#"{"status": "DONE"}"#,
        _ => return (404, "{}".to_owned()),
    };
    (200, text.to_owned())
}

fn barman_failed(asked: &Asked, _before: usize) -> (u16, String) {
    let text = match asked.line().as_str() {
        "GET /status" => "OK",
        "POST /servers/pg/operations" => r#"{"operation_id": "1"}"#,
        _ => r#"{"status": "FAILED"}"#,
    };
    (200, text.to_owned())
}

fn barman_broken(asked: &Asked, _before: usize) -> (u16, String) {
    if asked.path == "/status" { (200, "\"OK\"".to_owned()) } else { (500, "{}".to_owned()) }
}

fn barman_not_ok(_asked: &Asked, _before: usize) -> (u16, String) {
    (200, "\"BROKEN\"".to_owned())
}

fn barman(api: &StandIn, rest: &str) -> (i32, String) {
    let fast = "--retry-wait 0 --max-retries 1 --loop-wait 0";
    let words = format!("--api-url {} {fast} {rest}", api.url);
    program("patroni_barman", &words.split_whitespace().collect::<Vec<_>>(), &[])
}

const RECOVER: &str =
    "recover --barman-server pg --ssh-command ssh --scope=batman --role=replica --datadir=/data --connstring=";
const SWITCH: &str = "config-switch on_role_change primary batman --barman-server pg --switch-when promoted";

#[test]
fn barman_restores() {
    let api = StandIn::start(barman_done);
    let (code, log) = barman(&api, RECOVER);
    assert_eq!(code, 0, "{log}");
    let seen = api.seen();
    let body: serde_json::Value = serde_json::from_str(&seen[2].body).expect("json");
    let expected = serde_json::json!({
        "type": "recovery", "backup_id": "latest", "remote_ssh_command": "ssh", "destination_directory": "/data",
    });
    assert_eq!(body, expected);
    let look = "GET /servers/pg/operations/20300101T000000";
    assert_eq!(api.lines(), ["GET /status", "GET /status", "POST /servers/pg/operations", look, look]);
}

#[test]
fn barman_switches_its_configuration() {
    for (option, expected) in [
        ("--barman-model big", serde_json::json!({"type": "config_switch", "model_name": "big"})),
        ("--reset", serde_json::json!({"type": "config_switch", "reset": true})),
    ] {
        let api = StandIn::start(|asked, before| barman_done(asked, before + 10));
        let (code, log) = barman(&api, &format!("{SWITCH} {option}"));
        assert_eq!(code, 0, "{log}");
        let body: serde_json::Value = serde_json::from_str(&api.seen()[1].body).expect("json");
        assert_eq!(body, expected);
    }
}

#[test]
fn barman_exit_codes() {
    let model = "--barman-model m";
    let cases: [(&str, Answer, String, i32); 12] = [
        ("restore failed", barman_failed, RECOVER.to_owned(), 1),
        ("restore: HTTP", barman_broken, RECOVER.to_owned(), 2),
        ("not OK", barman_not_ok, RECOVER.to_owned(), 254),
        ("no sub-command", barman_done, String::new(), 255),
        ("unknown sub-command", barman_done, "destroy".to_owned(), 2),
        ("switch: not for this role", barman_failed, format!("{SWITCH} {model}").replace("primary", "replica"), 1),
        ("switch failed", barman_failed, format!("{SWITCH} {model}"), 2),
        ("switch: HTTP", barman_broken, format!("{SWITCH} {model}"), 3),
        ("switch: neither model nor reset", barman_failed, SWITCH.to_owned(), 4),
        ("switch: both", barman_failed, format!("{SWITCH} {model} --reset"), 4),
        ("switch: another action", barman_failed, format!("{SWITCH} {model}").replace("on_role_change", "on_start"), 2),
        ("switch: not OK", barman_not_ok, format!("{SWITCH} {model}"), 254),
    ];
    for (name, answer, rest, expected) in cases {
        let api = StandIn::start(answer);
        let (code, log) = barman(&api, rest.trim());
        assert_eq!(code, expected, "{name}: {log}");
    }
}

// WAL-E and WAL-G

/// A directory with stand-ins for `envdir`, `wal-e`, `wal-g` and `psql`, and one to restore into.
struct Archive {
    dir: TempDir,
}

impl Archive {
    fn new(listing: &str, leader: &str) -> Archive {
        let dir = tempfile::tempdir().expect("a directory");
        let archive = Archive { dir };
        fs::create_dir(archive.path("env")).expect("mkdir");
        fs::write(archive.path("listing"), listing).expect("write");
        let here = archive.dir.path().display();
        let tool = format!(
            "echo \"$(basename \"$0\") $*\" >> {here}/calls\n\
             case \"$*\" in *backup-list*) cat {here}/listing;; *backup-fetch*) mkdir -p {here}/data; exit ${{FETCH:-0}};; esac"
        );
        archive.script("envdir", "shift; exec \"$@\"");
        archive.script("wal-e", &tool);
        archive.script("wal-g", &tool);
        archive.script("psql", &format!("case \"$*\" in *version_num*) echo 150000;; *) {leader};; esac"));
        archive
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn script(&self, name: &str, text: &str) {
        let path: &Path = &self.path(name);
        fs::write(path, format!("#!/bin/sh\n{text}\n")).expect("write");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
    }

    fn restore(&self, more: &[&str], fetch: &str) -> (i32, Vec<String>, String) {
        let mut arguments: Vec<String> = [("datadir", "data"), ("envdir", "env")]
            .map(|(name, path)| format!("--{name}={}", self.path(path).display()))
            .to_vec();
        let all = ["--scope=batman", "--role=replica", "--retries=0", "--connstring=host=leader"];
        // What a case gives replaces what is given here.
        let own = all.iter().filter(|word| {
            let name = word.split('=').next();
            !more.iter().any(|given| given.split('=').next() == name)
        });
        arguments.extend(own.chain(more).map(|word| (*word).to_owned()));
        let path = format!("{}:/usr/bin:/bin", self.dir.path().display());
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (code, log) = program("patroni_wale_restore", &words, &[("PATH", &path), ("FETCH", fetch)]);
        let calls = fs::read_to_string(self.path("calls")).unwrap_or_default();
        (code, calls.lines().map(str::to_owned).collect(), log)
    }
}

/// A backup of 1 GB that began at 0/10000028.
const WAL_E: &str = "name\tlast_modified\texpanded_size_bytes\twal_segment_backup_start\twal_segment_offset_backup_start\n\
                     base_1\t2030\t1073741824\t000000010000000000000010\t00000040\n";
const WAL_G: &str = r#"[{"backup_name": "base_1", "start_lsn": 268435496, "uncompressed_size": 1073741824}]"#;

#[test]
fn wale_restores_when_little_was_written_since() {
    let archive = Archive::new(WAL_E, "echo 0/11000000");
    let (code, calls, log) = archive.restore(&["--use_iam=1"], "0");
    assert_eq!(code, 0, "{log}");
    let fetch = format!("wal-e --aws-instance-profile backup-fetch {} LATEST", archive.path("data").display());
    assert_eq!(calls, ["wal-e --aws-instance-profile backup-list --detail LATEST".to_owned(), fetch]);

    let archive = Archive::new(WAL_G, "echo 0/11000000");
    let (code, calls, log) = archive.restore(&["--tool=wal-g"], "0");
    assert_eq!(code, 0, "{log}");
    let fetch = format!("wal-g backup-fetch {} LATEST", archive.path("data").display());
    assert_eq!(calls, ["wal-g backup-list --detail --json".to_owned(), fetch]);
}

#[test]
fn wale_exit_codes() {
    type Case = (&'static str, &'static str, &'static str, &'static [&'static str], &'static str, i32, bool);
    let cases: [Case; 10] = [
        ("too much for the size", WAL_E, "echo 0/30000000", &[], "0", 2, false),
        ("too much in megabytes", WAL_E, "echo 0/11000000", &["--threshold_megabytes=10"], "0", 2, false),
        ("no backup", "name\texpanded_size_bytes\n", "echo 0/11000000", &[], "0", 2, false),
        ("no such environment", WAL_E, "echo 0/11000000", &["--envdir=/nowhere"], "0", 2, false),
        ("a list that cannot be read", "name\nx\n", "echo 0/11000000", &[], "0", 1, false),
        ("the leader does not answer", WAL_E, "exit 2", &[], "0", 1, false),
        ("the leader does not answer, and need not", WAL_E, "exit 2", &["--no_leader=1"], "0", 0, true),
        ("no leader", WAL_E, "exit 2", &["--connstring="], "0", 0, true),
        ("the tool's own exit code", WAL_E, "echo 0/11000000", &[], "17", 17, true),
        ("later, and again", WAL_E, "echo 0/11000000", &["--retries=1"], "1", 1, true),
    ];
    for (name, listing, leader, more, fetch, expected, fetched) in cases {
        let archive = Archive::new(listing, leader);
        let (code, calls, log) = archive.restore(more, fetch);
        assert_eq!(code, expected, "{name}: {log}");
        let fetches = calls.iter().filter(|call| call.contains("backup-fetch")).count();
        let wanted = if more == ["--retries=1"] { 2 } else { usize::from(fetched) };
        assert_eq!(fetches, wanted, "{name}: {calls:?}");
    }
}
