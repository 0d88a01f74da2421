//! `nvstage cache prune`: what no lock reaches is removed, in an order that may end anywhere.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::contents::{bytes, in_one_line};
use super::reach::{Reach, Removal, UsedDrivers, freed, total};
use super::scan::{Directory, LeftoverKind, Scan};
use super::{Cache, ExclusiveCache, mirror, tree};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::host::files::{self, Lock};

/// Whether anything is really removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Prune {
    /// Yes.
    Remove,
    /// No: only what would be removed is said.
    Rehearse,
}

/// What was removed, or would be.
#[derive(Debug, Clone, Serialize)]
pub struct Pruned {
    schema: u32,
    /// The cache's directory.
    pub directory: String,
    /// Whether it was removed.
    pub mode: Prune,
    /// One entry for each file or directory.
    pub removed: Vec<Removed>,
    /// The bytes that are free now, or would be.
    pub freed_bytes: u64,
    /// The bytes that locks keep.
    pub kept_bytes: u64,
}

/// One file or directory that was removed.
#[derive(Debug, Clone, Serialize)]
pub struct Removed {
    /// What it was, in words that others of its kind share.
    pub what: String,
    /// Its path.
    pub path: PathBuf,
    /// Its own bytes: those of a link count with the file that is linked.
    pub bytes: u64,
}

impl Pruned {
    /// Nothing of a cache yet.
    pub fn nothing(directory: String, mode: Prune) -> Self {
        let removed = Vec::new();
        Self { schema: 1, directory, mode, removed, freed_bytes: 0, kept_bytes: 0 }
    }

    /// Adds what was removed beside the cache.
    pub fn add(&mut self, removed: Vec<Removed>) {
        self.freed_bytes += removed.iter().map(|one| one.bytes).sum::<u64>();
        self.removed.extend(removed);
    }
}

impl Pruned {
    /// An error that comes after it, with what was removed until then.
    pub fn told(&self, error: Error) -> Error {
        match (self.mode, self.removed.len()) {
            (Prune::Rehearse, _) | (_, 0) => error,
            (Prune::Remove, 1) => error.because("before that one thing was removed from the cache"),
            (Prune::Remove, count) => {
                error.because(format!("before that {count} things were removed from the cache"))
            }
        }
    }
}

impl ExclusiveCache {
    /// Removes what no lock reaches and no container's driver needs: files with their records, unpacked installers, partial
    /// mirrors, partial downloads, and what killed runs left. It may be stopped at any point: what
    /// is kept stays whole and verified.
    ///
    /// A mirror is kept while its paths and links are those of a lock's mirror; the texts in it
    /// are not looked at, because it is compared with them at its next use anyway, and then made
    /// again within milliseconds.
    ///
    /// # Errors
    /// Install error while a lock cannot be read, because what it reaches would be lost; a host
    /// error when something cannot be removed; the interruption.
    pub fn prune(&self, mode: Prune, used: &UsedDrivers) -> Result<Pruned> {
        let cache = self.cache();
        let locks = cache.locks()?;
        if !locks.unreadable.is_empty() {
            let error = Error::install("prune the cache: nobody knows what a lock keeps");
            let error =
                locks.unreadable.iter().fold(error, |error, lock| error.because(in_one_line(lock)));
            return Err(error
                .hint("`nvstage prefetch` for its recipe and distribution writes it anew")
                .hint("or remove that file: what it alone keeps is removed then"));
        }
        let scan = Scan::of(cache)?;
        let mut reach = Reach::of(&locks.readable);
        reach.keep_drivers(&scan, used);
        let mut removals = Vec::new();
        for removal in reach.unreached(&scan) {
            if is_free(&removal)? {
                removals.push(removal);
            }
        }
        if mode == Prune::Remove {
            let work = Work { cache, scan: &scan, reach: &reach };
            removals.iter().try_for_each(|removal| work.remove(removal))?;
        }
        let freed_bytes = freed(removals.iter().flat_map(Removal::files));
        // A record goes with its file.
        let is_own = |removal: &&Removal<'_>| match removal {
            Removal::Record(digest) => !scan.blobs.contains_key(digest),
            _ => true,
        };
        let removed = removals.iter().filter(is_own).map(|removal| Removed {
            what: removal.label(&scan),
            path: path(cache, removal),
            bytes: bytes(removal),
        });
        Ok(Pruned {
            schema: 1,
            directory: cache.directory.to_string_lossy().into_owned(),
            mode,
            removed: removed.collect(),
            freed_bytes,
            kept_bytes: total(&scan).saturating_sub(freed_bytes),
        })
    }
}

/// Whether nobody holds it. With the cache held alone nobody should, but for an import that waits
/// for it.
fn is_free(removal: &Removal<'_>) -> Result<bool> {
    match removal {
        Removal::Leftover(leftover) if leftover.directory.files.contains_key(".lock") => {
            Ok(Lock::try_exclusive(&leftover.path.join(".lock"))?.is_some())
        }
        Removal::Leftover(leftover)
            if matches!(leftover.kind, LeftoverKind::LockFile | LeftoverKind::Partial)
                && leftover.path.is_file() =>
        {
            Ok(Lock::try_exclusive(&leftover.path)?.is_some())
        }
        _ => Ok(true),
    }
}

fn path(cache: &Cache, removal: &Removal<'_>) -> PathBuf {
    match removal {
        Removal::Mirror(name, _) => cache.mirrors().join(name.to_string()),
        Removal::Tree(digest, _) => cache.trees().join(digest.to_string()),
        Removal::Record(digest) => cache.record(digest),
        Removal::Blob(digest, _) => cache.blob(digest),
        Removal::Leftover(leftover) => leftover.path.clone(),
    }
}

struct Work<'a> {
    cache: &'a Cache,
    scan: &'a Scan,
    reach: &'a Reach,
}

impl Work<'_> {
    fn remove(&self, removal: &Removal<'_>) -> Result<()> {
        self.cache.cancel.check()?;
        let path = path(self.cache, removal);
        match removal {
            Removal::Mirror(_, directory) => self.unlink(&path, directory),
            Removal::Leftover(leftover) if leftover.kind == LeftoverKind::Unfinished => {
                self.unlink(&path, &leftover.directory)
            }
            Removal::Tree(digest, _) if path.is_dir() => {
                tree::discard(&self.cache.trees(), &digest.to_string())
            }
            _ => remove(&path),
        }
    }

    /// Removes what may link blobs that stay.
    fn unlink(&self, path: &Path, directory: &Directory) -> Result<()> {
        let blobs = linked(directory, self.scan);
        let staying: Vec<Digest> =
            blobs.into_iter().filter(|digest| self.reach.files.contains_key(digest)).collect();
        mirror::discard(self.cache, path, &staying)
    }
}

/// The blobs that have further names in a directory.
pub(super) fn linked(directory: &Directory, scan: &Scan) -> Vec<Digest> {
    let by_file = scan.by_file();
    directory.files.values().filter_map(|file| by_file.get(&file.id).copied()).collect()
}

/// Removes whatever it is.
pub(super) fn remove(path: &Path) -> Result<()> {
    match path.is_dir() && !path.is_symlink() {
        true => files::remove_tree(path),
        false => files::remove_file(path),
    }
}
