use model::member::{PendingRestart, ValueChange};
use model::pg::WalSender;
use model::wire::{RawKey, assemble};
use model::{Key, MemberState, Tags, Timeline};

use super::*;
use crate::json::to_text;

fn object(value: Value) -> Map<String, Value> {
    value.as_object().cloned().expect("an object")
}

fn base() -> NodeStatus {
    NodeStatus {
        name: "n1".into(),
        scope: "obs".into(),
        version: "4.1.5".into(),
        dcs_last_seen: 1_795_529_804,
        tags: Tags(object(json!({"zone": "a", "weight": 3}))),
        ..NodeStatus::default()
    }
}

#[test]
fn node_without_data() {
    assert_eq!(
        to_text(&node_json(&NodeStatus { state: Some(MemberState::Stopped), cluster_unlocked: true, ..base() })),
        r#"{"state": "stopped", "role": "uninitialized", "cluster_unlocked": true, "dcs_last_seen": 1795529804, "tags": {"zone": "a", "weight": 3}, "patroni": {"version": "4.1.5", "scope": "obs", "name": "n1"}}"#
    );
}

#[test]
fn primary_with_everything() {
    let status = NodeStatus {
        state: Some(MemberState::Running),
        role: Role::Promoted,
        postmaster_start_time: "2026-11-24T14:11:54.524936Z".parse().ok(),
        server_version: Some(150_018),
        location: Some(Lsn(50_331_648)),
        timeline: Some(Timeline(1)),
        replication: vec![WalSender {
            usename: "r".into(),
            application_name: "n2".into(),
            client_addr: None,
            state: "streaming".into(),
            sync_state: "async".into(),
            sync_priority: 0,
            write_lsn: None,
            flush_lsn: None,
            replay_lsn: None,
        }],
        pause: true,
        system_id: Some("7711740535628521280".into()),
        pending_restart: true,
        pending_restart_reason: PendingRestart::from([(
            "max_connections".to_owned(),
            ValueChange { old_value: "100".into(), new_value: "120".into() },
        )]),
        scheduled_restart: Some(json!({"schedule": "2030-01-01T00:00:00+00:00", "timeout": 60,
            "postmaster_start_time": "2026-11-24 14:11:54.524936+00:00"})),
        watchdog_failed: true,
        ..base()
    };
    assert_eq!(
        to_text(&node_json(&status)),
        r#"{"state": "running", "postmaster_start_time": "2026-11-24 14:11:54.524936+00:00", "role": "primary", "server_version": 150018, "xlog": {"location": 50331648}, "timeline": 1, "replication": [{"usename": "r", "application_name": "n2", "client_addr": null, "state": "streaming", "sync_state": "async", "sync_priority": 0}], "pause": true, "dcs_last_seen": 1795529804, "tags": {"zone": "a", "weight": 3}, "database_system_identifier": "7711740535628521280", "pending_restart": true, "pending_restart_reason": {"max_connections": {"old_value": "100", "new_value": "120"}}, "patroni": {"version": "4.1.5", "scope": "obs", "name": "n1"}, "scheduled_restart": {"schedule": "2030-01-01T00:00:00+00:00", "timeout": 60}, "watchdog_failed": true}"#
    );
}

#[test]
fn replica_positions() {
    let status = NodeStatus {
        state: Some(MemberState::Running),
        role: Role::Replica,
        received_location: Some(Lsn(100)),
        replayed_location: Some(Lsn(90)),
        timeline: Some(Timeline(2)),
        replication_state: Some("streaming".into()),
        sync_standby: true,
        failsafe_active: true,
        ..base()
    };
    assert_eq!(
        to_text(&node_json(&status)),
        r#"{"state": "running", "role": "replica", "xlog": {"received_location": 100, "replayed_location": 90, "replayed_timestamp": null, "paused": false}, "sync_standby": true, "timeline": 2, "replication_state": "streaming", "failsafe_mode_is_active": true, "dcs_last_seen": 1795529804, "tags": {"zone": "a", "weight": 3}, "patroni": {"version": "4.1.5", "scope": "obs", "name": "n1"}}"#
    );
    let answer = model::peer::PeerAnswer::from_status(&node_json(&status)).expect("peers can read it");
    assert_eq!((answer.wal, answer.in_recovery), (Lsn(100), true));
}

fn view(config: &str, failover: &str) -> ClusterView {
    let raw = |key: Key, value: &str| RawKey { key, value: value.to_owned(), version: 1 };
    assemble([
        raw(Key::Config, config),
        raw(Key::Failover, failover),
        raw(Key::Leader, "n1"),
        raw(Key::Sync, r#"{"leader":"n1","quorum":0,"sync_standby":"N2"}"#),
        raw(Key::Status, r#"{"optime":50331752}"#),
        raw(
            Key::Member("n1".into()),
            r#"{"conn_url":"postgres://127.0.0.1:18121/postgres","api_url":"http://127.0.0.1:18111/patroni","state":"running","role":"primary","timeline":2,"xlog_location":50331752,"pending_restart":true,"tags":{"zone":"a"}}"#,
        ),
        raw(
            Key::Member("n2".into()),
            r#"{"conn_url":"postgres://127.0.0.1:18122/postgres","api_url":"http://127.0.0.1:18112/patroni","state":"running","role":"replica","timeline":2,"replication_state":"streaming","xlog_location":50331752,"receive_lsn":50331752,"replay_lsn":50331648}"#,
        ),
        raw(Key::Member("n3".into()), r#"{"state":"creating replica","role":"uninitialized"}"#),
    ])
}

#[test]
fn whole_cluster() {
    let view = view(
        r#"{"synchronous_mode":true,"pause":true}"#,
        r#"{"leader":"n1","member":"n2","scheduled_at":"2030-01-01T00:00:00+00:00"}"#,
    );
    assert_eq!(
        to_text(&cluster_json(&view, "obs")),
        r#"{"members": [{"name": "n1", "role": "leader", "state": "running", "api_url": "http://127.0.0.1:18111/patroni", "host": "127.0.0.1", "port": 18121, "timeline": 2, "pending_restart": true, "tags": {"zone": "a"}}, {"name": "n2", "role": "sync_standby", "state": "streaming", "api_url": "http://127.0.0.1:18112/patroni", "host": "127.0.0.1", "port": 18122, "timeline": 2, "receive_lag": 0, "receive_lsn": "0/3000068", "replay_lag": 104, "replay_lsn": "0/3000000", "lag": 0, "lsn": "0/3000068"}, {"name": "n3", "role": "replica", "state": "creating replica", "receive_lsn": "unknown", "receive_lag": "unknown", "replay_lsn": "unknown", "replay_lag": "unknown", "lsn": "unknown", "lag": "unknown"}], "pause": true, "scheduled_switchover": {"at": "2030-01-01T00:00:00+00:00", "from": "n1", "to": "n2"}, "scope": "obs"}"#
    );
}

#[test]
fn roles_follow_the_configuration() {
    let roles = |config| {
        let json = cluster_json(&view(config, "{}"), "obs");
        let members = json["members"].as_array().cloned().unwrap_or_default();
        members.iter().map(|member| member["role"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(roles("{}"), ["leader", "replica", "replica"]);
    assert_eq!(roles(r#"{"synchronous_mode":"quorum"}"#), ["leader", "quorum_standby", "replica"]);
    assert_eq!(roles(r#"{"standby_cluster":{"host":"x","port":5432}}"#)[0], "standby_leader");
}

#[test]
fn progress_of_a_copy() {
    let copied = model::CloneProgress { copied_bytes: 1 << 20, total_bytes: Some(4 << 20) };
    let status = NodeStatus { state: Some(MemberState::CreatingReplica), clone_progress: Some(copied), ..base() };
    assert_eq!(
        node_json(&status)["clone_progress"],
        json!({"copied_bytes": 1_048_576, "total_bytes": 4_194_304, "percent": 25})
    );
    let extra = [(model::CloneProgress::KEY.to_owned(), copied.to_json())].into();
    let member = Member { name: "b".into(), state: "creating replica".into(), extra, ..Member::default() };
    let cluster = ClusterView { members: vec![member], ..ClusterView::default() };
    assert_eq!(cluster_json(&cluster, "demo")["members"][0]["clone_progress"]["percent"], 25);
}
