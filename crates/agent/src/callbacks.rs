//! User scripts: `postgresql.callbacks` of the configuration.
//!
//! One script runs at a time; a new call kills the one before with everything it started, and takes its place.
//! `on_reload` runs beside the others: a reload must not end the script that moves an address to the new primary.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::sync::{Arc, PoisonError, RwLock};

use ha::step::CallbackAction;
use model::Role;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::ports::Callbacks;
use crate::sentinel::proc;

/// The production [`Callbacks`].
pub struct Scripts {
    commands: RwLock<BTreeMap<&'static str, String>>,
    reload: Slot,
    others: Slot,
}

/// A command and its arguments.
type Argv = Vec<String>;

/// Where one script runs at a time. Only the latest call counts: one that was overtaken before it began never runs.
struct Slot {
    latest: watch::Sender<Option<Arc<Argv>>>,
    /// How many calls were taken up, to tell whether any still waits.
    started: watch::Receiver<Option<Arc<Argv>>>,
}

const ACTIONS: [CallbackAction; 5] = [
    CallbackAction::OnStart,
    CallbackAction::OnStop,
    CallbackAction::OnRestart,
    CallbackAction::OnReload,
    CallbackAction::OnRoleChange,
];

impl Scripts {
    /// Starts the two tasks that run scripts, on the current runtime. No script is configured yet.
    pub fn new() -> Scripts {
        Scripts { commands: RwLock::default(), reload: Slot::new(), others: Slot::new() }
    }

    /// Replaces the commands, by the names of the actions (`on_start`, ...); other names are ignored.
    pub fn configure(&self, commands: &BTreeMap<String, String>) {
        let known = ACTIONS.iter().map(|action| action.as_str());
        let wanted = known.filter_map(|name| Some((name, commands.get(name)?.clone()))).collect();
        *self.commands.write().unwrap_or_else(PoisonError::into_inner) = wanted;
    }

    /// Returns once the latest call of each kind began: an agent that is about to exit must not lose its `on_stop`.
    /// Scripts outlive the agent.
    pub async fn all_begun(&self) {
        for slot in [&self.reload, &self.others] {
            slot.begun().await;
        }
    }
}

impl Default for Scripts {
    fn default() -> Scripts {
        Scripts::new()
    }
}

impl Callbacks for Scripts {
    fn run(&self, action: CallbackAction, role: Role, scope: &str) {
        let commands = self.commands.read().unwrap_or_else(PoisonError::into_inner);
        let Some(command) = commands.get(action.as_str()).filter(|command| !command.trim().is_empty()) else {
            return;
        };
        let Some(mut argv) = shlex::split(command).filter(|words| !words.is_empty()) else {
            tracing::error!(
                "cannot run postgresql.callbacks.{}: expected a command with closed quotes, not {command:?}",
                action.as_str()
            );
            return;
        };
        argv.extend([action.as_str(), told_role(role), scope].map(str::to_owned));
        match action {
            CallbackAction::OnReload => self.reload.submit(argv),
            _ => self.others.submit(argv),
        }
    }
}

/// Scripts know a promoted node as the primary; the other roles go by their own names.
fn told_role(role: Role) -> &'static str {
    match role {
        Role::Promoted => Role::Primary.as_str(),
        role => role.as_str(),
    }
}

impl Slot {
    fn new() -> Slot {
        let (latest, calls) = watch::channel(None);
        let (begun, started) = watch::channel(None);
        tokio::spawn(run_calls(calls, begun));
        Slot { latest, started }
    }

    fn submit(&self, argv: Argv) {
        self.latest.send_replace(Some(Arc::new(argv)));
    }

    async fn begun(&self) {
        let wanted = self.latest.borrow().clone();
        let Some(wanted) = wanted else {
            return;
        };
        let mut started = self.started.clone();
        let is_wanted = |call: &Option<Arc<Argv>>| call.as_ref().is_some_and(|call| Arc::ptr_eq(call, &wanted));
        // An error means that the task is gone together with the runtime: nothing begins any more.
        let _ = started.wait_for(is_wanted).await;
    }
}

/// Runs the latest call until the next one comes; ends with the [`Scripts`].
async fn run_calls(mut calls: watch::Receiver<Option<Arc<Argv>>>, begun: watch::Sender<Option<Arc<Argv>>>) {
    let mut next = calls.changed().await;
    while next.is_ok() {
        let call = calls.borrow_and_update().clone();
        let child = call.as_ref().and_then(|argv| start(argv));
        begun.send_replace(call.clone());
        next = match (call, child) {
            (Some(argv), Some(mut child)) => tokio::select! {
                biased;
                next = calls.changed() => {
                    // When the agent ends, its scripts go on.
                    if next.is_ok() {
                        kill_tree(&mut child, &argv).await;
                    }
                    next
                }
                status = child.wait() => {
                    report(&argv, status);
                    calls.changed().await
                }
            },
            _ => calls.changed().await,
        };
    }
}

fn start(argv: &Argv) -> Option<Child> {
    let (program, arguments) = argv.split_first()?;
    tracing::info!("running callback {argv:?}");
    let mut command = Command::new(program);
    command.args(arguments).process_group(0).stdin(Stdio::null()).kill_on_drop(false);
    // The agent's settings, among them passwords, are none of the script's business.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PATRONI_")) {
        command.env_remove(name);
    }
    command.spawn().inspect_err(|error| tracing::error!("cannot run callback {argv:?}: {error}")).ok()
}

fn report(argv: &Argv, status: std::io::Result<std::process::ExitStatus>) {
    match status {
        Ok(status) if status.success() => tracing::debug!("callback {argv:?} succeeded"),
        Ok(status) => tracing::warn!("callback {argv:?} ended with {status}"),
        Err(error) => tracing::warn!("cannot wait for callback {argv:?}: {error}"),
    }
}

/// Ends the script and what it started, also what moved to a process group of its own.
async fn kill_tree(child: &mut Child, argv: &Argv) {
    let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) else {
        return;
    };
    tracing::warn!("callback {argv:?} still runs: killing it for the next one");
    // Collected first: children of a dead process are no longer found through it.
    let below = proc::descendants(&proc::all(), &BTreeSet::from([pid.as_raw_pid()]));
    let _ = kill_process_group(pid, Signal::KILL);
    below.iter().for_each(|stat| stat.id.signal(Signal::KILL));
    let _ = child.wait().await;
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::{Duration, Instant};

    use super::*;

    async fn until(what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(Instant::now() < deadline, "not within 10 s: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn scripts(commands: &[(&str, String)]) -> Scripts {
        let scripts = Scripts::new();
        scripts.configure(&commands.iter().map(|(name, command)| ((*name).to_owned(), command.clone())).collect());
        scripts
    }

    fn pid_in(file: &Path) -> Option<i32> {
        std::fs::read_to_string(file).ok()?.strip_suffix('\n')?.parse().ok()
    }

    #[tokio::test]
    async fn a_script_is_told_action_role_and_scope_after_its_own_arguments() {
        let dir = tempfile::tempdir().expect("a directory");
        let out = dir.path().join("out");
        let command = format!("sh -c 'printf \"%s|\" \"$@\" > {}.tmp; mv {0}.tmp {0}' -- 'one two'", out.display());
        let scripts = scripts(&[("on_role_change", command), ("on_stop", "sh 'unclosed".to_owned())]);
        scripts.run(CallbackAction::OnStop, Role::Primary, "demo");
        scripts.run(CallbackAction::OnStart, Role::Primary, "demo");
        scripts.run(CallbackAction::OnRoleChange, Role::Promoted, "demo");
        until("the script wrote", || out.exists()).await;
        assert_eq!(std::fs::read_to_string(out).expect("the file"), "one two|on_role_change|primary|demo|");
    }

    #[tokio::test]
    async fn a_new_call_kills_the_previous_tree_but_not_a_reload() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = |name: &str| dir.path().join(name);
        // The grandchild leaves the process group.
        let endless = |name: &str| {
            format!("sh -c 'setsid sh -c \"echo \\$\\$ > {}; exec sleep 600\" & wait'", file(name).display())
        };
        let scripts = scripts(&[
            ("on_start", endless("start")),
            ("on_reload", endless("reload")),
            ("on_stop", format!("sh -c 'touch {}'", file("").display())),
        ]);
        scripts.run(CallbackAction::OnStart, Role::Primary, "demo");
        scripts.run(CallbackAction::OnReload, Role::Primary, "demo");
        until("both run", || pid_in(&file("start")).is_some() && pid_in(&file("reload")).is_some()).await;
        let started = proc::ProcId::of(pid_in(&file("start")).expect("a pid")).expect("a process");
        let reloading = proc::ProcId::of(pid_in(&file("reload")).expect("a pid")).expect("a process");

        scripts.run(CallbackAction::OnStop, Role::Primary, "demo");
        until("the first script is gone", || started.alive().is_none()).await;
        assert!(reloading.alive().is_some());
        scripts.run(CallbackAction::OnReload, Role::Primary, "demo");
        until("a new reload takes over", || reloading.alive().is_none()).await;
        until("the new one runs", || pid_in(&file("reload")).is_some_and(|pid| pid != reloading.pid)).await;
        let last = proc::ProcId::of(pid_in(&file("reload")).expect("a pid")).expect("a process");
        last.signal(Signal::KILL);
    }

    #[tokio::test]
    async fn begun_means_that_the_script_is_a_process() {
        let dir = tempfile::tempdir().expect("a directory");
        let out = dir.path().join("out");
        let scripts = scripts(&[("on_stop", format!("sh -c 'touch {}'", out.display()))]);
        scripts.all_begun().await;
        scripts.run(CallbackAction::OnStop, Role::Primary, "demo");
        scripts.all_begun().await;
        // The task is not polled from here on until the file is there.
        let deadline = Instant::now() + Duration::from_secs(10);
        let made = || std::fs::read_dir(dir.path()).expect("the directory").count() > 0;
        while !made() {
            assert!(Instant::now() < deadline, "the script did not run");
            std::thread::yield_now();
        }
    }
}
