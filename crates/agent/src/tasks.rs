//! Long work beside the loop: one task at a time, numbered, cancellable, reporting into a slot that the loop reads.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use ha::LeaseProof;
use ha::step::{StopMode, Task};
use ha::view::{FinishedTask, Progress, RunningTask};
use model::BootTime;
use tokio::sync::{Notify, watch};

use crate::Deps;
use crate::keeper::Keeper;
use crate::ports::{Node, StartAs, TaskHandle};

/// How long a start of a standby may take before the task ends and the loop watches it instead.
const STANDBY_START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a checkpoint is waited for: the one before a stop is only there to make the stop short, and the one after a
/// promotion is asked for again.
const CHECKPOINT_MAX: Duration = Duration::from_secs(300);

struct Running {
    task: RunningTask,
    cancel: watch::Sender<bool>,
}

#[derive(Default)]
struct Slot {
    next_id: u64,
    running: Option<Running>,
    finished: Option<FinishedTask>,
}

/// The task slot of one agent.
pub struct Tasks {
    deps: Deps,
    keeper: Arc<Keeper>,
    slot: Arc<Mutex<Slot>>,
    wake: Arc<Notify>,
}

fn lock(slot: &Mutex<Slot>) -> std::sync::MutexGuard<'_, Slot> {
    // Every update is a plain assignment: the slot is sound even if a holder panicked.
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tasks {
    /// An empty slot; `wake` is notified when a task reports something.
    pub fn new(deps: Deps, keeper: Arc<Keeper>, wake: Arc<Notify>) -> Tasks {
        Tasks { deps, keeper, slot: Arc::default(), wake }
    }

    /// The task that runs, with its progress.
    pub fn running(&self) -> Option<RunningTask> {
        lock(&self.slot).running.as_ref().map(|running| running.task.clone())
    }

    /// The task that ended and whose end no cycle has seen yet.
    pub fn finished(&self) -> Option<FinishedTask> {
        lock(&self.slot).finished.clone()
    }

    /// A cycle has seen that this task ended.
    pub fn forget_finished(&self, id: u64) {
        let mut slot = lock(&self.slot);
        if slot.finished.as_ref().is_some_and(|finished| finished.id == id) {
            slot.finished = None;
        }
    }

    /// Tells the running task to stop.
    pub fn cancel(&self) {
        if let Some(running) = &lock(&self.slot).running {
            running.cancel.send_replace(true);
        }
    }

    /// Starts a task; refused while one runs. An immediate stop waits for nobody: what runs is cancelled and its end,
    /// whenever it comes, is dropped.
    pub fn start(&self, task: Task, now: BootTime) -> Result<(), String> {
        let (cancel, cancelled) = watch::channel(false);
        let id = {
            let mut slot = lock(&self.slot);
            if let Some(running) = &slot.running {
                let urgent = |task: &Task| matches!(task, Task::Stop { mode: StopMode::Immediate, .. });
                if !urgent(&task) || urgent(&running.task.task) {
                    return Err(format!("task {} is still running", running.task.id));
                }
                running.cancel.send_replace(true);
            }
            slot.next_id += 1;
            let id = slot.next_id;
            slot.running =
                Some(Running { task: RunningTask { id, task: task.clone(), since: now, progress: None }, cancel });
            id
        };
        let (slot, wake) = (self.slot.clone(), self.wake.clone());
        let progress = move |progress: Progress| {
            if let Some(running) = lock(&slot).running.as_mut().filter(|running| running.task.id == id) {
                running.task.progress = Some(progress);
            }
            wake.notify_one();
        };
        let keeper = self.keeper.clone();
        // A cluster that is being made has no lease yet, and no other member.
        let (making, permitted) = (task == Task::Bootstrap, proof_of(&task).is_some());
        // The decision's proof says that it was permitted then; the keeper knows whether it still is.
        let may_be_writable = move || making || (permitted && keeper.permits_writing());
        let handle = TaskHandle { cancelled, progress: Arc::new(progress), may_be_writable: Arc::new(may_be_writable) };
        let (deps, slot, wake) = (self.deps.clone(), self.slot.clone(), self.wake.clone());
        self.deps.spawner.spawn(Box::pin(async move {
            let unwinding = AssertUnwindSafe(execute(&deps, &task, &handle)).catch_unwind().await;
            // A defect in one task must not block the slot, and with it the node, for good.
            let outcome = unwinding.unwrap_or_else(|_| Err("the task ended unexpectedly".to_owned()));
            if let Err(why) = &outcome {
                tracing::error!("{} failed: {why}", ha::rules::task_name(&task));
            }
            let mut slot = lock(&slot);
            if let Some(ended) = slot.running.take_if(|running| running.task.id == id) {
                slot.finished = Some(FinishedTask { id, task, progress: ended.task.progress, outcome });
            }
            drop(slot);
            wake.notify_one();
        }));
        Ok(())
    }
}

async fn execute(deps: &Deps, task: &Task, handle: &TaskHandle) -> Result<(), String> {
    let node = deps.node.as_ref();
    match task {
        Task::Bootstrap => bootstrap(node, handle).await,
        Task::Clone { source, basebackup_only } => node.clone_from(source.as_ref(), *basebackup_only, handle).await,
        Task::StartPrimary { timeout, .. } => node.start(StartAs::Primary, *timeout, handle).await,
        Task::StartStandby { upstream } => {
            node.start(StartAs::Standby(upstream.clone()), STANDBY_START_TIMEOUT, handle).await
        }
        Task::Repoint { upstream } => node.repoint(upstream.as_ref(), handle).await,
        Task::Rewind { source } => node.rewind(source, handle).await,
        Task::CrashRecovery => node.crash_recovery(handle).await,
        Task::RemoveDataDir => node.remove_data_dir().await,
        Task::Stop { mode, checkpoint, .. } => {
            if *checkpoint {
                if let Err(why) = run_checkpoint(node, handle).await {
                    tracing::warn!("the checkpoint before stopping failed: {why}");
                }
                if *handle.cancelled.borrow() {
                    return Err("cancelled".to_owned());
                }
            }
            node.stop(*mode, handle).await
        }
        Task::Promote { .. } => node.promote(&*handle.may_be_writable, handle).await,
        Task::CopySlots { source, slots } => node.copy_slots(source, slots, handle).await,
        Task::Checkpoint => run_checkpoint(node, handle).await,
    }
}

/// A checkpoint that ends early when it is cancelled; the server goes on with it.
async fn run_checkpoint(node: &dyn Node, handle: &TaskHandle) -> Result<(), String> {
    let mut cancelled = handle.cancelled.clone();
    tokio::select! {
        biased;
        result = tokio::time::timeout(CHECKPOINT_MAX, node.checkpoint()) => match result {
            Ok(result) => result,
            Err(_) => Err(format!("it has not ended within {} seconds", CHECKPOINT_MAX.as_secs())),
        },
        _ = cancelled.wait_for(|cancelled| *cancelled) => Err("cancelled".to_owned()),
    }
}

/// The permission that the decision gave, where the task makes the node writable.
fn proof_of(task: &Task) -> Option<LeaseProof> {
    match task {
        Task::Promote { proof } | Task::StartPrimary { proof, .. } => Some(*proof),
        _ => None,
    }
}

/// A new cluster; what a failure leaves is stopped and put aside.
async fn bootstrap(node: &dyn Node, handle: &TaskHandle) -> Result<(), String> {
    let result = async {
        node.initdb(handle).await?;
        node.start(StartAs::Primary, STANDBY_START_TIMEOUT, handle).await?;
        node.post_bootstrap(handle).await
    }
    .await;
    if result.is_err() {
        for cleared in [node.stop(StopMode::Immediate, handle).await, node.move_data_dir_aside().await] {
            if let Err(why) = cleared {
                tracing::error!("clearing up after the failed bootstrap: {why}");
            }
        }
    }
    result
}
