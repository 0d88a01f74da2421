//! Files that arrive from elsewhere than the network: hashed while they come, kept in a workspace
//! where the cache lacks them, and taken over all at once.
//!
//! [`Arriving`] becomes [`Arrived`] by nothing but the right content; [`Cache::adopt_all`] takes
//! nothing else.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::mirror::{self, Workspace};
use super::{Cache, blob};
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::event::Events;
use crate::host::files::{self, failed, is_out_of_space};
use crate::lock::LockedFile;

/// Files from this size on, in bytes, are synchronised when they are complete, the smaller ones
/// together at the end.
const LARGE: u64 = 4 * 1024 * 1024;

/// A file that arrives.
#[derive(Debug)]
pub struct Arriving {
    wanted: LockedFile,
    hasher: Hasher,
    kept: Option<(File, PathBuf)>,
}

/// A file that arrived complete, with the digest that was wanted.
#[derive(Debug)]
pub struct Arrived {
    path: PathBuf,
    file: LockedFile,
}

impl Arrived {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its digest and size.
    pub fn file(&self) -> &LockedFile {
        &self.file
    }
}

impl Arriving {
    /// One that is hashed and not kept.
    pub fn unkept(wanted: LockedFile) -> Self {
        Self { wanted, hasher: Hasher::new(), kept: None }
    }

    /// One that is kept in a directory under its digest.
    ///
    /// # Errors
    /// Install error when the disk is full, host error when it cannot be written otherwise.
    pub fn kept(wanted: LockedFile, directory: &Path) -> Result<Self> {
        let path = directory.join(wanted.sha256.to_string());
        let file = OpenOptions::new().write(true).create_new(true).mode(0o444).open(&path);
        let file = file.map_err(|error| unwritable(&path, &error))?;
        Ok(Self { wanted, hasher: Hasher::new(), kept: Some((file, path)) })
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// As [`Arriving::kept`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        match &mut self.kept {
            Some((file, path)) => file.write_all(bytes).map_err(|error| unwritable(path, &error)),
            None => Ok(()),
        }
    }

    /// Bytes so far.
    pub fn length(&self) -> u64 {
        self.hasher.length()
    }

    /// Compares what came with what was wanted; the file, if it is kept. The error for another
    /// content is made by `refuse`, which is told wanted and found.
    ///
    /// # Errors
    /// That one; else as [`Arriving::kept`].
    pub fn finish(self, refuse: impl FnOnce(String) -> Error) -> Result<Option<Arrived>> {
        let (wanted, size) = (self.wanted, self.hasher.length());
        let found = self.hasher.finish();
        if (found, size) != (wanted.sha256, wanted.size) {
            return Err(refuse(format!(
                "wanted are {} bytes with the SHA-256 digest {}, found {size} with {found}",
                wanted.size, wanted.sha256
            )));
        }
        let Some((file, path)) = self.kept else { return Ok(None) };
        // Again, because the mode above went through the umask.
        file.set_permissions(fs::Permissions::from_mode(0o444))
            .and_then(|()| if size >= LARGE { file.sync_all() } else { Ok(()) })
            .map_err(|error| unwritable(&path, &error))?;
        Ok(Some(Arrived { path, file: wanted }))
    }
}

impl Cache {
    /// The directory of imports that are under way.
    pub(super) fn imports(&self) -> PathBuf {
        self.directory.join("import-v1")
    }

    /// A workspace for files that arrive.
    ///
    /// # Errors
    /// A host error when it cannot be made.
    pub fn arrivals(&self) -> Result<Workspace> {
        mirror::workspace(&self.imports(), ".tmp-", &self.cancel)
    }

    /// Where the blob with that digest lies if it is here. Nothing is verified.
    pub fn place(&self, digest: &Digest) -> PathBuf {
        self.blob(digest)
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The bytes that could still be written to the cache's file system.
    ///
    /// # Errors
    /// A host error that names the directory.
    pub fn free_bytes(&self) -> Result<u64> {
        files::free_bytes(&self.directory)
    }

    /// Makes files that arrived blobs, those that are not here yet; returns these. For a cache
    /// that was opened alone.
    ///
    /// # Errors
    /// A host error when the cache cannot be written; install error when the disk is full.
    pub fn adopt_all<'a>(
        &self,
        arrived: &'a [Arrived],
        events: &dyn Events,
    ) -> Result<Vec<&'a LockedFile>> {
        let Some(first) = arrived.first() else { return Ok(Vec::new()) };
        let directory = first.path.parent().unwrap_or(&first.path);
        File::open(directory)
            .and_then(|directory| Ok(nix::unistd::syncfs(directory)?))
            .map_err(|error| unwritable(directory, &error))?;
        let (mut pairs, mut new) = (Vec::new(), Vec::new());
        for one in arrived {
            if self.find(&one.file.sha256, events)?.is_none() {
                pairs.push((one.path.clone(), self.blob(&one.file.sha256)));
                new.push(&one.file);
            }
        }
        files::rename_all(&pairs)?;
        for file in &new {
            blob::record(&self.record(&file.sha256), &self.blob(&file.sha256))?;
        }
        Ok(new)
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Error {
    if is_out_of_space(error) {
        let parent = path.parent().unwrap_or(path);
        return Error::install(format!("write to `{}`: no space is left", parent.display()))
            .because(error)
            .hint("make room, or use a cache on another file system");
    }
    failed("write", path, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(bytes: &[u8]) -> LockedFile {
        LockedFile { sha256: Digest::of(bytes), size: bytes.len() as u64 }
    }

    #[test]
    fn only_the_wanted_content_arrives() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = Arriving::kept(wanted(b"content"), directory.path()).unwrap();
        file.write(b"con").unwrap();
        file.write(b"tent").unwrap();
        let arrived = file.finish(Error::install).unwrap().unwrap();
        assert_eq!(fs::read(arrived.path()).unwrap(), b"content");
        for wrong in [&b"contenu"[..], b"conten", b"content "] {
            let mut file = Arriving::unkept(wanted(b"content"));
            file.write(wrong).unwrap();
            let error = file.finish(Error::install).unwrap_err();
            assert!(error.what().contains("wanted are 7 bytes"), "{error}");
        }
    }
}
