//! What this node publishes at the end of every cycle: its record, and its slots.

use std::collections::BTreeMap;

use model::pg::Postmaster;
use model::{CloneProgress, Member, MemberState, Role, Tags};
use serde_json::Value;

use super::cycle::Cycle;
use crate::facts::Need;
use crate::memory::{AfterPromote, Memory};
use crate::step::{Effect, Task};
use crate::view::{Progress, StoreView, View};

/// What PostgreSQL is doing, in the words of the member record; `task` is the one that runs.
pub fn state_of(view: &View, memory: &Memory, task: Option<&Task>) -> MemberState {
    if memory.reinit.is_some() {
        // From the request on: whoever waits for the new copy must not take the old one for it.
        return MemberState::CreatingReplica;
    }
    if memory.restarting.is_some() {
        return MemberState::Restarting;
    }
    match task {
        Some(Task::Bootstrap) => {
            return match view.task.as_ref().and_then(|running| running.progress) {
                Some(Progress::CustomBootstrap) => MemberState::CustomBootstrap,
                Some(Progress::Restored) => MemberState::BootstrapStarting,
                _ => MemberState::Initdb,
            };
        }
        Some(Task::Clone { .. }) => return MemberState::CreatingReplica,
        Some(Task::Stop { .. }) => return MemberState::Stopping,
        Some(Task::StartPrimary { .. } | Task::StartStandby { .. }) => return MemberState::Starting,
        _ => {}
    }
    match view.pg.postmaster {
        Postmaster::Running => MemberState::Running,
        Postmaster::Starting => MemberState::Starting,
        Postmaster::Stopping => MemberState::Stopping,
        Postmaster::Absent if memory.state == MemberState::Running => MemberState::Stopped,
        Postmaster::Absent | Postmaster::Unknown => memory.state,
    }
}

/// How far the copy is that this node is being made of.
pub fn clone_progress(view: &View) -> Option<CloneProgress> {
    match view.task.as_ref().and_then(|running| running.progress) {
        Some(Progress::Copied(copied)) => Some(copied),
        _ => None,
    }
}

impl Cycle<'_> {
    pub fn publish(&mut self) -> Need<()> {
        let StoreView::Read(cluster) = &self.view.store else {
            return Ok(());
        };
        let led = self.led_by_promise(cluster)?;
        self.sync_slots(led.as_ref().unwrap_or(cluster))?;
        self.follow_sync_mode(cluster)?;
        let record = self.member_record();
        if !self.act(Effect::TouchMember(Box::new(record)))?.succeeded() {
            // A record that is missing keeps this node out of switchovers and races: not a whole cycle, if it can be helped.
            self.look_again_within_ms(1000);
        }
        Ok(())
    }

    /// The task that runs from now on: the one seen at the start of the cycle, or the one started in it.
    pub fn task_now(&self) -> Option<&Task> {
        let started = self.facts.outcomes().iter().rev().find_map(|(effect, outcome)| match effect {
            Effect::StartTask(task) if outcome.succeeded() => Some(task),
            _ => None,
        });
        started.or(self.view.task.as_ref().map(|running| &running.task))
    }

    /// The node's tags; while it waits to be no synchronous standby any more, one that says so.
    fn published_tags(&self) -> Tags {
        let mut tags = self.view.node.tags.published();
        if self.memory.leaving_sync_since.is_some() {
            tags.0.insert("nosync".to_owned(), true.into());
            tags.0.insert("sync_priority".to_owned(), 0.into());
        }
        tags
    }

    /// What other programs ignore in the record.
    fn extra(&self) -> BTreeMap<String, Value> {
        let problem = self.memory.problem.iter().map(|text| ("problem".to_owned(), text.clone().into()));
        let copied = clone_progress(self.view).map(|copied| (CloneProgress::KEY.to_owned(), copied.to_json()));
        problem.chain(copied).collect()
    }

    /// The record as the store should hold it now.
    pub fn member_record(&self) -> Member {
        let node = &self.view.node;
        let state = state_of(self.view, &self.memory, self.task_now());
        let promoting = matches!(self.task_now(), Some(Task::Promote { .. }));
        let positions = promoting
            || self.task_now().is_none()
            || matches!(self.task_now(), Some(Task::Checkpoint | Task::Repoint { .. }));
        let server = self.view.pg.server.as_ref();
        let located = server.filter(|_| {
            positions && matches!(state, MemberState::Running | MemberState::Starting | MemberState::Restarting)
        });
        let standby = located.filter(|server| server.in_recovery);
        let role = if promoting { Role::Promoted } else { self.memory.role };
        Member {
            name: node.name.clone(),
            conn_url: Some(node.conn_url.clone()),
            api_url: Some(node.api_url.clone()),
            proxy_url: node.proxy_url.clone(),
            state: state.as_str().to_owned(),
            role: role.as_str().to_owned(),
            version: Some(node.version.clone()),
            checkpoint_after_promote: (self.memory.promoted == AfterPromote::CheckpointPending).then_some(false),
            tags: self.published_tags(),
            pending_restart: !self.view.pg.pending_restart.is_empty(),
            pending_restart_reason: self.view.pg.pending_restart.clone(),
            xlog_location: located.and_then(|server| server.wal_position()),
            receive_lsn: standby.and_then(|server| server.receive_lsn),
            replay_lsn: standby.and_then(|server| server.replay_lsn),
            replication_state: located
                .filter(|_| role.public() != Role::Primary)
                .and_then(|server| server.replication_state())
                .map(str::to_owned),
            timeline: located.and_then(|server| server.timeline),
            scheduled_restart: self.memory.scheduled_restart.as_ref().map(|schedule| schedule.raw.clone()),
            pause: self.paused(),
            extra: self.extra(),
        }
    }
}
