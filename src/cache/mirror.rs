//! Partial mirrors as directories: links to blobs, and small texts, put in place by one rename.
//!
//! `apt-v1/<hex>/` is named by its layout and built in `apt-v1/.tmp-<hex>/` under the lock
//! `apt-v1/.<hex>.lock`. A mirror that is there is compared with its layout every time: each link
//! must be the blob itself, which is hashed again when it changed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::scan::{Directory, FileId};
use super::{Cache, SAME_FILE_WAIT, blob};
use crate::apt::mirror::{self, Content, Layout};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::event::Events;
use crate::host::cancel::Cancel;
use crate::host::files::{self, Lock, failed};
use crate::lock::LockedFile;

/// A private directory on the cache's file system.
#[derive(Debug)]
pub struct Workspace {
    directory: PathBuf,
    _lock: Lock,
}

impl Workspace {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next one.
        let _ = files::remove_tree(&self.directory);
    }
}

/// Makes a workspace, and removes those that nobody holds any more.
pub(super) fn workspace(parent: &Path, prefix: &str, cancel: &Cancel) -> Result<Workspace> {
    // Between making one and locking it, it looks like a left one.
    let _lock = Lock::exclusive(&parent.join(".workspaces.lock"), SAME_FILE_WAIT, cancel)?;
    for entry in fs::read_dir(parent).map_err(|error| failed("read", parent, &error))?.flatten() {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with(prefix)
            && Lock::try_exclusive(&path.join(".lock")).is_ok_and(|lock| lock.is_some())
        {
            files::remove_tree(&path)?;
        }
    }
    let directory = tempfile::Builder::new()
        .prefix(prefix)
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir_in(parent)
        .map_err(|error| failed("create a directory in", parent, &error))?
        .keep();
    let lock = Lock::try_exclusive(&directory.join(".lock"))?
        .ok_or_else(|| Error::host(format!("lock `{}`", directory.display())))?;
    Ok(Workspace { directory, _lock: lock })
}

/// The mirror of a layout, made now or before.
pub(super) fn obtain(cache: &Cache, layout: &Layout, events: &dyn Events) -> Result<PathBuf> {
    let (parent, hex) = (cache.mirrors(), layout.name.to_string());
    let directory = parent.join(&hex);
    check_blobs(cache, layout, events)?;
    if is_intact(cache, layout, &directory) {
        return Ok(directory);
    }
    let path = lock_file(&parent, &hex);
    let _lock = Lock::exclusive(&path, SAME_FILE_WAIT, &cache.cancel)?;
    if is_intact(cache, layout, &directory) {
        return Ok(directory);
    }
    let temporary = parent.join(format!(".tmp-{hex}"));
    files::remove_tree(&temporary)?;
    let built = build(cache, layout, &temporary)
        .and_then(|()| files::remove_tree(&directory))
        .and_then(|()| files::rename(&temporary, &directory));
    // Linking and unlinking change a blob's ctime, not its content.
    note_links(cache, layout)?;
    if let Err(error) = built {
        // The first error counts.
        let _ = files::remove_tree(&temporary);
        return Err(error);
    }
    Ok(directory)
}

/// Why a mirror is not what its name stands for; `None` where it is. `known` has the files of the
/// cache that are verified.
pub(super) fn fault(
    directory: &Path,
    (name, mirror): (&Digest, &Directory),
    known: &BTreeMap<FileId, Digest>,
) -> Result<Option<String>> {
    let mut digests: BTreeMap<&str, Digest> = BTreeMap::new();
    for (path, file) in &mirror.files {
        let digest = match known.get(&file.id) {
            Some(digest) => *digest,
            None if mirror::is_text(path) => {
                let path = directory.join(path);
                Digest::of(&fs::read(&path).map_err(|error| failed("read", &path, &error))?)
            }
            None => return Ok(Some(format!("its `{path}` is no verified file of the cache"))),
        };
        digests.insert(path, digest);
    }
    let found = mirror::name(digests.into_iter());
    Ok((found != *name).then(|| "its files are not those that its name stands for".to_owned()))
}

/// Removes a directory with links to blobs. That changes the ctime of the blobs and nothing else:
/// of those that were verified until now the records are brought up to date.
pub(super) fn discard(cache: &Cache, directory: &Path, blobs: &[Digest]) -> Result<()> {
    let is_verified = |digest: &&Digest| {
        let metadata = fs::symlink_metadata(cache.blob(digest));
        metadata.is_ok_and(|metadata| blob::is_recorded(&cache.record(digest), &metadata))
    };
    let verified: Vec<&Digest> = blobs.iter().filter(is_verified).collect();
    let removed = files::remove_tree(directory);
    for digest in verified {
        blob::record_link(&cache.record(digest), &cache.blob(digest))?;
    }
    removed
}

/// The lock that whoever makes the mirror of that name holds.
pub(super) fn lock_file(parent: &Path, hex: &str) -> PathBuf {
    parent.join(format!(".{hex}.lock"))
}

fn blobs(layout: &Layout) -> impl Iterator<Item = (&str, &LockedFile)> {
    layout.files.iter().filter_map(|(path, content)| match content {
        Content::Blob(file) => Some((path.as_str(), file)),
        Content::Text(_) => None,
    })
}

/// Every blob is here, and is what it is called.
fn check_blobs(cache: &Cache, layout: &Layout, events: &dyn Events) -> Result<()> {
    for (path, file) in blobs(layout) {
        if cache.find(&file.sha256, events)?.is_none() {
            return Err(Error::install(format!("use `{path}`: the cache does not have it"))
                .because(format!("wanted is a file with the SHA-256 digest {}", file.sha256)));
        }
    }
    Ok(())
}

fn is_intact(cache: &Cache, layout: &Layout, directory: &Path) -> bool {
    layout.files.iter().all(|(path, content)| {
        let path = directory.join(path);
        match content {
            Content::Blob(file) => same_inode(&path, &cache.blob(&file.sha256)),
            Content::Text(text) => fs::read(&path).is_ok_and(|bytes| bytes == text.as_bytes()),
        }
    })
}

fn same_inode(one: &Path, other: &Path) -> bool {
    let inode = |path| fs::symlink_metadata(path).map(|m| (m.dev(), m.ino()));
    match (inode(one), inode(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

fn build(cache: &Cache, layout: &Layout, temporary: &Path) -> Result<()> {
    for (path, content) in &layout.files {
        cache.cancel.check()?;
        let path = temporary.join(path);
        files::create_directory(path.parent().unwrap_or(temporary))?;
        match content {
            Content::Text(text) => files::replace(&path, text.as_bytes())?,
            Content::Blob(file) => link(&cache.blob(&file.sha256), &path)?,
        }
    }
    fs::File::open(temporary)
        .and_then(|directory| Ok(nix::unistd::syncfs(directory)?))
        .map_err(|error| failed("synchronise", temporary, &error))
}

fn link(blob: &Path, path: &Path) -> Result<()> {
    match fs::hard_link(blob, path) {
        // Two packages of one path and digest are one.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && same_inode(blob, path) => {
            Ok(())
        }
        result => result.map_err(|error| failed("link", path, &error)),
    }
}

/// Brings the records of the blobs up to date, which `check_blobs` has just found verified.
fn note_links(cache: &Cache, layout: &Layout) -> Result<()> {
    for (_, file) in blobs(layout) {
        let path = cache.blob(&file.sha256);
        if path.exists() {
            blob::record_link(&cache.record(&file.sha256), &path)?;
        }
    }
    Ok(())
}
