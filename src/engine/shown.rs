//! Directories of the cache shown inside a running container, and taken away again.

use std::path::Path;
use std::time::Duration;

use crate::error::Result;
use crate::host::mount::{self, Programs};
use crate::host::rootfs::ContainerRoot;
use crate::runtime::{Inside, Session};

const CLEAN: &str = concat!(include_str!("../prelude.sh"), include_str!("clean.sh"));

/// Where they appear: not below `/run` or `/tmp`, over which a booting system mounts its own.
pub const PLACE: &str = "/var/lib/nvstage";

/// Removes what a script of ours that was cut short left inside, although the work was asked to
/// stop.
///
/// # Errors
/// Install error when the container cannot be entered.
pub fn clean(session: &Session<'_>) -> Result<()> {
    let limit = Duration::from_secs(60);
    let inside = Inside { script: CLEAN, arguments: Vec::new(), limit };
    let removed = session.run_inside_regardless(&inside).map(drop);
    removed.map_err(|error| error.on(session.ctid))
}

/// What a run that was killed may leave inside besides.
const LEFT: [&str; 4] =
    ["/root/.nvstage", "/root/.nvstage.run", "/run/nvstage-apt", "/var/cache/nvstage-apt"];

/// Takes away what a run that was killed left inside a running container, whose script then comes to
/// its end by itself. Where nothing is left this costs nothing; what cannot be taken away stays.
pub fn sweep(session: &Session<'_>, pid: u32) {
    let Ok(root) = ContainerRoot::of_process(pid) else { return };
    let is_there = |path: &str| root.identity(path).is_ok();
    if is_there(PLACE) || LEFT.iter().any(|path| is_there(path)) {
        // The script first: it waits for one that goes on, and may be using what is shown.
        let _ = clean(session);
        let _ = mount::detach(pid, PLACE);
    }
}

/// Something shown inside, until [`Shown::remove`] or the end of this value.
#[derive(Debug)]
pub struct Shown<'a> {
    session: &'a Session<'a>,
    pid: u32,
    clean: bool,
}

/// Shows directories, the first one on top, inside the container whose first process is `pid`.
///
/// # Errors
/// Host error; nothing is left inside then.
pub fn show<'a>(
    session: &'a Session<'a>,
    pid: u32,
    layers: [&Path; 2],
    programs: Programs,
) -> Result<Shown<'a>> {
    let mut shown = Shown { session, pid, clean: false };
    match mount::attach(pid, layers, programs, PLACE) {
        Ok(()) => Ok(shown),
        Err(error) => {
            // The first error counts; cleaning up is tried all the same.
            let _ = shown.take_back();
            Err(error.on(session.ctid))
        }
    }
}

impl Shown<'_> {
    /// Takes it away.
    ///
    /// # Errors
    /// Host error when it cannot be taken away.
    pub fn remove(mut self) -> Result<()> {
        self.take_back()
    }

    fn take_back(&mut self) -> Result<()> {
        if self.clean {
            return Ok(());
        }
        self.clean = true;
        // A container that stopped took every mount with it.
        if self.session.init_process()? != Some(self.pid) {
            return Ok(());
        }
        mount::detach(self.pid, PLACE).map_err(|error| error.on(self.session.ctid))
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        // Reached on an early return: the error that led here counts, not this one.
        let _ = self.take_back();
    }
}
