//! From the device nodes a container should have to the edit of its configuration file.
//!
//! [`edit`] compares the live section with what is wanted. It adds what is missing, corrects lines
//! of the replaced script's own form, and tells of every other line about NVIDIA devices without
//! touching it. Editing the result again changes nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::config::{Access, Line, LineKind, LxcConfig, PassedDevice};
use super::mount::{self, Effect, MountEntry};
use super::rules::{self, DeviceRule, Permission};

/// How device nodes get into a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// `lxc.mount.entry` lines, and rules for a privileged container.
    #[default]
    Mount,
    /// Proxmox VE's `dev[n]`, 8.1 and newer: it makes the nodes itself at every start, with the
    /// numbers that the host's have then.
    Device,
}

/// A device node of the host that a container should have at the same path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceNode {
    /// The path, `/dev/nvidia0`.
    pub path: String,
    /// Whether it is the node itself or a directory of nodes.
    pub kind: NodeKind,
    /// Major and minor number of the node, or of every node in the directory.
    pub numbers: Vec<(u64, u64)>,
}

/// What is at the path of a [`DeviceNode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// A character device.
    File,
    /// A directory of character devices, `/dev/nvidia-caps`.
    Directory,
}

/// What has to change in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// The file as it should be.
    pub config: LxcConfig,
    /// Lines that were added, in the order in which they stand.
    pub lines_added: Vec<String>,
    /// Lines that were corrected in place: before, after.
    pub lines_corrected: Vec<(String, String)>,
    /// Lines about NVIDIA devices that are somebody else's and stay as they are.
    pub foreign: Vec<ForeignLine>,
}

impl Edit {
    /// Whether the file changes at all.
    pub fn changed(&self) -> bool {
        !self.lines_added.is_empty() || !self.lines_corrected.is_empty()
    }
}

/// A line that was found and left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignLine {
    /// Its number in the file that was read, from 1.
    pub number: usize,
    /// Its text.
    pub text: String,
    /// Why it was left alone, and what it does or fails to do.
    pub why: String,
}

/// Computes the edit that gives the container these nodes.
///
/// A privileged container also gets a rule for every device number that no rule allows yet; a rule
/// that denies one by name is obeyed. Proxmox VE's own `dev[n]` counts as passing a node.
pub fn edit(config: &LxcConfig, nodes: &[DeviceNode]) -> Edit {
    let survey = Survey::new(config, nodes);
    let mut edited = config.clone();
    let mut added = Vec::new();
    let mut corrections = BTreeMap::new();
    for node in nodes {
        let line = mount::line(node, config.dialect());
        match survey.presence(node) {
            Presence::Passed => {}
            Presence::Correctable(number) => {
                edited.replace_line(number, &line);
                corrections.insert(number, line);
            }
            Presence::Absent => push_new(&mut added, line),
        }
    }
    if !survey.is_unprivileged {
        for number in survey.numbers_to_allow() {
            push_new(&mut added, rules::line(number, config.dialect()));
        }
    }
    edited.insert_after_lxc_lines(&added);
    let is_corrected = |line: &&Line<'_>| corrections.contains_key(&line.number);
    let foreign = survey.lines.iter().filter(|line| !is_corrected(line));
    let foreign = foreign.filter_map(|line| survey.foreign(line)).collect();
    let old = survey.lines.iter().filter(is_corrected).map(|line| line.text.clone().into_owned());
    let lines_corrected = old.zip(corrections.values().cloned()).collect();
    Edit { config: edited, lines_added: added, lines_corrected, foreign }
}

/// Whether the live section passes this node, so that a container can use it: by a mount entry that
/// works, or Proxmox VE's own `dev[n]`.
pub fn passes(config: &LxcConfig, node: &DeviceNode) -> bool {
    matches!(Survey::new(config, &[]).presence(node), Presence::Passed)
}

fn push_new(lines: &mut Vec<String>, line: String) {
    if !lines.contains(&line) {
        lines.push(line);
    }
}

/// How far a node is there already.
enum Presence {
    Passed,
    /// The line with this number has to be corrected.
    Correctable(usize),
    Absent,
}

/// What the live section says, beside what is wanted.
struct Survey<'a> {
    lines: Vec<Line<'a>>,
    devices: Vec<PassedDevice>,
    rules: Vec<DeviceRule>,
    nodes: &'a [DeviceNode],
    is_unprivileged: bool,
}

impl<'a> Survey<'a> {
    fn new(config: &'a LxcConfig, nodes: &'a [DeviceNode]) -> Self {
        let lines: Vec<Line<'a>> = config.lines().collect();
        let rules = lines.iter().filter_map(DeviceRule::parse).collect();
        let devices = config.devices();
        Self { lines, devices, rules, nodes, is_unprivileged: config.is_unprivileged() }
    }

    /// The mount entries whose source is this node, with what each does.
    fn effects(&self, node: &DeviceNode) -> impl Iterator<Item = (usize, Effect)> {
        self.lines.iter().filter_map(|line| {
            let entry = mount_entry(line)?;
            entry.is_from(&node.path).then(|| (line.number, entry.effect(node)))
        })
    }

    fn is_passed_by_proxmox(&self, node: &DeviceNode) -> bool {
        let mut devices = self.devices.iter();
        devices.any(|device| device.path == node.path && device.access == Access::ReadWrite)
    }

    fn presence(&self, node: &DeviceNode) -> Presence {
        if self.is_passed_by_proxmox(node)
            || self.effects(node).any(|(_, effect)| effect == Effect::Passes)
        {
            return Presence::Passed;
        }
        let mut effects = self.effects(node);
        match effects.find(|(_, effect)| *effect == Effect::AbsoluteTarget) {
            Some((number, _)) => Presence::Correctable(number),
            None => Presence::Absent,
        }
    }

    fn numbers_to_allow(&self) -> impl Iterator<Item = (u64, u64)> {
        let nodes = self.nodes.iter().filter(|node| !self.is_passed_by_proxmox(node));
        nodes
            .flat_map(|node| node.numbers.iter().copied())
            .filter(|number| rules::permission(&self.rules, *number) == Permission::Unmentioned)
    }

    fn foreign(&self, line: &Line<'_>) -> Option<ForeignLine> {
        let (number, text) = (line.number, line.text.clone().into_owned());
        self.remark(line).map(|why| ForeignLine { number, text, why })
    }

    /// Why a line is worth telling of; `None` for one that is not, or that does what it should.
    fn remark(&self, line: &Line<'_>) -> Option<String> {
        let names_node = line.text.contains("/dev/nvidia");
        match &line.kind {
            LineKind::Comment => names_node.then(|| "it is a comment".to_owned()),
            LineKind::Other => names_node.then(|| "it is not understood".to_owned()),
            LineKind::Setting { key, .. } => names_node.then(|| self.remark_on_setting(line, key)),
            LineKind::Raw { key, .. } => {
                if let Some(rule) = DeviceRule::parse(line) {
                    let numbers: Vec<_> =
                        self.nodes.iter().flat_map(|node| node.numbers.iter().copied()).collect();
                    return rule.remark(&numbers, self.is_unprivileged);
                }
                match mount_entry(line) {
                    Some(entry) => self.remark_on_mount(&entry),
                    None => line
                        .text
                        .to_ascii_lowercase()
                        .contains("nvidia")
                        .then(|| format!("`{key}` is not a device line")),
                }
            }
            LineKind::Blank => None,
        }
    }

    fn remark_on_mount(&self, entry: &MountEntry<'_>) -> Option<String> {
        if let Some(node) = self.nodes.iter().find(|node| entry.is_from(&node.path)) {
            return match entry.effect(node) {
                Effect::Passes => None,
                Effect::Wrong(why) => Some(why),
                Effect::AbsoluteTarget => Some(
                    "LXC ignores its absolute target, and another line passes the node".to_owned(),
                ),
            };
        }
        if let Some(node) = self.nodes.iter().find(|node| entry.covers(&node.path)) {
            return Some(format!("it hides `{}` behind `{}`", node.path, entry.source));
        }
        let is_about_nvidia = entry.source.to_ascii_lowercase().contains("nvidia")
            || entry.target.to_ascii_lowercase().contains("nvidia");
        is_about_nvidia.then(|| format!("`{}` is not among the devices passed", entry.source))
    }

    fn remark_on_setting(&self, line: &Line<'_>, key: &str) -> String {
        let mut devices = self.devices.iter();
        let Some(device) = devices.find(|device| device.number == line.number) else {
            return match self.devices.iter().any(|device| device.key == key) {
                true => format!("a later `{key}` overrides it"),
                false => "it is a setting of Proxmox VE".to_owned(),
            };
        };
        if !self.nodes.iter().any(|node| node.path == device.path) {
            return format!("`{}` is not among the devices passed", device.path);
        }
        if device.access == Access::ReadOnly {
            return "Proxmox VE passes the node itself, but read-only".to_owned();
        }
        let mode = device.mode.as_deref().unwrap_or("0660");
        match mode.ends_with('6') || mode.ends_with('7') {
            true => "Proxmox VE passes the node itself".to_owned(),
            false => format!("Proxmox VE passes the node itself, with mode {mode}"),
        }
    }
}

fn mount_entry<'a>(line: &'a Line<'_>) -> Option<MountEntry<'a>> {
    match &line.kind {
        LineKind::Raw { key, value } if key == mount::KEY => Some(MountEntry::parse(value)),
        _ => None,
    }
}
