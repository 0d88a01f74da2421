//! Tests with host trees of their own; `tests/hosts` has whole ones.

#![expect(clippy::disallowed_methods, reason = "host trees made by the tests themselves")]

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

fn refused(files: &[(&str, &str)]) -> Error {
    let (_root, paths) = host_with(files);
    let error = Inventory::read(&paths).unwrap_err();
    assert_eq!(error.code(), ExitCode::Host, "{error}");
    error
}

const VERSION: &str =
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.76.05  Thu Jul 24 12:00:00 UTC 2026\n";
const GPU: &str = "proc/driver/nvidia/gpus/0000:01:00.0/information";

fn information(minor: u32, bus: &str) -> String {
    format!(
        "Model: \t\t RTX\nGPU UUID: \t GPU-{minor}\nBus Location: \t {bus}\nDevice Minor: \t {minor}\n"
    )
}

#[test]
fn index_follows_the_pci_address_and_not_the_minor() {
    let (_root, paths) = host_with(&[
        ("proc/driver/nvidia/version", VERSION),
        ("proc/driver/nvidia/gpus/10000:01:00.0/information", &information(2, "10000:01:00.0")),
        ("proc/driver/nvidia/gpus/0000:81:00.0/information", &information(0, "0000:81:00.0")),
        (GPU, &information(1, "0000:01:00.0")),
    ]);
    let inventory = Inventory::read(&paths).unwrap();
    let seen: Vec<_> = inventory.gpus.iter().map(|gpu| (gpu.index, gpu.minor)).collect();
    assert_eq!(seen, [(0, 1), (1, 0), (2, 2)]);
    assert_eq!(inventory.module_version().unwrap().as_str(), "580.76.05");
}

#[test]
fn a_host_without_a_driver_has_no_module_and_no_gpus() {
    let (_root, paths) = host_with(&[]);
    let inventory = Inventory::read(&paths).unwrap();
    assert!(inventory.module.is_none() && inventory.gpus.is_empty());
    assert!(inventory.pci.is_empty() && inventory.nodes.is_empty());
}

#[test]
fn missing_nodes_are_all_named() {
    let (_root, paths) = host_with(&[("dev/nvidiactl", "not a device")]);
    let inventory = Inventory::read(&paths).unwrap();
    assert!(inventory.nodes.is_empty());
    let error = nodes_for(&paths, &inventory, &[]).unwrap_err();
    assert_eq!(error.code(), ExitCode::Host);
    for node in ["`/dev/nvidiactl`", "`/dev/nvidia-uvm`", "`/dev/nvidia-uvm-tools`"] {
        assert!(error.what().contains(node), "{error}");
    }
    assert!(error.hints()[0].contains("nvstage refresh"), "{error}");
}

#[test]
fn malformed_files_of_the_kernel_are_host_errors_that_name_the_file_and_what_is_wrong() {
    let capability = "proc/driver/nvidia/capabilities/gpu0/mig/gi1/access";
    let (vendor, class) =
        ("sys/bus/pci/devices/0000:01:00.0/vendor", "sys/bus/pci/devices/0000:01:00.0/class");
    for (file, text, why) in [
        ("proc/driver/nvidia/version", "", "there is no line `NVRM version:`"),
        (GPU, "Device Minor: 0\n", "there is no `Bus Location`"),
        (capability, "DeviceFileMinor: x\n", "`DeviceFileMinor` is `x`"),
        ("proc/devices", "Character devices:\nx\n", "it says `x`"),
        (vendor, "10de\n", "it says `10de`"),
        (class, "0xdisplay\n", "it says `0xdisplay`"),
    ] {
        let error = match file == class {
            true => refused(&[(vendor, "0x10de\n"), (class, text)]),
            false => refused(&[(file, text)]),
        };
        assert!(error.what().contains(&format!("/{file}`")), "{error}");
        assert!(error.causes().iter().any(|cause| cause.contains(why)), "{error}");
    }
}

#[test]
fn a_gpu_that_has_fallen_off_the_bus_is_a_host_error_that_names_it() {
    let (root, paths) = host_with(&[(GPU, "")]);
    let empty = Inventory::read(&paths).unwrap_err();
    std::fs::remove_file(root.path().join(GPU)).unwrap();
    let gone = Inventory::read(&paths).unwrap_err();
    for error in [empty, gone] {
        assert_eq!(error.code(), ExitCode::Host);
        assert!(error.what().contains("GPU `0000:01:00.0` is: it does not answer"), "{error}");
        assert!(error.hints()[0].contains("dmesg | grep -i xid"), "{error}");
    }
}

#[test]
fn only_display_controllers_of_nvidia_are_gpus() {
    let device = |bus: &str, name: &str| format!("sys/bus/pci/devices/0000:{bus}/{name}");
    let mut files = Vec::new();
    for (bus, vendor, class) in [
        ("0a:00.0", "0x10de", "0x030000"),
        ("0a:00.1", "0x10de", "0x040300"),
        ("02:00.0", "0x10de", "0x030200"),
        ("03:00.0", "0x10de", "0x068000"),
        ("04:00.0", "0x1002", "0x030000"),
    ] {
        files.push((device(bus, "vendor"), vendor));
        files.push((device(bus, "class"), class));
    }
    let files: Vec<(&str, &str)> =
        files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
    let (_root, paths) = host_with(&files);
    let inventory = Inventory::read(&paths).unwrap();
    let found: Vec<&str> = inventory.pci.iter().map(|gpu| gpu.address.as_str()).collect();
    assert_eq!(found, ["0000:02:00.0", "0000:0a:00.0"]);
}

#[test]
fn virtual_machines_are_named_by_number_even_without_a_link_to_the_node() {
    let gpu = "sys/bus/pci/devices/0000:01:00.0";
    let (_root, paths) = host_with(&[
        (&format!("{gpu}/vendor"), "0x10de\n"),
        (&format!("{gpu}/class"), "0x030000\n"),
        ("etc/pve/qemu-server/1000.conf", "hostpci0: 01:00\n"),
        ("etc/pve/qemu-server/101.conf", "hostpci0: 0000:01:00.0,pcie=1\n"),
        ("etc/pve/qemu-server/102.conf", "hostpci0: 02:00\n"),
        ("etc/pve/qemu-server/103.conf.tmp", "hostpci0: 01:00\n"),
    ]);
    assert_eq!(Inventory::read(&paths).unwrap().pci[0].claimed_by, [101, 1000]);
}

#[test]
fn virtual_functions_of_a_gpu_are_no_gpus() {
    let device = |name: &str| format!("sys/bus/pci/devices/{name}");
    let names = ["0000:41:00.0", "0000:41:00.4"];
    let files = names
        .map(|name| [(device(name) + "/vendor", "0x10de"), (device(name) + "/class", "0x030200")]);
    let files: Vec<(&str, &str)> =
        files.iter().flatten().map(|(path, text)| (path.as_str(), *text)).collect();
    let (root, paths) = host_with(&files);
    assert_eq!(Inventory::read(&paths).unwrap().pci.len(), 2);
    let link = root.path().join(device(names[1])).join("physfn");
    std::os::unix::fs::symlink("../0000:41:00.0", link).unwrap();
    let found = Inventory::read(&paths).unwrap().pci;
    assert_eq!(found.iter().map(|gpu| gpu.address.as_str()).collect::<Vec<_>>(), [names[0]]);
}

#[test]
fn what_answers_is_read_beside_what_does_not() {
    let (_root, paths) = host_with(&[
        ("proc/driver/nvidia/version", VERSION),
        ("proc/driver/nvidia/gpus/0000:81:00.0/information", &information(1, "0000:81:00.0")),
        (GPU, ""),
        ("proc/devices", "x"),
    ]);
    let (inventory, errors) = Inventory::read_what_answers(&paths);
    assert_eq!(inventory.module_version().unwrap().as_str(), "580.76.05");
    assert_eq!(inventory.gpus.iter().map(|gpu| gpu.minor).collect::<Vec<_>>(), [1]);
    let sources: Vec<Source> = errors.iter().map(|(source, _)| *source).collect();
    assert_eq!(sources, [Source::Gpus, Source::Majors]);
    assert!(errors[0].1.what().contains("GPU `0000:01:00.0`"));
}
