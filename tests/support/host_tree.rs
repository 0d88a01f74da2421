//! Host trees: the files of a machine below a root of its own, as `tests/hosts/NAME` has them.
//!
//! Beside files and links, a tree has `devices`: one node a line, `NAME TYPE MAJOR MINOR [MODE]`,
//! below `/dev`; they are made in the copy, which takes root. A tree with `etc/pve` also gets a
//! `pct` that is never run. `expected` is not copied.

#![allow(dead_code, reason = "each test file uses a part of this")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nvstage::host::paths::Paths;

/// A copy of a tree, removed when it is dropped.
#[derive(Debug)]
pub struct HostTree;

impl HostTree {
    /// The directory of all trees.
    pub fn directory() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts")
    }

    /// The names of all trees.
    pub fn names() -> Vec<String> {
        let entries = std::fs::read_dir(Self::directory()).unwrap().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Copies a tree and makes its nodes.
    pub fn load(name: &str) -> (tempfile::TempDir, Paths) {
        let tree = Self::directory().join(name);
        // Nodes cannot be opened where `/tmp` is mounted with `nodev`; here nobody opens them.
        let copy = tempfile::Builder::new().prefix("nvstage-tree-").tempdir().unwrap();
        let status =
            Command::new("cp").arg("-a").arg(tree.join(".")).arg(copy.path()).status().unwrap();
        assert!(status.success(), "{} was not copied", tree.display());
        let _ = std::fs::remove_dir_all(copy.path().join("expected"));
        let devices = std::fs::read_to_string(copy.path().join("devices")).unwrap();
        std::fs::remove_file(copy.path().join("devices")).unwrap();
        for line in devices.lines().filter(|line| !line.starts_with('#')) {
            make_node(copy.path(), line);
        }
        let pve = copy.path().join("etc/pve");
        if pve.exists() {
            // Git keeps no empty directories.
            for directory in ["lxc", "qemu-server"] {
                let node = std::fs::read_link(pve.join("local")).unwrap();
                std::fs::create_dir_all(pve.join(node).join(directory)).unwrap();
            }
            std::fs::create_dir_all(copy.path().join("usr/sbin")).unwrap();
            std::fs::write(copy.path().join("usr/sbin/pct"), "").unwrap();
        }
        let paths = Paths::below(copy.path());
        (copy, paths)
    }
}

/// Makes the node that a line of `devices` describes, below `root/dev`.
pub fn make_node(root: &Path, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [name, kind, major, minor, ref mode @ ..] = words[..] else { panic!("{line}") };
    let kind = match kind {
        "c" => SFlag::S_IFCHR,
        "b" => SFlag::S_IFBLK,
        _ => panic!("{line}"),
    };
    let path = root.join("dev").join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let number = makedev(major.parse().unwrap(), minor.parse().unwrap());
    mknod(&path, kind, Mode::empty(), number)
        .unwrap_or_else(|error| panic!("make {name}: {error}; run the tests as root"));
    let mode = mode.first().map_or(0o666, |mode| u32::from_str_radix(mode, 8).unwrap());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
}
