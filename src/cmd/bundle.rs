//! `nvstage bundle`: everything of one or more locks in one file or directory, carried to a host
//! without network, and verified there with that host's own pins.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Context, RecipeFiles, Stores};
use crate::engine::bundle::export::{self, Exported};
use crate::engine::bundle::import::{self, Imported, Request, Verified};
use crate::engine::chain::Unpinned;
use crate::engine::metadata::Older;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::lock::Lock;
use crate::recipe::{FULL, Recipe};

/// Carry everything of a lock to a host without network
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Clone, Subcommand)]
enum Verb {
    /// Write locks of the cache, with all their files, into a file or directory
    Export(ExportArguments),
    /// Verify a bundle with this host's pins, and take it into the cache
    Import(ImportArguments),
    /// Verify a bundle with this host's pins, without a cache
    Verify(VerifyArguments),
}

#[derive(Debug, Clone, Args)]
struct ExportArguments {
    /// The file to write; a directory if it is one or ends with `/`
    #[arg(value_name = "FILE|DIR/")]
    bundle: PathBuf,
    /// Export this lock alone, by its name without `.lock`; may be repeated
    #[arg(long, value_name = "NAME")]
    lock: Vec<String>,
}

#[derive(Debug, Clone, Args)]
struct ImportArguments {
    #[command(flatten)]
    trust: VerifyArguments,
    /// Accept signed releases that are older than those in the cache
    #[arg(long)]
    allow_older: bool,
}

#[derive(Debug, Clone, Args)]
struct VerifyArguments {
    /// The file or directory that `export` wrote
    #[arg(value_name = "FILE|DIR")]
    bundle: PathBuf,
    /// A recipe that the bundle may be of, besides this host's own and the shipped ones
    #[arg(long, value_name = "NAME|PATH")]
    recipe: Vec<String>,
    /// Believe the digest of an installer that the recipe has no pin for
    #[arg(long)]
    trust_tls: bool,
}

/// What was done.
#[derive(Debug, Clone)]
pub enum Done {
    /// A bundle was written.
    Exported(Exported),
    /// One was taken over.
    Imported(Imported),
    /// One was verified.
    Verified(Verified),
}

/// Runs the verb.
///
/// # Errors
/// Invalid input, host or install error.
pub fn run(context: &Context<'_>, arguments: &Arguments) -> Result<Done> {
    match &arguments.verb {
        Verb::Export(arguments) => {
            let stores = Stores::offline(context)?;
            let supplies = stores.supplies(context);
            export::export(&supplies, &arguments.bundle, &arguments.lock).map(Done::Exported)
        }
        Verb::Import(arguments) => import(context, arguments).map(Done::Imported),
        Verb::Verify(arguments) => {
            let known = Known::gather(context, &arguments.recipe)?;
            let recipes = |lock: &Lock| known.of(lock);
            let request = request(arguments, &recipes, Older::Allowed);
            let context = (context.events, &context.host.cancel);
            import::verify(&request, context).map(Done::Verified)
        }
    }
}

fn import(context: &Context<'_>, arguments: &ImportArguments) -> Result<Imported> {
    let known = Known::gather(context, &arguments.trust.recipe)?;
    let recipes = |lock: &Lock| known.of(lock);
    let older = if arguments.allow_older { Older::Allowed } else { Older::Refused };
    let request = request(&arguments.trust, &recipes, older);
    let staged = {
        let stores = Stores::offline(context)?;
        import::stage(&stores.supplies(context), &request)?
    };
    // Two imports that hold the cache together while each wants it alone would wait for ever.
    let stores = Stores::offline_alone(context)?;
    import::install(&stores.supplies(context), staged, older)
}

fn request<'a>(
    arguments: &'a VerifyArguments,
    recipes: &'a import::Recipes<'a>,
    older: Older,
) -> Request<'a> {
    let unpinned = if arguments.trust_tls { Unpinned::Allowed } else { Unpinned::Refused };
    Request { path: &arguments.bundle, recipes, unpinned, older }
}

/// The recipes that this host knows, those first that come before others.
struct Known(Vec<Recipe>);

impl Known {
    /// Those that are named, the administrator's, the shipped ones. A name in a bundle is looked
    /// up among them, and never taken as a path.
    fn gather(context: &Context<'_>, named: &[String]) -> Result<Self> {
        let files = RecipeFiles::new(context);
        let mut known = Vec::new();
        for name in named {
            known.push(files.load(name)?);
        }
        let directory = context.host.paths.recipes();
        let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten();
        let mut own: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        own.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        own.sort();
        for path in own {
            match files.load(&path.to_string_lossy()) {
                Ok(recipe) => known.push(recipe),
                Err(error) => {
                    let text = format!("failed to {}: left out", error.what());
                    context.events.emit(Event::Warning { text });
                }
            }
        }
        known.extend(Recipe::shipped_names().into_iter().filter_map(Recipe::shipped).flatten());
        Ok(Self(known))
    }

    /// The recipe of a lock, with the profile that the name says.
    fn of(&self, lock: &Lock) -> Result<Recipe> {
        let whole = self.0.iter().find(|recipe| recipe.name() == lock.recipe);
        if let Some(recipe) = whole {
            return Ok(recipe.clone());
        }
        for recipe in &self.0 {
            let is_meant = |profile: &&str| {
                *profile != FULL && lock.recipe == format!("{}-{profile}", recipe.name())
            };
            let profile = recipe.profile_names().find(is_meant).map(str::to_owned);
            if let Some(profile) = profile {
                return recipe.clone().with_profile(&profile);
            }
        }
        Err(Error::input(format!(
            "find recipe `{}`, which a lock of the bundle is of",
            lock.recipe
        ))
        .hint("`--recipe PATH` names its file, if you trust it: what is pinned there decides"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::Architecture;
    use crate::artifact::Trust;
    use crate::digest::Digest;
    use crate::lock::LockedInstaller;
    use crate::version::DriverVersion;

    fn lock(recipe: &str) -> Lock {
        let installer = LockedInstaller {
            version: DriverVersion::parse("580.76.05").unwrap(),
            name: "NVIDIA-Linux-x86_64-580.76.05.run".to_owned(),
            sha256: Digest::of(b"x"),
            size: 1,
            trust: Trust::Pinned,
        };
        Lock::new(recipe, ("debian12", Architecture::X86_64), installer, None)
    }

    #[test]
    fn a_name_may_carry_a_profile() {
        let shipped = Recipe::shipped_names().into_iter().filter_map(Recipe::shipped).flatten();
        let known = Known(shipped.collect());
        assert_eq!(known.of(&lock("cuda-12-8")).unwrap().name(), "cuda-12-8");
        let build = known.of(&lock("cuda-12-8-build")).unwrap();
        assert_eq!(build.name(), "cuda-12-8-build");
        assert_ne!(build.packages(), known.of(&lock("cuda-12-8")).unwrap().packages());
        for unknown in ["cuda-12-8-full", "cuda-12-8-", "cuda", "none"] {
            let error = known.of(&lock(unknown)).unwrap_err();
            assert!(error.what().contains(&format!("`{unknown}`")), "{error}");
        }
    }
}
