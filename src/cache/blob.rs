//! One verified file of the cache, and the record of its verification.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, hash_reader};
use crate::error::{Error, Result};
use crate::host::files::{self, failed};

/// A file in the cache whose content was verified. Only the cache makes these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedArtifact {
    path: PathBuf,
    digest: Digest,
    size: u64,
}

impl CachedArtifact {
    pub(super) fn new(path: PathBuf, digest: Digest, size: u64) -> Self {
        Self { path, digest, size }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its SHA-256 digest.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Opens it for reading.
    ///
    /// # Errors
    /// A host error that names the file.
    pub fn open(&self) -> Result<File> {
        File::open(&self.path).map_err(|error| failed("open", &self.path, &error))
    }

    /// Its whole content, verified once more; for small files.
    ///
    /// # Errors
    /// A host error when it cannot be read, an installation error when it changed.
    pub fn read(&self) -> Result<Vec<u8>> {
        let bytes = fs::read(&self.path).map_err(|error| failed("read", &self.path, &error))?;
        if Digest::of(&bytes) != self.digest {
            return Err(Error::install(format!(
                "use `{}`: it was damaged in the cache",
                self.path.display()
            )));
        }
        Ok(bytes)
    }

    pub(super) fn hash(&self) -> Result<Digest> {
        let hashed = hash_reader(self.open()?);
        hashed.map(|(digest, _)| digest).map_err(|error| failed("read", &self.path, &error))
    }
}

/// What tells that a file is still the one that was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stamp {
    size: u64,
    /// Seconds and nanoseconds.
    mtime: (i64, i64),
    ctime: (i64, i64),
    inode: u64,
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            size: metadata.len(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    stamp: Stamp,
}

const RECORD_VERSION: u32 = 1;

/// Whether a record says that the file with this metadata was verified. A record that is missing
/// or not understood says nothing.
pub(super) fn is_recorded(record: &Path, metadata: &Metadata) -> bool {
    read(record).is_some_and(|stamp| stamp == Stamp::of(metadata))
}

/// Takes note that a file which was verified got or lost a link: nothing but its ctime and its
/// number of links may have changed since; otherwise the old record stays, and the file is hashed
/// again when it is used.
pub(super) fn record_link(path: &Path, blob: &Path) -> Result<()> {
    let metadata = fs::metadata(blob).map_err(|error| failed("read", blob, &error))?;
    let now = Stamp::of(&metadata);
    match read(path) {
        Some(old) if old == now => Ok(()),
        Some(old) if (Stamp { ctime: now.ctime, ..old }) == now => record(path, blob),
        _ => Ok(()),
    }
}

fn read(record: &Path) -> Option<Stamp> {
    let record: Record = serde_json::from_slice(&fs::read(record).ok()?).ok()?;
    (record.version == RECORD_VERSION).then_some(record.stamp)
}

/// Records that the file was verified just now.
pub(super) fn record(record: &Path, blob: &Path) -> Result<()> {
    let metadata = fs::metadata(blob).map_err(|error| failed("read", blob, &error))?;
    let record_now = Record { version: RECORD_VERSION, stamp: Stamp::of(&metadata) };
    let text = serde_json::to_vec(&record_now)
        .map_err(|error| Error::general("write a record").because(error))?;
    files::replace(record, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_version_1_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let (path, blob) = (directory.path().join("record"), directory.path().join("blob"));
        files::replace(&blob, b"content").unwrap();
        let metadata = fs::metadata(&blob).unwrap();
        let text = format!(
            "{{\"version\":1,\"stamp\":{{\"size\":7,\"mtime\":[{},{}],\"ctime\":[{},{}],\"inode\":{}}}}}",
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec(),
            metadata.ino()
        );
        files::replace(&path, text.as_bytes()).unwrap();
        assert!(is_recorded(&path, &metadata));
        files::replace(&path, text.replace(":7,", ":8,").as_bytes()).unwrap();
        assert!(!is_recorded(&path, &metadata));
        files::replace(&path, text.replace("{\"version\":1", "{\"version\":2").as_bytes()).unwrap();
        assert!(!is_recorded(&path, &metadata));
    }
}
