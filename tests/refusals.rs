//! Bad input: a clear error, the right exit code, nothing half-done.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use support::{Host, Kind, Nodes, Site, VERSION};

fn host() -> Host {
    Host::new(Kind::Pct, Nodes::Answering(VERSION))
}

/// Runs `provision` on a container whose configuration must stay as it is.
#[track_caller]
fn refused(host: &Host, ctid: &str, more: &[&str], code: i32) -> support::Run {
    let site = Site::new();
    let recipe = site.recipe();
    let before = std::fs::read(host.config_path(ctid)).ok();
    let mut arguments = vec!["provision", ctid, "--recipe", &recipe];
    arguments.extend(more);
    let run = host.run(&arguments).code(code);
    assert_eq!(std::fs::read(host.config_path(ctid)).ok(), before, "the configuration changed");
    assert_eq!(site.requests(), 0, "something was downloaded before the refusal");
    let has_exec = host.pct_calls().iter().any(|call| call.contains("exec"));
    assert!(!has_exec, "a command ran inside before the refusal");
    run
}

#[test]
fn containers_that_are_not_here() {
    let host = host();
    host.shell("touch /etc/pve/nodes/other/lxc/900.conf; mkdir -p /etc/pve/nodes/other/qemu-server; touch /etc/pve/nodes/other/qemu-server/901.conf")
        .code(0);
    refused(&host, "999999", &[], 3).says("container 999999: failed to find it: it does not exist");
    refused(&host, "900", &[], 3)
        .says("container 900: failed to find it on this node: it is on node `other`");
    refused(&host, "901", &[], 3)
        .says("container 901: failed to find it: it is a virtual machine, not a container");
}

#[test]
fn verify_and_plan_say_what_is_wrong_too() {
    let host = host();
    host.run(&["verify", "999999", "--gpus", "0"])
        .code(3)
        .says("container 999999: failed to find it");
    host.run(&["plan", "999999", "--gpus", "0"])
        .code(3)
        .shows("container 999999: failed to find it");
}

#[test]
fn names_that_no_container_can_have() {
    let host = host();
    for name in ["-1", "0100", "12", "abc", "../201", "1234567890", "201;reboot", ""] {
        let run = host.run(&["provision", "--gpus", "0", "--", name]);
        assert_eq!(run.code, 2, "{name:?}: {}", run.stderr);
        assert_eq!(run.stdout.matches("done").count(), 0);
    }
    assert_eq!(host.pct_calls().len(), 0);
}

#[test]
fn templates_and_locked_containers() {
    let host = host();
    let ctid = host.container("privileged", &[]);
    let config = host.config(&ctid);
    let with =
        |line: &str| std::fs::write(host.config_path(&ctid), format!("{config}{line}\n")).unwrap();
    with("template: 1");
    refused(&host, &ctid, &["--gpus", "0"], 2).says("it is a template, which can never run");
    with("lock: backup");
    refused(&host, &ctid, &["--gpus", "0"], 4).says("Proxmox has locked it (backup)");
    // A lock that a snapshot's section remembers is not in force.
    with("\n[before]\nlock: backup\ntemplate: 1");
    let run = host.run(&["plan", &ctid, "--gpus", "0", "--set", "driver=580.76.05"]).code(10);
    assert!(!run.stdout.contains("locked"), "{}", run.stdout);
}

#[test]
fn malformed_assignments() {
    let host = host();
    let ctid = host.container("privileged", &[]);
    for (gpus, why) in [
        ("0,,1", "nothing before or after a comma"),
        ("a", "`a`"),
        ("0,0", "`0` is there twice"),
        ("", "empty"),
        ("7", "it has 0 (NVIDIA GeForce RTX 3090, 0000:01:00.0)"),
        ("all,1", "`all` stands alone"),
    ] {
        let argument = format!("--gpus={gpus}");
        let run = refused(&host, &ctid, &[&argument], 2);
        assert!(run.stderr.contains(why), "{gpus:?}: {}", run.stderr);
    }
    refused(&host, &ctid, &["--gpus=-1"], 2).says("`-1`");
}

#[test]
fn devices_that_the_host_lacks() {
    let host = Host::new(Kind::Pct, Nodes::Answering(VERSION));
    let ctid = host.container("privileged", &[]);
    host.shell("rm /dev/nvidia-uvm /dev/nvidia1").code(0);
    refused(&host, &ctid, &["--gpus", "0,1"], 4)
        .says("find `/dev/nvidia1`, `/dev/nvidia-uvm` on this host")
        .says("nvstage refresh");
    let host = Host::new(Kind::Pct, Nodes::None);
    let ctid = host.container("privileged", &[]);
    refused(&host, &ctid, &["--gpus", "0"], 4).says("find a GPU: this host has none");
}

#[test]
fn a_kernel_module_of_another_version() {
    let host = host();
    let ctid = host.container("privileged", &[]);
    refused(&host, &ctid, &["--gpus", "0", "--set", "driver=580.95.05"], 4)
        .says("use driver 580.95.05: this host's kernel module is 580.76.05")
        .says("--set driver=580.76.05");
}

#[test]
fn recipes_that_cannot_be_understood() {
    let host = host();
    let ctid = host.container("privileged", &[]);
    let run = |more: &[&str]| {
        let mut arguments = vec!["provision", ctid.as_str(), "--gpus", "0"];
        arguments.extend(more);
        host.run(&arguments).code(2)
    };
    run(&["--recipe", "nosuch"]).says("cuda-12-8, driver-only, driver-full");
    run(&["--set", "drvier=1"]).says("driver");
    run(&["--set", "driver=abc"]).says("`abc`");
    run(&["--set", "driver"]).says("driver");
    let path = host.directory.path().join("wrong.toml");
    std::fs::write(&path, "schema = 1\nname = \"x\"\ndescripton = \"y\"\n").unwrap();
    run(&["--recipe", path.to_str().unwrap()])
        .says("wrong.toml")
        .says("line 3")
        .says("`description`");
}

#[test]
fn a_distribution_that_the_recipe_does_not_know() {
    let host = host();
    let site = Site::new();
    let ctid = host.container("privileged", &[]);
    host.start(&ctid);
    host.inside(&ctid, "printf 'ID=arch\\nVERSION_ID=\\n' > /etc/os-release").code(0);
    let before = host.config(&ctid);
    host.run(&["provision", &ctid, "--gpus", "0", "--recipe", &site.recipe()])
        .code(2)
        .says("`arch`")
        .says("debian12");
    assert_eq!(host.config(&ctid), before);
    // Without packages no repository is needed.
    host.run(&["provision", &ctid, "--gpus", "0", "--recipe", &site.driver_only()]).code(0);
}

#[test]
fn a_container_without_apt_or_with_musl() {
    let host = host();
    let site = Site::new();
    let ctid = host.container("privileged", &[]);
    host.start(&ctid);
    let before = host.config(&ctid);
    host.inside(&ctid, "mv /usr/bin/apt-get /usr/bin/apt-got").code(0);
    host.run(&["provision", &ctid, "--gpus", "0", "--recipe", &site.recipe()])
        .code(5)
        .says("it has no `apt-get`")
        .says("driver-only");
    host.inside(&ctid, "mv /usr/bin/getconf /usr/bin/getgone").code(0);
    host.run(&["provision", &ctid, "--gpus", "0", "--recipe", &site.driver_only()])
        .code(5)
        .says("C library is not glibc");
    assert_eq!(host.config(&ctid), before);
}

#[test]
fn the_configuration_is_held_or_changed_by_somebody_else() {
    let host = host();
    let site = Site::new();
    let ctid = host.container("privileged", &[]);
    let before = host.config(&ctid);
    let hold =
        format!("exec 9>>/run/lock/lxc/pve-config-{ctid}.lock; flock 9; echo held; exec sleep 30");
    let mut holder = host
        .command("sh")
        .args(["-c", &hold])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut byte = [0; 1];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut byte).unwrap();
    host.run(&["provision", &ctid, "--gpus", "0", "--recipe", &site.driver_only()])
        .code(4)
        .says(&format!("pve-config-{ctid}.lock"));
    let _ = holder.kill();
    holder.wait().unwrap();
    assert_eq!(host.config(&ctid), before);
}

#[test]
fn a_read_only_cluster_file_system() {
    let host = host();
    let site = Site::new();
    let ctid = host.container("privileged", &[]);
    let before = host.config(&ctid);
    host.shell("mount -o remount,bind,ro /etc/pve").code(0);
    host.run(&["provision", &ctid, "--gpus", "0", "--recipe", &site.driver_only()])
        .code(4)
        .says("pvecm status");
    assert_eq!(host.config(&ctid), before);
    host.shell("mount -o remount,bind,rw /etc/pve").code(0);
    assert_eq!(
        host.shell("ls -A /etc/pve/lxc/ | grep -v '^[0-9]*.conf$'").stdout,
        "",
        "a temporary file is left"
    );
}

#[test]
fn a_container_that_does_not_start() {
    let host = host();
    let site = Site::new();
    let ctid = host.container("privileged", &[]);
    host.fault("start-fails", true);
    host.run(&["provision", &ctid, "--gpus", "0", "--recipe", &site.driver_only()])
        .code(6)
        .says(&format!("container {ctid}: failed to start the container"));
    host.fault("start-fails", false);
    host.run(&["provision", &ctid, "--gpus", "0", "--recipe", &site.driver_only()]).code(0);
}

#[test]
fn help_is_complete_and_fits_eighty_columns() {
    let host = host();
    let mut texts = vec![host.run(&["--help"]).code(0).stdout];
    for verb in ["prefetch", "plan", "provision", "verify", "phoenix"] {
        texts.push(host.run(&[verb, "--help"]).code(0).stdout);
    }
    for text in &texts {
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
        }
    }
    assert!(texts[0].contains("Exit codes:") && texts[0].contains("10"));
    for option in [
        "--gpus",
        "--recipe",
        "--set",
        "--runtime",
        "--stage",
        "--start",
        "--yes",
        "--no-restart",
        "--from",
        "--trust-tls",
    ] {
        assert!(texts[3].contains(option), "{option} is not in provision's help");
    }
    host.run(&["nosuch"]).code(2).says("nosuch");
    host.run(&["provision"]).code(2).says("none is named");
}
