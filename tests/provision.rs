//! The main job on real containers: from bare to verified, and again.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use nvstage::digest::hash_reader;
use support::{Host, Kind, Nodes, Site, VERSION, installer, world_script};

const ANSWERING: Nodes = Nodes::Answering(VERSION);

fn provision(host: &Host, site: &Site, ctid: &str, more: &[&str]) -> support::Run {
    let recipe = site.recipe();
    let mut arguments = vec!["provision", ctid];
    for (option, value) in [("--gpus", "0"), ("--recipe", recipe.as_str())] {
        if !more.contains(&option) {
            arguments.extend([option, value]);
        }
    }
    arguments.extend(more);
    host.run(&arguments)
}

/// A container on a host of its own, provisioned, and looked at.
fn from_bare_to_verified(kind: Kind, privilege: &str) {
    let host = Host::new(kind, ANSWERING);
    let site = Site::new();
    let ctid = host.container(privilege, &[&site.distribution()]);
    host.start(&ctid);
    host.pct_calls();

    provision(&host, &site, &ctid, &[])
        .code(0)
        .shows("libraries, nodes, nvidia-smi, packages passed");

    let calls = host.pct_calls();
    assert!(calls.len() <= 8, "{} calls of pct:\n{}", calls.len(), calls.join("\n"));
    let config = host.config(&ctid);
    let separator = if kind == Kind::Pct { ": " } else { " = " };
    let line = |node: &str, create: &str| {
        format!(
            "lxc.mount.entry{separator}/dev/{node} dev/{node} none bind,optional,create={create} 0 0\n"
        )
    };
    for node in ["nvidia0", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"] {
        assert!(config.contains(&line(node, "file")), "{node}:\n{config}");
    }
    assert!(config.contains(&line("nvidia-caps", "dir")), "{config}");
    assert!(!config.contains("nvidia1"), "a GPU that was not asked for:\n{config}");
    assert_eq!(config.contains("devices.allow"), privilege == "privileged", "{config}");
    let look = "nvidia-smi | grep -q 'Driver Version: 580.76.05' && readlink -f /usr/lib/x86_64-linux-gnu/libcuda.so.1 \
        && /usr/local/cuda-12.8/bin/nvcc --version | grep V12.8 && dpkg -l nvtop | grep ^ii \
        && ls -A /var/lib/nvstage /root/.nvstage* 2>&1; ls -A /var/cache/apt/archives/*.deb; true";
    let seen = host.inside(&ctid, look).code(0);
    assert!(seen.stdout.contains("libcuda.so.580.76.05\n"), "{}", seen.stdout);
    assert!(seen.stdout.contains("ii  nvtop"), "{}", seen.stdout);
    assert!(!seen.stdout.contains(".deb"), "packages are left in apt's cache: {}", seen.stdout);
    assert_eq!(host.inside(&ctid, "test -e /var/lib/nvstage").code, 1, "staging is still there");

    let (init, requests) = (host.init(&ctid), site.requests());
    let log = host.inside(&ctid, "stat -c %Y%s /var/log/apt/history.log").stdout;
    provision(&host, &site, &ctid, &[]).code(0);
    let again =
        host.run(&["--json", "provision", &ctid, "--gpus", "0", "--recipe", &site.recipe()]);
    let report = again.code(0).json();
    for step in report["containers"][0]["steps"].as_array().unwrap() {
        assert_eq!(step["outcome"], "unchanged", "{step}");
    }
    assert!(host.pct_calls().len() <= 4, "an unchanged container takes at most 2 calls");
    assert_eq!(host.init(&ctid), init, "it was restarted");
    assert_eq!(site.requests(), requests, "something was downloaded again");
    assert_eq!(host.inside(&ctid, "stat -c %Y%s /var/log/apt/history.log").stdout, log, "apt ran");
    assert_eq!(host.config(&ctid), config);
}

#[test]
fn a_privileged_container_of_proxmox() {
    from_bare_to_verified(Kind::Pct, "privileged");
}

#[test]
fn an_unprivileged_container_of_proxmox() {
    from_bare_to_verified(Kind::Pct, "unprivileged");
}

#[test]
fn a_privileged_container_of_plain_lxc() {
    from_bare_to_verified(Kind::Lxc, "privileged");
}

#[test]
fn an_unprivileged_container_of_plain_lxc() {
    from_bare_to_verified(Kind::Lxc, "unprivileged");
}

#[test]
fn a_pushed_installer_is_checked_inside_and_leaves_nothing() {
    let host = Host::new(Kind::Pct, ANSWERING);
    let site = Site::new();
    let ctid = host.container("unprivileged", &[&site.distribution()]);
    host.start(&ctid);
    host.pct_calls();
    provision(&host, &site, &ctid, &["--stage", "push"]).code(0);
    let calls = host.pct_calls();
    assert!(calls.len() <= 8, "{}", calls.join("\n"));
    let rest = host
        .inside(&ctid, "ls -A /root | grep nvstage; ls /tmp /var/tmp | grep -i -e nvidia -e self");
    assert_eq!(rest.stdout, "");
    assert!(host.inside(&ctid, "nvidia-smi").code(0).stdout.contains(VERSION));
}

/// The tar of the archive would give its files an owner that the container has no number for.
#[test]
fn a_pushed_installer_whose_files_belong_to_nobody_inside_unpacks() {
    let host = Host::new(Kind::Pct, ANSWERING);
    let site = Site::new();
    let file = host.directory.path().join(format!("NVIDIA-Linux-x86_64-{VERSION}.run"));
    let path = file.to_str().unwrap();
    world_script("make-installer", &[VERSION, "zstd", path, "--owner", "100500"]).code(0);
    let pin = |file: &std::path::Path| {
        let (digest, size) = hash_reader(std::fs::File::open(file).unwrap()).unwrap();
        format!("sha256 = \"{digest}\"\nsize = {size}\n")
    };
    let recipe = site.driver_only();
    let text = std::fs::read_to_string(&recipe).unwrap();
    std::fs::write(&recipe, text.replace(&pin(&installer(VERSION)), &pin(&file))).unwrap();
    let ctid = host.container("unprivileged", &[]);
    host.start(&ctid);
    let from = format!("installer.url={path}");
    let more = ["--recipe", &recipe, "--set", &from, "--stage", "push"];
    provision(&host, &site, &ctid, &more).code(0);
    assert!(host.inside(&ctid, "nvidia-smi").code(0).stdout.contains(VERSION));
}

#[test]
fn thirty_two_bit_libraries_are_installed_where_there_is_a_place_for_them() {
    let host = Host::new(Kind::Pct, ANSWERING);
    let site = Site::new();
    let recipe = site.driver_only();
    let text = std::fs::read_to_string(&recipe).unwrap();
    let compat32 = "[driver.installer]\ncompat32 = \"include\"\n[driver.urls]";
    std::fs::write(&recipe, text.replace("[driver.urls]", compat32)).unwrap();
    let ctid = host.container("unprivileged", &[]);
    host.start(&ctid);
    let config = host.config(&ctid);
    provision(&host, &site, &ctid, &["--recipe", &recipe])
        .code(5)
        .says("the container has no place for them")
        .says("apt-get install libc6:i386");
    assert_eq!(host.config(&ctid), config);
    // As libc6-i386 makes it, and as libc6:i386 does, which comes first.
    for place in ["/usr/lib32", "/usr/lib/i386-linux-gnu"] {
        host.inside(&ctid, &format!("mkdir {place}")).code(0);
        provision(&host, &site, &ctid, &["--recipe", &recipe]).code(0);
        let library = format!("{place}/libcuda.so.{VERSION}");
        let look = format!(
            "test -e {library} && grep -h bit: /usr/lib/nvidia/glvnd_check /usr/lib/nvidia/32/glvnd_check; \
             ls /usr/share/nvidia/files.d /usr/lib64/xorg/modules/drivers"
        );
        let seen = host.inside(&ctid, &look).code(0).stdout;
        for found in ["# 64-bit: a stand-in\n# 32-bit: a stand-in\n", "sandboxutils", "nvidia_drv"]
        {
            assert!(seen.contains(found), "{found}: {seen}");
        }
        // Each of them is compared.
        for damaged in [
            library.as_str(),
            "/usr/lib/nvidia/32/glvnd_check",
            "/usr/share/nvidia/files.d/sandboxutils-filelist.json",
            "/usr/lib64/xorg/modules/drivers/nvidia_drv.so",
        ] {
            host.inside(&ctid, &format!("echo x >> {damaged}")).code(0);
            let verify = ["verify", &ctid, "--gpus", "0", "--recipe", &recipe];
            host.run(&verify).code(10).shows(damaged);
            host.inside(&ctid, &format!("truncate -s -2 {damaged}")).code(0);
        }
        let uninstall = "mkdir -p /b; for t in modprobe rmmod lsmod depmod; do ln -sf /bin/true /b/$t; done; \
            PATH=/b:$PATH nvidia-uninstall -s";
        host.inside(&ctid, uninstall).code(0);
    }
}

#[test]
fn a_truncated_push_is_found_and_nothing_is_installed() {
    let host = Host::new(Kind::Pct, ANSWERING);
    let site = Site::new();
    let ctid = host.container("privileged", &[&site.distribution()]);
    host.start(&ctid);
    host.fault("push-truncates", true);
    provision(&host, &site, &ctid, &["--stage", "push"])
        .code(5)
        .says(&format!("container {ctid}: failed to install driver 580.76.05"))
        .says("the copy inside is damaged");
    assert_eq!(
        host.inside(&ctid, "command -v nvidia-smi || ls -A /root | grep nvstage").stdout,
        ""
    );
    host.fault("push-truncates", false);
    provision(&host, &site, &ctid, &["--stage", "push"]).code(0);
}

#[test]
fn without_a_driver_behind_the_nodes_nothing_is_called_passed() {
    let host = Host::new(Kind::Pct, Nodes::Silent);
    let site = Site::new();
    let ctid = host.container("privileged", &[&site.distribution()]);
    host.start(&ctid);
    let run = provision(&host, &site, &ctid, &["--set", "driver=580.76.05"]).code(0);
    let run = run.shows("nodes not checkable here: allowed, but no driver answers");
    run.shows("nvidia-smi not checkable here").shows("libraries not checkable here");

    // EPERM is never excused: take the rules away, restart, and the check fails.
    let config = host.config(&ctid);
    let without: String =
        config.split_inclusive('\n').filter(|line| !line.contains("devices.allow")).collect();
    std::fs::write(host.config_path(&ctid), without).unwrap();
    host.shell(&format!("pct stop {ctid}")).code(0);
    host.start(&ctid);
    let recipe = site.recipe();
    let verify = ["verify", &ctid, "--gpus", "0", "--recipe", &recipe, "--set", "driver=580.76.05"];
    host.run(&verify).code(10).shows("forbidden by the container's device rules (EPERM)");
}

#[test]
fn without_a_loaded_module_the_version_must_be_named() {
    let host = Host::new(Kind::Pct, Nodes::Silent);
    let site = Site::new();
    let ctid = host.container("privileged", &[]);
    provision(&host, &site, &ctid, &[])
        .code(4)
        .says("none is loaded on this host")
        .says("--set driver=");
}

#[test]
fn a_stopped_container_is_stopped_again_or_keeps_running() {
    let host = Host::new(Kind::Pct, ANSWERING);
    let site = Site::new();
    let ctid = host.container("unprivileged", &[&site.distribution()]);
    provision(&host, &site, &ctid, &[]).code(0).shows("stopped again");
    assert_eq!(host.init(&ctid), 0);
    let calls = host.pct_calls();
    assert!(calls.len() <= 8, "{}", calls.join("\n"));
    provision(&host, &site, &ctid, &["--start"]).code(0).shows("started");
    assert_ne!(host.init(&ctid), 0);
}

#[test]
fn plan_shows_everything_and_touches_nothing() {
    let host = Host::new(Kind::Pct, ANSWERING);
    let site = Site::new();
    let ctid = host.container("privileged", &[&site.distribution()]);
    host.start(&ctid);
    let before = host.config(&ctid);
    let recipe = site.recipe();
    let plan = ["plan", &ctid, "--gpus", "0,1", "--recipe", &recipe];
    let run = host.run(&plan).code(10);
    let run = run.shows("change: install driver 580.76.05").shows("change: restart it");
    let run = run.shows("download NVIDIA-Linux-x86_64-580.76.05.run");
    let run =
        run.shows("+lxc.mount.entry: /dev/nvidia1 dev/nvidia1 none bind,optional,create=file 0 0");
    assert!(run.stdout.contains("change: install cuda-toolkit-12-8 nvtop"), "{}", run.stdout);
    assert_eq!(host.config(&ctid), before);
    assert_eq!(
        host.inside(&ctid, "ls -d /etc/apt/preferences.d/* /usr/bin/nvidia-smi 2>/dev/null").stdout,
        ""
    );
    assert_eq!(site.requests(), 0, "plan fetched something");

    provision(&host, &site, &ctid, &["--gpus", "0,1"]).code(0);
    let run = host.run(&plan).code(0);
    assert!(!run.stdout.contains("change:"), "{}", run.stdout);
    host.run(&["verify", &ctid, "--gpus", "0,1", "--recipe", &recipe])
        .code(0)
        .shows("nodes passed");
    // A package on hold is an installed one.
    host.inside(&ctid, "apt-mark hold nvtop").code(0);
    host.run(&plan).code(0);

    // What provision would find.
    host.run(&["prefetch", "--for", &ctid]).code(0);
    let config = host.config(&ctid);
    std::fs::write(host.config_path(&ctid), format!("dev7: /dev/nosuch\n{config}")).unwrap();
    host.run(&["plan", &ctid, "--set", "packages=cuda-toolkit-12-4,nvtop"])
        .code(10)
        .shows("`dev7: /dev/nosuch` names no node of this host")
        .shows("`cuda-toolkit-12-4` is in no repository as the cache has them");
    std::fs::write(host.config_path(&ctid), config).unwrap();
    host.load_module("580.99.01");
    host.run(&["plan", &ctid]).code(5).shows("no digest of it is pinned");
}

#[test]
fn a_damaged_installation_is_repaired_and_another_version_replaced() {
    let host = Host::new(Kind::Pct, ANSWERING);
    let site = Site::new();
    let ctid = host.container("unprivileged", &[&site.distribution()]);
    host.start(&ctid);
    provision(&host, &site, &ctid, &["--recipe", &site.driver_only()]).code(0);
    // Of the right size, and empty of meaning: what a disk that ran full leaves behind.
    let damage = "f=$(readlink -f /usr/lib/x86_64-linux-gnu/libcuda.so.1); s=$(stat -c %s $f); : > $f; truncate -s $s $f";
    host.inside(&ctid, damage).code(0);
    let verify = ["verify", &ctid, "--gpus", "0", "--recipe", &site.driver_only()];
    host.run(&verify).code(10).shows("libcuda.so.580.76.05` differs from the installer's");
    provision(&host, &site, &ctid, &["--recipe", &site.driver_only()])
        .code(0)
        .shows("repair driver 580.76.05: `/usr/lib/x86_64-linux-gnu/libcuda.so.580.76.05` differs");
    host.run(&verify).code(0);

    // The host's driver is upgraded.
    host.load_module("580.95.05");
    provision(&host, &site, &ctid, &["--recipe", &site.driver_only()])
        .code(0)
        .shows("replace driver 580.76.05 by 580.95.05");
    assert!(
        host.inside(&ctid, "ls /usr/lib/x86_64-linux-gnu").stdout.contains("libcuda.so.580.95.05")
    );
    assert!(!host.inside(&ctid, "ls /usr/lib/x86_64-linux-gnu").stdout.contains("580.76.05"));
}

#[test]
fn no_gpu_means_nothing_to_do() {
    let host = Host::new(Kind::Pct, ANSWERING);
    let ctid = host.container("privileged", &[]);
    let before = host.config(&ctid);
    host.run(&["provision", &ctid, "--gpus", "none"])
        .code(0)
        .shows("no GPU is assigned, nothing to do");
    assert_eq!(host.config(&ctid), before);
    assert_eq!(host.pct_calls().len(), 0);
}

#[test]
fn edited_but_not_restarted_is_restarted_the_next_time() {
    let host = Host::new(Kind::Pct, ANSWERING);
    let site = Site::new();
    let ctid = host.container("privileged", &[]);
    host.start(&ctid);
    let recipe = site.driver_only();
    let arguments = ["provision", &ctid, "--gpus", "0", "--recipe", &recipe];
    // What a run leaves that was killed between the edit and the restart.
    let bare = host.config(&ctid);
    host.fault("stop-hangs", true);
    let mut first = host.nvstage().args(arguments).spawn().unwrap();
    support::eventually("the configuration is edited", std::time::Duration::from_secs(30), || {
        host.config(&ctid) != bare
    });
    let edited = host.config(&ctid);
    first.kill().unwrap();
    first.wait().unwrap();
    host.shell(&format!("lxc-stop -k -n {ctid}"));
    host.release(&format!("/run/lock/lxc/pve-config-{ctid}.lock"));
    host.fault("stop-hangs", false);
    std::fs::write(host.config_path(&ctid), bare).unwrap();
    host.start(&ctid);
    std::fs::write(host.config_path(&ctid), edited).unwrap();
    host.run(&arguments).code(0).shows("restarted: it was started without");
}

#[test]
fn several_containers_share_one_download() {
    let host = Host::new(Kind::Pct, ANSWERING);
    let site = Site::new();
    let one = host.container("privileged", &[]);
    let two = host.container("unprivileged", &[]);
    let recipe = site.driver_only();
    let arguments = ["provision", &one, "999999", &two, "--gpus", "all", "--recipe", &recipe];
    let run =
        host.run(&arguments).code(3).says("container 999999: failed to find it: it does not exist");
    for ctid in [&one, &two] {
        run.clone().shows(&format!("{ctid} done"));
    }
    assert_eq!(site.requests(), 1);
}

#[test]
fn the_log_has_every_command_its_output_and_its_duration() {
    let host = Host::new(Kind::Pct, ANSWERING);
    let site = Site::new();
    let ctid = host.container("privileged", &[]);
    host.start(&ctid);
    provision(&host, &site, &ctid, &["--recipe", &site.driver_only()]).code(0);
    let logs = host.shell(&format!("cat /var/log/nvstage/*/{ctid}.log")).code(0).stdout;
    for text in [
        "$ /usr/sbin/pct exec",
        "$ /usr/sbin/pct start",
        "sanity check passed",
        "-> exited with status 0 after",
    ] {
        assert!(logs.contains(text), "the log lacks {text:?}:\n{logs}");
    }
}

#[test]
fn what_is_not_compared_or_belongs_to_nobody_is_no_pass_of_verify() {
    let host = Host::new(Kind::Pct, Nodes::Answering(VERSION));
    let site = Site::new();
    let ctid = host.container("unprivileged", &[&site.distribution()]);
    let recipe = site.driver_only();
    host.start(&ctid);
    let verb = |verb| host.run(&[verb, &ctid, "--gpus", "0", "--recipe", &recipe]);
    verb("provision").code(0);
    verb("verify").code(0).shows("nvidia-smi passed");
    let foreign = "printf '#!/bin/sh\\necho all is well\\n' > /usr/local/bin/nvidia-smi; chmod 755 /usr/local/bin/nvidia-smi";
    host.inside(&ctid, foreign).code(0);
    verb("verify")
        .code(10)
        .shows("`/usr/local/bin/nvidia-smi` belongs neither to the driver nor to a package");
    host.inside(&ctid, "rm /usr/local/bin/nvidia-smi").code(0);
    host.inside(
        &ctid,
        "cp -p /usr/bin/nvidia-smi /root/; printf '#!/bin/sh\\n' > /usr/bin/nvidia-smi",
    )
    .code(0);
    verb("verify").code(10).shows("it printed nothing (status 0)");
    host.inside(&ctid, "cp -p /root/nvidia-smi /usr/bin/").code(0);
    verb("verify").code(0);
    // Nothing is at hand any more to compare with.
    host.shell("rm -rf /var/cache/nvstage/*").code(0);
    let run = verb("verify").code(10);
    let run = run.shows("libraries not compared: the cache has no installer of driver 580.76.05");
    assert!(!run.stdout.contains("libraries passed"), "{}", run.stdout);
}
