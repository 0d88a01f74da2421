//! Installers unpacked into the cache: what becomes of good ones, and which ones are refused.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where it is surprised"
)]
#![allow(clippy::disallowed_methods, reason = "tests damage files on purpose")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Mutex;

use nvstage::architecture::Architecture;
use nvstage::artifact::Artifact;
use nvstage::cache::{Cache, CachedArtifact, Tree};
use nvstage::digest::Digest;
use nvstage::error::{Error, ExitCode, Result};
use nvstage::event::{Event, Events, Silent};
use nvstage::fetch::{FetchOptions, Fetcher};
use nvstage::host::cancel::Cancel;
use nvstage::runfile::header::Installer;
use nvstage::version::DriverVersion;
use tar::EntryType;

#[path = "support/runfile.rs"]
mod runfile;

use runfile::{Packing, RunFile};

const VERSION: &str = "580.76.05";
const CUDA: &str = "libcuda.so.580.76.05";

fn installer(version: &str) -> Installer {
    Installer {
        name: format!("NVIDIA-Linux-x86_64-{version}.run"),
        version: DriverVersion::parse(version).unwrap(),
        architecture: Architecture::X86_64,
    }
}

struct World {
    directory: tempfile::TempDir,
    cache: Cache,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path(), &Cancel::never().unwrap()).unwrap();
        Self { directory, cache }
    }

    /// Puts an installer file into the cache.
    fn add(&self, content: &[u8]) -> CachedArtifact {
        let source = self.directory.path().join("source.run");
        fs::write(&source, content).unwrap();
        let artifact = Artifact {
            name: format!("NVIDIA-Linux-x86_64-{VERSION}.run"),
            urls: vec![source.to_str().unwrap().to_owned()],
            size: None,
            digest: Some(Digest::of(content)),
        };
        let fetcher = Fetcher::new(FetchOptions::default(), Cancel::never().unwrap());
        self.cache.obtain(&artifact, &fetcher, &Silent).unwrap()
    }

    fn tree(&self, content: &[u8]) -> Result<Tree> {
        self.cache.tree(&self.add(content), &installer(VERSION), &Silent)
    }

    /// The error for an installer that must be refused; nothing of it may stay.
    fn refused(&self, content: &[u8]) -> String {
        let error: Error = self.tree(content).unwrap_err();
        assert_eq!(error.code(), ExitCode::Install, "{error}");
        let entries = fs::read_dir(self.directory.path().join("trees-v1")).unwrap();
        let names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        assert!(names.iter().all(|name| name.ends_with(".lock")), "{names:?}");
        error.to_string()
    }
}

fn good() -> RunFile {
    RunFile::new(VERSION).library(CUDA, &b"CUDA".repeat(100_000)).member(
        "./32/libcuda.so",
        (EntryType::Regular, 0o755),
        b"32 bit",
    )
}

#[test]
fn all_three_compressions_unpack_to_the_same_tree() {
    for packing in [Packing::Gzip, Packing::Xz, Packing::Zstd] {
        let tree = World::new().tree(&good().build(packing)).unwrap();
        let cuda = tree.file(CUDA).unwrap();
        let content = b"CUDA".repeat(100_000);
        assert_eq!((cuda.size, cuda.digest), (400_000, Digest::of(&content)), "{packing:?}");
        assert_eq!(tree.manifest().entries.len(), 2);
        assert!(tree.file("32/libcuda.so").is_some() && tree.file("./32/libcuda.so").is_none());
        assert_eq!(tree.version().as_str(), VERSION);
        assert!(tree.total_size() > 400_000);
    }
}

#[test]
fn everybody_may_read_and_no_owner_or_setuid_bit_is_restored() {
    let world = World::new();
    let tree = world.tree(&good().build(Packing::Zstd)).unwrap();
    let look = |name: &str| fs::metadata(tree.payload().join(name)).unwrap();
    let mode = |name: &str| look(name).permissions().mode() & 0o7777;
    assert_eq!((mode("nvidia-installer"), mode(CUDA)), (0o755, 0o644));
    assert_eq!((mode("32"), mode("")), (0o755, 0o755));
    let us = nix::unistd::geteuid().as_raw();
    assert_eq!((look(CUDA).uid(), look("32").uid()), (us, us));
}

#[test]
fn stand_ins_for_the_module_tools_lie_beside() {
    let world = World::new();
    let tree = world.tree(&good().build(Packing::Zstd)).unwrap();
    for name in ["modprobe", "rmmod", "lsmod", "depmod"] {
        let link = tree.stand_ins().join(".nvstage/bin").join(name);
        assert_eq!(fs::read_link(link).unwrap(), Path::new("/bin/true"));
    }
}

#[test]
fn the_second_time_nothing_is_unpacked() {
    let world = World::new();
    let content = good().build(Packing::Zstd);
    let first = world.tree(&content).unwrap();
    let inode = |tree: &Tree| fs::metadata(tree.payload().join(CUDA)).unwrap().ino();
    let before = inode(&first);
    let second = world.tree(&content).unwrap();
    assert_eq!(inode(&second), before);
    assert!(!first.unpacked_in().is_zero() && second.unpacked_in().is_zero());
}

#[test]
fn several_at_once_unpack_it_once() {
    let world = World::new();
    let cached = world.add(&good().build(Packing::Xz));
    let unpacked = Mutex::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let cache = Cache::open(world.directory.path(), &Cancel::never().unwrap()).unwrap();
                let tree = cache.tree(&cached, &installer(VERSION), &Silent).unwrap();
                *unpacked.lock().unwrap() += i32::from(!tree.unpacked_in().is_zero());
            });
        }
    });
    assert_eq!(unpacked.into_inner().unwrap(), 1);
}

#[derive(Debug, Default)]
struct Heard(Mutex<Vec<Event>>);

impl Events for Heard {
    fn emit(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

#[test]
fn a_tree_that_was_changed_is_unpacked_again() {
    let world = World::new();
    let cached = world.add(&good().build(Packing::Zstd));
    let tree = world.cache.tree(&cached, &installer(VERSION), &Silent).unwrap();
    let library = tree.payload().join(CUDA);
    let content = fs::read(&library).unwrap();
    for damage in [b"short".to_vec(), vec![0; content.len()]] {
        fs::write(&library, damage).unwrap();
        let heard = Heard::default();
        world.cache.tree(&cached, &installer(VERSION), &heard).unwrap();
        assert_eq!(fs::read(&library).unwrap(), content);
        let events = heard.0.into_inner().unwrap();
        assert!(matches!(&events[0], Event::Warning { text } if text.contains("damaged")));
    }
    // Written anew with the same content: hashed, and kept.
    fs::write(&library, &content).unwrap();
    let tree = world.cache.tree(&cached, &installer(VERSION), &Silent).unwrap();
    assert!(tree.unpacked_in().is_zero());
}

#[test]
fn what_a_killed_run_left_is_removed() {
    let world = World::new();
    let left = world.directory.path().join("trees-v1/.tmp-0000");
    fs::create_dir_all(left.join("payload")).unwrap();
    world.tree(&good().build(Packing::Zstd)).unwrap();
    assert!(!left.exists());
}

#[test]
fn an_installer_of_another_version_is_refused() {
    let world = World::new();
    let cached = world.add(&good().build(Packing::Zstd));
    let error = world.cache.tree(&cached, &installer("580.95.05"), &Silent).unwrap_err();
    let text = error.to_string();
    for part in ["580.95.05 for x86_64", "NVIDIA-Linux-x86_64-580.95.05.run", "says 580.76.05"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_truncated_archive_is_refused() {
    for packing in [Packing::Gzip, Packing::Xz, Packing::Zstd] {
        let content = good().library("libbig.so", &noise(2_000_000)).build(packing);
        for cut in [1, 5, content.len() / 2] {
            let text = World::new().refused(&content[..content.len() - cut]);
            assert!(text.contains("damaged"), "{packing:?} -{cut}: {text}");
        }
    }
    let content = good().build(Packing::Zstd);
    let text = World::new().refused(&content[..20_000]);
    assert!(text.contains("cut short"), "{text}");
}

#[test]
fn a_changed_byte_in_the_archive_is_refused() {
    for packing in [Packing::Gzip, Packing::Xz, Packing::Zstd] {
        let mut content = good().library("libbig.so", &noise(2_000_000)).build(packing);
        let middle = content.len() - 1_000_000;
        content[middle] ^= 0x10;
        let text = World::new().refused(&content);
        assert!(text.contains("damaged"), "{packing:?}: {text}");
    }
}

/// Bytes that do not compress.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(count).collect()
}

#[test]
fn hostile_members_are_refused() {
    let regular = |name: &str| good().member(name, (EntryType::Regular, 0o644), b"x");
    let link = |name: &str, target: &str| good().link(name, EntryType::Symlink, target);
    let cases = [
        (regular("../outside"), "leaves the tree"),
        (regular("a/../../outside"), "leaves the tree"),
        (regular("/tmp/outside"), "leaves the tree"),
        (regular("./nvidia-installer"), "twice"),
        (link("a", "/etc"), "leaves the tree"),
        (link("a", "../etc"), "leaves the tree"),
        (link("a/b", "../../etc"), "leaves the tree"),
        (link("a", "32/.."), "leaves the tree"),
        (link("a", ""), "leaves the tree"),
        (
            link("a", "32").member("a/libcuda.so", (EntryType::Regular, 0o644), b"x"),
            "behind a symbolic link",
        ),
        (
            link("a", "32").member("a/", (EntryType::Directory, 0o755), b""),
            "behind a symbolic link",
        ),
        (good().link("a", EntryType::Link, CUDA), "neither a file"),
        (good().member("fifo", (EntryType::Fifo, 0o644), b""), "neither a file"),
        (good().member("null", (EntryType::Char, 0o666), b""), "neither a file"),
        (good().member("disk", (EntryType::Block, 0o666), b""), "neither a file"),
    ];
    for (number, (file, why)) in cases.into_iter().enumerate() {
        let text = World::new().refused(&file.build(Packing::Zstd));
        assert!(text.contains(why), "case {number}: {text}");
    }
}

#[test]
fn a_link_that_stays_inside_is_kept() {
    let content = good().link("./32/up.so", EntryType::Symlink, &format!("../{CUDA}"));
    let world = World::new();
    let tree = world.tree(&content.build(Packing::Zstd)).unwrap();
    assert_eq!(fs::read(tree.payload().join("32/up.so")).unwrap().len(), 400_000);
}

#[test]
fn another_kind_of_file_is_refused_by_name() {
    let text = World::new().refused(b"<!DOCTYPE html>\n<html>");
    assert!(text.contains("web page"), "{text}");
    let mut content = good().build(Packing::Zstd);
    let magic = content.windows(4).position(|bytes| bytes == [0x28, 0xb5, 0x2f, 0xfd]).unwrap();
    content[magic] = 0;
    let text = World::new().refused(&content);
    assert!(text.contains("no known compression"), "{text}");
}

#[test]
fn a_full_disk_leaves_nothing() {
    use nix::mount::{MsFlags, mount};
    let content = good().library("libbig.so", &vec![0; 8_000_000]).build(Packing::Zstd);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
                .expect("this test needs root: it mounts a small file system");
            let nothing: Option<&str> = None;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(nothing, "/", nothing, private, nothing).unwrap();
            let directory = tempfile::tempdir().unwrap();
            let size = Some("size=4m");
            mount(Some("tmpfs"), directory.path(), Some("tmpfs"), MsFlags::empty(), size).unwrap();
            let cache = Cache::open(directory.path(), &Cancel::never().unwrap()).unwrap();
            let world = World { directory, cache };
            let text = world.refused(&content);
            assert!(text.contains("no space is left"), "{text}");
            nix::mount::umount2(world.directory.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
        });
    });
}
