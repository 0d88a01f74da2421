//! Bundles: everything of one or more locks in one file, or in a directory on a stick.
//!
//! A bundle is an uncompressed tar archive, or a directory with the same files: first the table
//! `nvstage-bundle.toml` with path, digest and size of every further file, then the locks, then the
//! blobs, sorted. It has one form only: the same locks give the same bytes, and what is not of that
//! form to the last byte is refused.
//!
//! Export: [`contents`] finds out what belongs in, [`readahead`] reads and hashes, [`growing`]
//! writes and continues what was interrupted. Import: [`source`] reads either form, [`intake`]
//! hashes and keeps, [`judge`] compares locks, files and the pins of this machine; the bundle's own
//! word is believed in nothing.

pub mod contents;
pub mod directory;
pub mod export;
pub mod frame;
pub mod growing;
pub mod import;
pub mod intake;
pub mod judge;
pub mod progress;
pub mod readahead;
pub mod source;
pub mod table;

use std::path::Path;

use serde::Serialize;

use crate::error::{Error, Result};

/// Bytes in one buffer between threads.
const CHUNK: usize = 256 * 1024;
/// Buffers that may wait for each file in work.
const QUEUE: usize = 8;

/// One file or a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// A tar archive.
    File,
    /// A directory with the same files.
    Directory,
}

impl Form {
    /// That of a path: a directory that is there, or one that ends with a slash.
    pub fn of(path: &Path) -> Self {
        let is_named = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        if is_named || path.is_dir() { Self::Directory } else { Self::File }
    }
}

/// Files and their bytes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Amount {
    /// How many files.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Amount {
    /// Counts one more file.
    pub fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

/// How many threads work on files at once: one more than one waits for a disk while another one
/// hashes.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 4))
}

/// The error as a cause of a failed verification of something of the bundle; an interruption and
/// wrong arguments stay what they are.
fn about(what: &str, error: Error) -> Error {
    if error.is_interrupted() {
        return error;
    }
    let named = Error::install(what).because(format!("failed to {}", error.what()));
    let named = error.causes().iter().fold(named, Error::because);
    error.hints().iter().fold(named, Error::hint)
}

/// What is done about a bundle that is not as export wrote it.
fn damaged(path: &Path, cause: impl std::fmt::Display) -> Error {
    Error::install(format!("use the bundle `{}`", path.display()))
        .because(cause)
        .hint("it was damaged on the way, cut short, or not written by `nvstage bundle export`: copy or export it again")
}

/// The same for a file in it whose content is another one than its table says.
fn wrong(path: &Path, entry: &table::Entry, difference: String) -> Error {
    damaged(path, format!("its file `{}` is damaged", entry.path)).because(difference)
}

/// Takes the result of a thread that can only have ended by itself or by a panic.
fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| Err(Error::general("finish: a thread ended unexpectedly")))
}
