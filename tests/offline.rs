//! Packages without a network: prefetched, locked, shown inside as a partial mirror, installed by
//! the container's own apt, of Debian 12 (apt 2.6, gpgv) and of Debian 13 (apt 3, sqv).

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use std::os::unix::fs::MetadataExt;
use std::process::Stdio;
use std::time::Duration;

use support::{Host, Kind, Nodes, Run, Site, VERSION, eventually, world, world_script};

fn host() -> Host {
    Host::new(Kind::Pct, Nodes::Answering(VERSION))
}

/// A distribution's suite, and the toolkit that its CUDA repository has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Suite {
    Bookworm,
    Trixie,
}

impl Suite {
    fn packages(self) -> &'static str {
        match self {
            Self::Bookworm => "packages=cuda-toolkit-12-8,nvtop",
            Self::Trixie => "packages=cuda-toolkit-13-0,nvtop",
        }
    }

    fn container(self, host: &Host, site: &Site, privilege: &str) -> String {
        let (name, root) = match self {
            Self::Bookworm => ("bookworm", "root=bookworm"),
            Self::Trixie => ("trixie", "root=trixie"),
        };
        let distribution = site.distribution_of(name);
        let mut options = vec![distribution.as_str()];
        options.extend((self == Self::Trixie).then_some(root));
        let ctid = host.container(privilege, &options);
        host.start(&ctid);
        ctid
    }
}

/// The container has no way out, and nothing else than the cache may serve it.
fn cut_off(host: &Host, ctid: &str) {
    host.inside(ctid, "ip link set eth0 down 2>/dev/null || true; mv /etc/apt/sources.list.d /etc/apt/away; mkdir /etc/apt/sources.list.d; echo 'deb [trusted=yes] http://10.99.0.1:1/ /' > /etc/apt/sources.list")
        .code(0);
}

fn from_prefetched_to_verified(suite: Suite, privilege: &str) {
    let (host, site) = (host(), Site::new());
    let (ctid, recipe) = (suite.container(&host, &site, privilege), site.recipe());
    let set = suite.packages();
    let prefetch =
        host.run(&["prefetch", "--for", &ctid, "--recipe", &recipe, "--set", set]).code(0);
    prefetch.shows(&format!("container {ctid}")).shows("signed");
    let requests = site.server.requests().len();
    cut_off(&host, &ctid);
    let arguments =
        ["provision", &ctid, "--offline", "--gpus", "0", "--recipe", &recipe, "--set", set];
    let hook = r#"echo 'DPkg::Pre-Invoke { "ls -l /run/nvstage-apt/archives > /root/archives"; };' > /etc/apt/apt.conf.d/99look"#;
    host.inside(&ctid, hook).code(0);
    host.pct_calls();
    host.run(&arguments).code(0).shows("nvtop, from the cache");
    let calls = host.pct_calls();
    // What the host has read is not read by apt.
    let archives = host.inside(&ctid, "rm /etc/apt/apt.conf.d/99look; cat /root/archives").stdout;
    let packages: Vec<&str> = archives.lines().filter(|line| line.contains(".deb")).collect();
    assert!(packages.len() > 5, "{archives}");
    assert!(packages.iter().all(|line| line.contains(".deb -> /var/lib/nvstage/")), "{archives}");
    assert!(calls.len() <= 6, "{} calls of pct:\n{}", calls.len(), calls.join("\n"));
    assert_eq!(site.server.requests().len(), requests, "something was fetched");
    let look = "dpkg -l nvtop | grep ^ii; /usr/local/cuda-1*/bin/nvcc --version | tail -1; readlink -f /usr/lib/x86_64-linux-gnu/libcuda.so.1; \
        grep ' /var/lib/nvstage' /proc/mounts; ls -A -d /var/lib/nvstage /run/nvstage* /root/.nvstage* /etc/apt/*/nvstage-cuda* /var/cache/apt/archives/*.deb 2>/dev/null; ls /etc/apt/preferences.d";
    let seen = host.inside(&ctid, look).code(0).stdout;
    assert!(seen.contains("ii  nvtop") && seen.contains("Build cuda_1"), "{seen}");
    assert!(seen.contains("libcuda.so.580.76.05\n00-nvstage-gpu\n"), "{seen}");
    let (init, log) = (host.init(&ctid), "stat -c %Y%s /var/log/apt/history.log");
    let before = host.inside(&ctid, log).stdout;
    let run = host.run(&arguments).code(0);
    assert!(!run.stdout.contains(" changed "), "{}", run.stdout);
    assert_eq!(host.init(&ctid), init);
    assert_eq!(host.inside(&ctid, log).stdout, before);
}

#[test]
fn a_privileged_container_of_debian_12() {
    from_prefetched_to_verified(Suite::Bookworm, "privileged");
}

#[test]
fn an_unprivileged_container_of_debian_12() {
    from_prefetched_to_verified(Suite::Bookworm, "unprivileged");
}

#[test]
fn a_privileged_container_of_debian_13() {
    from_prefetched_to_verified(Suite::Trixie, "privileged");
}

#[test]
fn an_unprivileged_container_of_debian_13() {
    from_prefetched_to_verified(Suite::Trixie, "unprivileged");
}

/// A container for which everything is in the cache.
struct Scene {
    host: Host,
    site: Site,
    ctid: String,
    /// What takes the place of the recipe's packages.
    set: Option<&'static str>,
}

impl Scene {
    fn new() -> Self {
        Self::of(Suite::Bookworm)
    }

    fn of(suite: Suite) -> Self {
        let scene = Self { set: Some(suite.packages()), ..Self::bare(Site::new(), suite) };
        scene.prefetch(&[]).code(0);
        scene
    }

    fn bare(site: Site, suite: Suite) -> Self {
        let host = host();
        let ctid = suite.container(&host, &site, "privileged");
        Self { host, site, ctid, set: None }
    }

    fn run(&self, verb: &str, more: &[&str]) -> Run {
        let recipe = self.site.recipe();
        let mut arguments = vec![verb, &self.ctid, "--gpus", "0", "--recipe", &recipe];
        if verb == "prefetch" {
            arguments = vec![verb, "--for", &self.ctid, "--recipe", &recipe];
        }
        arguments.extend(self.set.iter().flat_map(|set| ["--set", set]));
        arguments.extend(more);
        self.host.run(&arguments)
    }

    fn prefetch(&self, more: &[&str]) -> Run {
        self.run("prefetch", more)
    }

    fn offline(&self, more: &[&str]) -> Run {
        let mut arguments = vec!["--offline"];
        arguments.extend(more);
        self.run("provision", &arguments)
    }

    /// What must stay as it is where something is refused.
    fn state(&self) -> String {
        let look = "sha256sum /var/lib/dpkg/status; ls -A /etc/apt/preferences.d /usr/bin/nvidia-smi /var/lib/nvstage /run/nvstage* 2>&1; grep ' /var/lib/nvstage' /proc/mounts; true";
        self.host.config(&self.ctid) + &self.host.inside(&self.ctid, look).stdout
    }

    /// Requests for anything but release files.
    fn fetched(&self) -> usize {
        let requests = self.site.server.requests();
        requests.iter().filter(|request| !request.target.contains("InRelease")).count()
    }

    fn blob_of(&self, package: &str) -> String {
        let lock = "/var/cache/nvstage/locks-v1/test-debian12-x86_64.lock";
        let find = format!(
            "grep -A3 '^name = \"{package}\"' {lock} | sed -n 's/^sha256 = \"\\(.*\\)\"/\\1/p'"
        );
        let digest = self.host.shell(&find).code(0).stdout.trim().to_owned();
        assert_eq!(digest.len(), 64, "{digest}");
        format!("/var/cache/nvstage/blobs-v1/sha256/{digest}")
    }
}

#[test]
fn offline_without_a_cache_names_the_url_and_touches_nothing() {
    let scene = Scene::bare(Site::new(), Suite::Bookworm);
    let before = scene.state();
    let url = scene.site.server.url("/installer/NVIDIA-Linux-x86_64-580.76.05.run");
    scene
        .offline(&[])
        .code(5)
        .says(&format!("open `{url}`: no network is used with --offline"))
        .says("nvstage prefetch");
    // The installer alone is not enough.
    let recipe = scene.site.driver_only();
    scene.host.run(&["prefetch", "--recipe", &recipe]).code(0);
    scene.offline(&[]).code(5).says("the cache has no packages for debian12").says("bundle import");
    assert_eq!(scene.state(), before);
    scene.prefetch(&["--offline"]).code(5).says("no network is used with --offline");
    assert_eq!(scene.fetched(), 1, "the installer, by the prefetch that was not offline");
}

/// A container of a distribution whose base has nvtop and what it needs: none of that is fetched for it.
fn has_nvtop_in_its_base(host: &Host, ctid: &str) {
    let install = "apt-get -qq update && apt-get -qq -y install nvtop
        sed -i '/^Package: nvtop$/,/^$/ s/^Priority: .*/Priority: required/' /var/lib/dpkg/status";
    host.inside(ctid, install).code(0);
}

#[test]
fn what_the_cache_lacks_for_a_container_is_listed_and_nothing_has_changed() {
    let scene = Scene::bare(Site::new(), Suite::Bookworm);
    let other = Suite::Bookworm.container(&scene.host, &scene.site, "privileged");
    has_nvtop_in_its_base(&scene.host, &other);
    let recipe = scene.site.recipe();
    scene.host.run(&["prefetch", "--for", &other, "--recipe", &recipe]).code(0);
    let before = scene.state();
    let run = scene.offline(&[]).code(5).says("the cache lacks").says("nvtop_");
    run.says(&format!("nvstage prefetch --for {}", scene.ctid));
    assert_eq!(scene.state(), before);
    // Also where the packages are all that there is to do.
    let driver_only = scene.site.driver_only();
    scene.host.run(&["provision", &scene.ctid, "--gpus", "0", "--recipe", &driver_only]).code(0);
    let before = scene.state();
    scene.offline(&[]).code(5).says("the cache lacks").says("nvtop_");
    assert_eq!(scene.state(), before);
    // Where the network may be used, it serves.
    scene.run("provision", &[]).code(0).says("apt fetches all").shows("from the network");
}

#[test]
fn what_is_lacking_is_listed_also_where_dpkg_was_cut_short() {
    let scene = Scene::bare(Site::new(), Suite::Bookworm);
    let other = Suite::Bookworm.container(&scene.host, &scene.site, "privileged");
    has_nvtop_in_its_base(&scene.host, &other);
    let recipe = scene.site.recipe();
    scene.host.run(&["prefetch", "--for", &other, "--recipe", &recipe]).code(0);
    cut_short_between_packages(&scene);
    let before = scene.host.config(&scene.ctid);
    scene.offline(&[]).code(5).says("the cache lacks").says("nvtop_");
    assert_eq!(scene.host.config(&scene.ctid), before, "the configuration was edited");
    assert_ne!(scene.host.inside(&scene.ctid, "command -v nvidia-smi").code, 0, "a driver came");
}

#[test]
fn what_is_newer_inside_than_in_the_lock_stays() {
    let scene = Scene::new();
    let copy = scene.site.own_copy("cuda");
    let directory = copy.to_str().unwrap();
    world_script("package", &[directory, "cuda-toolkit-12-8", "12.8.2-1", "cuda-compiler-12-8"])
        .code(0);
    let package = format!("{directory}/cuda-toolkit-12-8_12.8.2-1_amd64.deb");
    let ctid = &scene.ctid;
    // Newer, and not whole: its dependencies come from the cache.
    scene
        .host
        .shell(&format!("lxc-attach -n {ctid} -- sh -c 'cat > /root/x.deb' < {package}"))
        .code(0);
    scene.host.inside(ctid, "dpkg --force-depends --install /root/x.deb; rm /root/x.deb").code(0);
    scene.offline(&[]).code(0);
    let versions = "dpkg --audit; dpkg-query -W -f '${Version} ' cuda-toolkit-12-8 cuda-nvcc-12-8";
    assert_eq!(scene.host.inside(ctid, versions).stdout.trim(), "12.8.93-1 12.8.2-1");
    let run = scene.offline(&[]).code(0);
    assert!(!run.stdout.contains(" changed "), "{}", run.stdout);
}

#[test]
fn online_the_cache_serves_first() {
    let scene = Scene::new();
    let fetched = scene.fetched();
    scene.run("provision", &[]).code(0).shows("nvtop, from the cache");
    assert_eq!(scene.fetched(), fetched, "{:?}", scene.site.server.requests());
    // The source stays, so that updates come later.
    scene.host.inside(&scene.ctid, "test -e /etc/apt/sources.list.d/nvstage-cuda.list").code(0);
    let run = scene.run("provision", &[]).code(0);
    assert!(!run.stdout.contains(" changed "), "{}", run.stdout);
    let run = scene.offline(&[]).code(0);
    assert!(!run.stdout.contains(" changed "), "{}", run.stdout);
}

#[test]
fn a_blob_that_was_damaged_after_it_was_verified() {
    let scene = Scene::new();
    let blob = scene.blob_of("cuda-nvcc-12-8");
    let damage = format!(
        "chmod u+w {blob} && printf X | dd of={blob} bs=1 seek=200 conv=notrunc 2>/dev/null"
    );
    scene.host.shell(&damage).code(0);
    let before = scene.state();
    scene
        .offline(&[])
        .code(5)
        .says("was damaged and is removed")
        .says("the cache lacks 1 of its lock")
        .says("cuda-nvcc-12-8:amd64=12.8.93-1")
        .says("`nvstage prefetch --locked`");
    assert_eq!(scene.state(), before);
    let fetched = scene.fetched();
    scene.run("provision", &[]).code(0).shows("from the cache");
    assert_eq!(scene.fetched(), fetched + 1, "that package, and nothing else");
}

/// As when a disk loses a bit: nothing about the file tells.
#[test]
fn a_blob_that_was_damaged_without_a_trace() {
    let scene = Scene::new();
    let blob = scene.blob_of("cuda-nvcc-12-8");
    let record = blob.replace("blobs-v1/sha256", "verified-v1");
    let damage = format!(
        "chmod u+w {blob} && printf X | dd of={blob} bs=1 seek=24 conv=notrunc 2>/dev/null && chmod u-w {blob}"
    );
    scene.host.shell(&damage).code(0);
    let now = std::fs::metadata(scene.host.path(&blob)).unwrap();
    let stamp = serde_json::json!({
        "size": now.size(), "inode": now.ino(),
        "mtime": [now.mtime(), now.mtime_nsec()], "ctime": [now.ctime(), now.ctime_nsec()],
    });
    let text = serde_json::json!({ "version": 1, "stamp": stamp }).to_string();
    std::fs::write(scene.host.path(&record), text).unwrap();
    let before = scene.state();
    let run = scene.offline(&[]).code(5).says("was damaged and is removed");
    run.says("the cache lacks 1 of its lock").says("cuda-nvcc-12-8:amd64=12.8.93-1");
    assert_eq!(scene.state(), before);
    scene.run("provision", &[]).code(0).shows("from the cache");
}

#[test]
fn an_index_that_was_damaged_after_it_was_verified() {
    let scene = Scene::new();
    let lock = "/var/cache/nvstage/locks-v1/test-debian12-x86_64.lock";
    let find = format!(
        "grep -A1 '^path = \"Packages.gz\"' {lock} | sed -n 's/^sha256 = \"\\(.*\\)\"/\\1/p' | head -1"
    );
    let digest = scene.host.shell(&find).code(0).stdout.trim().to_owned();
    let blob = format!("/var/cache/nvstage/blobs-v1/sha256/{digest}");
    let damage = format!(
        "chmod u+w {blob} && printf X | dd of={blob} bs=1 seek=200 conv=notrunc 2>/dev/null"
    );
    scene.host.shell(&damage).code(0);
    let before = scene.state();
    scene
        .offline(&[])
        .code(5)
        .says("was damaged and is removed")
        .says("the cache does not have it");
    assert_eq!(scene.state(), before);
    // Where the network may be used, the container's apt does without the cache.
    scene.run("provision", &[]).code(0).says("apt fetches all packages").shows("from the network");
}

#[test]
fn a_lock_that_was_edited_by_hand() {
    let scene = Scene::new();
    let lock = "/var/cache/nvstage/locks-v1/test-debian12-x86_64.lock";
    let before = scene.state();
    scene.host.shell(&format!("cp {lock} /run/whole.lock")).code(0);
    let other = scene.blob_of("libcublas-12-8").rsplit('/').next().unwrap().to_owned();
    let own = scene.blob_of("cuda-nvcc-12-8").rsplit('/').next().unwrap().to_owned();
    for (edit, says) in [
        (
            format!("s/{own}/{other}/"),
            vec!["cuda-nvcc-12-8:amd64=12.8.93-1", own.as_str(), other.as_str()],
        ),
        (
            "s/^version = \"12.8.93-1\"/version = \"12.8.94-1\"/".to_owned(),
            vec!["the signed index"],
        ),
        ("s/^date = \"20/date = \"19/".to_owned(), vec!["the lock has another date"]),
        ("s|^path = \"./cuda-nvcc|path = \"../../cuda-nvcc|".to_owned(), vec!["is no package"]),
        ("s/^schema = 2/schema = 3/".to_owned(), vec!["its schema is 3"]),
        ("s/^size = /size = x/".to_owned(), vec!["read the lock"]),
        (
            "0,/^sha256/s/^sha256 = \"..../sha256 = \"0000/".to_owned(),
            vec!["the recipe pins the SHA-256 digest"],
        ),
    ] {
        scene
            .host
            .shell(&format!(
                "sed '{edit}' /run/whole.lock > {lock}; ! cmp -s /run/whole.lock {lock}"
            ))
            .code(0);
        let mut run = scene.offline(&[]).code(5);
        for text in says {
            run = run.says(text);
        }
        assert_eq!(scene.state(), before, "{edit}");
    }
    scene.host.shell(&format!("cp /run/whole.lock {lock}")).code(0);
    scene.offline(&[]).code(0);
}

#[test]
fn packages_that_are_too_old_are_warned_of_and_refused() {
    let scene = Scene::bare(Site::new(), Suite::Bookworm);
    let copy = scene.site.own_copy("cuda");
    world_script("resign", &[copy.to_str().unwrap(), "cuda", "--date", "40 days ago"]).code(0);
    scene.prefetch(&[]).code(0);
    let before = scene.state();
    scene.offline(&["--max-age", "39"]).code(5).says("is 40 days old").says("--max-age allows 39");
    assert_eq!(scene.state(), before);
    scene
        .offline(&["--max-age", "41"])
        .code(0)
        .says("warning: the newest release of")
        .says("is 40 days old");
}

#[test]
fn a_key_that_sha_1_binds_is_used_only_where_it_is_allowed() {
    let scene = Scene::bare(Site::with_repository("cuda-sha1"), Suite::Trixie);
    scene
        .prefetch(&[])
        .code(5)
        .says("resolve cuda-toolkit-12-8 for debian13")
        .says("only SHA-1 binds its key")
        .says("repository has cuda-toolkit-13-0")
        .says("`--allow-sha1-bound-key`");
    scene.prefetch(&["--allow-sha1-bound-key"]).code(0).says("is bound by SHA-1 alone");
    let before = scene.state();
    scene
        .offline(&[])
        .code(5)
        .says("which this container's apt refuses")
        .says("`--allow-sha1-bound-key`");
    assert_eq!(scene.state(), before);
    scene.offline(&["--allow-sha1-bound-key"]).code(0).shows("from the cache");
    let nvcc = "/usr/local/cuda-12.8/bin/nvcc --version; ls /etc/apt/sources.list.d";
    let seen = scene.host.inside(&scene.ctid, nvcc).code(0).stdout;
    assert!(seen.contains("V12.8") && !seen.contains("nvstage"), "{seen}");
    let run = scene.offline(&[]).code(0);
    assert!(!run.stdout.contains(" changed "), "{}", run.stdout);
}

fn waits_for_the_lock(suite: Suite) {
    let scene = Scene::of(suite);
    // No restart ends the holder afterwards.
    let driver_only = scene.site.driver_only();
    scene.host.run(&["provision", &scene.ctid, "--gpus", "0", "--recipe", &driver_only]).code(0);
    // As apt itself takes it: a POSIX lock, on both files.
    let hold = "perl -MFcntl -e 'for (qw(lock-frontend lock)) { open my $f, \">>\", \"/var/lib/dpkg/$_\" or die; my $lock = pack(\"s s x4 l! l! i x4\", F_WRLCK, 0, 0, 0, 0); fcntl($f, F_SETLK, $lock) or die; push @keep, $f } open my $ready, \">\", \"/run/held\"; sleep 6'";
    let mut holder = scene.host.command("lxc-attach");
    let mut holder = holder.args(["-n", &scene.ctid, "--", "sh", "-c", hold]).spawn().unwrap();
    eventually("the lock is held", Duration::from_secs(10), || {
        scene.host.inside(&scene.ctid, "test -e /run/held").code == 0
    });
    let began = std::time::Instant::now();
    scene.offline(&[]).code(0);
    assert!(began.elapsed() > Duration::from_secs(3), "it did not wait");
    assert!(holder.wait().unwrap().success());
}

#[test]
fn an_apt_that_holds_the_lock_is_waited_for_by_apt_2_6() {
    waits_for_the_lock(Suite::Bookworm);
}

#[test]
fn an_apt_that_holds_the_lock_is_waited_for_by_apt_3() {
    waits_for_the_lock(Suite::Trixie);
}

fn finishes_what_is_half_configured(suite: Suite) {
    let scene = Scene::of(suite);
    // What a container leaves that was stopped while dpkg was at work.
    let half = "mkdir -p /tmp/x/DEBIAN && printf 'Package: half\\nVersion: 1\\nArchitecture: all\\nMaintainer: a <a@b>\\nDescription: x\\n' > /tmp/x/DEBIAN/control && dpkg-deb -b /tmp/x /tmp/half.deb && dpkg --unpack /tmp/half.deb && dpkg --audit";
    let audit = scene.host.inside(&scene.ctid, half).code(0);
    assert!(audit.stdout.contains("half"), "{}", audit.stdout);
    scene.offline(&[]).code(0);
    let status = "dpkg --audit; dpkg-query -W -f '${db:Status-Abbrev}' half nvtop";
    assert_eq!(scene.host.inside(&scene.ctid, status).stdout.trim(), "ii ii");
}

#[test]
fn a_half_configured_dpkg_of_debian_12_is_finished_first() {
    finishes_what_is_half_configured(Suite::Bookworm);
}

#[test]
fn a_half_configured_dpkg_of_debian_13_is_finished_first() {
    finishes_what_is_half_configured(Suite::Trixie);
}

/// A dpkg that was killed between two packages, of which the first needs the second.
fn cut_short_between_packages(scene: &Scene) {
    let ctid = &scene.ctid;
    let package = world().join("cuda/cuda-compiler-12-8_12.8.1-1_amd64.deb");
    let copy = format!("lxc-attach -n {ctid} -- sh -c 'cat > /root/x.deb' < {}", package.display());
    scene.host.shell(&copy).code(0);
    scene
        .host
        .inside(ctid, "dpkg --unpack /root/x.deb && rm /root/x.deb && ! apt-get check")
        .code(0);
}

#[test]
fn a_dpkg_that_was_cut_short_between_packages_is_finished() {
    let scene = Scene::new();
    cut_short_between_packages(&scene);
    scene.offline(&[]).code(0);
    let state = "dpkg --audit; apt-get check -qq; dpkg-query -W -f '${db:Status-Abbrev}' cuda-compiler-12-8 nvtop";
    assert_eq!(scene.host.inside(&scene.ctid, state).stdout.trim(), "ii ii");
    // And the same from the network.
    let scene = Scene::bare(Site::new(), Suite::Trixie);
    let set = Suite::Trixie.packages();
    cut_short_between_packages(&scene);
    let refused = scene.run("provision", &["--set", set]);
    refused.code(5).says("cuda-compiler-12-8");
    let scene = Scene::bare(Site::new(), Suite::Bookworm);
    cut_short_between_packages(&scene);
    scene.run("provision", &[]).code(0).shows("from the network");
    assert_eq!(scene.host.inside(&scene.ctid, state).stdout.trim(), "ii ii");
}

#[test]
fn a_run_that_is_interrupted_or_killed_leaves_nothing_and_the_next_one_finishes() {
    let scene = Scene::new();
    scene
        .host
        .run(&["provision", &scene.ctid, "--gpus", "0", "--recipe", &scene.site.driver_only()])
        .code(0);
    // Slow enough to be met in the middle.
    let slow = "printf '#!/bin/sh\\ncase \" $* \" in *--unpack*) sleep 4 ;; esac\\nexec /usr/bin/dpkg \"$@\"\\n' > /usr/local/bin/dpkg; chmod +x /usr/local/bin/dpkg; echo 'Dir::Bin::dpkg \"/usr/local/bin/dpkg\";' > /etc/apt/apt.conf.d/slow";
    scene.host.inside(&scene.ctid, slow).code(0);
    for signal in ["-TERM", "-KILL"] {
        let recipe = scene.site.recipe();
        let mut command = scene.host.nvstage();
        command.args(["provision", &scene.ctid, "--offline", "--gpus", "0", "--recipe", &recipe]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let look = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '";
        eventually("dpkg is at work", Duration::from_secs(60), || {
            scene.host.inside(&scene.ctid, look).stdout.contains("sleep 4")
        });
        let look = "grep ' /var/lib/nvstage ' /proc/mounts; mount -o remount,bind,rw /var/lib/nvstage; touch /var/lib/nvstage/x; echo x > /var/lib/nvstage/sources.list";
        let seen = scene.host.inside(&scene.ctid, look);
        assert!(seen.stdout.contains(" ro,nosuid,nodev,noexec"), "{}", seen.stdout);
        assert_eq!(seen.stderr.matches("Read-only file system").count(), 2, "{}", seen.stderr);
        let kill =
            std::process::Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        child.wait().unwrap();
        if signal == "-KILL" {
            // What stays of a kill goes away with the next run; it can still not be written to.
            let rest = scene.host.inside(&scene.ctid, "touch /var/lib/nvstage/x").stderr;
            assert!(rest.contains("Read-only file system"), "{rest}");
        }
        if signal == "-TERM" {
            let rest = "grep ' /var/lib/nvstage' /proc/mounts; ls -d /var/lib/nvstage /run/nvstage-apt 2>/dev/null; true";
            assert_eq!(scene.host.inside(&scene.ctid, rest).stdout, "");
        }
    }
    scene.host.inside(&scene.ctid, "rm /etc/apt/apt.conf.d/slow").code(0);
    scene.offline(&[]).code(0);
    let rest = "grep ' /var/lib/nvstage' /proc/mounts; ls -d /var/lib/nvstage /run/nvstage-apt 2>/dev/null; dpkg --audit; dpkg-query -W -f '${db:Status-Abbrev}' nvtop";
    assert_eq!(scene.host.inside(&scene.ctid, rest).stdout, "ii ");
}

#[test]
fn plan_offline_says_what_would_happen() {
    let scene = Scene::new();
    let plan = scene.run("plan", &["--offline"]).code(10);
    let plan = plan.shows("change: install cuda-toolkit-12-8 nvtop");
    assert!(!plan.stdout.contains("download "), "{}", plan.stdout);
    scene.offline(&[]).code(0);
    scene.run("plan", &["--offline"]).code(0);
    scene.run("verify", &["--offline"]).code(0);
}
