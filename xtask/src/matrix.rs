//! What an agent does with what it finds when it starts: every state of the data directory, whoever holds the lock,
//! paused or not, played through the decision function. The page `docs/start-matrix.md` is this table as text.

use std::path::Path;

use anyhow::{Context, Result};
use ha::Memory;
use ha::step::{Effect, Outcome, ServerPosition, Task};
use ha::view::LeaseView;
use model::lsn::TimelineSwitch;
use model::pg::{ControlState, DataDir, Postmaster, Unfinished};
use model::{Lsn, Timeline};
use serde_json::json;

use scene::{Played, SYSTEM_ID, Scene, cluster_of, settings};

/// The scene of the core's table tests: one way to build a view.
#[path = "../../crates/ha/tests/it/scene.rs"]
#[allow(dead_code)]
mod scene;

/// What the agent finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    RunningPrimary,
    RunningStandby,
    StoppedPrimary,
    StoppedStandby,
    CrashedPrimary,
    HalfCloned,
    HalfRewound,
    Foreign,
    Empty,
    Unreadable,
}

impl Found {
    const ALL: [Found; 10] = [
        Found::RunningPrimary,
        Found::RunningStandby,
        Found::StoppedPrimary,
        Found::StoppedStandby,
        Found::CrashedPrimary,
        Found::HalfCloned,
        Found::HalfRewound,
        Found::Foreign,
        Found::Empty,
        Found::Unreadable,
    ];

    fn text(self) -> &'static str {
        match self {
            Found::RunningPrimary => "running primary",
            Found::RunningStandby => "running standby",
            Found::StoppedPrimary => "primary, shut down",
            Found::StoppedStandby => "standby, shut down",
            Found::CrashedPrimary => "crashed primary",
            Found::HalfCloned => "half a copy",
            Found::HalfRewound => "half a rewind",
            Found::Foreign => "another cluster's",
            Found::Empty => "empty",
            Found::Unreadable => "unreadable",
        }
    }
}

/// Whose the lock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    Mine,
    Anothers,
    Nobodys,
}

impl Lock {
    const ALL: [Lock; 3] = [Lock::Mine, Lock::Anothers, Lock::Nobodys];

    fn text(self) -> &'static str {
        match self {
            Lock::Mine => "this node's",
            Lock::Anothers => "another's",
            Lock::Nobodys => "nobody's",
        }
    }
}

/// One cell, played.
pub struct Cell {
    pub found: Found,
    pub lock: Lock,
    pub paused: bool,
    played: Played,
}

impl Cell {
    /// Rule, effects that count, exit status: in short.
    #[cfg(test)]
    fn outcome(&self) -> String {
        let mut words = vec![format!("{}:", self.played.verdict.rule.name())];
        words.extend(self.played.effects().into_iter().filter(|effect| !is_harmless(effect)));
        words.extend(self.played.verdict.exit.iter().map(|exit| format!("exit {}", exit.code)));
        words.join(" ")
    }

    /// What cannot be taken back; nothing in most cells.
    fn first_irreversible(&self) -> String {
        let lock_only = |effect: &str| matches!(effect, "RenewLeader");
        let first = self.played.effects().into_iter().find(|effect| !is_harmless(effect) && !lock_only(effect));
        let exit = self.played.verdict.exit.as_ref().map(|exit| format!("exit {}", exit.code));
        first.or(exit).unwrap_or_default()
    }

    /// What no cell may do, whatever its rule; empty in a sound table.
    pub fn dangers(&self) -> Vec<String> {
        let mut dangers = Vec::new();
        let mut leased = false;
        let mut stops = false;
        let whole = !matches!(self.found, Found::HalfCloned | Found::HalfRewound | Found::Empty);
        for effect in &self.played.effects {
            let renewal = matches!(effect, Effect::AcquireLeader | Effect::RenewLeader);
            leased |= renewal;
            let Effect::StartTask(task) = effect else { continue };
            if self.paused {
                dangers.push(format!("paused, and yet {task:?}"));
            }
            if self.found == Found::Foreign {
                dangers.push(format!("work on another cluster's data: {task:?}"));
            }
            match task {
                Task::RemoveDataDir => dangers.push("the data directory is removed".to_owned()),
                Task::Clone { .. } | Task::Bootstrap if whole || self.found == Found::HalfRewound => {
                    dangers.push(format!("data is overwritten: {task:?}"));
                }
                Task::StartPrimary { .. } | Task::Promote { .. } if !leased => {
                    dangers.push(format!("writable without a lease: {task:?}"));
                }
                Task::StartPrimary { .. } | Task::StartStandby { .. } | Task::Promote { .. } if !whole => {
                    dangers.push(format!("an unfinished data directory is started: {task:?}"));
                }
                Task::Stop { .. } => stops = true,
                _ => {}
            }
        }
        if self.found == Found::RunningPrimary && !self.paused && !leased && !stops {
            dangers.push("a primary goes on without a lease".to_owned());
        }
        dangers
    }
}

/// Effects that change nothing anybody relies on.
fn is_harmless(effect: &str) -> bool {
    effect == "Disarm" || effect.starts_with("on_")
}

/// The scene of a cell: node `a` has just started; `b` leads, or led.
fn scene_of(found: Found, lock: Lock, paused: bool) -> Scene {
    let mut scene = match lock {
        Lock::Mine => Scene::of("a", "a"),
        Lock::Anothers => Scene::of("a", "b"),
        Lock::Nobodys => Scene::without_leader("a", "b"),
    };
    scene.memory = Memory::default();
    scene.view.lease = LeaseView::None;
    scene.view.settings = settings(json!({"pause": paused}));
    for name in ["b", "c"].iter().filter(|name| lock != Lock::Anothers || **name == "c") {
        scene.peers.insert((*name).to_owned(), scene::standby_answer(1000));
    }
    let promoted = TimelineSwitch { timeline: Timeline(1), switchpoint: Lsn(5000), reason: String::new() };
    scene.server = Ok(ServerPosition {
        in_recovery: false,
        system_id: SYSTEM_ID.to_owned(),
        timeline: Timeline(2),
        lsn: Lsn(6000),
        history: vec![promoted],
    });
    if lock == Lock::Anothers && found != Found::RunningStandby {
        cluster_of(&mut scene).members[1].timeline = Some(Timeline(2));
    }
    let as_primary = !matches!(found, Found::RunningStandby | Found::StoppedStandby | Found::HalfRewound);
    scene.view.pg = Scene::of("a", if as_primary { "a" } else { "b" }).view.pg;
    let down = |scene: Scene, state| scene.pg_down(state);
    match found {
        Found::RunningPrimary | Found::RunningStandby => {}
        Found::StoppedPrimary => scene = down(scene, ControlState::ShutDown),
        Found::StoppedStandby => scene = down(scene, ControlState::ShutDownInRecovery),
        Found::CrashedPrimary => scene = down(scene, ControlState::InProduction),
        Found::HalfCloned | Found::HalfRewound => {
            scene = down(scene, ControlState::ShutDown);
            let unfinished = if found == Found::HalfCloned { Unfinished::Clone } else { Unfinished::Rewind };
            scene.view.pg.unfinished = Some(unfinished);
        }
        Found::Foreign => {
            scene = down(scene, ControlState::ShutDown);
            if let Some(control) = &mut scene.view.pg.control {
                control.system_id = "6999999999999999999".to_owned();
            }
        }
        Found::Empty => {
            scene = down(scene, ControlState::ShutDown);
            (scene.view.pg.data_dir, scene.view.pg.control) = (DataDir::Empty, None);
        }
        Found::Unreadable => {
            scene.view.pg.data_dir = DataDir::Unreadable("Input/output error".to_owned());
            (scene.view.pg.postmaster, scene.view.pg.control, scene.view.pg.server) = (Postmaster::Unknown, None, None);
        }
    }
    debug_assert!(matches!(scene.renew, Outcome::Leased(_)));
    scene
}

/// All cells, in the order of the page.
pub fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for found in Found::ALL {
        for lock in Lock::ALL {
            for paused in [false, true] {
                cells.push(Cell { found, lock, paused, played: scene_of(found, lock, paused).play() });
            }
        }
    }
    cells
}

/// The page.
pub fn markdown() -> String {
    let mut text = String::from(
        "# What an agent does when it starts\n\n\
         Generated from the decision function by `cargo run -p xtask -- matrix`: its first decision, with nothing remembered,\n\
         for each state in which it can find its data directory, each holder of the leader lock, and a cluster that is paused\n\
         or not. The node is `a`; where another leads it is `b`, on timeline 2, with all that `a` has; where nobody leads, `b`\n\
         led and now streams from nobody, as far as `a`. `use_pg_rewind` is on; nothing allows data to be removed.\n\n\
         | Found | Lock | Paused | Rule | First irreversible effect | What the log says |\n|---|---|---|---|---|---|\n",
    );
    for cell in cells() {
        text.push_str(&format!(
            "| {} | {} | {} | {} | {} | {} |\n",
            cell.found.text(),
            cell.lock.text(),
            if cell.paused { "yes" } else { "no" },
            cell.played.verdict.rule.name(),
            cell.first_irreversible(),
            cell.played.verdict.reason
        ));
    }
    text
}

/// Writes the page.
pub fn write(root: &Path) -> Result<()> {
    let path = root.join("docs/start-matrix.md");
    std::fs::write(&path, markdown()).with_context(|| format!("write {}", path.display()))
}

/// What is wrong with the page or the table.
pub fn problems(root: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    if std::fs::read_to_string(root.join("docs/start-matrix.md")).unwrap_or_default() != markdown() {
        problems.push("docs/start-matrix.md is not up to date: run cargo run -p xtask -- matrix".to_owned());
    }
    for cell in cells() {
        let dangers = cell.dangers().into_iter();
        problems.extend(dangers.map(|danger| {
            format!("start matrix, {} / {} / paused {}: {danger}", cell.found.text(), cell.lock.text(), cell.paused)
        }));
    }
    problems
}

#[cfg(test)]
mod tests;
