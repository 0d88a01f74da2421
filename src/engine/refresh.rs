//! A host made ready after a boot or a driver's change: modules, device nodes, and the numbers in
//! the configurations of the containers that nvstage manages.
//!
//! Order of events: [`prepare`] loads what is installed and makes the nodes of what is loaded;
//! then [`renumber`] for each container that [`needs_numbers`], and [`complete_shared`] for each that
//! runs and [`shares`].

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use nix::unistd::{AccessFlags, access};
use serde::Serialize;

use crate::container::passthrough::Method;
use crate::engine::survey::{self, Look};
use crate::engine::tenant::{self, Images};
use crate::engine::{configure, wish};
use crate::error::{Error, Result};
use crate::event::{Event, Events};
use crate::host::Host;
use crate::host::devices::Inventory;
use crate::host::modules::Module;
use crate::host::nodes::{self, DeviceFiles, Making, Standing, WantedNode};
use crate::host::paths::Paths;
use crate::host::rootfs::ContainerRoot;
use crate::host::runlog::RunLog;
use crate::journal::{Journal, State};
use crate::recipe::Userland;
use crate::remedy;
use crate::report::Outcome;
use crate::runtime::Session;

/// How many seconds a run waits for `/etc/pve` to become writable, all containers together: at
/// boot a cluster has no quorum before its other nodes are there.
pub const QUORUM_WAIT: u32 = 60;

/// What was done about one thing of the host.
#[derive(Debug, Clone, Serialize)]
pub struct HostLine {
    /// A module's name, or the path of a node.
    pub subject: String,
    /// What it came to.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What was done about the host.
#[derive(Debug, Default)]
pub struct Prepared {
    /// One line a module and node.
    pub lines: Vec<HostLine>,
    /// What failed; the rest was done all the same.
    pub errors: Vec<Error>,
    /// The nodes that had another number: whoever holds one has the old driver's.
    pub replaced: Vec<String>,
}

/// Loads the modules that are installed, and makes the nodes of those that are loaded.
///
/// # Errors
/// Host error when there is no driver, or it cannot be loaded; the interruption.
pub fn prepare(host: &Host, log: &RunLog) -> Result<Prepared> {
    let mut prepared = Prepared::default();
    // One GPU that has fallen off the bus is no reason to leave the others without their nodes.
    let (before, _) = Inventory::read_leniently(&host.paths)?;
    for module in Module::ALL {
        prepared.module(host, (module, &before), log)?;
    }
    let (now, problems) = Inventory::read_leniently(&host.paths)?;
    if !Module::Nvidia.is_loaded(&host.paths, &now) {
        return Err(Error::host("find the kernel module `nvidia` after `modprobe` loaded it")
            .hint("`dmesg` may have the reason"));
    }
    if now.gpus.is_empty() && problems.is_empty() {
        let why = "the kernel module drives no GPU: see `dmesg`, and `lspci -nnk -d 10de:`";
        prepared.add(Module::Nvidia.name(), Outcome::Warned(why.to_owned()));
    }
    for problem in problems {
        prepared
            .add(Module::Nvidia.name(), Outcome::Warned(format!("failed to {}", problem.what())));
    }
    prepared.clear_away(&host.paths);
    prepared.nodes(&host.paths, &now)?;
    Ok(prepared)
}

impl Prepared {
    fn add(&mut self, subject: &str, outcome: Outcome) {
        self.lines.push(HostLine { subject: subject.to_owned(), outcome });
    }

    fn fail(&mut self, subject: &str, error: Error) {
        self.add(subject, Outcome::Failed(error.headline()));
        self.errors.push(error);
    }

    fn module(&mut self, host: &Host, what: (Module, &Inventory), log: &RunLog) -> Result<()> {
        let (module, before) = what;
        let name = module.name();
        if module.is_loaded(&host.paths, before) {
            self.add(name, Outcome::Unchanged("loaded".to_owned()));
            return Ok(());
        }
        let is_vital = module == Module::Nvidia;
        let outcome = match module.is_installed(host, log) {
            Ok(true) => match module.load(host, log) {
                Ok(()) => Outcome::Changed(format!("loaded {name}")),
                Err(error) if is_vital || error.is_interrupted() => return Err(error),
                Err(error) => {
                    self.fail(name, error);
                    return Ok(());
                }
            },
            Err(error) if error.is_interrupted() => return Err(error),
            Ok(false) if is_vital => return Err(no_driver()),
            Err(error) if is_vital => {
                return Err(no_driver().because(format!("failed to {}", error.what())));
            }
            Err(error) => Outcome::Warned(format!("not loaded: failed to {}", error.what())),
            Ok(false) if module == Module::Uvm => {
                Outcome::Warned("not installed: CUDA works in no container without it".to_owned())
            }
            Ok(false) => Outcome::Skipped("not installed".to_owned()),
        };
        self.add(name, outcome);
        Ok(())
    }

    fn clear_away(&mut self, paths: &Paths) {
        match nodes::clear_away(paths) {
            Ok(removed) => {
                for path in removed {
                    let what = format!("removed {path}, which a run that was killed has left");
                    self.add(&path, Outcome::Changed(what));
                }
            }
            Err(error) => self.fail("/dev", error),
        }
    }

    fn nodes(&mut self, paths: &Paths, inventory: &Inventory) -> Result<()> {
        let files = DeviceFiles::read(paths)?;
        let mut forbidden: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for node in nodes::wanted(paths, inventory, &files) {
            let stood = match node.making {
                Making::Allowed => nodes::put_right(paths, &node),
                Making::Forbidden => nodes::look(paths, &node),
            };
            match stood {
                Err(error) => self.fail(&node.path, error),
                Ok(Standing::Right) => {
                    let (major, minor) = node.number;
                    self.add(&node.path, Outcome::Unchanged(format!("{major}:{minor}")));
                }
                Ok(stood) if node.making == Making::Forbidden => {
                    let parameter = match files.making {
                        Making::Forbidden => "ModifyDeviceFiles",
                        Making::Allowed => "DeviceFileModify",
                    };
                    forbidden.entry(parameter).or_default().push(not_right(&node, stood));
                }
                Ok(stood) => {
                    if let Standing::Stale(_) = stood {
                        self.replaced.push(node.path.clone());
                    }
                    self.add(&node.path, Outcome::Changed(done(&node, stood)));
                }
            }
        }
        for (parameter, nodes) in forbidden {
            let why = "no node is made, the driver's parameter forbids it";
            self.add(parameter, Outcome::Warned(format!("{why}: {}", nodes.join(", "))));
        }
        Ok(())
    }
}

fn no_driver() -> Error {
    Error::host("find NVIDIA's driver on this host: `nvidia` is neither loaded nor installed")
        .hint("install it for the kernel that runs now (`uname -r`), with the kernel's headers")
}

fn done(node: &WantedNode, stood: Standing) -> String {
    let (path, (major, minor)) = (&node.path, node.number);
    match stood {
        Standing::Stale((old, old_minor)) => {
            format!("replaced {path} ({major}:{minor}, was {old}:{old_minor})")
        }
        _ => format!("made {path} ({major}:{minor})"),
    }
}

fn not_right(node: &WantedNode, stood: Standing) -> String {
    let (path, (major, minor)) = (&node.path, node.number);
    match stood {
        Standing::Stale((old, old_minor)) => {
            format!("{path} is {old}:{old_minor} and should be {major}:{minor}")
        }
        _ => format!("{path} ({major}:{minor}) is missing"),
    }
}

/// Whether numbers of device nodes are written in the container's configuration. `dev[n]` has
/// none: Proxmox VE looks at the nodes at every start.
pub fn needs_numbers(journal: &Journal) -> bool {
    journal.state == State::Attached && journal.method == Method::Mount
}

/// True if the container shares something of its host.
pub fn shares(journal: &Journal) -> bool {
    let shares = journal.userland == Userland::Share || journal.cuda_image.is_some();
    journal.state == State::Attached && shares
}

/// True if the container runs and lacks something of the images that it sees.
///
/// # Errors
/// Host error when LXC does not answer, or an image cannot be looked at; install error when the
/// container stops meanwhile.
pub fn lacks_shared(session: &Session<'_>, journal: &Journal) -> Result<bool> {
    Ok(SharedInside::of(session, journal)?.is_some_and(|inside| !inside.problems.is_empty()))
}

/// Sets up in a running container what it lacks of the images that it sees: a driver that came with a
/// boot may have more files than the one before. `None` where it lacks nothing.
///
/// # Errors
/// As [`lacks_shared`], and install error when something cannot be set up.
pub fn complete_shared(session: &Session<'_>, journal: &Journal) -> Result<Option<Outcome>> {
    let Some(inside) = SharedInside::of(session, journal)? else { return Ok(None) };
    let Some(first) = inside.problems.first() else { return Ok(None) };
    let SharedInside { root, images, triplet, .. } = &inside;
    if let Some(path) = images.moved_aside(root, triplet).first() {
        let why = format!(
            "{first}; `{path}` is the container's own: `{}` moves it aside",
            remedy::sync(session.ctid)
        );
        return Ok(Some(Outcome::Warned(why)));
    }
    let look = Look { wait: 30, nodes: &[], packages: &[], checks: &[] };
    survey::set_up(session, look, images, triplet)?;
    match images.problems_but_names(root, triplet).first() {
        Some(problem) => {
            Err(Error::install("share what the host has").because(problem).on(session.ctid))
        }
        None => Ok(Some(Outcome::Changed(format!("set up anew: {first}")))),
    }
}

/// What a running container shares.
struct SharedInside {
    root: ContainerRoot,
    images: Images,
    triplet: &'static str,
    /// What it lacks.
    problems: Vec<String>,
}

impl SharedInside {
    /// `None` for a container that does not run, or whose images this host has no record of.
    fn of(session: &Session<'_>, journal: &Journal) -> Result<Option<Self>> {
        let Some(pid) = session.init_process()? else { return Ok(None) };
        let root = survey::root(session, pid)?;
        let triplet = wish::host_architecture()?.triplet();
        let images = tenant::images_inside(&session.host.paths, &root, journal)?;
        Ok(images.map(|images| {
            let problems = images.problems(&root, triplet);
            Self { root, images, triplet, problems }
        }))
    }
}

/// Corrects the numbers in a container's configuration; waits while `/etc/pve` is read-only.
///
/// # Errors
/// As [`configure::renumber`]; the interruption.
pub fn renumber(
    session: &Session<'_>,
    journal: &Journal,
    patience: &mut Patience,
    events: &dyn Events,
) -> Result<Outcome> {
    let config = session.runtime.locate(session.ctid)?;
    let pve = session.host.paths.pve();
    let mut told = false;
    patience.retry(
        || configure::renumber(session, journal),
        || is_writable(&config, &pve),
        || {
            if !std::mem::replace(&mut told, true) {
                let text = "waiting: `/etc/pve` is read-only, the cluster has no quorum yet";
                events.emit(Event::Note { text: text.to_owned() });
            }
            session.host.wait(Duration::from_secs(1))
        },
    )
}

/// Without quorum Proxmox's cluster file system shows its entries without the owner's write bit
/// (`PVE::Cluster::check_cfs_quorum` looks at the same one), and refuses root too.
fn is_writable(config: &Path, pve: &Path) -> bool {
    let directory = config.parent().unwrap_or(config);
    let has_quorum = !config.starts_with(pve)
        || std::fs::symlink_metadata(pve.join("local"))
            .is_ok_and(|local| local.mode() & 0o200 != 0);
    has_quorum && access(directory, AccessFlags::W_OK).is_ok()
}

/// The seconds that are left to wait.
#[derive(Debug)]
pub struct Patience {
    left: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self { left: QUORUM_WAIT }
    }
}

impl Patience {
    /// Tries again, after `wait` for a second, what failed while `is_writable` said no.
    ///
    /// # Errors
    /// The attempt's last one, or that of `wait`.
    pub fn retry<T>(
        &mut self,
        mut attempt: impl FnMut() -> Result<T>,
        mut is_writable: impl FnMut() -> bool,
        mut wait: impl FnMut() -> Result<()>,
    ) -> Result<T> {
        loop {
            // Asked on both sides: it may become writable while the attempt fails.
            let was_writable = is_writable();
            let error = match attempt() {
                Err(error) if !error.is_interrupted() => error,
                other => return other,
            };
            if self.left == 0 || (was_writable && is_writable()) {
                return Err(error);
            }
            self.left -= 1;
            wait()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::error::ExitCode;

    fn refused<T>() -> Result<T> {
        Err(Error::host("write `201.conf`"))
    }

    #[test]
    fn what_fails_while_the_configuration_is_read_only_is_tried_until_it_is_not() {
        let seconds = Cell::new(0);
        let writable = || seconds.get() >= 3;
        let done = Patience::default().retry(
            || if writable() { Ok(seconds.get()) } else { refused() },
            writable,
            || {
                seconds.set(seconds.get() + 1);
                Ok(())
            },
        );
        assert_eq!(done.unwrap(), 3);
    }

    #[test]
    fn what_became_writable_during_the_attempt_is_tried_again() {
        let (writable, attempts) = (Cell::new(false), Cell::new(0));
        let done = Patience::default().retry(
            || {
                attempts.set(attempts.get() + 1);
                if writable.replace(true) { Ok(()) } else { refused() }
            },
            || writable.get(),
            || Ok(()),
        );
        done.unwrap();
        assert_eq!(attempts.get(), 2);
    }

    #[test]
    fn waiting_ends_and_the_next_container_is_tried_once() {
        let (seconds, mut patience) = (Cell::new(0), Patience::default());
        let mut try_it = || {
            let wait = || {
                seconds.set(seconds.get() + 1);
                Ok(())
            };
            patience.retry(refused::<()>, || false, wait)
        };
        assert_eq!(try_it().unwrap_err().code(), ExitCode::Host);
        assert_eq!(seconds.get(), QUORUM_WAIT);
        try_it().unwrap_err();
        assert_eq!(seconds.get(), QUORUM_WAIT);
    }

    #[test]
    fn another_failure_is_not_tried_again() {
        let attempts = Cell::new(0);
        let attempt = || {
            attempts.set(attempts.get() + 1);
            refused::<()>()
        };
        Patience::default().retry(attempt, || true, || Ok(())).unwrap_err();
        assert_eq!(attempts.get(), 1);
    }

    #[test]
    fn an_interruption_ends_the_waiting() {
        let interrupted = || Err(Error::interrupted());
        let error = Patience::default().retry(refused::<()>, || false, interrupted).unwrap_err();
        assert!(error.is_interrupted());
    }
}
