//! Configurations in older layouts, above all that of release 0.75, brought into today's. Everything else in this crate
//! knows today's layout only.
//!
//! Two kinds of keys are rewritten. Older *spellings* of what today's layout holds elsewhere are moved wherever they are
//! found. A file of the *0.75 layout* as a whole (credentials directly under `postgresql`, no `bootstrap`) describes the
//! cluster as well as the node: what is shared by the cluster becomes `bootstrap.dcs`, which makes such a file one that
//! may create a cluster, as it always was.

use model::controlled::find_controlled;
use serde_json::{Map, Value};

use crate::{stores, tree};

type Tree = Map<String, Value>;

/// Settings of a cluster, by their place in the 0.75 layout. Of two sources for one setting the first counts: a store's
/// section held the times that were in force, the top level those that YAML anchors were made of.
const SHARED: &[(&str, &str)] = &[
    ("etcd.ttl", "bootstrap.dcs.ttl"),
    ("etcd3.ttl", "bootstrap.dcs.ttl"),
    ("zookeeper.session_timeout", "bootstrap.dcs.ttl"),
    ("exhibitor.session_timeout", "bootstrap.dcs.ttl"),
    ("ttl", "bootstrap.dcs.ttl"),
    ("loop_wait", "bootstrap.dcs.loop_wait"),
    ("zookeeper.reconnect_timeout", "bootstrap.dcs.retry_timeout"),
    ("exhibitor.reconnect_timeout", "bootstrap.dcs.retry_timeout"),
    ("retry_timeout", "bootstrap.dcs.retry_timeout"),
    ("postgresql.maximum_lag_on_failover", "bootstrap.dcs.maximum_lag_on_failover"),
    ("postgresql.use_slots", "bootstrap.dcs.postgresql.use_slots"),
    ("postgresql.initdb", "bootstrap.initdb"),
    ("postgresql.admin", "bootstrap.admin"),
];

/// Rewrites a configuration in place; a sentence for every key that was.
pub fn modernise(tree: &mut Tree) -> Vec<String> {
    let mut rewrite = Rewrite { tree, notes: Vec::new() };
    let is_whole = rewrite.is_old_layout();
    rewrite.hoist_exhibitor();
    rewrite.move_all("postgresql.name", "name");
    for store in stores::KNOWN {
        rewrite.move_all(&format!("{}.scope", store.name), "scope");
    }
    rewrite.move_all("postgresql.scope", "scope");
    for section in ["restapi", "ctl"] {
        rewrite.split_auth(section);
    }
    if is_whole {
        rewrite.share_with_the_cluster();
    } else {
        rewrite.name_what_has_no_effect();
    }
    rewrite.lift_credentials();
    rewrite.notes
}

struct Rewrite<'a> {
    tree: &'a mut Tree,
    notes: Vec<String>,
}

impl Rewrite<'_> {
    fn get(&self, path: &str) -> Option<&Value> {
        tree::get(self.tree, path)
    }

    fn is_old_layout(&self) -> bool {
        !self.tree.contains_key("bootstrap")
            && self.get("postgresql.replication").is_some_and(Value::is_object)
            && self.get("postgresql.authentication").is_none()
    }

    fn replaced(&mut self, old: &str, new: &str) {
        self.notes.push(format!("{old} is an older setting: {new} replaces it"));
    }

    /// Moves a value to its new place, unless that is taken.
    fn move_all(&mut self, old: &str, new: &str) {
        if let Some(value) = tree::remove(self.tree, old) {
            self.place(old, new, value);
        }
    }

    fn place(&mut self, old: &str, new: &str, value: Value) {
        match self.get(new) {
            None => {
                tree::set(self.tree, new, value);
                self.replaced(old, new);
            }
            Some(there) if *there == value => self.replaced(old, new),
            Some(_) => self.notes.push(format!("{old} is an older setting and is ignored: {new} is set")),
        }
    }

    /// An `exhibitor` inside `zookeeper` replaces that section, whose hosts Exhibitor knows better.
    fn hoist_exhibitor(&mut self) {
        let Some(exhibitor @ Value::Object(_)) = tree::remove(self.tree, "zookeeper.exhibitor") else { return };
        let zookeeper = self.tree.shift_remove("zookeeper");
        self.place("zookeeper.exhibitor", "exhibitor", exhibitor);
        // What has no meaning for Exhibitor, hosts above all, stays behind.
        for key in ["scope", "session_timeout", "reconnect_timeout"] {
            if let Some(value) = zookeeper.as_ref().and_then(|section| section.get(key))
                && self.get("exhibitor").is_some_and(Value::is_object)
            {
                tree::set(self.tree, &format!("exhibitor.{key}"), value.clone());
            }
        }
    }

    /// `auth: 'user:password'`. Anything else stays, to be named as unknown.
    fn split_auth(&mut self, section: &str) {
        let old = format!("{section}.auth");
        let Some((username, password)) = self.get(&old).and_then(Value::as_str).and_then(|auth| auth.split_once(':'))
        else {
            return;
        };
        let credentials = Tree::from_iter([
            ("username".to_owned(), Value::from(username)),
            ("password".to_owned(), Value::from(password)),
        ]);
        tree::remove(self.tree, &old);
        self.place(&old, &format!("{section}.authentication"), Value::Object(credentials));
    }

    fn share_with_the_cluster(&mut self) {
        tree::set(self.tree, "bootstrap.dcs", Value::Object(Tree::new()));
        for (old, new) in SHARED {
            self.move_all(old, new);
        }
        if let Some(parameters @ Value::Object(_)) = tree::remove(self.tree, "postgresql.recovery_conf.parameters") {
            self.place("postgresql.recovery_conf.parameters", "postgresql.parameters", parameters);
        }
        self.access_rules();
        let given = self.get("postgresql.parameters").and_then(Value::as_object).cloned().unwrap_or_default();
        for name in given.keys().filter(|name| find_controlled(name).is_some()) {
            let Some(Value::Object(parameters)) = tree::get_mut(self.tree, "postgresql.parameters") else { break };
            // Names of parameters may hold dots, paths of settings must not.
            let Some(value) = parameters.shift_remove(name) else { continue };
            self.place(
                &format!("postgresql.parameters.{name}"),
                &format!("bootstrap.dcs.postgresql.parameters.{name}"),
                value,
            );
        }
        if self.get("postgresql.callbacks").is_some() {
            self.notes.push("postgresql.callbacks are told the role primary where release 0.75 said master".to_owned());
        }
    }

    /// In this layout a line for replication came first, lines for TLS counted only with TLS, and all were added once to
    /// what initdb wrote.
    fn access_rules(&mut self) {
        let mut lines = Vec::new();
        let username = self.get("postgresql.replication.username").and_then(Value::as_str).map(str::to_owned);
        if let (Some(username), Some(Value::String(network))) =
            (username, tree::remove(self.tree, "postgresql.replication.network"))
        {
            lines.push(Value::from(format!("host replication {username} {network} md5")));
            self.replaced("postgresql.replication.network", "a line of bootstrap.pg_hba");
        }
        let ssl = self.get("postgresql.parameters.ssl").and_then(model::units::bool_of) == Some(true);
        if let Some(Value::Array(given)) = tree::remove(self.tree, "postgresql.pg_hba") {
            let skipped =
                |line: &Value| !ssl && line.as_str().is_some_and(|line| line.trim_start().starts_with("hostssl"));
            lines.extend(given.into_iter().filter(|line| !skipped(line)));
            self.replaced("postgresql.pg_hba", "bootstrap.pg_hba");
        }
        if !lines.is_empty() {
            tree::set(self.tree, "bootstrap.pg_hba", Value::Array(lines));
        }
    }

    /// Settings of the cluster in a file of today's layout: upstream does not read them there either.
    fn name_what_has_no_effect(&mut self) {
        for (old, new) in SHARED {
            if tree::remove(self.tree, old).is_some() {
                self.notes.push(format!(
                    "{old} has no effect here: {new} holds it for a new cluster, patronictl edit-config changes it"
                ));
            }
        }
    }

    /// Credentials directly under `postgresql`, and pg_rewind switched on by the presence of its own.
    fn lift_credentials(&mut self) {
        if self.get("postgresql.authentication").is_some() {
            return;
        }
        let is_old = ["replication", "superuser", "pg_rewind"]
            .iter()
            .any(|role| self.get(&format!("postgresql.{role}")).is_some_and(Value::is_object));
        if !is_old {
            return;
        }
        if tree::remove(self.tree, "postgresql.replication.network").is_some() {
            self.notes
                .push("postgresql.replication.network has no effect: write a line of postgresql.pg_hba".to_owned());
        }
        for role in ["replication", "superuser"] {
            self.move_all(&format!("postgresql.{role}"), &format!("postgresql.authentication.{role}"));
        }
        let rewind = tree::remove(self.tree, "postgresql.pg_rewind");
        tree::set(self.tree, "postgresql.use_pg_rewind", rewind.is_some().into());
        if let Some(credentials) = rewind {
            let superuser = "postgresql.authentication.superuser";
            if self.get(superuser).is_none() && credentials.is_object() {
                tree::set(self.tree, superuser, credentials);
            }
            self.replaced("postgresql.pg_rewind", "postgresql.use_pg_rewind");
        }
    }
}

#[cfg(test)]
mod tests;
