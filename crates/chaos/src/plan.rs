//! Which fault comes next: everything random is drawn here, from one seed.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::cluster::{NODES, STORES};
use crate::net::Direction;

/// Whom a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The primary at that moment.
    Primary,
    /// The n-th of the others.
    Standby(usize),
}

/// What a host is cut off from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The store.
    Store,
    /// The other database hosts.
    Peers,
    /// Both.
    All,
}

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL to the agent.
    KillAgent(Target),
    /// SIGKILL to the postmaster.
    KillPostmaster(Target),
    /// SIGKILL to every process of the host.
    KillHost(Target),
    /// SIGSTOP to the agent.
    FreezeAgent(Target),
    /// SIGSTOP to every process of the host, PostgreSQL included.
    FreezeHost(Target),
    /// SIGKILL to a member of the store.
    KillStore(usize),
    /// SIGSTOP to all members of the store.
    StoreLoss,
    /// Packets are dropped.
    Partition(Target, From, Direction),
    /// One of five packets between hosts gets lost at this one.
    LosePackets(Target),
    /// The link becomes slow.
    SlowLink(Target),
    /// The disk of the primary is full.
    FullDisk,
    /// `pg_ctl promote` on a standby, behind its agent's back.
    Promote(usize),
    /// The calendar jumps by that many seconds.
    StepCalendar(Target, i64),
    /// A switchover, over REST.
    Switchover,
    /// A restart of PostgreSQL, over REST.
    Restart(Target),
}

/// A fault, how long it lasts, and how long to wait for a healthy cluster afterwards before the next comes.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// What happens.
    pub fault: Fault,
    /// How long.
    pub lasts: Duration,
    /// At most how long the cluster may recover undisturbed.
    pub rest: Duration,
}

/// Draws steps.
pub struct Plan {
    random: StdRng,
    calendars: bool,
    /// Only faults whose name begins with one of these; empty: all.
    only: Vec<String>,
    /// Faults not drawn in this round: every kind comes once before one comes again.
    round: Vec<u32>,
}

const KINDS: u32 = 15;
const DRAWS_MAX: u32 = 1000;

impl Plan {
    /// The same seed draws the same steps. `calendars`: hosts can have calendars of their own. `only`: faults whose name
    /// begins with one of these; empty: all.
    pub fn new(seed: u64, calendars: bool, only: Vec<String>) -> Plan {
        Plan { random: StdRng::seed_from_u64(seed), calendars, only, round: Vec::new() }
    }

    /// The next step.
    pub fn next_step(&mut self) -> Step {
        let fault = self.wanted_fault();
        let lasts = match fault {
            Fault::Switchover | Fault::Restart(_) | Fault::Promote(_) => 0,
            _ => self.random.random_range(500..25_000),
        };
        // Now and then the next fault comes before the cluster has recovered from this one.
        let rest = if self.random.random_bool(0.25) { self.random.random_range(0..5_000) } else { 60_000 };
        Step { fault, lasts: Duration::from_millis(lasts), rest: Duration::from_millis(rest) }
    }

    fn wanted_fault(&mut self) -> Fault {
        for _ in 0..DRAWS_MAX {
            let fault = self.fault();
            let name = format!("{fault:?}");
            if self.only.is_empty() || self.only.iter().any(|wanted| name.starts_with(wanted.as_str())) {
                return fault;
            }
        }
        Fault::Switchover
    }

    fn fault(&mut self) -> Fault {
        if self.round.is_empty() {
            self.round = (0..KINDS).collect();
        }
        let kind = self.round.swap_remove(self.random.random_range(0..self.round.len()));
        let target = self.target();
        match kind {
            0 => Fault::KillAgent(target),
            1 => Fault::KillPostmaster(target),
            2 => Fault::KillHost(target),
            3 => Fault::FreezeAgent(target),
            4 => Fault::FreezeHost(target),
            5 => Fault::KillStore(self.random.random_range(0..STORES)),
            6 => Fault::StoreLoss,
            7 => Fault::Partition(target, self.from(), Direction::Both),
            8 => Fault::Partition(Target::Primary, self.from(), self.one_way()),
            9 => Fault::LosePackets(target),
            10 => Fault::SlowLink(target),
            11 => Fault::FullDisk,
            12 => Fault::Promote(self.standby()),
            13 if self.calendars => Fault::StepCalendar(target, self.random.random_range(-86_400..86_400)),
            13 => Fault::Restart(target),
            _ => Fault::Switchover,
        }
    }

    fn target(&mut self) -> Target {
        if self.random.random_bool(0.65) { Target::Primary } else { Target::Standby(self.standby()) }
    }

    fn standby(&mut self) -> usize {
        self.random.random_range(0..NODES - 1)
    }

    fn from(&mut self) -> From {
        [From::Store, From::Peers, From::All][self.random.random_range(0..3)]
    }

    fn one_way(&mut self) -> Direction {
        if self.random.random_bool(0.5) { Direction::In } else { Direction::Out }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?} for {:.1} s", self.fault, self.lasts.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_plan_and_every_kind_comes_once_in_a_round() {
        let draw = |seed| {
            let mut plan = Plan::new(seed, true, Vec::new());
            (0..KINDS).map(|_| plan.next_step().fault).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        for (index, fault) in draw(7).iter().enumerate() {
            assert!(!draw(7)[..index].contains(fault), "{fault:?} came twice");
        }
    }
}
