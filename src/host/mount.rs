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
//!
//! Only mounts of nvstage's are ever taken away or covered: [`Mounted::owner`].

use std::ffi::CString;
use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek};
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
use crate::remedy;

/// The major number of loop devices (`Documentation/admin-guide/devices.txt` of Linux).
const LOOP_MAJOR: u64 = 7;
/// Where a host has the images that containers share, as configurations name it.
const STORES: [&str; 2] = ["/var/lib/nvstage/driver", "/var/lib/nvstage/cuda"];
/// How the layers of an overlay of ours are named.
const BY_DESCRIPTOR: &str = "/proc/self/fd/";
/// What an overlay of ours is known by.
const OVERLAY_MARK: &str = "lowerdir=/proc/self/fd/";
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
    inside(pid, move |mounts| {
        take_away(mounts, &target)?;
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
/// device nodes. What of ours is mounted at `target` is taken away first; the directory is made where
/// it is missing.
///
/// # Errors
/// Host error when `source` is not in a mounted image, or it cannot be shown there: also where
/// somebody else has mounted something.
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
            .hint(format!("`{}` mounts what there is", remedy::refresh())));
    }
    let target = target.to_owned();
    let work = move |mounts: &mut MountTable| {
        if let Some(other) = unmount_ours(mounts, &target)? {
            return Err(io::Error::other(format!("{other} is mounted there")));
        }
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
    inside(pid, move |mounts| take_away(mounts, &path)).map_err(|error| {
        Error::host(format!("take `{target}` away from inside the container")).because(error)
    })
}

/// A detached, read-only overlay mount of two directories. They are named by descriptor: a
/// parameter of `fsconfig(2)` holds 255 bytes, and a path may have colons in it.
fn overlay(layers: [&Path; 2], programs: Programs) -> io::Result<OwnedFd> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY);
    let (upper, lower) = (options.open(layers[0])?, options.open(layers[1])?);
    let path = |layer: &File| format!("{BY_DESCRIPTOR}{}", layer.as_raw_fd());
    let lowerdir = format!("{}:{}", path(&upper), path(&lower));
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

/// Takes away what of ours is mounted at `target` inside, and leaves the directory and what it hides;
/// nothing there is fine, and so is something of somebody else's, which stays.
///
/// # Errors
/// Host error when the mount cannot be taken away.
pub fn uncover(pid: u32, target: &str) -> Result<()> {
    let path = target.to_owned();
    inside(pid, move |mounts| unmount_ours(mounts, &path).map(drop)).map_err(|error| {
        Error::host(format!("take `{target}` away from inside the container")).because(error)
    })
}

/// Unmounts what of ours is at `target`, then removes the directory.
fn take_away(mounts: &mut MountTable, target: &str) -> io::Result<()> {
    if let Some(other) = unmount_ours(mounts, target)? {
        return Err(io::Error::other(format!("{other} is mounted there")));
    }
    match std::fs::remove_dir(target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Unmounts what of ours is stacked at `target`, down to something of somebody else's: returns that.
fn unmount_ours(mounts: &mut MountTable, target: &str) -> io::Result<Option<Mounted>> {
    loop {
        match mounts.top_at(target)? {
            Some(mounted) if mounted.owner == Owner::Nvstage => {}
            other => return Ok(other),
        }
        match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(nix::Error::EINVAL | nix::Error::ENOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

/// A mount inside a container (`proc_pid_mountinfo(5)`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// The absolute path inside.
    pub target: String,
    /// Who has made it.
    pub owner: Owner,
    place: Place,
    /// The type of the file system.
    filesystem: String,
    /// What the file system is: a device, or a word.
    source: String,
    options: String,
}

/// Who has made a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// This program, or a line of its in the container's configuration.
    Nvstage,
    /// Anybody else.
    Others,
}

/// A directory as a mount has it, whatever it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// Major and minor of the file system.
    device: String,
    /// The path in the file system.
    path: String,
}

impl Place {
    fn holds(&self, other: &Self) -> bool {
        let below = other.path.strip_prefix(self.path.as_str());
        self.device == other.device && below.is_some_and(|rest| rest.starts_with('/'))
    }
}

impl Mounted {
    fn parse(line: &str) -> Option<Self> {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(2).map(unescaped);
        let place = Place { device: mount.next()?, path: mount.next()? };
        let target = mount.next()?;
        let mut filesystem = filesystem.split(' ').map(unescaped);
        let mut next = || filesystem.next();
        let (filesystem, source, options) = (next()?, next()?, next()?);
        Some(Self { target, owner: Owner::Others, place, filesystem, source, options })
    }

    /// The same with its owner. Nvstage's are images of its store, directories of the store where no
    /// image was mounted when the container started, and what [`attach`] shows.
    fn judged(mut self, stores: &[Place]) -> Self {
        let is_ours = match self.filesystem.as_str() {
            "squashfs" => is_of_store(&self.source),
            "overlay" if self.options.contains(OVERLAY_MARK) => true,
            _ => stores.iter().any(|store| store.holds(&self.place)),
        };
        if is_ours {
            self.owner = Owner::Nvstage;
        }
        self
    }

    /// The place of a path of this mount's namespace, if it is in this mount.
    fn place_of(&self, path: &str) -> Option<Place> {
        let target = self.target.trim_end_matches('/');
        let rest = path.strip_prefix(target).filter(|rest| rest.starts_with('/'))?;
        let path = format!("{}{rest}", self.place.path.trim_end_matches('/'));
        Some(Place { device: self.place.device.clone(), path })
    }
}

impl fmt::Display for Mounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place.path.as_str() {
            "/" => write!(f, "`{}` ({})", self.source, self.filesystem),
            root => write!(f, "`{root}` of `{}` ({})", self.source, self.filesystem),
        }
    }
}

/// Whether a loop device, `/dev/loop3`, is of one of our images (`sysfs-block-loop`).
fn is_of_store(device: &str) -> bool {
    let name = device.trim_start_matches("/dev/");
    let file = std::fs::read_to_string(format!("/sys/block/{name}/loop/backing_file"));
    file.is_ok_and(|file| file.contains("/var/lib/nvstage/"))
}

/// Blanks and backslashes are octal.
fn unescaped(text: &str) -> String {
    let codes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    codes.iter().fold(text.to_owned(), |text, (code, character)| text.replace(code, character))
}

fn parsed(text: &str) -> Vec<Mounted> {
    text.lines().filter_map(Mounted::parse).collect()
}

/// The mounts of a container, in the order in which they were made.
///
/// # Errors
/// When the process is gone.
pub fn mounts(pid: u32) -> io::Result<Vec<Mounted>> {
    MountTable::of(pid)?.read()
}

/// The mounts of a container, read anew each time: also from where the host's `/proc` is not.
struct MountTable {
    file: File,
    /// Where this host has the images that containers share.
    stores: Vec<Place>,
}

impl MountTable {
    fn of(pid: u32) -> io::Result<Self> {
        let file = File::open(format!("/proc/{pid}/mountinfo"))?;
        let own = parsed(&std::fs::read_to_string("/proc/self/mountinfo")?);
        let place = |store: &&str| own.iter().rev().find_map(|mounted| mounted.place_of(store));
        Ok(Self { file, stores: STORES.iter().filter_map(place).collect() })
    }

    fn read(&mut self) -> io::Result<Vec<Mounted>> {
        let mut text = String::new();
        self.file.rewind()?;
        self.file.read_to_string(&mut text)?;
        Ok(parsed(&text).into_iter().map(|mounted| mounted.judged(&self.stores)).collect())
    }

    /// What is mounted at a path, over whatever else is.
    fn top_at(&mut self, target: &str) -> io::Result<Option<Mounted>> {
        Ok(self.read()?.into_iter().rfind(|mounted| mounted.target == target))
    }
}

/// Runs `work` with the container's mount namespace and root directory, on a thread of its own:
/// `unshare(CLONE_FS)` frees the thread from the process's root, so the rest stays where it is.
fn inside<T: Send>(
    pid: u32,
    work: impl FnOnce(&mut MountTable) -> io::Result<T> + Send,
) -> io::Result<T> {
    let mut mounts = MountTable::of(pid)?;
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
            work(&mut mounts)
        });
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the mount thread panicked")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(line: &str) -> Mounted {
        Mounted::parse(line).unwrap()
    }

    #[test]
    fn mounts_of_a_container_are_read() {
        let line = "517 498 254:1 /srv/my\\040files /usr/local/cuda-12.8 rw,relatime shared:9 - ext4 /dev/vda1 rw";
        let found = mounted(line);
        assert_eq!(found.target, "/usr/local/cuda-12.8");
        assert_eq!(found.to_string(), "`/srv/my files` of `/dev/vda1` (ext4)");
        assert!(Mounted::parse("517 498").is_none());
    }

    #[test]
    fn only_what_nvstage_has_mounted_is_ours() {
        let host = "29 1 254:1 / / rw - ext4 /dev/vda1 rw\n\
            30 29 0:40 /data /var/lib/nvstage rw - zfs rpool/data rw\n";
        let host = parsed(host);
        let place = |store: &&str| host.iter().rev().find_map(|mounted| mounted.place_of(store));
        let stores: Vec<Place> = STORES.iter().filter_map(place).collect();
        for (line, owner) in [
            ("1 2 0:40 /data/driver/580/userland /x ro - zfs rpool/data ro", Owner::Nvstage),
            ("1 2 0:40 /data/cuda/12.8-0/usr /x ro - zfs rpool/data ro", Owner::Nvstage),
            (
                "1 2 0:41 / /x ro - overlay overlay ro,lowerdir=/proc/self/fd/9:/proc/self/fd/10",
                Owner::Nvstage,
            ),
            ("1 2 254:1 /data/driver/580/userland /x ro - ext4 /dev/vda1 rw", Owner::Others),
            ("1 2 0:40 /data/driver-of-mine /x ro - zfs rpool/data ro", Owner::Others),
            ("1 2 0:42 / /usr/local/cuda-12.8 rw - tmpfs tmpfs rw", Owner::Others),
            ("1 2 0:41 / /x rw - overlay overlay rw,lowerdir=/srv/a", Owner::Others),
            ("1 2 7:999 / /x ro - squashfs /dev/loop999 ro", Owner::Others),
        ] {
            assert_eq!(mounted(line).judged(&stores).owner, owner, "{line}");
        }
    }
}
