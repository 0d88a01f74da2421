//! The live machine: processes, files, locks, mounts, signals. The only floor that touches it.

pub mod cancel;
pub mod capacity;
pub mod devices;
pub mod files;
pub mod holders;
pub mod image;
pub mod modules;
pub mod mount;
pub mod nodes;
pub mod paths;
pub mod process;
pub mod rootfs;
pub mod runlog;
pub mod running;
pub mod service;
pub mod stamp;
pub mod sys;
pub mod wait;

use std::fmt;
use std::time::Duration;

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
        wait::wait(duration, &self.cancel)
    }
}
