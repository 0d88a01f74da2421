//! What the lines of a container's configuration say about devices, as far as the checks need it.
//!
//! Only what takes effect is a [`Passed`] node: a line of the live section with a target that LXC
//! does not ignore.

use super::evidence::HostEvidence;
use crate::container::config::{Access, Dialect, Line, LineKind, LxcConfig};
use crate::container::mount::{self, MountEntry};
use crate::container::rules::{DeviceRule, DeviceRules};

/// A node of NVIDIA's that the configuration passes to the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// The node on the host, or the directory of nodes `/dev/nvidia-caps`.
    pub path: String,
    /// Where it appears inside.
    pub inside: String,
    /// The number of the line, from 1.
    pub number: usize,
    /// How it is passed.
    pub how: How,
}

/// How a node is passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// By `lxc.mount.entry`; the container starts without a node that is missing.
    OptionalMount,
    /// By `lxc.mount.entry`; the container does not start without the node.
    Mount,
    /// By Proxmox VE's `dev[n]`, which makes the node itself.
    Device,
}

impl Passed {
    /// Whether it is this node of the host, or the directory that holds it.
    pub fn covers(&self, node: &str) -> bool {
        node == self.path
            || node.strip_prefix(self.path.as_str()).is_some_and(|rest| rest.starts_with('/'))
    }

    /// Whether it is mounted, with the mode that the host's node has.
    pub fn is_mounted(&self) -> bool {
        self.how != How::Device
    }

    /// The minor, for the node of a GPU.
    pub fn gpu_minor(&self) -> Option<u32> {
        gpu_minor(&self.path)
    }
}

/// The minor, for the path of a GPU's node.
pub(super) fn gpu_minor(path: &str) -> Option<u32> {
    path.strip_prefix("/dev/nvidia")?.parse().ok()
}

/// A mount entry of a node of NVIDIA's whose target LXC ignores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IgnoredMount {
    pub(super) number: usize,
    pub(super) node: String,
    pub(super) text: String,
}

/// A device that Proxmox VE makes itself: `dev[n]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MadeDevice {
    pub(super) number: usize,
    pub(super) key: String,
    pub(super) path: String,
    /// The value of the line, without blanks around it.
    pub(super) value: String,
    pub(super) mode: Option<String>,
    /// Whether it belongs to a user or a group other than root's.
    pub(super) has_owner: bool,
}

/// A line about NVIDIA devices outside of the live section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stray {
    /// The section, as its header has it: `[before]`.
    pub(super) section: String,
    pub(super) text: String,
    /// Whether Proxmox VE has not put it there: a snapshot has a copy of the lines that the live
    /// section had, which is as it should be.
    pub(super) is_misplaced: bool,
}

/// The nodes of NVIDIA's that the configuration passes, in the order of its lines.
pub fn passed(config: &LxcConfig) -> Vec<Passed> {
    let mounts = config.lines().filter_map(|line| {
        let mount = nvidia_mount(&line).filter(|mount| !mount.has_absolute_target())?;
        Some(Passed {
            inside: format!("/{}", mount::normal(mount.target).trim_start_matches('/')),
            number: line.number,
            how: if mount.is_optional() { How::OptionalMount } else { How::Mount },
            path: mount::normal(mount.source),
        })
    });
    let devices = devices(config).into_iter().filter(|device| is_nvidia(&device.path));
    let devices = devices.map(|device| Passed {
        inside: device.path.clone(),
        path: device.path,
        number: device.number,
        how: How::Device,
    });
    let mut passed: Vec<Passed> = mounts.chain(devices).collect();
    passed.sort_by_key(|node| node.number);
    passed
}

/// The paths below `/dev` that mount entries have as their sources.
pub fn sources(config: &LxcConfig) -> Vec<String> {
    let source = |line: Line<'_>| match line.kind.meaning() {
        Some((mount::KEY, value)) => {
            let source = mount::normal(MountEntry::parse(value).source);
            source.starts_with("/dev/").then_some(source)
        }
        _ => None,
    };
    config.lines().filter_map(source).collect()
}

/// Whether any line of the file, of a snapshot too, is about NVIDIA: names it, or a number that
/// is NVIDIA's alone.
pub fn concerns_nvidia(config: &LxcConfig) -> bool {
    let bytes = config.to_bytes();
    let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
    let is_nvidias =
        |line: Line<'_>| DeviceRule::parse(&line).is_some_and(|rule| rule.is_nvidias());
    text.contains("nvidia") || config.lines().any(is_nvidias)
}

/// The devices that Proxmox VE makes itself, NVIDIA's or not.
pub(super) fn devices(config: &LxcConfig) -> Vec<MadeDevice> {
    let made = |device: crate::container::config::PassedDevice| {
        let value = config.value(&device.key).unwrap_or_default();
        MadeDevice {
            number: device.number,
            has_owner: value.split(',').any(|part| {
                let part = part.trim();
                let id = part.strip_prefix("uid=").or_else(|| part.strip_prefix("gid="));
                id.is_some_and(|id| id != "0")
            }),
            key: device.key,
            path: device.path,
            value,
            mode: device.mode,
        }
    };
    config.devices().into_iter().map(made).collect()
}

/// Whether the device is passed for reading alone.
pub(super) fn is_read_only(config: &LxcConfig, key: &str) -> bool {
    config.devices().iter().any(|device| device.key == key && device.access == Access::ReadOnly)
}

/// Mount entries of NVIDIA's nodes whose target LXC ignores.
pub(super) fn ignored_mounts(config: &LxcConfig) -> Vec<IgnoredMount> {
    let ignored = |line: Line<'_>| {
        let mount = nvidia_mount(&line).filter(MountEntry::has_absolute_target)?;
        let node = mount::normal(mount.source);
        Some(IgnoredMount { number: line.number, node, text: line.text.to_string() })
    };
    config.lines().filter_map(ignored).collect()
}

/// LXC's list of device rules on this host.
pub(super) fn rules(config: &LxcConfig, host: &HostEvidence<'_>) -> DeviceRules {
    DeviceRules::of(config, &|path| {
        host.nodes.iter().find(|node| node.path == path).map(|node| node.number)
    })
}

/// The lines of the live section with this key: number and value.
pub(super) fn values(config: &LxcConfig, key: &str) -> Vec<(usize, String)> {
    let value = |line: Line<'_>| match line.kind {
        LineKind::Raw { key: found, value } | LineKind::Setting { key: found, value }
            if found == key =>
        {
            Some((line.number, value))
        }
        _ => None,
    };
    config.lines().filter_map(value).collect()
}

/// The lines about NVIDIA devices outside of the live section.
pub(super) fn strays(config: &LxcConfig) -> Vec<Stray> {
    let mut strays: Vec<Stray> = Vec::new();
    let mut rest = after_live_section(config);
    while let Some((header, body)) = split_line(&rest) {
        let section = String::from_utf8_lossy(header).trim().to_owned();
        let part = LxcConfig::parse(body, config.dialect());
        let mut found = strays_of(&section, &part);
        rest = after_live_section(&part);
        // An appended line lands in the last section, and no snapshot before has it. The absolute
        // target is what the replaced script appends.
        let is_appended = rest.is_empty()
            && strays.iter().all(|stray| stray.is_misplaced)
            && !ignored_mounts(&part).is_empty();
        found.iter_mut().for_each(|stray| stray.is_misplaced |= is_appended);
        strays.extend(found);
    }
    strays
}

/// Those of one section. What follows something that Proxmox VE does not write there was not
/// written by it either: it puts comments first, then the sorted settings, then raw lines, without
/// a blank line, each as `key: value`, and it tells the time of every snapshot
/// (`PVE::LXC::Config::write_pct_config`).
fn strays_of(section: &str, part: &LxcConfig) -> Vec<Stray> {
    let mut is_by_hand = part.value("snaptime").is_none();
    let mut strays = Vec::new();
    let mut before: Option<LineKind> = None;
    for line in part.lines() {
        is_by_hand |= match &line.kind {
            LineKind::Blank | LineKind::Other => true,
            LineKind::Comment => before.is_some(),
            LineKind::Raw { key, value } => line.text != format!("{key}: {value}"),
            LineKind::Setting { key, value } => {
                let is_after = match &before {
                    Some(LineKind::Setting { key: other, .. }) => other < key,
                    other => other.is_none(),
                };
                line.text != format!("{key}: {value}") || !is_after
            }
        };
        if is_device_line(&line) {
            let (section, text) = (section.to_owned(), line.text.trim().to_owned());
            strays.push(Stray { section, text, is_misplaced: is_by_hand });
        }
        if line.kind != LineKind::Comment {
            before = Some(line.kind);
        }
    }
    strays
}

/// Whether what a line of another file does is done by the live section too: by the same line, or
/// by one of another form, which somebody may have given it.
pub(super) fn is_there(config: &LxcConfig, text: &str, host: &HostEvidence<'_>) -> bool {
    let wanted = LxcConfig::parse(text.as_bytes(), config.dialect());
    let Some(line) = wanted.lines().next() else { return true };
    let is_same = config.lines().any(|own| own.kind == line.kind || own.text == line.text);
    let nodes = passed(&wanted);
    let own = passed(config);
    let is_passed = !nodes.is_empty()
        && nodes.iter().all(|node| own.iter().any(|other| other.covers(&node.path)));
    let number = DeviceRule::parse(&line)
        .and_then(|rule| rule.number().filter(|number| rule.allows(*number)));
    let is_allowed = number.is_some_and(|number| rules(config, host).opens(number));
    is_same || is_passed || is_allowed
}

/// Whether a raw line mounts this node.
pub(super) fn mounts(text: &str, node: &str) -> bool {
    let config = LxcConfig::parse(text.as_bytes(), Dialect::Proxmox);
    config.lines().any(|line| nvidia_mount(&line).is_some_and(|mount| mount.is_from(node)))
}

/// The mount entry of a line, where its source is a node of NVIDIA's.
fn nvidia_mount<'a>(line: &'a Line<'_>) -> Option<MountEntry<'a>> {
    let LineKind::Raw { key, value } = &line.kind else { return None };
    let entry = MountEntry::parse(value);
    (key == mount::KEY && is_nvidia(&mount::normal(entry.source))).then_some(entry)
}

fn is_nvidia(path: &str) -> bool {
    path.starts_with("/dev/nvidia")
}

/// Whether a line of another section would pass an NVIDIA device in the live one.
fn is_device_line(line: &Line<'_>) -> bool {
    match &line.kind {
        LineKind::Raw { .. } => {
            nvidia_mount(line).is_some()
                || DeviceRule::parse(line).is_some_and(|rule| rule.is_nvidias())
        }
        LineKind::Setting { key, value } => {
            let number = key.strip_prefix("dev").map(str::parse::<u8>);
            matches!(number, Some(Ok(_))) && value.contains("/dev/nvidia")
        }
        _ => false,
    }
}

/// What follows the live section, its header first.
fn after_live_section(config: &LxcConfig) -> Vec<u8> {
    let bytes = config.to_bytes();
    let live = config.lines().count();
    bytes.split_inclusive(|byte| *byte == b'\n').skip(live).collect::<Vec<_>>().concat()
}

fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
    (!bytes.is_empty()).then(|| bytes.split_at(end))
}

#[cfg(test)]
mod tests {
    use super::super::samples::{healthy_host, host_of};
    use super::*;
    use crate::container::config::Dialect;

    fn config(text: &str) -> LxcConfig {
        LxcConfig::parse(text.as_bytes(), Dialect::Proxmox)
    }

    #[test]
    fn mounts_and_devices_that_take_effect_are_passed() {
        let config = config(
            "dev0: /dev/nvidia1,mode=0666\n\
             lxc.mount.entry: /dev//nvidia0 dev/nvidia0 none bind,optional,create=file 0 0\n\
             lxc.mount.entry: /dev/nvidiactl dev/ctl none bind,create=file\n\
             lxc.mount.entry: /dev/nvidia-uvm /dev/nvidia-uvm none bind,optional,create=file\n\
             lxc.mount.entry: /dev/dri dev/dri none bind,optional,create=dir\n\
             [before]\n\
             lxc.mount.entry: /dev/nvidia2 dev/nvidia2 none bind,optional,create=file\n",
        );
        let seen: Vec<_> =
            passed(&config).into_iter().map(|node| (node.path, node.inside, node.how)).collect();
        let of = |path: &str, inside: &str, how| (path.to_owned(), inside.to_owned(), how);
        assert_eq!(
            seen,
            [
                of("/dev/nvidia1", "/dev/nvidia1", How::Device),
                of("/dev/nvidia0", "/dev/nvidia0", How::OptionalMount),
                of("/dev/nvidiactl", "/dev/ctl", How::Mount),
            ]
        );
        let ignored = ignored_mounts(&config);
        assert_eq!(
            (ignored.len(), ignored[0].number, &*ignored[0].node),
            (1, 4, "/dev/nvidia-uvm")
        );
    }

    #[test]
    fn a_container_concerns_nvidia_by_name_or_by_number() {
        for text in [
            "dev0: /dev/nvidia0",
            "#GPU for NVIDIA",
            "lxc.cgroup2.devices.allow: c 195:* rwm",
            "arch: amd64\n[a-snapshot]\nlxc.mount.entry: /dev/nvidia0 x",
        ] {
            assert!(concerns_nvidia(&config(text)), "{text}");
        }
        assert!(!concerns_nvidia(&config("arch: amd64\nlxc.cgroup2.devices.allow: c 10:200 rw")));
    }

    const MOUNT: &str = "lxc.mount.entry: /dev/nvidia0 dev/nvidia0 none bind,create=file 0 0";

    /// A file with two snapshots as Proxmox VE writes it, and what is appended to it.
    fn snapshots(own: &str, appended: &str) -> LxcConfig {
        config(&format!(
            "#the live one\narch: amd64\nparent: second\n\n\
             [first]\n#GPU\narch: amd64\n{own}snaptime: 1750000000\nswap: 512\n\n\
             [second]\narch: amd64\nparent: first\nsnaptime: 1760000000\nunprivileged: 0\n\
             lxc.environment.runtime: A=b\nlxc.cap.drop: \n{appended}"
        ))
    }

    fn misplaced(config: &LxcConfig) -> Vec<String> {
        let strays = strays(config).into_iter().filter(|stray| stray.is_misplaced);
        strays.map(|stray| stray.section).collect()
    }

    #[test]
    fn a_snapshot_has_a_copy_of_the_lines_that_there_were() {
        let rule = "lxc.cgroup2.devices.allow: c 195:* rwm";
        let config = snapshots("dev0: /dev/nvidia0\n", &format!("{rule}\n{MOUNT}\n"));
        assert_eq!(strays(&config).len(), 3);
        assert_eq!(misplaced(&config), Vec::<String>::new());
        // That what worked as little was there before tells that a snapshot copied it.
        let absolute = MOUNT.replace(" dev/", " /dev/");
        let section = format!("arch: amd64\nsnaptime: 1750000000\n{absolute}\n");
        let both = config_of_sections(&[("[a1]", &section), ("[b1]", &section)]);
        assert_eq!((strays(&both).len(), misplaced(&both)), (2, Vec::new()));
    }

    fn config_of_sections(sections: &[(&str, &str)]) -> LxcConfig {
        let sections = sections.iter().map(|(header, body)| format!("\n{header}\n{body}"));
        config(&format!("arch: amd64\n{}", sections.collect::<String>()))
    }

    #[test]
    fn what_proxmox_does_not_write_into_a_snapshot_was_appended() {
        for appended in [
            format!("\n{MOUNT}\n"),
            format!("# GPU\n{MOUNT}\n"),
            MOUNT.replace(": ", " = "),
            MOUNT.replace("entry: ", "entry:  "),
            MOUNT.replace(" dev/", " /dev/"),
            "dev0: /dev/nvidia0,mode=0666\n".to_owned(),
        ] {
            assert_eq!(misplaced(&snapshots("", &appended)), ["[second]"], "{appended}");
        }
        let earlier = snapshots("dev0: /dev/nvidia0\n", &format!("\n{MOUNT}\n"));
        assert_eq!(misplaced(&earlier), ["[second]"]);
    }

    #[test]
    fn a_snapshot_has_a_time() {
        let config = config_of_sections(&[("[before]", &format!("arch: amd64\n{MOUNT}\n"))]);
        assert_eq!(misplaced(&config), ["[before]"]);
    }

    #[test]
    fn a_line_is_there_in_whatever_form_it_does_the_same() {
        let config = config(
            "lxc.cgroup2.devices.allow = c 195:* rw\n\
             dev3: /dev/nvidia0,mode=0666\n\
             lxc.mount.entry: /dev/nvidiactl dev/nvidiactl none bind,ro,optional,create=file 0 0\n",
        );
        let mount = |node: &str| {
            format!("lxc.mount.entry: {node} {} none bind,optional,create=file 0 0", &node[1..])
        };
        let sample = healthy_host();
        let there = |text: &str| is_there(&config, text, &host_of(&sample));
        assert!(there("lxc.cgroup2.devices.allow: c 195:0 rw"));
        assert!(there("dev0: /dev/nvidia0,mode=0666"));
        assert!(there(&mount("/dev/nvidiactl")));
        assert!(there(&mount("/dev/nvidia0")));
        assert!(!there(&mount("/dev/nvidia1")));
        assert!(!there("dev3: /dev/nvidia1,mode=0666"));
        assert!(!there("lxc.cgroup2.devices.allow: c 511:0 rw"));
    }
}
