//! `nvstage prefetch`: installer and repository keys into the cache, verified; and the locks.

use std::time::Instant;

use clap::Args;
use serde::Serialize;

use super::{Context, RecipeArguments, SourceArguments, Stores};
use crate::artifact::Trust;
use crate::engine::supplies::Repository;
use crate::engine::wish::{driver_version, host_architecture};
use crate::error::Result;
use crate::host::devices::Inventory;
use crate::recipe::Overrides;

/// Download installer and repository keys into the cache, and verify them
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// Distribution to fetch the repository key for; all the recipe knows otherwise
    #[arg(long = "for", value_name = "DISTRIBUTION")]
    distributions: Vec<String>,
    #[command(flatten)]
    recipe: RecipeArguments,
    #[command(flatten)]
    sources: SourceArguments,
}

/// One artifact in the cache.
#[derive(Debug, Clone, Serialize)]
pub struct Item {
    /// Its file name.
    pub name: String,
    /// What it is for.
    pub purpose: String,
    /// Its SHA-256.
    pub sha256: String,
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

/// Runs the verb.
///
/// # Errors
/// Invalid input, host or install error.
pub fn run(context: &Context<'_>, arguments: &Arguments) -> Result<Prefetched> {
    let recipe = arguments.recipe.resolve(context, &Overrides::default())?;
    let inventory = Inventory::read(&context.host.paths)?;
    let version = driver_version(&recipe, &inventory)?;
    let architecture = host_architecture()?;
    let distributions = match arguments.distributions.is_empty() {
        true => recipe.distributions(architecture),
        false => arguments.distributions.clone(),
    };
    for distribution in &distributions {
        // Before anything is fetched.
        recipe.repository(distribution, architecture)?;
    }
    let stores = Stores::open(context, &arguments.sources)?;
    let supplies = stores.supplies(context);
    let began = Instant::now();
    let driver = supplies.driver(&recipe, &version, architecture)?;
    let all = began.elapsed().as_secs_f64();
    let unpacking = driver.tree.unpacked_in().as_secs_f64();
    let mut items = vec![Item {
        name: driver.name.clone(),
        purpose: format!("driver {version}"),
        sha256: driver.file.digest().to_string(),
        bytes: driver.file.size(),
        trust: driver.trust,
        seconds: (all - unpacking).max(0.0),
    }];
    if distributions.is_empty() {
        supplies.record(&recipe, ("any", architecture), &driver, None)?;
    }
    for distribution in &distributions {
        let began = Instant::now();
        let repository = supplies.repository(&recipe, distribution, architecture)?;
        let target = (distribution.as_str(), architecture);
        supplies.record(&recipe, target, &driver, Some(&repository))?;
        items.push(key_item(&repository, distribution, began.elapsed().as_secs_f64()));
    }
    Ok(Prefetched {
        schema: 1,
        recipe: recipe.name().to_owned(),
        driver: version.to_string(),
        items,
        unpacked_in: unpacking,
        cache: context.host.paths.cache().display().to_string(),
    })
}

fn key_item(repository: &Repository, distribution: &str, seconds: f64) -> Item {
    Item {
        name: repository.fingerprint.to_string(),
        purpose: format!("key for {distribution}"),
        sha256: repository.file.digest().to_string(),
        bytes: repository.file.size(),
        trust: Trust::Fingerprint,
        seconds,
    }
}
