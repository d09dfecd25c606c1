//! Which standbys can be synchronous, best first.

use model::pg::{ServerStatus, WalSender};
use model::{ClusterView, Lsn, Member};

use super::cycle::Cycle;
use crate::quorum::Electorate;

/// A standby that could confirm commits.
pub(super) struct Standby {
    /// In lower case.
    pub name: String,
    /// It must not be promoted: nothing is won by its confirmations but copies.
    pub nofailover: bool,
    position: Lsn,
}

impl Cycle<'_> {
    /// Members that run, stream from this primary and may be synchronous, in the order in which they are taken: those that
    /// may lead, by `sync_priority`, those that are synchronous already, the most advanced.
    pub(super) fn pick_standbys(&self, cluster: &ClusterView, server: &ServerStatus, key: &Electorate) -> Vec<Standby> {
        let mut ranked: Vec<_> = cluster
            .members
            .iter()
            .filter(|member| self.may_be_synchronous(cluster, server, member))
            .filter_map(|member| {
                let sender = connection_of(server, &member.name)?;
                let name = member.name.to_lowercase();
                let position = self.position_of(sender).unwrap_or_default();
                let present = match sender.sync_state.as_str() {
                    _ if key.voters.contains(&name) => 0,
                    "sync" | "quorum" => 1,
                    "potential" => 2,
                    _ => 3,
                };
                let nofailover = member.tags.nofailover();
                let rank = (nofailover, -member.tags.sync_priority(), present, std::cmp::Reverse(position));
                Some((rank, Standby { name, nofailover, position }))
            })
            .collect();
        ranked.sort_by(|(a, x), (b, y)| a.cmp(b).then_with(|| x.name.cmp(&y.name)));
        let standbys: Vec<Standby> = ranked.into_iter().map(|(_, standby)| standby).collect();
        self.without_laggards(standbys, server)
    }

    fn may_be_synchronous(&self, cluster: &ClusterView, server: &ServerStatus, member: &Member) -> bool {
        // A member that is on its way to the one it replicates from will not stay connected here.
        let cascades = member.tags.replicatefrom().is_some_and(|upstream| {
            !upstream.eq_ignore_ascii_case(self.me())
                && cluster.member(upstream).is_some_and(|upstream| connection_of(server, &upstream.name).is_some())
        });
        // The own name: whoever connects under it is not this primary's standby.
        !member.name.eq_ignore_ascii_case(self.me()) && member.is_running() && !member.tags.nosync() && !cascades
    }

    /// `maximum_lag_on_syncnode`, measured against the most advanced standby, or the primary where there is only one.
    fn without_laggards(&self, mut standbys: Vec<Standby>, server: &ServerStatus) -> Vec<Standby> {
        let Some(limit) = self.view.settings.maximum_lag_on_syncnode_bytes else {
            return standbys;
        };
        let most = match standbys.as_slice() {
            [_] => server.flush_lsn,
            standbys => standbys.iter().map(|standby| standby.position).max(),
        };
        standbys.retain(|standby| most.unwrap_or_default().bytes_since(standby.position) <= limit);
        standbys
    }

    /// How far a standby has confirmed, in the sense of `synchronous_commit`.
    pub(super) fn position_of(&self, sender: &WalSender) -> Option<Lsn> {
        let level = self.view.pg.server.as_ref().map(|server| server.synchronous_commit.as_str());
        match level {
            Some("remote_apply") => sender.replay_lsn,
            Some("remote_write") => sender.write_lsn,
            _ => sender.flush_lsn,
        }
    }
}

/// The streaming connection of that name; `None` also where there are several: which of them confirms is not known.
fn connection_of<'a>(server: &'a ServerStatus, name: &str) -> Option<&'a WalSender> {
    let mut named = server.senders.iter().filter(|sender| sender.application_name.eq_ignore_ascii_case(name));
    let sender = named.next().filter(|sender| sender.state == "streaming")?;
    named.next().is_none().then_some(sender)
}
