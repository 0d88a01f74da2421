//! Which PCI devices a virtual machine claims: `hostpci<n>` of its configuration, by address or by
//! a mapping of the datacentre. A mediated device (`mdev`) leaves the GPU with the host's driver, and
//! claims nothing.
//!
//! The forms are those of `PVE::QemuServer::PCI` (qemu-server) and `PVE::Mapping::PCI`
//! (pve-guest-common), whose file is a `PVE::SectionConfig` (pve-common).

use std::collections::BTreeMap;

use super::pci::{PciAddress, PciSelector};
use crate::container::config::{Dialect, LineKind, LxcConfig, is_true};

/// The mappings of `/etc/pve/mapping/pci.cfg`: on this node, which devices a name stands for.
#[derive(Debug, Clone, Default)]
pub struct PciMappings {
    devices: BTreeMap<String, Vec<PciSelector>>,
}

impl PciMappings {
    /// Reads the file; only what it says of `node` counts. What is not understood is passed over:
    /// the file is not ours.
    pub fn parse(text: &str, node: &str) -> Self {
        let mut mappings = Self::default();
        let mut name = None;
        let mut mediated = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if line.trim().is_empty() {
                name = None;
            } else if !line.starts_with([' ', '\t']) {
                name = Some(line.trim());
            } else if let (Some(name), Some(map)) = (name, line.trim().strip_prefix("map "))
                && property(map, "node") == Some(node)
            {
                let found = property(map, "path").map(selectors).unwrap_or_default();
                mappings.devices.entry(name.to_owned()).or_default().extend(found);
            } else if let (Some(name), Some(value)) = (name, line.trim().strip_prefix("mdev "))
                && is_true(value.trim())
            {
                mediated.push(name);
            }
        }
        mappings.devices.retain(|name, _| !mediated.contains(&name.as_str()));
        mappings
    }
}

/// What one virtual machine claims.
#[derive(Debug, Clone, Default)]
pub struct PciClaims {
    devices: Vec<PciSelector>,
}

impl PciClaims {
    /// Reads the live section of a configuration, `/etc/pve/qemu-server/<VMID>.conf`.
    pub fn of_machine(configuration: &[u8], mappings: &PciMappings) -> Self {
        let configuration = LxcConfig::parse(configuration, Dialect::Proxmox);
        // Of a repeated key the last one counts.
        let mut settings = BTreeMap::new();
        for line in configuration.lines() {
            let LineKind::Setting { key, value } = line.kind else { continue };
            let number = key.strip_prefix("hostpci").map(str::parse::<u8>);
            if number.is_some_and(|number| number.is_ok()) {
                settings.insert(key, value);
            }
        }
        let mut devices = Vec::new();
        for value in settings.values().filter(|value| property(value, "mdev").is_none()) {
            let by_default = value.split(',').next().filter(|first| !first.contains('='));
            let host = property(value, "host").or(by_default);
            devices.extend(host.map(selectors).unwrap_or_default());
            let mapped = property(value, "mapping").and_then(|name| mappings.devices.get(name));
            devices.extend(mapped.into_iter().flatten());
        }
        Self { devices }
    }

    /// Whether a device is among them.
    pub fn covers(&self, address: PciAddress) -> bool {
        self.devices.iter().any(|selector| selector.covers(address))
    }
}

/// Addresses among semicolons.
fn selectors(text: &str) -> Vec<PciSelector> {
    text.split(';').filter_map(|address| PciSelector::parse(address.trim())).collect()
}

/// The value of `name=value` among commas.
fn property<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let pairs = text.split(',').filter_map(|part| part.trim().split_once('='));
    pairs.filter(|(found, _)| *found == name).map(|(_, value)| value).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPPINGS: &str = "gpu\n\tcomment 01:00.0, the first\n\
        \tmap id=10de:2204,iommugroup=14,node=pve,path=0000:41:00.0,subsystem-id=10de:1454\n\
        \tmap id=10de:2204,iommugroup=2,node=other,path=0000:01:00.0\n\n\
        pair\n\tmap id=10de:2204,node=pve,path=0000:81:00;0000:c1:00.0\n\n\
        vgpu\n\tmap id=10de:2204,node=pve,path=0000:a1:00.0\n\tmdev 1\n\n\
        whole\n\tmdev 0\n\tmap id=10de:2204,node=pve,path=0000:b1:00.0\n";

    fn claims(configuration: &str, address: &str) -> bool {
        let mappings = PciMappings::parse(MAPPINGS, "pve");
        let claims = PciClaims::of_machine(configuration.as_bytes(), &mappings);
        claims.covers(PciAddress::parse(address).unwrap())
    }

    #[test]
    fn every_form_of_hostpci_claims_its_devices() {
        for value in [
            "0000:01:00.0,pcie=1",
            "01:00",
            "01:00.0,x-vga=1",
            "0000:02:00;0000:01:00.0",
            "host=0000:01:00,pcie=1",
            "pcie=1,host=01:00.0",
        ] {
            assert!(claims(&format!("hostpci0: {value}\n"), "0000:01:00.0"), "{value}");
        }
    }

    #[test]
    fn a_mapping_claims_what_it_stands_for_on_this_node() {
        assert!(claims("hostpci1: mapping=gpu,pcie=1\n", "0000:41:00.0"));
        assert!(!claims("hostpci1: mapping=gpu,pcie=1\n", "0000:01:00.0"));
        assert!(claims("hostpci1: mapping=pair\n", "0000:c1:00.0"));
        assert!(claims("hostpci1: mapping=pair\n", "0000:81:00.1"));
        assert!(!claims("hostpci1: mapping=unknown\n", "0000:41:00.0"));
    }

    #[test]
    fn a_mediated_device_leaves_the_gpu_to_the_host() {
        assert!(!claims("hostpci0: 0000:01:00.0,mdev=nvidia-63\n", "0000:01:00.0"));
        assert!(!claims("hostpci0: mapping=gpu,mdev=nvidia-63\n", "0000:41:00.0"));
        assert!(!claims("hostpci0: mapping=vgpu\n", "0000:a1:00.0"));
        assert!(claims("hostpci0: mapping=whole\n", "0000:b1:00.0"));
    }

    #[test]
    fn only_hostpci_of_the_live_section_counts() {
        for text in [
            "#hostpci0: 01:00\n",
            "description: hostpci0 01:00\n",
            "usb0: host=01:00.0\n",
            "hostpcix: 01:00.0\n",
            "[PENDING]\nhostpci0: 01:00\n",
            "memory: 1024\n\n[snap1]\nhostpci0: 01:00\n",
            "hostpci0: 01:00\nhostpci0: 02:00\n",
            "hostpci0: 01:00.1\n",
        ] {
            assert!(!claims(text, "0000:01:00.0"), "{text}");
        }
    }
}
