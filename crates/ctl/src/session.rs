//! What every command has at hand.

use std::sync::Arc;

use dcs::{Freshness, Store};
use futures::future::LocalBoxFuture;
use jiff::ZonedDateTime;
use model::Member;
use reqwest::Method;
use serde_json::{Map, Value};

use crate::cluster::Cluster;
use crate::error::{CtlError, Result, fail};
use crate::prompt::Console;
use crate::request::{Answer, Rest};

/// Opens the keys of a scope, or of one Citus group of it.
pub type OpenStore = Box<dyn Fn(&str, Option<u32>) -> LocalBoxFuture<'static, Result<Arc<dyn Store>>>>;

/// Console, configuration, store and REST client of one run.
pub struct Session {
    /// Where output goes and answers come from.
    pub console: Console,
    /// The merged configuration.
    pub config: Map<String, Value>,
    /// The REST client.
    pub rest: Rest,
    /// Opens a cluster's keys.
    pub open: OpenStore,
}

impl Session {
    /// The cluster named on the command line, or `scope` of the configuration.
    pub fn scope(&self, named: Option<&str>) -> Result<String> {
        let configured = || self.config.get("scope").and_then(Value::as_str);
        match named.or_else(configured).filter(|scope| !scope.is_empty()) {
            Some(scope) => Ok(scope.to_owned()),
            None => Err(CtlError::Usage(
                "Missing argument 'CLUSTER_NAME': name the cluster, or set scope in the configuration".to_owned(),
            )),
        }
    }

    /// `citus.group` of the configuration.
    pub fn configured_group(&self) -> Option<u32> {
        let group = self.config.get("citus")?.get("group")?;
        model::units::int_of(group, model::units::Base::Plain).and_then(|group| u32::try_from(group).ok())
    }

    /// Opens and reads a cluster.
    pub async fn cluster(&self, named: Option<&str>, group: Option<u32>) -> Result<Cluster> {
        let name = self.scope(named)?;
        let store = (self.open)(&name, group).await?;
        let view = store.read(Freshness::Linearizable).await?;
        Ok(Cluster { name, group, store, view })
    }

    /// Asks a member; no answer ends the command.
    pub async fn call(&self, member: &Member, method: Method, path: &str, body: Option<&Value>) -> Result<Answer> {
        match self.rest.call(member, method, path, body).await {
            Ok(answer) => Ok(answer),
            Err(reason) => fail(format!("Request to member {} failed: {reason}", member.name)),
        }
    }

    /// Asks before an action on members, unless `force`.
    pub fn confirm_action(&self, action: &str, members: &[Member], at: Option<&str>, force: bool) -> Result {
        if force {
            return Ok(());
        }
        let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        let names = names.join(", ");
        let question = match at {
            Some(at) => format!("Are you sure you want to schedule {action} of members {names} at {at}?"),
            None => format!("Are you sure you want to {action} members {names}?"),
        };
        if self.console.confirm(&question)? { Ok(()) } else { fail(format!("Aborted {action}")) }
    }

    /// Says how an action on one member went; true on success.
    pub fn report(&self, answer: &Answer, action: &str, member: &str) -> bool {
        let success = matches!(answer.status, 200 | 202);
        if success {
            self.console.line(format!("Success: {action} for member {member}"));
        } else {
            self.console.line(format!(
                "Failed: {action} for member {member}, status code={}, ({})",
                answer.status, answer.body
            ));
        }
        success
    }

    /// The local time.
    pub fn now(&self) -> ZonedDateTime {
        ZonedDateTime::now()
    }
}
