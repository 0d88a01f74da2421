//! The command line: which verb, with what; and the environment, read here and nowhere else.

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

use crate::cmd::{
    Context, Unasked, bundle, cache, detach, doctor, gpus, host_setup, phoenix, plan, prefetch,
    provision, refresh, status, sync, verify,
};
use crate::error::{Error, ExitCode};
use crate::event::{Event, Events};
use crate::host::Host;
use crate::host::cancel::Cancel;
use crate::host::paths::Paths;
use crate::host::process::Live;
use crate::host::runlog::run_name;
use crate::phoenix::SCRIPT_NAME;
use crate::phoenix_log::PhoenixLog;
use crate::printer::{Form, Printer};
use crate::report::Report;

const EXIT_CODES: &str = "\
Exit codes:
  0   done, or nothing to do
  1   general error, or containers failed in different ways
  2   invalid input
  3   container not found
  4   host configuration error
  5   installation error: download, verification, installer, apt, checks
  6   the container could not be stopped or started
  10  plan, verify, status --check, sync: something differs;
      provision, sync, detach: a restart is pending; doctor: something is wrong
  130 interrupted by a signal";

/// NVIDIA's driver userland and CUDA in Proxmox VE LXC containers, from one verified cache
#[derive(Debug, Parser)]
#[command(name = "nvstage", version, max_term_width = 80, after_help = EXIT_CODES)]
#[command(propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// Print results and events as JSON
    #[arg(long, global = true)]
    json: bool,
    /// Directory of the cache
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/var/cache/nvstage",
        env = "NVSTAGE_CACHE"
    )]
    cache: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Prefetch(prefetch::Arguments),
    Plan(plan::Arguments),
    Provision(Box<provision::Arguments>),
    Sync(sync::Arguments),
    Verify(verify::Arguments),
    Detach(detach::Arguments),
    Status(status::Arguments),
    Doctor(doctor::Arguments),
    Gpus(gpus::Arguments),
    Refresh(refresh::Arguments),
    HostSetup(host_setup::Arguments),
    Cache(cache::Arguments),
    Bundle(bundle::Arguments),
    Phoenix(phoenix::Arguments),
}

/// Runs the program with the process's arguments; returns the exit code.
pub fn run(arguments: &[String]) -> ExitCode {
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    if name.is_some_and(|name| name == SCRIPT_NAME) {
        let arguments = phoenix::Arguments { arguments: arguments[1..].to_vec() };
        return as_phoenix(&arguments, live_paths());
    }
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout and are no error.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::Input } else { ExitCode::Done };
        }
    };
    let paths = Paths::live().with_cache(cli.cache);
    if let Verb::Phoenix(arguments) = &cli.verb {
        return as_phoenix(arguments, paths);
    }
    let printer = Printer::new(if cli.json { Form::Json } else { Form::Text });
    let done = host(paths).and_then(|host| {
        let (events, confirm) = (&printer, &printer);
        let context = Context { host: &host, events, confirm, run: run_name() };
        verb(&context, &cli.verb, &printer)
    });
    done.unwrap_or_else(|error| {
        printer.error(&error);
        error.code()
    })
}

/// The machine's own paths; called by the script's name there is no option for the cache.
fn live_paths() -> Paths {
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    match std::env::var_os("NVSTAGE_CACHE").filter(|cache| !cache.is_empty()) {
        Some(cache) => Paths::live().with_cache(cache.into()),
        None => Paths::live(),
    }
}

fn verb(context: &Context<'_>, verb: &Verb, printer: &Printer) -> Result<ExitCode, Error> {
    let reported = |report: Report| {
        printer.report(&report);
        report.exit
    };
    Ok(match verb {
        Verb::Prefetch(arguments) => {
            printer.prefetched(&prefetch::run(context, arguments)?);
            ExitCode::Done
        }
        Verb::Plan(arguments) => {
            let plans = plan::run(context, arguments)?;
            printer.plans(&plans);
            plans.exit
        }
        Verb::Provision(arguments) => reported(provision::run(context, arguments)?),
        Verb::Sync(arguments) => reported(sync::run(context, arguments)?),
        Verb::Verify(arguments) => reported(verify::run(context, arguments)?),
        Verb::Detach(arguments) => reported(detach::run(context, arguments)?),
        Verb::Status(arguments) => {
            let status = status::run(context, arguments)?;
            printer.status(&status);
            status.exit
        }
        Verb::Gpus(arguments) => {
            printer.gpus(&gpus::run(context, arguments)?);
            ExitCode::Done
        }
        Verb::Refresh(arguments) => {
            let refreshed = refresh::run(context, arguments)?;
            printer.refreshed(&refreshed);
            refreshed.exit
        }
        Verb::HostSetup(arguments) => {
            printer.host_setup(&host_setup::run(context, arguments, &own_path()?)?);
            ExitCode::Done
        }
        Verb::Doctor(arguments) => {
            let examined = doctor::run(context, arguments)?;
            printer.doctor(&examined);
            examined.exit
        }
        Verb::Cache(arguments) => {
            let answer = cache::run(context, arguments)?;
            printer.cache(&answer);
            if let Some(error) = answer.error() {
                printer.error(&error);
            }
            answer.exit()
        }
        Verb::Bundle(arguments) => {
            printer.bundle(&bundle::run(context, arguments)?);
            ExitCode::Done
        }
        // Taken before: it prints in a form of its own.
        Verb::Phoenix(_) => ExitCode::General,
    })
}

/// Where this program lies.
fn own_path() -> Result<PathBuf, Error> {
    std::env::current_exe()
        .map_err(|error| Error::host("find the path of this program").because(error))
}

fn as_phoenix(arguments: &phoenix::Arguments, paths: Paths) -> ExitCode {
    let log = PhoenixLog::open(&paths.phoenix_log());
    #[expect(clippy::disallowed_methods, reason = "the contract is made of environment variables")]
    let environment = |name: &str| std::env::var(name).ok();
    let done = host(paths).and_then(|host| {
        let context = Context { host: &host, events: &log, confirm: &Unasked, run: run_name() };
        phoenix::run(&context, arguments, &environment)
    });
    let code = match &done {
        Ok(report) => report.exit,
        Err(error) => {
            log.emit(Event::Failed { text: error.to_string() });
            error.code()
        }
    };
    // The contract knows no other number for it.
    let code = if code == ExitCode::Interrupted { ExitCode::General } else { code };
    log.last_line(code);
    code
}

fn host(paths: Paths) -> Result<Host, Error> {
    let failed = |error| Error::general("prepare for signals").because(error);
    let cancel = Cancel::on_signals().map_err(failed)?;
    let processes = Box::new(Live::new(cancel.clone()).map_err(failed)?);
    Ok(Host { paths, processes, cancel })
}
