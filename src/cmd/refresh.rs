//! `nvstage refresh`: after a boot or a driver's change, before the first container starts:
//! modules, device nodes, the images that containers share, and the numbers in the containers'
//! configurations; and in containers that run, what they lack of the images that they see.

use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use super::{Context, Stores};
use crate::ctid::Ctid;
use crate::engine::journal;
use crate::engine::refresh::{self, HostLine, Patience};
use crate::engine::shared::{self, AtBoot};
use crate::error::{Error, ExitCode, Result};
use crate::event::Event;
use crate::host::devices::Inventory;
use crate::host::runlog::RunLog;
use crate::journal::Journal;
use crate::report::{self, ContainerReport, Outcome, Step};
use crate::runtime::{self, Choice, Runtime, Session};
use crate::version::DriverVersion;

/// Load NVIDIA's modules, make its device nodes, mount what containers share, bring their rules to
/// this boot's numbers
#[derive(Debug, Clone, Args)]
pub struct Arguments {}

/// What was done.
#[derive(Debug, Serialize)]
pub struct Refreshed {
    schema: u32,
    /// The verb.
    pub command: &'static str,
    /// The host's modules and nodes.
    pub host: Vec<HostLine>,
    /// The containers whose configuration has numbers of nodes in it, and those that share something
    /// and lacked something of it.
    pub containers: Vec<ContainerReport>,
    /// The exit code of the whole run.
    #[serde(serialize_with = "report::as_number")]
    pub exit: ExitCode,
}

/// Runs the verb. What fails on one node or container does not keep it from the others.
///
/// # Errors
/// Host error when there is no driver on this host, or no way to drive containers; the
/// interruption.
pub fn run(context: &Context<'_>, _arguments: &Arguments) -> Result<Refreshed> {
    let log = context.log_of("host");
    let prepared = refresh::prepare(context.host, &log);
    // Whatever became of the modules: containers that start now see what is shared.
    let shared = shared_images(context)?;
    let mut prepared = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            shared.tell(context.events);
            return Err(error);
        }
    };
    prepared.lines.extend(shared.lines);
    prepared.errors.extend(shared.errors);
    for error in &prepared.errors {
        context.events.emit(Event::Failed { text: error.to_string() });
    }
    let containers = containers(context, &prepared.replaced, &log)?;
    let codes = prepared.errors.iter().map(Error::code);
    let exit = ExitCode::combine(codes.chain(containers.iter().map(|container| container.exit)));
    Ok(Refreshed { schema: 1, command: "refresh", host: prepared.lines, containers, exit })
}

/// Mounts what is shared, builds the driver of the loaded kernel module where the cache has its
/// installer, and lets `current` follow. Nothing where nothing is shared.
fn shared_images(context: &Context<'_>) -> Result<AtBoot> {
    let host = context.host;
    if !shared::is_used(&host.paths) {
        return Ok(AtBoot::default());
    }
    let mut done = AtBoot::default();
    match shared::mount_all(host, context.events) {
        Ok(mounted) => done = mounted,
        Err(error) => done.fail("shared images", error)?,
    }
    let (inventory, problems) = Inventory::read_leniently(&host.paths)?;
    let module = inventory.module_version();
    if let Some(version) = module
        && let Err(error) = built(context, version)
    {
        done.fail(&format!("the shared driver {version}"), error)?;
    }
    if module.is_some() || problems.is_empty() {
        done.take(shared::SUBJECT, shared::follow(host, module))?;
    }
    Ok(done)
}

fn built(context: &Context<'_>, version: &DriverVersion) -> Result<()> {
    if shared::driver_at_hand(&context.host.paths, version)?.is_none() {
        let stores = Stores::offline(context)?;
        shared::build_from_cache(context.host, &stores.supplies(context), version)?;
    }
    Ok(())
}

fn containers(
    context: &Context<'_>,
    replaced: &[String],
    log: &RunLog,
) -> Result<Vec<ContainerReport>> {
    let managed = journal::managed(&context.host.paths)?;
    if managed.is_empty() {
        return Ok(Vec::new());
    }
    let runtime = runtime::choose(context.host, Choice::Auto)?;
    let mut patience = Patience::default();
    let mut reports = Vec::new();
    for ctid in &managed {
        let session = Session { host: context.host, runtime: &*runtime, ctid, log };
        let mut report = ContainerReport::new(ctid);
        let numbers = one(context, (&session, replaced), &mut patience, &mut report);
        match numbers.and_then(|()| complete(context, &session, &mut report)) {
            Ok(()) => {}
            Err(error) if error.is_interrupted() => return Err(error),
            Err(error) => {
                let error = error.on(ctid);
                context.events.emit(Event::Failed { text: error.to_string() });
                report.add(Step::Passthrough, Outcome::Failed(error.what().to_owned()), ZERO);
                report.fail(error);
            }
        }
        if !report.steps.is_empty() {
            reports.push(report);
        }
    }
    Ok(reports)
}

const ZERO: Duration = Duration::ZERO;

fn one(
    context: &Context<'_>,
    what: (&Session<'_>, &[String]),
    patience: &mut Patience,
    report: &mut ContainerReport,
) -> Result<()> {
    let (session, replaced) = what;
    let began = Instant::now();
    // Not locked where there is nothing to do: an installation elsewhere takes minutes.
    if journal_with_numbers(context, session.ctid)?.is_none() {
        return Ok(());
    }
    if let Some(why) = gone(session.runtime, session.ctid)? {
        report.add(Step::Passthrough, Outcome::Skipped(why), ZERO);
        return Ok(());
    }
    let _lock = context.lock(session.ctid)?;
    let Some(journal) = journal_with_numbers(context, session.ctid)? else { return Ok(()) };
    let outcome = refresh::renumber(session, &journal, patience, context.events)?;
    report.add(Step::Passthrough, outcome, began.elapsed());
    let has_old = journal.nodes.iter().any(|node| replaced.contains(&node.path));
    if has_old && session.init_process()?.is_some() {
        let why = "it runs with the nodes of the driver before: restart it";
        report.add(Step::Power, Outcome::Warned(why.to_owned()), ZERO);
    }
    Ok(())
}

/// What a running container lacks of what it shares.
fn complete(
    context: &Context<'_>,
    session: &Session<'_>,
    report: &mut ContainerReport,
) -> Result<()> {
    let began = Instant::now();
    let paths = &context.host.paths;
    // Looked at without the lock: an installation elsewhere takes minutes.
    let known = journal::load(paths, session.ctid)?.filter(refresh::shares);
    let Some(journal) = known.filter(|_| session.runtime.locate(session.ctid).is_ok()) else {
        return Ok(());
    };
    if !refresh::lacks_shared(session, &journal)? {
        return Ok(());
    }
    let _lock = context.lock(session.ctid)?;
    let Some(journal) = journal::load(paths, session.ctid)?.filter(refresh::shares) else {
        return Ok(());
    };
    if let Some(outcome) = refresh::complete_shared(session, &journal)? {
        report.add(Step::Share, outcome, began.elapsed());
    }
    Ok(())
}

fn journal_with_numbers(context: &Context<'_>, ctid: &Ctid) -> Result<Option<Journal>> {
    Ok(journal::load(&context.host.paths, ctid)?.filter(refresh::needs_numbers))
}

/// Why the container has no configuration on this node any more; `None` where it has one.
fn gone(runtime: &dyn Runtime, ctid: &Ctid) -> Result<Option<String>> {
    match runtime.locate(ctid) {
        Ok(_) => Ok(None),
        Err(error) if error.code() == ExitCode::NotFound => {
            Ok(Some(format!("failed to {}", error.what())))
        }
        Err(error) => Err(error),
    }
}
