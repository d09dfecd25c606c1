//! The node behind the REST API.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agent::Handle;
use agent::ports::{Clock, Node, Peers};
use api::{Backend, FailoverRequest, FailsafeAnswer, FailsafeCall, NodeStatus, ReinitRequest, Reply, RestartRequest};
use async_trait::async_trait;
use dcs::{Freshness, Guard, Store, StoreError};
use ha::memory::ScheduledRestart;
use ha::view::{RequestKind, RestartFilter};
use model::pg::PgSnapshot;
use model::settings::patch_config;
use model::{ClusterView, FailsafeLeader, Key};
use serde_json::{Map, Value};
use tokio::sync::{Notify, watch};

use crate::failover;
use crate::status::{Moment, starting, status};

/// A look at PostgreSQL older than this is renewed in the background when somebody asks for the status.
const SNAPSHOT_AGE_MAX: Duration = Duration::from_millis(1000);

/// Implements [`Backend`] for one running agent.
pub struct RestBackend {
    pub(crate) name: String,
    pub(crate) scope: String,
    pub(crate) handle: Handle,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) node: Arc<dyn Node>,
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Asks for the configuration files to be read again.
    pub(crate) reload: Arc<Notify>,
    /// The last look that a request made, where it is newer than the loop's.
    pub(crate) looked: Arc<watch::Sender<Option<PgSnapshot>>>,
    pub(crate) looking: Arc<AtomicBool>,
}

impl RestBackend {
    fn moment(&self) -> Moment {
        Moment {
            now: self.clock.now(),
            lease: self.handle.lease(),
            stopping: self.handle.stopping(),
            promised: self.handle.promise().is_some(),
        }
    }

    fn status_with(&self, pg: Option<&PgSnapshot>) -> NodeStatus {
        let Some(published) = self.handle.published() else {
            return starting(&self.name, &self.scope);
        };
        let looked = self.looked.borrow();
        let known = [Some(&published.view.pg), looked.as_ref(), pg];
        let newest = known.into_iter().flatten().max_by_key(|pg| pg.taken_at).unwrap_or(&published.view.pg);
        status(&published, newest, &self.moment())
    }

    /// Renews the look at PostgreSQL without making anybody wait; one at a time.
    fn refresh_in_background(&self) {
        let now = self.clock.now();
        let loop_saw = self.handle.published().map(|published| published.view.pg.taken_at);
        let request_saw = self.looked.borrow().as_ref().map(|pg| pg.taken_at);
        let newest = loop_saw.max(request_saw);
        let stale = newest.is_some_and(|taken_at| now.since(taken_at) > SNAPSHOT_AGE_MAX);
        if !stale || self.looking.swap(true, Ordering::AcqRel) {
            return;
        }
        let (node, looked, looking) = (self.node.clone(), self.looked.clone(), self.looking.clone());
        tokio::spawn(async move {
            let pg = node.observe().await;
            looked.send_replace(Some(pg));
            looking.store(false, Ordering::Release);
        });
    }

    async fn current_config(&self) -> Result<model::Versioned<Map<String, Value>>, Reply> {
        match self.store.read(Freshness::Linearizable).await {
            Ok(cluster) => cluster.config.ok_or_else(|| reply(503, "the store holds no dynamic configuration")),
            Err(why) => Err(reply(503, why.to_string())),
        }
    }
}

pub(crate) fn reply(code: u16, text: impl Into<String>) -> Reply {
    Reply { code, text: text.into() }
}

#[async_trait]
impl Backend for RestBackend {
    fn status(&self) -> NodeStatus {
        self.refresh_in_background();
        self.status_with(None)
    }

    async fn fresh_status(&self) -> NodeStatus {
        let pg = self.node.observe().await;
        let status = self.status_with(Some(&pg));
        self.looked.send_replace(Some(pg));
        status
    }

    async fn cluster(&self) -> Result<Arc<ClusterView>, String> {
        self.store.read(Freshness::Linearizable).await.map(Arc::new).map_err(|why| why.to_string())
    }

    async fn patch_config(&self, patch: Map<String, Value>) -> Result<Map<String, Value>, Reply> {
        let mut config = self.current_config().await?;
        if !patch_config(&mut config.value, &patch) {
            return Ok(config.value);
        }
        let text = Value::Object(config.value.clone()).to_string();
        match self.store.put(&Key::Config, &text, Guard::Version(config.version)).await {
            Ok(_) => {
                self.handle.wake();
                Ok(config.value)
            }
            Err(StoreError::Rejected(_)) => Err(reply(409, "somebody else changed the configuration meanwhile")),
            Err(StoreError::Unreachable(why)) => Err(reply(503, why)),
        }
    }

    async fn put_config(&self, config: Map<String, Value>) -> Result<(), Reply> {
        let text = Value::Object(config).to_string();
        match self.store.put(&Key::Config, &text, Guard::None).await {
            Ok(_) => Ok(()),
            Err(why) => Err(reply(502, why.to_string())),
        }
    }

    async fn reload(&self) -> Reply {
        self.reload.notify_one();
        reply(202, "reload scheduled")
    }

    async fn restart(&self, request: RestartRequest) -> Reply {
        let filter = RestartFilter {
            role: request.role,
            postgres_version: request.postgres_version,
            restart_pending: request.restart_pending,
        };
        let kind = match request.schedule {
            None => RequestKind::Restart { filter, timeout_s: request.timeout_s },
            Some(_) if self.status_with(None).pause => return reply(500, "Can't schedule restart in the paused state"),
            Some(at) => {
                let mut raw = request.raw;
                raw.insert("schedule".to_owned(), at.strftime("%Y-%m-%dT%H:%M:%S%.f%:z").to_string().into());
                if let Some(start) = self.status_with(None).postmaster_start_time {
                    raw.insert("postmaster_start_time".to_owned(), start.to_string().into());
                }
                let raw = Value::Object(raw);
                RequestKind::ScheduleRestart(ScheduledRestart {
                    at,
                    filter,
                    timeout_s: request.timeout_s,
                    postmaster_start: None,
                    raw,
                })
            }
        };
        self.ask(kind).await
    }

    async fn cancel_restart(&self) -> Reply {
        self.ask(RequestKind::CancelRestart).await
    }

    async fn failover(&self, request: FailoverRequest) -> Reply {
        failover::perform(self, request).await
    }

    async fn cancel_failover(&self) -> Reply {
        failover::cancel(self).await
    }

    async fn reinitialize(&self, request: ReinitRequest) -> Reply {
        self.ask(RequestKind::Reinitialize { force: request.force, from_leader: request.from_leader }).await
    }

    async fn failsafe(&self, call: FailsafeCall) -> FailsafeAnswer {
        let slots = call.slots.iter().filter_map(|(name, lsn)| Some((name.clone(), model::Lsn(lsn.as_u64()?))));
        let leader =
            FailsafeLeader { name: call.name, conn_url: call.conn_url, api_url: call.api_url, slots: slots.collect() };
        match self.handle.accept_failsafe(leader).await {
            Ok(lsn) => FailsafeAnswer { reply: reply(200, "Accepted"), lsn },
            Err(why) => FailsafeAnswer { reply: reply(500, why), lsn: None },
        }
    }

    fn decisions(&self) -> Value {
        self.handle.journal().summary()
    }
}

impl RestBackend {
    async fn ask(&self, kind: RequestKind) -> Reply {
        let answer = self.handle.request(kind).await;
        reply(answer.code, answer.text)
    }
}
