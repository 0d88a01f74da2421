//! Things that go wrong in the middle: a diagnosis, the right exit code, nothing left behind, and
//! the next run finishes.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use std::time::Duration;

use support::{Host, Kind, Nodes, Run, Site, VERSION, eventually};

fn host() -> Host {
    Host::new(Kind::Pct, Nodes::Answering(VERSION))
}

/// A running container whose installer behaves as a file below `/etc/nvidia-standin` says.
fn container(host: &Host, site: &Site, options: &[&str]) -> String {
    let distribution = site.distribution();
    let mut all = vec![distribution.as_str()];
    all.extend(options);
    let ctid = host.container("privileged", &all);
    host.start(&ctid);
    host.inside(&ctid, "mkdir -p /etc/nvidia-standin").code(0);
    ctid
}

#[track_caller]
fn nothing_is_staged(host: &Host, ctid: &str) {
    let rest = host.inside(
        ctid,
        "grep ' /var/lib/nvstage' /proc/mounts; ls -d /var/lib/nvstage /root/.nvstage* 2>/dev/null",
    );
    assert_eq!(rest.stdout, "", "staging is still there");
}

#[test]
fn an_installer_that_fails_half_way() {
    let (host, site) = (host(), Site::new());
    let ctid = container(&host, &site, &[]);
    host.inside(&ctid, "echo 5 > /etc/nvidia-standin/fail-after").code(0);
    let recipe = site.driver_only();
    let arguments = ["provision", &ctid, "--gpus", "0", "--recipe", &recipe];
    host.run(&arguments)
        .code(5)
        .says(&format!("error: container {ctid}: failed to install driver 580.76.05"))
        .says("status was 1")
        .says("hint:");
    nothing_is_staged(&host, &ctid);
    host.inside(&ctid, "rm /etc/nvidia-standin/fail-after").code(0);
    host.run(&arguments).code(0);
    host.run(&["verify", &ctid, "--gpus", "0", "--recipe", &recipe]).code(0);
}

#[test]
fn an_installer_whose_own_sanity_check_fails_although_it_exits_with_zero() {
    let (host, site) = (host(), Site::new());
    let ctid = container(&host, &site, &[]);
    host.inside(&ctid, "touch /etc/nvidia-standin/sanity-fails").code(0);
    let recipe = site.driver_only();
    host.run(&["provision", &ctid, "--gpus", "0", "--recipe", &recipe])
        .code(5)
        .says("sanity check");
    nothing_is_staged(&host, &ctid);
}

#[test]
fn a_file_that_cannot_be_replaced_is_found_although_the_installer_exits_with_zero() {
    let (host, site) = (host(), Site::new());
    let ctid = container(&host, &site, &[]);
    let recipe = site.driver_only();
    let arguments = ["provision", &ctid, "--gpus", "0", "--recipe", &recipe];
    host.run(&arguments).code(0);
    // As libnvidia-container does it: a file of the driver is a mount of its own.
    let bind = "rm /usr/bin/nvidia-smi && touch /usr/bin/nvidia-smi && mount --bind /etc/hostname /usr/bin/nvidia-smi";
    host.inside(&ctid, bind).code(0);
    let run = host.run(&arguments).code(5).says("failed to install driver 580.76.05");
    run.says("nvidia-smi").says("hint:");
    nothing_is_staged(&host, &ctid);
    host.inside(&ctid, "umount /usr/bin/nvidia-smi").code(0);
    host.run(&arguments).code(0);
}

#[test]
fn no_room_for_the_driver_is_seen_before_anything_is_touched() {
    let (host, site) = (host(), Site::new());
    let ctid = container(&host, &site, &["upper-size=16M"]);
    host.inside(&ctid, "dd if=/dev/zero of=/filler bs=64k 2>/dev/null; true").code(0);
    let (before, init) = (host.config(&ctid), host.init(&ctid));
    let recipe = site.driver_only();
    host.run(&["provision", &ctid, "--gpus", "0", "--recipe", &recipe])
        .code(5)
        .says("no space inside the container")
        .says("MB needed")
        .says("pct resize");
    assert_eq!((host.config(&ctid), host.init(&ctid)), (before, init));
    nothing_is_staged(&host, &ctid);
    host.inside(&ctid, "rm /filler").code(0);
    host.run(&["provision", &ctid, "--gpus", "0", "--recipe", &recipe]).code(0);
}

#[test]
fn a_disk_that_runs_full_while_the_installer_writes() {
    let (host, site) = (host(), Site::new());
    let ctid = container(&host, &site, &["upper-size=24M"]);
    let recipe = site.driver_only();
    host.inside(&ctid, "echo 3 3 > /etc/nvidia-standin/sleep-after").code(0);
    let mut command = host.nvstage();
    command.args(["provision", &ctid, "--gpus", "0", "--recipe", &recipe]);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    eventually("the installer sleeps", Duration::from_secs(60), || {
        let look = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '";
        host.inside(&ctid, look).stdout.contains("sleep 3")
    });
    host.inside(&ctid, "dd if=/dev/zero of=/filler bs=64k 2>/dev/null; true").code(0);
    let run: support::Run = child.wait_with_output().unwrap().into();
    run.code(5).says("the container's disk is full").says("enlarge the container's disk");
    nothing_is_staged(&host, &ctid);
    host.inside(&ctid, "rm /filler /etc/nvidia-standin/sleep-after").code(0);
    host.run(&["provision", &ctid, "--gpus", "0", "--recipe", &recipe]).code(0);
    host.run(&["verify", &ctid, "--gpus", "0", "--recipe", &recipe]).code(0);
}

#[test]
fn apt_that_fails_to_configure_a_package() {
    let (host, site) = (host(), Site::with_repository("cuda-broken"));
    let ctid = container(&host, &site, &[]);
    let recipe = site.recipe();
    host.run(&["provision", &ctid, "--gpus", "0", "--recipe", &recipe])
        .code(5)
        .says("install cuda-toolkit-12-8 nvtop")
        .says("`apt-get install` failed");
    // The driver is in, the report says so, and the next run with a whole repository finishes.
    let whole = Site::new();
    let recipe = whole.recipe();
    host.inside(&ctid, "rm -f /var/lib/dpkg/info/cuda-nvcc-12-8.postinst").code(0);
    let address = format!(
        "sed -i 's|http://.*/ /$|{} /|' /etc/apt/sources.list.d/distribution.list",
        whole.distribution_url()
    );
    host.inside(&ctid, &address).code(0);
    host.run(&["provision", &ctid, "--gpus", "0", "--recipe", &recipe])
        .code(0)
        .shows("driver unchanged");
}

#[test]
fn packages_that_would_bring_a_second_driver_are_kept_out() {
    let (host, site) = (host(), Site::new());
    let ctid = container(&host, &site, &[]);
    let recipe = site.recipe();
    let with = |packages: &str| {
        let set = format!("packages={packages}");
        host.run(&["provision", &ctid, "--gpus", "0", "--recipe", &recipe, "--set", &set])
    };
    with("cuda-12-8").code(2).says("cuda-12-8");
    with("ucx-cuda-standin").code(5);
    assert_eq!(host.inside(&ctid, "dpkg -l libcuda1 2>/dev/null | grep ^ii").stdout, "");
    with("cuda-toolkit-12-8").code(0);
}

#[test]
fn a_container_whose_packages_bring_a_driver_is_refused_before_anything_is_touched() {
    let (host, site) = (host(), Site::new());
    let ctid = container(&host, &site, &[]);
    let library = "/usr/lib/x86_64-linux-gnu/nvidia/current/libcuda.so.535.261.03";
    host.install_package_with(&ctid, ("libcuda1", ""), &[library]);
    let (config, init, recipe) = (host.config(&ctid), host.init(&ctid), site.driver_only());
    let run = |verb| host.run(&[verb, &ctid, "--gpus", "0", "--recipe", &recipe]);
    run("plan").code(5).shows("a second driver comes from libcuda1 1.0");
    run("provision").code(5).says("its packages bring one").says("`apt-get purge libcuda1`");
    assert_eq!((host.config(&ctid), host.init(&ctid)), (config, init));
    host.inside(&ctid, "! test -e /var/lib/nvidia && apt-get -y purge libcuda1").code(0);
    run("provision").code(0);
}

#[test]
fn a_container_without_network() {
    let (host, site) = (host(), Site::new());
    let ctid = container(&host, &site, &[]);
    host.inside(&ctid, "rm /etc/apt/sources.list.d/*; echo 'deb [trusted=yes] http://10.99.0.1:1/ /' > /etc/apt/sources.list").code(0);
    let recipe = site.recipe();
    host.run(&["provision", &ctid, "--gpus", "0", "--recipe", &recipe])
        .code(5)
        .says("`apt-get update` failed")
        .says("cannot reach a repository");
}

#[test]
fn a_repository_key_that_is_not_the_pinned_one() {
    let (host, site) = (host(), Site::with_repository("cuda-otherkey"));
    let ctid = container(&host, &site, &[]);
    let recipe = site.recipe();
    let before = host.config(&ctid);
    host.run(&["provision", &ctid, "--gpus", "0", "--recipe", &recipe])
        .code(5)
        .says("it is not the pinned one")
        .says("pinned ");
    assert_eq!(host.config(&ctid), before);
    host.run(&["prefetch", "--for", "debian12", "--recipe", &recipe])
        .code(5)
        .says("not the pinned one");
}

#[test]
fn a_container_that_stops_while_the_installer_runs() {
    let (host, site) = (host(), Site::new());
    let ctid = container(&host, &site, &[]);
    let recipe = site.driver_only();
    let arguments = ["provision", &ctid, "--gpus", "0", "--recipe", &recipe];
    host.inside(&ctid, "echo 3 30 > /etc/nvidia-standin/sleep-after").code(0);
    let mut child = host.nvstage();
    let child = child
        .args(arguments)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    eventually("the installer runs", Duration::from_secs(60), || {
        host.inside(&ctid, "ls /proc/*/cwd -l 2>/dev/null | grep var/lib/nvstage")
            .stdout
            .contains("/var/lib/nvstage")
    });
    host.shell(&format!("lxc-stop -k -n {ctid}")).code(0);
    let run: support::Run = child.wait_with_output().unwrap().into();
    run.code(5).says("the container stopped while the installer was running");
    host.start(&ctid);
    host.inside(&ctid, "rm /etc/nvidia-standin/sleep-after").code(0);
    host.run(&arguments).code(0);
}

#[test]
fn a_disk_of_the_cache_that_is_full() {
    let (host, site) = (host(), Site::new());
    let ctid = container(&host, &site, &[]);
    let before = host.config(&ctid);
    let recipe = site.driver_only();
    host.shell("mkdir -p /run/small && mount -t tmpfs -o size=300k tmpfs /run/small").code(0);
    let full = ["--cache", "/run/small", "provision", &ctid, "--gpus", "0", "--recipe", &recipe];
    host.run(&full).code(5).says("space").says("/run/small");
    assert_eq!(host.config(&ctid), before);
    // Room for the download and not for the unpacked tree.
    let size = std::fs::metadata(support::installer(VERSION)).unwrap().len() / 1024 + 200;
    host.shell(&format!("umount /run/small; mount -t tmpfs -o size={size}k tmpfs /run/small"))
        .code(0);
    host.run(&full).code(5).says("space");
    assert_eq!(
        host.shell("find /run/small/trees-v1 -mindepth 1 -type d").stdout,
        "",
        "a half tree is left"
    );
    assert_eq!(host.config(&ctid), before);
}

#[test]
fn two_at_once_on_one_container_take_turns() {
    let (host, site) = (host(), Site::new());
    let ctid = container(&host, &site, &[]);
    let recipe = site.driver_only();
    let start = || {
        let mut command = host.nvstage();
        command.args(["provision", &ctid, "--gpus", "0", "--recipe", &recipe]);
        command
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let (one, two) = (start(), start());
    let one: support::Run = one.wait_with_output().unwrap().into();
    let two: support::Run = two.wait_with_output().unwrap().into();
    let (one, two) = (one.code(0), two.code(0));
    let installed = [&one, &two].map(|run| run.stdout.contains("install driver"));
    assert!(installed[0] != installed[1], "one installs, the other finds it done: {installed:?}");
    assert_eq!(site.requests(), 1);
}

#[test]
fn lines_of_others_are_kept_and_reported_and_the_replaced_scripts_are_adopted() {
    let (host, site) = (host(), Site::new());
    let ctid = host.container("privileged", &[]);
    let mut config = host.config(&ctid);
    config.push_str(
        "lxc.mount.entry: /dev/nvidia0 /dev/nvidia0 none bind,optional,create=file 0 0\n",
    );
    config.push_str("lxc.mount.entry: /dev/nvidia1 dev/mine none bind,optional,create=file 0 0\n");
    config.push_str("lxc.cgroup2.devices.allow: c 511:* rwm\n");
    config.push_str("\n[before]\narch: amd64\nlxc.mount.entry: /dev/nvidia0 /dev/nvidia0 none bind,optional,create=file 0 0\n");
    std::fs::write(host.config_path(&ctid), &config).unwrap();
    let recipe = site.driver_only();
    let run = host.run(&["provision", &ctid, "--gpus", "0", "--recipe", &recipe]).code(0);
    run.says("dev/mine");
    let after = host.config(&ctid);
    let (live, snapshot) = after.split_once("[before]").unwrap();
    assert!(live.contains("lxc.mount.entry: /dev/nvidia0 dev/nvidia0 none"), "{live}");
    assert!(!live.contains(" /dev/nvidia0 none"), "{live}");
    assert!(
        live.contains("lxc.mount.entry: /dev/nvidia1 dev/mine none bind,optional,create=file 0 0"),
        "{live}"
    );
    assert!(
        snapshot.contains("/dev/nvidia0 /dev/nvidia0 none"),
        "the snapshot changed: {snapshot}"
    );
}

/// A backup has the container for a while: nothing is to be stopped by hand.
#[test]
fn a_task_that_holds_the_container_is_to_be_waited_for() {
    let (host, site) = (host(), Site::new());
    let ctid = container(&host, &site, &[]);
    let recipe = site.driver_only();
    let arguments = ["provision", &ctid, "--gpus", "0", "--recipe", &recipe];
    host.run(&arguments).code(0);
    host.shell(&format!("pct stop {ctid}")).code(0);
    let lock = format!("/run/lock/lxc/pve-config-{ctid}.lock");
    let mut task = host.command("flock").args(["--close", &lock, "sleep", "60"]).spawn().unwrap();
    eventually("the lock is held", Duration::from_secs(10), || {
        host.shell(&format!("flock -n {lock} true")).code != 0
    });
    let run = host.run(&arguments).code(4).says("another task holds its lock");
    run.says("wait until that task has ended");
    // Another one comes first while it is waited for.
    host.pct_calls();
    let mut child = host.nvstage();
    let child = child
        .args(arguments)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    eventually("it is being started", Duration::from_secs(30), || {
        host.pct_calls().iter().any(|call| call.starts_with("start "))
    });
    std::fs::write(host.config_path(&ctid), format!("lock: backup\n{}", host.config(&ctid)))
        .unwrap();
    task.kill().unwrap();
    task.wait().unwrap();
    let run = Run::from(child.wait_with_output().unwrap()).code(4);
    run.says("Proxmox has locked it (backup)").says("wait until that task has ended");
}
