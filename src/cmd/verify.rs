//! `nvstage verify CTID…`: the checks alone; nothing is changed. Every file of the driver is read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;

use super::{
    BatchArguments, Context, RecipeArguments, SourceArguments, Stores, Target, TargetArguments,
};
use crate::container::passthrough::DriverLines;
use crate::ctid::Ctid;
use crate::engine::batch::{Entry, Taken};
use crate::engine::check::{self, Checked, Evidence, Verdict};
use crate::engine::driver::{self, Package};
use crate::engine::provision::judge;
use crate::engine::seen::Seen;
use crate::engine::supplies::{Driver, Supplies};
use crate::engine::survey::{self, Look};
use crate::engine::tenant::Known;
use crate::engine::wish::Wish;
use crate::error::{Error, ExitCode, Result};
use crate::host::devices::Inventory;
use crate::report::{ContainerReport, Outcome, Report, Step};
use crate::runtime::{Runtime, Session};

/// Check containers, and change nothing
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    #[command(flatten)]
    targets: TargetArguments,
    #[command(flatten)]
    recipe: RecipeArguments,
    #[command(flatten)]
    sources: SourceArguments,
    #[command(flatten)]
    batch: BatchArguments,
}

/// Runs the verb.
///
/// # Errors
/// What concerns every container; a failed check is exit code 10 in its report.
pub fn run(context: &Context<'_>, arguments: &Arguments) -> Result<Report> {
    let targets = arguments.targets.resolve(context, &arguments.recipe)?;
    let runtime = arguments.targets.runtime(context)?;
    let stores = Stores::open(context, &arguments.sources)?;
    let work = Work {
        context,
        runtime: &*runtime,
        supplies: &stores.supplies(context),
        inventory: Inventory::read(&context.host.paths).map(Arc::new),
    };
    let batch = arguments.batch.batch(context, targets.len());
    let entries = targets.into_iter().map(|target| {
        let ctid = target.ctid.clone();
        (ctid, Entry::Ready(target))
    });
    let reports =
        batch.run(entries.collect(), |_| Ok(Taken::Ours(())), |_, target, ()| work.one(target));
    Ok(Report::new("verify", reports))
}

/// What is the same for every container of a run.
struct Work<'a> {
    context: &'a Context<'a>,
    runtime: &'a dyn Runtime,
    supplies: &'a Supplies<'a>,
    inventory: Result<Arc<Inventory>>,
}

impl Work<'_> {
    fn one(&self, target: &Target) -> ContainerReport {
        let mut report = ContainerReport::new(&target.ctid);
        if let Err(error) = self.verify(target, &mut report) {
            report.fail(error);
        }
        report
    }

    fn verify(&self, target: &Target, report: &mut ContainerReport) -> Result<()> {
        let Self { context, runtime, supplies, .. } = *self;
        runtime.locate(&target.ctid)?;
        let wanted = target.wanted.as_ref().map_err(Error::clone)?;
        let inventory = self.inventory.as_ref().map_err(Error::clone)?;
        let wish = Wish::resolve(context.host, inventory, &wanted.recipe, &wanted.gpus)?;
        let Some(wish) = wish else {
            let why = "no GPU is assigned, nothing to check".to_owned();
            report.add(Step::Checks, Outcome::Skipped(why), Duration::ZERO);
            return Ok(());
        };
        // The checks say what works, wherever the driver comes from.
        let wish = wish.with_driver_lines(DriverLines::Keep);
        let (_, driver) =
            supplies.driver_at_hand(&wish.recipe, &wish.version, wish.architecture)?;
        // Where the recipe does not know the installer, a lock of the cache may.
        let driver = match driver {
            Some(driver) => Some(driver),
            None => supplies.locked_driver_at_hand(&wish.version, wish.architecture)?,
        };
        let what = (&target.ctid, &wish, driver.as_ref());
        one(context, (runtime, supplies), what, report)
    }
}

fn one(
    context: &Context<'_>,
    (runtime, supplies): (&dyn Runtime, &Supplies<'_>),
    what: (&Ctid, &Wish, Option<&Driver>),
    report: &mut ContainerReport,
) -> Result<()> {
    let (ctid, wish, driver) = what;
    let began = Instant::now();
    let log = context.log(ctid);
    report.log = log.path().map(|path| path.display().to_string());
    let session = Session { host: context.host, runtime, ctid, log: &log };
    let outside = survey::outside(&session, wish, None)?;
    let Some(pid) = outside.pid else {
        return Err(Error::new(ExitCode::Differs, "look inside: the container is stopped")
            .hint("`provision` starts it; `pct start` too"));
    };
    let known = Known::of(&session, wish, supplies, (outside.ways, Some(pid)))?;
    let (packages, checks) = (known.apt.packages(), wish.recipe.checks());
    let look = Look { wait: 30, nodes: &wish.nodes, packages, checks };
    let facts = survey::inside(&session, look)?;
    let root = survey::root(&session, pid)?;
    let state = match driver {
        _ if known.sharing.driver => known.driver(),
        Some(driver) => {
            let package = Package { recipe: &wish.recipe, driver, version: &wish.version };
            // No record is believed here.
            driver::state(&root, package, &mut Seen::nothing())
        }
        None => survey::recorded_driver(&root, &wish.version, outside.before.as_ref()),
    };
    let evidence = Evidence {
        facts: &facts,
        driver: &state,
        module: wish.inventory.module_version(),
        version: &wish.version,
        nodes: &wish.nodes,
        packages,
        answering: &survey::answering(&session, &wish.nodes, &facts),
    };
    let checked = check::run(wish.recipe.checks(), &evidence);
    for one in &checked {
        report.add(Step::Checks, one.outcome(), began.elapsed());
    }
    if let Some(finding) = facts.second_driver() {
        let remedy = facts.second_driver_removal().join(" ");
        let outcome = Outcome::Warned(format!("{finding}: `{remedy}` inside removes it"));
        report.add(Step::Checks, outcome, began.elapsed());
    }
    let problems = &known.sharing.problems;
    if !known.sharing.wanted.is_empty() {
        let outcome = match problems.as_slice() {
            [] => Outcome::Unchanged(format!("{} of the host", known.sharing.wanted.join(" and "))),
            problems => Outcome::Failed(problems.join(", ")),
        };
        report.add(Step::Share, outcome, began.elapsed());
    }
    let is_open = |one: &Checked| matches!(one.verdict, Verdict::NotCompared(_));
    if judge(&checked).is_err() || !problems.is_empty() || checked.iter().any(is_open) {
        report.exit = ExitCode::Differs;
    }
    Ok(())
}
