//! Taking a bundle over into the cache, or looking whether that could be done.
//!
//! Order of events: the table; the locks, their recipes on this machine, the pins of their
//! installers, the age of their releases; is there room; the blobs, hashed, those that the cache
//! lacks into a workspace; the chain of signatures of every lock; then, with the cache for itself,
//! the blobs under their names, and at the very end the locks. Until then the cache is as it was.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;

use super::Amount;
use super::contents::needed;
use super::intake::{self, Wishes};
pub use super::judge::Recipes;
use super::judge::{self, Carried, Places};
use super::progress::Progress;
use super::source::{self, Source};
use super::table::Table;
use crate::cache::{Arrived, CachedArtifact, Workspace};
use crate::digest::Digest;
use crate::engine::chain::Unpinned;
use crate::engine::metadata::Older;
use crate::engine::supplies::Supplies;
use crate::error::{Error, Result};
use crate::event::{Event, Events};
use crate::host::cancel::Cancel;
use crate::host::files::failed;
use crate::lock::{Lock, Role};
use crate::runfile::header::HEADER_BYTES;

/// Room in the cache beside the files themselves, in bytes.
const RESERVE: u64 = 1024 * 1024;

/// What is asked of an import or a verification.
pub struct Request<'a> {
    /// The file or directory.
    pub path: &'a Path,
    /// The recipes of this machine.
    pub recipes: &'a Recipes<'a>,
    /// What to do about an installer without a pin.
    pub unpinned: Unpinned,
    /// Whether releases may be older than what the cache has.
    pub older: Older,
}

/// A bundle that was verified, its new files beside the cache's own.
#[derive(Debug)]
pub struct Staged {
    path: PathBuf,
    carried: Vec<Carried>,
    table: Table,
    arrived: Vec<Arrived>,
    _workspace: Workspace,
}

/// What became of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Became {
    /// The cache had none of that name.
    New,
    /// The cache had another one.
    Replaced,
    /// The cache had it.
    Unchanged,
}

/// A lock of a bundle, for people.
#[derive(Debug, Clone, Serialize)]
pub struct ImportedLock {
    /// Its name.
    pub name: String,
    /// What became of it.
    pub became: Became,
}

/// What was imported.
#[derive(Debug, Clone, Serialize)]
pub struct Imported {
    schema: u32,
    /// The file or directory.
    pub bundle: PathBuf,
    /// The locks.
    pub locks: Vec<ImportedLock>,
    /// Files that the cache lacked.
    pub new: Amount,
    /// Files that the cache had.
    pub there: Amount,
    /// The directory of the cache.
    pub cache: PathBuf,
}

/// What was verified.
#[derive(Debug, Clone, Serialize)]
pub struct Verified {
    schema: u32,
    /// The file or directory.
    pub bundle: PathBuf,
    /// The names of its locks.
    pub locks: Vec<String>,
    /// Its files without the table.
    pub content: Amount,
}

/// Verifies a bundle, with its new files in a workspace of the cache. `supplies` is of a cache that
/// others use as well.
///
/// # Errors
/// Install error for whatever is wrong with the bundle, and when the disk is full; invalid input
/// where this machine lacks a recipe; host error when the bundle cannot be read.
pub fn stage(supplies: &Supplies<'_>, request: &Request<'_>) -> Result<Staged> {
    let mut opened = Opened::new(request, (supplies.events, supplies.cancel))?;
    check_age(supplies, &opened.carried, request.older)?;
    let installers = judge::installers(&opened.carried);
    let mut places = Places::default();
    for needed in judge::compare(&opened.carried, (&opened.table, request.path))? {
        let found = supplies.cache.find(&needed.file.sha256, supplies.events)?;
        let found = found.filter(|found| found.size() == needed.file.size);
        let found = found.ok_or_else(|| judge::lacking(&needed, request.path))?;
        if installers.contains(found.digest()) {
            places.heads.insert(*found.digest(), head(&found)?);
        }
        places.files.insert(*found.digest(), found.path().to_owned());
    }
    let mut wanted = Vec::new();
    for entry in opened.table.blobs() {
        match supplies.cache.find(&entry.sha256, supplies.events)? {
            Some(found) => drop(places.files.insert(entry.sha256, found.path().to_owned())),
            None => wanted.push(entry.file()),
        }
    }
    check_room(supplies, request.path, wanted.iter().map(|file| file.size).sum())?;
    let workspace = supplies.cache.arrivals()?;
    let wishes = Wishes {
        bundle: request.path,
        directory: workspace.path(),
        kept: wanted.iter().map(|file| file.sha256).collect(),
        installers,
    };
    let taken = opened.take(&wishes, (supplies.events, "import"))?;
    places.add(&taken.arrived);
    places.heads.extend(taken.heads);
    judge::verify(&opened.carried, &places, request.unpinned)?;
    let Opened { carried, table, .. } = opened;
    let path = request.path.to_owned();
    Ok(Staged { path, carried, table, arrived: taken.arrived, _workspace: workspace })
}

/// Takes a verified bundle over. `supplies` is of a cache that nobody else uses meanwhile.
///
/// # Errors
/// Install error when the cache has accepted newer releases or lost files since, or the disk is
/// full; host error when it cannot be written.
pub fn install(supplies: &Supplies<'_>, staged: Staged, older: Older) -> Result<Imported> {
    let cache = supplies.cache;
    check_age(supplies, &staged.carried, older)?;
    check_complete(supplies, &staged)?;
    supplies.cancel.check()?;
    let mut imported = Imported {
        schema: 1,
        bundle: staged.path.clone(),
        locks: Vec::new(),
        new: Amount::default(),
        there: Amount::default(),
        cache: cache.directory().to_owned(),
    };
    for file in cache.adopt_all(&staged.arrived, supplies.events)? {
        imported.new.add(file.size);
    }
    staged.table.blobs().for_each(|entry| imported.there.add(entry.size));
    imported.there.files -= imported.new.files;
    imported.there.bytes -= imported.new.bytes;
    for Carried { lock, .. } in &staged.carried {
        let name = lock.own_file_name();
        let old = cache.lock(&name).ok();
        let lock = match &old {
            // A lock without packages takes none away, as with `prefetch`.
            Some(Some(old)) if lock.packages.is_empty() => &old.with_origin_of(lock),
            _ => lock,
        };
        let became = match &old {
            Some(None) => Became::New,
            Some(Some(old)) if old == lock => Became::Unchanged,
            _ => Became::Replaced,
        };
        supplies.keep(lock, older)?;
        let name = name.trim_end_matches(".lock").to_owned();
        imported.locks.push(ImportedLock { name, became });
    }
    Ok(imported)
}

/// Somebody may have pruned what the cache had when it was looked at.
fn check_complete(supplies: &Supplies<'_>, staged: &Staged) -> Result<()> {
    let arrived: BTreeSet<Digest> = staged.arrived.iter().map(|one| one.file().sha256).collect();
    let needed = needed(staged.carried.iter().map(|one| &one.lock))?.into_values();
    for needed in needed.filter(|one| !one.is_optional && !arrived.contains(&one.file.sha256)) {
        if supplies.cache.find(&needed.file.sha256, supplies.events)?.is_none() {
            let what = format!("import `{}`: it left the cache meanwhile", needed.label);
            return Err(Error::install(what).hint("run the same command again"));
        }
    }
    Ok(())
}

/// Looks whether a bundle is complete in itself and would be accepted by an empty cache.
///
/// # Errors
/// As [`stage`].
pub fn verify(request: &Request<'_>, context: (&dyn Events, &Cancel)) -> Result<Verified> {
    let mut opened = Opened::new(request, context)?;
    if let Some(needed) = judge::compare(&opened.carried, (&opened.table, request.path))?.first() {
        return Err(judge::lacking(needed, request.path));
    }
    let workspace = tempfile::Builder::new()
        .prefix("nvstage-")
        .tempdir()
        .map_err(|error| Error::host("create a directory for temporary files").because(error))?;
    let wishes = Wishes {
        bundle: request.path,
        directory: workspace.path(),
        kept: judge::links(&opened.carried),
        installers: judge::installers(&opened.carried),
    };
    let taken = opened.take(&wishes, (context.0, "verify"))?;
    let mut places = Places { heads: taken.heads, ..Places::default() };
    places.add(&taken.arrived);
    judge::verify(&opened.carried, &places, request.unpinned)?;
    let name = |one: &Carried| one.lock.own_file_name().trim_end_matches(".lock").to_owned();
    Ok(Verified {
        schema: 1,
        bundle: request.path.to_owned(),
        locks: opened.carried.iter().map(name).collect(),
        content: Amount { files: opened.table.entries().len(), bytes: opened.table.bytes() },
    })
}

/// A bundle whose table and locks were read.
struct Opened<'a> {
    path: &'a Path,
    source: Box<dyn Source>,
    table: Table,
    carried: Vec<Carried>,
}

impl<'a> Opened<'a> {
    fn new(request: &Request<'a>, (events, cancel): (&dyn Events, &Cancel)) -> Result<Self> {
        let path = request.path;
        let mut source = source::open(path, cancel)?;
        let table = source.table()?;
        let carried =
            judge::read_locks(&mut *source, (&table, path), request.recipes, request.unpinned)?;
        if request.unpinned == Unpinned::Allowed {
            warn_of_unpinned(&carried, events)?;
        }
        Ok(Self { path, source, table, carried })
    }

    fn take(&mut self, wishes: &Wishes<'_>, told: (&dyn Events, &str)) -> Result<intake::Taken> {
        let entries: Vec<_> = self.table.blobs().collect();
        let total = entries.iter().map(|entry| entry.size).sum();
        let (events, verb) = told;
        let mut progress = Progress::new(events, &format!("{verb} {}", self.path.display()), total);
        let taken = intake::take(&mut *self.source, &entries, wishes, &mut progress)?;
        self.source.finish()?;
        Ok(taken)
    }
}

fn warn_of_unpinned(carried: &[Carried], events: &dyn Events) -> Result<()> {
    for Carried { lock, recipe } in carried {
        let pinned = recipe.installer(&lock.installer.version, lock.architecture)?.digest;
        if pinned.is_none() {
            let text =
                format!("`{}`: its digest is believed as the bundle has it", lock.installer.name);
            events.emit(Event::Warning { text });
        }
    }
    Ok(())
}

/// The first bytes of an installer.
fn head(found: &CachedArtifact) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    found
        .open()?
        .take(HEADER_BYTES as u64)
        .read_to_end(&mut head)
        .map_err(|error| failed("read", found.path(), &error))?;
    Ok(head)
}

fn check_room(supplies: &Supplies<'_>, path: &Path, wanted: u64) -> Result<()> {
    let free = supplies.cache.free_bytes()?;
    if wanted == 0 || wanted.saturating_add(RESERVE) <= free {
        return Ok(());
    }
    Err(Error::install(format!("import `{}`: no space is left in the cache", path.display()))
        .because(format!("it needs {wanted} bytes, and {free} are free"))
        .hint("make room, or use a cache on another file system"))
}

/// Refuses releases that are older than those that the cache has accepted: for the same place, and,
/// because nothing vouches for the place that a lock of a bundle gives, for the same party in the
/// lock that would be replaced.
fn check_age(supplies: &Supplies<'_>, carried: &[Carried], older: Older) -> Result<()> {
    let locks = supplies.locks()?;
    for lock in carried.iter().map(|one| &one.lock) {
        let name = lock.own_file_name();
        let old = locks.iter().find(|(old, _)| *old == name).map(|(_, old)| old);
        for repository in &lock.repositories {
            let (place, found) = (repository.place(), repository.date);
            let of_place = supplies.cache.accepted(&place)?;
            let of_place = of_place.filter(|before| before.sha256 != repository.release.sha256);
            let newest = newest(lock, repository.role);
            let of_party = old.and_then(|old| self::newest(old, repository.role));
            let of_party = of_party.filter(|date| newest < Some(*date));
            let of_place = of_place.map(|before| before.date).filter(|date| found < *date);
            let Some(date) = of_place.max(of_party) else { continue };
            let what = format!(
                "use the bundle's lock `{name}`: the release of `{place}` in it is of {found}"
            );
            if older == Older::Allowed {
                let text =
                    format!("{what}; one of {date} was accepted before: older, as was allowed");
                supplies.events.emit(Event::Warning { text });
                continue;
            }
            return Err(Error::install(what)
                .because(format!("one of {date} was accepted before"))
                .hint("`--allow-older` accepts it, where going back is meant"));
        }
    }
    Ok(())
}

/// The date of the newest release of a party.
fn newest(lock: &Lock, role: Role) -> Option<Timestamp> {
    lock.repositories.iter().filter(|one| one.role == role).map(|one| one.date).max()
}
