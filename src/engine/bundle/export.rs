//! Writing a bundle: everything is hashed on its way from the cache to the medium.
//!
//! Order of events: what belongs in, and whether there is room; the files, each under its name only
//! when it is complete; in a directory the table last, so that one without a table is no bundle.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::contents::Contents;
use super::growing::{self, Growing, no_space};
use super::progress::Progress;
use super::readahead::{self, Blob};
use super::table::{self, Entry, Kind};
use super::{Amount, Form, directory, frame};
use crate::engine::supplies::Supplies;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::host::files;

/// What was exported.
#[derive(Debug, Clone, Serialize)]
pub struct Exported {
    schema: u32,
    /// The file or directory.
    pub bundle: PathBuf,
    /// Which of both.
    pub form: Form,
    /// The names of its locks.
    pub locks: Vec<String>,
    /// Its files without the table.
    pub content: Amount,
    /// Bytes that an earlier export had written already.
    pub resumed: u64,
    /// Files of an earlier bundle that were removed from the directory.
    pub removed: usize,
}

/// An export under way.
pub(super) struct Export<'a> {
    pub(super) supplies: &'a Supplies<'a>,
    pub(super) path: &'a Path,
    pub(super) contents: &'a Contents,
    pub(super) progress: Progress<'a>,
}

/// Exports the locks of these names, or all of the cache, with all their files.
///
/// # Errors
/// Invalid input for unknown names and for places that are no place for a bundle; install error
/// for files that are missing or damaged; host error when the medium cannot be written.
pub fn export(supplies: &Supplies<'_>, path: &Path, names: &[String]) -> Result<Exported> {
    let form = Form::of(path);
    let contents = Contents::gather(supplies, names)?;
    let total = contents.table.bytes();
    let name = format!("export to {}", path.display());
    let progress = Progress::new(supplies.events, &name, total);
    let mut exported = Exported {
        schema: 1,
        bundle: path.to_owned(),
        form,
        locks: contents.locks.iter().map(|lock| lock.name.clone()).collect(),
        content: Amount { files: contents.table.entries().len(), bytes: total },
        resumed: 0,
        removed: 0,
    };
    let export = Export { supplies, path, contents: &contents, progress };
    match form {
        Form::File => exported.resumed = export.into_file()?,
        Form::Directory => (exported.resumed, exported.removed) = export.into_directory()?,
    }
    Ok(exported)
}

impl Export<'_> {
    /// One archive; returns how much of it was there.
    fn into_file(mut self) -> Result<u64> {
        let (path, table) = (self.path, &self.contents.table);
        if path.exists() && !path.is_file() {
            let what =
                format!("export to `{}`: it is neither a file nor a directory", path.display());
            return Err(Error::input(what));
        }
        self.check_room(growing::partial(path), table.archive_bytes())?;
        let mut file = Growing::open(path)?;
        let left = file.there();
        let text = table.to_text();
        file.write(&header(table::NAME, text.len() as u64)?)?;
        file.write(text.as_bytes())?;
        file.write(&zeros(frame::padding(text.len() as u64)))?;
        if left > 0 {
            let is_same = file.resumed() >= left.min(frame::member_bytes(text.len() as u64));
            self.tell_of_partial(is_same);
        }
        for (entry, lock) in table.entries().iter().zip(&self.contents.locks) {
            file.write(&header(&entry.path, entry.size)?)?;
            file.write(lock.text.as_bytes())?;
            file.write(&zeros(frame::padding(entry.size)))?;
            self.progress.add(entry.size);
        }
        let entries: Vec<&Entry> = table.blobs().collect();
        let blobs = self.blobs(&entries);
        readahead::read_all(&blobs, |blob, content| {
            let entry = Entry::blob(&blob.file);
            file.write(&header(&entry.path, entry.size)?)?;
            content.drain(|chunk| {
                self.supplies.cancel.check()?;
                file.write(chunk)?;
                self.progress.add(chunk.len() as u64);
                Ok(())
            })?;
            file.write(&zeros(frame::padding(entry.size)))
        })?;
        file.write(&zeros(frame::END))?;
        file.finish()
    }

    fn tell_of_partial(&self, is_same: bool) {
        let partial = growing::partial(self.path);
        let text = match is_same {
            true => format!("continuing `{}`", partial.display()),
            false => format!("`{}` is of another export and is written anew", partial.display()),
        };
        self.supplies.events.emit(Event::Note { text });
    }

    /// Refuses before anything is written what cannot fit.
    fn check_room(&self, partial: PathBuf, size: u64) -> Result<()> {
        let parent = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if let Some(limit) = files::largest_file(parent)?
            && size > limit
        {
            let cause = format!("wanted are {size} bytes, and {limit} are possible");
            return Err(growing::too_large(self.path, cause));
        }
        let there = partial.metadata().map_or(0, |partial| partial.len());
        let (wanted, free) = (size.saturating_sub(there), files::free_bytes(parent)?);
        match wanted > free {
            true => Err(no_room(self.path, wanted, free)),
            false => Ok(()),
        }
    }

    /// What to read for some entries.
    pub(super) fn blobs(&self, entries: &[&Entry]) -> Vec<Blob> {
        let blob = |entry: &&Entry| Blob {
            origin: self.supplies.cache.place(&entry.sha256),
            file: entry.file(),
            label: self.contents.labels.get(&entry.sha256).cloned().unwrap_or_default(),
        };
        entries.iter().map(blob).collect()
    }

    /// A directory with the same files; returns how many bytes of it were there, and how many files
    /// of another bundle were removed.
    fn into_directory(mut self) -> Result<(u64, usize)> {
        let (root, table) = (self.path, &self.contents.table);
        let old = directory::check_place(root)?;
        directory::make(root)?;
        let removed = directory::clear(root, &old, table)?;
        let (mut open, mut resumed) = (Vec::new(), 0);
        for entry in table.entries() {
            self.supplies.cancel.check()?;
            match directory::is_there(root, entry, self.supplies.cancel)? {
                true => {
                    resumed += entry.size;
                    self.progress.add(entry.size);
                }
                false => open.push(entry),
            }
        }
        if resumed > 0 {
            let text = format!("`{}` has {resumed} bytes of it already", root.display());
            self.supplies.events.emit(Event::Note { text });
        }
        self.check_room_for(&open)?;
        resumed += self.write_files(&open)?;
        let mut file = Growing::open(&root.join(table::NAME))?;
        file.write(table.to_text().as_bytes())?;
        file.finish()?;
        Ok((resumed, removed))
    }

    fn check_room_for(&self, open: &[&Entry]) -> Result<()> {
        let largest = open.iter().map(|entry| entry.size).max().unwrap_or_default();
        if let Some(limit) = files::largest_file(self.path)?
            && largest > limit
        {
            let what =
                format!("export to `{}`: one file alone has {largest} bytes", self.path.display());
            return Err(Error::host(what)
                .because(format!("its file system has no files of more than {limit}"))
                .hint("use a medium with another file system: exFAT, ext4"));
        }
        let there = |entry: &&Entry| {
            let partial = growing::partial(&self.path.join(&entry.path));
            partial.metadata().map_or(0, |partial| partial.len())
        };
        let wanted: u64 = open.iter().map(|entry| entry.size.saturating_sub(there(entry))).sum();
        let free = files::free_bytes(self.path)?;
        if wanted > free { Err(no_room(self.path, wanted, free)) } else { Ok(()) }
    }

    fn write_files(&mut self, open: &[&Entry]) -> Result<u64> {
        let mut resumed = 0;
        for lock in &self.contents.locks {
            if let Some(entry) = open.iter().find(|entry| entry.path == lock.path) {
                let mut file = Growing::open(&self.path.join(&entry.path))?;
                file.write(lock.text.as_bytes())?;
                file.finish()?;
                self.progress.add(entry.size);
            }
        }
        let blobs: Vec<&Entry> =
            open.iter().filter(|entry| entry.kind() == Some(Kind::Blob)).copied().collect();
        readahead::read_all(&self.blobs(&blobs), |blob, content| {
            let mut file = Growing::open(&self.path.join(Entry::blob(&blob.file).path))?;
            content.drain(|chunk| {
                self.supplies.cancel.check()?;
                file.write(chunk)?;
                self.progress.add(chunk.len() as u64);
                Ok(())
            })?;
            resumed += file.finish()?;
            Ok(())
        })?;
        Ok(resumed)
    }
}

fn no_room(path: &Path, wanted: u64, free: u64) -> Error {
    no_space(path, format!("it needs {wanted} bytes more, and {free} are free"))
}

fn header(path: &str, size: u64) -> Result<[u8; frame::BLOCK as usize]> {
    frame::header(path, size)
        .ok_or_else(|| Error::install(format!("export `{path}`: its name is too long")))
}

/// So many zero bytes; at most the end of an archive.
fn zeros(count: u64) -> Vec<u8> {
    vec![0; usize::try_from(count.min(frame::END)).unwrap_or_default()]
}
