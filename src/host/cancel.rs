//! SIGINT, SIGTERM and SIGHUP as a value that work in progress can look at and wait on.
//!
//! There are two degrees. After the first SIGINT nothing new begins and what runs is finished. A
//! second one, SIGTERM and SIGHUP end what runs.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::error::{Error, Result};

/// How soon the work is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Nothing new begins; what runs is finished.
    Finish,
    /// What runs is ended.
    AtOnce,
}

/// Whether the work was asked to stop. Cloning gives another handle on the same request.
#[derive(Debug, Clone)]
pub struct Cancel {
    finish: Flag,
    at_once: Flag,
}

/// Set once, and readable for ever then: nobody drains it.
#[derive(Debug, Clone)]
struct Flag {
    is_set: Arc<AtomicBool>,
    reader: Arc<OwnedFd>,
    writer: Arc<OwnedFd>,
}

impl Flag {
    fn new() -> io::Result<Self> {
        let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let is_set = Arc::new(AtomicBool::new(false));
        Ok(Self { is_set, reader: Arc::new(reader), writer: Arc::new(writer) })
    }

    fn set(&self) {
        if !self.is_set.swap(true, Ordering::Relaxed) {
            // One byte into an empty pipe that is open on both sides.
            let _ = nix::unistd::write(&self.writer, b"!");
        }
    }

    fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Relaxed)
    }
}

impl Cancel {
    /// Catches SIGINT, SIGTERM and SIGHUP for the whole process from now on. One that the caller has
    /// it ignore stays ignored: `nohup` does that to SIGHUP.
    ///
    /// # Errors
    /// When the handlers, their pipes or their thread cannot be made.
    pub fn on_signals() -> io::Result<Self> {
        let cancel = Self::never()?;
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let ignored = ignored(&status);
        let is_ours = |signal: &i32| ignored & (1 << (signal - 1)) == 0;
        let mut signals =
            Signals::new([SIGINT, SIGTERM, SIGHUP].iter().filter(|one| is_ours(one)))?;
        let asked = cancel.clone();
        let listen = move || {
            for signal in signals.forever() {
                asked.ask(match signal {
                    SIGINT if !asked.is_asked() => Urgency::Finish,
                    _ => Urgency::AtOnce,
                });
            }
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(listen)?;
        Ok(cancel)
    }

    /// One that no signal ever sets.
    ///
    /// # Errors
    /// When a pipe cannot be made.
    pub fn never() -> io::Result<Self> {
        Ok(Self { finish: Flag::new()?, at_once: Flag::new()? })
    }

    /// Asks the work to stop, as a signal does.
    pub fn ask(&self, urgency: Urgency) {
        // The graver one first: who sees that it was asked also sees how.
        if urgency == Urgency::AtOnce {
            self.at_once.set();
        }
        self.finish.set();
    }

    /// Whether the work was asked to stop: nothing new begins.
    pub fn is_asked(&self) -> bool {
        self.finish.is_set()
    }

    /// Whether what runs is to be ended too.
    pub fn is_at_once(&self) -> bool {
        self.at_once.is_set()
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
        self.finish.reader.as_fd()
    }

    /// A descriptor that becomes readable, for good, when what runs is to be ended.
    pub fn at_once_fd(&self) -> BorrowedFd<'_> {
        self.at_once.reader.as_fd()
    }

    /// Does `work`; `tell` is called from another thread when it is asked to stop meanwhile, and
    /// once more when it is to stop at once.
    pub fn watched<T>(&self, tell: impl Fn(Urgency) + Sync, work: impl FnOnce() -> T) -> T {
        let Ok((reader, writer)) = io::pipe() else { return work() };
        std::thread::scope(|scope| {
            let tell = &tell;
            // Without another thread the work goes on, and nobody is told.
            let _ = std::thread::Builder::new()
                .spawn_scoped(scope, move || self.tell_until(reader.as_fd(), tell));
            let result = work();
            drop(writer);
            result
        })
    }

    /// Tells of each degree once, until `over` is at its end.
    fn tell_until(&self, over: BorrowedFd<'_>, tell: &dyn Fn(Urgency)) {
        let mut told = None;
        while told != Some(Urgency::AtOnce) {
            let next = if told.is_none() { self.as_fd() } else { self.at_once_fd() };
            let mut watched =
                [PollFd::new(next, PollFlags::POLLIN), PollFd::new(over, PollFlags::POLLIN)];
            match poll(&mut watched, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                Err(_) => return,
                Ok(_) if watched[1].any() == Some(true) => return,
                Ok(_) => {}
            }
            let urgency = if self.is_at_once() { Urgency::AtOnce } else { Urgency::Finish };
            if told < Some(urgency) {
                tell(urgency);
                told = Some(urgency);
            }
        }
    }
}

/// The signals that a process ignores, the lowest bit for number 1 (`SigIgn` of
/// `/proc/<pid>/status`, `proc_pid_status(5)`).
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    u64::from_str_radix(mask.unwrap_or_default().trim(), 16).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn ignored_signals_are_bits_of_the_processs_status() {
        let status = "SigBlk:\t0000000000000002\nSigIgn:\t0000000000001001\nSigCgt:\t0\n";
        assert_eq!(ignored(status), 1 << (SIGHUP - 1) | 1 << (13 - 1));
        assert_eq!(ignored(""), 0);
    }

    #[test]
    fn the_graver_degree_includes_the_other() {
        let cancel = Cancel::never().unwrap();
        assert!(!cancel.is_asked() && !cancel.is_at_once());
        cancel.ask(Urgency::Finish);
        assert!(cancel.is_asked() && !cancel.is_at_once());
        cancel.ask(Urgency::AtOnce);
        assert!(cancel.is_asked() && cancel.is_at_once());
    }

    #[test]
    fn each_degree_is_told_once_while_the_work_goes_on() {
        let cancel = Cancel::never().unwrap();
        let told = Mutex::new(Vec::new());
        let count = || told.lock().unwrap().len();
        cancel.watched(
            |urgency| told.lock().unwrap().push(urgency),
            || {
                cancel.ask(Urgency::Finish);
                while count() < 1 {
                    std::thread::yield_now();
                }
                cancel.ask(Urgency::AtOnce);
                while count() < 2 {
                    std::thread::yield_now();
                }
            },
        );
        assert_eq!(told.into_inner().unwrap(), [Urgency::Finish, Urgency::AtOnce]);
    }

    #[test]
    fn work_that_nobody_interrupts_ends_without_a_word() {
        let cancel = Cancel::never().unwrap();
        assert_eq!(cancel.watched(|_| unreachable!(), || 7), 7);
    }
}
