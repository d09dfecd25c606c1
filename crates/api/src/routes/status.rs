//! What the node and the cluster are doing, as JSON (compatibility.md, 5.3).

use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::Offset;
use model::settings::SynchronousMode;
use model::{CloneProgress, ClusterView, Lsn, Member, Role, Settings};
use serde_json::{Map, Value, json};

use crate::answer::Answer;
use crate::backend::NodeStatus;
use crate::call::Call;
use crate::requests::iso_text;

/// `GET /patroni`
pub(super) async fn node(call: &Call) -> Answer {
    Answer::json(200, &node_json(&call.backend.fresh_status().await))
}

/// `GET /cluster`, read from the store now.
pub(super) async fn cluster(call: &Call) -> Result<Answer, Answer> {
    let cluster = call.backend.cluster().await.map_err(|why| Answer::page(503, why))?;
    Ok(Answer::json(200, &cluster_json(&cluster, &call.backend.status().scope)))
}

/// `GET /history`
pub(super) async fn history(call: &Call) -> Result<Answer, Answer> {
    let cluster = known_cluster(call).await.map_err(|why| Answer::page(503, why))?;
    let rows = cluster.history.as_ref().map(|history| model::wire::encode_history(&history.value));
    let rows = rows.and_then(|text| serde_json::from_str(&text).ok());
    Ok(Answer::json(200, &rows.unwrap_or_else(|| json!([]))))
}

/// The cluster as the HA loop saw it last, else as the store has it now.
pub(super) async fn known_cluster(call: &Call) -> Result<Arc<ClusterView>, String> {
    match call.backend.status().cluster {
        Some(cluster) => Ok(cluster),
        None => call.backend.cluster().await,
    }
}

/// The status object; fields that do not apply are absent.
pub(super) fn node_json(status: &NodeStatus) -> Value {
    let mut object = Object::default();
    object.put("state", Some(status.state.map_or("unknown", |state| state.as_str())));
    object.put("postmaster_start_time", status.postmaster_start_time.map(time_text));
    object.put("role", Some(status.role.public().as_str()));
    object.put("server_version", status.server_version);
    object.put("xlog", xlog(status));
    object.put("sync_standby", status.sync_standby.then_some(true));
    object.put("quorum_standby", status.quorum_standby.then_some(true));
    object.put("timeline", status.timeline.map(|timeline| timeline.0));
    object.put("replication_state", status.replication_state.as_deref());
    object.put("replication", replication(status));
    object.put("pause", status.pause.then_some(true));
    object.put("cluster_unlocked", status.cluster_unlocked.then_some(true));
    object.put("failsafe_mode_is_active", status.failsafe_active.then_some(true));
    object.put("dcs_last_seen", Some(status.dcs_last_seen));
    object.put("tags", (!status.tags.is_empty()).then(|| Value::Object(status.tags.0.clone())));
    object.put("database_system_identifier", status.system_id.as_deref());
    object.put("pending_restart", status.pending_restart.then_some(true));
    let reasons = &status.pending_restart_reason;
    object.put("pending_restart_reason", (status.pending_restart && !reasons.is_empty()).then(|| json!(reasons)));
    object.put("patroni", Some(json!({"version": status.version, "scope": status.scope, "name": status.name})));
    object.put("scheduled_restart", status.scheduled_restart.clone().map(without_start_time));
    object.put("problem", status.problem.as_deref());
    object.put(CloneProgress::KEY, status.clone_progress.map(|copied| copied.to_json()));
    object.put("watchdog_failed", status.watchdog_failed.then_some(true));
    Value::Object(object.0)
}

/// A JSON object under construction, in the order of its fields.
#[derive(Default)]
struct Object(Map<String, Value>);

impl Object {
    fn put(&mut self, key: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.0.insert(key.to_owned(), value.into());
        }
    }
}

fn xlog(status: &NodeStatus) -> Option<Value> {
    if let Some(location) = status.location {
        return Some(json!({"location": location.0}));
    }
    if status.received_location.is_none() && status.replayed_location.is_none() {
        return None;
    }
    Some(json!({
        "received_location": status.received_location.unwrap_or_default().0,
        "replayed_location": status.replayed_location.unwrap_or_default().0,
        "replayed_timestamp": status.replayed_timestamp.map(time_text),
        "paused": status.replay_paused,
    }))
}

fn replication(status: &NodeStatus) -> Option<Value> {
    let rows: Vec<Value> = status
        .replication
        .iter()
        .map(|sender| {
            json!({
                "usename": sender.usename,
                "application_name": sender.application_name,
                "client_addr": sender.client_addr,
                "state": sender.state,
                "sync_state": sender.sync_state,
                "sync_priority": sender.sync_priority,
            })
        })
        .collect();
    (!rows.is_empty()).then_some(Value::Array(rows))
}

/// The start time says which life of PostgreSQL the request was for; members publish it, this object does not.
fn without_start_time(mut request: Value) -> Value {
    if let Some(request) = request.as_object_mut() {
        request.shift_remove("postmaster_start_time");
    }
    request
}

/// `2026-01-02 03:04:05.678901+00:00`
fn time_text(time: Timestamp) -> String {
    format!("{}+00:00", time.strftime("%Y-%m-%d %H:%M:%S.%6f"))
}

fn cluster_json(cluster: &ClusterView, scope: &str) -> Value {
    let empty = Map::new();
    let config = cluster.config.as_ref().map_or(&empty, |config| &config.value);
    let (settings, _) = Settings::resolve(config);
    let members: Vec<Value> = cluster.members.iter().map(|member| member_json(member, cluster, &settings)).collect();
    let mut object = Object::default();
    object.put("members", Some(members));
    object.put("pause", settings.pause.then_some(true));
    let switchover = cluster.failover.as_ref().and_then(|failover| {
        let mut object = Object::default();
        object.put("at", Some(iso_text(failover.value.scheduled_at?, Offset::UTC)));
        object.put("from", failover.value.leader.as_deref());
        object.put("to", failover.value.candidate.as_deref());
        Some(object.0)
    });
    object.put("scheduled_switchover", switchover);
    object.put("scope", Some(scope));
    Value::Object(object.0)
}

fn member_json(member: &Member, cluster: &ClusterView, settings: &Settings) -> Value {
    let leads = cluster.leader_name() == Some(member.name.as_str());
    let state = member.replication_state.as_deref().filter(|state| !leads && !state.is_empty());
    let address = member.pg_address();
    let mut object = Object::default();
    object.put("name", Some(member.name.as_str()));
    object.put("role", Some(member_role(member, leads, cluster, settings)));
    object.put("state", Some(state.unwrap_or(&member.state)));
    object.put("api_url", member.api_url.as_deref());
    object.put("host", address.as_ref().map(|address| address.host.as_str()));
    object.put("port", address.as_ref().map(|address| address.port));
    object.put("timeline", member.timeline.map(|timeline| timeline.0));
    object.put("pending_restart", member.pending_restart.then_some(true));
    let reasons = &member.pending_restart_reason;
    object.put("pending_restart_reason", (!reasons.is_empty()).then(|| json!(reasons)));
    object.put("scheduled_restart", member.scheduled_restart.clone());
    object.put("tags", (!member.tags.is_empty()).then(|| Value::Object(member.tags.0.clone())));
    object.put(CloneProgress::KEY, CloneProgress::of(member).map(|copied| copied.to_json()));
    if !leads {
        let leader_at = cluster.status.optime;
        put_position(&mut object, ["receive_lsn", "receive_lag"], member.receive_lsn, leader_at);
        put_position(&mut object, ["replay_lsn", "replay_lag"], member.replay_lsn, leader_at);
        put_position(&mut object, ["lsn", "lag"], member.xlog_location, leader_at);
    }
    Value::Object(object.0)
}

fn member_role(member: &Member, leads: bool, cluster: &ClusterView, settings: &Settings) -> &'static str {
    if leads {
        return if settings.standby_cluster { Role::StandbyLeader.as_str() } else { "leader" };
    }
    let listed = cluster
        .sync
        .as_ref()
        .is_some_and(|sync| sync.value.members.iter().any(|name| name.to_lowercase() == member.name.to_lowercase()));
    match (listed, settings.synchronous()) {
        (true, SynchronousMode::On) => "sync_standby",
        (true, SynchronousMode::Quorum) => "quorum_standby",
        _ => "replica",
    }
}

/// A position and its distance from the leader; `unknown` where it is not known. The two cases differ in the order
/// of their fields, upstream's as ours.
fn put_position(object: &mut Object, [lsn_key, lag_key]: [&str; 2], at: Option<Lsn>, leader_at: Option<Lsn>) {
    match at.filter(|at| at.is_valid()) {
        Some(at) => {
            object.put(lag_key, Some(leader_at.unwrap_or_default().bytes_since(at)));
            object.put(lsn_key, Some(at.to_string()));
        }
        None => {
            object.put(lsn_key, Some("unknown"));
            object.put(lag_key, Some("unknown"));
        }
    }
}

#[cfg(test)]
mod tests;
