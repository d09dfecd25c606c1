//! Switchover and failover by hand, seen from the leader (compatibility.md, 7.9).

use model::{ClusterView, FailoverKey, Key};

use super::cycle::Cycle;
use super::{End, table::*};
use crate::facts::Need;
use crate::step::{Effect, StopMode, StopPurpose, Task, WriteGuard};

/// What a request means to the leader now.
enum Due {
    /// Not yet; look again in so many milliseconds.
    In(u64),
    Now,
    /// Too late: the moment has passed by more than one and a half `loop_wait`.
    Missed,
}

impl Cycle<'_> {
    /// Starts a switchover that was asked for and is possible; clears one that is not.
    pub fn consider_switchover(&mut self, cluster: &ClusterView) -> Need<Option<End>> {
        let Some(request) = cluster.failover.as_ref().map(|failover| failover.value.clone()) else {
            self.memory.switchover_since = None;
            return Ok(None);
        };
        match self.due(&request) {
            Due::In(ms) => {
                self.look_again_within_ms(ms);
                return Ok(None);
            }
            Due::Missed if request.scheduled_at == Some(FailoverKey::UNREADABLE_TIME) => {
                return self.refuse_switchover(cluster, "the scheduled time cannot be read");
            }
            Due::Missed => return self.refuse_switchover(cluster, "the scheduled time has passed"),
            Due::Now => {}
        }
        if request.leader.as_deref().is_some_and(|leader| leader != self.me()) {
            return self.refuse_switchover(cluster, "it names another leader");
        }
        if request.candidate.as_deref() == Some(self.me()) {
            return self.refuse_switchover(cluster, "I am already the leader");
        }
        if self.paused() && request.candidate.is_none() {
            return self.refuse_switchover(cluster, "while paused a candidate must be named");
        }
        if let Err(why) = self.candidate_exists(cluster, request.candidate.as_deref())? {
            return self.refuse_switchover(cluster, &why);
        }
        if let Some(end) = self.await_streaming(cluster, request.candidate.as_deref())? {
            return Ok(Some(end));
        }
        if request.scheduled_at.is_some() {
            // From here on it is an immediate request, for whoever looks at the key while the lock changes hands.
            let now = FailoverKey { scheduled_at: None, ..request.clone() };
            let value = model::wire::encode_failover(&now);
            self.act(Effect::Put { key: Key::Failover, value, guard: WriteGuard::None })?;
        }
        self.start(Task::Stop { mode: StopMode::Fast, checkpoint: true, purpose: StopPurpose::Switchover })?;
        let to = request.candidate.map_or_else(|| "the best standby".to_owned(), |name| name.clone());
        Ok(Some(End::new(SWITCHOVER, format!("manual failover: demoting myself in favour of {to}"))))
    }

    /// A standby that does not stream will not receive the shutdown checkpoint: it is given a moment to connect.
    fn await_streaming(&mut self, cluster: &ClusterView, named: Option<&str>) -> Need<Option<End>> {
        let Some(server) = &self.view.pg.server else {
            return Ok(None);
        };
        let cascades = |name: &str| cluster.member(name).is_some_and(|member| member.tags.replicatefrom().is_some());
        let streams = |name: &str| {
            cascades(name)
                || server.senders.iter().any(|sender| sender.application_name == name && sender.state == "streaming")
        };
        let others = cluster.members.iter().filter(|member| member.name != self.me());
        let mut candidates = others.filter(|member| named.is_none_or(|name| name == member.name));
        if candidates.any(|member| streams(&member.name)) {
            return Ok(None);
        }
        let since = *self.memory.switchover_since.get_or_insert(self.view.now);
        if self.view.now.since(since) <= self.view.settings.loop_wait {
            let text = "switchover: waiting for the candidate to stream from this node";
            return Ok(Some(End::new(LEAD, text).wake_in_ms(200)));
        }
        self.refuse_switchover(cluster, "the candidate does not stream from this node")
    }

    fn due(&self, request: &FailoverKey) -> Due {
        let Some(at) = request.scheduled_at else {
            return Due::Now;
        };
        let delta_ms = at.as_millisecond().saturating_sub(self.view.wall.as_millisecond());
        let loop_wait_ms = self.view.settings.loop_wait.as_millis() as i64;
        if self.paused() {
            Due::In(loop_wait_ms as u64)
        } else if delta_ms > 0 {
            Due::In(delta_ms.min(loop_wait_ms).max(1) as u64)
        } else if delta_ms < -(loop_wait_ms * 3 / 2) {
            Due::Missed
        } else {
            Due::Now
        }
    }

    fn refuse_switchover(&mut self, cluster: &ClusterView, why: &str) -> Need<Option<End>> {
        self.memory.switchover_since = None;
        self.clear_failover_request(cluster)?;
        Ok(Some(End::new(LEAD, format!("switchover is not possible and was cleared: {why}")).wake_in_ms(1000)))
    }

    /// The lock was taken in a race: the request has done its part. While paused, the candidate is still named until it
    /// is promoted: other standbys give the lock away then.
    pub fn take_up_failover_request(&mut self, cluster: &ClusterView) -> Need<()> {
        let request = cluster.failover.as_ref().filter(|failover| self.paused() && failover.value.leader.is_some());
        let Some(failover) = request.filter(|failover| failover.value.candidate.is_some()) else {
            return self.clear_failover_request(cluster);
        };
        let kept = FailoverKey { leader: None, ..failover.value.clone() };
        let value = model::wire::encode_failover(&kept);
        self.act(Effect::Put { key: Key::Failover, value, guard: WriteGuard::Version(failover.version) })?;
        Ok(())
    }

    /// Empties the failover key, unless somebody changed it meanwhile.
    pub fn clear_failover_request(&mut self, cluster: &ClusterView) -> Need<()> {
        if let Some(failover) = &cluster.failover {
            let guard = WriteGuard::Version(failover.version);
            self.act(Effect::Put { key: Key::Failover, value: "{}".to_owned(), guard })?;
        }
        Ok(())
    }
}
