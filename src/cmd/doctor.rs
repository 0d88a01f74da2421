//! `nvstage doctor [CTID…]`: what is wrong on this host and in its containers, and what helps.
//! Nothing is changed.

use clap::Args;
use serde::Serialize;

use super::{Context, RuntimeArgument, select};
use crate::ctid::Ctid;
use crate::doctor::{ContainerEvidence, Diagnosis};
use crate::engine::doctor;
use crate::error::{Error, ExitCode, Result};
use crate::event::Event;
use crate::host::runlog::RunLog;
use crate::runtime::{self, Runtime, Session};

/// Find what is wrong on this host and in its containers, and say what helps
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// Containers, also ranges (105-110); without any, all that have to do with NVIDIA
    #[arg(value_name = "CTID")]
    pub containers: Vec<String>,
    /// How containers are driven: auto, pct, or lxc
    #[arg(long, value_enum, hide_possible_values = true, default_value_t = RuntimeArgument::Auto)]
    pub runtime: RuntimeArgument,
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Examined {
    schema: u32,
    /// The verb.
    pub command: &'static str,
    /// The findings, and the checks behind them.
    #[serde(flatten)]
    pub diagnosis: Diagnosis,
    /// 0, or 10 when something is wrong.
    #[serde(serialize_with = "as_number")]
    pub exit: ExitCode,
}

/// Runs the verb.
///
/// # Errors
/// Not found for a container that this node does not have; the interruption. What is wrong is no
/// error but a finding, and so is what cannot be read. Without a runtime the host alone is looked
/// at, and a warning says why.
pub fn run(context: &Context<'_>, arguments: &Arguments) -> Result<Examined> {
    let (containers, unlisted) = match runtime::choose(context.host, arguments.runtime.into()) {
        Ok(runtime) => containers(context, &arguments.containers, &*runtime)?,
        Err(error) if arguments.containers.is_empty() => {
            let text = format!("no container was looked at: {error}");
            context.events.emit(Event::Warning { text });
            (Vec::new(), None)
        }
        Err(error) => return Err(error),
    };
    let diagnosis = doctor::diagnose(&context.host.paths, &containers, unlisted);
    let exit = match diagnosis.findings.is_empty() {
        true => ExitCode::Done,
        false => ExitCode::Differs,
    };
    Ok(Examined { schema: 1, command: "doctor", diagnosis, exit })
}

/// What the containers that were named are; without any, those that have to do with NVIDIA, or why
/// nobody knows which those are.
fn containers(
    context: &Context<'_>,
    names: &[String],
    runtime: &dyn Runtime,
) -> Result<(Vec<ContainerEvidence>, Option<Error>)> {
    let ctids = match names.is_empty() {
        true => match doctor::containers_of_interest(context.host, runtime) {
            Ok(ctids) => ctids,
            Err(error) if error.is_interrupted() => return Err(error),
            Err(error) => return Ok((Vec::new(), Some(error))),
        },
        false => named(names, runtime)?,
    };
    let mut containers = Vec::new();
    for ctid in &ctids {
        let step = "look at it".to_owned();
        context.events.emit(Event::StepStarted { container: Some(ctid.clone()), step });
        let none = RunLog::none();
        let mut session = Session { host: context.host, runtime, ctid, log: &none };
        // Nothing is run in a stopped container, and nothing to be written down.
        let process = session.init_process();
        let log = match process {
            Ok(Some(_)) => context.log(ctid),
            Ok(None) | Err(_) => RunLog::none(),
        };
        session.log = &log;
        containers.push(doctor::container(&session, process)?);
    }
    Ok((containers, None))
}

/// The containers that were named, each once; none is known not to be there.
fn named(names: &[String], runtime: &dyn Runtime) -> Result<Vec<Ctid>> {
    let ctids = select(names, Some(runtime))?;
    for ctid in &ctids {
        // That it cannot be read is a finding.
        if let Err(error) = runtime.locate(ctid)
            && error.code() != ExitCode::Host
        {
            return Err(error);
        }
    }
    Ok(ctids)
}

fn as_number<S: serde::Serializer>(
    exit: &ExitCode,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_u8(exit.code())
}
