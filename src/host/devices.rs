//! The GPUs of the host and their device nodes, from the kernel's own files; nothing of the
//! driver's userland is run.
//!
//! [`Inventory::read`] reads what the kernel module says ([`kernel`]), what is on the PCI bus
//! ([`pci`]) and what is in `/dev` ([`nodes`]); [`nodes_for`] picks the nodes of an assignment.

mod kernel;
mod nodes;
mod pci;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use crate::error::{Error, Result};
use crate::gpu::{
    Capability, Gpu, HostNode, ModuleFlavour, PciAddress, PciGpu, Source, mig_instances,
};
use crate::host::paths::Paths;
use crate::version::DriverVersion;

pub use nodes::{answers, nodes_for, numbers};

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
    /// What `/proc/driver/nvidia/capabilities` offers, by minor.
    pub capabilities: Vec<Capability>,
    /// The minors of those capabilities whose nodes the module does not want to be made.
    pub unmade: BTreeSet<u32>,
}

impl Inventory {
    /// Reads it; where no module is loaded, the nodes `/dev/nvidia<minor>` are taken for the GPUs.
    ///
    /// # Errors
    /// Host error for a file of the kernel that cannot be read or understood, and for a GPU that
    /// does not answer.
    pub fn read(paths: &Paths) -> Result<Self> {
        let (inventory, errors) = Self::read_what_answers(paths);
        errors.into_iter().next().map_or(Ok(inventory), |(_, error)| Err(error))
    }

    /// The same without the GPUs that do not answer or are not understood, each with its error: for
    /// what does not go by the index of a GPU.
    ///
    /// # Errors
    /// Host error for another file of the kernel that cannot be read or understood.
    pub fn read_leniently(paths: &Paths) -> Result<(Self, Vec<Error>)> {
        let (inventory, errors) = Self::read_what_answers(paths);
        let (gpus, others): (Vec<_>, Vec<_>) =
            errors.into_iter().partition(|(source, _)| *source == Source::Gpus);
        let problems = gpus.into_iter().map(|(_, error)| error).collect();
        others.into_iter().next().map_or(Ok((inventory, problems)), |(_, error)| Err(error))
    }

    /// The same, without what cannot be read, and why that cannot.
    pub fn read_what_answers(paths: &Paths) -> (Self, Vec<(Source, Error)>) {
        let mut errors = Vec::new();
        let module = kernel::module(&paths.proc_nvidia());
        let module = kept(module, Source::Module, &mut errors);
        let is_module_known = errors.is_empty();
        let capabilities = kernel::capabilities(&paths.proc_nvidia());
        let (capabilities, unmade) = kept(capabilities, Source::Capabilities, &mut errors);
        let nodes = kept(nodes::list(&paths.dev()), Source::Nodes, &mut errors);
        let found = kept(kernel::gpus(&paths.proc_nvidia()), Source::Gpus, &mut errors);
        let has_any = !found.is_empty();
        let answers = |gpu: Result<Gpu>| gpu.map_err(|error| errors.push((Source::Gpus, error)));
        let mut gpus: Vec<Gpu> = found.into_iter().flat_map(answers).collect();
        if !has_any && module.is_none() && is_module_known {
            gpus = nodes.iter().filter_map(gpu_of_node).collect();
        }
        gpus.sort_by_key(|gpu| (PciAddress::parse(&gpu.pci_address), gpu.minor));
        for (index, gpu) in (0..).zip(&mut gpus) {
            gpu.index = index;
            gpu.mig = mig_instances(&capabilities, gpu.minor);
        }
        let majors = kept(majors(paths), Source::Majors, &mut errors);
        let pci = kept(pci::gpus(paths), Source::Pci, &mut errors);
        (Self { module, gpus, pci, nodes, majors, capabilities, unmade }, errors)
    }

    /// The loaded module's version.
    pub fn module_version(&self) -> Option<&DriverVersion> {
        self.module.as_ref().map(|(version, _)| version)
    }
}

/// What was read, or nothing and the error.
fn kept<T: Default>(read: Result<T>, source: Source, errors: &mut Vec<(Source, Error)>) -> T {
    read.unwrap_or_else(|error| {
        errors.push((source, error));
        T::default()
    })
}

/// What is known of a GPU by its node alone.
fn gpu_of_node(node: &HostNode) -> Option<Gpu> {
    let minor = node.path.strip_prefix("/dev/nvidia")?.parse().ok()?;
    let (pci_address, mig) = (String::new(), Vec::new());
    Some(Gpu { index: 0, minor, pci_address, uuid: None, model: None, mig })
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    Error::host(format!("read `{}`", path.display())).because(error)
}

/// The majors that drivers of character devices have now, by their names.
///
/// # Errors
/// Host error when `/proc/devices` cannot be read or understood.
pub fn majors(paths: &Paths) -> Result<BTreeMap<String, u64>> {
    kernel::majors(&paths.proc_devices())
}

/// A file's text; `None` where there is none.
fn text_of(path: &Path) -> Result<Option<String>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(path, &error)),
    }
}

/// The names in a directory, in order; none where it is not there.
fn names_in(directory: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|error| unreadable(directory, &error))?,
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    Ok(names)
}
