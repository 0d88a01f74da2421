//! What tells without reading it that a file is still the one whose content was found out.
//!
//! Nobody can set a file's ctime, root neither: it moves whenever the content or the metadata
//! change. It moves in ticks, though, of the clock that the kernel reads for it. A file that was
//! changed twice within one tick looks the same after both, so a [`Stamp`] stands for a content
//! only when the file had been left alone for longer than that before it was read.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, FsType, OVERLAYFS_SUPER_MAGIC,
    XFS_SUPER_MAGIC, fstatfs,
};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// OpenZFS, `include/sys/zfs_vfsops.h`.
const ZFS_SUPER_MAGIC: FsType = FsType(0x2fc1_2fc1);
/// bcachefs, `linux/magic.h`.
const BCACHEFS_SUPER_MAGIC: FsType = FsType(0xca45_1a4e);

/// File systems that take their times from this machine's clock, and give a page that is written
/// through a mapping a new ctime. (tmpfs does not do the latter, NFS neither.)
const TRUSTED: [FsType; 7] = [
    EXT4_SUPER_MAGIC,
    XFS_SUPER_MAGIC,
    BTRFS_SUPER_MAGIC,
    F2FS_SUPER_MAGIC,
    OVERLAYFS_SUPER_MAGIC,
    ZFS_SUPER_MAGIC,
    BCACHEFS_SUPER_MAGIC,
];

/// Ten ticks of the slowest clock that a kernel is built with, 100 a second.
const TICKS: Duration = Duration::from_millis(100);
/// The same where a file system keeps whole seconds.
const SECONDS: Duration = Duration::from_secs(2);

/// Size, times and identity of a file. Two that are equal are of one file with one content, when
/// [`Content::stamp`] gave the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stamp {
    size: u64,
    /// Seconds and nanoseconds.
    mtime: (i64, i64),
    ctime: (i64, i64),
    inode: u64,
    device: u64,
}

impl Stamp {
    /// That of a file with this metadata.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            size: metadata.len(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
            device: metadata.dev(),
        }
    }

    /// The file's size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether whatever is changed from `now` on gets another ctime.
    fn is_settled_at(&self, now: SystemTime) -> bool {
        let (Ok(seconds), Ok(nanoseconds)) = (self.ctime.0.try_into(), self.ctime.1.try_into())
        else {
            return false;
        };
        let margin = if nanoseconds == 0 { SECONDS } else { TICKS };
        let changed = UNIX_EPOCH + Duration::new(seconds, nanoseconds);
        // A ctime in the future says nothing.
        now.duration_since(changed).is_ok_and(|age| age >= margin)
    }
}

/// A file's content, and how to tell that it is still that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// The SHA-256 digest.
    pub digest: Digest,
    /// `None` where nothing would tell: it was changed while it was read or a moment before, or
    /// its file system is not known to be reliable in this.
    pub stamp: Option<Stamp>,
}

/// A file that is about to be read.
#[derive(Debug)]
pub(super) struct Watch {
    before: Stamp,
    began: SystemTime,
}

impl Watch {
    pub(super) fn begin(file: &File) -> io::Result<Self> {
        Ok(Self { before: Stamp::of(&file.metadata()?), began: SystemTime::now() })
    }

    /// The stamp of what was read, when it stands for that.
    pub(super) fn end(self, file: &File) -> io::Result<Option<Stamp>> {
        let Self { before, began } = self;
        let is_reliable = before.is_settled_at(began)
            && before == Stamp::of(&file.metadata()?)
            && TRUSTED.contains(&fstatfs(file)?.filesystem_type());
        Ok(is_reliable.then_some(before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_ctime(ctime: (i64, i64)) -> Stamp {
        Stamp { size: 1, mtime: (0, 0), ctime, inode: 1, device: 1 }
    }

    #[test]
    fn a_file_is_settled_when_the_clock_has_ticked_since() {
        let now = UNIX_EPOCH + Duration::new(1_000, 500_000_000);
        for (ctime, expected) in [
            ((1_000, 400_000_000), true),
            ((1_000, 400_000_001), false),
            ((1_000, 500_000_000), false),
            // In the future, as after the clock was set back.
            ((1_001, 500_000_001), false),
            // Whole seconds: nothing finer is known.
            ((999, 0), false),
            ((998, 0), true),
            ((-5, 3), false),
        ] {
            assert_eq!(with_ctime(ctime).is_settled_at(now), expected, "{ctime:?}");
        }
    }

    #[test]
    fn a_file_that_is_written_while_it_is_read_has_no_stamp() {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = directory.path().join("file");
        crate::host::files::replace(&path, b"one").unwrap();
        let file = File::open(&path).unwrap();
        let stamp = Stamp::of(&file.metadata().unwrap());
        let settled = SystemTime::now() + SECONDS;
        let watch = Watch { before: stamp, began: settled };
        assert_eq!(watch.end(&file).unwrap(), Some(stamp));
        // As fast as it was made: within the tick, it would look the same.
        assert_eq!(Watch::begin(&file).unwrap().end(&file).unwrap(), None);
        let watch = Watch { before: stamp, began: settled };
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(2).unwrap();
        assert_eq!(watch.end(&file).unwrap(), None);
    }

    #[test]
    fn a_file_system_that_is_not_known_has_no_stamps() {
        let file = File::open("/proc/version").unwrap();
        let metadata = file.metadata().unwrap();
        let watch = Watch { before: Stamp::of(&metadata), began: SystemTime::now() + SECONDS };
        assert_eq!(watch.end(&file).unwrap(), None);
    }
}
