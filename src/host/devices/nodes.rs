//! The device nodes in `/dev`: which there are, and which of them an assignment takes.

use std::fs::{Metadata, OpenOptions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::{Inventory, names_in};
use crate::container::passthrough::{DeviceNode, NodeKind};
use crate::error::{Error, Result};
use crate::gpu::{Assigned, HostNode, WrongMajor, wrong_major};
use crate::host::paths::Paths;
use crate::remedy;

/// Nodes that every container with a GPU needs.
const CONTROL: [&str; 3] = ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"];
/// One that it gets where the host has it: graphics need it.
const MODESET: &str = "/dev/nvidia-modeset";
/// The directory of the nodes of capabilities.
const CAPABILITIES: &str = "/dev/nvidia-caps";

/// NVIDIA's nodes in `/dev` and `/dev/nvidia-caps`, by path.
pub(super) fn list(dev: &Path) -> Result<Vec<HostNode>> {
    let mut nodes = Vec::new();
    for (directory, prefix) in [("", "nvidia"), ("nvidia-caps/", "")] {
        for name in names_in(&dev.join(directory))? {
            let path = format!("/dev/{directory}{name}");
            let Some(found) = character_device(&dev.join(directory).join(&name)) else { continue };
            if name.starts_with(prefix) {
                let mode = found.permissions().mode() & 0o7777;
                nodes.push(HostNode { path, number: number(&found), mode });
            }
        }
    }
    nodes.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(nodes)
}

/// The nodes that a container needs for these GPUs: each GPU's own, the control nodes, and those of
/// capabilities. For whole GPUs that is the directory `nvidia-caps`, which LXC skips where it is
/// missing, with the numbers of their own MIG instances: never those of `mig/config`, with which a
/// GPU is divided anew, and its kind. As soon as a MIG instance is named, it is exactly the nodes of
/// the instances that are meant.
///
/// # Errors
/// Host error naming every node that the host lacks, or whose major is not its driver's.
pub fn nodes_for(
    paths: &Paths,
    inventory: &Inventory,
    assigned: &[Assigned],
) -> Result<Vec<DeviceNode>> {
    let parts_only = assigned.iter().any(|assigned| !assigned.instances.is_empty());
    let mut wanted: Vec<String> = assigned.iter().map(|assigned| assigned.gpu.node()).collect();
    wanted.extend(CONTROL.map(str::to_owned));
    if parts_only {
        wanted.extend(assigned.iter().flat_map(nodes_of_instances));
    }
    let mut nodes = Vec::new();
    let mut missing = Vec::new();
    for path in wanted {
        match character_device(&paths.host_path(&path)) {
            Some(found) => nodes.push(file(path, &found)),
            None => missing.push(format!("`{path}`")),
        }
    }
    if let Some(found) = character_device(&paths.host_path(MODESET)) {
        nodes.push(file(MODESET.to_owned(), &found));
    }
    if !parts_only {
        let instances: Vec<String> = assigned.iter().flat_map(nodes_of_instances).collect();
        let is_meant = |(_, minor): &(u64, u64)| {
            instances.contains(&format!("{CAPABILITIES}/nvidia-cap{minor}"))
        };
        let mut all = directory(paths);
        all.numbers.retain(is_meant);
        nodes.push(all);
    }
    let stale: Vec<String> = nodes.iter().filter_map(|node| staleness(inventory, node)).collect();
    refuse(&missing, &stale)?;
    Ok(nodes)
}

/// The numbers that a node has now, or the nodes in a directory, in order; none where it is missing.
pub fn numbers(paths: &Paths, node: &DeviceNode) -> Vec<(u64, u64)> {
    match node.kind {
        NodeKind::File => {
            character_device(&paths.host_path(&node.path)).iter().map(number).collect()
        }
        NodeKind::Directory => directory(paths).numbers,
    }
}

/// Whether a driver answers behind a node on the host itself.
pub fn answers(paths: &Paths, node: &str) -> bool {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    options.open(paths.host_path(node)).is_ok()
}

/// The nodes of the instances that are meant: of a whole GPU all that it has.
fn nodes_of_instances(assigned: &Assigned) -> Vec<String> {
    let instances = match assigned.instances.is_empty() {
        true => &assigned.gpu.mig,
        false => &assigned.instances,
    };
    let mut nodes = Vec::new();
    for node in instances.iter().flat_map(|instance| instance.nodes()) {
        // Compute instances of one GPU instance share its node.
        if !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    nodes
}

fn file(path: String, found: &Metadata) -> DeviceNode {
    DeviceNode { path, kind: NodeKind::File, numbers: vec![number(found)] }
}

/// The nodes of capabilities together. The driver calls each after its minor; what has another name
/// is not the driver's, and a `dev[n]` made of its number would name a node that is not there.
fn directory(paths: &Paths) -> DeviceNode {
    let path = CAPABILITIES.to_owned();
    let entries = std::fs::read_dir(paths.host_path(&path)).into_iter().flatten().flatten();
    let found = entries.filter_map(|entry| {
        let found = number(&character_device(&entry.path())?);
        (entry.file_name() == *format!("nvidia-cap{}", found.1)).then_some(found)
    });
    let mut numbers: Vec<(u64, u64)> = found.collect();
    numbers.sort_unstable();
    DeviceNode { path, kind: NodeKind::Directory, numbers }
}

/// Why a node leads to no driver, or to another one: a major that was given out at an earlier load
/// of the module.
fn staleness(inventory: &Inventory, node: &DeviceNode) -> Option<String> {
    let wrong = |(major, _): &(u64, u64)| {
        wrong_major(&inventory.majors, &node.path, *major).map(|wrong| (*major, wrong))
    };
    let (major, wrong) = node.numbers.iter().find_map(wrong)?;
    let what = match node.kind {
        NodeKind::File => format!("`{}`", node.path),
        NodeKind::Directory => format!("a node in `{}`", node.path),
    };
    Some(match wrong {
        WrongMajor::DriverHas(expected) => {
            format!("{what} has major {major}, its driver {expected}")
        }
        WrongMajor::NoDriver => {
            format!("{what} leads nowhere: the module `nvidia-uvm` is not loaded")
        }
    })
}

fn refuse(missing: &[String], stale: &[String]) -> Result<()> {
    let error = match (missing.is_empty(), stale.is_empty()) {
        (true, true) => return Ok(()),
        (false, _) => Error::host(format!("find {} on this host", missing.join(", "))),
        (true, false) => Error::host("use the device nodes of this host: they are out of date"),
    };
    let error = stale.iter().fold(error, |error, why| error.because(why));
    let refresh = remedy::refresh();
    Err(error.hint(format!("`{refresh}` makes the nodes anew when the driver is installed")))
}

fn character_device(path: &Path) -> Option<Metadata> {
    let found = std::fs::metadata(path).ok()?;
    found.file_type().is_char_device().then_some(found)
}

fn number(found: &Metadata) -> (u64, u64) {
    (nix::sys::stat::major(found.rdev()), nix::sys::stat::minor(found.rdev()))
}
