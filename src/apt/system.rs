//! A system that packages are resolved for: its dpkg status, its apt sources, and the keys that it
//! has, read from its files.

use std::collections::{BTreeMap, BTreeSet};

use deb822_fast::ParagraphReader;

use super::sources::{self, Source};
use crate::architecture::Architecture;
use crate::error::{Error, Result};

/// The file with everything that is installed.
pub const STATUS: &str = "var/lib/dpkg/status";
/// Files that are looked at, without a leading slash.
pub const FILES: [&str; 5] =
    ["etc/os-release", "usr/lib/os-release", STATUS, "etc/apt/sources.list", "etc/apt/trusted.gpg"];
/// Directories whose files are looked at.
pub const DIRECTORIES: [&str; 4] =
    ["etc/apt/sources.list.d", "etc/apt/trusted.gpg.d", "etc/apt/keyrings", "usr/share/keyrings"];
/// No such file is larger, in bytes: Debian's whole status of a desktop has some four million.
pub const LARGEST: u64 = 64 << 20;

/// Whether a path is one of those that are looked at.
pub fn is_of_interest(path: &str) -> bool {
    let parent = path.rsplit_once('/').map(|(parent, _)| parent);
    FILES.contains(&path) || parent.is_some_and(|parent| DIRECTORIES.contains(&parent))
}

/// Files of a system by their path without a leading slash.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A system, as far as apt needs to know it.
#[derive(Debug, Clone)]
pub struct System {
    /// What it is, for people and for the lock: `container 201`.
    pub name: String,
    /// `debian12`: the os-release ID and the version without dots.
    pub distribution: String,
    /// Its architecture.
    pub architecture: Architecture,
    /// Its dpkg status.
    pub status: Vec<u8>,
    /// Where its packages come from; none for one of which only the status is known.
    pub sources: Vec<Source>,
    /// The key files that it has.
    pub keys: Vec<Vec<u8>>,
}

impl System {
    /// Reads a system from its files.
    ///
    /// # Errors
    /// Invalid input when it is no Debian or Ubuntu, or of no supported architecture.
    pub fn read(name: &str, files: &Files) -> Result<Self> {
        let text = |path: &str| files.get(path).map(|bytes| String::from_utf8_lossy(bytes));
        let os = text("etc/os-release").or_else(|| text("usr/lib/os-release"));
        let os =
            os.ok_or_else(|| Error::input(format!("read {name}: it has no `/etc/os-release`")))?;
        let status = files
            .get(STATUS)
            .ok_or_else(|| {
                Error::input(format!("read {name}: it has no `/{STATUS}`"))
                    .hint("packages can be prefetched for Debian and Ubuntu alone")
            })?
            .clone();
        let architecture = architecture_of(name, &status)?;
        let is_key = |path: &&String| {
            path.ends_with(".gpg") || path.ends_with(".asc") || path.ends_with(".pgp")
        };
        let mut all: Vec<Source> = Vec::new();
        let mut keys: Vec<Vec<u8>> =
            files.iter().filter(|(path, _)| is_key(path)).map(|(_, b)| b.clone()).collect();
        for (path, bytes) in files {
            let text = String::from_utf8_lossy(bytes);
            if path.ends_with(".sources") {
                keys.extend(sources::inline_keys(&text).into_iter().map(String::into_bytes));
            }
            if path.ends_with(".list") || path.ends_with(".sources") {
                all.extend(sources::parse(path, &text, architecture.dpkg()));
            }
        }
        all.dedup();
        Ok(Self {
            name: name.to_owned(),
            distribution: distribution(&os),
            architecture,
            status,
            sources: all,
            keys,
        })
    }
}

/// `ID` and `VERSION_ID` of an os-release file, `debian12`.
pub fn distribution(os_release: &str) -> String {
    let value = |key: &str| {
        let mut lines = os_release.lines();
        let value = lines.find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
        value.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
    };
    format!("{}{}", value("ID"), value("VERSION_ID").replace('.', ""))
}

/// The architecture of the package `dpkg`, which is the system's.
///
/// # Errors
/// Invalid input when there is no such package, or its architecture is not supported.
pub fn architecture_of(name: &str, status: &[u8]) -> Result<Architecture> {
    let dpkg = ParagraphReader::new(status)
        .flatten()
        .find(|stanza| stanza.get("Package").is_some_and(|package| package.trim() == "dpkg"));
    let found = dpkg.as_ref().and_then(|stanza| stanza.get("Architecture"));
    let all = [Architecture::X86_64, Architecture::Aarch64];
    match found.map(str::trim) {
        Some(found) => {
            all.into_iter().find(|architecture| architecture.dpkg() == found).ok_or_else(|| {
                Error::input(format!("use {name}: architecture `{found}` is not supported"))
            })
        }
        None => Err(Error::input(format!("read the dpkg status of {name}: dpkg is not in it"))),
    }
}

/// The version of a package that a dpkg status calls installed.
pub fn installed_version(status: &str, package: &str) -> Option<String> {
    let is_it = |stanza: &deb822_fast::Paragraph| {
        let says = |field: &str| stanza.get(field).map(str::trim).unwrap_or_default().to_owned();
        says("Package") == package && says("Status").ends_with(" installed")
    };
    let stanza = ParagraphReader::new(status.as_bytes()).flatten().find(is_it)?;
    stanza.get("Version").map(|version| version.trim().to_owned())
}

/// The packages that apt has installed because others need them, by its own file
/// (`/var/lib/apt/extended_states`, `apt-mark(8)`).
pub fn automatic(states: &str) -> BTreeSet<String> {
    let is_marked = |stanza: &deb822_fast::Paragraph| {
        stanza.get("Auto-Installed").is_some_and(|mark| mark.trim() == "1")
    };
    let marked = ParagraphReader::new(states.as_bytes()).flatten().filter(is_marked);
    marked.filter_map(|stanza| Some(stanza.get("Package")?.trim().to_owned())).collect()
}

/// How much of a package a system has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Presence {
    /// Its configuration files alone.
    Configuration,
    /// Some of it: an installation or a removal was cut short.
    Partial,
    /// All of it.
    Installed,
}

/// Packages of which a system has something. A later stanza takes the place of an earlier one, so
/// that the files of `/var/lib/dpkg/updates` count when they follow the status (dpkg
/// `lib/dpkg/dbmodify.c`).
pub fn presence(status: &str) -> BTreeMap<String, Presence> {
    let mut by_architecture = BTreeMap::new();
    for stanza in ParagraphReader::new(status.as_bytes()).flatten() {
        let value = |field: &str| stanza.get(field).map(str::trim).unwrap_or_default().to_owned();
        let presence = match value("Status").rsplit(' ').next() {
            Some("not-installed") | None => None,
            Some("config-files") => Some(Presence::Configuration),
            Some("installed") => Some(Presence::Installed),
            Some(_) => Some(Presence::Partial),
        };
        by_architecture.insert((value("Package"), value("Architecture")), presence);
    }
    let mut packages = BTreeMap::new();
    for ((name, _), presence) in by_architecture {
        if let Some(presence) = presence {
            let most = packages.entry(name).or_insert(presence);
            *most = presence.max(*most);
        }
    }
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_that_others_need_are_told_from_those_that_were_asked_for() {
        let states = "Package: cuda-nvcc-12-8\nArchitecture: amd64\nAuto-Installed: 1\n\n\
            Package: nvtop\nArchitecture: amd64\nAuto-Installed: 0\n";
        assert_eq!(automatic(states).into_iter().collect::<Vec<_>>(), ["cuda-nvcc-12-8"]);
    }

    #[test]
    fn a_system_is_read_from_its_files() {
        let mut files = Files::new();
        let mut put = |path: &str, text: &str| {
            assert!(is_of_interest(path), "{path}");
            files.insert(path.to_owned(), text.as_bytes().to_vec());
        };
        put("usr/lib/os-release", "NAME=x\nID=ubuntu\nVERSION_ID=\"24.04\"\n");
        put(
            "var/lib/dpkg/status",
            "Package: a\nArchitecture: all\n\nPackage: dpkg\nArchitecture: arm64\n",
        );
        put("etc/apt/sources.list", "deb http://a/ noble main\n");
        put("etc/apt/sources.list.d/b.sources", "Types: deb\nURIs: http://b\nSuites: ./\n");
        put("etc/apt/sources.list.d/c.list.save", "deb http://c/ noble main\n");
        put("usr/share/keyrings/k.gpg", "key");
        let system = System::read("x", &files).unwrap();
        assert_eq!(system.distribution, "ubuntu2404");
        assert_eq!(system.architecture, Architecture::Aarch64);
        assert_eq!((system.sources.len(), system.keys.len()), (2, 1));
        files.remove(STATUS);
        assert!(System::read("x", &files).is_err());
    }

    #[test]
    fn a_later_stanza_says_how_much_of_a_package_is_there() {
        let stanza = |name: &str, architecture: &str, status: &str| {
            format!("Package: {name}\nStatus: {status}\nArchitecture: {architecture}\n\n")
        };
        let text = [
            stanza("whole", "amd64", "install ok installed"),
            stanza("removed", "all", "install ok installed"),
            stanza("half", "amd64", "install ok installed"),
            stanza("both", "amd64", "deinstall ok config-files"),
            stanza("both", "i386", "hold ok installed"),
            stanza("gone", "amd64", "install ok installed"),
            // Written since.
            stanza("half", "amd64", "install reinstreq half-installed"),
            stanza("removed", "all", "deinstall ok config-files"),
            stanza("gone", "amd64", "purge ok not-installed"),
        ];
        let expected = [
            ("both", Presence::Installed),
            ("half", Presence::Partial),
            ("removed", Presence::Configuration),
            ("whole", Presence::Installed),
        ];
        let found = presence(&text.concat());
        assert!(found.iter().map(|(name, is)| (name.as_str(), *is)).eq(expected), "{found:?}");
    }

    #[test]
    fn only_the_files_that_matter_are_looked_at() {
        for path in ["etc/shadow", "etc/apt/keyrings/a/b.gpg", "var/lib/dpkg/status-old"] {
            assert!(!is_of_interest(path), "{path}");
        }
    }
}
