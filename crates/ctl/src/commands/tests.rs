//! Commands from their arguments to what they print, ask, request and write. The expected texts are those of upstream
//! 4.1.5 for the same keys, answers and replies.

use model::Key;
use rstest::rstest;

use crate::error::CtlError;
use crate::testing::{Api, Ended, FakeStore, run};

const MEMBER: &str = r#""conn_url":"postgres://10.0.0.X:5432/postgres""#;

/// Three nodes with synchronous replication: pg1 leads, pg2 is synchronous, pg3 must not lead and waits for a restart.
fn demo(api: &Api) -> std::sync::Arc<FakeStore> {
    store(api, &[("config", r#"{"ttl":30,"loop_wait":1,"synchronous_mode":true}"#)])
}

/// The same cluster with other or further keys.
fn store(api: &Api, keys: &[(&str, &str)]) -> std::sync::Arc<FakeStore> {
    let member = |number: &str, rest: &str| {
        format!(r#"{{{},"api_url":"{}","state":"running",{rest}}}"#, MEMBER.replace('X', number), api.url())
    };
    let members = [
        ("members/pg1", member("1", r#""role":"primary","timeline":3"#)),
        ("members/pg2", member("2", r#""role":"replica","timeline":3"#)),
        ("members/pg3", member("3", r#""role":"replica","pending_restart":true,"tags":{"nofailover":true}"#)),
    ];
    let fixed = [("leader", "pg1"), ("sync", r#"{"leader":"pg1","quorum":0,"sync_standby":"pg2"}"#)];
    let mut all: Vec<(&str, &str)> = members.iter().map(|(path, value)| (*path, value.as_str())).collect();
    all.extend(fixed);
    all.extend(keys);
    FakeStore::new(&all)
}

fn reply(status: u16, body: &'static str) -> Api {
    Api::start(move |_| (status, body.to_owned()))
}

/// Output without the tables.
fn said(ended: &Ended) -> String {
    ended.out.lines().filter(|line| !line.starts_with(['+', '|'])).collect::<Vec<_>>().join("\n")
}

fn failed(sentence: &str) -> Option<CtlError> {
    Some(CtlError::Failed(sentence.to_owned()))
}

#[tokio::test]
async fn switchover_asks_and_requests() {
    let api = reply(200, "Successfully switched over to \"pg2\"");
    let ended = run(&demo(&api), "\npg2\nnow\ny\n", &["switchover"]).await;
    assert_eq!(ended.error, None);
    assert_eq!(api.lines(), [r#"POST /switchover {"candidate":"pg2","leader":"pg1"}"#]);
    let said = said(&ended);
    assert!(said.starts_with("Current cluster topology\nPrimary [pg1]: Candidate ['pg2'] []: When should the switchover take place (e.g. "), "{said}");
    assert!(
        said.contains(
            " )  [now]: Are you sure you want to switchover cluster demo, demoting current leader pg1? [y/N]: "
        ),
        "{said}"
    );
    assert!(said.ends_with(" Successfully switched over to \"pg2\""), "{said}");
}

#[rstest]
#[case(&["switchover", "--leader", "pg2", "--force"], "", "Member pg2 is not the leader of cluster demo")]
#[case(&["switchover", "--candidate", "pg1", "--force"], "", "Member pg1 is already the leader of cluster demo")]
#[case(&["switchover", "--candidate", "pg3", "--force"], "", "Member pg3 does not exist in cluster demo or is tagged as nofailover")]
#[case(&["switchover", "--scheduled", "x", "--force"], "", "Unable to parse scheduled timestamp (x). It should be in an unambiguous format (e.g. ISO 8601)")]
#[case(&["switchover"], "\n\n\nn\n", "Aborting switchover")]
#[case(&["failover", "--force"], "", "Failover could be performed only to a specific candidate")]
#[case(&["failover"], "\n", "Failover could be performed only to a specific candidate")]
#[case(&["restart", "demo", "pgX", "--force"], "", "No 'any' among provided members")]
#[case(&["restart", "demo", "-r", "standby-leader", "--force"], "", "demo cluster doesn't have any members")]
#[case(&["restart", "demo", "--pg-version", "15", "--force"], "", "Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: 15")]
#[case(&["restart", "demo"], "now\nn\n", "Aborted restart")]
#[case(&["reload", "demo", "-r", "replica", "pg1", "--force"], "", "No replica among provided members")]
#[case(&["reinit", "demo", "pg1", "--force"], "", "No replica among provided members")]
#[case(&["reinit", "demo"], "pgX\n", "pgX is not a member of cluster")]
#[case(&["resume"], "", "Cluster is not paused")]
#[case(&["edit-config", "-s", "ttl", "--force"], "", "Invalid parameter setting ttl")]
#[case(&["edit-config", "-p", "foo", "--force"], "", "Invalid parameter setting postgresql.parameters.foo")]
#[case(&["remove", "demo"], "demx\n", "Cluster names specified do not match")]
#[case(&["remove", "demo"], "demo\nyes\n", "You did not exactly type \"Yes I am aware\"")]
#[case(&["remove", "demo"], "demo\nYes I am aware\npg2\n", "You did not specify the current leader of the cluster")]
#[case(&["dsn", "-r", "replica", "-m", "pg2"], "", "--role and --member are mutually exclusive options")]
#[case(&["dsn", "-m", "x"], "", "Can not find a suitable member")]
#[case(&["query"], "", "You need to specify either --command or --file")]
#[tokio::test]
async fn refusals(#[case] args: &[&str], #[case] input: &str, #[case] sentence: &str) {
    let api = reply(500, "must not be asked");
    let store = demo(&api);
    let ended = run(&store, input, args).await;
    assert_eq!(ended.error, failed(sentence));
    assert_eq!(api.lines(), [""; 0]);
    assert!(store.value(&Key::Leader).is_some(), "nothing was deleted");
}

#[tokio::test]
async fn answers_that_end_a_switchover() {
    let api = Api::start(|line| match line {
        "POST /switchover" => (501, "Server does not support this operation".to_owned()),
        _ => (503, "Failover failed".to_owned()),
    });
    let ended = run(&demo(&api), "", &["switchover", "--force"]).await;
    assert_eq!(
        (said(&ended).as_str(), ended.error),
        ("Current cluster topology\nSwitchover failed, details: 503, Failover failed", None)
    );
    let body = r#"{"candidate":null,"leader":"pg1"}"#;
    assert_eq!(api.lines(), [format!("POST /switchover {body}"), format!("POST /failover {body}")]);
}

#[tokio::test]
async fn switchover_falls_back_to_the_store() {
    let key = r#"{"conn_url":"postgres://h:5432/postgres","api_url":"http://127.0.0.1:1/patroni","state":"running","role":"replica"}"#;
    let store = FakeStore::new(&[("leader", "a"), ("members/a", key), ("members/b", key)]);
    let args = ["switchover", "--candidate", "b", "--scheduled", "2030-01-01T10:00+02:00", "--force"];
    let ended = run(&store, "", &args).await;
    assert!(said(&ended).contains(" Could not switchover using Patroni api, falling back to DCS"), "{}", ended.out);
    assert!(ended.err.ends_with("Failing over to DCS\n"), "{}", ended.err);
    let written = store.value(&Key::Failover);
    assert_eq!(written.as_deref(), Some(r#"{"leader":"a","member":"b","scheduled_at":"2030-01-01T08:00:00+00:00"}"#));
}

#[tokio::test]
async fn failover_to_an_asynchronous_node_needs_a_second_yes() {
    let api = reply(200, "ok");
    let keys = [("config", r#"{"synchronous_mode":true}"#), ("members/pg4", r#"{"state":"running","role":"replica"}"#)];
    let ended = run(&store(&api, &keys), "y\nn\n", &["failover", "--candidate", "pg4"]).await;
    assert_eq!(ended.error, failed("Aborting failover"));
    assert!(ended.out.ends_with(
        "Are you sure you want to failover to the asynchronous node pg4? [y/N]: \
         Are you sure you want to failover cluster demo, demoting current leader pg1? [y/N]: "
    ));
}

#[rstest]
#[case(&["restart", "demo", "--pending", "--force"], 200, "Success: restart on member pg3", r#"POST /restart {"restart_pending":true}"#)]
#[case(&["restart", "demo", "pg2", "--timeout", "1min", "--force"], 503, "Failed: restart for member pg2, status code=503, (x)", r#"POST /restart {"timeout":"1min"}"#)]
#[case(&["restart", "demo", "pg2", "--scheduled", "2030-01-01T10:00Z", "--force"], 202, "Success: restart scheduled on member pg2", r#"POST /restart {"schedule":"2030-01-01T10:00:00+00:00"}"#)]
#[case(&["restart", "demo", "-r", "leader", "--pg-version", "15.2", "--force"], 409, "Failed: another restart is already scheduled on member pg1", r#"POST /restart {"postgres_version":"15.2"}"#)]
#[case(&["reload", "demo", "pg1", "--force"], 202, "Reload request received for member pg1 and will be processed within 1 seconds", "POST /reload")]
#[case(&["reload", "demo", "pg1", "--force"], 200, "No changes to apply on member pg1", "POST /reload")]
#[case(&["reload", "demo", "pg1", "--force"], 500, "Failed: reload for member pg1, status code=500, (x)", "POST /reload")]
#[case(&["reinit", "demo", "pg2", "--force", "--from-leader"], 200, "Success: reinitialize for member pg2", r#"POST /reinitialize {"force":true,"from_leader":true}"#)]
#[case(&["pause"], 200, "Success: cluster management is paused", r#"PATCH /config {"pause":true}"#)]
#[case(&["pause"], 503, "Failed: pause cluster management status code=503, (x)", r#"PATCH /config {"pause":true}"#)]
#[case(&["flush", "demo", "restart", "--force"], 200, "No scheduled restart for member pg1\nNo scheduled restart for member pg2\nNo scheduled restart for member pg3", "")]
#[case(&["flush", "demo", "switchover"], 200, "No pending scheduled switchover", "")]
#[case(&["dsn", "-r", "replica"], 200, "host=10.0.0.2 port=5432", "")]
#[tokio::test]
async fn actions(#[case] args: &[&str], #[case] status: u16, #[case] said_: &str, #[case] request: &str) {
    let api = reply(status, "x");
    let ended = run(&demo(&api), "", args).await;
    assert_eq!((said(&ended).as_str(), &ended.error), (said_, &None));
    assert_eq!(api.lines().join("\n"), request);
}

#[tokio::test]
async fn reinit_offers_to_cancel_what_runs() {
    let api = reply(503, "reinitialize already in progress");
    let ended = run(&demo(&api), "pg2\ny\ny\nn\n", &["reinit", "demo"]).await;
    assert_eq!(ended.error, None);
    assert_eq!(
        api.lines(),
        [
            r#"POST /reinitialize {"force":false,"from_leader":false}"#,
            r#"POST /reinitialize {"force":true,"from_leader":false}"#
        ]
    );
    assert!(said(&ended).starts_with("Which member do you want to reinitialize [pg2, pg3]? []: "));
}

#[tokio::test]
async fn edit_config_writes_what_was_asked_for() {
    let api = reply(500, "");
    let store = demo(&api);
    let ended = run(&store, "", &["edit-config", "-s", "ttl=20", "--force"]).await;
    assert_eq!(ended.error, None);
    assert_eq!(
        ended.out,
        "--- \n+++ \n@@ -1,3 +1,3 @@\n loop_wait: 1\n synchronous_mode: true\n-ttl: 30\n+ttl: 20\n\nConfiguration changed\n"
    );
    let before = store.value(&Key::Config);
    assert_eq!(before.as_deref(), Some(r#"{"ttl":20,"loop_wait":1,"synchronous_mode":true}"#));
    let ended = run(&store, "loop_wait: 5\n", &["edit-config", "--apply", "-"]).await;
    assert!(ended.out.ends_with("Use --force option to apply changes\n"));
    assert_eq!(run(&store, "n\n", &["edit-config", "-s", "ttl=40"]).await.error, None);
    assert_eq!(run(&store, "", &["edit-config", "-s", "ttl=40"]).await.error, Some(CtlError::Aborted));
    assert_eq!(run(&store, "", &["edit-config", "-s", "ttl=20", "--force"]).await.out, "Not changed\n");
    assert_eq!(store.value(&Key::Config), before);
    run(&store, "ttl: 60\nloop_wait: null\n", &["edit-config", "--replace", "-", "--force", "-q"]).await;
    assert_eq!(store.value(&Key::Config).as_deref(), Some(r#"{"ttl":60}"#));
}

#[tokio::test]
async fn remove_deletes_everything_after_three_answers() {
    let api = reply(500, "");
    let store = demo(&api);
    assert_eq!(run(&store, "demo\nYes I am aware\npg1\n", &["remove", "demo"]).await.error, None);
    assert_eq!(store.value(&Key::Leader), None);
}

#[tokio::test]
async fn data_formats_have_nothing_on_standard_error() {
    let empty = FakeStore::new(&[]);
    for (args, expected) in [
        (["list", "-f", "json"], "[]\n"),
        (["list", "-f", "yaml"], "[]\n\n"),
        (["history", "-f", "json"], "[]\n"),
        (
            ["list", "-f", "tsv"],
            "Cluster\tMember\tHost\tRole\tState\tTL\tReceive LSN\tReceive Lag\tReplay LSN\tReplay Lag\n",
        ),
    ] {
        let ended = run(&empty, "", &args).await;
        assert_eq!((ended.out.as_str(), ended.err.as_str(), ended.error), (expected, "", None), "{args:?}");
    }
}

#[tokio::test]
async fn history_and_configuration() {
    let keys = [
        (
            "history",
            r#"[[1,25623960,"no recovery target specified","2026-01-01T00:00:00.123456+00:00","pg2"],[2,67108864,"no recovery target specified"]]"#,
        ),
        ("config", r#"{"ttl":30,"loop_wait":1,"slots":null}"#),
    ];
    let store = FakeStore::new(&keys);
    let history = run(&store, "", &["history"]).await.out;
    insta::assert_snapshot!(history, @r"
    +----+----------+------------------------------+----------------------------------+------------+
    | TL |      LSN | Reason                       | Timestamp                        | New Leader |
    +----+----------+------------------------------+----------------------------------+------------+
    |  1 | 25623960 | no recovery target specified | 2026-01-01T00:00:00.123456+00:00 | pg2        |
    |  2 | 67108864 | no recovery target specified |                                  |            |
    +----+----------+------------------------------+----------------------------------+------------+
    ");
    assert_eq!(run(&store, "", &["show-config"]).await.out, "loop_wait: 1\nslots: null\nttl: 30\n\n");
    assert_eq!(run(&FakeStore::new(&[]), "", &["show-config"]).await.out, "");
}

#[tokio::test]
async fn versions_and_decisions() {
    let api = Api::start(|line| match line {
        "GET /patroni" => (200, r#"{"server_version":150009,"patroni":{"version":"4.1.5"}}"#.to_owned()),
        _ => (
            200,
            r#"[{"time":"old"},{"time":"T","rule":800,"name":"leader","reason":"no action. I am (pg1)","repeated":4}]"#
                .to_owned(),
        ),
    });
    let store = demo(&api);
    let ended = run(&store, "", &["version", "demo", "pg2"]).await;
    assert_eq!(ended.out, "patronictl version 4.1.5\npg2: Patroni 4.1.5 PostgreSQL 15.9\n");
    let ended = run(&store, "", &["explain", "-n", "1", "-f", "tsv"]).await;
    assert_eq!(ended.out, "Time\tRule\tReason\tRepeated\nT\tleader\tno action. I am (pg1)\t4\n");
}
