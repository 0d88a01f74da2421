//! The driver's userland: staged, installed by NVIDIA's own installer, and compared file by file.

use std::time::Duration;

use crate::engine::shown::{self, Shown};
use crate::engine::supplies::Driver;
use crate::engine::survey;
use crate::engine::wish::Stage;
use crate::error::{Error, Result};
use crate::host::mount::Programs;
use crate::host::process::Ended;
use crate::host::rootfs::ContainerRoot;
use crate::plan::DriverState;
use crate::recipe::Recipe;
use crate::runfile::diagnosis::{self, Verdict};
use crate::runfile::manifest::{Destination, DestinationKind};
use crate::runfile::options;
use crate::runtime::{Inside, Session};
use crate::version::DriverVersion;

const INSTALL: &str = concat!(include_str!("../prelude.sh"), include_str!("install.sh"));

/// Where the `.run` is copied to inside a container: a directory that root alone can enter.
const RUN: &str = "/root/.nvstage.run";
/// The installer's log inside the container.
const LOG: &str = "/var/log/nvstage-nvidia-installer.log";

/// What is to be installed.
#[derive(Debug, Clone, Copy)]
pub struct Package<'a> {
    /// The recipe, for its options.
    pub recipe: &'a Recipe,
    /// The verified installer.
    pub driver: &'a Driver,
    /// Its version.
    pub version: &'a DriverVersion,
}

/// Compares every destination of the manifest that the options select with the container: each
/// one must be there, of the right size and content. Other files count when the installer's own
/// record says that it wrote them.
pub fn state(root: &ContainerRoot, package: Package<'_>) -> DriverState {
    let Some(record) = survey::record(root) else { return DriverState::Absent };
    match &record.version {
        None => return DriverState::Absent,
        Some(version) if version != package.version => return DriverState::Other(version.clone()),
        Some(_) => {}
    }
    let problems: Vec<String> = destinations(package)
        .iter()
        .filter(|destination| destination.required || record.has(&destination.path))
        .filter_map(|destination| problem(root, package.driver, destination))
        .collect();
    if problems.is_empty() { DriverState::Complete } else { DriverState::Damaged(problems) }
}

fn destinations(package: Package<'_>) -> Vec<Destination> {
    let selection = options::selection(package.recipe.installer_options(), package.recipe_arch());
    package.driver.tree.manifest().destinations(&selection)
}

impl Package<'_> {
    fn recipe_arch(&self) -> crate::architecture::Architecture {
        self.driver.tree.architecture()
    }
}

fn problem(root: &ContainerRoot, driver: &Driver, destination: &Destination) -> Option<String> {
    let path = &destination.path;
    match &destination.kind {
        DestinationKind::Link { target } => match root.link_target(path) {
            Ok(found) if found.file_name() == std::path::Path::new(target).file_name() => None,
            Ok(found) => Some(format!("`{path}` leads to `{}`", found.display())),
            Err(_) => Some(format!("`{path}` is missing")),
        },
        DestinationKind::File { source, .. } => {
            let Some(wanted) = driver.tree.file(source) else {
                return destination.required.then(|| format!("`{path}`: the installer lacks it"));
            };
            match root.digest_if_size(path, wanted.size) {
                Ok(Some(digest)) if digest == wanted.digest => None,
                Ok(_) => Some(format!("`{path}` differs from the installer's")),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    Some(format!("`{path}` is missing"))
                }
                Err(error) => Some(format!("`{path}`: {error}")),
            }
        }
    }
}

/// What an installer of this version does because it does not know an option that would stop it.
pub fn omissions(package: Package<'_>) -> Vec<String> {
    let line = package.recipe.installer_options().command_line(package.version, LOG);
    let version = package.version;
    line.consequences()
        .filter_map(|omission| Some((omission.flag, omission.consequence?)))
        .map(|(flag, consequence)| {
            format!("driver {version} does not know `{flag}`: {consequence}")
        })
        .collect()
}

/// Bytes that the installation writes into the container.
pub fn bytes_to_write(package: Package<'_>) -> u64 {
    let size = |destination: &Destination| match &destination.kind {
        DestinationKind::File { source, .. } => {
            package.driver.tree.file(source).map_or(0, |f| f.size)
        }
        DestinationKind::Link { .. } => 0,
    };
    destinations(package).iter().map(size).sum()
}

/// Refuses before anything is touched when the container has no room.
///
/// # Errors
/// Install error with both numbers.
pub fn check_room(root: &ContainerRoot, package: Package<'_>, stage: Stage) -> Result<()> {
    let unpacked: u64 = package.driver.tree.total_size();
    let extra = if stage == Stage::Push { package.driver.file.size() + unpacked } else { 0 };
    // What is there of an older installation is taken away first.
    let there = |destination: &Destination| match &destination.kind {
        DestinationKind::File { .. } => root.size(&destination.path).unwrap_or(0),
        DestinationKind::Link { .. } => 0,
    };
    let freed: u64 = destinations(package).iter().map(there).sum();
    let needed = (bytes_to_write(package) + extra).saturating_sub(freed);
    // A container that cannot say how much is free is asked by the installer itself.
    let Ok(free) = root.free_bytes() else { return Ok(()) };
    if free >= needed {
        return Ok(());
    }
    let megabytes = |bytes: u64| bytes.div_ceil(1_000_000);
    Err(Error::install("install the driver: no space inside the container")
        .because(format!("{} MB needed, {} MB free", megabytes(needed), megabytes(free)))
        .hint("enlarge its root file system: `pct resize CTID rootfs +4G`"))
}

/// The installer inside the container, from [`stage`] to [`Staged::remove`].
#[derive(Debug)]
pub struct Staged<'a> {
    session: &'a Session<'a>,
    /// `None` when it was copied.
    shown: Option<Shown<'a>>,
    clean: bool,
}

/// Brings the installer into the running container.
///
/// # Errors
/// Host or install error; nothing is left inside then.
pub fn stage<'a>(
    session: &'a Session<'a>,
    package: Package<'_>,
    stage: Stage,
    pid: u32,
) -> Result<Staged<'a>> {
    if stage == Stage::Mount {
        let tree = &package.driver.tree;
        let layers = [tree.payload(), tree.stand_ins()];
        let shown = shown::show(session, pid, layers, Programs::Run)?;
        return Ok(Staged { session, shown: Some(shown), clean: true });
    }
    let staged = Staged { session, shown: None, clean: false };
    // What a failed copy left is removed when `staged` is dropped.
    session.push(package.driver.file.path(), RUN).map_err(|error| error.on(session.ctid))?;
    Ok(staged)
}

impl Staged<'_> {
    /// Runs the installer, which is ended after `limit`, and judges the result: its status, its log,
    /// and every destination.
    ///
    /// # Errors
    /// Install error with the diagnosis and the end of the installer's log.
    pub fn install(&mut self, package: Package<'_>, limit: Duration) -> Result<()> {
        let tree = if self.shown.is_some() { shown::PLACE } else { "-" };
        let sha256 = package.driver.file.digest().to_string();
        let mut arguments: Vec<String> = [tree, RUN, &sha256, LOG].map(str::to_owned).into();
        let installer_options = package.recipe.installer_options();
        arguments.extend(options::flags(installer_options, package.version, LOG));
        let inside = Inside { script: INSTALL, arguments, limit };
        let ran = self.session.run_inside(&inside)?;
        self.clean = self.shown.is_some() || ran.answer.has("end");
        let failed = || Error::install(format!("install driver {}", package.version));
        if let Some(found) = ran.answer.get("damaged") {
            return Err(failed()
                .because(format!(
                    "the copy inside is damaged: {found}, not {} bytes with {sha256}",
                    package.driver.file.size()
                ))
                .hint("is there room in the container's root file system?"));
        }
        if ran.answer.has("busy") {
            return Err(failed()
                .because("another installer is at work inside the container, for 15 minutes now")
                .hint("wait for it, or restart the container; then run the command again"));
        }
        // A command that was killed from outside ends before its container is seen to be gone.
        let is_cut_short = !ran.answer.has("end");
        if is_cut_short && self.session.is_gone_within(Duration::from_secs(3))? {
            return Err(failed()
                .because("the container stopped while the installer was running")
                .hint("start it, and run the command again: what is half-installed is repaired"));
        }
        if ran.ended == Ended::Exited(124) || ran.ended == Ended::TimedOut {
            let limit = limit.as_secs();
            return Err(failed()
                .because(format!("the installer did not end within {limit} s"))
                .hint("`--installer-timeout SECONDS` gives it longer"));
        }
        let status = ran.answer.number("status").unwrap_or(match ran.ended {
            Ended::Exited(status) => status,
            Ended::Signalled(signal) => 128 + signal,
            Ended::TimedOut | Ended::Cancelled => 1,
        });
        match diagnosis::diagnose(status, &ran.output, &ran.answer.text("log")) {
            Verdict::Success => Ok(()),
            Verdict::Failure { cause, hint, tail } => {
                let error =
                    failed().because(format!("{cause} (the installer's status was {status})"));
                let error = if tail.is_empty() {
                    error
                } else {
                    error.because(format!("the end of its log:\n{tail}"))
                };
                Err(error.hint(hint))
            }
        }
    }

    /// Takes the installer out of the container again.
    ///
    /// # Errors
    /// Host error when it cannot be taken away.
    pub fn remove(mut self) -> Result<()> {
        match self.shown.take() {
            Some(shown) => shown.remove(),
            None => self.take_back(),
        }
    }

    /// Removes a copy; what is shown goes away by itself.
    fn take_back(&mut self) -> Result<()> {
        // A container that stopped has nothing to be asked; the next run removes the copy.
        if self.clean || self.session.init_process()?.is_none() {
            return Ok(());
        }
        self.clean = true;
        shown::clean(self.session)
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        // Reached on an early return: the error that led here counts, not this one.
        let _ = self.take_back();
    }
}
