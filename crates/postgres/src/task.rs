//! Long work that can be told to stop and says how far it is.

use std::sync::Arc;

use model::{CloneProgress, Lsn};
use tokio::sync::watch;

/// A report from running work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The shutdown checkpoint record begins at this position; the process may still be there. A standby has the
    /// record when it received more than this position.
    ShutDown(Lsn),
    /// The server was started and accepts no connections yet.
    Starting,
    /// A base backup is this far.
    Copied(CloneProgress),
    /// A custom bootstrap method fills the data directory.
    CustomBootstrap,
    /// The server that a custom bootstrap method restored was started, and recovers.
    Restored,
    /// The user's `pre_promote` runs.
    PrePromote,
    /// `pre_promote` has succeeded, or there is none.
    Promoting,
}

/// The caller's end of long work.
#[derive(Clone)]
pub struct TaskHandle {
    /// Becomes true when the work is cancelled; a closed channel never cancels.
    pub cancelled: watch::Receiver<bool>,
    /// Called with progress.
    pub progress: Arc<dyn Fn(Progress) + Send + Sync>,
    /// Whether the server may become writable: asked immediately before that cannot be undone any more.
    pub may_be_writable: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl TaskHandle {
    /// A handle that is never cancelled, whose progress nobody reads, and that permits everything.
    pub fn detached() -> TaskHandle {
        TaskHandle {
            cancelled: watch::channel(false).1,
            progress: Arc::new(|_| {}),
            may_be_writable: Arc::new(|| true),
        }
    }

    /// Whether the work was told to stop.
    pub fn is_cancelled(&self) -> bool {
        *self.cancelled.borrow()
    }

    /// Returns when the work is told to stop; never, if nobody can.
    pub async fn until_cancelled(&self) {
        let mut cancelled = self.cancelled.clone();
        if cancelled.wait_for(|flag| *flag).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    pub(crate) fn report(&self, progress: Progress) {
        (self.progress)(progress);
    }
}
