use rstest::rstest;

use super::*;
use crate::testing::cluster;

const KEYS: &[(&str, &str)] = &[
    ("leader", "z"),
    ("members/a", r#"{"state":"running","role":"replica"}"#),
    ("members/b", r#"{"state":"running","role":"replica"}"#),
    ("members/z", r#"{"state":"running","role":"primary"}"#),
];

#[rstest]
#[case(RoleFilter::Any, &["a", "b", "z"])]
#[case(RoleFilter::Leader, &["z"])]
#[case(RoleFilter::Primary, &["z"])]
#[case(RoleFilter::StandbyLeader, &[])]
#[case(RoleFilter::Replica, &["a", "b"])]
#[case(RoleFilter::Standby, &["a", "b"])]
fn roles(#[case] role: RoleFilter, #[case] expected: &[&str]) {
    let cluster = cluster("c", KEYS);
    let names: Vec<&str> = in_role(&cluster.view, role).iter().map(|member| member.name.as_str()).collect();
    assert_eq!(names, expected);
}

#[test]
fn members_in_a_circle_are_shown() {
    let cluster = cluster(
        "c",
        &[
            ("members/a", r#"{"tags":{"replicatefrom":"b"}}"#),
            ("members/b", r#"{"tags":{"replicatefrom":"a"}}"#),
            ("members/c", r#"{"tags":{"replicatefrom":"c"}}"#),
        ],
    );
    let rows = topology::order(&cluster.view, Format::Topology);
    let labels: Vec<&str> = rows.iter().map(|(_, label)| label.as_str()).collect();
    assert_eq!(labels, ["+ a", "  + b", "+ c"]);
}

#[test]
fn a_citus_group_has_its_own_title_and_column() {
    let mut cluster = cluster("c", KEYS);
    cluster.group = Some(1);
    let table = table(&cluster, Format::Pretty, false);
    assert_eq!(table.title.as_deref(), Some(" Citus cluster: c (group: 1, uninitialized) "));
    let json = super::table(&cluster, Format::Json, false).render(Format::Json, "");
    assert!(json.starts_with(r#"[{"Cluster": "c", "Group": 1, "Member": "a""#), "{json}");
}

#[test]
fn what_needs_an_operator_is_said_below_the_table() {
    let record = r#"{"state":"running","role":"replica","problem":"pg_rewind failed; run patronictl reinit for b"}"#;
    let cluster = cluster("c", &[("members/b", record)]);
    assert_eq!(footer(&cluster.view), " b: pg_rewind failed; run patronictl reinit for b\n");
}
