//! `prefetch` of packages: what is signed and fits together is locked, everything else is refused
//! and leaves no lock behind.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use std::path::Path;
use std::process::Stdio;

use support::server::Fault;
use support::{Host, Kind, Nodes, Run, Site, VERSION, world, world_script};

const LOCK: &str = "/var/cache/nvstage/locks-v1/test-debian12-x86_64.lock";

struct Scene {
    host: Host,
    site: Site,
    ctid: String,
}

impl Scene {
    fn new() -> Self {
        Self::with(Site::new())
    }

    fn with(site: Site) -> Self {
        let host = Host::new(Kind::Pct, Nodes::Answering(VERSION));
        let ctid = host.container("privileged", &[&site.distribution()]);
        host.start(&ctid);
        Self { host, site, ctid }
    }

    fn prefetch(&self, more: &[&str]) -> Run {
        let recipe = self.site.recipe();
        let mut arguments = vec!["prefetch", "--for", &self.ctid, "--recipe", &recipe];
        arguments.extend(more);
        self.host.run(&arguments)
    }

    fn lock(&self) -> String {
        self.host.shell(&format!("cat {LOCK}")).stdout
    }

    /// A copy of the repository, to be changed and served.
    fn changed(&self, change: impl FnOnce(&Path)) {
        change(&self.site.own_copy("cuda"));
    }
}

fn resign(directory: &Path, more: &[&str]) {
    let mut arguments = vec![directory.to_str().unwrap(), "cuda"];
    arguments.extend(more);
    world_script("resign", &arguments).code(0);
}

fn edit(path: &Path, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(path, change(bytes)).unwrap();
}

/// With the repository changed like this, `prefetch` fails and says so, and no lock is written.
#[track_caller]
fn refused(change: impl FnOnce(&Path), says: &[&str]) {
    let scene = Scene::new();
    scene.changed(change);
    let mut run = scene.prefetch(&["--timeout", "1"]).code(5);
    for text in says {
        run = run.says(text);
    }
    assert_eq!(scene.lock(), "", "a lock is written");
}

#[test]
fn an_edited_release() {
    let change = |repository: &Path| {
        edit(&repository.join("InRelease"), |bytes| {
            String::from_utf8(bytes)
                .unwrap()
                .replace("Label: NVIDIA CUDA", "Label: NVIDIA CUDX")
                .into()
        });
    };
    refused(change, &["verify the repository `http://", "does not fit the text"]);
}

#[test]
fn a_release_signed_by_another_key() {
    let other = std::fs::read_to_string(world().join("keys/otherkey/fingerprint")).unwrap();
    let pinned = std::fs::read_to_string(world().join("cuda/fingerprint")).unwrap();
    let change = |repository: &Path| {
        world_script("resign", &[repository.to_str().unwrap(), "otherkey"]).code(0);
    };
    refused(change, &["none of the pinned keys signed it", other.trim(), pinned.trim()]);
}

#[test]
fn a_truncated_and_an_unsigned_release() {
    let cut = |repository: &Path| {
        edit(&repository.join("InRelease"), |bytes| bytes[..bytes.len() / 2].to_vec());
    };
    refused(cut, &["trust the release file"]);
    let unsigned = |repository: &Path| {
        let release = std::fs::read(repository.join("Release")).unwrap();
        std::fs::write(repository.join("InRelease"), release).unwrap();
    };
    refused(unsigned, &["trust the release file"]);
}

#[test]
fn a_release_that_has_expired_or_is_from_the_future() {
    let expired = |repository: &Path| {
        resign(repository, &["--date", "9 days ago", "--valid-until", "2 days ago"]);
    };
    refused(expired, &["it has expired", "it was valid until"]);
    let future = |repository: &Path| resign(repository, &["--date", "8 days"]);
    refused(future, &["it is not valid yet", "is this host's clock right?"]);
}

#[test]
fn a_release_signed_with_sha_1() {
    let change = |repository: &Path| resign(repository, &["--digest-algo", "SHA1"]);
    refused(change, &["uses the hash SHA1, which is broken"]);
}

#[test]
fn an_index_that_is_not_the_signed_one() {
    let tampered = |repository: &Path| {
        edit(&repository.join("Packages.gz"), |mut bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            bytes
        });
    };
    refused(
        tampered,
        &["names another index, 3 times", "the file has the SHA-256 digest", "wanted is"],
    );
    let missing = |repository: &Path| std::fs::remove_file(repository.join("Packages.gz")).unwrap();
    refused(missing, &["fetch the package index", "404"]);
}

#[test]
fn a_mirror_in_the_middle_of_an_update_is_asked_again_past_its_caches() {
    let scene = Scene::new();
    // The old index for the first time, then the new one: both fit by then.
    let copy = scene.site.own_copy("cuda");
    world_script("package", &[copy.to_str().unwrap(), "cuda-new-12-8", "1.0-1", ""]).code(0);
    world_script("reindex", &[copy.to_str().unwrap(), "cuda"]).code(0);
    scene.site.server.faults("/cuda/Packages.gz", [Fault::Status(404)]);
    scene.prefetch(&[]).code(0);
    let requests = scene.site.server.requests();
    let asked: Vec<_> = requests
        .iter()
        .filter(|request| {
            request.target.contains("InRelease") || request.target.contains("Packages.gz")
        })
        .filter(|request| request.target.starts_with("/cuda/"))
        .collect();
    assert_eq!(asked.len(), 4, "{asked:?}");
    assert!(asked[2].target.contains('?') && asked[3].target.contains('?'), "{asked:?}");
}

#[test]
fn a_package_that_is_not_the_one_of_the_index() {
    for damage in ["flip", "cut", "longer", "missing"] {
        let change = |repository: &Path| {
            let package = repository.join("cuda-nvcc-12-8_12.8.93-1_amd64.deb");
            match damage {
                "missing" => std::fs::remove_file(package).unwrap(),
                _ => edit(&package, |mut bytes| {
                    match damage {
                        "flip" => *bytes.last_mut().unwrap() ^= 1,
                        "cut" => bytes.truncate(bytes.len() - 10),
                        _ => bytes.extend(b"more"),
                    }
                    bytes
                }),
            }
        };
        let says = match damage {
            "missing" => "its index was fetched 3 times, and names it",
            "flip" => "the file has the SHA-256 digest",
            _ => "bytes",
        };
        refused(change, &["download `cuda-nvcc-12-8_12.8.93-1_amd64.deb`", says]);
    }
}

/// The first index names a package that is gone; by the second look the repository has a newer one.
fn moved_on(scene: &Scene) {
    let copy = scene.site.own_copy("cuda");
    for name in ["InRelease", "Packages.gz"] {
        let old = std::fs::read(copy.join(name)).unwrap();
        let elsewhere = scene.site.server.file(&format!("/old/{name}"), &old);
        scene.site.server.faults(&format!("/cuda/{name}"), [Fault::Redirect(elsewhere)]);
    }
    std::fs::remove_file(copy.join("cuda-nvcc-12-8_12.8.93-1_amd64.deb")).unwrap();
    let copy = copy.to_str().unwrap();
    world_script("package", &[copy, "cuda-nvcc-12-8", "12.8.94-1", ""]).code(0);
    world_script("reindex", &[copy, "cuda"]).code(0);
}

#[test]
fn a_package_that_is_gone_is_found_in_a_newer_index() {
    let scene = Scene::new();
    moved_on(&scene);
    let run = scene.prefetch(&["--set", "packages=cuda-nvcc-12-8"]).code(0);
    run.says("its repository may have a newer index");
    assert!(scene.lock().contains("12.8.94-1"), "{}", scene.lock());
    // The container's own apt, without a cache.
    let scene = Scene::new();
    moved_on(&scene);
    let recipe = scene.site.recipe();
    let set = "packages=cuda-nvcc-12-8";
    let provision = ["provision", &scene.ctid, "--gpus", "0", "--recipe", &recipe, "--set", set];
    scene.host.run(&provision).code(0);
    let version = "dpkg-query -W -f '${Version}' cuda-nvcc-12-8";
    assert_eq!(scene.host.inside(&scene.ctid, version).stdout, "12.8.94-1");
}

#[test]
fn an_older_release_is_refused_unless_it_is_allowed() {
    let scene = Scene::new();
    let copy = scene.site.own_copy("cuda");
    resign(&copy, &["--date", "1 hour ago"]);
    let old = std::fs::read(copy.join("InRelease")).unwrap();
    resign(&copy, &[]);
    scene.prefetch(&[]).code(0);
    let lock = scene.lock();
    std::fs::write(copy.join("InRelease"), old).unwrap();
    scene.prefetch(&[]).code(5).says("was accepted before").says("`--allow-older` accepts it");
    assert_eq!(scene.lock(), lock);
    scene.prefetch(&["--allow-older"]).code(0).says("an older one than that of");
    assert_ne!(scene.lock(), lock);
    // What was accepted last counts from now on.
    scene.prefetch(&[]).code(0);
}

#[test]
fn the_lock_names_everything_and_is_the_same_the_next_time() {
    let scene = Scene::new();
    let file = scene.host.directory.path().join("nvstage.lock");
    let file = file.to_str().unwrap();
    scene.prefetch(&["--lock", file]).code(0);
    let lock = std::fs::read_to_string(file).unwrap();
    assert_eq!(scene.lock(), lock);
    for text in [
        "schema = 2",
        "role = \"cuda\"",
        "role = \"distribution\"",
        "path = \"Packages.gz\"",
        &format!("name = \"container {}\"", scene.ctid),
        "\"cuda-nvcc-12-8:amd64=12.8.93-1\"",
        "path = \"./cuda-nvcc-12-8_12.8.93-1_amd64.deb\"",
    ] {
        assert!(lock.contains(text), "the lock lacks {text}:\n{lock}");
    }
    let requests = scene.site.server.requests().len();
    scene.prefetch(&[]).code(0);
    assert_eq!(scene.lock(), lock);
    let again = scene.site.server.requests().len() - requests;
    assert_eq!(again, 2, "the two release files, and nothing else");
}

#[test]
fn a_package_replaced_in_place_under_the_same_version() {
    let scene = Scene::new();
    let file = scene.host.directory.path().join("nvstage.lock");
    let file = file.to_str().unwrap();
    scene.prefetch(&["--lock", file]).code(0);
    let nvcc = "cuda-cudart-12-8_12.8.90-1_amd64.deb";
    let digest =
        |path: &Path| nvstage::digest::Digest::of(&std::fs::read(path).unwrap()).to_string();
    let copy = scene.site.own_copy("cuda");
    let old = digest(&copy.join(nvcc));
    // Exactly the lock, on a host that has nothing yet.
    scene.host.shell("rm -rf /var/cache/nvstage/*").code(0);
    scene.prefetch(&["--locked", "--lock", file]).code(0);
    scene.host.shell("rm -rf /var/cache/nvstage/*").code(0);
    // The file alone is replaced: it is not what is signed.
    let directory = copy.to_str().unwrap();
    world_script("package", &[directory, "cuda-cudart-12-8", "12.8.90-1", "", "replaced"]).code(0);
    let new = digest(&copy.join(nvcc));
    assert_ne!(old, new);
    scene.prefetch(&["--locked", "--lock", file, "--timeout", "1"]).code(5).says(nvcc);
    // And with a new signature over it: both digests are shown, nothing is accepted.
    world_script("reindex", &[directory, "cuda"]).code(0);
    scene.host.shell("rm -rf /var/cache/nvstage/*").code(0);
    scene
        .prefetch(&["--locked", "--lock", file])
        .code(5)
        .says("cuda-cudart-12-8:amd64=12.8.90-1")
        .says(&old)
        .says(&new);
    assert_eq!(scene.lock(), "");
}

#[test]
fn a_newer_release_with_the_same_packages_serves_for_a_lock() {
    let scene = Scene::new();
    let file = scene.host.directory.path().join("nvstage.lock");
    let file = file.to_str().unwrap();
    let copy = scene.site.own_copy("cuda");
    resign(&copy, &["--date", "1 hour ago"]);
    scene.prefetch(&["--lock", file]).code(0);
    let before = std::fs::read_to_string(file).unwrap();
    let directory = copy.to_str().unwrap();
    // A newer compiler is there by now, and it is not what the lock names.
    world_script("package", &[directory, "cuda-nvcc-12-8", "12.8.99-1", ""]).code(0);
    world_script("reindex", &[directory, "cuda"]).code(0);
    scene.host.shell("rm -rf /var/cache/nvstage/*").code(0);
    scene.prefetch(&["--locked", "--lock", file]).code(0).says("takes the place of the locked one");
    assert_eq!(std::fs::read_to_string(file).unwrap(), before, "the lock that was named changed");
    let recipe = scene.site.recipe();
    let provision = ["provision", &scene.ctid, "--offline", "--gpus", "0", "--recipe", &recipe];
    scene.host.run(&provision).code(0);
    let version = "dpkg-query -W -f '${Version}' cuda-nvcc-12-8";
    assert_eq!(scene.host.inside(&scene.ctid, version).stdout, "12.8.93-1");
}

#[test]
fn without_a_lock_there_is_nothing_to_obey() {
    let scene = Scene::new();
    scene.prefetch(&["--locked"]).code(2).says("find a lock of recipe `test`");
    scene.prefetch(&["--locked", "--lock", "/nosuch"]).code(2).says("there is none");
}

#[test]
fn several_systems_are_one_closure_and_an_old_one_stays_in_it() {
    let scene = Scene::new();
    scene.prefetch(&[]).code(0);
    let count = |lock: &str| lock.matches("[[package]]").count();
    let whole = count(&scene.lock());
    // A second container that has some of it already.
    let other = scene.host.container("unprivileged", &[&scene.site.distribution()]);
    scene.host.start(&other);
    scene.host.inside(&other, "apt-get -qq update && apt-get -qq -y install nvtop").code(0);
    let recipe = scene.site.recipe();
    scene.host.run(&["prefetch", "--for", &other, "--recipe", &recipe]).code(0);
    let lock = scene.lock();
    assert_eq!(count(&lock), whole, "what the first container lacks is gone");
    for ctid in [&scene.ctid, &other] {
        assert!(lock.contains(&format!("container {ctid}\"")), "{lock}");
    }
}

#[test]
fn templates_and_status_files_are_systems_too() {
    let scene = Scene::new();
    let root = world().join("root-privileged");
    let directory = scene.host.directory.path();
    let from = scene.site.distribution_url();
    let sources = directory.join("sources/etc/apt/sources.list.d");
    std::fs::create_dir_all(&sources).unwrap();
    std::fs::write(sources.join("distribution.list"), format!("deb {from} /\n")).unwrap();
    for (suffix, filter) in [("zst", "zstd -q -1"), ("gz", "gzip -1"), ("xz", "xz -0")] {
        let template = directory.join(format!("debian-12.tar.{suffix}"));
        let pack = format!(
            "tar cf - -C {} ./etc/os-release ./usr/lib/os-release ./var/lib/dpkg/status ./usr/share/keyrings -C {} ./etc/apt | {filter} > {}",
            root.display(),
            directory.join("sources").display(),
            template.display()
        );
        scene.host.shell(&pack).code(0);
        let (template, recipe) = (template.to_str().unwrap(), scene.site.recipe());
        scene
            .host
            .run(&["prefetch", "--for", template, "--recipe", &recipe])
            .code(0)
            .shows(&format!("template debian-12.tar.{suffix}"));
    }
    let whole = scene.lock().matches("[[package]]").count();
    scene.host.shell("rm -rf /var/cache/nvstage/*").code(0);
    // A status alone has no sources; those of a container that is named beside it serve.
    let status = format!("debian12@{}", root.join("var/lib/dpkg/status").display());
    scene.prefetch(&["--for", &status]).code(0).shows("status /");
    assert_eq!(scene.lock().matches("[[package]]").count(), whole);
}

#[test]
fn what_is_no_system_is_refused() {
    let scene = Scene::new();
    let recipe = scene.site.recipe();
    let stopped = scene.host.container("privileged", &[]);
    let with = |target: &str| scene.host.run(&["prefetch", "--for", target, "--recipe", &recipe]);
    with("999999").code(3).says("container 999999");
    with(&stopped).code(4).says("it is stopped").says("name the template");
    with("/nosuch/x.tar.zst").code(2).says("/nosuch/x.tar.zst");
    with("/nosuch/status").code(2).says("there is no such file");
    with("/etc/hostname").code(2).says("of which distribution is it?");
    with("debian12@/etc/hostname").code(2).says("dpkg is not in it");
    with("debian13@999999").code(3);
    with(&format!("debian13@{}", scene.ctid)).code(2).says("it is debian12 x86_64");
    with("fedora40@1").code(2).says("it is not a distribution");
    with("debian12/mips").code(2).says("mips");
    let garbage = scene.host.directory.path().join("x.tar.zst");
    std::fs::write(&garbage, "no archive").unwrap();
    with(garbage.to_str().unwrap()).code(2).says("read the template");
    assert_eq!(scene.site.server.requests().len(), 0, "something was fetched");
}

#[test]
fn a_source_of_somebody_else_is_left_out() {
    let scene = Scene::new();
    let other = scene.site.server.url("/cuda-debian13/");
    let add = format!("echo 'deb [trusted=yes] {other} /' > /etc/apt/sources.list.d/other.list");
    scene.host.inside(&scene.ctid, &add).code(0);
    scene.prefetch(&[]).code(0).says("is left out").says("cuda-debian13");
    assert!(!scene.lock().contains("cuda-debian13"));
}

#[test]
fn what_would_bring_a_second_driver_is_not_resolved() {
    let scene = Scene::new();
    scene
        .prefetch(&["--set", "packages=ucx-cuda-standin"])
        .code(5)
        .says("resolve ucx-cuda-standin");
    scene
        .prefetch(&["--set", "packages=cuda-no-such"])
        .code(5)
        .says("no repository for debian12 has it")
        .says("cuda-toolkit-12-8");
    assert_eq!(scene.lock(), "");
}

#[test]
fn a_profile_has_a_lock_of_its_own() {
    let scene = Scene::new();
    let recipe = scene.site.recipe();
    let text = std::fs::read_to_string(&recipe).unwrap();
    let profiles = "[packages.profiles]\nruntime = [\"cuda-libraries-12-8\"]\n[checks]";
    std::fs::write(&recipe, text.replace("[checks]", profiles)).unwrap();
    scene.prefetch(&["--profile", "runtime"]).code(0);
    let lock =
        scene.host.shell("cat /var/cache/nvstage/locks-v1/test-runtime-debian12-x86_64.lock");
    let lock = lock.code(0).stdout;
    assert!(lock.contains("wants = [\"cuda-libraries-12-8\"]"), "{lock}");
    assert!(!lock.contains("cuda-nvcc") && lock.contains("libcublas-12-8"), "{lock}");
    scene.prefetch(&["--profile", "runtimes"]).code(2).says("did you mean `runtime`?");
    let arguments = ["provision", &scene.ctid, "--offline", "--gpus", "0", "--recipe", &recipe];
    let arguments: Vec<&str> = arguments.into_iter().chain(["--profile", "runtime"]).collect();
    scene.host.run(&arguments).code(0).shows("install cuda-libraries-12-8, from the cache");
}

#[test]
fn a_package_that_breaks_off_is_continued() {
    let scene = Scene::new();
    let copy = scene.site.own_copy("cuda");
    let directory = copy.to_str().unwrap();
    // A package of some size, that does not compress away.
    let noise = std::fs::read("/bin/ls").unwrap();
    let tree = scene.host.directory.path().join("tree");
    std::fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    std::fs::write(tree.join("noise"), noise).unwrap();
    let control = "Package: cuda-nvcc-12-8\nVersion: 12.8.93-1\nArchitecture: amd64\nMaintainer: a <a@b>\nDescription: x\n";
    std::fs::write(tree.join("DEBIAN/control"), control).unwrap();
    let name = "cuda-nvcc-12-8_12.8.93-1_amd64.deb";
    let build = format!("dpkg-deb -b {} {directory}/{name}", tree.display());
    scene.host.shell(&build).code(0);
    world_script("reindex", &[directory, "cuda"]).code(0);
    scene.site.server.faults(&format!("/cuda/{name}"), [Fault::TruncateAfter(30_000)]);
    scene.prefetch(&[]).code(0);
    let requests = scene.site.server.requests();
    let ranges: Vec<_> =
        requests.iter().filter(|r| r.target.ends_with(name)).map(|r| r.range.clone()).collect();
    assert_eq!(ranges, [None, Some("bytes=30000-".to_owned())]);
}

#[test]
fn a_repository_that_was_accepted_before_is_never_left_out() {
    let scene = Scene::new();
    scene.prefetch(&[]).code(0);
    let lock = scene.lock();
    // Somebody on the way signs it with a key of their own.
    let copy = scene.site.own_copy("distribution");
    world_script("resign", &[copy.to_str().unwrap(), "otherkey"]).code(0);
    scene.prefetch(&[]).code(5).says("none of the pinned keys signed it").says("/distribution/");
    assert_eq!(scene.lock(), lock);
}

#[test]
fn what_was_accepted_is_remembered_without_the_lock() {
    let scene = Scene::new();
    let copy = scene.site.own_copy("cuda");
    resign(&copy, &["--date", "1 hour ago"]);
    let old = std::fs::read(copy.join("InRelease")).unwrap();
    resign(&copy, &[]);
    scene.prefetch(&[]).code(0);
    std::fs::write(copy.join("InRelease"), old).unwrap();
    scene.host.shell(&format!("rm {LOCK}")).code(0);
    scene.prefetch(&[]).code(5).says("was accepted before");
}

#[test]
fn a_directory_of_the_container_is_no_source_for_the_host() {
    let scene = Scene::new();
    let add = "echo 'deb [trusted=yes] file:/etc /' > /etc/apt/sources.list.d/local.list";
    scene.host.inside(&scene.ctid, add).code(0);
    scene.prefetch(&[]).code(0).says("`file:/etc/` is left out: it lies in the system itself");
}

#[test]
fn a_key_in_a_source_is_found_and_without_any_key_it_is_said() {
    let scene = Scene::new();
    let url = scene.site.distribution_url();
    // The key stands in the source, and nowhere else.
    let inline = format!(
        "cd /etc/apt/sources.list.d && {{ printf 'Types: deb\\nURIs: {url}\\nSuites: /\\nSigned-By:\\n'; sed 's/^$/./; s/^/ /' /usr/share/keyrings/distribution.asc; }} > distribution.sources && rm distribution.list /usr/share/keyrings/distribution.asc && apt-get -qq update"
    );
    scene.host.inside(&scene.ctid, &inline).code(0);
    scene.prefetch(&[]).code(0);
    scene.host.shell("rm -rf /var/cache/nvstage/*").code(0);
    scene
        .host
        .inside(
            &scene.ctid,
            "sed -i '/^Signed-By/,$d' /etc/apt/sources.list.d/distribution.sources",
        )
        .code(0);
    let fingerprint =
        std::fs::read_to_string(world().join("keys/distribution/fingerprint")).unwrap();
    scene.prefetch(&[]).code(5).says("find a key of debian12").says(fingerprint.trim());
}

#[test]
fn two_prefetches_at_once_lose_nothing_of_each_other() {
    let scene = Scene::new();
    let other = scene.host.container("unprivileged", &[&scene.site.distribution()]);
    scene.host.start(&other);
    let recipe = scene.site.recipe();
    let start = |ctid: &str| {
        let mut command = scene.host.nvstage();
        command.args(["prefetch", "--for", ctid, "--recipe", &recipe]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    for child in [start(&scene.ctid), start(&other)] {
        let run: Run = child.wait_with_output().unwrap().into();
        run.code(0);
    }
    let lock = scene.lock();
    for ctid in [&scene.ctid, &other] {
        assert!(lock.contains(&format!("container {ctid}\"")), "{lock}");
    }
}

#[test]
fn a_key_alone_takes_no_packages_away() {
    let scene = Scene::new();
    scene.prefetch(&[]).code(0);
    let lock = scene.lock();
    let recipe = scene.site.recipe();
    scene.host.run(&["prefetch", "--for", "debian12", "--recipe", &recipe]).code(0);
    assert_eq!(scene.lock(), lock);
    // Other packages are another set, and the refusal says what is there.
    let other = ["provision", &scene.ctid, "--offline", "--gpus", "0", "--recipe", &recipe];
    let other: Vec<&str> =
        other.into_iter().chain(["--set", "packages=libcublas-12-8,htop"]).collect();
    scene.host.run(&other).code(5).says("it has them for cuda-toolkit-12-8 nvtop");
}

#[test]
fn a_lock_keeps_what_other_calls_named() {
    let scene = Scene::new();
    let libraries = "packages=cuda-libraries-12-8";
    scene.prefetch(&["--set", libraries]).code(0);
    let other = scene.host.container("unprivileged", &[&scene.site.distribution()]);
    scene.host.start(&other);
    let recipe = scene.site.recipe();
    let of_other = ["prefetch", "--for", &other, "--recipe", &recipe, "--set", "packages=nvtop"];
    scene.host.run(&of_other).code(0);
    let names = |lock: &str| {
        ["libcublas-12-8", "nvtop"].map(|name| lock.contains(&format!("name = \"{name}\"")))
    };
    assert_eq!(names(&scene.lock()), [true, true], "{}", scene.lock());
    scene.host.run(&["cache", "prune"]).code(0);
    // Without the state of the first container what is locked for it stays as it is.
    let lock = scene.lock();
    let target = lock.split("[[target]]").find(|text| text.contains(&format!("{}\"", scene.ctid)));
    let digest = target.unwrap().split("sha256 = \"").nth(1).unwrap().split('"').next().unwrap();
    scene.host.shell(&format!("rm /var/cache/nvstage/blobs-v1/sha256/{digest}")).code(0);
    scene.host.run(&of_other).code(0).says("locked packages: failed to read its dpkg status");
    assert_eq!(names(&scene.lock()), [true, true], "{}", scene.lock());
    let offline = ["--offline", "--gpus", "0", "--recipe", &recipe, "--set", libraries];
    let run = scene.host.run(&[&["provision", &scene.ctid], &offline[..]].concat()).code(0);
    run.shows("install cuda-libraries-12-8, from the cache");
    let nvtop = scene.host.inside(&scene.ctid, "command -v nvtop");
    assert_eq!(nvtop.stdout, "", "what another container wants came along");
    // With everything there nothing is wanted of the cache, not even a lock.
    scene.host.shell("rm /var/cache/nvstage/locks-v1/*.lock").code(0);
    scene.host.run(&["plan", &scene.ctid, "--offline"]).code(0);
    scene.host.run(&["provision", &scene.ctid, "--offline"]).code(0);
    scene
        .host
        .inside(&scene.ctid, "dpkg -r --force-depends libcublas-12-8 cuda-libraries-12-8")
        .code(0);
    scene
        .host
        .run(&["provision", &scene.ctid, "--offline"])
        .code(5)
        .says("the cache has no packages");
}

#[test]
fn a_root_with_links_is_read_without_leaving_it() {
    let scene = Scene::new();
    let root = scene.host.directory.path().join("root");
    for directory in ["etc/apt/keyrings", "usr/lib", "var/lib/dpkg"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    let from = world().join("root-privileged");
    std::fs::copy(from.join("var/lib/dpkg/status"), root.join("var/lib/dpkg/status")).unwrap();
    std::fs::write(root.join("usr/lib/os-release"), "ID=debian\nVERSION_ID=\"12\"\n").unwrap();
    // Absolute, as in the root itself; on this host it would be another file.
    std::os::unix::fs::symlink("/usr/lib/os-release", root.join("etc/os-release")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", root.join("etc/apt/keyrings/x.gpg")).unwrap();
    scene.host.shell(&format!("mkfifo {}/etc/apt/keyrings/y.gpg", root.display())).code(0);
    let root = root.to_str().unwrap();
    scene.prefetch(&["--for", root]).code(0).shows(&format!("root {root}"));
}
