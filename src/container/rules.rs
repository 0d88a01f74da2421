//! LXC's list of device rules: what a container's configuration lets it open.
//!
//! No line means anything alone: LXC keeps a list with a mode (`bpf_list_add_device`, lxc,
//! `src/lxc/cgroups/cgroup2_devices.c`, the same from 5.0.2 to 7.0). [`DeviceRules`] builds the list
//! that the next start has, Proxmox VE's and LXC's own lines included:
//!
//! - It begins as an allow-list. `allow = a` makes it a deny-list, `deny = a` an allow-list, and both
//!   empty it. An empty value takes out the lines with the same key before it.
//! - In an allow-list `allow` adds a rule, and `deny` takes back an equal one; in a deny-list the
//!   other way round. A rule that is neither added nor takes back another has no effect.
//! - An empty list is not enforced: every device opens.

mod line;

use super::config::{Access, Dialect, Line, LineKind, LxcConfig, PassedDevice, is_true};

pub use self::line::{AccessMask, Rejection};
use self::line::{CgroupVersion, Pattern, Value};
pub(crate) use self::line::{DeviceRule, Verb};

/// The key of a rule that allows.
pub(super) const ALLOW: &str = "lxc.cgroup2.devices.allow";
/// NVIDIA's own, registered major (Linux, `Documentation/admin-guide/devices.txt`); that of
/// `nvidia-uvm` and `nvidia-caps` is given out when their module is loaded.
pub(crate) const MAJOR: u64 = 195;

/// What is told of a rule that does not allow what NVIDIA's libraries do.
pub(super) const HALF: &str = "it does not allow both reading and writing";

/// The rules of LXC's `common.conf`, which every configuration of Proxmox VE includes.
const COMMON: [(&str, &str); 13] = [
    ("devices.deny", "a"),
    ("devices.allow", "c *:* m"),
    ("devices.allow", "b *:* m"),
    ("devices.allow", "c 1:3 rwm"),
    ("devices.allow", "c 1:5 rwm"),
    ("devices.allow", "c 1:7 rwm"),
    ("devices.allow", "c 5:0 rwm"),
    ("devices.allow", "c 5:1 rwm"),
    ("devices.allow", "c 5:2 rwm"),
    ("devices.allow", "c 1:8 rwm"),
    ("devices.allow", "c 1:9 rwm"),
    ("devices.allow", "c 136:* rwm"),
    ("devices.allow", "c 10:229 rwm"),
];
/// Those of its `userns.conf`.
const USER_NAMESPACE: [(&str, &str); 2] = [("devices.deny", ""), ("devices.allow", "")];
/// What Proxmox VE adds to that (pve-container, `src/lxc-pve-userns.conf`).
const PROXMOX_USER_NAMESPACE: (&str, &str) = ("devices.allow", "a");

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceType {
    /// `a` in a rule: both.
    Any,
    /// `b`.
    Block,
    /// `c`.
    Character,
}

/// What a process asks the kernel for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRequest {
    /// What the device is.
    pub device_type: DeviceType,
    /// Its major and minor number.
    pub number: (u64, u64),
    /// What is to be done with it.
    pub access: AccessMask,
}

impl DeviceRequest {
    /// Opening a character device for reading and writing, as NVIDIA's libraries do.
    pub fn open(number: (u64, u64)) -> Self {
        let access = AccessMask::READ_WRITE;
        Self { device_type: DeviceType::Character, number, access }
    }
}

/// What becomes of devices that no rule of the list matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    AllowList,
    DenyList,
}

impl Mode {
    /// The verb of the rules that count in such a list.
    fn verb(self) -> Verb {
        match self {
            Self::AllowList => Verb::Allow,
            Self::DenyList => Verb::Deny,
        }
    }
}

/// What a line comes to in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RuleEffect {
    /// It is a rule of the list.
    InForce,
    /// It empties the list, or takes lines out of it.
    Empties,
    /// It takes back an equal rule before it.
    TakesBack,
    /// Something after it takes it back.
    TakenBack,
    /// None: the list allows all of that already, or allows none of it.
    Nothing,
    /// LXC drops it.
    Rejected(Rejection),
    /// None under cgroup version 2; LXC 7.0 knows the key no longer.
    VersionOne,
}

/// A line of the configuration about devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RuleLine {
    /// Its number in the file, from 1.
    pub(crate) number: usize,
    pub(crate) text: String,
    pub(crate) rule: DeviceRule,
    pub(crate) effect: RuleEffect,
}

impl RuleLine {
    /// True if its key is of cgroup version 1.
    pub(crate) fn is_version_one(&self) -> bool {
        self.effect == RuleEffect::VersionOne
    }

    /// The major that it names, even where LXC drops it.
    pub(crate) fn named_major(&self) -> Option<u64> {
        self.rule.major().or_else(|| line::mentioned_major(&self.text))
    }

    /// Why it has no effect; `None` where it has one.
    pub(crate) fn no_effect(&self) -> Option<String> {
        Some(match (self.effect, self.rule.verb) {
            (RuleEffect::InForce | RuleEffect::Empties, _) => return None,
            (RuleEffect::VersionOne, _) => {
                let instead = self.text.replacen("lxc.cgroup.", "lxc.cgroup2.", 1);
                format!("a rule of cgroup version 1 has no effect under version 2: `{instead}` has")
            }
            (RuleEffect::Rejected(why), _) => format!("LXC drops it: {why}"),
            (RuleEffect::TakesBack, _) => "it takes back an equal rule before it".to_owned(),
            (RuleEffect::TakenBack, _) => "a later line takes it back".to_owned(),
            (RuleEffect::Nothing, Verb::Allow) => {
                "it has no effect: what no rule denies is allowed".to_owned()
            }
            (RuleEffect::Nothing, Verb::Deny) => {
                "it has no effect: no rule allows exactly that".to_owned()
            }
        })
    }
}

/// A rule of the list.
#[derive(Debug)]
struct Entry {
    verb: Verb,
    pattern: Pattern,
    /// Its line among [`DeviceRules::lines`]; `None` for one of LXC's or Proxmox VE's.
    line: Option<usize>,
}

/// The list that LXC makes of a configuration.
#[derive(Debug)]
pub struct DeviceRules {
    mode: Mode,
    entries: Vec<Entry>,
    lines: Vec<RuleLine>,
}

/// A key and value as LXC reads them, in order.
struct Stated {
    key: String,
    rule: DeviceRule,
    line: Option<usize>,
}

impl DeviceRules {
    /// Builds the list of a configuration; `numbers` gives the numbers of a character device of the
    /// host by its path.
    pub fn of(config: &LxcConfig, numbers: &dyn Fn(&str) -> Option<(u64, u64)>) -> Self {
        let mut list = Self { mode: Mode::AllowList, entries: Vec::new(), lines: Vec::new() };
        let stated = list.stated(config, numbers);
        for stated in stated {
            list.add(stated, numbers);
        }
        list
    }

    /// True if the request is granted.
    pub fn allows(&self, request: DeviceRequest) -> bool {
        let mut active = self.active();
        match self.mode {
            _ if self.entries.is_empty() => true,
            Mode::AllowList => active.any(|entry| entry.pattern.matches(request)),
            Mode::DenyList => !active.any(|entry| entry.pattern.matches(request)),
        }
    }

    /// True if the device opens for reading and writing.
    pub fn opens(&self, number: (u64, u64)) -> bool {
        self.allows(DeviceRequest::open(number))
    }

    /// True if nothing is enforced.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The lines of the configuration about devices, in order.
    pub(crate) fn lines(&self) -> &[RuleLine] {
        &self.lines
    }

    /// One of them, by its number.
    pub(crate) fn line_of(&self, number: usize) -> Option<&RuleLine> {
        self.lines.iter().find(|line| line.number == number)
    }

    /// The line that keeps a device from opening that would open without it: by denying it, or by
    /// taking back the rule that allows it.
    pub(crate) fn denial(&self, number: (u64, u64)) -> Option<&RuleLine> {
        let request = DeviceRequest::open(number);
        let mut active = self.active().filter(|entry| entry.pattern.matches(request));
        match self.mode {
            _ if self.opens(number) => None,
            Mode::DenyList => active.find_map(|entry| self.line(entry)),
            Mode::AllowList => {
                let takes_back = |line: &&RuleLine| {
                    line.effect == RuleEffect::TakesBack
                        && line.rule.pattern().is_some_and(|own| own.matches(request))
                };
                self.lines.iter().rev().find(takes_back)
            }
        }
    }

    /// The number of the last line that empties the list: rules before it do not count.
    pub(crate) fn last_emptied(&self) -> usize {
        let mut lines = self.lines.iter().rev();
        lines.find(|line| line.effect == RuleEffect::Empties).map_or(0, |line| line.number)
    }

    fn active(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.verb == self.mode.verb())
    }

    fn line(&self, entry: &Entry) -> Option<&RuleLine> {
        entry.line.and_then(|line| self.lines.get(line))
    }

    /// Everything that LXC reads about devices: its own files, what Proxmox VE writes
    /// (`PVE::LXC::update_lxc_config`), then the lines of the configuration.
    fn stated(
        &mut self,
        config: &LxcConfig,
        numbers: &dyn Fn(&str) -> Option<(u64, u64)>,
    ) -> Vec<Stated> {
        let mut stated = Vec::new();
        let lines: Vec<Line<'_>> = config.lines().collect();
        if config.dialect() == Dialect::Proxmox {
            state_all(&mut stated, &COMMON);
            if config.is_unprivileged_by(&lines) {
                state_all(&mut stated, &USER_NAMESPACE);
                state_all(&mut stated, &[PROXMOX_USER_NAMESPACE]);
            }
            for (path, verb, access) in passed(config.devices_by(&lines)) {
                if let Some((major, minor)) = numbers(&path) {
                    state_all(&mut stated, &[(verb, &format!("c {major}:{minor} {access}"))]);
                }
            }
            let console = lines.iter().rev().find_map(|line| match line.kind.meaning() {
                Some(("console", value)) => Some(is_true(value)),
                _ => None,
            });
            if console == Some(false) {
                state_all(&mut stated, &[("devices.deny", "c 5:1 rwm")]);
            }
        }
        for line in lines {
            let LineKind::Raw { key, value } = &line.kind else { continue };
            match key.as_str() {
                "lxc.include" => include(&mut stated, value, config.dialect()),
                "lxc.cgroup2" if config.dialect() == Dialect::Lxc && value.is_empty() => {
                    for stated in stated.drain(..) {
                        self.mark(stated.line, RuleEffect::TakenBack);
                    }
                }
                _ => {}
            }
            let Some(rule) = DeviceRule::parse(&line) else { continue };
            let index = self.lines.len();
            let effect = match (rule.version, &rule.value) {
                (CgroupVersion::One, _) => RuleEffect::VersionOne,
                (_, Value::Empty) => RuleEffect::Empties,
                (_, Value::Rejected(rejection)) => RuleEffect::Rejected(*rejection),
                _ => RuleEffect::Nothing,
            };
            let (number, text) = (line.number, line.text.clone().into_owned());
            self.lines.push(RuleLine { number, text, rule: rule.clone(), effect });
            let key = key.strip_prefix("lxc.cgroup2.").filter(|_| effect != RuleEffect::VersionOne);
            let Some(key) = key else { continue };
            for line in state(&mut stated, Stated { key: key.to_owned(), rule, line: Some(index) })
            {
                self.mark(Some(line), RuleEffect::TakenBack);
            }
        }
        stated
    }

    /// What LXC does with one line when the container starts.
    fn add(&mut self, stated: Stated, numbers: &dyn Fn(&str) -> Option<(u64, u64)>) {
        let Stated { rule, line, .. } = stated;
        let pattern = match rule.value {
            Value::All => {
                self.mode = match rule.verb {
                    Verb::Allow => Mode::DenyList,
                    Verb::Deny => Mode::AllowList,
                };
                for entry in std::mem::take(&mut self.entries) {
                    self.take_back(entry.line);
                }
                return self.mark(line, RuleEffect::Empties);
            }
            Value::Devices(pattern) => pattern,
            // One that the host lacks is dropped.
            Value::Node { path, access } => match numbers(&path) {
                Some((major, minor)) => {
                    let (major, minor) = (Some(major), Some(minor));
                    Pattern { device_type: DeviceType::Character, major, minor, access }
                }
                None => return,
            },
            Value::Empty | Value::Rejected(_) => return,
        };
        let counting = self.mode.verb();
        let is_equal = |entry: &&mut Entry| entry.pattern == pattern && entry.verb == counting;
        match self.entries.iter_mut().find(is_equal) {
            Some(equal) if equal.verb != rule.verb => {
                equal.verb = rule.verb;
                let before = equal.line;
                self.take_back(before);
                self.mark(line, RuleEffect::TakesBack);
            }
            Some(_) => self.mark(line, RuleEffect::InForce),
            None => {
                self.entries.push(Entry { verb: rule.verb, pattern, line });
                if rule.verb == counting {
                    self.mark(line, RuleEffect::InForce);
                }
            }
        }
    }

    fn mark(&mut self, line: Option<usize>, effect: RuleEffect) {
        if let Some(line) = line.and_then(|line| self.lines.get_mut(line)) {
            line.effect = effect;
        }
    }

    /// The same of a rule that went: what had no effect has none to lose.
    fn take_back(&mut self, line: Option<usize>) {
        let effect = line.and_then(|line| self.lines.get(line)).map(|line| line.effect);
        if effect == Some(RuleEffect::InForce) {
            self.mark(line, RuleEffect::TakenBack);
        }
    }
}

/// `dev[n]`: path, key and access of the rules that Proxmox VE writes for it.
fn passed(devices: Vec<PassedDevice>) -> Vec<(String, &'static str, &'static str)> {
    let rules = |device: PassedDevice| match device.access {
        Access::ReadWrite => vec![(device.path, "devices.allow", "rw")],
        Access::ReadOnly => {
            vec![(device.path.clone(), "devices.allow", "r"), (device.path, "devices.deny", "w")]
        }
    };
    devices.into_iter().flat_map(rules).collect()
}

/// What an included file of LXC's says about devices; of others nothing is known.
fn include(stated: &mut Vec<Stated>, path: &str, dialect: Dialect) {
    if path.ends_with("/common.conf") || path.ends_with(".common.conf") {
        state_all(stated, &COMMON);
    } else if path.ends_with("/userns.conf") || path.ends_with(".userns.conf") {
        state_all(stated, &USER_NAMESPACE);
        if dialect == Dialect::Proxmox {
            state_all(stated, &[PROXMOX_USER_NAMESPACE]);
        }
    }
}

fn state_all(stated: &mut Vec<Stated>, lines: &[(&str, &str)]) {
    for (key, value) in lines {
        let rule = DeviceRule::of(CgroupVersion::Two, key, value);
        state(stated, Stated { key: (*key).to_owned(), rule, line: None });
    }
}

/// Adds a line, or takes out those with its key when it is empty: returns which of the
/// configuration's are gone.
fn state(stated: &mut Vec<Stated>, new: Stated) -> Vec<usize> {
    if new.rule.value != Value::Empty {
        stated.push(new);
        return Vec::new();
    }
    let (gone, kept) = stated.drain(..).partition(|other: &Stated| other.key == new.key);
    *stated = kept;
    let gone: Vec<Stated> = gone;
    gone.into_iter().filter_map(|stated| stated.line).collect()
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

/// Majors that Linux gives out on request (`Documentation/admin-guide/devices.txt`).
pub(crate) fn is_dynamic(major: u64) -> bool {
    (234..=254).contains(&major) || (384..=511).contains(&major)
}

#[cfg(test)]
mod tests;
