//! The second line of defence: whatever is wrong with a mirror that appears inside, the container's
//! own apt refuses it with our sources and options, and nothing is unpacked. Real apt 2.6 with gpgv
//! (Debian 12) and apt 3 with sqv (Debian 13), on a copy of a mirror that the host has verified.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use std::process::Stdio;

use support::{Host, Kind, Nodes, Run, Site, VERSION, world, world_script};

const MIRROR: &str = "/var/lib/nvstage";

/// A container with a copy of a mirror in it.
struct Scene {
    host: Host,
    site: Site,
    ctid: String,
    packages: Vec<&'static str>,
}

impl Scene {
    fn new(root: &'static str) -> Self {
        Self::with(Site::new(), root)
    }

    fn with(site: Site, root: &'static str) -> Self {
        let host = Host::new(Kind::Pct, Nodes::Answering(VERSION));
        let suite = root.trim_start_matches("root=");
        let distribution = site.distribution_of(suite);
        let mut options = vec![distribution.as_str()];
        options.extend((suite == "trixie").then_some(root));
        let ctid = host.container("privileged", &options);
        host.start(&ctid);
        let packages = match suite {
            "trixie" if site.is_sha1() => vec!["cuda-nvcc-12-8"],
            "trixie" => vec!["cuda-nvcc-13-0"],
            _ => vec!["cuda-nvcc-12-8"],
        };
        let scene = Self { host, site, ctid, packages };
        scene.prefetch().code(0);
        scene.copy_mirror();
        scene
    }

    fn prefetch(&self) -> Run {
        let recipe = self.site.recipe();
        let set = format!("packages={}", self.packages.join(","));
        let arguments = [
            "prefetch",
            "--for",
            &self.ctid,
            "--recipe",
            &recipe,
            "--set",
            &set,
            "--allow-sha1-bound-key",
        ];
        self.host.run(&arguments)
    }

    fn copy_mirror(&self) {
        let ctid = &self.ctid;
        let script = format!(
            "cd /var/cache/nvstage/apt-v1/[0-9a-f]*[0-9a-f] && tar c . | lxc-attach -n {ctid} -- sh -c 'rm -rf {MIRROR} && mkdir -p {MIRROR} && tar x -C {MIRROR}'"
        );
        self.host.shell(&script).code(0);
        self.inside(&format!("cp -a {MIRROR} /root/whole && ls {MIRROR}/cuda*/InRelease")).code(0);
        self.note_read();
    }

    fn inside(&self, script: &str) -> Run {
        self.host.inside(&self.ctid, script)
    }

    /// The packages of the untouched mirror as the host tells of those that it has read.
    fn read(&self) -> String {
        std::fs::read_to_string(self.host.path("/run/read")).unwrap()
    }

    /// Takes note of them, as they are now.
    fn note_read(&self) {
        let look = format!(
            "cd {MIRROR} && for deb in */*.deb; do echo $(sha256sum < $deb | cut -c1-64) $(stat -c '%s %.9Y %.9Z %n' $deb); done"
        );
        std::fs::write(self.host.path("/run/read"), self.inside(&look).code(0).stdout).unwrap();
    }

    /// Makes the mirror whole.
    fn restore(&self) {
        self.inside(&format!("rm -rf {MIRROR} && cp -a /root/whole {MIRROR}")).code(0);
        self.note_read();
    }

    /// Our script with real apt, as `provision` runs it.
    fn install(&self, policy: &str) -> Run {
        let mut command = self.host.command("lxc-attach");
        command.args(["-n", &self.ctid, "--clear-env", "--", "env", "-i"]);
        command.args([
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL=C.UTF-8",
            "DEBIAN_FRONTEND=noninteractive",
        ]);
        command.args(["sh", "-c", nvstage::apt::SCRIPT, "nvstage", "install", MIRROR, policy]);
        let pins = "Package: cuda-drivers*\nPin: release *\nPin-Priority: -1";
        command.args([
            "/etc/apt/preferences.d/00-nvstage-gpu",
            pins,
            "",
            "",
            "",
            "",
            "cuda-drivers*",
            "",
            &self.read(),
            "",
        ]);
        command.args(&self.packages).output().unwrap().into()
    }

    /// With the mirror changed like this, apt refuses with one of these words, and nothing changed.
    #[track_caller]
    fn refused(&self, change: &str, step: &str, words: &[&str]) {
        self.restore();
        self.inside(&format!("cd {MIRROR}/cuda* && set -e; {change}")).code(0);
        let before = self.state();
        let run = self.install("-");
        assert_ne!(run.code, 0, "{change}: accepted\n{}", run.stdout);
        assert!(
            run.stdout.contains(&format!("@nvstage failed {step}")),
            "{change}: {}",
            run.stdout
        );
        let says =
            words.iter().any(|words| run.stdout.contains(words) || run.stderr.contains(words));
        assert!(says, "{change}: none of {words:?} in\n{}{}", run.stdout, run.stderr);
        assert_eq!(self.state(), before, "{change}: something changed inside");
    }

    fn state(&self) -> String {
        self.inside("sha256sum /var/lib/dpkg/status | cut -c1-64; ls -A /run/nvstage* /var/cache/apt/archives/*.deb /usr/local/cuda* /etc/apt/sources.list.d 2>/dev/null; true").stdout
    }

    /// Puts a file into the mirror's CUDA repository.
    fn put(&self, name: &str, bytes: &[u8]) {
        let mut command = self.host.command("lxc-attach");
        command.args(["-n", &self.ctid, "--", "sh", "-c", &format!("cat > /root/{name}")]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), bytes).unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// The release of the repository, signed otherwise.
    fn signed(&self, key: &str, more: &[&str]) -> Vec<u8> {
        let copy = tempfile::tempdir_in("/var/tmp").unwrap();
        let directory = copy.path().join("repository");
        let repository = world().join(self.repository());
        let status = std::process::Command::new("cp")
            .args(["-r", repository.to_str().unwrap(), directory.to_str().unwrap()])
            .status();
        assert!(status.unwrap().success());
        let mut arguments = vec![directory.to_str().unwrap(), key];
        arguments.extend(more);
        world_script("resign", &arguments).code(0);
        std::fs::read(directory.join("InRelease")).unwrap()
    }

    fn repository(&self) -> &'static str {
        if self.packages[0].ends_with("13-0") { "cuda-debian13" } else { "cuda" }
    }

    fn key(&self) -> &'static str {
        if self.packages[0].ends_with("13-0") { "cuda13" } else { "cuda" }
    }
}

const UPDATE: &str = "apt-get update";
const INSTALL: &str = "apt-get install";

fn packages_that_are_not_what_the_index_says(scene: &Scene) {
    let package = "p=$(ls *nvcc*.deb)";
    let mismatch = ["Hash Sum mismatch"].as_slice();
    scene.refused(
        &format!("{package}; printf X | dd of=$p bs=1 seek=300 conv=notrunc 2>/dev/null"),
        INSTALL,
        mismatch,
    );
    scene.refused(
        &format!("{package}; echo more >> $p"),
        INSTALL,
        &["Hash Sum mismatch", "File has unexpected size"],
    );
    scene.refused(
        &format!("{package}; truncate -s -10 $p"),
        INSTALL,
        &["Hash Sum mismatch", "File has unexpected size"],
    );
    scene.refused(&format!("{package}; rm $p"), INSTALL, &["File not found"]);
}

fn indexes_that_are_not_what_the_release_says(scene: &Scene) {
    scene.refused(
        "printf X | dd of=Packages.gz bs=1 seek=100 conv=notrunc 2>/dev/null",
        UPDATE,
        &["Hash Sum mismatch"],
    );
    scene.refused(
        "echo more >> Packages.gz",
        UPDATE,
        &["Hash Sum mismatch", "File has unexpected size"],
    );
    scene.refused("rm Packages.gz", UPDATE, &["File not found"]);
}

fn releases_that_are_not_signed_as_they_should_be(scene: &Scene) {
    let unsigned = ["is not signed", "does not have a Release file"].as_slice();
    scene.refused("sed -i 's/^Label: NVIDIA CUDA/Label: NVIDIA CUDX/' InRelease", UPDATE, unsigned);
    scene.refused("truncate -s 300 InRelease", UPDATE, &["Splitting", "is not signed"]);
    scene.refused("rm InRelease", UPDATE, unsigned);
    scene.refused(
        "sed -n '/^Origin/,/^Acquire-By-Hash/p' InRelease > Release; rm InRelease",
        UPDATE,
        unsigned,
    );
    scene.put("other", &scene.signed("otherkey", &[]));
    scene.refused("cp /root/other InRelease", UPDATE, &["NO_PUBKEY", "Missing key"]);
    scene.put("future", &scene.signed(scene.key(), &["--date", "8 days"]));
    scene.refused("cp /root/future InRelease", UPDATE, &["is not valid yet"]);
    scene.put("sha1", &scene.signed(scene.key(), &["--digest-algo", "SHA1"]));
    scene.refused("cp /root/sha1 InRelease", UPDATE, &["is not signed"]);
    // Both keys are in the file, the second one signed: the fingerprint in the source decides.
    scene.put("key", &std::fs::read(world().join("keys/otherkey/public.asc")).unwrap());
    scene.refused(
        "cat /root/key >> ../keys/cuda.asc; cp /root/other InRelease",
        UPDATE,
        &["is not available: GOODSIG", "No good signature from required signer", "is not signed"],
    );
}

/// What apt cannot see, and what it must not stumble over, because others judge it.
fn releases_whose_age_is_judged_by_the_host(scene: &Scene) {
    scene.put(
        "expired",
        &scene.signed(scene.key(), &["--date", "90 days ago", "--valid-until", "80 days ago"]),
    );
    scene.restore();
    scene.inside(&format!("cp /root/expired {MIRROR}/cuda/InRelease")).code(0);
    scene.install("-").code(0);
    let purge = format!(
        "dpkg --purge {} >/dev/null; rm -f /etc/apt/preferences.d/00-nvstage-gpu",
        scene.packages.join(" ")
    );
    scene.inside(&purge).code(0);
}

/// apt takes a package that lies in its own cache by its size alone.
fn a_package_that_lies_in_the_containers_own_cache(scene: &Scene) {
    scene.restore();
    let plant = format!(
        "cd {MIRROR}/cuda* && p=$(ls *nvcc*.deb) && truncate -s $(stat -c %s $p) /var/cache/apt/archives/$p"
    );
    scene.inside(&plant).code(0);
    scene.install("-").code(0);
    let restore = format!(
        "ls {MIRROR}/packages; rm /var/cache/apt/archives/*.deb; dpkg --purge {} >/dev/null; rm -f /etc/apt/preferences.d/00-nvstage-gpu",
        scene.packages.join(" ")
    );
    scene.inside(&restore).code(0);
}

/// What a container says for its own apt is not said for ours.
fn settings_of_the_container(scene: &Scene) {
    let set = "echo 'APT::Default-Release \"nosuch\"; APT::Get::AllowUnauthenticated \"true\"; Acquire::AllowInsecureRepositories \"true\";' > /etc/apt/apt.conf.d/99own; printf 'Package: *\\nPin: release *\\nPin-Priority: -1\\n' > /etc/apt/preferences.d/99own";
    scene.inside(set).code(0);
    scene.refused("truncate -s 300 InRelease", UPDATE, &["Splitting", "is not signed"]);
    scene.restore();
    scene.install("-").code(0);
    let restore = format!(
        "rm /etc/apt/apt.conf.d/99own /etc/apt/preferences.d/*; dpkg --purge {} >/dev/null",
        scene.packages.join(" ")
    );
    scene.inside(&restore).code(0);
}

/// A byte that `dpkg` does not care for: in the time that `ar` keeps of the first member.
fn what_the_host_has_read_is_not_read_again(scene: &Scene) {
    let change =
        "p=$(ls *nvcc*.deb); printf X | dd of=$p bs=1 seek=24 conv=notrunc 2>/dev/null".to_owned();
    scene.refused(&change, INSTALL, &["Hash Sum mismatch"]);
    scene.restore();
    let digests = scene.read();
    scene.inside(&format!("cd {MIRROR}/cuda* && {change}")).code(0);
    scene.note_read();
    // As if the host had found the digests that are wanted in what lies there now.
    let stamps = scene.read();
    let line = |(wanted, now): (&str, &str)| format!("{}{}\n", &wanted[..64], &now[64..]);
    let read: String = digests.lines().zip(stamps.lines()).map(line).collect();
    std::fs::write(scene.host.path("/run/read"), read).unwrap();
    scene.install("-").code(0);
}

fn all_faults(root: &'static str) {
    let scene = Scene::new(root);
    a_package_that_lies_in_the_containers_own_cache(&scene);
    settings_of_the_container(&scene);
    packages_that_are_not_what_the_index_says(&scene);
    indexes_that_are_not_what_the_release_says(&scene);
    releases_that_are_not_signed_as_they_should_be(&scene);
    releases_whose_age_is_judged_by_the_host(&scene);
    what_the_host_has_read_is_not_read_again(&scene);
    assert_eq!(
        scene.inside("ls -A /run/nvstage* /var/cache/apt/archives/*.deb 2>/dev/null").stdout,
        ""
    );
}

#[test]
fn apt_2_6_refuses_every_fault() {
    all_faults("root=bookworm");
}

#[test]
fn apt_3_refuses_every_fault() {
    all_faults("root=trixie");
}

#[test]
fn a_key_that_sha_1_binds_is_accepted_by_gpgv_and_by_sqv_for_the_call_that_allows_it() {
    let bookworm = Scene::with(Site::with_repository("cuda-sha1"), "root=bookworm");
    bookworm.install("-").code(0);
    let trixie = Scene::with(Site::with_repository("cuda-sha1"), "root=trixie");
    let refused = trixie.install("-");
    assert!(refused.stdout.contains("@nvstage failed apt-get update"), "{}", refused.stdout);
    assert!(refused.stdout.contains("SHA1 is not considered secure"), "{}", refused.stdout);
    trixie.install("sha1").code(0);
}
