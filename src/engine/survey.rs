//! What a container is: its configuration from outside, its system from inside, its driver file
//! by file.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::apt;
use crate::container::config::LxcConfig;
use crate::container::passthrough::{self, DeviceNode, Edit, NodeKind};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::facts::{self, Facts};
use crate::host::devices;
use crate::host::rootfs::ContainerRoot;
use crate::plan::DriverState;
use crate::recipe::Check;
use crate::runfile::backup_log::{self, BackupLog};
use crate::runtime::{Inside, Session};

/// What can be seen from outside.
#[derive(Debug)]
pub struct Outside {
    /// The configuration file.
    pub path: PathBuf,
    /// The digest of the file as it was read.
    pub digest: Digest,
    /// The change it needs.
    pub edit: Edit,
    /// The first process, when the container runs.
    pub pid: Option<u32>,
}

/// Looks at a container from outside, and refuses one that cannot be worked on.
///
/// # Errors
/// Not found, a template or a locked container.
pub fn outside(session: &Session<'_>, nodes: &[DeviceNode]) -> Result<Outside> {
    let path = session.runtime.locate(session.ctid)?;
    let bytes = std::fs::read(&path).map_err(|error| {
        Error::host(format!("read `{}`", path.display())).because(error).on(session.ctid)
    })?;
    let config = LxcConfig::parse(&bytes, session.runtime.dialect());
    refuse(&config).map_err(|error| error.on(session.ctid))?;
    let edit = passthrough::edit(&config, nodes);
    let pid = session.init_process()?;
    Ok(Outside { path, digest: Digest::of(&bytes), edit, pid })
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
    if let Some(lock) = config.lock() {
        return Err(Error::host(format!("work on it: Proxmox has locked it ({lock})"))
            .hint("wait until that task has ended; `pct unlock` only if it died"));
    }
    Ok(())
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

/// Looks at a running container from inside: one call.
///
/// # Errors
/// Install error when it cannot be looked into.
pub fn inside(session: &Session<'_>, look: Look<'_>) -> Result<Facts> {
    let nodes: Vec<&str> = look.nodes.iter().map(|node| node.path.as_str()).collect();
    let ran = session.run_inside(&Inside {
        script: facts::SCRIPT,
        arguments: vec![
            look.wait.to_string(),
            nodes.join(" "),
            look.packages.join(" "),
            [apt::PINS_PATH, apt::SOURCES_PATH, apt::KEY_PATH].join(" "),
            if look.checks.contains(&Check::NvidiaSmi) { "smi".to_owned() } else { String::new() },
        ],
        limit: Duration::from_secs(180),
    })?;
    Facts::parse(&ran.answer).map_err(|error| error.because(ran.ended).on(session.ctid))
}

/// Refuses a system that NVIDIA's userland cannot run on.
///
/// # Errors
/// Install error.
pub fn refuse_system(facts: &Facts) -> Result<()> {
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
            facts.architecture.triplet()
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

/// The driver without its files compared: the version in the installer's record.
pub fn recorded_driver(
    root: &ContainerRoot,
    wanted: &crate::version::DriverVersion,
) -> DriverState {
    match record(root).and_then(|record| record.version) {
        None => DriverState::Absent,
        Some(version) if &version == wanted => DriverState::Recorded,
        Some(version) => DriverState::Other(version),
    }
}

/// The installer's record, if there is one.
pub fn record(root: &ContainerRoot) -> Option<BackupLog> {
    let text = root.read_text(backup_log::PATH, 4 << 20).ok()?;
    Some(BackupLog::parse(&text))
}
