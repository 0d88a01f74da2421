//! What a container was before a run, or one that was killed, has started or stopped it.
//!
//! It is in the journal before the change ([`Was`]), and out of it when the container is what it was.

use std::time::Duration;

use jiff::Timestamp;

use crate::engine::journal;
use crate::engine::steps::Steps;
use crate::engine::survey::Configuration;
use crate::error::{Error, Result};
use crate::event::Events;
use crate::host::paths::Paths;
use crate::journal::{Journal, Power, Was};
use crate::report::{ContainerReport, Outcome, Step};
use crate::runtime::{STATE_LIMIT, Session};

/// Ticks of `/proc/<pid>/stat` in a second, on every architecture (`USER_HZ`, `proc_pid_stat(5)`).
const TICKS: u64 = 100;

/// What a container is to be at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
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
    /// By its first process now, and by what its journal says that it was.
    pub fn of(paths: &Paths, pid: Option<u32>, journal: Option<&Journal>) -> Self {
        match (pid, journal.and_then(|journal| journal.was)) {
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

/// Puts back the power state that a killed run has changed, for a run whose own work cannot begin.
///
/// # Errors
/// Not found or host error when the container cannot be looked at; restart error.
pub fn put_back(session: &Session<'_>, steps: &mut Steps<'_>) -> Result<()> {
    let read = Configuration::read(session)?;
    let paths = &session.host.paths;
    let journal = journal::of(paths, session.ctid, &read.config)?;
    let before = Before::of(paths, session.init_process()?, journal.as_ref());
    let what = match before {
        Before::Running | Before::Stopped => return Ok(()),
        Before::StartedByUs => "stopped again",
        Before::StoppedByUs => "started again",
    };
    let began = steps.begin(Step::Restore);
    let done = match before {
        Before::StoppedByUs => session.start_regardless().map(drop),
        _ => session.stop_regardless(),
    };
    let outcome = format!("{what}: a run that was cut short has changed it");
    steps.finish(Step::Restore, done.map(|()| (Outcome::Changed(outcome), ())), began)?;
    forget(session)
}

/// The report of a container whose work could not begin; its power state is put back.
pub fn failed(session: &Session<'_>, events: &dyn Events, error: Error) -> ContainerReport {
    let mut steps = Steps::new(session, events);
    steps.report.add(Step::Facts, Outcome::Failed(error.what().to_owned()), Duration::ZERO);
    // The first error counts.
    let _ = put_back(session, &mut steps);
    steps.into_report(Err(error))
}

/// Writes down what a container is, right before it is started or stopped; not of one that nvstage
/// does not manage.
///
/// # Errors
/// As [`journal::update`].
pub fn note(session: &Session<'_>, power: Power) -> Result<()> {
    let was = Some(Was::now(power));
    journal::update_managed(&session.host.paths, session.ctid, |journal| journal.was = was)
}

/// Forgets it: the container is what it was.
///
/// # Errors
/// As [`journal::update`].
pub fn forget(session: &Session<'_>) -> Result<()> {
    journal::update_managed(&session.host.paths, session.ctid, |journal| journal.was = None)
}

/// Restarts a container, and returns its new first process. A run that is killed in between leaves
/// it stopped, and to the next one to start it.
///
/// # Errors
/// As [`Session::restart`] and [`journal::update`].
pub fn restart(session: &Session<'_>) -> Result<u32> {
    note(session, Power::Running)?;
    let restarted = session.restart();
    if restarted.is_ok() || session.init_process()?.is_some() {
        forget(session)?;
    }
    restarted
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
