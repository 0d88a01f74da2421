//! One shared image: its file, its record, its mount.
//!
//! In a directory of its kind:
//!
//! ```text
//! <name>.squashfs               the image, mode 0444
//! <name>.json                   its record: what it holds, its size, digest and stamp
//! <name>/                       where it is mounted
//! .tmp-<name>.squashfs          while it is built, under the lock /run/nvstage/.<kind>-<name>.lock
//! .tmp-<name>.squashfs.work/    packages unpacked for it
//! ```
//!
//! An image counts as sound while its size, times and inode are those of its record, and is hashed
//! again otherwise. One without a record was never finished. Everything is the same after a process
//! was killed at any point: what is unfinished is made anew by whoever needs it next.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cache::Stamp;
use crate::digest::{Digest, hash_reader};
use crate::error::{Error, Result};
use crate::event::{Event, Events};
use crate::host::Host;
use crate::host::cancel::Cancel;
use crate::host::files::{self, Lock, failed};
use crate::host::image::Image;
use crate::host::mount;
use crate::host::paths::Paths;
use crate::host::process::Command;
use crate::host::runlog::RunLog;

/// The version of the records that are written.
const SCHEMA: u32 = 1;
/// How long another process may take to build the same image.
const SAME_IMAGE_WAIT: Duration = Duration::from_secs(6 * 3600);
/// `mount` and `umount` take milliseconds.
const MOUNT_LIMIT: Duration = Duration::from_secs(60);
const TEMPORARY: &str = ".tmp-";
const IMAGE: &str = ".squashfs";

/// A kind of image: its directory, and its name in words and in locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Driver,
    Cuda,
}

impl Kind {
    pub(super) fn directory(self, paths: &Paths) -> PathBuf {
        match self {
            Self::Driver => paths.shared_drivers(),
            Self::Cuda => paths.shared_cuda(),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Cuda => "cuda",
        }
    }

    /// In words that all images of the kind share.
    pub(super) fn noun(self) -> &'static str {
        match self {
            Self::Driver => "shared driver",
            Self::Cuda => "shared CUDA",
        }
    }

    /// The names of the images that are there, finished or not, in order.
    pub(super) fn names(self, paths: &Paths) -> Result<Vec<String>> {
        let directory = self.directory(paths);
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|error| failed("read", &directory, &error))?,
        };
        let name = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            let name = name.strip_suffix(IMAGE)?;
            (!name.starts_with('.')).then(|| name.to_owned())
        };
        let mut names: Vec<String> = entries.flatten().filter_map(name).collect();
        names.sort();
        Ok(names)
    }

    /// Removes what killed runs left, where nobody is at work on it.
    pub(super) fn clear_away(self, paths: &Paths) -> Result<()> {
        let directory = self.directory(paths);
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(name) = name.strip_prefix(TEMPORARY) else { continue };
            let slot = Slot::new(paths, self, name.split(IMAGE).next().unwrap_or(name));
            if let Some(_lock) = slot.try_lock()? {
                slot.clear_temporary()?;
            }
        }
        Ok(())
    }
}

/// The place of one image.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    paths: Paths,
    kind: Kind,
    name: String,
}

/// What is written down of an image.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record<T> {
    schema: u32,
    pub(super) image: ImageFile,
    pub(super) content: T,
}

/// The image's file at its last verification.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ImageFile {
    pub(super) size: u64,
    pub(super) sha256: Digest,
    stamp: Stamp,
}

/// What there is of an image.
#[derive(Debug)]
pub(super) enum Found<T> {
    Nothing,
    /// It is not what its record says, or has none.
    Damaged(String),
    Sound(Record<T>),
}

impl<T> Found<T> {
    pub(super) fn sound(self) -> Option<Record<T>> {
        match self {
            Self::Sound(record) => Some(record),
            Self::Nothing | Self::Damaged(_) => None,
        }
    }
}

/// Whether an image was mounted just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mounted {
    Before,
    Now,
}

impl Slot {
    pub(super) fn new(paths: &Paths, kind: Kind, name: &str) -> Self {
        Self { paths: paths.clone(), kind, name: name.to_owned() }
    }

    /// In words: `the shared driver 580.76.05`.
    pub(super) fn label(&self) -> String {
        format!("the {} {}", self.kind.noun(), self.name)
    }

    fn at(&self, suffix: &str) -> PathBuf {
        self.kind.directory(&self.paths).join(format!("{}{suffix}", self.name))
    }

    pub(super) fn image(&self) -> PathBuf {
        self.at(IMAGE)
    }

    fn record(&self) -> PathBuf {
        self.at(".json")
    }

    pub(super) fn mount_point(&self) -> PathBuf {
        self.at("")
    }

    fn temporary(&self) -> PathBuf {
        self.kind.directory(&self.paths).join(format!("{TEMPORARY}{}{IMAGE}", self.name))
    }

    /// The directory in which an image's content may be gathered before it is written.
    pub(super) fn workplace(&self) -> PathBuf {
        self.kind.directory(&self.paths).join(format!("{TEMPORARY}{}{IMAGE}.work", self.name))
    }

    /// A dot before the name: no container is called so. The release in a CUDA image's name is known
    /// only when it is unpacked, and is not in the lock's.
    fn lock_path(&self) -> PathBuf {
        let name = match self.kind {
            Kind::Driver => self.name.as_str(),
            Kind::Cuda => self.name.rsplit('-').next().unwrap_or_default(),
        };
        self.paths.locks().join(format!(".{}-{name}.lock", self.kind.word()))
    }

    /// Keeps others from building, mounting or removing it.
    pub(super) fn lock(&self, events: &dyn Events, cancel: &Cancel) -> Result<Lock> {
        if let Some(lock) = self.try_lock()? {
            return Ok(lock);
        }
        let text = format!("waiting: another process works on {}", self.label());
        events.emit(Event::Note { text });
        Lock::exclusive(&self.lock_path(), SAME_IMAGE_WAIT, cancel)
    }

    /// The same if nobody else does.
    pub(super) fn try_lock(&self) -> Result<Option<Lock>> {
        files::create_directory(&self.paths.locks())?;
        Lock::try_exclusive(&self.lock_path())
    }

    /// What is there; the image is hashed where its file is not the one that was verified last.
    pub(super) fn find<T: Serialize + DeserializeOwned>(&self) -> Result<Found<T>> {
        let path = self.image();
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(failed("read", &path, &error)),
        };
        let damaged = |why: &str| Ok(Found::Damaged(format!("`{}` {why}", path.display())));
        let Some(record) = self.read_record::<T>()? else { return damaged("was never finished") };
        if !metadata.is_file() {
            return damaged("is no file");
        }
        if Stamp::of(&metadata) == record.image.stamp {
            return Ok(Found::Sound(record));
        }
        if metadata.len() != record.image.size {
            let (found, wanted) = (metadata.len(), record.image.size);
            return damaged(&format!("has {found} bytes, and had {wanted} when it was made"));
        }
        match self.rehash() {
            Ok(found) if found == record.image.sha256 => {
                let stamp = Stamp::of(&metadata);
                let record = Record { image: ImageFile { stamp, ..record.image }, ..record };
                // Only for the one that was hashed: whoever has the lock may have put another there.
                let is_it =
                    || fs::symlink_metadata(&path).is_ok_and(|now| Stamp::of(&now) == stamp);
                if let Some(_lock) = self.try_lock()?
                    && is_it()
                {
                    self.write_record(&record)?;
                }
                Ok(Found::Sound(record))
            }
            Ok(_) => damaged("has another content"),
            // The disk has lost it.
            Err(error) => damaged(&format!("cannot be read: {error}")),
        }
    }

    /// The digest of the image as it is.
    pub(super) fn rehash(&self) -> io::Result<Digest> {
        hash_reader(fs::File::open(self.image())?).map(|(digest, _)| digest)
    }

    /// A record that is damaged, or of another program's form, says nothing.
    pub(super) fn read_record<T: DeserializeOwned>(&self) -> Result<Option<Record<T>>> {
        let path = self.record();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path, &error)),
        };
        let record: Option<Record<T>> = serde_json::from_slice(&bytes).ok();
        Ok(record.filter(|record| record.schema == SCHEMA))
    }

    fn write_record<T: Serialize>(&self, record: &Record<T>) -> Result<()> {
        let text = serde_json::to_vec_pretty(record)
            .map_err(|error| Error::general("write a record").because(error))?;
        files::clear_away(&self.record());
        files::replace(&self.record(), &text)
    }

    /// Builds the image and puts it in place; nothing is left of a build that fails. Whoever had the
    /// old image mounted keeps it until then. For the holder of the lock.
    pub(super) fn build<T: Serialize>(
        &self,
        host: &Host,
        (image, content): (&Image, T),
        events: &dyn Events,
    ) -> Result<Record<T>> {
        files::create_directory(&self.kind.directory(&self.paths))?;
        self.clear_temporary()?;
        let step = format!("build {}", self.label());
        events.emit(Event::StepStarted { container: None, step: step.clone() });
        let began = Instant::now();
        let built = self.put(host, (image, content), events);
        let outcome = match &built {
            Ok(record) => format!("{} MB", record.image.size.div_ceil(1_000_000)),
            Err(error) => format!("failed: {}", error.what()),
        };
        events.emit(Event::StepEnded { container: None, step, outcome, took: began.elapsed() });
        if built.is_err() {
            // The first error counts.
            let _ = self.clear_temporary();
        }
        built
    }

    fn put<T: Serialize>(
        &self,
        host: &Host,
        (image, content): (&Image, T),
        events: &dyn Events,
    ) -> Result<Record<T>> {
        let temporary = self.temporary();
        let written = image.write(&temporary, &self.label(), (events, &host.cancel))?;
        self.unmount(host, Unmounting::Detach)?;
        files::remove_file(&self.record())?;
        files::rename(&temporary, &self.image())?;
        let recorded = self.stamp().and_then(|stamp| {
            let image = ImageFile { size: written.size, sha256: written.sha256, stamp };
            let record = Record { schema: SCHEMA, image, content };
            self.write_record(&record).map(|()| record)
        });
        if recorded.is_err() {
            let _ = files::remove_file(&self.image());
        }
        recorded
    }

    fn stamp(&self) -> Result<Stamp> {
        let path = self.image();
        let metadata = fs::metadata(&path).map_err(|error| failed("read", &path, &error))?;
        Ok(Stamp::of(&metadata))
    }

    /// Removes what is unfinished of this image. For the holder of the lock.
    pub(super) fn clear_temporary(&self) -> Result<()> {
        files::remove_tree(&self.workplace())?;
        files::remove_file(&self.temporary())
    }

    /// Whether the image, as its file is now, is mounted in its place.
    pub(super) fn is_mounted(&self) -> bool {
        let image = fs::metadata(self.image()).ok().map(|found| (found.dev(), found.ino()));
        image.is_some() && mount::image_at(&self.paths, &self.mount_point()) == image
    }

    /// Mounts the image; one that was there before is taken away. For the holder of the lock.
    pub(super) fn mount(&self, host: &Host) -> Result<Mounted> {
        if self.is_mounted() {
            return Ok(Mounted::Before);
        }
        self.unmount(host, Unmounting::Detach)?;
        let point = self.mount_point();
        files::create_directory(&point)?;
        let options = ["-t", "squashfs", "-o", "loop,ro,nosuid,nodev"];
        let command = Command::new("mount", MOUNT_LIMIT)
            .args(options)
            .args([self.image().to_string_lossy(), point.to_string_lossy()]);
        run(host, command, || {
            Error::host(format!("mount {}", self.label()))
                .hint("are the kernel's modules there? `modprobe loop`, `modprobe squashfs`")
        })?;
        if self.is_mounted() {
            return Ok(Mounted::Now);
        }
        Err(Error::host(format!("mount {}", self.label()))
            .because(format!("`mount` succeeded, and it is not at `{}`", point.display()))
            .hint("is this run in a mount namespace of its own?"))
    }

    /// Unmounts whatever image is mounted in this one's place.
    fn unmount(&self, host: &Host, how: Unmounting) -> Result<()> {
        let point = self.mount_point();
        while mount::image_at(&self.paths, &point).is_some() {
            let command = Command::new("umount", MOUNT_LIMIT);
            let command = match how {
                Unmounting::Detach => command.arg("-l"),
                Unmounting::Whole => command,
            };
            run(host, command.arg(point.to_string_lossy()), || {
                Error::host(format!("unmount {}", self.label()))
                    .hint(format!("`fuser -vm {}` shows who uses it", point.display()))
            })?;
        }
        Ok(())
    }

    /// Removes image, record and mount point; containers that are shown it keep it. For the holder of
    /// the lock.
    pub(super) fn remove(&self, host: &Host, how: Unmounting) -> Result<()> {
        self.unmount(host, how)?;
        files::remove_file(&self.record())?;
        files::remove_file(&self.image())?;
        self.clear_temporary()?;
        let point = self.mount_point();
        match fs::remove_dir(&point) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &point, &error))
            }
            _ => files::sync_directory(point.parent().unwrap_or(&point)),
        }
    }
}

/// What happens to processes of this host that use what is unmounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unmounting {
    /// They keep it, and nobody else finds it.
    Detach,
    /// It is refused while there are any.
    Whole,
}

fn run(host: &Host, command: Command, failed: impl Fn() -> Error) -> Result<()> {
    let finished = host.processes.run(command, &RunLog::none())?;
    if finished.succeeded() {
        return Ok(());
    }
    Err(failed().because(finished.tail()).because(finished.ended))
}

/// Whether anything is shared on this host: its directory is made with the first image.
pub fn is_used(paths: &Paths) -> bool {
    let there = |path: &Path| path.is_dir();
    there(&paths.shared_drivers()) || there(&paths.shared_cuda())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::shared::{cuda, driver};

    /// The record of version 1 of an image, found where it lies.
    fn read<T: DeserializeOwned>(kind: Kind, text: &str) -> Option<Record<T>> {
        let directory = tempfile::tempdir().unwrap();
        let slot = Slot::new(&Paths::below(directory.path()), kind, "name");
        files::create_directory(&kind.directory(&slot.paths)).unwrap();
        files::replace(&slot.record(), text.as_bytes()).unwrap();
        slot.read_record().unwrap()
    }

    #[test]
    fn records_of_version_1_are_read_for_ever_and_newer_ones_say_nothing() {
        let text = include_str!("../../../tests/shared/driver-1.json");
        let record = read::<driver::Content>(Kind::Driver, text).unwrap();
        assert_eq!(record.content.version.as_str(), "580.76.05");
        assert_eq!(record.image.size, 4096);
        for (old, new) in
            [("\"schema\": 1", "\"schema\": 2"), ("\"inode\"", "\"new\": 1, \"inode\"")]
        {
            assert!(read::<driver::Content>(Kind::Driver, &text.replace(old, new)).is_none());
        }
        let text = include_str!("../../../tests/shared/cuda-1.json");
        assert!(read::<cuda::Content>(Kind::Cuda, text).is_some());
        assert!(read::<cuda::Content>(Kind::Cuda, &text.replace("\"apart\"", "\"a\"")).is_none());
    }

    #[test]
    fn all_cuda_images_of_the_same_packages_have_one_lock() {
        let paths = Paths::below("/");
        let lock = |kind, name| Slot::new(&paths, kind, name).lock_path();
        assert_eq!(lock(Kind::Cuda, "12.8-0123456789ab"), lock(Kind::Cuda, "0123456789ab"));
        assert_eq!(
            lock(Kind::Driver, "580.76.05"),
            Path::new("/run/nvstage/.driver-580.76.05.lock")
        );
    }
}
