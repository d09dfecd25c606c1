//! The watchdog's three ioctls, as `linux/watchdog.h` and the kernel's watchdog API document describe them. The only
//! `unsafe` of this crate: no crate offers these calls.
#![allow(unsafe_code)]

use rustix::fd::BorrowedFd;
use rustix::io::Result;
use rustix::ioctl::{Getter, Opcode, Updater, ioctl, opcode};

/// `struct watchdog_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WatchdogInfo {
    options: u32,
    firmware_version: u32,
    identity: [u8; 32],
}

const WDIOF_SETTIMEOUT: u32 = 0x0080;
const WDIOF_MAGICCLOSE: u32 = 0x0100;

// `opcode` computes the numbers with each architecture's own encoding.
const WDIOC_GETSUPPORT: Opcode = opcode::read::<WatchdogInfo>(b'W', 0);
const WDIOC_SETTIMEOUT: Opcode = opcode::read_write::<i32>(b'W', 6);
const WDIOC_GETTIMEOUT: Opcode = opcode::read::<i32>(b'W', 7);

impl WatchdogInfo {
    /// The timeout can be chosen.
    pub fn can_set_timeout(&self) -> bool {
        self.options & WDIOF_SETTIMEOUT != 0
    }

    /// Writing `V` before closing stops the countdown.
    pub fn can_be_stopped(&self) -> bool {
        self.options & WDIOF_MAGICCLOSE != 0
    }

    /// The driver's name for itself.
    pub fn name(&self) -> String {
        let end = self.identity.iter().position(|byte| *byte == 0).unwrap_or(self.identity.len());
        String::from_utf8_lossy(&self.identity[..end]).into_owned()
    }
}

/// `WDIOC_GETSUPPORT`.
pub fn support(device: BorrowedFd<'_>) -> Result<WatchdogInfo> {
    // SAFETY: the kernel writes a `struct watchdog_info`, which `WatchdogInfo` mirrors; any bytes are valid for it.
    unsafe { ioctl(device, Getter::<WDIOC_GETSUPPORT, WatchdogInfo>::new()) }
}

/// `WDIOC_SETTIMEOUT`, in seconds.
pub fn set_timeout(device: BorrowedFd<'_>, mut seconds: i32) -> Result<()> {
    // SAFETY: the kernel reads and writes one `int` behind the pointer, which outlives the call.
    unsafe { ioctl(device, Updater::<WDIOC_SETTIMEOUT, i32>::new(&mut seconds)) }
}

/// `WDIOC_GETTIMEOUT`, in seconds.
pub fn timeout(device: BorrowedFd<'_>) -> Result<i32> {
    // SAFETY: the kernel writes one `int`.
    unsafe { ioctl(device, Getter::<WDIOC_GETTIMEOUT, i32>::new()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn numbers_are_those_of_the_kernel_header() {
        assert_eq!((WDIOC_GETSUPPORT, WDIOC_SETTIMEOUT, WDIOC_GETTIMEOUT), (0x8028_5700, 0xc004_5706, 0x8004_5707));
    }
}
