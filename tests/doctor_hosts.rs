//! `nvstage doctor` on host trees of which one thing is sick: that is a finding, and the rest is
//! looked at all the same.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

#[path = "support/host_tree.rs"]
mod host_tree;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use host_tree::{HostTree, make_node};
use nvstage::cmd::doctor::{Arguments, Examined};
use nvstage::cmd::{Context, RuntimeArgument, doctor};
use nvstage::doctor::Finding;
use nvstage::error::{ExitCode, Result};
use nvstage::event::{Event, Events};
use nvstage::host::Host;
use nvstage::host::cancel::Cancel;
use nvstage::host::paths::Paths;
use nvstage::host::process::{Command, Ended, Finished, Processes};
use nvstage::host::runlog::RunLog;

#[derive(Debug)]
struct Deaf;

impl Events for Deaf {
    fn emit(&self, _: Event) {}
}

/// A machine on which nothing but `lxc-info` is run, which ends like this.
struct LxcInfo(Ended);

impl Processes for LxcInfo {
    fn run(&self, command: Command, _: &RunLog) -> Result<Finished> {
        panic!("{command} was run");
    }

    fn run_regardless(&self, command: Command, _: &RunLog) -> Result<Finished> {
        assert_eq!(command.program, Path::new("lxc-info"));
        let (stdout, stderr) = (Vec::new(), Vec::new());
        Ok(Finished { ended: self.0, stdout, stderr, took: Duration::ZERO })
    }
}

fn examined_while(lxc_info: Ended, paths: &Paths, containers: &[&str]) -> Result<Examined> {
    let cancel = Cancel::never().unwrap();
    let host = Host { paths: paths.clone(), processes: Box::new(LxcInfo(lxc_info)), cancel };
    let context = Context {
        host: &host,
        events: &Deaf,
        confirm: &nvstage::cmd::Unasked,
        run: "test".to_owned(),
    };
    let containers = containers.iter().map(|ctid| (*ctid).to_owned()).collect();
    doctor::run(&context, &Arguments { containers, runtime: RuntimeArgument::Auto })
}

fn examined(paths: &Paths) -> Examined {
    examined_while(Ended::Exited(0), paths, &[]).unwrap()
}

/// The names of what is found.
fn names(examined: &Examined) -> Vec<&'static str> {
    examined.diagnosis.findings.iter().map(|finding| finding.check.name()).collect()
}

/// The one finding of something that cannot be read, and exit code 10.
#[track_caller]
fn unreadable(examined: &Examined) -> &Finding {
    assert_eq!(examined.exit, ExitCode::Differs);
    let findings = &examined.diagnosis.findings;
    let mut unreadable = findings.iter().filter(|finding| finding.check.name() == "unreadable");
    let first = unreadable.next().expect("something that cannot be read");
    assert_eq!(unreadable.next(), None);
    first
}

/// How many checks of a container were made.
fn made(examined: &Examined, ctid: &str) -> usize {
    let is_its = |made: &&nvstage::doctor::Made| {
        made.container.as_ref().is_some_and(|own| own.as_str() == ctid)
    };
    examined.diagnosis.checks.iter().filter(is_its).count()
}

#[test]
fn a_gpu_that_does_not_answer_does_not_end_the_diagnosis() {
    let (root, paths) = HostTree::load("four-minors-out-of-order");
    let before = examined(&paths);
    let gpu = root.path().join("proc/driver/nvidia/gpus/0000:81:00.0/information");
    std::fs::write(gpu, "").unwrap();
    let after = examined(&paths);
    let finding = unreadable(&after);
    assert!(finding.finding.contains("GPU `0000:81:00.0`"), "{finding:?}");
    assert!(finding.remedy.as_deref().unwrap().contains("dmesg"), "{finding:?}");
    assert_eq!(names(&after)[1..], names(&before));
    assert_eq!(made(&after, "202"), made(&before, "202"));
}

#[test]
fn a_module_that_nobody_understands_is_not_one_that_is_missing() {
    let (root, paths) = HostTree::load("single-proprietary");
    std::fs::write(root.path().join("proc/driver/nvidia/version"), "?\n").unwrap();
    let examined = examined(&paths);
    assert!(unreadable(&examined).looked_at.contains("host"));
    assert!(!names(&examined).contains(&"kernel-module"));
    let not_made = &examined.diagnosis.not_made;
    assert!(not_made.iter().any(|one| one.check.name() == "kernel-module"));
}

#[test]
fn a_container_that_lxc_does_not_tell_of_is_a_finding() {
    let (_root, paths) = HostTree::load("two-models");
    let before = examined(&paths);
    assert_eq!(names(&before), Vec::<&str>::new());
    let examined = examined_while(Ended::TimedOut, &paths, &["201"]).unwrap();
    let finding = unreadable(&examined);
    assert_eq!(finding.container.as_ref().unwrap().as_str(), "201");
    assert!(finding.finding.contains("took too long"), "{finding:?}");
    assert_eq!(made(&examined, "201"), made(&before, "201"));
}

#[test]
fn a_configuration_that_cannot_be_read_is_a_finding_and_others_are_looked_at() {
    let (root, paths) = HostTree::load("two-models");
    let configuration = root.path().join("etc/pve/nodes/pve/lxc/201.conf");
    std::fs::remove_file(&configuration).unwrap();
    std::fs::create_dir(&configuration).unwrap();
    let examined = examined(&paths);
    assert_eq!(unreadable(&examined).container.as_ref().unwrap().as_str(), "201");
    assert_eq!((made(&examined, "201"), made(&examined, "202")), (1, 16));
    let error = examined_while(Ended::Exited(0), &paths, &["299"]).unwrap_err();
    assert_eq!(error.code(), ExitCode::NotFound);
}

#[test]
fn without_a_list_of_containers_the_host_is_looked_at() {
    let (root, paths) = HostTree::load("two-models");
    std::fs::remove_dir_all(root.path().join("etc/pve")).unwrap();
    std::fs::create_dir(root.path().join("etc/pve")).unwrap();
    let examined = examined(&paths);
    assert!(unreadable(&examined).finding.contains("cluster file system"));
    assert_eq!(examined.diagnosis.checks.len(), 8);
}

#[test]
fn a_uvm_node_that_leads_nowhere_is_as_good_as_missing() {
    let (root, paths) = HostTree::load("uvm-missing");
    let before = names(&examined(&paths));
    make_node(root.path(), "nvidia-uvm c 508 0 666");
    let examined = examined(&paths);
    assert_eq!(names(&examined), before);
    let findings = &examined.diagnosis.findings;
    let finding = findings.iter().find(|finding| finding.check.name() == "uvm-missing").unwrap();
    assert!(finding.finding.contains("leads nowhere"), "{finding:?}");
}

#[test]
fn a_unit_of_somebody_elses_makes_the_nodes_only_while_it_is_enabled() {
    let (root, paths) = HostTree::load("two-models");
    let units = root.path().join("etc/systemd/system");
    std::fs::remove_dir_all(&units).unwrap();
    std::fs::create_dir_all(units.join("pve-guests.service.requires")).unwrap();
    let library = root.path().join("usr/lib/systemd/system");
    std::fs::create_dir_all(&library).unwrap();
    let text = "[Unit]\nBefore=pve-guests.service\n[Service]\nExecStart=nvidia-modprobe -u -c=0\n";
    std::fs::write(library.join("uvm.service"), text).unwrap();
    assert_eq!(names(&examined(&paths)), ["boot-order"]);
    let link = units.join("pve-guests.service.requires/uvm.service");
    symlink("/usr/lib/systemd/system/uvm.service", &link).unwrap();
    assert_eq!(names(&examined(&paths)), Vec::<&str>::new());
    std::fs::remove_file(&link).unwrap();
    std::fs::write(units.join("own.service"), text).unwrap();
    symlink("../own.service", &link).unwrap();
    assert_eq!(names(&examined(&paths)), Vec::<&str>::new());
}

#[test]
fn a_rule_of_udev_may_make_the_nodes_wherever_it_lies() {
    for directory in ["etc/udev/rules.d", "lib/udev/rules.d", "usr/lib/udev/rules.d"] {
        let (root, paths) = HostTree::load("two-models");
        std::fs::remove_dir_all(root.path().join("etc/systemd/system")).unwrap();
        assert_eq!(names(&examined(&paths)), ["boot-order"]);
        let directory = root.path().join(directory);
        std::fs::create_dir_all(&directory).unwrap();
        let rule = "KERNEL==\"nvidia\", RUN+=\"/usr/bin/nvidia-modprobe -c0 -u\"\n";
        std::fs::write(directory.join("70-nvidia.rules"), rule).unwrap();
        assert_eq!(names(&examined(&paths)), Vec::<&str>::new());
    }
}

#[test]
fn only_a_machine_that_starts_with_the_host_surely_takes_its_gpu() {
    let (root, paths) = HostTree::load("two-models");
    let machine = root.path().join("etc/pve/nodes/pve/qemu-server/100.conf");
    let claim = |text: &str| {
        std::fs::write(&machine, format!("{text}hostpci0: 0000:01:00\n")).unwrap();
        let found = examined(&paths).diagnosis.findings;
        found.into_iter().map(|one| one.severity.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(claim("onboot: 1\n"), ["error"]);
    assert_eq!(claim("onboot: 0\n"), ["warning"]);
    assert_eq!(claim("#onboot: 1\n"), ["warning"]);
}

#[test]
fn a_container_that_does_not_start_without_the_node_makes_the_boot_order_an_error() {
    let (root, paths) = HostTree::load("two-models");
    std::fs::remove_dir_all(root.path().join("etc/systemd/system")).unwrap();
    let found = || {
        let findings = examined(&paths).diagnosis.findings;
        let told = |one: nvstage::doctor::Finding| (one.severity.to_string(), one.finding);
        findings.into_iter().map(told).collect::<Vec<_>>()
    };
    let first = found();
    assert_eq!(first.len(), 1);
    assert!(
        first[0].0 == "warning" && first[0].1.ends_with("CUDA would not work then"),
        "{first:?}"
    );
    let directory = root.path().join("etc/pve/nodes/pve/lxc");
    for file in std::fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("bind,optional,", "bind,")).unwrap();
    }
    let then = found();
    assert_eq!(then.len(), 1, "{then:?}");
    let is_told = then[0].1.ends_with("with the host: without the node that fails");
    assert!(then[0].0 == "error" && is_told, "{then:?}");
}
