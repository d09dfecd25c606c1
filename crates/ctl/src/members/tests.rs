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

#[test]
fn the_progress_of_a_copy_has_a_column_while_there_is_one() {
    let copied = r#"{"state":"creating replica","role":"uninitialized","clone_progress":{"copied_bytes":1073741824,"total_bytes":4294967296,"percent":25}}"#;
    let tsv = |extended| {
        let cluster = cluster("c", &[("members/a", r#"{"state":"running"}"#), ("members/b", copied)]);
        table(&cluster, Format::Tsv, extended).render(Format::Tsv, "")
    };
    let text = tsv(false);
    assert!(text.lines().next().is_some_and(|header| header.contains("Clone progress")), "{text}");
    assert!(text.contains("creating replica") && text.contains("25% of 4.0 GB"), "{text}");
    let none = table(&cluster("c", KEYS), Format::Tsv, true).render(Format::Tsv, "");
    assert!(!none.contains("Clone progress"), "{none}");
}
