//! MIG instances and real containers: one alone has its nodes inside, open, and no other's; with whole
//! GPUs every node of capabilities is there, and which of them can be opened differs by kind.

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
/// A capability of none of the GPUs that are passed.
const OTHERS: u32 = 300;

/// A host whose second GPU MIG has divided; behind its nodes is a driver that answers.
fn host() -> Host {
    with_capabilities(|_| "10 200".to_owned())
}

/// The same with other numbers for the nodes of capabilities, by their minor.
fn with_capabilities(number: impl Fn(u32) -> String) -> Host {
    let open = ["nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"];
    let mut devices: String = open.iter().map(|name| format!("{name} c 10 200\n")).collect();
    for minor in [1, 2, 147, 148, 156, 157, OTHERS] {
        // As the driver has them: `mig/config` is for root alone.
        let mode = if minor == 1 { "0400" } else { "0444" };
        let number = number(minor);
        devices += &format!("nvidia-caps/nvidia-cap{minor} c {number} {mode}\n");
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

/// What opening every node of capabilities for reading comes to, by its minor.
fn opened(host: &Host, ctid: &str, user: &str) -> Vec<(u32, &'static str)> {
    let of = |minor| {
        let open = format!(
            "setpriv --reuid={user} --clear-groups sh -c ': </dev/nvidia-caps/nvidia-cap{minor}'"
        );
        let run = host.inside(ctid, &open);
        let error = match run.stderr.trim().rsplit(": ").next().unwrap_or_default() {
            "Operation not permitted" => "EPERM",
            "Permission denied" => "EACCES",
            // There is no driver behind it.
            "No such device or address" => "opens",
            other => panic!("{minor}: {other}"),
        };
        (minor, error)
    };
    [1, 2, 147, 148, 156, 157, OTHERS].map(of).into()
}

#[test]
fn of_the_directory_of_capabilities_the_rules_or_the_modes_decide_what_opens() {
    // A major that no driver here has: it gives ENXIO where nothing forbids it.
    let host = with_capabilities(|minor| format!("236 {minor}"));
    let site = Site::new();
    let recipe = site.driver_only();
    let own = [(147, "opens"), (148, "opens"), (156, "opens"), (157, "opens")];
    for (privilege, config, monitor, others) in
        [("privileged", "EPERM", "EPERM", "EPERM"), ("unprivileged", "EACCES", "opens", "opens")]
    {
        let ctid = host.container(privilege, &[]);
        host.run(&["provision", "--start", &ctid, "--gpus", "1", "--recipe", &recipe]).code(0);
        assert!(host.config(&ctid).contains(" dev/nvidia-caps none "), "{}", host.config(&ctid));
        let mut expected = vec![(1, config), (2, monitor)];
        expected.extend(own);
        expected.push((OTHERS, others));
        assert_eq!(opened(&host, &ctid, "0"), expected, "root of a {privilege} container");
        // The mode is asked before the rules.
        expected[0].1 = if privilege == "privileged" { "EACCES" } else { config };
        assert_eq!(opened(&host, &ctid, "65534"), expected, "nobody of a {privilege} container");
    }
}
