//! The GPUs of the host and their device nodes, from the kernel's own files; nothing of the
//! driver's userland is run.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::container::passthrough::{DeviceNode, NodeKind};
use crate::error::{Error, Result};
use crate::gpu::{Capability, Gpu, HostNode, ModuleFlavour, PciGpu, parse_module_version};
use crate::host::paths::Paths;
use crate::version::DriverVersion;

/// What the kernel says of NVIDIA hardware.
#[derive(Debug, Clone)]
pub struct Inventory {
    /// The loaded kernel module.
    pub module: Option<(DriverVersion, ModuleFlavour)>,
    /// The GPUs that the module drives, in PCI order.
    pub gpus: Vec<Gpu>,
    /// Every NVIDIA display controller on the PCI bus, whatever drives it, in PCI order.
    pub pci: Vec<PciGpu>,
    /// NVIDIA's device nodes in `/dev` and `/dev/nvidia-caps`, by path.
    pub nodes: Vec<HostNode>,
    /// The majors of character devices in `/proc/devices`: name to major. `nvidia-uvm` and
    /// `nvidia-caps` have other ones after every boot.
    pub majors: BTreeMap<String, u64>,
    /// What `/proc/driver/nvidia/capabilities` offers.
    pub capabilities: Vec<Capability>,
}

impl Inventory {
    /// Reads `/proc/driver/nvidia`; where no module is loaded, the nodes `/dev/nvidia<minor>` are
    /// taken for the GPUs.
    ///
    /// # Errors
    /// Host error when a file of the kernel module cannot be understood.
    pub fn read(paths: &Paths) -> Result<Self> {
        let version = paths.proc_nvidia().join("version");
        let module = match std::fs::read_to_string(&version) {
            Ok(text) => Some(parse_module_version(&text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(unreadable(&version, &error)),
        };
        let mut gpus = gpus_of_module(&paths.proc_nvidia().join("gpus"))?;
        if gpus.is_empty() && module.is_none() {
            gpus = gpus_of_nodes(&paths.dev());
        }
        for (index, gpu) in (0..).zip(&mut gpus) {
            gpu.index = index;
        }
        Ok(Self {
            module,
            gpus,
            pci: Vec::new(),
            nodes: Vec::new(),
            majors: BTreeMap::new(),
            capabilities: Vec::new(),
        })
    }

    /// The loaded module's version.
    pub fn module_version(&self) -> Option<&DriverVersion> {
        self.module.as_ref().map(|(version, _)| version)
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    Error::host(format!("read `{}`", path.display())).because(error)
}

fn gpus_of_module(directory: &Path) -> Result<Vec<Gpu>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|error| unreadable(directory, &error))?,
    };
    let mut gpus = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path().join("information");
        let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&path, &error))?;
        gpus.push(Gpu::parse_information(&text)?);
    }
    gpus.sort_by(|a, b| a.pci_address.cmp(&b.pci_address));
    Ok(gpus)
}

fn gpus_of_nodes(dev: &Path) -> Vec<Gpu> {
    let names = std::fs::read_dir(dev).into_iter().flatten().flatten();
    let mut minors: Vec<u32> = names
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("nvidia")?.parse().ok())
        .collect();
    minors.sort_unstable();
    let unknown = |minor| Gpu {
        index: 0,
        minor,
        pci_address: String::new(),
        uuid: None,
        model: None,
        mig: Vec::new(),
    };
    minors.into_iter().map(unknown).collect()
}

/// The nodes that a container needs for these GPUs: each GPU's own, the control nodes, and the
/// directory `nvidia-caps`, which LXC skips where it is missing.
///
/// # Errors
/// Host error naming every node that the host lacks.
pub fn nodes_for(paths: &Paths, gpus: &[Gpu]) -> Result<Vec<DeviceNode>> {
    let mut wanted: Vec<String> =
        gpus.iter().map(|gpu| format!("/dev/nvidia{}", gpu.minor)).collect();
    wanted
        .extend(["nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"].map(|name| format!("/dev/{name}")));
    let mut nodes = Vec::new();
    let mut missing = Vec::new();
    for path in wanted {
        match device_number(&paths.host_path(&path)) {
            Some(number) => {
                nodes.push(DeviceNode { path, kind: NodeKind::File, numbers: vec![number] })
            }
            None => missing.push(format!("`{path}`")),
        }
    }
    if !missing.is_empty() {
        return Err(Error::host(format!("find {} on this host", missing.join(", ")))
            .hint("`modprobe nvidia-uvm && nvidia-modprobe -u -c 0` makes the nodes when the driver is installed"));
    }
    let modeset = "/dev/nvidia-modeset".to_owned();
    if let Some(number) = device_number(&paths.host_path(&modeset)) {
        nodes.push(DeviceNode { path: modeset, kind: NodeKind::File, numbers: vec![number] });
    }
    let caps = "/dev/nvidia-caps".to_owned();
    let entries = std::fs::read_dir(paths.host_path(&caps)).into_iter().flatten().flatten();
    let mut numbers: Vec<_> = entries.filter_map(|entry| device_number(&entry.path())).collect();
    numbers.sort_unstable();
    nodes.push(DeviceNode { path: caps, kind: NodeKind::Directory, numbers });
    Ok(nodes)
}

/// The numbers that a node has now, or the nodes in a directory, in order; none where it is missing.
pub fn numbers(paths: &Paths, node: &DeviceNode) -> Vec<(u64, u64)> {
    let path = paths.host_path(&node.path);
    let mut numbers: Vec<_> = match node.kind {
        NodeKind::File => device_number(&path).into_iter().collect(),
        NodeKind::Directory => {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            entries.filter_map(|entry| device_number(&entry.path())).collect()
        }
    };
    numbers.sort_unstable();
    numbers
}

fn device_number(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    let number = metadata.rdev();
    metadata
        .file_type()
        .is_char_device()
        .then(|| (nix::sys::stat::major(number), nix::sys::stat::minor(number)))
}

/// Whether a driver answers behind a node on the host itself.
pub fn answers(paths: &Paths, node: &str) -> bool {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    options.open(paths.host_path(node)).is_ok()
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "host trees made by the tests themselves")]
mod tests {
    use super::*;
    use crate::error::ExitCode;

    fn host_with(files: &[(&str, &str)]) -> (tempfile::TempDir, Paths) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let paths = Paths::below(root.path());
        (root, paths)
    }

    const VERSION: &str =
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.76.05  Thu Jul 24 12:00:00 UTC 2026\n";

    #[test]
    fn index_follows_the_pci_address_and_not_the_minor() {
        let information = |minor: u32, bus: &str| {
            format!(
                "Model: \t\t RTX\nGPU UUID: \t GPU-{minor}\nBus Location: \t {bus}\nDevice Minor: \t {minor}\n"
            )
        };
        let (_root, paths) = host_with(&[
            ("proc/driver/nvidia/version", VERSION),
            ("proc/driver/nvidia/gpus/0000:81:00.0/information", &information(0, "0000:81:00.0")),
            ("proc/driver/nvidia/gpus/0000:01:00.0/information", &information(1, "0000:01:00.0")),
        ]);
        let inventory = Inventory::read(&paths).unwrap();
        let seen: Vec<_> = inventory.gpus.iter().map(|gpu| (gpu.index, gpu.minor)).collect();
        assert_eq!(seen, [(0, 1), (1, 0)]);
        assert_eq!(inventory.module_version().unwrap().as_str(), "580.76.05");
    }

    #[test]
    fn a_host_without_a_driver_has_no_module_and_no_gpus() {
        let (_root, paths) = host_with(&[]);
        let inventory = Inventory::read(&paths).unwrap();
        assert!(inventory.module.is_none() && inventory.gpus.is_empty());
    }

    #[test]
    fn missing_nodes_are_all_named() {
        let (_root, paths) = host_with(&[("dev/nvidiactl", "not a device")]);
        let error = nodes_for(&paths, &[]).unwrap_err();
        assert_eq!(error.code(), ExitCode::Host);
        for node in ["`/dev/nvidiactl`", "`/dev/nvidia-uvm`", "`/dev/nvidia-uvm-tools`"] {
            assert!(error.what().contains(node), "{error}");
        }
    }
}
