//! Which containers: from the command line, a Phoenix file or a fleet file; and what each of them
//! gets, with its journal at hand.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::request::{Named, Request, Wanted};
use super::{Context, RecipeArguments};
use crate::container::config::LxcConfig;
use crate::ctid::Ctid;
use crate::engine::journal;
use crate::error::{Error, Result};
use crate::fleet::{Fleet, Member};
use crate::gpu::GpuAssignment;
use crate::journal::Journal;
use crate::phoenix::PhoenixConfigs;
use crate::runtime::{self, Choice, Runtime};
use crate::selection;

/// Which containers, and how they are driven.
#[derive(Debug, Clone, Args)]
pub struct TargetArguments {
    /// Containers: numbers and ranges of them (105-110), or names of plain LXC
    #[arg(value_name = "CTID")]
    pub containers: Vec<String>,
    /// GPUs to pass through: none, all, or a list of indices, PCI addresses, UUIDs (nvstage gpus)
    /// [default: the container's, else the recipe's]
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
    /// What it gets; an error is why that is not known.
    pub wanted: Result<Wanted>,
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
    /// The containers, each once, in the order in which they were named; their recipes and GPUs.
    ///
    /// # Errors
    /// Invalid input. What concerns one container alone, as its journal, is in its target.
    pub fn resolve(&self, context: &Context<'_>, recipe: &RecipeArguments) -> Result<Vec<Target>> {
        // That there is none is said when one is needed: what was written wrong comes first.
        let runtime = self.runtime(context).ok();
        let runtime = runtime.as_deref();
        let named = select(&self.containers, runtime)?;
        let request = Request::new(context, recipe)?.with_gpus(
            assignment(self.gpus.as_ref())?,
            assignment(self.environment_gpus.as_ref())?,
        );
        let work = Targets { context, runtime, request };
        match (&self.file, &self.from) {
            (Some(path), _) => work.of_fleet(path, &named),
            (None, Some(path)) => work.of_phoenix(path, &named, self.all_assigned()),
            (None, None) => work.of_command_line(named),
        }
    }

    fn all_assigned(&self) -> Unassigned {
        match self.all_assigned {
            true => Unassigned::LeftOut,
            false => Unassigned::Kept,
        }
    }

    /// The runtime that was asked for.
    ///
    /// # Errors
    /// Host error when it is not there.
    pub fn runtime<'a>(&self, context: &Context<'a>) -> Result<Box<dyn Runtime + 'a>> {
        runtime::choose(context.host, self.runtime.into())
    }
}

/// What becomes of containers of a file to which no GPU is assigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unassigned {
    Kept,
    LeftOut,
}

fn assignment(text: Option<&String>) -> Result<Option<GpuAssignment>> {
    text.map(|text| GpuAssignment::parse(text)).transpose()
}

/// What is the same for all containers of a run.
struct Targets<'a> {
    context: &'a Context<'a>,
    runtime: Option<&'a dyn Runtime>,
    request: Request<'a>,
}

impl Targets<'_> {
    fn of_command_line(&self, named: Vec<Ctid>) -> Result<Vec<Target>> {
        if named.is_empty() {
            // What was written wrong in the recipe comes first.
            self.request.recipe(&Named::default(), None)?;
            return Err(Error::input("find out which container: none is named").hint(
                "numbers and ranges of them name containers (201 205-210), or a file does: `--file`, \
                 `--from`",
            ));
        }
        named.into_iter().map(|ctid| self.target(ctid, &Named::default())).collect()
    }

    fn of_phoenix(
        &self,
        path: &Path,
        named: &[Ctid],
        unassigned: Unassigned,
    ) -> Result<Vec<Target>> {
        let configs = PhoenixConfigs::parse(&read(path)?, &path.to_string_lossy())?;
        let mut requests = configs.requests(named)?;
        if unassigned == Unassigned::LeftOut {
            requests.retain(|(_, gpus)| *gpus != GpuAssignment::None);
            if requests.is_empty() {
                let what = format!("find a container with a GPU assigned in `{}`", path.display());
                return Err(Error::input(what));
            }
        }
        let target = |(ctid, gpus)| {
            let file =
                Named { gpus: Some(gpus), overrides: configs.overrides(), ..Named::default() };
            self.target(ctid, &file)
        };
        requests.into_iter().map(target).collect()
    }

    fn of_fleet(&self, path: &Path, named: &[Ctid]) -> Result<Vec<Target>> {
        let is_container = |ctid: &Ctid| is_container(self.runtime, ctid);
        let fleet = Fleet::parse(&read(path)?, &path.to_string_lossy(), &is_container)?;
        let target = |member: &Member| {
            let file = Named::by_fleet(&member.wants);
            let target = file.and_then(|file| self.target(member.ctid.clone(), &file));
            target.map_err(|error| fleet.at(member, error))
        };
        fleet.select(named)?.into_iter().map(target).collect()
    }

    fn target(&self, ctid: Ctid, file: &Named) -> Result<Target> {
        let journal = match journal_of(self.context, self.runtime, &ctid) {
            Ok(journal) => journal,
            Err(error) => return Ok(Target { ctid, wanted: Err(error) }),
        };
        let journal = journal.as_ref();
        let wanted = match self.request.recipe(file, journal) {
            Ok(recipe) => self.request.wanted(file, journal, recipe),
            Err(error) if self.request.is_of_journal(file, journal) => Err(error),
            Err(error) => return Err(error),
        };
        let wanted = wanted.map_err(|error| error.on(&ctid));
        Ok(Target { ctid, wanted })
    }
}

/// What was applied to a container; `None` also for one that is not there, which is said later.
///
/// # Errors
/// Host error when the journal cannot be read.
pub(super) fn journal_of(
    context: &Context<'_>,
    runtime: Option<&dyn Runtime>,
    ctid: &Ctid,
) -> Result<Option<Journal>> {
    let Some(runtime) = runtime else { return Ok(None) };
    let Ok(path) = runtime.locate(ctid) else { return Ok(None) };
    let Ok(bytes) = std::fs::read(path) else { return Ok(None) };
    let config = LxcConfig::parse(&bytes, runtime.dialect());
    journal::of(&context.host.paths, ctid, &config)
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| Error::input(format!("read `{}`", path.display())).because(error))
}
