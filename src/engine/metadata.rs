//! Release files and package indexes of a repository: fetched, verified against pinned keys, and
//! proven to belong together.
//!
//! Order of events: `InRelease`, its signature, its date; then each index that it names, by size
//! and digest. A content delivery network may serve a new release beside old indexes
//! (NVIDIA/cuda-repo-management 7, 16, 24, 28, 43): then both are fetched again past its caches,
//! three times in all.

use std::time::Duration;

use jiff::Timestamp;

use crate::apt::release::{Expiry, Release};
use crate::apt::sources::Source;
use crate::architecture::Architecture;
use crate::artifact::Artifact;
use crate::cache::{Accepted, CachedArtifact};
use crate::digest::Digest;
use crate::engine::supplies::Supplies;
use crate::error::{Error, ExitCode, Result};
use crate::event::Event;
use crate::lock::{Lock, LockedFile, LockedIndex, LockedKey, LockedRepository, Role};
use crate::openpgp::{self, Binding, Certificate};

/// Debian's largest `InRelease` has some 200 kilobytes.
const RELEASE_LIMIT: usize = 4 << 20;
/// How often a release and its indexes are fetched until they fit together.
pub(super) const TRIES: u32 = 3;
/// Between two of these tries.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// A repository whose metadata is wanted.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// Its name in the lock.
    pub name: String,
    /// Whose it is.
    pub role: Role,
    /// Where it is.
    pub source: Source,
    /// The certificates that may sign it, each with a pinned fingerprint.
    pub keys: &'a [Certificate],
    /// How often it was fetched in this run: caches on the way are passed by then.
    pub fetched: u32,
}

/// Whether a release may be older than one that was accepted before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Older {
    /// No: somebody may be playing back an old one to keep back a correction.
    #[default]
    Refused,
    /// Yes (`--allow-older`).
    Allowed,
}

/// A repository's verified metadata.
#[derive(Debug, Clone)]
pub struct Metadata {
    /// What a lock says of it.
    pub locked: LockedRepository,
    /// The signed text of the release file.
    pub text: String,
    /// The indexes, in the order of the lock.
    pub indexes: Vec<CachedArtifact>,
}

impl Supplies<'_> {
    /// Fetches and verifies the metadata of a repository.
    ///
    /// # Errors
    /// Install error when a signature, a date or a digest does not hold; the interruption.
    pub fn metadata(
        &self,
        wanted: &Wanted<'_>,
        architecture: Architecture,
        older: Older,
    ) -> Result<Metadata> {
        let mut last = None;
        for attempt in wanted.fetched..wanted.fetched + TRIES {
            if attempt > wanted.fetched {
                crate::host::wait::wait(PAUSE, self.cancel)?;
            }
            let signed = self.release(wanted, attempt)?;
            self.check_age(&signed, older)?;
            let indexes = signed.indexes(wanted, architecture)?;
            match self.indexes(&signed, &indexes, attempt) {
                Ok(files) => return self.finish(wanted, signed, indexes, files),
                // What another try cannot change.
                Err(error)
                    if error.is_interrupted()
                        || error.offline_url().is_some()
                        || error.code() != ExitCode::Install =>
                {
                    return Err(error);
                }
                Err(error) => last = Some((signed.release.date, error)),
            }
        }
        let place = wanted.source.place();
        let mut error = Error::install(format!("fetch the package index of `{place}`"));
        if let Some((date, cause)) = last {
            error = error
                .because(format!("its release of {date} names another index, {TRIES} times"))
                .because(cause);
        }
        Err(error.hint("the mirror is in the middle of an update: try again in some minutes"))
    }

    fn release(&self, wanted: &Wanted<'_>, attempt: u32) -> Result<Signed> {
        let place = wanted.source.place();
        let url = past_caches(&format!("{place}InRelease"), attempt);
        let bytes =
            self.fetcher.fetch_small(&url, RELEASE_LIMIT).map_err(|error| match wanted.role {
                Role::Cuda | Role::OlderCuda => error,
                Role::Distribution => error.hint(
                    "a source that does not answer can be switched off in the system it is from",
                ),
            })?;
        let refused = |error: Error| about(&place, error);
        let signed = openpgp::verify_clearsigned(&bytes, wanted.keys).map_err(refused)?;
        let release = Release::parse(&signed.text).map_err(refused)?;
        release.check(&wanted.source.suite, Timestamp::now(), Expiry::Counts).map_err(refused)?;
        Ok(Signed { place, bytes, signed, release })
    }

    fn check_age(&self, signed: &Signed, older: Older) -> Result<()> {
        let Some(before) = self.cache.accepted(&signed.place)? else { return Ok(()) };
        let (found, date) = (signed.release.date, before.date);
        if found >= date || Digest::of(&signed.bytes) == before.sha256 {
            return Ok(());
        }
        let what = format!("use the release of {found} from `{}`", signed.place);
        if older == Older::Allowed {
            let text = format!("{what}: an older one than that of {date}, as was allowed");
            self.events.emit(Event::Warning { text });
            return Ok(());
        }
        Err(Error::install(format!("{what}: one of {date} was accepted before"))
            .because("its signature holds, but it is older: somebody may be playing it back")
            .hint("`--allow-older` accepts it, where a mirror is known to lag behind"))
    }

    /// Writes a lock into the cache, and down which releases were accepted with it: newer ones than
    /// before, or any where older ones are allowed.
    ///
    /// # Errors
    /// A host error when the cache cannot be written.
    pub fn keep(&self, lock: &Lock, older: Older) -> Result<()> {
        self.cache.write_lock(lock)?;
        for repository in &lock.repositories {
            let (place, date) = (repository.place(), repository.date);
            let before = self.cache.accepted(&place)?;
            if older == Older::Allowed || before.is_none_or(|before| before.date < date) {
                self.cache.accept(&Accepted::new(place, date, repository.release.sha256))?;
            }
        }
        Ok(())
    }

    fn indexes(
        &self,
        signed: &Signed,
        indexes: &[LockedIndex],
        attempt: u32,
    ) -> Result<Vec<CachedArtifact>> {
        let how = (signed.release.by_hash, attempt);
        let obtain = |index: &LockedIndex| {
            let artifact = index_artifact(&signed.place, index, how);
            self.cache.obtain(&artifact, self.fetcher, self.events)
        };
        indexes.iter().map(obtain).collect()
    }

    fn finish(
        &self,
        wanted: &Wanted<'_>,
        signed: Signed,
        indexes: Vec<LockedIndex>,
        files: Vec<CachedArtifact>,
    ) -> Result<Metadata> {
        let fingerprint = &signed.signed.fingerprint;
        let signer = wanted.keys.iter().find(|key| key.fingerprint() == fingerprint);
        let signer = signer.ok_or_else(|| Error::install("find the key that signed"))?;
        let key = self.cache.store(signer.armoured()?.as_bytes())?;
        let release = self.cache.store(&signed.bytes)?;
        let sha1_bound = signed.signed.binding == Binding::Sha1;
        if sha1_bound {
            let text = format!(
                "key {fingerprint} is bound by SHA-1 alone; it is accepted because it is pinned"
            );
            self.events.emit(Event::Note { text });
        }
        let locked = LockedRepository {
            name: wanted.name.clone(),
            role: wanted.role,
            url: wanted.source.url.clone(),
            suite: wanted.source.suite.clone(),
            components: wanted.source.components.clone(),
            date: signed.release.date,
            release: LockedFile { sha256: *release.digest(), size: release.size() },
            key: LockedKey {
                fingerprint: fingerprint.clone(),
                sha256: *key.digest(),
                size: key.size(),
            },
            sha1_bound,
            indexes,
        };
        Ok(Metadata { locked, text: signed.signed.text, indexes: files })
    }
}

/// A release file whose signature and date hold.
struct Signed {
    place: String,
    bytes: Vec<u8>,
    signed: openpgp::SignedText,
    release: Release,
}

impl Signed {
    /// The indexes that it names for the wanted components.
    fn indexes(&self, wanted: &Wanted<'_>, architecture: Architecture) -> Result<Vec<LockedIndex>> {
        let components = match wanted.source.components.as_slice() {
            [] => vec![""],
            some => some.iter().map(String::as_str).collect(),
        };
        let mut indexes = Vec::new();
        for component in components {
            let of_component = self.release.indexes(component, architecture.dpkg());
            indexes.extend(of_component.map_err(|error| about(&self.place, error))?);
        }
        Ok(indexes)
    }
}

/// The error with the repository it is about.
pub fn about(place: &str, error: Error) -> Error {
    error.within(format!("verify the repository `{place}`"))
}

/// Where an index can be had: under its digest where the repository has that, which cannot be
/// another one; else under its name.
fn index_artifact(place: &str, index: &LockedIndex, how: (bool, u32)) -> Artifact {
    let (by_hash, attempt) = how;
    let directory = index.path.rsplit_once('/').map_or("", |(directory, _)| directory);
    let separator = if directory.is_empty() { "" } else { "/" };
    let mut urls = Vec::new();
    if by_hash {
        urls.push(format!("{place}{directory}{separator}by-hash/SHA256/{}", index.sha256));
    }
    urls.push(past_caches(&format!("{place}{}", index.path), attempt));
    let name = format!("{place}{}", index.path);
    Artifact { name, urls, size: Some(index.size), digest: Some(index.sha256) }
}

/// A query makes a URL new to every cache on the way.
fn past_caches(url: &str, attempt: u32) -> String {
    if attempt == 0 || !url.starts_with("http") {
        return url.to_owned();
    }
    format!("{url}?nvstage={}-{attempt}", Timestamp::now().as_second())
}
