//! The blobs of a bundle: read once from beginning to end, hashed by several threads, and kept
//! where that is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard};

use super::progress::Progress;
use super::source::Source;
use super::table::Entry;
use super::{QUEUE, joined, workers, wrong};
use crate::cache::{Arrived, Arriving};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::runfile::header::HEADER_BYTES;

/// What is done with the blobs.
#[derive(Debug)]
pub struct Wishes<'a> {
    /// The bundle, for messages.
    pub bundle: &'a Path,
    /// Where those are kept that are kept.
    pub directory: &'a Path,
    /// Which are kept.
    pub kept: BTreeSet<Digest>,
    /// Whose first bytes are wanted: the installers.
    pub installers: BTreeSet<Digest>,
}

/// What came of them. All of it was hashed.
#[derive(Debug, Default)]
pub struct Taken {
    /// The files that were kept.
    pub arrived: Vec<Arrived>,
    /// The first bytes of the installers.
    pub heads: BTreeMap<Digest, Vec<u8>>,
}

type Job<'a> = (&'a Entry, Receiver<Vec<u8>>);

/// Reads these blobs of a bundle, the next ones in it.
///
/// # Errors
/// Install error for one that is damaged, and when the disk is full; whatever reading fails with.
pub fn take(
    source: &mut dyn Source,
    entries: &[&Entry],
    wishes: &Wishes<'_>,
    progress: &mut Progress<'_>,
) -> Result<Taken> {
    let (send, jobs) = sync_channel(0);
    let (jobs, taken) = (Mutex::new(Some(jobs)), Mutex::new(Taken::default()));
    let (jobs, shared) = (&jobs, &taken);
    let read = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..workers()).map(|_| scope.spawn(move || work(jobs, wishes, shared))).collect();
        let read = feed(source, entries, &send, progress);
        drop(send);
        let worked: Result<Vec<()>> = threads.into_iter().map(joined).collect();
        // Why a thread gave up comes before what the reader noticed of it.
        worked.and(read)
    });
    read.map(|()| taken.into_inner().unwrap_or_else(|poison| poison.into_inner()))
}

/// Hands the content of each to whichever thread is free.
fn feed<'a>(
    source: &mut dyn Source,
    entries: &[&'a Entry],
    jobs: &SyncSender<Job<'a>>,
    progress: &mut Progress<'_>,
) -> Result<()> {
    // Told by nobody: the thread that is gone tells why.
    let gone = || Error::general("hash: a thread ended unexpectedly");
    for entry in entries {
        let (send, chunks) = sync_channel(QUEUE);
        jobs.send((entry, chunks)).map_err(|_| gone())?;
        source.content_of(entry, &mut |chunk| {
            progress.add(chunk.len() as u64);
            send.send(chunk).map_err(|_| gone())
        })?;
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

fn work(
    jobs: &Mutex<Option<Receiver<Job<'_>>>>,
    wishes: &Wishes<'_>,
    taken: &Mutex<Taken>,
) -> Result<()> {
    loop {
        let job = match lock(jobs).as_ref() {
            Some(jobs) => jobs.recv(),
            None => return Ok(()),
        };
        let Ok((entry, chunks)) = job else { return Ok(()) };
        if let Err(error) = receive(entry, &chunks, wishes, taken) {
            // Nobody takes jobs any more: the reader ends as well.
            lock(jobs).take();
            return Err(error);
        }
    }
}

fn receive(
    entry: &Entry,
    chunks: &Receiver<Vec<u8>>,
    wishes: &Wishes<'_>,
    taken: &Mutex<Taken>,
) -> Result<()> {
    let mut file = match wishes.kept.contains(&entry.sha256) {
        true => Arriving::kept(entry.file(), wishes.directory)?,
        false => Arriving::unkept(entry.file()),
    };
    let mut head = wishes.installers.contains(&entry.sha256).then(Vec::new);
    for chunk in chunks {
        if let Some(head) = &mut head {
            let wanted = HEADER_BYTES.saturating_sub(head.len()).min(chunk.len());
            head.extend_from_slice(&chunk[..wanted]);
        }
        file.write(&chunk)?;
    }
    if file.length() < entry.size {
        // The reader failed, and says why.
        return Ok(());
    }
    let arrived = file.finish(|difference| wrong(wishes.bundle, entry, difference))?;
    let mut taken = lock(taken);
    taken.arrived.extend(arrived);
    taken.heads.extend(head.map(|head| (entry.sha256, head)));
    Ok(())
}
