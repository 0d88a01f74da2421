//! The repository's part of a recipe: where the packages for a distribution come from, and the one
//! key that is trusted for it.

use serde::Deserialize;

use super::Recipe;
use super::url::{self, fill};
use crate::architecture::Architecture;
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;

/// A CUDA repository as a recipe describes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RepositoryEntry {
    url: String,
    key: String,
    fingerprint: Fingerprint,
    architectures: Vec<Architecture>,
    older: Option<String>,
}

/// The distribution's own repositories: whose signatures are believed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DistributionEntry {
    keys: Vec<Fingerprint>,
}

impl RepositoryEntry {
    /// Refuses what could not be fetched.
    pub(super) fn check(&self) -> Result<()> {
        url::check(&self.url, &["https://", "http://", "file:/"])?;
        if self.key.is_empty() || self.key.contains(['/', ' ']) {
            return Err(Error::input(format!("`{}` is not the name of a key file", self.key)));
        }
        Ok(())
    }
}

/// A CUDA repository for one distribution and architecture: a flat one (`deb URL /`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// Its URL, with a slash at the end.
    pub url: String,
    /// Where its key lies.
    pub key_url: String,
    /// The fingerprint that the key must have.
    pub fingerprint: Fingerprint,
}

impl Recipe {
    /// The repository for a distribution (`debian12`: ID and VERSION_ID of os-release, without the
    /// dot).
    ///
    /// # Errors
    /// Invalid input for a distribution or architecture that the recipe does not know, and for a
    /// URL that was set and is for another distribution or architecture.
    pub fn repository(&self, distribution: &str, arch: Architecture) -> Result<Repository> {
        let what = format!("find the CUDA repository for `{distribution}`");
        let Some(entry) = self.repositories.get(distribution) else {
            let known: Vec<&str> = self.repositories.keys().map(String::as_str).collect();
            let name = self.name();
            return Err(Error::input(format!("{what}: recipe `{name}` does not know it"))
                .hint(format!("it knows {}", known.join(", ")))
                .hint("`--recipe driver-only` needs no repository"));
        };
        if !entry.architectures.contains(&arch) {
            return Err(Error::input(format!("{what}: NVIDIA has none of it for {arch}")));
        }
        let template = self.repository_url.as_ref().unwrap_or(&entry.url);
        let values = [("distribution", distribution), ("arch", arch.cuda_repository())];
        let mut filled = fill(template, &values)?;
        if let Some(other) = self.other_target(&filled, distribution, arch) {
            return Err(Error::input(format!("use the repository `{filled}` in `{distribution}`"))
                .because(format!("it is the one for `{other}`"))
                .hint(format!("NVIDIA's own is {}", fill(&entry.url, &values)?)));
        }
        if !filled.ends_with('/') {
            filled.push('/');
        }
        let key_url = format!("{filled}{}", entry.key);
        Ok(Repository { url: filled, key_url, fingerprint: entry.fingerprint.clone() })
    }

    /// The fingerprints of the keys that a distribution signs its own repositories with.
    ///
    /// # Errors
    /// Invalid input for a distribution whose keys the recipe does not know.
    pub fn distribution_keys(&self, distribution: &str) -> Result<&[Fingerprint]> {
        let entry = self.distributions.get(distribution).ok_or_else(|| {
            let name = self.name();
            Error::input(format!("verify packages of `{distribution}`: its keys are not known"))
                .hint(format!(
                    "`[distribution.{distribution}] keys = [\"FINGERPRINT\"]` in recipe `{name}`"
                ))
        })?;
        Ok(&entry.keys)
    }

    /// The distribution whose CUDA repository has versions that this distribution's lacks, under
    /// a key that this distribution's apt refuses.
    pub fn older_distribution(&self, distribution: &str) -> Option<&str> {
        self.repositories.get(distribution)?.older.as_deref()
    }

    /// The distributions that there are repositories for; none where the recipe has no packages.
    pub fn distributions(&self, arch: Architecture) -> Vec<String> {
        if self.install.is_empty() {
            return Vec::new();
        }
        let entries = self.repositories.iter();
        let fitting = entries.filter(|(_, entry)| entry.architectures.contains(&arch));
        fitting.map(|(name, _)| name.clone()).collect()
    }

    /// The part of a URL's path that names another distribution or architecture.
    fn other_target<'a>(
        &self,
        url: &'a str,
        distribution: &str,
        arch: Architecture,
    ) -> Option<&'a str> {
        let is_distribution = |part: &str| {
            let named = ["ubuntu", "debian"].iter().find_map(|name| part.strip_prefix(name));
            self.repositories.contains_key(part)
                || named.is_some_and(|number| {
                    !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
                })
        };
        let all = [Architecture::X86_64, Architecture::Aarch64];
        let is_other_arch =
            |part: &str| all.iter().any(|other| *other != arch && other.cuda_repository() == part);
        url.split('/')
            .find(|part| (is_distribution(part) && *part != distribution) || is_other_arch(part))
    }
}
