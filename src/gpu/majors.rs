//! Whether a node leads to its driver: the major that it has against those of `/proc/devices`.

use std::collections::BTreeMap;

/// What is wrong with a node's major.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrongMajor {
    /// The node's driver has this one now: the node is of an earlier load of the module.
    DriverHas(u64),
    /// The module `nvidia-uvm`, which drives the node, is not loaded; NVIDIA's main one is.
    NoDriver,
}

/// What is wrong with the major that a node of NVIDIA's has; `None` for nothing, and where nothing
/// is known of its driver. The path is that of a node, or of the directory that it lies in.
pub fn wrong_major(majors: &BTreeMap<String, u64>, path: &str, major: u64) -> Option<WrongMajor> {
    let drivers = drivers_of(path);
    match drivers.iter().find_map(|driver| majors.get(*driver)) {
        Some(expected) => (*expected != major).then_some(WrongMajor::DriverHas(*expected)),
        // Drivers before 450 have no capabilities; and where nothing of NVIDIA's is known at all,
        // there is nothing to compare with.
        None => {
            let is_loaded = majors.keys().any(|name| name.starts_with("nvidia"));
            (drivers == ["nvidia-uvm"] && is_loaded).then_some(WrongMajor::NoDriver)
        }
    }
}

/// The names in `/proc/devices` that a node's driver goes by; older modules have one for all.
fn drivers_of(path: &str) -> &'static [&'static str] {
    let name = path.strip_prefix("/dev/").unwrap_or(path);
    match name {
        "nvidiactl" => &["nvidiactl", "nvidia", "nvidia-frontend"],
        "nvidia-modeset" => &["nvidia-modeset", "nvidia", "nvidia-frontend"],
        "nvidia-uvm" | "nvidia-uvm-tools" => &["nvidia-uvm"],
        "nvidia-caps" => &["nvidia-caps"],
        _ if name.starts_with("nvidia-caps/") => &["nvidia-caps"],
        _ if name.strip_prefix("nvidia").is_some_and(|rest| rest.parse::<u32>().is_ok()) => {
            &["nvidia", "nvidia-frontend", "nvidiactl"]
        }
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_the_major_of_its_driver() {
        let majors = |list: &[(&str, u64)]| -> BTreeMap<String, u64> {
            list.iter().map(|(name, major)| ((*name).to_owned(), *major)).collect()
        };
        let all = majors(&[("nvidia", 195), ("nvidia-uvm", 508), ("nvidia-caps", 236)]);
        for (path, major, expected) in [
            ("/dev/nvidia0", 195, None),
            ("/dev/nvidiactl", 195, None),
            ("/dev/nvidia0", 10, Some(WrongMajor::DriverHas(195))),
            ("/dev/nvidia-uvm", 508, None),
            ("/dev/nvidia-uvm-tools", 511, Some(WrongMajor::DriverHas(508))),
            ("/dev/nvidia-caps/nvidia-cap12", 237, Some(WrongMajor::DriverHas(236))),
            ("/dev/nvidia-caps", 237, Some(WrongMajor::DriverHas(236))),
            ("/dev/dri/card0", 1, None),
        ] {
            assert_eq!(wrong_major(&all, path, major), expected, "{path}");
        }
        let without = majors(&[("mem", 1), ("nvidia-frontend", 195)]);
        assert_eq!(wrong_major(&without, "/dev/nvidia-uvm", 508), Some(WrongMajor::NoDriver));
        assert_eq!(wrong_major(&without, "/dev/nvidia-caps/nvidia-cap1", 236), None);
        assert_eq!(wrong_major(&majors(&[("mem", 1)]), "/dev/nvidia-uvm", 508), None);
    }
}
