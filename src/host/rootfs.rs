//! A container's file system, read from the host without ever leaving it.
//!
//! The tree belongs to somebody else: absolute links, `..` and magic links in it must not lead
//! into the host. Every look-up is `openat2(2)` with `RESOLVE_IN_ROOT`.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{
    FcntlArg, Flock, FlockArg, OFlag, OpenHow, ResolveFlag, fcntl, openat2, readlinkat,
};

use crate::digest::hash_reader;
use crate::host::stamp::{self, Content, Stamp};

/// A handle on the root directory of a running container.
#[derive(Debug)]
pub struct ContainerRoot {
    root: File,
}

impl ContainerRoot {
    /// The root of the container whose first process is `pid` on this host. (The directory
    /// `/var/lib/lxc/<id>/rootfs` is empty on the host: `lxc.monitor.unshare = 1`.)
    ///
    /// # Errors
    /// When the process is gone.
    pub fn of_process(pid: u32) -> io::Result<Self> {
        Self::of_directory(Path::new(&format!("/proc/{pid}/root")))
    }

    /// The root file system below a directory of this host: an unpacked template, `/` itself.
    ///
    /// # Errors
    /// When there is no such directory.
    pub fn of_directory(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY);
        Ok(Self { root: options.open(path)? })
    }

    fn resolve(&self, path: &str, flags: OFlag) -> io::Result<File> {
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
        let path = path.trim_start_matches('/');
        let path = if path.is_empty() { "." } else { path };
        Ok(openat2(self.root.as_fd(), path, how)?.into())
    }

    /// Opens a regular file. A FIFO or a device is refused, and opening it has no effect.
    ///
    /// # Errors
    /// `NotFound`, or `InvalidInput` for anything but a regular file.
    pub fn open(&self, path: &str) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let looked_at = self.resolve(path, OFlag::O_PATH)?.metadata()?;
        if !looked_at.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let file = self.resolve(path, flags)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(file)
    }

    /// The first `limit` bytes of a file.
    ///
    /// # Errors
    /// As [`ContainerRoot::open`].
    pub fn read_bytes(&self, path: &str, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open(path)?.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The names in a directory; those that are not UTF-8 are left out.
    ///
    /// # Errors
    /// `NotFound`, or `NotADirectory`.
    pub fn names(&self, path: &str) -> io::Result<Vec<String>> {
        let directory = self.resolve(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        let mut names = Vec::new();
        for entry in nix::dir::Dir::from_fd(directory.into())?.iter() {
            if let Ok(name) = entry?.file_name().to_str()
                && !matches!(name, "." | "..")
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// The text of a file of at most `limit` bytes; what is not UTF-8 is replaced.
    ///
    /// # Errors
    /// As [`ContainerRoot::open`].
    pub fn read_text(&self, path: &str, limit: u64) -> io::Result<String> {
        Ok(String::from_utf8_lossy(&self.read_bytes(path, limit)?).into_owned())
    }

    /// What tells whether a regular file is still the one it was; it is not read.
    ///
    /// # Errors
    /// As [`ContainerRoot::open`].
    pub fn stamp(&self, path: &str) -> io::Result<Stamp> {
        let metadata = self.resolve(path, OFlag::O_PATH)?.metadata()?;
        match metadata.is_file() {
            true => Ok(Stamp::of(&metadata)),
            false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        }
    }

    /// The digest of a file whose size is `expected`, in bytes; a file of another size is not read
    /// at all.
    ///
    /// # Errors
    /// As [`ContainerRoot::open`].
    pub fn content_if_size(&self, path: &str, expected: u64) -> io::Result<Option<Content>> {
        let file = self.open(path)?;
        if file.metadata()?.size() != expected {
            return Ok(None);
        }
        let watch = stamp::Watch::begin(&file)?;
        let (digest, length) = hash_reader((&file).take(expected))?;
        if length != expected {
            return Ok(None);
        }
        Ok(Some(Content { digest, stamp: watch.end(&file)? }))
    }

    /// The size of a regular file in bytes.
    ///
    /// # Errors
    /// As [`ContainerRoot::open`].
    pub fn size(&self, path: &str) -> io::Result<u64> {
        Ok(self.open(path)?.metadata()?.size())
    }

    /// Where a symbolic link points, as it is written in the link.
    ///
    /// # Errors
    /// `NotFound`, or `InvalidInput` when it is no link.
    pub fn link_target(&self, path: &str) -> io::Result<PathBuf> {
        let link = self.resolve(path, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
        // `readlinkat(2)` says ENOENT of a descriptor that is no link.
        if !link.metadata()?.is_symlink() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a symbolic link"));
        }
        Ok(PathBuf::from(readlinkat(&link, "")?))
    }

    /// What is at a path; a link is not followed.
    ///
    /// # Errors
    /// `NotFound`, or `NotADirectory` where something else is in the place of a directory above.
    pub fn file_type(&self, path: &str) -> io::Result<FileType> {
        Ok(self.resolve(path, OFlag::O_PATH | OFlag::O_NOFOLLOW)?.metadata()?.file_type())
    }

    /// The paths of everything below a directory but directories, at most `limit` of them; none
    /// where there is no directory. Links are not followed.
    ///
    /// # Errors
    /// When something below cannot be looked at.
    pub fn files_below(&self, directory: &str, limit: usize) -> io::Result<Vec<String>> {
        match self.file_type(directory) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Ok(Vec::new()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        }
        let (mut files, mut directories) = (Vec::new(), vec![directory.to_owned()]);
        while let Some(directory) = directories.pop() {
            for name in self.names(&directory)? {
                let path = format!("{directory}/{name}");
                match self.file_type(&path) {
                    Ok(found) if found.is_dir() => directories.push(path),
                    Ok(_) if files.len() == limit => return Ok(files),
                    Ok(_) => files.push(path),
                    // It went away just now.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(files)
    }

    /// Device and inode of what is at a path, through mounts.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn identity(&self, path: &str) -> io::Result<(u64, u64)> {
        let found = self.resolve(path, OFlag::O_PATH)?.metadata()?;
        Ok((found.dev(), found.ino()))
    }

    /// Whether a process holds a lock on a regular file, of either kind: `flock(2)`, or `fcntl(2)` as
    /// apt and dpkg take it. False where there is no such file.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn is_locked(&self, path: &str) -> io::Result<bool> {
        let file = match self.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        let mut lock = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        fcntl(&file, FcntlArg::F_GETLK(&mut lock))?;
        if lock.l_type != libc::F_UNLCK as libc::c_short {
            return Ok(true);
        }
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(_) => Ok(false),
            Err((_, Errno::EWOULDBLOCK)) => Ok(true),
            Err((_, error)) => Err(error.into()),
        }
    }

    /// Bytes that root of the container may still write to its root file system.
    ///
    /// # Errors
    /// When the container is gone.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let directory = self.resolve("/", OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        let numbers = nix::sys::statvfs::fstatvfs(&directory)?;
        Ok(numbers.blocks_available() * numbers.fragment_size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn hostile() -> (tempfile::TempDir, ContainerRoot) {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir(at("etc")).unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test's own scratch file")]
        std::fs::write(at("etc/hostname"), "inside").unwrap();
        symlink("/etc/hostname", at("absolute")).unwrap();
        symlink("../../../../../../etc/hostname", at("etc/upwards")).unwrap();
        symlink("/proc/self/root/etc/hostname", at("magic")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let root = ContainerRoot::of_directory(directory.path()).unwrap();
        (directory, root)
    }

    #[test]
    fn links_stay_inside_the_container() {
        let (_directory, root) = hostile();
        assert_eq!(root.read_text("/absolute", 100).unwrap(), "inside");
        assert_eq!(root.read_text("/etc/upwards", 100).unwrap(), "inside");
        assert!(root.read_text("/magic", 100).is_err());
    }

    #[test]
    fn a_fifo_is_refused_and_does_not_block() {
        let (_directory, root) = hostile();
        assert_eq!(root.open("/fifo").unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_lock_of_another_process_is_seen() {
        let (directory, root) = hostile();
        assert!(!root.is_locked("/nosuch").unwrap());
        assert!(!root.is_locked("/etc/hostname").unwrap());
        let file = File::open(directory.path().join("etc/hostname")).unwrap();
        let held = Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap();
        assert!(root.is_locked("/etc/hostname").unwrap());
        drop(held);
        assert!(!root.is_locked("/etc/hostname").unwrap());
    }

    #[test]
    fn names_are_those_of_the_directory_inside() {
        let (_directory, root) = hostile();
        assert_eq!(root.names("/etc").unwrap(), ["hostname", "upwards"]);
        assert!(root.names("/nosuch").is_err());
    }

    #[test]
    fn a_link_is_read_as_written() {
        let (_directory, root) = hostile();
        assert_eq!(root.link_target("/absolute").unwrap(), PathBuf::from("/etc/hostname"));
        for path in ["/etc/hostname", "/etc", "/fifo"] {
            let error = root.link_target(path).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{path}");
        }
        assert_eq!(root.link_target("/nosuch").unwrap_err().kind(), io::ErrorKind::NotFound);
        let error = root.link_target("/etc/hostname/x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
    }

    #[test]
    fn files_below_a_directory_are_found_and_links_not_followed() {
        let (directory, root) = hostile();
        std::fs::create_dir_all(directory.path().join("etc/empty/deep")).unwrap();
        let mut found = root.files_below("/etc", 10).unwrap();
        found.sort();
        assert_eq!(found, ["/etc/hostname", "/etc/upwards"]);
        assert_eq!(root.files_below("/etc", 1).unwrap().len(), 1);
        assert!(root.files_below("/etc/empty", 10).unwrap().is_empty());
        assert!(root.files_below("/nosuch", 10).unwrap().is_empty());
        assert!(root.files_below("/absolute", 10).unwrap().is_empty());
    }
}
