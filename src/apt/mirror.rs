//! A partial mirror: the original release files and indexes of a lock's repositories, and of the
//! packages those that the lock names, as files of one directory. Nothing in it is signed anew.
//!
//! ```text
//! <repository>/…InRelease  …/Packages.xz  …/x.deb     as the repository has them
//! keys/<repository>.asc                               the one key that apt trusts for it
//! sources.list  preferences                           what apt reads instead of the container's own
//! packages                                            SHA-256 of every package, for the comparison
//! sequoia.toml                                        the policy for a key that SHA-1 binds
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::architecture::Architecture;
use crate::digest::Digest;
use crate::lock::{Lock, LockedFile, LockedPackage, LockedRepository};

/// What sqv accepts for one call: bindings made with SHA-1, until that date. Signatures over data
/// stay refused (`sequoia-policy-config`).
const SEQUOIA_POLICY: &str = "[hash_algorithms]\nsha1.second_preimage_resistance = 2030-01-01\n";

/// What a file of a mirror is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A file of the cache.
    Blob(LockedFile),
    /// A small text of our own.
    Text(String),
}

/// Whether the file at a path of a mirror is a text of our own; otherwise it is one of the cache's.
pub fn is_text(path: &str) -> bool {
    path.starts_with("keys/")
        || ["sources.list", "preferences", "packages", "sequoia.toml"].contains(&path)
}

/// The files of a mirror by their path, with a name made of all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The files by their path.
    pub files: BTreeMap<String, Content>,
    /// A digest of paths and contents.
    pub name: Digest,
}

/// The mirror of a lock as it will appear at `place` inside a container. `keys` has the armoured
/// key of every repository by its name, `pins` keeps packages out.
pub fn layout(lock: &Lock, place: &str, keys: &BTreeMap<String, String>, pins: &str) -> Layout {
    let mut files = BTreeMap::new();
    let mut sources = String::new();
    for repository in &lock.repositories {
        let name = &repository.name;
        let below = format!("{name}/{}", repository.release_directory());
        files.insert(format!("{below}InRelease"), Content::Blob(repository.release));
        for index in &repository.indexes {
            let blob = LockedFile { sha256: index.sha256, size: index.size };
            files.insert(format!("{below}{}", index.path), Content::Blob(blob));
        }
        let key = keys.get(name).cloned().unwrap_or_default();
        files.insert(format!("keys/{name}.asc"), Content::Text(key));
        sources.push_str(&source(repository, place, lock.architecture));
    }
    let mut digests = String::new();
    for package in &lock.packages {
        let blob = LockedFile { sha256: package.sha256, size: package.size };
        files.insert(path(package), Content::Blob(blob));
        let _ = writeln!(digests, "SHA256:{}", package.sha256);
    }
    let texts = [
        ("sources.list", sources),
        ("preferences", preferences(lock, pins)),
        ("packages", digests),
        ("sequoia.toml", SEQUOIA_POLICY.to_owned()),
    ];
    files.extend(texts.map(|(name, text)| (name.to_owned(), Content::Text(text))));
    let digests = files.iter().map(|(path, content)| {
        let digest = match content {
            Content::Blob(blob) => blob.sha256,
            Content::Text(text) => Digest::of(text.as_bytes()),
        };
        (path.as_str(), digest)
    });
    let name = name(digests);
    Layout { files, name }
}

/// Where a mirror has a package.
pub fn path(package: &LockedPackage) -> String {
    let path = package.path.strip_prefix("./").unwrap_or(&package.path);
    format!("{}/{path}", package.repository)
}

/// One source: exactly one key is trusted for it, only the package index is read, and its age is
/// judged by us: a security release expires after a week, which an offline mirror cannot help.
fn source(repository: &LockedRepository, place: &str, architecture: Architecture) -> String {
    let LockedRepository { name, suite, components, key, .. } = repository;
    let words = match components.is_empty() {
        true => suite.clone(),
        false => format!("{suite} {}", components.join(" ")),
    };
    format!(
        "deb [arch={} target=Packages check-valid-until=no signed-by={place}/keys/{name}.asc,{}] file:{place}/{name} {words}\n",
        architecture.dpkg(),
        key.fingerprint,
    )
}

/// The locked versions before all others, so that a newer index of the same repositories leads to
/// the same container; then what must not come in.
fn preferences(lock: &Lock, pins: &str) -> String {
    let mut text = String::new();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in &lock.packages {
        versions.entry(&package.name).or_default().insert(&package.version);
    }
    for (name, versions) in versions {
        // Two targets may have led to two versions; then apt chooses between them.
        for version in versions {
            let _ = writeln!(text, "Package: {name}\nPin: version {version}\nPin-Priority: 990\n");
        }
    }
    text.push_str(pins);
    text.push('\n');
    text
}

/// The name of a mirror with these files, which come in the order of their paths.
pub fn name<'a>(files: impl Iterator<Item = (&'a str, Digest)>) -> Digest {
    let mut list = String::new();
    for (path, digest) in files {
        let _ = writeln!(list, "{digest} {path}");
    }
    Digest::of(list.as_bytes())
}
