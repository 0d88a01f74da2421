//! Blobs of the cache, read and hashed by several threads, handed over in order.
//!
//! Nothing that the cache recorded is believed: what leaves here complete has been hashed on the
//! way.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::{CHUNK, QUEUE, workers};
use crate::digest::Hasher;
use crate::error::{Error, Result};
use crate::host::files::failed;
use crate::lock::LockedFile;

/// A file to be read.
#[derive(Debug, Clone)]
pub struct Blob {
    /// Where it lies.
    pub origin: PathBuf,
    /// What it must be.
    pub file: LockedFile,
    /// What it is for.
    pub label: String,
}

/// The content of one file, as it is read.
#[derive(Debug)]
pub struct Content {
    chunks: Receiver<Result<Vec<u8>>>,
    size: u64,
}

impl Content {
    /// Takes it to its end.
    ///
    /// # Errors
    /// Install error when it is not what it must be; whatever `take` fails with.
    pub fn drain(self, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut length = 0;
        for chunk in self.chunks {
            let chunk = chunk?;
            length += chunk.len() as u64;
            take(&chunk)?;
        }
        match length == self.size {
            true => Ok(()),
            false => Err(Error::general("read from the cache: a thread ended unexpectedly")),
        }
    }
}

type Job = (usize, SyncSender<Result<Vec<u8>>>);

/// Reads all, and calls `consume` with the content of each in order.
///
/// # Errors
/// The first failure in that order.
pub fn read_all(
    blobs: &[Blob],
    mut consume: impl FnMut(&Blob, Content) -> Result<()>,
) -> Result<()> {
    let ahead = workers().min(blobs.len());
    let (jobs, queue) = sync_channel::<Job>(ahead);
    let queue = &Mutex::new(queue);
    std::thread::scope(move |scope| {
        for _ in 0..ahead {
            scope.spawn(move || work(blobs, queue));
        }
        let (mut started, mut waiting) = (0, VecDeque::new());
        for blob in blobs {
            while waiting.len() < ahead && started < blobs.len() {
                let (send, chunks) = sync_channel(QUEUE);
                let size = blobs[started].file.size;
                waiting.push_back(Content { chunks, size });
                // Fails only when every thread is gone; then the content is short.
                let _ = jobs.send((started, send));
                started += 1;
            }
            if let Some(content) = waiting.pop_front() {
                consume(blob, content)?;
            }
        }
        Ok(())
        // Without receivers and jobs every thread ends.
    })
}

fn work(blobs: &[Blob], queue: &Mutex<Receiver<Job>>) {
    loop {
        let job = queue.lock().unwrap_or_else(|poison| poison.into_inner()).recv();
        let Ok((index, send)) = job else { return };
        if let Err(error) = read(&blobs[index], &send) {
            let _ = send.send(Err(error));
        }
    }
}

/// Reads one; a receiver that is gone ends it without an error.
fn read(blob: &Blob, send: &SyncSender<Result<Vec<u8>>>) -> Result<()> {
    let fail = |error: io::Error| failed("read", &blob.origin, &error);
    let mut file = File::open(&blob.origin).map_err(fail)?;
    let mut hasher = Hasher::new();
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        let count = (&mut file).take(CHUNK as u64).read_to_end(&mut chunk).map_err(fail)?;
        hasher.update(&chunk);
        if count == 0 || hasher.length() > blob.file.size {
            break;
        }
        if send.send(Ok(chunk)).is_err() {
            return Ok(());
        }
    }
    let (size, found) = (hasher.length(), hasher.finish());
    if (found, size) == (blob.file.sha256, blob.file.size) {
        return Ok(());
    }
    Err(Error::install(format!("export `{}`: it was damaged in the cache", blob.label))
        .because(format!("`{}` has the SHA-256 digest {found}", blob.origin.display()))
        .hint("`nvstage cache verify` finds what else is damaged, `nvstage prefetch` fetches it again"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::host::files;

    fn blobs(directory: &std::path::Path, count: usize) -> Vec<Blob> {
        let content = |index: usize| vec![index as u8; index * 70_000];
        let blob = |index| {
            let (origin, bytes) = (directory.join(format!("{index}")), content(index));
            files::replace(&origin, &bytes).unwrap();
            let file = LockedFile { sha256: Digest::of(&bytes), size: bytes.len() as u64 };
            Blob { origin, file, label: format!("blob {index}") }
        };
        (0..count).map(blob).collect()
    }

    #[test]
    fn contents_come_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let blobs = blobs(directory.path(), 20);
        let mut seen = Vec::new();
        read_all(&blobs, |blob, content| {
            let mut bytes = Vec::new();
            content.drain(|chunk| {
                bytes.extend_from_slice(chunk);
                Ok(())
            })?;
            assert_eq!(Digest::of(&bytes), blob.file.sha256);
            seen.push(blob.label.clone());
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, (0..20).map(|index| format!("blob {index}")).collect::<Vec<_>>());
    }

    #[test]
    fn a_damaged_one_is_named_and_ends_it() {
        let directory = tempfile::tempdir().unwrap();
        let blobs = blobs(directory.path(), 9);
        for wrong in [vec![4; 4 * 70_000 + 1], vec![4; 4 * 70_000 - 1], vec![5; 4 * 70_000]] {
            files::replace(&blobs[4].origin, &wrong).unwrap();
            let mut complete = 0;
            let result = read_all(&blobs, |_, content| {
                content.drain(|_| Ok(()))?;
                complete += 1;
                Ok(())
            });
            assert!(result.unwrap_err().what().contains("`blob 4`: it was damaged"));
            assert_eq!(complete, 4);
        }
    }

    #[test]
    fn a_consumer_that_fails_ends_the_threads() {
        let directory = tempfile::tempdir().unwrap();
        let blobs = blobs(directory.path(), 60);
        let result = read_all(&blobs, |_, _| Err(Error::host("write")));
        assert_eq!(result.unwrap_err().what(), "write");
    }
}
