//! A Debian package unpacked without dpkg: its files under numbers, and a list of what they are
//! called. Nothing is written under a name that a package says, and nothing of it is run.
//!
//! Source of the form: `deb(5)`, `ar(5)`.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tar::EntryType;

use crate::cache::{CachedArtifact, decompressed};
use crate::digest::Hasher;
use crate::error::{Error, Result};
use crate::host::cancel::Cancel;
use crate::host::files::{self, failed, is_out_of_space};
use crate::host::image::Source;

const CHUNK: usize = 256 * 1024;
const MAGIC: &[u8; 8] = b"!<arch>\n";
/// `data.tar` with one of these at its end.
const COMPRESSIONS: [&str; 4] = ["", ".gz", ".xz", ".zst"];

/// Something that a package holds, by its path without a leading slash.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) path: PathBuf,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    Directory(u32),
    File(Source),
    Link(PathBuf),
    /// Another name of the file at that path.
    Hard(PathBuf),
}

/// Where packages are unpacked, and who watches.
pub(super) struct Unpacking<'a> {
    /// Whether what lies there is wanted; the rest is named, not unpacked.
    pub(super) is_wanted: &'a (dyn Fn(&Path) -> bool + Sync),
    pub(super) cancel: &'a Cancel,
    /// Bytes of packages read so far.
    pub(super) done: &'a Arc<AtomicU64>,
}

impl Unpacking<'_> {
    /// Unpacks a verified package into a new directory.
    pub(super) fn unpack(&self, package: &CachedArtifact, into: &Path) -> Result<Vec<Member>> {
        files::create_directory(into)?;
        let file = Watched {
            file: package.open()?,
            cancel: self.cancel.clone(),
            done: Arc::clone(self.done),
        };
        let (data, name) = data(BufReader::with_capacity(CHUNK, file))
            .map_err(|error| self.damaged(package, &error))?;
        let mut archive = tar::Archive::new(decompressed(data, &name)?);
        let mut members = Vec::new();
        let entries = archive.entries().map_err(|error| self.damaged(package, &error))?;
        for entry in entries {
            let mut entry = entry.map_err(|error| self.damaged(package, &error))?;
            let number = into.join(members.len().to_string());
            match self.member(&mut entry, &number) {
                Ok(member) => members.extend(member),
                Err(Bad::Package(error)) => return Err(self.damaged(package, &error)),
                Err(Bad::Disk(error)) => return Err(unwritable(into, &error)),
            }
        }
        // The compression's checksum stands at its end.
        io::copy(&mut archive.into_inner(), &mut io::sink())
            .map_err(|error| self.damaged(package, &error))?;
        Ok(members)
    }

    fn member<R: Read>(
        &self,
        entry: &mut tar::Entry<'_, R>,
        number: &Path,
    ) -> std::result::Result<Option<Member>, Bad> {
        let path = plain(&entry.path_bytes()).map_err(Bad::Package)?;
        let mode = entry.header().mode().map_err(Bad::Package)? & 0o777;
        let target = |entry: &tar::Entry<'_, R>| {
            let bytes = entry.link_name_bytes();
            bytes.map(|bytes| bytes.into_owned()).ok_or_else(|| wrong("a link leads nowhere"))
        };
        let what = match entry.header().entry_type() {
            EntryType::XGlobalHeader => return Ok(None),
            _ if path.as_os_str().is_empty() => return Ok(None),
            EntryType::Directory => What::Directory(mode),
            EntryType::Symlink => What::Link(as_path(&target(entry).map_err(Bad::Package)?)),
            EntryType::Link => {
                let target = target(entry).map_err(Bad::Package)?;
                What::Hard(plain(&target).map_err(Bad::Package)?)
            }
            EntryType::Regular | EntryType::Continuous if (self.is_wanted)(&path) => {
                What::File(write(entry, number, mode)?)
            }
            EntryType::Regular | EntryType::Continuous => {
                let size = entry.size();
                What::File(Source { path: PathBuf::new(), size, mode, digest: None })
            }
            _ => {
                let why = format!("`{}` is neither file, directory nor link", path.display());
                return Err(Bad::Package(wrong(&why)));
            }
        };
        Ok(Some(Member { path, what }))
    }

    fn damaged(&self, package: &CachedArtifact, error: &io::Error) -> Error {
        if self.cancel.is_asked() {
            return Error::interrupted();
        }
        Error::install(format!("unpack the package `{}`", package.path().display())).because(error)
    }
}

/// What is at fault.
enum Bad {
    Package(io::Error),
    Disk(io::Error),
}

fn wrong(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

fn write<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    path: &Path,
    mode: u32,
) -> std::result::Result<Source, Bad> {
    let mut file = File::create_new(path).map_err(Bad::Disk)?;
    let (mut hasher, mut buffer) = (Hasher::new(), vec![0; CHUNK]);
    loop {
        let count = entry.read(&mut buffer).map_err(Bad::Package)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        file.write_all(&buffer[..count]).map_err(Bad::Disk)?;
    }
    let size = hasher.length();
    if size != entry.size() {
        return Err(Bad::Package(wrong("it ends within a file")));
    }
    Ok(Source { path: path.to_owned(), size, mode, digest: Some(hasher.finish()) })
}

/// A path inside, without a slash or `./` before it.
///
/// # Errors
/// When it leads upwards.
fn plain(bytes: &[u8]) -> io::Result<PathBuf> {
    use std::path::Component;
    let path = as_path(bytes);
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(wrong(&format!("`{}` leads out of it", path.display())));
            }
        }
    }
    Ok(plain)
}

fn as_path(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

/// The archive of files in a package, with its name, `data.tar.xz`.
fn data<R: Read>(mut package: R) -> io::Result<(io::Take<R>, String)> {
    let mut magic = [0; 8];
    package.read_exact(&mut magic)?;
    if &magic != MAGIC {
        return Err(wrong("it is no Debian package"));
    }
    loop {
        let mut header = [0; 60];
        package.read_exact(&mut header).map_err(|_| wrong("it has no archive of files"))?;
        let text = |range: std::ops::Range<usize>| {
            String::from_utf8_lossy(&header[range]).trim_end().to_owned()
        };
        let name = text(0..16).trim_end_matches('/').to_owned();
        let size: u64 = text(48..58).parse().map_err(|_| wrong("a member has no size"))?;
        if header[58..] != *b"`\n" {
            return Err(wrong("a member has no end of its header"));
        }
        if let Some(compression) = name.strip_prefix("data.tar") {
            if !COMPRESSIONS.contains(&compression) {
                return Err(wrong(&format!("`{name}` is compressed in an unknown way")));
            }
            return Ok((package.take(size), name));
        }
        // Members begin at even places.
        let rest = size + size % 2;
        if io::copy(&mut package.by_ref().take(rest), &mut io::sink())? != rest {
            return Err(wrong("it ends within a member"));
        }
    }
}

/// A package's file, which stops when the work was asked to.
struct Watched {
    file: File,
    cancel: Cancel,
    done: Arc<AtomicU64>,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_asked() {
            return Err(io::Error::other("interrupted"));
        }
        let count = self.file.read(buffer)?;
        self.done.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

fn unwritable(directory: &Path, error: &io::Error) -> Error {
    if is_out_of_space(error) {
        let above = directory.parent().unwrap_or(directory);
        return Error::install(format!(
            "unpack packages in `{}`: no space is left",
            above.display()
        ))
        .because(error)
        .hint("make room there: packages are unpacked once beside the image that is made of them");
    }
    failed("write in", directory, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_lead_upwards_are_refused_and_absolute_ones_are_inside() {
        assert_eq!(plain(b"./usr/./local//x").unwrap(), Path::new("usr/local/x"));
        assert_eq!(plain(b"/etc/passwd").unwrap(), Path::new("etc/passwd"));
        assert_eq!(plain(b"./").unwrap(), Path::new(""));
        assert!(plain(b"usr/../../etc").is_err());
    }

    #[test]
    fn a_package_that_is_none_is_told_from_one_that_is_cut_short() {
        let why = |bytes: &[u8]| data(bytes).map(|_| ()).unwrap_err().to_string();
        assert_eq!(why(b"PK\x03\x04 and so on"), "it is no Debian package");
        let member = |name: &str, size: &str| {
            format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 0, 644)
        };
        let package = |members: &[String]| format!("!<arch>\n{}", members.concat()).into_bytes();
        assert_eq!(why(&package(&[])), "it has no archive of files");
        let version = member("debian-binary", "4") + "2.0\n";
        assert_eq!(why(&package(std::slice::from_ref(&version))), "it has no archive of files");
        assert_eq!(why(&package(&[member("debian-binary", "400")])), "it ends within a member");
        assert_eq!(why(&package(&[member("debian-binary", "x")])), "a member has no size");
        let bzip2 = [version.clone(), member("data.tar.bz2", "1")];
        assert!(why(&package(&bzip2)).contains("unknown way"));
        let sound =
            package(&[version, member("_gpgbuilder/", "0"), member("data.tar", "2") + "xy"]);
        let (mut found, name) = data(&sound[..]).unwrap();
        let mut content = Vec::new();
        found.read_to_end(&mut content).unwrap();
        assert_eq!((name.as_str(), &content[..]), ("data.tar", &b"xy"[..]));
    }
}
