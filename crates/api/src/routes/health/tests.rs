use std::sync::Arc;

use model::{ClusterView, Status, Tags, Timeline};
use rstest::rstest;
use serde_json::json;

use super::*;

#[rstest]
#[case("/", Check::Primary)]
#[case("/primary", Check::Primary)]
#[case("/master", Check::Primary)]
#[case("/read-write", Check::Primary)]
#[case("/standby-leader", Check::StandbyLeader)]
#[case("/standby_leader", Check::StandbyLeader)]
#[case("/leader/x", Check::Leader)]
#[case("/replica-foo", Check::Replica)]
#[case("/xreplica", Check::Replica)]
#[case("/read-only", Check::ReadOnly)]
#[case("/read-only-foo", Check::ReadOnly)]
#[case("/a/b/health", Check::Health)]
#[case("/sync", Check::Synchronous)]
#[case("/synchronous", Check::Synchronous)]
#[case("/quorum", Check::Quorum)]
#[case("/async", Check::Asynchronous)]
#[case("/asynchronous", Check::Asynchronous)]
#[case("/read-only-sync", Check::ReadOnlySynchronous)]
#[case("/read-only-synchronous", Check::ReadOnlySynchronous)]
#[case("/read-only-quorum", Check::ReadOnlyQuorum)]
#[case("/read-only-syncx", Check::Unknown)]
#[case("/async/", Check::Unknown)]
#[case("/asyncx", Check::Unknown)]
#[case("/Replica", Check::Unknown)]
#[case("/%72eplica", Check::Unknown)]
#[case("/liveness", Check::Unknown)]
#[case("/nonsense", Check::Unknown)]
fn paths(#[case] path: &str, #[case] check: Check) {
    assert_eq!(Check::of_path(path), check);
}

fn cluster(optime: u64) -> Option<Arc<ClusterView>> {
    Some(Arc::new(ClusterView {
        status: Status { optime: Some(Lsn(optime)), ..Status::default() },
        ..ClusterView::default()
    }))
}

fn node(role: Role, is_leader: bool) -> NodeStatus {
    NodeStatus {
        state: Some(MemberState::Running),
        role,
        is_leader,
        cluster: cluster(1000),
        timeline: Some(Timeline(1)),
        ..NodeStatus::default()
    }
}

fn replica() -> NodeStatus {
    NodeStatus {
        replayed_location: Some(Lsn(900)),
        received_location: Some(Lsn(990)),
        replication_state: Some("streaming".into()),
        maximum_lag_on_failover_bytes: 50,
        ..node(Role::Replica, false)
    }
}

const PATHS: [&str; 11] = [
    "/primary",
    "/leader",
    "/standby-leader",
    "/replica",
    "/read-only",
    "/sync",
    "/quorum",
    "/async",
    "/read-only-sync",
    "/read-only-quorum",
    "/health",
];

/// The paths that are answered 200.
fn healthy(status: &NodeStatus) -> Vec<&'static str> {
    PATHS.into_iter().filter(|path| is_healthy(Check::of_path(path), status, &Query::default())).collect()
}

#[test]
fn leader() {
    let expected = ["/primary", "/leader", "/read-only", "/read-only-sync", "/read-only-quorum", "/health"];
    assert_eq!(healthy(&node(Role::Primary, true)), expected);
}

#[test]
fn primary_whose_lease_is_over_is_no_primary() {
    assert_eq!(healthy(&node(Role::Primary, false)), ["/health"]);
    let lost = NodeStatus { cluster: None, ..node(Role::Primary, false) };
    assert_eq!(healthy(&lost), ["/health"]);
}

#[test]
fn paused_without_store_goes_by_the_role() {
    let alone = |role| NodeStatus { cluster: None, pause: true, ..node(role, false) };
    assert_eq!(healthy(&alone(Role::Primary)), ["/primary", "/leader", "/read-only", "/health"]);
    assert_eq!(healthy(&alone(Role::StandbyLeader)), ["/leader", "/standby-leader", "/read-only", "/health"]);
    assert_eq!(healthy(&alone(Role::Replica)), ["/replica", "/read-only", "/health"]);
}

#[test]
fn standby_leader_is_no_replica() {
    let expected = ["/leader", "/standby-leader", "/read-only", "/read-only-sync", "/read-only-quorum", "/health"];
    for role in [Role::StandbyLeader, Role::Replica] {
        assert_eq!(healthy(&NodeStatus { standby_cluster: true, ..node(role, true) }), expected, "{role}");
    }
}

#[test]
fn kinds_of_replicas() {
    assert_eq!(healthy(&replica()), ["/replica", "/read-only", "/async", "/health"]);
    let sync = NodeStatus { sync_standby: true, ..replica() };
    assert_eq!(healthy(&sync), ["/replica", "/read-only", "/sync", "/read-only-sync", "/health"]);
    let quorum = NodeStatus { quorum_standby: true, ..replica() };
    assert_eq!(healthy(&quorum), ["/replica", "/read-only", "/quorum", "/read-only-quorum", "/health"]);
    let blind = NodeStatus { cluster: None, sync_standby: true, ..replica() };
    assert_eq!(healthy(&blind), ["/replica", "/read-only", "/health"]);
    let starting = NodeStatus { state: Some(MemberState::Starting), ..replica() };
    assert!(healthy(&starting).is_empty());
    let hidden = Tags(json!({"noloadbalance": true}).as_object().cloned().expect("an object"));
    assert_eq!(healthy(&NodeStatus { tags: hidden, ..replica() }), ["/health"]);
}

#[rstest]
#[case("", true)]
#[case("lag=100", true)]
#[case("lag=99", false)]
#[case("lag=1kB", true)]
#[case("lag=x", true)]
#[case("lag=-1", false)]
#[case("replication_state=streaming", true)]
#[case("replication_state=in+archive+recovery", false)]
#[case("tag_zone=a", true)]
#[case("tag_zone=b", false)]
#[case("tag_zone=", true)]
#[case("tag_missing=a", false)]
#[case("tag_clonefrom=true", true)]
#[case("tag_clonefrom=True", false)]
#[case("tag_weight=3&tag_zone=a", true)]
#[case("tag_weight=3&tag_zone=b", false)]
fn replica_queries(#[case] query: &str, #[case] expected: bool) {
    let tags = json!({"zone": "a", "clonefrom": true, "weight": 3});
    let status = NodeStatus { tags: Tags(tags.as_object().cloned().expect("an object")), ..replica() };
    assert_eq!(is_healthy(Check::Replica, &status, &Query::parse(query)), expected);
}

#[test]
fn tags_do_not_matter_for_the_leader() {
    let query = Query::parse("tag_zone=b&lag=0");
    for (check, expected) in [(Check::Primary, true), (Check::Leader, true), (Check::ReadOnly, false)] {
        assert_eq!(is_healthy(check, &node(Role::Primary, true), &query), expected, "{check:?}");
    }
}

#[test]
fn lag_goes_by_the_latest_position_heard_of() {
    let status = NodeStatus { latest_end: Some(Lsn(2000)), ..replica() };
    for (lag, expected) in [("lag=1099", false), ("lag=1100", true)] {
        assert_eq!(is_healthy(Check::Replica, &status, &Query::parse(lag)), expected, "{lag}");
    }
}

#[rstest]
#[case(node(Role::Primary, true), "", true)]
#[case(node(Role::Primary, false), "", false)]
#[case(replica(), "", false)] // 100 bytes behind, 50 allowed
#[case(replica(), "lag=100", true)]
#[case(replica(), "lag=x", false)]
#[case(replica(), "mode=write", true)] // received all but 10
#[case(replica(), "mode=apply", false)]
#[case(NodeStatus { replication_state: Some("in archive recovery".into()), ..replica() }, "lag=1MB", false)]
#[case(NodeStatus { cluster: None, ..replica() }, "lag=1MB", false)]
#[case(NodeStatus { cluster: None, failsafe_active: true, ..replica() }, "lag=0", true)]
#[case(NodeStatus { cluster: None, latest_end: Some(Lsn(940)), ..replica() }, "", true)]
#[case(NodeStatus { state: Some(MemberState::Starting), ..replica() }, "lag=1MB", false)]
fn readiness_of(#[case] status: NodeStatus, #[case] query: &str, #[case] expected: bool) {
    assert_eq!(is_ready(&status, &Query::parse(query)), expected);
}
