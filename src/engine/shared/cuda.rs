//! The shared CUDA toolkit of a lock: its packages unpacked once, made an image, and mounted.
//!
//! An image is called by the release in it and the packages that it was made of,
//! `12.8-0123456789ab`: locks with the same packages share it. No script of a package is run: what
//! they would do, links and directories for `ldconfig`, is told to the caller.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::CudaImage;
use super::merge::{self, Unpacked};
use super::package::Unpacking;
use super::store::{Found, Kind, Record, Slot};
use crate::cache::CachedArtifact;
use crate::digest::Digest;
use crate::engine::stock;
use crate::engine::supplies::Supplies;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::host::Host;
use crate::host::files;
use crate::host::paths::Paths;
use crate::lock::{Lock, LockedPackage, Role};

/// How many digits of the packages' common digest are in a name.
const DIGITS: usize = 12;
/// Packages that are unpacked at a time, at most.
const AT_ONCE: usize = 4;
/// Progress is told this often.
const TELL_INTERVAL: Duration = Duration::from_millis(100);

/// What is written down of a CUDA image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Content {
    id: String,
    /// The digest over the packages' digests.
    packages: Digest,
    trees: Vec<String>,
    library_directories: Vec<String>,
    links: Vec<(String, String)>,
    /// Packages that are in no tree, because they have files elsewhere.
    apart: Vec<String>,
}

/// What a lock wants to be shared.
struct Wanted<'a> {
    packages: Vec<&'a LockedPackage>,
    digest: Digest,
}

impl<'a> Wanted<'a> {
    fn of(lock: &'a Lock) -> Result<Self> {
        let is_cuda = |package: &&LockedPackage| {
            let repository = lock.repository(&package.repository);
            repository.is_some_and(|repository| repository.role != Role::Distribution)
        };
        // Of two versions, which a system that was resolved earlier may bring, the higher one.
        let is_highest = |package: &&LockedPackage| {
            stock::version(lock, &package.name) == Some(package.version.as_str())
        };
        let packages = lock.packages.iter().filter(is_cuda).filter(is_highest);
        let packages: Vec<&LockedPackage> = packages.collect();
        if packages.is_empty() {
            return Err(Error::install(format!("share CUDA: the lock {} has none", lock.label()))
                .because("no package in it comes from NVIDIA's repository")
                .hint("run `nvstage prefetch --for CTID`: it resolves them"));
        }
        let digests: BTreeSet<Digest> = packages.iter().map(|package| package.sha256).collect();
        let mut text = String::new();
        for digest in digests {
            let _ = writeln!(text, "{digest}");
        }
        Ok(Self { packages, digest: Digest::of(text.as_bytes()) })
    }

    /// The end of the image's name.
    fn key(&self) -> String {
        self.digest.to_string()[..DIGITS].to_owned()
    }

    /// The image of these packages, with its place.
    fn find(&self, paths: &Paths) -> Result<(Option<Slot>, Found<Content>)> {
        let (end, mut last) = (format!("-{}", self.key()), Found::Nothing);
        for name in Kind::Cuda.names(paths)?.iter().filter(|name| name.ends_with(&end)) {
            let slot = Slot::new(paths, Kind::Cuda, name);
            match slot.find::<Content>()? {
                Found::Sound(record) if record.content.packages == self.digest => {
                    return Ok((Some(slot), Found::Sound(record)));
                }
                Found::Damaged(why) => last = Found::Damaged(why),
                Found::Nothing | Found::Sound(_) => {}
            }
        }
        Ok((None, last))
    }
}

impl Content {
    /// With the packages that apt must still install of a lock.
    fn into_image(self, slot: &Slot, lock: Option<&Lock>) -> CudaImage {
        let mut rest: BTreeSet<String> = self.apart.into_iter().collect();
        let distribution = lock.into_iter().flat_map(|lock| {
            let is_of = |package: &&LockedPackage| {
                let repository = lock.repository(&package.repository);
                repository.is_some_and(|repository| repository.role == Role::Distribution)
            };
            lock.packages.iter().filter(is_of)
        });
        rest.extend(distribution.map(|package| package.name.clone()));
        CudaImage {
            id: self.id,
            mounted_at: slot.mount_point(),
            trees: self.trees,
            library_directories: self.library_directories,
            links: self.links,
            rest: rest.into_iter().collect(),
        }
    }
}

/// The shared CUDA of a lock whose chain was verified ([`Supplies::chain`]): fetched, unpacked and
/// built if need be, and mounted. Of several processes that want it, one builds it.
///
/// # Errors
/// Install error when the lock has no packages of NVIDIA's, one cannot be had or unpacked, two of
/// them do not fit together, or the disk is full: nothing unfinished is left then. Host error when
/// it cannot be mounted; the interruption.
pub fn obtain_cuda(host: &Host, supplies: &Supplies<'_>, lock: &Lock) -> Result<CudaImage> {
    let wanted = Wanted::of(lock)?;
    if let (Some(slot), Found::Sound(record)) = wanted.find(&host.paths)?
        && slot.is_mounted()
    {
        return Ok(record.content.into_image(&slot, Some(lock)));
    }
    let work = Slot::new(&host.paths, Kind::Cuda, &wanted.key());
    let _lock = work.lock(supplies.events, supplies.cancel)?;
    let found = wanted.find(&host.paths)?;
    if let (_, Found::Damaged(why)) = &found {
        let text = format!("{why}: it is built again");
        supplies.events.emit(Event::Warning { text });
    }
    let (slot, record) = match found {
        (Some(slot), Found::Sound(record)) => (slot, record),
        _ => {
            let built = build(host, supplies, (&wanted, lock), &work);
            // The first error counts.
            let cleared = work.clear_temporary();
            let built = built?;
            cleared?;
            built
        }
    };
    slot.mount(host)?;
    Ok(record.content.into_image(&slot, Some(lock)))
}

/// The shared CUDA of a lock if its image is there and sound, mounted or not; nothing is built.
///
/// # Errors
/// Host error when its files cannot be read; install error for a lock without packages.
pub fn cuda_at_hand(paths: &Paths, lock: &Lock) -> Result<Option<CudaImage>> {
    match Wanted::of(lock)?.find(paths)? {
        (Some(slot), Found::Sound(record)) => {
            Ok(Some(record.content.into_image(&slot, Some(lock))))
        }
        _ => Ok(None),
    }
}

/// The shared CUDA of that name if its image is there and sound. Its `rest` has no package of a
/// distribution: those are the lock's.
///
/// # Errors
/// Host error when its files cannot be read.
pub fn cuda_by_id(paths: &Paths, id: &str) -> Result<Option<CudaImage>> {
    if id.is_empty() || id.starts_with('.') || id.contains('/') {
        return Ok(None);
    }
    let slot = Slot::new(paths, Kind::Cuda, id);
    Ok(slot.find::<Content>()?.sound().map(|record| record.content.into_image(&slot, None)))
}

fn build(
    host: &Host,
    supplies: &Supplies<'_>,
    what: (&Wanted<'_>, &Lock),
    work: &Slot,
) -> Result<(Slot, Record<Content>)> {
    let (wanted, lock) = what;
    work.clear_temporary()?;
    let mut fetched = lock.clone();
    fetched.packages = wanted.packages.iter().copied().cloned().collect();
    supplies.fetch_packages(&fetched)?;
    let step = format!("unpack {} packages of CUDA", wanted.packages.len());
    supplies.events.emit(Event::StepStarted { container: None, step: step.clone() });
    let began = Instant::now();
    let unpacked = unpack(supplies, wanted, &work.workplace());
    let outcome = match &unpacked {
        Ok(_) => "done".to_owned(),
        Err(error) => format!("failed: {}", error.what()),
    };
    let took = began.elapsed();
    supplies.events.emit(Event::StepEnded { container: None, step, outcome, took });
    let merged = merge::merge(unpacked?)?;
    let id = format!("{}-{}", merged.release, wanted.key());
    let slot = Slot::new(&host.paths, Kind::Cuda, &id);
    let content = Content {
        id,
        packages: wanted.digest,
        links: links(&merged.release),
        trees: merged.trees,
        library_directories: merged.library_directories,
        apart: merged.apart,
    };
    let record = slot.build(host, (&merged.image, content), supplies.events)?;
    Ok((slot, record))
}

/// What `cuda-toolkit-config-common` and its like have update-alternatives make.
fn links(release: &str) -> Vec<(String, String)> {
    let major = release.split('.').next().unwrap_or(release);
    let target = format!("cuda-{release}");
    [format!("/usr/local/cuda-{major}"), "/usr/local/cuda".to_owned()]
        .map(|link| (link, target.clone()))
        .into()
}

/// Unpacks every package into a directory of its own, several at a time, the largest first.
fn unpack(supplies: &Supplies<'_>, wanted: &Wanted<'_>, into: &Path) -> Result<Vec<Unpacked>> {
    files::create_directory(into)?;
    let mut jobs: Vec<(&LockedPackage, CachedArtifact)> = Vec::new();
    for package in &wanted.packages {
        let found = supplies.cache.find(&package.sha256, supplies.events)?;
        let found = found.ok_or_else(|| {
            Error::install(format!("unpack `{}`: the cache lost it", package.label()))
                .hint("run the command again: it is fetched again")
        })?;
        jobs.push((package, found));
    }
    jobs.sort_by_key(|(package, _)| std::cmp::Reverse(package.size));
    let total = jobs.iter().map(|(package, _)| package.size).sum();
    let done = Arc::new(AtomicU64::new(0));
    let unpacking =
        Unpacking { is_wanted: &merge::is_wanted, cancel: supplies.cancel, done: &done };
    let pool = Pool { unpacking: &unpacking, jobs: &jobs, into, next: AtomicUsize::new(0) };
    let tell = || {
        let (name, done) = ("packages of CUDA".to_owned(), done.load(Ordering::Relaxed));
        supplies.events.emit(Event::Progress { name, done: done.min(total), total: Some(total) });
    };
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(AT_ONCE));
    let (send, results) = channel();
    let unpacked = std::thread::scope(|scope| {
        for _ in 0..threads {
            let (pool, send) = (&pool, send.clone());
            scope.spawn(move || pool.work(&send));
        }
        drop(send);
        let mut unpacked = Vec::new();
        loop {
            match results.recv_timeout(TELL_INTERVAL) {
                Ok(result) => unpacked.push(result?),
                Err(RecvTimeoutError::Timeout) => tell(),
                Err(RecvTimeoutError::Disconnected) => return Ok(unpacked),
            }
        }
    });
    supplies.cancel.check()?;
    tell();
    unpacked
}

/// Packages that are unpacked by several threads.
struct Pool<'a> {
    unpacking: &'a Unpacking<'a>,
    jobs: &'a [(&'a LockedPackage, CachedArtifact)],
    into: &'a Path,
    next: AtomicUsize,
}

impl Pool<'_> {
    /// Ends early when the first failure has ended the reader.
    fn work(&self, send: &Sender<Result<Unpacked>>) {
        while let Some((position, (package, file))) = self.take() {
            let members = self.unpacking.unpack(file, &self.into.join(position.to_string()));
            let name = package.name.clone();
            if send.send(members.map(|members| Unpacked { name, members })).is_err() {
                return;
            }
        }
    }

    fn take(&self) -> Option<(usize, &(&LockedPackage, CachedArtifact))> {
        let position = self.next.fetch_add(1, Ordering::Relaxed);
        Some((position, self.jobs.get(position)?))
    }
}
