//! Addresses on the PCI bus, in every form in which people and programs write them.

use std::fmt;

/// The address of one function of a PCI device; ordered as the bus is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl PciAddress {
    /// Reads `0000:01:00.0`, `01:00.0` (domain 0), or nvidia-smi's `00000000:01:00.0`, in any case;
    /// `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (slot, function) = PciSlot::split(text)?;
        let PciSlot { domain, bus, device } = slot;
        Some(Self { domain, bus, device, function: function? })
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

/// A device, or one function of it: what a virtual machine can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PciSelector {
    slot: PciSlot,
    /// `None` for all.
    function: Option<u8>,
}

impl PciSelector {
    /// Reads an address that may lack its function.
    pub(super) fn parse(text: &str) -> Option<Self> {
        PciSlot::split(text).map(|(slot, function)| Self { slot, function })
    }

    pub(super) fn covers(&self, address: PciAddress) -> bool {
        let slot = PciSlot { domain: address.domain, bus: address.bus, device: address.device };
        self.slot == slot && self.function.is_none_or(|function| function == address.function)
    }
}

/// An address without its function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PciSlot {
    domain: u32,
    bus: u8,
    device: u8,
}

impl PciSlot {
    fn split(text: &str) -> Option<(Self, Option<u8>)> {
        let (slot, function) = match text.split_once('.') {
            Some((slot, function)) => (slot, Some(hexadecimal(function, 1..=1, 7)?)),
            None => (text, None),
        };
        let parts: Vec<&str> = slot.split(':').collect();
        let (domain, bus, device) = match parts[..] {
            [bus, device] => ("0", bus, device),
            [domain, bus, device] => (domain, bus, device),
            _ => return None,
        };
        let domain = hexadecimal(domain, 1..=8, u32::MAX)?;
        let bus = hexadecimal(bus, 2..=2, 0xff)?;
        let device = hexadecimal(device, 2..=2, 0x1f)?;
        let byte = |number: u32| u8::try_from(number).ok();
        let slot = Self { domain, bus: byte(bus)?, device: byte(device)? };
        Some((slot, function.and_then(byte)))
    }
}

fn hexadecimal(text: &str, digits: std::ops::RangeInclusive<usize>, highest: u32) -> Option<u32> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u32::from_str_radix(text, 16).ok().filter(|number| *number <= highest);
    number.filter(|_| is_number && digits.contains(&text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(text: &str) -> Option<String> {
        PciAddress::parse(text).map(|address| address.to_string())
    }

    #[test]
    fn every_form_of_an_address_is_the_same_address() {
        for text in ["0000:0a:00.0", "0A:00.0", "00000000:0A:00.0", "0000:0A:00.0"] {
            assert_eq!(normal(text).as_deref(), Some("0000:0a:00.0"), "{text}");
        }
        assert_eq!(normal("10000:01:00.1").as_deref(), Some("10000:01:00.1"));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in
            ["", "0", "01:00", "1:00.0", "01:00.8", "01:20.0", "x1:00.0", "+1:00.0", "1:2:3:4.0"]
        {
            assert_eq!(normal(text), None, "{text}");
        }
    }

    #[test]
    fn addresses_are_ordered_by_number_and_not_by_letter() {
        let parse = |text| PciAddress::parse(text).unwrap();
        assert!(parse("0000:ff:00.0") < parse("10000:01:00.0"));
        assert!(parse("0000:01:00.0") < parse("0000:0a:00.0"));
    }

    #[test]
    fn without_a_function_all_functions_are_meant() {
        let covers = |selector, address| {
            let selector = PciSelector::parse(selector).unwrap();
            selector.covers(PciAddress::parse(address).unwrap())
        };
        assert!(covers("01:00", "0000:01:00.0") && covers("0000:01:00", "0000:01:00.1"));
        assert!(covers("01:00.1", "0000:01:00.1") && !covers("01:00.1", "0000:01:00.0"));
        assert!(!covers("0001:01:00", "0000:01:00.0"));
    }
}
