//! What is known of a running container, gathered by one script in one call.

use std::collections::BTreeMap;
use std::fmt;

use crate::answer::Answer;
use crate::apt::AptFile;
use crate::architecture::Architecture;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::version::DriverVersion;

/// The script; its arguments are listed at its head.
pub const SCRIPT: &str = concat!(include_str!("../prelude.sh"), include_str!("gather.sh"));

/// What opening a device node inside the container came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeState {
    /// It opens.
    Opens,
    /// It is a directory, as `/dev/nvidia-caps` is.
    Directory,
    /// The container's device rules forbid it (EPERM).
    Forbidden,
    /// The file's mode forbids it (EACCES).
    NoAccess,
    /// The rules allow it, but no driver answers behind it (ENXIO, ENODEV).
    NoDriver,
    /// It is not there (ENOENT).
    Missing,
    /// It is a plain file: the target that LXC makes for a mount that is not there.
    NotADevice,
    /// Something else, in the words of the C library.
    Other(String),
}

impl NodeState {
    fn parse(text: &str) -> Self {
        match text {
            "opens" => Self::Opens,
            "directory" => Self::Directory,
            "Operation not permitted" => Self::Forbidden,
            "Permission denied" => Self::NoAccess,
            "No such device or address" | "No such device" => Self::NoDriver,
            "No such file or directory" => Self::Missing,
            "not a device" => Self::NotADevice,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Opens => "opens",
            Self::Directory => "is a directory",
            Self::Forbidden => "is forbidden by the container's device rules (EPERM)",
            Self::NoAccess => "is forbidden by its mode (EACCES)",
            Self::NoDriver => "is allowed, but no driver answers behind it (ENXIO)",
            Self::Missing => "is missing",
            Self::NotADevice => "is no device",
            Self::Other(text) => text,
        })
    }
}

/// A package as dpkg knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// dpkg's status in short, `ii ` or `hi `: what is wanted, what it is, and an error flag.
    pub status: String,
}

impl Package {
    /// Whether it is wholly installed, and not marked for removal.
    pub fn is_installed(&self) -> bool {
        // The first letter says what is wanted: a package on hold is `hi`, one to be purged `pi`.
        matches!(self.status.trim_end().as_bytes(), [b'i' | b'h' | b'u', b'i'])
    }

    /// Whether its files are there, configured or not.
    pub fn is_unpacked(&self) -> bool {
        !matches!(self.status.as_bytes(), [_, b'n' | b'c', ..])
    }
}

/// Whether dpkg has finished what was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DpkgState {
    /// It has, or there is no dpkg.
    #[default]
    Settled,
    /// It was cut short, or has left something half-configured.
    CutShort,
    /// It is at work.
    AtWork,
}

impl DpkgState {
    fn parse(text: &str) -> Self {
        match text {
            "at-work" => Self::AtWork,
            _ => Self::CutShort,
        }
    }
}

/// What `nvidia-smi` came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Smi {
    /// Its exit status; 124 when it hung.
    pub status: i32,
    /// The first lines it printed.
    pub output: String,
    /// The file that it is, links followed.
    pub file: String,
    /// Whether the file is of the installed driver, of the shared one, or of a package.
    pub is_owned: bool,
}

/// A running container, as far as it matters here.
#[derive(Debug, Clone)]
pub struct Facts {
    /// `debian12`, `ubuntu2404`: the os-release ID and the version without dots.
    pub distribution: String,
    /// What the container runs on.
    pub architecture: Architecture,
    /// Whether its C library is glibc, the only one that NVIDIA's libraries run on.
    pub has_glibc: bool,
    /// Whether libraries lie where Debian and Ubuntu have them, in `/usr/lib/<triplet>`.
    pub has_debian_layout: bool,
    /// Whether it has `apt-get`.
    pub has_apt: bool,
    /// Whether its apt verifies with `sqv`, which refuses keys that SHA-1 binds (Debian 13).
    pub has_sqv: bool,
    /// Whether it has `ldconfig`.
    pub has_ldconfig: bool,
    /// The wanted packages that dpkg knows.
    pub packages: Vec<Package>,
    /// Installed packages that bring a driver: the owners of its libraries or kernel modules.
    pub driver_packages: Vec<Package>,
    /// Whether dpkg has finished what was begun.
    pub dpkg: DpkgState,
    /// Digests of the files asked for that are there.
    pub files: BTreeMap<String, Digest>,
    /// What opening each node came to.
    pub nodes: BTreeMap<String, NodeState>,
    /// Where `libcuda.so.1` and `libnvidia-ml.so.1` lead to.
    pub libraries: BTreeMap<String, String>,
    /// What `nvidia-smi` came to; `None` when it is not installed.
    pub smi: Option<Smi>,
}

impl Facts {
    /// Whether packages and files for apt are all there, and dpkg is not in the middle of something.
    pub fn is_complete(&self, packages: &[String], files: &[AptFile]) -> bool {
        let is_there = |name: &String| {
            self.packages.iter().any(|package| package.name == *name && package.is_installed())
        };
        let is_same = |file: &AptFile| self.files.get(file.path) == Some(&file.digest());
        packages.iter().all(is_there)
            && files.iter().all(is_same)
            && self.dpkg == DpkgState::Settled
    }

    /// Reads the script's answer.
    ///
    /// # Errors
    /// Install error when the answer breaks off: the container stopped meanwhile.
    pub fn parse(answer: &Answer) -> Result<Self> {
        if !answer.has("end") {
            return Err(Error::install("look into the container: the answer breaks off")
                .hint("did the container stop meanwhile? run the command again"));
        }
        // Rolling distributions have no version.
        let mut os = answer.get("os").unwrap_or_default().split_whitespace();
        let (id, version) = (os.next().unwrap_or("unknown"), os.next().unwrap_or_default());
        Ok(Self {
            distribution: format!("{id}{}", version.replace('.', "")),
            architecture: Architecture::parse(answer.get("machine").unwrap_or_default())?,
            has_glibc: answer.has("glibc"),
            has_debian_layout: answer.has("libraries-of"),
            has_apt: answer.has("apt"),
            has_sqv: answer.has("sqv"),
            has_ldconfig: answer.has("ldconfig"),
            packages: packages(answer, "package"),
            driver_packages: packages(answer, "driver-package")
                .into_iter()
                .filter(|package| package.is_unpacked() && is_package_name(&package.name))
                .collect(),
            dpkg: answer.get("dpkg").map(DpkgState::parse).unwrap_or_default(),
            files: pairs(answer, "file")
                .filter_map(|(path, digest)| Some((path, Digest::parse(&digest).ok()?)))
                .collect(),
            nodes: pairs(answer, "node")
                .map(|(path, text)| (path, NodeState::parse(&text)))
                .collect(),
            libraries: pairs(answer, "library").collect(),
            smi: answer.number("smi").map(|status| Smi {
                status,
                output: answer.text("smi-line"),
                file: answer.get("smi-file").unwrap_or_default().to_owned(),
                is_owned: answer.has("smi-owner"),
            }),
        })
    }

    /// The packages that bring a second driver beside the one of nvstage's, in words; `None` where
    /// there are none.
    pub fn second_driver(&self) -> Option<String> {
        let name = |package: &Package| format!("{} {}", package.name, package.version);
        let names: Vec<String> = self.driver_packages.iter().map(name).collect();
        (!names.is_empty()).then(|| format!("a second driver comes from {}", names.join(", ")))
    }

    /// The command that removes those packages, for a shell inside.
    pub fn second_driver_removal(&self) -> Vec<&str> {
        let names = self.driver_packages.iter().map(|package| package.name.as_str());
        ["apt-get", "purge"].into_iter().chain(names).collect()
    }

    /// The version in the file name that a library leads to: `libcuda.so.1` →
    /// `libcuda.so.580.76.05`.
    pub fn library_version(&self, library: &str) -> Option<DriverVersion> {
        let path = self.libraries.get(library)?;
        DriverVersion::parse(path.rsplit_once(".so.")?.1).ok()
    }
}

/// Whether it can be a package's name, and one of its architecture: the container says what it likes.
fn is_package_name(text: &str) -> bool {
    let is_first = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(is_first) && text.chars().all(|c| is_first(c) || "+.:-".contains(c))
}

fn pairs<'a>(answer: &'a Answer, key: &'a str) -> impl Iterator<Item = (String, String)> {
    answer
        .all(key)
        .filter_map(|value| value.split_once(' '))
        .map(|(first, rest)| (first.to_owned(), rest.to_owned()))
}

fn packages(answer: &Answer, key: &str) -> Vec<Package> {
    let package = |value: &str| {
        let mut words = value.splitn(3, ' ');
        Some(Package {
            name: words.next()?.to_owned(),
            version: words.next()?.to_owned(),
            status: words.next().unwrap_or_default().to_owned(),
        })
    };
    answer.all(key).filter_map(package).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "@nvstage begin
@nvstage os debian 12
@nvstage machine x86_64
@nvstage glibc yes
@nvstage libraries-of debian
@nvstage apt yes
@nvstage package nvtop 3.0.1-1 ii 
@nvstage package cuda-toolkit-12-8 12.8.1-1 iU 
@nvstage driver-package libcuda1:amd64 535.261.03-1 ii 
@nvstage driver-package nvidia-kernel-dkms 535.261.03-1 iF 
@nvstage driver-package libnvidia-ml1:amd64 535.261.03-1 rc 
@nvstage driver-package libnvidia-$(reboot) 1.17-1 ii 
@nvstage node /dev/nvidia0 opens
@nvstage node /dev/nvidiactl Operation not permitted
@nvstage node /dev/nvidia-uvm No such device or address
@nvstage library libcuda.so.1 /usr/lib/x86_64-linux-gnu/libcuda.so.580.76.05
@nvstage smi 9
@nvstage smi-line NVIDIA-SMI has failed
@nvstage end
";

    #[test]
    fn the_scripts_answer_is_understood() {
        let facts = Facts::parse(&Answer::parse(ANSWER)).unwrap();
        assert_eq!(facts.distribution, "debian12");
        assert!(facts.packages[0].is_installed() && !facts.packages[1].is_installed());
        let names: Vec<&str> = facts.driver_packages.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["libcuda1:amd64", "nvidia-kernel-dkms"]);
        assert_eq!(facts.nodes["/dev/nvidiactl"], NodeState::Forbidden);
        assert_eq!(facts.nodes["/dev/nvidia-uvm"], NodeState::NoDriver);
        assert_eq!(facts.library_version("libcuda.so.1").unwrap().as_str(), "580.76.05");
        assert_eq!(facts.smi.unwrap().status, 9);
        assert_eq!(facts.dpkg, DpkgState::Settled);
    }

    #[test]
    fn a_dpkg_that_was_cut_short_is_told_from_one_at_work() {
        for (word, expected) in [("cut-short", DpkgState::CutShort), ("at-work", DpkgState::AtWork)]
        {
            let text =
                ANSWER.replace("@nvstage end", &format!("@nvstage dpkg {word}\n@nvstage end"));
            assert_eq!(Facts::parse(&Answer::parse(&text)).unwrap().dpkg, expected);
        }
    }

    #[test]
    fn a_broken_off_answer_is_an_error() {
        let cut = ANSWER.replace("@nvstage end\n", "");
        assert!(Facts::parse(&Answer::parse(&cut)).is_err());
    }
}
