//! The data directory: one that cannot be read, is not PostgreSQL's, is empty, or belongs to another cluster.

use model::pg::{DataDir, Postmaster, Unfinished};
use model::{ClusterView, Key, cluster};

use super::cycle::Cycle;
use super::{End, Ruling, table::*};
use crate::facts::Need;
use crate::step::{Effect, WriteGuard};

impl Cycle<'_> {
    /// The data directory is empty, or holds what an interrupted clone or bootstrap left.
    pub fn must_clone(&self) -> bool {
        self.view.pg.data_dir == DataDir::Empty
            || matches!(self.view.pg.unfinished, Some(Unfinished::Clone | Unfinished::Bootstrap))
    }

    pub fn unusable_data_dir(&mut self, cluster: &ClusterView) -> Need<Option<End>> {
        match &self.view.pg.data_dir {
            DataDir::Unreadable(why) => self.unreadable_data_dir(cluster, why).map(Some),
            DataDir::Incomplete if self.view.pg.unfinished.is_none() => {
                self.release_if_mine(cluster)?;
                let text = "the data directory is neither empty nor a PostgreSQL cluster; remove it or point data_dir elsewhere";
                Ok(Some(End::new(DATA_DIR_FOREIGN, text)))
            }
            _ => {
                self.memory.unreadable_since = None;
                Ok(None)
            }
        }
    }

    /// A disk that stalls is no reason to give the lock away; one that stays away is: stop first, release then.
    fn unreadable_data_dir(&mut self, cluster: &ClusterView, why: &str) -> Ruling {
        let text = format!("the data directory cannot be read: {why}");
        if self.view.pg.postmaster == Postmaster::Absent {
            self.release_if_mine(cluster)?;
            return Ok(End::new(DATA_DIR_UNREADABLE, text).wake_in_ms(1000));
        }
        let since = *self.memory.unreadable_since.get_or_insert(self.view.now);
        if self.view.now.since(since) > self.view.settings.ttl && self.mine(cluster) && !self.paused() {
            return self.stop_to_give_way(DATA_DIR_UNREADABLE, format!("stopping PostgreSQL: {text}"));
        }
        self.keep_waiting(cluster, DATA_DIR_UNREADABLE, &text)
    }

    /// Compares the system identifier with the cluster's; writes the key where only a primary may.
    pub fn wrong_cluster(&mut self, cluster: &ClusterView) -> Need<Option<End>> {
        let Some(local) = self.view.pg.system_id().filter(|id| cluster::is_system_id(id)) else {
            return Ok(None);
        };
        let write = |value: &str, guard| Effect::Put { key: Key::Initialize, value: value.to_owned(), guard };
        match cluster.system_id() {
            Some(id) if id == local => Ok(None),
            Some(id) if self.paused() => {
                self.release_if_mine(cluster)?;
                let text = format!(
                    "system ID has changed while in paused mode: {id} in the store, {local} in the data directory"
                );
                Ok(Some(End::new(WRONG_CLUSTER, text)))
            }
            Some(id) => {
                self.let_go_of_fence()?;
                let text =
                    format!("system ID mismatch, node {} belongs to a different cluster: {id} != {local}", self.me());
                Ok(Some(End::new(WRONG_CLUSTER, text).exit(1)))
            }
            None if self.mine(cluster) => {
                self.act(write(local, WriteGuard::None))?;
                Ok(None)
            }
            None if cluster.leader.is_some() || self.paused() => Ok(None),
            None => {
                if self.view.pg.recovery_configured || self.view.pg.is_standby() {
                    let text = "the store does not know this cluster and this node is a standby: waiting for the primary; \
                                if there is none any more, write the system identifier to the initialize key";
                    return Ok(Some(End::new(STORE_WIPED, text)));
                }
                let version = cluster.initialize.as_ref().map(|initialize| initialize.version);
                let guard = version.map_or(WriteGuard::Absent, WriteGuard::Version);
                match self.act(write(local, guard))? {
                    outcome if outcome.succeeded() => Ok(None),
                    _ => Ok(Some(End::new(STORE_WIPED, "waiting for the initialize key").wake_in_ms(500))),
                }
            }
        }
    }
}
