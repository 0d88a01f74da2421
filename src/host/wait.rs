//! Waiting that a request to stop interrupts.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::Result;
use crate::host::cancel::Cancel;
use crate::host::sys::pidfd_open;

/// Waits for `duration`, or until the work is asked to stop.
///
/// # Errors
/// [`crate::error::Error::interrupted`] once the work was asked to stop.
pub fn wait(duration: Duration, cancel: &Cancel) -> Result<()> {
    let end = Instant::now() + duration;
    loop {
        cancel.check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        // A minute at a time, and at least a millisecond: poll counts whole ones.
        let millis = u16::try_from(left.as_millis().clamp(1, 60_000)).unwrap_or(u16::MAX);
        let mut watched = [PollFd::new(cancel.as_fd(), PollFlags::POLLIN)];
        match poll(&mut watched, PollTimeout::from(millis)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => std::thread::park_timeout(left),
        }
    }
}

/// Waits until there is something to read, or the end; a file on a disk never makes one wait here.
///
/// # Errors
/// [`crate::error::Error::interrupted`] once the work was asked to stop.
pub fn readable(file: BorrowedFd<'_>, cancel: &Cancel) -> Result<()> {
    loop {
        cancel.check()?;
        let mut watched =
            [PollFd::new(file, PollFlags::POLLIN), PollFd::new(cancel.as_fd(), PollFlags::POLLIN)];
        match poll(&mut watched, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            // What poll cannot do, reading can.
            Err(_) => return Ok(()),
            Ok(_) if watched[0].any() == Some(false) => {}
            Ok(_) => return Ok(()),
        }
    }
}

/// Waits for `duration` whatever happens; for short waits that must not be cut short.
pub fn pause(duration: Duration) {
    #[expect(clippy::disallowed_methods, reason = "waits belong here")]
    std::thread::sleep(duration);
}

/// Whether a process is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// It is there, or cannot be looked at.
    Runs,
    /// It has ended.
    Ended,
}

/// Waits until a process ends, `limit` at most, whatever happens.
pub fn process_ends(pid: u32, limit: Duration) -> Process {
    let handle = match pidfd_open(pid) {
        Ok(handle) => handle,
        Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => return Process::Ended,
        Err(_) => {
            pause(limit.min(Duration::from_millis(200)));
            return Process::Runs;
        }
    };
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let millis = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut watched = [PollFd::new(handle.as_fd(), PollFlags::POLLIN)];
        match poll(&mut watched, millis) {
            Err(Errno::EINTR) => {}
            Ok(1..) => return Process::Ended,
            Ok(_) => return Process::Runs,
            Err(_) => {
                pause(left.min(Duration::from_millis(200)));
                return Process::Runs;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_waits_at_least_the_time() {
        let start = Instant::now();
        wait(Duration::from_millis(30), &Cancel::never().unwrap()).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(30));
    }

    #[test]
    fn a_process_is_waited_for_until_it_ends_or_the_time_is_over() {
        let start = Instant::now();
        let me = std::process::id();
        assert_eq!(process_ends(me, Duration::from_millis(30)), Process::Runs);
        assert!(start.elapsed() >= Duration::from_millis(29));
        // More than the kernel ever gives out.
        assert_eq!(process_ends(4_194_304, Duration::from_secs(9)), Process::Ended);
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}
