//! CUDA that containers share: what dpkg would unpack, in one read-only image.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nvstage::architecture::Architecture;
use nvstage::artifact::Trust;
use nvstage::digest::Digest;
use nvstage::engine::shared::{self, CudaImage};
use nvstage::error::{Error, ExitCode};
use nvstage::fingerprint::Fingerprint;
use nvstage::lock::{
    Lock, LockedFile, LockedInstaller, LockedKey, LockedPackage, LockedRepository, Role,
};
use support::shared::{Machine, digest_of, parse, shell};
use support::{VERSION, world};

/// A lock that grows, with the packages' files.
struct Packages {
    machine: Machine,
    lock: Lock,
    debs: PathBuf,
}

impl Packages {
    fn new() -> Self {
        let machine = Machine::new();
        let installer = LockedInstaller {
            version: parse(VERSION),
            name: format!("NVIDIA-Linux-x86_64-{VERSION}.run"),
            sha256: Digest::of(b"installer"),
            size: 9,
            trust: Trust::Pinned,
        };
        let mut lock = Lock::new("test", ("debian12", Architecture::X86_64), installer, None);
        for (name, role) in [("cuda", Role::Cuda), ("distribution-1", Role::Distribution)] {
            lock.repositories.push(repository(name, role));
        }
        let debs = machine.directory.path().join("debs");
        std::fs::create_dir(&debs).unwrap();
        Self { machine, lock, debs }
    }

    /// The packages that the test world's toolkit of CUDA draws in.
    fn of_world(repository: &str) -> Self {
        let mut packages = Self::new();
        for entry in std::fs::read_dir(world().join(repository)).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            let is_driver = [
                "cuda_",
                "cuda-drivers",
                "cuda-runtime",
                "nvidia-driver",
                "libcuda1",
                "libnvidia",
                "ucx",
            ];
            if name.ends_with(".deb") && !is_driver.iter().any(|start| name.starts_with(start)) {
                packages.add(&entry.path(), "cuda");
            }
        }
        packages
    }

    /// A package with the files that a shell script makes in a directory.
    fn made(&mut self, name: &str, compression: &str, script: &str) -> PathBuf {
        let tree = self.machine.directory.path().join("tree");
        let (at, out) = (tree.display(), self.debs.display());
        shell(&format!(
            "rm -rf {at}; mkdir -p {at}/DEBIAN; cd {at}; umask 022; {script}
            printf 'Package: {name}\\nVersion: 1\\nArchitecture: amd64\\nMaintainer: x <x@x>\\nDescription: x\\n' > DEBIAN/control
            dpkg-deb --root-owner-group -Z{compression} --build {at} {out}/{name}_1_amd64.deb"
        ));
        let file = self.debs.join(format!("{name}_1_amd64.deb"));
        self.add(&file, "cuda");
        file
    }

    fn add(&mut self, file: &Path, repository: &str) {
        let bytes = std::fs::read(file).unwrap();
        let stored = self.machine.cache.store(&bytes).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        let mut words = name.split('_');
        self.lock.packages.push(LockedPackage {
            name: words.next().unwrap().to_owned(),
            version: words.next().unwrap().to_owned(),
            architecture: "amd64".to_owned(),
            sha256: *stored.digest(),
            size: stored.size(),
            repository: repository.to_owned(),
            path: format!("./{name}"),
        });
    }

    fn try_obtain(&self) -> Result<CudaImage, Error> {
        shared::obtain_cuda(&self.machine.host, &self.machine.supplies(), &self.lock)
    }

    #[track_caller]
    fn obtain(&self) -> CudaImage {
        self.try_obtain().unwrap_or_else(|error| panic!("{error}"))
    }

    /// What dpkg unpacks of all packages, one after the other, into an empty root file system.
    fn by_dpkg(&self) -> PathBuf {
        let into = self.machine.directory.path().join("by-dpkg");
        let root = into.display();
        shell(&format!(
            "mkdir -p {root}/var/lib/dpkg/info {root}/var/lib/dpkg/updates; : > {root}/var/lib/dpkg/status"
        ));
        for package in &self.lock.packages {
            let blob = self.machine.cache.place(&package.sha256);
            let options = "--force-depends --force-unsafe-io --force-not-root";
            shell(&format!(
                "dpkg --root={root} --log=/dev/null {options} --unpack {}",
                blob.display()
            ));
        }
        into
    }

    fn directory(&self) -> PathBuf {
        self.machine.host.paths.shared_cuda()
    }
}

fn repository(name: &str, role: Role) -> LockedRepository {
    let fingerprint = Fingerprint::parse("EB693B3035CD5710E231E123A4B469963BF863CC").unwrap();
    let file = LockedFile { sha256: Digest::of(b"file"), size: 4 };
    LockedRepository {
        name: name.to_owned(),
        role,
        url: "http://127.0.0.1:1/".to_owned(),
        suite: "/".to_owned(),
        components: Vec::new(),
        date: "2026-07-11T10:16:37Z".parse().unwrap(),
        release: file,
        key: LockedKey { fingerprint, sha256: file.sha256, size: file.size },
        sha1_bound: false,
        indexes: Vec::new(),
    }
}

/// Asserts that two trees are the same: names, contents, kinds, links, modes, and nobody's but
/// root's. Set-user-ID does not count.
#[track_caller]
fn same(one: &Path, other: &Path) {
    let list = |tree: &Path| {
        shell(&format!(
            "cd {} && find . -printf '%P %y %U:%G %l %m\\n' | sed 's/ [2-7]\\([0-7][0-7][0-7]\\)$/ \\1/' | LC_ALL=C sort",
            tree.display()
        ))
    };
    same_lines(&list(one), &list(other));
    shell(&format!("diff -r --no-dereference {} {}", one.display(), other.display()));
}

#[track_caller]
fn same_lines(one: &str, other: &str) {
    for (one, other) in one.lines().zip(other.lines()) {
        assert_eq!(one, other);
    }
    assert_eq!(one.lines().count(), other.lines().count());
}

#[test]
fn the_image_is_what_dpkg_unpacks() {
    let packages = Packages::of_world("cuda");
    let image = packages.obtain();
    assert_eq!(image.trees, ["usr/local/cuda-12.8"]);
    assert!(image.id.starts_with("12.8-") && image.id.len() == "12.8-".len() + 12, "{}", image.id);
    assert_eq!(image.mounted_at, packages.directory().join(&image.id));
    same(&image.mounted_at.join("usr/local"), &packages.by_dpkg().join("usr/local"));
    let version =
        shell(&format!("{}/usr/local/cuda-12.8/bin/nvcc --version", image.mounted_at.display()));
    assert!(version.contains("V12.8.93"), "{version}");
    let links = [("/usr/local/cuda-12", "cuda-12.8"), ("/usr/local/cuda", "cuda-12.8")];
    assert_eq!(image.links, links.map(|(link, target)| (link.to_owned(), target.to_owned())));
    assert_eq!(image.rest, Vec::<String>::new());
    // Nothing but image, record and mount is left.
    let names = packages.machine.names(&packages.directory());
    let id = &image.id;
    assert_eq!(names, [id.clone(), format!("{id}.json"), format!("{id}.squashfs")]);
    assert_eq!(packages.machine.heard.steps("unpack"), 1);
    assert!(packages.machine.heard.has_progress("packages of CUDA"));
}

const FULL: &str = "mkdir -p usr/local/cuda-12.8/bin usr/local/cuda-12.8/targets/x86_64-linux/lib/stubs usr/local/cuda-12.8/empty
    cd usr/local/cuda-12.8
    ln -s targets/x86_64-linux/lib lib64
    head -c 500000 /dev/urandom > targets/x86_64-linux/lib/libx.so.1.2
    ln -s libx.so.1.2 targets/x86_64-linux/lib/libx.so.1
    ln targets/x86_64-linux/lib/libx.so.1.2 targets/x86_64-linux/lib/libhard.so
    echo small > bin/small; ln bin/small bin/hard; ln -s ../nowhere bin/dangling; ln -s /etc/passwd bin/absolute
    echo tool > bin/tool; chmod 4755 bin/tool; echo secret > bin/private; chmod 0600 bin/private; chmod 0700 empty
    : > bin/nothing; touch 'bin/a name with blanks' \"bin/$(printf 'umlaut-\\303\\244')\" \"bin/$(printf 'latin-\\344')\"
    for number in $(seq 700); do echo $number > bin/many-$number; done
    cd ../../..
    mkdir -p usr/share/doc/full etc/ld.so.conf.d; echo doc > usr/share/doc/full/copyright
    printf '# a comment\\n/usr/local/cuda-12/targets/x86_64-linux/lib\\n/usr/local/cuda-12.8/lib64/stubs\\n/usr/lib/elsewhere\\ninclude x\\n/usr/local/cuda-12.8/missing\\n' > etc/ld.so.conf.d/988_cuda-12.conf
    printf '#!/bin/sh\\ntouch /nvstage-postinst-ran\\n' > DEBIAN/postinst; chmod 0755 DEBIAN/postinst";

#[test]
fn links_modes_and_odd_names_are_as_dpkg_has_them_and_no_script_runs() {
    for compression in ["xz", "zstd", "gzip", "none"] {
        let mut packages = Packages::new();
        packages.made("full", compression, FULL);
        packages.made("other", compression, "mkdir -p usr/local/cuda-12.8/lib64 opt/nvidia/nsight && echo through > usr/local/cuda-12.8/lib64/through && echo ncu > opt/nvidia/nsight/ncu");
        let image = packages.obtain();
        let by_dpkg = packages.by_dpkg();
        same(&image.mounted_at.join("usr/local"), &by_dpkg.join("usr/local"));
        same(&image.mounted_at.join("opt"), &by_dpkg.join("opt"));
        assert_eq!(image.trees, ["opt/nvidia", "usr/local/cuda-12.8"]);
        let cuda = "/usr/local/cuda-12.8/targets/x86_64-linux/lib";
        assert_eq!(image.library_directories, [cuda.to_owned(), format!("{cuda}/stubs")]);
        let mode = |name: &str| {
            let path = image.mounted_at.join("usr/local/cuda-12.8/bin").join(name);
            std::fs::metadata(path).unwrap().mode() & 0o7777
        };
        assert_eq!((mode("tool"), mode("private")), (0o755, 0o600));
        assert!(
            !image.mounted_at.join("usr/share").exists() && !image.mounted_at.join("etc").exists()
        );
        assert!(!Path::new("/nvstage-postinst-ran").exists());
    }
}

#[test]
fn a_tree_of_many_thousand_files_is_whole() {
    let mut packages = Packages::new();
    packages.made("many", "gzip", "mkdir -p usr/local/cuda-12.8/include; cd usr/local/cuda-12.8/include
        seq 2000 | split -l 1 -a 3 - a-header-with-a-name-of-usual-length-
        for directory in $(seq 40); do mkdir $directory; (cd $directory; seq 250 | split -l 1 -a 3 -); done; cd ../../../..");
    let image = packages.obtain();
    same(&image.mounted_at.join("usr/local"), &packages.by_dpkg().join("usr/local"));
}

#[test]
fn what_cannot_be_shared_is_left_to_apt() {
    let mut packages = Packages::of_world("cuda");
    packages.made(
        "libcudnn9",
        "xz",
        "mkdir -p usr/lib/x86_64-linux-gnu; echo x > usr/lib/x86_64-linux-gnu/libcudnn.so.9",
    );
    let nvtop = packages.debs.join("nvtop_3.0.1-1_amd64.deb");
    std::fs::write(&nvtop, "is never read").unwrap();
    packages.add(&nvtop, "distribution-1");
    let image = packages.obtain();
    assert_eq!(image.rest, ["libcudnn9", "nvtop"]);
    let found = shared::cuda_at_hand(&packages.machine.host.paths, &packages.lock).unwrap();
    assert_eq!(found.as_ref(), Some(&image));
    let by_id = shared::cuda_by_id(&packages.machine.host.paths, &image.id).unwrap().unwrap();
    assert_eq!((by_id.trees, by_id.rest), (image.trees, vec!["libcudnn9".to_owned()]));
    for id in ["12.8-000000000000", "", "../cuda", ".."] {
        assert_eq!(shared::cuda_by_id(&packages.machine.host.paths, id).unwrap(), None);
    }
}

#[test]
fn an_image_of_the_same_packages_is_found_again_and_is_the_same_elsewhere() {
    let mut packages = Packages::of_world("cuda");
    assert_eq!(shared::cuda_at_hand(&packages.machine.host.paths, &packages.lock).unwrap(), None);
    let image = packages.obtain();
    packages.lock.packages.reverse();
    assert_eq!(packages.obtain(), image);
    shell(&format!("umount -l {}", image.mounted_at.display()));
    assert_eq!(packages.obtain(), image);
    assert_eq!(packages.machine.heard.steps("build the shared CUDA"), 1);
    let file = |packages: &Packages| packages.directory().join(format!("{}.squashfs", image.id));
    let other = Packages::of_world("cuda");
    assert_eq!(other.obtain().id, image.id);
    assert_eq!(digest_of(&file(&packages)), digest_of(&file(&other)));
    // Damaged, it is built again.
    shell(&format!("truncate -s 100 {}", file(&packages).display()));
    assert_eq!(packages.obtain(), image);
    assert_eq!(digest_of(&file(&packages)), digest_of(&file(&other)));
    assert!(packages.machine.heard.warnings()[0].contains("when it was made: it is built again"));
    // With one package more it is another one, and the first one stays.
    packages.made("more", "gzip", "mkdir -p usr/local/cuda-12.8/more");
    assert_ne!(packages.obtain().id, image.id);
    assert!(image.mounted_at.join("usr/local/cuda-12.8/bin/nvcc").exists());
}

#[test]
fn two_releases_lie_side_by_side_and_the_newer_one_is_cuda() {
    let mut packages = Packages::of_world("cuda");
    packages.made(
        "cuda-13",
        "gzip",
        "mkdir -p usr/local/cuda-13.0/bin; echo x > usr/local/cuda-13.0/bin/nvcc",
    );
    let image = packages.obtain();
    assert_eq!(image.trees, ["usr/local/cuda-12.8", "usr/local/cuda-13.0"]);
    assert_eq!(image.links[1], ("/usr/local/cuda".to_owned(), "cuda-13.0".to_owned()));
    assert!(image.id.starts_with("13.0-"));
}

#[test]
fn what_is_no_sound_set_of_packages_is_refused_and_leaves_nothing() {
    let refused = |packages: &Packages| {
        let error = packages.try_obtain().unwrap_err();
        assert_eq!(error.code(), ExitCode::Install, "{error}");
        if packages.directory().exists() {
            assert_eq!(packages.machine.names(&packages.directory()), Vec::<String>::new());
        }
        error.to_string()
    };
    let nothing = Packages::new();
    let text = refused(&nothing);
    assert!(
        text.contains("the lock test for debian12 x86_64 has none")
            && text.contains("nvstage prefetch --for"),
        "{text}"
    );

    let mut no_cuda = Packages::new();
    no_cuda.made("libcudnn9", "gzip", "mkdir -p usr/lib; echo x > usr/lib/x");
    assert!(refused(&no_cuda).contains("hold no `/usr/local/cuda-…`"));

    let mut twice = Packages::of_world("cuda");
    twice.made(
        "zzz",
        "gzip",
        "mkdir -p usr/local/cuda-12.8/bin; echo other > usr/local/cuda-12.8/bin/nvcc",
    );
    assert!(
        refused(&twice).contains("another package has another `/usr/local/cuda-12.8/bin/nvcc`")
    );

    let mut outwards = Packages::of_world("cuda");
    outwards.made(
        "aaa",
        "gzip",
        "mkdir -p usr/local/cuda-12.8; ln -s ../../../../../../etc usr/local/cuda-12.8/etc",
    );
    outwards.made(
        "bbb",
        "gzip",
        "mkdir -p usr/local/cuda-12.8/etc; echo root::0:0 > usr/local/cuda-12.8/etc/passwd",
    );
    assert!(refused(&outwards).contains("a link leads a file of it to `/etc/passwd`"));

    let mut fifo = Packages::of_world("cuda");
    fifo.made("fifo", "gzip", "mkdir -p usr/local/cuda-12.8; mkfifo usr/local/cuda-12.8/fifo");
    assert!(refused(&fifo).contains("neither file, directory nor link"));

    let mut damaged = Packages::of_world("cuda");
    let whole = damaged.made(
        "whole",
        "xz",
        "mkdir -p usr/local/cuda-12.8; head -c 300000 /dev/urandom > usr/local/cuda-12.8/x",
    );
    damaged.lock.packages.pop();
    let bytes = std::fs::read(&whole).unwrap();
    std::fs::write(&whole, &bytes[..bytes.len() - 1000]).unwrap();
    damaged.add(&whole, "cuda");
    assert!(refused(&damaged).contains("unpack the package"));
    damaged.lock.packages.pop();
    std::fs::write(&whole, "<html>not found</html>").unwrap();
    damaged.add(&whole, "cuda");
    assert!(refused(&damaged).contains("it is no Debian package"));
}

/// A member of an archive whose name no tool would write.
fn hostile(name: &str, target: Option<&str>) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_mode(0o644);
    let content: &[u8] = if let Some(target) = target {
        header.set_entry_type(tar::EntryType::Link);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        b""
    } else {
        header.set_entry_type(tar::EntryType::Regular);
        b"hostile"
    };
    header.set_size(content.len() as u64);
    header.set_cksum();
    archive.append(&header, content).unwrap();
    let data = archive.into_inner().unwrap();
    let member = |name: &str, content: &[u8]| {
        let size = content.len();
        let mut member =
            format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 0, 644).into_bytes();
        member.extend_from_slice(content);
        member.extend_from_slice(&b"\n"[..size % 2]);
        member
    };
    let mut package = b"!<arch>\n".to_vec();
    package.extend(member("debian-binary", b"2.0\n"));
    package.extend(member("data.tar", &data));
    package
}

#[test]
fn hostile_names_reach_nothing_outside() {
    for (name, target, expected) in [
        ("../../../../tmp/nvstage-hostile", None, "leads out of it"),
        ("usr/local/cuda-12.8/../../../../etc/x", None, "leads out of it"),
        ("usr/local/cuda-12.8/shadow", Some("../../../etc/shadow"), "leads out of it"),
        ("usr/local/cuda-12.8/shadow", Some("etc/shadow"), "hard link to what is not there"),
    ] {
        let mut packages = Packages::of_world("cuda");
        let file = packages.debs.join("hostile_1_amd64.deb");
        std::fs::write(&file, hostile(name, target)).unwrap();
        packages.add(&file, "cuda");
        let error = packages.try_obtain().unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
        assert_eq!(packages.machine.names(&packages.directory()), Vec::<String>::new());
    }
    assert!(!Path::new("/tmp/nvstage-hostile").exists());
    // An absolute name is one inside.
    let mut packages = Packages::of_world("cuda");
    let file = packages.debs.join("absolute_1_amd64.deb");
    std::fs::write(&file, hostile("/usr/local/cuda-12.8/absolute", None)).unwrap();
    packages.add(&file, "cuda");
    let at = packages.obtain().mounted_at;
    assert_eq!(std::fs::read(at.join("usr/local/cuda-12.8/absolute")).unwrap(), b"hostile");
}

#[test]
fn a_full_disk_leaves_nothing_behind() {
    let mut packages = Packages::of_world("cuda");
    packages.made(
        "large",
        "gzip",
        "mkdir -p usr/local/cuda-12.8; head -c 3000000 /dev/urandom > usr/local/cuda-12.8/large",
    );
    let directory = packages.directory();
    std::fs::create_dir_all(&directory).unwrap();
    // While it is unpacked, then while the image is written.
    for size in ["1m", "4m"] {
        shell(&format!("mount -t tmpfs -o size={size} tmpfs {}", directory.display()));
        let error = packages.try_obtain().unwrap_err();
        assert_eq!(error.code(), ExitCode::Install, "{error}");
        assert!(error.what().contains("no space is left"), "{error}");
        assert_eq!(packages.machine.names(&directory), Vec::<String>::new(), "{size}");
        shell(&format!("umount -l {}", directory.display()));
    }
    packages.obtain();
}

#[test]
fn what_a_killed_run_left_is_cleared_and_built_again() {
    let packages = Packages::of_world("cuda");
    let image = packages.obtain();
    let (id, at) = (&image.id, packages.directory().display().to_string());
    let key = id.split('-').nth(1).unwrap();
    let sound = packages.machine.names(&packages.directory());
    let digest = digest_of(&packages.directory().join(format!("{id}.squashfs")));
    let left = [
        // While packages were unpacked; while the image was written; before it had its record.
        format!(
            "mkdir -p {at}/.tmp-{key}.squashfs.work/0; echo x > {at}/.tmp-{key}.squashfs.work/0/0"
        ),
        format!("echo x > {at}/.tmp-{id}.squashfs; mkdir {at}/.tmp-{key}.squashfs.work"),
        format!("rm {at}/{id}.json; touch {at}/.nvstage-{id}.json.abc"),
    ];
    for kill in left {
        shell(&format!("umount -l {at}/{id}; {kill}"));
        let again = packages.obtain();
        assert_eq!(again, image);
        shared::mount_all(&packages.machine.host, &packages.machine.heard).unwrap();
        assert_eq!(packages.machine.names(&packages.directory()), sound, "{kill}");
        assert_eq!(digest_of(&packages.directory().join(format!("{id}.squashfs"))), digest);
    }
}

#[test]
fn images_are_mounted_again_all_at_once() {
    let mut packages = Packages::of_world("cuda");
    let one = packages.obtain();
    packages.made("more", "gzip", "mkdir -p usr/local/cuda-12.8/more");
    let other = packages.obtain();
    for image in [&one, &other] {
        shell(&format!("umount -l {}", image.mounted_at.display()));
    }
    let done = shared::mount_all(&packages.machine.host, &packages.machine.heard).unwrap();
    assert!(done.errors.is_empty() && done.lines.len() == 2, "{done:?}");
    assert!(one.mounted_at.join("usr/local/cuda-12.8/bin/nvcc").exists());
    assert!(other.mounted_at.join("usr/local/cuda-12.8/more").exists());
}

#[test]
fn of_two_at_once_one_builds() {
    let packages = Packages::of_world("cuda");
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..3).map(|_| scope.spawn(|| packages.obtain())).collect();
        let ids: Vec<String> = runs.into_iter().map(|run| run.join().unwrap().id).collect();
        assert!(ids.iter().all(|id| *id == ids[0]));
    });
    assert_eq!(packages.machine.heard.steps("build the shared CUDA"), 1);
}
