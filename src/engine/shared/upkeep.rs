//! Which images there are, who needs them, whether they are intact; and those that nobody needs
//! removed: `nvstage cache list`, `verify` and `prune`.
//!
//! A driver is needed while it is the loaded kernel module's version, or `current`: a container that
//! runs keeps the one it began with, by a mount of its own, and gets `current` when it starts. A CUDA
//! toolkit is needed while a container was given it; the containers are those with a journal, whether
//! they run or not.

use std::collections::BTreeMap;
use std::fs;

use super::current;
use super::store::{Kind, Slot, Unmounting};
use crate::cache::{Damaged, Part, Prune, Removed, Thing, UsedDrivers};
use crate::digest::Digest;
use crate::engine::journal;
use crate::error::{Error, Result};
use crate::event::{Event, Events};
use crate::host::Host;
use crate::host::devices::Inventory;
use crate::host::paths::Paths;
use crate::recipe::Userland;
use crate::remedy;
use crate::version::DriverVersion;

/// Who needs which image, by kind and name.
#[derive(Debug, Default)]
struct Needed {
    drivers: BTreeMap<String, Vec<String>>,
    cuda: BTreeMap<String, Vec<String>>,
    /// Why the loaded kernel module's version is not known.
    no_module: Vec<Error>,
    /// Journals that cannot be read: their containers may need any CUDA toolkit.
    no_journal: Vec<Error>,
}

impl Needed {
    fn of(paths: &Paths) -> Result<Self> {
        let mut needed = Self::default();
        let (inventory, problems) = Inventory::read_leniently(paths)?;
        match inventory.module_version() {
            Some(version) => needed.driver(version, "the loaded kernel module".to_owned()),
            None => needed.no_module.extend(problems),
        }
        if let Some(version) = current(paths) {
            needed.driver(&version, "containers that start (`current`)".to_owned());
        }
        for ctid in journal::managed(paths)? {
            let journal = match journal::load(paths, &ctid) {
                Ok(Some(journal)) => journal,
                Ok(None) => continue,
                Err(error) => {
                    needed.no_journal.push(error);
                    continue;
                }
            };
            if let Some(id) = journal.cuda_image {
                needed.cuda.entry(id).or_default().push(format!("container {ctid}"));
            }
        }
        Ok(needed)
    }

    fn driver(&mut self, version: &DriverVersion, who: String) {
        self.drivers.entry(version.to_string()).or_default().push(who);
    }

    fn by(&self, kind: Kind, name: &str) -> Vec<String> {
        let all = match kind {
            Kind::Driver => &self.drivers,
            Kind::Cuda => &self.cuda,
        };
        all.get(name).cloned().unwrap_or_default()
    }

    fn unknown(&self, kind: Kind) -> &[Error] {
        match kind {
            Kind::Driver => &self.no_module,
            Kind::Cuda => &self.no_journal,
        }
    }

    /// # Errors
    /// Host error when something that may need an image of the kind cannot be read.
    fn all_known(&self, kind: Kind) -> Result<()> {
        let unknown = self.unknown(kind);
        if unknown.is_empty() {
            return Ok(());
        }
        let error = Error::host(format!("remove any {}: nobody knows what is needed", kind.noun()));
        let error = unknown.iter().fold(error, |error, unknown| {
            let causes = unknown.causes().join(": ");
            error.because(format!("failed to {}: {causes}", unknown.what()))
        });
        Err(error.hint("put that right, or remove the file if its container is gone"))
    }
}

/// The drivers that containers with a journal have, by NVIDIA's installer.
///
/// # Errors
/// Host error when the directory of journals cannot be read.
pub fn used_drivers(paths: &Paths) -> Result<UsedDrivers> {
    let mut used: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for ctid in journal::managed(paths)? {
        let Ok(journal) = journal::load(paths, &ctid) else { return Ok(UsedDrivers::Unknown) };
        let own = journal.filter(|journal| journal.userland == Userland::Installer);
        if let Some(version) = own.and_then(|journal| journal.driver) {
            used.entry(version.to_string()).or_default().push(format!("container {ctid}"));
        }
    }
    Ok(UsedDrivers::Known(used))
}

const KINDS: [Kind; 2] = [Kind::Driver, Kind::Cuda];

/// Every image, with what it is needed by.
///
/// # Errors
/// Host error when a directory cannot be read.
pub fn list(host: &Host, events: &dyn Events) -> Result<Vec<Thing>> {
    let needed = Needed::of(&host.paths)?;
    let mut things = Vec::new();
    for kind in KINDS {
        for error in needed.unknown(kind) {
            let (what, noun) = (error.what(), kind.noun());
            let text = format!("failed to {what}: nobody knows which {noun} is needed");
            events.emit(Event::Warning { text });
        }
        for name in kind.names(&host.paths)? {
            let slot = Slot::new(&host.paths, kind, &name);
            let finished = slot.read_record::<serde_json::Value>()?.is_some();
            let unfinished = if finished { "" } else { ", unfinished" };
            things.push(Thing {
                what: format!("{} {name}{unfinished}", kind.noun()),
                files: 1,
                bytes: size(&slot),
                last_used: None,
                kept_by: needed.by(kind, &name),
            });
        }
    }
    Ok(things)
}

fn size(slot: &Slot) -> u64 {
    fs::symlink_metadata(slot.image()).map_or(0, |found| found.len())
}

/// What came of hashing every image.
#[derive(Debug, Default)]
pub struct Rehashed {
    /// How many were hashed.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// What was damaged, and is removed.
    pub damaged: Vec<Damaged>,
}

/// Hashes every image again. A damaged one is unmounted and removed, and `current` with it:
/// containers that run keep what they were shown, those that start get no damaged driver.
///
/// # Errors
/// Host error when one cannot be removed; the interruption.
pub fn verify(host: &Host, events: &dyn Events) -> Result<Rehashed> {
    let needed = Needed::of(&host.paths)?;
    let mut done = Rehashed::default();
    for kind in KINDS {
        for name in kind.names(&host.paths)? {
            host.cancel.check()?;
            let slot = Slot::new(&host.paths, kind, &name);
            let _lock = slot.lock(events, &host.cancel)?;
            let Some(record) = slot.read_record::<serde_json::Value>()? else { continue };
            done.files += 1;
            done.bytes += size(&slot);
            let why = match slot.rehash() {
                Ok(found) if found == record.image.sha256 => continue,
                Ok(found) => format!("its content has the digest {found}"),
                Err(error) => error.to_string(),
            };
            done.damaged.push(discard(host, (&slot, kind, &name), record.image.sha256, why)?);
            if let Some(damaged) = done.damaged.last_mut() {
                damaged.kept_by = needed.by(kind, &name);
            }
            let text = format!(
                "{} was damaged and is removed: `{}` or the next run that needs it makes it again",
                slot.label(),
                remedy::refresh()
            );
            events.emit(Event::Warning { text });
        }
    }
    Ok(done)
}

fn discard(host: &Host, what: (&Slot, Kind, &str), sha256: Digest, why: String) -> Result<Damaged> {
    let (slot, kind, name) = what;
    if kind == Kind::Driver && current(&host.paths).is_some_and(|now| now.as_str() == name) {
        current::withdraw(host)?;
    }
    slot.remove(host, Unmounting::Detach)?;
    let name = format!("{} {name}", kind.noun());
    Ok(Damaged { part: Part::Image, sha256, name, kept_by: Vec::new(), why })
}

/// Removes the images that nobody needs, and what killed runs left. For a run that holds the cache
/// alone: whoever is about to need one holds it too.
///
/// # Errors
/// Host error when it cannot be told who needs them, or a process of this host is at work in one;
/// the interruption.
pub fn prune(host: &Host, mode: Prune) -> Result<Vec<Removed>> {
    let mut removed = Vec::new();
    if !super::is_used(&host.paths) {
        return Ok(removed);
    }
    // `current` stays what it is until the end.
    let _lock = current::hold(host)?;
    let needed = Needed::of(&host.paths)?;
    let mut idle = Vec::new();
    for kind in KINDS {
        if mode == Prune::Remove {
            kind.clear_away(&host.paths)?;
        }
        for name in kind.names(&host.paths)? {
            if needed.by(kind, &name).is_empty() {
                needed.all_known(kind)?;
                idle.push((kind, name));
            }
        }
    }
    for (kind, name) in idle {
        host.cancel.check()?;
        removed.extend(remove(host, (kind, &name), mode)?);
    }
    Ok(removed)
}

/// Removes the image of one driver's version.
///
/// # Errors
/// Invalid input when there is none; host error when it is needed, saying by whom, or as [`prune`].
pub fn prune_driver(host: &Host, version: &DriverVersion, mode: Prune) -> Result<Vec<Removed>> {
    let name = version.as_str();
    if !Kind::Driver.names(&host.paths)?.iter().any(|found| found == name) {
        return Err(Error::input(format!("remove the shared driver {version}: there is none"))
            .hint("`nvstage cache list` shows what there is"));
    }
    let _lock = current::hold(host)?;
    let needed = Needed::of(&host.paths)?;
    let by = needed.by(Kind::Driver, name);
    if !by.is_empty() {
        return Err(Error::host(format!("remove the shared driver {version}: it is needed"))
            .because(format!("by {}", by.join(", ")))
            .hint(format!(
                "when another kernel module is loaded, `{}` gives containers its driver",
                remedy::refresh()
            )));
    }
    needed.all_known(Kind::Driver)?;
    Ok(remove(host, (Kind::Driver, name), mode)?.into_iter().collect())
}

/// Nothing where somebody is at work on it.
fn remove(host: &Host, what: (Kind, &str), mode: Prune) -> Result<Option<Removed>> {
    let (kind, name) = what;
    let slot = Slot::new(&host.paths, kind, name);
    let Some(_lock) = slot.try_lock()? else { return Ok(None) };
    let (path, bytes) = (slot.image(), size(&slot));
    if mode == Prune::Remove {
        slot.remove(host, Unmounting::Whole)?;
    }
    Ok(Some(Removed { what: kind.noun().to_owned(), path, bytes }))
}
