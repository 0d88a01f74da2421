//! Exactly what a lock names: `prefetch --locked`.
//!
//! A repository goes on after a lock was written. Its newer release is accepted in the place of the
//! locked one when it still lists every locked package with the locked digest: the packages, and so
//! the container, stay the same.

use crate::apt::sources::Source;
use crate::artifact::Artifact;
use crate::engine::closure::Request;
use crate::engine::metadata::Wanted;
use crate::engine::supplies::Supplies;
use crate::engine::systems;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::host::Host;
use crate::lock::{Lock, LockedFile, LockedKey, LockedRepository, Role};
use crate::openpgp::{self, Certificate};

/// Fetches what a lock names and the cache lacks. Returns the lock as the cache keeps it: releases
/// that took the place of locked ones are named in it.
///
/// # Errors
/// Install error naming both digests where a file behind a name has changed; whatever is wrong
/// with the chain; the interruption.
pub fn fetch(
    supplies: &Supplies<'_>,
    host: &Host,
    request: &Request<'_>,
    mut lock: Lock,
) -> Result<Lock> {
    let recipe = request.recipe;
    let driver = supplies.driver_of_lock(recipe, &lock)?;
    if driver.file.digest() != &lock.installer.sha256 {
        return Err(Error::install(format!("use `{}` as it is locked", driver.name))
            .because(format!("the lock has the SHA-256 digest {}", lock.installer.sha256))
            .because(format!("the recipe pins {}", driver.file.digest())));
    }
    // A URL is a hint: the recipe's own, which may be a mirror, comes in the place of the locked one.
    for repository in lock.repositories.iter_mut().filter(|one| one.role == Role::Cuda) {
        repository.url = recipe.repository(&lock.distribution, lock.architecture)?.url;
    }
    if let Some(key) = &lock.key {
        fetch_key(supplies, request, (&lock, key))?;
    }
    for index in 0..lock.repositories.len() {
        if !supplies.has_repository(&lock.repositories[index])? {
            let repository = fetch_repository(supplies, (host, request), &lock, index)?;
            lock.repositories[index] = repository;
        }
    }
    // Before gigabytes are fetched: does every package still belong to what is signed?
    supplies.chain(&lock, recipe)?;
    supplies.fetch_packages(&lock)?;
    if !lock.packages.is_empty() {
        supplies.mirror(&lock, recipe)?;
    }
    Ok(lock)
}

fn fetch_key(
    supplies: &Supplies<'_>,
    request: &Request<'_>,
    what: (&Lock, &LockedKey),
) -> Result<()> {
    let (lock, key) = what;
    if supplies.cache.find(&key.sha256, supplies.events)?.is_some() {
        return Ok(());
    }
    let wanted = request.recipe.repository(&lock.distribution, lock.architecture)?;
    let artifact = Artifact {
        name: wanted.key_url.rsplit('/').next().unwrap_or("key").to_owned(),
        urls: vec![wanted.key_url.clone()],
        size: Some(key.size),
        digest: Some(key.sha256),
    };
    supplies.cache.obtain(&artifact, supplies.fetcher, supplies.events).map(drop)
}

fn fetch_repository(
    supplies: &Supplies<'_>,
    context: (&Host, &Request<'_>),
    lock: &Lock,
    index: usize,
) -> Result<LockedRepository> {
    let (_, request) = context;
    let locked = &lock.repositories[index];
    let keys = keys(supplies, context, lock, locked)?;
    let source = Source {
        url: locked.url.clone(),
        suite: locked.suite.clone(),
        components: locked.components.clone(),
    };
    let (name, role) = (locked.name.clone(), locked.role);
    let wanted = Wanted { name, role, source, keys: &keys, fetched: 0 };
    let found = supplies.metadata(&wanted, lock.architecture, request.older)?.locked;
    if found.release.sha256 != locked.release.sha256 {
        if found.date < locked.date {
            return Err(Error::install(format!("use the release of `{}`", locked.place()))
                .because(format!(
                    "the lock has one of {}, with the digest {}",
                    locked.date, locked.release.sha256
                ))
                .because(format!(
                    "the repository an older one of {}, with the digest {}",
                    found.date, found.release.sha256
                )));
        }
        let text = format!(
            "`{}`: the release of {} takes the place of the locked one of {}; the packages stay",
            locked.place(),
            found.date,
            locked.date
        );
        supplies.events.emit(Event::Note { text });
    }
    Ok(found)
}

/// The certificates that may sign a locked repository: those of this host and of named systems
/// with a pinned fingerprint, the locked one among them.
fn keys(
    supplies: &Supplies<'_>,
    context: (&Host, &Request<'_>),
    lock: &Lock,
    locked: &LockedRepository,
) -> Result<Vec<Certificate>> {
    let recipe = context.1.recipe;
    let distribution = match locked.role {
        Role::Distribution => return distribution_keys(supplies, context, lock, locked),
        Role::Cuda => lock.distribution.as_str(),
        Role::OlderCuda => recipe.older_distribution(&lock.distribution).unwrap_or_default(),
    };
    let repository = supplies.repository(recipe, distribution, lock.architecture)?;
    openpgp::certificates(repository.armoured.as_bytes())
}

fn distribution_keys(
    supplies: &Supplies<'_>,
    context: (&Host, &Request<'_>),
    lock: &Lock,
    locked: &LockedRepository,
) -> Result<Vec<Certificate>> {
    let (host, request) = context;
    let pinned = request.recipe.distribution_keys(&lock.distribution)?;
    let mut files: Vec<Vec<u8>> =
        request.systems.iter().flat_map(|system| system.keys.clone()).collect();
    files.extend(systems::of_host(host).map(|host| host.keys).unwrap_or_default());
    let key = LockedFile { sha256: locked.key.sha256, size: locked.key.size };
    if let Some(found) = supplies.cache.find(&key.sha256, supplies.events)? {
        files.push(found.read()?);
    }
    let all = files.iter().flat_map(|file| openpgp::certificates(file).unwrap_or_default());
    let keys: Vec<Certificate> =
        all.filter(|certificate| pinned.contains(certificate.fingerprint())).collect();
    if keys.is_empty() {
        let fingerprint = &locked.key.fingerprint;
        return Err(Error::install(format!("find the key {fingerprint} of {}", lock.distribution))
            .hint("name a container or a template that has it: `--for 201`"));
    }
    Ok(keys)
}
