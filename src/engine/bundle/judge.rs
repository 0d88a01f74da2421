//! Whether locks, files and the pins of this machine fit together. What the bundle says of itself
//! decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::contents::{Needed, needed};
use super::source::Source;
use super::table::{TEXT_LIMIT, Table};
use super::{about, damaged, wrong};
use crate::cache::{Arrived, Arriving};
use crate::digest::Digest;
use crate::engine::chain::{self, Unpinned};
use crate::error::{Error, Result};
use crate::lock::{Lock, LockedFile};
use crate::recipe::Recipe;
use crate::runfile::header::{Header, Installer};

/// Finds the recipe of a lock on this machine.
pub type Recipes<'a> = dyn Fn(&Lock) -> Result<Recipe> + 'a;

/// A lock of a bundle, and the recipe of this machine that it is judged by.
#[derive(Debug)]
pub struct Carried {
    /// The lock.
    pub lock: Lock,
    /// The recipe.
    pub recipe: Recipe,
}

/// Where files lie that were hashed.
#[derive(Debug, Default)]
pub struct Places {
    /// Those of the bundle that were kept, and those of the cache.
    pub files: BTreeMap<Digest, PathBuf>,
    /// The first bytes of the installers.
    pub heads: BTreeMap<Digest, Vec<u8>>,
}

/// Reads the locks, the first files of a bundle, finds their recipes, and looks at the pins of
/// their installers, all before much is read.
///
/// # Errors
/// Install error for locks that are damaged or not to be trusted; invalid input where this machine
/// does not have a recipe.
pub fn read_locks(
    source: &mut dyn Source,
    (table, path): (&Table, &Path),
    recipes: &Recipes<'_>,
    unpinned: Unpinned,
) -> Result<Vec<Carried>> {
    let mut locks = Vec::new();
    for (name, entry) in table.locks() {
        if entry.size > TEXT_LIMIT {
            return Err(damaged(path, format!("its lock `{name}` is too large")));
        }
        let (mut bytes, mut hashed) = (Vec::new(), Arriving::unkept(entry.file()));
        source.content_of(entry, &mut |chunk| {
            bytes.extend_from_slice(&chunk);
            hashed.write(&chunk)
        })?;
        let what = format!("use `{}` of the bundle", entry.path);
        hashed.finish(|difference| wrong(path, entry, difference))?;
        let text =
            str::from_utf8(&bytes).map_err(|_| damaged(path, format!("`{name}` is no text")))?;
        let lock = Lock::parse(text, name).map_err(|error| about(&what, error))?;
        if lock.own_file_name() != name {
            let cause = format!("`{name}` is a lock of {}", lock.label());
            return Err(damaged(path, cause));
        }
        locks.push(lock);
    }
    let mut carried = Vec::new();
    for lock in locks {
        let recipe = recipes(&lock)?;
        chain::installer(&lock, &recipe, unpinned).map_err(|error| distrust(&lock, error))?;
        carried.push(Carried { lock, recipe });
    }
    if carried.is_empty() {
        return Err(damaged(path, "it has no lock"));
    }
    Ok(carried)
}

/// Compares the table with what the locks name; returns what the bundle itself does not have and
/// the locks are of no use without.
///
/// # Errors
/// Install error for a file that no lock names.
pub fn compare(carried: &[Carried], (table, path): (&Table, &Path)) -> Result<Vec<Needed>> {
    let mut needed = needed(carried.iter().map(|one| &one.lock))?;
    for entry in table.blobs() {
        match needed.remove(&entry.sha256) {
            None => {
                return Err(damaged(
                    path,
                    format!("none of its locks names its file `{}`", entry.path),
                ));
            }
            Some(needed) if needed.file.size != entry.size => {
                let (wanted, found) = (needed.file.size, entry.size);
                return Err(damaged(path, format!("`{}` has {found} bytes", needed.label))
                    .because(format!("its lock says {wanted}")));
            }
            Some(_) => {}
        }
    }
    Ok(needed.into_values().filter(|needed| !needed.is_optional).collect())
}

/// The error for a file that neither the bundle nor anything else has.
pub fn lacking(needed: &Needed, path: &Path) -> Error {
    damaged(path, format!("it lacks `{}`", needed.label))
        .because(format!("wanted is a file with the SHA-256 digest {}", needed.file.sha256))
}

/// The digests of the files that the chain of signatures is read from.
pub fn links(carried: &[Carried]) -> BTreeSet<Digest> {
    let of_lock = |lock: &Lock| {
        let mut bare = lock.clone();
        bare.packages.clear();
        let mut links = bare.required();
        links.remove(&lock.installer.sha256);
        links
    };
    carried.iter().flat_map(|one| of_lock(&one.lock)).collect()
}

/// The digests of the installers.
pub fn installers(carried: &[Carried]) -> BTreeSet<Digest> {
    carried.iter().map(|one| one.lock.installer.sha256).collect()
}

/// Verifies every lock link by link under the pins of its recipe, and that each installer is the
/// one that its lock says.
///
/// # Errors
/// Install error that says what does not hold.
pub fn verify(carried: &[Carried], places: &Places, unpinned: Unpinned) -> Result<()> {
    let find = |file: &LockedFile, what: &str| {
        places.files.get(&file.sha256).cloned().ok_or_else(|| {
            Error::install(format!("use {what}: it is missing"))
                .because(format!("wanted is a file with the SHA-256 digest {}", file.sha256))
        })
    };
    for Carried { lock, recipe } in carried {
        check_installer(lock, places)
            .and_then(|()| chain::verify(lock, recipe, &find, unpinned))
            .map_err(|error| distrust(lock, error))?;
    }
    Ok(())
}

fn distrust(lock: &Lock, error: Error) -> Error {
    let error = about(&format!("trust the bundle's lock `{}`", lock.own_file_name()), error);
    match error.hints().is_empty() {
        true => error.hint("the pins of this host decide: where does the bundle come from?"),
        false => error,
    }
}

fn check_installer(lock: &Lock, places: &Places) -> Result<()> {
    let locked = &lock.installer;
    let head = places.heads.get(&locked.sha256).map(Vec::as_slice).unwrap_or_default();
    let (name, version) = (locked.name.clone(), locked.version.clone());
    let wanted = Installer { name, version, architecture: lock.architecture };
    wanted.check(&Header::parse(head)?)
}

impl Places {
    /// Adds files that arrived.
    pub fn add(&mut self, arrived: &[Arrived]) {
        let place = |one: &Arrived| (one.file().sha256, one.path().to_owned());
        self.files.extend(arrived.iter().map(place));
    }
}
