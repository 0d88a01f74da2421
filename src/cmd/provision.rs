//! `nvstage provision CTID…`: the main job.

use clap::Args;

use super::{
    Context, MirrorArguments, RecipeArguments, Request, SourceArguments, Stores, Target,
    TargetArguments,
};
use crate::container::config::LxcConfig;
use crate::ctid::Ctid;
use crate::engine::provision::{self, Manner, Means};
use crate::engine::sharing;
use crate::engine::supplies::{Driver, Supplies};
use crate::engine::survey;
use crate::engine::wish::{AtTheEnd, Stage, Wish};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::host::runlog::RunLog;
use crate::report::{ContainerReport, Outcome, Report, Step};
use crate::runtime::{Runtime, Session};

/// Provision containers: GPUs, driver userland, CUDA packages, checks
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    #[command(flatten)]
    pub(crate) targets: TargetArguments,
    #[command(flatten)]
    pub(crate) recipe: RecipeArguments,
    #[command(flatten)]
    pub(crate) sources: SourceArguments,
    #[command(flatten)]
    pub(crate) mirror: MirrorArguments,
    /// How the installer gets inside: mount (nothing is copied), or push
    #[arg(long, value_enum, hide_possible_values = true, default_value_t = StageArgument::Mount)]
    pub(crate) stage: StageArgument,
    /// Stop a container again at the end that was stopped before
    #[arg(long)]
    pub(crate) restore_state: bool,
}

/// [`Stage`] on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum StageArgument {
    /// show the unpacked installer inside, read-only
    Mount,
    /// copy the .run inside
    Push,
}

/// Runs the verb.
///
/// # Errors
/// What concerns every container: the recipe, the arguments, the runtime. What concerns one is in
/// its report.
pub fn run(context: &Context<'_>, arguments: &Arguments) -> Result<Report> {
    let request = arguments.targets.resolve(context, &arguments.recipe)?;
    let runtime = arguments.targets.runtime(context)?;
    let manner = Manner {
        stage: match arguments.stage {
            StageArgument::Mount => Stage::Mount,
            StageArgument::Push => Stage::Push,
        },
        at_the_end: match arguments.restore_state {
            true => AtTheEnd::RestoreState,
            false => AtTheEnd::KeepRunning,
        },
        rules: arguments.mirror.rules(),
    };
    let stores = Stores::open(context, &arguments.sources)?;
    carry_out(context, &request, (&*runtime, &stores), manner)
}

/// What becomes of one container before anything is fetched.
enum Prepared {
    /// What is wanted for it, and the configuration that it gets for that.
    Ready(Box<Wish>, Box<LxcConfig>),
    Ended(ContainerReport),
}

fn carry_out(
    context: &Context<'_>,
    request: &Request,
    means: (&dyn Runtime, &Stores),
    manner: Manner,
) -> Result<Report> {
    let (runtime, stores) = means;
    let prepared: Vec<(&Ctid, Prepared)> = request
        .targets
        .iter()
        .map(|target| (&target.ctid, prepare(context, request, runtime, target)))
        .collect();
    tell_of_sharing(context, runtime, &prepared);
    let supplies = stores.supplies(context);
    let first = prepared.iter().find_map(|(_, prepared)| match prepared {
        Prepared::Ready(wish, _) => Some(wish),
        Prepared::Ended(_) => None,
    });
    // Once for all of them: they differ in their GPUs only.
    let driver = first.map(|wish| obtain(&supplies, wish));
    let mut reports = Vec::new();
    for (ctid, prepared) in prepared {
        let report = match (prepared, &driver) {
            (Prepared::Ended(report), _) => report,
            (Prepared::Ready(..), Some(Err(error))) => failed(ctid, error.clone()),
            (Prepared::Ready(..), None) => failed(ctid, Error::general("prepare its installer")),
            (Prepared::Ready(wish, _), Some(Ok(driver))) => {
                let means = provision::Means { wish: &wish, driver, supplies: &supplies, manner };
                one(context, runtime, ctid, &means)
            }
        };
        if let Some(error) = &report.error {
            // At once, before the next container's steps push it off the screen.
            context.events.emit(Event::Failed { text: error.to_string() });
        }
        reports.push(report);
    }
    Ok(Report::new("provision", reports))
}

/// Says once for each container which others have its GPUs too, now or after this run.
fn tell_of_sharing(context: &Context<'_>, runtime: &dyn Runtime, prepared: &[(&Ctid, Prepared)]) {
    let mut planned = Vec::new();
    let mut wishes = Vec::new();
    for (ctid, prepared) in prepared {
        if let Prepared::Ready(wish, config) = prepared {
            planned.push((*ctid, &**config));
            wishes.push((*ctid, &**wish));
        }
    }
    let Some((_, first)) = wishes.first() else { return };
    let shares = sharing::foreseen(runtime, &first.inventory, &planned, context.events);
    for (ctid, wish) in wishes {
        if let Some(others) = sharing::others(&shares, ctid, &wish.gpus) {
            let text = format!("container {ctid}: {others}");
            context.events.emit(Event::Note { text });
        }
    }
}

/// The installer; for a recipe without a repository it is written down at once, otherwise with the
/// repository of each distribution.
fn obtain(supplies: &Supplies<'_>, wish: &Wish) -> Result<Driver> {
    let driver = supplies.driver(&wish.recipe, &wish.version, wish.architecture)?;
    if wish.recipe.packages().is_empty() {
        supplies.record(&wish.recipe, ("any", wish.architecture), &driver, None)?;
    }
    Ok(driver)
}

fn failed(ctid: &Ctid, error: Error) -> ContainerReport {
    let mut report = ContainerReport::new(ctid);
    report.add(Step::Facts, Outcome::Failed(error.what().to_owned()), std::time::Duration::ZERO);
    report.fail(error);
    report
}

/// Everything that can be refused without looking inside, before gigabytes are fetched.
fn prepare(
    context: &Context<'_>,
    request: &Request,
    runtime: &dyn Runtime,
    target: &Target,
) -> Prepared {
    let ctid = &target.ctid;
    let session = Session { host: context.host, runtime, ctid, log: &RunLog::none() };
    let wish = runtime
        .locate(ctid)
        .and_then(|_| Wish::resolve(context.host, request.recipe.clone(), &target.gpus))
        .and_then(|wish| match wish {
            Some(wish) => survey::outside(&session, &wish, None)
                .map(|outside| Some((Box::new(wish), Box::new(outside.edit.config)))),
            None => Ok(None),
        });
    match wish {
        Ok(Some((wish, config))) => Prepared::Ready(wish, config),
        Ok(None) => {
            let mut report = ContainerReport::new(ctid);
            let why = "no GPU is assigned, nothing to do".to_owned();
            report.add(Step::Passthrough, Outcome::Unchanged(why), std::time::Duration::ZERO);
            Prepared::Ended(report)
        }
        Err(error) => Prepared::Ended(failed(ctid, error.on(ctid))),
    }
}

fn one(
    context: &Context<'_>,
    runtime: &dyn Runtime,
    ctid: &Ctid,
    means: &Means<'_>,
) -> ContainerReport {
    let _lock = match context.lock(ctid) {
        Ok(lock) => lock,
        Err(error) => return failed(ctid, error),
    };
    let log = context.log(ctid);
    let session = Session { host: context.host, runtime, ctid, log: &log };
    provision::run(&session, means)
}
