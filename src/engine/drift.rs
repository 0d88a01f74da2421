//! What of a container is not as nvstage left it, or does not fit its host any more; each with what
//! puts it right.

use serde::Serialize;

use crate::container::passthrough::{self, Applied};
use crate::ctid::Ctid;
use crate::engine::refresh;
use crate::engine::status::{ContainerStatus, Files, Machine, Source, State, is_attached};
use crate::error::Error;
use crate::host::devices;
use crate::host::paths::Paths;
use crate::journal::Journal;
use crate::recipe::Userland;

/// What kind of thing differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The driver is not of the loaded kernel module's version, or not there.
    Driver,
    /// Lines of nvstage's are not in the configuration any more.
    Lines,
    /// Device rules have numbers that the devices do not have any more.
    Numbers,
    /// There is a journal, and no such container.
    Gone,
    /// The journal cannot be read.
    Journal,
    /// The configuration cannot be read.
    Configuration,
    /// LXC does not tell whether it runs.
    State,
}

impl Kind {
    /// Its name, as the JSON has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Lines => "lines",
            Self::Numbers => "numbers",
            Self::Gone => "gone",
            Self::Journal => "journal",
            Self::Configuration => "configuration",
            Self::State => "state",
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
    format!("remove `{}`", paths.journals().join(format!("{ctid}.json")).display())
}

/// Everything that differs of a container whose files were read.
pub(super) fn of(machine: &Machine<'_>, status: &ContainerStatus, files: &Files) -> Vec<Drift> {
    let attached = files.journal.as_ref().filter(|journal| is_attached(journal));
    let mut found = Vec::new();
    if attached.is_some() || (files.journal.is_none() && !status.gpus.is_empty()) {
        found.extend(of_driver(machine, status, attached));
    }
    if attached.is_some() {
        found.extend(of_driver_lines(status));
    }
    if let Some(journal) = attached {
        found.extend(of_lines(&status.container, files, journal));
        found.extend(of_numbers(machine, files, journal));
    }
    found
}

fn of_driver(
    machine: &Machine<'_>,
    status: &ContainerStatus,
    attached: Option<&Journal>,
) -> Option<Drift> {
    let ctid = &status.container;
    let module = machine.inventory.module_version()?;
    let provision = format!("`nvstage provision {ctid}`");
    let drift = |text: String, remedy: &str| Some(Drift::new(Kind::Driver, text, remedy));
    match (&status.driver, attached) {
        (Some(seen), _) if seen.version == *module => None,
        (Some(seen), Some(_)) if seen.source == Source::Host => {
            let text = format!(
                "it gets driver {} at its next start, the kernel module is {module}",
                seen.version
            );
            drift(text, "`nvstage sync`")
        }
        (Some(seen), attached) => {
            let text = format!("driver {}, the kernel module is {module}", seen.version);
            drift(text, if attached.is_some() { "`nvstage sync`" } else { &provision })
        }
        (None, Some(journal)) => match (journal.userland, status.state) {
            (Userland::Share, State::Running) => {
                drift("it does not see the host's driver".to_owned(), &provision)
            }
            (Userland::Share, _) => {
                let text = "it gets no driver at its next start: the host shares none";
                drift(text.to_owned(), "`nvstage sync`")
            }
            (Userland::Installer, _) => drift("it has no driver".to_owned(), &provision),
        },
        // Somebody else's, who may have no use for one.
        (None, None) => None,
    }
}

fn of_driver_lines(status: &ContainerStatus) -> Option<Drift> {
    let first = status.driver_lines.first()?;
    let text = format!("its configuration brings another driver: `{first}`");
    let remedy = format!("`nvstage provision {} --adopt`", status.container);
    Some(Drift::new(Kind::Lines, text, remedy))
}

fn of_lines(ctid: &Ctid, files: &Files, journal: &Journal) -> Option<Drift> {
    let applied = Applied { own: &journal.lines, nodes: &journal.nodes };
    let missing = passthrough::missing(&files.config, applied, journal.method);
    let first = missing.first()?;
    let text = match missing.len() {
        1 => format!("its configuration lacks `{first}`"),
        number => format!("its configuration lacks {number} lines, the first is `{first}`"),
    };
    Some(Drift::new(Kind::Lines, text, format!("`nvstage provision {ctid}`")))
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
    Some(Drift::new(Kind::Numbers, text, "`nvstage refresh`"))
}
