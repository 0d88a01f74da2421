//! From the device nodes a container should have to the edit of its configuration file.
//!
//! [`edit`] compares the live section with what is wanted. It owns lines by their meaning, the path
//! of the device: those that nvstage wrote ([`OwnLine`], kept in the journal) and those in exactly
//! its form. It adds what is missing, corrects lines of the replaced script's form and rules with
//! a major that no driver has any more, takes out what it owns and nobody wants any longer, and
//! tells of every other line about NVIDIA devices without touching it. Editing the result again
//! changes nothing. [`withdraw`] undoes it, [`renumber`] follows majors that have changed.

mod change;
mod decide;
mod missing;
mod others;
mod survey;
mod undo;

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::config::{Access, Dialect, LineKind, LxcConfig, PendingChange};
use super::mount::{self, Effect};
use super::rules;
use super::shared::{self, SharedTree};
use crate::error::{Error, Result};

pub use self::missing::missing;
use self::survey::Survey;
pub use self::undo::{Applied, Renumbered, in_our_form, renumber, withdraw};

/// How device nodes get into a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// `lxc.mount.entry` lines, and rules for a privileged container.
    #[default]
    Mount,
    /// Proxmox VE's `dev[n]`, 8.1 and newer: it makes the nodes itself at every start, with the
    /// numbers that the host's have then.
    Device,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Mount => "mount",
            Self::Device => "device",
        })
    }
}

/// A device node of the host that a container should have at the same path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceNode {
    /// The path, `/dev/nvidia0`.
    pub path: String,
    /// Whether it is the node itself or a directory of nodes.
    pub kind: NodeKind,
    /// Major and minor number of the node, or of every node in the directory that a container is to
    /// open.
    pub numbers: Vec<(u64, u64)>,
}

/// What is at the path of a [`DeviceNode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// A character device.
    File,
    /// A directory of character devices, `/dev/nvidia-caps`.
    Directory,
}

/// Who inside may use a node that Proxmox VE makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Users {
    /// Everybody: `mode=0666`, as the host's own nodes have it.
    #[default]
    Everybody,
    /// Root and the group with this number inside: `gid=…,mode=0660`.
    Group(u32),
}

/// What a container should have.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The nodes.
    pub nodes: &'a [DeviceNode],
    /// How they get inside.
    pub method: Method,
    /// Who may use them there; for [`Method::Device`] alone.
    pub users: Users,
    /// The majors that character devices of this host have now; empty where that is not known, and
    /// then no rule is taken for an outdated one.
    pub majors: &'a BTreeSet<u64>,
    /// The trees of the host's that it shares.
    pub trees: &'a [SharedTree],
    /// The lines that nvstage wrote before.
    pub own: &'a [OwnLine],
    /// What becomes of lines that bring a driver of the host's by another way.
    pub driver_lines: DriverLines,
}

/// What becomes of lines by which a container gets a driver of its host's by another way
/// ([`driver_files`](super::driver_files)). Those that were taken out once are taken out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DriverLines {
    /// The edit is refused: two drivers at once do not work.
    #[default]
    Refuse,
    /// They are taken out; [`withdraw`] puts them back.
    TakeOut,
    /// They stay.
    Keep,
}

/// A line of a configuration file that nvstage wrote, and what stood there before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnLine {
    /// The line; `None` where one of somebody else's was taken out and nothing put in its place.
    pub text: Option<String>,
    /// The line of somebody else's that it took the place of.
    pub replaced: Option<String>,
}

/// What has to change in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// The file as it should be.
    pub config: LxcConfig,
    /// Lines that are added, in the order in which they stand.
    pub lines_added: Vec<String>,
    /// Lines that are corrected in place: before, after.
    pub lines_corrected: Vec<(String, String)>,
    /// Lines that are taken out.
    pub lines_removed: Vec<String>,
    /// Lines about NVIDIA devices that are somebody else's and stay as they are.
    pub foreign: Vec<ForeignLine>,
    /// What is nvstage's afterwards, for the journal.
    pub own: Vec<OwnLine>,
}

impl Edit {
    /// Whether the file changes at all.
    pub fn changed(&self) -> bool {
        !self.lines_added.is_empty()
            || !self.lines_corrected.is_empty()
            || !self.lines_removed.is_empty()
    }

    /// Whether it changes anything but the lines of shared trees, which can be shown in a container
    /// that runs.
    pub fn changes_devices(&self) -> bool {
        let added = self.lines_added.iter().chain(&self.lines_removed);
        let corrected = self.lines_corrected.iter().flat_map(|(old, new)| [old, new]);
        let dialect = self.config.dialect();
        added.chain(corrected).any(|line| !shared::is_shared_text(line, dialect))
    }

    /// The `dev[n]` entries that are added, as key and value: those that Proxmox VE 9 adds to a
    /// running container. `None` where there are none, or anything else changes than shared trees
    /// are added.
    pub fn devices_while_running(&self) -> Option<Vec<(&str, &str)>> {
        if !self.lines_corrected.is_empty() || !self.lines_removed.is_empty() {
            return None;
        }
        let added = self.lines_added.iter();
        let (devices, others): (Vec<&String>, Vec<&String>) =
            added.partition(|line| line.starts_with("dev"));
        let dialect = self.config.dialect();
        let all = others.iter().all(|line| shared::is_shared_text(line, dialect));
        let pairs = || devices.iter().filter_map(|line| line.split_once(": ")).collect();
        (all && !devices.is_empty()).then(pairs)
    }

    /// Whether trees of the host's are among what is added.
    pub fn adds_trees(&self) -> bool {
        let dialect = self.config.dialect();
        self.lines_added.iter().any(|line| shared::is_shared_text(line, dialect))
    }
}

/// A line that was found and left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignLine {
    /// Its number in the file that was read, from 1.
    pub number: usize,
    /// Its text.
    pub text: String,
    /// Why it was left alone, and what it does or fails to do.
    pub why: String,
}

/// Computes the edit that gives the container these nodes.
///
/// What counts is what the next start has ([`LxcConfig::at_next_start`]). A container also gets a
/// rule for every device number that LXC's list does not let it open. A node that somebody else's
/// line passes is passed.
///
/// A tree that is shared gets a mount entry; one of ours that is not wanted any more goes.
///
/// Nothing that somebody else's line mounts is hidden: a directory of nodes gives way to its single
/// nodes where such a line passes something below it.
///
/// # Errors
/// Host error when all 256 `dev[n]` are in use, a rule denies a device, another line mounts something
/// onto the place of a node or a shared tree, or below the latter, or brings a driver and is not to
/// be taken out, or pending changes would undo the edit.
pub fn edit(config: &LxcConfig, wanted: &Wanted<'_>) -> Result<Edit> {
    let edit = decide::edit(config, wanted)?;
    let is_undoing = |change: &PendingChange| matches!(change, PendingChange::RawLines { .. });
    match edit.changed() && edit.config.pending().iter().any(is_undoing) {
        true => Err(refuse_pending()),
        false => Ok(edit),
    }
}

/// The error for lines that `[pve:pending]` replaces, or has.
fn refuse_pending() -> Error {
    Error::host("edit its configuration: what is pending would undo it")
        .because("at the next start the `lxc.*` lines of `[pve:pending]` replace all others")
        .hint("take the `lxc.*` lines out of that section, or start and stop the container")
}

/// Whether the live section passes a node, so that a container can use it: by a mount entry that
/// works, or by `dev[n]`.
pub fn passes(config: &LxcConfig, node: &DeviceNode) -> bool {
    let survey = Survey::new(config, &[]);
    let is_mounted = !survey.mounts(node, &Effect::Passes).is_empty();
    is_mounted || survey.devices_of(node).any(|device| device.access == Access::ReadWrite)
}

/// The value of the `dev[n]` that passes a node. Those of capabilities are opened for reading alone,
/// and readable for all on the host.
fn device_value(node: &DeviceNode, users: Users) -> String {
    let path = &node.path;
    let is_capability = path.starts_with("/dev/nvidia-caps/");
    match (users, is_capability) {
        (Users::Everybody, false) => format!("{path},mode=0666"),
        (Users::Everybody, true) => format!("{path},mode=0444"),
        (Users::Group(gid), false) => format!("{path},gid={gid},mode=0660"),
        (Users::Group(gid), true) => format!("{path},gid={gid},mode=0440"),
    }
}

/// The nodes one by one: Proxmox VE passes no directories. Nodes in `/dev/nvidia-caps` are called
/// after their minor.
fn one_by_one(nodes: &[DeviceNode]) -> Vec<DeviceNode> {
    let inside = |node: &DeviceNode| -> Vec<DeviceNode> {
        if node.kind == NodeKind::File {
            return vec![node.clone()];
        }
        let file = |number: &(u64, u64)| DeviceNode {
            path: format!("{}/nvidia-cap{}", node.path, number.1),
            kind: NodeKind::File,
            numbers: vec![*number],
        };
        node.numbers.iter().map(file).collect()
    };
    nodes.iter().flat_map(inside).collect()
}

/// What a line of the journal's is.
fn first_line(text: &str, dialect: Dialect) -> LineKind {
    LineKind::of(text.lines().next().unwrap_or_default(), dialect)
}

/// Whether a line is one that passes a node, or allows one of its numbers, in exactly our form.
fn is_in_our_form(line: &LineKind, node: &DeviceNode) -> bool {
    match line.meaning() {
        Some((mount::KEY, value)) => value == mount::value(node),
        Some((rules::ALLOW, value)) => {
            node.numbers.iter().any(|number| value == rules::value(*number))
        }
        _ => false,
    }
}
