//! SIGINT, SIGTERM and SIGHUP as a value that work in progress can look at and wait on.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::error::{Error, Result};

/// Whether the work was asked to stop. Cloning gives another handle on the same request.
#[derive(Debug, Clone)]
pub struct Cancel {
    asked: Arc<AtomicBool>,
    // Readable for ever once asked: nobody drains it.
    signal: Arc<OwnedFd>,
    _keep: Arc<OwnedFd>,
}

impl Cancel {
    /// Catches SIGINT, SIGTERM and SIGHUP for the whole process from now on.
    ///
    /// # Errors
    /// When the pipe or the handlers cannot be made.
    pub fn on_signals() -> io::Result<Self> {
        let (cancel, writer) = Self::unset()?;
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&cancel.asked))?;
            signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
        }
        Ok(cancel)
    }

    /// One that no signal ever sets.
    ///
    /// # Errors
    /// When the pipe cannot be made.
    pub fn never() -> io::Result<Self> {
        Ok(Self::unset()?.0)
    }

    fn unset() -> io::Result<(Self, Arc<OwnedFd>)> {
        let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let writer = Arc::new(writer);
        let cancel = Self {
            asked: Arc::new(AtomicBool::new(false)),
            signal: Arc::new(reader),
            _keep: Arc::clone(&writer),
        };
        Ok((cancel, writer))
    }

    /// Whether the work was asked to stop.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Fails with the interruption error once the work was asked to stop.
    ///
    /// # Errors
    /// [`Error::interrupted`].
    pub fn check(&self) -> Result<()> {
        if self.is_asked() { Err(Error::interrupted()) } else { Ok(()) }
    }

    /// A descriptor that becomes readable, for good, when the work is asked to stop.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.signal.as_fd()
    }
}
