//! `nvstage refresh`: modules, device nodes and containers after a boot.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use std::path::Path;
use std::time::Duration;

use support::{Host, VERSION, proc_driver};

/// What `modprobe` finds installed.
const MODULES: &str =
    "nvidia 195 nvidiactl 195 nvidia-caps 240\nnvidia-uvm 508\nnvidia-modeset 195\n";
/// The nodes of a driver that is complete, as [`nodes`] shows them.
const COMPLETE: &str = "\
/dev/nvidia-caps/nvidia-cap1 240:1 400 0:0
/dev/nvidia-caps/nvidia-cap2 240:2 444 0:0
/dev/nvidia-modeset 195:254 666 0:0
/dev/nvidia-uvm 508:0 666 0:0
/dev/nvidia-uvm-tools 508:1 666 0:0
/dev/nvidia0 195:0 666 0:0
/dev/nvidia1 195:1 666 0:0
/dev/nvidiactl 195:255 666 0:0
";

/// What a host has before `refresh`.
struct Before {
    /// Majors in `/proc/devices`.
    majors: &'static [&'static str],
    /// Nodes, as `DIR/devices` lists them.
    nodes: &'static str,
    modules: &'static str,
    /// `/proc/driver/nvidia/params`.
    params: &'static str,
}

/// After a boot: the display's driver is loaded, and nothing else.
const BOOTED: Before = Before {
    majors: &["195 nvidia", "195 nvidiactl", "240 nvidia-caps"],
    nodes: "",
    modules: MODULES,
    params: "DeviceFileUID: 0\nDeviceFileGID: 0\nDeviceFileMode: 438\nModifyDeviceFiles: 1\n",
};
/// All modules are loaded.
const LOADED: Before = Before {
    majors: &[
        "195 nvidia",
        "195 nvidiactl",
        "195 nvidia-modeset",
        "240 nvidia-caps",
        "508 nvidia-uvm",
    ],
    ..BOOTED
};

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn write_before(directory: &Path, before: &Before) {
    let majors: Vec<String> = before.majors.iter().map(|line| format!("{line}\n")).collect();
    let devices =
        format!("Character devices:\n  1 mem\n{}\nBlock devices:\n  7 loop\n", majors.concat());
    write(&directory.join("proc-devices"), &devices);
    write(&directory.join("modules"), before.modules);
    write(&directory.join("devices"), before.nodes);
    proc_driver(&directory.join("proc-driver"), VERSION);
    let nvidia = directory.join("proc-driver/nvidia");
    write(&nvidia.join("params"), before.params);
    for (name, minor, mode) in [("config", 1, 256), ("monitor", 2, 292)] {
        let text =
            format!("DeviceFileMinor: {minor}\nDeviceFileMode: {mode}\nDeviceFileModify: 1\n");
        write(&nvidia.join("capabilities/mig").join(name), &text);
    }
}

fn host(before: &Before) -> Host {
    Host::prepared(|directory| write_before(directory, before))
}

/// NVIDIA's nodes, hidden ones included: path, number, mode, owner.
fn nodes(host: &Host) -> String {
    let find = "find /dev -name '*nvidia*' ! -type d -exec stat -c '%n %Hr:%Lr %a %u:%g' {} + | LC_ALL=C sort";
    host.shell(find).code(0).stdout
}

fn calls(host: &Host) -> String {
    std::fs::read_to_string(host.path("/run/modprobe-calls")).unwrap_or_default()
}

/// A container that `provision` has worked on, as its journal tells.
fn journal(host: &Host, ctid: &str, text: &str) {
    let text = text.replace("\"201\"", &format!("\"{ctid}\""));
    write(&host.path(&format!("/var/lib/nvstage/containers/{ctid}.json")), &text);
}

const JOURNAL: &str = include_str!("journals/schema-1.json");

#[test]
fn what_a_boot_leaves_out_is_loaded_and_made() {
    let host = host(&BOOTED);
    let run = host.run(&["refresh"]).code(0);
    assert_eq!(nodes(&host), COMPLETE);
    let expected = "\
loaded nvidia-uvm
loaded nvidia-modeset
made /dev/nvidia0 (195:0)
made /dev/nvidia1 (195:1)
made /dev/nvidiactl (195:255)
made /dev/nvidia-modeset (195:254)
made /dev/nvidia-uvm (508:0)
made /dev/nvidia-uvm-tools (508:1)
made /dev/nvidia-caps/nvidia-cap1 (240:1)
made /dev/nvidia-caps/nvidia-cap2 (240:2)
";
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), (expected, ""));
    let directory = host.shell("stat -c %a /dev/nvidia-caps").code(0);
    assert_eq!(directory.stdout, "755\n");
}

#[test]
fn a_driver_that_nothing_has_loaded_yet_is_loaded() {
    let host = host(&Before { majors: &[], ..BOOTED });
    host.run(&["refresh"]).code(0).shows("loaded nvidia");
    assert_eq!(nodes(&host), COMPLETE);
}

#[test]
fn the_second_run_has_nothing_to_do_and_asks_nobody() {
    let host = host(&BOOTED);
    host.run(&["refresh"]).code(0);
    let changes = "find /dev -name 'nvidia*' -exec stat -c '%n %i %Z' {} +";
    let (before, called) = (host.shell(changes).stdout, calls(&host));
    let run = host.run(&["refresh"]).code(0);
    assert_eq!(run.stdout, "nothing to do: modules, nodes and containers are as they should be\n");
    assert_eq!(host.shell(changes).stdout, before);
    assert_eq!(calls(&host), called);
}

#[test]
fn a_node_of_the_last_boots_major_is_replaced_and_a_right_one_is_not_touched() {
    let host = host(&Before {
        nodes: "nvidia-uvm c 511 0 0600\nnvidiactl c 195 255 0660\nnvidia-caps/nvidia-cap1 c 236 1\n",
        ..LOADED
    });
    let run = host.run(&["refresh"]).code(0);
    run.clone().shows("replaced /dev/nvidia-uvm (508:0, was 511:0)");
    run.shows("replaced /dev/nvidia-caps/nvidia-cap1 (240:1, was 236:1)");
    let own = COMPLETE.replace("/dev/nvidiactl 195:255 666", "/dev/nvidiactl 195:255 660");
    assert_eq!(nodes(&host), own);
    assert_eq!(calls(&host), "");
}

#[test]
fn mode_and_owner_are_those_that_the_driver_is_told() {
    let params = "DeviceFileUID: 0\nDeviceFileGID: 44\nDeviceFileMode: 432\nModifyDeviceFiles: 1\n";
    let host = host(&Before { params, ..LOADED });
    host.run(&["refresh"]).code(0);
    let own = COMPLETE.replace("666 0:0", "660 0:44");
    assert_eq!(nodes(&host), own);
}

#[test]
fn no_node_is_made_where_the_driver_forbids_it() {
    let params = "ModifyDeviceFiles: 0\n";
    let host = host(&Before { params, nodes: "nvidia-uvm c 511 0\n", ..LOADED });
    let run = host.run(&["refresh"]).code(0);
    run.clone().shows("warning: no node is made, the driver's parameter forbids it");
    run.clone().shows("/dev/nvidia-uvm is 511:0 and should be 508:0");
    run.shows("/dev/nvidia0 (195:0) is missing");
    assert_eq!(nodes(&host), "/dev/nvidia-uvm 511:0 666 0:0\n");
}

#[test]
fn what_is_no_device_is_named_and_left_and_the_others_are_made() {
    let host = host(&LOADED);
    host.shell("echo mine > /dev/nvidia-uvm; ln -s null /dev/nvidia0").code(0);
    let run = host.run(&["refresh"]).code(4);
    run.clone().says("failed to make `/dev/nvidia-uvm`: something else is in its place");
    run.says("failed to make `/dev/nvidia0`: something else is in its place");
    assert_eq!(host.shell("cat /dev/nvidia-uvm; readlink /dev/nvidia0").stdout, "mine\nnull\n");
    for made in ["/dev/nvidia1 195:1", "/dev/nvidia-uvm-tools 508:1"] {
        assert!(nodes(&host).contains(made), "{made}: {}", nodes(&host));
    }
}

#[test]
fn a_host_without_a_driver_is_an_error() {
    let host = host(&Before { majors: &[], modules: "", ..BOOTED });
    host.run(&["refresh"]).code(4).says("`nvidia` is neither loaded nor installed");
    assert_eq!(nodes(&host), "");
}

#[test]
fn a_host_without_modprobe_is_one_too() {
    let host = host(&Before { majors: &[], ..BOOTED });
    host.shell("rm /usr/sbin/modprobe").code(0);
    let run = host.run(&["refresh"]).code(4);
    run.says("`nvidia` is neither loaded nor installed").says("failed to run `modprobe`");
}

#[test]
fn a_module_that_does_not_load_is_an_error_and_the_rest_is_done() {
    let modules = "nvidia-uvm fails\nnvidia-modeset 195\n";
    let host = host(&Before { modules, ..BOOTED });
    let run = host.run(&["refresh"]).code(4);
    run.says("failed to load the kernel module `nvidia-uvm`").says("No such device");
    let rest: String =
        COMPLETE.lines().filter(|line| !line.contains("uvm")).map(|l| format!("{l}\n")).collect();
    assert_eq!(nodes(&host), rest);
}

#[test]
fn a_driver_without_its_other_modules_is_told() {
    let host = host(&Before { modules: "nvidia 195\n", ..BOOTED });
    let run = host.run(&["refresh"]).code(0);
    run.clone().shows("nvidia-uvm: warning: not installed: CUDA works in no container without it");
    run.shows("nvidia-modeset: skipped: not installed");
}

#[test]
fn a_driver_that_drives_no_gpu_is_warned_of() {
    let host = Host::prepared(|directory| {
        write_before(directory, &LOADED);
        std::fs::remove_dir_all(directory.join("proc-driver/nvidia/gpus")).unwrap();
    });
    host.run(&["refresh"]).code(0).shows("nvidia: warning: the kernel module drives no GPU");
    assert!(nodes(&host).contains("/dev/nvidiactl 195:255"));
}

#[test]
fn a_gpu_that_has_fallen_off_the_bus_is_warned_of_and_the_rest_is_done() {
    for gone in ["rm", "echo 'Model: NVIDIA' >"] {
        let host = host(&BOOTED);
        let ctid = with_an_old_rule(&host);
        host.shell(&format!("{gone} /proc/driver/nvidia/gpus/0000:81:00.0/information")).code(0);
        let run = host.run(&["refresh"]).code(0).shows("nvidia: warning: failed to read");
        run.shows("0000:81:00.0").shows(&format!("container {ctid}: changed"));
        let rest: String = COMPLETE
            .lines()
            .filter(|line| !line.contains("nvidia1 "))
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(nodes(&host), rest);
        assert_renumbered(&host, &ctid);
        host.run(&["gpus"]).code(4).says("0000:81:00.0");
    }
}

#[test]
fn a_node_of_a_capability_that_the_driver_does_not_want_is_not_made() {
    let host = host(&LOADED);
    let path = host.path("/proc/driver/nvidia/capabilities/mig/config");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("DeviceFileModify: 1", "DeviceFileModify: 0")).unwrap();
    let run = host.run(&["refresh"]).code(0);
    run.shows("DeviceFileModify: warning: no node is made, the driver's parameter forbids it: /dev/nvidia-caps/nvidia-cap1 (240:1) is missing");
    let rest = COMPLETE.replace("/dev/nvidia-caps/nvidia-cap1 240:1 400 0:0\n", "");
    assert_eq!(nodes(&host), rest);
}

#[test]
fn what_a_run_leaves_that_was_killed_while_it_made_a_node_is_removed() {
    let host = host(&LOADED);
    let mut command = host.command("strace");
    command.args(["-o", "/run/trace", "-e", "trace=link,linkat"]);
    command.args(["-e", "inject=link,linkat:signal=KILL:when=1"]);
    command.args([env!("CARGO_BIN_EXE_nvstage"), "refresh"]);
    support::Run::from(command.output().unwrap()).code(128 + 9);
    let left = host.shell("ls /dev/.nvidia*").code(0).stdout;
    assert!(left.starts_with("/dev/.nvidia0.nvstage-"), "{left}");
    // What is not a node of ours, and what another process makes at this moment, stays.
    let other = "/dev/.nvidia0.nvstage-1";
    host.shell(&format!("mknod {other} c 195 0; touch /dev/.nvidia0.nvstage-999999999")).code(0);
    host.run(&["refresh"]).code(0).shows(&format!("removed {}", left.trim()));
    let still = host.shell("ls /dev/.nvidia*").code(0).stdout;
    assert_eq!(still, format!("{other}\n/dev/.nvidia0.nvstage-999999999\n"));
    host.shell("rm /dev/.nvidia*").code(0);
    assert_eq!(nodes(&host), COMPLETE);
}

#[test]
fn many_at_once_make_every_node_once() {
    let host = host(&Before { nodes: "nvidia-uvm c 511 0\n", ..LOADED });
    let start = |_| {
        let mut command = host.nvstage();
        command.arg("refresh").stdout(std::process::Stdio::piped());
        command.stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    let started: Vec<_> = (0..8).map(start).collect();
    let runs: Vec<support::Run> =
        started.into_iter().map(|child| child.wait_with_output().unwrap().into()).collect();
    let made = runs.iter().filter(|run| run.stdout.contains("made /dev/nvidia0 ")).count();
    for run in runs {
        run.code(0);
    }
    assert_eq!(made, 1);
    assert_eq!(nodes(&host), COMPLETE);
}

#[test]
fn the_result_is_data_too() {
    let host = host(&Before { nodes: "nvidia0 c 195 0\n", ..LOADED });
    let json = host.run(&["refresh", "--json"]).code(0).json();
    assert_eq!((&json["schema"], &json["command"]), (&1.into(), &"refresh".into()));
    assert_eq!(json["exit"], 0);
    let line = |subject: &str| {
        let lines = json["host"].as_array().unwrap();
        lines.iter().find(|line| line["subject"] == subject).unwrap().clone()
    };
    assert_eq!(line("nvidia-uvm")["outcome"], "unchanged");
    assert_eq!(line("/dev/nvidia0")["outcome"], "unchanged");
    assert_eq!(line("/dev/nvidia1")["outcome"], "changed");
    assert_eq!(line("/dev/nvidia1")["detail"], "made /dev/nvidia1 (195:1)");
}

#[test]
fn a_container_that_is_gone_is_skipped_and_a_damaged_journal_stops_no_other() {
    let host = host(&LOADED);
    let ctid = host.container("unprivileged", &[]);
    journal(&host, &ctid, JOURNAL);
    journal(&host, "998", JOURNAL);
    journal(&host, "100", "{");
    let run = host.run(&["refresh", "--json"]).code(4);
    let json = run.json();
    let seen = |ctid: &str| {
        let containers = json["containers"].as_array().unwrap();
        containers.iter().find(|one| one["container"] == ctid).unwrap().clone()
    };
    assert_eq!(seen("100")["exit"], 4);
    assert_eq!(seen(&ctid)["exit"], 0);
    assert_eq!(seen("998")["steps"][0]["outcome"], "skipped");
    assert_eq!(seen("998")["exit"], 0);
}

#[test]
fn containers_without_numbers_in_their_configuration_are_none_of_its_business() {
    let host = host(&LOADED);
    journal(&host, "998", &JOURNAL.replace("\"mount\"", "\"device\""));
    journal(&host, "999", &JOURNAL.replace("\"attached\"", "\"detached\""));
    let json = host.run(&["refresh", "--json"]).code(0).json();
    assert_eq!(json["containers"], serde_json::json!([]));
}

#[test]
fn a_running_container_with_a_replaced_node_is_to_be_restarted() {
    let host = host(&Before { nodes: "nvidia-uvm c 511 0\n", ..LOADED });
    let ctid = host.container("unprivileged", &[]);
    journal(&host, &ctid, JOURNAL);
    host.start(&ctid);
    let warning = "it runs with the nodes of the driver before: restart it";
    host.run(&["refresh"]).code(0).shows(warning);
    let run = host.run(&["refresh"]).code(0);
    assert!(!run.stdout.contains(warning), "{}", run.stdout);
}

/// A container whose rule for `nvidia-uvm` is of the last boot's major.
fn with_an_old_rule(host: &Host) -> String {
    let ctid = host.container("privileged", &[]);
    journal(host, &ctid, &JOURNAL.replace("508", "511"));
    let config = host.config(&ctid);
    let mount =
        "lxc.mount.entry: /dev/nvidia-uvm dev/nvidia-uvm none bind,optional,create=file 0 0";
    let lines = format!("{config}{mount}\nlxc.cgroup2.devices.allow: c 511:0 rw\n");
    std::fs::write(host.config_path(&ctid), lines).unwrap();
    ctid
}

#[track_caller]
fn assert_renumbered(host: &Host, ctid: &str) {
    let config = host.config(ctid);
    assert!(config.contains("devices.allow: c 508:0 rw"), "{config}");
    assert!(!config.contains("511:"), "{config}");
}

#[test]
fn a_rule_of_the_last_boots_major_is_rewritten_once() {
    let host = host(&BOOTED);
    let ctid = with_an_old_rule(&host);
    host.run(&["refresh"]).code(0).shows(&format!("container {ctid}: changed"));
    assert_renumbered(&host, &ctid);
    host.run(&["refresh"]).code(0).shows("nothing to do");
}

#[test]
fn the_directory_of_proxmoxs_locks_is_made_where_a_boot_has_not_made_it_yet() {
    let host = host(&BOOTED);
    let ctid = with_an_old_rule(&host);
    host.shell("rm -r /run/lock/lxc").code(0);
    host.run(&["refresh"]).code(0).shows(&format!("container {ctid}: changed"));
    assert_renumbered(&host, &ctid);
    let lock = format!("/run/lock/lxc/pve-config-{ctid}.lock");
    let made = host.shell(&format!("test -f {lock} && stat -c '%a %U' /run/lock/lxc")).code(0);
    assert_eq!(made.stdout, "755 root\n");
}

const READ_ONLY: &str = "mount -o remount,ro,bind /etc/pve";
const WRITABLE: &str = "mount -o remount,rw,bind /etc/pve";

#[test]
fn a_configuration_that_is_read_only_is_waited_for() {
    let host = host(&BOOTED);
    let ctid = with_an_old_rule(&host);
    host.shell(READ_ONLY).code(0);
    let run = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(3));
            host.shell(WRITABLE).code(0);
        });
        host.run(&["refresh"])
    });
    run.code(0).says("waiting: `/etc/pve` is read-only, the cluster has no quorum yet");
    assert_renumbered(&host, &ctid);
}

#[test]
fn a_run_that_ends_before_the_configuration_is_writable_loses_nothing() {
    let host = host(&BOOTED);
    let ctid = with_an_old_rule(&host);
    host.shell(READ_ONLY).code(0);
    let mut command = host.command("timeout");
    command.args(["2", env!("CARGO_BIN_EXE_nvstage"), "refresh"]);
    support::Run::from(command.output().unwrap()).code(124);
    assert!(host.config(&ctid).contains("511:0"));
    host.shell(WRITABLE).code(0);
    host.run(&["refresh"]).code(0);
    assert_renumbered(&host, &ctid);
}
