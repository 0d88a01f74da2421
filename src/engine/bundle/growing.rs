//! A file on a medium that may be slow, full or pulled out: written beside its place, synchronised
//! as it grows, and continued where an earlier run was interrupted.
//!
//! `NAME.partial` is locked while it grows. What it has already is compared with what is to be
//! written, byte by byte; from the first difference on it is written anew. When it is complete it
//! gets its name.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::error::{Error, Result};
use crate::host::files::{self, Lock, failed, is_out_of_space, is_too_large};

/// Bytes after which the file is synchronised; twice as many may wait for a slow medium.
const STEP: u64 = 16 * 1024 * 1024;
/// A partial file with less is not worth keeping on a full medium.
const WORTH: u64 = 1024 * 1024;

/// A file that grows.
#[derive(Debug)]
pub struct Growing {
    path: PathBuf,
    lock: Lock,
    /// Where the next bytes belong.
    position: u64,
    /// Up to where the partial file may still agree with what is written.
    there: u64,
    /// Bytes that were there and are right.
    resumed: u64,
    unsynchronised: u64,
    buffer: Vec<u8>,
    behind: Option<Synchroniser>,
}

/// The name of the file while it is not complete.
pub fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}

impl Growing {
    /// Begins or continues the file that will be called `path`.
    ///
    /// # Errors
    /// Host error when it cannot be written, or somebody else writes it.
    pub fn open(path: &Path) -> Result<Self> {
        let partial = partial(path);
        let found = fs::symlink_metadata(&partial);
        if found.is_ok_and(|found| !found.is_file()) {
            let what = format!("write `{}`: it is there and no file", partial.display());
            return Err(Error::host(what));
        }
        let made = OpenOptions::new().write(true).create(true).truncate(false).open(&partial);
        made.map_err(|error| unwritable(path, &error))?;
        let lock = Lock::try_exclusive(&partial)?;
        // Whoever held it may have given the file its name or removed it since.
        let inode = |metadata: io::Result<fs::Metadata>| metadata.ok().map(|m| m.ino());
        let lock = lock.filter(|lock| {
            let mine = inode(lock.file().metadata());
            mine.is_some() && mine == inode(fs::symlink_metadata(&partial))
        });
        let lock = lock.ok_or_else(|| {
            Error::host(format!("write `{}`: another process writes it", partial.display()))
                .hint("wait until it is done")
        })?;
        let there = lock.file().metadata().map_err(|error| failed("read", &partial, &error))?.len();
        Ok(Self {
            path: path.to_owned(),
            lock,
            position: 0,
            there,
            resumed: 0,
            unsynchronised: 0,
            buffer: Vec::new(),
            behind: None,
        })
    }

    /// Bytes that an earlier run left, as far as they are not known to be wrong.
    pub fn there(&self) -> u64 {
        self.there
    }

    /// Bytes of an earlier run that were right so far.
    pub fn resumed(&self) -> u64 {
        self.resumed
    }

    /// Adds bytes: compares them with what is there, or writes them.
    ///
    /// # Errors
    /// Host error when the file cannot be read or written; one that is full or too large says how
    /// to go on.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() && self.position < self.there {
            let same = self.compare(bytes)?;
            bytes = &bytes[same..];
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let written = self.lock.file().write_all_at(bytes, self.position);
        written.map_err(|error| self.unwritable(&error))?;
        self.position += bytes.len() as u64;
        self.unsynchronised += bytes.len() as u64;
        if self.unsynchronised >= STEP {
            self.unsynchronised = 0;
            self.synchronise()?;
        }
        Ok(())
    }

    /// How many of the bytes are there already. What is wrong is cut off, with all that follows.
    fn compare(&mut self, bytes: &[u8]) -> Result<usize> {
        let left = usize::try_from(self.there - self.position).unwrap_or(usize::MAX);
        let count = left.min(bytes.len());
        self.buffer.resize(count, 0);
        let (file, partial) = (self.lock.file(), self.lock.path());
        // A medium that was pulled out may have lost the end: what cannot be read is written anew.
        let read = file.read_exact_at(&mut self.buffer, self.position).is_ok();
        let pairs = self.buffer.iter().zip(bytes);
        let same = if read { pairs.take_while(|(one, other)| one == other).count() } else { 0 };
        self.position += same as u64;
        self.resumed += same as u64;
        if same < count {
            file.set_len(self.position).map_err(|error| failed("shorten", partial, &error))?;
            self.there = self.position;
        }
        Ok(same)
    }

    /// Completes it: everything is on the medium, under its name.
    ///
    /// # Errors
    /// Host error when it cannot be written.
    pub fn finish(mut self) -> Result<u64> {
        if self.there > self.position {
            let partial = self.lock.path();
            let cut = self.lock.file().set_len(self.position);
            cut.map_err(|error| failed("shorten", partial, &error))?;
        }
        let behind = self.behind.take().map_or(Ok(()), Synchroniser::join);
        behind
            .and_then(|()| self.lock.file().sync_all())
            .map_err(|error| self.unwritable(&error))?;
        files::rename(self.lock.path(), &self.path)?;
        Ok(self.resumed)
    }

    fn synchronise(&mut self) -> Result<()> {
        let behind = match self.behind.take() {
            Some(behind) => Ok(behind),
            None => Synchroniser::start(self.lock.file()),
        };
        let told = behind.and_then(|behind| match behind.queue.send(()) {
            Ok(()) => Ok(Some(behind)),
            // It ended before its time, with an error.
            Err(_) => behind.join().map(|()| None),
        });
        self.behind = told.map_err(|error| self.unwritable(&error))?;
        Ok(())
    }

    fn unwritable(&self, error: &io::Error) -> Error {
        let failure = unwritable(&self.path, error);
        if !is_out_of_space(error) {
            return failure;
        }
        let partial = self.lock.path();
        if self.position < WORTH {
            // The first error counts.
            let _ = files::remove_file(partial);
            return failure;
        }
        let (written, partial) = (self.position, partial.display());
        failure.because(format!("{written} bytes of it stay in `{partial}`, to be continued"))
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Error {
    if is_too_large(error) {
        return too_large(path, error);
    }
    if is_out_of_space(error) {
        return no_space(path, error);
    }
    failed("write", path, error)
}

/// A medium without room for the rest.
pub fn no_space(path: &Path, cause: impl std::fmt::Display) -> Error {
    Error::host(format!("write `{}`: no space is left", path.display()))
        .because(cause)
        .hint("make room there, or take a larger medium, and run the same command again")
}

/// A file system without files of that size.
pub fn too_large(path: &Path, cause: impl std::fmt::Display) -> Error {
    Error::host(format!("write `{}`: its file system has no files that large", path.display()))
        .because(cause)
        .hint("export to a directory there, which has no large file: a path that ends with `/`")
}

/// Writes a file to its medium while it grows.
#[derive(Debug)]
struct Synchroniser {
    queue: SyncSender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl Synchroniser {
    fn start(file: &File) -> io::Result<Self> {
        let file = file.try_clone()?;
        let (queue, asked) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .spawn(move || asked.iter().try_for_each(|()| file.sync_data()))?;
        Ok(Self { queue, thread })
    }

    fn join(self) -> io::Result<()> {
        drop(self.queue);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread ended unexpectedly")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grown(directory: &Path, old: &[u8], new: &[u8]) -> u64 {
        let path = directory.join("file");
        files::replace(&partial(&path), old).unwrap();
        let mut growing = Growing::open(&path).unwrap();
        new.chunks(7).try_for_each(|chunk| growing.write(chunk)).unwrap();
        let resumed = growing.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), new);
        assert!(!partial(&path).exists());
        resumed
    }

    #[test]
    fn what_is_there_and_right_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let new: Vec<u8> = (0..100).collect();
        for length in 0..=100 {
            assert_eq!(grown(directory.path(), &new[..length], &new), length as u64);
        }
        let mut wrong = new.clone();
        wrong[40] = 0;
        assert_eq!(grown(directory.path(), &wrong, &new), 40);
        let longer: Vec<u8> = (0..200).collect();
        assert_eq!(grown(directory.path(), &longer, &new), 100);
    }

    #[test]
    fn two_do_not_write_the_same_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let _first = Growing::open(&path).unwrap();
        let error = Growing::open(&path).unwrap_err();
        assert!(error.what().contains("another process writes it"), "{error}");
    }

    #[test]
    fn a_large_file_is_written_through() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let mut growing = Growing::open(&path).unwrap();
        let chunk = vec![7; 1024 * 1024];
        (0..40).try_for_each(|_| growing.write(&chunk)).unwrap();
        growing.finish().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 40 * 1024 * 1024);
    }
}
