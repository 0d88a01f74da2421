//! The system calls that no crate here wraps. The only unsafe code of the program.
//!
//! Each function is a thin, safe front: owned descriptors in, owned descriptors out, `errno` as an
//! [`io::Error`]. Manual pages: `pidfd_open(2)`, `pidfd_send_signal(2)`, `fsopen(2)`, `fsconfig(2)`, `fsmount(2)`,
//! `open_tree(2)`, `mount_setattr(2)`, `move_mount(2)`, `loop(4)`.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const MOUNT_ATTR_RDONLY: libc::c_uint = 1;
const MOUNT_ATTR_NOSUID: libc::c_uint = 2;
const MOUNT_ATTR_NODEV: libc::c_uint = 4;
const MOUNT_ATTR_NOEXEC: libc::c_uint = 8;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
const OPEN_TREE_CLONE: libc::c_uint = 1;
const LOOP_GET_STATUS64: libc::c_ulong = 0x4C05;

fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just handed out this descriptor to us and to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(result as RawFd) })
}

fn nothing(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A descriptor that becomes readable when the process ends.
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: two integers; no memory is passed.
    descriptor(unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) })
}

/// Sends a signal to the process behind a descriptor of [`pidfd_open`], and to no other one that has
/// its number by now.
///
/// # Errors
/// `ESRCH` when it has ended.
pub fn pidfd_send_signal(process: impl AsFd, signal: i32) -> io::Result<()> {
    let descriptor = process.as_fd().as_raw_fd();
    let nothing_more = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a valid descriptor, an integer, and null for what the kernel fills in itself.
    nothing(unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, descriptor, signal, nothing_more, 0)
    })
}

/// Whether programs may be run from a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Programs {
    /// Yes.
    Run,
    /// No (`noexec`).
    Refused,
}

/// A file system being set up by parts.
#[derive(Debug)]
pub struct NewFilesystem(OwnedFd);

impl NewFilesystem {
    /// Begins to set up a file system of the kind `name`.
    ///
    /// # Errors
    /// `ENODEV` when the kernel does not know it.
    pub fn open(name: &CStr) -> io::Result<Self> {
        // SAFETY: `name` is a valid C string for the duration of the call.
        let result = unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), FSOPEN_CLOEXEC) };
        descriptor(result).map(Self)
    }

    /// Sets a parameter to a text.
    ///
    /// # Errors
    /// `EINVAL` when the file system refuses it.
    pub fn set(&self, key: &CStr, value: &CStr) -> io::Result<()> {
        // SAFETY: both strings are valid C strings for the duration of the call.
        nothing(unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                FSCONFIG_SET_STRING,
                key.as_ptr(),
                value.as_ptr(),
                0,
            )
        })
    }

    /// Sets a flag, such as `ro`.
    ///
    /// # Errors
    /// `EINVAL` when the file system refuses it.
    pub fn flag(&self, key: &CStr) -> io::Result<()> {
        let nothing_here = std::ptr::null::<libc::c_char>();
        // SAFETY: `key` is a valid C string; a flag takes a null value.
        nothing(unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                FSCONFIG_SET_FLAG,
                key.as_ptr(),
                nothing_here,
                0,
            )
        })
    }

    /// Creates it, and a detached mount of it: read-only, nosuid, nodev. The mount goes away with
    /// the descriptor unless it was attached somewhere.
    ///
    /// # Errors
    /// Whatever the file system refuses the parameters with.
    pub fn mount(self, programs: Programs) -> io::Result<OwnedFd> {
        let fd = self.0.as_raw_fd();
        let nothing_here = std::ptr::null::<libc::c_char>();
        // SAFETY: the create command takes null for key and value.
        nothing(unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                fd,
                FSCONFIG_CMD_CREATE,
                nothing_here,
                nothing_here,
                0,
            )
        })?;
        let attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
        let attributes = match programs {
            Programs::Run => attributes,
            Programs::Refused => attributes | MOUNT_ATTR_NOEXEC,
        };
        // SAFETY: integers only.
        descriptor(unsafe { libc::syscall(libc::SYS_fsmount, fd, FSMOUNT_CLOEXEC, attributes) })
    }
}

/// A detached copy of the mount that the directory `source` belongs to, seen from there:
/// read-only, nosuid, nodev, and told of nothing that happens to the original.
///
/// # Errors
/// `EPERM` without the capability, `ENOENT` when there is no such directory.
pub fn clone_mount(source: &CStr) -> io::Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as libc::c_uint;
    // SAFETY: `source` is a valid C string for the duration of the call.
    let mount = descriptor(unsafe {
        libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, source.as_ptr(), flags)
    })?;
    let attributes = libc::mount_attr {
        attr_set: u64::from(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV),
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    // SAFETY: a valid descriptor, the empty path that goes with the flag, and a structure that
    // lives during the call, with its own size.
    nothing(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(mount)
}

/// Device and inode of the file behind a loop device, as `stat(2)` shows them.
///
/// # Errors
/// `ENXIO` when there is none behind it, `ENOTTY` when it is no loop device.
pub fn loop_file(device: impl AsFd) -> io::Result<(u64, u64)> {
    // `struct loop_info64` of <linux/loop.h> is 232 bytes long and begins with device and inode.
    let mut info = [0_u64; 29];
    let descriptor = device.as_fd().as_raw_fd();
    // SAFETY: the kernel writes 232 bytes, which live during the call.
    let result = unsafe { libc::ioctl(descriptor, LOOP_GET_STATUS64 as _, info.as_mut_ptr()) };
    nothing(result.into())?;
    Ok((info[0], info[1]))
}

/// Attaches a detached mount to the directory `target`, resolved below the directory `at`.
///
/// # Errors
/// `ENOENT` when the target is missing, `EPERM` without the capability.
pub fn move_mount(mount: impl AsFd, at: impl AsFd, target: &CStr) -> io::Result<()> {
    // SAFETY: valid descriptors and a valid C string; the empty path goes with the flag.
    nothing(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            at.as_fd().as_raw_fd(),
            target.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    })
}
