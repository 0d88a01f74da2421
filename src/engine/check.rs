//! The checks: what can be judged here is judged, what cannot is said to be not checkable.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use crate::container::passthrough::{DeviceNode, NodeKind};
use crate::facts::{DpkgState, Facts, NodeState};
use crate::plan::DriverState;
use crate::recipe::Check;
use crate::report::Outcome;
use crate::version::DriverVersion;

/// What a check came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", content = "why", rename_all = "snake_case")]
pub enum Verdict {
    /// It holds.
    Passed,
    /// It does not hold: why.
    Failed(String),
    /// It was not looked at as it should be: what is lacking for that. Never the same as passed.
    NotCompared(String),
    /// This host cannot tell: why. Never the same as passed.
    NotCheckable(String),
}

/// One check and its verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// What was looked at.
    pub name: String,
    /// What it came to.
    pub verdict: Verdict,
}

impl Checked {
    /// The check as a line of a report.
    pub fn outcome(&self) -> Outcome {
        let name = &self.name;
        match &self.verdict {
            Verdict::Passed => Outcome::Unchanged(format!("{name} passed")),
            Verdict::Failed(why) => Outcome::Failed(format!("{name}: {why}")),
            Verdict::NotCompared(why) => Outcome::Warned(format!("{name} not compared: {why}")),
            Verdict::NotCheckable(why) => {
                Outcome::Skipped(format!("{name} not checkable here: {why}"))
            }
        }
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.verdict {
            Verdict::Passed => write!(f, "{} passed", self.name),
            Verdict::Failed(why) => write!(f, "{} failed: {why}", self.name),
            Verdict::NotCompared(why) => write!(f, "{} not compared: {why}", self.name),
            Verdict::NotCheckable(why) => write!(f, "{} not checkable here: {why}", self.name),
        }
    }
}

/// What the checks are judged by.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// What was seen inside.
    pub facts: &'a Facts,
    /// The driver, file by file.
    pub driver: &'a DriverState,
    /// The loaded kernel module's version.
    pub module: Option<&'a DriverVersion>,
    /// The version that should be installed.
    pub version: &'a DriverVersion,
    /// The nodes that should open.
    pub nodes: &'a [DeviceNode],
    /// The packages that should be installed.
    pub packages: &'a [String],
    /// The nodes that a driver answers behind on the host although it does not inside.
    pub answering: &'a BTreeSet<String>,
}

/// Carries out the checks of a recipe.
pub fn run(checks: &[Check], evidence: &Evidence<'_>) -> Vec<Checked> {
    let judge = |check: &Check| Checked {
        name: check.name().to_owned(),
        verdict: match check {
            Check::Libraries => libraries(evidence),
            Check::Nodes => nodes(evidence),
            Check::NvidiaSmi => nvidia_smi(evidence),
            Check::Packages => packages(evidence),
        },
    };
    checks.iter().map(judge).collect()
}

const NO_MODULE: &str = "no NVIDIA kernel module is loaded on this host";

/// Files are as the manifest says, and the libraries that programs find are of the module's
/// version, all three parts of it.
fn libraries(evidence: &Evidence<'_>) -> Verdict {
    match evidence.driver {
        DriverState::Absent => return Verdict::Failed("no driver is installed".to_owned()),
        DriverState::Other(version) => {
            let wanted = evidence.version;
            return Verdict::Failed(format!("driver {version} is installed, {wanted} is wanted"));
        }
        DriverState::Damaged(problems) => return Verdict::Failed(problems.join(", ")),
        DriverState::Complete | DriverState::Recorded => {}
    }
    let wanted = evidence.module.unwrap_or(evidence.version);
    for library in ["libcuda.so.1", "libnvidia-ml.so.1"] {
        match evidence.facts.library_version(library) {
            Some(version) if &version == wanted => {}
            Some(version) => {
                let why = format!("`{library}` is {version}, the kernel module {wanted}");
                return Verdict::Failed(why);
            }
            None => return Verdict::Failed(format!("`{library}` is not found by programs")),
        }
    }
    if evidence.driver == &DriverState::Recorded {
        let version = evidence.version;
        return Verdict::NotCompared(format!(
            "the cache has no installer of driver {version} to compare its files with"
        ));
    }
    match evidence.module {
        Some(_) => Verdict::Passed,
        None => Verdict::NotCheckable(NO_MODULE.to_owned()),
    }
}

/// Every node opens. Where it does not, a host whose own node does not answer either cannot tell.
fn nodes(evidence: &Evidence<'_>) -> Verdict {
    let mut silent = Vec::new();
    for node in evidence.nodes.iter().filter(|node| node.kind == NodeKind::File) {
        match evidence.facts.nodes.get(&node.path) {
            Some(NodeState::Opens) => {}
            Some(NodeState::NoDriver) if !evidence.answering.contains(&node.path) => {
                silent.push(format!("`{}`", node.path));
            }
            Some(state) => return Verdict::Failed(format!("`{}` {state}", node.path)),
            None => return Verdict::Failed(format!("`{}` was not looked at", node.path)),
        }
    }
    if silent.is_empty() {
        return Verdict::Passed;
    }
    let list = silent.join(", ");
    Verdict::NotCheckable(format!(
        "allowed, but no driver answers behind {list} on this host either"
    ))
}

fn nvidia_smi(evidence: &Evidence<'_>) -> Verdict {
    let Some(smi) = &evidence.facts.smi else {
        return Verdict::Failed("`nvidia-smi` is not installed".to_owned());
    };
    if !smi.is_owned {
        let file = &smi.file;
        return Verdict::Failed(format!("`{file}` belongs neither to the driver nor to a package"));
    }
    if smi.status == 0 && smi.output.trim().is_empty() {
        return Verdict::Failed("it printed nothing (status 0)".to_owned());
    }
    if smi.status == 0 {
        return match evidence.module {
            Some(_) => Verdict::Passed,
            None => Verdict::NotCheckable(NO_MODULE.to_owned()),
        };
    }
    if evidence.module.is_none() {
        return Verdict::NotCheckable(NO_MODULE.to_owned());
    }
    let first = smi.output.lines().next().unwrap_or_default();
    if smi.status == 9 && matches!(nodes(evidence), Verdict::NotCheckable(_)) {
        return Verdict::NotCheckable("no driver answers on this host".to_owned());
    }
    let meaning = match smi.status {
        9 => "it cannot talk to the kernel module",
        12 => "libnvidia-ml is missing",
        18 => "kernel module and libraries differ",
        124 => "it hung for 60 s",
        127 => "it cannot be run",
        _ => "it failed",
    };
    Verdict::Failed(format!("{meaning} (status {}): {first}", smi.status))
}

fn packages(evidence: &Evidence<'_>) -> Verdict {
    let is_there = |name: &&String| {
        let packages = &evidence.facts.packages;
        packages.iter().any(|package| package.name == **name && package.is_installed())
    };
    let missing: Vec<&str> =
        evidence.packages.iter().filter(|name| !is_there(name)).map(String::as_str).collect();
    match (evidence.facts.dpkg, missing.as_slice()) {
        (DpkgState::AtWork, _) => {
            Verdict::NotCheckable("apt or dpkg is at work in the container".to_owned())
        }
        (_, [_, ..]) => Verdict::Failed(format!("{} not installed", missing.join(", "))),
        (DpkgState::CutShort, []) => {
            Verdict::Failed("dpkg was interrupted, or left something half-installed".to_owned())
        }
        (DpkgState::Settled, []) => Verdict::Passed,
    }
}
