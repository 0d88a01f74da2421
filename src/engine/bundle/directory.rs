//! A bundle as a directory: the same files as in the archive, no links, plain names, so that FAT
//! holds it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::source::{Source, Take, unreadable};
use super::table::{self, Entry, Table};
use super::{CHUNK, damaged};
use crate::digest::Hasher;
use crate::error::{Error, Result};
use crate::host::cancel::Cancel;
use crate::host::files::{self, failed};

/// The suffix of a file that grows.
const PARTIAL: &str = ".partial";

/// Everything below a directory that is no directory of a bundle, as relative paths, and whether it
/// is a file.
fn list(root: &Path) -> Result<Vec<(String, bool)>> {
    let mut found = Vec::new();
    let mut open = vec![String::new()];
    while let Some(prefix) = open.pop() {
        let directory = root.join(&prefix);
        let fail = |error: io::Error| failed("read", &directory, &error);
        for entry in fs::read_dir(&directory).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type().map_err(fail)?;
            let is_ours = [table::LOCKS, "blobs-v1", table::BLOBS].contains(&path.as_str());
            match is_ours && kind.is_dir() {
                true => open.push(format!("{path}/")),
                false => found.push((path, kind.is_file())),
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Refuses a directory that holds anything but a bundle, which must not be written over; returns
/// what it holds.
///
/// # Errors
/// Invalid input that names the first strange thing in it.
pub(super) fn check_place(root: &Path) -> Result<Vec<String>> {
    if !root.exists() {
        return Ok(Vec::new());
    }
    let found = list(root)?;
    if let Some((path, _)) = found.iter().find(|(path, is_file)| !is_file || !is_ours(path)) {
        let what = format!(
            "export to `{}`: it holds `{path}`, which is no part of a bundle",
            root.display()
        );
        return Err(
            Error::input(what).hint("name a directory of its own, which need not be there yet")
        );
    }
    Ok(found.into_iter().map(|(path, _)| path).collect())
}

/// Whether a file may be one of a bundle, complete or not.
fn is_ours(path: &str) -> bool {
    let path = path.strip_suffix(PARTIAL).unwrap_or(path);
    let is_hex = |name: &str| name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
    match path.rsplit_once('/') {
        None => path == table::NAME,
        Some((table::LOCKS, name)) => name.ends_with(".lock"),
        Some((table::BLOBS, name)) => is_hex(name),
        Some(_) => false,
    }
}

/// Makes the directories. Nothing is done about modes, which FAT does not have.
///
/// # Errors
/// Host error; also where the directory above is missing: a stick that is not mounted.
pub(super) fn make(root: &Path) -> Result<()> {
    for part in ["", table::LOCKS, "blobs-v1", table::BLOBS] {
        let path = root.join(part);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("create", &path, &error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Takes away the old table, and the files that the new one does not have; returns how many of
/// these were complete.
///
/// # Errors
/// Host error.
pub(super) fn clear(root: &Path, old: &[String], table: &Table) -> Result<usize> {
    // First of all: from here on it is no bundle.
    files::remove_file(&root.join(table::NAME))?;
    files::sync_directory(root)?;
    let mut removed = 0;
    let wanted: std::collections::BTreeSet<&str> =
        table.entries().iter().map(|entry| entry.path.as_str()).chain([table::NAME]).collect();
    for path in old {
        if !wanted.contains(path.strip_suffix(PARTIAL).unwrap_or(path)) {
            files::remove_file(&root.join(path))?;
            removed += usize::from(!path.ends_with(PARTIAL));
        }
    }
    Ok(removed)
}

/// Whether a file is there with the right content. What cannot be read is not.
///
/// # Errors
/// The interruption.
pub(super) fn is_there(root: &Path, entry: &Entry, cancel: &Cancel) -> Result<bool> {
    let Ok(mut file) = open(&root.join(&entry.path)) else { return Ok(false) };
    if !file.metadata().is_ok_and(|found| found.is_file() && found.len() == entry.size) {
        return Ok(false);
    }
    let (mut hasher, mut buffer) = (Hasher::new(), vec![0; CHUNK]);
    loop {
        cancel.check()?;
        match file.read(&mut buffer) {
            Ok(0) => return Ok((hasher.length(), hasher.finish()) == (entry.size, entry.sha256)),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Ok(false),
        }
    }
}

/// Opens a file; a link is none.
fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// A bundle in a directory, being read.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    cancel: Cancel,
}

impl Directory {
    pub(super) fn new(path: &Path, cancel: &Cancel) -> Self {
        Self { path: path.to_owned(), cancel: cancel.clone() }
    }

    /// Reads a file that must have that size.
    fn content(&self, name: &str, size: Option<u64>, take: &mut Take<'_>) -> Result<()> {
        let path = self.path.join(name);
        let mut file = match open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(damaged(&self.path, format!("`{name}` is missing")));
            }
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ELOOP as i32) => {
                return Err(damaged(&self.path, format!("`{name}` is a symbolic link")));
            }
            Err(error) => return Err(unreadable(&path, &error)),
        };
        let found = file.metadata().map_err(|error| unreadable(&path, &error))?;
        if !found.is_file() {
            return Err(damaged(&self.path, format!("`{name}` is no file")));
        }
        let size = size.unwrap_or(found.len());
        let wrong = |found: u64| {
            damaged(&self.path, format!("`{name}` has {found} bytes, in its table {size}"))
        };
        if found.len() != size {
            return Err(wrong(found.len()));
        }
        let mut left = size;
        while left > 0 {
            self.cancel.check()?;
            let mut chunk = Vec::with_capacity(CHUNK.min(usize::try_from(left).unwrap_or(CHUNK)));
            let wanted = left.min(CHUNK as u64);
            let read = (&mut file).take(wanted).read_to_end(&mut chunk);
            left -= read.map_err(|error| unreadable(&path, &error))? as u64;
            if chunk.is_empty() {
                return Err(wrong(size - left));
            }
            take(chunk)?;
        }
        Ok(())
    }
}

impl Source for Directory {
    fn table(&mut self) -> Result<Table> {
        let mut text = Vec::new();
        self.content(table::NAME, None, &mut |chunk| {
            text.extend_from_slice(&chunk);
            match text.len() as u64 > table::TEXT_LIMIT {
                true => Err(damaged(&self.path, "its table is too large")),
                false => Ok(()),
            }
        })?;
        let table = Table::parse(&text).map_err(|why| damaged(&self.path, why))?;
        let wanted: std::collections::BTreeSet<&str> =
            table.entries().iter().map(|entry| entry.path.as_str()).chain([table::NAME]).collect();
        let found = list(&self.path)?;
        match found.iter().find(|(path, _)| !wanted.contains(path.as_str())) {
            Some((path, _)) => {
                Err(damaged(&self.path, format!("`{path}` in it is not in its table")))
            }
            None => Ok(table),
        }
    }

    fn content_of(&mut self, entry: &Entry, take: &mut Take<'_>) -> Result<()> {
        self.content(&entry.path, Some(entry.size), take)
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}
