//! Whether a lock, the files it names and the pins of the program fit together: installer against
//! the recipe's pin; key against the pinned fingerprint; `InRelease` against the key; index against
//! `InRelease`; every package against the index. Used before anything reaches a container, and for
//! every bundle; what the lock itself says is believed in nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;

use crate::apt::index::{Listed, Packages};
use crate::apt::release::{Expiry, Release};
use crate::artifact::Trust;
use crate::cache::decompressed;
use crate::digest::Digest;
use crate::engine::metadata::about;
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::host::files::failed;
use crate::lock::{Lock, LockedFile, LockedPackage, LockedRepository, Role};
use crate::openpgp::{self, Binding};
use crate::recipe::Recipe;

/// What to do about an installer whose digest the recipe does not pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unpinned {
    /// It is refused.
    #[default]
    Refused,
    /// It is believed (`--trust-tls`).
    Allowed,
}

/// Where the files of a lock lie. The file at the path that comes back was hashed by then; what is
/// small is hashed once more here, when it is read.
pub type Blobs<'a> = dyn Fn(&LockedFile, &str) -> Result<PathBuf> + 'a;

/// A chain that holds.
#[derive(Debug, Clone)]
pub struct Chain {
    /// The armoured key of every repository, by the repository's name.
    pub keys: BTreeMap<String, String>,
}

/// Verifies the chain of a lock under the pins of a recipe.
///
/// # Errors
/// Install error saying which link does not hold, with both values.
pub fn verify(
    lock: &Lock,
    recipe: &Recipe,
    blobs: &Blobs<'_>,
    unpinned: Unpinned,
) -> Result<Chain> {
    installer(lock, recipe, unpinned)?;
    if let Some(key) = &lock.key {
        let wanted = recipe.repository(&lock.distribution, lock.architecture)?.fingerprint;
        let file = LockedFile { sha256: key.sha256, size: key.size };
        openpgp::check_key(&read(&file, "the repository's key", blobs)?, &wanted)?;
    }
    let mut keys = BTreeMap::new();
    for locked in &lock.repositories {
        let key = repository(locked, &pins(lock, recipe, locked.role)?, blobs)
            .map_err(|error| about(&locked.place(), error))?;
        keys.insert(locked.name.clone(), key);
        packages(lock, locked, blobs).map_err(|error| about(&locked.place(), error))?;
    }
    for package in &lock.packages {
        if recipe.denies(&package.name) {
            return Err(Error::install(format!("use the lock: it has `{}`", package.label()))
                .because("the recipe denies packages of this name: they may bring a driver of another version"));
        }
    }
    Ok(Chain { keys })
}

/// Compares the installer of a lock with the pin of a recipe.
///
/// # Errors
/// Install error that shows both.
pub fn installer(lock: &Lock, recipe: &Recipe, unpinned: Unpinned) -> Result<()> {
    let locked = &lock.installer;
    let pinned = recipe.installer(&locked.version, lock.architecture)?;
    match (pinned.digest, locked.trust, unpinned) {
        (Some(digest), ..) if digest == locked.sha256 => Ok(()),
        (Some(digest), ..) => Err(Error::install(format!("trust `{}`", locked.name))
            .because(format!("the recipe pins the SHA-256 digest {digest}"))
            .because(format!("the lock has {}", locked.sha256))),
        (None, Trust::Tls, Unpinned::Allowed) => Ok(()),
        (None, Trust::Tls, Unpinned::Refused) => {
            Err(Error::install(format!("trust `{}`", locked.name))
                .because("the recipe pins no digest for this version")
                .hint("`--trust-tls` believes the digest that was published beside it"))
        }
        (None, ..) => Err(Error::install(format!("trust `{}`", locked.name))
            .because("the lock says that the recipe pins its digest, and it does not")
            .hint("`nvstage prefetch` with the recipe that pins it writes the lock anew")),
    }
}

/// The fingerprints that may sign a repository.
fn pins(lock: &Lock, recipe: &Recipe, role: Role) -> Result<Vec<Fingerprint>> {
    let (distribution, architecture) = (lock.distribution.as_str(), lock.architecture);
    Ok(match role {
        Role::Cuda => vec![recipe.repository(distribution, architecture)?.fingerprint],
        Role::Distribution => recipe.distribution_keys(distribution)?.to_vec(),
        Role::OlderCuda => match recipe.older_distribution(distribution) {
            Some(older) => vec![recipe.repository(older, architecture)?.fingerprint],
            None => Vec::new(),
        },
    })
}

/// Key, signature, date, and indexes of a repository; returns the armoured key.
fn repository(
    locked: &LockedRepository,
    pins: &[Fingerprint],
    blobs: &Blobs<'_>,
) -> Result<String> {
    let fingerprint = &locked.key.fingerprint;
    if !pins.contains(fingerprint) {
        let pins: Vec<&str> = pins.iter().map(Fingerprint::as_str).collect();
        return Err(Error::install("trust its key: it is not a pinned one")
            .because(format!("pinned {}, found {fingerprint}", pins.join(", "))));
    }
    let file = LockedFile { sha256: locked.key.sha256, size: locked.key.size };
    let key = read(&file, "its key", blobs)?;
    openpgp::check_key(&key, fingerprint)?;
    let certificates = openpgp::certificates(&key)?;
    let signed =
        openpgp::verify_clearsigned(&read(&locked.release, "InRelease", blobs)?, &certificates)?;
    let release = Release::parse(&signed.text)?;
    if release.date != locked.date {
        return Err(Error::install("use its release: the lock has another date")
            .because(format!("the release says {}, the lock {}", release.date, locked.date)));
    }
    if (signed.binding == Binding::Sha1) != locked.sha1_bound {
        return Err(Error::install(
            "use its release: the lock is wrong about how its key is bound",
        ));
    }
    // Whether it has expired is judged by its age, when it is used.
    let now = Timestamp::now();
    release.check(&locked.suite, now, Expiry::Ignored)?;
    for index in &locked.indexes {
        let named = release.file(&index.path);
        if named != Some((index.sha256, index.size)) {
            let named = named.map_or("none".to_owned(), |(digest, _)| digest.to_string());
            return Err(Error::install(format!("use the index `{}`", index.path))
                .because(format!("the release names {named}, the lock {}", index.sha256)));
        }
    }
    openpgp::armoured(&key)
}

/// Every package that the lock takes from a repository is in its indexes, with that digest.
fn packages(lock: &Lock, locked: &LockedRepository, blobs: &Blobs<'_>) -> Result<()> {
    let mut open: BTreeMap<&str, Vec<&LockedPackage>> = BTreeMap::new();
    for package in lock.packages.iter().filter(|package| package.repository == locked.name) {
        open.entry(&package.name).or_default().push(package);
    }
    let mut replaced: Option<Listed> = None;
    for index in &locked.indexes {
        if open.is_empty() {
            return Ok(());
        }
        let file = LockedFile { sha256: index.sha256, size: index.size };
        let path = blobs(&file, &index.path)?;
        let reader = std::fs::File::open(&path).map_err(|error| failed("open", &path, &error))?;
        for listed in Packages::new(decompressed(reader, &index.path)?) {
            let listed = listed?;
            let Some(wanted) = open.get_mut(listed.name.as_str()) else { continue };
            let count = wanted.len();
            wanted.retain(|package| !is_same(package, &listed));
            if wanted.is_empty() {
                open.remove(listed.name.as_str());
            } else if wanted.len() == count && is_version(wanted, &listed) {
                replaced = Some(listed);
            }
        }
    }
    let Some(missing) = open.into_values().flatten().next() else { return Ok(()) };
    let error = Error::install(format!("use package `{}`", missing.label())).because(format!(
        "the lock has the SHA-256 digest {} at `{}`",
        missing.sha256, missing.path
    ));
    Err(match replaced.filter(|listed| listed.name == missing.name) {
        Some(listed) => {
            error.because(format!("the signed index has {} at `{}`", listed.sha256, listed.path))
        }
        None => error.because("the signed index does not list it"),
    })
}

fn is_version(wanted: &[&LockedPackage], listed: &Listed) -> bool {
    let same = |package: &&LockedPackage| {
        package.version == listed.version && package.architecture == listed.architecture
    };
    wanted.iter().any(same)
}

fn is_same(locked: &LockedPackage, listed: &Listed) -> bool {
    locked.sha256 == listed.sha256
        && locked.size == listed.size
        && locked.path == listed.path
        && locked.version == listed.version
        && locked.architecture == listed.architecture
}

/// A small file, hashed as it is read.
fn read(file: &LockedFile, what: &str, blobs: &Blobs<'_>) -> Result<Vec<u8>> {
    let path = blobs(file, what)?;
    let bytes = std::fs::read(&path).map_err(|error| failed("read", &path, &error))?;
    if Digest::of(&bytes) != file.sha256 {
        let what = format!("use {what}: `{}` is damaged", path.display());
        return Err(Error::install(what).because(format!("wanted is {}", file.sha256)));
    }
    Ok(bytes)
}
