//! `nvstage host-setup`: lets the host run `nvstage refresh` at every boot, before the first
//! container starts.

use std::path::Path;

use clap::Args;
use serde::Serialize;

use super::Context;
use crate::error::Result;
use crate::event::Event;
use crate::host::service::{self, Done, UNIT};
use crate::report::Outcome;

/// Install the unit that runs `refresh` at boot, before containers start
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// Take it out again
    #[arg(long)]
    remove: bool,
}

/// What was done.
#[derive(Debug, Serialize)]
pub struct HostSetup {
    schema: u32,
    /// The verb.
    pub command: &'static str,
    /// Where the unit's file is, or was.
    pub unit: String,
    /// What was done about it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Why the program should lie elsewhere.
    pub warnings: Vec<String>,
}

/// Runs the verb; `program` is where this program lies.
///
/// # Errors
/// Host error on a machine without systemd, or when the unit cannot be installed or removed.
pub fn run(context: &Context<'_>, arguments: &Arguments, program: &Path) -> Result<HostSetup> {
    let (host, log) = (context.host, context.log_of("host"));
    let unit = service::path(host).display().to_string();
    let mut warnings = Vec::new();
    let outcome = if arguments.remove {
        match service::remove(host, &log)? {
            Done::Nothing if service::is_masked(host) => {
                Outcome::Unchanged(format!("`{unit}` is masked, not nvstage's, and stays"))
            }
            Done::Changed if service::is_masked(host) => {
                Outcome::Changed(format!("disabled; `{unit}` is masked, not nvstage's, and stays"))
            }
            Done::Changed => Outcome::Changed(format!("removed `{unit}`")),
            Done::Nothing => Outcome::Unchanged(format!("`{unit}` is not there")),
        }
    } else {
        let doubt = |why| format!("`{}` is run by root at every boot: {why}", program.display());
        warnings = service::doubts(program).into_iter().map(doubt).collect();
        match service::install(host, program, &log)? {
            Done::Changed => Outcome::Changed(format!(
                "`{unit}` is enabled: `{} refresh` at every boot (now: `systemctl start {UNIT}`)",
                program.display()
            )),
            Done::Nothing => Outcome::Unchanged(format!("`{unit}` is enabled")),
        }
    };
    for text in &warnings {
        context.events.emit(Event::Warning { text: text.clone() });
    }
    Ok(HostSetup { schema: 1, command: "host-setup", unit, outcome, warnings })
}
