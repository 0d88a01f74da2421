//! What a container is: its configuration from outside, its system from inside, its driver file
//! by file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::answer::Answer;
use crate::apt::{self, system, system::Presence};
use crate::architecture::Architecture;
use crate::container::config::{Dialect, LineKind, LxcConfig, PendingChange};
use crate::container::passthrough::{
    self, DeviceNode, Edit, Method, NodeKind, OwnLine, Users, Wanted,
};
use crate::container::shared::SharedTree;
use crate::engine::dpkg;
use crate::engine::shared::{self, CudaImage};
use crate::engine::tenant::{self, Images, Ways};
use crate::engine::wish::Wish;
use crate::engine::{journal, pending};
use crate::error::{Error, Result};
use crate::facts::{self, Facts};
use crate::host::devices;
use crate::host::rootfs::ContainerRoot;
use crate::journal::{Journal, State, rootfs};
use crate::plan::{DriverState, Reach};
use crate::recipe::{Check, CudaMethod};
use crate::runfile::backup_log::{self, BackupLog};
use crate::runtime::{DeviceEntries, Inside, Ran, Session};

/// The largest file of Proxmox's cluster file system, in bytes (pve-cluster, `memdb.h`).
const LARGEST: usize = 1 << 20;

/// A configuration file as it was read.
#[derive(Debug)]
pub struct Configuration {
    /// The file.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The same, taken apart.
    pub config: LxcConfig,
}

impl Configuration {
    /// Reads the configuration of a container.
    ///
    /// # Errors
    /// Not found, or host error when it cannot be read.
    pub fn read(session: &Session<'_>) -> Result<Self> {
        let path = session.runtime.locate(session.ctid)?;
        let bytes = std::fs::read(&path).map_err(|error| {
            Error::host(format!("read `{}`", path.display())).because(error).on(session.ctid)
        })?;
        let config = LxcConfig::parse(&bytes, session.runtime.dialect());
        Ok(Self { path, bytes, config })
    }
}

/// What can be seen from outside.
#[derive(Debug)]
pub struct Outside {
    /// The configuration file.
    pub configuration: Configuration,
    /// The change it needs.
    pub edit: Edit,
    /// How the change reaches the container.
    pub reach: Reach,
    /// Who inside may use nodes that Proxmox VE makes.
    users: Users,
    /// The first process, when the container runs.
    pub pid: Option<u32>,
    /// The journal as it is.
    pub before: Option<Journal>,
    /// The journal as it should be.
    pub journal: Journal,
    /// How it is to have driver and CUDA.
    pub ways: Ways,
    /// The image of CUDA that it is to share, as far as it is known.
    pub cuda: Option<CudaImage>,
    /// The trees of the host's that it is to share.
    trees: Vec<SharedTree>,
}

impl Outside {
    /// The lines of somebody else's that are as nvstage would write them, and become its own.
    pub fn adopted(&self) -> Vec<&str> {
        let known = self.before.as_ref().map_or(&[][..], |journal| &journal.lines);
        let is_new = |own: &&OwnLine| {
            let is_known = known.iter().any(|line| line.text == own.text);
            let corrected = &self.edit.lines_corrected;
            let text = own.text.as_ref();
            !is_known
                && !text.is_some_and(|text| self.edit.lines_added.contains(text))
                && !corrected.iter().any(|(_, new)| Some(new) == text)
        };
        let lines = self.edit.own.iter().filter(|own| own.replaced.is_none()).filter(is_new);
        lines.filter_map(|own| own.text.as_deref()).collect()
    }

    /// What a configuration still lacks of what was wanted of this one.
    ///
    /// # Errors
    /// As [`passthrough::edit`].
    pub fn lacking_in(&self, config: &LxcConfig, wish: &Wish) -> Result<Edit> {
        let wanted = Wanted {
            nodes: &wish.nodes,
            method: self.journal.method,
            users: self.users,
            majors: &wish.majors(),
            trees: &self.trees,
            own: &self.journal.lines,
            driver_lines: wish.driver_lines,
        };
        passthrough::edit(config, &wanted)
    }

    /// Why it needs a restart that an earlier run has left pending.
    pub fn pending_restart(&self) -> Option<&str> {
        self.journal.pending_restart.as_ref().map(|pending| pending.why.as_str())
    }

    /// Why a running container is going to be restarted, as far as that can be seen from outside.
    pub fn foreseen_restart(&self, session: &Session<'_>, wish: &Wish) -> Option<String> {
        let pid = self.pid?;
        if self.edit.changed() && self.reach == Reach::AtStart {
            return Some("the configuration changes".to_owned());
        }
        if let Some(why) = self.pending_restart() {
            return Some(why.to_owned());
        }
        let root = root(session, pid).ok()?;
        let added = &self.edit.lines_added;
        let is_added = |path: &str| added.iter().any(|line| line.contains(path));
        let mut nodes = wish.nodes.iter().filter(|node| node.kind == NodeKind::File);
        let missing =
            |node: &&DeviceNode| !is_added(&node.path) && root.identity(&node.path).is_err();
        let missing = nodes.find(missing)?;
        Some(format!("it was started without `{}` as configured", missing.path))
    }

    /// Whether every node is one that the change brings: none of them can be stale in a container
    /// that runs.
    pub fn brings_every_node(&self, wish: &Wish) -> bool {
        let added = self.edit.devices_while_running().unwrap_or_default();
        let path = |value: &str| value.split(',').next().unwrap_or_default().to_owned();
        let paths: Vec<String> = added.iter().map(|(_, value)| path(value)).collect();
        let mut nodes = wish.nodes.iter().filter(|node| node.kind == NodeKind::File);
        nodes.all(|node| paths.contains(&node.path))
    }
}

/// Looks at a container from outside, and refuses one that cannot be worked on.
///
/// Which `cuda` it is to share is known when it was looked into; before that it keeps what it has.
///
/// # Errors
/// Not found, a template or a locked container, a way of passing devices that this host lacks.
pub fn outside(session: &Session<'_>, wish: &Wish, cuda: Option<&CudaImage>) -> Result<Outside> {
    let configuration = Configuration::read(session)?;
    refuse(&configuration.config).map_err(|error| error.on(session.ctid))?;
    let pid = session.init_process()?;
    let before = journal::of(&session.host.paths, session.ctid, &configuration.config)?;
    let method = method(wish, before.as_ref());
    if let (Method::Mount, Some(group)) = (method, wish.recipe.group()) {
        let what = format!("let the group `{group}` alone use the devices: a mount has no group");
        return Err(Error::input(what).hint("`--passthrough device` has one").on(session.ctid));
    }
    let config = &configuration.config;
    let ways = Ways::of(&wish.recipe, before.as_ref(), config);
    let known = tenant::image_of(before.as_ref(), config);
    let known = match (cuda, known.filter(|_| ways.cuda == CudaMethod::Share)) {
        (None, Some(id)) => shared::cuda_by_id(&session.host.paths, &id)?,
        _ => None,
    };
    let cuda = cuda.or(known.as_ref());
    let trees = ways.trees(cuda);
    let entries = entries(session, method)?;
    let users = match method {
        Method::Device => users(session, wish, pid)?,
        Method::Mount => Users::Everybody,
    };
    let wanted = Wanted {
        nodes: &wish.nodes,
        method,
        users,
        majors: &wish.majors(),
        trees: &trees,
        own: before.as_ref().map_or(&[], |journal| &journal.lines),
        driver_lines: wish.driver_lines,
    };
    let edit = passthrough::edit(&configuration.config, &wanted)
        .map_err(|error| error.on(session.ctid))?;
    refuse_too_large(session, &configuration.path, edit.config.to_bytes().len())?;
    let reach = match pid {
        Some(_) => reach(config, &edit, entries.as_ref()),
        None => Reach::AtStart,
    };
    let mut journal = before.clone().unwrap_or_else(|| Journal::new(session.ctid));
    journal.rootfs = rootfs(&configuration.config);
    journal.state = State::Attached;
    write_down(wish, &mut journal);
    journal.method = method;
    journal.lines.clone_from(&edit.own);
    (journal.userland, journal.cuda) = (ways.userland, ways.cuda);
    journal.cuda_image = match ways.cuda {
        CudaMethod::Share => cuda.map(|image| image.id.clone()).or(journal.cuda_image),
        CudaMethod::Apt => None,
    };
    let is_pending = |pid: u32| pending::of(&session.host.paths, pid, before.as_ref()?);
    journal.pending_restart = pid.and_then(is_pending).cloned();
    let cuda = cuda.cloned();
    Ok(Outside { configuration, edit, reach, users, pid, before, journal, ways, cuda, trees })
}

/// Writes down what was asked for.
fn write_down(wish: &Wish, journal: &mut Journal) {
    wish.recipe.origin().clone_into(&mut journal.recipe);
    journal.recipe_text = Some(wish.recipe.text().to_owned());
    wish.recipe.profile().clone_into(&mut journal.profile);
    wish.recipe.settings().clone_into(&mut journal.settings);
    journal.gpus = wish.assignment.to_string();
    journal.nodes.clone_from(&wish.nodes);
}

/// When an edit reaches a container that runs.
fn reach(config: &LxcConfig, edit: &Edit, entries: Option<&DeviceEntries>) -> Reach {
    // `pct set` writes the whole file anew, without what it does not understand.
    let is_understood = config.lines().all(|line| line.kind != LineKind::Other);
    // A device that goes at the next start is still there: it cannot be plugged in once more.
    let is_free = !config.pending().iter().any(PendingChange::is_of_device);
    let is_plugged = entries == Some(&DeviceEntries::Running) && is_understood && is_free;
    match !edit.changes_devices() || (is_plugged && edit.devices_while_running().is_some()) {
        true => Reach::WhileRunning,
        false => Reach::AtStart,
    }
}

/// How devices are passed: as the user or the recipe says, or else as they are now.
fn method(wish: &Wish, before: Option<&Journal>) -> Method {
    let now = before.filter(|journal| journal.state == State::Attached);
    wish.recipe.passthrough().or(now.map(|journal| journal.method)).unwrap_or_default()
}

/// What this host can do with `dev[n]`, where they are wanted.
fn entries(session: &Session<'_>, method: Method) -> Result<Option<DeviceEntries>> {
    if method == Method::Mount {
        return Ok(None);
    }
    match session.runtime.device_entries() {
        DeviceEntries::Unknown(why) => {
            Err(Error::host("pass devices by `dev[n]`: this host does not know them")
                .because(why)
                .hint("Proxmox VE 8.1 and newer has them; `--passthrough mount` works everywhere")
                .on(session.ctid))
        }
        entries => Ok(Some(entries)),
    }
}

/// The group that the recipe names, by its number inside.
fn users(session: &Session<'_>, wish: &Wish, pid: Option<u32>) -> Result<Users> {
    let Some(group) = wish.recipe.group() else { return Ok(Users::Everybody) };
    let fail = |why: &str| {
        Error::input(format!("look up the group `{group}` inside: {why}")).on(session.ctid)
    };
    let pid = pid.ok_or_else(|| {
        fail("the container is stopped").hint(format!("start it: `pct start {}`", session.ctid))
    })?;
    let text = root(session, pid)?
        .read_text("/etc/group", 1 << 20)
        .map_err(|error| fail("`/etc/group` cannot be read").because(error))?;
    let number = |line: &str| {
        let mut fields = line.split(':');
        (fields.next()? == group).then(|| fields.nth(1)?.parse().ok())?
    };
    text.lines().find_map(number).map(Users::Group).ok_or_else(|| fail("there is none"))
}

/// Refuses a configuration that must not be worked on.
///
/// # Errors
/// Invalid input for a template, host error for one that Proxmox has locked.
pub fn refuse(config: &LxcConfig) -> Result<()> {
    if config.is_template() {
        return Err(Error::input("work on it: it is a template, which can never run")
            .hint("clone it, and provision the clone"));
    }
    refuse_locked(config)
}

/// Refuses a configuration that Proxmox has locked.
///
/// # Errors
/// Host error.
pub fn refuse_locked(config: &LxcConfig) -> Result<()> {
    if let Some(lock) = config.lock() {
        return Err(Error::host(format!("work on it: Proxmox has locked it ({lock})"))
            .hint("wait until that task has ended; `pct unlock` only if it died"));
    }
    Ok(())
}

/// Refuses a configuration that Proxmox's cluster file system has no room for.
///
/// # Errors
/// Host error.
pub fn refuse_too_large(session: &Session<'_>, path: &Path, bytes: usize) -> Result<()> {
    if session.runtime.dialect() != Dialect::Proxmox || bytes <= LARGEST {
        return Ok(());
    }
    let why = format!("it would have {bytes} bytes, Proxmox's cluster file system takes {LARGEST}");
    Err(Error::host(format!("write `{}`", path.display()))
        .because(why)
        .hint("shorten the container's notes, or delete snapshots")
        .on(session.ctid))
}

/// What can be told of the system inside without a process there.
#[derive(Debug, Clone)]
pub struct System {
    /// The distribution, `debian12`.
    pub distribution: String,
    /// Packages of which it has something.
    pub packages: BTreeMap<String, Presence>,
    /// The name of its directories of libraries.
    pub triplet: &'static str,
}

/// Looks at the system of a running container from outside, and refuses one that NVIDIA's userland
/// cannot run on.
///
/// # Errors
/// Install error.
pub fn system(root: &ContainerRoot, architecture: Architecture) -> Result<System> {
    let text = |path: &str| root.read_text(path, 64 << 20).unwrap_or_default();
    let triplet = architecture.triplet();
    let facts = Found {
        has_glibc: root.open(&format!("/usr/lib/{triplet}/libc.so.6")).is_ok(),
        has_ldconfig: ["/usr/sbin/ldconfig", "/sbin/ldconfig"].iter().any(|p| root.open(p).is_ok()),
        has_debian_layout: root.identity(&format!("/usr/lib/{triplet}")).is_ok(),
    };
    refuse_found(facts, architecture)?;
    let distribution = system::distribution(&text("/etc/os-release"));
    let packages = system::presence(&dpkg::records(root));
    Ok(System { distribution, packages, triplet })
}

/// What to look for inside.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    /// Seconds to wait for the system to be up.
    pub wait: u32,
    /// Nodes to open.
    pub nodes: &'a [DeviceNode],
    /// Packages to ask dpkg for.
    pub packages: &'a [String],
    /// What will be checked with it: `nvidia-smi` is asked for its check alone.
    pub checks: &'a [Check],
}

impl Look<'_> {
    /// The arguments of the script, as [`facts::SCRIPT`] has them at its head.
    pub fn arguments(&self) -> Vec<String> {
        let nodes: Vec<&str> = self.nodes.iter().map(|node| node.path.as_str()).collect();
        vec![
            self.wait.to_string(),
            nodes.join(" "),
            self.packages.join(" "),
            [apt::PINS_PATH, apt::SOURCES_PATH, apt::KEY_PATH].join(" "),
            if self.checks.contains(&Check::NvidiaSmi) { "smi".to_owned() } else { String::new() },
        ]
    }
}

/// Looks at a running container from inside: one call.
///
/// # Errors
/// Install error when it cannot be looked into.
pub fn inside(session: &Session<'_>, look: Look<'_>) -> Result<Facts> {
    let ran = look_by(session, look, (facts::SCRIPT, &[]))?;
    Facts::parse(&ran.answer).map_err(|error| error.because(ran.ended).on(session.ctid))
}

/// What became of the container's own files where something that is shared belongs.
#[derive(Debug, Default)]
pub struct OwnFiles {
    /// Paths where it stays.
    pub kept: Vec<String>,
    /// What was moved aside: path, and where it is now.
    pub aside: Vec<String>,
    /// What was put back.
    pub back: Vec<String>,
    /// What was moved aside once, and stays there: at its path is something else now.
    pub left: Vec<String>,
}

impl OwnFiles {
    fn of(answer: &Answer) -> Self {
        let all = |key| answer.all(key).map(str::to_owned).collect();
        Self { kept: all("kept"), aside: all("aside"), back: all("back"), left: all("left") }
    }

    /// What there is to tell of them.
    pub fn remarks(&self) -> Vec<String> {
        let pair = |text: &'_ String| -> (String, String) {
            let (path, place) = text.split_once(' ').unwrap_or((text, text));
            (path.to_owned(), place.to_owned())
        };
        let kept = self.kept.iter();
        let kept = kept.map(|path| format!("kept `{path}`: it is the container's own"));
        let aside = self.aside.iter().map(pair).map(|(path, place)| {
            format!(
                "moved the container's own `{path}` to `{place}`: `detach --uninstall` puts it back"
            )
        });
        let back = self.back.iter().map(|path| format!("put the container's own `{path}` back"));
        let left = self.left.iter().map(pair).map(|(path, place)| {
            format!("left `{place}`: at `{path}`, where it was, is something else now")
        });
        kept.chain(aside).chain(back).chain(left).collect()
    }
}

/// Puts right inside what is shared, and looks at the container after that: one call.
///
/// # Errors
/// Install error when something cannot be put right, or as [`inside`].
pub fn set_up(
    session: &Session<'_>,
    look: Look<'_>,
    images: &Images,
    triplet: &str,
) -> Result<(Facts, OwnFiles)> {
    let ran = look_by(session, look, (tenant::SET_UP, &images.arguments(triplet)))?;
    let failed = || Error::install("set up inside what the host shares").on(session.ctid);
    dpkg::refuse_busy(&ran.answer, failed)?;
    if !ran.answer.has("shared") {
        let what = ran.answer.get("failed").unwrap_or("the script");
        return Err(failed()
            .because(format!("`{what}` failed, {}", ran.ended))
            .hint("is there room in the container's root file system?")
            .hint(session.log.whole_output("the script")));
    }
    let facts =
        Facts::parse(&ran.answer).map_err(|error| error.because(ran.ended).on(session.ctid))?;
    Ok((facts, OwnFiles::of(&ran.answer)))
}

fn look_by(
    session: &Session<'_>,
    look: Look<'_>,
    (script, more): (&'static str, &[String]),
) -> Result<Ran> {
    let mut arguments = look.arguments();
    arguments.extend_from_slice(more);
    // What changes something waits for another installer that is at work.
    let limit = Duration::from_secs(if more.is_empty() { 180 } else { 1200 });
    session.run_inside(&Inside { script, arguments, limit })
}

/// Refuses a system that NVIDIA's userland cannot run on.
///
/// # Errors
/// Install error.
pub fn refuse_system(facts: &Facts) -> Result<()> {
    let Facts { has_glibc, has_ldconfig, has_debian_layout, .. } = *facts;
    refuse_found(Found { has_glibc, has_ldconfig, has_debian_layout }, facts.architecture)
}

/// What NVIDIA's userland needs, and whether it is there.
#[derive(Debug, Clone, Copy)]
struct Found {
    has_glibc: bool,
    has_ldconfig: bool,
    has_debian_layout: bool,
}

fn refuse_found(facts: Found, architecture: Architecture) -> Result<()> {
    if !facts.has_glibc {
        let what = "install NVIDIA's libraries: the container's C library is not glibc";
        return Err(Error::install(what).hint("use a Debian or Ubuntu container"));
    }
    if !facts.has_ldconfig {
        return Err(Error::install("install NVIDIA's libraries: the container has no `ldconfig`"));
    }
    if !facts.has_debian_layout {
        return Err(Error::install(format!(
            "install NVIDIA's libraries: the container has no `/usr/lib/{}`",
            architecture.triplet()
        ))
        .hint("use a Debian or Ubuntu container"));
    }
    Ok(())
}

/// The nodes behind which a driver answers on the host itself. Opening a node of a GPU wakes it,
/// so only those are tried that a container could not open.
pub fn answering(session: &Session<'_>, nodes: &[DeviceNode], facts: &Facts) -> BTreeSet<String> {
    use crate::facts::NodeState::NoDriver;
    nodes
        .iter()
        .filter(|node| node.kind == NodeKind::File)
        .filter(|node| facts.nodes.get(&node.path) == Some(&NoDriver))
        .filter(|node| devices::answers(&session.host.paths, &node.path))
        .map(|node| node.path.clone())
        .collect()
}

/// A handle on the root of the running container.
///
/// # Errors
/// Install error when the container is gone.
pub fn root(session: &Session<'_>, pid: u32) -> Result<ContainerRoot> {
    ContainerRoot::of_process(pid).map_err(|error| {
        Error::install("look at the container's files: it stopped meanwhile")
            .because(error)
            .on(session.ctid)
    })
}

/// The driver without its files compared: the version in the installer's record, if all that it names
/// is there and `journal` tells of no installation that is not finished.
pub fn recorded_driver(
    root: &ContainerRoot,
    wanted: &crate::version::DriverVersion,
    journal: Option<&Journal>,
) -> DriverState {
    let Some(record) = record(root) else { return DriverState::Absent };
    let unfinished = journal.and_then(|journal| journal.unfinished.as_ref());
    match &record.version {
        None => DriverState::Absent,
        Some(version) if version != wanted => DriverState::Other(version.clone()),
        Some(_) => {
            match (unfinished.filter(|work| work.driver.is_some()), lacking(root, &record)) {
                (Some(unfinished), _) => DriverState::Damaged(vec![unfinished.text()]),
                (None, lacking) if !lacking.is_empty() => DriverState::Damaged(lacking),
                (None, _) => DriverState::Recorded,
            }
        }
    }
}

/// What the installer's record names and the container has not; no file is read.
pub fn lacking(root: &ContainerRoot, record: &BackupLog) -> Vec<String> {
    let is_there = |path: &&str| root.identity(path).is_ok() || root.link_target(path).is_ok();
    let missing = record.installed().filter(|path| !is_there(path));
    missing.map(|path| format!("`{path}` is missing")).collect()
}

/// The installer's record, if there is one.
pub fn record(root: &ContainerRoot) -> Option<BackupLog> {
    let text = root.read_text(backup_log::PATH, 4 << 20).ok()?;
    Some(BackupLog::parse(&text))
}
