//! One verified file of the cache, and the record of its verification.

use std::fs::{self, File, Metadata, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

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

    /// The digest of its content, and the stamp that it had before that and after.
    pub(super) fn hash(&self) -> Result<(Digest, Stamp)> {
        let fail = |error: std::io::Error| failed("read", &self.path, &error);
        for _ in 0..HASHINGS {
            let file = self.open()?;
            let before = Stamp::of(&file.metadata().map_err(fail)?);
            let (digest, _) = hash_reader(&file).map_err(fail)?;
            // Of the path: another file may be there by now.
            if before == Stamp::of(&fs::metadata(&self.path).map_err(fail)?) {
                return Ok((digest, before));
            }
        }
        Err(Error::host(format!("read `{}`: it changes all the time", self.path.display())))
    }
}

/// How often a file is hashed that another process gives a link, or changes, meanwhile.
const HASHINGS: u32 = 5;

/// What tells that a file is still the one that was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stamp {
    size: u64,
    /// Seconds and nanoseconds.
    mtime: (i64, i64),
    ctime: (i64, i64),
    inode: u64,
}

impl Stamp {
    /// That of a file now.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            size: metadata.len(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        }
    }

    pub(super) fn inode(&self) -> u64 {
        self.inode
    }

    /// What `stat -c '%s %.9Y %.9Z'` says of that file: size, mtime, ctime.
    pub fn in_words_of_stat(&self) -> String {
        let Self { size, mtime, ctime, .. } = self;
        format!("{size} {}.{:09} {}.{:09}", mtime.0, mtime.1, ctime.0, ctime.1)
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    stamp: Stamp,
}

const RECORD_VERSION: u32 = 1;
/// A use is noted when the last noted one is older than this.
const USE_INTERVAL: Duration = Duration::from_secs(3600);

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
        Some(old) if (Stamp { ctime: now.ctime, ..old }) == now => renew(path, now),
        _ => Ok(()),
    }
}

fn read(record: &Path) -> Option<Stamp> {
    let record: Record = serde_json::from_slice(&fs::read(record).ok()?).ok()?;
    (record.version == RECORD_VERSION).then_some(record.stamp)
}

/// Records that the file, which was written just now, was verified as it was written.
pub(super) fn record(record: &Path, blob: &Path) -> Result<()> {
    let metadata = fs::metadata(blob).map_err(|error| failed("read", blob, &error))?;
    write(record, Stamp::of(&metadata))
}

/// Brings a record up to date; when the blob was used last stays as it is.
pub(super) fn renew(record: &Path, stamp: Stamp) -> Result<()> {
    if read(record) == Some(stamp) {
        return Ok(());
    }
    let used = fs::metadata(record).and_then(|metadata| metadata.modified());
    write(record, stamp)?;
    set_use(record, used.unwrap_or(SystemTime::UNIX_EPOCH))
        .map_err(|error| failed("write", record, &error))
}

/// Notes that the blob is used now: the record's own mtime says so, because the blob's atime is
/// not reliable.
pub(super) fn note_use(record: &Path) {
    let used = fs::metadata(record).and_then(|metadata| metadata.modified());
    let is_recent = |used: SystemTime| used.elapsed().is_ok_and(|age| age < USE_INTERVAL);
    if !used.is_ok_and(is_recent) {
        // Without it the blob is as good as with it.
        let _ = set_use(record, SystemTime::now());
    }
}

/// When the blob of a record was used last; `None` where nothing tells.
pub(super) fn last_use(record: &Metadata) -> Option<SystemTime> {
    record.modified().ok().filter(|used| *used != SystemTime::UNIX_EPOCH)
}

fn set_use(record: &Path, used: SystemTime) -> std::io::Result<()> {
    OpenOptions::new().write(true).open(record)?.set_modified(used)
}

/// Records that the file with this stamp was verified.
pub(super) fn write(record: &Path, stamp: Stamp) -> Result<()> {
    let text = serde_json::to_vec(&Record { version: RECORD_VERSION, stamp })
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

    #[test]
    fn a_renewed_record_keeps_the_time_of_the_last_use() {
        let directory = tempfile::tempdir().unwrap();
        let (path, blob) = (directory.path().join("record"), directory.path().join("blob"));
        files::replace(&blob, b"content").unwrap();
        let used = || last_use(&fs::metadata(&path).unwrap());
        // A file that was never used through the cache.
        renew(&path, Stamp::of(&fs::metadata(&blob).unwrap())).unwrap();
        assert_eq!(used(), None);
        note_use(&path);
        let first = used().unwrap();
        note_use(&path);
        assert_eq!(used(), Some(first));
        let long_ago = SystemTime::now() - 2 * USE_INTERVAL;
        set_use(&path, long_ago).unwrap();
        fs::hard_link(&blob, directory.path().join("link")).unwrap();
        assert!(!is_recorded(&path, &fs::metadata(&blob).unwrap()));
        record_link(&path, &blob).unwrap();
        assert!(is_recorded(&path, &fs::metadata(&blob).unwrap()));
        assert_eq!(used(), Some(long_ago));
        note_use(&path);
        assert!(used().unwrap() > first - USE_INTERVAL);
    }
}
