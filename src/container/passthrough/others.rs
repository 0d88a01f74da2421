//! What others' lines have where ours would go: nothing of it is hidden.

use super::survey::{Survey, mount_entry};
use super::{DeviceNode, DriverLines, NodeKind, OwnLine, first_line, one_by_one};
use crate::container::config::{Line, LineKind};
use crate::container::driver_files::DriverLine;
use crate::container::mount::{self, Effect};
use crate::error::{Error, Result};

impl Survey<'_> {
    /// Directories of nodes that would hide what a line of somebody else's passes below them. One that
    /// such a line passes itself is somebody's decision.
    pub(super) fn directories_apart(
        &self,
        nodes: &[DeviceNode],
        is_ours: impl Fn(usize) -> bool,
    ) -> Vec<String> {
        let is_passed = |directory: &DeviceNode| {
            self.mounts(directory, &Effect::Passes).iter().any(|number| !is_ours(*number))
        };
        let has_below = |directory: &DeviceNode| {
            let path = directory.path.as_str();
            let mut devices = self.devices.iter();
            devices.any(|device| !is_ours(device.number) && mount::is_below(&device.path, path))
                || self.lines.iter().any(|line| {
                    let entry = mount_entry(line).filter(|_| !is_ours(line.number));
                    entry.is_some_and(|entry| {
                        !entry.has_absolute_target() && mount::is_below(entry.target, path)
                    })
                })
        };
        let directories = nodes.iter().filter(|node| node.kind == NodeKind::Directory);
        let apart = directories.filter(|node| !is_passed(node) && has_below(node));
        apart.map(|node| node.path.clone()).collect()
    }

    /// Refuses where a line mounts something else onto the place of a node.
    ///
    /// # Errors
    /// Host error that names the line.
    pub(super) fn refuse_covered(&self, node: &DeviceNode) -> Result<()> {
        let covers = |line: &&Line<'_>| match &line.kind {
            LineKind::Setting { key, value } => mount::volume(key, value)
                .is_some_and(|(_, target)| mount::is_same_path(target, &node.path)),
            _ => mount_entry(line).is_some_and(|entry| entry.covers(&node.path)),
        };
        let Some(line) = self.lines.iter().find(covers) else { return Ok(()) };
        let what = format!("pass `{}`: its configuration has another mount there", node.path);
        Err(Error::host(what)
            .because(numbered(line))
            .hint("take that line out, or give other GPUs"))
    }

    /// The numbers of the lines that bring a driver and are to be taken out.
    ///
    /// # Errors
    /// Host error that names the lines, where they are to be refused.
    pub(super) fn driver_lines_out(
        &self,
        wanted: DriverLines,
        own: &[OwnLine],
    ) -> Result<Vec<usize>> {
        let is_taken_out = |line: &&DriverLine| {
            let found = self.meaning(line.number);
            let mut known = own.iter().filter(|own| own.text.is_none());
            known.any(|own| {
                let kind = own.replaced.as_deref().map(|text| first_line(text, self.dialect));
                found.is_some() && kind.as_ref().and_then(LineKind::meaning) == found
            })
        };
        let (known, new): (Vec<&DriverLine>, Vec<&DriverLine>) =
            self.driver_lines.iter().partition(is_taken_out);
        let number = |line: &&DriverLine| line.number;
        match wanted {
            DriverLines::TakeOut => Ok(self.driver_lines.iter().map(|line| line.number).collect()),
            DriverLines::Refuse if !new.is_empty() => {
                let text = |line: &&DriverLine| format!("line {}: `{}`", line.number, line.text);
                let lines: Vec<String> = new.iter().map(text).collect();
                Err(Error::host("give it a driver: its configuration brings one of the host's")
                    .because(lines.join("\n"))
                    .hint("take these lines out; `--adopt` does, and `detach` puts them back"))
            }
            DriverLines::Refuse | DriverLines::Keep => Ok(known.iter().map(number).collect()),
        }
    }
}

/// The nodes with those of some directories one by one.
pub(super) fn taken_apart(nodes: &[DeviceNode], directories: &[String]) -> Vec<DeviceNode> {
    let single = |node: &DeviceNode| match directories.contains(&node.path) {
        true => one_by_one(std::slice::from_ref(node)),
        false => vec![node.clone()],
    };
    nodes.iter().flat_map(single).collect()
}

/// A line as a message has it.
pub(super) fn numbered(line: &Line<'_>) -> String {
    format!("line {}: `{}`", line.number, line.text)
}
