//! Everything that containers of one distribution will need of packages: resolved, downloaded,
//! verified, locked, and laid out as a partial mirror.
//!
//! Order of events: the systems that are named, and those of the old lock; their sources and the
//! keys that the recipe pins; the metadata of every repository; apt's answer for each system; the
//! packages, by digest; the lock, checked link by link as it will be when it is used; the mirror.

use std::collections::BTreeMap;

use crate::apt;
use crate::apt::base;
use crate::apt::isolated::Fetch;
use crate::apt::sources::Source;
use crate::apt::system::System;
use crate::engine::metadata::{Metadata, Older, PAUSE, TRIES, Wanted};
use crate::engine::resolve::{self, Resolver};
use crate::engine::supplies::Supplies;
use crate::engine::systems;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::fingerprint::Fingerprint;
use crate::host::Host;
use crate::host::runlog::RunLog;
use crate::host::wait::wait;
use crate::lock::{Lock, LockedFile, LockedPackage, LockedRepository, LockedTarget, Role};
use crate::openpgp::{self, Certificate};
use crate::recipe::Recipe;

/// The target that stands for a system without any packages: what it lacks serves systems that
/// nobody named.
const EMPTY: &str = "empty";

/// Whether a CUDA repository may be used whose key nothing but SHA-1 binds, for an apt that
/// refuses such keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sha1Bound {
    /// No.
    #[default]
    Refused,
    /// Yes, for this call (`--allow-sha1-bound-key`).
    Allowed,
}

/// What is to be prefetched.
#[derive(Debug)]
pub struct Request<'a> {
    /// The recipe.
    pub recipe: &'a Recipe,
    /// The systems that are named, all of one distribution and architecture.
    pub systems: Vec<System>,
    /// Whether older releases are accepted.
    pub older: Older,
    /// Whether the older repository is used.
    pub sha1: Sha1Bound,
}

/// A system to resolve for.
struct Target {
    name: String,
    status: Vec<u8>,
    origin: TargetOrigin,
    /// The packages, where they are not the request's.
    wants: Vec<String>,
}

/// Why a system is resolved for.
enum TargetOrigin {
    /// Somebody asked for it now; what cannot be resolved for it is an error.
    Named,
    /// The old lock has it, and keeps what it has for it where that cannot be told anew.
    Locked(LockedTarget),
    /// No system: [`EMPTY`].
    Empty,
}

/// Fetches what the systems lack, and completes the lock with it. `lock` has installer and key
/// already.
///
/// # Errors
/// Install error when something cannot be verified, resolved or fetched; the interruption.
pub fn prefetch(
    supplies: &Supplies<'_>,
    context: (&Host, &RunLog),
    request: &Request<'_>,
    lock: Lock,
) -> Result<Lock> {
    // An older lock that cannot be read is replaced.
    let old = supplies.cache.lock(&lock.own_file_name()).unwrap_or_default();
    let mut work = Work { supplies, context, request, lock, old, fetched: 0 };
    let targets = work.targets()?;
    loop {
        let lock = work.locked(&targets)?;
        let Err(error) = supplies.fetch_packages(&lock) else {
            supplies.mirror(&lock, request.recipe)?;
            return Ok(lock);
        };
        if !error.is_of_missing() {
            return Err(error);
        }
        work.fetched += 1;
        if work.fetched == TRIES {
            return Err(between_two_states(&error));
        }
        let text = format!("failed to {}: its repository may have a newer index", error.what());
        supplies.events.emit(Event::Note { text });
        wait(PAUSE, supplies.cancel)?;
    }
}

/// The error for packages that every index names and no repository has.
fn between_two_states(error: &Error) -> Error {
    let whole = Error::install("fetch the packages that the newest index names")
        .because(format!("failed to {}", error.what()));
    let whole = error.causes().iter().fold(whole, Error::because);
    whole
        .because(format!("its index was fetched {TRIES} times, and names it"))
        .hint("the repository is between two states: try again in some minutes")
}

struct Work<'a> {
    supplies: &'a Supplies<'a>,
    context: (&'a Host, &'a RunLog),
    request: &'a Request<'a>,
    lock: Lock,
    old: Option<Lock>,
    /// How often the repositories' metadata was fetched.
    fetched: u32,
}

/// What apt answered for each target.
type Resolved = Vec<(LockedTarget, Vec<Fetch>)>;

impl Work<'_> {
    /// The lock by what the repositories have now.
    fn locked(&self, targets: &[Target]) -> Result<Lock> {
        let mut repositories = self.repositories()?;
        let resolved = match self.resolve(targets, &repositories) {
            Err(error) => self.resolve_with_older(targets, &mut repositories, error)?,
            Ok(resolved) => resolved,
        };
        self.complete(&repositories, resolved)
    }

    /// The named systems, those of the old lock, and the empty one. A system that the old lock has
    /// for other packages stays with these too, unless they are among those that are wanted now.
    fn targets(&self) -> Result<Vec<Target>> {
        let mut targets: Vec<Target> = Vec::new();
        for system in &self.request.systems {
            let (name, status) = (system.name.clone(), system.status.clone());
            let wants = Vec::new();
            targets.push(Target { name, status, origin: TargetOrigin::Named, wants });
        }
        let wanted = self.request.recipe.packages();
        let named = targets.len();
        for (lock, old) in
            self.old.iter().flat_map(|lock| lock.targets.iter().map(move |t| (lock, t)))
        {
            let wants = match lock.wants_of(old) {
                wants if wants.iter().all(|name| wanted.contains(name)) => Vec::new(),
                wants => wants.to_vec(),
            };
            let is_it = |target: &Target| target.name == old.name && target.wants == wants;
            if (old.name == EMPTY && wants.is_empty()) || targets.iter().any(is_it) {
                continue;
            }
            // As it is now, where it is named.
            let now = targets[..named].iter().find(|target| target.name == old.name);
            let status = match now.map(|target| target.status.clone()) {
                Some(status) => status,
                None => self.status_of(old)?,
            };
            let (name, origin) = (old.name.clone(), TargetOrigin::Locked(old.clone()));
            targets.push(Target { name, status, origin, wants });
        }
        let (name, status, wants) = (EMPTY.to_owned(), Vec::new(), Vec::new());
        targets.push(Target { name, status, origin: TargetOrigin::Empty, wants });
        Ok(targets)
    }

    /// The dpkg status of a locked system; empty where the cache does not have it any more.
    fn status_of(&self, target: &LockedTarget) -> Result<Vec<u8>> {
        let found = self.supplies.cache.find(&target.status.sha256, self.supplies.events)?;
        found.map_or_else(|| Ok(Vec::new()), |file| file.read())
    }

    /// The metadata of the CUDA repository, then that of the distribution's.
    fn repositories(&self) -> Result<Vec<Metadata>> {
        let mut repositories = vec![self.cuda(Role::Cuda, &self.lock.distribution)?];
        let host = systems::of_host(self.context.0).ok();
        let (sources, keys) = (self.sources(host.as_ref())?, self.keys(host.as_ref())?);
        let cuda = repositories[0].locked.url.clone();
        for source in sources.into_iter().filter(|source| source.url != cuda) {
            let name = format!("distribution-{}", repositories.len());
            let (role, fetched) = (Role::Distribution, self.fetched);
            let wanted = Wanted { name, role, source, keys: &keys, fetched };
            if let Some(metadata) = self.metadata(&wanted)? {
                repositories.push(metadata);
            }
        }
        Ok(repositories)
    }

    fn metadata(&self, wanted: &Wanted<'_>) -> Result<Option<Metadata>> {
        let (architecture, older) = (self.lock.architecture, self.request.older);
        match self.supplies.metadata(wanted, architecture, older) {
            Ok(metadata) => Ok(Some(metadata)),
            // Somebody else's repository: its packages are not the distribution's. One that was
            // accepted before is never dropped like that.
            Err(error)
                if error.is_by_strangers()
                    && self.supplies.cache.accepted(&wanted.source.place())?.is_none() =>
            {
                let text = format!(
                    "`{}` is left out: no key that the recipe knows of {} signed it",
                    wanted.source.url, self.lock.distribution
                );
                self.supplies.events.emit(Event::Warning { text });
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn cuda(&self, role: Role, distribution: &str) -> Result<Metadata> {
        let architecture = self.lock.architecture;
        let repository =
            self.supplies.repository(self.request.recipe, distribution, architecture)?;
        let keys = openpgp::certificates(repository.armoured.as_bytes())?;
        let name = if role == Role::Cuda { "cuda" } else { "cuda-older" }.to_owned();
        let source = Source { url: repository.url, suite: "/".to_owned(), components: Vec::new() };
        let wanted = Wanted { name, role, source, keys: &keys, fetched: self.fetched };
        self.supplies.metadata(&wanted, architecture, self.request.older)
    }

    /// The distribution's repositories: those of the named systems, of the old lock, or of this
    /// host if it is of the same distribution.
    fn sources(&self, host: Option<&System>) -> Result<Vec<Source>> {
        let named = self.request.systems.iter().flat_map(|system| &system.sources);
        let mut sources: Vec<Source> = named.cloned().collect();
        if sources.is_empty() {
            sources = self.earlier().map(source_of).collect();
        }
        let distribution = &self.lock.distribution;
        if let Some(host) = host.filter(|host| &host.distribution == distribution)
            && sources.is_empty()
        {
            sources.clone_from(&host.sources);
        }
        if sources.is_empty() {
            let what = format!("find the repositories of {distribution}: no apt source is known");
            return Err(Error::input(what).hint(
                "name a container or a template of it: `--for 201`, `--for debian-12.tar.zst`",
            ));
        }
        sources.sort();
        sources.dedup();
        // A path in a container's sources means a directory of the container's.
        let is_local = |source: &Source| source.url.starts_with("file:");
        for source in sources.iter().filter(|source| is_local(source)) {
            let text = format!("`{}` is left out: it lies in the system itself", source.url);
            self.supplies.events.emit(Event::Warning { text });
        }
        sources.retain(|source| !is_local(source));
        Ok(sources)
    }

    /// The repositories of the distribution in the old lock.
    fn earlier(&self) -> impl Iterator<Item = &LockedRepository> {
        let all = self.old.iter().flat_map(|old| &old.repositories);
        all.filter(|repository| repository.role == Role::Distribution)
    }

    /// The distribution's pinned keys, among all that the named systems, the cache and this host
    /// have.
    fn keys(&self, host: Option<&System>) -> Result<Vec<Certificate>> {
        let distribution = &self.lock.distribution;
        let pinned = self.request.recipe.distribution_keys(distribution)?;
        let systems = self.request.systems.iter().chain(host);
        let mut files: Vec<Vec<u8>> = systems.flat_map(|system| system.keys.clone()).collect();
        for old in self.earlier() {
            let key = self.supplies.cache.find(&old.key.sha256, self.supplies.events)?;
            files.extend(key.map(|key| key.read()).transpose()?);
        }
        let all = files.iter().flat_map(|file| openpgp::certificates(file).unwrap_or_default());
        let keys: BTreeMap<String, Certificate> = all
            .filter(|certificate| pinned.contains(certificate.fingerprint()))
            .map(|certificate| (certificate.fingerprint().to_string(), certificate))
            .collect();
        if keys.is_empty() {
            let pinned: Vec<&str> = pinned.iter().map(Fingerprint::as_str).collect();
            return Err(Error::install(format!("find a key of {distribution}"))
                .because(format!("pinned are {}", pinned.join(", ")))
                .because("none of the system's keyrings has one of them, nor has this host")
                .hint("install the distribution's keyring package there or here"));
        }
        Ok(keys.into_values().collect())
    }

    fn pins(&self) -> String {
        let recipe = self.request.recipe;
        apt::pins(recipe.denied_packages(), recipe.allowed_packages()).text + "\n"
    }

    fn resolve(&self, targets: &[Target], repositories: &[Metadata]) -> Result<Resolved> {
        let packages = self.request.recipe.packages();
        let workspace = self.supplies.cache.workspace()?;
        let what = (repositories, self.lock.architecture);
        let resolver = Resolver::new(self.context, workspace, what, &self.pins())?;
        let mut resolved = Vec::new();
        for target in targets {
            let wants = if target.wants.is_empty() { packages } else { &target.wants };
            let found = self.closure(&resolver, target, wants);
            let fetches = match (found, &target.origin) {
                (Ok(fetches), _) => fetches,
                (Err(error), _) if error.is_interrupted() => return Err(error),
                (Err(error), TargetOrigin::Named) => {
                    return Err(error.because(format!("for {}", target.name)));
                }
                (Err(_), TargetOrigin::Empty) => continue,
                (Err(error), TargetOrigin::Locked(old)) => {
                    if let Some(kept) = self.as_it_was(old, error, repositories)? {
                        resolved.push(kept);
                    }
                    continue;
                }
            };
            let status = self.supplies.cache.store(&target.status)?;
            let status = LockedFile { sha256: *status.digest(), size: status.size() };
            let (name, wants) = (target.name.clone(), target.wants.clone());
            resolved.push((LockedTarget { name, status, wants, packages: Vec::new() }, fetches));
        }
        Ok(resolved)
    }

    /// What a system lacks as it is, and without all that its distribution does not require: what
    /// it has already a fresh one has not, nor itself after that was removed.
    fn closure(
        &self,
        resolver: &Resolver<'_>,
        target: &Target,
        packages: &[String],
    ) -> Result<Vec<Fetch>> {
        let is_unknown = target.status.is_empty() && !matches!(target.origin, TargetOrigin::Empty);
        if let (true, TargetOrigin::Locked(_)) = (is_unknown, &target.origin) {
            return Err(Error::install(
                "read its dpkg status: the cache does not have it any more",
            ));
        }
        let mut fetches = resolver.closure(&target.status, packages)?;
        let base = base::status(&target.status);
        if base.len() < target.status.len() {
            match resolver.closure(&base, packages) {
                Ok(more) => fetches.extend(more),
                Err(error) if error.is_interrupted() => return Err(error),
                Err(error) => {
                    let (name, what) = (&target.name, error.what());
                    let text =
                        format!("{name}: only what it lacks now is locked: failed to {what}");
                    self.supplies.events.emit(Event::Warning { text });
                }
            }
        }
        fetches.sort_by_key(|fetch| fetch.sha256);
        fetches.dedup_by_key(|fetch| fetch.sha256);
        Ok(fetches)
    }

    /// What the old lock has for a system, as far as the repositories still have it.
    fn as_it_was(
        &self,
        old: &LockedTarget,
        error: Error,
        repositories: &[Metadata],
    ) -> Result<Option<(LockedTarget, Vec<Fetch>)>> {
        let Some(lock) = &self.old else { return Ok(None) };
        let of_it = |package: &&LockedPackage| old.packages.contains(&package.label());
        let fetch =
            |package: &LockedPackage| Fetch { file: package.path.clone(), sha256: package.sha256 };
        let locked: Vec<Fetch> = lock.packages.iter().filter(of_it).map(fetch).collect();
        let listed = resolve::listed(&locked, repositories)?;
        let (count, of) = (listed.len(), locked.len());
        let text = format!(
            "{} keeps {count} of {of} locked packages: failed to {}",
            old.name,
            error.what()
        );
        self.supplies.events.emit(Event::Warning { text });
        let wanted = self.request.recipe.packages();
        let wants = match lock.wants_of(old) {
            wants if wants.iter().all(|name| wanted.contains(name)) => Vec::new(),
            wants => wants.to_vec(),
        };
        Ok((count > 0)
            .then(|| (LockedTarget { wants, packages: Vec::new(), ..old.clone() }, listed)))
    }

    /// What this distribution's repository does not have, the one for the distribution before may:
    /// under a key that this distribution's apt refuses. It is used only where that is allowed.
    fn resolve_with_older(
        &self,
        targets: &[Target],
        repositories: &mut Vec<Metadata>,
        error: Error,
    ) -> Result<Resolved> {
        let recipe = self.request.recipe;
        let lacking = resolve::lacking(recipe.packages(), repositories)?;
        if error.is_interrupted() || lacking.is_empty() {
            return Err(error);
        }
        let (names, own) = (lacking.join(" "), &self.lock.distribution);
        let error = Error::install(format!("resolve {names} for {own}"))
            .because(format!("no repository for {own} has it"));
        let error = match own == "debian12" && lacking.iter().any(|name| name == "nvtop") {
            true => error.hint("on Debian 12 the sources need the component `contrib` for nvtop"),
            false => error,
        };
        let older = recipe.older_distribution(own);
        let older = older.map(|older| Ok((older, self.cuda(Role::OlderCuda, older)?)));
        let Some((older, metadata)) = older.transpose()? else {
            return Err(error.hint(resolve::offered(&repositories[0])?));
        };
        if !resolve::lacking(&lacking, std::slice::from_ref(&metadata))?.is_empty() {
            return Err(error.hint(resolve::offered(&repositories[0])?));
        }
        if self.request.sha1 == Sha1Bound::Refused && metadata.locked.sha1_bound {
            let key = &metadata.locked.key.fingerprint;
            return Err(error
                .because(format!(
                    "the CUDA one for {older} has, but only SHA-1 binds its key {key}, which the apt of {own} refuses"
                ))
                .hint(resolve::offered(&repositories[0])?)
                .hint("`--allow-sha1-bound-key` takes it from there, for this call"));
        }
        repositories.insert(1, metadata);
        self.resolve(targets, repositories)
    }

    fn complete(&self, repositories: &[Metadata], resolved: Resolved) -> Result<Lock> {
        let mut all: Vec<Fetch> =
            resolved.iter().flat_map(|(_, fetches)| fetches.clone()).collect();
        all.sort_by_key(|fetch| fetch.sha256);
        all.dedup_by_key(|fetch| fetch.sha256);
        let packages = resolve::look_up(&all, repositories)?;
        if let Some(denied) = packages.iter().find(|one| self.request.recipe.denies(&one.name)) {
            return Err(Error::install(format!("prefetch `{}`", denied.label()))
                .because("the recipe denies packages of this name: they may bring a driver of another version"));
        }
        let label = |fetch: &Fetch| {
            let package = packages.iter().find(|package| package.sha256 == fetch.sha256);
            package.map(LockedPackage::label)
        };
        let mut targets = Vec::new();
        for (mut target, fetches) in resolved {
            target.packages = fetches.iter().filter_map(label).collect();
            target.packages.sort();
            targets.push(target);
        }
        let mut lock = self.lock.clone();
        lock.wants = self.request.recipe.packages().to_vec();
        lock.repositories = repositories.iter().map(|one| one.locked.clone()).collect();
        (lock.targets, lock.packages) = (targets, packages);
        Ok(lock)
    }
}

fn source_of(repository: &LockedRepository) -> Source {
    Source {
        url: repository.url.clone(),
        suite: repository.suite.clone(),
        components: repository.components.clone(),
    }
}
