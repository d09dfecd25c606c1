//! One cluster as a command works with it.

use std::sync::Arc;

use dcs::{Freshness, Store};
use model::{ClusterView, Member};

use crate::error::Result;
use crate::members;
use crate::output::Format;
use crate::prompt::Console;

/// A cluster: its keys as read, and the store they came from.
pub struct Cluster {
    /// The name on the command line (the scope).
    pub name: String,
    /// The Citus group, where one was chosen.
    pub group: Option<u32>,
    /// The connection to the keys.
    pub store: Arc<dyn Store>,
    /// The keys as of the last read.
    pub view: ClusterView,
}

impl Cluster {
    /// Reads the keys again.
    pub async fn refresh(&mut self) -> Result {
        self.view = self.store.read(Freshness::Linearizable).await?;
        Ok(())
    }

    /// Prints the table of members, and below a drawn one the footer.
    pub fn print(&self, console: &Console, format: Format, extended: bool) {
        console.raw(&members::table(self, format, extended).render(format, "\t"));
        if format.is_drawn() {
            console.raw(&members::footer(&self.view));
        }
    }

    /// Members with the leader first: the order in which one is sought that answers.
    pub fn leader_first(&self) -> Vec<&Member> {
        let mut members: Vec<&Member> = self.view.members.iter().filter(|member| member.api_url.is_some()).collect();
        members.sort_by_key(|member| Some(member.name.as_str()) != self.view.leader_name());
        members
    }

    /// The cluster's settings, or their defaults.
    pub fn settings(&self) -> model::Settings {
        let config = self.view.config.as_ref().map(|config| config.value.clone()).unwrap_or_default();
        model::Settings::resolve(&config).0
    }
}
