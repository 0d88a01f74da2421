//! What of a container's packages the cache has: the lock for its distribution, how old it is, and
//! the partial mirror it is installed from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::PoisonError;

use jiff::{SignedDuration, Timestamp};

use crate::apt::{self, mirror};
use crate::architecture::Architecture;
use crate::artifact::Artifact;
use crate::digest::Digest;
use crate::engine::chain::{self, Chain, Unpinned};
use crate::engine::closure::Sha1Bound;
use crate::engine::resolve;
use crate::engine::shown::PLACE;
use crate::engine::supplies::Supplies;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::facts::Facts;
use crate::fetch::Network;
use crate::lock::{Lock, LockedFile, LockedPackage, LockedRepository, Role};
use crate::recipe::Recipe;

/// Releases older than this many days are warned of.
const OLD: u32 = 30;

/// What is accepted of the cache's packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    /// Releases older than this many days are refused.
    pub max_age: Option<u32>,
    /// Whether keys that SHA-1 binds are accepted by an apt that refuses them.
    pub sha1: Sha1Bound,
}

/// A partial mirror, ready to be shown inside.
#[derive(Debug, Clone)]
pub struct Mirror {
    /// Its directory in the cache.
    pub directory: PathBuf,
    /// An empty directory: a mount without an upper layer needs two.
    pub nothing: PathBuf,
    /// Its packages that were read again in this run, each a line: digest, size, mtime, ctime, path.
    pub read: String,
    /// Its lock.
    pub lock: Lock,
    /// Whether apt is told for this call to accept a key that SHA-1 binds.
    pub sha1: Sha1Bound,
}

impl Mirror {
    /// The wanted packages in the versions of the lock, as apt takes them; those of another
    /// architecture than the wanted name's come by themselves.
    pub fn wanted(&self, names: &[String]) -> Vec<String> {
        names
            .iter()
            .map(|name| match version(&self.lock, name) {
                Some(version) => format!("{name}={version}"),
                None => name.clone(),
            })
            .collect()
    }
}

/// The version of a package in a lock, the highest of several.
pub fn version<'a>(lock: &'a Lock, name: &str) -> Option<&'a str> {
    let of_name = lock.packages.iter().filter(|package| package.name == name);
    of_name.map(|package| package.version.as_str()).max_by(|a, b| apt::version::compare(a, b))
}

/// The versions of some packages in a lock, by name.
pub fn versions(lock: &Lock, names: &[String]) -> BTreeMap<String, String> {
    let version = |name: &String| Some((name.clone(), version(lock, name)?.to_owned()));
    names.iter().filter_map(version).collect()
}

impl Supplies<'_> {
    /// The lock with the packages of a recipe for a distribution; `None` where the cache has none
    /// for all of them.
    ///
    /// # Errors
    /// Install error for a lock that cannot be read, and offline where there is none.
    pub fn stock(
        &self,
        recipe: &Recipe,
        distribution: &str,
        architecture: Architecture,
    ) -> Result<Option<Lock>> {
        let name = Lock::file_name(recipe.name(), distribution, architecture);
        let whole = self.cache.lock(&name)?;
        let lock = whole.as_ref().and_then(|lock| lock.covering(recipe.packages()));
        if lock.is_some() || self.fetcher.network() == Network::Allowed {
            return Ok(lock);
        }
        let packages = recipe.packages().join(" ");
        let error = Error::install(format!(
            "install {packages} offline: the cache has no packages for {distribution}"
        ));
        let others = whole.iter().flat_map(|lock| lock.wanted());
        let others: Vec<String> = others.map(|wants| wants.join(" ")).collect();
        let error = match others.concat().is_empty() {
            true => error,
            false => error.because(format!("it has them for {}", others.join("; for "))),
        };
        Err(error
        .hint("on a host with network: `nvstage prefetch --for CTID`, or `--for TEMPLATE.tar.zst`")
        .hint("`nvstage bundle export`, and `nvstage bundle import` here, carry them over"))
    }

    /// The mirror of a lock for a container, if rules and container allow it. What is missing in
    /// the cache is fetched again, unless this run is offline.
    ///
    /// # Errors
    /// Install error when it is too old, its key is refused, or a file is damaged or missing.
    pub fn stocked(&self, lock: Lock, recipe: &Recipe, context: (&Facts, Rules)) -> Result<Mirror> {
        let (facts, rules) = context;
        self.check_freshness(&lock, rules.max_age, Timestamp::now())?;
        let refused = lock.repositories.iter().find(|repository| repository.sha1_bound);
        if let Some(repository) = refused.filter(|_| facts.has_sqv)
            && rules.sha1 == Sha1Bound::Refused
        {
            return Err(Error::install(format!("use `{}` in this container", repository.url))
                .because(format!(
                    "only SHA-1 binds its key {}, which this container's apt refuses",
                    repository.key.fingerprint
                ))
                .hint("`--allow-sha1-bound-key` lets it accept the pinned key, for this call"));
        }
        let (directory, read) = self.mirror_once(&lock, recipe)?;
        Ok(Mirror { directory, nothing: self.cache.nothing()?, read, lock, sha1: rules.sha1 })
    }

    /// The mirror of a lock, and its packages as [`Mirror::read`] has them: verified and made ready
    /// once in a run, however many containers are installed from it.
    fn mirror_once(&self, lock: &Lock, recipe: &Recipe) -> Result<(PathBuf, String)> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, made)) = ready.iter().find(|(known, _)| known == lock) {
            return Ok(made.clone());
        }
        let (mut directory, mut read) = self.mirror_and_read(lock, recipe)?;
        if read.len() < lock.packages.len() {
            // What was damaged is gone from the cache now, and fetched again if it may be.
            (directory, read) = self.mirror_and_read(lock, recipe)?;
        }
        let made = (directory, read.concat());
        ready.push((lock.clone(), made.clone()));
        Ok(made)
    }

    fn mirror_and_read(&self, lock: &Lock, recipe: &Recipe) -> Result<(PathBuf, Vec<String>)> {
        if self.fetcher.network() == Network::Forbidden {
            self.check_packages(lock)?;
        }
        self.fetch_packages(lock)?;
        let directory = self.mirror(lock, recipe)?;
        // After that: a new link to a file is a change of it.
        let digests: Vec<Digest> = lock.packages.iter().map(|package| package.sha256).collect();
        let found = self.cache.read_again(&digests, self.events)?;
        let line = |package: &LockedPackage| {
            let stamp = found.get(&package.sha256)?.in_words_of_stat();
            Some(format!("{} {stamp} {}\n", package.sha256, mirror::path(package)))
        };
        Ok((directory, lock.packages.iter().filter_map(line).collect()))
    }

    /// Lists every package of a lock that the cache lacks.
    fn check_packages(&self, lock: &Lock) -> Result<()> {
        let mut missing = Vec::new();
        for package in &lock.packages {
            if self.cache.find(&package.sha256, self.events)?.is_none() {
                missing.push(package.label());
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let count = missing.len();
        let what = format!("install packages offline: the cache lacks {count} of its lock");
        Err(Error::install(what).because(missing.join("\n")).hint(
            "on a host with network: `nvstage prefetch --locked`; or import the bundle again",
        ))
    }

    /// Valid-Until is not looked at offline, so age is judged here: of the newest release of each
    /// party, because a stable distribution's own release is months old by nature.
    fn check_freshness(&self, lock: &Lock, max_age: Option<u32>, now: Timestamp) -> Result<()> {
        for role in [Role::Cuda, Role::OlderCuda, Role::Distribution] {
            let of_role = lock.repositories.iter().filter(|one| one.role == role);
            let Some(newest) = of_role.max_by_key(|one| one.date) else { continue };
            let days = age_in_days(newest, now);
            let age = format!("the newest release of `{}` is {days} days old", newest.url);
            if let Some(limit) = max_age.filter(|limit| days > i64::from(*limit)) {
                return Err(Error::install(format!("use packages from the cache: {age}"))
                    .because(format!("--max-age allows {limit}"))
                    .hint("`nvstage prefetch` brings the cache up to date"));
            }
            if days > i64::from(OLD) {
                self.events.emit(Event::Warning { text: age });
            }
        }
        Ok(())
    }

    /// Whether the cache has the release of a locked repository, its indexes and its key.
    ///
    /// # Errors
    /// Host error when the cache cannot be read.
    pub fn has_repository(&self, repository: &LockedRepository) -> Result<bool> {
        let indexes = repository.indexes.iter().map(|index| index.sha256);
        for digest in indexes.chain([repository.release.sha256, repository.key.sha256]) {
            if self.cache.find(&digest, self.events)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The names of all packages in the cached indexes of a distribution's repositories, whatever
    /// was resolved, with the date of the CUDA release; `None` where the cache does not have them.
    ///
    /// # Errors
    /// Install error when an index cannot be read.
    pub fn known_packages(
        &self,
        recipe: &Recipe,
        distribution: &str,
        architecture: Architecture,
    ) -> Result<Option<(Timestamp, BTreeSet<String>)>> {
        let name = Lock::file_name(recipe.name(), distribution, architecture);
        let Ok(Some(lock)) = self.cache.lock(&name) else { return Ok(None) };
        let Some(cuda) = lock.repositories.first() else { return Ok(None) };
        let mut names = BTreeSet::new();
        for index in lock.repositories.iter().flat_map(|repository| &repository.indexes) {
            let Some(file) = self.cache.find(&index.sha256, self.events)? else { return Ok(None) };
            for listed in resolve::packages(&file, &index.path)? {
                names.insert(listed?.name);
            }
        }
        Ok(Some((cuda.date, names)))
    }

    /// The packages of a lock into the cache.
    ///
    /// # Errors
    /// Install error when one cannot be had with its digest.
    pub fn fetch_packages(&self, lock: &Lock) -> Result<()> {
        let artifacts: Vec<Artifact> = lock
            .packages
            .iter()
            .map(|package| Artifact {
                name: package.path.rsplit('/').next().unwrap_or(&package.path).to_owned(),
                urls: lock
                    .repository(&package.repository)
                    .map(|r| url(r, package))
                    .into_iter()
                    .collect(),
                size: Some(package.size),
                digest: Some(package.sha256),
            })
            .collect();
        self.obtain_all("packages", &artifacts)
    }

    /// The partial mirror of a lock, whose chain is verified for it.
    ///
    /// # Errors
    /// Install error when a link of the chain does not hold or a file is missing.
    pub fn mirror(&self, lock: &Lock, recipe: &Recipe) -> Result<PathBuf> {
        let chain = self.chain(lock, recipe)?;
        let pins = apt::pins(recipe.denied_packages(), recipe.allowed_packages());
        let layout = mirror::layout(lock, PLACE, &chain.keys, &pins.text);
        self.cache.mirror(&layout, self.events)
    }

    /// Verifies the chain of a lock over the cache's files.
    ///
    /// # Errors
    /// As [`chain::verify`].
    pub fn chain(&self, lock: &Lock, recipe: &Recipe) -> Result<Chain> {
        let blobs = |file: &LockedFile, what: &str| {
            let found = self.cache.find(&file.sha256, self.events)?;
            found.map(|found| found.path().to_owned()).ok_or_else(|| {
                Error::install(format!("use {what}: the cache does not have it"))
                    .because(format!("wanted is a file with the SHA-256 digest {}", file.sha256))
                    .hint("`nvstage prefetch` fetches it again")
            })
        };
        // What an earlier run recorded without a pin was allowed then.
        chain::verify(lock, recipe, &blobs, Unpinned::Allowed)
    }
}

fn age_in_days(repository: &LockedRepository, now: Timestamp) -> i64 {
    let age: SignedDuration = now.duration_since(repository.date);
    age.as_hours() / 24
}

/// The URL of a package: its path as it is, and so with the percent sign of a name quoted.
fn url(repository: &LockedRepository, package: &LockedPackage) -> String {
    let path = package.path.strip_prefix("./").unwrap_or(&package.path);
    format!("{}{}", repository.url, path.replace('%', "%25"))
}
