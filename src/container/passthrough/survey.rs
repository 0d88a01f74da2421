//! What the live section of a configuration says about NVIDIA devices, beside what is wanted.

use super::{DeviceNode, ForeignLine, NodeKind};
use crate::container::config::{Access, Dialect, Line, LineKind, LxcConfig, PassedDevice};
use crate::container::driver_files::{self, DriverLine};
use crate::container::mount::{self, Effect, MountEntry};
use crate::container::rules::{self, DeviceRules, RuleEffect, RuleLine, Verb};
use crate::container::shared;

/// What is told of the line that empties LXC's list for good.
const EMPTY_LIST: &str =
    "LXC's list of rules is empty after it: every device opens, and a rule would forbid the others";

/// The live section, taken apart.
pub(super) struct Survey<'a> {
    pub(super) lines: Vec<Line<'a>>,
    pub(super) devices: Vec<PassedDevice>,
    pub(super) nodes: &'a [DeviceNode],
    pub(super) is_unprivileged: bool,
    pub(super) dialect: Dialect,
    /// Lines that bring a driver of the host's.
    pub(super) driver_lines: Vec<DriverLine>,
    /// Directories of which nodes are passed one by one, because of what others have below them.
    pub(super) apart: Vec<String>,
    /// LXC's list of device rules.
    pub(super) rules: DeviceRules,
}

impl<'a> Survey<'a> {
    pub(super) fn new(config: &'a LxcConfig, nodes: &'a [DeviceNode]) -> Self {
        let lines: Vec<Line<'a>> = config.lines().collect();
        let devices = config.devices_by(&lines);
        let is_unprivileged = config.is_unprivileged_by(&lines);
        let driver_lines = driver_files::lines(config);
        let (dialect, apart) = (config.dialect(), Vec::new());
        let rules = DeviceRules::of(config, &|path| {
            let node = nodes.iter().find(|node| node.path == path && node.kind == NodeKind::File);
            node.and_then(|node| node.numbers.first().copied())
        });
        Self { lines, devices, nodes, is_unprivileged, dialect, driver_lines, apart, rules }
    }

    /// The numbers of the lines whose mount entry has this effect on a node.
    pub(super) fn mounts(&self, node: &DeviceNode, wanted: &Effect) -> Vec<usize> {
        let number = |line: &Line<'_>| {
            let entry = mount_entry(line)?;
            (entry.is_from(&node.path) && entry.effect(node) == *wanted).then_some(line.number)
        };
        self.lines.iter().filter_map(number).collect()
    }

    /// The `dev[n]` that pass a node. One for reading only is somebody's decision: a second entry of
    /// the same node would keep the container from starting.
    pub(super) fn devices_of(&self, node: &DeviceNode) -> impl Iterator<Item = &PassedDevice> {
        self.devices.iter().filter(|device| device.path == node.path)
    }

    /// Whether it passes devices of other makers whose major may be given out at load time.
    pub(super) fn has_devices_of_others(&self) -> bool {
        const KNOWN: [&str; 6] =
            ["/dev/nvidia", "/dev/dri", "/dev/net/tun", "/dev/fuse", "/dev/kvm", "/dev/snd"];
        let is_other = |path: &str| {
            path.starts_with("/dev") && !KNOWN.iter().any(|known| path.starts_with(known))
        };
        let mounts = self.lines.iter().filter_map(mount_entry);
        mounts.into_iter().any(|entry| is_other(entry.source))
            || self.devices.iter().any(|device| is_other(&device.path))
    }

    /// A line, by its number.
    pub(super) fn line(&self, number: usize) -> Option<&Line<'a>> {
        self.lines.iter().find(|line| line.number == number)
    }

    /// What a line means, by its number.
    pub(super) fn meaning(&self, number: usize) -> Option<(&str, &str)> {
        self.line(number)?.kind.meaning()
    }

    /// The text of a line, by its number.
    pub(super) fn text(&self, number: usize) -> String {
        self.line(number).map(|line| line.text.clone().into_owned()).unwrap_or_default()
    }

    /// What there is to tell of a line; `None` for one that is not about NVIDIA devices, or does
    /// what it should.
    pub(super) fn foreign(&self, line: &Line<'_>) -> Option<ForeignLine> {
        let (number, text) = (line.number, line.text.clone().into_owned());
        self.remark(line).map(|why| ForeignLine { number, text, why })
    }

    /// Why a line is worth telling of; `None` for one that is not, or that does what it should.
    fn remark(&self, line: &Line<'_>) -> Option<String> {
        let names_node = line.text.contains("/dev/nvidia");
        if self.driver_lines.iter().any(|found| found.number == line.number) {
            return Some("it brings a driver of the host's".to_owned());
        }
        match &line.kind {
            LineKind::Comment => names_node.then(|| "it is a comment".to_owned()),
            LineKind::Other => names_node.then(|| "it is not understood".to_owned()),
            LineKind::Setting { key, .. } => names_node.then(|| self.remark_on_setting(line, key)),
            LineKind::Raw { key, .. } => {
                if let Some(rule) = self.rules.line_of(line.number) {
                    return self.remark_on_rule(rule);
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

    /// What a rule comes to, where it is about NVIDIA's devices or may be.
    fn remark_on_rule(&self, line: &RuleLine) -> Option<String> {
        let wanted: Vec<(u64, u64)> =
            self.nodes.iter().flat_map(|node| node.numbers.iter().copied()).collect();
        if line.effect == RuleEffect::Empties {
            let is_last = line.number == self.rules.last_emptied() && !line.rule.allows_all();
            return (is_last && self.rules.is_empty()).then(|| EMPTY_LIST.to_owned());
        }
        let major = line.named_major()?;
        let is_ours = major == rules::MAJOR || wanted.iter().any(|number| number.0 == major);
        if !is_ours && !rules::is_dynamic(major) {
            return None;
        }
        if let Some(why) = line.no_effect() {
            return Some(why);
        }
        if !is_ours {
            return Some(format!(
                "no device that is passed has major {major}: out of date, or about something else"
            ));
        }
        let matches = wanted.iter().any(|number| line.rule.names(*number));
        match (line.rule.verb, matches) {
            (_, false) => Some("it is about a device that is not passed".to_owned()),
            (Verb::Deny, true) => Some("it denies a device that is passed".to_owned()),
            (Verb::Allow, true) if wanted.iter().any(|number| line.rule.allows(*number)) => None,
            (Verb::Allow, true) => Some(rules::HALF.to_owned()),
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
        if shared::is_from_shared(entry) {
            return None;
        }
        if let Some(remark) = self.remark_on_apart(entry.target) {
            return Some(remark);
        }
        let is_about_nvidia = entry.source.to_ascii_lowercase().contains("nvidia")
            || entry.target.to_ascii_lowercase().contains("nvidia");
        let source = entry.source;
        is_about_nvidia.then(|| match is_below_dev(source) {
            true => format!("`{source}` is not among the devices passed"),
            false => format!("`{source}` is no device, but a file or directory of the host"),
        })
    }

    /// What is told of a line because of which a directory is not mounted.
    fn remark_on_apart(&self, path: &str) -> Option<String> {
        let directory = self.apart.iter().find(|directory| mount::is_below(path, directory))?;
        Some(format!(
            "`{directory}` is not mounted, which would hide it: its nodes are, one by one"
        ))
    }

    fn remark_on_setting(&self, line: &Line<'_>, key: &str) -> String {
        let mut devices = self.devices.iter();
        let Some(device) = devices.find(|device| device.number == line.number) else {
            return match self.devices.iter().any(|device| device.key == key) {
                true => format!("a later `{key}` overrides it"),
                false => "it is a setting of Proxmox VE".to_owned(),
            };
        };
        if let Some(remark) = self.remark_on_apart(&device.path) {
            return remark;
        }
        if !self.nodes.iter().any(|node| node.path == device.path) {
            return match is_below_dev(&device.path) {
                true => format!("`{}` is not among the devices passed", device.path),
                false => format!("`{}` does not lie below `/dev`", device.path),
            };
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

/// Whether a device can be there.
fn is_below_dev(path: &str) -> bool {
    path.trim_start_matches('/').starts_with("dev/")
}

pub(super) fn mount_entry<'a>(line: &'a Line<'_>) -> Option<MountEntry<'a>> {
    match &line.kind {
        LineKind::Raw { key, value } if key == mount::KEY => Some(MountEntry::parse(value)),
        _ => None,
    }
}
