//! `nvstage provision CTID…`: the main job.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::{
    BatchArguments, Context, ForeseenRestart, MirrorArguments, RecipeArguments, RestartArguments,
    SourceArguments, Stores, Target, TargetArguments,
};
use crate::container::passthrough::DriverLines;
use crate::ctid::Ctid;
use crate::engine::batch::{Batch, Ended, Entry};
use crate::engine::pending::{self, OnRestart};
use crate::engine::provision::{self, Manner, Means};
use crate::engine::supplies::{Driver, Supplies};
use crate::engine::survey::{self, Outside};
use crate::engine::wish::{AtTheEnd, Stage, Wish};
use crate::engine::{before, journal, sharing};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::host::devices::Inventory;
use crate::host::runlog::RunLog;
use crate::recipe::Recipe;
use crate::remedy;
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
    #[command(flatten)]
    pub(crate) batch: BatchArguments,
    /// How the installer gets inside: mount (nothing is copied), or push
    #[arg(long, value_enum, hide_possible_values = true, default_value_t = StageArgument::Mount)]
    pub(crate) stage: StageArgument,
    #[command(flatten)]
    pub(crate) restarts: RestartArguments,
    /// Leave a container running that was stopped before; it is stopped again otherwise
    #[arg(long)]
    pub(crate) start: bool,
    /// Take out lines that bring a driver of the host's by another way; detach puts them back
    #[arg(long)]
    pub(crate) adopt: bool,
    /// End NVIDIA's installer in a container after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = INSTALLER_TIMEOUT, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) installer_timeout: u32,
}

/// Seconds that an installer may take: it takes some from a tree, a minute or two from an xz
/// archive.
pub(crate) const INSTALLER_TIMEOUT: u32 = 1800;

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
    let targets = arguments.targets.resolve(context, &arguments.recipe)?;
    let runtime = arguments.targets.runtime(context)?;
    let manner = Manner {
        stage: match arguments.stage {
            StageArgument::Mount => Stage::Mount,
            StageArgument::Push => Stage::Push,
        },
        at_the_end: match arguments.start {
            true => AtTheEnd::KeepRunning,
            false => AtTheEnd::StopAgain,
        },
        on_restart: OnRestart::Restart,
        rules: arguments.mirror.rules(),
        installer_limit: Duration::from_secs(arguments.installer_timeout.into()),
    };
    let stores = Stores::open(context, &arguments.sources)?;
    let driver_lines = super::driver_lines(arguments.adopt);
    let supplies = &stores.supplies(context);
    let work = Work { context, runtime: &*runtime, supplies, manner, driver_lines };
    let batch = arguments.batch.batch(context, targets.len());
    Ok(Report::new("provision", work.carry_out(&targets, &arguments.restarts, &batch)?))
}

/// What is the same for every container of a run.
#[derive(Clone, Copy)]
struct Work<'a> {
    context: &'a Context<'a>,
    runtime: &'a dyn Runtime,
    supplies: &'a Supplies<'a>,
    manner: Manner,
    driver_lines: DriverLines,
}

/// Of so many containers it is told one by one who else has their GPUs.
const FEW: usize = 4;

/// What becomes of one container before anything is fetched.
enum Prepared {
    /// What is wanted for it, and what it is.
    Ready(Box<Wish>, Box<Outside>),
    /// A request to stop came first.
    NotReached,
    /// It cannot be worked on, and a killed run has left it started or stopped.
    Refused(Error),
    Ended(ContainerReport),
}

/// The installers of a run, each obtained once for all containers that get the same recipe.
type Drivers = Vec<(Arc<Recipe>, Result<Driver>)>;

impl Work<'_> {
    fn carry_out(
        &self,
        targets: &[Target],
        restarts: &RestartArguments,
        batch: &Batch<'_>,
    ) -> Result<Vec<ContainerReport>> {
        let inventory = Inventory::read(&self.context.host.paths).map(Arc::new);
        let prepared: Vec<(&Ctid, Prepared)> =
            targets.iter().map(|target| (&target.ctid, self.prepare(&inventory, target))).collect();
        self.tell_of_sharing(&prepared);
        let restarts = restarts.decide(self.context, || self.foreseen(&prepared))?;
        let drivers = self.drivers(&prepared);
        let entry = |(ctid, prepared): (&Ctid, Prepared)| {
            let entry = match prepared {
                Prepared::Ready(wish, _) => Entry::Ready(Ok(wish)),
                Prepared::Refused(error) => Entry::Ready(Err(error)),
                Prepared::NotReached => Entry::NotReached,
                Prepared::Ended(report) => Entry::Ended(report),
            };
            (ctid.clone(), entry)
        };
        Ok(batch.run(
            prepared.into_iter().map(entry).collect(),
            |ctid| self.context.try_lock(ctid),
            |ctid, wish, _lock| {
                let wish = wish.as_deref().map_err(Error::clone);
                let manner = Manner { on_restart: restarts.of(ctid), ..self.manner };
                Work { manner, ..*self }.one(ctid, wish, &drivers)
            },
        ))
    }

    /// The running containers that are going to be restarted.
    fn foreseen(&self, prepared: &[(&Ctid, Prepared)]) -> Vec<ForeseenRestart> {
        let Self { context, runtime, .. } = *self;
        let log = RunLog::none();
        let mut foreseen = Vec::new();
        for (ctid, prepared) in prepared {
            let Prepared::Ready(wish, outside) = prepared else { continue };
            let session = Session { host: context.host, runtime, ctid, log: &log };
            if let Some(why) = outside.foreseen_restart(&session, wish) {
                let applies = pending::changes(&outside.configuration);
                foreseen.push(ForeseenRestart { container: (*ctid).clone(), why, applies });
            }
        }
        foreseen
    }

    /// Everything that can be refused without looking inside, before gigabytes are fetched.
    fn prepare(&self, inventory: &Result<Arc<Inventory>>, target: &Target) -> Prepared {
        let Self { context, runtime, .. } = *self;
        if context.host.cancel.is_asked() {
            return Prepared::NotReached;
        }
        let ctid = &target.ctid;
        let session = Session { host: context.host, runtime, ctid, log: &RunLog::none() };
        let wish = runtime
            .locate(ctid)
            .and_then(|_| target.wanted.as_ref().map_err(Error::clone))
            .and_then(|wanted| {
                let inventory = inventory.as_ref().map_err(Error::clone)?;
                Wish::resolve(context.host, inventory, &wanted.recipe, &wanted.gpus)
            })
            .and_then(|wish| match wish {
                Some(wish) => {
                    let wish = wish.with_driver_lines(self.driver_lines);
                    let outside = survey::outside(&session, &wish, None)?;
                    Ok(Some((Box::new(wish), Box::new(outside))))
                }
                None => Ok(None),
            });
        match wish {
            Ok(Some((wish, outside))) => Prepared::Ready(wish, outside),
            Ok(None) => {
                let mut report = ContainerReport::new(ctid);
                let why = "no GPU is assigned, nothing to do".to_owned();
                report.add(Step::Passthrough, Outcome::Unchanged(why), Duration::ZERO);
                Prepared::Ended(report)
            }
            Err(error) if self.has_power_to_put_back(ctid) => Prepared::Refused(error.on(ctid)),
            Err(error) => Prepared::Ended(ContainerReport::failed(ctid, error.on(ctid))),
        }
    }

    /// True if a killed run has started or stopped the container.
    fn has_power_to_put_back(&self, ctid: &Ctid) -> bool {
        let known = journal::load(&self.context.host.paths, ctid);
        matches!(known, Ok(Some(journal)) if journal.was.is_some())
    }

    /// Says which others have a container's GPUs too, now or after this run: of a few containers for
    /// each, of many how many they are.
    fn tell_of_sharing(&self, prepared: &[(&Ctid, Prepared)]) {
        let events = self.context.events;
        let mut planned = Vec::new();
        let mut wishes = Vec::new();
        for (ctid, prepared) in prepared {
            if let Prepared::Ready(wish, outside) = prepared {
                planned.push((*ctid, &outside.edit.config));
                wishes.push((*ctid, &**wish));
            }
        }
        let Some((_, first)) = wishes.first() else { return };
        let shares = sharing::foreseen(self.runtime, &first.inventory, &planned, events);
        let others = |(ctid, wish): &(&Ctid, &Wish)| {
            let others = sharing::others(&shares, ctid, &wish.gpus)?;
            Some(format!("container {ctid}: {others}"))
        };
        let all: Vec<String> = wishes.iter().filter_map(others).collect();
        if wishes.len() <= FEW {
            all.into_iter().for_each(|text| events.emit(Event::Note { text }));
        } else if !all.is_empty() {
            let (count, of) = (all.len(), wishes.len());
            all.into_iter().for_each(|text| events.emit(Event::Detail { text }));
            let text =
                format!("{count} of {of} containers share a GPU: `{}` shows which", remedy::gpus());
            events.emit(Event::Note { text });
        }
    }

    fn drivers(&self, prepared: &[(&Ctid, Prepared)]) -> Drivers {
        let mut drivers = Drivers::new();
        for (_, prepared) in prepared {
            if let Prepared::Ready(wish, _) = prepared
                && !drivers.iter().any(|(recipe, _)| *recipe == wish.recipe)
            {
                drivers.push((Arc::clone(&wish.recipe), self.obtain(wish)));
            }
        }
        drivers
    }

    /// The installer; for a recipe without a repository it is written down at once, otherwise with
    /// the repository of each distribution.
    fn obtain(&self, wish: &Wish) -> Result<Driver> {
        self.context.host.cancel.check()?;
        let supplies = self.supplies;
        let driver = supplies.driver(&wish.recipe, &wish.version, wish.architecture)?;
        if wish.recipe.packages().is_empty() {
            supplies.record(&wish.recipe, ("any", wish.architecture), &driver, None)?;
        }
        Ok(driver)
    }

    fn one(&self, ctid: &Ctid, wish: Result<&Wish>, drivers: &Drivers) -> ContainerReport {
        let Self { context, runtime, supplies, manner, .. } = *self;
        let log = context.log(ctid);
        let session = Session { host: context.host, runtime, ctid, log: &log };
        let prepared = wish.and_then(|wish| {
            let of_recipe = drivers.iter().find(|(recipe, _)| *recipe == wish.recipe);
            let missing = || Error::general("prepare its installer");
            let (_, driver) = of_recipe.ok_or_else(missing)?;
            Ok((wish, driver.as_ref().map_err(Error::clone)?))
        });
        let report = match prepared {
            Ok((wish, driver)) => {
                provision::run(&session, &Means { wish, driver, supplies, manner })
            }
            Err(error) => before::failed(&session, context.events, error),
        };
        context.record_run(&report, "provision");
        report
    }
}
