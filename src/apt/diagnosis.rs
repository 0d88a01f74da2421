//! Why apt failed: the lines of its output that decide it, what they mean, and what to do.

use std::collections::BTreeSet;

/// Where apt took packages from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Repositories of the network.
    Network,
    /// The partial mirror of this host's cache.
    Mirror,
}

/// What apt's output means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// In words.
    pub meaning: &'static str,
    /// What to do.
    pub remedy: Remedy,
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// Wait for another apt or dpkg.
    Wait,
    /// Enlarge the container's root file system.
    Enlarge,
    /// Try again later.
    TryLater,
    /// Compare the cache with what it should have.
    VerifyCache,
    /// Look at the key of a source.
    CheckKey,
    /// Keep one of two sources.
    KeepOneSource,
    /// Look at the resolver.
    CheckResolver,
    /// Look at the network.
    CheckNetwork,
    /// Look where a package comes from.
    ShowPolicy(String),
    /// Add the component `contrib` to the sources.
    AddContrib,
}

impl Remedy {
    /// In words; `enlarge` is the command that enlarges the root file system, where there is one.
    pub fn text(&self, enlarge: Option<&str>) -> String {
        match self {
            Self::Wait => "wait for it, or end it, then run the command again".to_owned(),
            Self::Enlarge => match enlarge {
                Some(command) => format!("enlarge the root file system: `{command}`"),
                None => "enlarge the root file system".to_owned(),
            },
            Self::TryLater => {
                "the repository is between two states: try again in some minutes".to_owned()
            }
            Self::VerifyCache => "`nvstage cache verify` finds what is damaged".to_owned(),
            Self::CheckKey => "is its key the pinned one? the lines above name it".to_owned(),
            Self::KeepOneSource => {
                "remove one of the two from `/etc/apt/sources.list.d` inside".to_owned()
            }
            Self::CheckResolver => "check its network and its resolv.conf".to_owned(),
            Self::CheckNetwork => {
                "check its network, or `http_proxy` in its apt configuration".to_owned()
            }
            Self::ShowPolicy(name) => format!(
                "`apt-cache policy {name}` inside shows whether a source has it, or a pin keeps it out"
            ),
            Self::AddContrib => {
                "nvtop needs the component `contrib` in the sources of Debian 12".to_owned()
            }
        }
    }
}

/// What apt's output says about why it failed; `None` for what is not known.
pub fn diagnose(output: &str, origin: Origin) -> Option<Diagnosis> {
    if let Some(name) = not_installable(output) {
        let meaning = "what a package needs is in no source, or kept out by a pin";
        return Some(Diagnosis { meaning, remedy: Remedy::ShowPolicy(name.to_owned()) });
    }
    if let Some(name) = not_located(output) {
        let meaning = "a package is in none of the container's repositories";
        let remedy = match name {
            "nvtop" => Remedy::AddContrib,
            _ => Remedy::ShowPolicy(name.to_owned()),
        };
        return Some(Diagnosis { meaning, remedy });
    }
    let of_origin = |of_network: Remedy| match origin {
        Origin::Network => of_network,
        Origin::Mirror => Remedy::VerifyCache,
    };
    let known = [
        ("Could not get lock", "another apt or dpkg holds the lock", Remedy::Wait),
        ("No space left on device", NO_SPACE, Remedy::Enlarge),
        ("You don't have enough free space", NO_SPACE, Remedy::Enlarge),
        (
            "Conflicting values set for option",
            "two sources of one repository differ",
            Remedy::KeepOneSource,
        ),
        ("Hash Sum mismatch", "a file differs from its signed index", of_origin(Remedy::TryLater)),
        (
            "Mirror sync in progress",
            "a file differs from its signed index",
            of_origin(Remedy::TryLater),
        ),
        (
            "404  Not Found",
            "the index names a file that the repository does not have",
            Remedy::TryLater,
        ),
        ("File not found", "the index names a file that is not there", of_origin(Remedy::TryLater)),
        (
            "is not signed",
            "a repository's signature cannot be verified",
            of_origin(Remedy::CheckKey),
        ),
        (
            "Temporary failure resolving",
            "the container cannot resolve host names",
            Remedy::CheckResolver,
        ),
        ("Could not connect", "the container cannot reach a repository", Remedy::CheckNetwork),
    ];
    let found = known.into_iter().find(|(text, ..)| output.contains(text));
    found.map(|(_, meaning, remedy)| Diagnosis { meaning, remedy })
}

const NO_SPACE: &str = "no space is left inside the container";

/// The package that apt says another one needs in vain.
fn not_installable(output: &str) -> Option<&str> {
    let line = output.lines().find(|line| {
        line.starts_with(' ')
            && (line.contains("but it is not installable")
                || line.contains("but it is not going to be installed"))
    })?;
    let (_, needed) = line.split_once("epends: ")?;
    named(needed.split_whitespace().next()?)
}

/// The package that is in no index.
fn not_located(output: &str) -> Option<&str> {
    output.lines().find_map(|line| {
        let unknown = line.strip_prefix("E: Unable to locate package ");
        let bare = line.strip_suffix("has no installation candidate");
        named(unknown.or(bare.and_then(|line| line.strip_prefix("E: Package ")))?.trim())
    })
}

/// A package's name without quotes; nothing else becomes part of a remedy.
fn named(text: &str) -> Option<&str> {
    let name = text.trim_matches(['\'', ',']);
    let is_part = |c: char| c.is_ascii_alphanumeric() || "+.:-".contains(c);
    (!name.is_empty() && name.chars().all(is_part)).then_some(name)
}

/// Lines that are shown at most.
const SHOWN: usize = 8;

/// The lines of apt's output that say why, or else its last ones: unmet dependencies, errors of
/// dpkg, errors of apt with what could not be fetched, and warnings only where there is nothing else.
pub fn decisive(output: &str) -> String {
    let lines: Vec<&str> =
        output.lines().map(str::trim_end).filter(|line| !line.trim().is_empty()).collect();
    let mut chosen: Vec<(usize, &str)> = Vec::new();
    let mut above = None;
    for line in &lines {
        let rank = rank(line, above);
        above = rank;
        chosen.extend(rank.map(|rank| (rank, *line)));
    }
    // What follows from something that is shown says nothing more.
    if chosen.iter().any(|(rank, line)| *rank < WARNING && !is_consequence(line)) {
        chosen.retain(|(rank, line)| *rank < WARNING && !is_consequence(line));
    }
    chosen.sort_by_key(|(rank, _)| *rank);
    let mut seen = BTreeSet::new();
    chosen.retain(|(_, line)| seen.insert(*line));
    let shown: Vec<&str> = match chosen.is_empty() {
        true => lines[lines.len().saturating_sub(SHOWN)..].to_vec(),
        false => chosen.into_iter().map(|(_, line)| line).take(SHOWN).collect(),
    };
    shown.join("\n")
}

const UNMET: usize = 0;
const DPKG: usize = 1;
const ERROR: usize = 2;
const FETCH: usize = 3;
const WARNING: usize = 4;

/// How decisive a line is, by its beginning and by the line above it, whose rank is given.
fn rank(line: &str, above: Option<usize>) -> Option<usize> {
    let needs = ["Depends: ", "Conflicts: ", "Breaks: "];
    if line.starts_with(' ') && needs.iter().any(|word| line.contains(word)) {
        return Some(UNMET);
    }
    if line.starts_with(' ') {
        // The rest of what is said above.
        return above;
    }
    let starts = [("dpkg: error", DPKG), ("E: ", ERROR), ("Err:", FETCH), ("W: ", WARNING)];
    starts.iter().find(|(start, _)| line.starts_with(start)).map(|(_, rank)| *rank)
}

/// Errors that only follow from others.
fn is_consequence(line: &str) -> bool {
    [
        "E: Unable to correct problems, you have held broken packages",
        "E: Unable to fetch some archives, maybe run apt-get update",
        "E: Some index files failed to download",
        "E: Sub-process /usr/bin/dpkg returned an error code",
    ]
    .iter()
    .any(|start| line.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNMET_OUTPUT: &str = "Reading package lists...
Some packages could not be installed. This may mean that you have
requested an impossible situation
The following packages have unmet dependencies:
 cuda-nvcc-12-8 : Depends: gcc-999 but it is not installable
                  Depends: x (>= 2) but 1 is to be installed
W: something else
E: Unable to correct problems, you have held broken packages.
";

    #[test]
    fn an_unmet_dependency_is_the_decisive_line() {
        let expected = " cuda-nvcc-12-8 : Depends: gcc-999 but it is not installable\n                  Depends: x (>= 2) but 1 is to be installed";
        assert_eq!(decisive(UNMET_OUTPUT), expected);
        let found = diagnose(UNMET_OUTPUT, Origin::Network).unwrap();
        assert_eq!(found.remedy, Remedy::ShowPolicy("gcc-999".to_owned()));
    }

    #[test]
    fn what_dpkg_says_comes_before_what_apt_says_of_it() {
        let output = "Setting up x (1) ...\ndpkg: error processing package x (--configure):\n installed x package post-installation script subprocess returned error exit status 1\nErrors were encountered while processing:\n x\nE: Sub-process /usr/bin/dpkg returned an error code (1)\n";
        let expected = "dpkg: error processing package x (--configure):\n installed x package post-installation script subprocess returned error exit status 1";
        assert_eq!(decisive(output), expected);
    }

    #[test]
    fn a_file_that_is_gone_is_named_with_its_answer() {
        let output = "Get:1 http://a/ x 1\nErr:2 http://a/  y 1\n  404  Not Found [IP: 10.99.0.1 80]\nE: Failed to fetch http://a/y.deb  404  Not Found [IP: 10.99.0.1 80]\nE: Unable to fetch some archives, maybe run apt-get update or try with --fix-missing?\n";
        let expected = "E: Failed to fetch http://a/y.deb  404  Not Found [IP: 10.99.0.1 80]\nErr:2 http://a/  y 1\n  404  Not Found [IP: 10.99.0.1 80]";
        assert_eq!(decisive(output), expected);
        assert_eq!(diagnose(output, Origin::Network).unwrap().remedy, Remedy::TryLater);
    }

    #[test]
    fn warnings_and_last_lines_are_what_there_is_otherwise() {
        assert_eq!(decisive("a\nW: b\nc\n"), "W: b");
        assert_eq!(decisive("a\n\nb\n"), "a\nb");
    }

    #[test]
    fn the_cache_is_to_blame_for_its_own_mirror() {
        let output = "E: Failed to fetch file:/x  Hash Sum mismatch\n";
        assert_eq!(diagnose(output, Origin::Mirror).unwrap().remedy, Remedy::VerifyCache);
        assert_eq!(diagnose(output, Origin::Network).unwrap().remedy, Remedy::TryLater);
    }

    #[test]
    fn a_package_of_another_name_needs_no_contrib() {
        let of = |name: &str| {
            let output = format!("E: Unable to locate package {name}\n");
            diagnose(&output, Origin::Network).map(|found| found.remedy)
        };
        assert_eq!(of("nvtop"), Some(Remedy::AddContrib));
        assert_eq!(of("cuda-x"), Some(Remedy::ShowPolicy("cuda-x".to_owned())));
        assert_eq!(of("$(reboot)"), None);
        let output = "E: Package 'cuda' has no installation candidate\n";
        let found = diagnose(output, Origin::Network).unwrap();
        assert_eq!(found.remedy, Remedy::ShowPolicy("cuda".to_owned()));
    }
}
