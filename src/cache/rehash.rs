//! Many files hashed at once: every core takes the largest file that is left, so that no large one
//! is the last.

use std::cmp::Reverse;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::blob::Stamp;
use crate::digest::{Digest, Hasher};
use crate::error::Result;
use crate::event::{Event, Events};
use crate::host::cancel::Cancel;
use crate::host::files::failed;

/// Bytes read at once: little enough to stay in a core's own cache until they are hashed.
const CHUNK: usize = 256 * 1024;
/// Progress is told, and a request to stop looked at, this often.
const TELL_INTERVAL: Duration = Duration::from_millis(100);

/// A file to hash.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) path: PathBuf,
    /// Its size when it was last looked at, for progress.
    pub(super) bytes: u64,
}

/// What a file turned out to be.
#[derive(Debug)]
pub(super) enum Seen {
    /// Its content, and what its metadata said before it was read.
    Content { digest: Digest, bytes: u64, stamp: Stamp },
    /// It cannot be read, and why.
    Unreadable(String),
    /// It is not there.
    Gone,
}

/// Hashes every file and gives each result, with the file's position, to `take` as it comes.
///
/// # Errors
/// A host error when a file may not be opened, what `take` fails with, or the interruption. The
/// files that are left are not read then.
pub(super) fn rehash(
    jobs: &[Job],
    (events, cancel): (&dyn Events, &Cancel),
    take: &mut dyn FnMut(usize, Seen) -> Result<()>,
) -> Result<()> {
    let mut order: Vec<usize> = (0..jobs.len()).collect();
    order.sort_by_key(|position| Reverse(jobs[*position].bytes));
    let pool = Pool {
        jobs,
        order,
        next: AtomicUsize::new(0),
        done: AtomicU64::new(0),
        stopped: AtomicBool::new(false),
        cancel,
    };
    let threads = thread::available_parallelism().map_or(1, |cores| cores.get().min(jobs.len()));
    let (send, results) = channel();
    thread::scope(|scope| {
        for _ in 0..threads {
            let (pool, send) = (&pool, send.clone());
            scope.spawn(move || pool.work(&send));
        }
        drop(send);
        let taken = pool.collect(&results, events, take);
        pool.stopped.store(true, Ordering::Relaxed);
        taken
    })
}

type Message = (usize, Result<Seen>);

struct Pool<'a> {
    jobs: &'a [Job],
    /// Positions of jobs, the largest first.
    order: Vec<usize>,
    next: AtomicUsize,
    done: AtomicU64,
    stopped: AtomicBool,
    cancel: &'a Cancel,
}

impl Pool<'_> {
    fn work(&self, send: &Sender<Message>) {
        let mut buffer = vec![0; CHUNK];
        while let Some(position) = self.order.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let Some(seen) = self.read(&self.jobs[*position].path, &mut buffer).transpose() else {
                return;
            };
            if send.send((*position, seen)).is_err() {
                return;
            }
        }
    }

    fn collect(
        &self,
        results: &Receiver<Message>,
        events: &dyn Events,
        take: &mut dyn FnMut(usize, Seen) -> Result<()>,
    ) -> Result<()> {
        let mut told = Instant::now();
        loop {
            match results.recv_timeout(TELL_INTERVAL) {
                Ok((position, seen)) => take(position, seen?)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.cancel.check()?;
            if told.elapsed() >= TELL_INTERVAL {
                told = Instant::now();
                self.tell(events);
            }
        }
        self.cancel.check()?;
        self.tell(events);
        Ok(())
    }

    fn tell(&self, events: &dyn Events) {
        let total = self.jobs.iter().map(|job| job.bytes).sum();
        let done = self.done.load(Ordering::Relaxed).min(total);
        events.emit(Event::Progress {
            name: "verify the cache".to_owned(),
            done,
            total: Some(total),
        });
    }

    /// Hashes one file; `None` when it is not wanted any more.
    fn read(&self, path: &Path, buffer: &mut [u8]) -> Result<Option<Seen>> {
        let fail = |error: io::Error| failed("read", path, &error);
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some(Seen::Gone)),
            // Opening something else might wait for ever.
            Ok(metadata) if !metadata.is_file() => {
                return Ok(Some(Seen::Unreadable("it is no regular file".to_owned())));
            }
            result => result.map_err(fail)?,
        };
        let mut file = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some(Seen::Gone)),
            file => file.map_err(fail)?,
        };
        let stamp = Stamp::of(&file.metadata().map_err(fail)?);
        // Only a hint: the kernel reads further ahead.
        let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_SEQUENTIAL);
        let mut hasher = Hasher::new();
        loop {
            if self.stopped.load(Ordering::Relaxed) || self.cancel.is_asked() {
                return Ok(None);
            }
            match file.read(buffer) {
                Ok(0) => break,
                Ok(count) => {
                    hasher.update(&buffer[..count]);
                    self.done.fetch_add(count as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The disk has lost it.
                Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => {
                    return Ok(Some(Seen::Unreadable(error.to_string())));
                }
                Err(error) => return Err(fail(error)),
            }
        }
        let bytes = hasher.length();
        Ok(Some(Seen::Content { digest: hasher.finish(), bytes, stamp }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::event::Silent;
    use crate::host::files;

    fn jobs(directory: &Path) -> Vec<Job> {
        let job = |name: &str, content: &[u8]| {
            let path = directory.join(name);
            files::replace(&path, content).unwrap();
            Job { path, bytes: content.len() as u64 }
        };
        let mut jobs = vec![job("small", b"x"), job("large", &vec![7; 3 * CHUNK + 5])];
        jobs.push(Job { path: directory.join("none"), bytes: 9 });
        jobs.push(Job { path: directory.to_owned(), bytes: 0 });
        jobs
    }

    #[test]
    fn every_file_is_hashed_once() {
        let directory = tempfile::tempdir().unwrap();
        let jobs = jobs(directory.path());
        let mut seen: Vec<Option<Seen>> = jobs.iter().map(|_| None).collect();
        let cancel = Cancel::never().unwrap();
        rehash(&jobs, (&Silent, &cancel), &mut |position, result| {
            assert!(seen[position].replace(result).is_none());
            Ok(())
        })
        .unwrap();
        let content = |position: usize| match &seen[position] {
            Some(Seen::Content { digest, bytes, .. }) => (*digest, *bytes),
            other => panic!("{other:?}"),
        };
        assert_eq!(content(0), (Digest::of(b"x"), 1));
        assert_eq!(content(1), (Digest::of(&vec![7; 3 * CHUNK + 5]), 3 * CHUNK as u64 + 5));
        assert!(matches!(seen[2], Some(Seen::Gone)), "{seen:?}");
        assert!(matches!(seen[3], Some(Seen::Unreadable(_))), "{seen:?}");
    }

    #[test]
    fn an_error_of_the_taker_ends_it() {
        let directory = tempfile::tempdir().unwrap();
        let cancel = Cancel::never().unwrap();
        let mut fails = |_, _| Err(Error::general("take it"));
        let error = rehash(&jobs(directory.path()), (&Silent, &cancel), &mut fails).unwrap_err();
        assert_eq!(error.what(), "take it");
        rehash(&[], (&Silent, &cancel), &mut |_, _| Ok(())).unwrap();
    }
}
