//! Which driver containers get when they start: the link `current`, relative, beside the images. It
//! leads into an image, and so nowhere while that is not mounted.
//!
//! It is replaced by a rename, so that whoever follows it finds the old driver or the new one.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use super::driver::{self, Content, USERLAND};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::files::{self, Lock, failed};
use crate::host::paths::Paths;
use crate::remedy;
use crate::version::DriverVersion;

/// The link's name.
const CURRENT: &str = "current";
/// While it is made.
const TEMPORARY: &str = ".tmp-current";
/// Whoever holds the lock is done within milliseconds, or removes an image.
const WAIT: Duration = Duration::from_secs(120);

/// What came of a switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Switched {
    /// `current` was that version before.
    Already,
    /// It was another one, or none.
    From(Option<DriverVersion>),
}

/// The version that containers get when they start; `None` when there is none.
pub fn current(paths: &Paths) -> Option<DriverVersion> {
    let target = fs::read_link(link(paths)).ok()?;
    let version = target.to_str()?.strip_suffix(USERLAND)?.strip_suffix('/')?;
    DriverVersion::parse(version).ok()
}

/// Whether it is there: without its image mounted a container that starts gets an empty directory.
pub fn is_there(paths: &Paths) -> bool {
    link(paths).is_dir()
}

/// Makes a version the one that containers get, from their next start on. Its image must be mounted:
/// see [`super::obtain_driver`].
///
/// # Errors
/// Host error when the image is damaged, not there or not mounted, or the link cannot be written.
pub fn switch(host: &Host, version: &DriverVersion) -> Result<Switched> {
    let _lock = hold(host)?;
    let slot = driver::slot(&host.paths, version);
    let refused = |why: &str| {
        Error::host(format!("give containers {}: {why}", slot.label()))
            .hint(format!("`{}` fetches, makes and mounts it", remedy::sync_all()))
    };
    if slot.find::<Content>()?.sound().is_none() {
        return Err(refused("there is no sound image of it"));
    }
    if !slot.is_mounted() {
        let hint = format!("`{}` mounts what is there", remedy::refresh());
        return Err(refused("its image is not mounted").hint(hint));
    }
    let before = current(&host.paths);
    if before.as_ref() == Some(version) {
        return Ok(Switched::Already);
    }
    let temporary = driver::directory(&host.paths).join(TEMPORARY);
    files::remove_file(&temporary)?;
    symlink(format!("{version}/{USERLAND}"), &temporary)
        .map_err(|error| failed("make the link", &temporary, &error))?;
    files::rename(&temporary, &link(&host.paths))?;
    Ok(Switched::From(before))
}

/// Takes `current` away: containers start without a driver. Returns what it was.
///
/// # Errors
/// Host error when it cannot be removed.
pub fn withdraw(host: &Host) -> Result<Option<DriverVersion>> {
    let path = link(&host.paths);
    match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        _ => {}
    }
    let _lock = hold(host)?;
    let before = current(&host.paths);
    files::remove_file(&path)?;
    files::sync_directory(&driver::directory(&host.paths))?;
    Ok(before)
}

/// Keeps `current` as it is until the lock is dropped.
pub(super) fn hold(host: &Host) -> Result<Lock> {
    files::create_directory(&host.paths.locks())?;
    Lock::exclusive(&host.paths.locks().join(".driver-current.lock"), WAIT, &host.cancel)
}

fn link(paths: &Paths) -> PathBuf {
    driver::directory(paths).join(CURRENT)
}
