//! What in a container's configuration keeps NVIDIA's devices from working: lines that nothing
//! reads, paths that name no node, nodes that are missing beside a GPU, rules that forbid a node.
//!
//! [`problems`] judges the file alone, for a container that runs or not. It says nothing of a node
//! that another line passes rightly, and nothing where other files may bring what is missing.

use std::collections::BTreeSet;
use std::fmt;

use super::config::{Dialect, Line, LineKind, LxcConfig};
use super::mount::{self, MountEntry};
use super::rules::{self, DeviceRules, RuleEffect, RuleLine};
use crate::gpu::HostNode;

/// The nodes without which no program can use a GPU.
const NEEDED: [&str; 2] = ["/dev/nvidiactl", "/dev/nvidia-uvm"];
/// Nodes that NVIDIA's drivers have beside those of the GPUs.
const KNOWN: [&str; 6] = [
    "/dev/nvidia0",
    "/dev/nvidiactl",
    "/dev/nvidia-uvm",
    "/dev/nvidia-uvm-tools",
    "/dev/nvidia-modeset",
    "/dev/nvidia-caps",
];
/// `/dev/null`.
const NULL: (u64, u64) = (1, 3);
/// At most so many letters differ in a name that was misspelt.
const NEAR: usize = 2;

/// What a host has below `/dev`.
#[derive(Clone, Copy)]
pub struct HostDevices<'a> {
    /// NVIDIA's nodes.
    pub nodes: &'a [HostNode],
    /// True if there is something at a path.
    pub exists: &'a dyn Fn(&str) -> bool,
}

impl fmt::Debug for HostDevices<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HostDevices").field(&self.nodes).finish()
    }
}

impl HostDevices<'_> {
    /// Major and minor of a node.
    pub fn number(&self, path: &str) -> Option<(u64, u64)> {
        self.nodes.iter().find(|node| node.path == path).map(|node| node.number)
    }

    /// The same, of a GPU's or control node also while no driver has made them.
    fn known_number(&self, path: &str) -> Option<(u64, u64)> {
        let fixed = || match path {
            "/dev/nvidiactl" => Some((rules::MAJOR, 255)),
            path => gpu_minor(path).map(|minor| (rules::MAJOR, minor)),
        };
        self.number(path).or_else(|| self.nodes.is_empty().then(fixed).flatten())
    }
}

/// One thing that keeps a device from working.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceProblem {
    /// A line that nothing reads.
    Ignored {
        /// Its number in the file, from 1.
        line: usize,
        /// Its text.
        text: String,
        /// Why it is not read.
        why: &'static str,
    },
    /// A path that is nearly that of a node.
    Misspelled {
        /// The number of its line, from 1.
        line: usize,
        /// The path.
        path: String,
        /// The node.
        meant: String,
    },
    /// A GPU is passed without nodes that every program needs.
    Incomplete {
        /// Those nodes.
        lacking: Vec<String>,
    },
    /// Nodes are passed, and LXC's rules forbid them.
    Forbidden {
        /// The nodes, with their numbers; at least one.
        nodes: Vec<NumberedNode>,
        /// The line that denies them, or that should have allowed them and does not.
        cause: Option<Cause>,
    },
    /// LXC's rules forbid `/dev/null`: nothing in the container works.
    Closed {
        /// The number of the line that takes out the rules that every container has, from 1.
        line: usize,
        /// Its text.
        text: String,
    },
}

/// A node, and its numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumberedNode {
    /// The path.
    pub path: String,
    /// Major and minor.
    pub number: (u64, u64),
}

impl fmt::Display for NumberedNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ({}:{})", self.path, self.number.0, self.number.1)
    }
}

/// The line behind a node that is forbidden.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Its number in the file, from 1.
    pub line: usize,
    /// Its text.
    pub text: String,
    /// Why it does not allow the node; `None` where it denies it.
    pub why: Option<String>,
}

impl DeviceProblem {
    /// What puts it right by hand, where nothing else does: without the path of the file.
    pub fn edit(&self) -> Option<String> {
        match self {
            Self::Misspelled { line, path, meant } => {
                Some(format!("write `{meant}` for `{path}` in line {line}"))
            }
            Self::Forbidden { cause: Some(Cause { line, why: None, .. }), .. } => {
                Some(format!("take out line {line}"))
            }
            Self::Closed { line, .. } => Some(format!("take out line {line}")),
            Self::Ignored { .. } | Self::Incomplete { .. } | Self::Forbidden { .. } => None,
        }
    }

    /// The number of the line it is about, from 1.
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::Ignored { line, .. }
            | Self::Misspelled { line, .. }
            | Self::Closed { line, .. } => Some(*line),
            Self::Forbidden { cause, .. } => cause.as_ref().map(|cause| cause.line),
            Self::Incomplete { .. } => None,
        }
    }
}

impl fmt::Display for DeviceProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ignored { text, why, .. } => write!(f, "`{}` is ignored: {why}", text.trim()),
            Self::Misspelled { path, meant, .. } => {
                write!(f, "`{path}` is no node of NVIDIA's: `{meant}` is one")
            }
            Self::Incomplete { lacking } => {
                let lacking: Vec<String> = lacking.iter().map(|path| format!("`{path}`")).collect();
                write!(f, "a GPU is passed without {}: CUDA cannot work", lacking.join(" and "))
            }
            Self::Closed { text, .. } => {
                write!(
                    f,
                    "`{text}` takes out the rules for `/dev/null` and other nodes of every container"
                )
            }
            Self::Forbidden { nodes, cause } => {
                let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
                let nodes = nodes.join(", ");
                match cause {
                    None => write!(f, "no device rule allows {nodes}"),
                    Some(Cause { text, why: None, .. }) => write!(f, "`{text}` denies {nodes}"),
                    Some(Cause { text, why: Some(why), .. }) => {
                        write!(f, "no device rule allows {nodes}: `{text}`: {why}")
                    }
                }
            }
        }
    }
}

/// Judges the configuration of the next start ([`LxcConfig::at_next_start`]).
pub fn problems(config: &LxcConfig, host: HostDevices<'_>) -> Vec<DeviceProblem> {
    let survey = Survey::of(config, host);
    let mut found = survey.misspelled();
    found.extend(survey.ignored());
    let incomplete = survey.incomplete(&found);
    found.extend(incomplete);
    found.extend(survey.forbidden());
    found.extend(survey.closed());
    found
}

/// What the file passes.
struct Survey<'a> {
    config: &'a LxcConfig,
    host: HostDevices<'a>,
    lines: Vec<Line<'a>>,
    passed: Vec<PassedNode>,
    /// Sources of mount entries whose absolute target LXC ignores.
    absolute: BTreeSet<String>,
    rules: DeviceRules,
    /// Whether hooks or other files may pass more.
    is_whole: bool,
}

/// A path of the host that a line passes, and where it appears inside.
struct PassedNode {
    line: usize,
    path: String,
    inside: String,
}

impl<'a> Survey<'a> {
    fn of(config: &'a LxcConfig, host: HostDevices<'a>) -> Self {
        let lines: Vec<Line<'a>> = config.lines().collect();
        let devices = config.devices().into_iter().map(|device| PassedNode {
            line: device.number,
            inside: mount::normal(&device.path),
            path: mount::normal(&device.path),
        });
        let mut passed: Vec<PassedNode> = devices.collect();
        let mut absolute = BTreeSet::new();
        for line in &lines {
            let Some((mount::KEY, value)) = line.kind.meaning() else { continue };
            let entry = MountEntry::parse(value);
            let path = mount::normal(entry.source);
            if entry.has_absolute_target() {
                absolute.insert(path);
                continue;
            }
            let inside = format!("/{}", mount::normal(entry.target).trim_start_matches('/'));
            passed.push(PassedNode { line: line.number, path, inside });
        }
        let is_whole = !lines.iter().any(brings_more);
        let rules = DeviceRules::of(config, &|path| host.number(path));
        Self { config, host, lines, passed, absolute, rules, is_whole }
    }

    /// Whether a node appears inside at its own path, alone or in a directory.
    fn has(&self, path: &str) -> bool {
        let covers = |node: &PassedNode| {
            let is_in = |rest: &str| rest.is_empty() || rest.starts_with('/');
            node.inside == node.path && path.strip_prefix(&*node.path).is_some_and(is_in)
        };
        self.passed.iter().any(covers)
    }

    fn ignored(&self) -> Vec<DeviceProblem> {
        let ignored = |line: &Line<'_>| {
            let why = why_ignored(line, self.config.dialect())?;
            let paths = named_nodes(&line.text);
            let is_done = match paths.is_empty() {
                true => !is_rule_of_nvidias(&line.text) || self.forbidden().is_empty(),
                false => paths.iter().all(|path| self.has(path)),
            };
            let (number, text) = (line.number, line.text.clone().into_owned());
            (!is_done).then_some(DeviceProblem::Ignored { line: number, text, why })
        };
        self.lines.iter().filter_map(ignored).collect()
    }

    fn misspelled(&self) -> Vec<DeviceProblem> {
        let mut found = Vec::new();
        for node in &self.passed {
            let is_unknown = |path: &str| !is_known(path) && !(self.host.exists)(path);
            let misspelled = match nearest(&node.path).filter(|_| is_unknown(&node.path)) {
                Some(meant) => Some((node.path.clone(), meant.to_owned())),
                // The right node in a wrong place.
                None if is_known(&node.path) && !is_known(&node.inside) => {
                    nearest(&node.inside).map(|_| (node.inside.clone(), node.path.clone()))
                }
                None => None,
            };
            if let Some((path, meant)) = misspelled.filter(|(_, meant)| !self.has(meant)) {
                found.push(DeviceProblem::Misspelled { line: node.line, path, meant });
            }
        }
        found
    }

    /// `found` has told why some are lacking.
    fn incomplete(&self, found: &[DeviceProblem]) -> Option<DeviceProblem> {
        let has_gpu = self.passed.iter().any(|node| gpu_minor(&node.inside).is_some());
        let is_told = |path: &str| {
            found.iter().any(|problem| match problem {
                DeviceProblem::Misspelled { meant, .. } => meant == path,
                DeviceProblem::Ignored { text, .. } => named_nodes(text).contains(path),
                _ => false,
            })
        };
        let is_lacking =
            |path: &&str| !self.has(path) && !self.absolute.contains(*path) && !is_told(path);
        let lacking: Vec<String> =
            NEEDED.into_iter().filter(is_lacking).map(str::to_owned).collect();
        (self.is_whole && has_gpu && !lacking.is_empty())
            .then_some(DeviceProblem::Incomplete { lacking })
    }

    fn forbidden(&self) -> Vec<DeviceProblem> {
        let mut found: Vec<DeviceProblem> = Vec::new();
        for node in self.passed.iter().filter(|_| self.is_whole) {
            let is_needed = gpu_minor(&node.path).is_some() || NEEDED.contains(&&*node.path);
            let number = self.host.known_number(&node.path).filter(|_| is_needed);
            let Some(number) = number.filter(|number| !self.rules.opens(*number)) else { continue };
            let (new, cause) =
                (NumberedNode { path: node.path.clone(), number }, self.cause(number));
            let same = found.iter_mut().find_map(|problem| match problem {
                DeviceProblem::Forbidden { nodes, cause: own } if *own == cause => Some(nodes),
                _ => None,
            });
            match same {
                Some(nodes) => nodes.push(new),
                None => found.push(DeviceProblem::Forbidden { nodes: vec![new], cause }),
            }
        }
        found
    }

    /// Of containers that have devices of NVIDIA's alone.
    fn closed(&self) -> Option<DeviceProblem> {
        let is_nvidias = |node: &PassedNode| is_known(&node.path);
        if self.rules.opens(NULL) || !self.passed.iter().any(is_nvidias) {
            return None;
        }
        let emptied = self.rules.last_emptied();
        let line = self.rules.denial(NULL).or_else(|| self.rules.line_of(emptied))?;
        Some(DeviceProblem::Closed { line: line.number, text: line.text.clone() })
    }

    /// The line that denies a number; otherwise the last one that means to allow it.
    fn cause(&self, number: (u64, u64)) -> Option<Cause> {
        let (line, why) = match self.rules.denial(number) {
            Some(line) => (line, None),
            None => {
                let why = |line: &RuleLine| {
                    let is_its = line.effect == RuleEffect::InForce && line.rule.names(number);
                    line.no_effect().or(is_its.then(|| rules::HALF.to_owned()))
                };
                let is_meant = |line: &&RuleLine| line.named_major() == Some(number.0);
                let mut meant = self.rules.lines().iter().rev().filter(is_meant);
                let (line, why) = meant.find_map(|line| Some((line, why(line)?)))?;
                (line, Some(why))
            }
        };
        Some(Cause { line: line.number, text: line.text.clone(), why })
    }
}

/// The minor of a GPU's node.
fn gpu_minor(path: &str) -> Option<u64> {
    path.strip_prefix("/dev/nvidia")?.parse().ok()
}

/// Whether a line has hooks run, or a file read, that may pass devices too.
fn brings_more(line: &Line<'_>) -> bool {
    match line.kind.meaning() {
        Some(("lxc.include", path)) => !path.starts_with("/usr/share/lxc/config/"),
        Some((key, value)) => {
            let is_hook = key.starts_with("lxc.hook.") && !key.ends_with(".clone");
            (is_hook && !value.is_empty()) || matches!(key, "lxc.mount.fstab" | "hookscript")
        }
        None => false,
    }
}

/// Whether a path is one of NVIDIA's nodes.
fn is_known(path: &str) -> bool {
    KNOWN.contains(&path) || gpu_minor(path).is_some() || path.starts_with("/dev/nvidia-caps/")
}

/// The node of NVIDIA's that a path is nearly.
fn nearest(path: &str) -> Option<&'static str> {
    let path = path.to_ascii_lowercase();
    let distance = |known: &&str| strsim::damerau_levenshtein(&path, known);
    let nearest = KNOWN.into_iter().min_by_key(distance)?;
    (path.starts_with("/dev/") && distance(&nearest) <= NEAR).then_some(nearest)
}

/// The paths of NVIDIA's nodes in a text.
pub(crate) fn named_nodes(text: &str) -> BTreeSet<String> {
    let separators = |c: char| c.is_ascii_whitespace() || matches!(c, ',' | '=' | ':' | '"');
    let words = text.split(separators).filter(|word| is_known(word));
    words.map(str::to_owned).collect()
}

/// Whether a text is, or was to be, a rule about devices of NVIDIA's own major.
fn is_rule_of_nvidias(text: &str) -> bool {
    text.to_ascii_lowercase().contains("devices") && text.contains(" 195:")
}

/// Why a line about NVIDIA's devices is not read; `None` for one that is, and for others.
fn why_ignored(line: &Line<'_>, dialect: Dialect) -> Option<&'static str> {
    if named_nodes(&line.text).is_empty() && !is_rule_of_nvidias(&line.text) {
        return None;
    }
    match (&line.kind, dialect) {
        (LineKind::Other, _) if line.text.trim_start().starts_with(['#', '[']) => None,
        (LineKind::Other, Dialect::Proxmox) if line.text.starts_with([' ', '\t']) => {
            Some("Proxmox VE reads no line that begins with a blank")
        }
        (LineKind::Other, Dialect::Proxmox) => Some("Proxmox VE does not know its key"),
        (LineKind::Other, Dialect::Lxc) => Some("LXC does not know its key"),
        (LineKind::Raw { key, .. }, Dialect::Proxmox) if !is_raw_key(key) => {
            Some("Proxmox VE does not know its key")
        }
        (LineKind::Setting { key, value }, Dialect::Proxmox) => {
            let value = value.strip_prefix("path=").unwrap_or(value);
            let number = key.strip_prefix("dev").map(str::parse::<u8>);
            let is_device = matches!(number, Some(Ok(_))) || key.starts_with("mp");
            (value.starts_with("/dev/") && !is_device).then_some("Proxmox VE does not know its key")
        }
        _ => None,
    }
}

/// Whether Proxmox VE hands a raw key to LXC (`PVE::LXC::Config::is_valid_lxc_conf_key`); of names
/// before LXC 3.0 it knows more, none of them about devices.
fn is_raw_key(key: &str) -> bool {
    const PREFIXES: [&str; 12] = [
        "lxc.apparmor.",
        "lxc.cgroup.",
        "lxc.cgroup2.",
        "lxc.console.",
        "lxc.environment",
        "lxc.hook.",
        "lxc.init.",
        "lxc.log.",
        "lxc.net.",
        "lxc.prlimit.",
        "lxc.seccomp.",
        "lxc.start.",
    ];
    const KEYS: [&str; 7] = [
        "lxc.include",
        "lxc.mount",
        "lxc.mount.auto",
        "lxc.mount.entry",
        "lxc.mount.fstab",
        "lxc.rootfs.mount",
        "lxc.group",
    ];
    PREFIXES.iter().any(|prefix| key.starts_with(prefix)) || KEYS.contains(&key)
}
