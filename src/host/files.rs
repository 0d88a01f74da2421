//! Files of the host: replaced in one piece, locked, removed, and how much room is left.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::host::cancel::Cancel;
use crate::host::wait::wait;

/// How often a lock held by someone else is tried again.
const LOCK_INTERVAL: Duration = Duration::from_millis(50);

/// Replaces the content of `path`: whoever opens it finds the old content or the new, also after
/// a power failure. Mode and owner of an old file are kept where the file system lets us; a new
/// file gets mode 0644.
///
/// Works on Proxmox's cluster file system, which permits no other mode than its own. A process that
/// is killed leaves a file beside it, which [`clear_away`] removes.
///
/// # Errors
/// A host error (exit code 4) that names the file.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let fail = |error: io::Error| failed("write", path, &error);
    let old = match fs::metadata(path) {
        Ok(metadata) => Some(metadata),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(fail(error)),
    };
    let directory = parent(path);
    let mut temporary = tempfile::Builder::new()
        .prefix(&temporary_prefix(path))
        .tempfile_in(directory)
        .map_err(fail)?;
    temporary.write_all(bytes).map_err(fail)?;
    keep_mode_and_owner(temporary.as_file(), old.as_ref()).map_err(fail)?;
    temporary.as_file().sync_all().map_err(fail)?;
    temporary.persist(path).map_err(|error| fail(error.error))?;
    sync_directory(directory)
}

/// Never the name of a container's configuration: Proxmox takes `<digits>.conf` alone for one.
fn temporary_prefix(path: &Path) -> OsString {
    let mut prefix = OsString::from(".nvstage-");
    prefix.push(path.file_name().unwrap_or_default());
    prefix.push(".");
    prefix
}

/// Removes what killed processes have left of a [`replace`] of `path`. Only for a file that nobody
/// else replaces at this moment. What cannot be removed stays: it disturbs nobody.
pub fn clear_away(path: &Path) {
    let prefix = temporary_prefix(path);
    for entry in fs::read_dir(parent(path)).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.as_bytes().starts_with(prefix.as_bytes()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn keep_mode_and_owner(file: &File, old: Option<&Metadata>) -> io::Result<()> {
    let forbidden = |error: &io::Error| {
        // pmxcfs answers EPERM to any other mode or owner than its own.
        matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported)
    };
    if let Some(old) = old {
        match fchown(file, Some(old.uid()), Some(old.gid())) {
            Err(error) if !forbidden(&error) => return Err(error),
            _ => {}
        }
    }
    let mode = old.map_or(0o644, |old| old.mode() & 0o7777);
    match file.set_permissions(fs::Permissions::from_mode(mode)) {
        Err(error) if !forbidden(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Gives a file another name on the same file system, replacing what has that name, for good:
/// the directories of both names are synchronised. The file's content must be already.
///
/// # Errors
/// A host error (exit code 4) that names the file.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    rename_all(&[(from, to)])
}

/// The same for many files; each directory is synchronised once, at the end.
///
/// # Errors
/// As [`rename`]; files that came before the one that is named have their new names then.
#[expect(clippy::disallowed_methods, reason = "this is the function that does it with fsync")]
pub fn rename_all<P: AsRef<Path>>(pairs: &[(P, P)]) -> Result<()> {
    // Where files arrive before where they left: none is ever lost.
    let mut directories: Vec<&Path> = Vec::new();
    for (from, to) in pairs {
        let (from, to) = (from.as_ref(), to.as_ref());
        fs::rename(from, to).map_err(|error| failed("rename", from, &error))?;
        directories.extend([parent(to), parent(from)]);
    }
    let mut seen: Vec<&Path> = Vec::new();
    for directory in directories {
        if !seen.contains(&directory) {
            sync_directory(directory)?;
            seen.push(directory);
        }
    }
    Ok(())
}

/// The size in bytes of the largest file that the file system of `path` can hold; `None` where no
/// file met here is ever too large.
///
/// # Errors
/// A host error (exit code 4) that names the path.
pub fn largest_file(path: &Path) -> Result<Option<u64>> {
    let found = nix::sys::statfs::statfs(path)
        .map_err(|error| failed("look at the file system of", path, &error.into()))?;
    // FAT has 32 bits for a size.
    Ok((found.filesystem_type() == nix::sys::statfs::MSDOS_SUPER_MAGIC).then_some(u32::MAX.into()))
}

/// Makes the entries of a directory last.
///
/// # Errors
/// A host error (exit code 4) that names the directory.
pub fn sync_directory(path: &Path) -> Result<()> {
    match File::open(path).and_then(|directory| directory.sync_all()) {
        // File systems without it (pmxcfs) write through.
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EINVAL as i32) => Ok(()),
        result => result.map_err(|error| failed("synchronise", path, &error)),
    }
}

/// Removes a directory with everything in it; symbolic links are removed, not followed. Nothing
/// happens where there is none.
///
/// # Errors
/// A host error (exit code 4) that names the directory.
#[expect(clippy::disallowed_methods, reason = "this is the function that does it")]
pub fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("remove", path, &error))
        }
        _ => Ok(()),
    }
}

/// Removes a file. Nothing happens where there is none.
///
/// # Errors
/// A host error (exit code 4) that names the file.
pub fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("remove", path, &error))
        }
        _ => Ok(()),
    }
}

/// Makes a directory and those above it, with mode 0755 whatever the umask.
///
/// # Errors
/// A host error (exit code 4) that names the directory.
pub fn create_directory(path: &Path) -> Result<()> {
    let missing: Vec<_> = path.ancestors().take_while(|part| !part.exists()).collect();
    for part in missing.into_iter().rev().filter(|part| !part.as_os_str().is_empty()) {
        match fs::create_dir(part) {
            Ok(()) => fs::set_permissions(part, fs::Permissions::from_mode(0o755))
                .map_err(|error| failed("create", part, &error))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("create", part, &error)),
        }
    }
    Ok(())
}

/// The bytes that an unprivileged process could still write to the file system of `path`.
///
/// # Errors
/// A host error (exit code 4) that names the path.
pub fn free_bytes(path: &Path) -> Result<u64> {
    let vfs = nix::sys::statvfs::statvfs(path)
        .map_err(|error| failed("look at the file system of", path, &error.into()))?;
    Ok(vfs.blocks_available().saturating_mul(vfs.fragment_size()))
}

/// A lock on a file, `flock(2)`: held until dropped, and by the kernel's word released when the
/// process dies. `flock(1)` and Perl's `flock` see it.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

/// How a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Exclusive,
    Shared,
}

impl Lock {
    /// Waits up to `timeout` to hold the lock alone; the file is made if it is not there.
    ///
    /// # Errors
    /// A host error (exit code 4) that names the file when it is still held by someone else, or
    /// the interruption.
    pub fn exclusive(path: &Path, timeout: Duration, cancel: &Cancel) -> Result<Self> {
        Self::take(path, Mode::Exclusive, (timeout, cancel))
    }

    /// Waits up to `timeout` to hold the lock together with others that hold it shared.
    ///
    /// # Errors
    /// As [`Lock::exclusive`].
    pub fn shared(path: &Path, timeout: Duration, cancel: &Cancel) -> Result<Self> {
        Self::take(path, Mode::Shared, (timeout, cancel))
    }

    /// Holds the lock alone if nobody else holds it.
    ///
    /// # Errors
    /// A host error (exit code 4) when the file cannot be opened.
    pub fn try_exclusive(path: &Path) -> Result<Option<Self>> {
        let lock = Self { file: open_lock_file(path)?, path: path.to_owned() };
        Ok(try_lock(&lock, Mode::Exclusive)?.then_some(lock))
    }

    fn take(path: &Path, mode: Mode, patience: (Duration, &Cancel)) -> Result<Self> {
        let (timeout, cancel) = patience;
        let lock = Self { file: open_lock_file(path)?, path: path.to_owned() };
        let end = Instant::now() + timeout;
        while !try_lock(&lock, mode)? {
            if Instant::now() >= end {
                return Err(Error::host(format!(
                    "lock `{}`: somebody else holds it",
                    path.display()
                ))
                .because(format!("waited {} s", timeout.as_secs()))
                .hint("another process uses it; `lsof` or `fuser` with that file names it"));
            }
            wait(LOCK_INTERVAL, cancel)?;
        }
        Ok(lock)
    }

    /// Writes this process's number into the file, for [`Lock::holder`]. It serves messages alone:
    /// that it cannot be written is no reason to fail.
    pub fn sign(&self) {
        let text = format!("{}\n", std::process::id());
        let _ = self.file.set_len(0).and_then(|()| self.file.write_all_at(text.as_bytes(), 0));
    }

    /// The process that has signed the lock at this path, if it still runs. Only who finds the lock
    /// held may believe it.
    pub fn holder(path: &Path) -> Option<u32> {
        let pid: u32 = fs::read_to_string(path).ok()?.trim().parse().ok()?;
        Path::new(&format!("/proc/{pid}")).exists().then_some(pid)
    }

    /// The file that is locked.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that is locked, open for reading and writing.
    pub fn file(&self) -> &File {
        &self.file
    }
}

fn open_lock_file(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|error| failed("open", path, &error))
}

fn try_lock(lock: &Lock, mode: Mode) -> Result<bool> {
    let tried = match mode {
        Mode::Exclusive => lock.file.try_lock(),
        Mode::Shared => lock.file.try_lock_shared(),
    };
    match tried {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(failed("lock", &lock.path, &error)),
    }
}

/// Whether an error means that a file cannot grow further on its file system.
pub fn is_too_large(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::FileTooLarge
}

/// Whether an error means that the file system or the quota is full.
pub fn is_out_of_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The bytes that an unprivileged process could still write to the file system of an open file.
///
/// # Errors
/// When the kernel does not say.
pub fn free_bytes_at(file: impl AsFd) -> io::Result<u64> {
    let vfs = nix::sys::statvfs::fstatvfs(file)?;
    Ok(vfs.blocks_available().saturating_mul(vfs.fragment_size()))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The host error for a failed operation on a file.
pub fn failed(action: &str, path: &Path, error: &io::Error) -> Error {
    let host = Error::host(format!("{action} `{}`", path.display())).because(error);
    if is_out_of_space(error) { host.hint("make room on that file system") } else { host }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacing_keeps_the_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        replace(&path, b"one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_killed_process_left_beside_a_file_is_removed_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in [".nvstage-201.conf.a1B2c3", ".nvstage-2011.conf.x", "201.conf", "201.conf.tmp"]
        {
            File::create(path(name)).unwrap();
        }
        clear_away(&path("201.conf"));
        let entries = fs::read_dir(directory.path()).unwrap().flatten();
        let mut left: Vec<_> = entries.map(|entry| entry.file_name()).collect();
        left.sort();
        assert_eq!(left, [".nvstage-2011.conf.x", "201.conf", "201.conf.tmp"]);
    }

    #[test]
    fn an_exclusive_lock_excludes_and_names_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let cancel = Cancel::never().unwrap();
        let held = Lock::exclusive(&path, Duration::ZERO, &cancel).unwrap();
        let error = Lock::shared(&path, Duration::from_millis(60), &cancel).unwrap_err();
        assert!(error.what().contains("lock`: somebody else holds it"), "{error}");
        assert!(Lock::try_exclusive(&path).unwrap().is_none());
        drop(held);
        let first = Lock::shared(&path, Duration::ZERO, &cancel).unwrap();
        let second = Lock::shared(&path, Duration::ZERO, &cancel).unwrap();
        assert_eq!(first.path(), second.path());
    }

    #[test]
    fn the_holder_of_a_lock_is_known_by_its_number_while_it_runs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        assert_eq!(Lock::holder(&path), None);
        let held = Lock::try_exclusive(&path).unwrap().unwrap();
        held.sign();
        assert_eq!(Lock::holder(&path), Some(std::process::id()));
        // No process has a number that large.
        held.file().set_len(0).unwrap();
        held.file().write_all_at(b"99999999\n", 0).unwrap();
        assert_eq!(Lock::holder(&path), None);
        held.sign();
        let text = format!("{}\n", std::process::id());
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn removing_what_is_not_there_is_no_error() {
        let directory = tempfile::tempdir().unwrap();
        remove_tree(&directory.path().join("none")).unwrap();
        remove_file(&directory.path().join("none")).unwrap();
    }

    #[test]
    fn directories_are_made_with_their_parents() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("a/b/c");
        create_directory(&deep).unwrap();
        create_directory(&deep).unwrap();
        assert_eq!(fs::metadata(&deep).unwrap().mode() & 0o777, 0o755);
        assert!(free_bytes(&deep).unwrap() > 0);
    }
}
