//! `nvstage status`: what every container has, and what of it drifts from what it should be.

use clap::Args;
use serde::Serialize;

use super::{Context, RuntimeArgument, select};
use crate::engine::status::{ContainerStatus, Machine};
use crate::error::{Error, ExitCode, Result};
use crate::event::Event;
use crate::remedy;
use crate::report;
use crate::runtime;
use crate::version::DriverVersion;

/// Show what every container has: method, versions, GPUs, drift, last run
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// Containers, or ranges of them (105-110); without any, all that nvstage manages or that have a
    /// GPU
    #[arg(value_name = "CTID")]
    pub containers: Vec<String>,
    /// Exit with 10 when something drifts
    #[arg(long)]
    pub check: bool,
    /// How containers are driven: auto, pct, or lxc
    #[arg(long, value_enum, hide_possible_values = true, default_value_t = RuntimeArgument::Auto)]
    pub runtime: RuntimeArgument,
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Status {
    schema: u32,
    /// The verb.
    pub command: &'static str,
    /// The loaded kernel module's version.
    pub module: Option<DriverVersion>,
    /// The version that containers get which share the host's driver.
    pub shared_driver: Option<DriverVersion>,
    /// What is wrong with the host, in words.
    pub host: Vec<String>,
    /// The containers.
    pub containers: Vec<ContainerStatus>,
    /// The exit code.
    #[serde(serialize_with = "report::as_number")]
    pub exit: ExitCode,
}

/// Looks.
///
/// # Errors
/// Invalid input; host error when there is no way to drive containers, or they cannot be listed. One
/// that is named and not there is told of, and the exit code says so; what else is wrong is drift.
pub fn run(context: &Context<'_>, arguments: &Arguments) -> Result<Status> {
    let runtime = runtime::choose(context.host, arguments.runtime.into())?;
    let named = select(&arguments.containers, Some(&*runtime))?;
    let machine = Machine::read(context.host, &*runtime);
    let (containers, missing) = machine.containers(&named)?;
    for error in &missing {
        context.events.emit(Event::Failed { text: error.to_string() });
    }
    let module = machine.inventory.module_version().cloned();
    let mut host: Vec<String> =
        machine.problems.iter().map(|error| in_one_line(&error.to_string())).collect();
    if module.is_none() && host.is_empty() && containers.iter().any(has_driver) {
        host.push("no kernel module of NVIDIA is loaded: no container can use a GPU".to_owned());
    }
    if let Some(version) = &machine.unmounted_driver {
        host.push(format!(
            "the image of the shared driver {version} is not mounted; `{}`",
            remedy::refresh()
        ));
    }
    let drifts = !host.is_empty() || containers.iter().any(|status| !status.drift.is_empty());
    let differs = if arguments.check && drifts { ExitCode::Differs } else { ExitCode::Done };
    let exit = ExitCode::combine(missing.iter().map(Error::code).chain([differs]));
    Ok(Status {
        schema: 1,
        command: "status",
        module,
        shared_driver: machine.shared_driver,
        host,
        containers,
        exit,
    })
}

fn has_driver(status: &ContainerStatus) -> bool {
    status.driver.is_some() || !status.gpus.is_empty()
}

fn in_one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join("; ")
}
