//! One container after the host's driver has changed: from what it has to the version of the loaded
//! kernel module.
//!
//! A container that shares the host's driver needs a restart and nothing else: the image of that
//! version is mounted by then, and its start shows it. One that has its own gets the other version by
//! the job that provisions it. Both are left alone while a process of theirs holds a GPU, unless the
//! restart is asked for.

use crate::engine::before;
use crate::engine::journal;
use crate::engine::shared::DriverImage;
use crate::engine::steps::Steps;
use crate::engine::survey::{self, Look};
use crate::engine::tenant::Images;
use crate::engine::wish::Wish;
use crate::error::{Error, ExitCode, Result};
use crate::event::Events;
use crate::host::holders::holders;
use crate::journal::Power;
use crate::report::{ContainerReport, Outcome, Step};
use crate::runtime::Session;
use crate::version::DriverVersion;

/// What becomes of a container whose processes hold a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InUse {
    /// It is left alone.
    Skip,
    /// It is restarted.
    Restart,
}

/// What is the same for every container.
#[derive(Debug, Clone, Copy)]
pub struct Manner<'a> {
    /// Who hears of it.
    pub events: &'a dyn Events,
    /// What becomes of those in use.
    pub in_use: InUse,
}

/// Brings one container to the version that is wished. `image` is that version's, for a container
/// that shares it; `provision` does the whole job. The report holds the error, if there was one; of
/// a container that is left alone it says [`ExitCode::Differs`].
pub fn run(
    session: &Session<'_>,
    manner: Manner<'_>,
    (wish, image): (&Wish, Option<&DriverImage>),
    provision: impl FnOnce() -> ContainerReport,
) -> ContainerReport {
    let mut work = Work { session, steps: Steps::new(session, manner.events), wish };
    let next = match image {
        Some(image) => work.shared(image, manner.in_use),
        None => work.own(manner.in_use),
    };
    let went_on = matches!(next, Ok(Next::Provision));
    let is_left = matches!(next, Ok(Next::Left));
    let mut report = work.steps.into_report(next.map(drop));
    if is_left {
        report.exit = ExitCode::Differs;
    }
    if !went_on {
        return report;
    }
    let mut whole = provision();
    whole.steps.splice(0..0, report.steps);
    whole
}

/// How it goes on.
enum Next {
    /// It is done.
    Done,
    /// It is left as it is.
    Left,
    /// By the whole job.
    Provision,
}

struct Work<'a> {
    session: &'a Session<'a>,
    steps: Steps<'a>,
    wish: &'a Wish,
}

impl Work<'_> {
    /// A container with a driver of its own.
    fn own(&mut self, in_use: InUse) -> Result<Next> {
        let Some(pid) = self.session.init_process()? else { return Ok(Next::Provision) };
        let record = survey::record(&survey::root(self.session, pid)?);
        if record.and_then(|record| record.version).as_ref() == Some(&self.wish.version) {
            // Somebody else was faster.
            return Ok(Next::Provision);
        }
        match (self.in_use(pid), in_use) {
            (None, _) => Ok(Next::Provision),
            (Some(why), InUse::Skip) => self.leave(why),
            (Some(why), InUse::Restart) => {
                self.restart(why)?;
                Ok(Next::Provision)
            }
        }
    }

    /// A container that shares the host's.
    fn shared(&mut self, image: &DriverImage, in_use: InUse) -> Result<Next> {
        let (session, version) = (self.session, &image.version);
        let outside = survey::outside(session, self.wish, None)?;
        let Some(pid) = outside.pid else {
            let was = outside.before.as_ref().and_then(|journal| journal.was);
            let was_running = was.is_some_and(|was| was.power == Power::Running);
            if outside.edit.changed() || was_running {
                return Ok(Next::Provision);
            }
            let began = self.steps.begin(Step::Share);
            let why = format!("stopped: it gets driver {version} when it starts");
            self.steps.end(Step::Share, Outcome::Unchanged(why), began);
            return Ok(Next::Done);
        };
        let root = survey::root(session, pid)?;
        let images = Images { driver: Some(image.clone()), cuda: outside.cuda.clone() };
        let is_there = images.is_set_up(&root, self.wish.architecture.triplet());
        if is_there && !outside.edit.changed() {
            let began = self.steps.begin(Step::Share);
            let what = format!("driver {version} of the host");
            self.steps.end(Step::Share, Outcome::Unchanged(what), began);
            return Ok(Next::Done);
        }
        if let (Some(why), InUse::Skip) = (self.in_use(pid), in_use) {
            return self.leave(why);
        }
        // One of its own is in the way where a run was cut short.
        let has_own = survey::record(&root).and_then(|record| record.version).is_some();
        if outside.edit.changed() || has_own {
            return Ok(Next::Provision);
        }
        let pid = self.restart(format!("to get driver {version}"))?;
        self.look(pid, &images, version)?;
        Ok(Next::Done)
    }

    /// Whether the container sees the image, and finds everything in it; what is not so is put right.
    fn look(&mut self, pid: u32, images: &Images, version: &DriverVersion) -> Result<()> {
        let session = self.session;
        let triplet = self.wish.architecture.triplet();
        self.steps.step(Step::Share, || {
            let root = survey::root(session, pid)?;
            let outcome = match images.is_set_up(&root, triplet) {
                true => Outcome::Changed(format!("driver {version} of the host")),
                false => {
                    images.align(pid, &root)?;
                    let look = Look { wait: 0, nodes: &[], packages: &[], checks: &[] };
                    survey::set_up(session, look, images, triplet)?;
                    Outcome::Changed(format!("driver {version} of the host, set up anew"))
                }
            };
            if let Some(problem) = images.problems_but_names(&root, triplet).first() {
                return Err(Error::install("share the host's driver").because(problem));
            }
            journal::update(&session.host.paths, session.ctid, |journal| {
                journal.driver = Some(version.clone());
            })?;
            Ok((outcome, ()))
        })
    }

    /// Which processes hold a GPU, in words.
    fn in_use(&self, pid: u32) -> Option<String> {
        let found: Vec<String> = holders(pid).iter().map(ToString::to_string).collect();
        match found.as_slice() {
            [] => None,
            [first] => Some(format!("{first} holds a GPU")),
            [first, others @ ..] => Some(format!("{first} and {} more hold a GPU", others.len())),
        }
    }

    fn leave(&mut self, why: String) -> Result<Next> {
        let began = self.steps.begin(Step::Power);
        let outcome = Outcome::Skipped(format!("{why}: `--restart` restarts it all the same"));
        self.steps.end(Step::Power, outcome, began);
        Ok(Next::Left)
    }

    fn restart(&mut self, why: String) -> Result<u32> {
        let session = self.session;
        self.steps.step(Step::Power, || {
            Ok((Outcome::Changed(format!("restarted: {why}")), before::restart(session)?))
        })
    }
}
