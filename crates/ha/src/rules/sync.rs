//! Synchronous and quorum mode, as the leader keeps them: the sync key and `synchronous_standby_names`
//! (compatibility.md, 7.7a). In which order they may change is decided in [`crate::quorum`]; here is what is seen, and what
//! is written.

use std::time::Duration;

use model::pg::{ServerStatus, WalSender};
use model::settings::SynchronousMode;
use model::standby_names::{Method, PLACEHOLDER};
use model::wire::encode_sync;
use model::{ClusterView, Key, StandbyNames, SyncKey};

use super::cycle::Cycle;
use super::{End, list, table::*};
use crate::facts::Need;
use crate::memory::SeenRule;
use crate::quorum::{CommitRule, Electorate, Move, Names, State, Target, before_promotion};
use crate::step::{Effect, Outcome, WriteGuard};

/// Changes of one cycle: more follow in the next.
const MOVES_MAX: usize = 4;
/// Backends and WAL senders take a changed parameter over one by one: that long after it was seen to be in force, no
/// commit is acknowledged under the one before.
const SETTLE: Duration = Duration::from_secs(1);
const LOOK_AGAIN_LEAST_MS: u64 = 50;

impl Cycle<'_> {
    /// Makes one or a few safe changes towards the standbys that should be synchronous; a sentence where there were any.
    pub fn manage_sync(&mut self, cluster: &ClusterView) -> Need<Option<String>> {
        let Some(server) = &self.view.pg.server else {
            return Ok(None);
        };
        if self.view.settings.synchronous() == SynchronousMode::Off {
            return self.end_sync(cluster);
        }
        self.memory.names_managed = true;
        let position = self.note_rule(server);
        let Some((key, version)) = self.own_sync_key(cluster)? else {
            self.look_again_within_ms(500);
            return Ok(Some("waiting for the store to record the synchronous state".to_owned()));
        };
        let mut state = State {
            key,
            rule: commit_rule(&server.synchronous_standby_names),
            caught_up: match position {
                Some(position) => self.confirming(server, |sender| self.position_of(sender) >= Some(position)),
                None => Names::new(),
            },
        };
        let target = self.sync_target(cluster, server, &state);
        let said = self.move_towards(cluster, &mut state, &target, version)?;
        if state.key != target.key {
            // Somebody is to catch up.
            self.look_again_within_ms(500);
        }
        Ok(said)
    }

    fn move_towards(
        &mut self,
        cluster: &ClusterView,
        state: &mut State,
        target: &Target,
        mut version: u64,
    ) -> Need<Option<String>> {
        let mut said = None;
        for _ in 0..MOVES_MAX {
            match state.next(target) {
                Some(Move::Key(key)) => {
                    let shrinks = state.key.voters.difference(&key.voters).count() > 0;
                    let to = list(&key.voters);
                    let from = list(&state.key.voters);
                    match self.write_sync_key(cluster, &key, WriteGuard::Version(version))? {
                        Some(written) => version = written,
                        None => return Ok(Some("the sync key was changed by somebody else, looking again".to_owned())),
                    }
                    said = Some(match shrinks {
                        true => format!("Updating synchronous privilege temporarily from {from} to {to}"),
                        false => format!("Synchronous standby status assigned to {to}"),
                    });
                    state.key = key;
                }
                Some(Move::Rule(rule)) => return self.change_rule(cluster, &rule).map(Some),
                None => break,
            }
        }
        let wanted = self.standby_names(cluster, &target.rule);
        let present = self.view.pg.server.as_ref().map(|server| server.synchronous_standby_names.as_str());
        let spelled = present.and_then(StandbyNames::parse).is_some_and(|present| present.same(&wanted));
        if state.rule == target.rule && !spelled {
            return self.change_rule(cluster, &target.rule).map(Some);
        }
        Ok(said)
    }

    fn change_rule(&mut self, cluster: &ClusterView, rule: &CommitRule) -> Need<String> {
        let names = self.standby_names(cluster, rule).to_string();
        self.memory.commit_rule = None;
        let outcome = self.act(Effect::SetStandbyNames(Some(names)))?;
        self.look_again_within_ms(if outcome.succeeded() { 50 } else { 1000 });
        Ok(match outcome {
            Outcome::Failed(why) => format!("failed to set synchronous_standby_names: {why}"),
            _ if rule.num == 0 => "synchronous_standby_names is empty: commits wait for no standby".to_owned(),
            _ => format!("Assigning synchronous standby status to {}", list(&rule.names)),
        })
    }

    /// Synchronous mode was turned off: nobody relies on the key any more, then nobody is waited for.
    fn end_sync(&mut self, cluster: &ClusterView) -> Need<Option<String>> {
        if let Some(sync) = cluster.sync.as_ref().filter(|sync| sync.value.leader.is_some())
            && !self.act(Effect::Delete { key: Key::Sync, guard: WriteGuard::Version(sync.version) })?.succeeded()
        {
            self.look_again_within_ms(500);
            return Ok(Some("failed to delete the sync key, trying again".to_owned()));
        }
        self.release_names()
    }

    /// Gives `synchronous_standby_names` back to the user's configuration.
    fn release_names(&mut self) -> Need<Option<String>> {
        if !self.memory.names_managed {
            return Ok(None);
        }
        if !self.act(Effect::SetStandbyNames(None))?.succeeded() {
            self.look_again_within_ms(1000);
            return Ok(Some("failed to restore synchronous_standby_names, trying again".to_owned()));
        }
        self.memory.names_managed = false;
        self.memory.commit_rule = None;
        Ok(Some("Disabled synchronous replication".to_owned()))
    }

    /// What a node that does not lead owes to a mode that was turned on or off.
    pub fn follow_sync_mode(&mut self, cluster: &ClusterView) -> Need<()> {
        let leads = self.mine(cluster) || self.facts.lease_proof().is_some();
        if leads || self.view.task.is_some() || !self.view.pg.is_standby() {
            return Ok(());
        }
        self.memory.commit_rule = None;
        match self.view.settings.synchronous() {
            SynchronousMode::Off => self.release_names().map(drop),
            _ => {
                self.memory.names_managed = true;
                Ok(())
            }
        }
    }

    /// Since when, in WAL, every commit has waited for what the server says now; `None` as long as that is not certain.
    fn note_rule(&mut self, server: &ServerStatus) -> Option<model::Lsn> {
        let settling_ms = self.settling_ms(&server.synchronous_standby_names);
        let seen = self.memory.commit_rule.as_mut()?;
        if seen.position.is_none() && settling_ms.is_none() {
            seen.position = server.flush_lsn;
        }
        let position = seen.position;
        if position.is_none() {
            self.look_again_within_ms(settling_ms.unwrap_or(LOOK_AGAIN_LEAST_MS));
        }
        position
    }

    /// Notes since when the server says this, and tells how long until all of it goes by it; `None`: it does.
    fn settling_ms(&mut self, text: &str) -> Option<u64> {
        let now = self.view.now;
        let known = self.memory.commit_rule.take().filter(|seen| seen.text == text);
        let seen = known.unwrap_or_else(|| SeenRule { text: text.to_owned(), since: now, position: None });
        let waited = now.since(seen.since);
        self.memory.commit_rule = Some(seen);
        let left = SETTLE.saturating_sub(waited);
        (waited < SETTLE).then(|| (left.as_millis() as u64).max(LOOK_AGAIN_LEAST_MS))
    }

    /// The key as this primary wrote it, with its version. A key of somebody else is replaced by one that names this
    /// primary alone: all commits acknowledged from now on are its own.
    fn own_sync_key(&mut self, cluster: &ClusterView) -> Need<Option<(Electorate, u64)>> {
        let guard = match &cluster.sync {
            Some(sync) if sync.value.led_by(self.me()) => {
                return Ok(Some((electorate(&sync.value), sync.version)));
            }
            Some(sync) => WriteGuard::Version(sync.version),
            None => WriteGuard::Absent,
        };
        let key = Electorate::leader_only();
        Ok(self.write_sync_key(cluster, &key, guard)?.map(|version| (key, version)))
    }

    /// Writes the key; its new version, `None` where that did not succeed or is not known to have.
    fn write_sync_key(&mut self, cluster: &ClusterView, key: &Electorate, guard: WriteGuard) -> Need<Option<u64>> {
        let mut members: Vec<String> = key.voters.iter().map(|name| spelled(cluster, name)).collect();
        members.sort();
        let quorum = u32::try_from(key.quorum).unwrap_or(u32::MAX);
        let value = encode_sync(&SyncKey { leader: Some(self.me().to_owned()), quorum, members });
        match self.act(Effect::Put { key: Key::Sync, value, guard })? {
            Outcome::Written(version) => Ok(Some(*version)),
            _ => {
                self.look_again_within_ms(500);
                Ok(None)
            }
        }
    }

    /// Standbys that confirm commits under the present rule, and of whose connections each satisfies `also`.
    fn confirming(&self, server: &ServerStatus, also: impl Fn(&WalSender) -> bool) -> Names {
        let confirms = |sender: &&WalSender| matches!(sender.sync_state.as_str(), "sync" | "quorum");
        let names = server.senders.iter().filter(confirms).map(|sender| sender.application_name.to_lowercase());
        names
            .filter(|name| {
                server.senders.iter().filter(|sender| sender.application_name.to_lowercase() == *name).all(&also)
            })
            .collect()
    }

    fn sync_target(&self, cluster: &ClusterView, server: &ServerStatus, state: &State) -> Target {
        let settings = &self.view.settings;
        let strict = settings.synchronous_mode_strict;
        let lists = server.version_num >= 90_600;
        let count = if lists { settings.synchronous_node_count as usize } else { 1 };
        let count = if strict { count.max(1) } else { count };
        let picked = self.pick_standbys(cluster, server, &state.key);
        let may_lead = picked.iter().filter(|standby| !standby.nofailover).count();
        let target = match settings.synchronous() {
            SynchronousMode::Quorum if lists => {
                let voters = may_lead.max(count);
                Target::quorum_of(picked.into_iter().take(voters).map(|standby| standby.name).collect(), count)
            }
            _ => Target::all_of(picked.into_iter().take(count).map(|standby| standby.name).collect()),
        };
        if !strict || target.rule.num > 0 {
            return target;
        }
        // Nobody is there: the ones that were last have every commit, as long as no commit gets past them. One that asks to
        // be let go is let go.
        let asks = |name: &String| {
            let mut members = cluster.members.iter().filter(|member| member.name.to_lowercase() == *name);
            members.any(|member| member.tags.nosync())
        };
        if state.key.voters.iter().any(asks) {
            return Target { key: Electorate::leader_only(), rule: nobody() };
        }
        match state.key.voters.len().saturating_sub(state.key.quorum) {
            0 => Target { key: Electorate::leader_only(), rule: nobody() },
            num => Target { key: state.key.clone(), rule: CommitRule { names: state.key.voters.clone(), num } },
        }
    }

    /// Before a promotion: commits of the new primary wait for whom the key will name, and the key names the new primary.
    /// `None` when it may be promoted.
    pub fn prepare_sync(&mut self, cluster: &ClusterView) -> Need<Option<End>> {
        let settings = &self.view.settings;
        let mode = settings.synchronous();
        if mode == SynchronousMode::Off {
            return Ok(None);
        }
        self.memory.names_managed = true;
        let present = cluster.sync.as_ref().filter(|sync| sync.value.leader.is_some());
        let mut target = match present.and_then(|sync| Some((sync, sync.value.leader.as_ref()?))) {
            Some((sync, leader)) if mode == SynchronousMode::Quorum || settings.synchronous_mode_strict => {
                before_promotion(&electorate(&sync.value), &leader.to_lowercase(), &self.me().to_lowercase())
            }
            _ => Target::default(),
        };
        if settings.synchronous_mode_strict && target.rule.num == 0 {
            target.rule = nobody();
        }
        let names = self.standby_names(cluster, &target.rule);
        let server = self.view.pg.server.as_ref();
        let in_force = server.and_then(|server| StandbyNames::parse(&server.synchronous_standby_names));
        if in_force.is_none_or(|in_force| !in_force.same(&names))
            && let Outcome::Failed(why) = self.act(Effect::SetStandbyNames(Some(names.to_string())))?
        {
            let text = format!("Postponing promotion because synchronous_standby_names could not be set: {why}");
            return Ok(Some(End::new(LEAD_SYNC, text).wake_in_ms(1000)));
        }
        if target.rule.num > 0
            && let Some(end) = self.await_senders(&names.to_string())
        {
            return Ok(Some(end));
        }
        let written = present.is_some_and(|sync| sync.value.led_by(self.me()) && electorate(&sync.value) == target.key);
        let guard = cluster.sync.as_ref().map_or(WriteGuard::Absent, |sync| WriteGuard::Version(sync.version));
        if !written && self.write_sync_key(cluster, &target.key, guard)?.is_none() {
            let text = "Postponing promotion because synchronous replication state was updated by somebody else";
            return Ok(Some(End::new(LEAD_SYNC, text).wake_in_ms(200)));
        }
        Ok(None)
    }

    /// A standby that others stream from has WAL senders, and they may still go by the value before: they are given as
    /// long as those of a primary. Where there is none, whoever connects later reads the value that is there.
    fn await_senders(&mut self, names: &str) -> Option<End> {
        let settling_ms = self.settling_ms(names)?;
        let cascades = self.view.pg.server.as_ref().is_some_and(|server| !server.senders.is_empty());
        let text = "Postponing promotion until synchronous_standby_names is in force";
        cascades.then(|| End::new(LEAD_SYNC, text).wake_in_ms(settling_ms))
    }

    /// A rule as it is written for this server.
    fn standby_names(&self, cluster: &ClusterView, rule: &CommitRule) -> StandbyNames {
        let version = self.view.pg.server.as_ref().map_or(0, |server| server.version_num);
        let any = self.view.settings.synchronous() == SynchronousMode::Quorum && version >= 100_000;
        StandbyNames {
            method: if any { Method::Any } else { Method::First },
            num: u32::try_from(rule.num).unwrap_or(u32::MAX),
            names: rule.names.iter().map(|name| spelled(cluster, name)).collect(),
        }
    }

    /// A synchronous standby asks to be let go before it stops: commits would wait for it. True when it may stop.
    ///
    /// What it publishes meanwhile says that it is not to be chosen ([`Cycle::member_record`]).
    pub fn leave_sync_first(&mut self) -> bool {
        let Some(cluster) = self.view.cluster() else {
            return true;
        };
        if !self.is_listed(cluster) || cluster.leader.is_none() || self.mine(cluster) || !self.view.pg.is_standby() {
            return true;
        }
        let since = self.leaving_since.unwrap_or(self.view.now);
        if self.view.now.since(since) > 2 * self.view.settings.loop_wait {
            return true;
        }
        self.memory.leaving_sync_since = Some(since);
        self.look_again_within_ms(500);
        false
    }

    pub fn look_again_within_ms(&mut self, ms: u64) {
        self.look_again_ms = Some(self.look_again_ms.map_or(ms, |sooner| sooner.min(ms)));
    }
}

/// What a commit waits for, of a text as the server gives it. Of `*` nothing follows: anybody could have confirmed.
fn commit_rule(text: &str) -> CommitRule {
    match StandbyNames::parse(text).filter(|names| !names.any_standby()) {
        Some(names) => CommitRule { num: names.num as usize, names: names.folded() },
        None => CommitRule::default(),
    }
}

/// Commits wait until a standby is there.
fn nobody() -> CommitRule {
    CommitRule { names: Names::from([PLACEHOLDER.to_owned()]), num: 1 }
}

/// The voters of a key.
pub(super) fn electorate(sync: &SyncKey) -> Electorate {
    let voters: Names = sync.members.iter().map(|name| name.to_lowercase()).collect();
    match voters.is_empty() {
        true => Electorate::leader_only(),
        false => Electorate { voters, quorum: sync.quorum as usize },
    }
}

/// A name as its member writes it.
fn spelled(cluster: &ClusterView, lower: &str) -> String {
    let recorded = cluster.members.iter().map(|member| &member.name);
    let listed = cluster.sync.iter().flat_map(|sync| sync.value.members.iter().chain(&sync.value.leader));
    recorded.chain(listed).find(|name| name.to_lowercase() == lower).map_or_else(|| lower.to_owned(), String::clone)
}
