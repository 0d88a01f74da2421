//! The live machine: processes, files, locks, mounts, signals. The only floor that touches it.

pub mod cancel;
pub mod mount;
pub mod paths;
pub mod process;
pub mod rootfs;
pub mod runlog;
pub mod sys;

use std::fmt;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::Result;
use cancel::Cancel;
use paths::Paths;
use process::Processes;

/// The machine behind its seams.
pub struct Host {
    /// Where everything lies.
    pub paths: Paths,
    /// How processes are run.
    pub processes: Box<dyn Processes>,
    /// Whether the work was asked to stop.
    pub cancel: Cancel,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("paths", &self.paths).finish_non_exhaustive()
    }
}

impl Host {
    /// Waits, at most until the work is asked to stop.
    ///
    /// # Errors
    /// The interruption error.
    pub fn wait(&self, duration: Duration) -> Result<()> {
        let until = Instant::now() + duration;
        loop {
            self.cancel.check()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let mut descriptors = [PollFd::new(self.cancel.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1));
            // An interrupted wait is simply looked at again.
            let _ = poll(&mut descriptors, timeout.unwrap_or(PollTimeout::MAX));
        }
    }
}
