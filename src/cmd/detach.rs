//! `nvstage detach CTID…`: the way back.

use clap::Args;

use super::{Context, RuntimeArgument};
use crate::ctid::Ctid;
use crate::engine::detach::{self, Removal};
use crate::error::Result;
use crate::event::Event;
use crate::report::{ContainerReport, Report};
use crate::runtime::{self, Runtime, Session};

/// Take the GPUs out of containers again, and what was installed if asked to
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// Containers: numbers on Proxmox VE, names of plain LXC
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
    let mut ctids: Vec<Ctid> = Vec::new();
    for name in &arguments.containers {
        let ctid = Ctid::parse(name)?;
        if !ctids.contains(&ctid) {
            ctids.push(ctid);
        }
    }
    let one = |ctid: &Ctid| {
        let report = one(context, &*runtime, ctid, removal).unwrap_or_else(|error| {
            let mut report = ContainerReport::new(ctid);
            report.fail(error);
            report
        });
        if let Some(error) = &report.error {
            context.events.emit(Event::Failed { text: error.to_string() });
        }
        report
    };
    Ok(Report::new("detach", ctids.iter().map(one).collect()))
}

fn one(
    context: &Context<'_>,
    runtime: &dyn Runtime,
    ctid: &Ctid,
    removal: Removal,
) -> Result<ContainerReport> {
    runtime.locate(ctid)?;
    let _lock = context.lock(ctid)?;
    let log = context.log(ctid);
    let session = Session { host: context.host, runtime, ctid, log: &log };
    Ok(detach::run(&session, context.events, removal))
}
