//! Before the first container starts: what is shared is mounted, and `current` is the loaded kernel
//! module's version, or taken away. No network is used.

use super::driver::{self, Content};
use super::store::{Found, Kind, Mounted, Slot};
use super::{DriverImage, Switched, obtain_driver, switch, withdraw};
use crate::engine::refresh::HostLine;
use crate::engine::supplies::Supplies;
use crate::engine::wish::host_architecture;
use crate::error::{Error, Result};
use crate::event::{Event, Events};
use crate::host::Host;
use crate::remedy;
use crate::report::Outcome;
use crate::version::DriverVersion;

/// The subject of the line that tells which driver containers get.
pub const SUBJECT: &str = "the shared driver for containers";

/// What was done about images.
#[derive(Debug, Default)]
pub struct AtBoot {
    /// One line an image, and one for `current`.
    pub lines: Vec<HostLine>,
    /// What failed; the rest was done all the same.
    pub errors: Vec<Error>,
}

impl AtBoot {
    /// Adds what was done about something.
    ///
    /// # Errors
    /// The interruption.
    pub fn take(&mut self, subject: &str, done: Result<Outcome>) -> Result<()> {
        match done {
            Ok(outcome) => {
                self.lines.push(HostLine { subject: subject.to_owned(), outcome });
                Ok(())
            }
            Err(error) => self.fail(subject, error),
        }
    }

    /// Adds a failure.
    ///
    /// # Errors
    /// The interruption.
    pub fn fail(&mut self, subject: &str, error: Error) -> Result<()> {
        if error.is_interrupted() {
            return Err(error);
        }
        let outcome = Outcome::Failed(error.headline());
        self.lines.push(HostLine { subject: subject.to_owned(), outcome });
        self.errors.push(error);
        Ok(())
    }

    /// Tells what deserves attention, for a run that prints no lines.
    pub fn tell(&self, events: &dyn Events) {
        for line in &self.lines {
            if let Outcome::Warned(why) = &line.outcome {
                events.emit(Event::Warning { text: format!("{}: {why}", line.subject) });
            }
        }
        for error in &self.errors {
            events.emit(Event::Failed { text: error.to_string() });
        }
    }
}

/// Mounts every image that there is and is sound; what was left half-made is removed. What fails
/// for one image does not keep it from the others.
///
/// # Errors
/// Host error when a directory cannot be read; the interruption.
pub fn mount_all(host: &Host, events: &dyn Events) -> Result<AtBoot> {
    let mut done = AtBoot::default();
    for kind in [Kind::Driver, Kind::Cuda] {
        kind.clear_away(&host.paths)?;
        for name in kind.names(&host.paths)? {
            host.cancel.check()?;
            let slot = Slot::new(&host.paths, kind, &name);
            done.take(&slot.label(), mount_one(host, &slot, events))?;
        }
    }
    Ok(done)
}

fn mount_one(host: &Host, slot: &Slot, events: &dyn Events) -> Result<Outcome> {
    let _lock = slot.lock(events, &host.cancel)?;
    match slot.find::<serde_json::Value>()? {
        Found::Nothing => Ok(Outcome::Unchanged("not there".to_owned())),
        Found::Damaged(why) => Ok(Outcome::Warned(format!("not mounted: {why}"))),
        Found::Sound(_) => Ok(match slot.mount(host)? {
            Mounted::Before => Outcome::Unchanged("mounted".to_owned()),
            Mounted::Now => Outcome::Changed(format!("mounted {}", slot.label())),
        }),
    }
}

/// The shared driver of a version, built from an installer that the cache has; `None` where it has
/// none.
///
/// # Errors
/// As [`obtain_driver`].
pub fn build_from_cache(
    host: &Host,
    supplies: &Supplies<'_>,
    version: &DriverVersion,
) -> Result<Option<DriverImage>> {
    let driver = supplies.locked_driver_at_hand(version, host_architecture()?)?;
    driver.map(|driver| obtain_driver(host, supplies, &driver)).transpose()
}

/// Makes `current` the version of the loaded kernel module; takes it away where there is no image of
/// it, or no module, and says what to do.
///
/// # Errors
/// Host error when the link cannot be written.
pub fn follow(host: &Host, module: Option<&DriverVersion>) -> Result<Outcome> {
    let Some(version) = module else {
        return Ok(match withdraw(host)? {
            Some(old) => {
                let why = "no kernel module of NVIDIA is loaded";
                Outcome::Warned(format!("{old} is taken away: {why}"))
            }
            None => Outcome::Unchanged("none".to_owned()),
        });
    };
    let slot = driver::slot(&host.paths, version);
    Ok(if slot.find::<Content>()?.sound().is_some() && slot.is_mounted() {
        match switch(host, version)? {
            Switched::Already => Outcome::Unchanged(version.to_string()),
            Switched::From(None) => Outcome::Changed(format!("containers get driver {version}")),
            Switched::From(Some(old)) => {
                Outcome::Changed(format!("containers get driver {version}, it was {old}"))
            }
        }
    } else {
        let old = withdraw(host)?.map(|old| format!(", and {old} is taken away"));
        Outcome::Warned(format!(
            "containers start without one: there is no image of {version}, the loaded kernel \
             module's version{}: `{}` fetches and makes it",
            old.unwrap_or_default(),
            remedy::sync_all()
        ))
    })
}
