//! What the REST API says of this node, made of what the loop last published.

use agent::Published;
use api::NodeStatus;
use ha::rules::{clone_progress, state_of};
use ha::view::LeaseView;
use model::cluster::SyncKey;
use model::pg::{PgSnapshot, Postmaster};
use model::settings::SynchronousMode;
use model::{BootTime, MemberState, Role};

/// Time-dependent inputs, evaluated when the status is asked for.
pub struct Moment {
    /// Now.
    pub now: BootTime,
    /// The lease as of now.
    pub lease: LeaseView,
    /// The agent was told to stop.
    pub stopping: bool,
    /// A promise to a leader without the store lasts.
    pub promised: bool,
}

/// The status of a node whose loop has not completed a cycle yet.
pub fn starting(name: &str, scope: &str) -> NodeStatus {
    NodeStatus {
        name: name.to_owned(),
        scope: scope.to_owned(),
        version: model::COMPATIBLE_VERSION.to_owned(),
        liveness_ms_left: 60_000,
        ..NodeStatus::default()
    }
}

/// The status as of `moment`; `pg` is the last look at PostgreSQL, which may be newer than the last cycle.
pub fn status(published: &Published, pg: &PgSnapshot, moment: &Moment) -> NodeStatus {
    let (view, memory) = (&published.view, &published.memory);
    let settings = &view.settings;
    let cluster = published.cluster.as_ref().filter(|(_, read_at)| moment.now.since(*read_at) <= settings.ttl);
    let cluster = cluster.map(|(cluster, _)| cluster.clone());
    let server = pg.server.as_ref();
    let standby = server.filter(|server| server.in_recovery);
    let state = state_of(view, memory, view.task.as_ref().map(|running| &running.task));
    let answered = match pg.postmaster {
        Postmaster::Running => server.is_some(),
        // A disk that does not answer: what was known before must not be passed off as known now.
        Postmaster::Unknown => false,
        _ => true,
    };
    let role = match server {
        Some(server) if pg.postmaster == Postmaster::Running => match (server.in_recovery, settings.standby_cluster) {
            (false, _) => Role::Primary,
            (true, true) if memory.role == Role::StandbyLeader => Role::StandbyLeader,
            (true, _) => Role::Replica,
        },
        _ => memory.role.public(),
    };
    // A disk that does not answer for longer than a cycle: PostgreSQL is no primary that anybody should be sent to.
    let unreadable_for = memory.unreadable_since.map(|since| moment.now.since(since));
    let disk_is_gone = unreadable_for.is_some_and(|time| time > settings.loop_wait);
    // From the signal on, whatever the loop waits for: clients must not be sent here any more. While paused PostgreSQL
    // stays as it is.
    let stopping = moment.stopping && !settings.pause;
    let state = if stopping && state == MemberState::Running { MemberState::Stopping } else { state };
    let held = matches!(moment.lease, LeaseView::Held(deadline) if deadline > moment.now);
    let sync = cluster.as_ref().and_then(|cluster| cluster.sync.as_ref()).map(|sync| &sync.value);
    let listed = sync.is_some_and(|sync| is_listed(sync, &view.node.name)) && standby.is_some();
    NodeStatus {
        name: view.node.name.clone(),
        scope: view.node.scope.clone(),
        version: view.node.version.clone(),
        state: (answered || state != MemberState::Running).then_some(state),
        role,
        is_leader: held
            && !(disk_is_gone || stopping || memory.giving_way)
            && pg.postmaster == Postmaster::Running
            && (role == Role::Primary || settings.standby_cluster),
        standby_cluster: settings.standby_cluster,
        cluster_unlocked: published.cluster.as_ref().is_none_or(|(cluster, _)| cluster.leader.is_none()),
        cluster,
        dcs_last_seen: published.dcs_last_seen,
        pause: settings.pause,
        failsafe_active: moment.promised || (held && memory.leads_by_promise.is_some_and(|until| until > moment.now)),
        failsafe_members: memory.failsafe_members.clone(),
        failsafe_enabled: settings.failsafe_mode,
        maximum_lag_on_failover_bytes: settings.maximum_lag_on_failover_bytes,
        tags: view.node.tags.published(),
        postmaster_start_time: server.map(|server| server.start_time),
        server_version: server.map(|server| server.version_num),
        location: server.filter(|server| !server.in_recovery).and_then(|server| server.flush_lsn),
        received_location: standby.and_then(|server| server.receive_lsn),
        replayed_location: standby.and_then(|server| server.replay_lsn),
        latest_end: standby.and_then(|server| server.receiver_latest_end),
        replayed_timestamp: standby.and_then(|server| server.replay_timestamp),
        replay_paused: standby.is_some_and(|server| server.replay_paused),
        timeline: server.and_then(|server| server.timeline),
        replication_state: server.and_then(|server| server.replication_state()).map(str::to_owned),
        sync_standby: listed && settings.synchronous() != SynchronousMode::Quorum,
        quorum_standby: listed && settings.synchronous() == SynchronousMode::Quorum,
        replication: server.map(|server| server.senders.clone()).unwrap_or_default(),
        system_id: pg.system_id().map(str::to_owned),
        pending_restart: !pg.pending_restart.is_empty(),
        pending_restart_reason: pg.pending_restart.clone(),
        scheduled_restart: memory.scheduled_restart.as_ref().map(|schedule| schedule.raw.clone()),
        problem: memory.problem.clone(),
        clone_progress: clone_progress(view),
        watchdog_failed: view.fence.failed,
        liveness_ms_left: liveness_ms_left(published, pg, moment.now),
    }
}

fn is_listed(sync: &SyncKey, name: &str) -> bool {
    sync.members.iter().any(|member| member.eq_ignore_ascii_case(name))
}

/// The loop counts as stuck when its next cycle is late by `ttl`, or twice that where no primary is at stake.
fn liveness_ms_left(published: &Published, pg: &PgSnapshot, now: BootTime) -> u64 {
    let settings = &published.view.settings;
    if settings.pause {
        return u64::MAX;
    }
    let patience = if pg.is_primary() { settings.ttl } else { 2 * settings.ttl };
    let stuck_at = published.cycle_at.plus(settings.loop_wait).plus(patience);
    u64::try_from(stuck_at.since(now).as_millis()).unwrap_or(u64::MAX)
}
