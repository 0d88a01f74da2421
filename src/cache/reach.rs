//! What of a cache its locks reach, and so what `prune` removes: bookkeeping alone.
//!
//! A mirror is reached when it has the very paths of a lock's mirror and its links are the lock's
//! blobs. Its texts are not looked at: keys and pins are no part of a lock, and a mirror whose texts
//! are out of date costs nothing and is made again when it is next used.

use std::collections::{BTreeMap, BTreeSet};

use super::scan::{Directory, FileId, Leftover, LeftoverKind, OnDisk, Scan};
use crate::apt::mirror::{self, Content, Layout};
use crate::digest::Digest;
use crate::lock::Lock;

/// What the locks say of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    /// What it is.
    pub(super) name: String,
    /// The locks that name it.
    pub(super) locks: Vec<String>,
}

/// Which versions of the driver containers have, and which containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UsedDrivers {
    /// By version.
    Known(BTreeMap<String, Vec<String>>),
    /// It cannot be told: any may be used.
    Unknown,
}

/// Every file that the locks of a cache name.
#[derive(Debug, Default)]
pub(super) struct Reach {
    pub(super) files: BTreeMap<Digest, Kept>,
    layouts: Vec<Layout>,
}

/// One thing to remove.
#[derive(Debug, Clone, Copy)]
pub(super) enum Removal<'a> {
    Mirror(&'a Digest, &'a Directory),
    Tree(&'a Digest, &'a Directory),
    Record(&'a Digest),
    Blob(&'a Digest, OnDisk),
    Leftover(&'a Leftover),
}

/// A lock's name as people see it.
pub(super) fn shown(file_name: &str) -> String {
    file_name.strip_suffix(".lock").unwrap_or(file_name).to_owned()
}

impl Reach {
    pub(super) fn of(locks: &[(String, Lock)]) -> Self {
        let mut reach = Self::default();
        for (file_name, lock) in locks {
            for (file, name) in lock.files() {
                let kept = Kept { name, locks: Vec::new() };
                let kept = reach.files.entry(file.sha256).or_insert(kept);
                if !kept.locks.contains(&shown(file_name)) {
                    kept.locks.push(shown(file_name));
                }
            }
            // Of the layout only paths and blobs count: they depend on the lock alone.
            let parts = lock.wanted().into_iter().map(|wants| lock.part(wants));
            reach.layouts.extend(parts.map(|part| mirror::layout(&part, "", &BTreeMap::new(), "")));
        }
        reach
    }

    /// Keeps also the installers of drivers that containers have: what a lock had of them before it
    /// got another version repairs them.
    pub(super) fn keep_drivers(&mut self, scan: &Scan, used: &UsedDrivers) {
        for (digest, version) in &scan.drivers {
            let by = match used {
                UsedDrivers::Known(used) => used.get(version).cloned().unwrap_or_default(),
                UsedDrivers::Unknown => vec!["a container, perhaps".to_owned()],
            };
            if by.is_empty() || self.files.contains_key(digest) {
                continue;
            }
            let name = format!("driver {version}");
            self.files.insert(*digest, Kept { name, locks: by });
        }
    }

    /// The locks that name a file.
    pub(super) fn locks(&self, digest: &Digest) -> Vec<String> {
        self.files.get(digest).map(|kept| kept.locks.clone()).unwrap_or_default()
    }

    /// What no lock reaches, in the order in which it must be removed: links before what they
    /// link, and a record before its blob, so that whoever is stopped in between leaves nothing
    /// that is believed and not there.
    pub(super) fn unreached<'a>(&self, scan: &'a Scan) -> Vec<Removal<'a>> {
        let is_reached = |digest: &&Digest| self.files.contains_key(digest);
        let mirrors = scan.mirrors.iter().filter(|(_, mirror)| !self.reaches(mirror, scan));
        let mut removals: Vec<Removal<'a>> =
            mirrors.map(|(name, mirror)| Removal::Mirror(name, mirror)).collect();
        let unfinished = |leftover: &&Leftover| leftover.kind == LeftoverKind::Unfinished;
        removals.extend(scan.leftovers.iter().filter(unfinished).map(Removal::Leftover));
        let trees = scan.trees.iter().filter(|(digest, _)| !is_reached(digest));
        removals.extend(trees.map(|(digest, tree)| Removal::Tree(digest, tree)));
        let stays = |digest: &&Digest| is_reached(digest) && scan.blobs.contains_key(digest);
        removals.extend(scan.records.iter().filter(|digest| !stays(digest)).map(Removal::Record));
        let blobs = scan.blobs.iter().filter(|(digest, _)| !is_reached(digest));
        removals.extend(blobs.map(|(digest, blob)| Removal::Blob(digest, blob.file)));
        let rest = scan.leftovers.iter().filter(|leftover| !unfinished(leftover));
        removals.extend(rest.map(Removal::Leftover));
        removals
    }

    fn reaches(&self, mirror: &Directory, scan: &Scan) -> bool {
        let is_linked = |file: &OnDisk, content: &Content| match content {
            Content::Text(_) => true,
            Content::Blob(wanted) => {
                scan.blobs.get(&wanted.sha256).is_some_and(|blob| blob.file.id == file.id)
            }
        };
        self.layouts.iter().any(|layout| {
            layout.files.len() == mirror.files.len()
                && layout.files.iter().all(|(path, content)| {
                    mirror.files.get(path).is_some_and(|file| is_linked(file, content))
                })
        })
    }
}

impl<'a> Removal<'a> {
    /// What it is, in words that many of its kind share.
    pub(super) fn label(&self, scan: &Scan) -> String {
        let driver = |digest: &Digest| scan.drivers.get(digest);
        match self {
            Self::Mirror(..) => "partial mirrors".to_owned(),
            Self::Tree(digest, _) => match driver(digest) {
                Some(version) => format!("driver {version}, unpacked"),
                None => "unpacked drivers".to_owned(),
            },
            Self::Record(_) => "records without a file".to_owned(),
            Self::Blob(digest, _) => match driver(digest) {
                Some(version) => format!("driver {version}"),
                None => "files of no lock".to_owned(),
            },
            Self::Leftover(leftover) => match leftover.kind {
                LeftoverKind::Partial => "partial downloads".to_owned(),
                LeftoverKind::LockFile => "unused lock files".to_owned(),
                _ => "leftovers of ended runs".to_owned(),
            },
        }
    }

    /// The files on the disk that go with it. A record's few bytes are not worth counting.
    pub(super) fn files(&self) -> Vec<OnDisk> {
        let of = |directory: &Directory| directory.files.values().copied().collect();
        match self {
            Self::Mirror(_, directory) | Self::Tree(_, directory) => of(directory),
            Self::Leftover(leftover) => of(&leftover.directory),
            Self::Blob(_, file) => vec![*file],
            Self::Record(_) => Vec::new(),
        }
    }
}

/// The bytes that become free when these names of files are removed: those of files that no other
/// name is left of.
pub(super) fn freed(removed: impl IntoIterator<Item = OnDisk>) -> u64 {
    let mut names: BTreeMap<FileId, (u64, OnDisk)> = BTreeMap::new();
    for file in removed {
        names.entry(file.id).or_insert((0, file)).0 += 1;
    }
    names.values().filter(|(count, file)| *count >= file.links).map(|(_, file)| file.bytes).sum()
}

/// The bytes of everything in a cache, each file once.
pub(super) fn total(scan: &Scan) -> u64 {
    let directories = scan.mirrors.values().chain(scan.trees.values());
    let directories = directories.chain(scan.leftovers.iter().map(|leftover| &leftover.directory));
    let files = directories.flat_map(|directory| directory.files.values().copied());
    let files = files.chain(scan.blobs.values().map(|blob| blob.file));
    let mut seen = BTreeSet::new();
    files.filter(|file| seen.insert(file.id)).map(|file| file.bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::scan::Blob;

    fn file(inode: u64, links: u64) -> OnDisk {
        OnDisk { id: (1, inode), links, bytes: 100 }
    }

    fn directory(files: &[(&str, OnDisk)]) -> Directory {
        let files = files.iter().map(|(path, file)| ((*path).to_owned(), *file)).collect();
        Directory { id: (1, 0), files }
    }

    /// A lock of installer and key, without packages.
    fn lock() -> Lock {
        Lock::parse(include_str!("../../tests/locks/v1.lock"), "v1.lock").unwrap()
    }

    /// A cache with the lock's installer, unpacked, and something else, unpacked as well.
    fn scan(installer: Digest, other: Digest) -> Scan {
        let mut scan = Scan::default();
        for (digest, inode) in [(installer, 1), (other, 2)] {
            scan.blobs.insert(digest, Blob { file: file(inode, 2), used: None });
            scan.records.insert(digest);
            scan.trees.insert(digest, directory(&[("payload/x", file(inode + 10, 1))]));
        }
        scan.records.insert(Digest::of(b"gone"));
        let texts = ["preferences", "sources.list", "packages", "sequoia.toml"];
        let texts: Vec<_> = texts.iter().zip(20..).map(|(name, i)| (*name, file(i, 1))).collect();
        scan.mirrors.insert(Digest::of(b"good"), directory(&texts));
        let links = [("x.deb", file(1, 2)), ("y.deb", file(2, 2))];
        scan.mirrors.insert(Digest::of(b"stale"), directory(&links));
        scan
    }

    #[test]
    fn what_a_lock_names_stays_and_the_rest_goes_in_a_safe_order() {
        let (installer, other) = (lock().installer.sha256, Digest::of(b"other"));
        let scan = scan(installer, other);
        let reach = Reach::of(&[("v1.lock".to_owned(), lock())]);
        assert_eq!(reach.locks(&installer), ["v1"]);
        assert_eq!(reach.locks(&other), [""; 0]);
        let removals = reach.unreached(&scan);
        let labels: Vec<String> = removals.iter().map(|removal| removal.label(&scan)).collect();
        let expected = ["partial mirrors", "unpacked drivers", "records", "records", "files of no"];
        assert_eq!(labels.len(), expected.len(), "{labels:?}");
        for (label, expected) in labels.iter().zip(expected) {
            assert!(label.starts_with(expected), "{label} instead of {expected}");
        }
        // The other file with both its names, and its tree; not the file that another name is left of.
        assert_eq!(freed(removals.iter().flat_map(Removal::files)), 200);
        assert_eq!(total(&scan), 800);
    }

    #[test]
    fn without_locks_everything_goes() {
        let scan = scan(Digest::of(b"one"), Digest::of(b"other"));
        let removals = Reach::of(&[]).unreached(&scan);
        assert_eq!(freed(removals.iter().flat_map(Removal::files)), total(&scan));
    }
}
