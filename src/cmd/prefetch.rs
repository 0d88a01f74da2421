//! `nvstage prefetch`: installer, repository keys and packages into the cache, verified; and the
//! locks.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use super::targets::journal_of;
use super::{Context, RecipeArguments, RuntimeArgument, SourceArguments, Stores, select};
use crate::apt::system::System;
use crate::architecture::Architecture;
use crate::artifact::Trust;
use crate::cache;
use crate::ctid::Ctid;
use crate::engine::closure::{self, Request, Sha1Bound};
use crate::engine::locked;
use crate::engine::metadata::Older;
use crate::engine::supplies::{Driver, Supplies};
use crate::engine::systems::{self, Place};
use crate::engine::wish::{driver_version, host_architecture};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::host::devices::Inventory;
use crate::host::files;
use crate::lock::Lock;
use crate::recipe::Recipe;
use crate::runtime::{self, Runtime};
use crate::selection;

/// Download installer, keys and packages into the cache, and verify them
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// What to fetch for: containers (201, 205-210), a template's archive,
    /// DISTRIBUTION@STATUS-FILE, or a DISTRIBUTION for its key alone; all the recipe knows
    /// otherwise
    #[arg(long = "for", value_name = "TARGET")]
    targets: Vec<String>,
    /// Fetch exactly what the lock names
    #[arg(long)]
    locked: bool,
    /// The lock to write, or to obey with --locked; those of the cache otherwise
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,
    /// Accept a signed release that is older than the last accepted one
    #[arg(long)]
    allow_older: bool,
    /// Take versions from a repository whose key is bound by SHA-1 alone
    #[arg(long)]
    allow_sha1_bound_key: bool,
    /// How containers are driven: auto, pct, or lxc
    #[arg(long, value_enum, hide_possible_values = true, default_value_t = RuntimeArgument::Auto)]
    runtime: RuntimeArgument,
    #[command(flatten)]
    recipe: RecipeArguments,
    #[command(flatten)]
    sources: SourceArguments,
}

/// One artifact in the cache, or the packages for one distribution together.
#[derive(Debug, Clone, Serialize)]
pub struct Item {
    /// Its file name.
    pub name: String,
    /// What it is for.
    pub purpose: String,
    /// Its SHA-256; none for several files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Its size in bytes.
    pub bytes: u64,
    /// Why it is believed.
    pub trust: Trust,
    /// How long fetching and verifying took, in seconds.
    pub seconds: f64,
}

/// What is in the cache now.
#[derive(Debug, Clone, Serialize)]
pub struct Prefetched {
    schema: u32,
    /// The recipe.
    pub recipe: String,
    /// The driver's version.
    pub driver: String,
    /// The artifacts.
    pub items: Vec<Item>,
    /// How long unpacking the installer took, in seconds.
    pub unpacked_in: f64,
    /// The directory of the cache.
    pub cache: String,
}

/// What is wanted for one distribution and architecture.
struct Group {
    distribution: String,
    architecture: Architecture,
    systems: Vec<System>,
}

/// Runs the verb.
///
/// # Errors
/// Invalid input, host or install error.
pub fn run(context: &Context<'_>, arguments: &Arguments) -> Result<Prefetched> {
    let recipe = recipe(context, arguments)?;
    let groups = groups(context, arguments, &recipe)?;
    let stores = Stores::open(context, &arguments.sources)?;
    let supplies = stores.supplies(context);
    let work = Work { context, arguments, recipe: &recipe, supplies: &supplies };
    let mut result = Prefetched {
        schema: 1,
        recipe: recipe.name().to_owned(),
        driver: String::new(),
        items: Vec::new(),
        unpacked_in: 0.0,
        cache: context.host.paths.cache().display().to_string(),
    };
    match arguments.locked {
        true => work.locked(groups, &mut result)?,
        false => work.fresh(groups, &mut result)?,
    }
    Ok(result)
}

/// The recipe that is named, or that of the containers that are fetched for.
///
/// # Errors
/// Invalid input, also where the containers have different ones.
fn recipe(context: &Context<'_>, arguments: &Arguments) -> Result<Recipe> {
    let runtime = runtime::choose(context.host, arguments.runtime.into()).ok();
    let runtime = runtime.as_deref();
    let mut known: Option<(Ctid, Recipe)> = None;
    for target in each(&arguments.targets, runtime)? {
        let is_file = Path::new(&target).exists();
        let Some(ctid) = Ctid::parse(&target).ok().filter(|_| !is_file) else { continue };
        let Some(journal) = journal_of(context, runtime, &ctid)? else { continue };
        let recipe = arguments.recipe.of_container(context, &journal)?;
        match &known {
            Some((first, other)) if fetches(other) != fetches(&recipe) => {
                return Err(Error::input(format!(
                    "choose a recipe: containers {first} and {ctid} have different ones"
                ))
                .hint("`--recipe` names one; or fetch for each of them by itself"));
            }
            Some(_) => {}
            None => known = Some((ctid, recipe)),
        }
    }
    known.map_or_else(|| arguments.recipe.resolve(context), |(_, recipe)| Ok(recipe))
}

/// What of a recipe says which files are fetched.
fn fetches(recipe: &Recipe) -> (&str, &str, &[String]) {
    (recipe.origin(), recipe.name(), recipe.settings())
}

/// What is named, with a container of its own in the place of each range.
fn each(targets: &[String], runtime: Option<&dyn Runtime>) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for target in targets {
        // A file comes first, as everywhere here.
        if Path::new(target).exists() || matches!(selection::range(target), Ok(None)) {
            all.push(target.clone());
            continue;
        }
        let ctids = select(std::slice::from_ref(target), runtime)?;
        all.extend(ctids.iter().map(ToString::to_string));
    }
    Ok(all)
}

/// Sorts what is named by distribution and architecture; refuses before anything is fetched.
fn groups(context: &Context<'_>, arguments: &Arguments, recipe: &Recipe) -> Result<Vec<Group>> {
    let architecture = host_architecture()?;
    let distributions = recipe.distributions(architecture);
    let runtime = runtime::choose(context.host, arguments.runtime.into());
    let runtime = match &runtime {
        Ok(runtime) => Ok(&**runtime),
        Err(error) => Err(error.clone()),
    };
    let place = Place { host: context.host, runtime, architecture };
    let mut groups: Vec<Group> = Vec::new();
    for target in &each(&arguments.targets, place.runtime.as_ref().ok().copied())? {
        let subject = systems::find(target, &distributions, &place)?;
        recipe.repository(&subject.distribution, subject.architecture)?;
        let same = |group: &&mut Group| {
            group.distribution == subject.distribution && group.architecture == subject.architecture
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.systems.extend(subject.system),
            None => groups.push(Group {
                distribution: subject.distribution,
                architecture: subject.architecture,
                systems: subject.system.into_iter().collect(),
            }),
        }
    }
    if groups.is_empty() && !arguments.locked {
        groups = distributions
            .into_iter()
            .map(|distribution| Group { distribution, architecture, systems: Vec::new() })
            .collect();
    }
    if arguments.lock.is_some() && groups.len() > 1 {
        return Err(Error::input("use one lock for several distributions or architectures")
            .hint("`--for` one of them, with a lock of its own"));
    }
    Ok(groups)
}

struct Work<'a> {
    context: &'a Context<'a>,
    arguments: &'a Arguments,
    recipe: &'a Recipe,
    supplies: &'a Supplies<'a>,
}

impl Work<'_> {
    fn older(&self) -> Older {
        match self.arguments.allow_older {
            true => Older::Allowed,
            false => Older::Refused,
        }
    }

    fn request(&self, systems: Vec<System>) -> Request<'_> {
        Request {
            recipe: self.recipe,
            systems,
            older: self.older(),
            sha1: match self.arguments.allow_sha1_bound_key {
                true => Sha1Bound::Allowed,
                false => Sha1Bound::Refused,
            },
        }
    }

    fn fresh(&self, groups: Vec<Group>, result: &mut Prefetched) -> Result<()> {
        let inventory = Inventory::read(&self.context.host.paths)?;
        let version = driver_version(self.recipe, &inventory)?;
        result.driver = version.to_string();
        if groups.is_empty() {
            let architecture = host_architecture()?;
            let began = Instant::now();
            let driver = self.supplies.driver(self.recipe, &version, architecture)?;
            add_driver(result, &driver, began);
            let lock = self.supplies.new_lock(self.recipe, ("any", architecture), &driver, None);
            return self.write(&lock);
        }
        for group in groups {
            let (architecture, began) = (group.architecture, Instant::now());
            let driver = self.supplies.driver(self.recipe, &version, architecture)?;
            add_driver(result, &driver, began);
            let began = Instant::now();
            let distribution = group.distribution.as_str();
            let repository = self.supplies.repository(self.recipe, distribution, architecture)?;
            let target = (distribution, architecture);
            let lock = self.supplies.new_lock(self.recipe, target, &driver, Some(&repository));
            add_key(result, &lock, began);
            let _guard =
                self.supplies.cache.hold_lock(&lock.own_file_name(), self.context.events)?;
            if group.systems.is_empty() || self.recipe.packages().is_empty() {
                self.keep(lock)?;
                continue;
            }
            let began = Instant::now();
            let log = self.context.log_of("prefetch");
            let request = self.request(group.systems);
            let lock = closure::prefetch(self.supplies, (self.context.host, &log), &request, lock)?;
            add_packages(result, &lock, began);
            self.write(&lock)?;
        }
        Ok(())
    }

    /// A key alone takes nothing away from a lock that has packages already.
    fn keep(&self, lock: Lock) -> Result<()> {
        let old = self.supplies.cache.lock(&lock.own_file_name()).unwrap_or_default();
        match old.filter(|old| !old.packages.is_empty()) {
            Some(old) => self.write(&old.with_origin_of(&lock)),
            None => {
                if !self.recipe.packages().is_empty() && !self.arguments.targets.is_empty() {
                    let text = format!(
                        "no packages are fetched for {}: name a container or a template of it",
                        lock.distribution
                    );
                    self.context.events.emit(Event::Note { text });
                }
                self.write(&lock)
            }
        }
    }

    fn locked(&self, groups: Vec<Group>, result: &mut Prefetched) -> Result<()> {
        let mut groups = groups;
        let systems: Vec<System> =
            groups.iter_mut().flat_map(|group| std::mem::take(&mut group.systems)).collect();
        let request = self.request(systems);
        for lock in self.locks(&groups)? {
            let began = Instant::now();
            let _guard =
                self.supplies.cache.hold_lock(&lock.own_file_name(), self.context.events)?;
            let lock = locked::fetch(self.supplies, self.context.host, &request, lock)?;
            result.driver = lock.installer.version.to_string();
            let driver = self.supplies.driver_of_lock(self.recipe, &lock)?;
            add_driver(result, &driver, began);
            add_key(result, &lock, began);
            if !lock.packages.is_empty() {
                add_packages(result, &lock, began);
            }
            // The file that was named is somebody's, and stays as it is.
            self.write_into_cache(&lock)?;
        }
        Ok(())
    }

    /// The locks to obey: the named file, or those of the cache.
    fn locks(&self, groups: &[Group]) -> Result<Vec<Lock>> {
        let hint = "`nvstage prefetch` without --locked writes one";
        let name = self.recipe.name();
        if let Some(path) = &self.arguments.lock {
            let lock = cache::read_lock(path)?.ok_or_else(|| {
                Error::input(format!("read the lock `{}`: there is none", path.display()))
                    .hint(hint)
            })?;
            if lock.recipe != name {
                return Err(Error::input(format!("use `{}` for recipe `{name}`", path.display()))
                    .because(format!("it is a lock of recipe `{}`", lock.recipe)));
            }
            let fits = |group: &Group| {
                group.distribution == lock.distribution && group.architecture == lock.architecture
            };
            if !groups.iter().all(fits) {
                return Err(Error::input(format!("use `{}`", path.display())).because(format!(
                    "it is a lock for {} {}",
                    lock.distribution, lock.architecture
                )));
            }
            return Ok(vec![lock]);
        }
        let is_wanted = |lock: &Lock| {
            let fits = |group: &Group| {
                group.distribution == lock.distribution && group.architecture == lock.architecture
            };
            lock.recipe == name && (groups.is_empty() || groups.iter().any(fits))
        };
        let locks = self.supplies.locks()?.into_iter().map(|(_, lock)| lock);
        let locks: Vec<Lock> = locks.filter(is_wanted).collect();
        if locks.is_empty() {
            return Err(
                Error::input(format!("find a lock of recipe `{name}` in the cache")).hint(hint)
            );
        }
        Ok(locks)
    }

    fn write(&self, lock: &Lock) -> Result<()> {
        if let Some(path) = &self.arguments.lock {
            files::replace(path, lock.to_text().as_bytes())?;
        }
        self.write_into_cache(lock)
    }

    fn write_into_cache(&self, lock: &Lock) -> Result<()> {
        self.supplies.keep(lock, self.older())
    }
}

fn seconds(began: Instant) -> f64 {
    (began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0
}

fn add_driver(result: &mut Prefetched, driver: &Driver, began: Instant) {
    let unpacking = driver.tree.unpacked_in().as_secs_f64();
    let sha256 = driver.file.digest().to_string();
    if result.items.iter().any(|item| item.sha256.as_ref() == Some(&sha256)) {
        return;
    }
    result.unpacked_in += unpacking;
    result.items.push(Item {
        name: driver.name.clone(),
        purpose: format!("driver {}", driver.tree.version()),
        sha256: Some(sha256),
        bytes: driver.file.size(),
        trust: driver.trust,
        seconds: (seconds(began) - unpacking).max(0.0),
    });
}

fn add_key(result: &mut Prefetched, lock: &Lock, began: Instant) {
    result.items.extend(lock.key.iter().map(|key| Item {
        name: key.fingerprint.to_string(),
        purpose: format!("key for {}", lock.distribution),
        sha256: Some(key.sha256.to_string()),
        bytes: key.size,
        trust: Trust::Fingerprint,
        seconds: seconds(began),
    }));
}

fn add_packages(result: &mut Prefetched, lock: &Lock, began: Instant) {
    let systems: Vec<&str> = lock.targets.iter().map(|target| target.name.as_str()).collect();
    result.items.push(Item {
        name: format!("{} packages for {}", lock.packages.len(), systems.join(", ")),
        purpose: format!("packages for {}", lock.distribution),
        sha256: None,
        bytes: lock.packages.iter().map(|package| package.size).sum(),
        trust: Trust::Signed,
        seconds: seconds(began),
    });
}
