//! A MIG instance given to real containers: its nodes are inside, open, and no other's are.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use std::path::Path;

use support::{Host, Kind, Site, VERSION};

/// The capabilities of the host tree `mig-on`: GPU 1 has the instances 1/0, 2/0 and 2/1.
const CAPABILITIES: &str = "tests/hosts/mig-on/proc/driver/nvidia/capabilities";
/// The first instance, and its two nodes.
const INSTANCE: &str = "MIG-GPU-00000001-1111-2222-3333-444444444444/1/0";
const ITS_NODES: &str = "nvidia-cap147\nnvidia-cap148\n";

/// A host whose second GPU MIG has divided; behind its nodes is a driver that answers.
fn host() -> Host {
    let open = ["nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"];
    let mut devices: String = open.iter().map(|name| format!("{name} c 10 200\n")).collect();
    for (minor, mode) in
        [(1, "0400"), (2, "0444"), (147, "0444"), (148, "0444"), (156, "0444"), (157, "0444")]
    {
        devices += &format!("nvidia-caps/nvidia-cap{minor} c 10 200 {mode}\n");
    }
    let host = Host::with_devices(Kind::Pct, &devices, Some(VERSION));
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(CAPABILITIES);
    host.shell(&format!("cp -r {} /proc/driver/nvidia/", from.display())).code(0);
    host
}

fn has_its_instance_alone(privilege: &str, passthrough: &str) {
    let (host, site) = (host(), Site::new());
    let ctid = host.container(privilege, &[]);
    host.start(&ctid);
    let recipe = site.driver_only();
    let options = ["--gpus", INSTANCE, "--recipe", &recipe, "--passthrough", passthrough];
    host.run(&[&["provision", &ctid], &options[..]].concat()).code(0);
    let look = "ls /dev/nvidia-caps; ls -d /dev/nvidia[0-9]";
    assert_eq!(host.inside(&ctid, look).stdout, format!("{ITS_NODES}/dev/nvidia1\n"));
    host.run(&[&["verify", &ctid], &options[..]].concat()).code(0);
    host.run(&[&["plan", &ctid], &options[..]].concat()).code(0);
}

#[test]
fn an_unprivileged_container_has_its_instance_by_mount_entries() {
    has_its_instance_alone("unprivileged", "mount");
}

#[test]
fn an_unprivileged_container_has_its_instance_by_devices() {
    has_its_instance_alone("unprivileged", "device");
}

#[test]
fn a_privileged_container_has_its_instance_by_mount_entries() {
    has_its_instance_alone("privileged", "mount");
}

#[test]
fn a_privileged_container_has_its_instance_by_devices() {
    has_its_instance_alone("privileged", "device");
}
