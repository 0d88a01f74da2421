//! A squashfs image: a tree that cannot be written, whoever mounts it.
//!
//! An [`Image`] is a list of files, links and directories with their sources; [`Image::write`] makes
//! the image of it. The same list and the same contents give the same bytes: everything belongs to
//! root, nothing has a time, and the order is that of the paths. Sources are opened one by one when
//! they are read, and hashed as they pass where a digest is wanted.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use backhand::compression::Compressor;
use backhand::{BackhandError, FilesystemCompressor, FilesystemWriter, NodeHeader};

use crate::digest::{Digest, Hasher, hash_reader};
use crate::error::{Error, Result};
use crate::event::{Event, Events};
use crate::host::cancel::Cancel;
use crate::host::files::{failed, is_out_of_space};

/// Progress is told this often.
const TELL_INTERVAL: Duration = Duration::from_millis(100);
const DIRECTORY_MODE: u32 = 0o755;

/// What an image is made of, by paths without a leading slash.
#[derive(Debug, Clone, Default)]
pub struct Image {
    nodes: BTreeMap<PathBuf, Node>,
}

/// A regular file of an image.
#[derive(Debug, Clone)]
pub struct Source {
    /// Where its content lies now.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// Its permission bits in the image.
    pub mode: u32,
    /// The digest that its content must have, where one is known.
    pub digest: Option<Digest>,
}

#[derive(Debug, Clone)]
enum Node {
    File(Source),
    Link(PathBuf),
    /// Its permission bits.
    Directory(u32),
}

/// An image that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Its size in bytes.
    pub size: u64,
    /// Its digest.
    pub sha256: Digest,
}

impl Image {
    /// Adds a file; the directories above it are made.
    pub fn file(&mut self, path: impl Into<PathBuf>, source: Source) {
        self.add(path.into(), Node::File(source));
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: impl Into<PathBuf>, target: impl Into<PathBuf>) {
        self.add(path.into(), Node::Link(target.into()));
    }

    /// Adds a directory with its permission bits.
    pub fn directory(&mut self, path: impl Into<PathBuf>, mode: u32) {
        self.add(path.into(), Node::Directory(mode));
    }

    fn add(&mut self, path: PathBuf, node: Node) {
        for above in path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
            let directory = || Node::Directory(DIRECTORY_MODE);
            self.nodes.entry(above.to_owned()).or_insert_with(directory);
        }
        self.nodes.insert(path, node);
    }

    /// The size of all files, in bytes.
    pub fn bytes(&self) -> u64 {
        let size = |node: &Node| match node {
            Node::File(source) => source.size,
            _ => 0,
        };
        self.nodes.values().map(size).sum()
    }

    /// Writes the image to a new file, with mode 0444 and for good; tells its progress under `name`.
    ///
    /// # Errors
    /// Install error when a source is not what it should be or the disk is full, host error when
    /// something cannot be read or written; the interruption. What was written stays then.
    pub fn write(&self, to: &Path, name: &str, watch: (&dyn Events, &Cancel)) -> Result<Written> {
        let (events, cancel) = watch;
        let passing = Passing {
            name,
            events,
            cancel,
            total: self.bytes(),
            done: Cell::new(0),
            told: Cell::new(Instant::now()),
            failure: RefCell::new(None),
        };
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(to);
        let mut file = file.map_err(|error| unwritable(to, &error))?;
        let sink = Sink { file: &mut file, path: to, passing: &passing };
        let made = self.writer(&passing).and_then(|mut writer| writer.write(sink));
        let size = match made {
            Ok((_, size)) => size,
            Err(error) => return Err(passing.failed(error)),
        };
        // Duplicates that were written over may have left something behind the end.
        file.set_len(size)
            .and_then(|()| file.set_permissions(fs::Permissions::from_mode(0o444)))
            .and_then(|()| file.sync_all())
            .map_err(|error| unwritable(to, &error))?;
        passing.tell();
        file.rewind().map_err(|error| failed("read", to, &error))?;
        let (sha256, length) = hash_reader(&file).map_err(|error| failed("read", to, &error))?;
        Ok(Written { size: length, sha256 })
    }

    fn writer<'a>(
        &'a self,
        passing: &'a Passing<'a>,
    ) -> std::result::Result<FilesystemWriter<'a, 'a, 'a>, BackhandError> {
        let mut writer = FilesystemWriter::default();
        writer.set_compressor(FilesystemCompressor::new(Compressor::Zstd, None)?);
        writer.set_time(0);
        writer.set_only_root_id();
        writer.set_root_mode(DIRECTORY_MODE as u16);
        for (path, node) in &self.nodes {
            let header = |mode: u32| NodeHeader::new((mode & 0o777) as u16, 0, 0, 0);
            match node {
                Node::File(source) => {
                    let reader = Lazy { source, passing, state: State::Unread };
                    writer.push_file(reader, path, header(source.mode))?;
                }
                Node::Link(target) => writer.push_symlink(target, path, header(0o777))?,
                Node::Directory(mode) => writer.push_dir(path, header(*mode))?,
            }
        }
        Ok(writer)
    }
}

/// What all sources and the image share while it is written.
struct Passing<'a> {
    name: &'a str,
    events: &'a dyn Events,
    cancel: &'a Cancel,
    total: u64,
    done: Cell<u64>,
    told: Cell<Instant>,
    /// The first one; the image's writer passes on less.
    failure: RefCell<Option<Error>>,
}

impl Passing<'_> {
    /// Keeps an error and gives one that makes the writer stop.
    fn stop(&self, error: Error) -> io::Error {
        self.failure.borrow_mut().get_or_insert(error);
        io::Error::other("the image cannot be written")
    }

    fn failed(&self, error: BackhandError) -> Error {
        let ours = self.failure.borrow_mut().take();
        ours.unwrap_or_else(|| {
            let image = Error::general(format!("make the image of {}", self.name));
            match error {
                BackhandError::StdIo(error) => image.because(error),
                BackhandError::InvalidFilePath | BackhandError::DuplicatedFileName => {
                    image.because("a path in it is a file and a directory, or there twice")
                }
                _ => image.because("its tree cannot be written as squashfs"),
            }
        })
    }

    fn pass(&self, bytes: usize) {
        self.done.set(self.done.get() + bytes as u64);
        if self.told.get().elapsed() >= TELL_INTERVAL {
            self.tell();
        }
    }

    fn tell(&self) {
        self.told.set(Instant::now());
        self.events.emit(Event::Progress {
            name: self.name.to_owned(),
            done: self.done.get().min(self.total),
            total: Some(self.total),
        });
    }
}

/// A source that is opened when it is first read, and closed at its end.
struct Lazy<'a> {
    source: &'a Source,
    passing: &'a Passing<'a>,
    state: State,
}

enum State {
    Unread,
    Open(File, Hasher),
    Ended,
}

impl Lazy<'_> {
    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.passing.cancel.check()?;
        let path = &self.source.path;
        let unreadable = |error: io::Error| failed("read", path, &error);
        if matches!(self.state, State::Unread) {
            self.state = State::Open(File::open(path).map_err(unreadable)?, Hasher::new());
        }
        let State::Open(file, hasher) = &mut self.state else { return Ok(0) };
        let count = file.read(buffer).map_err(unreadable)?;
        self.passing.pass(count);
        if count > 0 {
            hasher.update(&buffer[..count]);
        } else if let State::Open(_, hasher) = std::mem::replace(&mut self.state, State::Ended) {
            self.check(hasher)?;
        }
        Ok(count)
    }

    /// The length has to be right even where no digest is known.
    fn check(&self, hasher: Hasher) -> Result<()> {
        let (length, found) = (hasher.length(), hasher.finish());
        let is_right =
            length == self.source.size && self.source.digest.is_none_or(|wanted| wanted == found);
        if is_right {
            return Ok(());
        }
        let path = self.source.path.display();
        Err(Error::install(format!("use `{path}`: it was changed"))
            .hint("run the same command again: what is damaged is made anew"))
    }
}

impl Read for Lazy<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_some(buffer).map_err(|error| self.passing.stop(error))
    }
}

/// The image's file.
struct Sink<'a> {
    file: &'a mut File,
    path: &'a Path,
    passing: &'a Passing<'a>,
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes).map_err(|error| self.passing.stop(unwritable(self.path, &error)))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Sink<'_> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.file.seek(position)
    }
}

/// A full disk fails the installation; nothing is wrong with the host's set-up.
fn unwritable(path: &Path, error: &io::Error) -> Error {
    if is_out_of_space(error) {
        let directory = path.parent().unwrap_or(path);
        return Error::install(format!("write to `{}`: no space is left", directory.display()))
            .because(error)
            .hint("make room on that file system; `nvstage cache prune` removes images that nobody needs");
    }
    failed("write", path, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Silent;
    use crate::host::files;

    fn image(directory: &Path) -> Image {
        let mut image = Image::default();
        let mut add = |name: &str, content: &[u8], mode| {
            let path = directory.join(name.replace('/', "-"));
            files::replace(&path, content).unwrap();
            let digest = Some(Digest::of(content));
            image.file(name, Source { path, size: content.len() as u64, mode, digest });
        };
        add("lib/small", b"x", 0o644);
        add("lib/empty", b"", 0o644);
        add("lib/large", &vec![7; 300_001], 0o755);
        add("bin/suid", b"#!/bin/sh\n", 0o4755);
        image.link("lib/link", "large");
        image
    }

    fn write(image: &Image, path: &Path) -> Result<Written> {
        image.write(path, "test", (&Silent, &Cancel::never().unwrap()))
    }

    #[test]
    fn the_same_tree_gives_the_same_bytes_and_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let image = image(directory.path());
        let (one, two) = (directory.path().join("one"), directory.path().join("two"));
        assert_eq!(write(&image, &one).unwrap(), write(&image, &two).unwrap());
        assert_eq!(fs::read(&one).unwrap(), fs::read(&two).unwrap());
        let reader = std::io::BufReader::new(File::open(&one).unwrap());
        let found = backhand::FilesystemReader::from_reader(reader).ok().unwrap();
        let paths: Vec<_> = found.files().map(|node| node.fullpath.display().to_string()).collect();
        let expected = [
            "/",
            "/bin",
            "/bin/suid",
            "/lib",
            "/lib/empty",
            "/lib/large",
            "/lib/link",
            "/lib/small",
        ];
        assert_eq!(paths, expected);
        let suid = found.files().find(|node| node.fullpath.ends_with("suid")).unwrap();
        assert_eq!(suid.header.permissions, 0o755);
    }

    #[test]
    fn a_source_that_changed_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let image = image(directory.path());
        for content in [vec![8; 300_001], vec![7; 300_000], vec![7; 300_002]] {
            files::replace(&directory.path().join("lib-large"), &content).unwrap();
            let error = write(&image, &directory.path().join("image")).unwrap_err();
            assert!(error.what().contains("lib-large`: it was changed"), "{error}");
            files::remove_file(&directory.path().join("image")).unwrap();
        }
    }

    #[test]
    fn a_path_that_is_a_file_and_a_directory_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let mut image = image(directory.path());
        image.link("lib/small/below", "x");
        let error = write(&image, &directory.path().join("image")).unwrap_err();
        assert!(error.causes()[0].contains("a file and a directory"), "{error}");
    }
}
