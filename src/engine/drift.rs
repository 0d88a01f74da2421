//! What of a container is not as nvstage left it, or does not fit its host any more; each with what
//! puts it right.

use serde::Serialize;

use crate::container::config::LxcConfig;
use crate::container::passthrough::{self, Applied};
use crate::container::problems::{self, DeviceProblem, HostDevices};
use crate::container::rules;
use crate::ctid::Ctid;
use crate::engine::pending;
use crate::engine::refresh;
use crate::engine::status::{ContainerStatus, Files, Machine, Source, State, is_attached};
use crate::error::Error;
use crate::host::devices;
use crate::host::paths::Paths;
use crate::host::running;
use crate::journal::Journal;
use crate::recipe::Userland;
use crate::remedy;

/// What kind of thing differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The driver is not of the loaded kernel module's version, or not there.
    Driver,
    /// A run has not come to its end: it is at work, or was cut short.
    Incomplete,
    /// Lines of nvstage's are not in the configuration any more.
    Lines,
    /// Device rules have numbers that the devices do not have any more.
    Numbers,
    /// What the configuration passes cannot work.
    Devices,
    /// There is a journal, and no such container.
    Gone,
    /// The journal cannot be read.
    Journal,
    /// The configuration cannot be read.
    Configuration,
    /// LXC does not tell whether it runs.
    State,
    /// A restart was left pending.
    Restart,
}

impl Kind {
    /// Its name, as the JSON has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Incomplete => "incomplete",
            Self::Lines => "lines",
            Self::Numbers => "numbers",
            Self::Devices => "devices",
            Self::Gone => "gone",
            Self::Journal => "journal",
            Self::Configuration => "configuration",
            Self::State => "state",
            Self::Restart => "restart",
        }
    }
}

/// One thing that differs.
#[derive(Debug, Clone, Serialize)]
pub struct Drift {
    /// What kind of thing.
    pub kind: Kind,
    /// What it is, in words.
    pub text: String,
    /// What puts it right, where that is known.
    pub remedy: Option<String>,
}

impl Drift {
    fn new(kind: Kind, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { kind, text: text.into(), remedy: Some(remedy.into()) }
    }

    /// Something that cannot be read: the error, its causes and what it advises.
    pub(super) fn of_error(kind: Kind, error: &Error) -> Self {
        let causes = error.causes().iter().map(|cause| format!(": {cause}"));
        let text = format!("failed to {}", error.what()) + &causes.collect::<String>();
        Self { kind, text, remedy: error.hints().first().cloned() }
    }
}

/// The container of a journal is not on this node.
pub(super) fn gone(ctid: &Ctid, error: &Error, paths: &Paths) -> Drift {
    let what = error.what();
    let what = what.strip_prefix("find it on this node: ").or(what.strip_prefix("find it: "));
    let what = what.unwrap_or(error.what());
    Drift::new(Kind::Gone, format!("{what}, and has a journal"), forget(ctid, paths))
}

/// Its number is another container's now.
pub(super) fn of_another(ctid: &Ctid, paths: &Paths) -> Drift {
    let text = "its journal is of a container that had its number before";
    Drift::new(Kind::Gone, text, forget(ctid, paths))
}

fn forget(ctid: &Ctid, paths: &Paths) -> String {
    format!("`{}`", remedy::forget(&paths.journals().join(format!("{ctid}.json"))))
}

/// Everything that differs of a container whose files were read.
pub(super) fn of(machine: &Machine<'_>, status: &ContainerStatus, files: &Files) -> Vec<Drift> {
    let attached = files.journal.as_ref().filter(|journal| is_attached(journal));
    let mut found = Vec::new();
    let unfinished = files.journal.as_ref().and_then(|journal| journal.unfinished.as_ref());
    if let Some(unfinished) = unfinished {
        let remedy = format!("`{}`", unfinished.command(&status.container));
        found.push(Drift::new(Kind::Incomplete, unfinished.text(), remedy));
        if unfinished.is_removal() || unfinished.driver.is_some() {
            // What else differs does so because of that.
            return found;
        }
    }
    if attached.is_some() || (files.journal.is_none() && !status.gpus.is_empty()) {
        found.extend(of_driver(machine, status, files));
    }
    if attached.is_some() {
        found.extend(of_driver_lines(status));
    }
    let next = files.config.at_next_start();
    if let Some(journal) = attached {
        found.extend(of_lines(&status.container, (files, &next), journal));
        found.extend(of_numbers(machine, files, journal));
    }
    found.extend(of_restart(machine, status, files));
    if status.state != State::Template {
        let devices = of_devices(machine, &next, &found, status);
        found.extend(devices);
    }
    found
}

/// Provisions a container; one that nvstage does not manage with the GPUs that it has.
fn provision(status: &ContainerStatus, is_managed: bool) -> String {
    let gpus: Vec<String> = status.gpus.iter().map(|used| used.index.to_string()).collect();
    match is_managed {
        true => remedy::provision(&status.container),
        false => remedy::provision_first(&status.container, &gpus.join(",")),
    }
}

/// What the configuration passes and cannot work; lines and numbers have been told in `found`.
fn of_devices(
    machine: &Machine<'_>,
    next: &LxcConfig,
    found: &[Drift],
    status: &ContainerStatus,
) -> Vec<Drift> {
    let has = |kind: Kind| found.iter().any(|drift| drift.kind == kind);
    let is_told = |problem: &DeviceProblem| match problem {
        DeviceProblem::Incomplete { .. } => has(Kind::Lines),
        DeviceProblem::Forbidden { nodes, cause } => {
            let mut nodes = nodes.iter();
            let is_dynamic = nodes.all(|node| rules::is_dynamic(node.number.0));
            (has(Kind::Lines) && cause.is_none()) || (has(Kind::Numbers) && is_dynamic)
        }
        DeviceProblem::Ignored { .. }
        | DeviceProblem::Misspelled { .. }
        | DeviceProblem::Closed { .. } => false,
    };
    let ctid = &status.container;
    let provision = match status.method {
        Some(_) => format!("`{}`", remedy::provision(ctid)),
        None => format!("`nvstage doctor {ctid}` tells it"),
    };
    let paths = &machine.host().paths;
    let exists = |path: &str| paths.host_path(path).exists();
    let host = HostDevices { nodes: &machine.inventory.nodes, exists: &exists };
    let drift = |problem: DeviceProblem| {
        let by_hand = problem.edit().map(|edit| format!("{edit} of its configuration"));
        Drift::new(Kind::Devices, problem.to_string(), by_hand.unwrap_or(provision.clone()))
    };
    let problems = problems::problems(next, host).into_iter();
    problems.filter(|problem| !is_told(problem)).map(drift).collect()
}

fn of_driver(machine: &Machine<'_>, status: &ContainerStatus, files: &Files) -> Option<Drift> {
    if status.state == State::Template && status.method != Some(Userland::Share) {
        // It cannot be changed: that is told by `of_template`.
        return None;
    }
    let attached = files.journal.as_ref();
    let ctid = &status.container;
    let module = machine.inventory.module_version()?;
    let provision = || provision(status, attached.is_some());
    let sync = || remedy::sync(ctid);
    let drift = |text: String, command: String| {
        Some(Drift::new(Kind::Driver, text, format!("`{command}`")))
    };
    match (&status.driver, attached) {
        (Some(seen), _) if seen.version == *module => {
            let first = files.lacking.first()?;
            let text = match files.lacking.len() {
                1 => format!("incomplete: {first}"),
                count => format!("incomplete: {first}, and {} more", count - 1),
            };
            drift(text, if attached.is_some() { sync() } else { provision() })
        }
        (Some(seen), Some(_)) if seen.source == Source::Host => {
            let text = format!(
                "it gets driver {} at its next start, the kernel module is {module}",
                seen.version
            );
            drift(text, sync())
        }
        (Some(seen), attached) => {
            let text = format!("driver {}, the kernel module is {module}", seen.version);
            drift(text, if attached.is_some() { sync() } else { provision() })
        }
        (None, Some(journal)) => match (journal.userland, status.state) {
            (Userland::Share, State::Running) => {
                drift("it does not see the host's driver".to_owned(), provision())
            }
            (Userland::Share, _) => {
                let text = "it gets no driver at its next start: the host shares none";
                drift(text.to_owned(), sync())
            }
            (Userland::Installer, _) => drift("it has no driver".to_owned(), provision()),
        },
        // Somebody else's, who may have no use for one.
        (None, None) => None,
    }
}

fn of_driver_lines(status: &ContainerStatus) -> Option<Drift> {
    let first = status.driver_lines.first()?;
    let text = format!("its configuration brings another driver: `{first}`");
    let remedy = format!("`{}`", remedy::adopt(&status.container));
    Some(Drift::new(Kind::Lines, text, remedy))
}

fn of_restart(machine: &Machine<'_>, status: &ContainerStatus, files: &Files) -> Option<Drift> {
    let (ctid, paths) = (&status.container, &machine.host().paths);
    let pid = running::init_process(paths, ctid)?;
    let pending = pending::of(paths, pid, files.journal.as_ref()?)?;
    let text = format!("a restart is pending: {}", pending.why);
    let restart = remedy::restart(files.config.dialect(), ctid);
    Some(Drift::new(Kind::Restart, text, format!("`{restart}`")))
}

/// What there is to know of a template, whose driver cannot be changed.
pub(super) fn of_template(machine: &Machine<'_>, status: &ContainerStatus) -> Option<String> {
    let module = machine.inventory.module_version()?;
    let is_own = status.state == State::Template && status.method == Some(Userland::Installer);
    let seen = status.driver.as_ref().filter(|seen| is_own && seen.version != *module)?;
    Some(format!(
        "a template with driver {}, which cannot be changed: its clones are provisioned to {module}",
        seen.version
    ))
}

/// Of the configuration that the next start has.
fn of_lines(ctid: &Ctid, (files, next): (&Files, &LxcConfig), journal: &Journal) -> Option<Drift> {
    let applied = Applied { own: &journal.lines, nodes: &journal.nodes };
    let missing = passthrough::missing(next, applied, journal.method);
    let first = missing.first()?;
    let now = passthrough::missing(&files.config, applied, journal.method);
    let when = match missing == now {
        true => "",
        false => "after its next start, by what is pending in `[pve:pending]`, ",
    };
    let text = match missing.len() {
        1 => format!("{when}its configuration lacks `{first}`"),
        number => format!("{when}its configuration lacks {number} lines, the first is `{first}`"),
    };
    Some(Drift::new(Kind::Lines, text, format!("`{}`", remedy::provision(ctid))))
}

fn of_numbers(machine: &Machine<'_>, files: &Files, journal: &Journal) -> Option<Drift> {
    if !refresh::needs_numbers(journal) {
        return None;
    }
    let paths = &machine.host().paths;
    let applied = Applied { own: &journal.lines, nodes: &journal.nodes };
    let now = |node: &_| devices::numbers(paths, node);
    let edit = passthrough::renumber(&files.config, applied, machine.majors(), now).edit;
    let (old, new) = edit.lines_corrected.first()?;
    let text = match edit.lines_corrected.len() {
        1 => format!("a device rule is outdated: `{old}` should be `{new}`"),
        number => format!("{number} device rules are outdated, `{old}` should be `{new}`"),
    };
    Some(Drift::new(Kind::Numbers, text, format!("`{}`", remedy::refresh())))
}
