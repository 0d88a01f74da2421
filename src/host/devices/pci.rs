//! Reads which NVIDIA display controllers are on the PCI bus, what drives them, and which virtual
//! machines claim them.

use std::path::Path;

use super::{names_in, text_of};
use crate::error::{Error, Result};
use crate::gpu::{PciAddress, PciClaims, PciGpu, PciMappings};
use crate::host::paths::Paths;

/// NVIDIA's number in the PCI ID Repository.
const NVIDIA: u32 = 0x10de;
/// Classes of display controllers, without the programming interface: VGA, and 3D.
const DISPLAY: [u32; 2] = [0x0300, 0x0302];

/// Every NVIDIA display controller, in PCI order; virtual functions (SR-IOV) are none.
pub(super) fn gpus(paths: &Paths) -> Result<Vec<PciGpu>> {
    let directory = paths.pci_devices();
    let mut found = Vec::new();
    for name in names_in(&directory)? {
        let Some(address) = PciAddress::parse(&name) else { continue };
        let device = directory.join(&name);
        // A device can be unplugged while it is looked at.
        let Some(vendor) = number_in(&device.join("vendor"))? else { continue };
        if vendor != NVIDIA {
            continue;
        }
        // A virtual function is a part of the GPU that it names.
        if device.join("physfn").is_symlink() {
            continue;
        }
        let Some(class) = number_in(&device.join("class"))? else { continue };
        if DISPLAY.contains(&(class >> 8)) {
            found.push((address, driver(&device)));
        }
    }
    found.sort_unstable();
    let machines = if found.is_empty() { Vec::new() } else { machines(paths) };
    let gpu = |(address, driver): (PciAddress, Option<String>)| {
        let claim =
            |(machine, claims): &(u32, PciClaims)| claims.covers(address).then_some(*machine);
        let claimed_by = machines.iter().filter_map(claim).collect();
        PciGpu { address: address.to_string(), driver, claimed_by }
    };
    Ok(found.into_iter().map(gpu).collect())
}

/// The number in a file of sysfs, `0x10de`.
fn number_in(path: &Path) -> Result<Option<u32>> {
    let Some(text) = text_of(path)? else { return Ok(None) };
    let digits = text.trim().strip_prefix("0x");
    let number = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
    number.map(Some).ok_or_else(|| {
        Error::host(format!("read `{}`", path.display()))
            .because(format!("it says `{}`, not a hexadecimal number", text.trim()))
    })
}

fn driver(device: &Path) -> Option<String> {
    let target = std::fs::read_link(device.join("driver")).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// The virtual machines of this node and what each claims, by VMID. Without Proxmox, or while its
/// cluster file system is away, nobody claims anything.
fn machines(paths: &Paths) -> Vec<(u32, PciClaims)> {
    let pve = paths.pve();
    let node = std::fs::read_link(pve.join("local")).ok();
    let node = node.as_deref().and_then(Path::file_name).map(|node| node.to_string_lossy());
    let mappings = text_of(&pve.join("mapping/pci.cfg")).ok().flatten();
    let mappings = match (mappings, node) {
        (Some(text), Some(node)) => PciMappings::parse(&text, &node),
        _ => PciMappings::default(),
    };
    let directory = pve.join("qemu-server");
    let machine = |name: String| {
        let number = name.strip_suffix(".conf")?.parse().ok()?;
        let configuration = std::fs::read(directory.join(&name)).ok()?;
        Some((number, PciClaims::of_machine(&configuration, &mappings)))
    };
    let names = names_in(&directory).unwrap_or_default();
    let mut machines: Vec<_> = names.into_iter().filter_map(machine).collect();
    machines.sort_unstable_by_key(|(number, _)| *number);
    machines
}
