//! The way back on real containers: device lines out, what they replaced in their place, and with
//! them the driver and the packages if asked for.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use std::process::Stdio;
use std::time::Duration;

use support::{Host, Kind, Nodes, Run, Site, VERSION, eventually};

const MOUNT: &[&str] = &["--passthrough", "mount"];
const DEVICE: &[&str] = &["--passthrough", "device"];
const NODES: &str = "ls -d /dev/nvidia* 2>/dev/null; true";
/// Every file that an installer could leave, and every package.
const FILES: &str =
    "find /usr /etc /opt /var/lib/nvidia/* /var/lib/nvstage -xdev 2>/dev/null | sort";
const PACKAGES: &str = "dpkg-query -W -f '${binary:Package} ${Version} ${db:Status-Abbrev}\\n'";

/// A container on a host of its own, and a site to provision it from.
struct Scene {
    host: Host,
    site: Site,
    ctid: String,
}

impl Scene {
    /// It does not run yet.
    fn stopped(kind: Kind, privilege: &str) -> Self {
        let (host, site) = (Host::new(kind, Nodes::Answering(VERSION)), Site::new());
        let ctid = host.container(privilege, &[&site.distribution()]);
        Self { host, site, ctid }
    }

    fn running(kind: Kind, privilege: &str) -> Self {
        let scene = Self::stopped(kind, privilege);
        scene.host.start(&scene.ctid);
        scene
    }

    #[track_caller]
    fn provision(&self, more: &[&str]) -> Run {
        self.provision_with(&self.site.driver_only(), more)
    }

    #[track_caller]
    fn provision_with(&self, recipe: &str, more: &[&str]) -> Run {
        let arguments = ["provision", &self.ctid, "--gpus", "0", "--recipe", recipe];
        self.host.run(&[&arguments[..], more].concat()).code(0)
    }

    fn detach(&self, more: &[&str]) -> Run {
        self.host.run(&[&["detach", &self.ctid][..], more].concat())
    }

    fn config(&self) -> String {
        self.host.config(&self.ctid)
    }

    fn write(&self, config: &str) {
        std::fs::write(self.host.config_path(&self.ctid), config).unwrap();
    }

    fn init(&self) -> u32 {
        self.host.init(&self.ctid)
    }

    #[track_caller]
    fn inside(&self, script: &str) -> String {
        self.host.inside(&self.ctid, script).code(0).stdout
    }

    fn journal(&self) -> String {
        let path = format!("/var/lib/nvstage/containers/{}.json", self.ctid);
        std::fs::read_to_string(self.host.path(&path)).unwrap_or_default()
    }
}

/// Gives the live section two lines as the replaced script wrote them, and one of the user's; on
/// Proxmox a snapshot has the first one too.
fn with_older_lines(scene: &Scene) -> String {
    let separator = if scene.config().contains("lxc.rootfs") { " = " } else { ": " };
    let mut text = scene.config();
    for line in [
        "/srv srv none bind,optional,create=dir 0 0",
        "/dev/nvidia0 /dev/nvidia0 none bind,optional,create=file",
        "/dev/nvidiactl /dev/nvidiactl none bind,optional,create=file 0 0",
    ] {
        text.push_str(&format!("lxc.mount.entry{separator}{line}\n"));
    }
    if separator == ": " {
        text.push_str("\n[before]\narch: amd64\nlxc.mount.entry: /dev/nvidia0 /dev/nvidia0 none bind,optional,create=file 0 0\nlxc.mount.entry: /dev/nvidia0 dev/nvidia0 none bind,optional,create=file 0 0\n");
    }
    scene.write(&text);
    text
}

/// The file is as it was before, the container was restarted, and a second run does nothing.
fn gives_everything_back(kind: Kind, privilege: &str, method: &[&str]) {
    let scene = Scene::stopped(kind, privilege);
    let before = with_older_lines(&scene);
    scene.host.start(&scene.ctid);
    scene.provision(method);
    assert_ne!(scene.config(), before);
    assert!(scene.inside(NODES).contains("/dev/nvidia0\n"));
    let init = scene.init();

    scene.detach(&[]).code(0).shows("passthrough changed").shows("restarted");
    assert_same(&scene.config(), &before);
    assert_ne!(scene.init(), init, "it was not restarted");
    scene.host.inside(&scene.ctid, NODES).code(0);
    assert_eq!(scene.inside(NODES), "");
    assert!(scene.inside("ls /usr/bin/nvidia-smi").contains("smi"), "the userland stays");

    let init = scene.init();
    let config = scene.config();
    let run = scene.detach(&[]).code(0).shows("no line of nvstage's is there");
    run.shows("power unchanged");
    assert_eq!((scene.config(), scene.init()), (config, init));
}

/// As in the file before; a container of Proxmox has been written by Proxmox meanwhile, which sorts
/// settings and not raw lines.
#[track_caller]
fn assert_same(now: &str, before: &str) {
    let lines = |text: &str| -> Vec<String> {
        let is_kept = |line: &&str| !line.is_empty();
        text.lines().filter(is_kept).map(str::to_owned).collect()
    };
    assert_eq!(lines(now), lines(before));
}

#[test]
fn mount_entries_of_a_privileged_container_are_taken_out() {
    gives_everything_back(Kind::Pct, "privileged", MOUNT);
}

#[test]
fn mount_entries_of_an_unprivileged_container_of_plain_lxc_are_taken_out() {
    gives_everything_back(Kind::Lxc, "unprivileged", MOUNT);
}

#[test]
fn devices_of_an_unprivileged_container_are_taken_out() {
    gives_everything_back(Kind::Pct, "unprivileged", DEVICE);
}

#[test]
fn devices_of_a_privileged_container_that_were_plugged_in_are_taken_out() {
    let scene = Scene::running(Kind::Pct, "privileged");
    let (before, init) = (scene.config(), scene.init());
    scene.provision(DEVICE);
    assert_eq!(scene.init(), init, "they were not plugged in");
    scene.detach(&[]).code(0).shows("took out 4 lines").shows("restarted");
    assert_same(&scene.config(), &before);
    assert_eq!(scene.inside(NODES), "");
}

#[test]
fn a_stopped_container_stays_stopped_and_gets_them_back_by_provision() {
    let scene = Scene::stopped(Kind::Pct, "privileged");
    let before = scene.config();
    scene.provision(&[]);
    let provisioned = scene.config();
    scene.host.pct_calls();
    scene.detach(&[]).code(0).says("passthrough: changed").says("power: unchanged: stopped");
    assert_eq!((scene.config(), scene.init()), (before, 0));
    assert_eq!(scene.host.pct_calls(), [""; 0], "a stopped container was started");

    scene.provision(&["--start"]).shows("driver unchanged");
    assert_eq!(scene.config(), provisioned);
    assert!(scene.inside(NODES).contains("/dev/nvidia0\n"));
}

#[test]
fn a_container_that_nvstage_never_worked_on_is_left_alone() {
    let scene = Scene::running(Kind::Pct, "unprivileged");
    let line = "lxc.mount.entry: /dev/nvidia0 dev/nvidia0 none bind,optional,create=file 0 0\n";
    scene.write(&(scene.config() + line));
    let (before, init) = (scene.config(), scene.init());
    let run = scene.detach(&[]).code(0).shows("nvstage has put nothing in on this host");
    run.says("kept `lxc.mount.entry: /dev/nvidia0 dev/nvidia0");
    assert_eq!((scene.config(), scene.init()), (before, init));
    assert_eq!(scene.journal(), "", "it is managed now");
}

#[test]
fn lines_that_were_edited_since_stay_and_are_told_of() {
    let scene = Scene::running(Kind::Pct, "privileged");
    let before = scene.config();
    scene.provision(MOUNT);
    let ours = "lxc.mount.entry: /dev/nvidia0 dev/nvidia0 none bind,optional,create=file 0 0\n";
    let edited = "lxc.mount.entry: /dev/nvidia0 dev/nvidia0 none bind,ro,create=file 0 0\n";
    scene.write(&scene.config().replace(ours, edited));
    let run = scene.detach(&[]).code(0).shows("restarted");
    run.says(&format!(
        "warning: container {}: kept `{}`: nvstage did not write it in this form",
        scene.ctid,
        edited.trim()
    ));
    assert_same(&scene.config(), &(before + edited));
    assert_eq!(scene.inside(NODES), "/dev/nvidia0\n");
    scene.detach(&[]).code(0).shows("power unchanged");
}

#[test]
fn a_container_that_does_not_exist_is_not_found() {
    let host = Host::new(Kind::Pct, Nodes::Answering(VERSION));
    host.run(&["detach", "999999"]).code(3).says("failed to find it: it does not exist");
}

#[test]
fn a_template_loses_its_lines_and_nothing_else_can_be_done_with_it() {
    let scene = Scene::stopped(Kind::Pct, "unprivileged");
    let before = scene.config();
    scene.provision(&[]);
    let template = |config: &str| config.replace("swap: 512\n", "swap: 512\ntemplate: 1\n");
    scene.write(&template(&scene.config()));
    for more in ["--uninstall", "--purge"] {
        scene.detach(&[more]).code(2).says("it is a template");
    }
    assert!(scene.config().contains("/dev/nvidia0"));
    scene.detach(&[]).code(0).shows("passthrough changed");
    assert_eq!(scene.config(), template(&before));
}

/// Kills a run that changes the lines of a running container while it stops it.
fn killed_while_stopping(scene: &Scene, arguments: &[&str]) {
    scene.host.fault("stop-hangs", true);
    // Of the restart before.
    scene.host.pct_calls();
    let mut command = scene.host.nvstage();
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let lock = format!("/run/lock/lxc/pve-config-{}.lock", scene.ctid);
    let mut is_asked = false;
    eventually("it is being stopped", Duration::from_secs(20), || {
        is_asked |= scene.host.pct_calls().iter().any(|call| call.starts_with("shutdown "));
        is_asked && scene.host.shell(&format!("flock -n {lock} true")).code != 0
    });
    assert!(scene.journal().contains("\"attached\""), "it is not done yet: {}", scene.journal());
    child.kill().unwrap();
    child.wait().unwrap();
    scene.host.release(&lock);
    scene.host.fault("stop-hangs", false);
}

#[test]
fn a_run_that_was_killed_before_the_restart_is_finished_by_the_next_one() {
    let scene = Scene::running(Kind::Pct, "unprivileged");
    let before = scene.config();
    scene.provision(MOUNT);
    let init = scene.init();
    killed_while_stopping(&scene, &["detach", &scene.ctid]);
    assert_eq!(scene.init(), init, "it was stopped");
    assert!(scene.inside(NODES).contains("/dev/nvidia0\n"));

    scene.detach(&[]).code(0).shows("no line of nvstage's is there").shows("restarted");
    assert_same(&scene.config(), &before);
    assert_eq!(scene.inside(NODES), "");
    scene.detach(&[]).code(0).shows("power unchanged");
}

#[test]
fn a_container_that_a_killed_run_has_stopped_is_started_by_the_next_one() {
    let scene = Scene::running(Kind::Pct, "privileged");
    let before = scene.config();
    scene.provision(MOUNT);
    killed_while_stopping(&scene, &["detach", &scene.ctid]);
    scene.host.shell(&format!("lxc-stop -k -n {}", scene.ctid)).code(0);

    scene.detach(&[]).code(0).shows("no line of nvstage's is there").shows("started");
    assert_same(&scene.config(), &before);
    assert_eq!(scene.inside(NODES), "");
    // Once it is over, a container that somebody stops stays stopped.
    scene.host.shell(&format!("pct stop {}", scene.ctid)).code(0);
    scene.detach(&[]).code(0).shows("power unchanged");
    assert_eq!(scene.init(), 0);
}

#[test]
fn a_container_that_was_stopped_by_one_killed_run_and_left_so_by_another_is_started() {
    let scene = Scene::running(Kind::Pct, "unprivileged");
    let before = scene.config();
    let recipe = scene.site.driver_only();
    let provision = ["provision", &scene.ctid, "--gpus", "0", "--recipe", &recipe];
    killed_while_stopping(&scene, &provision);
    scene.host.shell(&format!("lxc-stop -k -n {}", scene.ctid)).code(0);
    let provisioned = scene.config();
    let mut command = scene.host.nvstage();
    command.args(["detach", &scene.ctid]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    eventually("the lines are out", Duration::from_secs(20), || scene.config() != provisioned);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(scene.init(), 0);
    scene.detach(&[]).code(0).shows("started");
    assert_same(&scene.config(), &before);
    assert_ne!(scene.init(), 0);
}

#[test]
fn an_edit_that_somebody_takes_back_is_made_again_by_the_next_run() {
    let scene = Scene::stopped(Kind::Pct, "privileged");
    let before = scene.config();
    scene.provision(&[]);
    let provisioned = scene.config();
    scene.detach(&[]).code(0).shows("passthrough changed");
    assert_eq!(scene.config(), before);
    scene.write(&provisioned);
    scene.detach(&[]).code(0).shows("passthrough changed");
    assert_eq!(scene.config(), before);
}

#[test]
fn a_container_from_another_node_is_known_by_its_lines() {
    let scene = Scene::stopped(Kind::Pct, "unprivileged");
    let before = scene.config();
    scene.provision(&[]);
    scene.host.shell(&format!("rm /var/lib/nvstage/containers/{}.json", scene.ctid)).code(0);
    scene.detach(&[]).code(0).shows("passthrough changed");
    assert_eq!(scene.config(), before);
}

#[test]
fn lines_that_a_rollback_brings_back_are_taken_out_again() {
    let scene = Scene::stopped(Kind::Pct, "privileged");
    let before = with_older_lines(&scene);
    scene.provision(DEVICE);
    let pct = |what: &str| scene.host.shell(&format!("pct {what} {} with", scene.ctid)).code(0);
    pct("snapshot");
    scene.detach(&[]).code(0).says("passthrough: changed");
    assert!(!live(&scene.config()).contains("dev0:"), "{}", scene.config());
    pct("rollback");
    assert!(live(&scene.config()).contains("dev0:"), "{}", scene.config());
    scene.detach(&[]).code(0).says("passthrough: changed: took out 4 lines");
    let now = live(&scene.config()).replace("parent: with\n", "");
    let is_older = |line: &&str| line.contains(" /dev/nvidia");
    let expected: Vec<&str> = live(&before).lines().filter(|line| !is_older(line)).collect();
    let kept: Vec<&str> = now.lines().filter(|line| !is_older(line)).collect();
    assert_eq!(kept, expected);
    scene.detach(&[]).code(0).says("passthrough: unchanged");
}

/// The live section.
fn live(config: &str) -> &str {
    config.split("\n[").next().unwrap()
}

#[test]
fn a_container_that_proxmox_has_locked_is_left_alone() {
    let scene = Scene::stopped(Kind::Pct, "unprivileged");
    scene.write(&scene.config().replace("memory:", "lock: backup\nmemory:"));
    let before = scene.config();
    for more in [&[][..], &["--purge"]] {
        scene.detach(more).code(4).says("Proxmox has locked it (backup)");
    }
    assert_eq!((scene.config(), scene.init()), (before, 0));
}

/// Tools for modules that leave a mark, where the uninstaller would find them.
const MARKS: &str = "for tool in modprobe rmmod lsmod depmod; do \
    printf '#!/bin/sh\\necho $0 >> /root/reached\\n' > /usr/local/sbin/$tool; chmod 755 /usr/local/sbin/$tool; done";
/// Files of the distribution that are in the installer's way.
const IN_THE_WAY: &str = "echo distribution > /usr/bin/nvidia-debugdump; ln -s /usr/bin/true /usr/bin/nvidia-smi; \
    echo library > /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1";
const STILL_THERE: &str = "cat /usr/bin/nvidia-debugdump /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1; readlink /usr/bin/nvidia-smi";

/// The driver goes, and what it had put away comes back.
fn uninstalls(kind: Kind, privilege: &str) {
    let scene = Scene::running(kind, privilege);
    scene.inside(&format!("{MARKS}; {IN_THE_WAY}"));
    let (config, files) = (scene.config(), scene.inside(FILES));
    scene.provision(&[]);
    assert!(scene.inside("head -n 1 /usr/bin/nvidia-debugdump").contains("#!/bin/sh"));

    scene.detach(&["--uninstall"]).code(0).shows("driver 580.76.05 uninstalled").shows("restarted");
    assert_same(&scene.config(), &config);
    assert_eq!(scene.inside(STILL_THERE), "distribution\nlibrary\n/usr/bin/true\n");
    assert_eq!(difference(&files, &scene.inside(FILES)), "");
    assert_eq!(scene.inside("cat /root/reached 2>/dev/null; true"), "", "tools for modules ran");
    assert_eq!(scene.inside("ls -d /root/.nvstage* 2>/dev/null; true"), "");
    let log = scene.inside("cat /var/log/nvidia-uninstall.log");
    for flag in ["--skip-module-unload", "--skip-depmod"] {
        assert!(log.contains(flag), "{log}");
    }
    assert!(scene.journal().contains("\"driver\": null"), "{}", scene.journal());
    scene.detach(&["--uninstall"]).code(0).shows("no driver of NVIDIA's installer is there");
}

/// Lines that only one of two texts has.
fn difference(before: &str, after: &str) -> String {
    let only = |a: &str, b: &str, sign: &str| -> String {
        let b: std::collections::BTreeSet<&str> = b.lines().collect();
        a.lines().filter(|line| !b.contains(line)).map(|line| format!("{sign}{line}\n")).collect()
    };
    only(before, after, "-") + &only(after, before, "+")
}

#[test]
fn the_driver_is_uninstalled_from_an_unprivileged_container() {
    uninstalls(Kind::Pct, "unprivileged");
}

#[test]
fn the_driver_is_uninstalled_from_a_privileged_container_of_plain_lxc() {
    uninstalls(Kind::Lxc, "privileged");
}

#[test]
fn a_stopped_container_is_started_to_uninstall_and_stopped_again() {
    let scene = Scene::stopped(Kind::Pct, "privileged");
    let before = scene.config();
    scene.provision(&[]);
    let run = scene.detach(&["--uninstall"]).code(0).says("power: changed: started");
    run.says("driver 580.76.05 uninstalled").says("restore: changed: stopped again");
    assert_eq!((scene.config(), scene.init()), (before, 0));
    scene.host.start(&scene.ctid);
    assert_eq!(scene.inside("ls /usr/bin/nvidia-smi /var/lib/nvidia/log 2>/dev/null; true"), "");
}

#[test]
fn an_uninstaller_that_fails_leaves_the_lines_and_the_next_run_finishes() {
    let scene = Scene::running(Kind::Pct, "privileged");
    let before = scene.config();
    scene.provision(MOUNT);
    let (config, init) = (scene.config(), scene.init());
    scene.inside("mkdir -p /etc/nvidia-standin; echo 3 > /etc/nvidia-standin/uninstall-fails");
    let run = scene.detach(&["--uninstall"]).code(5);
    let run = run.says(&format!("container {}: failed to uninstall driver 580.76.05", scene.ctid));
    let run = run.says("its uninstaller ended with status 1");
    run.says("The stand-in was told to fail after it removed 3 files.");
    assert_eq!((scene.config(), scene.init()), (config.clone(), init));
    assert!(scene.journal().contains("\"driver\": \"580.76.05\""), "{}", scene.journal());

    // One that was stopped is stopped again all the same.
    scene.host.shell(&format!("pct stop {}", scene.ctid)).code(0);
    scene.detach(&["--uninstall"]).code(5).says("restore: changed: stopped again");
    assert_eq!((scene.config(), scene.init()), (config, 0));

    scene.host.start(&scene.ctid);
    scene.inside("rm -r /etc/nvidia-standin");
    scene.detach(&["--uninstall"]).code(0);
    assert_same(&scene.config(), &before);
}

#[test]
fn purge_removes_what_came_with_provision_and_nothing_that_was_there_before() {
    let scene = Scene::running(Kind::Pct, "unprivileged");
    scene.inside("apt-get -q update >/dev/null && apt-get -q -y install nvtop >/dev/null");
    let (config, files, packages) = (scene.config(), scene.inside(FILES), scene.inside(PACKAGES));
    scene.provision_with(&scene.site.recipe(), &[]);
    assert!(difference(&packages, &scene.inside(PACKAGES)).contains("+cuda-nvcc-12-8 "));

    let run = scene.detach(&["--purge"]).code(0).shows("driver 580.76.05 uninstalled");
    run.shows("removed cuda-toolkit-12-8, and apt's files");
    assert_same(&scene.config(), &config);
    assert_eq!(difference(&packages, &scene.inside(PACKAGES)), "");
    assert_eq!(difference(&files, &scene.inside(FILES)), "");
    scene.inside("apt-get -q update");
    assert!(scene.journal().contains("\"packages\": []"), "{}", scene.journal());
    scene.detach(&["--purge"]).code(0).shows("no packages were installed for it");
}

#[test]
fn packages_that_something_else_needs_are_not_purged() {
    let scene = Scene::running(Kind::Pct, "privileged");
    scene.provision_with(&scene.site.recipe(), MOUNT);
    scene.host.install_package(&scene.ctid, "mine", "cuda-toolkit-12-8");
    let (config, packages) = (scene.config(), scene.inside(PACKAGES));
    let run = scene.detach(&["--purge"]).code(5);
    run.says("something else needs them: mine").says("`--uninstall` without `--purge`");
    assert_eq!((scene.config(), scene.inside(PACKAGES)), (config, packages));
    assert!(scene.inside("nvidia-smi").contains(VERSION), "the driver is gone all the same");

    // What came along with them is needed by another one: it stays, and the rest goes.
    scene.inside("dpkg --purge mine");
    scene.host.install_package(&scene.ctid, "other", "cuda-cudart-12-8");
    scene.detach(&["--purge"]).code(0);
    let left = scene.inside(&format!("{PACKAGES} | grep -e ^cuda -e ^nvtop -e ^libcublas; true"));
    assert_eq!(left, "cuda-cudart-12-8 12.8.90-1 ii \n");
}

/// Has the package's maintainer script sleep as long as `/root/slow` is there.
fn slow_down(scene: &Scene, package: &str, maintainer_script: &str, seconds: u32) {
    let script = format!("/var/lib/dpkg/info/{package}.{maintainer_script}");
    let text = format!("#!/bin/sh\n[ ! -e /root/slow ] || sleep {seconds}.5\n");
    scene.inside(&format!(
        "touch /root/slow; cat > {script} <<'end'\n{text}end\nchmod 755 {script}"
    ));
}

/// Starts a purge, and kills nvstage when the script has begun to sleep.
fn kill_purge(scene: &Scene, seconds: u32) {
    let mut command = scene.host.nvstage();
    command.args(["detach", &scene.ctid, "--purge"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    eventually_sleeps(scene, seconds);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Waits until the script has begun to sleep.
fn eventually_sleeps(scene: &Scene, seconds: u32) {
    eventually("the script sleeps", Duration::from_secs(60), || {
        let look = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '";
        let processes = scene.host.inside(&scene.ctid, look).stdout;
        processes.contains(&format!("sleep {seconds}.5"))
    });
}

/// What a container had before it was provisioned.
struct Had {
    packages: String,
    files: String,
}

impl Had {
    fn of(scene: &Scene) -> Self {
        Self { packages: scene.inside(PACKAGES), files: scene.inside(FILES) }
    }

    #[track_caller]
    fn is_left(&self, scene: &Scene) {
        assert_eq!(difference(&self.packages, &scene.inside(PACKAGES)), "");
        assert_eq!(difference(&self.files, &scene.inside(FILES)), "");
        assert!(scene.journal().contains("\"packages\": []"), "{}", scene.journal());
    }
}

/// A purge that ended with everything inside, as by a power failure, is finished by the next one.
fn finishes_a_purge_cut_short_at(package: &str, maintainer_script: &str) {
    let scene = Scene::running(Kind::Pct, "unprivileged");
    let had = Had::of(&scene);
    scene.provision_with(&scene.site.recipe(), &[]);
    slow_down(&scene, package, maintainer_script, 300);
    kill_purge(&scene, 300);
    scene.host.shell(&format!("lxc-stop -k -n {}", scene.ctid)).code(0);
    scene.host.start(&scene.ctid);
    scene.inside("rm /root/slow");
    assert_ne!(difference(&had.packages, &scene.inside(PACKAGES)), "", "everything was gone");
    scene.detach(&["--purge"]).code(0);
    had.is_left(&scene);
}

#[test]
fn a_purge_cut_short_before_the_first_package_is_finished_by_the_next_one() {
    finishes_a_purge_cut_short_at("cuda-toolkit-12-8", "prerm");
}

#[test]
fn a_purge_cut_short_in_the_middle_is_finished_by_the_next_one() {
    finishes_a_purge_cut_short_at("cuda-nvcc-12-8", "prerm");
}

#[test]
fn a_purge_cut_short_after_a_package_is_finished_by_the_next_one() {
    finishes_a_purge_cut_short_at("cuda-compiler-12-8", "postrm");
}

#[test]
fn a_purge_that_goes_on_inside_when_nvstage_was_killed_is_waited_for() {
    let scene = Scene::running(Kind::Pct, "privileged");
    let had = Had::of(&scene);
    scene.provision_with(&scene.site.recipe(), MOUNT);
    slow_down(&scene, "cuda-nvcc-12-8", "prerm", 5);
    kill_purge(&scene, 5);
    scene.detach(&["--purge"]).code(0);
    scene.inside("rm /root/slow");
    had.is_left(&scene);
}

#[test]
fn a_container_that_a_killed_purge_has_started_is_stopped_again_by_the_next_one() {
    let scene = Scene::running(Kind::Pct, "unprivileged");
    let had = Had::of(&scene);
    scene.provision_with(&scene.site.recipe(), &[]);
    slow_down(&scene, "cuda-nvcc-12-8", "prerm", 3);
    scene.host.shell(&format!("pct stop {}", scene.ctid)).code(0);
    kill_purge(&scene, 3);
    assert_ne!(scene.init(), 0);
    scene.detach(&["--purge"]).code(0).shows("stopped again");
    assert_eq!(scene.init(), 0);
    // Once it is over, a container that somebody starts runs on.
    scene.host.start(&scene.ctid);
    scene.inside("rm /root/slow");
    had.is_left(&scene);
    scene.detach(&[]).code(0);
    assert_ne!(scene.init(), 0);
}

#[test]
fn a_stopped_container_is_stopped_again_also_when_its_purge_is_interrupted() {
    let scene = Scene::running(Kind::Pct, "privileged");
    scene.provision_with(&scene.site.recipe(), &[]);
    slow_down(&scene, "cuda-nvcc-12-8", "prerm", 2);
    scene.host.shell(&format!("pct stop {}", scene.ctid)).code(0);
    let mut command = scene.host.nvstage();
    command.args(["detach", &scene.ctid, "--purge"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    eventually_sleeps(&scene, 2);
    let interrupted = format!("kill -INT {}", child.id());
    assert!(
        std::process::Command::new("sh").args(["-c", &interrupted]).status().unwrap().success()
    );
    let run = Run::from(child.wait_with_output().unwrap()).code(130);
    run.says("restore: changed: stopped again").says("interrupted by a signal");
    assert_eq!(scene.init(), 0);
    scene.detach(&["--purge"]).code(0);
    assert_eq!(scene.init(), 0);
}

#[test]
fn what_came_along_and_is_needed_since_a_purge_failed_stays() {
    let scene = Scene::running(Kind::Pct, "privileged");
    scene.provision_with(&scene.site.recipe(), MOUNT);
    let hook = "/etc/apt/apt.conf.d/99fails";
    scene.inside(&format!("echo 'DPkg::Pre-Invoke {{\"false\";}};' > {hook}"));
    scene.detach(&["--purge"]).code(5).says("`apt-get purge` failed");
    assert!(scene.journal().contains("cuda-cudart-12-8"), "{}", scene.journal());
    scene.inside(&format!("rm {hook}"));
    scene.host.install_package(&scene.ctid, "other", "cuda-cudart-12-8");
    scene.detach(&["--purge"]).code(0);
    let left = scene.inside(&format!("{PACKAGES} | grep -e ^cuda -e ^nvtop -e ^libcublas; true"));
    assert_eq!(left, "cuda-cudart-12-8 12.8.90-1 ii \n");
}
