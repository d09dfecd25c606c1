//! Defects in what an agent writes and sees of synchronous replication.

use std::sync::Arc;
use std::time::Duration;

use agent::ports::Node;
use model::pg::ServerStatus;
use model::standby_names::Method;
use model::{ClusterView, Lsn, StandbyNames, wire};

use super::Mutation;
use crate::pg::sync::label;
use crate::world::World;

/// How late [`Mutation::StandbyNamesLate`] takes effect.
const LATE: Duration = Duration::from_secs(20);

/// A write of the sync key that is reported and not done: the version to report.
pub(super) fn unwritten(mutation: Mutation, world: &World, value: &str) -> Option<u64> {
    let present = world.with(|state| state.store.view().sync)?;
    let new = wire::decode_sync(value)?;
    let leaves_out = present.value.members.iter().any(|name| !new.lists(name));
    let skipped = match mutation {
        Mutation::SyncKeyNeverShrinks => leaves_out && new.leader == present.value.leader,
        Mutation::SyncKeyKeepsLeader => present.value.leader.is_some() && new.leader != present.value.leader,
        _ => false,
    };
    skipped.then_some(present.version)
}

/// What a candidate sees of the sync key.
pub(super) fn disguise_key(mutation: Mutation, me: &str, view: &mut ClusterView) {
    let Some(sync) = view.sync.as_mut().filter(|_| view.leader.is_none()) else { return };
    match mutation {
        Mutation::SyncKeyListsMe if !sync.value.lists(me) => sync.value.members.push(me.to_owned()),
        Mutation::QuorumIgnored => sync.value.quorum = 0,
        _ => {}
    }
}

/// What a primary sees of its standbys; `told` is the last value its agent set.
pub(super) fn disguise_server(mutation: Mutation, told: Option<&str>, server: &mut ServerStatus) {
    match (mutation, told) {
        (Mutation::StandbyNamesNotSet | Mutation::StandbyNamesLate | Mutation::StandbyNamesNeedOne, Some(told)) => {
            told.clone_into(&mut server.synchronous_standby_names);
            for sender in &mut server.senders {
                (sender.sync_state, sender.sync_priority) = ("async".to_owned(), 0);
            }
            if let Some(names) = StandbyNames::parse(told) {
                label(&names, &mut server.senders);
            }
        }
        (Mutation::StandbysSeemCaughtUp, _) => {
            for sender in &mut server.senders {
                sender.flush_lsn = Some(Lsn(u64::MAX / 2));
                "sync".clone_into(&mut sender.sync_state);
            }
        }
        _ => {}
    }
}

/// Sets `synchronous_standby_names`, or something else, or nothing.
pub(super) async fn set_names(mutation: Mutation, node: &Arc<dyn Node>, names: Option<&str>) -> Result<(), String> {
    match (mutation, names.and_then(StandbyNames::parse).filter(|names| names.num > 0)) {
        (Mutation::StandbyNamesNotSet, Some(_)) => Ok(()),
        (Mutation::StandbyNamesLate, Some(wanted)) => {
            let node = node.clone();
            tokio::spawn(async move {
                tokio::time::sleep(LATE).await;
                // Too late for anybody to hear how it went.
                let _ = node.set_standby_names(Some(&wanted.to_string())).await;
            });
            Ok(())
        }
        (Mutation::StandbyNamesNeedOne, Some(wanted)) => {
            let any = StandbyNames { method: Method::Any, num: 1, ..wanted };
            node.set_standby_names(Some(&any.to_string())).await
        }
        _ => node.set_standby_names(names).await,
    }
}
