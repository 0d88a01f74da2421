//! Work on a container that is not finished: named in its journal from the first change to the last,
//! and what a run that was cut short has left inside.
//!
//! Order of events: [`clear`] before anything is looked at; [`Journal::unfinished`] before the first
//! change; [`writes`] before NVIDIA's installer begins; `None` again when everything is there.

use std::time::Duration;

use crate::engine::driver::Package;
use crate::engine::{driver, journal, survey};
use crate::error::{Error, Result};
use crate::host::rootfs::ContainerRoot;
use crate::journal::{Journal, Unfinished};
use crate::runfile::backup_log;
use crate::runtime::{Inside, Session};

const HALF_WRITTEN: &str = concat!(include_str!("../prelude.sh"), include_str!("half_written.sh"));

/// Longer than an installer of a killed run is waited for, ended and killed.
const LIMIT: Duration = Duration::from_secs(300);

/// Removes what a killed run's installer has half-written inside, and returns the paths. An installer
/// that goes on is waited for, or ended. Nothing is done where no installation was cut short.
///
/// The installer takes such a file for one of the container's own: it would put it away, and bring it
/// back when it is uninstalled.
///
/// # Errors
/// Install error when the container cannot be entered, or a file cannot be removed.
pub fn clear(session: &Session<'_>, known: Option<&Journal>) -> Result<Vec<String>> {
    let unfinished = known.and_then(|journal| journal.unfinished.as_ref());
    let Some(Unfinished { driver: Some(version), files, .. }) = unfinished else {
        return Ok(Vec::new());
    };
    let arguments = [&[backup_log::PATH.to_owned()][..], files].concat();
    let ran = session.run_inside(&Inside { script: HALF_WRITTEN, arguments, limit: LIMIT })?;
    if ran.answer.has("end") {
        return Ok(ran.answer.all("removed").map(str::to_owned).collect());
    }
    let failed = Error::install(format!(
        "remove what an installation of driver {version} left half-written"
    ));
    let failed = match (ran.answer.has("busy"), ran.answer.get("failed")) {
        (true, _) => failed.because("its installer is still at work inside the container"),
        (false, Some(what)) => failed.because(format!("`{what}` failed")),
        (false, None) => failed.because(ran.ended),
    };
    Err(failed.hint("restart the container, and run the command again").on(session.ctid))
}

/// The paths that the installer of a driver is about to make and that are nobody else's: not there, or
/// of the driver that it replaces.
pub fn writes(root: &ContainerRoot, package: Package<'_>) -> Vec<String> {
    let record = survey::record(root);
    let is_there = |path: &str| root.identity(path).is_ok() || root.link_target(path).is_ok();
    let is_free = |path: &String| match &record {
        // Behind a file that was put away comes another one.
        Some(record) if record.put_away.contains(path) => false,
        Some(record) if record.has(path) => true,
        _ => !is_there(path),
    };
    driver::paths(package).into_iter().filter(is_free).collect()
}

/// The state of a container that is not finished, as the cause of an interruption.
pub fn explain(session: &Session<'_>, error: Error) -> Error {
    if !error.is_interrupted() {
        return error;
    }
    let known = journal::load(&session.host.paths, session.ctid).ok().flatten();
    let Some((journal, unfinished)) = known
        .as_ref()
        .and_then(|journal| journal.unfinished.as_ref().map(|unfinished| (journal, unfinished)))
    else {
        return error;
    };
    let lines = journal.lines.iter().filter(|line| line.text.is_some()).count();
    let error = error.because(unfinished.text());
    match lines {
        0 => error,
        1 => error.because("1 line of nvstage's is in its configuration"),
        _ => error.because(format!("{lines} lines of nvstage's are in its configuration")),
    }
}
