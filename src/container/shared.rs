//! `lxc.mount.entry` lines that show a tree of the host's inside, the same in every container.

use super::config::{Dialect, Line, LineKind, LxcConfig};
use super::mount::{self, MountEntry};
use super::rules;

/// Where the trees lie that containers share; nobody else has a reason to mount anything from there.
const SOURCES: [&str; 2] = ["/var/lib/nvstage/driver/", "/var/lib/nvstage/cuda/"];

/// A tree of the host that a container should have, read-only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedTree {
    /// The directory on the host; what is there when the container starts.
    pub source: String,
    /// The directory inside, without a slash at the beginning.
    pub target: String,
}

impl SharedTree {
    /// The value of its line. Without the source the container starts, and has it not.
    fn value(&self) -> String {
        let Self { source, target } = self;
        format!("{source} {target} none bind,ro,nosuid,nodev,optional,create=dir 0 0")
    }

    /// Its line.
    pub(super) fn line(&self, dialect: Dialect) -> String {
        rules::key_and_value(dialect, mount::KEY, &self.value())
    }

    /// Whether a line is just its own.
    pub(super) fn is(&self, line: &LineKind) -> bool {
        line.meaning().is_some_and(|(key, value)| key == mount::KEY && value == self.value())
    }

    /// Whether a line mounts one of Proxmox VE's own volumes onto its place: `mp0: …,mp=/path`.
    pub(super) fn is_volume_at(&self, line: &Line<'_>) -> bool {
        let LineKind::Setting { key, value } = &line.kind else { return false };
        let is_place = |path: &str| mount::is_same_path(path.trim_start_matches('/'), &self.target);
        mount::volume(key, value).is_some_and(|(_, target)| is_place(target))
    }

    /// Whether a line mounts something below its place, which it would hide.
    pub(super) fn is_above(&self, line: &Line<'_>) -> bool {
        let target = match &line.kind {
            LineKind::Setting { key, value } => mount::volume(key, value).map(|(_, target)| target),
            _ => entry(line).map(|entry| entry.target),
        };
        target.is_some_and(|target| mount::is_below(target, &self.target))
    }

    /// Whether a line mounts something onto its place.
    pub(super) fn is_place_of(&self, line: &Line<'_>) -> bool {
        entry(line).is_some_and(|entry| mount::is_same_path(entry.target, &self.target))
    }
}

/// The trees of the host's that the live section shows: their directories on the host.
pub fn sources(config: &LxcConfig) -> Vec<String> {
    let of_line = |line: Line<'_>| {
        let source = mount::normal(entry(&line)?.source);
        is_source(&source).then_some(source)
    };
    config.lines().filter_map(of_line).collect()
}

/// Whether the text of a line, of either dialect, shows a shared tree.
pub fn is_in(text: &str) -> bool {
    [Dialect::Proxmox, Dialect::Lxc].iter().any(|dialect| is_shared_text(text, *dialect))
}

/// Whether a line shows a shared tree.
pub(super) fn is_shared(line: &Line<'_>) -> bool {
    entry(line).is_some_and(|entry| is_from_shared(&entry))
}

/// The same of a line's text.
pub(super) fn is_shared_text(text: &str, dialect: Dialect) -> bool {
    match LineKind::of(text, dialect).meaning() {
        Some((mount::KEY, value)) => is_from_shared(&MountEntry::parse(value)),
        _ => false,
    }
}

/// Whether an entry shows a shared tree.
pub(super) fn is_from_shared(entry: &MountEntry<'_>) -> bool {
    is_source(&mount::normal(entry.source))
}

fn is_source(path: &str) -> bool {
    SOURCES.iter().any(|directory| path.starts_with(directory))
}

fn entry<'a>(line: &'a Line<'_>) -> Option<MountEntry<'a>> {
    match &line.kind {
        LineKind::Raw { key, value } if key == mount::KEY => Some(MountEntry::parse(value)),
        _ => None,
    }
}
