//! `[pve:pending]`: what Proxmox VE changes in the live section at the next start.
//!
//! The rules are those of `vmconfig_apply_pending` (pve-container, `src/PVE/LXC/Config.pm`) and of
//! `parse_pending_delete` (pve-guest-common, `src/PVE/AbstractConfig.pm`): settings named by
//! `delete` go first, then the section's own settings take their places. Its `lxc.*` lines are one
//! value: together they replace all `lxc.*` lines of the live section.

use std::collections::BTreeMap;
use std::fmt;

use super::{Line, LineKind, LxcConfig, is_pending_header, is_section_header, without_ending};

/// The key of environment variables, which Proxmox VE keeps apart from other `lxc.*` lines.
const ENVIRONMENT: &str = "lxc.environment.runtime";

/// One change that waits for the next start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PendingChange {
    /// A setting gets a value.
    Set {
        /// The key.
        key: String,
        /// The value in the live section.
        now: Option<String>,
        /// The value after the next start.
        then: String,
    },
    /// A setting goes.
    Deleted {
        /// The key.
        key: String,
        /// The value in the live section.
        now: String,
    },
    /// The `lxc.*` lines of the live section are replaced by those of `[pve:pending]`.
    RawLines {
        /// The lines of the live section.
        now: Vec<String>,
        /// The lines of `[pve:pending]`.
        then: Vec<String>,
    },
}

impl PendingChange {
    /// True if it is about a device that Proxmox VE passes itself, `dev[n]`.
    pub fn is_of_device(&self) -> bool {
        match self {
            Self::Set { key, .. } | Self::Deleted { key, .. } => {
                key.strip_prefix("dev").is_some_and(|number| number.parse::<u8>().is_ok())
            }
            Self::RawLines { .. } => false,
        }
    }
}

impl fmt::Display for PendingChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set { key, now: Some(now), then } => {
                write!(f, "`{key}: {now}` becomes `{key}: {then}`")
            }
            Self::Set { key, now: None, then } => write!(f, "`{key}: {then}` is added"),
            Self::Deleted { key, now } => write!(f, "`{key}: {now}` is deleted"),
            Self::RawLines { now, then } => {
                let lines = |count| if count == 1 { "line" } else { "lines" };
                let (old, new) = (now.len(), then.len());
                write!(f, "{old} `lxc.*` {} replaced by {new} {}", lines(old), lines(new))
            }
        }
    }
}

/// The section, taken apart.
#[derive(Default)]
struct Section<'a> {
    /// The settings, of a repeated one the last.
    settings: BTreeMap<String, Line<'a>>,
    deleted: Vec<String>,
    raw: Vec<Line<'a>>,
    environment: Vec<Line<'a>>,
}

impl LxcConfig {
    /// What Proxmox VE changes at the next start, or as soon as the container stops.
    pub fn pending(&self) -> Vec<PendingChange> {
        let section = self.pending_section();
        let mut changes = Vec::new();
        for key in &section.deleted {
            let now = self.value(key).filter(|_| !section.settings.contains_key(key));
            changes.extend(now.map(|now| PendingChange::Deleted { key: key.clone(), now }));
        }
        for (key, line) in &section.settings {
            let (now, then) = (self.value(key), value(line));
            if now.as_ref() != Some(&then) {
                changes.push(PendingChange::Set { key: key.clone(), now, then });
            }
        }
        let texts = |lines: &[Line<'_>]| -> Vec<String> {
            lines.iter().map(|line| line.text.clone().into_owned()).collect()
        };
        let own = |is_wanted: fn(&Line<'_>) -> bool| self.lines().filter(is_wanted).collect();
        let raw: Vec<Line<'_>> = own(|line| is_raw(line) && !is_variable(line));
        let (now, then) = (texts(&raw), texts(&section.raw));
        if !then.is_empty() && now != then {
            changes.push(PendingChange::RawLines { now, then });
        }
        let environment: Vec<Line<'_>> = own(is_variable);
        let joined = |lines: &[Line<'_>]| lines.iter().map(value).collect::<Vec<_>>().join(" ");
        let (now, then) = (joined(&environment), joined(&section.environment));
        if !then.is_empty() && now != then {
            let now = (!now.is_empty()).then_some(now);
            changes.push(PendingChange::Set { key: ENVIRONMENT.to_owned(), now, then });
        }
        changes
    }

    /// The configuration that the next start has: the pending changes are made. Lines have the
    /// numbers that they have in this file. It is for reading: an edit belongs into the file itself.
    #[must_use]
    pub fn at_next_start(&self) -> Self {
        let section = self.pending_section();
        let mut lines: Vec<Line<'_>> = Vec::new();
        for line in self.lines() {
            let goes = match &line.kind {
                LineKind::Setting { key, .. } => {
                    section.deleted.contains(key) || section.settings.contains_key(key)
                }
                LineKind::Raw { .. } if is_variable(&line) => !section.environment.is_empty(),
                LineKind::Raw { .. } => !section.raw.is_empty(),
                LineKind::Blank | LineKind::Comment | LineKind::Other => false,
            };
            if !goes {
                lines.push(line);
            }
        }
        let Section { settings, raw, environment, .. } = section;
        lines.extend(settings.into_values().chain(environment).chain(raw));
        let numbers = lines.iter().map(|line| line.number).collect();
        let bytes = |line: &Line<'_>| {
            let mut bytes = self.lines[line.number - 1].clone();
            if !bytes.ends_with(b"\n") {
                bytes.push(b'\n');
            }
            bytes
        };
        let mut all: Vec<Vec<u8>> = lines.iter().map(bytes).collect();
        let live = all.len();
        let mut is_pending = false;
        for line in &self.lines[self.live..] {
            if is_section_header(line) {
                is_pending = is_pending_header(line);
            }
            if !is_pending {
                all.push(line.clone());
            }
        }
        Self { dialect: self.dialect, lines: all, live, numbers: Some(numbers) }
    }

    /// The keys of Proxmox VE's settings in the live section and among the pending changes.
    pub fn keys(&self) -> impl Iterator<Item = String> {
        let live = self.lines().filter_map(|line| match line.kind {
            LineKind::Setting { key, .. } => Some(key),
            _ => None,
        });
        live.chain(self.pending_section().settings.into_keys())
    }

    /// The lines of `[pve:pending]`; a repeated section throws the earlier one away.
    fn pending_section(&self) -> Section<'_> {
        let mut section = Section::default();
        let header = |line: &Vec<u8>| is_section_header(line) && is_pending_header(line);
        let Some(start) = self.lines[self.live..].iter().rposition(header) else { return section };
        let start = self.live + start + 1;
        let body = self.lines[start..].iter().take_while(|line| !is_section_header(line));
        for (index, bytes) in body.enumerate() {
            let text = String::from_utf8_lossy(without_ending(bytes));
            let kind = LineKind::of(&text, self.dialect);
            let line = Line { number: start + index + 1, text, kind };
            match line.kind.clone() {
                LineKind::Setting { key, value } if key == "delete" => {
                    let words = value.split([',', ';', ' ', '\t']).filter(|word| !word.is_empty());
                    let key = |word: &str| word.strip_prefix('!').unwrap_or(word).to_owned();
                    section.deleted = words.map(key).collect();
                }
                LineKind::Setting { key, .. } => _ = section.settings.insert(key, line),
                LineKind::Raw { .. } if is_variable(&line) => section.environment.push(line),
                LineKind::Raw { .. } => section.raw.push(line),
                LineKind::Blank | LineKind::Comment | LineKind::Other => {}
            }
        }
        section
    }
}

fn is_raw(line: &Line<'_>) -> bool {
    matches!(line.kind, LineKind::Raw { .. })
}

fn is_variable(line: &Line<'_>) -> bool {
    matches!(&line.kind, LineKind::Raw { key, .. } if key == ENVIRONMENT)
}

fn value(line: &Line<'_>) -> String {
    line.kind.meaning().map(|(_, value)| value.to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::Dialect;
    use super::*;

    fn config(text: &str) -> LxcConfig {
        LxcConfig::parse(text.as_bytes(), Dialect::Proxmox)
    }

    fn next(text: &str) -> String {
        String::from_utf8(config(text).at_next_start().to_bytes()).unwrap()
    }

    fn changes(text: &str) -> Vec<String> {
        config(text).pending().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn settings_are_deleted_then_set() {
        let text = "arch: amd64\ndev0: /dev/a\ndev1: /dev/b\nswap: 1\n\n\
                    [pve:pending]\ndelete: dev0 !swap;nosuch,dev1\ndev1: /dev/c\nmemory: 5\n";
        assert_eq!(next(text), "arch: amd64\n\ndev1: /dev/c\nmemory: 5\n");
        assert_eq!(
            changes(text),
            [
                "`dev0: /dev/a` is deleted",
                "`swap: 1` is deleted",
                "`dev1: /dev/b` becomes `dev1: /dev/c`",
                "`memory: 5` is added",
            ]
        );
    }

    #[test]
    fn raw_lines_that_are_pending_replace_all_others() {
        let text = "lxc.cap.drop: a\nlxc.environment.runtime: A=1\nlxc.cap.keep: b\n\
                    [pve:pending]\nlxc.cap.drop: c\n[before]\nlxc.cap.drop: d\n";
        assert_eq!(
            next(text),
            "lxc.environment.runtime: A=1\nlxc.cap.drop: c\n[before]\nlxc.cap.drop: d\n"
        );
        assert_eq!(changes(text), ["2 `lxc.*` lines replaced by 1 line"]);
    }

    #[test]
    fn the_last_pending_section_counts_and_nothing_else_changes() {
        let text =
            "swap: 1\n[PVE:pending]\ndelete: swap\n[before]\nswap: 2\n[pve:pending]\nmemory: 5";
        assert_eq!(next(text), "swap: 1\nmemory: 5\n[before]\nswap: 2\n");
        assert_eq!(changes(text), ["`memory: 5` is added"]);
        for text in ["", "swap: 1\n", "swap: 1\n[before]\ndelete: swap\n", "a: 1\n\n[x1]\nb: 2"] {
            assert_eq!(next(text), text);
            assert!(changes(text).is_empty(), "{text}");
        }
        assert!(changes("swap: 1\n[pve:pending]\nswap: 1\ndelete: nosuch\n").is_empty());
    }

    #[test]
    fn lines_keep_the_numbers_that_they_have_in_the_file() {
        let config = config("#a\ndev0: x\nlxc.a: 1\n\n[pve:pending]\ndev1: y\ndelete: dev0\n");
        let next = config.at_next_start();
        let numbers: Vec<usize> = next.lines().map(|line| line.number).collect();
        assert_eq!(numbers, [1, 3, 4, 6]);
        assert_eq!(next.devices()[0].number, 6);
    }
}
