//! `nvstage detach CTID…`: the way back.

use clap::Args;

use super::{BatchArguments, Context, ForeseenRestart, RestartArguments, RuntimeArgument, select};
use crate::ctid::Ctid;
use crate::engine::batch::Entry;
use crate::engine::detach::{self, Manner, Removal};
use crate::engine::pending;
use crate::engine::survey::Configuration;
use crate::error::Result;
use crate::host::runlog::RunLog;
use crate::report::{ContainerReport, Report};
use crate::runtime::{self, Runtime, Session};

/// Take the GPUs out of containers again, and what was installed if asked to
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// Containers: numbers and ranges of them (105-110), or names of plain LXC
    #[arg(value_name = "CTID", required = true)]
    containers: Vec<String>,
    /// Remove the driver's userland too, by its own uninstaller
    #[arg(long)]
    uninstall: bool,
    /// Remove the packages installed for it as well, and apt's key, source and pins
    #[arg(long)]
    purge: bool,
    /// How containers are driven: auto, pct, or lxc
    #[arg(long, value_enum, hide_possible_values = true, default_value_t = RuntimeArgument::Auto)]
    runtime: RuntimeArgument,
    #[command(flatten)]
    batch: BatchArguments,
    #[command(flatten)]
    restarts: RestartArguments,
}

/// Runs the verb.
///
/// # Errors
/// What concerns every container: the arguments, the runtime. What concerns one is in its report.
pub fn run(context: &Context<'_>, arguments: &Arguments) -> Result<Report> {
    let runtime = runtime::choose(context.host, arguments.runtime.into())?;
    let removal = match (arguments.purge, arguments.uninstall) {
        (true, _) => Removal::Everything,
        (false, true) => Removal::Driver,
        (false, false) => Removal::Devices,
    };
    let ctids = select(&arguments.containers, Some(&*runtime))?;
    let foreseen = || ctids.iter().filter_map(|ctid| foreseen(context, &*runtime, ctid, removal));
    let restarts = arguments.restarts.decide(context, || foreseen().collect())?;
    let batch = arguments.batch.batch(context, ctids.len());
    let entry = |ctid: Ctid| match runtime.locate(&ctid) {
        Ok(_) => (ctid, Entry::Ready(())),
        Err(error) => {
            let mut report = ContainerReport::new(&ctid);
            report.fail(error);
            (ctid, Entry::Ended(report))
        }
    };
    let reports = batch.run(
        ctids.into_iter().map(entry).collect(),
        |ctid| context.try_lock(ctid),
        |ctid, (), _lock| {
            let log = context.log(ctid);
            let session = Session { host: context.host, runtime: &*runtime, ctid, log: &log };
            let manner = Manner { removal, on_restart: restarts.of(ctid) };
            detach::run(&session, context.events, manner)
        },
    );
    Ok(Report::new("detach", reports))
}

/// Whether a container is going to be restarted; what is wrong with it is said when it is worked on.
fn foreseen(
    context: &Context<'_>,
    runtime: &dyn Runtime,
    ctid: &Ctid,
    removal: Removal,
) -> Option<ForeseenRestart> {
    let log = RunLog::none();
    let session = Session { host: context.host, runtime, ctid, log: &log };
    let why = detach::foreseen_restart(&session, removal).ok()??;
    let applies = Configuration::read(&session).map(|read| pending::changes(&read));
    Some(ForeseenRestart { container: ctid.clone(), why, applies: applies.unwrap_or_default() })
}
