//! The agent's side of the [sentinel](crate::sentinel).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use model::BootTime;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::Mode;
use super::link::{Link, report_fired};
use crate::ports::Fence;
use crate::sentinel::proc::ProcId;
use crate::sentinel::proto::{self, Answer, Request};

/// How long [`Fence::arm`] and [`Fence::disarm`] take at most.
const CONFIRM_WITHIN: Duration = Duration::from_millis(500);

/// How long the sentinel may take to answer before it is replaced.
const ANSWER_WITHIN: Duration = Duration::from_millis(400);

/// How often a request that could not be delivered is tried again.
const RETRY_PERIOD: Duration = Duration::from_millis(500);

/// Requests that wait for their turn; there is one caller at a time.
const QUEUE_MAX: usize = 8;

/// How to start a sentinel.
#[derive(Clone, Debug)]
pub struct SentinelOptions {
    /// The data directory that is guarded.
    pub data_dir: PathBuf,
    /// `scope/name`: what `ps` shows.
    pub label: String,
    /// Without a sentinel this node must not lead.
    pub required: bool,
    /// The program that calls [`crate::sentinel::main`].
    pub program: PathBuf,
    /// Its arguments before the data directory.
    pub arguments: Vec<String>,
}

impl SentinelOptions {
    /// This program itself, as `--sentinel`. `/proc/self/exe` names it even when its file was replaced.
    pub fn new(data_dir: PathBuf, label: String, mode: Mode) -> SentinelOptions {
        SentinelOptions {
            data_dir,
            label,
            required: mode == Mode::Required,
            program: PathBuf::from("/proc/self/exe"),
            arguments: vec!["--sentinel".to_owned()],
        }
    }
}

/// The sentinel process as a [`Fence`]. It is started when first needed, taken over from an earlier agent when it is
/// there already, and started again when it dies. What could not be delivered is tried again until it is.
pub struct SentinelFence {
    requests: mpsc::Sender<(Wish, oneshot::Sender<Result<(), String>>)>,
    required: bool,
    broken: Arc<AtomicBool>,
    postmaster: Arc<AtomicU32>,
    data_dir: PathBuf,
}

/// What the sentinel is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Arm(BootTime),
    Disarm,
}

impl SentinelFence {
    /// Starts the task that talks to the sentinel, on the current runtime. Nothing is started or armed yet.
    pub fn new(options: SentinelOptions) -> SentinelFence {
        let (requests, queue) = mpsc::channel(QUEUE_MAX);
        let (broken, postmaster) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (required, data_dir) = (options.required, options.data_dir.clone());
        let messenger = Messenger {
            options,
            canonical: None,
            link: None,
            wish: None,
            delivered: true,
            broken: broken.clone(),
            postmaster: postmaster.clone(),
        };
        tokio::spawn(messenger.run(queue));
        SentinelFence { requests, required, broken, postmaster, data_dir }
    }

    /// Tells which process the postmaster is, where the agent knows; the sentinel finds it otherwise. Used from the next
    /// [`Fence::arm`] on.
    pub fn set_postmaster(&self, pid: Option<u32>) {
        self.postmaster.store(pid.unwrap_or(0), Ordering::Relaxed);
    }

    async fn request(&self, wish: Wish) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            self.requests.send((wish, reply)).await.ok()?;
            answer.await.ok()
        };
        match timeout(CONFIRM_WITHIN, exchange).await {
            Ok(Some(answer)) => answer,
            Ok(None) => Err(self.no_confirmation("the agent is shutting down")),
            Err(_) => Err(self.no_confirmation(&format!("no answer within {} ms", CONFIRM_WITHIN.as_millis()))),
        }
    }

    fn no_confirmation(&self, why: &str) -> String {
        format!("the sentinel of {} did not confirm: {why}", self.data_dir.display())
    }
}

#[async_trait]
impl Fence for SentinelFence {
    async fn arm(&self, deadline: BootTime) -> Result<(), String> {
        let armed = self.request(Wish::Arm(deadline)).await;
        if armed.is_err() {
            self.broken.store(true, Ordering::Relaxed);
        }
        armed
    }

    async fn disarm(&self) {
        if let Err(error) = self.request(Wish::Disarm).await {
            tracing::warn!("{error}; trying again until it is disarmed");
        }
    }

    fn failed(&self) -> bool {
        self.required && self.broken.load(Ordering::Relaxed)
    }
}

/// Owns the connection, and remembers what was wished for.
struct Messenger {
    options: SentinelOptions,
    /// Looked up once: it touches the disk.
    canonical: Option<PathBuf>,
    link: Option<Link>,
    wish: Option<Wish>,
    /// The sentinel confirmed the wish.
    delivered: bool,
    broken: Arc<AtomicBool>,
    postmaster: Arc<AtomicU32>,
}

impl Messenger {
    async fn run(mut self, mut queue: mpsc::Receiver<(Wish, oneshot::Sender<Result<(), String>>)>) {
        loop {
            let waits_to_retry = !self.delivered;
            tokio::select! {
                biased;
                request = queue.recv() => {
                    let Some((wish, reply)) = request else {
                        return;
                    };
                    (self.wish, self.delivered) = (Some(wish), false);
                    let _ = reply.send(self.deliver().await);
                }
                heard = listen(&mut self.link) => self.hear(heard).await,
                () = tokio::time::sleep(RETRY_PERIOD), if waits_to_retry => drop(self.deliver().await),
            }
        }
    }

    /// Something unasked: the deadline passed, or the sentinel is gone.
    async fn hear(&mut self, heard: std::io::Result<Answer>) {
        match heard {
            Ok(Answer::Fired) => {
                report_fired();
                // Not to be repeated to a successor: PostgreSQL may have been started anew, without the lease.
                (self.wish, self.delivered) = (None, true);
            }
            Ok(_) => {}
            Err(error) => {
                self.link = None;
                if let Some(Wish::Arm(_)) = self.wish {
                    tracing::warn!(
                        "lost the sentinel of {}: {error}; starting another",
                        self.options.data_dir.display()
                    );
                    self.delivered = false;
                    let _ = self.deliver().await;
                }
            }
        }
    }

    /// Brings the wish to the sentinel. The second attempt is for one that was gone, or replaced for being stuck.
    async fn deliver(&mut self) -> Result<(), String> {
        let Some(wish) = self.wish else {
            return Ok(());
        };
        let mut outcome = self.attempt(wish).await;
        if outcome.is_err() {
            outcome = self.attempt(wish).await;
        }
        match &outcome {
            Ok(()) => {
                self.delivered = true;
                if self.broken.swap(false, Ordering::Relaxed) {
                    tracing::info!("the sentinel of {} stands guard again", self.options.data_dir.display());
                }
            }
            Err(error) => {
                if !self.broken.swap(true, Ordering::Relaxed) {
                    tracing::warn!("{error}");
                }
            }
        }
        outcome
    }

    async fn attempt(&mut self, wish: Wish) -> Result<(), String> {
        let name = self.options.data_dir.display().to_string();
        let failed = |error: &dyn std::fmt::Display| format!("cannot use the sentinel of {name}: {error}");
        let data_dir = self.canonical().await;
        let mut link = match (self.link.take(), wish) {
            (Some(link), _) => link,
            (None, Wish::Arm(_)) => Link::connect_or_start(&self.options, &data_dir).map_err(|error| failed(&error))?,
            // None there means none armed.
            (None, Wish::Disarm) => match Link::connect(&data_dir).map_err(|error| failed(&error))? {
                Some(link) => link,
                None => return Ok(()),
            },
        };
        match timeout(ANSWER_WITHIN, link.ask(self.request(wish))).await {
            Ok(Ok(())) => {
                self.link = Some(link);
                Ok(())
            }
            Ok(Err(error)) => Err(failed(&error)),
            Err(_) => {
                link.kill_sentinel();
                Err(failed(&format!("no answer within {} ms", ANSWER_WITHIN.as_millis())))
            }
        }
    }

    fn request(&self, wish: Wish) -> Request {
        match wish {
            Wish::Disarm => Request::Disarm,
            Wish::Arm(deadline) => {
                let pid = i32::try_from(self.postmaster.load(Ordering::Relaxed)).ok().filter(|pid| *pid > 1);
                Request::Arm { deadline, postmaster: pid.and_then(ProcId::of) }
            }
        }
    }

    async fn canonical(&mut self) -> PathBuf {
        if let Some(canonical) = &self.canonical {
            return canonical.clone();
        }
        let data_dir = self.options.data_dir.clone();
        let looked_up = tokio::task::spawn_blocking(move || proto::canonical(&data_dir)).await;
        let canonical = looked_up.unwrap_or_else(|_| self.options.data_dir.clone());
        self.canonical.insert(canonical).clone()
    }
}

/// What the sentinel says unasked; never returns without a sentinel.
async fn listen(link: &mut Option<Link>) -> std::io::Result<Answer> {
    match link {
        Some(link) => link.next().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_sentinel_nobody_stands_guard_and_where_it_is_required_that_is_a_failure() {
        let dir = tempfile::tempdir().expect("a directory");
        // One program does not exist, the other ends at once.
        for (program, mode) in [("/nonexistent", Mode::Required), ("true", Mode::Required), ("true", Mode::Automatic)] {
            let mut options = SentinelOptions::new(dir.path().join("data"), "demo/pg1".to_owned(), mode);
            options.program = PathBuf::from(program);
            let fence = SentinelFence::new(options);
            assert!(!fence.failed());
            let deadline = crate::clock::boot_now().plus(Duration::from_secs(60));
            let error = fence.arm(deadline).await.expect_err("no sentinel");
            assert!(error.contains("sentinel of"), "{error}");
            assert_eq!(fence.failed(), mode == Mode::Required);
            // Nothing armed is nothing to stop, and a node that does not lead may try again.
            fence.disarm().await;
            assert!(!fence.failed());
        }
    }
}
