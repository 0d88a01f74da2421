//! What is different from a recipe for one run: from the environment, or from `--set key=value`.

use super::installer::DriverChoice;
use super::nearest::did_you_mean;
use super::{Recipe, packages, url};
use crate::error::{Error, Result};

/// The keys that `--set` knows.
const KEYS: [&str; 4] = ["driver", "installer.url", "repository.url", "packages"];

/// Schemes from which an installer can come; an absolute path will do as well.
const INSTALLER_SCHEMES: [&str; 4] = ["https://", "http://", "file://", "/"];
/// Schemes that the container's apt understands.
const REPOSITORY_SCHEMES: [&str; 3] = ["https://", "http://", "file:/"];

/// Values that take the place of a recipe's; `None` leaves the recipe's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Overrides {
    /// The driver: `host` or a version.
    pub driver: Option<String>,
    /// The CUDA repository; may contain `{distribution}` and `{arch}` (`x86_64`, `sbsa`). An empty
    /// one is the recipe's again.
    pub repository_url: Option<String>,
    /// The installer; may contain `{version}` and `{arch}` (`x86_64`, `aarch64`). An empty one is the
    /// recipe's again.
    pub installer_url: Option<String>,
    /// The packages to install.
    pub packages: Option<Vec<String>>,
}

impl Overrides {
    /// Reads settings of the form `key=value`; of a repeated key the last one counts.
    ///
    /// # Errors
    /// Invalid input for an unknown key, which is compared with the known ones.
    pub fn from_settings(settings: &[String]) -> Result<Self> {
        let mut overrides = Self::default();
        for setting in settings {
            let Some((key, value)) = setting.split_once('=') else {
                return Err(Error::input(format!("set `{setting}`: it has no `=`"))
                    .hint("a setting looks like `driver=580.76.05`"));
            };
            let text = || Some(value.trim().to_owned());
            match key.trim() {
                "driver" => overrides.driver = text(),
                "installer.url" => overrides.installer_url = text(),
                "repository.url" => overrides.repository_url = text(),
                "packages" => {
                    let names = value.split(',').map(|name| name.trim().to_owned());
                    overrides.packages = Some(match value.trim() {
                        "" => Vec::new(),
                        _ => names.collect(),
                    });
                }
                other => {
                    return Err(Error::input(format!("set `{other}`: there is no such key"))
                        .hint(did_you_mean(other, &KEYS)));
                }
            }
        }
        Ok(overrides)
    }
}

impl Recipe {
    /// The recipe with some values replaced.
    ///
    /// # Errors
    /// Invalid input for a malformed value. Whether the URLs fit version, architecture and
    /// distribution is seen in [`Recipe::installer`] and [`Recipe::repository`].
    pub fn with(mut self, overrides: &Overrides) -> Result<Self> {
        if let Some(driver) = &overrides.driver {
            self.driver = DriverChoice::parse(driver)?;
            let version = match &self.driver {
                DriverChoice::Host => None,
                DriverChoice::Exactly(version) => Some(version.to_string()),
            };
            self.keep("driver", version.as_deref());
        }
        if let Some(installer) = &overrides.installer_url {
            let installer = checked(installer, &INSTALLER_SCHEMES)?;
            self.keep("installer.url", installer.as_deref());
            self.installer_url = installer;
        }
        if let Some(repository) = &overrides.repository_url {
            let repository = checked(repository, &REPOSITORY_SCHEMES)?;
            self.keep("repository.url", repository.as_deref());
            self.repository_url = repository;
        }
        if let Some(names) = &overrides.packages {
            packages::check(names, &self.deny, &self.allow)?;
            self.install.clone_from(names);
            self.keep("packages", Some(&names.join(",")));
        }
        Ok(self)
    }

    /// What was replaced, as `--set` takes it.
    pub fn settings(&self) -> &[String] {
        &self.settings
    }

    /// Remembers what a key was set to; `None` is the recipe's value.
    fn keep(&mut self, key: &str, value: Option<&str>) {
        let begin = format!("{key}=");
        self.settings.retain(|setting| !setting.starts_with(&begin));
        self.settings.extend(value.map(|value| begin + value));
    }
}

/// A URL of these schemes; `None` for an empty one.
fn checked(url: &str, schemes: &[&str]) -> Result<Option<String>> {
    match url.trim() {
        "" => Ok(None),
        url => url::check(url, schemes).map(|()| Some(url.to_owned())),
    }
}
