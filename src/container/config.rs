//! A container's configuration file as a lossless document.
//!
//! [`LxcConfig`] keeps every byte: parsing and printing any input is the identity. What it reads is
//! the live section alone: in Proxmox VE's dialect everything before the first section header, in
//! plain LXC's the whole file. Edits are made there and nowhere else, in the file's own line
//! ending.
//!
//! The rules are those of `PVE::LXC::Config::parse_pct_config` (pve-container,
//! `src/PVE/LXC/Config.pm`) and of `lxc.container.conf(5)`.

mod pending;

use std::borrow::Cow;

pub use self::pending::PendingChange;

/// Whose rules a configuration file follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Proxmox VE's `/etc/pve/lxc/<CTID>.conf`: `key: value`, raw `lxc.*` lines, sections of
    /// pending changes and snapshots.
    Proxmox,
    /// Plain LXC's `config`: `key = value`, no sections.
    Lxc,
}

/// A configuration file, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LxcConfig {
    dialect: Dialect,
    /// Every line with its ending; only the last one may lack it.
    lines: Vec<Vec<u8>>,
    /// How many of them are the live section.
    live: usize,
    /// The numbers of the lines of the live section, where they are not those of these lines.
    numbers: Option<Vec<usize>>,
}

/// One line of the live section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line<'a> {
    /// Its number in the file, from 1.
    pub number: usize,
    /// Its text without the ending; bytes that are not UTF-8 appear as U+FFFD.
    pub text: Cow<'a, str>,
    /// What the owner of the file takes it for.
    pub kind: LineKind,
}

/// What a line is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineKind {
    /// Nothing but blanks.
    Blank,
    /// A comment; on Proxmox VE a part of the description.
    Comment,
    /// `lxc.…`, handed to LXC as it is; repeated keys all count.
    Raw {
        /// The key.
        key: String,
        /// The value without blanks around it.
        value: String,
    },
    /// A setting of Proxmox VE; of a repeated key the last one counts.
    Setting {
        /// The key.
        key: String,
        /// The value without blanks around it.
        value: String,
    },
    /// Not understood, and dropped by Proxmox VE when it next writes the file.
    Other,
}

impl LineKind {
    /// What a line of the live section is, by its text without the ending.
    pub(super) fn of(text: &str, dialect: Dialect) -> Self {
        match dialect {
            Dialect::Proxmox => proxmox_line(text),
            Dialect::Lxc => lxc_line(text),
        }
    }

    /// What the line means, whichever way it is written: its key and its value.
    pub(crate) fn meaning(&self) -> Option<(&str, &str)> {
        match self {
            Self::Raw { key, value } | Self::Setting { key, value } => Some((key, value)),
            Self::Blank | Self::Comment | Self::Other => None,
        }
    }
}

/// A device passed by Proxmox VE itself: `dev0: /dev/nvidia0,mode=0666`
/// (`PVE::LXC::Config`, `dev[n]`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedDevice {
    /// The number of its line in the file, from 1.
    pub number: usize,
    /// Its key, `dev0`.
    pub key: String,
    /// The node on the host, and inside.
    pub path: String,
    /// The mode of the node inside, four octal digits; Proxmox VE takes 0660 where it is not given.
    pub mode: Option<String>,
    /// Whether the container may write to it.
    pub access: Access,
}

/// What a container may do with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read and write.
    ReadWrite,
    /// Read only (`deny-write=1`).
    ReadOnly,
}

impl LxcConfig {
    /// Takes a file apart. Any input is accepted: what is not understood is kept.
    pub fn parse(bytes: &[u8], dialect: Dialect) -> Self {
        let lines: Vec<Vec<u8>> =
            bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        let header = match dialect {
            Dialect::Proxmox => lines.iter().position(|line| is_section_header(line)),
            Dialect::Lxc => None,
        };
        let live = header.unwrap_or(lines.len());
        Self { dialect, lines, live, numbers: None }
    }

    /// The file again; unless it was edited, exactly the bytes that were parsed.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.lines.concat()
    }

    /// Whose rules it follows.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The lines of the live section, in order.
    pub fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        self.lines[..self.live].iter().enumerate().map(|(index, bytes)| {
            let text = String::from_utf8_lossy(without_ending(bytes));
            let kind = LineKind::of(&text, self.dialect);
            let number = self.numbers.as_ref().and_then(|numbers| numbers.get(index).copied());
            Line { number: number.unwrap_or(index + 1), text, kind }
        })
    }

    /// The value of a key in the live section; of a repeated one the last.
    pub fn value(&self, key: &str) -> Option<String> {
        let values = self.lines().filter_map(|line| match line.kind {
            LineKind::Raw { key: found, value } | LineKind::Setting { key: found, value } => {
                (found == key).then_some(value)
            }
            _ => None,
        });
        values.last()
    }

    /// The task that Proxmox VE has locked the container for: `backup`, `snapshot`, `mounted`, ….
    pub fn lock(&self) -> Option<String> {
        self.setting("lock")
    }

    /// Whether it is a template, which can never be started.
    pub fn is_template(&self) -> bool {
        self.setting("template").is_some_and(|value| is_true(&value))
    }

    /// Whether the guest is started with the host.
    pub fn starts_on_boot(&self) -> bool {
        self.setting("onboot").is_some_and(|value| is_true(&value))
    }

    /// Whether its root is an ordinary user outside: `unprivileged: 1`, or ids that are mapped by
    /// hand. What an included file says is not seen.
    pub fn is_unprivileged(&self) -> bool {
        let lines: Vec<Line<'_>> = self.lines().collect();
        self.is_unprivileged_by(&lines)
    }

    /// The same, of the lines of the live section.
    pub(super) fn is_unprivileged_by(&self, lines: &[Line<'_>]) -> bool {
        let mut is_set = false;
        for line in lines {
            match &line.kind {
                LineKind::Raw { key, .. } if key == "lxc.idmap" || key == "lxc.id_map" => {
                    return true;
                }
                LineKind::Setting { key, value } if key == "unprivileged" => {
                    is_set = is_true(value)
                }
                _ => {}
            }
        }
        is_set
    }

    /// The devices that Proxmox VE passes itself, in the order of their keys in the file.
    pub fn devices(&self) -> Vec<PassedDevice> {
        let lines: Vec<Line<'_>> = self.lines().collect();
        self.devices_by(&lines)
    }

    /// The same, of the lines of the live section.
    pub(super) fn devices_by(&self, lines: &[Line<'_>]) -> Vec<PassedDevice> {
        let mut devices: Vec<PassedDevice> = Vec::new();
        for line in lines {
            // Plain LXC has no settings.
            let LineKind::Setting { key, value } = &line.kind else { continue };
            let number = key.strip_prefix("dev").and_then(|digits| digits.parse::<u8>().ok());
            let Some(path) = number.and_then(|_| property(value, "path")) else { continue };
            devices.retain(|device| device.key != *key);
            devices.push(PassedDevice {
                number: line.number,
                path: path.to_owned(),
                mode: property(value, "mode").map(str::to_owned),
                access: match property(value, "deny-write") {
                    Some(value) if is_true(value) => Access::ReadOnly,
                    _ => Access::ReadWrite,
                },
                key: key.clone(),
            });
        }
        devices
    }

    /// Puts lines after the last `lxc.*` line of the live section; where there is none, after its
    /// last line that is not blank; where that is missing too, at the start of the file.
    ///
    /// The lines are given without an ending and get the file's own; a file without a newline at
    /// its end still has none afterwards.
    pub fn insert_after_lxc_lines(&mut self, lines: &[String]) {
        let position = |wanted: fn(&LineKind) -> bool| {
            self.lines().filter(|line| wanted(&line.kind)).map(|line| line.number).last()
        };
        let at = position(|kind| matches!(kind, LineKind::Raw { .. }))
            .or_else(|| position(|kind| *kind != LineKind::Blank))
            .unwrap_or(0);
        self.insert_at(at, lines);
    }

    fn insert_at(&mut self, at: usize, lines: &[String]) {
        if lines.is_empty() {
            return;
        }
        let ending = self.ending_near(at);
        let mut new: Vec<Vec<u8>> =
            lines.iter().map(|line| [line.as_bytes(), ending].concat()).collect();
        if let Some(before) = at.checked_sub(1).map(|index| &mut self.lines[index])
            && !before.ends_with(b"\n")
        {
            before.extend_from_slice(ending);
            if let Some(last) = new.last_mut() {
                last.truncate(last.len() - ending.len());
            }
        }
        self.live += new.len();
        self.lines.splice(at..at, new);
    }

    /// Puts settings of Proxmox VE after the last one of the live section; where there is none,
    /// after its comments at the head. Lines and endings as for
    /// [`LxcConfig::insert_after_lxc_lines`].
    pub fn insert_after_settings(&mut self, lines: &[String]) {
        let last = self.lines().filter(|l| matches!(l.kind, LineKind::Setting { .. })).last();
        let head = self.lines().take_while(|line| line.kind == LineKind::Comment).last();
        let at = last.or(head).map_or(0, |line| line.number);
        self.insert_at(at, lines);
    }

    /// Takes one line of the live section out; `number` counts from 1, and a number outside of the
    /// section changes nothing. A file without a newline at its end still has none afterwards.
    pub fn remove_line(&mut self, number: usize) {
        let Some(index) = self.index(number) else { return };
        let line = self.lines.remove(index);
        if let Some(numbers) = &mut self.numbers {
            numbers.remove(index);
        }
        self.live -= 1;
        if let Some(last) = self.lines.last_mut().filter(|_| !line.ends_with(b"\n")) {
            let length = without_ending(last).len();
            last.truncate(length);
        }
        // A blank line without an ending is none.
        if self.lines.last().is_some_and(Vec::is_empty) {
            self.lines.pop();
            self.live = self.live.min(self.lines.len());
        }
    }

    /// Replaces the text of one line of the live section; its ending stays. `number` counts from 1,
    /// as in [`Line`]; a number outside of the live section changes nothing.
    pub fn replace_line(&mut self, number: usize, text: &str) {
        if let Some(index) = self.index(number) {
            let line = &mut self.lines[index];
            let length = without_ending(line).len();
            line.splice(..length, text.bytes());
        }
    }

    /// Where a line of the live section is, by its number.
    fn index(&self, number: usize) -> Option<usize> {
        match &self.numbers {
            Some(numbers) => numbers.iter().position(|own| *own == number),
            None => number.checked_sub(1).filter(|index| *index < self.live),
        }
    }

    /// A setting of Proxmox VE; plain LXC has none.
    fn setting(&self, key: &str) -> Option<String> {
        (self.dialect == Dialect::Proxmox).then(|| self.value(key)).flatten()
    }

    /// The line ending in use around a position: that of the line before, or of any other line.
    fn ending_near(&self, at: usize) -> &'static [u8] {
        let before = self.lines[..at].iter().rev();
        let mut ended = before.chain(&self.lines[at..]).filter(|line| line.ends_with(b"\n"));
        match ended.next() {
            Some(line) if line.ends_with(b"\r\n") => b"\r\n",
            _ => b"\n",
        }
    }
}

/// What Perl's `\s` matches in ASCII.
fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\r' | '\u{b}' | '\u{c}')
}

fn without_ending(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// `^\[pve:pending\]\s*$` or `^\[([a-z][a-z0-9_\-]+)\]\s*$`, both in any case. Every other line in
/// brackets is only a line that is not understood.
fn is_section_header(line: &[u8]) -> bool {
    let text = String::from_utf8_lossy(line);
    let inner = text.trim_end_matches(is_blank).strip_prefix('[');
    let Some(name) = inner.and_then(|inner| inner.strip_suffix(']')) else { return false };
    let is_name = name.len() >= 2
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    is_name || name.eq_ignore_ascii_case("pve:pending")
}

fn is_pending_header(line: &[u8]) -> bool {
    let text = String::from_utf8_lossy(line);
    text.trim_end_matches(is_blank).eq_ignore_ascii_case("[pve:pending]")
}

fn proxmox_line(text: &str) -> LineKind {
    if text.trim_matches(is_blank).is_empty() {
        return LineKind::Blank;
    }
    if text.starts_with('#') {
        return LineKind::Comment;
    }
    // `^(lxc\.[a-z0-9_\-\.]+)(:|\s*=)\s*(.*?)\s*$`
    let is_raw = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.');
    let end = text.bytes().position(|byte| !is_raw(byte)).unwrap_or(text.len());
    let (key, rest) = text.split_at(end);
    if key.len() > "lxc.".len() && key.starts_with("lxc.") {
        let value =
            rest.strip_prefix(':').or_else(|| rest.trim_start_matches(is_blank).strip_prefix('='));
        if let Some(value) = value {
            let value = value.trim_matches(is_blank).to_owned();
            return LineKind::Raw { key: key.to_owned(), value };
        }
    }
    // `^([a-z][a-z_]*\d*):\s*(\S.*?)\s*$`
    let Some((key, value)) = text.split_once(':') else { return LineKind::Other };
    let word = key.trim_end_matches(|c: char| c.is_ascii_digit());
    let is_key = word.starts_with(|c: char| c.is_ascii_lowercase())
        && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let value = value.trim_matches(is_blank);
    if !is_key || value.is_empty() {
        return LineKind::Other;
    }
    LineKind::Setting { key: key.to_owned(), value: value.to_owned() }
}

fn lxc_line(text: &str) -> LineKind {
    let text = text.trim_matches(is_blank);
    if text.is_empty() {
        return LineKind::Blank;
    }
    if text.starts_with('#') {
        return LineKind::Comment;
    }
    let Some((key, value)) = text.split_once('=') else { return LineKind::Other };
    let (key, value) = (key.trim_matches(is_blank), value.trim_matches(is_blank));
    if !key.starts_with("lxc.") || key.contains(is_blank) {
        return LineKind::Other;
    }
    LineKind::Raw { key: key.to_owned(), value: value.to_owned() }
}

/// `PVE::JSONSchema::parse_boolean`.
pub(crate) fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].iter().any(|word| value.eq_ignore_ascii_case(word))
}

/// One value of a property string: `name=value` among commas; `path` may stand without its name.
fn property<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.split(',').map(|part| part.trim_matches(is_blank)).find_map(|part| {
        match part.split_once('=') {
            Some((found, value)) => (found == name).then_some(value),
            None => (name == "path" && !part.is_empty()).then_some(part),
        }
    })
}

#[cfg(test)]
mod tests;
