//! Changes of a file by the numbers of its lines, and the file with all of them made.

use std::collections::{BTreeMap, BTreeSet};

use crate::container::config::{Dialect, LineKind, LxcConfig};

/// What is to be done to the lines of the live section, numbered as they were read.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) corrected: BTreeMap<usize, String>,
    pub(super) removed: BTreeSet<usize>,
    /// Settings of Proxmox VE that are added.
    pub(super) devices: Vec<String>,
    pub(super) added: Vec<String>,
}

impl Changes {
    /// Puts another text in the place of a line.
    pub(super) fn correct(&mut self, number: usize, text: String) {
        self.corrected.insert(number, text);
    }

    /// Takes a line out.
    pub(super) fn remove(&mut self, number: usize) {
        self.removed.insert(number);
    }

    /// Adds a raw line, unless it is added already.
    pub(super) fn add(&mut self, line: String) {
        if !self.added.contains(&line) {
            self.added.push(line);
        }
    }

    /// Adds a line that was taken out once, among the lines of its kind.
    pub(super) fn put_back(&mut self, line: String, dialect: Dialect) {
        match LineKind::of(&line, dialect) {
            LineKind::Setting { .. } => self.devices.push(line),
            _ => self.add(line),
        }
    }

    /// The highest number of a line that something happens to.
    pub(super) fn last(&self) -> usize {
        self.corrected.keys().chain(&self.removed).copied().max().unwrap_or_default()
    }

    /// Whether something happens to a line.
    pub(super) fn touches(&self, number: usize) -> bool {
        self.corrected.contains_key(&number) || self.removed.contains(&number)
    }

    /// The file with all of it.
    pub(super) fn apply(&self, config: &LxcConfig) -> LxcConfig {
        let mut edited = config.clone();
        for (number, text) in &self.corrected {
            edited.replace_line(*number, text);
        }
        // From the end: the numbers before stay what they are.
        for number in self.removed.iter().rev() {
            edited.remove_line(*number);
        }
        edited.insert_after_settings(&self.devices);
        edited.insert_after_lxc_lines(&self.added);
        edited
    }
}
