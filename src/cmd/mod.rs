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
mod recipes;
pub mod refresh;
mod request;
mod restarts;
pub mod status;
pub mod sync;
mod targets;
pub mod verify;

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use clap::{Args, ValueEnum};

pub use self::recipes::{RecipeContent, RecipeFiles};
pub use self::request::{RequestValue, ValueSource, Wanted};
pub use self::restarts::{Answer, Confirm, ForeseenRestart, RestartArguments, Unasked};
pub use self::targets::{RuntimeArgument, Target, TargetArguments, select};

use self::request::{Named, Request};

use crate::cache::Cache;
use crate::container::passthrough::{DriverLines, Method};
use crate::ctid::Ctid;
use crate::engine::batch::{self, Batch, OnFailure, Taken};
use crate::engine::closure::Sha1Bound;
use crate::engine::journal;
use crate::engine::stock::Rules;
use crate::engine::supplies::{PublishedDigest, Supplies};
use crate::error::Result;
use crate::event::{Event, Events};
use crate::fetch::{FetchOptions, Fetcher, Network};
use crate::host::Host;
use crate::host::files::{self, Lock};
use crate::host::runlog::RunLog;
use crate::journal::Journal;
use crate::recipe::{CudaMethod, Overrides, Recipe, Userland};
use crate::report::ContainerReport;

/// What every verb is given.
#[derive(Debug)]
pub struct Context<'a> {
    /// The machine.
    pub host: &'a Host,
    /// Who hears of what happens.
    pub events: &'a dyn Events,
    /// Who is asked before running containers are restarted.
    pub confirm: &'a dyn Confirm,
    /// The name of this run, for its logs.
    pub run: String,
}

/// How many containers are worked on at once, and what a failure means for the others.
#[derive(Debug, Clone, Default, Args)]
pub struct BatchArguments {
    /// Work on so many containers at once [default: what cores and memory bear]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub jobs: Option<u16>,
    /// Begin no further container after the first failure
    #[arg(long)]
    pub fail_fast: bool,
}

impl BatchArguments {
    /// The run over so many containers.
    pub fn batch<'a>(&self, context: &Context<'a>, containers: usize) -> Batch<'a> {
        let borne = || batch::jobs(context.host, containers);
        Batch {
            host: context.host,
            events: context.events,
            jobs: self.jobs.map_or_else(borne, usize::from),
            on_failure: match self.fail_fast {
                true => OnFailure::BeginNoMore,
                false => OnFailure::GoOn,
            },
        }
    }
}

/// Which recipe, and what is different from it.
#[derive(Debug, Clone, Args)]
pub struct RecipeArguments {
    /// Recipe: a shipped name, one in /etc/nvstage/recipes, or a path [default: the container's,
    /// else cuda-12-8]
    #[arg(long, value_name = "NAME|PATH")]
    pub recipe: Option<String>,
    /// Change a value of the recipe: driver, installer.url, repository.url, packages; it holds for
    /// the container until it is changed again, or another recipe is named
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// What of the recipe to install: full, build (to compile), runtime (to run) [default: the
    /// container's, else full]
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// How devices get inside: mount (lines for LXC), device (Proxmox VE's dev[n]) [default: the
    /// container's, else the recipe's, else mount]
    #[arg(long, value_enum, hide_possible_values = true, value_name = "METHOD")]
    pub passthrough: Option<PassthroughArgument>,
    /// How the driver gets inside: installer (into it), share (the host's, mounted) [default: the
    /// container's, else the recipe's, else installer]
    #[arg(long, value_enum, hide_possible_values = true, value_name = "METHOD")]
    pub method: Option<MethodArgument>,
    /// How CUDA gets inside: apt (into it), share (the host's, mounted) [default: the container's,
    /// else the recipe's, else apt]
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

/// What `--adopt` means for the engine.
fn driver_lines(adopt: bool) -> DriverLines {
    if adopt { DriverLines::TakeOut } else { DriverLines::Refuse }
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

impl RecipeArguments {
    /// These settings alone, and nothing from the environment.
    pub fn of_settings(set: Vec<String>) -> Self {
        Self {
            recipe: None,
            set,
            profile: None,
            passthrough: None,
            method: None,
            cuda: None,
            driver: None,
            repository_url: None,
            installer_url: None,
        }
    }

    /// The recipe for no container in particular.
    ///
    /// # Errors
    /// Invalid input.
    pub fn resolve(&self, context: &Context<'_>) -> Result<Recipe> {
        self.resolve_for(context, None)
    }

    /// The recipe for a container with this journal.
    ///
    /// # Errors
    /// Invalid input.
    pub fn resolve_for(&self, context: &Context<'_>, journal: Option<&Journal>) -> Result<Recipe> {
        let (recipe, _) = Request::new(context, self)?.recipe(&Named::default(), journal)?;
        Ok(recipe)
    }

    /// The recipe for what a container with this journal has.
    ///
    /// # Errors
    /// Invalid input.
    fn of_container(&self, context: &Context<'_>, journal: &Journal) -> Result<Recipe> {
        let (recipe, _) = Request::new(context, self)?.recipe(&Named::default(), Some(journal))?;
        Ok(recipe)
    }

    /// What the command line names.
    fn named(&self) -> Result<Named> {
        Ok(Named {
            recipe: self.recipe.clone(),
            profile: self.profile.clone(),
            gpus: None,
            passthrough: self.passthrough.map(Into::into),
            userland: self.method.map(Into::into),
            cuda: self.cuda.map(Into::into),
            overrides: Overrides::from_settings(&self.set)?,
        })
    }

    /// What the environment names.
    fn named_by_environment(&self) -> Named {
        let overrides = Overrides {
            driver: self.driver.clone(),
            repository_url: self.repository_url.clone(),
            installer_url: self.installer_url.clone(),
            packages: None,
        };
        Named { overrides, ..Named::default() }
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
            keys: Mutex::default(),
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
        let holder = match self.try_lock(ctid)? {
            Taken::Ours(lock) => return Ok(lock),
            Taken::Busy(holder) => holder,
        };
        let text = format!("waiting: {} works on container {ctid}", batch::named(holder));
        self.events.emit(Event::Note { text });
        let path = self.lock_file(ctid);
        let lock = Lock::exclusive(&path, Duration::from_secs(600), &self.host.cancel)
            .map_err(|error| error.on(ctid))?;
        lock.sign();
        Ok(lock)
    }

    /// The same if no other one is at work now.
    ///
    /// # Errors
    /// Host error when the file of the lock cannot be opened.
    pub fn try_lock(&self, ctid: &Ctid) -> Result<Taken<Lock>> {
        let path = self.lock_file(ctid);
        files::create_directory(&self.host.paths.locks())?;
        match Lock::try_exclusive(&path)? {
            Some(lock) => {
                lock.sign();
                Ok(Taken::Ours(lock))
            }
            None => Ok(Taken::Busy(Lock::holder(&path))),
        }
    }

    /// Writes down what a run came to; that it cannot be written is a warning.
    pub fn record_run(&self, report: &ContainerReport, command: &str) {
        if let Err(error) = journal::record_run(&self.host.paths, report, command) {
            self.events.emit(Event::Warning { text: error.to_string() });
        }
    }

    fn lock_file(&self, ctid: &Ctid) -> PathBuf {
        self.host.paths.locks().join(format!("{ctid}.lock"))
    }
}
