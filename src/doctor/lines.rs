//! What the lines of a container's configuration say about devices, as far as the checks need it.
//!
//! Only what takes effect is a [`Passed`] node: a line of the live section with a target that LXC
//! does not ignore.

use crate::container::config::{Access, Line, LineKind, LxcConfig};

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
    pub(super) has_group: bool,
}

/// A rule about character devices; `None` stands for every device, or every number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) number: usize,
    pub(super) text: String,
    pub(super) is_allowing: bool,
    pub(super) device: Option<(Option<u64>, Option<u64>)>,
}

/// A line about NVIDIA devices outside of the live section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stray {
    /// The section, as its header has it: `[before]`.
    pub(super) section: String,
    pub(super) is_pending: bool,
    /// Whether nothing but its section follows: where an appended line lands.
    pub(super) is_last_section: bool,
    pub(super) text: String,
}

/// The nodes of NVIDIA's that the configuration passes, in the order of its lines.
pub fn passed(config: &LxcConfig) -> Vec<Passed> {
    let mounts = config.lines().filter_map(|line| {
        let mount = Mount::of(&line)?;
        let is_ignored = mount.has_absolute_target();
        (mount.is_nvidia() && !is_ignored).then(|| Passed {
            inside: format!("/{}", mount.target.trim_start_matches("./")),
            number: line.number,
            how: if mount.is_optional { How::OptionalMount } else { How::Mount },
            path: mount.source,
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

/// Whether any line of the file, of a snapshot too, is about NVIDIA: names it, or a number that
/// is NVIDIA's alone.
pub fn concerns_nvidia(config: &LxcConfig) -> bool {
    let bytes = config.to_bytes();
    let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
    text.contains("nvidia") || rules(config).iter().any(|rule| rule.allows_major(195))
}

/// The devices that Proxmox VE makes itself, NVIDIA's or not.
pub(super) fn devices(config: &LxcConfig) -> Vec<MadeDevice> {
    let made = |device: crate::container::config::PassedDevice| {
        let value = config.value(&device.key).unwrap_or_default();
        MadeDevice {
            number: device.number,
            has_group: value.split(',').any(|part| part.trim().starts_with("gid=")),
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
        let mount = Mount::of(&line)?;
        let is_ignored = mount.is_nvidia() && mount.has_absolute_target();
        is_ignored.then(|| IgnoredMount {
            number: line.number,
            node: mount.source,
            text: line.text.into_owned(),
        })
    };
    config.lines().filter_map(ignored).collect()
}

/// The rules of the live section about character devices, in order; those of cgroup version 1
/// have no effect and are left out.
pub(super) fn rules(config: &LxcConfig) -> Vec<Rule> {
    config.lines().filter_map(|line| Rule::of(&line)).collect()
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
    let mut strays = Vec::new();
    let mut rest = after_live_section(config);
    while let Some((header, body)) = split_line(&rest) {
        let section = String::from_utf8_lossy(header).trim().to_owned();
        let is_pending = section.eq_ignore_ascii_case("[pve:pending]");
        let part = LxcConfig::parse(body, config.dialect());
        let next = after_live_section(&part);
        let texts = part.lines().filter_map(|line| is_device_line(&line, is_pending));
        strays.extend(texts.map(|text| Stray {
            section: section.clone(),
            is_pending,
            is_last_section: next.is_empty(),
            text,
        }));
        rest = next;
    }
    strays
}

/// Whether what a line of another file does is done by the live section too: by the same line, or
/// by one of another form, which somebody may have given it.
pub(super) fn is_there(config: &LxcConfig, text: &str) -> bool {
    let wanted = LxcConfig::parse(text.as_bytes(), config.dialect());
    let Some(line) = wanted.lines().next() else { return true };
    let is_same = config.lines().any(|own| own.kind == line.kind || own.text == line.text);
    let nodes = passed(&wanted);
    let own = passed(config);
    let is_passed = !nodes.is_empty()
        && nodes.iter().all(|node| own.iter().any(|other| other.covers(&node.path)));
    let number = Rule::of(&line).filter(|rule| rule.is_allowing).and_then(|rule| rule.device);
    let is_allowed = match number {
        Some((Some(major), Some(minor))) => is_allowed(&rules(config), (major, minor)),
        _ => false,
    };
    is_same || is_passed || is_allowed
}

/// Whether a raw line mounts this node.
pub(super) fn mounts(text: &str, node: &str) -> bool {
    let is_node = |word: &str| without_doubled_slashes(word) == node;
    text.starts_with("lxc.mount.entry") && text.split_ascii_whitespace().any(is_node)
}

/// Whether all rules together, in order, allow a device.
pub(super) fn is_allowed(rules: &[Rule], number: (u64, u64)) -> bool {
    rules.iter().rev().find(|rule| rule.matches(number)).is_some_and(|rule| rule.is_allowing)
}

/// What a mount entry says.
struct Mount {
    source: String,
    target: String,
    is_optional: bool,
}

impl Mount {
    fn of(line: &Line<'_>) -> Option<Self> {
        let LineKind::Raw { key, value } = &line.kind else { return None };
        if key != "lxc.mount.entry" {
            return None;
        }
        let value = value.trim_matches(['"', '\'']);
        let mut fields = value.split_ascii_whitespace();
        let (source, target) = (fields.next()?, fields.next()?);
        let options = fields.nth(1).unwrap_or_default();
        Some(Self {
            source: without_doubled_slashes(source),
            target: without_doubled_slashes(target),
            is_optional: options.split(',').any(|option| option == "optional"),
        })
    }

    fn is_nvidia(&self) -> bool {
        is_nvidia(&self.source)
    }

    /// An absolute target below the container's own root does work; one in `/dev` is none.
    fn has_absolute_target(&self) -> bool {
        self.target.starts_with("/dev/")
    }
}

impl Rule {
    fn of(line: &Line<'_>) -> Option<Self> {
        let LineKind::Raw { key, value } = &line.kind else { return None };
        let is_allowing = match key.strip_prefix("lxc.cgroup2.devices.")? {
            "allow" => true,
            "deny" => false,
            _ => return None,
        };
        let mut words = value.split_ascii_whitespace();
        let device = match words.next()? {
            "a" => None,
            "c" => {
                let (major, minor) = words.next()?.split_once(':')?;
                Some((wildcard(major)?, wildcard(minor)?))
            }
            _ => return None,
        };
        Some(Self { number: line.number, text: line.text.to_string(), is_allowing, device })
    }

    /// Whether it names this device, or every one.
    pub(super) fn matches(&self, device: (u64, u64)) -> bool {
        self.device.is_none_or(|(major, minor)| {
            major.is_none_or(|major| major == device.0)
                && minor.is_none_or(|minor| minor == device.1)
        })
    }

    /// The major that it allows by name.
    pub(super) fn allowed_major(&self) -> Option<u64> {
        self.device.filter(|_| self.is_allowing)?.0
    }

    fn allows_major(&self, major: u64) -> bool {
        self.allowed_major() == Some(major)
    }

    /// Whether it allows every device.
    pub(super) fn allows_all(&self) -> bool {
        self.is_allowing && matches!(self.device, None | Some((None, None)))
    }
}

fn wildcard(text: &str) -> Option<Option<u64>> {
    if text == "*" { Some(None) } else { text.parse().ok().map(Some) }
}

fn is_nvidia(path: &str) -> bool {
    path.starts_with("/dev/nvidia")
}

fn without_doubled_slashes(path: &str) -> String {
    let mut text = path.to_owned();
    while text.contains("//") {
        text = text.replace("//", "/");
    }
    if text.len() > 1 { text.trim_end_matches('/').to_owned() } else { text }
}

/// The text of a line of another section that would pass an NVIDIA device in the live one. A
/// `dev[n]` among the pending changes is Proxmox VE's own, and in its place.
fn is_device_line(line: &Line<'_>, is_pending: bool) -> Option<String> {
    let is_device = match &line.kind {
        LineKind::Raw { key, .. } if key == "lxc.mount.entry" => {
            Mount::of(line).is_some_and(|mount| mount.is_nvidia())
        }
        LineKind::Raw { .. } => Rule::of(line).is_some_and(|rule| rule.allows_major(195)),
        LineKind::Setting { key, value } => {
            let is_dev = key.starts_with("dev") && !key.starts_with("description");
            is_dev && !is_pending && value.contains("/dev/nvidia")
        }
        _ => false,
    };
    is_device.then(|| line.text.trim().to_owned())
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

    #[test]
    fn strays_are_told_with_their_sections() {
        let config = config(
            "arch: amd64\n\
             [pve:pending]\n\
             dev0: /dev/nvidia0\n\
             lxc.cgroup2.devices.allow: c 195:* rw\n\
             [first]\n\
             dev0: /dev/nvidia0\n\
             [last]\n\
             arch: amd64\n\
             lxc.mount.entry: /dev/nvidia0 dev/nvidia0 none bind 0 0",
        );
        let seen: Vec<_> = strays(&config)
            .into_iter()
            .map(|stray| (stray.section, stray.is_pending, stray.is_last_section))
            .collect();
        assert_eq!(
            seen,
            [
                ("[pve:pending]".to_owned(), true, false),
                ("[first]".to_owned(), false, false),
                ("[last]".to_owned(), false, true),
            ]
        );
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
        assert!(is_there(&config, "lxc.cgroup2.devices.allow: c 195:0 rw"));
        assert!(is_there(&config, "dev0: /dev/nvidia0,mode=0666"));
        assert!(is_there(&config, &mount("/dev/nvidiactl")));
        assert!(is_there(&config, &mount("/dev/nvidia0")));
        assert!(!is_there(&config, &mount("/dev/nvidia1")));
        assert!(!is_there(&config, "dev3: /dev/nvidia1,mode=0666"));
        assert!(!is_there(&config, "lxc.cgroup2.devices.allow: c 511:0 rw"));
    }
}
