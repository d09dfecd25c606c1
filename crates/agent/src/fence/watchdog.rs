//! The kernel watchdog (`Documentation/watchdog/watchdog-api.rst` of Linux): a device that resets the machine unless it
//! is written to in time.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use model::{BootTime, LeaseTimes};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Access, Mode as FileMode, OFlags};

use super::{Mode, ioctl};
use crate::clock::boot_now;
use crate::ports::Fence;

/// How the device is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// `ioctl`s of a watchdog device.
    #[default]
    Default,
    /// Plain writes, the timeout as the line `Ctimeout=SECONDS`: for tests, on a pipe or file.
    Testing,
}

/// The `watchdog` section, with the two times of the dynamic configuration that bound its timeout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchdogOptions {
    /// `watchdog.mode`
    pub mode: Mode,
    /// `watchdog.device`, by default `/dev/watchdog`.
    pub device: PathBuf,
    /// `watchdog.safety_margin` in seconds, by default 5; how long before the end of the lease the machine is reset.
    /// Negative: at half of the lease.
    pub safety_margin_s: i64,
    /// `watchdog.driver`
    pub driver: Driver,
    /// `ttl`
    pub ttl: Duration,
    /// `loop_wait`
    pub loop_wait: Duration,
}

impl WatchdogOptions {
    /// The wanted timeout in seconds, or why there is none.
    fn timeout_s(&self) -> Result<i64, String> {
        let ttl_s = self.ttl.as_secs().try_into().unwrap_or(i64::MAX);
        let loop_wait_s: i64 = self.loop_wait.as_secs().try_into().unwrap_or(i64::MAX);
        let timeout_s = if self.safety_margin_s < 0 { ttl_s / 2 } else { ttl_s.saturating_sub(self.safety_margin_s) };
        if timeout_s >= loop_wait_s.max(1) {
            return Ok(timeout_s);
        }
        Err(format!(
            "ttl {ttl_s} with watchdog.safety_margin {} leaves a timeout of {timeout_s} seconds: \
             expected at least loop_wait {loop_wait_s}",
            self.safety_margin_s
        ))
    }
}

/// Whole seconds until the store may give the lock to another node, at least one.
fn lease_left_s(deadline: BootTime, times: LeaseTimes, now: BootTime) -> i64 {
    let left = deadline.plus(times.safety_margin()).since(now);
    i64::try_from(left.as_secs()).unwrap_or(i64::MAX).max(1)
}

/// The kernel watchdog as a [`Fence`]. Each [`Fence::arm`] opens the device if necessary and restarts its countdown. The
/// device counts from the last write, the lease from before the request that renewed it: where the store took so long to
/// answer that the usual countdown would outlast the lease, it is set to a shorter one.
///
/// Dropping it without [`Fence::disarm`] leaves the countdown running, as the death of the process does.
pub struct WatchdogFence {
    state: Mutex<State>,
}

struct State {
    options: WatchdogOptions,
    open: Option<Open>,
    /// The last complaint, so that each is made once.
    complained: Option<String>,
}

struct Open {
    file: OwnedFd,
    /// What the device was opened and set up with.
    options: WatchdogOptions,
    /// It stops where it is asked to: it knows the magic close, and is not built or loaded with `nowayout`.
    can_be_stopped: bool,
    /// What it was asked for, and what it made of it.
    wanted_s: i64,
    timeout_s: i64,
}

impl WatchdogFence {
    /// Touches nothing yet.
    pub fn new(options: WatchdogOptions) -> WatchdogFence {
        WatchdogFence { state: Mutex::new(State { options, open: None, complained: None }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements: a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Fence for WatchdogFence {
    async fn arm(&self, deadline: BootTime) -> Result<(), String> {
        self.state().arm(deadline, boot_now())
    }

    async fn disarm(&self) {
        self.state().close();
    }

    /// Required, but this configuration or this machine does not allow it; on a node that does not lead, judged without
    /// opening the device, which would start the countdown.
    fn failed(&self) -> bool {
        let state = self.state();
        let usable = || {
            let writable = rustix::fs::access(&state.options.device, Access::WRITE_OK).is_ok();
            state.options.timeout_s().is_ok() && (state.open.is_some() || writable)
        };
        state.options.mode == Mode::Required && (state.complained.is_some() || !usable())
    }

    /// An open device takes them at the next [`Fence::arm`].
    fn set_times(&self, times: LeaseTimes) {
        let options = &mut self.state().options;
        (options.ttl, options.loop_wait) = (times.ttl, times.loop_wait);
    }
}

impl State {
    fn arm(&mut self, deadline: BootTime, now: BootTime) -> Result<(), String> {
        if self.options.mode == Mode::Off {
            self.close();
            return Ok(());
        }
        let (ttl, loop_wait) = (self.options.ttl, self.options.loop_wait);
        let left_s = lease_left_s(deadline, LeaseTimes { ttl, loop_wait, retry_timeout: Duration::ZERO }, now);
        let armed = self.options.timeout_s().and_then(|timeout_s| self.keep_alive(timeout_s.min(left_s)));
        match &armed {
            Ok(()) => self.complained = None,
            Err(error) if self.complained.as_ref() != Some(error) => {
                match self.options.mode {
                    Mode::Required => tracing::error!("{error}"),
                    // Machines without the device are common, and this mode is the default.
                    Mode::Automatic | Mode::Off => tracing::debug!("{error}"),
                }
                self.complained = Some(error.clone());
            }
            Err(_) => {}
        }
        armed
    }

    fn keep_alive(&mut self, wanted_s: i64) -> Result<(), String> {
        if self.open.as_ref().is_some_and(|open| open.options != self.options || open.wanted_s != wanted_s) {
            // Closing and opening again would leave a moment without a countdown where only the times changed.
            match &mut self.open {
                Some(open) if open.is_same_device(&self.options) => {
                    let updated = open.set_up(&self.options, wanted_s);
                    if let Err(error) = updated {
                        self.close();
                        return Err(error);
                    }
                }
                _ => self.close(),
            }
        }
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(Open::start(&self.options, wanted_s)?),
        };
        let device = self.options.device.display();
        if let Err(error) = open.write(b"1") {
            // The descriptor is of no use any more; the countdown goes on, and the next attempt opens it again.
            self.open = None;
            return Err(format!("cannot write to watchdog device {device}: {error}"));
        }
        Ok(())
    }

    fn close(&mut self) {
        self.complained = None;
        let Some(open) = self.open.take() else {
            return;
        };
        let device = open.options.device.display();
        match open.write(b"V") {
            Ok(()) if open.can_be_stopped => tracing::debug!("closed watchdog device {device}"),
            Ok(()) => tracing::warn!(
                "watchdog device {device} cannot be stopped: the machine will be reset in {} seconds",
                open.timeout_s
            ),
            Err(error) => tracing::warn!(
                "cannot stop watchdog device {device}: {error}; the machine may be reset in {} seconds",
                open.timeout_s
            ),
        }
    }
}

impl Open {
    fn start(options: &WatchdogOptions, wanted_s: i64) -> Result<Open, String> {
        // Non-blocking: opening a pipe that nobody reads would wait for a reader.
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::open(&options.device, flags, FileMode::empty()).map_err(|error| {
            format!("cannot open watchdog.device {} for writing: {error}", options.device.display())
        })?;
        let mut open = Open { file, options: options.clone(), can_be_stopped: true, wanted_s, timeout_s: wanted_s };
        if let Err(error) = open.set_up(options, wanted_s) {
            // Opening started the countdown.
            let _ = open.write(b"V");
            return Err(error);
        }
        let device = options.device.display();
        tracing::info!("watchdog device {device} activated with a timeout of {} seconds", open.timeout_s);
        if !open.can_be_stopped {
            tracing::warn!(
                "watchdog device {device} cannot be stopped: the machine is reset when this node stops leading"
            );
        }
        Ok(open)
    }

    fn is_same_device(&self, options: &WatchdogOptions) -> bool {
        (&self.options.device, self.options.driver) == (&options.device, options.driver)
    }

    /// Sets the timeout, and sees what the device made of it.
    fn set_up(&mut self, options: &WatchdogOptions, wanted_s: i64) -> Result<(), String> {
        let actual_s = match options.driver {
            Driver::Testing => {
                self.write(format!("Ctimeout={wanted_s}\n").as_bytes()).map_err(|error| {
                    format!("cannot write to watchdog device {}: {error}", options.device.display())
                })?;
                wanted_s
            }
            Driver::Default => self.set_device_timeout(options, wanted_s)?,
        };
        if actual_s > wanted_s {
            return Err(format!(
                "watchdog device {} keeps a timeout of {actual_s} seconds: expected at most {wanted_s}, \
                 so that the machine is reset before the lease ends",
                options.device.display()
            ));
        }
        (self.wanted_s, self.timeout_s) = (wanted_s, actual_s);
        self.options = options.clone();
        Ok(())
    }

    fn set_device_timeout(&mut self, options: &WatchdogOptions, wanted_s: i64) -> Result<i64, String> {
        let device = options.device.display();
        let failed =
            |what: &str, error: rustix::io::Errno| format!("cannot {what} of watchdog device {device}: {error}");
        let support = ioctl::support(self.file.as_fd()).map_err(|error| failed("read the abilities", error))?;
        tracing::debug!("watchdog device {device} is a {}", support.name());
        self.can_be_stopped = support.can_be_stopped() && !is_nowayout(&self.file, Path::new("/sys"));
        if support.can_set_timeout() {
            let seconds = i32::try_from(wanted_s).unwrap_or(i32::MAX);
            ioctl::set_timeout(self.file.as_fd(), seconds).map_err(|error| failed("set the timeout", error))?;
        }
        ioctl::timeout(self.file.as_fd()).map(i64::from).map_err(|error| failed("read the timeout", error))
    }

    fn write(&self, bytes: &[u8]) -> rustix::io::Result<()> {
        match rustix::io::write(&self.file, bytes)? {
            count if count == bytes.len() => Ok(()),
            _ => Err(rustix::io::Errno::IO),
        }
    }
}

/// The first of the machine's watchdogs is also known under another number (`linux/miscdevice.h`).
const LEGACY_DEVICE: (u32, u32) = (10, 130);

/// Whether the kernel keeps this device counting after its close (`Documentation/ABI/testing/sysfs-class-watchdog`);
/// false where `sysfs` does not say.
fn is_nowayout(device: &OwnedFd, sysfs: &Path) -> bool {
    let Ok(stat) = rustix::fs::fstat(device) else {
        return false;
    };
    let number = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    let directory = match number {
        LEGACY_DEVICE => sysfs.join("class/watchdog/watchdog0"),
        (major, minor) => sysfs.join(format!("dev/char/{major}:{minor}")),
    };
    std::fs::read_to_string(directory.join("nowayout")).is_ok_and(|text| text.trim() == "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_cannot_be_stopped_is_known_by_its_number() {
        let sysfs = tempfile::tempdir().expect("a directory");
        // Any character device will do: its number is what counts.
        let device = rustix::fs::open("/dev/null", OFlags::WRONLY, FileMode::empty()).expect("the null device");
        assert!(!is_nowayout(&device, sysfs.path()), "where nothing is said");
        let directory = sysfs.path().join("dev/char/1:3");
        std::fs::create_dir_all(&directory).expect("a directory");
        for (text, expected) in [("0\n", false), ("1\n", true)] {
            std::fs::write(directory.join("nowayout"), text).expect("a file");
            assert_eq!(is_nowayout(&device, sysfs.path()), expected);
        }
    }

    fn options(device: PathBuf, mode: Mode) -> WatchdogOptions {
        let [ttl, loop_wait] = [30, 10].map(Duration::from_secs);
        WatchdogOptions { mode, device, safety_margin_s: 5, driver: Driver::Testing, ttl, loop_wait }
    }

    #[test]
    fn the_timeout_is_the_lease_less_a_margin() {
        for (ttl_s, loop_wait_s, margin_s, expected) in [
            (30, 10, 5, Ok(25)),
            (30, 10, -1, Ok(15)),
            (30, 10, 20, Ok(10)),
            (30, 10, 21, Err(())),
            (20, 15, -1, Err(())),
            (20, 0, 20, Err(())),
        ] {
            let mut options = options(PathBuf::new(), Mode::Automatic);
            (options.ttl, options.loop_wait) = (Duration::from_secs(ttl_s), Duration::from_secs(loop_wait_s));
            options.safety_margin_s = margin_s;
            assert_eq!(options.timeout_s().map_err(drop), expected, "{ttl_s} {loop_wait_s} {margin_s}");
        }
    }

    #[tokio::test]
    async fn it_is_set_up_kept_alive_updated_and_stopped() {
        let dir = tempfile::tempdir().expect("a directory");
        let device = dir.path().join("watchdog");
        std::fs::write(&device, "").expect("a file");
        let fence = WatchdogFence::new(options(device.clone(), Mode::Required));
        let written = || std::fs::read_to_string(&device).expect("the file");
        assert!(!fence.failed());
        assert_eq!(written(), "", "judging the device must not start it");
        let deadline = || boot_now().plus(Duration::from_secs(27));
        fence.arm(deadline()).await.expect("armed");
        fence.arm(deadline()).await.expect("armed");
        assert_eq!(written(), "Ctimeout=25\n11");
        let [ttl, loop_wait, retry_timeout] = [20, 5, 5].map(Duration::from_secs);
        fence.set_times(LeaseTimes { ttl, loop_wait, retry_timeout });
        fence.arm(boot_now().plus(Duration::from_secs(18))).await.expect("armed");
        fence.disarm().await;
        fence.disarm().await;
        assert_eq!(written(), "Ctimeout=25\n11Ctimeout=15\n1V");
    }

    /// Found in review: a store that took longer to answer than the safety margin is long.
    #[tokio::test]
    async fn the_countdown_never_outlasts_the_lease() {
        let dir = tempfile::tempdir().expect("a directory");
        let device = dir.path().join("watchdog");
        std::fs::write(&device, "").expect("a file");
        let fence = WatchdogFence::new(options(device.clone(), Mode::Required));
        let now = BootTime(1_000_000);
        // ttl 30: the store may give the lock away three seconds after the deadline.
        for left_s in [27, 22, 20, 20, 27] {
            fence.state().arm(now.plus(Duration::from_secs(left_s)), now).expect("armed");
        }
        let written = std::fs::read_to_string(&device).expect("the file");
        assert_eq!(written, "Ctimeout=25\n11Ctimeout=23\n11Ctimeout=25\n1");
    }

    #[tokio::test]
    async fn a_missing_device_matters_where_it_is_required() {
        let dir = tempfile::tempdir().expect("a directory");
        for (mode, failed) in [(Mode::Automatic, false), (Mode::Required, true)] {
            let fence = WatchdogFence::new(options(dir.path().join("none"), mode));
            assert_eq!(fence.failed(), failed);
            let error = fence.arm(BootTime(1)).await.expect_err("no device");
            assert!(error.contains("watchdog.device"), "{error}");
            assert_eq!(fence.failed(), failed);
        }
    }

    #[tokio::test]
    async fn what_is_no_watchdog_is_refused_and_a_pipe_without_reader_does_not_block() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("file");
        std::fs::write(&file, "").expect("a file");
        let real = WatchdogOptions { driver: Driver::Default, ..options(file, Mode::Required) };
        let fence = WatchdogFence::new(real);
        let error = fence.arm(BootTime(1)).await.expect_err("not a watchdog");
        assert!(error.contains("abilities") && fence.failed(), "{error}");

        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, FileMode::RUSR | FileMode::WUSR, 0)
            .expect("a pipe");
        WatchdogFence::new(options(pipe, Mode::Automatic)).arm(BootTime(1)).await.expect_err("no reader");
    }
}
