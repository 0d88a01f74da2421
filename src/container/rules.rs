//! `lxc.cgroup2.devices.allow` and `.deny`: which device numbers a container may open.
//!
//! A privileged container may open what the rules allow. An unprivileged one may open everything
//! that its file system lets it: `lxc-pve-userns.conf` and `userns.conf` allow all, because such a
//! container cannot make device nodes.

use std::collections::BTreeSet;

use super::config::{Dialect, Line, LineKind};

/// The key of a rule that allows.
pub(super) const ALLOW: &str = "lxc.cgroup2.devices.allow";
/// NVIDIA's own, registered major (Linux, `Documentation/admin-guide/devices.txt`); that of
/// `nvidia-uvm` and `nvidia-caps` is given out when their module is loaded.
pub(super) const MAJOR: u64 = 195;

/// One line that allows or denies devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeviceRule {
    pub(crate) verb: Verb,
    version: CgroupVersion,
    /// `None` for `a`, every device.
    device: Option<Device>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Allow,
    Deny,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CgroupVersion {
    One,
    Two,
}

/// A range of character devices; `None` is `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Device {
    major: Option<u64>,
    minor: Option<u64>,
    reads_and_writes: bool,
}

impl Device {
    fn matches(&self, number: (u64, u64)) -> bool {
        self.major.is_none_or(|major| major == number.0)
            && self.minor.is_none_or(|minor| minor == number.1)
    }
}

/// What the rules say about one device number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Permission {
    /// Nothing.
    Unmentioned,
    /// It may be read and written.
    Allowed,
    /// It is forbidden by name.
    Denied,
}

impl DeviceRule {
    /// Reads a line; `None` for one that is no rule about character devices.
    pub(crate) fn parse(line: &Line<'_>) -> Option<Self> {
        let LineKind::Raw { key, value } = &line.kind else { return None };
        let (version, rest) = match key.strip_prefix("lxc.cgroup2.devices.") {
            Some(rest) => (CgroupVersion::Two, rest),
            None => (CgroupVersion::One, key.strip_prefix("lxc.cgroup.devices.")?),
        };
        let verb = match rest {
            "allow" => Verb::Allow,
            "deny" => Verb::Deny,
            _ => return None,
        };
        let mut words = value.split_ascii_whitespace();
        let device = match words.next()? {
            "a" => None,
            "c" => {
                let (major, minor) = words.next()?.split_once(':')?;
                let access = words.next().unwrap_or_default();
                let reads_and_writes = access.contains('r') && access.contains('w');
                Some(Device { major: number(major)?, minor: number(minor)?, reads_and_writes })
            }
            _ => return None,
        };
        Some(Self { verb, version, device })
    }

    /// Whether it allows reading and writing any of these numbers, by its major.
    pub(super) fn allows_any(&self, numbers: &[(u64, u64)]) -> bool {
        self.verb == Verb::Allow
            && self.version == CgroupVersion::Two
            && self.device.as_ref().is_some_and(|device| {
                device.reads_and_writes && numbers.iter().any(|number| device.matches(*number))
            })
    }

    /// The one number that it is about; `None` for a range.
    pub(super) fn number(&self) -> Option<(u64, u64)> {
        let device = self.device.as_ref()?;
        Some((device.major?, device.minor?))
    }

    /// Whether it takes permissions away from those given before it.
    pub(super) fn denies(&self) -> bool {
        self.verb == Verb::Deny && self.version == CgroupVersion::Two
    }

    /// Whether it allows what no driver of this host has: a major that is given out when a driver
    /// is loaded, and that none of `majors` is. Where nothing is known of those, none is.
    pub(crate) fn is_outdated(&self, majors: &BTreeSet<u64>) -> bool {
        let major = self.device.as_ref().and_then(|device| device.major);
        self.verb == Verb::Allow
            && self.version == CgroupVersion::Two
            && !majors.is_empty()
            && major.is_some_and(|major| is_dynamic(major) && !majors.contains(&major))
    }

    /// Whether it allows every character device.
    pub(crate) fn allows_all(&self) -> bool {
        let is_any = |device: &Device| device.major.is_none() && device.minor.is_none();
        self.verb == Verb::Allow && self.has_effect() && self.device.as_ref().is_none_or(is_any)
    }

    /// Whether it forbids everything that was allowed before it.
    pub(crate) fn denies_all(&self) -> bool {
        self.denies() && self.device.is_none()
    }

    /// The one device that it allows to read and write by name.
    pub(crate) fn allowed_device(&self) -> Option<(u64, u64)> {
        let is_one = self.verb == Verb::Allow && self.has_effect();
        let device = self.device.as_ref().filter(|device| is_one && device.reads_and_writes)?;
        device.major.zip(device.minor)
    }

    /// Whether it allows devices with NVIDIA's own major.
    pub(crate) fn is_nvidias(&self) -> bool {
        let major = self.device.as_ref().and_then(|device| device.major);
        self.verb == Verb::Allow && self.has_effect() && major == Some(MAJOR)
    }

    /// Those of cgroup version 1 have none under version 2.
    fn has_effect(&self) -> bool {
        self.version == CgroupVersion::Two
    }

    /// Why a person should look at this rule; `None` when it does what it should, or is about
    /// something else. `wanted` are the numbers of the devices that are passed.
    pub(super) fn remark(&self, wanted: &[(u64, u64)], is_unprivileged: bool) -> Option<String> {
        let device = self.device.as_ref()?;
        let major = device.major?;
        let is_ours = major == MAJOR || wanted.iter().any(|number| number.0 == major);
        if !is_ours && !is_dynamic(major) {
            return None;
        }
        if self.version == CgroupVersion::One {
            return Some("a rule of cgroup version 1 has no effect under version 2".to_owned());
        }
        if is_unprivileged {
            return Some("it has no effect in an unprivileged container".to_owned());
        }
        if !is_ours {
            return Some(format!(
                "no device that is passed has major {major}: out of date, or about something else"
            ));
        }
        let matches = wanted.iter().any(|number| device.matches(*number));
        match (self.verb, matches) {
            (Verb::Deny, true) => Some("it denies a device that is passed".to_owned()),
            (Verb::Allow, true) if !device.reads_and_writes => {
                Some("it does not allow both reading and writing".to_owned())
            }
            (_, true) => None,
            (_, false) => Some("it is about a device that is not passed".to_owned()),
        }
    }
}

/// What all rules together, in order, say about a device number.
pub(crate) fn permission(rules: &[DeviceRule], number: (u64, u64)) -> Permission {
    let effective = rules.iter().filter(|rule| rule.version == CgroupVersion::Two);
    effective.fold(Permission::Unmentioned, |before, rule| match (&rule.device, rule.verb) {
        (None, Verb::Allow) => Permission::Allowed,
        (None, Verb::Deny) => Permission::Unmentioned,
        (Some(device), _) if !device.matches(number) => before,
        (Some(_), Verb::Deny) => Permission::Denied,
        (Some(device), Verb::Allow) if device.reads_and_writes => Permission::Allowed,
        (Some(_), Verb::Allow) => before,
    })
}

/// The line that allows a device number.
pub(super) fn line(number: (u64, u64), dialect: Dialect) -> String {
    key_and_value(dialect, ALLOW, &value(number))
}

/// The value of that line.
pub(super) fn value((major, minor): (u64, u64)) -> String {
    format!("c {major}:{minor} rw")
}

/// A line as the dialect writes it.
pub(super) fn key_and_value(dialect: Dialect, key: &str, value: &str) -> String {
    match dialect {
        Dialect::Proxmox => format!("{key}: {value}"),
        Dialect::Lxc => format!("{key} = {value}"),
    }
}

fn number(text: &str) -> Option<Option<u64>> {
    if text == "*" { Some(None) } else { text.parse().ok().map(Some) }
}

/// Majors that Linux gives out on request (`Documentation/admin-guide/devices.txt`).
pub(crate) fn is_dynamic(major: u64) -> bool {
    (234..=254).contains(&major) || (384..=511).contains(&major)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::config::LxcConfig;

    fn rules(text: &str) -> Vec<DeviceRule> {
        let config = LxcConfig::parse(text.as_bytes(), Dialect::Proxmox);
        config.lines().filter_map(|line| DeviceRule::parse(&line)).collect()
    }

    #[test]
    fn wider_rules_cover_a_device() {
        use Permission::{Allowed, Denied, Unmentioned};
        const ALLOW: &str = "lxc.cgroup2.devices.allow";
        const DENY: &str = "lxc.cgroup2.devices.deny";
        for (text, expected) in [
            (format!("{ALLOW}: c 195:0 rw"), Allowed),
            (format!("{ALLOW}: c 195:* rwm"), Allowed),
            (format!("{ALLOW} = c *:* rwm"), Allowed),
            (format!("{ALLOW}: a"), Allowed),
            (format!("{ALLOW}: c 195:0 r"), Unmentioned),
            (format!("{ALLOW}: c 195:1 rw"), Unmentioned),
            (format!("{ALLOW}: b 195:0 rw"), Unmentioned),
            (format!("{ALLOW}: c 195 rw"), Unmentioned),
            ("lxc.cgroup.devices.allow: c 195:* rwm".to_owned(), Unmentioned),
            (format!("{ALLOW}: c 195:0 rw\n{DENY}: a"), Unmentioned),
            (format!("{DENY}: a\n{ALLOW}: c 195:0 rw"), Allowed),
            (format!("{DENY}: c 195:* rwm"), Denied),
        ] {
            assert_eq!(permission(&rules(&text), (195, 0)), expected, "{text}");
        }
    }

    #[test]
    fn rules_about_other_things_need_no_remark() {
        for text in ["c 10:200 rwm", "c 226:* rwm", "c *:* rw", "a", "b 8:0 r", "c 195:0 rw"] {
            let rule = &rules(&format!("lxc.cgroup2.devices.allow: {text}"))[0..];
            let remarks = rule.iter().filter_map(|rule| rule.remark(&[(195, 0)], false));
            assert_eq!(remarks.count(), 0, "{text}");
        }
    }
}
