//! A host directory shown inside a running container: no copy, no restart, nothing to write through.
//!
//! Order of events: an overlay of the directory without an upper layer is created as a detached
//! mount; a thread of its own enters the container's mount namespace and root; there the mount is
//! attached. An overlay without an upper layer is read-only as a whole: where container root can
//! remount a read-only bind for writing, this stays "Read-only file system".
//! It goes away with the container, or with [`detach`].
//!
//! An image that is mounted on the host is shown as it is, by a copy of its mount: a squashfs cannot
//! be written, whoever remounts it. Anything else is refused: root of a privileged container could
//! write to it.

use std::ffi::CString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::thread;

use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{FsType, fstatfs};
use nix::unistd::{Gid, Uid, chroot, fchdir, setfsgid, setfsuid};

use super::paths::Paths;
pub use super::sys::Programs;
use super::sys::{NewFilesystem, clone_mount, loop_file, move_mount};
use crate::error::{Error, Result};

/// The major number of loop devices (`Documentation/admin-guide/devices.txt` of Linux).
const LOOP_MAJOR: u64 = 7;
/// `SQUASHFS_MAGIC` in `linux/magic.h`.
const SQUASHFS: FsType = FsType(0x7371_7368);

/// Shows the directories `layers` (the first one on top) at `target` inside the container whose
/// first process is `pid` on this host. What an earlier run left there is taken away first.
///
/// # Errors
/// Host error when a namespace cannot be entered or the overlay not be made.
pub fn attach(pid: u32, layers: [&Path; 2], programs: Programs, target: &str) -> Result<()> {
    let shown = || format!("show `{}` inside the container at `{target}`", layers[0].display());
    let fail = |error: io::Error| {
        Error::host(shown())
            .because(error)
            .hint("`--stage push` copies the installer into the container instead")
    };
    let mount = overlay(layers, programs).map_err(fail)?;
    let target = target.to_owned();
    inside(pid, move || {
        take_away(&target)?;
        become_owner_of(Path::new("/"))?;
        DirBuilder::new().recursive(true).mode(0o755).create(&target)?;
        // Again, because the mode above went through the umask; apt's own user must get in.
        std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o755))?;
        attach_to(&mount, &target)
    })
    .map_err(fail)
}

/// Shows the directory `source` of an image that is mounted on this host at `target` inside the
/// container whose first process is `pid` on this host: read-only, without set-user-ID programs and
/// device nodes. What is mounted at `target` is taken away first; the directory is made where it is
/// missing.
///
/// # Errors
/// Host error when `source` is not in a mounted image, or it cannot be shown there.
pub fn attach_directory(pid: u32, source: &Path, target: &str) -> Result<()> {
    let fail = |error: io::Error| {
        let shown = source.display();
        Error::host(format!("show `{shown}` inside the container at `{target}`"))
            .because(error)
            .hint("restart the container: it is shown there from the start then")
    };
    let path = CString::new(source.as_os_str().as_bytes()).map_err(|error| fail(error.into()))?;
    let mount = clone_mount(&path).map_err(fail)?;
    // The copy is asked: what lies at the path may be unmounted at any moment.
    if !is_image(&mount).map_err(fail)? {
        return Err(fail(io::Error::other("it is not in an image that is mounted"))
            .hint("`nvstage refresh` mounts what there is"));
    }
    let target = target.to_owned();
    let work = move || {
        unmount_all(&target)?;
        become_owner_of(Path::new("/"))?;
        DirBuilder::new().recursive(true).mode(0o755).create(&target)?;
        attach_to(&mount, &target)
    };
    inside(pid, work).map_err(fail)
}

/// Attaches a mount to a directory of the root that this thread has.
fn attach_to(mount: &OwnedFd, target: &str) -> io::Result<()> {
    let root = File::open("/")?;
    let path = CString::new(target.trim_start_matches('/')).map_err(io::Error::other)?;
    move_mount(mount, &root, &path)
}

/// Device and inode, as `stat(2)` shows them, of the image that is mounted at a directory of this
/// host; `None` where none is.
pub fn image_at(paths: &Paths, directory: &Path) -> Option<(u64, u64)> {
    let here = std::fs::metadata(directory).ok()?.dev();
    let above = std::fs::metadata(directory.parent()?).ok()?.dev();
    if here == above || libc::major(here) as u64 != LOOP_MAJOR {
        return None;
    }
    let device = paths.dev().join(format!("loop{}", libc::minor(here)));
    File::open(device).and_then(loop_file).ok()
}

/// Whether a path of this host lies in an image that is mounted.
pub fn is_in_image(path: &Path) -> bool {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path);
    file.and_then(is_image).unwrap_or(false)
}

fn is_image(file: impl AsFd) -> io::Result<bool> {
    Ok(fstatfs(file)?.filesystem_type() == SQUASHFS)
}

/// Takes away what [`attach`] or [`attach_directory`] showed at `target`, and the directory;
/// nothing there is fine.
///
/// # Errors
/// Host error when the mount cannot be taken away.
pub fn detach(pid: u32, target: &str) -> Result<()> {
    let path = target.to_owned();
    inside(pid, move || take_away(&path)).map_err(|error| {
        Error::host(format!("take `{target}` away from inside the container")).because(error)
    })
}

/// A detached, read-only overlay mount of two directories. They are named by descriptor: a
/// parameter of `fsconfig(2)` holds 255 bytes, and a path may have colons in it.
fn overlay(layers: [&Path; 2], programs: Programs) -> io::Result<OwnedFd> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY);
    let (upper, lower) = (options.open(layers[0])?, options.open(layers[1])?);
    let lowerdir =
        format!("/proc/self/fd/{}:/proc/self/fd/{}", upper.as_raw_fd(), lower.as_raw_fd());
    let filesystem = NewFilesystem::open(c"overlay")?;
    filesystem.set(c"lowerdir", &CString::new(lowerdir)?)?;
    filesystem.flag(c"ro")?;
    filesystem.mount(programs)
}

/// From here on the thread makes files as the owner of the container's root directory does: root
/// of the host does not exist in an unprivileged container, and could not make one there.
fn become_owner_of(root: &Path) -> io::Result<()> {
    let owner = std::fs::metadata(root)?;
    setfsgid(Gid::from_raw(owner.gid()));
    setfsuid(Uid::from_raw(owner.uid()));
    Ok(())
}

/// Takes away what is mounted at `target` inside, and leaves the directory and what it hides; nothing
/// there is fine.
///
/// # Errors
/// Host error when the mount cannot be taken away.
pub fn uncover(pid: u32, target: &str) -> Result<()> {
    let path = target.to_owned();
    inside(pid, move || unmount_all(&path)).map_err(|error| {
        Error::host(format!("take `{target}` away from inside the container")).because(error)
    })
}

/// Unmounts everything stacked at `target`, then removes the directory.
fn take_away(target: &str) -> io::Result<()> {
    unmount_all(target)?;
    match std::fs::remove_dir(target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn unmount_all(target: &str) -> io::Result<()> {
    loop {
        match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(nix::Error::EINVAL | nix::Error::ENOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Runs `work` with the container's mount namespace and root directory, on a thread of its own:
/// `unshare(CLONE_FS)` frees the thread from the process's root, so the rest stays where it is.
fn inside<T: Send>(pid: u32, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let namespace = File::open(format!("/proc/{pid}/ns/mnt"))?;
    let root = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(format!("/proc/{pid}/root"))?;
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            unshare(CloneFlags::CLONE_FS)?;
            setns(&namespace, CloneFlags::CLONE_NEWNS)?;
            fchdir(&root)?;
            chroot(".")?;
            nix::unistd::chdir("/")?;
            work()
        });
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the mount thread panicked")))
    })
}
