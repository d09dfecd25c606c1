//! Going on without the store: what a leader tells the other members, and what they answer (`POST /failsafe`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{ClusterView, Leader, Lsn, Member, MemberState, Role};

/// A leader that cannot reach the store, as it introduces itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailsafeLeader {
    /// Member name.
    pub name: String,
    /// Its `conn_url`.
    pub conn_url: Option<String>,
    /// Its `api_url`.
    pub api_url: Option<String>,
    /// Positions of its slots, as in the status key; its own name stands for its WAL position.
    pub slots: BTreeMap<String, Lsn>,
}

/// How a member answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailsafeReply {
    /// The member.
    pub name: String,
    /// Accepted, with the member's WAL position where it told one; or why it did not accept, for people.
    pub accepted: Result<Option<Lsn>, String>,
}

impl FailsafeLeader {
    /// The body of the request.
    pub fn to_body(&self) -> Value {
        let mut body = json!({ "name": self.name, "conn_url": self.conn_url, "api_url": self.api_url });
        if let (Some(body), false) = (body.as_object_mut(), self.slots.is_empty()) {
            let slots: Map<String, Value> = self.slots.iter().map(|(name, lsn)| (name.clone(), lsn.0.into())).collect();
            body.insert("slots".to_owned(), slots.into());
        }
        body
    }

    /// The cluster with this leader, as its followers go on to see it: `known` with the leader's record completed.
    pub fn lead(&self, mut known: ClusterView) -> ClusterView {
        known.leader = Some(Leader { name: self.name.clone(), version: 0 });
        let index = known.members.iter().position(|member| member.name == self.name).unwrap_or_else(|| {
            let index = known.members.partition_point(|member| member.name < self.name);
            known.members.insert(index, Member { name: self.name.clone(), ..Member::default() });
            index
        });
        let member = &mut known.members[index];
        member.conn_url = self.conn_url.clone().or_else(|| member.conn_url.take());
        member.api_url = self.api_url.clone().or_else(|| member.api_url.take());
        member.state = MemberState::Running.as_str().to_owned();
        member.role = Role::Primary.as_str().to_owned();
        if !self.slots.is_empty() {
            known.status.slots = self.slots.clone();
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_as_upstream_writes_it() {
        let mut leader = FailsafeLeader {
            name: "a".to_owned(),
            conn_url: Some("postgres://h:5432/postgres".to_owned()),
            api_url: Some("http://h:8008/patroni".to_owned()),
            slots: BTreeMap::new(),
        };
        let bare = r#"{"name":"a","conn_url":"postgres://h:5432/postgres","api_url":"http://h:8008/patroni"}"#;
        assert_eq!(leader.to_body().to_string(), bare);
        leader.slots.insert("b".to_owned(), Lsn(5));
        assert_eq!(leader.to_body()["slots"], json!({"b": 5}));
    }

    #[test]
    fn leads_a_view_that_forgot_it() {
        let leader = FailsafeLeader {
            name: "b".to_owned(),
            conn_url: Some("postgres://h:1/postgres".to_owned()),
            ..FailsafeLeader::default()
        };
        let member = |name: &str| Member { name: name.to_owned(), ..Member::default() };
        let view = leader.lead(ClusterView { members: vec![member("a"), member("c")], ..ClusterView::default() });
        let names: Vec<_> = view.members.iter().map(|member| member.name.as_str()).collect();
        assert_eq!((names, view.leader_name()), (vec!["a", "b", "c"], Some("b")));
        assert!(view.leader_member().is_some_and(|leader| leader.pg_address().is_some() && leader.is_running()));
    }
}
