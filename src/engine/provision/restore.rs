//! A container goes back to what it was: stopped, where this run or one that was killed has started
//! it; running, where it has been stopped.
//!
//! What it was is in the journal before it is started or stopped ([`Was`]), and out of it when the
//! container is what it was.

use std::time::Duration;

use jiff::Timestamp;

use super::Job;
use crate::engine::survey::Outside;
use crate::engine::wish::AtTheEnd;
use crate::error::Result;
use crate::host::paths::Paths;
use crate::journal::{Power, Was};
use crate::plan;
use crate::report::{Outcome, Step};
use crate::runtime::STATE_LIMIT;

/// Ticks of `/proc/<pid>/stat` in a second, on every architecture (`USER_HZ`, `proc_pid_stat(5)`).
const TICKS: u64 = 100;

/// What a container is to be at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// It runs, whoever has started it.
    Running,
    /// It was found stopped: what this run starts it stops again.
    Stopped,
    /// It runs because a run that was killed has started it.
    StartedByUs,
    /// It does not run because a run that was killed has stopped it.
    StoppedByUs,
}

impl Before {
    pub(super) fn of(paths: &Paths, outside: &Outside) -> Self {
        let was = outside.before.as_ref().and_then(|journal| journal.was);
        match (outside.pid, was) {
            (None, Some(Was { power: Power::Running, .. })) => Self::StoppedByUs,
            (None, _) => Self::Stopped,
            (Some(pid), Some(was)) if was.power == Power::Stopped => {
                // Somebody else may have stopped and started it since.
                let ours = began(paths, pid).is_some_and(|began| is_of(was.at, began));
                if ours { Self::StartedByUs } else { Self::Running }
            }
            (Some(_), _) => Self::Running,
        }
    }
}

impl Job<'_> {
    /// What is to be written down before the container is started or stopped.
    pub(super) fn was(&self, before: Before, power: &plan::Power) -> Option<Was> {
        let restores = self.means.manner.at_the_end == AtTheEnd::RestoreState;
        let power = match (before, power) {
            (Before::StartedByUs | Before::Stopped, _) if !restores => return None,
            (Before::StartedByUs, _) | (Before::Stopped, plan::Power::Start) => Power::Stopped,
            (Before::StoppedByUs, _) | (_, plan::Power::Restart(_)) => Power::Running,
            _ => return None,
        };
        Some(Was::now(power))
    }

    /// Whatever happened, the container goes back to what it was.
    pub(super) fn restore(&mut self, before: Before) -> Result<()> {
        let restores = self.means.manner.at_the_end == AtTheEnd::RestoreState;
        let is_to_stop = match before {
            Before::Stopped => restores && self.has_started,
            Before::StartedByUs => restores,
            Before::Running | Before::StoppedByUs => false,
        };
        if is_to_stop {
            self.step(Step::Restore, |job| {
                job.session.stop_regardless()?;
                Ok((Outcome::Changed("stopped again".to_owned()), ()))
            })?;
        } else if before == Before::StoppedByUs && self.session.init_process()?.is_none() {
            self.step(Step::Restore, |job| {
                job.session.start_regardless()?;
                Ok((Outcome::Changed("started again".to_owned()), ()))
            })?;
        } else if before == Before::Running && self.session.init_process()?.is_none() {
            // Its start has failed: the next run is to know that it was running.
            return Ok(());
        }
        self.forget()
    }

    fn forget(&self) -> Result<()> {
        match crate::engine::journal::load(&self.session.host.paths, self.session.ctid)? {
            Some(journal) if journal.was.is_some() => self.note(|journal| journal.was = None),
            _ => Ok(()),
        }
    }
}

/// Whether a container that began then is the one whose start was written down at `noted`.
fn is_of(noted: Timestamp, began: Timestamp) -> bool {
    // Both are rounded; of a restart the stopping comes between them, which takes twice the limit.
    let seconds = began.as_second() - noted.as_second();
    (-2..=3 * STATE_LIMIT.as_secs().cast_signed()).contains(&seconds)
}

/// When a process began.
fn began(paths: &Paths, pid: u32) -> Option<Timestamp> {
    let stat = std::fs::read_to_string(paths.host_path(&format!("/proc/{pid}/stat"))).ok()?;
    let uptime = std::fs::read_to_string(paths.host_path("/proc/uptime")).ok()?;
    Timestamp::now().checked_sub(age(&stat, &uptime)?).ok()
}

/// How long a process has run, by its `/proc/<pid>/stat` and `/proc/uptime`.
fn age(stat: &str, uptime: &str) -> Option<Duration> {
    // "pid (name) state ppid …"; the name may hold blanks and parentheses. Field 22.
    let ticks: u64 = stat.rsplit(')').next()?.split_whitespace().nth(19)?.parse().ok()?;
    let uptime: u64 = uptime.split('.').next()?.parse().ok()?;
    Some(Duration::from_secs(uptime.saturating_sub(ticks / TICKS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_began_when_its_status_says() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 1 2";
        assert_eq!(age(stat, "200.55 9.0\n"), Some(Duration::from_secs(77)));
        assert_eq!(age("7 (a) S 1", "200.55 9.0"), None);
        let me = began(&Paths::live(), std::process::id()).unwrap();
        let seconds = Timestamp::now().as_second() - me.as_second();
        assert!((0..3600).contains(&seconds), "{seconds}");
    }

    #[test]
    fn a_start_belongs_to_what_was_written_down_right_before_it() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert!(is_of(at(1000), at(1003)) && is_of(at(1000), at(999)));
        assert!(!is_of(at(1000), at(900)) && !is_of(at(1000), at(5000)));
    }
}
