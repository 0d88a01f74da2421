//! What has to be done to one container, computed from what is known of it, without touching it.
//!
//! [`Intent`] is what should be, [`Situation`] what is; [`Plan::compute`] compares them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::apt::{AptFile, version};
use crate::container::passthrough::{DeviceNode, Edit, NodeKind};
use crate::facts::{self, DpkgState, Facts, NodeState};
use crate::version::DriverVersion;

/// What the container should be.
#[derive(Debug)]
pub struct Intent<'a> {
    /// The driver's version.
    pub version: &'a DriverVersion,
    /// The packages that should be installed.
    pub packages: &'a [String],
    /// The versions that a lock has of them, which they must not be older than.
    pub versions: &'a BTreeMap<String, String>,
    /// The files apt should read.
    pub files: &'a [AptFile],
    /// What is to be done about sources that the container has of the repository.
    pub repository: Option<String>,
    /// The nodes that should open.
    pub nodes: &'a [DeviceNode],
}

/// The driver's userland inside a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DriverState {
    /// None that NVIDIA's installer knows of.
    Absent,
    /// The wanted version, every file of it checked against the installer's manifest.
    Complete,
    /// The wanted version by the installer's own record; its files can be compared only with the
    /// installer in the cache.
    Recorded,
    /// Another version.
    Other(DriverVersion),
    /// The wanted version, with files missing or different.
    Damaged(Vec<String>),
}

/// When a change of the configuration reaches the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// When it starts.
    AtStart,
    /// At once: Proxmox VE 9 adds devices to a running container.
    WhileRunning,
}

/// What the container shares with its host, and is to share.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sharing {
    /// Whether its driver is to be the host's.
    pub driver: bool,
    /// What it is to share, in words.
    pub wanted: Vec<String>,
    /// What of its own goes for that, or was shared and goes; empty for a stopped one.
    pub leaving: Vec<String>,
    /// What is missing of what it is to share; empty for a stopped one.
    pub problems: Vec<String>,
}

/// What the container is.
#[derive(Debug)]
pub struct Situation<'a> {
    /// The change its configuration needs.
    pub edit: &'a Edit,
    /// When that change reaches it.
    pub reach: Reach,
    /// Whether it runs.
    pub is_running: bool,
    /// Why it needs a restart that an earlier run has left pending.
    pub pending: Option<&'a str>,
    /// What was seen inside; `None` when it is stopped.
    pub inside: Option<(&'a Facts, &'a DriverState)>,
    /// The nodes behind which a driver answers on the host itself.
    pub answering: &'a BTreeSet<String>,
    /// What it shares with the host.
    pub sharing: &'a Sharing,
}

/// What to do about one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing: why.
    Nothing(String),
    /// Something: what.
    Do(String),
    /// To be seen when the container runs.
    Unknown(String),
}

impl Action {
    /// Whether something is to be done, or may be.
    pub fn changes(&self) -> bool {
        !matches!(self, Self::Nothing(_))
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing(why) => write!(f, "unchanged: {why}"),
            Self::Do(what) => write!(f, "change: {what}"),
            Self::Unknown(why) => write!(f, "unknown: {why}"),
        }
    }
}

/// What happens to the container's power.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Power {
    /// It runs on.
    Keep,
    /// It is started.
    Start,
    /// It is stopped and started: why.
    Restart(String),
    /// It runs on, although it needs a restart: why.
    Pending(String),
}

/// What is to be done, part by part, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The lines of the configuration.
    pub passthrough: Action,
    /// Start or restart.
    pub power: Power,
    /// What is shared with the host; `None` where nothing is or was.
    pub share: Option<Action>,
    /// The driver's userland.
    pub driver: Action,
    /// Repository and packages.
    pub packages: Action,
}

impl Plan {
    /// Compares what should be with what is.
    pub fn compute(intent: &Intent<'_>, situation: &Situation<'_>) -> Self {
        Self {
            passthrough: passthrough(situation),
            power: power(intent, situation),
            share: share(situation),
            driver: driver(intent, situation),
            packages: with_sources(packages(intent, situation), intent.repository.as_deref()),
        }
    }

    /// Whether carrying it out would change anything.
    pub fn changes(&self) -> bool {
        self.passthrough.changes()
            || self.power != Power::Keep
            || self.share.as_ref().is_some_and(Action::changes)
            || self.driver.changes()
            || self.packages.changes()
    }
}

fn passthrough(situation: &Situation<'_>) -> Action {
    let edit = situation.edit;
    if !edit.changed() {
        return Action::Nothing("every device line is there".to_owned());
    }
    let parts = [
        ("add", edit.lines_added.len()),
        ("correct", edit.lines_corrected.len()),
        ("take out", edit.lines_removed.len()),
    ];
    let parts = parts.iter().filter(|(_, count)| *count > 0);
    let text: Vec<String> =
        parts.map(|(verb, count)| format!("{verb} {}", lines(*count))).collect();
    let when = match situation.reach {
        Reach::AtStart => "",
        Reach::WhileRunning => ", while it runs",
    };
    Action::Do(format!("{}{when}", text.join(", ")))
}

fn lines(count: usize) -> String {
    if count == 1 { "1 line".to_owned() } else { format!("{count} lines") }
}

fn power(intent: &Intent<'_>, situation: &Situation<'_>) -> Power {
    if !situation.is_running {
        return Power::Start;
    }
    if situation.edit.changed() && situation.reach == Reach::AtStart {
        return Power::Restart("the configuration changes".to_owned());
    }
    if let Some(why) = situation.pending {
        return Power::Restart(why.to_owned());
    }
    let Some((facts, _)) = situation.inside else { return Power::Keep };
    let nodes = intent.nodes.iter().filter(|node| node.kind == NodeKind::File);
    // Those that are added now are missing by right.
    let is_added =
        |path: &String| situation.edit.lines_added.iter().any(|line| line.contains(path.as_str()));
    for path in nodes.map(|node| &node.path).filter(|path| !is_added(path)) {
        // The configuration is right and the container is not: it was started with another one.
        let stale = match facts.nodes.get(path) {
            Some(NodeState::Missing | NodeState::NotADevice | NodeState::Forbidden) => true,
            Some(NodeState::NoDriver) => situation.answering.contains(path),
            _ => false,
        };
        if stale {
            return Power::Restart(format!("it was started without `{path}` as configured"));
        }
    }
    Power::Keep
}

fn share(situation: &Situation<'_>) -> Option<Action> {
    let Sharing { wanted, leaving, problems, .. } = situation.sharing;
    if wanted.is_empty() && leaving.is_empty() {
        return None;
    }
    let what = match wanted.is_empty() {
        true => "nothing of the host".to_owned(),
        false => format!("{} of the host", wanted.join(" and ")),
    };
    if !situation.is_running {
        return Some(Action::Unknown(format!("{what}: the container is stopped")));
    }
    Some(match (leaving.as_slice(), problems.as_slice()) {
        ([], []) => Action::Nothing(what),
        ([], [first, ..]) => Action::Do(format!("share {what}: {first}")),
        (leaving, _) => Action::Do(format!("share {what} instead of {}", leaving.join(" and "))),
    })
}

fn driver(intent: &Intent<'_>, situation: &Situation<'_>) -> Action {
    let version = intent.version;
    if situation.sharing.driver {
        return Action::Nothing(format!("driver {version} is the host's"));
    }
    let Some((_, state)) = situation.inside else {
        return Action::Unknown(format!("driver {version}: the container is stopped"));
    };
    match state {
        DriverState::Complete => Action::Nothing(format!("driver {version}, every file checked")),
        DriverState::Recorded => {
            Action::Nothing(format!("driver {version} by its record; its files are not compared"))
        }
        DriverState::Absent => Action::Do(format!("install driver {version}")),
        DriverState::Other(old) => Action::Do(format!("replace driver {old} by {version}")),
        DriverState::Damaged(problems) => {
            let first = problems.first().map(String::as_str).unwrap_or_default();
            let others = match problems.len() {
                0 | 1 => String::new(),
                count => format!(" and {} more", count - 1),
            };
            Action::Do(format!("repair driver {version}: {first}{others}"))
        }
    }
}

/// The packages' part with what their repository needs.
fn with_sources(packages: Action, sources: Option<&str>) -> Action {
    match (packages, sources) {
        (packages, None) => packages,
        (Action::Nothing(_), Some(what)) => Action::Do(what.to_owned()),
        (Action::Do(other), Some(what)) => Action::Do(format!("{other}; {what}")),
        (Action::Unknown(other), Some(what)) => Action::Unknown(format!("{other}; {what}")),
    }
}

fn packages(intent: &Intent<'_>, situation: &Situation<'_>) -> Action {
    if intent.packages.is_empty() {
        let why = match situation.sharing.wanted.is_empty() {
            true => "the recipe names no packages",
            false => "nothing is left for apt",
        };
        return Action::Nothing(why.to_owned());
    }
    let Some((facts, _)) = situation.inside else {
        return Action::Unknown(format!("{}: the container is stopped", intent.packages.join(" ")));
    };
    let is_there = |name: &&String| {
        facts.packages.iter().any(|package| package.name == **name && package.is_installed())
    };
    let missing: Vec<&str> =
        intent.packages.iter().filter(|name| !is_there(name)).map(String::as_str).collect();
    if !missing.is_empty() {
        return Action::Do(format!("install {}", missing.join(" ")));
    }
    let is_older = |package: &&facts::Package| {
        let locked = intent.versions.get(&package.name);
        package.is_installed()
            && locked.is_some_and(|locked| version::compare(&package.version, locked).is_lt())
    };
    if let Some(package) = facts.packages.iter().find(is_older) {
        let locked = intent.versions.get(&package.name).map_or("", String::as_str);
        return Action::Do(format!("bring {} from {} to {locked}", package.name, package.version));
    }
    match facts.dpkg {
        DpkgState::Settled => {}
        DpkgState::CutShort => {
            return Action::Do("finish what an interrupted dpkg left behind".to_owned());
        }
        DpkgState::AtWork => {
            return Action::Unknown("apt or dpkg is at work in the container".to_owned());
        }
    }
    let differs = |file: &&AptFile| facts.files.get(file.path) != Some(&file.digest());
    if let Some(file) = intent.files.iter().find(differs) {
        return Action::Do(format!("write `{}`", file.path));
    }
    Action::Nothing(format!("{} installed", intent.packages.join(" ")))
}
