//! One `lxc.cgroup2.devices.*` line, as LXC's parser takes it.
//!
//! The rules are those of `device_cgroup_rule_parse` and `device_cgroup_parse_access` (lxc,
//! `src/lxc/cgroups/cgfsng.c`), the same from 5.0.2 to 7.0.

use std::collections::BTreeSet;
use std::fmt;

use super::{DeviceRequest, DeviceType, MAJOR, is_dynamic};
use crate::container::config::{Line, LineKind};

/// Whether a rule allows or denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Allow,
    Deny,
}

/// What can be done with a device: any of `r`, `w`, `m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessMask(u8);

impl AccessMask {
    /// Opening it for reading.
    pub const READ: Self = Self(1);
    /// Opening it for writing.
    pub const WRITE: Self = Self(2);
    /// Opening it for both at once.
    pub const READ_WRITE: Self = Self(3);
    /// Making a node of it.
    pub const MKNOD: Self = Self(4);

    /// Of the letters of a rule.
    fn of(letters: &str) -> Self {
        let bit = |letter| match letter {
            'r' => Self::READ.0,
            'w' => Self::WRITE.0,
            _ => Self::MKNOD.0,
        };
        Self(letters.chars().fold(0, |mask, letter| mask | bit(letter)))
    }

    /// True if nothing is asked for that this mask does not have.
    fn covers(self, asked: Self) -> bool {
        asked.0 & self.0 == asked.0
    }
}

/// The devices of a rule, and what it says about them. Two rules are the same to LXC when type,
/// numbers and the letters of the access are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    pub(super) device_type: DeviceType,
    /// `None` for `*`.
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    /// At most three letters, in the order of the line.
    pub(super) access: String,
}

impl Pattern {
    /// LXC's own comparison: a request for more than the rule names does not match it, whether it
    /// allows or denies (`bpf_program_append_device`).
    pub(super) fn matches(&self, request: DeviceRequest) -> bool {
        let (major, minor) = request.number;
        AccessMask::of(&self.access).covers(request.access)
            && (self.device_type == DeviceType::Any || self.device_type == request.device_type)
            && self.major.is_none_or(|own| own == major)
            && self.minor.is_none_or(|own| own == minor)
    }
}

/// What a value says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// Nothing: it takes out every line with its key before it.
    Empty,
    /// `a`: every device.
    All,
    /// Devices by their numbers.
    Devices(Pattern),
    /// A node of the host by its path, which LXC looks up at every start.
    Node { path: String, access: String },
    /// Something that LXC's parser rejects: it logs an error, and goes on without the line.
    Rejected(Rejection),
}

/// Why LXC drops a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// It begins with something else than `a`, `b` or `c` and one blank.
    Type,
    /// Its numbers are not `MAJOR:MINOR` and one blank.
    Number,
    /// Its access is not one to three letters of `r`, `w`, `m`, or something follows them.
    Access,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Type => "it does not begin with `a`, `b` or `c` and one blank",
            Self::Number => "its numbers are not `MAJOR:MINOR` and one blank",
            Self::Access => "its access is not `r`, `w`, `m` alone",
        })
    }
}

/// The version of control groups that a key is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CgroupVersion {
    One,
    Two,
}

/// One line about devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeviceRule {
    pub(crate) verb: Verb,
    pub(super) version: CgroupVersion,
    pub(super) value: Value,
}

impl DeviceRule {
    /// Reads a line; `None` for one that is not about devices. Every key that begins like one of
    /// them is one to LXC, and all but `devices.allow` deny.
    pub(crate) fn parse(line: &Line<'_>) -> Option<Self> {
        let LineKind::Raw { key, value } = &line.kind else { return None };
        let (version, rest) = match key.strip_prefix("lxc.cgroup2.") {
            Some(rest) => (CgroupVersion::Two, rest),
            None => (CgroupVersion::One, key.strip_prefix("lxc.cgroup.")?),
        };
        rest.starts_with("devices").then(|| Self::of(version, rest, value))
    }

    /// Of a key without `lxc.cgroup2.`, and its value.
    pub(super) fn of(version: CgroupVersion, key: &str, value: &str) -> Self {
        let verb = if key == "devices.allow" { Verb::Allow } else { Verb::Deny };
        let value = unquoted(value);
        let value = match value {
            "" => Value::Empty,
            path if verb == Verb::Allow && path.starts_with('/') => by_path(path),
            value => by_number(value),
        };
        Self { verb, version, value }
    }

    pub(super) fn pattern(&self) -> Option<&Pattern> {
        match &self.value {
            Value::Devices(pattern) => Some(pattern),
            _ => None,
        }
    }

    /// The one character device that it is about; `None` for a range.
    pub(crate) fn number(&self) -> Option<(u64, u64)> {
        let pattern = self.pattern().filter(|pattern| pattern.device_type == DeviceType::Character);
        pattern.and_then(|pattern| pattern.major.zip(pattern.minor))
    }

    /// The one major of its character devices.
    pub(crate) fn major(&self) -> Option<u64> {
        let pattern = self.pattern().filter(|pattern| pattern.device_type != DeviceType::Block);
        pattern.and_then(|pattern| pattern.major)
    }

    /// True if it names a device of NVIDIA's own major, or a node of theirs.
    pub(crate) fn is_nvidias(&self) -> bool {
        match &self.value {
            Value::Node { path, .. } => path.starts_with("/dev/nvidia"),
            _ => self.major() == Some(MAJOR),
        }
    }

    /// True if it is about this character device, whatever is done with it.
    pub(crate) fn names(&self, number: (u64, u64)) -> bool {
        self.pattern().is_some_and(|own| {
            let access = AccessMask::of(&own.access);
            own.matches(DeviceRequest { access, ..DeviceRequest::open(number) })
        })
    }

    /// True if it would allow reading and writing this character device.
    pub(crate) fn allows(&self, number: (u64, u64)) -> bool {
        self.verb == Verb::Allow
            && self.version == CgroupVersion::Two
            && self.pattern().is_some_and(|own| own.matches(DeviceRequest::open(number)))
    }

    /// True if it allows what no driver of this host has: a major that is given out when a driver
    /// is loaded, and that none of `majors` is. Where nothing is known of those, none is.
    pub(crate) fn is_outdated(&self, majors: &BTreeSet<u64>) -> bool {
        self.verb == Verb::Allow
            && self.version == CgroupVersion::Two
            && !majors.is_empty()
            && self.major().is_some_and(|major| is_dynamic(major) && !majors.contains(&major))
    }

    /// True if it allows opening every character device.
    pub(crate) fn allows_all(&self) -> bool {
        let is_any = |pattern: &Pattern| {
            pattern.major.is_none() && pattern.minor.is_none() && self.allows((MAJOR, 0))
        };
        self.verb == Verb::Allow
            && self.version == CgroupVersion::Two
            && (self.value == Value::All || self.pattern().is_some_and(is_any))
    }
}

/// The major of the first `MAJOR:` in a text.
pub(super) fn mentioned_major(text: &str) -> Option<u64> {
    let words = text.split_ascii_whitespace();
    words.filter_map(|word| word.split_once(':')?.0.parse().ok()).next()
}

/// Without the quotes around it (`parse_line`, lxc, `src/lxc/confile.c`).
fn unquoted(value: &str) -> &str {
    let quotes = ['"', '\''].into_iter();
    quotes
        .filter_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote))
        .next()
        .unwrap_or(value)
}

fn by_number(value: &str) -> Value {
    if value == "a" {
        return Value::All;
    }
    match pattern(value) {
        // `a *:* ` in quotes is as good as `a`.
        Ok(Pattern { device_type: DeviceType::Any, major: None, minor: None, access })
            if access.is_empty() =>
        {
            Value::All
        }
        Ok(pattern) => Value::Devices(pattern),
        Err(rejection) => Value::Rejected(rejection),
    }
}

fn pattern(value: &str) -> Result<Pattern, Rejection> {
    let mut characters = value.chars();
    let device_type = match characters.next() {
        Some('a') => DeviceType::Any,
        Some('b') => DeviceType::Block,
        Some('c') => DeviceType::Character,
        _ => return Err(Rejection::Type),
    };
    let numbers = characters.as_str().strip_prefix(is_space).ok_or(Rejection::Type)?;
    let (major, rest) = number(numbers)?;
    let (minor, rest) = number(rest.strip_prefix(':').ok_or(Rejection::Number)?)?;
    // Without a third part it is rejected for the blank that is missing before it.
    let access = rest.strip_prefix(is_space).ok_or(match rest {
        "" => Rejection::Access,
        _ => Rejection::Number,
    })?;
    Ok(Pattern { device_type, major, minor, access: letters(access)? })
}

/// A number as C's `strtol` reads it, or `*`; and what follows it.
fn number(text: &str) -> Result<(Option<u64>, &str), Rejection> {
    if let Some(rest) = text.strip_prefix('*') {
        return Ok((None, rest));
    }
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let base = if digits.len() > 1 && digits.starts_with('0') { 8 } else { 10 };
    let number = u64::from_str_radix(digits, base).map_err(|_| Rejection::Number)?;
    match i32::try_from(number) {
        Ok(_) => Ok((Some(number), rest)),
        Err(_) => Err(Rejection::Number),
    }
}

/// The letters of the access; what follows the third one is passed over.
fn letters(text: &str) -> Result<String, Rejection> {
    let is_letter = |letter: &char| matches!(letter, 'r' | 'w' | 'm');
    let letters: String = text.chars().take(3).collect();
    match letters.chars().all(|letter| is_letter(&letter)) {
        true => Ok(letters),
        false => Err(Rejection::Access),
    }
}

/// `/dev/nvidia0 rw`; what follows a further blank is passed over.
fn by_path(value: &str) -> Value {
    let Some((path, rest)) = value.split_once(' ') else {
        return Value::Rejected(Rejection::Access);
    };
    let access = rest.trim_start_matches(' ').split(' ').next().unwrap_or_default();
    match letters(access) {
        Ok(access) if !access.is_empty() => Value::Node { path: path.to_owned(), access },
        _ => Value::Rejected(Rejection::Access),
    }
}

/// C's `isspace`.
fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\r' | '\u{b}' | '\u{c}')
}
