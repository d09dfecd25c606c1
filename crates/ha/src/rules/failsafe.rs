//! Failsafe mode: a primary that lost the store goes on while every other member promises not to lead
//! (compatibility.md, 7.13). What it rests on is in docs/safety.md.

use std::collections::BTreeMap;

use model::{ClusterView, FailsafeLeader, FailsafeReply, Key, Role, slots};

use super::cycle::Cycle;
use super::{End, table::*};
use crate::facts::{Answer, Need};
use crate::step::{Effect, Outcome, PeerAddress, Probe, WriteGuard};
use crate::view::StoreView;

/// What came of asking the other members.
pub(super) enum Consent {
    /// All promised: the cycle ends with this.
    Given(End),
    /// Failsafe mode is off, or does not apply to this node.
    NotAsked,
    /// Who did not, and why.
    Missing(String),
}

impl Consent {
    /// The end of a cycle with everybody's consent, or what a sentence about going on without it ends with.
    pub fn given(self) -> Result<End, String> {
        match self {
            Consent::Given(end) => Ok(end),
            Consent::Missing(why) => Err(format!("; {why}")),
            Consent::NotAsked => Err(String::new()),
        }
    }
}

impl Cycle<'_> {
    /// The leader keeps the names and addresses of all members in the store: who must agree in an outage, and who may
    /// race after one. Until a write is known to be applied, the members of both the old and the new key count.
    pub fn write_failsafe_members(&mut self, cluster: &ClusterView) -> Need<()> {
        if !self.view.settings.failsafe_mode {
            return Ok(());
        }
        let named = |member: &model::Member| Some((member.name.clone(), member.api_url.clone()?));
        let mut members: BTreeMap<String, String> = cluster.members.iter().filter_map(named).collect();
        members.entry(self.me().to_owned()).or_insert_with(|| self.view.node.api_url.clone());
        if cluster.failsafe.as_ref() == Some(&members) && self.memory.failsafe_members == members {
            return Ok(());
        }
        let value = serde_json::json!(members).to_string();
        let put = Effect::Put { key: Key::Failsafe, value, guard: WriteGuard::None };
        match self.act(put)? {
            outcome if outcome.succeeded() => self.memory.failsafe_members = members,
            Outcome::Unreachable(_) => self.memory.failsafe_members.extend(members),
            _ => {}
        }
        Ok(())
    }

    /// Carries over who must agree, from every successful look at the store.
    pub fn note_failsafe_members(&mut self, cluster: &ClusterView) {
        match &cluster.failsafe {
            // The leader's own idea may be ahead of what it reads, or include what it could not write.
            Some(members) if self.mine(cluster) => self.memory.failsafe_members.extend(members.clone()),
            Some(members) => self.memory.failsafe_members = members.clone(),
            None if self.mine(cluster) => {}
            None => self.memory.failsafe_members.clear(),
        }
    }

    /// In failsafe mode only members that its key names may lead: a leader that lost the store does not ask others.
    pub fn may_lead_in_failsafe(&self, cluster: &ClusterView, name: &str) -> bool {
        let members = cluster.failsafe.as_ref().filter(|members| !members.is_empty());
        !self.view.settings.failsafe_mode || members.is_none_or(|members| members.contains_key(name))
    }

    /// Asks every other member whether this primary may go on leading without the store.
    pub fn ask_for_consent(&mut self, why: &str) -> Need<Consent> {
        let primary = self.may_be_writable() && self.memory.role.public() == Role::Primary;
        let leads = primary && self.view.holds_lease();
        if !self.view.settings.failsafe_mode || self.paused() || !leads {
            self.memory.leads_by_promise = None;
            return Ok(Consent::NotAsked);
        }
        let known = &self.memory.failsafe_members;
        if !known.contains_key(self.me()) {
            let why = if known.is_empty() { "is not known" } else { "does not name this node" };
            return Ok(Consent::Missing(format!("the failsafe key {why}")));
        }
        let others = known.iter().filter(|(name, _)| *name != self.me());
        let members: Vec<PeerAddress> =
            others.map(|(name, api_url)| PeerAddress { name: name.clone(), api_url: api_url.clone() }).collect();
        let probe = Probe::Failsafe { members, leader: Box::new(self.introduce_self()) };
        let Answer::Failsafe { asked_at, replies } = self.facts.ask(probe)? else {
            return Ok(Consent::Missing("no answers".to_owned()));
        };
        let refusals = replies
            .iter()
            .filter_map(|reply| reply.accepted.as_ref().err().map(|why| format!("{} ({why})", reply.name)));
        let refusals: Vec<String> = refusals.collect();
        if !refusals.is_empty() {
            self.memory.leads_by_promise = None;
            return Ok(Consent::Missing(format!("failsafe: not accepted by {}", refusals.join(", "))));
        }
        let Outcome::Leased(deadline) = *self.act(Effect::LeadByPromise(*asked_at))? else {
            return Ok(Consent::Missing("failsafe: the answers came after the lease had ended".to_owned()));
        };
        self.memory.leads_by_promise = Some(deadline);
        self.keep_slots_of(replies)?;
        let text = format!(
            "continue to run as a leader because failsafe mode is enabled and all members are accessible ({why})"
        );
        let wait_ms = u64::try_from(self.view.settings.loop_wait.as_millis()).unwrap_or(u64::MAX);
        Ok(Consent::Given(End::new(STORE_LOST_FAILSAFE, text).wake_in_ms(wait_ms)))
    }

    fn introduce_self(&self) -> FailsafeLeader {
        FailsafeLeader {
            name: self.me().to_owned(),
            conn_url: Some(self.view.node.conn_url.clone()),
            api_url: Some(self.view.node.api_url.clone()),
            slots: self.published_slots(),
        }
    }

    /// Slots of members that replicate from others move on with the positions that the members answered.
    fn keep_slots_of(&mut self, replies: &[FailsafeReply]) -> Need<()> {
        let Some(mut known) = self.memory.healthy_cluster.as_deref().cloned() else {
            return Ok(());
        };
        for reply in replies {
            let Ok(Some(lsn)) = reply.accepted else { continue };
            if let Some(member) = known.members.iter_mut().find(|member| member.name == reply.name) {
                member.xlog_location = Some(lsn);
            }
            known.status.slots.insert(slots::slot_name_from_member(&reply.name), lsn);
        }
        self.sync_slots(&known)
    }

    /// The cluster as a node that gave a promise sees it: led by whom it was given, where the store names nobody.
    pub fn led_by_promise(&self, cluster: &ClusterView) -> Need<Option<ClusterView>> {
        let Some(promise) = self.view.promise_in_force() else {
            return Ok(None);
        };
        if cluster.leader.is_some() || promise.leader.name == self.me() || self.is_at_rest(&promise.leader)? {
            return Ok(None);
        }
        Ok(Some(promise.leader.lead(cluster.clone())))
    }

    /// The leader answers that it does not lead: it is back with the store and gave the lock away, or has stopped. What was
    /// promised to it is of no meaning any more.
    fn is_at_rest(&self, leader: &FailsafeLeader) -> Need<bool> {
        let (Some(api_url), Some(promise)) = (leader.api_url.clone(), &self.view.promise) else {
            return Ok(false);
        };
        let address = PeerAddress { name: leader.name.clone(), api_url };
        let Answer::Peers(statuses) = self.facts.ask(Probe::Peers(vec![address]))? else {
            return Ok(false);
        };
        let at_rest = statuses.iter().any(|status| status.at_rest);
        if at_rest {
            self.act(Effect::ForgetPromise(promise.until))?;
        }
        Ok(at_rest)
    }

    /// The lock came to this node after it promised not to take it (a request that was delivered late): it is given back.
    pub fn give_back_promised_lock(&mut self, cluster: &ClusterView) -> Need<Option<End>> {
        let Some(promise) = self.view.promise_in_force().filter(|_| self.mine(cluster) && !self.view.holds_lease())
        else {
            return Ok(None);
        };
        let text =
            format!("released leader key: promised {} not to lead while it is without the store", promise.leader.name);
        self.act(Effect::ReleaseLeader)?;
        Ok(Some(End::new(STORE_PROMISED, text).wake_in_ms(1000)))
    }

    /// A standby without the store keeps its slots in step with the leader that told it where it is.
    pub fn sync_slots_by_promise(&mut self) -> Need<()> {
        if let (StoreView::Unreachable(_), Some(promise), Some(known)) =
            (&self.view.store, self.view.promise_in_force(), self.memory.healthy_cluster.as_deref())
        {
            let known = promise.leader.lead(known.clone());
            self.sync_slots(&known)?;
        }
        Ok(())
    }
}
