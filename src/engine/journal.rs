//! Where journals lie: read, written in one piece, listed.
//!
//! Whoever changes one holds the container's lock of this program (`Context::lock`).

use std::io;

use jiff::Timestamp;

use crate::container::config::LxcConfig;
use crate::ctid::Ctid;
use crate::error::{Error, Result};
use crate::host::files;
use crate::host::paths::Paths;
use crate::journal::{Journal, LastRun};
use crate::report::ContainerReport;

/// What was applied to a container; `None` for one that nvstage never worked on.
///
/// # Errors
/// Host error when its file cannot be read or understood.
pub fn load(paths: &Paths, ctid: &Ctid) -> Result<Option<Journal>> {
    let path = paths.journals().join(format!("{ctid}.json"));
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            Journal::parse(&text, &path.to_string_lossy()).map(Some).map_err(|error| error.on(ctid))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            Err(Error::host(format!("read `{}`", path.display())).because(error).on(ctid))
        }
    }
}

/// The same for the container that has this configuration, and not one that had its number before.
///
/// # Errors
/// As [`load`].
pub fn of(paths: &Paths, ctid: &Ctid, config: &LxcConfig) -> Result<Option<Journal>> {
    Ok(load(paths, ctid)?.filter(|journal| journal.is_of(config)))
}

/// Writes down what is applied to a container, before it is done.
///
/// # Errors
/// Host error when it cannot be written.
pub fn save(paths: &Paths, journal: &Journal) -> Result<()> {
    let directory = paths.journals();
    files::create_directory(&directory)?;
    let path = directory.join(format!("{}.json", journal.container));
    files::clear_away(&path);
    files::replace(&path, journal.to_text().as_bytes())
        .map_err(|error| error.on(&journal.container))
}

/// Changes what is written down of a container, and writes it if it differs then.
///
/// # Errors
/// As [`load`] and [`save`].
pub fn update(paths: &Paths, ctid: &Ctid, change: impl FnOnce(&mut Journal)) -> Result<()> {
    let before = load(paths, ctid)?;
    let mut after = before.clone().unwrap_or_else(|| Journal::new(ctid));
    change(&mut after);
    if before.as_ref() == Some(&after) { Ok(()) } else { save(paths, &after) }
}

/// The same of a container that nvstage manages; there is nothing to write down of another one.
///
/// # Errors
/// As [`load`] and [`save`].
pub fn update_managed(paths: &Paths, ctid: &Ctid, change: impl FnOnce(&mut Journal)) -> Result<()> {
    if load(paths, ctid)?.is_some() { update(paths, ctid, change) } else { Ok(()) }
}

/// Writes down what a run came to, of a container that nvstage manages.
///
/// # Errors
/// As [`load`] and [`save`].
pub fn record_run(paths: &Paths, report: &ContainerReport, command: &str) -> Result<()> {
    let now = Timestamp::now();
    let at = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let last = LastRun { at, command: command.to_owned(), exit: report.exit.code() };
    update_managed(paths, &report.container, |journal| journal.last_run = Some(last))
}

/// The containers that have a journal on this host, by name.
///
/// # Errors
/// Host error when the directory cannot be read.
pub fn managed(paths: &Paths) -> Result<Vec<Ctid>> {
    let directory = paths.journals();
    let entries = match std::fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|error| {
            Error::host(format!("read `{}`", directory.display())).because(error)
        })?,
    };
    let name = |entry: std::fs::DirEntry| {
        Ctid::parse(entry.file_name().to_str()?.strip_suffix(".json")?).ok()
    };
    let mut found: Vec<Ctid> = entries.flatten().filter_map(name).collect();
    found.sort();
    Ok(found)
}
