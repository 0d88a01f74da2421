//! Configuration files as they are found, and as they are after the edit: every directory of
//! `tests/configurations` holds one, with the devices that are wanted and the report.
//!
//! `wanted.txt` names the dialect and one node a line: kind, path, device numbers. Where it is
//! missing, `tests/configurations/wanted.txt` is taken.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use nvstage::container::config::{Dialect, LxcConfig};
use nvstage::container::passthrough::{DeviceNode, Edit, NodeKind, edit};
use proptest::prelude::*;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configurations")
}

fn number(text: &str) -> (u64, u64) {
    let (major, minor) = text.split_once(':').unwrap();
    (major.parse().unwrap(), minor.parse().unwrap())
}

fn wanted(text: &str) -> (Dialect, Vec<DeviceNode>) {
    let mut dialect = Dialect::Proxmox;
    let mut nodes = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let kind = match words[0] {
            "proxmox" => continue,
            "lxc" => {
                dialect = Dialect::Lxc;
                continue;
            }
            "file" => NodeKind::File,
            "directory" => NodeKind::Directory,
            other => panic!("{other}"),
        };
        let numbers = words[2..].iter().map(|text| number(text)).collect();
        nodes.push(DeviceNode { path: words[1].to_owned(), kind, numbers });
    }
    (dialect, nodes)
}

fn report(edit: &Edit) -> String {
    let mut text = String::new();
    for line in &edit.lines_added {
        writeln!(text, "added: {line}").unwrap();
    }
    for (old, new) in &edit.lines_corrected {
        writeln!(text, "corrected: {old}\n       to: {new}").unwrap();
    }
    for line in &edit.foreign {
        writeln!(text, "kept {}: {}\n   why: {}", line.number, line.text, line.why).unwrap();
    }
    if !edit.changed() {
        writeln!(text, "unchanged").unwrap();
    }
    text
}

/// Differences between a case and what really comes out of it.
fn check(case: &Path) -> Vec<String> {
    let read = |name: &str| std::fs::read(case.join(name)).unwrap_or_default();
    let nodes = std::fs::read_to_string(case.join("wanted.txt"))
        .or_else(|_| std::fs::read_to_string(directory().join("wanted.txt")))
        .unwrap();
    let (dialect, nodes) = wanted(&nodes);
    let input = read("input.conf");
    let config = LxcConfig::parse(&input, dialect);
    assert_eq!(config.to_bytes(), input);
    let first = edit(&config, &nodes);
    let mut problems = Vec::new();
    let mut compare = |name: &str, actual: &[u8]| {
        if read(name) != actual {
            let actual = String::from_utf8_lossy(actual);
            problems.push(format!("{}/{name} is really:\n{actual}", case.display()));
        }
    };
    compare("expected.conf", &first.config.to_bytes());
    compare("report.txt", report(&first).as_bytes());
    let reread = LxcConfig::parse(&first.config.to_bytes(), dialect);
    assert_eq!(reread, first.config, "{}", case.display());
    let second = edit(&reread, &nodes);
    assert!(!second.changed(), "{}: {}", case.display(), report(&second));
    assert_eq!(second.config, first.config, "{}", case.display());
    problems
}

#[test]
fn every_configuration_becomes_what_is_expected() {
    let entries = std::fs::read_dir(directory()).unwrap().flatten();
    let mut cases: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    cases.sort();
    assert!(cases.len() >= 20, "only {} cases were found", cases.len());
    let problems: Vec<String> = cases.iter().flat_map(|case| check(case)).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Lines that matter to the edit, mixed with ones that do not.
const SOUP: [&str; 36] = [
    "",
    "   ",
    "arch: amd64",
    "unprivileged: 1",
    "unprivileged: 0",
    "# a comment",
    "#lxc.mount.entry: /dev/nvidia0 dev/nvidia0 none bind,optional,create=file 0 0",
    "[snap1]",
    "[pve:pending]",
    "[special:x]",
    "nvidia-thing: 1",
    "lxc.idmap: u 0 100000 65536",
    "lxc.mount.entry: /dev/nvidia0 dev/nvidia0 none bind,optional,create=file 0 0",
    "lxc.mount.entry = /dev/nvidia0 dev/nvidia0 none create=file,bind",
    "lxc.mount.entry: /dev/nvidia0 /dev/nvidia0 none bind,optional,create=file",
    "lxc.mount.entry = /dev/nvidia0 /dev/nvidia0 none bind,optional,create=file 0 0",
    "lxc.mount.entry: /dev/nvidiactl /dev/nvidiactl none bind,optional,create=file 0 0",
    "lxc.mount.entry: /dev/nvidia-caps /dev/nvidia-caps none bind,optional,create=dir 0 0",
    "lxc.mount.entry: /dev/nvidia-caps dev/nvidia-caps none bind,optional,create=dir",
    "lxc.mount.entry: /dev/nvidia1 dev/nvidia1 none bind,optional,create=file 0 0",
    "lxc.mount.entry: /dev/null dev/nvidia0 none bind,create=file",
    "lxc.mount.entry: /srv srv none bind,create=dir 0 0",
    "lxc.cgroup2.devices.allow: c 195:* rwm",
    "lxc.cgroup2.devices.allow = c 195:0 rw",
    "lxc.cgroup2.devices.allow: c 509:* rwm",
    "lxc.cgroup2.devices.allow: a",
    "lxc.cgroup2.devices.deny: a",
    "lxc.cgroup2.devices.deny: c 195:0 rw",
    "lxc.cgroup.devices.allow: c 195:* rwm",
    "dev0: /dev/nvidia0,mode=0666",
    "dev0: /dev/dri/card0",
    "dev1: path=/dev/nvidiactl,deny-write=1",
    "mp0: /srv,mp=/srv",
    "lxc.environment: NVIDIA_VISIBLE_DEVICES=all",
    "  lxc.mount.entry: /dev/nvidia0 dev/nvidia0 none bind,create=file",
    "\u{fffd}\u{0}",
];

fn soup() -> impl Strategy<Value = (Vec<u8>, Dialect)> {
    let ending = prop_oneof![Just("\n"), Just("\r\n")];
    let lines = proptest::collection::vec(proptest::sample::select(&SOUP[..]), 0..14);
    let dialect = prop_oneof![3 => Just(Dialect::Proxmox), 1 => Just(Dialect::Lxc)];
    (lines, ending, any::<bool>(), dialect).prop_map(|(lines, ending, ends, dialect)| {
        let mut text = lines.join(ending);
        if ends && !lines.is_empty() {
            text.push_str(ending);
        }
        (text.into_bytes(), dialect)
    })
}

fn nodes() -> Vec<DeviceNode> {
    wanted(&std::fs::read_to_string(directory().join("wanted.txt")).unwrap()).1
}

/// Takes the added lines out of a file again, and puts the corrected ones back.
fn undone(edit: &Edit, input: &[u8]) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = Vec::new();
    let output = edit.config.to_bytes();
    let text =
        |line: &[u8]| String::from_utf8_lossy(line).trim_end_matches(['\r', '\n']).to_owned();
    let mut added = edit.lines_added.iter().peekable();
    let mut corrected = edit.lines_corrected.clone();
    let mut original = input.split_inclusive(|byte| *byte == b'\n').map(text).peekable();
    for line in output.split_inclusive(|byte| *byte == b'\n') {
        let found = text(line);
        // The added lines stand together: at the place where the next one of the input is another.
        if added.peek().is_some_and(|next| **next == found) && original.peek() != Some(&found) {
            added.next();
            continue;
        }
        let was = original.next().unwrap();
        match corrected.iter().position(|(old, new)| *old == was && *new == found) {
            Some(index) => {
                let ending = &line[found.len()..];
                lines.push([corrected.remove(index).0.as_bytes(), ending].concat());
            }
            None => lines.push(line.to_vec()),
        }
    }
    assert!(added.next().is_none() && corrected.is_empty());
    let mut bytes = lines.concat();
    if !edit.lines_added.is_empty() && !input.ends_with(b"\n") && bytes.len() > input.len() {
        // The line before the added ones was the last one, and got an ending.
        bytes.truncate(input.len());
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn applying_twice_is_applying_once((input, dialect) in soup()) {
        let nodes = nodes();
        let once = edit(&LxcConfig::parse(&input, dialect), &nodes);
        let reread = LxcConfig::parse(&once.config.to_bytes(), dialect);
        prop_assert_eq!(&reread, &once.config);
        let twice = edit(&reread, &nodes);
        prop_assert!(!twice.changed(), "{}", report(&twice));
        prop_assert_eq!(twice.config, once.config);
    }

    #[test]
    fn nothing_but_the_reported_lines_changes((input, dialect) in soup()) {
        let config = LxcConfig::parse(&input, dialect);
        prop_assert_eq!(config.to_bytes(), input.clone());
        let result = edit(&config, &nodes());
        prop_assert_eq!(undone(&result, &input), input);
    }
}
