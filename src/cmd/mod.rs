//! The verbs. One file each: it owns its arguments, emits events, returns what was done, and
//! prints nothing.

pub mod bundle;
pub mod cache;
pub mod detach;
pub mod doctor;
pub mod gpus;
pub mod host_setup;
pub mod phoenix;
pub mod plan;
pub mod prefetch;
pub mod provision;
pub mod refresh;
pub mod status;
pub mod verify;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::cache::Cache;
use crate::container::passthrough::Method;
use crate::ctid::Ctid;
use crate::engine::closure::Sha1Bound;
use crate::engine::stock::Rules;
use crate::engine::supplies::{PublishedDigest, Supplies};
use crate::error::{Error, Result};
use crate::event::{Event, Events};
use crate::fetch::{FetchOptions, Fetcher, Network};
use crate::gpu::GpuAssignment;
use crate::host::Host;
use crate::host::files::{self, Lock};
use crate::host::runlog::RunLog;
use crate::phoenix::PhoenixConfigs;
use crate::recipe::{self, CudaMethod, FULL, Overrides, Recipe, Userland};
use crate::runtime::{self, Choice, Runtime};

/// What every verb is given.
pub struct Context<'a> {
    /// The machine.
    pub host: &'a Host,
    /// Who hears of what happens.
    pub events: &'a dyn Events,
    /// The name of this run, for its logs.
    pub run: String,
}

/// Which recipe, and what is different from it.
#[derive(Debug, Clone, Args)]
pub struct RecipeArguments {
    /// Recipe: a shipped name, one in /etc/nvstage/recipes, or a path
    #[arg(long, value_name = "NAME|PATH", default_value = recipe::DEFAULT)]
    pub recipe: String,
    /// Change a value of the recipe: driver, installer.url, repository.url, packages
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// What of the recipe to install: full, build (to compile), runtime (to run)
    #[arg(long, value_name = "NAME", default_value = FULL)]
    pub profile: String,
    /// How devices get inside: mount (lines for LXC), device (Proxmox VE's dev[n])
    #[arg(long, value_enum, hide_possible_values = true, value_name = "METHOD")]
    pub passthrough: Option<PassthroughArgument>,
    /// How the driver gets inside: installer (into it), share (the host's, mounted)
    #[arg(long, value_enum, hide_possible_values = true, value_name = "METHOD")]
    pub method: Option<MethodArgument>,
    /// How CUDA gets inside: apt (into it), share (the host's, mounted)
    #[arg(long, value_enum, hide_possible_values = true, value_name = "METHOD")]
    pub cuda: Option<CudaArgument>,
    #[arg(long = "driver-version", env = "NVIDIA_DRIVER_VERSION", hide = true)]
    driver: Option<String>,
    #[arg(long = "repository-url", env = "NVIDIA_REPO_URL", hide = true)]
    repository_url: Option<String>,
    #[arg(long = "installer-url", env = "NVIDIA_RUNFILE_URL", hide = true)]
    installer_url: Option<String>,
}

/// [`Method`] on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PassthroughArgument {
    /// lines for LXC, and device rules for a privileged container
    Mount,
    /// Proxmox VE's dev[n]
    Device,
}

impl From<PassthroughArgument> for Method {
    fn from(argument: PassthroughArgument) -> Self {
        match argument {
            PassthroughArgument::Mount => Self::Mount,
            PassthroughArgument::Device => Self::Device,
        }
    }
}

/// [`Userland`] on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MethodArgument {
    /// NVIDIA's installer, inside
    Installer,
    /// the host's, mounted read-only
    Share,
}

impl From<MethodArgument> for Userland {
    fn from(argument: MethodArgument) -> Self {
        match argument {
            MethodArgument::Installer => Self::Installer,
            MethodArgument::Share => Self::Share,
        }
    }
}

/// [`CudaMethod`] on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CudaArgument {
    /// its packages, inside
    Apt,
    /// the host's, mounted read-only
    Share,
}

impl From<CudaArgument> for CudaMethod {
    fn from(argument: CudaArgument) -> Self {
        match argument {
            CudaArgument::Apt => Self::Apt,
            CudaArgument::Share => Self::Share,
        }
    }
}

/// Where artifacts come from.
#[derive(Debug, Clone, Args)]
pub struct SourceArguments {
    /// Believe the digest published beside an installer that the recipe has no pin for
    #[arg(long)]
    pub trust_tls: bool,
    /// Give up on a server that sends nothing for this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
    /// Use the cache alone: any attempt to open a network connection is an error
    #[arg(long)]
    pub offline: bool,
}

/// How packages from the cache are used.
#[derive(Debug, Clone, Default, Args)]
pub struct MirrorArguments {
    /// Refuse packages whose newest signed release is older than this many days
    #[arg(long, value_name = "DAYS")]
    pub max_age: Option<u32>,
    /// Let an apt that refuses keys bound by SHA-1 accept a pinned one, for this call
    #[arg(long)]
    pub allow_sha1_bound_key: bool,
}

impl MirrorArguments {
    /// The same for the engine.
    pub fn rules(&self) -> Rules {
        Rules {
            max_age: self.max_age,
            sha1: match self.allow_sha1_bound_key {
                true => Sha1Bound::Allowed,
                false => Sha1Bound::Refused,
            },
        }
    }
}

/// Which containers, and how they are driven.
#[derive(Debug, Clone, Args)]
pub struct TargetArguments {
    /// Containers: numbers on Proxmox VE, names of plain LXC
    #[arg(value_name = "CTID")]
    pub containers: Vec<String>,
    /// GPUs to pass through: none, all, or a list of indices, PCI addresses, UUIDs (nvstage gpus)
    #[arg(long, value_name = "LIST")]
    pub gpus: Option<String>,
    /// The environment's word, which a file's comes before.
    #[arg(long = "gpu-assignment", env = "GPU_ASSIGNMENT", hide = true)]
    pub environment_gpus: Option<String>,
    /// Containers, GPUs, versions and URLs from a phoenix_lxc_configs.json
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// How containers are driven: auto, pct, or lxc
    #[arg(long, value_enum, hide_possible_values = true, default_value_t = RuntimeArgument::Auto)]
    pub runtime: RuntimeArgument,
}

/// [`Choice`] on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RuntimeArgument {
    /// pct where it is installed, lxc otherwise
    Auto,
    /// Proxmox VE
    Pct,
    /// plain LXC
    Lxc,
}

impl From<RuntimeArgument> for Choice {
    fn from(argument: RuntimeArgument) -> Self {
        match argument {
            RuntimeArgument::Auto => Self::Auto,
            RuntimeArgument::Pct => Self::Pct,
            RuntimeArgument::Lxc => Self::Lxc,
        }
    }
}

/// One container and the GPUs it gets.
#[derive(Debug, Clone)]
pub struct Target {
    /// Which container.
    pub ctid: Ctid,
    /// Its GPUs.
    pub gpus: GpuAssignment,
}

/// What was asked for, before it is compared with the host.
#[derive(Debug)]
pub struct Request {
    /// The recipe with everything that was overridden.
    pub recipe: Recipe,
    /// The containers.
    pub targets: Vec<Target>,
}

impl RecipeArguments {
    /// The default recipe with these settings, and nothing from the environment.
    pub fn shipped_default(set: Vec<String>) -> Self {
        let recipe = recipe::DEFAULT.to_owned();
        let profile = FULL.to_owned();
        Self {
            recipe,
            set,
            profile,
            passthrough: None,
            method: None,
            cuda: None,
            driver: None,
            repository_url: None,
            installer_url: None,
        }
    }

    /// The recipe with what is different from it: by a file, by the environment, by `--set`, each
    /// before the former.
    ///
    /// # Errors
    /// Invalid input.
    pub fn resolve(&self, context: &Context<'_>, file: &Overrides) -> Result<Recipe> {
        let environment = Overrides {
            driver: self.driver.clone(),
            repository_url: self.repository_url.clone(),
            installer_url: self.installer_url.clone(),
            packages: None,
        };
        let settings = Overrides::from_settings(&self.set)?;
        let recipe = load_recipe(context, &self.recipe)?.with_profile(&self.profile)?;
        let recipe = recipe.with(file)?.with(&environment)?.with(&settings)?;
        let recipe = recipe.with_methods(self.method.map(Into::into), self.cuda.map(Into::into));
        Ok(match self.passthrough {
            Some(method) => recipe.with_passthrough(method.into()),
            None => recipe,
        })
    }
}

/// A recipe by its name, or the path of its file.
///
/// # Errors
/// Invalid input.
pub fn load_recipe(context: &Context<'_>, name: &str) -> Result<Recipe> {
    let is_path = name.contains('/') || name.ends_with(".toml");
    // The administrator's own comes before a shipped one of the same name.
    let own = context.host.paths.recipes().join(format!("{name}.toml"));
    let path = match !is_path && own.exists() {
        true => own,
        false => PathBuf::from(name),
    };
    if let (false, true, Some(recipe)) = (is_path, path == Path::new(name), Recipe::shipped(name)) {
        return recipe;
    }
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Error::input(format!("read the recipe `{name}`"))
            .because(error)
            .hint(format!("shipped recipes: {}", Recipe::shipped_names().join(", ")))
    })?;
    Recipe::parse(&text, &path.to_string_lossy())
}

impl TargetArguments {
    /// The recipe, the containers and their GPUs, from the command line or the Phoenix file.
    ///
    /// # Errors
    /// Invalid input.
    pub fn resolve(&self, context: &Context<'_>, recipe: &RecipeArguments) -> Result<Request> {
        if let Some(path) = &self.from {
            return self.of_file(context, path, recipe);
        }
        let recipe = recipe.resolve(context, &Overrides::default())?;
        if self.containers.is_empty() {
            return Err(Error::input("find out which container: none is named")
                .hint("`nvstage provision 201 202`, or `--from phoenix_lxc_configs.json`"));
        }
        let asked = self.gpus.as_deref().or(self.environment_gpus.as_deref());
        let gpus = GpuAssignment::parse(asked.unwrap_or_else(|| recipe.gpus()))?;
        let mut targets: Vec<Target> = Vec::new();
        for name in &self.containers {
            let ctid = Ctid::parse(name)?;
            if !targets.iter().any(|target| target.ctid == ctid) {
                targets.push(Target { ctid, gpus: gpus.clone() });
            }
        }
        Ok(Request { recipe, targets })
    }

    fn of_file(
        &self,
        context: &Context<'_>,
        path: &Path,
        recipe: &RecipeArguments,
    ) -> Result<Request> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Error::input(format!("read `{}`", path.display())).because(error))?;
        let configs = PhoenixConfigs::parse(&text, &path.to_string_lossy())?;
        let recipe = recipe.resolve(context, &configs.overrides())?;
        let named: Vec<Ctid> =
            self.containers.iter().map(|name| Ctid::parse(name)).collect::<Result<_>>()?;
        let own = self.gpus.as_deref().map(GpuAssignment::parse).transpose()?;
        let target = |(ctid, gpus)| Target { ctid, gpus: own.clone().unwrap_or(gpus) };
        let targets = configs.requests(&named)?.into_iter().map(target).collect();
        Ok(Request { recipe, targets })
    }

    /// The runtime that was asked for.
    ///
    /// # Errors
    /// Host error when it is not there.
    pub fn runtime<'a>(&self, context: &Context<'a>) -> Result<Box<dyn Runtime + 'a>> {
        runtime::choose(context.host, self.runtime.into())
    }
}

/// Opened cache and network.
#[derive(Debug)]
pub struct Stores {
    cache: Cache,
    fetcher: Fetcher,
    published: PublishedDigest,
}

impl Stores {
    /// Opens the cache; the network is opened when it is first needed.
    ///
    /// # Errors
    /// Install error when the cache cannot be made.
    pub fn open(context: &Context<'_>, arguments: &SourceArguments) -> Result<Self> {
        let options = FetchOptions {
            stall: Duration::from_secs(arguments.timeout),
            attempts: 5,
            network: match arguments.offline {
                true => Network::Forbidden,
                false => Network::Allowed,
            },
        };
        Ok(Self {
            cache: Cache::open(&context.host.paths.cache(), &context.host.cancel)?,
            fetcher: Fetcher::new(options, context.host.cancel.clone()),
            published: match arguments.trust_tls {
                true => PublishedDigest::TrustTls,
                false => PublishedDigest::Refused,
            },
        })
    }

    /// Opens the cache alone; any attempt to open a network connection is an error.
    ///
    /// # Errors
    /// As [`Stores::open`].
    pub fn offline(context: &Context<'_>) -> Result<Self> {
        let cache = Cache::open(&context.host.paths.cache(), &context.host.cancel)?;
        Ok(Self::without_network(context, cache))
    }

    /// The same for this process alone: waits until nobody else uses the cache.
    ///
    /// # Errors
    /// Host error when it is used for too long.
    pub fn offline_alone(context: &Context<'_>) -> Result<Self> {
        let (directory, cancel) = (context.host.paths.cache(), &context.host.cancel);
        let cache = Cache::open_alone(&directory, cancel, context.events)?.into_cache();
        Ok(Self::without_network(context, cache))
    }

    fn without_network(context: &Context<'_>, cache: Cache) -> Self {
        let options = FetchOptions { network: Network::Forbidden, ..FetchOptions::default() };
        let fetcher = Fetcher::new(options, context.host.cancel.clone());
        Self { cache, fetcher, published: PublishedDigest::Refused }
    }

    /// Both together, for the engine.
    pub fn supplies<'a>(&'a self, context: &'a Context<'_>) -> Supplies<'a> {
        Supplies {
            cache: &self.cache,
            fetcher: &self.fetcher,
            events: context.events,
            cancel: &context.host.cancel,
            published: self.published,
            ready: Mutex::default(),
            images: Mutex::default(),
        }
    }
}

impl Context<'_> {
    /// The log of this run for one container; a log that cannot be written is a warning.
    pub fn log(&self, ctid: &Ctid) -> RunLog {
        self.log_of(ctid.as_str())
    }

    /// The log of this run for something else than a container.
    pub fn log_of(&self, name: &str) -> RunLog {
        let directory = self.host.paths.logs().join(&self.run);
        RunLog::open(&directory, name).unwrap_or_else(|error| {
            let text = format!("no log is written to `{}`: {error}", directory.display());
            self.events.emit(Event::Warning { text });
            RunLog::none()
        })
    }

    /// Keeps every other nvstage away from a container: two installers at once destroy each
    /// other's work.
    ///
    /// # Errors
    /// Host error when another one is at work for ten minutes.
    pub fn lock(&self, ctid: &Ctid) -> Result<Lock> {
        let path = self.host.paths.locks().join(format!("{ctid}.lock"));
        files::create_directory(&self.host.paths.locks())?;
        if let Some(lock) = Lock::try_exclusive(&path)? {
            return Ok(lock);
        }
        let text = format!("waiting: another nvstage works on container {ctid}");
        self.events.emit(Event::Note { text });
        Lock::exclusive(&path, Duration::from_secs(600), &self.host.cancel)
            .map_err(|error| error.on(ctid))
    }
}
