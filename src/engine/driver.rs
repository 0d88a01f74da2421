//! The driver's userland: staged, installed by NVIDIA's own installer, and compared file by file.

use std::cmp::Reverse;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::engine::dpkg;
use crate::engine::seen::Seen;
use crate::engine::shown::{self, Shown};
use crate::engine::supplies::Driver;
use crate::engine::survey;
use crate::engine::wish::Stage;
use crate::error::{Error, Result};
use crate::host::mount::Programs;
use crate::host::process::Ended;
use crate::host::rootfs::ContainerRoot;
use crate::host::stamp::Content;
use crate::plan::DriverState;
use crate::recipe::Recipe;
use crate::runfile::backup_log::BackupLog;
use crate::runfile::diagnosis::{self, Verdict};
use crate::runfile::manifest::{COMPAT32_DIRECTORIES, Destination, DestinationKind};
use crate::runfile::options;
use crate::runtime::{Inside, Session};
use crate::version::DriverVersion;

const INSTALL: &str = concat!(include_str!("../prelude.sh"), include_str!("install.sh"));

/// Where the `.run` is copied to inside a container: a directory that root alone can enter.
const RUN: &str = "/root/.nvstage.run";
/// The installer's log inside the container.
const LOG: &str = "/var/log/nvstage-nvidia-installer.log";
/// Threads that hash the files of one container; several containers may be worked on at once.
const MOST_THREADS: usize = 4;

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
/// record says that it wrote them. Files that are known are not read again; when everything is
/// right, `seen` is told.
pub fn state(root: &ContainerRoot, package: Package<'_>, seen: &mut Seen) -> DriverState {
    let Some(record) = survey::record(root) else { return DriverState::Absent };
    match &record.version {
        None => return DriverState::Absent,
        Some(version) if version != package.version => return DriverState::Other(version.clone()),
        Some(_) => {}
    }
    let mut wanted = destinations(package);
    wanted.retain_mut(|destination| is_expected(destination, &record));
    let comparison = Comparison { root, driver: package.driver, seen };
    let (mut problems, mut right) = (Vec::new(), Vec::new());
    for (destination, found) in wanted.iter().zip(comparison.of_all(&wanted)) {
        match found {
            Ok(Some(content)) => right.push((destination.path.clone(), content)),
            Ok(None) => {}
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return DriverState::Damaged(problems);
    }
    seen.replace(right);
    DriverState::Complete
}

/// [`state`] with what is known from the last time, and written down for the next.
pub fn state_since(
    session: &Session<'_>,
    root: &ContainerRoot,
    package: Package<'_>,
) -> DriverState {
    let (paths, ctid) = (&session.host.paths, session.ctid);
    let mut seen = Seen::load(paths, ctid);
    let state = state(root, package, &mut seen);
    if state == DriverState::Complete
        && let Err(error) = seen.save(paths, ctid)
    {
        // Without it the next run takes longer, and that is all.
        session.log.note(&error.to_string());
    }
    state
}

/// Whether a file must be there: always, or because the installer says that it wrote it, at the
/// path that the installer says.
fn is_expected(destination: &mut Destination, record: &BackupLog) -> bool {
    if record.has(&destination.path) {
        return true;
    }
    if let Some(at) = destination.elsewhere.iter().position(|path| record.has(path)) {
        destination.path = destination.elsewhere.swap_remove(at);
        return true;
    }
    destination.required
}

/// The paths inside that the installer makes.
pub fn paths(package: Package<'_>) -> Vec<String> {
    destinations(package).into_iter().map(|destination| destination.path).collect()
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

/// What is compared: a container's files with an installer's.
#[derive(Clone, Copy)]
struct Comparison<'a> {
    root: &'a ContainerRoot,
    driver: &'a Driver,
    seen: &'a Seen,
}

/// What is there at a destination: the right content of a file, `None` for what has none, or the
/// problem with it.
type Found = std::result::Result<Option<Content>, String>;

impl Comparison<'_> {
    /// Every destination in its order. Files are hashed by several threads, large ones first, so
    /// that none of them is the last.
    fn of_all(self, wanted: &[Destination]) -> Vec<Found> {
        let mut order: Vec<usize> = (0..wanted.len()).collect();
        order.sort_by_key(|position| Reverse(self.driver.size(&wanted[*position])));
        let next = AtomicUsize::new(0);
        let work = || {
            let take = || order.get(next.fetch_add(1, Ordering::Relaxed));
            let found = std::iter::from_fn(take).map(|at| (*at, self.of(&wanted[*at])));
            found.collect::<Vec<_>>()
        };
        let mut found: Vec<(usize, Found)> = thread::scope(|scope| {
            let others: Vec<_> = (1..self.threads(wanted)).map(|_| scope.spawn(work)).collect();
            let mut found = work();
            for other in others {
                match other.join() {
                    Ok(more) => found.extend(more),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            found
        });
        found.sort_by_key(|(position, _)| *position);
        found.into_iter().map(|(_, found)| found).collect()
    }

    /// How many threads are worth it: none but this one where nothing has to be read.
    fn threads(&self, wanted: &[Destination]) -> usize {
        let is_file = |it: &&Destination| matches!(it.kind, DestinationKind::File { .. });
        let files = wanted.iter().filter(is_file);
        let unknown = files.filter(|it| !self.seen.knows(&it.path)).count();
        let cores = thread::available_parallelism().map_or(1, usize::from);
        unknown.min(cores).min(MOST_THREADS)
    }

    fn of(&self, destination: &Destination) -> Found {
        let path = &destination.path;
        match &destination.kind {
            DestinationKind::Link { target } => match self.root.link_target(path) {
                Ok(found) if found.file_name() == Path::new(target).file_name() => Ok(None),
                Ok(found) => Err(format!("`{path}` leads to `{}`", found.display())),
                Err(_) => Err(format!("`{path}` is missing")),
            },
            DestinationKind::File { source, .. } => {
                let Some(wanted) = self.driver.tree.file(source) else {
                    let lacks = || Err(format!("`{path}`: the installer lacks it"));
                    return if destination.required { lacks() } else { Ok(None) };
                };
                match self.seen.content(self.root, path, wanted.size) {
                    Ok(Some(content)) if content.digest == wanted.digest => Ok(Some(content)),
                    Ok(_) => Err(format!("`{path}` differs from the installer's")),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                        Err(format!("`{path}` is missing"))
                    }
                    Err(error) => Err(format!("`{path}`: {error}")),
                }
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
    destinations(package).iter().map(|destination| package.driver.size(destination)).sum()
}

impl Driver {
    /// Bytes that a destination has.
    fn size(&self, destination: &Destination) -> u64 {
        match &destination.kind {
            DestinationKind::File { source, .. } => self.tree.file(source).map_or(0, |f| f.size),
            DestinationKind::Link { .. } => 0,
        }
    }
}

/// Refuses before anything is touched when the container has no room, or no directory for 32-bit
/// libraries that are wanted: the installer would leave those out and call it a success.
///
/// # Errors
/// Install error; of space with both numbers.
pub fn check_room(root: &ContainerRoot, package: Package<'_>, stage: Stage) -> Result<()> {
    let is_there = |directory: &str| root.identity(directory).is_ok();
    if package.recipe.installer_options().compat32.is_included()
        && package.driver.tree.manifest().has_compat32()
        && !COMPAT32_DIRECTORIES.iter().any(|directory| is_there(directory))
    {
        let places = COMPAT32_DIRECTORIES.join("` nor `");
        return Err(Error::install("install 32-bit libraries: the container has no place for them")
            .because(format!("it has neither `{places}`"))
            .hint(
                "inside: `dpkg --add-architecture i386 && apt-get update && apt-get install libc6:i386`",
            ));
    }
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
        dpkg::refuse_busy(&ran.answer, failed)?;
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
