//! Which containers, and what each of them gets: from the command line, a Phoenix file or a fleet
//! file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};

use super::{Context, RecipeArguments};
use crate::ctid::Ctid;
use crate::error::{Error, Result};
use crate::fleet::{Fleet, Member, Wants};
use crate::gpu::GpuAssignment;
use crate::phoenix::PhoenixConfigs;
use crate::recipe::{Overrides, Recipe};
use crate::runtime::{self, Choice, Runtime};
use crate::selection;

/// Which containers, and how they are driven.
#[derive(Debug, Clone, Args)]
pub struct TargetArguments {
    /// Containers: numbers and ranges of them (105-110), or names of plain LXC
    #[arg(value_name = "CTID")]
    pub containers: Vec<String>,
    /// GPUs to pass through: none, all, or a list of indices, PCI addresses, UUIDs (nvstage gpus)
    #[arg(long, value_name = "LIST")]
    pub gpus: Option<String>,
    /// The environment's word, which a file's comes before.
    #[arg(long = "gpu-assignment", env = "GPU_ASSIGNMENT", hide = true)]
    pub environment_gpus: Option<String>,
    /// Containers, GPUs, versions and URLs from a phoenix_lxc_configs.json
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub from: Option<PathBuf>,
    /// Of --from, every container that has a GPU assigned
    #[arg(long, requires = "from", conflicts_with = "containers")]
    pub all_assigned: bool,
    /// Containers, their GPUs and recipes from a fleet file (fleet.toml)
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
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

/// One container, and what it gets.
#[derive(Debug, Clone)]
pub struct Target {
    /// Which container.
    pub ctid: Ctid,
    /// Its GPUs.
    pub gpus: GpuAssignment,
    /// Its recipe, with everything that was overridden; one value for all that have the same.
    pub recipe: Arc<Recipe>,
}

/// What was asked for, before it is compared with the host.
#[derive(Debug)]
pub struct Request {
    /// The containers, each once, in the order in which they were named.
    pub targets: Vec<Target>,
}

/// The containers that words on the command line name, each once. A range means each of its
/// numbers, whether there is such a container or not; `runtime` tells whether a word that looks like
/// a range is a container's name.
///
/// # Errors
/// Invalid input.
pub fn select(words: &[String], runtime: Option<&dyn Runtime>) -> Result<Vec<Ctid>> {
    selection::select(words, &|ctid| is_container(runtime, ctid))
}

fn is_container(runtime: Option<&dyn Runtime>, ctid: &Ctid) -> bool {
    runtime.is_some_and(|runtime| runtime.locate(ctid).is_ok())
}

impl TargetArguments {
    /// The containers, their recipes and GPUs.
    ///
    /// # Errors
    /// Invalid input.
    pub fn resolve(&self, context: &Context<'_>, recipe: &RecipeArguments) -> Result<Request> {
        // That there is none is said when one is needed: what was written wrong comes first.
        let runtime = self.runtime(context).ok();
        let runtime = runtime.as_deref();
        let named = select(&self.containers, runtime)?;
        let targets = match (&self.file, &self.from) {
            (Some(path), _) => self.of_fleet(context, (path, runtime), &named, recipe)?,
            (None, Some(path)) => self.of_phoenix(context, path, &named, recipe)?,
            (None, None) => self.of_command_line(context, named, recipe)?,
        };
        Ok(Request { targets })
    }

    fn of_command_line(
        &self,
        context: &Context<'_>,
        named: Vec<Ctid>,
        recipe: &RecipeArguments,
    ) -> Result<Vec<Target>> {
        let recipe = Arc::new(recipe.resolve(context, &Overrides::default())?);
        if named.is_empty() {
            return Err(Error::input("find out which container: none is named").hint(
                "`nvstage provision 201 202 205-210`, `--file fleet.toml`, \
                 or `--from phoenix_lxc_configs.json`",
            ));
        }
        let gpus = match self.own_gpus()? {
            Some(gpus) => gpus,
            None => self.other_gpus(&recipe)?,
        };
        let target = |ctid| Target { ctid, gpus: gpus.clone(), recipe: Arc::clone(&recipe) };
        Ok(named.into_iter().map(target).collect())
    }

    fn of_phoenix(
        &self,
        context: &Context<'_>,
        path: &Path,
        named: &[Ctid],
        recipe: &RecipeArguments,
    ) -> Result<Vec<Target>> {
        let configs = PhoenixConfigs::parse(&read(path)?, &path.to_string_lossy())?;
        let recipe = Arc::new(recipe.resolve(context, &configs.overrides())?);
        let own = self.own_gpus()?;
        let mut requests = configs.requests(named)?;
        if self.all_assigned {
            requests.retain(|(_, gpus)| *gpus != GpuAssignment::None);
            if requests.is_empty() {
                let what = format!("find a container with a GPU assigned in `{}`", path.display());
                return Err(Error::input(what));
            }
        }
        let target = |(ctid, gpus)| {
            let gpus = own.clone().unwrap_or(gpus);
            Target { ctid, gpus, recipe: Arc::clone(&recipe) }
        };
        Ok(requests.into_iter().map(target).collect())
    }

    fn of_fleet(
        &self,
        context: &Context<'_>,
        (path, runtime): (&Path, Option<&dyn Runtime>),
        named: &[Ctid],
        recipe: &RecipeArguments,
    ) -> Result<Vec<Target>> {
        let is_container = |ctid: &Ctid| is_container(runtime, ctid);
        let fleet = Fleet::parse(&read(path)?, &path.to_string_lossy(), &is_container)?;
        let own = self.own_gpus()?;
        let mut resolved: Vec<(&Wants, Arc<Recipe>)> = Vec::new();
        let mut targets = Vec::new();
        for member in fleet.select(named)? {
            let known = resolved.iter().find(|(wants, _)| has_same_recipe(wants, &member.wants));
            let recipe = match known {
                Some((_, recipe)) => Arc::clone(recipe),
                None => {
                    let recipe = Arc::new(of_member(context, &fleet, member, recipe)?);
                    resolved.push((&member.wants, Arc::clone(&recipe)));
                    recipe
                }
            };
            let gpus = match own.as_ref().or(member.wants.gpus.as_ref()) {
                Some(gpus) => gpus.clone(),
                None => self.other_gpus(&recipe)?,
            };
            targets.push(Target { ctid: member.ctid.clone(), gpus, recipe });
        }
        Ok(targets)
    }

    /// What the command line says of GPUs; it comes before every file.
    fn own_gpus(&self) -> Result<Option<GpuAssignment>> {
        self.gpus.as_deref().map(GpuAssignment::parse).transpose()
    }

    /// What environment and recipe say of them; a file comes before these.
    fn other_gpus(&self, recipe: &Recipe) -> Result<GpuAssignment> {
        GpuAssignment::parse(self.environment_gpus.as_deref().unwrap_or_else(|| recipe.gpus()))
    }

    /// The runtime that was asked for.
    ///
    /// # Errors
    /// Host error when it is not there.
    pub fn runtime<'a>(&self, context: &Context<'a>) -> Result<Box<dyn Runtime + 'a>> {
        runtime::choose(context.host, self.runtime.into())
    }
}

/// Whether two containers of a fleet get the same, GPUs apart.
fn has_same_recipe(one: &Wants, other: &Wants) -> bool {
    let without_gpus = |wants: &Wants| Wants { gpus: None, ..wants.clone() };
    without_gpus(one) == without_gpus(other)
}

/// The recipe of a container of a fleet.
fn of_member(
    context: &Context<'_>,
    fleet: &Fleet,
    member: &Member,
    arguments: &RecipeArguments,
) -> Result<Recipe> {
    let overrides = Overrides::from_settings(&member.wants.set);
    overrides
        .and_then(|overrides| arguments.over(&member.wants).resolve(context, &overrides))
        .map_err(|error| fleet.at(member, error))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| Error::input(format!("read `{}`", path.display())).because(error))
}
