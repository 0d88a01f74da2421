//! The locks of the cache, `locks-v1/<recipe>-<distribution>-<arch>.lock`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Cache, SAME_FILE_WAIT};
use crate::error::{Error, Result};
use crate::event::{Event, Events};
use crate::host::files::{self, failed};
use crate::lock::Lock;

/// Every lock of a cache.
#[derive(Debug, Default)]
pub struct Locks {
    /// Those that can be read, with their file names, sorted.
    pub readable: Vec<(String, Lock)>,
    /// Why others cannot be.
    pub unreadable: Vec<Error>,
}

impl Cache {
    /// The directory of the locks.
    pub(super) fn lock_directory(&self) -> PathBuf {
        self.directory.join("locks-v1")
    }

    /// Every lock.
    ///
    /// # Errors
    /// A host error when the directory cannot be read.
    pub fn locks(&self) -> Result<Locks> {
        let directory = self.lock_directory();
        let entries = fs::read_dir(&directory).map_err(|e| failed("read", &directory, &e))?;
        let mut locks = Locks::default();
        for entry in entries {
            // A lock that was overlooked would cost what it reaches.
            let entry = entry.map_err(|e| failed("read", &directory, &e))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.ends_with(".lock") || name.starts_with('.') {
                continue;
            }
            match read_lock(&entry.path()) {
                Ok(Some(lock)) => locks.readable.push((name, lock)),
                Ok(None) => {}
                Err(error) => locks.unreadable.push(error),
            }
        }
        locks.readable.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(locks)
    }

    /// The lock of that file name; `None` where there is none.
    ///
    /// # Errors
    /// Install error for one that cannot be read.
    pub fn lock(&self, name: &str) -> Result<Option<Lock>> {
        read_lock(&self.lock_directory().join(name))
    }

    /// Keeps everybody else from changing the lock of that file name; waits for who does.
    ///
    /// # Errors
    /// A host error when it cannot be had, the interruption.
    pub fn hold_lock(&self, name: &str, events: &dyn Events) -> Result<files::Lock> {
        let path = self.guard(name);
        if let Some(guard) = files::Lock::try_exclusive(&path)? {
            return Ok(guard);
        }
        let text = format!("waiting: another nvstage works on `{name}`");
        events.emit(Event::Note { text });
        files::Lock::exclusive(&path, SAME_FILE_WAIT, &self.cancel)
    }

    /// The same if nobody does.
    ///
    /// # Errors
    /// A host error when the file cannot be opened.
    pub fn try_hold_lock(&self, name: &str) -> Result<Option<files::Lock>> {
        files::Lock::try_exclusive(&self.guard(name))
    }

    fn guard(&self, name: &str) -> PathBuf {
        self.lock_directory().join(format!(".{name}"))
    }

    /// Writes a lock in one piece, unless it is there already.
    ///
    /// # Errors
    /// A host error that names the file.
    pub fn write_lock(&self, lock: &Lock) -> Result<()> {
        let path = self.lock_directory().join(lock.own_file_name());
        self.believe(&lock.recipe, &lock.installer)?;
        if let Ok(Some(old)) = read_lock(&path) {
            if old == *lock {
                return Ok(());
            }
            self.believe(&old.recipe, &old.installer)?;
        }
        files::replace(&path, lock.to_text().as_bytes())
    }
}

/// The lock in a file; `None` where there is no such file.
///
/// # Errors
/// Install error for one that cannot be read.
pub fn read_lock(path: &Path) -> Result<Option<Lock>> {
    match fs::read_to_string(path) {
        Ok(text) => Lock::parse(&text, &path.to_string_lossy()).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            Err(Error::install(format!("read the lock `{}`", path.display())).because(error))
        }
    }
}
