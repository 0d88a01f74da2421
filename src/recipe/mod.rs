//! Recipes: what to install, as data.
//!
//! A recipe is a TOML file (`schema = 1`). Three are shipped; two more files beside them hold what
//! all recipes share: the pinned installers and the repositories with the packages that are denied.
//! What a recipe says itself comes before what is shared.

pub(crate) mod document;
mod installer;
mod method;
mod nearest;
mod overrides;
mod packages;
mod repository;
mod url;

use std::collections::BTreeMap;

use serde::Deserialize;

pub use self::installer::DriverChoice;
pub use self::method::{CudaMethod, Userland};
pub use self::overrides::Overrides;
pub use self::repository::Repository;

use self::document::{PinsFile, RecipeFile, RepositoriesFile, Urls};
use self::installer::Pin;
use self::nearest::did_you_mean;
use self::repository::{DistributionEntry, RepositoryEntry};
use crate::container::passthrough::Method;
use crate::error::{Error, Result};
use crate::gpu::GpuAssignment;
use crate::runfile::options::Options;

/// The shipped recipes, the default one first.
const SHIPPED: [(&str, &str); 3] = [
    ("cuda-12-8", include_str!("../../recipes/cuda-12-8.toml")),
    ("driver-only", include_str!("../../recipes/driver-only.toml")),
    ("driver-full", include_str!("../../recipes/driver-full.toml")),
];
const PINS: &str = include_str!("../../recipes/pins.toml");
const REPOSITORIES: &str = include_str!("../../recipes/repositories.toml");

/// The recipe that is used unless another one is named.
pub const DEFAULT: &str = "cuda-12-8";

/// The profile that installs everything a recipe names.
pub const FULL: &str = "full";

/// What to install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    origin: String,
    text: String,
    profile: String,
    name: String,
    description: String,
    driver: DriverChoice,
    userland: Option<Userland>,
    cuda: Option<CudaMethod>,
    urls: Urls,
    pins: Vec<Pin>,
    installer_options: Options,
    repositories: BTreeMap<String, RepositoryEntry>,
    distributions: BTreeMap<String, DistributionEntry>,
    install: Vec<String>,
    profiles: BTreeMap<String, Vec<String>>,
    deny: Vec<String>,
    allow: Vec<String>,
    gpus: Option<String>,
    method: Option<Method>,
    group: Option<String>,
    checks: Vec<Check>,
    repository_url: Option<String>,
    installer_url: Option<String>,
    settings: Vec<String>,
}

/// Something that is checked after the installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// The driver's files are all there, and of the kernel module's version.
    Libraries,
    /// The device nodes can be opened.
    Nodes,
    /// `nvidia-smi` finds the GPUs.
    NvidiaSmi,
    /// The packages are installed.
    Packages,
}

impl Check {
    /// The name as recipes write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Libraries => "libraries",
            Self::Nodes => "nodes",
            Self::NvidiaSmi => "nvidia-smi",
            Self::Packages => "packages",
        }
    }
}

impl Recipe {
    /// Reads a recipe; `origin` is its path or name, for messages.
    ///
    /// # Errors
    /// Invalid input that names the line, and for a misspelled key the nearest known one.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        let file: RecipeFile = document::read(text, origin)?;
        let shared_pins: PinsFile = document::read(PINS, "pins.toml")?;
        let shared: RepositoriesFile = document::read(REPOSITORIES, "repositories.toml")?;
        let mut urls = shared_pins.urls;
        urls.extend(file.driver.urls);
        let mut repositories = shared.repository;
        repositories.extend(file.repository);
        let mut distributions = shared.distribution;
        distributions.extend(file.distribution);
        let recipe = Self {
            origin: origin.to_owned(),
            text: text.to_owned(),
            profile: FULL.to_owned(),
            name: file.name,
            description: file.description,
            driver: file.driver.version,
            userland: file.driver.method,
            cuda: file.packages.cuda,
            urls,
            pins: file.driver.pins.into_iter().chain(shared_pins.pins).collect(),
            installer_options: file.driver.installer,
            repositories,
            distributions,
            install: file.packages.install,
            profiles: file.packages.profiles,
            deny: file.packages.deny.unwrap_or(shared.packages.deny),
            allow: file.packages.allow.unwrap_or(shared.packages.allow),
            gpus: file.passthrough.gpus,
            method: file.passthrough.method,
            group: file.passthrough.group,
            checks: file.checks.run,
            repository_url: None,
            installer_url: None,
            settings: Vec::new(),
        };
        let fail = |error: Error| {
            Error::input(format!("read the recipe `{origin}`")).because(error.what())
        };
        recipe.check().map_err(fail)?;
        Ok(recipe)
    }

    /// A shipped recipe; `None` when there is none of this name.
    pub fn shipped(name: &str) -> Option<Result<Self>> {
        let (_, text) = SHIPPED.iter().find(|(shipped, _)| *shipped == name)?;
        Some(Self::parse(text, name))
    }

    /// The names of the shipped recipes, the default one first.
    pub fn shipped_names() -> Vec<&'static str> {
        SHIPPED.iter().map(|(name, _)| *name).collect()
    }

    /// The recipe with the packages of one of its profiles, and its name with that of the profile;
    /// [`FULL`] is the recipe as it is.
    ///
    /// # Errors
    /// Invalid input for a profile that it does not have.
    pub fn with_profile(mut self, profile: &str) -> Result<Self> {
        if profile == FULL {
            return Ok(self);
        }
        let Some(packages) = self.profiles.get(profile) else {
            let known: Vec<&str> = self.profile_names().collect();
            return Err(Error::input(format!("use profile `{profile}` of `{}`", self.name))
                .hint(did_you_mean(profile, &known)));
        };
        self.install.clone_from(packages);
        self.name = format!("{}-{profile}", self.name);
        profile.clone_into(&mut self.profile);
        Ok(self)
    }

    /// The names of its profiles.
    pub fn profile_names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(FULL).chain(self.profiles.keys().map(String::as_str))
    }

    /// Its name; fit for a file name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it installs, in a few words.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Which driver version it wants.
    pub fn driver_choice(&self) -> &DriverChoice {
        &self.driver
    }

    /// What NVIDIA's installer is asked for.
    pub fn installer_options(&self) -> &Options {
        &self.installer_options
    }

    /// The packages to install, from whichever of the container's repositories has them.
    pub fn packages(&self) -> &[String] {
        &self.install
    }

    /// The same recipe with other packages, which were chosen by us and not by a user.
    #[must_use]
    pub fn with_packages(mut self, packages: Vec<String>) -> Self {
        self.install = packages;
        self
    }

    /// Patterns of packages that must not come into a container, because they bring a driver.
    pub fn denied_packages(&self) -> &[String] {
        &self.deny
    }

    /// Patterns of packages that are excepted from the denied ones.
    pub fn allowed_packages(&self) -> &[String] {
        &self.allow
    }

    /// Whether a package must not come into a container.
    pub fn denies(&self, package: &str) -> bool {
        packages::is_denied(package, &self.deny, &self.allow)
    }

    /// The path or name that it was read by.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The text that it was read from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The profile whose packages it has.
    pub fn profile(&self) -> &str {
        &self.profile
    }

    /// How device nodes get into a container; `None` where the recipe leaves it open.
    pub fn passthrough(&self) -> Option<Method> {
        self.method
    }

    /// The same recipe with another way of passing devices.
    #[must_use]
    pub fn with_passthrough(mut self, method: Method) -> Self {
        self.method = Some(method);
        self
    }

    /// How the driver gets into a container; `None` where the recipe leaves it open.
    pub fn userland(&self) -> Option<Userland> {
        self.userland
    }

    /// How CUDA gets into a container; `None` where the recipe leaves it open.
    pub fn cuda(&self) -> Option<CudaMethod> {
        self.cuda
    }

    /// The same recipe with other ways of bringing driver and CUDA, where they are given.
    #[must_use]
    pub fn with_methods(mut self, userland: Option<Userland>, cuda: Option<CudaMethod>) -> Self {
        self.userland = userland.or(self.userland);
        self.cuda = cuda.or(self.cuda);
        self
    }

    /// The group inside that may use the nodes, for [`Method::Device`]; everybody where it is not
    /// said.
    pub fn group(&self) -> Option<&str> {
        self.group.as_deref()
    }

    /// The GPUs that a container gets where nobody names any, as [`GpuAssignment::parse`] reads
    /// them; `None` where the recipe leaves it open.
    pub fn gpus(&self) -> Option<&str> {
        self.gpus.as_deref()
    }

    /// The checks after the installation, in order.
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// What the form of the file cannot say.
    fn check(&self) -> Result<()> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let starts_well = self.name.starts_with(|first: char| first.is_ascii_alphanumeric());
        if !starts_well || !self.name.chars().all(allowed) {
            return Err(Error::input(format!("`{}` is not a name", self.name)));
        }
        packages::check(&self.install, &self.deny, &self.allow)?;
        for (name, install) in &self.profiles {
            if name == FULL || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
                return Err(Error::input(format!("`{name}` is not a name for a profile")));
            }
            packages::check(install, &self.deny, &self.allow)?;
        }
        self.gpus().map(GpuAssignment::parse).transpose()?;
        for flag in &self.installer_options.extra {
            // The self-extracting file splits its arguments again at blanks.
            if !flag.starts_with("--") || flag.contains(|c: char| c.is_whitespace()) {
                let what = format!("`{flag}` is not an option of the installer without blanks");
                return Err(Error::input(what));
            }
        }
        let templates = self.urls.values().flatten().chain(self.pins.iter().filter_map(Pin::url));
        for template in templates {
            url::check(template, &["https://", "http://", "file://", "/"])?;
        }
        self.repositories.values().try_for_each(RepositoryEntry::check)
    }
}

#[cfg(test)]
mod tests;
