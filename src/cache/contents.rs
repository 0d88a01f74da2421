//! What is in the cache, in the words of the locks: `nvstage cache list`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use jiff::Timestamp;
use serde::Serialize;

use super::Cache;
use super::locks::Locks;
use super::reach::{Reach, Removal, UsedDrivers, freed, shown, total};
use super::scan::{Directory, LeftoverKind, Scan};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::lock::Lock;

/// What lies in a cache.
#[derive(Debug, Clone, Serialize)]
pub struct Contents {
    schema: u32,
    /// The cache's directory.
    pub directory: String,
    /// One entry for each thing that means something: an installer, a lock's packages.
    pub things: Vec<Thing>,
    /// Every file that is named by its digest.
    pub blobs: Vec<ListedBlob>,
    /// The bytes that locks keep. A file that has several names counts once.
    pub kept_bytes: u64,
    /// The bytes that `prune` frees.
    pub prunable_bytes: u64,
    /// Locks that cannot be read, and why: nobody knows what they keep.
    pub unreadable_locks: Vec<String>,
}

/// One thing in a cache; it may be many files.
#[derive(Debug, Clone, Serialize)]
pub struct Thing {
    /// What it is.
    pub what: String,
    /// How many files it is.
    pub files: usize,
    /// Their bytes; those of a mirror count with the files it links.
    pub bytes: u64,
    /// When any of them was used last, as far as is known.
    pub last_used: Option<Timestamp>,
    /// The locks that keep it.
    pub kept_by: Vec<String>,
}

/// One file that is named by its digest.
#[derive(Debug, Clone, Serialize)]
pub struct ListedBlob {
    /// The digest.
    pub sha256: Digest,
    /// Its size in bytes.
    pub bytes: u64,
    /// What the locks call it.
    pub name: Option<String>,
    /// The locks that keep it.
    pub kept_by: Vec<String>,
    /// When it was used last, as far as is known.
    pub last_used: Option<Timestamp>,
}

impl Cache {
    /// Everything that lies in the cache, and why.
    ///
    /// # Errors
    /// A host error when a directory cannot be read.
    pub fn contents(&self, used: &UsedDrivers) -> Result<Contents> {
        let locks = self.locks()?;
        let scan = Scan::of(self)?;
        Ok(Contents::of(&self.directory.to_string_lossy(), &scan, (&locks, used)))
    }
}

/// An error in one line.
pub(super) fn in_one_line(error: &Error) -> String {
    let causes: Vec<&str> = error.causes().iter().map(String::as_str).collect();
    format!("failed to {}: {}", error.what(), causes.join(": ").replace('\n', " "))
}

impl Contents {
    fn of(directory: &str, scan: &Scan, (locks, used): (&Locks, &UsedDrivers)) -> Self {
        let mut reach = Reach::of(&locks.readable);
        reach.keep_drivers(scan, used);
        let removals = reach.unreached(scan);
        let prunable_bytes = freed(removals.iter().flat_map(Removal::files));
        let listing = Listing { scan, reach: &reach };
        let mut things = listing.drivers(&locks.readable);
        things.extend(listing.keys(&locks.readable));
        things.extend(locks.readable.iter().flat_map(|(name, lock)| listing.of_lock(name, lock)));
        things.extend(listing.unreached(&removals));
        let blob = |(digest, blob): (&Digest, &super::scan::Blob)| ListedBlob {
            sha256: *digest,
            bytes: blob.file.bytes,
            name: reach.files.get(digest).map(|kept| kept.name.clone()),
            kept_by: reach.locks(digest),
            last_used: timestamp(blob.used),
        };
        Self {
            schema: 1,
            directory: directory.to_owned(),
            things,
            blobs: scan.blobs.iter().map(blob).collect(),
            kept_bytes: total(scan).saturating_sub(prunable_bytes),
            prunable_bytes,
            unreadable_locks: locks.unreadable.iter().map(in_one_line).collect(),
        }
    }
}

/// To the second: more says nothing.
fn timestamp(time: Option<SystemTime>) -> Option<Timestamp> {
    let time = Timestamp::try_from(time?).ok()?;
    Timestamp::from_second(time.as_second()).ok()
}

struct Listing<'a> {
    scan: &'a Scan,
    reach: &'a Reach,
}

impl Listing<'_> {
    /// Some files of one lock, or of several: those of them that are here.
    fn files(&self, what: &str, digests: impl Iterator<Item = Digest>) -> Option<Thing> {
        let here: BTreeMap<_, _> =
            digests.filter_map(|digest| Some((digest, self.scan.blobs.get(&digest)?))).collect();
        let used = here.values().filter_map(|blob| blob.used).max();
        (!here.is_empty()).then(|| Thing {
            what: what.to_owned(),
            files: here.len(),
            bytes: here.values().map(|blob| blob.file.bytes).sum(),
            last_used: timestamp(used),
            kept_by: Vec::new(),
        })
    }

    fn drivers(&self, locks: &[(String, Lock)]) -> Vec<Thing> {
        let mut installers: BTreeMap<Digest, &str> = BTreeMap::new();
        for (_, lock) in locks {
            installers.insert(lock.installer.sha256, lock.installer.version.as_str());
        }
        for (digest, version) in &self.scan.drivers {
            if self.reach.files.contains_key(digest) {
                installers.insert(*digest, version);
            }
        }
        let mut installers: Vec<_> = installers.into_iter().collect();
        installers.sort_by_key(|(_, version)| *version);
        let mut things = Vec::new();
        for (digest, version) in installers {
            let kept_by = self.reach.locks(&digest);
            let file = self.files(&format!("driver {version}"), [digest].into_iter());
            let last_used = file.as_ref().and_then(|thing| thing.last_used);
            things.extend(file.map(|thing| Thing { kept_by: kept_by.clone(), ..thing }));
            let tree = self.scan.trees.get(&digest);
            things.extend(tree.map(|tree| Thing {
                what: format!("driver {version}, unpacked"),
                files: tree.files.len(),
                bytes: size(tree),
                last_used,
                kept_by,
            }));
        }
        things
    }

    fn keys(&self, locks: &[(String, Lock)]) -> Vec<Thing> {
        let mut keys = BTreeMap::new();
        for (_, lock) in locks {
            let repositories = lock.repositories.iter().map(|repository| &repository.key);
            keys.extend(lock.key.iter().chain(repositories).map(|key| (key.sha256, key)));
        }
        let thing = |(digest, key): (Digest, &crate::lock::LockedKey)| {
            // The last 16 digits are enough to tell keys apart here, and fit.
            let fingerprint = key.fingerprint.as_str();
            let id = &fingerprint[fingerprint.len() - 16..];
            let file = self.files(&format!("key {id}"), [digest].into_iter())?;
            Some(Thing { kept_by: self.reach.locks(&digest), ..file })
        };
        keys.into_iter().filter_map(thing).collect()
    }

    /// The packages of a lock, and what they were resolved with: releases, indexes, the dpkg states
    /// of the systems.
    fn of_lock(&self, file_name: &str, lock: &Lock) -> Vec<Thing> {
        let packages = lock.packages.iter().map(|package| package.sha256);
        let mut lists: Vec<Digest> =
            lock.targets.iter().map(|target| target.status.sha256).collect();
        for repository in &lock.repositories {
            lists.push(repository.release.sha256);
            lists.extend(repository.indexes.iter().map(|index| index.sha256));
        }
        let packages = self.files("packages", packages);
        let lists = self.files("releases and indexes", lists.into_iter());
        let of_lock = |thing| counted(Thing { kept_by: vec![shown(file_name)], ..thing });
        packages.into_iter().chain(lists).map(of_lock).collect()
    }

    /// What `prune` removes; a record is part of its file, and a lock's file is empty.
    fn unreached(&self, removals: &[Removal<'_>]) -> Vec<Thing> {
        let mut things: Vec<Thing> = Vec::new();
        for removal in removals {
            let what = removal.label(self.scan);
            let used = match removal {
                Removal::Record(_) => continue,
                Removal::Leftover(leftover) if leftover.kind == LeftoverKind::LockFile => continue,
                Removal::Blob(digest, _) | Removal::Tree(digest, _) => {
                    self.scan.blobs.get(digest).and_then(|blob| blob.used)
                }
                Removal::Leftover(leftover) => leftover.changed,
                Removal::Mirror(..) => None,
            };
            let bytes = bytes(removal);
            let last_used = timestamp(used);
            match things.iter_mut().find(|thing| thing.what == what) {
                Some(thing) => {
                    thing.files += 1;
                    thing.bytes += bytes;
                    thing.last_used = thing.last_used.max(last_used);
                }
                None => {
                    let kept_by = Vec::new();
                    things.push(Thing { what, files: 1, bytes, last_used, kept_by });
                }
            }
        }
        things.into_iter().map(counted).collect()
    }
}

/// With the number of files, which is one for a driver.
fn counted(thing: Thing) -> Thing {
    match thing.what.starts_with("driver ") {
        true => thing,
        false => Thing { what: format!("{} ({})", thing.what, thing.files), ..thing },
    }
}

fn size(directory: &Directory) -> u64 {
    directory.files.values().map(|file| file.bytes).sum()
}

/// The bytes of one thing by itself: what is linked from elsewhere counts there.
pub(super) fn bytes(removal: &Removal<'_>) -> u64 {
    match removal {
        Removal::Blob(_, file) => file.bytes,
        other => other.files().iter().filter(|file| file.links == 1).map(|file| file.bytes).sum(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cache::scan::{Blob, OnDisk};

    #[test]
    fn things_have_names_keepers_and_last_uses() {
        let lock = Lock::parse(include_str!("../../tests/locks/v1.lock"), "v1.lock").unwrap();
        let used = Some(SystemTime::UNIX_EPOCH + Duration::from_millis(86_400_500));
        let mut scan = Scan::default();
        for (inode, digest, used) in [
            (1, lock.installer.sha256, used),
            (2, Digest::of(b"key"), None),
            (3, Digest::of(b""), used),
        ] {
            let file = OnDisk { id: (1, inode), links: 1, bytes: 10 * inode };
            scan.blobs.insert(digest, Blob { file, used });
        }
        let locks = Locks {
            readable: vec![("cuda.lock".to_owned(), lock)],
            unreadable: vec![Error::install("read the lock `x`").because("it is torn")],
        };
        let used = UsedDrivers::Known(BTreeMap::new());
        let contents = Contents::of("/cache", &scan, (&locks, &used));
        let row = |thing: &Thing| {
            let used = thing.last_used.map_or("-".to_owned(), |time| time.to_string());
            format!(
                "{} {} {} {used} {}",
                thing.what,
                thing.files,
                thing.bytes,
                thing.kept_by.join(",")
            )
        };
        let rows: Vec<String> = contents.things.iter().map(row).collect();
        assert_eq!(
            rows,
            [
                "driver 580.76.05 1 10 1970-01-02T00:00:00Z cuda",
                "key A4B469963BF863CC 1 20 - cuda",
                "files of no lock (1) 1 30 1970-01-02T00:00:00Z ",
            ]
        );
        assert_eq!((contents.kept_bytes, contents.prunable_bytes), (30, 30));
        assert_eq!(contents.unreadable_locks, ["failed to read the lock `x`: it is torn"]);
    }
}
