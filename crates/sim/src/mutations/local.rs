//! Defects on an agent's own machine.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agent::ports::{Clock, Fence, Node, StartAs, TaskHandle};
use async_trait::async_trait;
use ha::step::{CloneSource, ServerPosition, StopMode};
use ha::view::Progress;
use model::lsn::TimelineSwitch;
use model::pg::{PgSnapshot, Upstream};
use model::slots::{SlotChange, Xid};
use model::{BootTime, Lsn, Role};
use serde_json::{Map, Value};
use tokio::sync::watch;

use super::{Mutation, sync};
use crate::clock::EPOCH_MS;

pub(super) struct MutatedFence {
    pub(super) inner: Arc<dyn Fence>,
    pub(super) mutation: Mutation,
}

#[async_trait]
impl Fence for MutatedFence {
    async fn arm(&self, deadline: BootTime) -> Result<(), String> {
        match self.mutation {
            Mutation::FenceNeverFires => Ok(()),
            Mutation::FenceLate => self.inner.arm(deadline.plus(Duration::from_secs(60))).await,
            _ => self.inner.arm(deadline).await,
        }
    }

    async fn disarm(&self) {
        self.inner.disarm().await;
    }

    fn failed(&self) -> bool {
        self.inner.failed()
    }
}

pub(super) struct MutatedClock {
    pub(super) inner: Arc<dyn Clock>,
    pub(super) mutation: Mutation,
}

/// Far enough ahead that a calendar set back is still after the boot.
const CALENDAR_OFFSET_MS: i64 = 100_000_000;

#[async_trait]
impl Clock for MutatedClock {
    fn now(&self) -> BootTime {
        if self.mutation != Mutation::BootClockIsCalendar {
            return self.inner.now();
        }
        let ms = self.inner.wall().as_millisecond() - EPOCH_MS + CALENDAR_OFFSET_MS;
        BootTime(u64::try_from(ms).unwrap_or(0))
    }

    fn wall(&self) -> jiff::Timestamp {
        self.inner.wall()
    }

    async fn sleep_until(&self, deadline: BootTime) {
        let left = deadline.since(self.now());
        self.inner.sleep_until(self.inner.now().plus(left)).await;
    }
}

pub(super) struct MutatedNode {
    pub(super) inner: Arc<dyn Node>,
    pub(super) mutation: Mutation,
    /// The last `synchronous_standby_names` that the agent set.
    pub(super) told: Mutex<Option<String>>,
}

#[async_trait]
impl Node for MutatedNode {
    async fn observe(&self) -> PgSnapshot {
        let mut seen = self.inner.observe().await;
        match self.mutation {
            Mutation::UnfinishedHidden if seen.unfinished.is_some() => {
                seen.unfinished = None;
                seen.data_dir = model::pg::DataDir::Present;
            }
            Mutation::PrimaryLooksLikeStandby => {
                if let Some(server) = &mut seen.server {
                    server.in_recovery = true;
                    server.replay_lsn = server.replay_lsn.or(server.flush_lsn.take());
                }
            }
            Mutation::OwnWalInflated => {
                if let Some(server) = seen.server.as_mut().filter(|server| server.in_recovery) {
                    server.receive_lsn = server.receive_lsn.map(|lsn| Lsn(lsn.0 + (1 << 40)));
                    server.replay_lsn = server.replay_lsn.map(|lsn| Lsn(lsn.0 + (1 << 40)));
                }
            }
            _ => {}
        }
        if let Some(server) = seen.server.as_mut().filter(|server| !server.in_recovery) {
            let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            sync::disguise_server(self.mutation, told.as_deref(), server);
        }
        seen
    }

    fn events(&self) -> watch::Receiver<u64> {
        self.inner.events()
    }

    async fn apply_config(&self, dynamic: &Map<String, Value>, role: Role) -> Result<bool, String> {
        self.inner.apply_config(dynamic, role).await
    }

    async fn initdb(&self, task: &TaskHandle) -> Result<(), String> {
        self.inner.initdb(task).await
    }

    async fn post_bootstrap(&self, task: &TaskHandle) -> Result<(), String> {
        self.inner.post_bootstrap(task).await
    }

    async fn start(&self, mode: StartAs, timeout: Duration, task: &TaskHandle) -> Result<(), String> {
        self.inner.start(mode, timeout, task).await
    }

    async fn stop(&self, mode: StopMode, task: &TaskHandle) -> Result<(), String> {
        match self.mutation {
            Mutation::StopReturnsEarly => Ok(()),
            Mutation::ShutdownReportedEarly => {
                (task.progress)(Progress::ShutDown(Lsn(1)));
                tokio::time::sleep(Duration::from_secs(5)).await;
                self.inner.stop(mode, task).await
            }
            _ => self.inner.stop(mode, task).await,
        }
    }

    async fn promote(&self, may_proceed: &(dyn Fn() -> bool + Send + Sync), task: &TaskHandle) -> Result<(), String> {
        self.inner.promote(may_proceed, task).await
    }

    async fn repoint(&self, upstream: Option<&Upstream>, task: &TaskHandle) -> Result<(), String> {
        self.inner.repoint(upstream, task).await
    }

    async fn clone_from(
        &self,
        source: Option<&CloneSource>,
        basebackup_only: bool,
        task: &TaskHandle,
    ) -> Result<(), String> {
        self.inner.as_ref().clone_from(source, basebackup_only, task).await
    }

    async fn rewind(&self, source: &Upstream, task: &TaskHandle) -> Result<(), String> {
        match self.mutation {
            Mutation::RewindDoesNothing => Ok(()),
            _ => self.inner.rewind(source, task).await,
        }
    }

    async fn crash_recovery(&self, task: &TaskHandle) -> Result<(), String> {
        self.inner.crash_recovery(task).await
    }

    async fn checkpoint(&self) -> Result<(), String> {
        self.inner.checkpoint().await
    }

    async fn remove_data_dir(&self) -> Result<(), String> {
        self.inner.remove_data_dir().await
    }

    async fn move_data_dir_aside(&self) -> Result<(), String> {
        self.inner.move_data_dir_aside().await
    }

    async fn sync_slots(&self, changes: &[SlotChange]) -> Result<(), String> {
        self.inner.sync_slots(changes).await
    }

    async fn force_feedback(&self, on: bool) -> Result<(), String> {
        self.inner.force_feedback(on).await
    }

    async fn copy_slots(&self, source: &Upstream, slots: &[String], task: &TaskHandle) -> Result<(), String> {
        self.inner.copy_slots(source, slots, task).await
    }

    async fn slot_horizons(&self, server: &Upstream, slots: &[String]) -> Result<BTreeMap<String, Xid>, String> {
        self.inner.slot_horizons(server, slots).await
    }

    async fn set_standby_names(&self, names: Option<&str>) -> Result<(), String> {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = names.map(str::to_owned);
        sync::set_names(self.mutation, &self.inner, names).await
    }

    async fn server_position(&self, server: &Upstream) -> Result<ServerPosition, String> {
        self.inner.server_position(server).await
    }

    async fn own_history(&self) -> Option<Vec<TimelineSwitch>> {
        self.inner.own_history().await
    }
}
