//! Apt and dpkg of a container, brought to rest before anything is judged by their records.
//!
//! A killed run of nvstage leaves its script behind, which goes on inside; a container that stopped
//! meanwhile leaves a dpkg that was cut short. The scripts wait for what is at work, end what takes too
//! long, and finish what was cut short (`prelude.sh`).

use std::time::Duration;

use crate::answer::Answer;
use crate::apt::system::{self, Presence};
use crate::error::{Error, Result};
use crate::host::rootfs::ContainerRoot;
use crate::runtime::{Inside, Session};

const SETTLE: &str = concat!(include_str!("../prelude.sh"), include_str!("settle.sh"));

/// The waits for a script and for dpkg's lock, and the work after them.
const LIMIT: Duration = Duration::from_secs(1800);

/// Locks that show somebody at work: one of our scripts, apt, dpkg.
const LOCKS: [&str; 3] =
    ["/run/.nvstage.lock", "/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock"];

/// Changes that dpkg has not yet written into its status.
const UPDATES: &str = "/var/lib/dpkg/updates";

/// What dpkg keeps of a system whose packages are in no changes besides: the largest file, in bytes.
const LARGEST: u64 = 64 << 20;

/// Most files in [`UPDATES`] (dpkg `lib/dpkg/dbmodify.c`: `MAXUPDATES`), with room.
const MOST_UPDATES: usize = 1000;

/// What became of a container's dpkg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It was at rest.
    Before,
    /// It was waited for, and finished where it was cut short.
    Now,
}

/// Waits for what is at work inside, and finishes what was cut short. A container whose dpkg is at rest
/// costs no process.
///
/// # Errors
/// Install error when somebody else's apt does not end; the interruption.
pub fn settle(session: &Session<'_>, root: &ContainerRoot) -> Result<Settled> {
    if is_at_rest(root) {
        return Ok(Settled::Before);
    }
    let inside = Inside { script: SETTLE, arguments: Vec::new(), limit: LIMIT };
    let ran = session.run_inside(&inside)?;
    let failed = || Error::install("finish what dpkg has begun").on(session.ctid);
    refuse_busy(&ran.answer, failed)?;
    match ran.answer.has("end") {
        true => Ok(Settled::Now),
        false => Err(failed().because(ran.ended)),
    }
}

/// The records of dpkg, with the changes that are not yet in its status.
pub fn records(root: &ContainerRoot) -> String {
    let text = |path: &str| root.read_text(path, LARGEST).unwrap_or_default();
    let mut all = text("/var/lib/dpkg/status");
    for name in updates(root) {
        all.push('\n');
        all.push_str(&text(&format!("{UPDATES}/{name}")));
    }
    all
}

/// The error of a script that did not get its turn, if it did not.
///
/// # Errors
/// The error that `failed` makes, with who is at work.
pub fn refuse_busy(answer: &Answer, failed: impl FnOnce() -> Error) -> Result<()> {
    if answer.has("busy") {
        return Err(failed()
            .because("another run of nvstage is at work inside the container and cannot be ended")
            .hint("restart the container, and run the command again"));
    }
    if let Some(holder) = answer.get("held") {
        let (process, name) = holder.split_once(' ').unwrap_or((holder, "dpkg"));
        return Err(failed()
            .because(format!(
                "`{name}` (process {process} inside) has held dpkg's lock for 5 minutes"
            ))
            .hint("wait for it, or end it; then run the command again"));
    }
    Ok(())
}

/// Whether nobody is at work and nothing was cut short, as far as it can be seen from outside.
fn is_at_rest(root: &ContainerRoot) -> bool {
    // What cannot be told is looked at inside.
    let is_free = |path: &str| root.is_locked(path).is_ok_and(|is_locked| !is_locked);
    if !LOCKS.iter().all(|path| is_free(path)) || !updates(root).is_empty() {
        return false;
    }
    let status = root.read_text("/var/lib/dpkg/status", LARGEST).unwrap_or_default();
    !system::presence(&status).values().any(|presence| *presence == Presence::Partial)
}

fn updates(root: &ContainerRoot) -> Vec<String> {
    let is_update = |name: &String| name.bytes().all(|byte| byte.is_ascii_digit());
    let mut names = root.names(UPDATES).unwrap_or_default();
    names.retain(is_update);
    names.truncate(MOST_UPDATES);
    names
}
