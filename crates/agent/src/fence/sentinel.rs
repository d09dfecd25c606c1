//! The agent's side of the [sentinel](crate::sentinel).

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use model::{BootTime, LeaseTimes, Settings};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::Mode;
use super::link::{Link, report_fired};
use crate::clock::boot_now;
use crate::ports::Fence;
use crate::sentinel::proc::{self, ProcId};
use crate::sentinel::proto::{self, Answer, Request};

/// How long [`Fence::arm`] and [`Fence::disarm`] take at most; what is not confirmed by then is still tried.
const CONFIRM_WITHIN: Duration = Duration::from_millis(500);

/// How long the sentinel may take to answer before it is replaced: half of the time until its deadline, within these
/// bounds. On a starved machine a living sentinel is worth more than one that has yet to start.
const ANSWER_WITHIN: (Duration, Duration) = (Duration::from_millis(400), Duration::from_secs(2));

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
    standing: Arc<Standing>,
    data_dir: PathBuf,
}

/// What both the messenger and whoever asks need to know.
struct Standing {
    required: bool,
    state: Mutex<StandingState>,
    /// Counts changes of [`Standing::failed`].
    events: watch::Sender<u64>,
}

struct StandingState {
    /// The last wish was not confirmed.
    broken: bool,
    /// The last deadline that was confirmed and not withdrawn.
    confirmed: Option<BootTime>,
    /// How long before the end of a deadline PostgreSQL begins to stop, if there is no other.
    demote_margin: Duration,
    /// The answer that [`Standing::events`] last told of.
    told_failed: bool,
    postmaster: Option<ProcId>,
}

impl Standing {
    fn state(&self) -> MutexGuard<'_, StandingState> {
        // Every update is a plain assignment: the state is sound even if a holder panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A wish that was not confirmed is a failure when the deadline before has come so close that PostgreSQL must stop:
    /// until then it can still be delivered.
    fn failed(&self, now: BootTime) -> bool {
        let state = self.state();
        let in_time = state.confirmed.is_some_and(|deadline| now < deadline.minus(state.demote_margin));
        self.required && state.broken && !in_time
    }

    /// Wakes the loop where the answer has changed.
    fn tell(&self) {
        let failed = self.failed(boot_now());
        let before = std::mem::replace(&mut self.state().told_failed, failed);
        if before != failed {
            self.events.send_modify(|count| *count += 1);
        }
    }

    /// How long the sentinel may take to answer now.
    fn patience(&self, wish: Wish) -> Duration {
        let confirmed = self.state().confirmed;
        let deadline = confirmed.or(match wish {
            Wish::Arm(deadline) => Some(deadline),
            Wish::Disarm => None,
        });
        let half = deadline.map_or(Duration::ZERO, |deadline| deadline.since(boot_now()) / 2);
        half.clamp(ANSWER_WITHIN.0, ANSWER_WITHIN.1)
    }
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
        let standing = Arc::new(Standing {
            required: options.required,
            state: Mutex::new(StandingState {
                broken: false,
                confirmed: None,
                demote_margin: Settings::default().lease_times().demote_margin(),
                told_failed: false,
                postmaster: None,
            }),
            events: watch::Sender::new(0),
        });
        let data_dir = options.data_dir.clone();
        let messenger =
            Messenger { options, canonical: None, link: None, wish: None, delivered: true, standing: standing.clone() };
        tokio::spawn(messenger.run(queue));
        SentinelFence { requests, standing, data_dir }
    }

    /// Tells which process the postmaster is, where the agent knows; the sentinel finds it otherwise. Used from the next
    /// [`Fence::arm`] on. The number is bound to the process that has it now: another that gets it later is not meant.
    pub fn set_postmaster(&self, pid: Option<u32>) {
        let pid = pid.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 1);
        let known = self.standing.state().postmaster.filter(|known| Some(known.pid) == pid && known.alive().is_some());
        let postmaster = known.or_else(|| pid.filter(|pid| proc::is_postgres(*pid)).and_then(ProcId::of));
        self.standing.state().postmaster = postmaster;
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
            self.standing.state().broken = true;
        }
        armed
    }

    async fn disarm(&self) {
        if let Err(error) = self.request(Wish::Disarm).await {
            tracing::warn!("{error}; trying again until it is disarmed");
        }
    }

    fn failed(&self) -> bool {
        self.standing.failed(boot_now())
    }

    fn set_times(&self, times: LeaseTimes) {
        self.standing.state().demote_margin = times.demote_margin();
    }

    fn events(&self) -> Vec<watch::Receiver<u64>> {
        vec![self.standing.events.subscribe()]
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
    standing: Arc<Standing>,
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
                self.standing.state().confirmed = None;
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
        let broken = outcome.is_err();
        let was_broken = std::mem::replace(&mut self.standing.state().broken, broken);
        match &outcome {
            Ok(()) => {
                self.delivered = true;
                self.standing.state().confirmed = match wish {
                    Wish::Arm(deadline) => Some(deadline),
                    Wish::Disarm => None,
                };
                if was_broken {
                    tracing::info!("the sentinel of {} is reached again", self.options.data_dir.display());
                }
            }
            Err(error) if !was_broken => tracing::warn!("{error}"),
            Err(_) => {}
        }
        self.standing.tell();
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
        let patience = self.standing.patience(wish);
        match timeout(patience, link.ask(self.request(wish))).await {
            Ok(Ok(())) => {
                self.link = Some(link);
                Ok(())
            }
            Ok(Err(error)) => Err(failed(&error)),
            Err(_) => {
                link.kill_sentinel();
                Err(failed(&format!("no answer within {} ms", patience.as_millis())))
            }
        }
    }

    fn request(&self, wish: Wish) -> Request {
        match wish {
            Wish::Disarm => Request::Disarm,
            Wish::Arm(deadline) => {
                let postmaster = self.standing.state().postmaster.filter(|known| known.alive().is_some());
                Request::Arm { deadline, postmaster }
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
