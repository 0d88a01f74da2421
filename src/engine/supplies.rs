//! Where artifacts come from: the cache, and behind it the network.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::apt;
use crate::architecture::Architecture;
use crate::artifact::{Artifact, Trust};
use crate::cache::{Cache, CachedArtifact, Tree};
use crate::engine::shared::CudaImage;
use crate::error::{Error, Result};
use crate::event::{Event, Events};
use crate::fetch::Fetcher;
use crate::fingerprint::Fingerprint;
use crate::host::cancel::Cancel;
use crate::lock::{Lock, LockedInstaller, LockedKey};
use crate::openpgp;
use crate::recipe::{self, Recipe};
use crate::runfile::header::Installer;
use crate::version::DriverVersion;

/// Whether a digest published beside the file may be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PublishedDigest {
    /// No: the recipe or an earlier lock must know the digest.
    #[default]
    Refused,
    /// Yes, when it came over TLS or from a local path (`--trust-tls`).
    TrustTls,
}

/// Cache and network together.
#[derive(Debug)]
pub struct Supplies<'a> {
    /// The store.
    pub cache: &'a Cache,
    /// The network.
    pub fetcher: &'a Fetcher,
    /// Who hears of progress.
    pub events: &'a dyn Events,
    /// Whether the work was asked to stop.
    pub cancel: &'a Cancel,
    /// What to do about an installer without a pinned digest.
    pub published: PublishedDigest,
    /// The repositories' keys that were fetched in this run, by what they must be.
    pub keys: Mutex<Vec<(Fingerprint, CachedArtifact)>>,
    /// The mirrors that were made ready in this run, and their packages as they were read for it.
    pub ready: Mutex<Vec<(Lock, (PathBuf, String))>>,
    /// The images of CUDA that were made ready in this run.
    pub images: Mutex<Vec<(Lock, CudaImage)>>,
}

/// A verified installer, and its unpacked tree.
#[derive(Debug)]
pub struct Driver {
    /// The `.run` in the cache.
    pub file: CachedArtifact,
    /// Its name, `NVIDIA-Linux-x86_64-580.76.05.run`.
    pub name: String,
    /// Why its digest is believed.
    pub trust: Trust,
    /// Its content, unpacked.
    pub tree: Tree,
}

/// A repository, and its verified key.
#[derive(Debug)]
pub struct Repository {
    /// Its URL.
    pub url: String,
    /// The key's pinned fingerprint.
    pub fingerprint: Fingerprint,
    /// The key file in the cache.
    pub file: CachedArtifact,
    /// The key, armoured.
    pub armoured: String,
}

impl Supplies<'_> {
    /// The installer of a recipe in a version: from the cache, or fetched, verified and unpacked.
    ///
    /// # Errors
    /// Install error.
    pub fn driver(
        &self,
        recipe: &Recipe,
        version: &DriverVersion,
        architecture: Architecture,
    ) -> Result<Driver> {
        let mut artifact = recipe.installer(version, architecture)?;
        let trust = self.settle_digest(&mut artifact, recipe, version)?;
        self.unpacked(artifact, trust, (version, architecture))
    }

    /// The installer that a lock names: under the recipe's pin, or where it has none under the
    /// lock's digest.
    ///
    /// # Errors
    /// Install error.
    pub fn driver_of_lock(&self, recipe: &Recipe, lock: &Lock) -> Result<Driver> {
        let locked = &lock.installer;
        let mut artifact = recipe.installer(&locked.version, lock.architecture)?;
        let trust = if artifact.digest.is_some() { Trust::Pinned } else { locked.trust };
        artifact.digest.get_or_insert(locked.sha256);
        self.unpacked(artifact, trust, (&locked.version, lock.architecture))
    }

    fn unpacked(
        &self,
        artifact: Artifact,
        trust: Trust,
        what: (&DriverVersion, Architecture),
    ) -> Result<Driver> {
        let (version, architecture) = what;
        let file = self.cache.obtain(&artifact, self.fetcher, self.events)?;
        let installer =
            Installer { name: artifact.name.clone(), version: version.clone(), architecture };
        let tree = self.cache.tree(&file, &installer, self.events)?;
        Ok(Driver { file, name: artifact.name, trust, tree })
    }

    /// The installer if the cache has it already; nothing is fetched.
    ///
    /// # Errors
    /// Install error when what the cache has cannot be used.
    pub fn driver_at_hand(
        &self,
        recipe: &Recipe,
        version: &DriverVersion,
        architecture: Architecture,
    ) -> Result<(Artifact, Option<Driver>)> {
        let mut artifact = recipe.installer(version, architecture)?;
        let locked = match artifact.digest {
            Some(_) => None,
            None => self.locked_installer(recipe, version, &artifact.name)?,
        };
        let trust = locked.as_ref().map_or(Trust::Pinned, |locked| locked.trust);
        if let Some(locked) = locked {
            (artifact.digest, artifact.size) = (Some(locked.sha256), Some(locked.size));
        }
        let Some(digest) = artifact.digest else { return Ok((artifact, None)) };
        let Some(file) = self.cache.find(&digest, self.events)? else {
            return Ok((artifact, None));
        };
        let installer =
            Installer { name: artifact.name.clone(), version: version.clone(), architecture };
        let tree = self.cache.tree(&file, &installer, self.events)?;
        let name = artifact.name.clone();
        Ok((artifact, Some(Driver { file, name, trust, tree })))
    }

    /// An installer of that version that a lock of the cache names, if the cache has it; nothing is
    /// fetched, and no recipe is asked: its digest was believed when the lock was written.
    ///
    /// # Errors
    /// Install error when what the cache has cannot be used.
    pub fn locked_driver_at_hand(
        &self,
        version: &DriverVersion,
        architecture: Architecture,
    ) -> Result<Option<Driver>> {
        for (_, lock) in self.locks()? {
            let locked = lock.installer;
            if &locked.version != version || lock.architecture != architecture {
                continue;
            }
            if let Some(file) = self.cache.find(&locked.sha256, self.events)? {
                let name = locked.name.clone();
                let installer = Installer { name, version: version.clone(), architecture };
                let tree = self.cache.tree(&file, &installer, self.events)?;
                return Ok(Some(Driver { file, name: locked.name, trust: locked.trust, tree }));
            }
        }
        Ok(None)
    }

    /// Finds out which digest the installer must have, and why that is believed: the recipe's
    /// pin, an earlier lock, or with `--trust-tls` the file published beside it.
    fn settle_digest(
        &self,
        artifact: &mut Artifact,
        recipe: &Recipe,
        version: &DriverVersion,
    ) -> Result<Trust> {
        if artifact.digest.is_some() {
            return Ok(Trust::Pinned);
        }
        if let Some(locked) = self.locked_installer(recipe, version, &artifact.name)? {
            (artifact.digest, artifact.size) = (Some(locked.sha256), Some(locked.size));
            return Ok(locked.trust);
        }
        self.refuse_unpinned(artifact)?;
        artifact.digest = Some(self.cache.read_published_digest(artifact, self.fetcher)?);
        let text = format!("`{}`: its digest is believed over TLS alone", artifact.name);
        self.events.emit(Event::Warning { text });
        Ok(Trust::Tls)
    }

    /// Refuses an installer whose digest nobody knows, where the published one may not be believed.
    ///
    /// # Errors
    /// Install error.
    pub fn refuse_unpinned(&self, artifact: &Artifact) -> Result<()> {
        if artifact.digest.is_some() || self.published == PublishedDigest::TrustTls {
            return Ok(());
        }
        let what = format!("verify `{}`: no digest of it is pinned", artifact.name);
        Err(Error::install(what).hint(
            "`--trust-tls` believes the digest that NVIDIA publishes beside it, and records it",
        ))
    }

    /// What an earlier run recorded of this installer: in a lock of any distribution, or of its own
    /// where the locks have another version by now.
    fn locked_installer(
        &self,
        recipe: &Recipe,
        version: &DriverVersion,
        name: &str,
    ) -> Result<Option<LockedInstaller>> {
        let is_it = |found: &LockedInstaller| &found.version == version && found.name == name;
        let locks = self.locks().unwrap_or_default().into_iter().map(|(_, lock)| lock);
        let mut installers =
            locks.filter(|lock| lock.recipe == recipe.name()).map(|lock| lock.installer);
        match installers.find(is_it) {
            Some(installer) => Ok(Some(installer)),
            None => Ok(self.cache.believed(recipe.name(), name)?.filter(is_it)),
        }
    }

    /// The repository of a recipe for a distribution, with its key: from the cache by the lock,
    /// or fetched and compared with the pinned fingerprint.
    ///
    /// # Errors
    /// Invalid input for a distribution that the recipe does not know, install error otherwise.
    pub fn repository(
        &self,
        recipe: &Recipe,
        distribution: &str,
        architecture: Architecture,
    ) -> Result<Repository> {
        if let Some(repository) = self.repository_at_hand(recipe, distribution, architecture)? {
            return Ok(repository);
        }
        let wanted = recipe.repository(distribution, architecture)?;
        let file = self.key(&wanted)?;
        let armoured = openpgp::armoured(&file.read()?)?;
        Ok(Repository { url: wanted.url, fingerprint: wanted.fingerprint, file, armoured })
    }

    /// The key of a repository, fetched once however many containers ask for it at the same time.
    fn key(&self, wanted: &recipe::Repository) -> Result<CachedArtifact> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, file)) = keys.iter().find(|(known, _)| *known == wanted.fingerprint) {
            return Ok(file.clone());
        }
        let name = wanted.key_url.rsplit('/').next().unwrap_or("key").to_owned();
        let urls = vec![wanted.key_url.clone()];
        let artifact = Artifact { name, urls, size: None, digest: None };
        let check = |bytes: &[u8]| openpgp::check_key(bytes, &wanted.fingerprint);
        let file = self.cache.obtain_checked(&artifact, self.fetcher, &check)?;
        keys.push((wanted.fingerprint.clone(), file.clone()));
        Ok(file)
    }

    /// The same if the cache has the key already; nothing is fetched.
    ///
    /// # Errors
    /// As [`Supplies::repository`].
    pub fn repository_at_hand(
        &self,
        recipe: &Recipe,
        distribution: &str,
        architecture: Architecture,
    ) -> Result<Option<Repository>> {
        let wanted = recipe.repository(distribution, architecture)?;
        let locked = self.locked_key(recipe, distribution, architecture)?;
        let Some(key) = locked.filter(|key| key.fingerprint == wanted.fingerprint) else {
            return Ok(None);
        };
        let Some(file) = self.cache.find(&key.sha256, self.events)? else { return Ok(None) };
        let bytes = file.read()?;
        // The lock says which file it is, the pin whether to trust it.
        openpgp::check_key(&bytes, &wanted.fingerprint)?;
        let armoured = openpgp::armoured(&bytes)?;
        Ok(Some(Repository { url: wanted.url, fingerprint: wanted.fingerprint, file, armoured }))
    }

    /// Every lock of the cache, with its file name. One that cannot be read is left out with a
    /// warning: a damaged lock of one recipe must not stop the work on another.
    ///
    /// # Errors
    /// Host error when the directory cannot be read.
    pub fn locks(&self) -> Result<Vec<(String, Lock)>> {
        let locks = self.cache.locks()?;
        for error in &locks.unreadable {
            let text = format!("failed to {}: left out", error.what());
            self.events.emit(Event::Warning { text });
        }
        Ok(locks.readable)
    }

    fn locked_key(
        &self,
        recipe: &Recipe,
        distribution: &str,
        architecture: Architecture,
    ) -> Result<Option<LockedKey>> {
        let name = Lock::file_name(recipe.name(), distribution, architecture);
        Ok(self.cache.lock(&name)?.and_then(|lock| lock.key))
    }

    /// A lock with installer and key, and no packages.
    pub fn new_lock(
        &self,
        recipe: &Recipe,
        target: (&str, Architecture),
        driver: &Driver,
        repository: Option<&Repository>,
    ) -> Lock {
        let installer = LockedInstaller {
            version: driver.tree.version().clone(),
            name: driver.name.clone(),
            sha256: *driver.file.digest(),
            size: driver.file.size(),
            trust: driver.trust,
        };
        let key = repository.map(|repository| LockedKey {
            fingerprint: repository.fingerprint.clone(),
            sha256: *repository.file.digest(),
            size: repository.file.size(),
        });
        Lock::new(recipe.name(), target, installer, key)
    }

    /// Writes down what was obtained for a target; packages that were locked stay.
    ///
    /// # Errors
    /// Install error when the cache cannot be written.
    pub fn record(
        &self,
        recipe: &Recipe,
        target: (&str, Architecture),
        driver: &Driver,
        repository: Option<&Repository>,
    ) -> Result<()> {
        let lock = self.new_lock(recipe, target, driver, repository);
        // Who holds it is about to write installer and key itself.
        let Some(_guard) = self.cache.try_hold_lock(&lock.own_file_name())? else {
            return Ok(());
        };
        match self.cache.lock(&lock.own_file_name()) {
            Ok(Some(old)) => self.cache.write_lock(&old.with_origin_of(&lock)),
            _ => self.cache.write_lock(&lock),
        }
    }
}

impl Repository {
    /// The files that apt reads inside the container for this repository.
    pub fn files(&self) -> [apt::AptFile; 2] {
        [apt::key(&self.armoured), apt::sources(&self.url, &self.fingerprint)]
    }
}
