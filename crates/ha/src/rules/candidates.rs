//! Who may lead: comparing this node with its peers.

use model::peer::{PeerAnswer, PeerStatus};
use model::settings::SynchronousMode;
use model::{ClusterView, Lsn, Member, SyncKey, Timeline};

use super::cycle::Cycle;
use super::race::NOT_SYNCHRONOUS;
use crate::facts::{Answer, Need};
use crate::step::{PeerAddress, Probe};

/// A member of which only the failsafe key tells.
fn named_member((name, api_url): (&String, &String)) -> Member {
    Member { name: name.clone(), api_url: Some(api_url.clone()), ..Member::default() }
}

impl Cycle<'_> {
    /// Asks these members, in parallel, once per cycle.
    fn poll<'m>(&self, members: impl Iterator<Item = &'m Member>) -> Need<Vec<PeerStatus>> {
        let me = self.me();
        let mut peers: Vec<PeerAddress> = members
            .filter(|member| member.name != me)
            .filter_map(|member| Some(PeerAddress { name: member.name.clone(), api_url: member.api_url.clone()? }))
            .collect();
        peers.sort_by(|a, b| a.name.cmp(&b.name));
        peers.dedup_by(|a, b| a.name == b.name);
        if peers.is_empty() {
            return Ok(Vec::new());
        }
        match self.facts.ask(Probe::Peers(peers))? {
            Answer::Peers(statuses) => Ok(statuses.clone()),
            _ => Ok(Vec::new()),
        }
    }

    /// The WAL position this node would bring into a race.
    fn own_position(&self) -> Lsn {
        self.view.pg.server.as_ref().and_then(|server| server.wal_position()).unwrap_or_default()
    }

    pub fn own_timeline(&self) -> Option<Timeline> {
        self.view.pg.server.as_ref().and_then(|server| server.timeline)
    }

    /// What the leader published last; where the store lost it, what it held when there was a leader.
    fn published_position(&self, cluster: &ClusterView) -> Lsn {
        let known = self.memory.healthy_cluster.as_ref().and_then(|known| known.status.optime);
        cluster.status.optime.max(known).unwrap_or_default()
    }

    /// Behind the last position the leader published by more than the limit.
    fn lags(&self, cluster: &ClusterView, position: Lsn) -> bool {
        self.published_position(cluster).bytes_since(position) > self.view.settings.maximum_lag_on_failover_bytes
    }

    /// Why this node must not take the lock; `None` when it is the healthiest (compatibility.md, 7.5). Where an operator
    /// named this node (`manual`), positions are not compared.
    pub fn unfit_to_lead(&self, cluster: &ClusterView, manual: bool) -> Need<Option<String>> {
        if self.view.fence.failed {
            return Ok(Some("fencing is required and does not work".to_owned()));
        }
        if !self.may_lead_in_failsafe(cluster, self.me()) {
            return Ok(Some(format!(
                "failsafe mode is on and the failsafe key does not name {}: a leader without the store would not ask it",
                self.me()
            )));
        }
        if !manual && self.lacks_sync(cluster) {
            return Ok(Some(NOT_SYNCHRONOUS.to_owned()));
        }
        let position = self.own_position();
        if !manual && self.lags(cluster, position) {
            let published = self.published_position(cluster);
            return Ok(Some(format!(
                "my wal position {position} is {} bytes behind the last known position {published} of the leader, more than maximum_lag_on_failover {}",
                published.bytes_since(position),
                self.view.settings.maximum_lag_on_failover_bytes
            )));
        }
        if ((self.view.settings.check_timeline && !manual) || self.view.pg.is_primary())
            && let Some(expected) = cluster.timeline()
            && self.own_timeline().is_none_or(|timeline| timeline < expected)
        {
            return Ok(Some(format!("my timeline is behind the cluster's timeline {expected}")));
        }
        let statuses = self.poll_rivals(cluster)?;
        let answers = statuses.iter().filter_map(|status| Some((status.name.as_str(), status.answer.as_ref()?)));
        let mut objections = answers.filter_map(|(name, answer)| {
            if manual {
                return (!answer.in_recovery).then(|| format!("primary ({name}) is still alive"));
            }
            self.beaten_by(cluster, name, answer, position)
        });
        match objections.next() {
            None if !manual => self.lacks_votes(cluster),
            objection => Ok(objection),
        }
    }

    /// The sync key, where decisions rest on it.
    pub fn sync_in_force<'c>(&self, cluster: &'c ClusterView) -> Option<&'c SyncKey> {
        let sync = cluster.sync.as_ref().map(|sync| &sync.value).filter(|sync| sync.leader.is_some());
        sync.filter(|_| self.view.settings.synchronous() != SynchronousMode::Off)
    }

    /// The sync key names this node as a synchronous standby, and decisions rest on it.
    pub fn is_listed(&self, cluster: &ClusterView) -> bool {
        self.sync_in_force(cluster).is_some_and(|sync| sync.lists(self.me()))
    }

    /// Mode `on`, and this node is neither a synchronous standby nor the primary that wrote the key.
    pub fn lacks_sync(&self, cluster: &ClusterView) -> bool {
        let sync = self.sync_in_force(cluster).filter(|_| self.view.settings.synchronous() == SynchronousMode::On);
        sync.is_some_and(|sync| !sync.lists(self.me()) && !sync.led_by(self.me()))
    }

    /// Everybody who could lead, now or when there was a leader last, and whose position counts as a vote.
    fn poll_rivals(&self, cluster: &ClusterView) -> Need<Vec<PeerStatus>> {
        let known = self.memory.healthy_cluster.as_deref();
        let asked_in_failsafe: Vec<Member> = match self.view.settings.failsafe_mode {
            true => cluster.failsafe.iter().flatten().map(named_member).collect(),
            false => Vec::new(),
        };
        let members = cluster.members.iter().chain(known.into_iter().flat_map(|known| &known.members));
        let members = members.chain(&asked_in_failsafe);
        let votes = |name: &str| self.sync_in_force(cluster).is_some_and(|sync| sync.lists(name));
        self.poll(members.filter(|member| !member.tags.nofailover() || votes(&member.name)))
    }

    /// Why acknowledged commits may be missing here, as far as the sync key and its voters tell: this node must have what
    /// `quorum` other voters have, and one more where it is none of them. The primary that wrote the key has everything.
    pub fn lacks_votes(&self, cluster: &ClusterView) -> Need<Option<String>> {
        let Some(sync) = self.sync_in_force(cluster).filter(|sync| !sync.led_by(self.me())) else {
            return Ok(None);
        };
        let needed = sync.quorum as usize + usize::from(!sync.lists(self.me()));
        if needed == 0 {
            return Ok(None);
        }
        let statuses = self.poll_rivals(cluster)?;
        let votes = |status: &&PeerStatus| {
            sync.lists(&status.name) && status.answer.as_ref().is_some_and(|answer| self.has_all_of(answer))
        };
        let votes = statuses.iter().filter(votes).count();
        Ok((votes < needed).then(|| {
            format!(
                "this node may lack acknowledged commits: {votes} voters are known not to be ahead, {needed} are needed"
            )
        }))
    }

    /// What this standby of the same cluster has is here too.
    fn has_all_of(&self, peer: &PeerAnswer) -> bool {
        let on_older_timeline = match (self.own_timeline(), peer.timeline) {
            (Some(mine), Some(theirs)) if theirs > mine => return false,
            // What it has beyond the switch to this node's timeline was abandoned then.
            (Some(mine), Some(theirs)) => theirs < mine,
            _ => false,
        };
        peer.in_recovery && (on_older_timeline || peer.wal <= self.own_position())
    }

    fn beaten_by(&self, cluster: &ClusterView, name: &str, peer: &PeerAnswer, position: Lsn) -> Option<String> {
        if peer.tags.nofailover() || peer.watchdog_failed {
            return None;
        }
        if !peer.in_recovery {
            return Some(format!("primary ({name}) is still alive"));
        }
        match (self.own_timeline(), peer.timeline) {
            (Some(mine), Some(theirs)) if theirs > mine => {
                return Some(format!("{name} is on a newer timeline {theirs} than mine {mine}"));
            }
            // What it has beyond the switch to this node's timeline was abandoned then.
            (Some(mine), Some(theirs)) if theirs < mine => return None,
            _ => {}
        }
        if self.view.pg.is_primary() {
            // What standbys have came from here; they may have received more since this node looked at itself.
            return None;
        }
        let sync = self.sync_in_force(cluster);
        if sync.is_some_and(|sync| !sync.lists(name)) {
            // What it has more was never acknowledged: commits wait for others. That goes for the old primary, too.
            return None;
        }
        if peer.wal > position {
            return Some(format!("wal position of {name} {} is ahead of my wal position {position}", peer.wal));
        }
        let priority = self.view.node.tags.failover_priority();
        let outranked = peer.wal == position && peer.wal.is_valid() && peer.tags.failover_priority() > priority;
        let old_leader = self.memory.healthy_cluster.as_deref().and_then(|known| known.leader_name());
        (outranked && old_leader != Some(name)).then(|| {
            format!(
                "{name} has the same wal position and a higher priority of {} than my priority of {priority}",
                peer.tags.failover_priority()
            )
        })
    }

    /// Members other than this one that could be promoted, as far as their records and answers tell.
    fn able_peers(&self, cluster: &ClusterView, named: Option<&str>) -> Need<Vec<(String, PeerAnswer)>> {
        // Only an operator who names a node and no leader may take one that commits do not wait for.
        let request = cluster.failover.as_ref().map(|failover| &failover.value);
        let by_hand = named.is_some()
            && request.is_some_and(|request| request.leader.is_none() && request.candidate.as_deref() == named);
        let sync = self.sync_in_force(cluster).filter(|_| !by_hand);
        let members = cluster.members.iter().filter(|member| {
            !member.tags.nofailover()
                && named.is_none_or(|name| name == member.name)
                && self.may_lead_in_failsafe(cluster, &member.name)
                && sync.is_none_or(|sync| sync.lists(&member.name) || sync.led_by(&member.name))
        });
        let statuses = self.poll(members)?;
        let able = statuses.into_iter().filter_map(|status| Some((status.name, status.answer?)));
        Ok(able.filter(|(_, answer)| !answer.tags.nofailover() && !answer.watchdog_failed).collect())
    }

    /// Somebody reachable could be promoted without losing more than the limit.
    pub fn someone_can_take_over(&self, cluster: &ClusterView) -> Need<bool> {
        let able = self.able_peers(cluster, None)?;
        let timeline = self.own_timeline();
        let voters = self.sync_in_force(cluster).map_or(0, |sync| sync.quorum as usize + 1);
        Ok(able.len() >= voters
            && able.iter().any(|(_, answer)| {
                answer.in_recovery
                    && !self.lags(cluster, answer.wal)
                    && (answer.timeline.is_none() || answer.timeline >= timeline)
            }))
    }

    /// A member that is asked for, or any where none is named, could take over now; the reason if not.
    pub fn candidate_exists(&self, cluster: &ClusterView, named: Option<&str>) -> Need<Result<(), String>> {
        let able = self.able_peers(cluster, named)?;
        if able.is_empty() {
            let others = cluster.members.iter().filter(|member| {
                member.name != self.me() && named.is_none_or(|name| name == member.name) && !member.tags.nofailover()
            });
            let others: Vec<&str> = others.map(|member| member.name.as_str()).collect();
            return Ok(Err(match others.is_empty() {
                true => "there is no other member that may be promoted".to_owned(),
                false => format!("no answer from {}", others.join(", ")),
            }));
        }
        let voters = self.sync_in_force(cluster).map_or(0, |sync| sync.quorum as usize + 1);
        if named.is_none() && able.len() < voters {
            return Ok(Err(format!("only {} of {voters} voters that are needed answer", able.len())));
        }
        let own_timeline = self.own_timeline();
        let good = able.iter().any(|(_, answer)| {
            let timeline_fits = !self.view.settings.check_timeline || answer.timeline >= own_timeline;
            answer.in_recovery && !self.lags(cluster, answer.wal) && timeline_fits
        });
        Ok(if good { Ok(()) } else { Err("every candidate lags too far behind".to_owned()) })
    }

    /// A standby that may be promoted has the checkpoint record that begins at `checkpoint`: it received more than that
    /// position. A requested candidate must itself have it.
    pub fn candidate_has(&self, cluster: &ClusterView, checkpoint: Lsn) -> Need<bool> {
        let requested = cluster.failover.as_ref().filter(|failover| failover.value.scheduled_at.is_none());
        let named = requested.and_then(|failover| failover.value.candidate.as_deref());
        let able = self.able_peers(cluster, named)?;
        Ok(able.iter().any(|(_, answer)| answer.in_recovery && answer.wal > checkpoint))
    }

    /// The named member answers and may be promoted.
    pub fn can_be_promoted(&self, cluster: &ClusterView, name: &str) -> Need<bool> {
        Ok(!self.able_peers(cluster, Some(name))?.is_empty())
    }
}
