//! The edit of a container's configuration file: under the lock, compared with what was read,
//! atomic; and of the journal, which knows of a line before the file has it.

use crate::container::config::Dialect;
use crate::container::passthrough::{self, DeviceNode, Edit, OwnLine};
use crate::engine::journal;
use crate::engine::survey::{self, Configuration, Outside};
use crate::engine::wish::Wish;
use crate::error::{Error, Result};
use crate::host::files::Lock;
use crate::host::{devices, files};
use crate::journal::{Journal, State};
use crate::plan::Reach;
use crate::report::Outcome;
use crate::runtime::{PowerState, Session};

/// What became of an edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It is made.
    Written,
    /// Somebody else changed the file since it was read: nothing was written.
    ChangedMeanwhile,
}

/// An edit, and the journal before and after it.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// The file as it was read.
    pub read: &'a Configuration,
    /// The edit.
    pub edit: &'a Edit,
    /// What is nvstage's before it.
    pub own: &'a [OwnLine],
    /// The journal as it should be after it.
    pub journal: &'a Journal,
}

impl Outside {
    fn change(&self) -> Change<'_> {
        let own = self.before.as_ref().map_or(&[][..], |journal| &journal.lines);
        Change { read: &self.configuration, edit: &self.edit, own, journal: &self.journal }
    }
}

/// Makes the edit that was planned, the way that was planned, if the GPUs are still there.
///
/// # Errors
/// As [`write`] and [`Wish::confirm`], or host error with what `pct set` said.
pub fn apply(session: &Session<'_>, outside: &Outside, wish: &Wish) -> Result<Applied> {
    let confirm = || wish.confirm(session.host);
    let (Reach::WhileRunning, Some(entries)) =
        (outside.reach, outside.edit.devices_while_running())
    else {
        return write_if(session, outside.change(), confirm);
    };
    confirm()?;
    let attached = attach(session, outside.change(), &entries)?;
    if session.init_process()? != outside.pid {
        session.settled()?;
        return Ok(Applied::ChangedMeanwhile);
    }
    if attached == Applied::ChangedMeanwhile || !outside.edit.adds_trees() {
        return Ok(attached);
    }
    // Proxmox has written the file anew; `pct set` knows no lines of LXC's.
    let read = Configuration::read(session)?;
    let edit = outside.lacking_in(&read.config, wish)?;
    if edit.changes_devices() {
        return Ok(Applied::ChangedMeanwhile);
    }
    let (own, journal) = (outside.journal.lines.as_slice(), &outside.journal);
    write(session, Change { read: &read, edit: &edit, own, journal })
}

/// Writes down what was found to be as it should, where the journal does not know it yet.
///
/// # Errors
/// Host error when it cannot be written.
pub fn record(session: &Session<'_>, outside: &Outside) -> Result<()> {
    files::clear_away(&outside.configuration.path);
    match outside.before.as_ref() == Some(&outside.journal) {
        true => Ok(()),
        false => journal::save(&session.host.paths, &outside.journal),
    }
}

/// Writes the file, under Proxmox's lock, and at no moment at which the hook of a stop writes it.
///
/// # Errors
/// Restart error when a stop does not end; not found when the container was moved away meanwhile; host error when the lock cannot be had,
/// the file is gone, locked for a task, or cannot be written; the file is then the old one.
pub fn write(session: &Session<'_>, change: Change<'_>) -> Result<Applied> {
    write_if(session, change, || Ok(()))
}

/// The same if `confirm`, asked under the lock, has nothing against it: waiting for the lock may
/// take seconds.
fn write_if(
    session: &Session<'_>,
    change: Change<'_>,
    confirm: impl FnOnce() -> Result<()>,
) -> Result<Applied> {
    let path = &change.read.path;
    let (lock, pid) = lock(session)?;
    if Configuration::read(session)?.bytes != change.read.bytes {
        return Ok(Applied::ChangedMeanwhile);
    }
    survey::refuse_locked(&change.read.config).map_err(|error| error.on(session.ctid))?;
    let new = change.edit.config.to_bytes();
    survey::refuse_too_large(session, &change.read.path, new.len())?;
    confirm()?;
    announce(session, change)?;
    files::clear_away(path);
    files::replace(path, &new).map_err(|error| {
        let error = Error::host(format!("write `{}`", path.display())).because(error);
        let error = match session.runtime.dialect() {
            Dialect::Proxmox => {
                error.hint("without quorum `/etc/pve` is read-only: `pvecm status`")
            }
            Dialect::Lxc => error,
        };
        error.on(session.ctid)
    })?;
    if pid.is_none() || session.init_process()? == pid {
        return Ok(Applied::Written);
    }
    // It went down meanwhile, and the hook of its stop may have read the file before.
    drop(lock);
    session.settled()?;
    Ok(match Configuration::read(session)?.bytes == new {
        true => Applied::Written,
        false => Applied::ChangedMeanwhile,
    })
}

/// The lock on the configuration of a container that surely runs, with its first process, or is
/// surely stopped: the hook of a stop writes without the lock. It is not waited for with it, since
/// a user's hook script may call `pct`, which needs the lock.
fn lock(session: &Session<'_>) -> Result<(Option<Lock>, Option<u32>)> {
    loop {
        session.settled()?;
        let lock = session.runtime.lock_configuration(session.ctid)?;
        match session.power_state()? {
            PowerState::Running(pid) => return Ok((lock, Some(pid))),
            PowerState::Stopped => return Ok((lock, None)),
            PowerState::Changing => {}
        }
    }
}

/// The journal with the lines of before and after: whichever of them a run that is killed leaves in
/// the file, it is known whose they are. A node keeps the numbers of before: [`renumber`] finds the
/// rules by them that are still to be rewritten.
fn announce(session: &Session<'_>, change: Change<'_>) -> Result<()> {
    let paths = &session.host.paths;
    let mut journal = change.journal.clone();
    let before = change.own.iter().filter(|line| !change.journal.lines.contains(line));
    journal.lines.extend(before.cloned());
    if let Some(mut before) = journal::load(paths, session.ctid)? {
        let is_new = |node: &DeviceNode| before.nodes.iter().all(|known| known.path != node.path);
        let new: Vec<DeviceNode> = journal.nodes.into_iter().filter(is_new).collect();
        before.nodes.extend(new);
        journal.nodes = before.nodes;
        if before.state == State::Attached {
            // Until it is done and seen to be done.
            journal.state = State::Attached;
        }
    }
    journal::save(paths, &journal)
}

/// Has Proxmox add `dev[n]` entries to the running container.
fn attach(session: &Session<'_>, change: Change<'_>, entries: &[(&str, &str)]) -> Result<Applied> {
    announce(session, change)?;
    let digest = sha1(&change.read.bytes);
    let command = session.runtime.attach_command(session.ctid, entries, &digest);
    let finished = session.host.processes.run(command, session.log)?;
    let said = finished.tail();
    if said.contains("detected modified configuration") {
        return Ok(Applied::ChangedMeanwhile);
    }
    if !finished.succeeded() {
        return Err(Error::host("add the devices to the running container")
            .because(finished.ended)
            .because(said)
            .because("those that were plugged in before it failed can be used inside until a stop")
            .hint(format!(
                "`pct reboot {}` takes them out; then run the command again",
                session.ctid
            ))
            .on(session.ctid));
    }
    Ok(Applied::Written)
}

/// What Proxmox compares: the SHA-1 of the file's bytes (`PVE::LXC::Config`).
fn sha1(bytes: &[u8]) -> String {
    use sha1::Digest as _;
    sha1::Sha1::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a configuration still is as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadBack {
    /// It is.
    Kept,
    /// Somebody has undone the edit.
    Lost,
}

/// Reads the configuration back after the start. Only where every line is there, the journal forgets
/// the lines of before.
///
/// # Errors
/// Host error when it cannot be read, or the journal not be written.
pub fn read_back(session: &Session<'_>, outside: &Outside, wish: &Wish) -> Result<ReadBack> {
    let now = Configuration::read(session)?;
    if outside.lacking_in(&now.config, wish)?.changed() {
        return Ok(ReadBack::Lost);
    }
    journal::save(&session.host.paths, &outside.journal)?;
    Ok(ReadBack::Kept)
}

/// The error for an edit that somebody else's writing has undone.
pub fn lost(session: &Session<'_>) -> Error {
    Error::host("keep the configuration: somebody took the change out again, twice")
        .hint("run the command again when nobody else works at the container")
        .on(session.ctid)
}

/// Rewrites rules of ours whose devices have other numbers now. Where somebody else changes the file
/// meanwhile, once more. The journal has the new numbers only when a later call finds the rules in
/// the file.
///
/// # Errors
/// As [`write`].
pub fn renumber(session: &Session<'_>, journal: &Journal) -> Result<Outcome> {
    for _ in 0..2 {
        if let Some(outcome) = renumber_once(session, journal)? {
            return Ok(outcome);
        }
    }
    Err(changed(session))
}

/// `None` where somebody else changed the file since it was read.
fn renumber_once(session: &Session<'_>, journal: &Journal) -> Result<Option<Outcome>> {
    let read = Configuration::read(session)?;
    if !journal.is_of(&read.config) {
        let why = "another container had this number before".to_owned();
        return Ok(Some(Outcome::Skipped(why)));
    }
    let paths = &session.host.paths;
    let majors = devices::majors(paths)?.into_values().collect();
    let before = passthrough::Applied { own: &journal.lines, nodes: &journal.nodes };
    let renumbered =
        passthrough::renumber(&read.config, before, &majors, |node| devices::numbers(paths, node));
    let mut after = journal.clone();
    after.nodes = renumbered.nodes;
    after.lines.clone_from(&renumbered.edit.own);
    if !renumbered.edit.changed() {
        files::clear_away(&read.path);
        if after != *journal {
            journal::save(paths, &after)?;
        }
        return Ok(Some(Outcome::Unchanged("every device rule is up to date".to_owned())));
    }
    let edit = &renumbered.edit;
    let change = Change { read: &read, edit, own: &journal.lines, journal: &after };
    let rules = edit.lines_corrected.len();
    Ok(match write(session, change)? {
        Applied::Written => Some(Outcome::Changed(format!("{rules} device rules rewritten"))),
        Applied::ChangedMeanwhile => None,
    })
}

/// The error for a file that somebody else keeps changing.
pub fn changed(session: &Session<'_>) -> Error {
    Error::host("edit the configuration: somebody else changes it at the same time")
        .hint("run the command again when that has ended")
        .on(session.ctid)
}
