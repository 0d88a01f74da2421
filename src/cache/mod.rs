//! The cache: everything that was downloaded, by digest, and proof that it was verified.
//!
//! Layout below the cache's directory:
//!
//! ```text
//! CACHEDIR.TAG  .lock
//! blobs-v1/sha256/<hex>     immutable, mode 0444
//! verified-v1/<hex>         size, times and inode at the last verification of that blob
//! partial-v1/<hex>          downloads in progress, each locked while it grows
//! trees-v1/<hex>/           an installer unpacked: payload/, stand-ins/, index.json
//! apt-v1/<hex>/              a partial mirror, its files linked from blobs
//! locks-v1/<name>.lock      what a recipe resolved to
//! accepted-v1/<hex>         the release of a repository that was accepted last
//! believed-v1/<hex>         an installer without a pin, by its first digest
//! import-v1/                imports under way
//! import-v1/.tmp-<random>/   a bundle's files while they are looked at
//! ```
//!
//! A [`CachedArtifact`] can be had from here only, so whoever holds one holds verified bytes. A
//! blob counts as verified while its size, times and inode are those of its record, and is hashed
//! again otherwise; a damaged one is removed and fetched again. The mtime of its record is the time
//! of its last use.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::apt::mirror::Layout;
use crate::artifact::Artifact;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::event::{Event, Events, Silent};
use crate::fetch::{Fetched, Fetcher, Partial};
use crate::host::cancel::Cancel;
use crate::host::files::{self, Lock, failed};

mod accepted;
mod believed;
mod blob;
mod contents;
mod decompress;
mod index;
mod locks;
mod mirror;
mod prune;
mod reach;
mod rehash;
mod scan;
mod staging;
mod tree;
mod unpack;
mod verify;

use rehash::Seen;

pub use accepted::Accepted;
pub use blob::{CachedArtifact, Stamp};
pub use contents::{Contents, ListedBlob, Thing};
pub use decompress::decompressed;
pub use index::TreeFile;
pub use locks::{Locks, read_lock};
pub use mirror::Workspace;
pub use prune::{Prune, Pruned, Removed};
pub use reach::UsedDrivers;
pub use staging::{Arrived, Arriving};
pub use tree::Tree;
pub use verify::{Damaged, Missing, Part, Verified};

/// How long the whole cache may be locked by someone who prunes it.
const CACHE_WAIT: Duration = Duration::from_secs(120);
/// How long another process may take to download or unpack the same file.
const SAME_FILE_WAIT: Duration = Duration::from_secs(6 * 3600);
/// Repository keys are a few kilobytes.
const KEY_LIMIT: usize = 1024 * 1024;
/// The text that makes backup programs skip the directory
/// (Cache Directory Tagging Specification, <https://bford.info/cachedir/>).
const CACHEDIR_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This directory holds downloads of nvstage. They can be had again.\n";

/// The directories that every cache has.
const PARTS: [&str; 9] = [
    "blobs-v1/sha256",
    "partial-v1",
    "verified-v1",
    "trees-v1",
    "apt-v1",
    "locks-v1",
    "accepted-v1",
    "believed-v1",
    "import-v1",
];

fn prepare(directory: &Path) -> Result<()> {
    PARTS.iter().try_for_each(|part| files::create_directory(&directory.join(part)))
}

/// The cache, held shared with other users of it until dropped.
#[derive(Debug)]
pub struct Cache {
    directory: PathBuf,
    cancel: Cancel,
    _lock: Lock,
}

/// The cache, held alone: nobody else uses it, or begins to, until this is dropped.
#[derive(Debug)]
pub struct ExclusiveCache {
    cache: Cache,
}

impl ExclusiveCache {
    /// What every user of the cache may do.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The same as a value; the cache stays held alone until it is dropped.
    pub fn into_cache(self) -> Cache {
        self.cache
    }
}

impl Cache {
    /// Opens the cache in `directory`, making it where there is none.
    ///
    /// # Errors
    /// A host error when the directory cannot be made or written, or is locked for too long; the
    /// interruption.
    pub fn open(directory: &Path, cancel: &Cancel) -> Result<Self> {
        prepare(directory)?;
        let lock = Lock::shared(&directory.join(".lock"), CACHE_WAIT, cancel)?;
        Self::locked(directory, cancel, lock)
    }

    /// Opens the cache like [`Cache::open`] for this process alone. Says when it waits for others.
    ///
    /// # Errors
    /// As [`Cache::open`]; others are waited for two minutes long.
    pub fn open_alone(
        directory: &Path,
        cancel: &Cancel,
        events: &dyn Events,
    ) -> Result<ExclusiveCache> {
        prepare(directory)?;
        let path = directory.join(".lock");
        let lock = match Lock::try_exclusive(&path)? {
            Some(lock) => lock,
            None => {
                let text = "waiting: another nvstage uses the cache".to_owned();
                events.emit(Event::Note { text });
                Lock::exclusive(&path, CACHE_WAIT, cancel)?
            }
        };
        Ok(ExclusiveCache { cache: Self::locked(directory, cancel, lock)? })
    }

    fn locked(directory: &Path, cancel: &Cancel, lock: Lock) -> Result<Self> {
        let tag = directory.join("CACHEDIR.TAG");
        if !tag.exists() {
            files::replace(&tag, CACHEDIR_TAG.as_bytes())?;
        }
        Ok(Self { directory: directory.to_owned(), cancel: cancel.clone(), _lock: lock })
    }

    /// The artifact from the cache, or downloaded into it. Of several processes that want the same
    /// one, one downloads and the others wait for it.
    ///
    /// # Errors
    /// An installation error when no URL delivers the right bytes or no digest is known; a host
    /// error when the cache cannot be written; the interruption.
    pub fn obtain(
        &self,
        artifact: &Artifact,
        fetcher: &Fetcher,
        events: &dyn Events,
    ) -> Result<CachedArtifact> {
        let digest = artifact.digest.ok_or_else(|| {
            Error::install(format!("verify `{}`: its digest is not known", artifact.name))
                .hint("pin it in the recipe, or allow the published one with --trust-tls")
        })?;
        if let Some(found) = self.find(&digest, events)? {
            return Ok(found);
        }
        let path = self.partials().join(digest.to_string());
        let lock = self.lock_partial(&path, &artifact.name, events)?;
        if let Some(found) = self.find(&digest, events)? {
            // Another process finished it while we waited; this partial file is a new, empty one.
            files::remove_file(&path)?;
            return Ok(found);
        }
        let directory = self.partials();
        let partial = Partial { file: lock.file(), directory: &directory };
        match fetcher.fetch(artifact, partial, events) {
            Ok(fetched) => self.adopt(&lock, fetched),
            Err(error) => {
                if lock.file().metadata().is_ok_and(|metadata| metadata.len() == 0) {
                    files::remove_file(&path)?;
                }
                Err(error)
            }
        }
    }

    /// A small artifact (1 MiB at most) whose digest is not known: fetched, and stored when
    /// `check` accepts its bytes. Used for repository keys, whose fingerprint is pinned instead.
    ///
    /// # Errors
    /// As [`Cache::obtain`], and whatever `check` refuses with.
    pub fn obtain_checked(
        &self,
        artifact: &Artifact,
        fetcher: &Fetcher,
        check: &dyn Fn(&[u8]) -> Result<()>,
    ) -> Result<CachedArtifact> {
        let mut error = Error::install(format!("obtain `{}`", artifact.name));
        for url in &artifact.urls {
            match fetcher
                .fetch_small(url, KEY_LIMIT)
                .and_then(|bytes| check(&bytes).map(|()| bytes))
            {
                Ok(bytes) => return self.store(&bytes),
                Err(failure) if failure.is_interrupted() => return Err(failure),
                Err(failure) if artifact.urls.len() == 1 => return Err(failure),
                Err(failure) => error = error.because(failure),
            }
        }
        Err(error)
    }

    /// The digest that is published beside the artifact, from the first URL that has one.
    ///
    /// # Errors
    /// The error of [`Fetcher::published_digest`] for the last URL.
    pub fn read_published_digest(&self, artifact: &Artifact, fetcher: &Fetcher) -> Result<Digest> {
        let mut error = Error::install(format!("find a URL of `{}`", artifact.name));
        for url in &artifact.urls {
            match fetcher.published_digest(url) {
                Ok(digest) => return Ok(digest),
                Err(failure) if failure.is_interrupted() => return Err(failure),
                Err(failure) => error = failure,
            }
        }
        Err(error)
    }

    /// The blob with that digest if it is here and intact. A damaged one is removed, with a
    /// warning.
    ///
    /// # Errors
    /// A host error when the cache cannot be read or written.
    pub fn find(&self, digest: &Digest, events: &dyn Events) -> Result<Option<CachedArtifact>> {
        let path = self.blob(digest);
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path, &error)),
        };
        let found = CachedArtifact::new(path.clone(), *digest, metadata.len());
        let record = self.record(digest);
        if metadata.is_file() && blob::is_recorded(&record, &metadata) {
            blob::note_use(&record);
            return Ok(Some(found));
        }
        if metadata.is_file()
            && let (same, stamp) = found.hash()?
            && same == *digest
        {
            blob::write(&record, stamp)?;
            return Ok(Some(found));
        }
        self.remove_damaged(digest, events)?;
        Ok(None)
    }

    fn remove_damaged(&self, digest: &Digest, events: &dyn Events) -> Result<()> {
        let path = self.blob(digest);
        files::remove_file(&self.record(digest))?;
        files::remove_file(&path)?;
        let text = format!("`{}` in the cache was damaged and is removed", path.display());
        events.emit(Event::Warning { text });
        Ok(())
    }

    /// Reads blobs again, every byte, whatever is recorded of them, and tells what each looked like
    /// when that began. Those that are damaged are removed, with a warning, and are not among them.
    ///
    /// # Errors
    /// A host error when the cache cannot be read or written; the interruption.
    pub fn read_again(
        &self,
        digests: &[Digest],
        events: &dyn Events,
    ) -> Result<BTreeMap<Digest, Stamp>> {
        let job = |digest: &Digest| {
            let path = self.blob(digest);
            let bytes = fs::symlink_metadata(&path).map_or(0, |metadata| metadata.len());
            rehash::Job { path, bytes }
        };
        let jobs: Vec<rehash::Job> = digests.iter().map(job).collect();
        let mut found = BTreeMap::new();
        rehash::rehash(&jobs, (&Silent, &self.cancel), &mut |position, seen| {
            let wanted = digests[position];
            match seen {
                Seen::Content { digest, stamp, .. } if digest == wanted => {
                    found.insert(wanted, stamp);
                }
                Seen::Gone => {}
                Seen::Content { .. } | Seen::Unreadable(_) => {
                    self.remove_damaged(&wanted, events)?;
                }
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// The verified installer, unpacked: once, for all containers.
    ///
    /// # Errors
    /// An installation error when the file is not the installer that is wanted, is damaged or
    /// holds hostile members, or the disk is full; nothing half-unpacked is ever visible. The
    /// interruption.
    pub fn tree(
        &self,
        file: &CachedArtifact,
        installer: &crate::runfile::header::Installer,
        events: &dyn Events,
    ) -> Result<Tree> {
        tree::obtain(&self.trees(), (file, installer), (events, &self.cancel))
    }

    /// The partial mirror with this layout, made of blobs that are all here: now, or before.
    ///
    /// # Errors
    /// An installation error naming a blob that is missing or damaged; a host error when the
    /// cache cannot be written; the interruption.
    pub fn mirror(&self, layout: &Layout, events: &dyn Events) -> Result<PathBuf> {
        mirror::obtain(self, layout, events)
    }

    /// A directory of this process's own on the cache's file system, removed when dropped; what
    /// killed processes left is removed now.
    ///
    /// # Errors
    /// A host error when it cannot be made.
    pub fn workspace(&self) -> Result<Workspace> {
        mirror::workspace(&self.mirrors(), ".work-", &self.cancel)
    }

    fn blobs(&self) -> PathBuf {
        self.directory.join("blobs-v1/sha256")
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.to_string())
    }

    fn records(&self) -> PathBuf {
        self.directory.join("verified-v1")
    }

    fn record(&self, digest: &Digest) -> PathBuf {
        self.records().join(digest.to_string())
    }

    /// A directory with nothing in it.
    ///
    /// # Errors
    /// A host error when it cannot be made.
    pub fn nothing(&self) -> Result<PathBuf> {
        let path = self.mirrors().join(".nothing");
        files::create_directory(&path)?;
        Ok(path)
    }

    fn mirrors(&self) -> PathBuf {
        self.directory.join("apt-v1")
    }

    fn partials(&self) -> PathBuf {
        self.directory.join("partial-v1")
    }

    fn trees(&self) -> PathBuf {
        self.directory.join("trees-v1")
    }

    fn lock_partial(&self, path: &Path, name: &str, events: &dyn Events) -> Result<Lock> {
        loop {
            let lock = match Lock::try_exclusive(path)? {
                Some(lock) => lock,
                None => {
                    let text = format!("waiting: another process downloads `{name}`");
                    events.emit(Event::Note { text });
                    Lock::exclusive(path, SAME_FILE_WAIT, &self.cancel)?
                }
            };
            // The holder before us has renamed or removed the file that we opened.
            let inode = |metadata: io::Result<fs::Metadata>| metadata.ok().map(|m| m.ino());
            if inode(fs::metadata(path)) == inode(lock.file().metadata()) {
                return Ok(lock);
            }
        }
    }

    /// Makes a finished download a blob.
    fn adopt(&self, lock: &Lock, fetched: Fetched) -> Result<CachedArtifact> {
        let fail = |error: io::Error| failed("finish", lock.path(), &error);
        lock.file().set_permissions(fs::Permissions::from_mode(0o444)).map_err(fail)?;
        lock.file().sync_all().map_err(fail)?;
        let path = self.blob(&fetched.digest);
        files::rename(lock.path(), &path)?;
        blob::record(&self.record(&fetched.digest), &path)?;
        Ok(CachedArtifact::new(path, fetched.digest, fetched.size))
    }

    /// Makes bytes a blob: those of small files that were verified in memory.
    ///
    /// # Errors
    /// A host error when the cache cannot be written.
    pub fn store(&self, bytes: &[u8]) -> Result<CachedArtifact> {
        let digest = Digest::of(bytes);
        let path = self.blob(&digest);
        let stored = CachedArtifact::new(path.clone(), digest, bytes.len() as u64);
        if let Ok((found, stamp)) = stored.hash()
            && found == digest
        {
            blob::write(&self.record(&digest), stamp)?;
            return Ok(stored);
        }
        files::remove_file(&path)?;
        files::replace(&path, bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444))
            .map_err(|error| failed("finish", &path, &error))?;
        blob::record(&self.record(&digest), &path)?;
        Ok(stored)
    }
}
