//! GPUs: which ones a host has, by the kernel module's own files, and which of them a container
//! gets.

use std::fmt;

use crate::error::{Error, Result};
use crate::version::DriverVersion;

/// The highest index in an assignment: there are 256 minors under NVIDIA's major 195.
const HIGHEST_INDEX: u32 = 255;

/// Which GPUs of the host a container gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuAssignment {
    /// None at all.
    None,
    /// Every one.
    All,
    /// These, by index in the order of PCI addresses; ascending, each once.
    Indices(Vec<u32>),
}

impl GpuAssignment {
    /// Reads `none`, `all` or indices such as `0,1`; blanks around an index do not matter.
    ///
    /// # Errors
    /// Invalid input that says what is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let fail = |why: &str| {
            Err(Error::input(format!("understand the GPU assignment `{text}`: {why}"))
                .hint("an assignment is `none`, `all`, or indices such as `0,1`"))
        };
        match text.trim() {
            "" => return fail("it is empty"),
            "none" => return Ok(Self::None),
            "all" => return Ok(Self::All),
            _ => {}
        }
        let mut indices = Vec::new();
        for part in text.split(',').map(str::trim) {
            if part.is_empty() {
                return fail("there is nothing before or after a comma");
            }
            if part == "none" || part == "all" {
                return fail(&format!("`{part}` stands alone"));
            }
            if !part.bytes().all(|byte| byte.is_ascii_digit()) {
                return fail(&format!("`{part}` is not an index"));
            }
            match part.parse() {
                Ok(index) if index > HIGHEST_INDEX => {
                    return fail(&format!("`{part}` is too high"));
                }
                Ok(index) if indices.contains(&index) => {
                    return fail(&format!("`{part}` is there twice"));
                }
                Ok(index) => indices.push(index),
                Err(_) => return fail(&format!("`{part}` is too high")),
            }
        }
        indices.sort_unstable();
        Ok(Self::Indices(indices))
    }

    /// The GPUs that are meant, out of those that the host has.
    ///
    /// # Errors
    /// Host error when GPUs are asked for on a host that has none; invalid input for an index that
    /// the host lacks.
    pub fn resolve(&self, gpus: &[Gpu]) -> Result<Vec<Gpu>> {
        if *self == Self::None {
            return Ok(Vec::new());
        }
        if gpus.is_empty() {
            return Err(Error::host("find a GPU: this host has none that NVIDIA's driver knows")
                .hint("is the driver loaded on the host? see `/proc/driver/nvidia/gpus`"));
        }
        let Self::Indices(indices) = self else { return Ok(gpus.to_vec()) };
        let find = |index: &u32| {
            gpus.iter().find(|gpu| gpu.index == *index).cloned().ok_or_else(|| {
                let known: Vec<String> = gpus.iter().map(ToString::to_string).collect();
                Error::input(format!("assign GPU {index}: this host has no such GPU"))
                    .hint(format!("it has {}", known.join(", ")))
            })
        };
        indices.iter().map(find).collect()
    }
}

impl fmt::Display for GpuAssignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::All => f.write_str("all"),
            Self::Indices(indices) => {
                let indices: Vec<String> = indices.iter().map(ToString::to_string).collect();
                f.write_str(&indices.join(","))
            }
        }
    }
}

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

impl Gpu {
    /// Reads `/proc/driver/nvidia/gpus/<PCI address>/information`; the index is left at 0.
    ///
    /// # Errors
    /// Host error when the minor or the PCI address is not there.
    pub fn parse_information(text: &str) -> Result<Self> {
        let value = |wanted: &str| {
            let fields = text.lines().filter_map(|line| line.split_once(':'));
            let mut values = fields.filter(|(key, _)| key.trim() == wanted);
            values.next().map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
        };
        let missing = |what: &str| {
            Error::host(format!("understand what the kernel module says of a GPU: no `{what}`"))
        };
        let minor = value("Device Minor").and_then(|minor| minor.parse().ok());
        // A GPU that was never opened has a UUID of question marks.
        let uuid = value("GPU UUID").filter(|uuid| !uuid.contains('?'));
        Ok(Self {
            index: 0,
            minor: minor.ok_or_else(|| missing("Device Minor"))?,
            pci_address: value("Bus Location").ok_or_else(|| missing("Bus Location"))?.to_owned(),
            uuid: uuid.map(str::to_owned),
            model: value("Model").map(str::to_owned),
            mig: Vec::new(),
        })
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

/// Which of NVIDIA's two kernel modules is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModuleFlavour {
    /// The open one.
    Open,
    /// The proprietary one.
    Proprietary,
}

/// Reads `/proc/driver/nvidia/version`: the version of the loaded kernel module, and which it is.
///
/// # Errors
/// Host error when the line `NVRM version:` is not there or names no version.
pub fn parse_module_version(text: &str) -> Result<(DriverVersion, ModuleFlavour)> {
    let fail = || Error::host("understand the version of the loaded kernel module");
    let line = text.lines().find_map(|line| line.strip_prefix("NVRM version:"));
    let line = line.ok_or_else(|| fail().because("there is no line `NVRM version:`"))?;
    let flavour = match line.contains("Open Kernel Module") {
        true => ModuleFlavour::Open,
        false => ModuleFlavour::Proprietary,
    };
    let after = line.split_once("Kernel Module").map_or("", |(_, after)| after);
    let version = after.split_whitespace().find_map(|word| DriverVersion::parse(word).ok());
    let version = version.ok_or_else(|| fail().because(format!("it says `{}`", line.trim())))?;
    Ok((version, flavour))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ExitCode;

    const INFORMATION: &str = "Model: \t\t NVIDIA GeForce RTX 3090\nIRQ:   \t\t 120\n\
        GPU UUID: \t GPU-12345678-1234-1234-1234-123456789abc\nVideo BIOS: \t 94.02.42.00.a9\n\
        Bus Type: \t PCIe\nBus Location: \t 0000:01:00.0\nDevice Minor: \t 1\nGPU Excluded:\t No\n";

    fn two_gpus() -> Vec<Gpu> {
        let first = Gpu::parse_information(INFORMATION).unwrap();
        let second = Gpu { index: 1, minor: 0, ..first.clone() };
        vec![first, second]
    }

    #[test]
    fn an_assignment_is_read_sorted_and_printed() {
        let parse = |text| GpuAssignment::parse(text).unwrap();
        assert_eq!(parse("none"), GpuAssignment::None);
        assert_eq!(parse(" all "), GpuAssignment::All);
        assert_eq!(parse("1, 0"), GpuAssignment::Indices(vec![0, 1]));
        for text in ["none", "all", "0", "0,1", "0,2,10"] {
            assert_eq!(parse(text).to_string(), text);
        }
    }

    #[test]
    fn a_malformed_assignment_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "it is empty"),
            (" ", "it is empty"),
            ("0,,1", "nothing before or after a comma"),
            ("0,", "nothing before or after a comma"),
            (",0", "nothing before or after a comma"),
            ("-1", "`-1` is not an index"),
            ("+1", "`+1` is not an index"),
            ("a", "`a` is not an index"),
            ("0 1", "`0 1` is not an index"),
            ("0,0", "`0` is there twice"),
            ("0,00", "`00` is there twice"),
            ("all,0", "`all` stands alone"),
            ("256", "`256` is too high"),
            ("99999999999999999999", "is too high"),
        ] {
            let error = GpuAssignment::parse(text).unwrap_err();
            assert_eq!(error.code(), ExitCode::Input);
            assert!(error.what().contains(why), "{text:?}: {error}");
        }
    }

    #[test]
    fn indices_follow_the_pci_order_and_not_the_minor() {
        let resolved = GpuAssignment::Indices(vec![1]).resolve(&two_gpus()).unwrap();
        assert_eq!(resolved[0].minor, 0);
        assert_eq!(GpuAssignment::All.resolve(&two_gpus()).unwrap().len(), 2);
        assert!(GpuAssignment::None.resolve(&[]).unwrap().is_empty());
    }

    #[test]
    fn an_index_that_the_host_lacks_is_invalid_input_and_lists_what_it_has() {
        let error = GpuAssignment::Indices(vec![0, 7]).resolve(&two_gpus()).unwrap_err();
        assert_eq!(error.code(), ExitCode::Input);
        assert!(error.what().contains("GPU 7"), "{error}");
        assert!(error.hints()[0].contains("1 (NVIDIA GeForce RTX 3090, 0000:01:00.0)"), "{error}");
    }

    #[test]
    fn a_host_without_gpus_is_a_host_error() {
        for assignment in [GpuAssignment::All, GpuAssignment::Indices(vec![0])] {
            assert_eq!(assignment.resolve(&[]).unwrap_err().code(), ExitCode::Host);
        }
    }

    #[test]
    fn information_of_the_kernel_module_is_read() {
        let gpu = Gpu::parse_information(INFORMATION).unwrap();
        assert_eq!((gpu.minor, gpu.pci_address.as_str()), (1, "0000:01:00.0"));
        assert_eq!(gpu.model.as_deref(), Some("NVIDIA GeForce RTX 3090"));
        assert_eq!(gpu.uuid.as_deref(), Some("GPU-12345678-1234-1234-1234-123456789abc"));
    }

    #[test]
    fn a_gpu_that_was_never_used_has_no_uuid() {
        let text = "GPU UUID: GPU-????????-????\nBus Location: 0000:01:00.0\nDevice Minor: 0\n";
        assert_eq!(Gpu::parse_information(text).unwrap().uuid, None);
        let error = Gpu::parse_information("Model: x\n").unwrap_err();
        assert_eq!(error.code(), ExitCode::Host);
    }

    #[test]
    fn both_kernel_modules_tell_their_version() {
        let proprietary = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.261.03  \
            Thu Jul 24 12:00:00 UTC 2025\nGCC version:  gcc version 12.2.0\n";
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  \
            Release Build  (root@host)  Thu Sep 18 12:00:00 UTC 2025\nGCC version:\n";
        let version = |text| DriverVersion::parse(text).unwrap();
        let read = |text| parse_module_version(text).unwrap();
        assert_eq!(read(proprietary), (version("535.261.03"), ModuleFlavour::Proprietary));
        assert_eq!(read(open), (version("580.95.05"), ModuleFlavour::Open));
        for bad in ["", "NVRM version: NVIDIA UNIX x86_64 Kernel Module\n", "GCC version: 12.2.0"] {
            assert_eq!(parse_module_version(bad).unwrap_err().code(), ExitCode::Host);
        }
    }
}
