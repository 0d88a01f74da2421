//! `nvstage verify CTID…`: the checks alone; nothing is changed. Every file of the driver is read.

use std::time::Instant;

use clap::Args;

use super::{Context, RecipeArguments, SourceArguments, Stores, TargetArguments};
use crate::ctid::Ctid;
use crate::engine::check::{self, Evidence};
use crate::engine::driver::{self, Package};
use crate::engine::provision::judge;
use crate::engine::seen::Seen;
use crate::engine::supplies::{Driver, Supplies};
use crate::engine::survey::{self, Look};
use crate::engine::tenant::Known;
use crate::engine::wish::Wish;
use crate::error::{Error, ExitCode, Result};
use crate::event::Event;
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
}

/// Runs the verb.
///
/// # Errors
/// What concerns every container; a failed check is exit code 10 in its report.
pub fn run(context: &Context<'_>, arguments: &Arguments) -> Result<Report> {
    let request = arguments.targets.resolve(context, &arguments.recipe)?;
    let runtime = arguments.targets.runtime(context)?;
    let stores = Stores::open(context, &arguments.sources)?;
    let supplies = stores.supplies(context);
    let mut reports = Vec::new();
    for target in &request.targets {
        let mut report = ContainerReport::new(&target.ctid);
        let wish = runtime
            .locate(&target.ctid)
            .and_then(|_| Wish::resolve(context.host, request.recipe.clone(), &target.gpus));
        let verified = match wish {
            Ok(Some(wish)) => {
                let at_hand =
                    supplies.driver_at_hand(&wish.recipe, &wish.version, wish.architecture);
                at_hand.and_then(|(_, driver)| {
                    let what = (&target.ctid, &wish, driver.as_ref());
                    one(context, (&*runtime, &supplies), what, &mut report)
                })
            }
            Ok(None) => {
                let why = "no GPU is assigned, nothing to check".to_owned();
                report.add(Step::Checks, Outcome::Skipped(why), std::time::Duration::ZERO);
                Ok(())
            }
            Err(error) => Err(error),
        };
        if let Err(error) = verified {
            let error = error.on(&target.ctid);
            context.events.emit(Event::Failed { text: error.to_string() });
            report.fail(error);
        }
        reports.push(report);
    }
    Ok(Report::new("verify", reports))
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
        None => survey::recorded_driver(&root, &wish.version),
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
    if judge(&checked).is_err() {
        report.exit = ExitCode::Differs;
    }
    Ok(())
}
