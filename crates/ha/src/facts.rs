//! What the cycle has learnt and done so far.

use std::collections::BTreeMap;

use model::peer::PeerStatus;
use model::slots::Xid;
use model::{BootTime, FailsafeReply};
use serde::{Deserialize, Serialize};

use crate::lease::LeaseProof;
use crate::step::{Effect, Outcome, Probe, ServerPosition, Step};

/// Outcomes of this cycle's steps, in order. An effect or a probe is identified by its value: asking for one that is
/// already here gives its outcome instead of doing it again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    answers: Vec<(Probe, Answer)>,
    outcomes: Vec<(Effect, Outcome)>,
}

/// The answer to a probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Probe::Peers`]: one entry per member asked, in the order asked.
    Peers(Vec<PeerStatus>),
    /// To [`Probe::Server`]; the error says why nothing is known.
    Server(Result<ServerPosition, String>),
    /// To [`Probe::Failsafe`].
    Failsafe {
        /// Taken before the first request was sent.
        asked_at: BootTime,
        /// One per member asked.
        replies: Vec<FailsafeReply>,
    },
    /// To [`Probe::OwnHistory`]; `None` on timeline 1 or when the file cannot be read.
    OwnHistory(Option<Vec<model::lsn::TimelineSwitch>>),
    /// To [`Probe::SlotHorizons`]: slots that exist there and have one.
    SlotHorizons(Result<BTreeMap<String, Xid>, String>),
}

/// `Err` carries the step that must be taken before the rule can go on.
pub type Need<T> = Result<T, Box<Step>>;

impl Facts {
    /// Records an answer.
    pub fn learn(&mut self, probe: Probe, answer: Answer) {
        self.answers.push((probe, answer));
    }

    /// Records an outcome.
    pub fn did(&mut self, effect: Effect, outcome: Outcome) {
        self.outcomes.push((effect, outcome));
    }

    /// Lets `clear` take out of the recorded effects what must not be shown to anybody.
    pub fn redact(&mut self, clear: impl Fn(&mut Effect)) {
        self.outcomes.iter_mut().for_each(|(effect, _)| clear(effect));
    }

    /// How many steps the cycle has taken.
    pub fn steps(&self) -> usize {
        self.answers.len() + self.outcomes.len()
    }

    /// The effects of this cycle with their outcomes, in order.
    pub fn outcomes(&self) -> &[(Effect, Outcome)] {
        &self.outcomes
    }

    /// The probes of this cycle with their answers, in order.
    pub fn answers(&self) -> &[(Probe, Answer)] {
        &self.answers
    }

    /// The outcome of `effect`, or the step that performs it.
    pub fn act(&self, effect: Effect) -> Need<&Outcome> {
        match self.outcomes.iter().find(|(done, _)| *done == effect) {
            Some((_, outcome)) => Ok(outcome),
            None => Err(Box::new(Step::Act(effect))),
        }
    }

    /// The answer to `probe`, or the step that asks.
    pub fn ask(&self, probe: Probe) -> Need<&Answer> {
        match self.answers.iter().find(|(asked, _)| *asked == probe) {
            Some((_, answer)) => Ok(answer),
            None => Err(Box::new(Step::Ask(probe))),
        }
    }

    /// Permission to be writable, from the latest acquire or renew of this cycle; `None` where the latest lease
    /// operation did not succeed.
    pub fn lease_proof(&self) -> Option<LeaseProof> {
        let latest =
            self.outcomes.iter().rev().find(|(effect, _)| {
                matches!(effect, Effect::AcquireLeader | Effect::RenewLeader | Effect::ReleaseLeader)
            });
        match latest {
            Some((_, Outcome::Leased(deadline))) => Some(LeaseProof::until(*deadline)),
            _ => None,
        }
    }
}
