//! `--method share` and `--cuda share` on real containers: the host's driver and CUDA in all of them.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use support::{Host, Kind, Nodes, Run, Site, VERSION};

const ANSWERING: Nodes = Nodes::Answering(VERSION);
/// Another version that the world has an installer of.
const NEXT: &str = "580.95.05";
const LINE: &str = "/var/lib/nvstage/driver/current usr/lib/nvstage/driver none bind,ro,nosuid,nodev,optional,create=dir 0 0\n";

fn provision(host: &Host, recipe: &str, ctid: &str, more: &[&str]) -> Run {
    let arguments = ["provision", ctid, "--gpus", "0", "--recipe", recipe, "--start"];
    host.run(&[&arguments[..], more].concat())
}

/// What a run says of a step of one container.
fn step(run: &Run, name: &str) -> serde_json::Value {
    let report = run.json();
    let steps = report["containers"][0]["steps"].as_array().unwrap();
    steps.iter().find(|step| step["step"] == name).cloned().unwrap_or_default()
}

fn changes_nothing(host: &Host, recipe: &str, ctid: &str) {
    let (config, init) = (host.config(ctid), host.init(ctid));
    host.pct_calls();
    let again = host.run(&["--json", "provision", ctid, "--gpus", "0", "--recipe", recipe]);
    let report = again.code(0).json();
    for step in report["containers"][0]["steps"].as_array().unwrap() {
        assert_eq!(step["outcome"], "unchanged", "{step}");
    }
    let calls = host.pct_calls();
    assert!(calls.len() <= 2, "{calls:?}");
    assert_eq!((host.config(ctid), host.init(ctid)), (config, init));
}

/// The version of the library that programs inside find.
fn version_inside(host: &Host, ctid: &str) -> String {
    let script =
        "ldconfig -p | sed -n 's/.*libcuda.so.1 .* => //p' | head -n 1 | xargs readlink -f";
    let path = host.inside(ctid, script).code(0).stdout;
    path.trim().rsplit_once(".so.").map(|(_, version)| version.to_owned()).unwrap_or(path)
}

fn from_bare_to_shared(kind: Kind, privilege: &str) {
    let (host, site) = (Host::new(kind, ANSWERING), Site::new());
    let ctid = host.container(privilege, &[&site.distribution()]);
    host.start(&ctid);
    host.pct_calls();

    let recipe = site.driver_only();
    let run = provision(&host, &recipe, &ctid, &["--method", "share"]).code(0);
    run.shows("libraries, nodes, nvidia-smi passed");

    // Stop, start, and one for everything inside.
    let calls = host.pct_calls();
    assert!(calls.len() <= 3, "{} calls of pct:\n{}", calls.len(), calls.join("\n"));
    assert!(host.config(&ctid).contains(LINE), "{}", host.config(&ctid));
    let look = "nvidia-smi | grep -q 'Driver Version: 580.76.05' && nvidia-smi -h >/dev/null \
        && readlink /usr/bin/nvidia-smi && ! ls /usr/lib/x86_64-linux-gnu/libcuda.so* 2>&1";
    let seen = host.inside(&ctid, look).code(0);
    assert!(seen.stdout.contains("/usr/lib/nvstage/driver/bin/nvidia-smi"), "{}", seen.stdout);
    assert_eq!(version_inside(&host, &ctid), VERSION);
    changes_nothing(&host, &recipe, &ctid);
    host.run(&["verify", &ctid, "--gpus", "0", "--recipe", &recipe]).code(0);
    host.run(&["plan", &ctid, "--gpus", "0", "--recipe", &recipe]).code(0);

    // Root inside cannot change what all containers have.
    for attempt in [
        "mount -o remount,bind,rw /usr/lib/nvstage/driver; touch /usr/lib/nvstage/driver/x",
        "mount -o remount,rw /usr/lib/nvstage/driver; : >>/usr/lib/nvstage/driver/lib/libcuda.so.1",
        "rm -f /usr/lib/nvstage/driver/bin/nvidia-smi",
    ] {
        let tried = host.inside(&ctid, attempt);
        assert_ne!(tried.code, 0, "{attempt}: {}", tried.stderr);
        assert!(tried.stderr.contains("Read-only file system"), "{attempt}: {}", tried.stderr);
    }
}

#[test]
fn a_privileged_container_shares_the_hosts_driver() {
    from_bare_to_shared(Kind::Pct, "privileged");
}

#[test]
fn an_unprivileged_container_shares_the_hosts_driver() {
    from_bare_to_shared(Kind::Pct, "unprivileged");
}

#[test]
fn a_plain_lxc_container_shares_the_hosts_driver() {
    from_bare_to_shared(Kind::Lxc, "unprivileged");
}

/// On Proxmox VE 9: devices are plugged in, and what is shared is shown.
fn reaches_a_running_container(privilege: &str) {
    let (host, site) = (Host::new(Kind::Pct, ANSWERING), Site::new());
    let ctid = host.container(privilege, &[&site.distribution()]);
    host.start(&ctid);
    let (init, recipe) = (host.init(&ctid), site.driver_only());
    host.pct_calls();
    let more = ["--method", "share", "--passthrough", "device"];
    let run = provision(&host, &recipe, &ctid, &more).code(0);
    run.shows("while it runs").shows("power unchanged").shows("nodes, nvidia-smi passed");
    // The devices, and one for everything inside.
    let calls = host.pct_calls();
    assert_eq!(calls.len(), 2, "{}", calls.join("\n"));
    assert_eq!(host.init(&ctid), init, "it was restarted");
    let config = host.config(&ctid);
    assert!(config.contains(LINE) && config.contains("\ndev0: /dev/nvidia0"), "{config}");
    assert_eq!(version_inside(&host, &ctid), VERSION);
    changes_nothing(&host, &recipe, &ctid);
    // A start makes the same of it.
    host.shell(&format!("pct reboot {ctid}")).code(0);
    host.inside(&ctid, "nvidia-smi | grep 'Driver Version: 580.76.05'").code(0);
    changes_nothing(&host, &recipe, &ctid);
    // Only the devices are lacking.
    host.run(&["detach", &ctid]).code(0);
    assert!(host.config(&ctid).contains(LINE) && !host.config(&ctid).contains("dev0"));
    let init = host.init(&ctid);
    provision(&host, &recipe, &ctid, &more).code(0).shows("passed");
    assert_eq!(host.init(&ctid), init, "it was restarted");
    changes_nothing(&host, &recipe, &ctid);
}

#[test]
fn devices_and_driver_reach_a_running_privileged_container() {
    reaches_a_running_container("privileged");
}

#[test]
fn devices_and_driver_reach_a_running_unprivileged_container() {
    reaches_a_running_container("unprivileged");
}

#[test]
fn after_a_host_upgrade_a_restart_is_all_it_takes() {
    let (host, site) = (Host::new(Kind::Pct, Nodes::Silent), Site::new());
    host.load_module(VERSION);
    let ctid = host.container("privileged", &[]);
    let recipe = site.driver_only();
    provision(&host, &recipe, &ctid, &["--method", "share"]).code(0);
    assert_eq!(version_inside(&host, &ctid), VERSION);
    // The installer of the next driver is in the cache, and the host boots with its module.
    host.load_module(NEXT);
    host.run(&["prefetch", "--recipe", &recipe, "--for", "debian12"]).code(0);
    host.run(&["refresh"]).code(0);
    // As long as it runs it keeps the old one, whole.
    assert_eq!(version_inside(&host, &ctid), VERSION);
    host.pct_calls();
    host.shell(&format!("pct stop {ctid} && pct start {ctid}")).code(0);
    assert_eq!(version_inside(&host, &ctid), NEXT);
    host.inside(&ctid, "nvidia-smi -h").code(0);
    // Libraries that name each other by version are found as well, by the unit inside.
    let named = format!("ldconfig -p | grep -q 'driver/lib/.*{NEXT}$'");
    support::eventually(
        "the linker knows the new names",
        std::time::Duration::from_secs(20),
        || host.inside(&ctid, &named).code == 0,
    );
    let (config, init) = (host.config(&ctid), host.init(&ctid));
    let again = host.run(&["--json", "provision", &ctid, "--gpus", "0", "--recipe", &recipe]);
    assert_eq!(step(&again.code(0), "share")["outcome"], "unchanged");
    assert_eq!((host.config(&ctid), host.init(&ctid)), (config, init));
    let outcome = host.run(&["verify", &ctid, "--gpus", "0", "--recipe", &recipe]);
    outcome.code(0).shows("libraries passed");
}

/// Of what a driver has more than the one before the boot everybody says the same, and `refresh` sets it
/// up without a restart.
#[test]
fn a_driver_with_more_files_is_set_up_in_a_running_container_by_refresh() {
    let older = "470.256.02";
    let (host, site) = (Host::new(Kind::Pct, Nodes::Silent), Site::new());
    host.load_module(older);
    let ctid = host.container("unprivileged", &[]);
    let recipe = site.driver_only();
    provision(&host, &recipe, &ctid, &["--method", "share"]).code(0);
    host.load_module(VERSION);
    host.run(&["prefetch", "--recipe", &recipe, "--for", "debian12"]).code(0);
    host.run(&["refresh"]).code(0);
    host.shell(&format!("pct stop {ctid} && pct start {ctid}")).code(0);
    assert_eq!(version_inside(&host, &ctid), VERSION);
    let link = "/usr/lib/x86_64-linux-gnu/gbm/nvidia-drm_gbm.so";
    assert_ne!(host.inside(&ctid, &format!("test -L {link}")).code, 0, "470 has it too");

    let (config, init) = (host.config(&ctid), host.init(&ctid));
    let verify = ["verify", &ctid, "--gpus", "0", "--recipe", &recipe];
    host.run(&["status", "--check"]).code(10).shows("incomplete: ");
    host.run(&["sync", "--check"]).code(10).shows("incomplete: ");
    host.run(&verify).code(10);
    host.run(&["refresh"]).code(0).shows("set up anew");
    host.inside(&ctid, &format!("test -e {link}")).code(0);
    for arguments in [&["status", "--check"][..], &["sync", "--check"], &verify] {
        host.run(arguments).code(0);
    }
    // `sync` does it too, and restarts nothing for it.
    host.inside(&ctid, &format!("rm {link}")).code(0);
    host.run(&["sync", "--check"]).code(10).shows("nvidia-drm_gbm.so");
    host.run(&["sync"]).code(0).shows("set up anew");
    host.run(&["sync", "--check"]).code(0);
    assert_eq!((host.config(&ctid), host.init(&ctid)), (config, init));
    let again = host.run(&["--json", "refresh"]).code(0);
    assert!(!again.stdout.contains("\"share\""), "{}", again.stdout);
}

#[test]
fn from_an_installed_driver_to_the_hosts_and_back() {
    let (host, site) = (Host::new(Kind::Pct, ANSWERING), Site::new());
    let ctid = host.container("unprivileged", &[]);
    host.start(&ctid);
    let recipe = site.driver_only();
    let installed = "ls /usr/lib/x86_64-linux-gnu/libcuda.so.580.76.05 /var/lib/nvidia/log";
    provision(&host, &recipe, &ctid, &[]).code(0);
    host.inside(&ctid, installed).code(0);
    let (init, before) = (host.init(&ctid), host.config(&ctid));

    host.run(&["plan", &ctid, "--gpus", "0", "--recipe", &recipe, "--method", "share"])
        .code(10)
        .shows("driver 580.76.05 of the host instead of its own driver 580.76.05");
    // No line of a device changes: it runs on.
    let run = provision(&host, &recipe, &ctid, &["--method", "share"]).code(0);
    run.shows("driver 580.76.05 of the host instead of its own driver 580.76.05");
    assert_eq!(host.init(&ctid), init, "it was restarted");
    assert_ne!(host.inside(&ctid, installed).code, 0);
    assert_eq!(version_inside(&host, &ctid), VERSION);
    changes_nothing(&host, &recipe, &ctid);

    let run = provision(&host, &recipe, &ctid, &["--method", "installer"]).code(0);
    run.shows("nothing of the host any more");
    assert_eq!(host.init(&ctid), init, "it was restarted");
    host.inside(&ctid, installed).code(0);
    let left = "ls -d /usr/lib/nvstage /etc/ld.so.conf.d/nvstage.conf /etc/systemd/system/nvstage-ldconfig.service 2>/dev/null";
    assert_eq!(host.inside(&ctid, left).stdout, "");
    assert_eq!(host.config(&ctid), before);
    changes_nothing(&host, &recipe, &ctid);
}

/// Files and a directory of the container's own where links go, and what each of them is.
const OWN: &str = "mkdir -p /usr/share/nvidia/mine /etc/OpenCL/vendors
echo mine >/usr/share/nvidia/mine/file
echo 'echo mine' >/usr/bin/nvidia-smi && chmod 4711 /usr/bin/nvidia-smi
echo libmine.so >/etc/OpenCL/vendors/nvidia.icd";
const OWN_LOOK: &str =
    "stat -c '%n %a %F' /usr/bin/nvidia-smi /usr/share/nvidia /etc/OpenCL/vendors/nvidia.icd
cat /usr/bin/nvidia-smi /usr/share/nvidia/mine/file /etc/OpenCL/vendors/nvidia.icd
find / -xdev -name '*.nvstage-aside*'";

#[test]
fn what_is_in_the_place_of_a_link_is_moved_aside_and_put_back() {
    let (host, site) = (Host::new(Kind::Pct, ANSWERING), Site::new());
    let recipe = site.driver_only();
    // What lies in the image is known when another container has it.
    let other = host.container("unprivileged", &[]);
    provision(&host, &recipe, &other, &["--method", "share"]).code(0);
    let ctid = host.container("unprivileged", &[]);
    host.start(&ctid);
    host.inside(&ctid, OWN).code(0);
    let own = host.inside(&ctid, OWN_LOOK).code(0).stdout;
    let plan = ["plan", &ctid, "--gpus", "0", "--recipe", &recipe, "--method", "share"];
    for path in ["/usr/bin/nvidia-smi", "/usr/share/nvidia", "/etc/OpenCL/vendors/nvidia.icd"] {
        host.run(&plan).code(10).shows(&format!("its own `{path}`"));
    }
    let run = provision(&host, &recipe, &ctid, &["--method", "share"]).code(0);
    run.says(
        "moved the container's own `/usr/bin/nvidia-smi` to `/usr/bin/nvidia-smi.nvstage-aside`",
    );
    host.inside(&ctid, "nvidia-smi | grep 'Driver Version: 580.76.05'").code(0);
    changes_nothing(&host, &recipe, &ctid);
    host.run(&["verify", &ctid, "--gpus", "0", "--recipe", &recipe]).code(0);

    // A package of the container's brings its file anew.
    host.inside(&ctid, "rm /usr/bin/nvidia-smi && echo newer >/usr/bin/nvidia-smi").code(0);
    provision(&host, &recipe, &ctid, &[]).code(0).says("nvidia-smi.nvstage-aside~");
    changes_nothing(&host, &recipe, &ctid);
    host.inside(
        &ctid,
        "mv -f /usr/bin/nvidia-smi.nvstage-aside /usr/bin/nvidia-smi.nvstage-aside~",
    )
    .code(0);

    let run = host.run(&["detach", &ctid, "--uninstall"]).code(0);
    run.says("put the container's own `/usr/share/nvidia` back");
    assert_eq!(host.inside(&ctid, OWN_LOOK).code(0).stdout, own);
    host.inside(&ctid, "! test -e /usr/lib/nvstage").code(0);
}

#[test]
fn a_directory_of_the_host_in_the_place_of_the_driver_does_not_count_as_shown() {
    let (host, site) = (Host::new(Kind::Pct, ANSWERING), Site::new());
    let ctid = host.container("privileged", &[]);
    let recipe = site.driver_only();
    provision(&host, &recipe, &ctid, &["--method", "share"]).code(0);
    // The image is not mounted, and somebody has copied it to where it belongs.
    let point = format!("/var/lib/nvstage/driver/{VERSION}");
    let copy = format!(
        "pct stop {ctid} && cp -a {point} /run/copy && umount {point} && cp -a /run/copy/. {point}"
    );
    host.shell(&copy).code(0);
    host.start(&ctid);
    host.inside(&ctid, "nvidia-smi -h").code(0);
    host.run(&["plan", &ctid, "--gpus", "0", "--recipe", &recipe])
        .code(10)
        .shows("the host's driver is not shown at `/usr/lib/nvstage/driver`");
    provision(&host, &recipe, &ctid, &[]).code(0);
    let seen = host.inside(&ctid, "grep ' /usr/lib/nvstage/driver ' /proc/self/mountinfo").stdout;
    assert!(seen.lines().count() == 1 && seen.contains(" - squashfs "), "{seen}");
    changes_nothing(&host, &recipe, &ctid);
}

/// What lies in the cache for it, as `--cuda share` wants it.
fn prefetched(host: &Host, site: &Site, ctid: &str) {
    host.run(&["prefetch", "--recipe", &site.recipe(), "--for", ctid]).code(0);
}

/// A running container with a driver and packages of its own.
fn with_packages() -> (Host, Site, String) {
    let (host, site) = (Host::new(Kind::Pct, ANSWERING), Site::new());
    let ctid = host.container("privileged", &[&site.distribution()]);
    host.start(&ctid);
    prefetched(&host, &site, &ctid);
    provision(&host, &site.recipe(), &ctid, &[]).code(0);
    (host, site, ctid)
}

const COMPILER: &str =
    "/usr/local/cuda/bin/nvcc --version | grep V12.8 && readlink /usr/local/cuda";

#[test]
fn cuda_of_the_host_instead_of_packages_and_back() {
    let (host, site, ctid) = with_packages();
    let recipe = site.recipe();
    let init = host.init(&ctid);

    let run = provision(&host, &recipe, &ctid, &["--cuda", "share"]).code(0);
    run.shows("instead of cuda-toolkit-12-8");
    assert_eq!(host.init(&ctid), init, "it was restarted");
    host.inside(&ctid, COMPILER).code(0);
    host.inside(&ctid, "dpkg -l nvtop | grep ^ii").code(0);
    assert_ne!(host.inside(&ctid, "dpkg -l cuda-toolkit-12-8 | grep ^ii").code, 0);
    let attempt = "mount -o remount,bind,rw /usr/local/cuda-12.8; touch /usr/local/cuda-12.8/x";
    let tried = host.inside(&ctid, attempt);
    assert!(tried.stderr.contains("Read-only file system"), "{}", tried.stderr);
    changes_nothing(&host, &recipe, &ctid);

    provision(&host, &recipe, &ctid, &["--cuda", "apt"]).code(0);
    assert_eq!(host.init(&ctid), init, "it was restarted");
    host.inside(&ctid, "dpkg -l cuda-toolkit-12-8 | grep ^ii && touch /usr/local/cuda-12.8/x")
        .code(0);
    changes_nothing(&host, &recipe, &ctid);
}

#[test]
fn packages_that_something_else_needs_are_told_before_anything_is_touched() {
    let (host, site, ctid) = with_packages();
    let recipe = site.recipe();
    host.install_package(&ctid, "mine", "cuda-toolkit-12-8");
    let (config, init) = (host.config(&ctid), host.init(&ctid));
    for more in [&["--cuda", "share"][..], &["--method", "share", "--cuda", "share"]] {
        let run = provision(&host, &recipe, &ctid, more).code(5);
        run.says("something else needs them: mine").says("`--cuda apt` leaves them as they are");
        assert_eq!((host.config(&ctid), host.init(&ctid)), (config.clone(), init));
        let look = "dpkg -l cuda-toolkit-12-8 | grep ^ii && touch /usr/local/cuda-12.8/x";
        host.inside(&ctid, look).code(0);
    }
    changes_nothing(&host, &recipe, &ctid);
}

#[test]
fn nothing_of_the_containers_own_is_hidden_by_what_is_shared() {
    let (host, site, ctid) = with_packages();
    let recipe = site.recipe();
    let (config, init) = (host.config(&ctid), host.init(&ctid));
    let arguments = ["--method", "share", "--cuda", "share"];
    let plan = ["plan", &ctid, "--gpus", "0", "--recipe", &recipe];
    for (own, undo, told) in [
        (
            // Also while there is no image yet.
            "echo mine >/usr/local/cuda-12.8/mine",
            "rm /usr/local/cuda-12.8/mine",
            "`/usr/local/cuda-12.8/mine` is the container's own",
        ),
        (
            "mkdir /usr/local/cuda-12.8/own && mount -t tmpfs mine /usr/local/cuda-12.8/own",
            "umount /usr/local/cuda-12.8/own && rmdir /usr/local/cuda-12.8/own",
            "`/usr/local/cuda-12.8/own`: `mine` (tmpfs) is mounted there",
        ),
        (
            "mkdir -p /usr/lib/nvstage/driver && mount -t tmpfs mine /usr/lib/nvstage/driver",
            "umount /usr/lib/nvstage/driver && rm -r /usr/lib/nvstage",
            "`/usr/lib/nvstage/driver`: `mine` (tmpfs) is mounted there",
        ),
        (
            "mkdir -p /usr/lib/nvstage/driver && touch /usr/lib/nvstage/driver/mine",
            "rm -r /usr/lib/nvstage",
            "`/usr/lib/nvstage/driver/mine` is the container's own",
        ),
    ] {
        host.inside(&ctid, own).code(0);
        let mounts = host.inside(&ctid, "cat /proc/self/mounts").stdout;
        let planned = host.run(&[&plan[..], &arguments].concat()).code(5);
        planned.shows(told);
        provision(&host, &recipe, &ctid, &arguments).code(5).says(told);
        assert_eq!((host.config(&ctid), host.init(&ctid)), (config.clone(), init));
        assert_eq!(host.inside(&ctid, "cat /proc/self/mounts").stdout, mounts);
        host.inside(&ctid, undo).code(0);
    }
    changes_nothing(&host, &recipe, &ctid);
    provision(&host, &recipe, &ctid, &arguments).code(0);
    host.inside(&ctid, COMPILER).code(0);
}

#[test]
fn a_stopped_container_shares_driver_and_cuda_at_once() {
    let (host, site) = (Host::new(Kind::Pct, ANSWERING), Site::new());
    let ctid = host.container("unprivileged", &[&site.distribution()]);
    host.start(&ctid);
    prefetched(&host, &site, &ctid);
    host.shell(&format!("pct stop {ctid}")).code(0);
    host.pct_calls();
    let recipe = site.recipe();
    let run = host.run(&[
        "--json",
        "provision",
        "--start",
        &ctid,
        "--gpus",
        "0",
        "--recipe",
        &recipe,
        "--method",
        "share",
        "--cuda",
        "share",
    ]);
    let run = run.code(0);
    assert_eq!(step(&run, "share")["outcome"], "changed", "{run:?}");
    host.inside(&ctid, COMPILER).code(0);
    assert_eq!(version_inside(&host, &ctid), VERSION);
    assert!(
        host.config(&ctid).contains("usr/local/cuda-12.8 none bind,ro"),
        "{}",
        host.config(&ctid)
    );
    changes_nothing(&host, &recipe, &ctid);
    // What was shown while it ran is shown when it starts.
    host.shell(&format!("pct stop {ctid} && pct start {ctid}")).code(0);
    changes_nothing(&host, &recipe, &ctid);
    host.inside(&ctid, COMPILER).code(0);

    host.run(&["detach", &ctid, "--purge"]).code(0);
    let left = "ls -d /usr/lib/nvstage /etc/ld.so.conf.d/nvstage.conf /usr/local/cuda /usr/bin/nvidia-smi 2>/dev/null";
    assert_eq!(host.inside(&ctid, left).stdout, "");
    assert!(!host.config(&ctid).contains("nvstage"), "{}", host.config(&ctid));
}

#[test]
fn without_packages_in_the_cache_cuda_is_not_shared_and_nothing_is_touched() {
    let (host, site) = (Host::new(Kind::Pct, ANSWERING), Site::new());
    let ctid = host.container("privileged", &[&site.distribution()]);
    host.start(&ctid);
    let before = host.config(&ctid);
    provision(&host, &site.recipe(), &ctid, &["--cuda", "share"])
        .code(5)
        .says("the cache has no packages for debian12")
        .says(&format!("nvstage prefetch --for {ctid}"));
    assert_eq!(host.config(&ctid), before);
}

/// What the container has by apt is what it would get by the lock, and the lock has it all the same.
#[test]
fn from_apt_to_share_by_the_hint_as_it_stands() {
    let (host, site) = (Host::new(Kind::Pct, ANSWERING), Site::new());
    let ctid = host.container("unprivileged", &[&site.distribution()]);
    host.start(&ctid);
    let recipe = site.recipe();
    provision(&host, &recipe, &ctid, &[]).code(0);
    let refused = host.run(&["provision", &ctid, "--cuda", "share"]).code(5);
    let hint = refused.stderr.split('`').find(|words| words.starts_with("nvstage prefetch"));
    let words: Vec<&str> = hint.unwrap().split(' ').skip(1).collect();
    host.run(&words).code(0).shows(&format!("packages for container {ctid}"));
    host.run(&["provision", &ctid, "--cuda", "share"]).code(0);
    let nvcc = "/usr/local/cuda-12.8/bin/nvcc --version | grep V12.8; dpkg -l cuda-nvcc-12-8 | grep -c ^ii";
    assert!(host.inside(&ctid, nvcc).stdout.ends_with("V12.8.93\n0\n"));
    // A fresh one gets everything from the same lock, which names no recipe but the container's.
    host.shell("rm /var/cache/nvstage/locks-v1/*.lock").code(0);
    host.run(&["prefetch", "--for", &ctid]).code(0);
    let other = host.container("unprivileged", &[&site.distribution()]);
    host.start(&other);
    provision(&host, &recipe, &other, &["--offline"]).code(0).shows("nvtop, from the cache");
}

#[test]
fn doctor_finds_nothing_in_a_container_that_shares_and_says_when_the_host_goes_ahead() {
    let (host, site) = (Host::new(Kind::Pct, ANSWERING), Site::new());
    let ctid = host.container("privileged", &[]);
    host.start(&ctid);
    provision(&host, &site.driver_only(), &ctid, &["--method", "share"]).code(0);
    let findings = |run: &Run| -> Vec<String> {
        let found = run.json()["findings"].as_array().unwrap().clone();
        found.iter().map(|one| one["check"].as_str().unwrap().to_owned()).collect()
    };
    // Nothing of it is about the container; there is no unit on this host.
    let healthy = host.run(&["--json", "doctor", &ctid]);
    assert_eq!(findings(&healthy), ["boot-order"], "{}", healthy.stdout);
    host.load_module(NEXT);
    let behind = host.run(&["doctor", &ctid]).code(10);
    behind.shows("nvstage sync");
}

#[test]
fn a_clone_of_a_template_that_shares_goes_on_sharing_and_costs_one_check() {
    let (host, site) = (Host::new(Kind::Pct, ANSWERING), Site::new());
    let ctid = host.container("privileged", &[&site.distribution()]);
    host.start(&ctid);
    prefetched(&host, &site, &ctid);
    let recipe = site.recipe();
    provision(&host, &recipe, &ctid, &["--method", "share", "--cuda", "share"]).code(0);
    host.shell(&format!("pct shutdown {ctid} && pct template {ctid}")).code(0);
    let (clone, made) = host.clone_of(&ctid, "--hostname worker");
    made.code(0);
    host.start(&clone);
    changes_nothing(&host, &recipe, &clone);
    assert_eq!(version_inside(&host, &clone), VERSION);
    host.inside(&clone, COMPILER).code(0);
    // It is known from now on.
    host.run(&["status", &clone]).code(0).shows("share");
}
