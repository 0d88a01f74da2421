//! What lies in the cache: its directories are read, of its files nothing but metadata.
//!
//! A name that is none of the cache's own belongs to somebody else and is not looked at. Whatever
//! vanishes meanwhile is left out: others may use the cache at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirEntry, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::index::Index;
use super::tree::INDEX;
use super::{Cache, blob};
use crate::digest::Digest;
use crate::error::Result;
use crate::host::files::failed;

/// Device and inode.
pub(super) type FileId = (u64, u64);

/// One file on the disk, which may have several names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OnDisk {
    pub(super) id: FileId,
    /// How many names it has.
    pub(super) links: u64,
    pub(super) bytes: u64,
}

/// A file named by its digest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blob {
    pub(super) file: OnDisk,
    /// When it was used last, as far as is known.
    pub(super) used: Option<SystemTime>,
}

/// An unpacked installer or a partial mirror.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    /// Tells it from another one of the same name that took its place.
    pub(super) id: FileId,
    /// Its files by their path.
    pub(super) files: BTreeMap<String, OnDisk>,
}

/// What a run left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeftoverKind {
    /// A download that may be continued.
    Partial,
    /// A directory that was being made.
    Unfinished,
    /// The file of a lock.
    LockFile,
    /// A file that was being written.
    Temporary,
}

/// Something that a run left behind, or is at work on.
#[derive(Debug, Clone)]
pub(super) struct Leftover {
    pub(super) kind: LeftoverKind,
    pub(super) path: PathBuf,
    pub(super) directory: Directory,
    pub(super) changed: Option<SystemTime>,
}

/// Everything that lies in a cache, without its locks.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) mirrors: BTreeMap<Digest, Directory>,
    pub(super) trees: BTreeMap<Digest, Directory>,
    /// The versions of the unpacked drivers, where their index can be read.
    pub(super) drivers: BTreeMap<Digest, String>,
    pub(super) blobs: BTreeMap<Digest, Blob>,
    pub(super) records: BTreeSet<Digest>,
    pub(super) leftovers: Vec<Leftover>,
}

/// What a name in one of the cache's directories stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    Digest(Digest),
    Leftover(LeftoverKind),
    Foreign,
}

impl Named {
    fn of(name: &str) -> Self {
        if let Ok(digest) = Digest::parse(name) {
            return Self::Digest(digest);
        }
        // `.lock` alone is that of the whole cache.
        if name.strip_prefix('.').and_then(|name| name.strip_suffix(".lock")).is_some() {
            return Self::Leftover(LeftoverKind::LockFile);
        }
        if name.starts_with(".tmp-") || name.starts_with(".work-") {
            return Self::Leftover(LeftoverKind::Unfinished);
        }
        match name.starts_with(".nvstage-") {
            true => Self::Leftover(LeftoverKind::Temporary),
            false => Self::Foreign,
        }
    }
}

impl Scan {
    /// Looks at a cache: at the mirrors first, so that every blob they are linked from is seen.
    pub(super) fn of(cache: &Cache) -> Result<Self> {
        let mut scan = Self::default();
        for (digest, entry) in scan.named(&cache.mirrors())? {
            scan.mirrors.extend(Directory::of(&entry.path())?.map(|found| (digest, found)));
        }
        for (digest, entry) in scan.named(&cache.trees())? {
            scan.trees.extend(Directory::of(&entry.path())?.map(|found| (digest, found)));
            let index = Index::read(&entry.path().join(INDEX));
            scan.drivers.extend(index.ok().map(|index| (digest, index.driver.to_string())));
        }
        let mut used = BTreeMap::new();
        for (digest, entry) in scan.named(&cache.records())? {
            scan.records.insert(digest);
            used.insert(digest, look(&entry.path())?.as_ref().and_then(blob::last_use));
        }
        for (digest, entry) in scan.named(&cache.blobs())? {
            let Some(metadata) = look(&entry.path())? else { continue };
            let used = used.get(&digest).copied().flatten();
            scan.blobs.insert(digest, Blob { file: OnDisk::of(&metadata), used });
        }
        for (_, entry) in scan.named(&cache.partials())? {
            scan.leftover(LeftoverKind::Partial, &entry)?;
        }
        scan.named(&cache.lock_directory())?;
        scan.named(&cache.imports())?;
        scan.named(&cache.directory)?;
        Ok(scan)
    }

    /// The digest of each blob, by which file it is.
    pub(super) fn by_file(&self) -> BTreeMap<FileId, Digest> {
        self.blobs.iter().map(|(digest, blob)| (blob.file.id, *digest)).collect()
    }

    /// What has a digest for its name in a directory; takes note of leftovers.
    fn named(&mut self, directory: &Path) -> Result<Vec<(Digest, DirEntry)>> {
        let fail = |error: io::Error| failed("read", directory, &error);
        let mut found = Vec::new();
        for entry in fs::read_dir(directory).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            match Named::of(&entry.file_name().to_string_lossy()) {
                Named::Digest(digest) => found.push((digest, entry)),
                Named::Leftover(kind) => self.leftover(kind, &entry)?,
                Named::Foreign => {}
            }
        }
        Ok(found)
    }

    fn leftover(&mut self, kind: LeftoverKind, entry: &DirEntry) -> Result<()> {
        let path = entry.path();
        if let Some(directory) = Directory::of(&path)? {
            let changed = look(&path)?.and_then(|metadata| metadata.modified().ok());
            self.leftovers.push(Leftover { kind, path, directory, changed });
        }
        Ok(())
    }
}

impl OnDisk {
    fn of(metadata: &Metadata) -> Self {
        let (id, links) = ((metadata.dev(), metadata.ino()), metadata.nlink());
        Self { id, links, bytes: metadata.len() }
    }
}

impl Directory {
    /// Everything below a directory that is none itself; a plain file is its own only content.
    fn of(root: &Path) -> Result<Option<Self>> {
        let Some(metadata) = look(root)? else { return Ok(None) };
        let mut files = BTreeMap::new();
        let mut open = vec![root.to_owned()];
        while let Some(path) = open.pop() {
            let Some(metadata) = look(&path)? else { continue };
            if !metadata.is_dir() {
                let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
                files.insert(name, OnDisk::of(&metadata));
                continue;
            }
            let entries = match fs::read_dir(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                entries => entries.map_err(|error| failed("read", &path, &error))?,
            };
            for entry in entries {
                open.push(entry.map_err(|error| failed("read", &path, &error))?.path());
            }
        }
        Ok(Some(Self { id: OnDisk::of(&metadata).id, files }))
    }
}

/// Which file lies at a path now; `None` where none does.
pub(super) fn file_id(path: &Path) -> Result<Option<FileId>> {
    Ok(look(path)?.map(|metadata| OnDisk::of(&metadata).id))
}

fn look(path: &Path) -> Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        result => result.map(Some).map_err(|error| failed("read", path, &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_others_are_none_of_ours() {
        let hex = Digest::of(b"x").to_string();
        let of = |name: &str| Named::of(name);
        assert_eq!(of(&hex), Named::Digest(Digest::of(b"x")));
        assert_eq!(of(&format!(".{hex}.lock")), Named::Leftover(LeftoverKind::LockFile));
        assert_eq!(of(".workspaces.lock"), Named::Leftover(LeftoverKind::LockFile));
        assert_eq!(of(&format!(".tmp-{hex}")), Named::Leftover(LeftoverKind::Unfinished));
        assert_eq!(of(".work-abc"), Named::Leftover(LeftoverKind::Unfinished));
        assert_eq!(of(".nvstage-x1"), Named::Leftover(LeftoverKind::Temporary));
        for name in [".lock", ".nothing", "CACHEDIR.TAG", "notes.txt", "cuda.lock"] {
            assert_eq!(of(name), Named::Foreign, "{name}");
        }
    }
}
