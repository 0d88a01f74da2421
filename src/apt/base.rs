//! What every system of a distribution has: the packages of a dpkg status that the distribution
//! requires, and what those depend on. A lock that is made against it serves a fresh system too,
//! whatever the system that was looked at has in addition.

use std::collections::{BTreeMap, BTreeSet};

use deb822_fast::{Paragraph, ParagraphReader};

/// Everywhere, although their priority does not say so.
const ALWAYS: [&str; 2] = ["apt", "dpkg"];

/// The part of a dpkg status that its distribution requires: essential packages, those of priority
/// `required`, and everything installed that one of them depends on.
pub fn status(whole: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(whole);
    let installed: Vec<Installed<'_>> = text.split("\n\n").filter_map(Installed::parse).collect();
    let mut providers: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (position, package) in installed.iter().enumerate() {
        for name in package.names() {
            providers.entry(name).or_default().push(position);
        }
    }
    let required =
        |(position, package): (usize, &Installed<'_>)| package.is_required().then_some(position);
    let mut open: Vec<usize> = installed.iter().enumerate().filter_map(required).collect();
    let mut reached: BTreeSet<usize> = open.iter().copied().collect();
    while let Some(position) = open.pop() {
        // Of alternatives all that are there: which of them dpkg counts does not matter.
        let wanted = installed[position].depends_on();
        for found in wanted.filter_map(|name| providers.get(name)).flatten() {
            if reached.insert(*found) {
                open.push(*found);
            }
        }
    }
    let stanzas: Vec<&str> = reached.into_iter().map(|position| installed[position].text).collect();
    if stanzas.is_empty() { Vec::new() } else { (stanzas.join("\n\n") + "\n").into_bytes() }
}

/// An installed package.
struct Installed<'a> {
    text: &'a str,
    name: String,
    provides: String,
    depends: String,
    is_essential: bool,
}

impl<'a> Installed<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let text = text.trim_matches('\n');
        let stanza = ParagraphReader::new(text.as_bytes()).next()?.ok()?;
        if !field(&stanza, "Status").ends_with(" installed") {
            return None;
        }
        Some(Self {
            text,
            name: field(&stanza, "Package"),
            provides: field(&stanza, "Provides"),
            depends: format!("{},{}", field(&stanza, "Pre-Depends"), field(&stanza, "Depends")),
            is_essential: field(&stanza, "Essential") == "yes"
                || field(&stanza, "Priority") == "required",
        })
    }

    fn is_required(&self) -> bool {
        self.is_essential || ALWAYS.contains(&self.name.as_str())
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(relations(&self.provides))
    }

    fn depends_on(&self) -> impl Iterator<Item = &str> {
        relations(&self.depends)
    }
}

fn field(stanza: &Paragraph, name: &str) -> String {
    stanza.get(name).map(str::trim).unwrap_or_default().to_owned()
}

/// The names in a relationship field, without architectures and versions.
fn relations(text: &str) -> impl Iterator<Item = &str> {
    let names = text.split([',', '|']);
    names.filter_map(|one| one.trim().split([' ', ':', '(']).next()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nothing_required_depends_on_is_left_out() {
        let stanza = |name: &str, more: &str| {
            format!("Package: {name}\nStatus: install ok installed\n{more}Version: 1\n\n")
        };
        let text = [
            stanza("dpkg", "Pre-Depends: libc6 (>= 2.34), tar\n"),
            stanza("bash", "Essential: yes\nDepends: debconf (>= 0.5) | debconf-2.0\n"),
            stanza("cdebconf", "Provides: debconf-2.0\n"),
            stanza("libc6", "Depends: libgcc-s1:any\n"),
            stanza("libgcc-s1", ""),
            stanza("tar", "").replace("ok installed", "ok half-installed"),
            stanza("mount", "Priority: required\n"),
            stanza("cuda-nvcc-12-8", "Priority: optional\nDepends: libcublas-12-8\n"),
            stanza("libcublas-12-8", ""),
        ];
        let base = String::from_utf8(status(text.concat().as_bytes())).unwrap();
        let names: Vec<&str> =
            base.lines().filter_map(|line| line.strip_prefix("Package: ")).collect();
        assert_eq!(names, ["dpkg", "bash", "cdebconf", "libc6", "libgcc-s1", "mount"]);
        assert_eq!(status(base.as_bytes()), base.as_bytes());
        assert_eq!(status(b""), b"");
    }
}
