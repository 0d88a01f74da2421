//! Restarts that are left to somebody else: the configuration is written, and the container runs as
//! it was started.
//!
//! The journal knows of one ([`PendingRestart`]) until the container has another first process: then
//! the next run or its user has restarted it.

use crate::container::config::Dialect;
use crate::ctid::Ctid;
use crate::engine::survey::Configuration;
use crate::error::Result;
use crate::host::paths::Paths;
use crate::host::running;
use crate::journal::{Journal, PendingRestart};
use crate::remedy;
use crate::report::Outcome;
use crate::runtime::Session;

/// What becomes of a running container that needs a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRestart {
    /// It is restarted.
    Restart,
    /// It is left as it runs.
    LeavePending,
}

/// A restart that is left pending now, for the journal; `None` for a process that is gone.
pub fn left(paths: &Paths, pid: u32, why: &str) -> Option<PendingRestart> {
    let started = running::started(paths, pid)?;
    Some(PendingRestart { process: pid, started, why: why.to_owned() })
}

/// The restart that is pending for a container with this first process.
pub fn of<'a>(paths: &Paths, pid: u32, journal: &'a Journal) -> Option<&'a PendingRestart> {
    let pending = journal.pending_restart.as_ref()?;
    let is_same = pending.process == pid && running::started(paths, pid) == Some(pending.started);
    is_same.then_some(pending)
}

/// The outcome of a step that leaves a restart pending.
pub fn outcome(dialect: Dialect, ctid: &Ctid, why: &str) -> Outcome {
    let restart = remedy::restart(dialect, ctid);
    Outcome::Skipped(format!("restart pending, {why}: `{restart}` or the next run restarts it"))
}

/// What a restart also applies, in words; empty where nothing of somebody else's is pending.
///
/// # Errors
/// As [`Configuration::read`].
pub fn applies(session: &Session<'_>) -> Result<String> {
    let changes = changes(&Configuration::read(session)?);
    Ok(match changes.as_slice() {
        [] => String::new(),
        changes => format!("; with it pending changes apply: {}", changes.join(", ")),
    })
}

/// The pending changes that a start applies, each in words.
pub fn changes(configuration: &Configuration) -> Vec<String> {
    configuration.config.pending().iter().map(ToString::to_string).collect()
}
