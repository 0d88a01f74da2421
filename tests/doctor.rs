//! `nvstage doctor` on real containers: healthy ones, and ones that are broken in one way.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use serde_json::Value;
use support::{Host, Kind, Nodes, Site, VERSION};

const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";

/// A host that is set up, with one provisioned container that runs.
struct Patient {
    host: Host,
    site: Site,
    ctid: String,
}

/// A host whose nodes are made before guests start.
fn host(kind: Kind, nodes: Nodes) -> Host {
    let host = Host::new(kind, nodes);
    let unit = "d=/etc/systemd/system; mkdir -p $d/multi-user.target.wants
        printf '[Unit]\\nBefore=pve-guests.service lxc.service\\n' >$d/nvstage-refresh.service
        ln -s ../nvstage-refresh.service $d/multi-user.target.wants/";
    host.shell(unit).code(0);
    host
}

impl Patient {
    fn new(kind: Kind, privilege: &str) -> Self {
        let host = host(kind, Nodes::Answering(VERSION));
        let site = Site::new();
        let ctid = host.container(privilege, &[]);
        let patient = Self { host, site, ctid };
        patient.host.start(&patient.ctid);
        patient.provision(&[]);
        patient
    }

    fn provision(&self, more: &[&str]) {
        let recipe = self.site.driver_only();
        let mut provision =
            vec!["provision", &self.ctid, "--gpus", "0", "--recipe", &recipe, "--start"];
        provision.extend(more);
        self.host.run(&provision).code(0);
    }

    /// What `doctor` finds: check and severity of each finding, in order.
    #[track_caller]
    fn findings(&self) -> Vec<(String, String)> {
        let run = self.host.run(&["--json", "doctor", &self.ctid]);
        let document = run.json();
        assert_eq!(document["schema"], 1);
        let findings = document["findings"].as_array().unwrap().clone();
        run.code(if findings.is_empty() { 0 } else { 10 });
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        findings.iter().map(|one| (text(&one["check"]), text(&one["severity"]))).collect()
    }

    /// Asserts that this alone is wrong.
    #[track_caller]
    fn suffers_from(&self, check: &str, severity: &str) {
        assert_eq!(self.findings(), [(check.to_owned(), severity.to_owned())]);
    }

    /// What `provision`, `verify` and `doctor` say of a second driver.
    fn second_driver(&self) -> [Option<String>; 3] {
        let recipe = self.site.driver_only();
        let of = |verb: &str| {
            let mut arguments = vec!["--json", verb, &self.ctid];
            if verb != "doctor" {
                arguments.extend(["--gpus", "0", "--recipe", &recipe]);
            }
            let run = self.host.run(&arguments);
            let said = format!("{}{}", run.stderr, run.stdout);
            let (_, names) = said.split_once("a second driver comes from ")?;
            Some(names.split([':', '"']).next().unwrap().to_owned())
        };
        ["provision", "verify", "doctor"].map(of)
    }

    fn inside(&self, script: &str) {
        self.host.inside(&self.ctid, script).code(0);
    }

    fn configure(&self, text: &str) {
        std::fs::write(self.host.config_path(&self.ctid), text).unwrap();
    }
}

/// Nothing is found, nothing is changed, and the container is entered once.
fn is_healthy(kind: Kind, privilege: &str) {
    let patient = Patient::new(kind, privilege);
    let (host, ctid) = (&patient.host, &patient.ctid);
    host.pct_calls();
    let (config, init) = (host.config(ctid), host.init(ctid));
    host.run(&["doctor", ctid]).code(0).shows("nothing wrong was found").shows("0 findings");
    assert!(host.pct_calls().len() <= 1);
    assert_eq!((host.config(ctid), host.init(ctid)), (config, init));
    // Nobody names it, and it is looked at all the same; another one is none of our business.
    host.container(privilege, &[]);
    let document = host.run(&["--json", "doctor"]).code(0).json();
    let checks = document["checks"].as_array().unwrap();
    let looked_at: std::collections::BTreeSet<&str> =
        checks.iter().filter_map(|check| check["container"].as_str()).collect();
    assert_eq!(looked_at.into_iter().collect::<Vec<_>>(), [ctid]);
    let made = |name: &str| checks.iter().any(|check| check["check"] == name);
    for check in ["kernel-module", "node-mode", "config-drift", "driver-version", "nodes", "musl"] {
        assert!(made(check), "{document}");
    }
}

#[test]
fn a_healthy_privileged_container_has_no_findings() {
    is_healthy(Kind::Pct, "privileged");
}

/// A driver is told by the files that a package owns, in dpkg's own records: names tell nothing.
#[test]
fn packages_that_bring_a_second_driver_are_told_in_one_voice() {
    let patient = Patient::new(Kind::Pct, "unprivileged");
    let (host, ctid) = (&patient.host, patient.ctid.as_str());
    let cuda = "/usr/local/cuda-12.8/targets/x86_64-linux/lib";
    let (stub, nvml) =
        (format!("{cuda}/stubs/libcuda.so"), format!("{cuda}/stubs/libnvidia-ml.so"));
    let development = format!("{LIBRARIES}/libnvidia-ml.so");
    for (name, paths) in [
        ("nvidia-cuda-toolkit", vec!["/usr/bin/nvcc"]),
        ("libnvidia-ml-dev", vec!["/usr/include/nvml.h", &development]),
        ("nvidia-settings", vec!["/usr/bin/nvidia-settings"]),
        ("nvidia-support", vec!["/usr/share/bug/nvidia-support/script"]),
        ("cuda-compat-12-8", vec!["/usr/local/cuda-12.8/compat/libcuda.so.1"]),
        ("cuda-driver-dev-12-8", vec![&stub, &nvml]),
        ("linux-image-standin", vec!["/lib/modules/6.1.0/kernel/drivers/video/nvidiafb.ko"]),
    ] {
        host.install_package_with(ctid, (name, ""), &paths);
    }
    assert_eq!(patient.second_driver(), [None, None, None]);
    let library = "/usr/lib/x86_64-linux-gnu/nvidia/current/libcuda.so.535.261.03";
    host.install_package_with(ctid, ("libcuda1", ""), &[library]);
    let dkms = "/usr/src/nvidia-current-535.261.03/dkms.conf";
    host.install_package_with(ctid, ("nvidia-kernel-dkms", ""), &[dkms]);
    let said = Some("libcuda1 1.0, nvidia-kernel-dkms 1.0".to_owned());
    assert_eq!(patient.second_driver(), [said.clone(), said.clone(), said]);
    patient.inside("apt-get -y purge libcuda1 nvidia-kernel-dkms");
    assert_eq!(patient.second_driver(), [None, None, None]);
}

#[test]
fn a_healthy_unprivileged_container_has_no_findings() {
    is_healthy(Kind::Pct, "unprivileged");
}

#[test]
fn a_healthy_container_of_plain_lxc_has_no_findings() {
    is_healthy(Kind::Lxc, "unprivileged");
}

#[test]
fn a_container_with_devices_that_proxmox_makes_has_no_findings_until_one_is_closed() {
    let patient = Patient::new(Kind::Pct, "unprivileged");
    // The world's node of a capability has a number that is none of a capability's.
    patient.host.shell("rm -r /dev/nvidia-caps").code(0);
    patient.provision(&["--passthrough", "device"]);
    let healthy = patient.host.config(&patient.ctid);
    assert!(healthy.contains("dev0: /dev/nvidia"), "{healthy}");
    assert_eq!(patient.findings(), []);
    // The host's own mode does not matter then.
    patient.host.shell("chmod 0660 /dev/nvidia0").code(0);
    assert_eq!(patient.findings(), []);
    let closed = healthy.replacen("mode=0666", "mode=0660", 1);
    assert_ne!(closed, healthy);
    patient.configure(&closed);
    patient.suffers_from("node-mode-inside", "warning");
    let run = patient.host.run(&["doctor", &patient.ctid]).code(10);
    run.shows(&format!("remedy: pct set {} --dev0 /dev/nvidia", patient.ctid));
}

#[test]
fn a_host_without_gpus_has_no_findings() {
    let host = Host::new(Kind::Pct, Nodes::None);
    host.container("privileged", &[]);
    host.run(&["doctor"]).code(0).shows("nothing wrong was found");
}

#[test]
fn a_container_that_is_not_there_is_an_error() {
    let host = Host::new(Kind::Pct, Nodes::None);
    let run = host.run(&["doctor", "999999"]).code(3);
    run.says("container 999999: failed to find it: it does not exist");
}

#[test]
fn what_is_broken_on_the_host_is_found_and_forgotten_when_it_is_put_right() {
    let patient = Patient::new(Kind::Pct, "unprivileged");
    let host = &patient.host;

    host.shell("chmod 0660 /dev/nvidia0").code(0);
    // That it does not open inside either is not told a second time.
    patient.suffers_from("node-mode", "error");
    let run = host.run(&["doctor", &patient.ctid]).code(10);
    let run = run.shows(&format!("`/dev/nvidia0` has mode 0660: container {}", patient.ctid));
    run.shows("remedy: chmod a+rw /dev/nvidia0").shows("1 finding");
    host.shell("chmod a+rw /dev/nvidia0").code(0);
    assert_eq!(patient.findings(), []);

    host.shell("rm /dev/nvidia-uvm").code(0);
    patient.suffers_from("uvm-missing", "error");
    // `/proc/devices` has nothing of NVIDIA's: nobody can tell whether the number is right.
    host.shell("mknod -m 0666 /dev/nvidia-uvm c 10 200").code(0);
    assert_eq!(patient.findings(), []);

    host.shell("rm /etc/systemd/system/multi-user.target.wants/nvstage-refresh.service").code(0);
    patient.suffers_from("boot-order", "warning");
}

#[test]
fn a_driver_of_another_version_than_the_module_is_found() {
    let patient = Patient::new(Kind::Pct, "privileged");
    patient.host.load_module("580.95.05");
    patient.suffers_from("driver-version", "error");
    let run = patient.host.run(&["doctor", &patient.ctid]).code(10);
    let run = run.shows("the kernel module is 580.95.05, `libcuda.so.1` 580.76.05");
    run.shows(&format!("remedy: nvstage provision {}", patient.ctid));
    patient.provision(&[]);
    assert_eq!(patient.findings(), []);
}

#[test]
fn what_is_wrong_with_the_files_inside_is_found() {
    let patient = Patient::new(Kind::Pct, "privileged");
    patient.inside(&format!(": >{LIBRARIES}/libcuda.so.570.207"));
    patient.suffers_from("left-over-libraries", "warning");
    patient.inside(&format!("rm {LIBRARIES}/libcuda.so.570.207"));
    assert_eq!(patient.findings(), []);

    // Alpine has this loader, and no `getconf` that knows of glibc.
    patient.inside(": >/lib/ld-musl-x86_64.so.1");
    assert_eq!(patient.findings(), [], "musl beside glibc is no problem");
    patient.inside("printf '#!/bin/sh\\nexit 1\\n' >/usr/bin/getconf");
    patient.suffers_from("musl", "error");
}

#[test]
fn docker_that_touches_cgroups_is_found_in_an_unprivileged_container() {
    let patient = Patient::new(Kind::Pct, "unprivileged");
    let configure = |text: &str| {
        patient.inside(&format!(
            "d=/etc/nvidia-container-runtime; mkdir -p $d; printf '[nvidia-container-cli]\\n{text}\\n' >$d/config.toml"
        ));
    };
    configure("#no-cgroups = true");
    assert_eq!(patient.findings(), []);
    patient.inside(": >/usr/bin/dockerd");
    patient.suffers_from("docker-cgroups", "error");
    configure("no-cgroups = true");
    assert_eq!(patient.findings(), []);
}

#[test]
fn what_is_wrong_with_the_configuration_is_found() {
    let patient = Patient::new(Kind::Pct, "privileged");
    let healthy = patient.host.config(&patient.ctid);
    for (line, check) in [
        ("lxc.cgroup2.devices.allow: a", "devices-allow-all"),
        ("lxc.cap.drop:", "capabilities"),
        ("lxc.apparmor.profile: unconfined", "apparmor"),
    ] {
        patient.configure(&format!("{healthy}{line}\n"));
        patient.suffers_from(check, "warning");
    }
    patient.configure(&format!("{healthy}dev0: /dev/nvidia9,mode=0666\n"));
    // It is not inside either; that the host lacks it is told once.
    patient.suffers_from("missing-device", "error");
    patient.configure(&healthy.replace(" dev/nvidia0 ", " /dev/nvidia0 "));
    patient.suffers_from("absolute-target", "error");
    patient.configure(&healthy);
    assert_eq!(patient.findings(), []);
}

#[test]
fn lines_in_a_snapshots_section_are_found() {
    let patient = Patient::new(Kind::Pct, "privileged");
    let config = patient.host.config(&patient.ctid);
    let (own, others): (Vec<&str>, Vec<&str>) =
        config.lines().partition(|line| line.starts_with("lxc."));
    let moved = format!("{}\n\n[before]\n{}\n", others.join("\n"), own.join("\n"));
    let journal = patient.host.path(&format!("/var/lib/nvstage/containers/{}.json", patient.ctid));
    patient.configure(&moved);
    let found: Vec<String> = patient.findings().into_iter().map(|(check, _)| check).collect();
    assert_eq!(found, ["wrong-section", "config-drift"]);
    // Written by hand, long ago: nvstage knows nothing of it.
    std::fs::remove_file(journal).unwrap();
    patient.suffers_from("wrong-section", "warning");
}

#[test]
fn a_snapshot_of_when_there_were_gpus_is_no_problem_until_something_is_appended_to_it() {
    let patient = Patient::new(Kind::Pct, "privileged");
    let (host, ctid) = (&patient.host, &patient.ctid);
    host.shell(&format!("pct snapshot {ctid} before")).code(0);
    let config = host.config(ctid);
    let (live, snapshot) = config.split_once("\n[before]\n").unwrap();
    let own: Vec<&str> = live.lines().filter(|line| line.starts_with("lxc.")).collect();
    assert!(own.iter().all(|line| snapshot.contains(line)), "{config}");
    let others = live.lines().filter(|line| !line.starts_with("lxc."));
    let text = format!("{}\n\n[before]\n{snapshot}", others.collect::<Vec<_>>().join("\n"));
    std::fs::remove_file(host.path(&format!("/var/lib/nvstage/containers/{ctid}.json"))).unwrap();
    patient.configure(&text);
    assert_eq!(patient.findings(), []);
    patient.configure(&format!("{text}\n# GPU\n{}\n", own.join("\n")));
    patient.suffers_from("wrong-section", "warning");
}

#[test]
fn a_rollback_is_drift_and_a_stopped_container_says_what_was_not_checked() {
    let host = host(Kind::Pct, Nodes::Answering(VERSION));
    let site = Site::new();
    let ctid = host.container("privileged", &[]);
    host.shell(&format!("pct snapshot {ctid} before")).code(0);
    host.start(&ctid);
    let patient = Patient { host, site, ctid };
    patient.provision(&[]);
    assert_eq!(patient.findings(), []);

    let (host, ctid) = (&patient.host, &patient.ctid);
    host.shell(&format!("pct rollback {ctid} before")).code(0);
    patient.suffers_from("config-drift", "error");
    let run = host.run(&["doctor"]).code(10).shows("a rollback to snapshot `before` does this");
    let run = run.shows(&format!("remedy: nvstage provision {ctid}"));
    run.shows(&format!("not checked, container {ctid}: driver-version, nodes, foreign-driver"))
        .shows("(stopped)");
    patient.provision(&[]);
    assert_eq!(patient.findings(), []);
}
