//! The kernel's own files about NVIDIA's hardware, read as text: `/proc/driver/nvidia` and
//! `/proc/devices`.
//!
//! Their forms are those of NVIDIA's open kernel modules (`kernel-open/nvidia/nv-procfs.c`,
//! `kernel-open/nvidia/nv-caps.c`).

use std::collections::BTreeMap;

use super::{Capability, Gpu, MigInstance, PciAddress};
use crate::error::{Error, Result};
use crate::version::DriverVersion;

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

impl Gpu {
    /// Reads `/proc/driver/nvidia/gpus/<PCI address>/information`; the index is left at 0, and MIG
    /// instances are found elsewhere.
    ///
    /// # Errors
    /// Host error when the minor or the PCI address is not there, or is none.
    pub fn parse_information(text: &str) -> Result<Self> {
        let fail = |why: String| {
            Error::host(format!("understand what the kernel module says of a GPU: {why}"))
        };
        let needed =
            |name: &str| value(text, name).ok_or_else(|| fail(format!("there is no `{name}`")));
        let minor = needed("Device Minor")?;
        let location = needed("Bus Location")?;
        // A GPU that was never opened has a UUID of question marks.
        let uuid = value(text, "GPU UUID").filter(|uuid| !uuid.contains('?'));
        Ok(Self {
            index: 0,
            minor: minor
                .parse()
                .map_err(|_| fail(format!("its `Device Minor` is `{minor}`, not a number")))?,
            pci_address: PciAddress::parse(location)
                .ok_or_else(|| {
                    fail(format!("its `Bus Location` is `{location}`, not a PCI address"))
                })?
                .to_string(),
            uuid: uuid.map(str::to_owned),
            model: value(text, "Model").map(str::to_owned),
            mig: Vec::new(),
        })
    }
}

impl Capability {
    /// Reads a file of `/proc/driver/nvidia/capabilities`; `name` is its path below that directory.
    /// Both of its numbers are decimal, the mode too.
    ///
    /// # Errors
    /// Host error when one of them is not there, or is none.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let number = |key: &str| -> Result<u32> {
            let fail = |why: String| Error::host(format!("understand the capability: {why}"));
            let found = value(text, key).ok_or_else(|| fail(format!("there is no `{key}`")))?;
            found.parse().map_err(|_| fail(format!("its `{key}` is `{found}`, not a number")))
        };
        let (minor, mode) = (number("DeviceFileMinor")?, number("DeviceFileMode")?);
        Ok(Self { name: name.to_owned(), minor, mode })
    }

    /// Whether a file of `/proc/driver/nvidia/capabilities` lets its node be made:
    /// `DeviceFileModify`, which is 0 where the module's `ModifyDeviceFiles` is.
    pub fn wants_node(text: &str) -> bool {
        value(text, "DeviceFileModify") != Some("0")
    }

    /// The path of its node, `/dev/nvidia-caps/nvidia-cap<minor>`.
    pub fn node(&self) -> String {
        super::capability_node(self.minor)
    }
}

/// The compute instances of the GPU with this minor; in order.
pub fn mig_instances(capabilities: &[Capability], minor: u32) -> Vec<MigInstance> {
    let prefix = format!("gpu{minor}/mig/gi");
    let of_gpu = |name: &str| -> Option<u32> {
        name.strip_prefix(&prefix)?.strip_suffix("/access")?.parse().ok()
    };
    let of_compute = |name: &str| -> Option<(u32, u32)> {
        let (gpu_instance, compute_instance) =
            name.strip_prefix(&prefix)?.strip_suffix("/access")?.split_once("/ci")?;
        Some((gpu_instance.parse().ok()?, compute_instance.parse().ok()?))
    };
    let gpu_instances: BTreeMap<u32, u32> = capabilities
        .iter()
        .filter_map(|capability| Some((of_gpu(&capability.name)?, capability.minor)))
        .collect();
    let instance = |capability: &Capability| {
        let (gpu_instance, compute_instance) = of_compute(&capability.name)?;
        let minors = [*gpu_instances.get(&gpu_instance)?, capability.minor];
        Some(MigInstance { gpu_instance, compute_instance, minors })
    };
    let mut instances: Vec<MigInstance> = capabilities.iter().filter_map(instance).collect();
    instances.sort_by_key(|instance| (instance.gpu_instance, instance.compute_instance));
    instances
}

/// Reads `/proc/devices`: the majors of character devices by the names of their drivers.
///
/// # Errors
/// Host error for a line without a number, or a file without that section.
pub fn parse_character_majors(text: &str) -> Result<BTreeMap<String, u64>> {
    let fail = |why: String| Error::host(format!("understand the majors of devices: {why}"));
    let mut lines = text.lines().map(str::trim);
    if !lines.any(|line| line == "Character devices:") {
        return Err(fail("there is no section `Character devices:`".to_owned()));
    }
    let mut majors = BTreeMap::new();
    for line in lines.take_while(|line| !line.is_empty() && *line != "Block devices:") {
        let pair = line
            .split_once(' ')
            .and_then(|(major, name)| Some((name.trim().to_owned(), major.parse::<u64>().ok()?)));
        let (name, major) = pair.ok_or_else(|| fail(format!("it says `{line}`")))?;
        majors.insert(name, major);
    }
    Ok(majors)
}

/// The value of a line `name: value`; an empty one is none.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    let mut values = fields.filter(|(key, _)| key.trim() == name);
    values.next().map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ExitCode;

    const INFORMATION: &str = "Model: \t\t NVIDIA GeForce RTX 3090\nIRQ:   \t\t 120\n\
        GPU UUID: \t GPU-12345678-1234-1234-1234-123456789abc\nVideo BIOS: \t 94.02.42.00.a9\n\
        Bus Type: \t PCIe\nBus Location: \t 0000:01:00.0\nDevice Minor: \t 1\nGPU Excluded:\t No\n";

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
    }

    #[test]
    fn malformed_information_is_a_host_error_that_says_what_is_wrong() {
        for (text, why) in [
            ("Model: x\n".to_owned(), "there is no `Device Minor`"),
            ("Device Minor: 0\n".to_owned(), "there is no `Bus Location`"),
            (INFORMATION.replace("Minor: \t 1", "Minor: \t"), "there is no `Device Minor`"),
            (INFORMATION.replace("Minor: \t 1", "Minor: \t x"), "`Device Minor` is `x`"),
            (INFORMATION.replace("Minor: \t 1", "Minor: \t -1"), "`Device Minor` is `-1`"),
            (INFORMATION.replace("01:00.0", "01:00"), "`Bus Location` is `0000:01:00`"),
            ("\u{fffd}\u{0}".to_owned(), "there is no `Device Minor`"),
        ] {
            let error = Gpu::parse_information(&text).unwrap_err();
            assert_eq!(error.code(), ExitCode::Host);
            assert!(error.what().contains(why), "{text:?}: {error}");
        }
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

    #[test]
    fn a_capability_has_its_numbers_in_decimal() {
        let text = "DeviceFileMinor: 3\nDeviceFileMode: 292\nDeviceFileModify: 1\n";
        let capability = Capability::parse("mig/monitor", text).unwrap();
        assert_eq!((capability.minor, capability.mode), (3, 0o444));
        assert_eq!(capability.node(), "/dev/nvidia-caps/nvidia-cap3");
    }

    #[test]
    fn the_node_of_a_capability_is_made_unless_the_module_forbids_it() {
        assert!(!Capability::wants_node("DeviceFileMinor: 3\nDeviceFileModify: 0\n"));
        assert!(Capability::wants_node("DeviceFileMinor: 3\nDeviceFileModify: 1\n"));
        assert!(Capability::wants_node("DeviceFileMinor: 3\n"));
    }

    #[test]
    fn a_malformed_capability_is_a_host_error_that_says_what_is_wrong() {
        for (text, why) in [
            ("", "there is no `DeviceFileMinor`"),
            ("DeviceFileMinor: 3\n", "there is no `DeviceFileMode`"),
            ("DeviceFileMinor: 0x3\nDeviceFileMode: 292\n", "`DeviceFileMinor` is `0x3`"),
        ] {
            let error = Capability::parse("mig/config", text).unwrap_err();
            assert_eq!(error.code(), ExitCode::Host);
            assert!(error.what().contains(why), "{text:?}: {error}");
        }
    }

    #[test]
    fn instances_are_those_of_the_gpus_own_minor_that_have_both_nodes() {
        let capability = |name: &str, minor| Capability { name: name.to_owned(), minor, mode: 0 };
        let capabilities = [
            capability("mig/config", 1),
            capability("gpu1/mig/gi10/ci0/access", 94),
            capability("gpu1/mig/gi10/access", 93),
            capability("gpu1/mig/gi2/access", 21),
            capability("gpu1/mig/gi2/ci1/access", 23),
            capability("gpu1/mig/gi3/access", 30),
            capability("gpu1/mig/gi4/ci0/access", 40),
            capability("gpu10/mig/gi1/access", 5),
            capability("gpu10/mig/gi1/ci0/access", 6),
        ];
        let instances = mig_instances(&capabilities, 1);
        let seen: Vec<_> = instances
            .iter()
            .map(|found| (found.gpu_instance, found.compute_instance, found.minors))
            .collect();
        assert_eq!(seen, [(2, 1, [21, 23]), (10, 0, [93, 94])]);
    }

    #[test]
    fn only_character_devices_have_majors() {
        let text = "Character devices:\n  1 mem\n  4 /dev/vc/0\n195 nvidia\n195 nvidiactl\n\
            508 nvidia-uvm\n\nBlock devices:\n  7 loop\n508 blkext\n";
        let majors = parse_character_majors(text).unwrap();
        assert_eq!((majors["nvidia"], majors["nvidia-uvm"]), (195, 508));
        assert!(!majors.contains_key("loop") && !majors.contains_key("blkext"));
    }

    #[test]
    fn malformed_majors_are_a_host_error_that_says_what_is_wrong() {
        for (text, why) in [
            ("", "no section `Character devices:`"),
            ("Block devices:\n  7 loop\n", "no section `Character devices:`"),
            ("Character devices:\nmem\n", "it says `mem`"),
            ("Character devices:\nx mem\n", "it says `x mem`"),
        ] {
            let error = parse_character_majors(text).unwrap_err();
            assert_eq!(error.code(), ExitCode::Host);
            assert!(error.what().contains(why), "{text:?}: {error}");
        }
    }
}
