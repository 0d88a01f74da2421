//! What is wrong on a host and in its containers, with a remedy for each thing.
//!
//! [`examine`] makes every check of [`CheckName`] on plain evidence, [`HostEvidence`] and
//! [`ContainerEvidence`], and ranks what it finds. A check that cannot be made says why; that is
//! never the same as finding nothing.

mod configuration;
mod devices;
mod evidence;
mod host;
mod inside;
pub mod lines;
mod remedy;
#[cfg(test)]
mod samples;

use std::fmt;
use std::ops::Deref;

use serde::Serialize;

pub use evidence::{
    Boot, CLibrary, ContainerEvidence, HostEvidence, Inside, Machine, ModuleFile, State, Unread,
};

use crate::ctid::Ctid;

/// Every check, in the order in which findings of the same severity are told: what explains most
/// comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckName {
    /// Host and container: what is looked at can be read.
    Unreadable,
    /// Host: NVIDIA's kernel module is loaded where something wants it.
    KernelModule,
    /// Host: no GPU is held by nouveau.
    Nouveau,
    /// Host: no GPU is given to a container and to a virtual machine.
    GpuClaimedByVm,
    /// Host: `/dev/nvidia-uvm` is there.
    UvmMissing,
    /// Host: the nodes have the numbers that the drivers have now.
    NodeNumber,
    /// Host: everybody may open the nodes that containers mount.
    NodeMode,
    /// Host: the nodes are made before containers start.
    BootOrder,
    /// Configuration: a rule allows a number that a device had before.
    StaleMajor,
    /// Configuration: lines stand where Proxmox VE takes them for a snapshot's.
    WrongSection,
    /// Configuration: a mount entry that LXC ignores.
    AbsoluteTarget,
    /// Configuration: every device is allowed.
    DevicesAllowAll,
    /// Configuration: no capability is dropped.
    Capabilities,
    /// Configuration: AppArmor is off.
    Apparmor,
    /// Configuration: lines that nvstage wrote are gone.
    ConfigDrift,
    /// Configuration: a node is passed that the host lacks.
    MissingDevice,
    /// Configuration: Proxmox VE makes a node that only root may open.
    NodeModeInside,
    /// Configuration: a line about NVIDIA's devices that nothing reads.
    IgnoredLine,
    /// Configuration: a path that is nearly that of a node.
    MisspelledNode,
    /// Configuration: a GPU without the nodes that every program needs.
    IncompleteDevices,
    /// Configuration: LXC's rules forbid a node that is passed.
    ForbiddenDevice,
    /// Configuration: rules of cgroup version 1, which LXC 7.0 does not know.
    CgroupVersion,
    /// Configuration: raw lines among the pending changes.
    PendingLines,
    /// Inside: libraries and kernel module have the same version.
    DriverVersion,
    /// Inside: the nodes open.
    Nodes,
    /// Inside: one driver alone is installed.
    ForeignDriver,
    /// Inside: no libraries of another version lie around.
    LeftOverLibraries,
    /// Inside: Docker in an unprivileged container leaves the device cgroup alone.
    DockerCgroups,
    /// Inside: the C library is glibc.
    Musl,
}

impl CheckName {
    /// The name as it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::KernelModule => "kernel-module",
            Self::Nouveau => "nouveau",
            Self::GpuClaimedByVm => "gpu-claimed-by-vm",
            Self::UvmMissing => "uvm-missing",
            Self::NodeNumber => "node-number",
            Self::NodeMode => "node-mode",
            Self::BootOrder => "boot-order",
            Self::StaleMajor => "stale-major",
            Self::WrongSection => "wrong-section",
            Self::AbsoluteTarget => "absolute-target",
            Self::DevicesAllowAll => "devices-allow-all",
            Self::Capabilities => "capabilities",
            Self::Apparmor => "apparmor",
            Self::ConfigDrift => "config-drift",
            Self::MissingDevice => "missing-device",
            Self::NodeModeInside => "node-mode-inside",
            Self::IgnoredLine => "ignored-line",
            Self::MisspelledNode => "misspelled-node",
            Self::IncompleteDevices => "incomplete-devices",
            Self::ForbiddenDevice => "forbidden-device",
            Self::CgroupVersion => "cgroup-version",
            Self::PendingLines => "pending-lines",
            Self::DriverVersion => "driver-version",
            Self::Nodes => "nodes",
            Self::ForeignDriver => "foreign-driver",
            Self::LeftOverLibraries => "left-over-libraries",
            Self::DockerCgroups => "docker-cgroups",
            Self::Musl => "musl",
        }
    }
}

impl fmt::Display for CheckName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something does not work because of it, or will not after the next start.
    Error,
    /// It works, but is fragile, or weaker than it has to be.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The check that found it.
    pub check: CheckName,
    /// The container it is about; `None` for the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<Ctid>,
    /// What was looked at: a path, a device, a line of a file.
    pub looked_at: String,
    /// What is wrong.
    pub finding: String,
    /// What to do: a command where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<Remedy>,
}

/// What puts something right; in JSON its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Remedy {
    /// A command, as a shell takes it.
    Command(String),
    /// What no one command does.
    Advice(String),
}

impl From<String> for Remedy {
    fn from(command: String) -> Self {
        Self::Command(command)
    }
}

impl From<&str> for Remedy {
    fn from(command: &str) -> Self {
        Self::Command(command.to_owned())
    }
}

impl Deref for Remedy {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Command(text) | Self::Advice(text) => text,
        }
    }
}

/// A check that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Made {
    /// Which one.
    pub check: CheckName,
    /// The container it was made on; `None` for the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<Ctid>,
    /// What was looked at.
    pub looked_at: String,
}

/// A check that could not be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotMade {
    /// Which one.
    pub check: CheckName,
    /// The container it should have been made on; `None` for the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<Ctid>,
    /// Why.
    pub why: String,
}

/// Everything that was looked at, and what is wrong with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// What is wrong: errors first, the host before containers, then in the order of the checks.
    pub findings: Vec<Finding>,
    /// The checks that were made.
    pub checks: Vec<Made>,
    /// The checks that could not be made.
    pub not_made: Vec<NotMade>,
}

/// What a check found, before it is known as whose.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Problem {
    severity: Severity,
    looked_at: String,
    finding: String,
    remedy: Option<Remedy>,
}

impl Problem {
    fn error(looked_at: impl Into<String>, finding: impl Into<String>) -> Self {
        let (looked_at, finding) = (looked_at.into(), finding.into());
        Self { severity: Severity::Error, looked_at, finding, remedy: None }
    }

    fn warning(looked_at: impl Into<String>, finding: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(looked_at, finding) }
    }

    /// Adds what puts it right; a text alone is a command.
    fn remedy(mut self, remedy: impl Into<Remedy>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Adds what puts it right, where that is no one command.
    fn advice(self, advice: impl Into<String>) -> Self {
        self.remedy(Remedy::Advice(advice.into()))
    }
}

/// What a check came to: its problems, or why it could not be made.
type Judged = Result<Vec<Problem>, String>;

/// A check of the host with these containers on it.
type HostCheck = fn(&HostEvidence<'_>, &[ContainerEvidence]) -> Judged;
/// A check of one container's configuration.
type ContainerCheck = fn(&HostEvidence<'_>, &ContainerEvidence) -> Judged;
/// A check of one running container.
type InsideCheck = fn(&HostEvidence<'_>, &ContainerEvidence, &Inside) -> Judged;

/// Makes every check.
pub fn examine(host: &HostEvidence<'_>, containers: &[ContainerEvidence]) -> Diagnosis {
    let mut diagnosis = Diagnosis::default();
    for (check, looked_at, made) in host::CHECKS {
        diagnosis.add((*check, None), looked_at, made(host, containers));
    }
    for container in containers {
        let whose = Some(&container.ctid);
        let unread = container.unread.as_ref().map(|unread| &unread.why);
        for (check, made) in configuration::CHECKS {
            let judged = match unread.filter(|_| *check != CheckName::Unreadable) {
                Some(why) => Err(why.clone()),
                None => made(host, container),
            };
            diagnosis.add((*check, whose), &container.path, judged);
        }
        for (check, looked_at, made) in inside::CHECKS {
            let judged = match (unread, &container.state) {
                (Some(why), _) | (None, State::Unreachable(why)) => Err(why.clone()),
                (None, State::Stopped) => Err("stopped".to_owned()),
                (None, State::Running(inside)) => made(host, container, inside),
            };
            diagnosis.add((*check, whose), looked_at, judged);
        }
    }
    // A stable sort: containers keep the order in which they were given.
    diagnosis
        .findings
        .sort_by_key(|finding| (finding.severity, finding.container.is_some(), finding.check));
    diagnosis
}

impl Diagnosis {
    fn add(&mut self, what: (CheckName, Option<&Ctid>), looked_at: &str, judged: Judged) {
        let (check, container) = (what.0, what.1.cloned());
        let problems = match judged {
            Ok(problems) => problems,
            Err(why) => return self.not_made.push(NotMade { check, container, why }),
        };
        let finding = |problem: Problem| Finding {
            severity: problem.severity,
            check,
            container: container.clone(),
            looked_at: problem.looked_at,
            finding: problem.finding,
            remedy: problem.remedy,
        };
        self.findings.extend(problems.into_iter().map(finding));
        self.checks.push(Made { check, container, looked_at: looked_at.to_owned() });
    }
}

/// The first of several things, and how many more there are.
fn with_more(first: &str, all: usize) -> String {
    match all {
        0 | 1 => format!("`{first}`"),
        all => format!("`{first}` and {} more", all - 1),
    }
}

/// The word for one thing, or for several.
fn number<'a>(count: usize, one: &'a str, several: &'a str) -> &'a str {
    if count == 1 { one } else { several }
}

/// `container 201`, `containers 201 and 202`.
pub fn containers_named(ctids: &[Ctid]) -> String {
    let names: Vec<String> = ctids.iter().map(ToString::to_string).collect();
    format!("{} {}", number(names.len(), "container", "containers"), listed(&names))
}

/// A list as people write it: `a, b and c`.
fn listed(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [front @ .., last] => format!("{} and {last}", front.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::samples::{CONFIG, container, healthy_host, host_of, running, silent_gpu};
    use super::*;
    use crate::gpu::Source;

    #[test]
    fn a_healthy_host_and_its_containers_have_no_findings() {
        let host = healthy_host();
        let unprivileged = format!("{CONFIG}unprivileged: 1\n");
        for text in [CONFIG, &unprivileged] {
            let diagnosis = examine(&host_of(&host), &[running(container(text))]);
            assert_eq!(diagnosis.findings, []);
            assert_eq!(diagnosis.not_made, []);
            assert_eq!(diagnosis.checks.len(), 30);
        }
    }

    #[test]
    fn a_stopped_container_says_which_checks_could_not_be_made() {
        let host = healthy_host();
        let diagnosis = examine(&host_of(&host), &[container(CONFIG)]);
        let names: Vec<_> = diagnosis.not_made.iter().map(|one| one.check.name()).collect();
        assert_eq!(
            names,
            [
                "driver-version",
                "nodes",
                "foreign-driver",
                "left-over-libraries",
                "docker-cgroups",
                "musl"
            ]
        );
        assert!(diagnosis.not_made.iter().all(|one| one.why == "stopped"));
    }

    #[test]
    fn a_container_that_cannot_be_read_is_a_finding_and_the_others_are_looked_at() {
        let (host, mut sick) = (healthy_host(), container(""));
        let why = "failed to read it: Input/output error".to_owned();
        sick.unread = Some(Unread { source: None, why, hint: None });
        let diagnosis = examine(&host_of(&host), &[sick, running(container(CONFIG))]);
        assert_eq!(diagnosis.findings.len(), 1);
        assert_eq!(diagnosis.findings[0].check, CheckName::Unreadable);
        assert_eq!(diagnosis.not_made.len(), 21);
        assert!(diagnosis.not_made.iter().all(|one| one.why.contains("Input/output")));
        assert_eq!(diagnosis.checks.len(), 31);
    }

    #[test]
    fn a_container_whose_state_nobody_knows_is_a_finding() {
        let (host, mut silent) = (healthy_host(), container(CONFIG));
        silent.state = State::Unreachable("LXC does not answer".to_owned());
        let diagnosis = examine(&host_of(&host), &[silent]);
        assert_eq!(diagnosis.findings.len(), 1);
        assert_eq!(diagnosis.findings[0].finding, "LXC does not answer");
        assert_eq!(diagnosis.not_made.len(), 6);
    }

    #[test]
    fn a_gpu_that_does_not_answer_is_a_finding_and_the_rest_is_judged() {
        let mut host = healthy_host();
        host.unread.push(silent_gpu());
        host.gpus.remove(0);
        let diagnosis = examine(&host_of(&host), &[running(container(CONFIG))]);
        let found: Vec<_> = diagnosis.findings.iter().map(|one| one.check).collect();
        assert_eq!(found, [CheckName::Unreadable]);
        assert!(diagnosis.findings[0].remedy.as_deref().unwrap().contains("dmesg"));
        assert_eq!(diagnosis.not_made, []);
        host.unread[0].source = Some(Source::Module);
        host.module = None;
        let diagnosis = examine(&host_of(&host), &[running(container(CONFIG))]);
        let names: Vec<_> = diagnosis.not_made.iter().map(|one| one.check.name()).collect();
        assert_eq!(names, ["kernel-module", "uvm-missing", "stale-major", "driver-version"]);
        assert_eq!(diagnosis.findings.len(), 1);
    }

    #[test]
    fn errors_come_first_then_the_host_then_the_order_of_the_checks() {
        let mut host = healthy_host();
        host.boot.refresh_unit = None;
        host.nodes.retain(|node| node.path != "/dev/nvidia-uvm");
        let text = format!(
            "{CONFIG}lxc.cgroup2.devices.allow: a\ndev0: /dev/nvidia9\nlxc.apparmor.profile: unconfined\n"
        );
        let diagnosis = examine(&host_of(&host), &[running(container(&text))]);
        let told: Vec<_> = diagnosis
            .findings
            .iter()
            .map(|one| (one.severity, one.container.is_some(), one.check.name()))
            .collect();
        assert_eq!(
            told,
            [
                (Severity::Error, false, "uvm-missing"),
                (Severity::Error, true, "missing-device"),
                (Severity::Warning, false, "boot-order"),
                (Severity::Warning, true, "devices-allow-all"),
                (Severity::Warning, true, "apparmor"),
                (Severity::Warning, true, "node-mode-inside"),
            ]
        );
    }

    #[test]
    fn the_name_in_json_is_the_name_in_text() {
        let checks = host::CHECKS.iter().map(|(check, ..)| *check);
        let checks = checks.chain(configuration::CHECKS.iter().map(|(check, _)| *check));
        for check in checks.chain(inside::CHECKS.iter().map(|(check, ..)| *check)) {
            assert_eq!(serde_json::to_value(check).unwrap(), check.name());
        }
    }
}
