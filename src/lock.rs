//! What was fetched for one recipe, distribution and architecture, exactly: `prefetch` writes it,
//! everything else obeys it.
//!
//! TOML in the cache at `locks-v1/<recipe>-<distribution>-<arch>.lock`; `prefetch --lock FILE` writes
//! and reads the same elsewhere. Version 1 of the format had no repositories, targets and packages.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::architecture::Architecture;
use crate::artifact::Trust;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::version::DriverVersion;

/// The version of the format that this program writes; it reads this one and those before.
const SCHEMA: u32 = 2;

/// One lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    schema: u32,
    /// The recipe's name, with its profile unless that is the default one.
    pub recipe: String,
    /// The distribution, `debian12`; `any` for a recipe without a repository.
    pub distribution: String,
    /// The architecture.
    pub architecture: Architecture,
    /// The packages that were resolved; empty when none were.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wants: Vec<String>,
    /// The driver's installer.
    pub installer: LockedInstaller,
    /// The CUDA repository's key; absent for a recipe without a repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<LockedKey>,
    /// The repositories that packages come from.
    #[serde(default, rename = "repository", skip_serializing_if = "Vec::is_empty")]
    pub repositories: Vec<LockedRepository>,
    /// The systems that the packages were resolved for.
    #[serde(default, rename = "target", skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<LockedTarget>,
    /// The packages of all targets, by name.
    #[serde(default, rename = "package", skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<LockedPackage>,
}

/// The installer in a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedInstaller {
    /// Its version.
    pub version: DriverVersion,
    /// Its file name.
    pub name: String,
    /// Its digest.
    pub sha256: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Why the digest is believed.
    pub trust: Trust,
}

/// A repository's key in a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedKey {
    /// The pinned fingerprint that it was found to have.
    pub fingerprint: Fingerprint,
    /// The digest of the key file.
    pub sha256: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// Whose repository it is: which pins its key is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// NVIDIA's for this distribution.
    Cuda,
    /// NVIDIA's for the distribution before, taken because of `--allow-sha1-bound-key`.
    OlderCuda,
    /// The distribution's own.
    Distribution,
}

/// A repository in a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedRepository {
    /// Its name in this lock: `cuda`, `distribution-1`; its directory in the partial mirror.
    pub name: String,
    /// Whose it is.
    pub role: Role,
    /// Its URL, with a slash at the end.
    pub url: String,
    /// The suite, `bookworm`; `/` for a flat repository.
    pub suite: String,
    /// The components, `main`; none for a flat repository.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<String>,
    /// The date that its `InRelease` carries, as RFC 3339 writes it.
    pub date: jiff::Timestamp,
    /// The `InRelease` file.
    pub release: LockedFile,
    /// The key that signed it.
    pub key: LockedKey,
    /// Whether nothing but SHA-1 binds the signing key to its owner: Debian 13's apt refuses it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub sha1_bound: bool,
    /// The package indexes, by their path below the `InRelease` file.
    #[serde(rename = "index")]
    pub indexes: Vec<LockedIndex>,
}

/// A file in a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedFile {
    /// Its digest.
    pub sha256: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// A package index in a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedIndex {
    /// Its path below the directory of `InRelease`: `main/binary-amd64/Packages.xz`.
    pub path: String,
    /// Its digest.
    pub sha256: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// A system that packages were resolved for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedTarget {
    /// What it is: `container 201`, `template debian-12.tar.zst`, `empty`.
    pub name: String,
    /// Its dpkg status, kept in the cache.
    pub status: LockedFile,
    /// The packages that were resolved for it, where they are not the lock's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wants: Vec<String>,
    /// What it lacks, and what it would lack without all that its distribution does not require, as
    /// `NAME:ARCHITECTURE=VERSION`.
    pub packages: Vec<String>,
}

/// A package in a lock.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedPackage {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture, `amd64` or `all`.
    pub architecture: String,
    /// The digest of the `.deb`.
    pub sha256: Digest,
    /// The size of the `.deb` in bytes.
    pub size: u64,
    /// The name of the repository it comes from.
    pub repository: String,
    /// Its path below the repository's URL.
    pub path: String,
}

impl LockedPackage {
    /// `NAME:ARCHITECTURE=VERSION`.
    pub fn label(&self) -> String {
        format!("{}:{}={}", self.name, self.architecture, self.version)
    }
}

impl LockedRepository {
    /// The URL of the directory with `InRelease`, with a slash at the end.
    pub fn place(&self) -> String {
        format!("{}{}", self.url, self.release_directory())
    }

    /// The path of the directory with `InRelease` below the repository's URL, with a slash at the
    /// end; empty for a flat repository.
    pub fn release_directory(&self) -> String {
        match self.suite.as_str() {
            "/" => String::new(),
            suite => format!("dists/{suite}/"),
        }
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

impl Lock {
    /// A lock of this program's format.
    pub fn new(
        recipe: &str,
        target: (&str, Architecture),
        installer: LockedInstaller,
        key: Option<LockedKey>,
    ) -> Self {
        let (distribution, architecture) = target;
        Self {
            schema: SCHEMA,
            recipe: recipe.to_owned(),
            distribution: distribution.to_owned(),
            architecture,
            wants: Vec::new(),
            installer,
            key,
            repositories: Vec::new(),
            targets: Vec::new(),
            packages: Vec::new(),
        }
    }

    /// The same packages with installer and key of another lock.
    #[must_use]
    pub fn with_origin_of(&self, other: &Self) -> Self {
        let (installer, key) = (other.installer.clone(), other.key.clone());
        Self { installer, key, ..self.clone() }
    }

    /// Every file that the lock names, with what it is for.
    pub fn files(&self) -> Vec<(LockedFile, String)> {
        let file = |sha256, size| LockedFile { sha256, size };
        let key =
            |key: &LockedKey| (file(key.sha256, key.size), format!("key {}", key.fingerprint));
        let installer = &self.installer;
        let mut files = vec![(file(installer.sha256, installer.size), installer.name.clone())];
        files.extend(self.key.iter().map(key));
        for repository in &self.repositories {
            files.push(key(&repository.key));
            files.push((repository.release, format!("{}InRelease", repository.place())));
            let name = |index: &LockedIndex| format!("{}{}", repository.place(), index.path);
            files.extend(repository.indexes.iter().map(|i| (file(i.sha256, i.size), name(i))));
        }
        let status = |target: &LockedTarget| (target.status, format!("status of {}", target.name));
        files.extend(self.targets.iter().map(status));
        let label = |package: &LockedPackage| (file(package.sha256, package.size), package.label());
        files.extend(self.packages.iter().map(label));
        files
    }

    /// The digests of the files that the lock is of no use without: all but the statuses.
    pub fn required(&self) -> BTreeSet<Digest> {
        let bare = Self { targets: Vec::new(), ..self.clone() };
        bare.files().into_iter().map(|(file, _)| file.sha256).collect()
    }

    /// The repository of that name.
    pub fn repository(&self, name: &str) -> Option<&LockedRepository> {
        self.repositories.iter().find(|repository| repository.name == name)
    }

    /// Every list of packages that was resolved, the lock's own first.
    pub fn wanted(&self) -> Vec<&[String]> {
        let mut all = vec![self.wants.as_slice()];
        for target in &self.targets {
            let wants = self.wants_of(target);
            if !all.contains(&wants) {
                all.push(wants);
            }
        }
        all
    }

    /// What was resolved for one of its targets.
    pub fn wants_of<'a>(&'a self, target: &'a LockedTarget) -> &'a [String] {
        if target.wants.is_empty() { &self.wants } else { &target.wants }
    }

    /// What the lock has for one of [`Lock::wanted`], as a lock of its own; the whole lock where all
    /// targets were resolved for the same.
    #[must_use]
    pub fn part(&self, wants: &[String]) -> Self {
        if self.wanted().len() == 1 {
            return self.clone();
        }
        let mut part = self.clone();
        part.wants = wants.to_vec();
        part.targets.retain(|target| self.wants_of(target) == wants);
        part.targets.iter_mut().for_each(|target| target.wants.clear());
        let labels: BTreeSet<&String> =
            part.targets.iter().flat_map(|target| &target.packages).collect();
        part.packages.retain(|package| labels.contains(&package.label()));
        part
    }

    /// The part of the lock for all of these packages; `None` where they were not resolved.
    pub fn covering(&self, packages: &[String]) -> Option<Self> {
        let has_all = |wants: &&&[String]| packages.iter().all(|name| wants.contains(name));
        let all = self.wanted();
        let part = self.part(all.iter().find(has_all)?);
        (!part.packages.is_empty()).then_some(part)
    }

    /// What it is for, in words.
    pub fn label(&self) -> String {
        format!("{} for {} {}", self.recipe, self.distribution, self.architecture)
    }

    /// The name of the lock of a recipe for a target, without a directory.
    pub fn file_name(recipe: &str, distribution: &str, architecture: Architecture) -> String {
        format!("{recipe}-{distribution}-{}.lock", architecture.as_str())
    }

    /// The name of its file, without a directory.
    pub fn own_file_name(&self) -> String {
        Self::file_name(&self.recipe, &self.distribution, self.architecture)
    }

    /// Reads a lock; `origin` is its path, for the message.
    ///
    /// # Errors
    /// Install error for anything but a lock of the known format.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        let hint = "`nvstage prefetch` writes a new one";
        let lock: Self = toml::from_str(text).map_err(|error| {
            Error::install(format!("read the lock `{origin}`")).because(error.message()).hint(hint)
        })?;
        if !(1..=SCHEMA).contains(&lock.schema) {
            let what = format!("read the lock `{origin}`: its schema is {}", lock.schema);
            return Err(Error::install(what).hint(hint));
        }
        let lock = Self { schema: SCHEMA, ..lock };
        lock.check().map_err(|error| {
            Error::install(format!("read the lock `{origin}`")).because(error).hint(hint)
        })?;
        Ok(lock)
    }

    /// What the form cannot say: names and paths that could lead elsewhere.
    fn check(&self) -> std::result::Result<(), String> {
        if !is_plain(&self.own_file_name()) {
            return Err(format!("`{}` or `{}` is not a name", self.recipe, self.distribution));
        }
        if !is_plain(&self.installer.name) {
            return Err(format!("`{}` is no file name", self.installer.name));
        }
        for (index, repository) in self.repositories.iter().enumerate() {
            let is_known = |other: &LockedRepository| other.name == repository.name;
            if repository.name == "keys" || self.repositories[..index].iter().any(is_known) {
                return Err(format!("`{}` cannot be a repository's name here", repository.name));
            }
            if !is_plain(&repository.name) || repository.url.contains(char::is_whitespace) {
                return Err(format!("`{}` is not a repository", repository.name));
            }
            let words = repository.components.iter().chain([&repository.suite]);
            if words.clone().any(|word| word != "/" && !is_inside(word)) {
                return Err(format!("suite or component of `{}` is no path", repository.name));
            }
            if let Some(index) = repository.indexes.iter().find(|index| !is_inside(&index.path)) {
                return Err(format!("`{}` is no path of an index", index.path));
            }
        }
        for package in &self.packages {
            let words = [&package.name, &package.version, &package.architecture];
            if words.iter().any(|word| word.is_empty()) {
                return Err(format!("package `{}` is incomplete", package.label()));
            }
            let is_word = |word: &&String| {
                word.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.:~_".contains(&b))
            };
            if !words.iter().all(is_word) || !is_inside(&package.path) {
                return Err(format!("`{}` at `{}` is no package", package.label(), package.path));
            }
            if self.repository(&package.repository).is_none() {
                return Err(format!("package `{}` comes from no repository", package.label()));
            }
        }
        Ok(())
    }

    /// The lock as text.
    pub fn to_text(&self) -> String {
        // Serialising plain structures of strings and numbers cannot fail.
        toml::to_string(self).unwrap_or_default()
    }
}

/// Whether a word is one name, fit for a file.
fn is_plain(word: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
    word.starts_with(|c: char| c.is_ascii_alphanumeric()) && word.chars().all(allowed)
}

/// Whether a relative path stays inside its directory, and has nothing in it that would mean
/// something else in an apt source. A leading `./` is how flat repositories write it.
pub fn is_inside(path: &str) -> bool {
    let path = path.strip_prefix("./").unwrap_or(path);
    let plain = |c: char| c.is_ascii_graphic() && !"[]\\\"'`<>|*?#".contains(c);
    !path.is_empty()
        && path.chars().all(plain)
        && path.split('/').all(|part| !part.is_empty() && part != ".." && part != ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock() -> Lock {
        let installer = LockedInstaller {
            version: DriverVersion::parse("580.76.05").unwrap(),
            name: "NVIDIA-Linux-x86_64-580.76.05.run".to_owned(),
            sha256: Digest::of(b"x"),
            size: 393_683_997,
            trust: Trust::Pinned,
        };
        let key = LockedKey {
            fingerprint: Fingerprint::parse("EB693B3035CD5710E231E123A4B469963BF863CC").unwrap(),
            sha256: Digest::of(b"key"),
            size: 3,
        };
        Lock::new("cuda-12-8", ("debian12", Architecture::X86_64), installer, Some(key))
    }

    #[test]
    fn a_lock_survives_print_and_parse() {
        assert_eq!(Lock::parse(&lock().to_text(), "x").unwrap(), lock());
    }

    #[test]
    fn each_list_of_packages_has_its_part() {
        let words = |words: &str| words.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let mut whole = lock();
        whole.wants = words("cuda-a nvtop");
        let package = |name: &str| LockedPackage {
            name: name.to_owned(),
            version: "1".to_owned(),
            architecture: "amd64".to_owned(),
            sha256: Digest::of(name.as_bytes()),
            size: 1,
            repository: "cuda".to_owned(),
            path: format!("./{name}.deb"),
        };
        whole.packages = ["cuda-a", "cuda-b", "nvtop"].map(package).into();
        let target = |name: &str, wants: &str, packages: &str| LockedTarget {
            name: name.to_owned(),
            status: LockedFile { sha256: Digest::of(b""), size: 0 },
            wants: words(wants).into_iter().filter(|word| !word.is_empty()).collect(),
            packages: words(packages),
        };
        whole.targets = vec![target("201", "", "cuda-a:amd64=1 nvtop:amd64=1")];
        assert_eq!(whole.covering(&words("nvtop")).unwrap(), whole);
        assert_eq!(whole.covering(&words("cuda-b")), None);
        whole.targets.push(target("202", "cuda-b", "cuda-b:amd64=1"));
        let names = |lock: &Lock| lock.packages.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&whole.covering(&words("cuda-a")).unwrap()), ["cuda-a", "nvtop"]);
        let other = whole.covering(&words("cuda-b")).unwrap();
        assert_eq!((names(&other), other.wants), (words("cuda-b"), words("cuda-b")));
        assert_eq!(whole.covering(&words("cuda-a cuda-b")), None);
    }

    #[test]
    fn a_lock_of_version_1_is_read_for_ever() {
        let text = include_str!("../tests/locks/v1.lock");
        assert_eq!(Lock::parse(text, "v1.lock").unwrap(), lock());
    }

    #[test]
    fn unknown_keys_and_other_schemas_are_refused() {
        let text = lock().to_text();
        assert!(Lock::parse(&format!("surplus = 1\n{text}"), "x").is_err());
        assert!(Lock::parse(&text.replace("schema = 2", "schema = 3"), "x").is_err());
        assert!(Lock::parse(&text.replace("size = 3\n", "size = -3\n"), "x").is_err());
    }
}
