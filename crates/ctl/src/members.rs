//! From a [`ClusterView`] to rows: roles, lag, and the columns of `list` and `topology`; and choosing members by
//! role and name.

use clap::ValueEnum;
use model::{CloneProgress, ClusterView, Lsn, Member};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::error::{Result, fail};
use crate::output::{Column, Format, Table};
use crate::topology;
use crate::{when, yaml};

/// Reasons for a pending restart that are longer than this are hidden in drawn tables.
const REASON_CHARS_MAX: usize = 50;

/// Roles to choose members by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RoleFilter {
    /// The holder of the leader key.
    Leader,
    /// The leader of a cluster that is no standby cluster.
    Primary,
    /// The leader of a standby cluster.
    StandbyLeader,
    /// Everyone but the leader.
    Replica,
    /// The same as `replica`.
    Standby,
    /// Everyone.
    Any,
}

impl RoleFilter {
    /// The name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            RoleFilter::Leader => "leader",
            RoleFilter::Primary => "primary",
            RoleFilter::StandbyLeader => "standby-leader",
            RoleFilter::Replica => "replica",
            RoleFilter::Standby => "standby",
            RoleFilter::Any => "any",
        }
    }
}

/// The members in that role, sorted by name.
pub fn in_role(view: &ClusterView, role: RoleFilter) -> Vec<&Member> {
    let matches = |member: &&Member| {
        let leads = view.leader_name() == Some(member.name.as_str());
        let standby_leader = member.role == "standby_leader";
        match role {
            RoleFilter::Any => true,
            RoleFilter::Leader => leads,
            RoleFilter::Primary => leads && !standby_leader,
            RoleFilter::StandbyLeader => leads && standby_leader,
            RoleFilter::Replica | RoleFilter::Standby => !leads,
        }
    };
    view.members.iter().filter(matches).collect()
}

/// The sentence for a cluster in which nobody has the role asked for.
pub fn require_any(cluster: &Cluster, role: RoleFilter) -> Result {
    if in_role(&cluster.view, role).is_empty() {
        return fail(format!("{} cluster doesn't have any members", cluster.name));
    }
    Ok(())
}

/// The members in that role, of the named ones if any are named. An error when nothing remains.
pub fn select(cluster: &Cluster, role: RoleFilter, names: &[String]) -> Result<Vec<Member>> {
    let candidates = in_role(&cluster.view, role).into_iter();
    let chosen: Vec<Member> =
        candidates.filter(|member| names.is_empty() || names.contains(&member.name)).cloned().collect();
    if chosen.is_empty() {
        let role = if role == RoleFilter::Replica { "replica".to_owned() } else { format!("'{}'", role.as_str()) };
        return fail(format!("No {role} among provided members"));
    }
    Ok(chosen)
}

/// The word for a member's role in tables.
fn role_title(view: &ClusterView, member: &Member) -> &'static str {
    if view.leader_name() == Some(member.name.as_str()) {
        return if member.role == "standby_leader" { "Standby Leader" } else { "Leader" };
    }
    let config = view.config.as_ref().map(|config| &config.value);
    let mode = config.map(|config| model::Settings::resolve(config).0.synchronous()).unwrap_or_default();
    let standby = view.sync.as_ref().is_some_and(|sync| sync.value.lists(&member.name));
    match mode {
        model::settings::SynchronousMode::On if standby => "Sync Standby",
        model::settings::SynchronousMode::Quorum if standby => "Quorum Standby",
        _ => "Replica",
    }
}

/// Whether the member may be promoted without losing acknowledged commits; true where synchronous mode is off.
pub fn is_synchronous(view: &ClusterView, name: &str) -> bool {
    let config = view.config.as_ref().map(|config| &config.value);
    let mode = config.map(|config| model::Settings::resolve(config).0.synchronous()).unwrap_or_default();
    if mode == model::settings::SynchronousMode::Off {
        return true;
    }
    let Some(sync) = view.sync.as_ref().filter(|sync| sync.value.leader.is_some()) else {
        return true;
    };
    sync.value.led_by(name) || sync.value.lists(name)
}

/// `host`, or `host:port` for all members when one has another port than 5432 or two share a host.
fn hosts(view: &ClusterView) -> Vec<String> {
    let addresses: Vec<_> = view.members.iter().map(Member::pg_address).collect();
    let known: Vec<_> = addresses.iter().flatten().collect();
    let shared = known.iter().enumerate().any(|(i, a)| known[..i].iter().any(|b| a.host == b.host));
    let with_port = shared || known.iter().any(|address| address.port != 5432);
    let show = |address: &Option<model::HostPort>| match address {
        Some(address) if with_port => address.to_string(),
        Some(address) => address.host.clone(),
        None => String::new(),
    };
    addresses.iter().map(show).collect()
}

/// A position and how far it is behind the cluster's, in MB.
fn position(lsn: Option<Lsn>, cluster: Option<Lsn>) -> [Value; 2] {
    match lsn.filter(|lsn| lsn.is_valid()) {
        None => ["unknown".into(), Value::Null],
        Some(lsn) => {
            let lag_bytes = cluster.unwrap_or_default().bytes_since(lsn);
            let lag_mb = (lag_bytes as f64 / 1_048_576.0).round_ties_even() as u64;
            [lsn.to_string().into(), lag_mb.into()]
        }
    }
}

/// Received and replayed positions with their lags. Members of versions that publish one position only have it under
/// the column it belongs to.
fn positions(view: &ClusterView, member: &Member) -> [Value; 4] {
    if view.leader_name() == Some(member.name.as_str()) {
        return [Value::Null, Value::Null, Value::Null, Value::Null];
    }
    let (mut receive, mut replay) = (member.receive_lsn, member.replay_lsn);
    if receive.is_none() && replay.is_none() {
        if member.replication_state.as_deref() == Some("streaming") {
            receive = member.xlog_location;
        } else {
            replay = member.xlog_location;
        }
    }
    let [receive, receive_lag] = position(receive, view.status.optime);
    let [replay, replay_lag] = position(replay, view.status.optime);
    [receive, receive_lag, replay, replay_lag]
}

fn pending_reason(member: &Member, format: Format) -> Value {
    let line = |(name, change): (&String, &model::member::ValueChange)| {
        let change = format!("{}->{}", change.old_value, change.new_value);
        let hidden = format.is_drawn() && format!("{name}: {change}").chars().count() > REASON_CHARS_MAX;
        if hidden { format!("{name}: [hidden - too long]") } else { format!("{name}: {change}") }
    };
    member.pending_restart_reason.iter().map(line).collect::<Vec<_>>().join("\n").into()
}

fn scheduled_restart(member: &Member) -> Value {
    let Some(request) = &member.scheduled_restart else {
        return Value::Null;
    };
    let text = |key: &str| request.get(key).and_then(Value::as_str);
    let mut shown = text("schedule").unwrap_or("").to_owned();
    if let Some(version) = text("postgres_version") {
        shown.push_str(&format!(" if version < {version}"));
    }
    shown.into()
}

fn tags(member: &Member, format: Format) -> Value {
    let tags = Value::Object(member.tags.0.clone());
    match format {
        _ if member.tags.is_empty() => Value::Null,
        Format::Pretty => yaml::block(&tags).trim_end().into(),
        Format::Tsv | Format::Topology => yaml::flow(&tags).into(),
        Format::Json | Format::Yaml | Format::Yml => tags,
    }
}

/// Columns that are shown when a member has something in them, or with `--extended`.
const OPTIONAL: [&str; 4] = ["Pending restart", "Pending restart reason", "Scheduled restart", "Tags"];
/// The column that only members of this program fill, while they are copied; otherwise the table is upstream's.
const CLONE_PROGRESS: &str = "Clone progress";

/// The table of members. `extended` shows all optional columns.
pub fn table(cluster: &Cluster, format: Format, extended: bool) -> Table {
    let view = &cluster.view;
    let hosts = hosts(view);
    let mut columns = vec![
        Column::new("Cluster"),
        Column::new("Group").right(),
        Column::new("Member"),
        Column::new("Host"),
        Column::new("Role"),
        Column::new("State"),
        Column::new("TL").right(),
        Column::new("Receive LSN").right(),
        Column::new("Receive Lag").headed("Lag").right(),
        Column::new("Replay LSN").right(),
        Column::new("Replay Lag").headed("Lag").right(),
    ];
    columns.extend(OPTIONAL.map(Column::new));
    columns.push(Column::new(CLONE_PROGRESS));

    let rows: Vec<Vec<Value>> = topology::order(view, format)
        .into_iter()
        .filter_map(|(index, label)| {
            let member = view.members.get(index)?;
            let state = match &member.replication_state {
                Some(state) if member.is_running() => state,
                _ => &member.state,
            };
            let mut row = vec![
                cluster.name.clone().into(),
                cluster.group.map_or(Value::Null, Value::from),
                label.into(),
                hosts.get(index).cloned().into(),
                role_title(view, member).into(),
                state.clone().into(),
                member.timeline.map_or(Value::Null, |timeline| timeline.0.into()),
            ];
            row.extend(positions(view, member));
            row.push(if member.pending_restart { "*".into() } else { Value::Null });
            row.push(pending_reason(member, format));
            row.push(scheduled_restart(member));
            row.push(tags(member, format));
            row.push(CloneProgress::of(member).map_or(Value::Null, |copied| copied.to_string().into()));
            Some(row)
        })
        .collect();

    let is_empty = |cell: Option<&Value>| cell.is_none_or(|cell| cell.is_null() || cell.as_str() == Some(""));
    let hidden = |number: usize, column: &Column| match column.name.as_str() {
        "Cluster" => format.is_drawn(),
        "Group" => format.is_drawn() || cluster.group.is_none(),
        CLONE_PROGRESS => rows.iter().all(|row| is_empty(row.get(number))),
        name if OPTIONAL.contains(&name) => !extended && rows.iter().all(|row| is_empty(row.get(number))),
        _ => false,
    };
    let kept: Vec<usize> = columns
        .iter()
        .enumerate()
        .filter(|(number, column)| !hidden(*number, column))
        .map(|(number, _)| number)
        .collect();
    Table {
        title: Some(title(cluster)),
        columns: kept.iter().filter_map(|number| columns.get(*number).cloned()).collect(),
        rows: rows.iter().map(|row| kept.iter().filter_map(|number| row.get(*number).cloned()).collect()).collect(),
        sparse: true,
    }
}

fn title(cluster: &Cluster) -> String {
    let initialize = match cluster.view.initialize.as_ref().map(|initialize| initialize.value.as_str()) {
        None => "uninitialized",
        Some("") => "initializing",
        Some(system_id) => system_id,
    };
    match cluster.group {
        Some(group) => format!(" Citus cluster: {} (group: {group}, {initialize}) ", cluster.name),
        None => format!(" Cluster: {} ({initialize}) ", cluster.name),
    }
}

/// What is said below a drawn table: maintenance mode, what members need an operator for, a scheduled switchover.
pub fn footer(view: &ClusterView) -> String {
    let mut lines = Vec::new();
    if is_paused(view) {
        lines.push("Maintenance mode: on".to_owned());
    }
    let problem = |member: &Member| Some(format!("{}: {}", member.name, member.extra.get("problem")?.as_str()?));
    lines.extend(view.members.iter().filter_map(problem));
    if let Some((failover, at)) = view.failover.as_ref().and_then(|key| Some((&key.value, key.value.scheduled_at?))) {
        lines.push(format!("Switchover scheduled at: {}", when::iso_utc(at)));
        let detail = |word: &str, name: &str| format!("{word:>23}: {name}");
        lines.extend(failover.leader.iter().map(|leader| detail("from", leader)));
        lines.extend(failover.candidate.iter().map(|candidate| detail("to", candidate)));
    }
    lines.into_iter().map(|line| format!(" {line}\n")).collect()
}

/// The cluster is in maintenance mode.
pub fn is_paused(view: &ClusterView) -> bool {
    let pause = view.config.as_ref().and_then(|config| config.value.get("pause"));
    pause.and_then(model::units::bool_of).unwrap_or(false)
}

#[cfg(test)]
mod goldens;
#[cfg(test)]
mod tests;
