//! A bundle being read, file by file in the order of its table, whichever form it has.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::directory::Directory;
use super::frame::{self, BLOCK};
use super::table::{self, Entry, Table};
use super::{CHUNK, damaged};
use crate::error::{Error, Result};
use crate::host::cancel::Cancel;
use crate::host::wait::readable;

/// What takes content as it is read.
pub type Take<'a> = dyn FnMut(Vec<u8>) -> Result<()> + 'a;

/// A bundle being read: the table, then every file of it in order, then the end.
pub trait Source {
    /// Reads the table.
    ///
    /// # Errors
    /// Install error for anything but a bundle; host error when it cannot be read.
    fn table(&mut self) -> Result<Table>;

    /// Reads the next file of the table: exactly as many bytes as that says. Their digest is not
    /// looked at.
    ///
    /// # Errors
    /// As [`Source::table`]; whatever `take` fails with.
    fn content_of(&mut self, entry: &Entry, take: &mut Take<'_>) -> Result<()>;

    /// Makes sure that nothing follows.
    ///
    /// # Errors
    /// As [`Source::table`].
    fn finish(&mut self) -> Result<()>;
}

/// Opens a bundle.
///
/// # Errors
/// Host error when it cannot be opened.
pub fn open(path: &Path, cancel: &Cancel) -> Result<Box<dyn Source>> {
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let metadata = file.metadata().map_err(|error| unreadable(path, &error))?;
    if metadata.is_dir() {
        return Ok(Box::new(Directory::new(path, cancel)));
    }
    Ok(Box::new(Archive {
        path: path.to_owned(),
        file,
        metadata,
        position: 0,
        cancel: cancel.clone(),
    }))
}

pub(super) fn unreadable(path: &Path, error: &io::Error) -> Error {
    let error = Error::host(format!("read the bundle `{}`", path.display())).because(error);
    error.hint("a path to a file, or to a directory, that `nvstage bundle export` wrote")
}

/// A bundle in one file, which may be a pipe.
#[derive(Debug)]
struct Archive {
    path: PathBuf,
    file: File,
    metadata: Metadata,
    position: u64,
    cancel: Cancel,
}

impl Archive {
    /// Reads as many bytes as there are, at most so many.
    fn some(&mut self, limit: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; limit];
        let mut filled = 0;
        while filled < limit {
            readable(self.file.as_fd(), &self.cancel)?;
            match self.file.read(&mut bytes[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(&self.path, &error)),
            }
        }
        bytes.truncate(filled);
        self.position += filled as u64;
        Ok(bytes)
    }

    fn exactly(&mut self, count: usize, within: &str) -> Result<Vec<u8>> {
        let bytes = self.some(count)?;
        match bytes.len() == count {
            true => Ok(bytes),
            false => {
                Err(self.damaged(format!("it ends after {} bytes, within {within}", self.position)))
            }
        }
    }

    fn damaged(&self, cause: impl std::fmt::Display) -> Error {
        damaged(&self.path, cause)
    }

    fn header(&mut self, within: &str) -> Result<[u8; BLOCK as usize]> {
        let bytes = self.exactly(BLOCK as usize, within)?;
        bytes.try_into().map_err(|_| self.damaged("it ends"))
    }

    /// Reads content and padding.
    fn content(&mut self, name: &str, size: u64, take: &mut Take<'_>) -> Result<()> {
        let within = format!("`{name}`");
        let mut left = size;
        while left > 0 {
            let count = left.min(CHUNK as u64);
            take(self.exactly(usize::try_from(count).unwrap_or(CHUNK), &within)?)?;
            left -= count;
        }
        self.zeros(frame::padding(size), &format!("what follows {within}"))
    }

    fn zeros(&mut self, count: u64, what: &str) -> Result<()> {
        let bytes = self.exactly(usize::try_from(count).unwrap_or_default(), what)?;
        match bytes.iter().all(|byte| *byte == 0) {
            true => Ok(()),
            false => Err(self.damaged(format!("{what} is not empty"))),
        }
    }

    /// Before gigabytes are read: is it as long as its table says?
    fn check_length(&self, table: &Table) -> Result<()> {
        let (wanted, found) = (table.archive_bytes(), self.metadata.len());
        if !self.metadata.is_file() || wanted == found {
            return Ok(());
        }
        Err(self.damaged(format!("it has {found} bytes; by its table it would have {wanted}")))
    }
}

impl Source for Archive {
    fn table(&mut self) -> Result<Table> {
        let header = self.header("its first header")?;
        let size = frame::size(&header).filter(|size| *size <= table::TEXT_LIMIT);
        let is_table = |size: u64| frame::header(table::NAME, size) == Some(header);
        let Some(size) = size.filter(|size| is_table(*size)) else {
            let found = frame::describe(&header);
            return Err(self.damaged(format!("it begins with {found}, not with `{}`", table::NAME)));
        };
        let mut text = Vec::new();
        self.content(table::NAME, size, &mut |chunk| {
            text.extend_from_slice(&chunk);
            Ok(())
        })?;
        let table = Table::parse(&text).map_err(|why| self.damaged(why))?;
        self.check_length(&table)?;
        Ok(table)
    }

    fn content_of(&mut self, entry: &Entry, take: &mut Take<'_>) -> Result<()> {
        let header = self.header(&format!("the header of `{}`", entry.path))?;
        if frame::header(&entry.path, entry.size) != Some(header) {
            let found = frame::describe(&header);
            let (path, size) = (&entry.path, entry.size);
            return Err(self
                .damaged(format!("next in its table is `{path}` with {size} bytes"))
                .because(format!("next in it is {found}")));
        }
        self.content(&entry.path, entry.size, take)
    }

    fn finish(&mut self) -> Result<()> {
        let header = self.header("its end")?;
        if header.iter().any(|byte| *byte != 0) {
            let found = frame::describe(&header);
            return Err(self.damaged(format!("after the last file of its table comes {found}")));
        }
        self.zeros(frame::END - BLOCK, "its end")?;
        match self.some(1)?.is_empty() {
            true => Ok(()),
            false => Err(self.damaged("something follows its end")),
        }
    }
}
