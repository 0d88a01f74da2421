//! Gathers what [`crate::doctor`] judges by: the host's files, each container's configuration and
//! journal, and what a running one is inside, by its files and one call. Nothing is changed, no
//! lock is taken.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::apt::system;
use crate::architecture::Architecture;
use crate::container::config::{Dialect, LxcConfig};
use crate::container::passthrough::{DeviceNode, NodeKind};
use crate::ctid::Ctid;
use crate::doctor::lines::{self, Passed};
use crate::doctor::{
    Boot, CLibrary, ContainerEvidence, Diagnosis, HostEvidence, Inside, Machine, ModuleFile, State,
    Unread, examine,
};
use crate::engine::survey::{self, Look};
use crate::engine::{journal, wish};
use crate::error::{Error, Result};
use crate::facts::{Facts, NodeState};
use crate::gpu::{HostNode, PciGpu, Source};
use crate::host::Host;
use crate::host::devices::{self, Inventory};
use crate::host::paths::Paths;
use crate::host::rootfs::ContainerRoot;
use crate::host::runlog::RunLog;
use crate::host::service::UNIT;
use crate::runtime::{Runtime, Session};

/// The nodes of every driver of NVIDIA's.
const COMMON_NODES: [&str; 4] =
    ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"];
/// More than any text file here has.
const TEXT_LIMIT: u64 = 1 << 20;

/// Makes every check of the host and of these containers; `unlisted` is why there may be more of
/// them. What cannot be read is a finding.
pub fn diagnose(
    paths: &Paths,
    containers: &[ContainerEvidence],
    unlisted: Option<Error>,
) -> Diagnosis {
    let (inventory, errors) = Inventory::read_what_answers(paths);
    let errors = errors.into_iter().map(|(source, error)| (Some(source), error));
    let errors = errors.chain(unlisted.map(|error| (None, error)));
    let unread: Vec<Unread> = errors.map(|(source, error)| unread(source, error)).collect();
    let nodes = nodes(paths, &inventory, containers);
    let evidence = HostEvidence {
        module: inventory.module_version(),
        module_file: module_file(paths),
        gpus: &inventory.gpus,
        pci: &inventory.pci,
        nodes: &nodes,
        majors: &inventory.majors,
        capabilities: &inventory.capabilities,
        machines: &machines(paths, &inventory.pci),
        boot: &boot(paths),
        unread: &unread,
        lxc: lxc_major(paths),
    };
    examine(&evidence, containers)
}

/// The containers of this node that are looked at although nobody named one; one whose
/// configuration cannot be read too.
///
/// # Errors
/// Host error when they cannot be listed.
pub fn containers_of_interest(host: &Host, runtime: &dyn Runtime) -> Result<Vec<Ctid>> {
    let log = RunLog::none();
    let mut found = runtime.containers()?;
    found.retain(|ctid| is_of_interest(&Session { host, runtime, ctid, log: &log }));
    Ok(found)
}

/// What a container is, from outside and, where it has this first process, from inside.
///
/// # Errors
/// The interruption alone: what cannot be read is told in the evidence.
pub fn container(session: &Session<'_>, process: Result<Option<u32>>) -> Result<ContainerEvidence> {
    let (path, config, unread) = match configuration(session) {
        Ok((path, config)) => (path, config, None),
        Err(error) => {
            let config = LxcConfig::parse(&[], session.runtime.dialect());
            let path = format!("the configuration of {}", session.ctid.as_str());
            (path, config, Some(self::unread(None, error)))
        }
    };
    let state = match process {
        Err(error) => State::Unreachable(in_one_line(error)),
        Ok(None) => State::Stopped,
        // Which of its nodes are to be looked at, nobody knows.
        Ok(Some(_)) if unread.is_some() => State::Stopped,
        Ok(Some(pid)) => match ContainerRoot::of_process(pid) {
            Ok(root) => {
                let passed = lines::passed(&config.at_next_start());
                State::Running(Box::new(inside(session, &root, &passed)?))
            }
            Err(error) => State::Unreachable(format!("its files cannot be seen: {error}")),
        },
    };
    let journal = journal::load(&session.host.paths, session.ctid).map_err(in_one_line);
    let (ctid, pending) = (session.ctid.clone(), config.pending());
    let config = config.at_next_start();
    Ok(ContainerEvidence { ctid, path, config, pending, unread, journal, state })
}

/// By its journal, a damaged one too, or by any line of its configuration; a template never runs.
fn is_of_interest(session: &Session<'_>) -> bool {
    let has_journal = !matches!(journal::load(&session.host.paths, session.ctid), Ok(None));
    configuration(session).map_or(true, |(_, config)| {
        !config.is_template() && (has_journal || lines::concerns_nvidia(&config))
    })
}

fn configuration(session: &Session<'_>) -> Result<(String, LxcConfig)> {
    let path = session.runtime.locate(session.ctid)?;
    let bytes = std::fs::read(&path).map_err(|error| {
        Error::host(format!("read `{}`", path.display())).because(error).on(session.ctid)
    })?;
    let config = LxcConfig::parse(&bytes, session.runtime.dialect());
    Ok((path.display().to_string(), config))
}

fn inside(session: &Session<'_>, root: &ContainerRoot, passed: &[Passed]) -> Result<Inside> {
    let node = |node: &Passed| DeviceNode {
        path: node.inside.clone(),
        kind: NodeKind::File,
        numbers: Vec::new(),
    };
    let nodes: Vec<DeviceNode> = passed.iter().map(node).collect();
    let look = Look { wait: 0, nodes: &nodes, packages: &[], checks: &[] };
    let facts = match survey::inside(session, look) {
        Err(error) if error.is_interrupted() => return Err(error),
        other => other.map_err(in_one_line),
    };
    let answering = match &facts {
        Ok(facts) => answering(&session.host.paths, passed, facts),
        Err(_) => BTreeSet::new(),
    };
    let architecture = facts.as_ref().ok().map(|facts| facts.architecture);
    let (library_directory, libraries) =
        libraries(root, architecture.or_else(|| wish::host_architecture().ok()));
    Ok(Inside {
        answering,
        recorded: survey::record(root).and_then(|record| record.version),
        library_directory,
        libraries,
        c_library: c_library(root, facts.as_ref().ok()),
        has_docker: root.size("/usr/bin/dockerd").is_ok(),
        container_runtime: root
            .read_text("/etc/nvidia-container-runtime/config.toml", TEXT_LIMIT)
            .ok(),
        facts,
    })
}

/// The host's nodes that answer, of those that do not inside. Only these are opened: that wakes a
/// GPU.
fn answering(paths: &Paths, passed: &[Passed], facts: &Facts) -> BTreeSet<String> {
    let is_silent = |node: &&Passed| facts.nodes.get(&node.inside) == Some(&NodeState::NoDriver);
    let silent = passed.iter().filter(is_silent).map(|node| node.path.clone());
    silent.filter(|path| devices::answers(paths, path)).collect()
}

/// The directory of the container's libraries and the names in it: that of Debian and Ubuntu, or
/// of others.
fn libraries(root: &ContainerRoot, architecture: Option<Architecture>) -> (String, Vec<String>) {
    let own = architecture.map(|found| format!("/usr/lib/{}", found.triplet()));
    let others = ["/usr/lib64", "/usr/lib"].map(str::to_owned);
    let mut directories = own.into_iter().chain(others);
    let found = directories.find_map(|path| root.names(&path).ok().map(|names| (path, names)));
    found.unwrap_or_else(|| ("/usr/lib".to_owned(), Vec::new()))
}

/// glibc by its own tool; musl by its loader, which may also lie beside glibc.
fn c_library(root: &ContainerRoot, facts: Option<&Facts>) -> CLibrary {
    let has = |directory: &str, prefix: &str| {
        let names = root.names(directory).unwrap_or_default();
        names.iter().any(|name| name.starts_with(prefix))
    };
    let is_glibc = match facts {
        Some(facts) => facts.has_glibc,
        None => has("/lib64", "ld-linux-") || has("/lib", "ld-linux-"),
    };
    match is_glibc {
        true => CLibrary::Glibc,
        false if has("/lib", "ld-musl-") => CLibrary::Musl,
        false => CLibrary::Unknown,
    }
}

/// The host's nodes of NVIDIA's, and those that containers name.
fn nodes(paths: &Paths, inventory: &Inventory, containers: &[ContainerEvidence]) -> Vec<HostNode> {
    let mut nodes = inventory.nodes.clone();
    let mut named: BTreeSet<String> = COMMON_NODES.map(str::to_owned).into();
    for container in containers {
        named.extend(lines::sources(&container.config));
        named.extend(container.config.devices().into_iter().map(|device| device.path));
    }
    for path in named {
        if !nodes.iter().any(|node| node.path == path) {
            nodes.extend(node(paths, &path));
        }
    }
    nodes
}

/// The first number of LXC's version, by dpkg's record.
fn lxc_major(paths: &Paths) -> Option<u32> {
    let status = std::fs::read_to_string(paths.host_path("/var/lib/dpkg/status")).ok()?;
    let version = ["lxc-pve", "lxc"]
        .into_iter()
        .find_map(|package| system::installed_version(&status, package))?;
    let upstream = version.split_once(':').map_or(&*version, |(_, upstream)| upstream);
    upstream.split('.').next()?.parse().ok()
}

fn node(paths: &Paths, path: &str) -> Option<HostNode> {
    let metadata = std::fs::metadata(paths.host_path(path)).ok()?;
    let kind = metadata.file_type();
    let number = metadata.rdev();
    (kind.is_char_device() || kind.is_block_device()).then(|| HostNode {
        path: path.to_owned(),
        number: (nix::sys::stat::major(number), nix::sys::stat::minor(number)),
        mode: metadata.mode() & 0o7777,
    })
}

/// By the list that `depmod` makes of the running kernel's modules.
fn module_file(paths: &Paths) -> ModuleFile {
    let Ok(name) = nix::sys::utsname::uname() else { return ModuleFile::Unknown };
    let release = name.release().to_string_lossy();
    let list = paths.host_path(&format!("/lib/modules/{release}/modules.dep"));
    let Ok(text) = std::fs::read_to_string(list) else { return ModuleFile::Unknown };
    let is_module = |line: &str| {
        let path = line.split(':').next().unwrap_or_default();
        let file = path.rsplit('/').next().unwrap_or_default();
        // Debian's own packages name it after its series: `nvidia-current.ko`.
        file.starts_with("nvidia.ko") || file.starts_with("nvidia-current.ko")
    };
    match text.lines().any(is_module) {
        true => ModuleFile::Installed,
        false => ModuleFile::Absent,
    }
}

/// The virtual machines that claim a GPU (`/etc/pve/qemu-server`, `/run/qemu-server`).
fn machines(paths: &Paths, gpus: &[PciGpu]) -> Vec<Machine> {
    let vmids: BTreeSet<u32> = gpus.iter().flat_map(|gpu| gpu.claimed_by.clone()).collect();
    let machine = |vmid: u32| {
        let config = paths.pve().join("qemu-server").join(format!("{vmid}.conf"));
        let bytes = std::fs::read(config).unwrap_or_default();
        let config = LxcConfig::parse(&bytes, Dialect::Proxmox);
        let process = paths.host_path(&format!("/run/qemu-server/{vmid}.pid"));
        Machine { vmid, starts_on_boot: config.starts_on_boot(), is_running: process.exists() }
    };
    vmids.into_iter().map(machine).collect()
}

fn boot(paths: &Paths) -> Boot {
    let path = paths.units().join(UNIT);
    let mut modules_load = texts(paths, "/etc/modules-load.d", "conf");
    modules_load.extend(texts(paths, "/usr/lib/modules-load.d", "conf"));
    modules_load.extend(std::fs::read_to_string(paths.host_path("/etc/modules")));
    let rules = ["/etc/udev/rules.d", "/lib/udev/rules.d", "/usr/lib/udev/rules.d"];
    Boot {
        refresh_unit: std::fs::read_to_string(&path).ok(),
        refresh_path: path.display().to_string(),
        // The link leads to a path of the running system, whatever root it lies below.
        is_enabled: paths.units().join("multi-user.target.wants").join(UNIT).is_symlink(),
        units: enabled_units(paths),
        modules_load,
        udev_rules: rules.iter().flat_map(|directory| texts(paths, directory, "rules")).collect(),
    }
}

/// The texts of the units that another one wants or requires by a link, as `systemctl enable` makes
/// it; ours not among them.
fn enabled_units(paths: &Paths) -> Vec<String> {
    let is_of_links = |path: &Path| {
        let extension = path.extension().unwrap_or_default();
        extension == "wants" || extension == "requires"
    };
    let mut texts = Vec::new();
    for directory in entries(&paths.units()).filter(|path| is_of_links(path)) {
        for link in entries(&directory).filter(|link| !link.ends_with(UNIT)) {
            let text = match std::fs::read_link(&link) {
                Ok(target) if target.is_absolute() => {
                    std::fs::read_to_string(paths.host_path(&target.to_string_lossy()))
                }
                _ => std::fs::read_to_string(&link),
            };
            texts.extend(text);
        }
    }
    texts
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// The texts of the files with this extension in a directory; unreadable ones are as if missing.
fn texts(paths: &Paths, directory: &str, extension: &str) -> Vec<String> {
    let is_one = |path: &PathBuf| path.extension().is_some_and(|found| found == extension);
    let files = entries(&paths.host_path(directory)).filter(is_one);
    files.filter_map(|path| std::fs::read_to_string(path).ok()).collect()
}

fn unread(source: Option<Source>, error: Error) -> Unread {
    let hint = error.hints().first().cloned();
    Unread { source, why: in_one_line(error), hint }
}

/// An error as the reason of something that is told in a sentence.
fn in_one_line(error: Error) -> String {
    let causes = error.causes().iter().flat_map(|cause| cause.lines());
    let parts =
        std::iter::once(format!("failed to {}", error.what())).chain(causes.map(str::to_owned));
    parts.collect::<Vec<_>>().join(": ")
}
