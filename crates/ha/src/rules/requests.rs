//! Restarts and reinitialisations that operators ask for over REST.

use std::time::Duration;

use model::pg::Postmaster;
use model::{ClusterView, Role};

use super::cycle::Cycle;
use super::working::task_name;
use super::{End, table::*};
use crate::facts::Need;
use crate::memory::{Restarting, ScheduledRestart};
use crate::step::{Answered, Effect, StopMode, StopPurpose, Task};
use crate::view::{Request, RequestKind, RestartFilter};

impl Cycle<'_> {
    /// Answers what can be answered, and starts what was asked for and may be done.
    pub fn answer_requests(&mut self, cluster: &ClusterView) -> Need<()> {
        for Request { id, kind } in &self.view.requests {
            if self.is_taken_care_of(*id) {
                continue;
            }
            let (code, text) = match kind {
                RequestKind::Restart { filter, timeout_s } => match self.refuse_restart(cluster, filter) {
                    Some(refusal) => refusal,
                    // The request stays until commits do not wait for this node any more.
                    None if !self.leave_sync_first() => continue,
                    None => {
                        let timeout = timeout_s.map_or(self.view.settings.primary_start_timeout, Duration::from_secs);
                        if self.begin_restart(Some(*id), timeout)? {
                            continue;
                        }
                        (503, "restart failed".to_owned())
                    }
                },
                RequestKind::ScheduleRestart(_) if self.memory.scheduled_restart.is_some() => {
                    (409, "Another restart is already scheduled".to_owned())
                }
                RequestKind::ScheduleRestart(schedule) => {
                    let postmaster_start = self.view.pg.server.as_ref().map(|server| server.start_time);
                    self.memory.scheduled_restart = Some(ScheduledRestart { postmaster_start, ..schedule.clone() });
                    (202, "Restart scheduled".to_owned())
                }
                RequestKind::CancelRestart => match self.memory.scheduled_restart.take() {
                    Some(_) => (200, "scheduled restart deleted".to_owned()),
                    None => (404, "no restarts are scheduled".to_owned()),
                },
                RequestKind::Reinitialize { force, from_leader } => {
                    self.request_reinit(cluster, *force, *from_leader)?
                }
            };
            self.act(Effect::Answer(*id, Answered { code, text }))?;
        }
        Ok(())
    }

    /// The restart that it asks for is under way, or has ended just now.
    fn is_taken_care_of(&self, id: u64) -> bool {
        let under_way = self.memory.restarting.and_then(|restarting| restarting.request);
        [under_way, self.answered].contains(&Some(id))
    }

    /// Stops PostgreSQL to start it again; false when the stop could not begin.
    fn begin_restart(&mut self, request: Option<u64>, timeout: Duration) -> Need<bool> {
        let stop = Task::Stop { mode: StopMode::Fast, checkpoint: true, purpose: StopPurpose::Restart };
        let begun = self.start(stop)?.succeeded();
        if begun {
            let primary = self.memory.role.public() == Role::Primary;
            self.memory.restarting = Some(Restarting { request, timeout, primary });
        }
        Ok(begun)
    }

    /// Answers what cannot be done now, so that nobody waits in vain.
    pub fn decline_requests(&mut self, why: &str) -> Need<()> {
        for Request { id, .. } in &self.view.requests {
            if self.is_taken_care_of(*id) {
                continue;
            }
            self.act(Effect::Answer(*id, Answered { code: 503, text: why.to_owned() }))?;
        }
        Ok(())
    }

    fn refuse_restart(&self, cluster: &ClusterView, filter: &RestartFilter) -> Option<(u16, String)> {
        let refusal = |text: String| Some((503, text));
        if let Some(running) = &self.view.task {
            return refusal(format!("{} already in progress", task_name(&running.task)));
        }
        if self.memory.restarting.is_some() {
            return refusal("restart already in progress".to_owned());
        }
        if self.view.pg.is_primary() && !self.mine(cluster) {
            return refusal("restart of a primary without the leader lock is not possible".to_owned());
        }
        if self.view.pg.postmaster == Postmaster::Starting {
            return refusal("postgres is still starting".to_owned());
        }
        if self.view.pg.postmaster != Postmaster::Running {
            return refusal("restart failed: PostgreSQL is not running".to_owned());
        }
        (!self.restart_wanted(filter)).then(|| (503, "restart conditions are not satisfied".to_owned()))
    }

    fn restart_wanted(&self, filter: &RestartFilter) -> bool {
        let version = self.view.pg.server.as_ref().map(|server| server.version_num);
        let role = self.memory.role.public();
        filter.role.is_none_or(|wanted| wanted == role)
            && filter.postgres_version.is_none_or(|wanted| version.is_some_and(|version| version < wanted))
            && (!filter.restart_pending || !self.view.pg.pending_restart.is_empty())
    }

    fn request_reinit(&mut self, cluster: &ClusterView, force: bool, from_leader: bool) -> Need<(u16, String)> {
        let refusal = |text: &str| Ok((503, text.to_owned()));
        match cluster.leader_name() {
            None => return refusal("Cluster has no leader, can not reinitialize"),
            Some(name) if name == self.me() => return refusal("I am the leader, can not reinitialize"),
            Some(_) => {}
        }
        if let Some(running) = &self.view.task {
            if !force {
                return refusal(&format!("{} already in progress", task_name(&running.task)));
            }
            self.act(Effect::CancelTask)?;
        }
        if self.memory.reinit.is_some() && !force {
            return refusal("reinitialize already in progress");
        }
        self.memory.reinit = Some(from_leader);
        self.memory.retry = Default::default();
        Ok((200, "reinitialize started".to_owned()))
    }

    /// Runs the scheduled restart when its time has come.
    pub fn scheduled_restart(&mut self) -> Need<Option<End>> {
        let Some(schedule) = self.memory.scheduled_restart.clone() else {
            return Ok(None);
        };
        let Some(server) = &self.view.pg.server else {
            return Ok(None);
        };
        if schedule.postmaster_start.is_some_and(|start| start != server.start_time) {
            self.memory.scheduled_restart = None;
            return Ok(None);
        }
        let wait_ms = schedule.at.as_millisecond().saturating_sub(self.view.wall.as_millisecond());
        let loop_wait_ms = self.view.settings.loop_wait.as_millis() as i64;
        if self.paused() || wait_ms > loop_wait_ms {
            return Ok(None);
        }
        if wait_ms > 0 {
            let text = format!("no action. I am ({}), awaiting the scheduled restart", self.me());
            return Ok(Some(End::new(RESTART, text).wake_in_ms(wait_ms as u64)));
        }
        let missed = wait_ms < -(loop_wait_ms * 3 / 2) && self.leaving_since.is_none();
        if !missed && self.restart_wanted(&schedule.filter) && !self.leave_sync_first() {
            let text = "restart: waiting to be released from the synchronous standbys";
            return Ok(Some(End::new(RESTART, text)));
        }
        self.memory.scheduled_restart = None;
        if missed || !self.restart_wanted(&schedule.filter) {
            return Ok(None);
        }
        let timeout = schedule.timeout_s.map_or(self.view.settings.primary_start_timeout, Duration::from_secs);
        self.begin_restart(None, timeout)?;
        Ok(Some(End::new(RESTART, "restart scheduled")))
    }
}
