//! Configuration files as they are found, and as they are after the edit: every directory of
//! `tests/configurations` holds one, with the devices that are wanted and the report.
//!
//! `wanted.txt` names the dialect and one node a line: kind, path, device numbers. Where it is
//! missing, `tests/configurations/wanted.txt` is taken. One whose edit is refused has a report alone. With UPDATE_GOLDENS set the files are written
//! anew. NVSTAGE_CASES is how many inputs every property is tried with.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use nvstage::container::config::{Dialect, LxcConfig};
use nvstage::container::passthrough::{
    Applied, DeviceNode, DriverLines, Edit, Method, NodeKind, OwnLine, Users, Wanted, edit,
    renumber, withdraw,
};
use proptest::prelude::*;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configurations")
}

fn number(text: &str) -> (u64, u64) {
    let (major, minor) = text.split_once(':').unwrap();
    (major.parse().unwrap(), minor.parse().unwrap())
}

/// What `wanted.txt` says.
struct Case {
    dialect: Dialect,
    nodes: Vec<DeviceNode>,
    method: Method,
    users: Users,
    majors: BTreeSet<u64>,
    own: Vec<OwnLine>,
    driver_lines: DriverLines,
}

impl Case {
    fn parse(text: &str) -> Self {
        let mut case = Self {
            dialect: Dialect::Proxmox,
            nodes: Vec::new(),
            method: Method::Mount,
            users: Users::Everybody,
            majors: BTreeSet::new(),
            own: Vec::new(),
            driver_lines: DriverLines::Refuse,
        };
        for line in text.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            case.read(word, rest);
        }
        case
    }

    fn read(&mut self, word: &str, rest: &str) {
        let words: Vec<&str> = rest.split_whitespace().collect();
        let kind = match word {
            "proxmox" => return,
            "lxc" => return self.dialect = Dialect::Lxc,
            "adopt" => return self.driver_lines = DriverLines::TakeOut,
            "device" => {
                self.method = Method::Device;
                if let Some(gid) = words.first() {
                    self.users = Users::Group(gid.parse().unwrap());
                }
                return;
            }
            "majors" => {
                return self.majors = words.iter().map(|major| major.parse().unwrap()).collect();
            }
            "own" => {
                return self.own.push(OwnLine { text: Some(rest.to_owned()), replaced: None });
            }
            "gone" => {
                return self.own.push(OwnLine { text: None, replaced: Some(rest.to_owned()) });
            }
            // Of the line before.
            "replaced" => return self.own.last_mut().unwrap().replaced = Some(rest.to_owned()),
            "file" => NodeKind::File,
            "directory" => NodeKind::Directory,
            other => panic!("{other}"),
        };
        let numbers = words[1..].iter().map(|text| number(text)).collect();
        self.nodes.push(DeviceNode { path: words[0].to_owned(), kind, numbers });
    }

    fn wanted<'a>(&'a self, own: &'a [OwnLine]) -> Wanted<'a> {
        let Self { nodes, method, users, majors, .. } = self;
        let (method, users, driver_lines) = (*method, *users, self.driver_lines);
        Wanted { nodes, method, users, majors, trees: &[], own, driver_lines }
    }
}

fn report(edit: &Edit) -> String {
    let mut text = String::new();
    for line in &edit.lines_added {
        writeln!(text, "added: {line}").unwrap();
    }
    for (old, new) in &edit.lines_corrected {
        writeln!(text, "corrected: {old}\n       to: {new}").unwrap();
    }
    for line in &edit.lines_removed {
        writeln!(text, "removed: {line}").unwrap();
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
    let text = std::fs::read_to_string(case.join("wanted.txt"))
        .or_else(|_| std::fs::read_to_string(directory().join("wanted.txt")))
        .unwrap();
    let parsed = Case::parse(&text);
    let input = read("input.conf");
    let config = LxcConfig::parse(&input, parsed.dialect);
    assert_eq!(config.to_bytes(), input);
    let mut problems = Vec::new();
    let mut compare = |name: &str, actual: &[u8]| {
        if read(name) != actual {
            if std::env::var_os("UPDATE_GOLDENS").is_some() {
                std::fs::write(case.join(name), actual).unwrap();
            }
            let actual = String::from_utf8_lossy(actual);
            problems.push(format!("{}/{name} is really:\n{actual}", case.display()));
        }
    };
    let first = match edit(&config, &parsed.wanted(&parsed.own)) {
        Ok(first) => first,
        Err(error) => {
            compare("report.txt", format!("refused: {error}\n").as_bytes());
            return problems;
        }
    };
    compare("expected.conf", &first.config.to_bytes());
    compare("report.txt", report(&first).as_bytes());
    let reread = LxcConfig::parse(&first.config.to_bytes(), parsed.dialect);
    assert_eq!(reread, first.config, "{}", case.display());
    let second = edit(&reread, &parsed.wanted(&first.own)).unwrap();
    assert!(!second.changed(), "{}: {}", case.display(), report(&second));
    assert_eq!(second.config, first.config, "{}", case.display());
    assert_eq!(second.own, first.own, "{}", case.display());
    let back = withdraw(&reread, &first.own);
    compare("withdrawn.conf", &back.config.to_bytes());
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

#[test]
fn what_no_edit_can_give_is_refused() {
    let refused = |text: &str| {
        let case = case(false, Dialect::Proxmox);
        let config = LxcConfig::parse(text.as_bytes(), Dialect::Proxmox);
        edit(&config, &case.wanted(&[])).unwrap_err().to_string()
    };
    let denied = "arch: amd64\nunprivileged: 1\nlxc.cgroup2.devices.deny: c 195:* rwm\n";
    assert!(refused(denied).contains("line 3: `lxc.cgroup2.devices.deny: c 195:* rwm`"));
    let pending = "arch: amd64\n[pve:pending]\nlxc.cap.drop: sys_rawio\n";
    assert!(refused(pending).contains("`lxc.*` lines of `[pve:pending]` replace all others"));
}

/// What `renumber` makes of device rules, where the mounts are there and the nodes have these numbers.
fn renumbered(rules: &[&str], before: &[DeviceNode], now: &[DeviceNode]) -> Vec<String> {
    let mounts = "lxc.mount.entry: /dev/nvidia-uvm dev/nvidia-uvm none bind,optional,create=file 0 0\n\
        lxc.mount.entry: /dev/nvidia-caps dev/nvidia-caps none bind,optional,create=dir 0 0\n";
    let rule = |number: &&str| format!("lxc.cgroup2.devices.allow: c {number} rw");
    let lines: Vec<String> = rules.iter().map(rule).collect();
    let text = format!("{mounts}{}\n[old]\n{}\n", lines.join("\n"), lines.join("\n"));
    let config = LxcConfig::parse(text.as_bytes(), Dialect::Proxmox);
    let own: Vec<OwnLine> = before
        .iter()
        .flat_map(|node| &node.numbers)
        .map(|(major, minor)| format!("lxc.cgroup2.devices.allow: c {major}:{minor} rw"))
        .map(|text| OwnLine { text: Some(text), replaced: None })
        .collect();
    let majors = now.iter().flat_map(|node| &node.numbers).map(|number| number.0).collect();
    let numbers = |node: &DeviceNode| {
        now.iter().find(|found| found.path == node.path).map_or(vec![], |n| n.numbers.clone())
    };
    let before = Applied { own: &own, nodes: before };
    let result = renumber(&config, before, &majors, numbers).edit.config.to_bytes();
    let result = String::from_utf8(result).unwrap();
    assert!(result.ends_with(&format!("[old]\n{}\n", lines.join("\n"))), "{result}");
    let live = result.lines().take_while(|line| *line != "[old]");
    let number = |line: &str| Some(line.strip_prefix("lxc.cgroup2.devices.allow: c ")?.to_owned());
    live.filter_map(number).map(|text| text.trim_end_matches(" rw").to_owned()).collect()
}

fn node(path: &str, numbers: &[(u64, u64)]) -> DeviceNode {
    let is_directory = path == "/dev/nvidia-caps";
    let kind = if is_directory { NodeKind::Directory } else { NodeKind::File };
    DeviceNode { path: path.to_owned(), kind, numbers: numbers.to_vec() }
}

#[test]
fn rules_follow_majors_that_have_changed_places() {
    let before =
        [node("/dev/nvidia-uvm", &[(508, 3)]), node("/dev/nvidia-caps", &[(511, 3), (511, 4)])];
    let now =
        [node("/dev/nvidia-uvm", &[(511, 3)]), node("/dev/nvidia-caps", &[(508, 3), (508, 4)])];
    let rules = renumbered(&["508:3", "511:3", "511:4"], &before, &now);
    assert_eq!(rules, ["511:3", "508:3", "508:4"]);
}

#[test]
fn rules_of_instances_that_are_not_made_yet_follow_the_others() {
    let before = [node("/dev/nvidia-caps", &[(511, 3), (511, 147)])];
    let now = [node("/dev/nvidia-caps", &[(508, 1), (508, 2)])];
    assert_eq!(renumbered(&["511:3", "511:147"], &before, &now), ["508:3", "508:147"]);
}

#[test]
fn rules_stay_while_their_node_is_missing() {
    let before = [node("/dev/nvidia-uvm", &[(508, 0)])];
    assert_eq!(renumbered(&["508:0"], &before, &[]), ["508:0"]);
}

#[test]
fn rules_of_another_boot_that_a_rollback_brought_back_are_rewritten() {
    let before = [node("/dev/nvidia-uvm", &[(508, 0)])];
    let rules = renumbered(&["506:0", "505:7"], &before, &before);
    assert_eq!(rules, ["508:0", "505:7"]);
}

#[test]
fn rules_of_others_stay_while_none_of_ours_is_missing() {
    let before = [node("/dev/nvidia-uvm", &[(508, 0)])];
    assert_eq!(renumbered(&["508:0", "506:0"], &before, &before), ["508:0", "506:0"]);
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

/// Lines with their endings; text in failures, bytes for the editor.
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

fn lines_of(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    text.split('\n').map(|line| line.trim_end_matches('\r').to_owned()).collect()
}

fn sorted(bytes: &[u8]) -> Vec<String> {
    // What becomes of blank lines is seen where files are compared byte by byte.
    let mut lines: Vec<String> =
        lines_of(bytes).into_iter().filter(|line| !line.is_empty()).collect();
    lines.sort();
    lines
}

/// Everything after the live section.
fn sections(bytes: &[u8]) -> Vec<String> {
    let is_header = |line: &String| line == "[snap1]" || line == "[pve:pending]";
    lines_of(bytes).into_iter().skip_while(|line| !is_header(line)).collect()
}

/// Asserts that an edit changed the lines that it reports, and no other.
fn only_reported_lines_change(edit: &Edit, input: &[u8]) -> Result<(), TestCaseError> {
    let mut before = sorted(input);
    let mut after = sorted(&edit.config.to_bytes());
    let gone = edit.lines_corrected.iter().map(|(old, _)| old).chain(&edit.lines_removed);
    for line in gone {
        let index = before.iter().position(|found| found == line);
        let index = index.ok_or_else(|| TestCaseError::fail(format!("{line:?} was not there")))?;
        before.remove(index);
    }
    let new = edit.lines_corrected.iter().map(|(_, new)| new).chain(&edit.lines_added);
    for line in new {
        let index = after.iter().position(|found| found == line);
        let index = index.ok_or_else(|| TestCaseError::fail(format!("{line:?} is missing")))?;
        after.remove(index);
    }
    prop_assert_eq!(before, after);
    Ok(())
}

fn case(device: bool, dialect: Dialect) -> Case {
    let mut case = Case::parse(include_str!("configurations/wanted.txt"));
    case.majors = [1, 10, 195, 508, 511].into();
    if device && dialect == Dialect::Proxmox {
        case.method = Method::Device;
    }
    case
}

/// The edit; `None` where a line mounts something else onto the place of a node or denies it, or raw
/// lines are pending.
fn edited(config: &LxcConfig, wanted: &Wanted<'_>) -> Option<Edit> {
    let edited = edit(config, wanted);
    let text = String::from_utf8_lossy(&config.to_bytes()).into_owned();
    let signs = ["/dev/null dev/nvidia0", "devices.deny: c", "[pve:pending]"];
    let is_covered = || signs.iter().any(|sign| text.contains(sign));
    assert!(edited.is_ok() || is_covered(), "{edited:?}");
    edited.ok()
}

/// How many inputs every property is tried with; a long run asks for more.
fn cases() -> u32 {
    let asked = std::env::var("NVSTAGE_CASES").ok();
    asked.map_or(10_000, |cases| cases.parse().expect("NVSTAGE_CASES is a number"))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        max_global_rejects: cases().saturating_mul(10),
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_bytes_are_printed_as_they_were_read(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        (soup, dialect) in soup(),
    ) {
        for input in [&bytes, &soup, &[&soup[..], &bytes].concat(), &[&bytes[..], &soup].concat()] {
            prop_assert_eq!(&LxcConfig::parse(input, dialect).to_bytes(), input);
        }
    }

    #[test]
    fn applying_twice_is_applying_once((input, dialect) in soup(), device in any::<bool>()) {
        let case = case(device, dialect);
        let Some(once) = edited(&LxcConfig::parse(&input, dialect), &case.wanted(&[])) else {
            return Ok(());
        };
        let reread = LxcConfig::parse(&once.config.to_bytes(), dialect);
        prop_assert_eq!(&reread, &once.config);
        let twice = edit(&reread, &case.wanted(&once.own)).unwrap();
        prop_assert!(!twice.changed(), "{}", report(&twice));
        prop_assert_eq!(&twice.config, &once.config);
        prop_assert_eq!(twice.own, once.own);
    }

    #[test]
    fn nothing_but_the_reported_lines_changes((input, dialect) in soup(), device in any::<bool>()) {
        let case = case(device, dialect);
        let Some(there) = edited(&LxcConfig::parse(&input, dialect), &case.wanted(&[])) else {
            return Ok(());
        };
        only_reported_lines_change(&there, &input)?;
        let back = withdraw(&there.config, &there.own);
        only_reported_lines_change(&back, &there.config.to_bytes())?;
        if dialect == Dialect::Proxmox {
            prop_assert_eq!(sections(&there.config.to_bytes()), sections(&input));
            prop_assert_eq!(sections(&back.config.to_bytes()), sections(&input));
        }
    }

    #[test]
    fn the_way_there_and_back_leads_to_the_same_file((input, dialect) in soup()) {
        let config = LxcConfig::parse(&input, dialect);
        let Some(there) = edited(&config, &case(false, dialect).wanted(&[])) else {
            return Ok(());
        };
        // Lines in our form that were there are ours: they go as well.
        let is_adopted = |own: &OwnLine| {
            let text = own.text.as_ref().unwrap();
            own.replaced.is_none() && !there.lines_added.contains(text)
        };
        prop_assume!(!there.own.iter().any(is_adopted));
        let back = withdraw(&there.config, &there.own);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        prop_assert_eq!(text(&back.config.to_bytes()), text(&input));
    }

    #[test]
    fn from_one_way_to_the_other_and_back((input, _) in soup()) {
        let config = LxcConfig::parse(&input, Dialect::Proxmox);
        let (mount, device) = (case(false, Dialect::Proxmox), case(true, Dialect::Proxmox));
        // What Proxmox passes already is adopted on the way, and becomes a mount on the way back.
        prop_assume!(config.at_next_start().devices().is_empty());
        let Some(mounted) = edited(&config, &mount.wanted(&[])) else { return Ok(()) };
        let Some(passed) = edited(&mounted.config, &device.wanted(&mounted.own)) else {
            return Ok(());
        };
        let again = edit(&passed.config, &mount.wanted(&passed.own)).unwrap();
        prop_assert!(!edit(&again.config, &mount.wanted(&again.own)).unwrap().changed());
        prop_assert!(again.config.devices().is_empty());
        let taken_out = |edit: &Edit| {
            let mut lines = sorted(&withdraw(&edit.config, &edit.own).config.to_bytes());
            // A line that was there twice and did nothing comes back once.
            lines.dedup();
            lines
        };
        prop_assert_eq!(taken_out(&again), taken_out(&mounted));
    }
}
