//! What a container gets, value by value: as it is named now, else as its journal has it, else as
//! the recipe says.
//!
//! Nothing is widened: a container whose GPUs nobody has ever named is an error, not all of them.
//! Profile and settings belong to a recipe: naming another one begins anew with them.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use super::recipes::{RecipeContent, RecipeFiles};
use super::{Context, RecipeArguments};
use crate::container::passthrough::Method;
use crate::error::{Error, Result};
use crate::fleet::Wants;
use crate::gpu::GpuAssignment;
use crate::host::devices::Inventory;
use crate::journal::{Journal, State};
use crate::recipe::{self, CudaMethod, FULL, Overrides, Recipe, Userland};
use crate::remedy;

/// Where a value of a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ValueSource {
    /// The command line.
    CommandLine,
    /// A fleet file, or one of the Phoenix Hypervisor's.
    File,
    /// An environment variable.
    Environment,
    /// The container's journal: it was named before.
    Journal,
    /// The container's configuration: lines that a journal of another container tells of.
    Configuration,
    /// The recipe.
    Recipe,
    /// Nothing: it is what holds everywhere.
    Default,
}

impl fmt::Display for ValueSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::CommandLine => "command line",
            Self::File => "file",
            Self::Environment => "environment",
            Self::Journal => "journal",
            Self::Configuration => "configuration",
            Self::Recipe => "recipe",
            Self::Default => "default",
        })
    }
}

/// One value of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RequestValue {
    /// Its name, as the option or the key of `--set` has it.
    pub name: &'static str,
    /// The value, as the command line takes it.
    pub value: String,
    /// Where it comes from.
    pub source: ValueSource,
}

impl RequestValue {
    /// A value of the domain's, in its own words.
    pub fn new(name: &'static str, value: impl fmt::Display, source: ValueSource) -> Self {
        Self { name, value: value.to_string(), source }
    }
}

/// What a container gets.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Its GPUs.
    pub gpus: GpuAssignment,
    /// Its recipe, with everything that is different from it; one value for all that have the same.
    pub recipe: Arc<Recipe>,
    /// Each value, and where it comes from.
    pub values: Vec<RequestValue>,
}

/// What one source names; `None` where it names nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) recipe: Option<String>,
    pub(super) profile: Option<String>,
    pub(super) gpus: Option<GpuAssignment>,
    pub(super) passthrough: Option<Method>,
    pub(super) userland: Option<Userland>,
    pub(super) cuda: Option<CudaMethod>,
    pub(super) overrides: Overrides,
}

impl Named {
    /// What a fleet file names for a container.
    pub(super) fn by_fleet(wants: &Wants) -> Result<Self> {
        Ok(Self {
            recipe: wants.recipe.clone(),
            profile: wants.profile.clone(),
            gpus: wants.gpus.clone(),
            passthrough: wants.passthrough,
            userland: wants.userland,
            cuda: wants.cuda,
            overrides: Overrides::from_settings(&wants.set)?,
        })
    }
}

/// What is named for all containers of a run.
#[derive(Debug)]
pub(super) struct Request<'a> {
    context: &'a Context<'a>,
    files: RecipeFiles<'a>,
    command_line: Named,
    environment: Named,
    resolved: Mutex<Vec<Arc<Recipe>>>,
}

impl<'a> Request<'a> {
    /// What command line and environment name, GPUs apart.
    ///
    /// # Errors
    /// Invalid input for a setting that cannot be understood.
    pub(super) fn new(context: &'a Context<'a>, arguments: &RecipeArguments) -> Result<Self> {
        Ok(Self {
            context,
            files: RecipeFiles::new(context),
            command_line: arguments.named()?,
            environment: arguments.named_by_environment(),
            resolved: Mutex::default(),
        })
    }

    /// The same with the GPUs that command line and environment name.
    pub(super) fn with_gpus(
        mut self,
        command_line: Option<GpuAssignment>,
        environment: Option<GpuAssignment>,
    ) -> Self {
        (self.command_line.gpus, self.environment.gpus) = (command_line, environment);
        self
    }

    /// The value that is named now, and where.
    fn named<T>(
        &self,
        file: &Named,
        value: impl Fn(&Named) -> Option<T>,
    ) -> Option<(T, ValueSource)> {
        let sources = [
            (&self.command_line, ValueSource::CommandLine),
            (file, ValueSource::File),
            (&self.environment, ValueSource::Environment),
        ];
        sources.into_iter().find_map(|(named, source)| Some((value(named)?, source)))
    }

    /// Whether an error in the recipe is one container's own: the recipe is its journal's.
    pub(super) fn is_of_journal(&self, file: &Named, journal: Option<&Journal>) -> bool {
        let is_named = self.named(file, |named| named.recipe.as_ref().map(|_| ())).is_some();
        !is_named && journal.is_some_and(has_recipe)
    }

    /// The recipe with everything that is different from it; and where each value comes from.
    ///
    /// # Errors
    /// Invalid input.
    pub(super) fn recipe(
        &self,
        file: &Named,
        journal: Option<&Journal>,
    ) -> Result<(Recipe, Vec<RequestValue>)> {
        let journal = journal.filter(|journal| has_recipe(journal));
        let (recipe, source) = match (self.named(file, |named| named.recipe.clone()), journal) {
            (Some((name, source)), _) => (self.files.load(&name)?, source),
            (None, Some(journal)) => {
                let recipe = self.files.of_journal(journal, RecipeContent::Present)?;
                (recipe, ValueSource::Journal)
            }
            (None, None) => (self.files.load(recipe::DEFAULT)?, ValueSource::Default),
        };
        let mut values = vec![RequestValue::new("recipe", recipe.origin(), source)];
        let same = journal.filter(|journal| journal.recipe == recipe.origin());
        let recipe = self.methods(file, (journal, same), recipe, &mut values);
        let recipe = self.settings(file, same, recipe, &mut values)?;
        Ok((recipe, values))
    }

    /// The recipe with profile and settings. `journal` is of a container that had the same recipe.
    fn settings(
        &self,
        file: &Named,
        journal: Option<&Journal>,
        recipe: Recipe,
        values: &mut Vec<RequestValue>,
    ) -> Result<Recipe> {
        let mut before = match journal {
            Some(journal) => Overrides::from_settings(&journal.settings)?,
            None => Overrides::default(),
        };
        let profile = match (self.named(file, |named| named.profile.clone()), journal) {
            (Some(named), _) => {
                // A profile is a choice of packages, too.
                before.packages = None;
                named
            }
            (None, Some(journal)) => (journal.profile.clone(), ValueSource::Journal),
            (None, None) => (FULL.to_owned(), ValueSource::Default),
        };
        if before.driver.is_some() && self.is_module_loaded() {
            // The kernel module decides, which may be another one by now.
            before.driver = None;
        }
        values.push(RequestValue::new("profile", &profile.0, profile.1));
        let layers = [
            (&before, ValueSource::Journal),
            (&file.overrides, ValueSource::File),
            (&self.environment.overrides, ValueSource::Environment),
            (&self.command_line.overrides, ValueSource::CommandLine),
        ];
        let mut recipe = recipe.with_profile(&profile.0)?;
        for (overrides, _) in layers {
            recipe = recipe.with(overrides)?;
        }
        for (name, value) in SETTINGS {
            let mut named = layers.iter().rev();
            let last = named.find_map(|(overrides, source)| Some((value(overrides)?, *source)));
            values.extend(last.map(|(value, source)| RequestValue::new(name, value, source)));
        }
        Ok(recipe)
    }

    fn is_module_loaded(&self) -> bool {
        let (inventory, _) = Inventory::read_what_answers(&self.context.host.paths);
        inventory.module_version().is_some()
    }

    /// The recipe with the ways of passing devices and of bringing driver and CUDA. The second
    /// journal is the first one where the recipe is the same.
    fn methods(
        &self,
        file: &Named,
        (journal, same): (Option<&Journal>, Option<&Journal>),
        recipe: Recipe,
        values: &mut Vec<RequestValue>,
    ) -> Recipe {
        let before = Before::of((journal, same), &recipe);
        let kept = before.recipe.as_ref();
        let passthrough = self.named(file, |named| named.passthrough).or_else(|| {
            held(before.passthrough, kept.map(Recipe::passthrough), recipe.passthrough())
        });
        let userland = self
            .named(file, |named| named.userland)
            .or_else(|| held(before.userland, kept.map(Recipe::userland), recipe.userland()));
        let cuda = self
            .named(file, |named| named.cuda)
            .or_else(|| held(before.cuda, kept.map(Recipe::cuda), recipe.cuda()));
        let shown = [
            passthrough.map(|(value, source)| RequestValue::new("passthrough", value, source)),
            userland.map(|(value, source)| RequestValue::new("method", value, source)),
            cuda.map(|(value, source)| RequestValue::new("cuda", value, source)),
        ];
        values.extend(shown.into_iter().flatten());
        let recipe =
            recipe.with_methods(userland.map(|(value, _)| value), cuda.map(|(value, _)| value));
        match passthrough {
            Some((method, _)) => recipe.with_passthrough(method),
            None => recipe,
        }
    }

    /// What a container gets, whose recipe is this one.
    ///
    /// # Errors
    /// Invalid input where its GPUs are not named anywhere.
    pub(super) fn wanted(
        &self,
        file: &Named,
        journal: Option<&Journal>,
        (recipe, mut values): (Recipe, Vec<RequestValue>),
    ) -> Result<Wanted> {
        let before = journal.map(|journal| journal.gpus.as_str()).filter(|gpus| !gpus.is_empty());
        let (gpus, source) = match (self.named(file, |named| named.gpus.clone()), before) {
            (Some(named), _) => named,
            (None, Some(gpus)) => (GpuAssignment::parse(gpus)?, ValueSource::Journal),
            (None, None) => match recipe.gpus() {
                Some(gpus) => (GpuAssignment::parse(gpus)?, ValueSource::Recipe),
                None => return Err(without_gpus()),
            },
        };
        values.insert(0, RequestValue::new("gpus", &gpus, source));
        let mut resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        let recipe = match resolved.iter().find(|known| ***known == recipe) {
            Some(known) => Arc::clone(known),
            None => {
                let recipe = Arc::new(recipe);
                resolved.push(Arc::clone(&recipe));
                recipe
            }
        };
        Ok(Wanted { gpus, recipe, values })
    }
}

/// What reads the value of one key.
type Setting = fn(&Overrides) -> Option<String>;

/// The keys of `--set`, and their values.
const SETTINGS: [(&str, Setting); 4] = [
    ("driver", |overrides| overrides.driver.clone()),
    ("packages", |overrides| overrides.packages.as_ref().map(|names| names.join(","))),
    ("installer.url", |overrides| overrides.installer_url.clone()),
    ("repository.url", |overrides| overrides.repository_url.clone()),
];

/// The methods that a container has, and the recipe that it has them by.
#[derive(Default)]
struct Before {
    passthrough: Option<Method>,
    userland: Option<Userland>,
    cuda: Option<CudaMethod>,
    recipe: Option<Recipe>,
}

impl Before {
    fn of((journal, same): (Option<&Journal>, Option<&Journal>), now: &Recipe) -> Self {
        let Some(journal) = journal else { return Self::default() };
        // Of one whose driver was removed the journal tells none.
        let is_attached = journal.state == State::Attached;
        let userland = Some(journal.userland);
        // One that had no packages has none of them by a method.
        let cuda = Some(journal.cuda).filter(|_| is_attached && same.is_some());
        let recipe = match &journal.recipe_text {
            Some(text) if text == now.text() => Some(now.clone()),
            Some(text) => Recipe::parse(text, &journal.recipe).ok(),
            None => None,
        };
        Self {
            passthrough: Some(journal.method),
            userland: userland.filter(|way| is_attached || *way == Userland::Share),
            cuda: cuda.or(Some(journal.cuda).filter(|way| *way == CudaMethod::Share)),
            recipe,
        }
    }
}

/// The container's value, unless the recipe names another one than it did then.
fn held<T: Copy + PartialEq>(
    journal: Option<T>,
    then: Option<Option<T>>,
    now: Option<T>,
) -> Option<(T, ValueSource)> {
    match (journal, then, now) {
        (_, Some(then), Some(now)) if then != Some(now) => Some((now, ValueSource::Recipe)),
        (Some(journal), ..) => Some((journal, ValueSource::Journal)),
        (None, _, now) => now.map(|value| (value, ValueSource::Recipe)),
    }
}

fn has_recipe(journal: &Journal) -> bool {
    !journal.recipe.is_empty()
}

fn without_gpus() -> Error {
    Error::input("find out which GPUs it gets: nobody has named any yet")
        .hint("`--gpus all` passes every GPU of this host, `--gpus 0` GPU 0 alone")
        .hint(format!(
            "`{}` shows them; a recipe or a fleet file may name them, too",
            remedy::gpus()
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_the_containers_until_its_recipe_comes_to_name_another() {
        use ValueSource::{Journal, Recipe};
        let (own, share) = (Userland::Installer, Userland::Share);
        assert_eq!(held(Some(own), Some(None), None), Some((own, Journal)));
        assert_eq!(held(Some(own), Some(Some(share)), Some(share)), Some((own, Journal)));
        assert_eq!(held(Some(own), Some(Some(own)), Some(share)), Some((share, Recipe)));
        assert_eq!(held(Some(own), Some(None), Some(share)), Some((share, Recipe)));
        // Nobody knows what the recipe said then.
        assert_eq!(held(Some(own), None, Some(share)), Some((own, Journal)));
        assert_eq!(held(None, None, Some(share)), Some((share, Recipe)));
        assert_eq!(held::<Userland>(None, None, None), None);
    }
}
