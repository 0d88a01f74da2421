//! GPUs: which ones a host has, by the kernel's own files, and which of them a container gets.
//!
//! [`GpuAssignment`] says which a container gets, [`Assigned`] which those are on this host. Indices
//! follow the order of PCI addresses; minors, which name the nodes in `/dev`, need not.

mod assignment;
mod claims;
mod kernel;
mod majors;
mod pci;

use std::fmt;

pub use assignment::{GpuAssignment, GpuName};
pub use claims::{PciClaims, PciMappings};
pub use kernel::{ModuleFlavour, mig_instances, parse_character_majors, parse_module_version};
pub use majors::{WrongMajor, wrong_major};
pub use pci::PciAddress;

/// One GPU of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Its position in the order of PCI addresses, from 0.
    pub index: u32,
    /// The minor number of its device node: `/dev/nvidia<minor>`. Often, but not always, the index.
    pub minor: u32,
    /// Its PCI address, `0000:01:00.0`.
    pub pci_address: String,
    /// Its UUID, `GPU-…`; unknown before the GPU was first used.
    pub uuid: Option<String>,
    /// Its model, `NVIDIA GeForce RTX 3090`.
    pub model: Option<String>,
    /// Its MIG instances; none where MIG is off.
    pub mig: Vec<MigInstance>,
}

/// A compute instance of a GPU that MIG has divided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigInstance {
    /// The GPU instance, `gi<n>`.
    pub gpu_instance: u32,
    /// The compute instance in it, `ci<n>`.
    pub compute_instance: u32,
    /// The minors of the two nodes `/dev/nvidia-caps/nvidia-cap<minor>` that opening it takes: that
    /// of the GPU instance, that of the compute instance.
    pub minors: [u32; 2],
}

/// A GPU that a container gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// The GPU.
    pub gpu: Gpu,
    /// The MIG instances of it that were asked for; empty for the whole GPU.
    pub instances: Vec<MigInstance>,
}

/// An NVIDIA display controller on the PCI bus, whatever drives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciGpu {
    /// Its PCI address, `0000:01:00.0`.
    pub address: String,
    /// The driver it is bound to (`nvidia`, `vfio-pci`, `nouveau`); `None` for none.
    pub driver: Option<String>,
    /// The virtual machines whose configuration claims it (`hostpci<n>`), by VMID.
    pub claimed_by: Vec<u32>,
}

/// A device node of the host, as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostNode {
    /// Its path, `/dev/nvidia0`.
    pub path: String,
    /// Major and minor number.
    pub number: (u64, u64),
    /// Its permission bits.
    pub mode: u32,
}

/// A capability that the kernel module offers: `/proc/driver/nvidia/capabilities`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    /// Its path below that directory: `mig/config`, `gpu0/mig/gi1/access`, `gpu0/mig/gi1/ci0/access`.
    pub name: String,
    /// The minor of its node, `/dev/nvidia-caps/nvidia-cap<minor>`.
    pub minor: u32,
    /// The permission bits that its node should have.
    pub mode: u32,
}

/// Where something is read about the host's GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The version of the kernel module.
    Module,
    /// What the kernel module offers as capabilities.
    Capabilities,
    /// The device nodes.
    Nodes,
    /// What the kernel module says of each GPU.
    Gpus,
    /// The majors of character devices.
    Majors,
    /// The PCI bus.
    Pci,
}

impl Gpu {
    /// The path of its device node, `/dev/nvidia<minor>`.
    pub fn node(&self) -> String {
        format!("/dev/nvidia{}", self.minor)
    }

    /// One of its MIG instances as an assignment names it: `MIG-GPU-<UUID>/<gpu
    /// instance>/<compute instance>` (NVIDIA's MIG User Guide); `None` while its UUID is unknown.
    pub fn instance_name(&self, instance: &MigInstance) -> Option<String> {
        self.uuid.as_ref().map(|uuid| format!("MIG-{uuid}/{instance}"))
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let model = self.model.as_deref().unwrap_or("unknown model");
        match self.pci_address.as_str() {
            "" => write!(f, "{} ({model})", self.index),
            address => write!(f, "{} ({model}, {address})", self.index),
        }
    }
}

impl MigInstance {
    /// The paths of the two nodes that opening it takes.
    pub fn nodes(&self) -> [String; 2] {
        self.minors.map(capability_node)
    }
}

impl fmt::Display for MigInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.gpu_instance, self.compute_instance)
    }
}

impl fmt::Display for Assigned {
    /// `nvidia0`, `nvidia0 MIG 1/0 2/0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nvidia{}", self.gpu.minor)?;
        if !self.instances.is_empty() {
            f.write_str(" MIG")?;
        }
        self.instances.iter().try_for_each(|instance| write!(f, " {instance}"))
    }
}

impl fmt::Display for PciGpu {
    /// `0000:01:00.0 is bound to `vfio-pci`, and virtual machine 100 claims it`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.driver {
            Some(driver) => write!(f, "{} is bound to `{driver}`", self.address)?,
            None => write!(f, "{} is bound to no driver", self.address)?,
        }
        let machines: Vec<String> = self.claimed_by.iter().map(ToString::to_string).collect();
        match machines.len() {
            0 => Ok(()),
            1 => write!(f, ", and virtual machine {} claims it", machines[0]),
            _ => write!(f, ", and virtual machines {} claim it", machines.join(", ")),
        }
    }
}

fn capability_node(minor: u32) -> String {
    format!("/dev/nvidia-caps/nvidia-cap{minor}")
}
