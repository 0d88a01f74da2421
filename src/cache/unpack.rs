//! The members of an installer's archive, written into a directory that nobody else uses.
//!
//! Regular files, directories and links that stay inside are the only members accepted. Owners are
//! not restored; everybody may read everything, and execute what its owner may.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc::SyncSender;

use tar::EntryType;

use super::blob::Stamp;
use super::index::TreeFile;
use crate::digest::Hasher;
use crate::error::{Error, Result};
use crate::host::files::is_out_of_space;

/// Files from this size on, in bytes, are synchronised while the next ones are written. The many
/// small ones would wait for the file system's journal one by one, and leave that to the caller.
const LARGE: u64 = 4 * 1024 * 1024;

/// A tree that grows.
pub(super) struct Unpacker<'a> {
    root: &'a Path,
    /// Takes finished large files, to synchronise them while the next ones are written.
    finished: SyncSender<File>,
    files: BTreeMap<String, TreeFile>,
    links: BTreeSet<PathBuf>,
    directories: BTreeSet<PathBuf>,
    buffer: Vec<u8>,
}

impl<'a> Unpacker<'a> {
    pub(super) fn new(root: &'a Path, finished: SyncSender<File>) -> Self {
        Self {
            root,
            finished,
            files: BTreeMap::new(),
            links: BTreeSet::new(),
            directories: BTreeSet::new(),
            buffer: vec![0; 256 * 1024],
        }
    }

    /// Writes every member; the caller synchronises the file system. Reads `archive` to its very end, so that its checksums are checked.
    pub(super) fn unpack(mut self, archive: impl Read) -> Result<BTreeMap<String, TreeFile>> {
        let mut archive = tar::Archive::new(archive);
        for entry in archive.entries().map_err(damaged)? {
            self.member(entry.map_err(damaged)?)?;
        }
        let mut rest = archive.into_inner();
        while rest.read(&mut self.buffer).map_err(damaged)? > 0 {}
        if self.files.is_empty() {
            return Err(damaged("it holds no files"));
        }
        Ok(self.files)
    }

    fn member<R: Read>(&mut self, mut entry: tar::Entry<'_, R>) -> Result<()> {
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let raw = entry.path_bytes().into_owned();
        let name = relative(&raw).map_err(|why| hostile(&raw, why))?;
        match kind {
            EntryType::Directory => self.directory(&name),
            _ if name.as_os_str().is_empty() => Err(hostile(&raw, "has no name")),
            EntryType::Regular | EntryType::Continuous => {
                self.parents(&name, &raw)?;
                let mode = entry.header().mode().map_err(damaged)?;
                self.file(&name, mode, &mut entry)
            }
            EntryType::Symlink => {
                self.parents(&name, &raw)?;
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                self.link(&name, &target).map_err(|why| match why {
                    Refused::Hostile(why) => hostile(&raw, why),
                    Refused::Disk(error) => unwritable(&self.root.join(&name), &error),
                })
            }
            _ => Err(hostile(&raw, "is neither a file nor a directory nor a symbolic link")),
        }
    }

    /// Makes the directories above a member; none of them may be a link.
    fn parents(&mut self, name: &Path, raw: &[u8]) -> Result<()> {
        if name.ancestors().skip(1).any(|above| self.links.contains(above)) {
            return Err(hostile(raw, "lies behind a symbolic link"));
        }
        self.directory(name.parent().unwrap_or(Path::new("")))
    }

    fn directory(&mut self, name: &Path) -> Result<()> {
        if name.ancestors().any(|above| self.links.contains(above)) {
            return Err(hostile(
                name.as_os_str().as_encoded_bytes(),
                "lies behind a symbolic link",
            ));
        }
        let above: Vec<_> = name.ancestors().filter(|part| !part.as_os_str().is_empty()).collect();
        for part in above.into_iter().rev() {
            if self.directories.contains(part) {
                continue;
            }
            let path = self.root.join(part);
            fs::create_dir(&path)
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
                .map_err(|error| unwritable(&path, &error))?;
            self.directories.insert(part.to_owned());
        }
        Ok(())
    }

    fn file(&mut self, name: &Path, mode: u32, content: &mut impl Read) -> Result<()> {
        let path = self.root.join(name);
        let fail = |error: io::Error| unwritable(&path, &error);
        let mode = if mode & 0o100 == 0 { 0o644 } else { 0o755 };
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(mode).open(&path).map_err(fail)?;
        let mut hasher = Hasher::new();
        loop {
            match content.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => {
                    hasher.update(&self.buffer[..count]);
                    file.write_all(&self.buffer[..count]).map_err(fail)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(damaged(error)),
            }
        }
        // Again, because the mode above went through the umask.
        file.set_permissions(fs::Permissions::from_mode(mode)).map_err(fail)?;
        let stamp = Stamp::of(&file.metadata().map_err(fail)?);
        let (size, digest) = (hasher.length(), hasher.finish());
        if size >= LARGE {
            // The thread at the other end is gone only when it failed, and then says so itself.
            let _ = self.finished.send(file);
        }
        self.files.insert(text(name)?, TreeFile { size, digest, stamp });
        Ok(())
    }

    fn link(&mut self, name: &Path, target: &[u8]) -> std::result::Result<(), Refused> {
        let target = str::from_utf8(target).map_err(|_| Refused::Hostile("has an odd target"))?;
        // `..` is safe at the start alone, where it climbs real directories: behind a name it
        // could climb from wherever a link of that name leads.
        let climbs = Path::new(target).components().take_while(|c| *c == Component::ParentDir);
        let (climbs, depth) = (climbs.count(), name.components().count() - 1);
        let rest_is_plain = Path::new(target)
            .components()
            .skip(climbs)
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if target.is_empty() || !rest_is_plain || climbs > depth {
            return Err(Refused::Hostile("is a symbolic link that leaves the tree"));
        }
        symlink(target, self.root.join(name)).map_err(Refused::Disk)?;
        self.links.insert(name.to_owned());
        Ok(())
    }
}

enum Refused {
    Hostile(&'static str),
    Disk(io::Error),
}

/// The path of a member without `.` parts.
fn relative(raw: &[u8]) -> std::result::Result<PathBuf, &'static str> {
    let path = str::from_utf8(raw).map_err(|_| "has a name that is no text")?;
    let mut relative = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => relative.push(name),
            Component::CurDir => {}
            _ => return Err("has a path that leaves the tree"),
        }
    }
    Ok(relative)
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| damaged("a name is no text"))
}

fn hostile(name: &[u8], why: &str) -> Error {
    let name = String::from_utf8_lossy(name);
    Error::install("unpack the installer: its archive is refused")
        .because(format!("its member `{}` {why}", name.escape_debug()))
        .hint("an archive of NVIDIA has no such member; where does the file come from?")
}

pub(super) fn damaged(why: impl std::fmt::Display) -> Error {
    Error::install("unpack the installer: its archive is damaged")
        .because(why)
        .hint("verify the cache, or remove the file from it and fetch it again")
}

pub(super) fn unwritable(path: &Path, error: &io::Error) -> Error {
    if is_out_of_space(error) {
        return Error::install("unpack the installer: no space is left")
            .because(format!("while writing `{}`", path.display()))
            .hint("an unpacked driver needs about 2 GB; use a cache on another file system");
    }
    if error.kind() == io::ErrorKind::AlreadyExists {
        let name = path.as_os_str().as_encoded_bytes();
        return hostile(name, "appears twice");
    }
    Error::install(format!("unpack `{}`", path.display())).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_paths_stay_inside() {
        assert_eq!(relative(b"./a/./b"), Ok(PathBuf::from("a/b")));
        assert_eq!(relative(b"./"), Ok(PathBuf::new()));
        assert!(relative(b"/etc/passwd").is_err());
        assert!(relative(b"a/../../b").is_err());
        assert!(relative(b"\xff").is_err());
    }
}
